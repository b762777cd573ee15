//! A run that a reader begins for its next byte. Called by readers; a task of its own.

use super::complete;
use super::flight::PartFlight;
use super::object::PartObject;
use super::run::{RunPurpose, bring, open};
use crate::fill::error::FillError;
use crate::fill::resources::RunningCount;
use crate::store::Run;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a run in the middle of an answer waits for its turn among the fills.
const TURN: Duration = Duration::from_secs(10);

/// Whether a run waits for a place if as many fills are under way as allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlaceWait {
    /// It does not.
    None,
    /// It does, for a while.
    Some,
}

/// Begins to fetch the chunks from the one at `from` on, up to the one that ends at or after
/// `until`, unless the first of them is here or is fetched already.
pub(super) fn fetch(
    flight: &Arc<PartFlight>,
    object: &Arc<PartObject>,
    from: u64,
    until: u64,
    place_wait: PlaceWait,
) {
    let Some(run) = object.part().and_then(|part| part.claim(from, until)) else { return };
    let (object, flight) = (Arc::clone(object), Arc::clone(flight));
    let running = RunningCount::begin(&flight.resources().metrics);
    let tasks = flight.resources().tasks.clone();
    tasks.spawn("part run", async move {
        let _running = running;
        Box::pin(turn(&flight, &object, run, place_wait)).await;
    });
}

/// Waits for its turn, fetches, and sees to what is missing then.
async fn turn(flight: &Arc<PartFlight>, object: &Arc<PartObject>, run: Run, place_wait: PlaceWait) {
    let (demand, readers) = (flight.request.demand(), &flight.cursors.readers);
    let places = &flight.resources().places;
    let place = match place_wait {
        PlaceWait::None => places.admit(&demand, readers),
        PlaceWait::Some => places.wait(&demand, readers, Instant::now() + TURN).await,
    };
    let Some(place) = place else {
        object.set_failure(Some(Arc::new(FillError::NoRoom)));
        return;
    };
    let fetching = async {
        let opened = Box::pin(open(flight, object, run.start()..run.end(), None)).await;
        if bring(flight, object, run, opened, RunPurpose::Readers).await.is_ok() {
            complete::see_to(flight, object).await;
        }
    };
    Box::pin(place.hold(&demand, readers, fetching)).await;
}
