//! Responses of generic sites that are here in part (RFC 9111 sections 3.3 and 3.4): how one
//! begins, and how it is confirmed. Called by `engine`, and by the runs of this module.
//!
//! A strong entity tag ties a part together. The head must be one that may be stored for every
//! client and must not vary. Every later answer must have the same tag and length, and still permit
//! storing. Otherwise the part is dropped and its readers are reset; one that has got no byte yet
//! begins anew. So no answer ever has bytes of two representations. A response that varies has no
//! parts, and an object with stored variants gets none: nothing tells which of the two would be
//! newer.
//!
//! The first request asks for whole chunks. If its answer may not be kept, it is for that request
//! alone, and the requests that waited for it ask for themselves. After a 206 of that kind no
//! request waits for another for a while.
//!
//! Purge, eviction, restart and a whole object that takes the place of the part are as for the
//! parts of binary caches (see the module above).

use super::first_run::{in_chunks, kept};
use super::flight::{PartFlight, PartOutcome};
use super::identity::PartIdentity;
use super::object::{HeadSource, PartDelivery, PartObject};
use super::page_head::whole_of;
use super::stretch::OriginStretch;
use crate::fill::error::{FillError, JoinError};
use crate::fill::page_leader;
use crate::fill::page_request::{PageRange, PageRequest};
use crate::fill::resumable_body::BodyCheck;
use crate::origin::{Response, Retries};
use crate::policy::continuation;
use crate::rfc::range::ByteSpan;
use crate::store::Part;
use http::{StatusCode, header};
use std::ops::Range;
use std::sync::Arc;

/// Asks for the chunks of a stretch.
pub(super) async fn by_page(
    flight: &Arc<PartFlight>,
    request: &PageRequest,
    stretch: ByteSpan,
) -> Result<(), FillError> {
    let asked = in_chunks(stretch);
    let last = (asked.end != u64::MAX).then(|| asked.end.saturating_sub(1));
    let rest = PageRange { first: asked.start, last, same: None, retries: Retries::Usual };
    let asking = request.stretch(rest, None);
    let mut response = flight.cursors.readers.while_open(asking).await??;
    if response.status == StatusCode::OK {
        whole_page(flight, request, response);
        return Ok(());
    }
    let part = continuation::part(&response.headers);
    let part = part.filter(|_| response.status == StatusCode::PARTIAL_CONTENT);
    let Some((span, Some(length))) = part else {
        alone(flight, response);
        return Ok(());
    };
    if span.first == 0 && span.last.checked_add(1) == Some(length) {
        response.status = StatusCode::OK;
        response.headers.remove(header::CONTENT_RANGE);
        // It has said how long it is, so its end is known however it is framed.
        (response.content_length, response.is_framed) = (Some(length), true);
        whole_page(flight, request, response);
        return Ok(());
    }
    match begin(flight, request, &response, (asked, length)).await {
        Some((object, part, asked)) => {
            let begun = OriginStretch::of(flight.source(), &object.identity, response, asked);
            kept(flight, object, &part, Some(begun)).await;
        }
        None => alone(flight, response),
    }
    Ok(())
}

/// What is kept of the response that `response` is the stretch `asked` of; none if it may
/// not be kept in parts.
async fn begin(
    flight: &Arc<PartFlight>,
    request: &PageRequest,
    response: &Response,
    (asked, length): (Range<u64>, u64),
) -> Option<(Arc<PartObject>, Part, Range<u64>)> {
    let meta = whole_of(request, response)?;
    let identity = PartIdentity::new(&meta, length, BodyCheck::ByLength);
    let asked = asked.start..asked.end.min(length);
    if !identity.ties_parts() || identity.check(&asked, response).is_err() {
        return None;
    }
    let part = flight.resources().cache.begin_part(meta, length).await?;
    let told = HeadSource::ByOrigin { upstream_status: Vec::new() };
    let object = PartObject::new(Arc::new(identity), PartDelivery::Kept(part.clone()), told);
    Some((Arc::new(object), part, asked))
}

/// Fetches the whole, with the answer that is here already.
fn whole_page(flight: &Arc<PartFlight>, request: &PageRequest, given: Response) {
    let given_at = given.response_time.edge;
    let given = (given, flight.ticket);
    let outcome = match page_leader::join_with(&flight.registry, request.clone(), given, given_at) {
        Ok((role, flight)) => PartOutcome::Whole(role, flight),
        Err(JoinError::Ended) => PartOutcome::Stored,
        Err(refused @ (JoinError::NoRoom | JoinError::Wrong { .. })) => {
            PartOutcome::NotJoined(refused)
        }
    };
    flight.announce(outcome);
}

/// Gives an answer to the request that caused it. If it is a part that may not be kept, no request
/// waits for the next answer for a while.
fn alone(flight: &Arc<PartFlight>, response: Response) {
    if response.status == StatusCode::PARTIAL_CONTENT {
        let now = response.response_time.edge;
        flight.parts.hit_for_miss.begin(flight.request.key(), now, flight.ticket);
    }
    *flight.own_answer.lock() = Some(Box::new(response));
    flight.announce(PartOutcome::Alone);
}
