//! How the head of an object becomes known of which ranges are wanted: from a part on disk, or from
//! the first answer of an origin; its body is the first run. One task for each flight, so a client
//! that leaves cancels nothing.
//!
//! The first request asks for whole chunks. If the first answer is a part that may be kept, later
//! requests go by its head. An object of a binary cache that may not be kept in parts passes to
//! each reader. An answer of a generic site that may not be kept is for its request alone, and the
//! requests that waited for it ask for themselves; after a 206 of that kind no request waits for
//! another for a while.
//!
//! A response of a generic site that varies has no parts, and one with stored variants gets none:
//! nothing tells which of the two would be newer.

use super::complete;
use super::first_run::{in_chunks, kept};
use super::flight::{PartFlight, PartOutcome};
use super::identity::PartIdentity;
use super::object::{HeadSource, PartDelivery, PartObject};
use crate::cache::Hit;
use crate::fill::doubt::doubt_narinfo;
use crate::fill::error::{FillError, JoinError};
use crate::fill::flight::FillOutcome;
use crate::fill::proof::{Advice, ExpectedBody};
use crate::fill::request::{FillStart, OriginChoice};
use crate::fill::rules::AdmittedAnswer;
use crate::fill::{heads, leader};
use crate::origin::{FetchError, OriginAnswer, Response};
use crate::policy::continuation;
use crate::policy::response::{Coding, Times};
use crate::rfc::range::ByteSpan;
use crate::store::CHUNK_BYTES;
use crate::sync::Mutex;
use http::{StatusCode, header};
use std::ops::Range;
use std::sync::Arc;

/// A flight that is to land: dropped, it lands as failed if nothing was told.
#[derive(Debug)]
pub(super) struct HeadLearner {
    flight: Arc<PartFlight>,
}

/// What came with a head.
struct LearnedHead {
    admitted: AdmittedAnswer,
    length: u64,
    expected: ExpectedBody,
    begun: Option<BegunAnswer>,
}

/// An answer that brings the first of the bytes `asked`, and the origins it was asked of.
struct BegunAnswer {
    response: Response,
    asked: Range<u64>,
    choice: OriginChoice,
}

impl Drop for HeadLearner {
    fn drop(&mut self) {
        self.flight.announce(PartOutcome::Failed(Arc::new(FillError::NoResult)));
    }
}

impl HeadLearner {
    pub(super) fn new(flight: Arc<PartFlight>) -> Self {
        Self { flight }
    }

    /// Makes the flight land. `stretch` is what is wanted, if that is known.
    pub(super) async fn run(self, stretch: Option<ByteSpan>) {
        let flight = &self.flight;
        let (resources, key) = (flight.resources(), &flight.request.key);
        if let Some(Hit::Memory(_) | Hit::Disk(_)) = resources.cache.lookup(key).await {
            return flight.announce(PartOutcome::Stored);
        }
        if flight.request.is_page() && resources.cache.has_variants(key).await {
            return flight.announce(PartOutcome::Unknown);
        }
        if let Some(object) = self.on_disk().await {
            flight.announce(PartOutcome::Known(Arc::clone(&object)));
            return complete::see_to(flight, &object).await;
        }
        if flight.request.is_page() && (stretch.is_none() || !resources.cache.takes_parts()) {
            return flight.announce(PartOutcome::Unknown);
        }
        if let Advice::Refuse { seconds } = resources.rejected_bodies.advice(key, &resources.cache)
        {
            resources.metrics.fills_spared.inc();
            return flight.announce(PartOutcome::NotJoined(JoinError::Wrong { seconds }));
        }
        let (demand, readers) = (flight.request.demand(), &flight.cursors.readers);
        let Some(place) = resources.places.admit(&demand, readers) else {
            return flight.announce(PartOutcome::NotJoined(JoinError::NoRoom));
        };
        let asking = Box::pin(async {
            match stretch {
                Some(stretch) => Box::pin(self.by_get(stretch)).await,
                None => self.by_head().await,
            }
        });
        if let Err(error) = place.hold(&demand, readers, asking).await {
            if matches!(error, FillError::Unread) {
                error.log(key);
            } else {
                tracing::warn!(
                    site = key.site(),
                    path = key.path(),
                    error = &error as &dyn std::error::Error,
                    "range not fetched"
                );
            }
            flight.announce(PartOutcome::Failed(Arc::new(error)));
        }
    }

    /// The part that is kept, unless what is known of the object speaks against it: then the part
    /// is dropped, if all is known.
    async fn on_disk(&self) -> Option<Arc<PartObject>> {
        let (request, cache) = (&self.flight.request, &self.flight.resources().cache);
        let part = cache.part(&request.key).await?;
        let meta = part.meta();
        let expected = request.expected(cache, Coding::of(&meta.headers)).await;
        let identity = PartIdentity::new(&meta, part.length());
        if !identity.ties_parts() || expected.check_length(part.length()).is_err() {
            // A claim that a disk does not tell may be the one that ties it.
            if !expected.is_unsure {
                cache.drop_part(&part).await;
            }
            return None;
        }
        let kind = PartDelivery::Kept(part);
        Some(Arc::new(PartObject::new(Arc::new(identity), kind, HeadSource::ByDisk)))
    }

    async fn by_get(&self, stretch: ByteSpan) -> Result<(), FillError> {
        let flight = &self.flight;
        let resources = flight.resources();
        let asked =
            if resources.cache.takes_parts() { in_chunks(stretch) } else { stretch.bytes() };
        let question = flight.question(&asked, None).await;
        let asking = flight.request.fetch(&question);
        match flight.cursors.readers.while_open(asking).await?? {
            OriginAnswer::Found(response) if response.status == StatusCode::PARTIAL_CONTENT => {
                return self.found_part(response, asked, question.choice).await;
            }
            OriginAnswer::Found(response) if response.status == StatusCode::OK => {
                self.whole(Some(response));
            }
            OriginAnswer::Found(response) => self.alone(response),
            OriginAnswer::Absent { headers, origin, request_time, response_time } => {
                let times = Times { request: request_time, response: response_time };
                let (meta, keep) = flight.request.absence(&headers, origin, times);
                let absent = resources.absent(flight.ticket, meta, keep).await;
                let (request, class) = (&flight.request, flight.request.class());
                doubt_narinfo(resources, &request.upstream, &request.key, class).await;
                flight.announce(PartOutcome::Absent(absent));
            }
            // It ends before the stretch begins: its length tells.
            OriginAnswer::Changed => return self.by_head().await,
            OriginAnswer::NotModified { origin, .. } => {
                let origin = flight.request.upstream.origins.name(origin);
                let detail = "304 without conditions".to_owned();
                return Err(FillError::Fetch(FetchError::Protocol { origin, detail }));
            }
        }
        Ok(())
    }

    async fn found_part(
        &self,
        mut response: Response,
        asked: Range<u64>,
        choice: OriginChoice,
    ) -> Result<(), FillError> {
        let request = &self.flight.request;
        let Some((span, Some(length))) = continuation::part(&response.headers) else {
            if self.flight.request.is_page() {
                self.alone(response);
            } else {
                self.whole(None);
            }
            return Ok(());
        };
        if span.first == 0 && span.last.checked_add(1) == Some(length) {
            response.status = StatusCode::OK;
            response.headers.remove(header::CONTENT_RANGE);
            // It has said how long it is, so its end is known however it is framed.
            (response.content_length, response.is_framed) = (Some(length), true);
            self.whole(Some(response));
            return Ok(());
        }
        let admitted = request.admit_part(&response, length)?;
        let cache = &self.flight.resources().cache;
        let expected = request.expected(cache, admitted.coding).await;
        let asked = asked.start..asked.end.min(length);
        let begun = Some(BegunAnswer { response, asked, choice });
        self.known(LearnedHead { admitted, length, expected, begun }).await
    }

    async fn by_head(&self) -> Result<(), FillError> {
        let flight = &self.flight;
        let asked = match heads::join(&flight.registry, flight.request.clone(), None) {
            Ok((_, asked)) => asked,
            Err(refused) => {
                flight.announce(PartOutcome::NotJoined(refused));
                return Ok(());
            }
        };
        match flight.cursors.readers.while_open(asked.outcome()).await? {
            FillOutcome::Head { admitted, length } => {
                let Some(length) = length.filter(|length| *length > CHUNK_BYTES) else {
                    self.whole(None);
                    return Ok(());
                };
                let cache = &flight.resources().cache;
                let expected = flight.request.expected(cache, admitted.coding).await;
                let admitted = AdmittedAnswer::clone(&admitted);
                return self.known(LearnedHead { admitted, length, expected, begun: None }).await;
            }
            FillOutcome::Absent(meta) => flight.announce(PartOutcome::Absent(meta)),
            FillOutcome::Failed(error) => flight.announce(PartOutcome::Failed(error)),
            FillOutcome::Streaming { .. } | FillOutcome::Whole { .. } | FillOutcome::Passing => {
                return Err(FillError::NoResult);
            }
        }
        Ok(())
    }

    /// The head is known: from now on readers go by it.
    async fn known(&self, head: LearnedHead) -> Result<(), FillError> {
        let LearnedHead { admitted, length, expected, begun } = head;
        let (flight, resources) = (&self.flight, self.flight.resources());
        if let Err(rejection) = expected.check_length(length) {
            let origin = Arc::clone(&admitted.meta.origin);
            let labels = &[&*origin, rejection.reason()];
            resources.metrics.rejected_bodies.with_label_values(labels).inc();
            return Err(FillError::Rejected { origin, rejection });
        }
        let identity = Arc::new(PartIdentity::new(&admitted.meta, length));
        // What was asked for while the disk took nothing may begin within a chunk.
        let fits = begun.as_ref().is_none_or(|BegunAnswer { response, asked, .. }| {
            asked.start.is_multiple_of(CHUNK_BYTES) && identity.check(asked, response).is_ok()
        });
        let is_provable = expected.is_provable(Some(length));
        let part = if admitted.is_for_all() && is_provable && identity.ties_parts() && fits {
            resources.cache.begin_part(admitted.meta.clone(), length).await
        } else {
            None
        };
        let AdmittedAnswer { meta, upstream_status, .. } = admitted;
        let object = |kind| {
            let told = HeadSource::ByOrigin { upstream_status };
            Arc::new(PartObject::new(Arc::clone(&identity), kind, told))
        };
        let body = |BegunAnswer { response, asked, choice }| {
            flight.begun(&identity, response, asked, choice)
        };
        match (part, begun) {
            (Some(part), begun) => {
                let object = object(PartDelivery::Kept(part.clone()));
                kept(flight, object, &part, begun.map(body)).await;
            }
            (None, Some(begun)) if flight.request.is_page() => self.alone(begun.response),
            (None, begun) => {
                let begun = Mutex::new(begun.map(|begun| Box::new(body(begun))));
                let kind = PartDelivery::Passing { meta: Arc::new(meta), begun };
                flight.announce(PartOutcome::Known(object(kind)));
            }
        }
        Ok(())
    }

    /// Fetches the whole after all, with the answer to GET that is here already, if there is one.
    fn whole(&self, given: Option<Response>) {
        let flight = &self.flight;
        let start = match given {
            Some(given) => FillStart::Given(Box::new(given), flight.ticket),
            None => FillStart::Stale(None),
        };
        let outcome = match leader::join(&flight.registry, flight.request.clone(), None, start) {
            Ok((role, whole)) => PartOutcome::Whole(role, whole),
            Err(JoinError::Ended) => PartOutcome::Stored,
            Err(refused @ (JoinError::NoRoom | JoinError::Wrong { .. })) => {
                PartOutcome::NotJoined(refused)
            }
        };
        flight.announce(outcome);
    }

    /// Gives an answer to the request that caused it. If it is a part that may not be kept, no
    /// request waits for the next answer for a while.
    fn alone(&self, response: Response) {
        let flight = &self.flight;
        if response.status == StatusCode::PARTIAL_CONTENT {
            let now = response.response_time.edge;
            flight.parts.hit_for_miss.begin(&flight.request.key, now, flight.ticket);
        }
        *flight.own_answer.lock() = Some(Box::new(response));
        flight.announce(PartOutcome::Alone);
    }
}
