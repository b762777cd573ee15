//! The first run of an object: its bytes come with the answer that told the head.

use super::complete;
use super::flight::{PartFlight, PartOutcome};
use super::object::PartObject;
use super::run::{RunPurpose, bring};
use super::stretch::BegunStretch;
use crate::fill::resumable_body::ResumableBody;
use crate::rfc::range::ByteSpan;
use crate::store::{CHUNK_BYTES, Part};
use std::ops::Range;
use std::sync::Arc;

/// The object is known from now on: keeps what has `begun` to come of it.
pub(super) async fn kept(
    flight: &Arc<PartFlight>,
    object: Arc<PartObject>,
    part: &Part,
    begun: Option<ResumableBody>,
) {
    let end = |begun: &ResumableBody| begun.end().unwrap_or(part.length());
    let run = begun.as_ref().and_then(|begun| part.claim(begun.received(), end(begun)));
    flight.announce(PartOutcome::Known(Arc::clone(&object)));
    let (Some(body), Some(run)) = (begun, run) else { return };
    let begun = BegunStretch { body, later: None };
    if bring(flight, &object, run, Ok(begun), RunPurpose::Readers).await.is_ok() {
        complete::see_to(flight, &object).await;
    }
}

/// The chunks that a stretch lies in.
pub(super) fn in_chunks(stretch: ByteSpan) -> Range<u64> {
    let first = stretch.first - stretch.first % CHUNK_BYTES;
    let end = stretch.bytes().end;
    first..end.checked_next_multiple_of(CHUNK_BYTES).unwrap_or(u64::MAX)
}
