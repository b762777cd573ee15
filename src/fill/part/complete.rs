//! What happens to an object when chunks of it have come: where little is missing it is fetched in
//! the background; where nothing is, the whole is checked and becomes an object like any other.
//!
//! Background fetches are bounded three times: by what one may bring
//! (`[server.limits] completion_size_max`), how many there are (`completions_max`), and as fills
//! (`fills_max`). One that finds no room is left to the next range of its object.

use super::flight::PartFlight;
use super::learn::coding_of;
use super::object::{Object, Purpose};
use crate::cache::PublishError;
use crate::fill::leader::better_lifetime;
use crate::fill::{FillError, Running};
use crate::object::Meta;
use crate::origin::FetchReason;
use crate::store::Part;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// Rounds of fetching chunks that turned out damaged when the whole was checked.
const ROUNDS_MAX: u32 = 3;

/// How the completion of an object ended; the metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Completed {
    Stored,
    NotStored,
    Rejected,
    Failed,
    Skipped,
    /// Others bring what is missing; they see to it.
    ByOthers,
}

impl Completed {
    const fn as_str(self) -> Option<&'static str> {
        match self {
            Self::Stored => Some("stored"),
            Self::NotStored => Some("not_stored"),
            Self::Rejected => Some("rejected"),
            Self::Failed => Some("failed"),
            Self::Skipped => Some("skipped"),
            Self::ByOthers => None,
        }
    }
}

/// Sees to what is missing of an object: returns at once where that is to be fetched, and when it
/// is done where nothing is. Called with a place among the fills, or for an object that is read.
pub(super) async fn see_to(flight: &Arc<PartFlight>, object: &Arc<Object>) {
    let Some(part) = object.part().filter(|part| part.is_live()) else { return };
    let missing = part.missing_bytes();
    if missing > flight.shared.parts.completion_size_max || object.broken().is_some() {
        return;
    }
    if missing == 0 {
        return finish_once(flight, object, part).await;
    }
    let Some(completing) = part.begin_completion() else { return };
    let is_whole_coming = flight.shared.flights.lock().under_way.contains_key(flight.subject.key());
    let (demand, readers) = (flight.subject.demand(), flight.cursors.readers.clone());
    let turn = Arc::clone(&flight.shared.parts.completions).try_acquire_owned();
    let place = flight.shared.room.spare(&demand, &readers);
    let (Ok(turn), Some(place), false) = (turn, place, is_whole_coming) else {
        return count(flight, Completed::Skipped);
    };
    let (flight, object) = (Arc::clone(flight), Arc::clone(object));
    let running = Running::begin(&flight.shared.metrics);
    let tasks = flight.shared.tasks.clone();
    tasks.spawn("part completion", async move {
        let _running = running;
        let work = async {
            let _turn: OwnedSemaphorePermit = turn;
            let Some(part) = object.part() else { return };
            let completed = run(&flight, &object, part).await;
            drop(completing);
            count(&flight, completed);
            // The others may have brought their last chunk, and seen that this was under way.
            if completed == Completed::ByOthers && part.missing_bytes() == 0 {
                finish_once(&flight, &object, part).await;
            }
        };
        place.hold(&demand, &readers, Box::pin(work)).await;
    });
}

/// Finishes an object of which all is here, unless another completes it.
async fn finish_once(flight: &Arc<PartFlight>, object: &Arc<Object>, part: &Part) {
    let Some(_completing) = part.begin_completion() else { return };
    let completed = Box::pin(finish(flight, object, part)).await;
    count(flight, completed.unwrap_or(Completed::Failed));
}

fn count(flight: &PartFlight, completed: Completed) {
    if let Some(result) = completed.as_str() {
        flight.shared.metrics.completions.with_label_values(&[result]).inc();
    }
}

/// Fetches what is missing, and finishes the object.
async fn run(flight: &Arc<PartFlight>, object: &Arc<Object>, part: &Part) -> Completed {
    let mut completed = Completed::ByOthers;
    for _ in 0..ROUNDS_MAX {
        if let Err(failed) = fetch_missing(flight, object, part).await {
            return failed;
        }
        if part.missing_bytes() > 0 {
            break;
        }
        completed = finish(flight, object, part).await.unwrap_or(Completed::Failed);
        if completed != Completed::Failed || part.missing_bytes() == 0 {
            break;
        }
    }
    completed
}

async fn fetch_missing(
    flight: &Arc<PartFlight>,
    object: &Arc<Object>,
    part: &Part,
) -> Result<(), Completed> {
    let stopping = flight.shared.tasks.stopping();
    while let Some(from) = part.first_missing(&(0..part.length())) {
        if stopping.is_cancelled() || !part.is_live() || flight.is_purged() {
            return Err(Completed::NotStored);
        }
        let Some(run) = part.claim(from, part.length()) else { continue };
        let (span, why) = (run.start()..run.end(), Some(FetchReason::Completion));
        let opened = Box::pin(object.open(flight, span, why)).await;
        if object.bring(flight, run, opened, Purpose::Completion).await.is_err() {
            return Err(Completed::Failed);
        }
    }
    Ok(())
}

/// Checks the whole and makes it an object; none where a chunk turned out damaged.
async fn finish(flight: &Arc<PartFlight>, object: &Arc<Object>, part: &Part) -> Option<Completed> {
    let shared = &flight.shared;
    object.keep(flight).await;
    let mut meta = Meta::clone(&part.meta());
    let expected = flight.subject.expected(&shared.cache, coding_of(&meta)).await;
    if !expected.is_provable(Some(part.length())) {
        return Some(Completed::NotStored);
    }
    let (digested, stop) = (part.clone(), shared.tasks.stopping());
    let digest = move || digested.digest(&stop);
    let digesting = part.tasks().blocking("part digest", digest).await;
    let sha256 = digesting.ok().flatten()?;
    match expected.check(sha256, part.length()) {
        Ok(proof) => meta.proof = proof,
        Err(rejection) => {
            let origin = Arc::clone(&meta.origin);
            let labels = &[&*origin, rejection.reason()];
            shared.metrics.rejected_bodies.with_label_values(labels).inc();
            let error = FillError::Rejected { origin, rejection };
            object.break_off(flight, Arc::new(error)).await;
            return Some(Completed::Rejected);
        }
    }
    better_lifetime(&mut meta);
    // What another flight was noting before may have been refused to it meanwhile.
    object.keep(flight).await;
    let path = Arc::clone(flight.subject.path());
    let published = shared.cache.publish_part(flight.ticket, part, meta, sha256).await;
    Some(match published {
        Ok(_) => Completed::Stored,
        Err(PublishError::Purged | PublishError::Superseded) => Completed::NotStored,
        Err(error) => {
            tracing::info!(%path, %error, "not kept");
            Completed::Failed
        }
    })
}
