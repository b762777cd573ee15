//! A run that a reader begins for its next byte. Called by readers; a task of its own.

use super::complete;
use super::flight::PartFlight;
use super::object::Object;
use super::run::{Purpose, bring, open};
use crate::fill::error::FillError;
use crate::fill::resources::Running;
use crate::store::Run;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long a run in the middle of an answer waits for its turn among the fills.
const TURN: Duration = Duration::from_secs(10);

/// Whether a run waits for its turn where as many fills are under way as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// It does not.
    None,
    /// It does, for a while.
    Some,
}

/// Begins to fetch the chunks from the one at `from` on, up to the one that ends at or after
/// `until`, where nobody has or fetches the first of them.
pub(super) fn fetch(
    flight: &Arc<PartFlight>,
    object: &Arc<Object>,
    (from, until): (u64, u64),
    patience: Patience,
) {
    let Some(run) = object.part().and_then(|part| part.claim(from, until)) else { return };
    let (object, flight) = (Arc::clone(object), Arc::clone(flight));
    let running = Running::begin(&flight.resources().metrics);
    let tasks = flight.resources().tasks.clone();
    tasks.spawn("part run", async move {
        let _running = running;
        Box::pin(turn(&flight, &object, run, patience)).await;
    });
}

/// Waits for its turn, fetches, and sees to what is missing then.
async fn turn(flight: &Arc<PartFlight>, object: &Arc<Object>, run: Run, patience: Patience) {
    let (demand, readers) = (flight.subject.demand(), &flight.cursors.readers);
    let room = &flight.resources().room;
    let place = match patience {
        Patience::None => room.admit(&demand, readers),
        Patience::Some => room.wait(&demand, readers, Instant::now() + TURN).await,
    };
    let Some(place) = place else {
        object.set_failure(Some(Arc::new(FillError::NoRoom)));
        return;
    };
    let fetching = async {
        let opened = open(flight, object, run.start()..run.end(), None).await;
        if bring(flight, object, run, opened, Purpose::Readers).await.is_ok() {
            complete::see_to(flight, object).await;
        }
    };
    Box::pin(place.hold(&demand, readers, fetching)).await;
}
