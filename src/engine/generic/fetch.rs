//! Answers requests to generic sites from fetches: joins or begins a fetch, waits for its result,
//! and serves a stale response instead if that is permitted. Holds no lock.

use super::deliver::{self, Delivery};
use super::request::GenericRequest;
use crate::cache::{CachedObject, Stale};
use crate::engine::answer::{self, ClientAnswer};
use crate::fill::{Asker, FillOutcome, FillRole, FlightReader, JoinError, Provenance};
use crate::object::Meta;
use crate::outcome::Outcome;
use crate::policy::generic::reuse::Outage;
use crate::policy::generic::variant::selects;

/// Flights that a request joins or begins.
const TRIES_MAX: u32 = 3;

/// The answer of a fetch, joined or begun.
pub(super) async fn answer(request: &GenericRequest<'_>, stale: Option<Stale>) -> ClientAnswer {
    let fills = &request.engine.fills;
    let found = stale.as_ref().map(|stale| &stale.found);
    for _ in 0..TRIES_MAX {
        let wanted = request.sought(request.interim());
        let joined = if wanted.forbids_storing() {
            let alone = fills.begin_alone(wanted, stale.clone());
            alone.map(|flight| (FillRole::Lead, flight))
        } else {
            fills.join(wanted, stale.clone(), None)
        };
        let (role, flight) = match joined {
            Ok(joined) => joined,
            Err(error) => return not_joined(request, error, found),
        };
        if let Some(answer) = flight_answer(request, role, &flight, found).await {
            return answer;
        }
        if !flight.is_too_late() {
            break;
        }
    }
    // The answer of the other request is not for this one.
    match fills.begin_alone(request.sought(request.interim()), stale.clone()) {
        Ok(flight) => match flight_answer(request, FillRole::Lead, &flight, found).await {
            Some(answer) => answer,
            None => answer::fault("a fetch of one's own brought another's answer"),
        },
        Err(error) => not_joined(request, error, found),
    }
}

/// The answer if no fetch could be joined or begun.
pub(super) fn not_joined(
    request: &GenericRequest<'_>,
    error: JoinError,
    stale: Option<&CachedObject>,
) -> ClientAnswer {
    stale_answer(request, stale).unwrap_or_else(|| match error {
        JoinError::Wrong { seconds } => answer::wrong(seconds),
        JoinError::NoRoom | JoinError::Ended => answer::shed(),
    })
}

/// A stale response if an origin cannot be asked, if that is permitted.
fn stale_answer(
    request: &GenericRequest<'_>,
    stale: Option<&CachedObject>,
) -> Option<ClientAnswer> {
    let stale = stale.filter(|stale| request.may_bridge(stale, Outage::Disconnected))?;
    Some(deliver::found(request, stale, Outcome::HitStale))
}

/// The answer of a flight; none if a request that only joined it may not share the answer.
pub(super) async fn flight_answer(
    request: &GenericRequest<'_>,
    role: FillRole,
    flight: &FlightReader,
    stale: Option<&CachedObject>,
) -> Option<ClientAnswer> {
    let is_own = role == FillRole::Lead;
    let is_for_this = |meta: &Meta| is_own || request.may_share(meta);
    let outcome = if is_own { Outcome::Miss } else { Outcome::Collapsed };
    let fallback = stale.and_then(|stale| Some((stale, request.revalidation_wait(stale)?)));
    let landed = match fallback {
        None => flight.outcome().await,
        Some((stale, wait)) => match flight.outcome_within(wait).await {
            Some(landed) => landed,
            None => return Some(deliver::found(request, stale, Outcome::HitStale)),
        },
    };
    let answer = match landed {
        FillOutcome::Streaming { meta, growing, .. } => {
            let length = growing.length();
            is_for_this(&meta)
                .then(|| Delivery::of(request, &meta, length, outcome).growing(growing, flight))
        }
        FillOutcome::Whole { found, provenance } => {
            let (is_shared, outcome) = match provenance {
                Provenance::Stored => (true, outcome),
                Provenance::Confirmed => (true, Outcome::Revalidated),
                Provenance::ConfirmedForOne => (is_own, Outcome::Revalidated),
                Provenance::Bridged => {
                    (is_own || request.may_bridge(&found, Outage::ServerError), Outcome::HitStale)
                }
                Provenance::NotStored => (is_own, Outcome::Pass),
            };
            let is_for_this =
                is_shared && (is_own || selects(request.fields(), &found.meta().variant));
            is_for_this.then(|| deliver::found(request, &found, outcome))
        }
        FillOutcome::Passing if is_own || flight.is_shared() => {
            match flight.take_passing(Asker::at(request.connection.peer.ip())) {
                Some(passing) => is_for_this(&passing.meta).then(|| {
                    deliver::passing(request, passing, if is_own { Outcome::Pass } else { outcome })
                }),
                None if flight.is_too_late() => None,
                None => Some(answer::untaken()),
            }
        }
        FillOutcome::Passing | FillOutcome::Absent(_) | FillOutcome::Head { .. } => None,
        FillOutcome::Failed(error) => {
            Some(stale_answer(request, stale).unwrap_or_else(|| answer::failed(&error)))
        }
    };
    answer.map(|mut answer| {
        if is_own {
            answer.headers.extend(flight.take_own());
        }
        answer
    })
}
