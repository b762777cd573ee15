//! Answers requests to a binary cache from fills: joins or begins a fill, waits for what it brings,
//! and serves the stale object instead if no origin answers, or none in time. Holds no lock.

use super::answer::{self, ClientAnswer};
use super::deliver::{self, ReadRequest};
use crate::cache::{CachedObject, Stale};
use crate::clock::Timestamp;
use crate::fill::{
    FillEpoch, FillOutcome, FillRequest, FillRole, FlightReader, JoinError, Provenance,
};
use crate::nix::Class;
use crate::outcome::Outcome;
use crate::policy;
use crate::policy::request::ReadMethod;
use std::time::Duration;

/// A stale object that serves if no origin answers, or none in time.
pub(super) struct StaleFallback {
    stale: CachedObject,
    /// Provenance long the answer is waited for, from the beginning of the fill.
    wait: Duration,
}

/// A fill has ended meanwhile, so its object may be stored now: look again.
#[derive(Debug)]
pub(super) struct LookAgain;

/// Why a body that is not stored cannot be had from a flight.
#[derive(Debug, Clone, Copy)]
enum BodyGone {
    /// Readers share it, and its first byte is no longer in memory.
    Late,
    /// Another reader has it alone.
    ByAnother,
}

/// Further flights that a request joins or begins if it comes too late for a shared body.
const TURNS_MAX: u32 = 3;

/// The answer of a fill, joined or begun; an error if one has ended since `looked`. A HEAD for a
/// NAR does not fetch the body.
pub(super) async fn fill(
    request: &ReadRequest<'_>,
    wanted: &FillRequest,
    stale: Option<Stale>,
    looked: Option<FillEpoch>,
) -> Result<ClientAnswer, LookAgain> {
    let fallback =
        stale.as_ref().and_then(|stale| StaleFallback::of(&stale.found, wanted, request.now));
    let wants_head_alone = request.method == ReadMethod::Head && wanted.class() == Class::Nar;
    let joined = if wants_head_alone && stale.is_none() {
        request.engine.fills.head(wanted.clone(), looked)
    } else {
        request.engine.fills.join(wanted.clone(), stale.clone(), looked)
    };
    let fallback = fallback.as_ref();
    match joined {
        Ok(joined) => Ok(flight_answer(request, wanted, stale, fallback, joined).await),
        Err(JoinError::Ended) => Err(LookAgain),
        Err(JoinError::NoRoom) => Ok(StaleFallback::or(fallback, request, answer::shed)),
        Err(JoinError::Wrong { seconds }) => {
            Ok(StaleFallback::or(fallback, request, || answer::wrong(seconds)))
        }
    }
}

/// The answer of a flight, or the stale object if the flight has no result in time. A request that
/// comes too late for a shared body joins or begins another flight.
pub(super) async fn flight_answer(
    request: &ReadRequest<'_>,
    wanted: &FillRequest,
    stale: Option<Stale>,
    fallback: Option<&StaleFallback>,
    mut joined: (FillRole, FlightReader),
) -> ClientAnswer {
    for turn in 0..=TURNS_MAX {
        let (role, flight) = joined;
        match try_flight_answer(request, wanted, fallback, role, flight).await {
            Ok(answer) => return answer,
            Err(BodyGone::Late) if turn < TURNS_MAX => {}
            Err(BodyGone::Late | BodyGone::ByAnother) => break,
        }
        joined = match request.engine.fills.join(wanted.clone(), stale.clone(), None) {
            Ok(joined) => joined,
            Err(JoinError::Wrong { seconds }) => {
                return StaleFallback::or(fallback, request, || answer::wrong(seconds));
            }
            Err(JoinError::NoRoom | JoinError::Ended) => break,
        };
    }
    pass(request, wanted, fallback).await
}

/// The answer of a flight. An error if the flight has a body that is not stored and cannot be had:
/// then the flight is left.
async fn try_flight_answer(
    request: &ReadRequest<'_>,
    wanted: &FillRequest,
    fallback: Option<&StaleFallback>,
    role: FillRole,
    flight: FlightReader,
) -> Result<ClientAnswer, BodyGone> {
    let landed = match fallback {
        None => flight.outcome().await,
        Some(fallback) => match flight.outcome_within(fallback.wait).await {
            Some(landed) => landed,
            None => return Ok(fallback.answer(request)),
        },
    };
    let came = match role {
        FillRole::Lead => Outcome::Miss,
        FillRole::Follow => Outcome::Collapsed,
    };
    let upstream_status = flight.upstream_status();
    let by = |outcome| deliver::OutcomeDetails { outcome, upstream_status };
    Ok(match landed {
        FillOutcome::Streaming { meta, growing, must_be: _ } => {
            deliver::streaming(request, &request.engine.cache, &meta, growing, &flight, came).await
        }
        FillOutcome::Whole { found, provenance } => {
            let outcome = match provenance {
                Provenance::Stored => came,
                Provenance::NotStored => Outcome::Pass,
                Provenance::Confirmed | Provenance::ConfirmedForOne => Outcome::Revalidated,
                Provenance::Bridged => Outcome::HitStale,
            };
            deliver::found(request, &found, by(outcome))
        }
        FillOutcome::Head { admitted, length } => deliver::head(request, &admitted.meta, length),
        FillOutcome::Absent(meta) => deliver::absent(request, &meta, by(Outcome::Absent)),
        FillOutcome::Passing => match flight.take_passing(wanted.asker) {
            Some(passing) => deliver::passing(request, passing, role, &flight),
            None if flight.is_too_late() => return Err(BodyGone::Late),
            None => return Err(BodyGone::ByAnother),
        },
        FillOutcome::Failed(error) => {
            StaleFallback::or(fallback, request, || answer::failed(&error))
        }
    })
}

/// The answer of a fetch for this request alone, since another reader has the body.
async fn pass(
    request: &ReadRequest<'_>,
    wanted: &FillRequest,
    fallback: Option<&StaleFallback>,
) -> ClientAnswer {
    let own = request.engine.fills.pass(wanted).await;
    match own.outcome().await {
        FillOutcome::Passing => match own.take_passing(wanted.asker) {
            Some(passing) => deliver::passing(request, passing, FillRole::Lead, &own),
            None => answer::untaken(),
        },
        FillOutcome::Whole { found, .. } => deliver::found(request, &found, Outcome::Pass.into()),
        FillOutcome::Absent(meta) => deliver::absent(request, &meta, Outcome::Absent.into()),
        FillOutcome::Failed(error) => {
            StaleFallback::or(fallback, request, || answer::failed(&error))
        }
        FillOutcome::Streaming { .. } | FillOutcome::Head { .. } => {
            answer::fault("a body that is not kept streams")
        }
    }
}

impl StaleFallback {
    /// The fallback `stale` for a request that came at `now`; none if it may not serve unconfirmed.
    fn of(stale: &CachedObject, wanted: &FillRequest, now: Timestamp) -> Option<Self> {
        let wait = policy::freshness::revalidation_wait(&stale.meta(), now, &wanted.terms())?;
        Some(Self { stale: stale.clone(), wait })
    }

    fn answer(&self, request: &ReadRequest<'_>) -> ClientAnswer {
        deliver::found(request, &self.stale, Outcome::HitStale.into())
    }

    /// The answer of `fallback`, or `otherwise` without one.
    fn or(
        fallback: Option<&Self>,
        request: &ReadRequest<'_>,
        otherwise: impl FnOnce() -> ClientAnswer,
    ) -> ClientAnswer {
        fallback.map_or_else(otherwise, |fallback| fallback.answer(request))
    }
}

#[cfg(test)]
mod tests;
