//! What happens to an object when chunks of it have come. If few bytes are missing, they are
//! fetched in the background. If none is missing, the whole is checked and becomes an object like
//! any other.
//!
//! Background fetches are bounded three times: by what one may bring
//! (`[server.limits] completion_size_max`), how many there are (`completions_max`), and as fills
//! (`fills_max`). One that finds no room is left to the next range of its object.

use super::flight::PartFlight;
use super::object::PartObject;
use super::run::{RunPurpose, break_off, bring, keep, open};
use crate::cache::PublishError;
use crate::fill::error::FillError;
use crate::fill::proof::better_lifetime;
use crate::fill::resources::RunningCount;
use crate::nix::nar_file::{NarFile, NarVerdict};
use crate::object::Meta;
use crate::origin::FetchReason;
use crate::policy::response::Coding;
use crate::store::Part;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// Rounds of fetching chunks that turned out damaged when the whole was checked.
const ROUNDS_MAX: u32 = 3;

/// How the completion of an object ended; the metric label.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CompletionResult {
    Stored,
    NotStored,
    Rejected,
    Failed,
    Skipped,
    /// Others bring what is missing; they see to it.
    ByOthers,
}

impl CompletionResult {
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

/// Completes an object: begins to fetch what is missing and returns at once, or if nothing is
/// missing checks the whole first. Called with a place among the fills, or for an object that is
/// read.
pub(super) async fn see_to(flight: &Arc<PartFlight>, object: &Arc<PartObject>) {
    let Some(part) = object.part().filter(|part| part.is_live()) else { return };
    let missing = part.missing_bytes();
    if missing > flight.parts.completion_size_max || object.broken().is_some() {
        return;
    }
    if missing == 0 {
        return finish_once(flight, object, part).await;
    }
    let Some(completing) = part.begin_completion() else { return };
    let is_whole_coming = flight.registry.is_whole_under_way(&flight.request.key);
    let (demand, readers) = (flight.request.demand(), flight.cursors.readers.clone());
    let turn = Arc::clone(&flight.parts.completions).try_acquire_owned();
    let place = flight.resources().places.spare(&demand, &readers);
    let (Ok(turn), Some(place), false) = (turn, place, is_whole_coming) else {
        return count(flight, CompletionResult::Skipped);
    };
    let (flight, object) = (Arc::clone(flight), Arc::clone(object));
    let running = RunningCount::begin(&flight.resources().metrics);
    let tasks = flight.resources().tasks.clone();
    tasks.spawn("part completion", async move {
        let _running = running;
        let work = async {
            let _turn: OwnedSemaphorePermit = turn;
            let Some(part) = object.part() else { return };
            let completed = run(&flight, &object, part).await;
            drop(completing);
            count(&flight, completed);
            // The others may have brought their last chunk, and seen that this was under way.
            if completed == CompletionResult::ByOthers && part.missing_bytes() == 0 {
                finish_once(&flight, &object, part).await;
            }
        };
        place.hold(&demand, &readers, Box::pin(work)).await;
    });
}

/// Finishes an object of which all is here, unless another completes it.
async fn finish_once(flight: &Arc<PartFlight>, object: &Arc<PartObject>, part: &Part) {
    let Some(_completing) = part.begin_completion() else { return };
    let completed = Box::pin(finish(flight, object, part)).await;
    count(flight, completed.unwrap_or(CompletionResult::Failed));
}

fn count(flight: &PartFlight, completed: CompletionResult) {
    if let Some(result) = completed.as_str() {
        flight.resources().metrics.completions.with_label_values(&[result]).inc();
    }
}

/// Fetches what is missing, and finishes the object.
async fn run(flight: &Arc<PartFlight>, object: &Arc<PartObject>, part: &Part) -> CompletionResult {
    let mut completed = CompletionResult::ByOthers;
    for _ in 0..ROUNDS_MAX {
        if let Err(failed) = fetch_missing(flight, object, part).await {
            return failed;
        }
        if part.missing_bytes() > 0 {
            break;
        }
        completed = finish(flight, object, part).await.unwrap_or(CompletionResult::Failed);
        if completed != CompletionResult::Failed || part.missing_bytes() == 0 {
            break;
        }
    }
    completed
}

async fn fetch_missing(
    flight: &Arc<PartFlight>,
    object: &Arc<PartObject>,
    part: &Part,
) -> Result<(), CompletionResult> {
    let stopping = flight.resources().tasks.stopping();
    while let Some(from) = part.first_missing(&(0..part.length())) {
        if stopping.is_cancelled() || !part.is_live() || flight.is_purged() {
            return Err(CompletionResult::NotStored);
        }
        let Some(run) = part.claim(from, part.length()) else { continue };
        let (span, why) = (run.start()..run.end(), Some(FetchReason::Completion));
        let opened = Box::pin(open(flight, object, span, why)).await;
        if bring(flight, object, run, opened, RunPurpose::Completion).await.is_err() {
            return Err(CompletionResult::Failed);
        }
    }
    Ok(())
}

/// Checks the whole and makes it an object; none if a chunk turned out damaged.
async fn finish(
    flight: &Arc<PartFlight>,
    object: &Arc<PartObject>,
    part: &Part,
) -> Option<CompletionResult> {
    let resources = flight.resources();
    keep(flight, object).await;
    let mut meta = Meta::clone(&part.meta());
    let expected = flight.request.expected(&resources.cache, Coding::of(&meta.headers)).await;
    if !expected.is_provable(Some(part.length())) {
        return Some(CompletionResult::NotStored);
    }
    let (key, cache) = (&flight.request.key, &resources.cache);
    let basis = resources.rejected_bodies.basis(flight.ticket, key, cache);
    let (digested, stop) = (part.clone(), resources.tasks.stopping());
    let mut contents = expected.needs_contents().map(NarFile::new);
    let digest = move || {
        let look = |bytes: &[u8]| contents.iter_mut().for_each(|file| file.push(bytes));
        let sha256 = digested.digest(&stop, look)?;
        Some((sha256, contents.map(NarFile::finish)))
    };
    let digesting = part.tasks().blocking("part digest", digest).await;
    let (sha256, contents) = digesting.ok().flatten()?;
    if contents == Some(NarVerdict::Unreadable) {
        return Some(CompletionResult::NotStored);
    }
    match expected.check(sha256, part.length(), contents) {
        Ok(proof) => meta.proof = proof,
        Err(rejection) => {
            let origin = Arc::clone(&meta.origin);
            let origins = &flight.body_origins;
            origins.reject(&resources.metrics, key, &origin, &rejection);
            let (sources, count) = (origins.positions(), u32::from(rejection.is_lasting()));
            resources.note_rejected(key, basis, sources, count);
            let error = FillError::Rejected { origin, rejection };
            break_off(flight, object, Arc::new(error)).await;
            return Some(CompletionResult::Rejected);
        }
    }
    better_lifetime(&mut meta);
    // What another flight was noting before may have been refused to it meanwhile.
    keep(flight, object).await;
    let path = Arc::clone(&flight.request.path);
    let published = resources.cache.publish_part(flight.ticket, part, meta, sha256).await;
    Some(match published {
        Ok(_) => CompletionResult::Stored,
        Err(PublishError::Purged | PublishError::Superseded) => CompletionResult::NotStored,
        Err(error) => {
            tracing::info!(%path, %error, "not kept");
            CompletionResult::Failed
        }
    })
}
