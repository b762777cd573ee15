//! Answers requests for ranges of objects that are not stored whole. Conditions and ranges are
//! judged as for whole objects, after the head is known.
//!
//! | asked bytes            | the client gets       | outcome         |
//! |------------------------|-----------------------|-----------------|
//! | all here, head fresh   | them                  | hit_disk        |
//! | all here, head stale   | them, once confirmed  | revalidated     |
//! | the same, and no origin confirms it in time | them | hit_stale |
//! | some missing           | them, as they arrive  | miss, collapsed |
//! | not kept               | them, passed through  | pass            |

use super::answer::{self, ClientAnswer};
use super::deliver::{self, ReadRequest};
use super::part_result::{self, PartResult};
use super::{fetch, lookup};
use crate::fill::{FillRequest, JoinError, PartConfirmation, PartHandle, PartSearch, RangeOutcome};
use crate::object::Meta;
use crate::outcome::Outcome;
use crate::policy;
use crate::policy::Selection;
use crate::policy::request::ReadMethod;
use crate::rfc::range::{ByteRanges, ByteSpan};
use std::borrow::Cow;
use std::sync::Arc;

/// Tries for an answer before its first byte.
const TRIES_MAX: u32 = 3;

/// The answer to a request for ranges of an object that is not stored whole; none if the whole is
/// to be fetched.
pub(super) async fn answer(
    request: &ReadRequest<'_>,
    wanted: &FillRequest,
) -> Option<ClientAnswer> {
    if request.method != ReadMethod::Get || wanted.class().is_small() {
        return None;
    }
    let ranges = ByteRanges::of(request.headers)?;
    for _ in 0..TRIES_MAX {
        match Box::pin(try_ranged(request, wanted, &ranges)).await {
            PartResult::Answer(answer) => return Some(*answer),
            PartResult::Again => {}
            PartResult::Nothing => return None,
        }
    }
    None
}

async fn try_ranged(
    request: &ReadRequest<'_>,
    wanted: &FillRequest,
    ranges: &ByteRanges,
) -> PartResult {
    match request.engine.fills.part(wanted, PartSearch::Asked(ranges)).await {
        RangeOutcome::Known(handle) => part(request, wanted, handle).await,
        RangeOutcome::Whole(role, flight) => {
            fetch::flight_answer(request, wanted, None, None, (role, flight)).await.into()
        }
        RangeOutcome::Again => {
            // A fill has ended since, so its object may be stored now.
            let request = ReadRequest { now: request.engine.clock.now(), ..*request };
            match lookup::stored(&request).await {
                Ok(answer) => answer.into(),
                Err(Some(_)) => PartResult::Nothing,
                Err(None) => PartResult::Again,
            }
        }
        RangeOutcome::Unknown | RangeOutcome::Alone(_) => PartResult::Nothing,
        RangeOutcome::Absent(meta) => {
            deliver::absent(request, &meta, Outcome::Absent.into()).into()
        }
        RangeOutcome::Failed(error) => answer::failed(&error).into(),
        RangeOutcome::NotJoined(JoinError::Wrong { seconds }) => answer::wrong(seconds).into(),
        RangeOutcome::NotJoined(JoinError::NoRoom | JoinError::Ended) => answer::shed().into(),
    }
}

/// The answer from an object that is stored in part.
async fn part(request: &ReadRequest<'_>, wanted: &FillRequest, handle: PartHandle) -> PartResult {
    let (meta, length) = (handle.meta(), Some(handle.length()));
    let stored = || Cow::Borrowed(&meta.headers);
    let selection = policy::selection::select(request.method, request.headers, stored, length);
    let freshness = policy::freshness::judge(&meta.facts(), request.now);
    let is_fresh = handle.is_learned_now() || freshness.is_fresh();
    let hit = if is_fresh {
        Outcome::HitDisk
    } else {
        let is_here = match &selection {
            Selection::Whole => false,
            Selection::Part(span) => handle.holds(&span.bytes()),
            Selection::NotModified
            | Selection::PreconditionFailed
            | Selection::Unsatisfiable { .. } => true,
        };
        let wait = policy::freshness::revalidation_wait(&meta, request.now, &wanted.terms());
        let wait = wait.filter(|_| is_here);
        match (handle.confirm(wait).await, wait) {
            (Some(PartConfirmation::Same), _) => Outcome::Revalidated,
            (Some(PartConfirmation::Other), _) => return PartResult::Again,
            (Some(_), Some(_)) | (None, _) => Outcome::HitStale,
            (Some(PartConfirmation::Failed(error)), None) => return answer::failed(&error).into(),
            (Some(PartConfirmation::Trouble | PartConfirmation::Unsaid), None) => {
                return PartResult::Nothing;
            }
        }
    };
    let meta = handle.meta();
    match selection {
        Selection::Whole => PartResult::Nothing,
        Selection::Part(span) => part_of(request, &meta, handle, span, hit).await,
        Selection::NotModified
        | Selection::PreconditionFailed
        | Selection::Unsatisfiable { .. } => {
            let outcome = if handle.is_learned_now() { Outcome::Pass } else { hit };
            let details =
                deliver::OutcomeDetails { outcome, upstream_status: handle.upstream_status() };
            deliver::without_body(request, &meta, handle.length(), details).into()
        }
    }
}

async fn part_of(
    request: &ReadRequest<'_>,
    meta: &Arc<Meta>,
    handle: PartHandle,
    span: ByteSpan,
    hit: Outcome,
) -> PartResult {
    let upstream_status = handle.upstream_status().to_vec();
    let length = handle.length();
    let reader = match handle.open(span).await {
        Ok(reader) => reader,
        Err(error) => return PartResult::of_open_error(&error),
    };
    let outcome = part_result::outcome(reader.provenance(), hit);
    let details = deliver::OutcomeDetails { outcome, upstream_status: &upstream_status };
    deliver::part(request, meta, length, reader, details).into()
}
