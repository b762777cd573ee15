//! Requests for responses that are not stored whole. Ranges are stored, and stored parts answer
//! requests (RFC 9111 sections 3.3 and 3.4). Part of the table of `generic`; holds no lock.
//!
//! | here in part          | the client gets           | outcome         |
//! |-----------------------|---------------------------|-----------------|
//! | all that is asked for | it                        | hit_disk        |
//! | that, stale           | it, once confirmed        | revalidated     |
//! | that, stale           | it, if permitted while the origin fails or is silent | hit_stale |
//! | some of it            | it, the rest as it comes  | miss, collapsed |
//! | nothing, a range      | it, as it comes           | miss, collapsed |
//! | nothing that may be kept | its origin's answer    | pass            |
//!
//! Requests with credentials, and those that forbid storing, never use parts.

use super::deliver::{self, Delivery, StoredPart};
use super::fetch;
use super::request::GenericRequest;
use crate::engine::answer;
use crate::engine::part_result::{self, PartResult};
use crate::fill::{PartConfirmation, PartHandle, PartSearch, RangeOutcome};
use crate::origin::Response;
use crate::outcome::Outcome;
use crate::policy;
use crate::policy::generic::reuse::{Outage, Reuse, judge, may_bridge, revalidation_wait};
use crate::policy::generic::selection::{GenericSelection, Several, select};
use crate::policy::request::{ReadMethod, RequestRefusal};
use crate::rfc::ContentRange;
use crate::rfc::range::{ByteRanges, ByteSpan, Resolved};
use http::{Method, StatusCode, header};
use std::sync::Arc;
use std::time::Duration;

/// Fields that make the answer to a range depend on the stored response. If nothing is stored, the
/// origin is asked for exactly what the client wants.
const CONDITIONS: [header::HeaderName; 5] = [
    header::IF_RANGE,
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
];

/// Whether a stored part may be used, and the outcome.
enum PartUse {
    Yes(Outcome),
    /// Only if nothing is missing, since the origin is in trouble.
    IfHere,
    No(PartResult),
}

/// The answer from a response that is stored in part, or that a range of is fetched now.
pub(super) async fn answer(request: &GenericRequest<'_>) -> PartResult {
    let headers = &request.parts.headers;
    let ranges = ByteRanges::of(headers);
    let is_unread = ranges.is_none() && headers.contains_key(header::RANGE);
    if request.parts.method != Method::GET
        || request.wishes.is_authorized
        || request.wishes.forbids_storing()
        || is_unread
    {
        return PartResult::Nothing;
    }
    let is_plain = !CONDITIONS.iter().any(|name| headers.contains_key(name));
    let find = match &ranges {
        Some(ranges) if is_plain && !request.wishes.wants_stored_only() => {
            PartSearch::Asked(ranges)
        }
        _ => PartSearch::Known,
    };
    match request.engine.fills.part(&request.sought(None), find).await {
        RangeOutcome::Known(handle) => known(request, handle, ranges.as_ref()).await,
        RangeOutcome::Whole(role, flight) => {
            match fetch::flight_answer(request, role, &flight, None).await {
                Some(answer) => answer.into(),
                None => PartResult::Nothing,
            }
        }
        RangeOutcome::Again => PartResult::Again,
        RangeOutcome::Unknown | RangeOutcome::Absent(_) => PartResult::Nothing,
        RangeOutcome::Alone(response) => alone(request, *response, ranges.as_ref()),
        RangeOutcome::Failed(error) => answer::failed(&error).into(),
        RangeOutcome::NotJoined(error) => fetch::not_joined(request, error, None).into(),
    }
}

async fn known(
    request: &GenericRequest<'_>,
    handle: PartHandle,
    ranges: Option<&ByteRanges>,
) -> PartResult {
    let length = handle.length();
    let resolved = ranges.map(|ranges| ranges.resolve(length));
    if matches!(resolved, Some(Resolved::Multiple(_))) {
        return PartResult::Nothing;
    }
    let stored = handle.meta();
    let selected = select(
        ReadMethod::Get,
        &request.parts.headers,
        &stored.headers,
        Some(length),
        Several::AsWhole,
    );
    let span = match selected {
        GenericSelection::Whole => Some(ByteSpan { first: 0, last: length.saturating_sub(1) }),
        GenericSelection::Part(span) => Some(span),
        GenericSelection::Parts(_) => return PartResult::Nothing,
        GenericSelection::NotModified
        | GenericSelection::PreconditionFailed
        | GenericSelection::Unsatisfiable { .. } => None,
    };
    let (hit, must_be_here) = match usable(request, &handle, span).await {
        PartUse::Yes(hit) => (hit, request.wishes.wants_stored_only()),
        PartUse::IfHere => (Outcome::HitStale, true),
        PartUse::No(answer) => return answer,
    };
    let Some(span) = span else {
        return Delivery::of(request, &handle.meta(), Some(length), hit).without_body().into();
    };
    if must_be_here && !handle.holds(&span.bytes()) {
        return PartResult::Nothing;
    }
    part_of(request, handle, selected, span, hit).await
}

/// Whether a stored part may be used for this request. It is confirmed if it must be. If all of
/// `span` is stored, the origin is not waited for too long.
async fn usable(
    request: &GenericRequest<'_>,
    handle: &PartHandle,
    span: Option<ByteSpan>,
) -> PartUse {
    let meta = handle.meta();
    let (directives, wishes) = (request.directives(&meta), &request.wishes);
    let rule = request.caching.rule(request.target.key.path());
    let is_new = handle.is_learned_now();
    let reuse = judge(&meta, &directives, wishes, rule, request.now);
    if is_new || reuse == Reuse::Serve {
        return PartUse::Yes(Outcome::HitDisk);
    }
    if wishes.wants_stored_only() {
        return PartUse::No(answer::refused(RequestRefusal::NotStored).into());
    }
    let may_bridge = |outage| may_bridge(&meta, &directives, wishes, rule, outage, request.now);
    let wait = match reuse {
        Reuse::ServeAndRefresh => Some(Duration::ZERO),
        Reuse::Serve | Reuse::Confirm => {
            revalidation_wait(&meta, &directives, wishes, rule, request.now)
        }
    };
    let is_here = || span.is_none_or(|span| handle.holds(&span.bytes()));
    match handle.confirm(wait.filter(|_| is_here())).await {
        Some(PartConfirmation::Same) => PartUse::Yes(Outcome::Revalidated),
        Some(PartConfirmation::Other) => PartUse::No(PartResult::Again),
        Some(PartConfirmation::Trouble) if may_bridge(Outage::ServerError) => PartUse::IfHere,
        Some(PartConfirmation::Trouble | PartConfirmation::Unsaid) => {
            PartUse::No(PartResult::Nothing)
        }
        Some(PartConfirmation::Failed(_)) if may_bridge(Outage::Disconnected) => PartUse::IfHere,
        Some(PartConfirmation::Failed(error)) => PartUse::No(answer::failed(&error).into()),
        None => PartUse::IfHere,
    }
}

async fn part_of(
    request: &GenericRequest<'_>,
    handle: PartHandle,
    selected: GenericSelection,
    span: ByteSpan,
    hit: Outcome,
) -> PartResult {
    let (length, is_new) = (handle.length(), handle.is_learned_now());
    let reader = match handle.open(span).await {
        Ok(reader) => reader,
        Err(error) => return PartResult::of_open_error(&error),
    };
    let outcome = part_result::outcome(reader.provenance(), hit);
    let stored_part = if is_new { StoredPart::Nothing } else { StoredPart::Part };
    let meta = reader.meta();
    let delivery = Delivery { stored_part, ..Delivery::of(request, &meta, Some(length), outcome) };
    delivery.part(reader, selected).into()
}

/// An answer for this request alone: the whole, or the range of it that the client asked for.
fn alone(
    request: &GenericRequest<'_>,
    response: Response,
    ranges: Option<&ByteRanges>,
) -> PartResult {
    let part = policy::continuation::part(&response.headers);
    let is_part = response.status == StatusCode::PARTIAL_CONTENT;
    let passing = |response| request.engine.fills.passing(&request.target.key, response);
    if !is_part {
        return deliver::passing(request, passing(response), Outcome::Pass).into();
    }
    let (Some((here, length)), Some(asked)) = (part, ranges.and_then(ByteRanges::stretch)) else {
        return PartResult::Nothing;
    };
    let end = length.map_or(u64::MAX, |length| length.saturating_sub(1));
    let span = ByteSpan { first: asked.first, last: asked.last.min(end) };
    if span.first < here.first || span.last > here.last || span.first > span.last {
        return PartResult::Nothing;
    }
    let passing = passing(response);
    let (meta, range) = (Arc::clone(&passing.meta), ContentRange::Part { span, length });
    let skipped = span.first - here.first;
    Delivery::of(request, &meta, None, Outcome::Pass)
        .sliced(passing, range, skipped, span.length())
        .into()
}
