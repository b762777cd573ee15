//! A run: consecutive chunks of an object that are fetched and kept. Each is a task of its own, so
//! a client that leaves cancels none. No locks across an await.

use super::flight::PartFlight;
use super::object::PartObject;
use super::stretch::BegunStretch;
use crate::cache::PublishError;
use crate::fill::error::FillError;
use crate::fill::resumable_body::ResumableBody;
use crate::origin::FetchReason;
use crate::store::{CHUNK_BYTES, Run};
use std::ops::Range;
use std::sync::Arc;

/// Chunks of a run that have come before the first of them is kept for a restart.
const KEEP_CHUNKS: u64 = 8;

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunPurpose {
    /// Readers; without one that wants more it ends.
    Readers,
    /// All of the object.
    Completion,
}

/// A stretch of it, unless it is ended for want of readers.
pub(super) async fn open(
    flight: &PartFlight,
    object: &PartObject,
    span: Range<u64>,
    why: Option<FetchReason>,
) -> Result<BegunStretch, FillError> {
    let opening = flight.open(&object.identity, span, why);
    Box::pin(flight.cursors.readers.while_open(opening)).await?
}

/// Fetches a run to its end, tells how it ended, and keeps what has come.
pub(super) async fn bring(
    flight: &PartFlight,
    object: &PartObject,
    mut run: Run,
    opened: Result<BegunStretch, FillError>,
    purpose: RunPurpose,
) -> Result<(), Arc<FillError>> {
    let pumped = match opened {
        Ok(BegunStretch { body, later }) => {
            if let (Some(part), Some(later)) = (object.part(), later) {
                later.renew(flight, part).await;
            }
            Box::pin(pump(flight, object, &mut run, body, purpose)).await
        }
        Err(error) => Err(error),
    };
    let ended = match pumped {
        Ok(()) => run.finish().await.map_err(FillError::from),
        Err(error) => Err(error),
    };
    let ended = match ended {
        Ok(()) => Ok(()),
        Err(error) => Err(failed(flight, object, error).await),
    };
    // A reader that waits for the run looks for the reason as soon as the run is gone.
    drop(run);
    keep(flight, object).await;
    ended
}

/// It is not what it was taken for: its readers are reset, nothing of it stays.
pub(super) async fn break_off(flight: &PartFlight, object: &PartObject, error: Arc<FillError>) {
    let reason = if matches!(*error, FillError::Changed) { "changed" } else { "rejected" };
    if !object.set_broken(&error) {
        return;
    }
    flight.resources().metrics.parts_dropped.with_label_values(&[reason]).inc();
    tracing::warn!(
        site = flight.request.key.site(),
        path = flight.request.key.path(),
        error = &*error as &dyn std::error::Error,
        "partial object dropped"
    );
    if let Some(part) = object.part() {
        flight.resources().cache.drop_part(part).await;
    }
}

async fn failed(flight: &PartFlight, object: &PartObject, error: FillError) -> Arc<FillError> {
    let error = Arc::new(error);
    let key = &flight.request.key;
    if matches!(*error, FillError::Changed) {
        break_off(flight, object, Arc::clone(&error)).await;
    } else if matches!(*error, FillError::Unread) {
        error.log(key);
    } else {
        tracing::warn!(
            site = key.site(),
            path = key.path(),
            error = &*error as &dyn std::error::Error,
            "chunks not fetched"
        );
    }
    object.set_failure(Some(Arc::clone(&error)));
    error
}

async fn pump(
    flight: &PartFlight,
    object: &PartObject,
    run: &mut Run,
    mut body: ResumableBody,
    purpose: RunPurpose,
) -> Result<(), FillError> {
    let what = match purpose {
        RunPurpose::Readers => "fetched",
        RunPurpose::Completion => "completed",
    };
    let readers = &flight.cursors.readers;
    let bytes = flight.resources().metrics.range_bytes.with_label_values(&[what]);
    while run.received() < run.end()
        && let Some(mut piece) = readers.while_open(body.chunk()).await??
    {
        bytes.inc_by(piece.len() as u64);
        readers.came(piece.len() as u64);
        object.set_failure(None);
        while !piece.is_empty() && run.received() < run.end() {
            let left = CHUNK_BYTES - run.received() % CHUNK_BYTES;
            let left = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            run.append(piece.split_to(left)).await?;
            if run.received().is_multiple_of(CHUNK_BYTES)
                && !goes_on(flight, object, run, purpose).await
            {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Whether a run that has come to the end of a chunk goes on to the next.
async fn goes_on(flight: &PartFlight, object: &PartObject, run: &Run, purpose: RunPurpose) -> bool {
    let chunks = (run.received() - run.start()) / CHUNK_BYTES;
    if chunks.is_multiple_of(KEEP_CHUNKS) {
        keep(flight, object).await;
    }
    match purpose {
        RunPurpose::Readers => flight.cursors.wants(run.received()).await,
        RunPurpose::Completion => {
            !flight.resources().tasks.stopping().is_cancelled() && !flight.is_purged()
        }
    }
}

/// Makes what has come survive a restart.
pub(super) async fn keep(flight: &PartFlight, object: &PartObject) {
    let Some(part) = object.part() else { return };
    match flight.resources().cache.keep_part(flight.ticket, part).await {
        Ok(()) => {}
        Err(PublishError::Purged) => {
            tracing::debug!(path = flight.request.key.path(), "purged during its fetch");
        }
        Err(error) => {
            tracing::info!(path = flight.request.key.path(), %error, "chunks not stored");
        }
    }
}
