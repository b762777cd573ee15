//! How the head of an object of a binary cache becomes known: from the answer to a request for a
//! stretch of it, or to one for its head.

use super::ask::range_ask;
use super::first_run::{in_chunks, kept};
use super::flight::{PartFlight, PartOutcome};
use super::identity::PartIdentity;
use super::object::{HeadSource, PartDelivery, PartObject};
use super::stretch::OriginStretch;
use crate::fill::error::{FillError, JoinError};
use crate::fill::flight::FillOutcome;
use crate::fill::object_request::{AdmittedObject, Keep, ObjectRequest};
use crate::fill::proof::ExpectedBody;
use crate::fill::request::FillStart;
use crate::fill::resumable_body::BodyCheck;
use crate::fill::{heads, leader};
use crate::origin::{FetchError, OriginAnswer, Response};
use crate::policy::continuation;
use crate::policy::response::Times;
use crate::rfc::range::ByteSpan;
use crate::store::CHUNK_BYTES;
use crate::sync::Mutex;
use http::{StatusCode, header};
use std::ops::Range;
use std::sync::Arc;

/// What came with a head.
struct LearnedHead {
    admitted: AdmittedObject,
    length: u64,
    expected: ExpectedBody,
    begun: Option<(Response, Range<u64>)>,
}

pub(super) async fn by_get(
    flight: &Arc<PartFlight>,
    request: &ObjectRequest,
    stretch: ByteSpan,
) -> Result<(), FillError> {
    let end = stretch.last.saturating_add(1);
    let is_kept = flight.resources().cache.takes_parts();
    let asked = if is_kept { in_chunks(stretch) } else { stretch.first..end };
    let cache = &flight.resources().cache;
    let ask = request.sourced(cache, range_ask(request, &asked, None)).await;
    let asking = request.upstream.origins.fetch(&ask);
    match flight.cursors.readers.while_open(asking).await?? {
        OriginAnswer::Found(response) if response.status == StatusCode::PARTIAL_CONTENT => {
            found_part(flight, request, response, asked).await
        }
        OriginAnswer::Found(response) => {
            whole(flight, request, Some(response));
            Ok(())
        }
        OriginAnswer::Absent { headers, origin, request_time, response_time } => {
            let times = Times { request: request_time, response: response_time };
            let (meta, keep) = request.absence(&headers, origin, times);
            let absent = flight.resources().absent(flight.ticket, meta, keep).await;
            flight.announce(PartOutcome::Absent(absent));
            Ok(())
        }
        // It ends before the stretch begins: its length tells.
        OriginAnswer::Changed => by_head(flight, request).await,
        OriginAnswer::NotModified { origin, .. } => Err(unasked(flight, origin, "304")),
    }
}

async fn found_part(
    flight: &Arc<PartFlight>,
    request: &ObjectRequest,
    mut response: Response,
    asked: Range<u64>,
) -> Result<(), FillError> {
    let Some((span, Some(length))) = continuation::part(&response.headers) else {
        whole(flight, request, None);
        return Ok(());
    };
    if span.first == 0 && span.last.checked_add(1) == Some(length) {
        response.status = StatusCode::OK;
        response.headers.remove(header::CONTENT_RANGE);
        whole(flight, request, Some(response));
        return Ok(());
    }
    let admitted = request.admit_part(&response, length)?;
    let expected = flight.request.expected(&flight.resources().cache, admitted.coding).await;
    let begun = Some((response, asked.start..asked.end.min(length)));
    known(flight, LearnedHead { admitted, length, expected, begun }).await
}

pub(super) async fn by_head(
    flight: &Arc<PartFlight>,
    request: &ObjectRequest,
) -> Result<(), FillError> {
    let asked = match heads::join(&flight.registry, request.clone(), None) {
        Ok((_, asked)) => asked,
        Err(refused) => {
            flight.announce(PartOutcome::NotJoined(refused));
            return Ok(());
        }
    };
    match flight.cursors.readers.while_open(asked.outcome()).await? {
        FillOutcome::Head { admitted, length } => {
            let Some(length) = length.filter(|length| *length > CHUNK_BYTES) else {
                whole(flight, request, None);
                return Ok(());
            };
            let expected =
                flight.request.expected(&flight.resources().cache, admitted.coding).await;
            let admitted = AdmittedObject::clone(&admitted);
            known(flight, LearnedHead { admitted, length, expected, begun: None }).await
        }
        FillOutcome::Absent(meta) => {
            flight.announce(PartOutcome::Absent(meta));
            Ok(())
        }
        FillOutcome::Failed(error) => {
            flight.announce(PartOutcome::Failed(error));
            Ok(())
        }
        FillOutcome::Streaming { .. } | FillOutcome::Whole { .. } | FillOutcome::Passing => {
            Err(FillError::NoResult)
        }
    }
}

/// The head is known: from now on readers go by it.
async fn known(flight: &Arc<PartFlight>, head: LearnedHead) -> Result<(), FillError> {
    let LearnedHead { admitted, length, expected, begun } = head;
    if let Err(rejection) = expected.check_length(length) {
        let origin = Arc::clone(&admitted.meta.origin);
        let labels = &[&*origin, rejection.reason()];
        flight.resources().metrics.rejected_bodies.with_label_values(labels).inc();
        return Err(FillError::Rejected { origin, rejection });
    }
    let AdmittedObject { meta, keep, upstream_status, .. } = admitted;
    let identity = Arc::new(PartIdentity::new(&meta, length, BodyCheck::of(&expected)));
    // What was asked for while the disk took nothing may begin within a chunk.
    let is_aligned =
        begun.as_ref().is_none_or(|(_, asked)| asked.start.is_multiple_of(CHUNK_BYTES));
    let is_kept = keep == Keep::IfVerified && expected.is_provable(Some(length));
    let part = if is_kept && identity.ties_parts() && is_aligned {
        flight.resources().cache.begin_part(meta.clone(), length).await
    } else {
        None
    };
    let begun = begun
        .map(|(response, asked)| OriginStretch::of(flight.source(), &identity, response, asked));
    let told = HeadSource::ByOrigin { upstream_status };
    let object = |kind| Arc::new(PartObject::new(Arc::clone(&identity), kind, told));
    if let Some(part) = part {
        kept(flight, object(PartDelivery::Kept(part.clone())), &part, begun).await;
    } else {
        let begun = Mutex::new(begun.map(Box::new));
        let kind = PartDelivery::Passing { meta: Arc::new(meta), begun };
        flight.announce(PartOutcome::Known(object(kind)));
    }
    Ok(())
}

/// Fetches the whole after all, with the answer to GET that is here already, if there is one.
fn whole(flight: &Arc<PartFlight>, request: &ObjectRequest, given: Option<Response>) {
    let before = match given {
        Some(given) => FillStart::Given(Box::new(given), flight.ticket),
        None => FillStart::Stale(None),
    };
    let outcome = match leader::join(&flight.registry, request.clone(), None, before) {
        Ok((role, flight)) => PartOutcome::Whole(role, flight),
        Err(refused @ (JoinError::NoRoom | JoinError::Wrong { .. })) => {
            PartOutcome::NotJoined(refused)
        }
        Err(JoinError::Ended) => PartOutcome::Stored,
    };
    flight.announce(outcome);
}

fn unasked(flight: &Arc<PartFlight>, origin: usize, what: &str) -> FillError {
    let origin = flight.request.upstream().origins.name(origin);
    let detail = format!("{what} without conditions");
    FillError::Fetch(FetchError::Protocol { origin, detail })
}
