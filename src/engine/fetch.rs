//! Answers of fills for requests to a binary cache: joins or begins a fill, waits for what it brings,
//! and serves the stale object instead if no origin answers, or none in time. Holds no lock.

use super::answer::{self, Answer};
use super::deliver::{self, Asked};
use crate::cache::{Found, Stale};
use crate::clock::Timestamp;
use crate::fill::{FlightReader, How, Landed, Mark, NotJoined, Role, Wanted};
use crate::nix::Class;
use crate::outcome::Outcome;
use crate::policy;
use crate::policy::request::ReadMethod;
use std::time::Duration;

/// A stale object that serves if no origin answers, or none in time.
pub(super) struct Bridge {
    stale: Found,
    /// How long the answer is waited for, from the beginning of the fill.
    wait: Duration,
}

/// What was looked for may be stored by now.
#[derive(Debug)]
pub(super) struct Again;

/// Why a body that cannot be kept is not to be had from a flight.
#[derive(Debug, Clone, Copy)]
enum Untaken {
    /// Readers share it, and its first byte is gone.
    Late,
    /// Its one reader has it.
    ByAnother,
}

/// Flights that a request joins or begins when it comes too late for a shared body.
const TURNS_MAX: u32 = 3;

/// The answer of a fill, joined or begun; none where one has ended since `looked`. The body of
/// a NAR is not fetched for its head alone.
pub(super) async fn fill(
    asked: &Asked<'_>,
    wanted: &Wanted,
    stale: Option<Stale>,
    looked: Option<Mark>,
) -> Result<Answer, Again> {
    let bridge = stale.as_ref().and_then(|stale| Bridge::of(&stale.found, wanted, asked.now));
    let wants_head_alone = asked.method == ReadMethod::Head && wanted.class == Class::Nar;
    let joined = if wants_head_alone && stale.is_none() {
        asked.engine.fills.head(wanted.clone(), looked)
    } else {
        asked.engine.fills.join(wanted.clone(), stale.clone(), looked)
    };
    let bridge = bridge.as_ref();
    match joined {
        Ok(joined) => Ok(landed(asked, wanted, (stale, bridge), joined).await),
        Err(NotJoined::Ended) => Err(Again),
        Err(NotJoined::NoRoom) => Ok(Bridge::or(bridge, asked, answer::shed)),
        Err(NotJoined::Wrong { seconds }) => {
            Ok(Bridge::or(bridge, asked, || answer::wrong(seconds)))
        }
    }
}

/// The answer of a flight; that of the stale object where the flight does not land in time. A
/// request that comes too late for a body that readers share joins or begins another flight.
pub(super) async fn landed(
    asked: &Asked<'_>,
    wanted: &Wanted,
    (stale, bridge): (Option<Stale>, Option<&Bridge>),
    mut joined: (Role, FlightReader),
) -> Answer {
    for turn in 0..=TURNS_MAX {
        match try_landed(asked, wanted, bridge, joined).await {
            Ok(answer) => return answer,
            Err(Untaken::Late) if turn < TURNS_MAX => {}
            Err(Untaken::Late | Untaken::ByAnother) => break,
        }
        joined = match asked.engine.fills.join(wanted.clone(), stale.clone(), None) {
            Ok(joined) => joined,
            Err(NotJoined::Wrong { seconds }) => {
                return Bridge::or(bridge, asked, || answer::wrong(seconds));
            }
            Err(NotJoined::NoRoom | NotJoined::Ended) => break,
        };
    }
    pass(asked, wanted, bridge).await
}

/// The answer of a flight, unless it is a body that cannot be kept, and not to be had: then the
/// flight is left.
async fn try_landed(
    asked: &Asked<'_>,
    wanted: &Wanted,
    bridge: Option<&Bridge>,
    (role, flight): (Role, FlightReader),
) -> Result<Answer, Untaken> {
    let landed = match bridge {
        None => flight.landed().await,
        Some(bridge) => match flight.landed_within(bridge.wait).await {
            Some(landed) => landed,
            None => return Ok(bridge.answer(asked)),
        },
    };
    let came = match role {
        Role::Lead => Outcome::Miss,
        Role::Follow => Outcome::Collapsed,
    };
    let upstream_status = flight.upstream_status();
    let by = |outcome| deliver::How { outcome, upstream_status };
    Ok(match landed {
        Landed::Streaming { meta, growing, must_be: _ } => {
            deliver::streaming(asked, &asked.engine.cache, &meta, growing, &flight, came).await
        }
        Landed::Whole { found, how } => {
            let outcome = match how {
                How::Stored => came,
                How::NotStored => Outcome::Pass,
                How::Confirmed | How::ConfirmedForOne => Outcome::Revalidated,
                How::Bridged => Outcome::HitStale,
            };
            deliver::found(asked, &found, by(outcome))
        }
        Landed::Head { admitted, length } => deliver::head(asked, &admitted.meta, length),
        Landed::Absent(meta) => deliver::absent(asked, &meta, by(Outcome::Absent)),
        Landed::Passing => match flight.take_passing(wanted.asker) {
            Some(passing) => deliver::passing(asked, passing, (role, &flight)),
            None if flight.is_too_late() => return Err(Untaken::Late),
            None => return Err(Untaken::ByAnother),
        },
        Landed::Failed(error) => Bridge::or(bridge, asked, || answer::failed(&error)),
    })
}

/// The answer to a request that asks for itself, since the body is another reader's.
async fn pass(asked: &Asked<'_>, wanted: &Wanted, bridge: Option<&Bridge>) -> Answer {
    let own = asked.engine.fills.pass(wanted).await;
    match own.landed().await {
        Landed::Passing => match own.take_passing(wanted.asker) {
            Some(passing) => deliver::passing(asked, passing, (Role::Lead, &own)),
            None => answer::untaken(),
        },
        Landed::Whole { found, .. } => deliver::found(asked, &found, Outcome::Pass.into()),
        Landed::Absent(meta) => deliver::absent(asked, &meta, Outcome::Absent.into()),
        Landed::Failed(error) => Bridge::or(bridge, asked, || answer::failed(&error)),
        Landed::Streaming { .. } | Landed::Head { .. } => {
            answer::fault("a body that is not kept streams")
        }
    }
}

impl Bridge {
    /// What `stale` is to a request that came at `now`; none if it may not serve unconfirmed.
    fn of(stale: &Found, wanted: &Wanted, now: Timestamp) -> Option<Self> {
        let wait = policy::freshness::revalidation_wait(&stale.meta(), now, &wanted.terms())?;
        Some(Self { stale: stale.clone(), wait })
    }

    fn answer(&self, asked: &Asked<'_>) -> Answer {
        deliver::found(asked, &self.stale, Outcome::HitStale.into())
    }

    /// The answer of `bridge`, or `otherwise` without one.
    fn or(bridge: Option<&Self>, asked: &Asked<'_>, otherwise: impl FnOnce() -> Answer) -> Answer {
        bridge.map_or_else(otherwise, |bridge| bridge.answer(asked))
    }
}

#[cfg(test)]
mod tests;
