//! How the head of an object becomes known of which ranges are wanted: from a part on disk, or from
//! the first answer of an origin, whose body is the first run at once. One task for each flight, so
//! a client that leaves cancels nothing.

use super::complete;
use super::flight::{PartFlight, PartLanded};
use super::object::{Kind, Object, Purpose, Told};
use super::stretch::{Identity, Stretch};
use super::subject::{Subject, question};
use crate::cache::Hit;
use crate::fill::steady::Checked;
use crate::fill::trusted::sourced;
use crate::fill::verify::Expected;
use crate::fill::{Admitted, Before, FillError, Fills, Keep, Landed, NotJoined, Wanted};
use crate::object::Meta;
use crate::origin::{FetchError, OriginAnswer, Response};
use crate::policy::continuation;
use crate::policy::response::{Coding, Times};
use crate::rfc::range::ByteSpan;
use crate::store::{CHUNK_BYTES, Part};
use crate::sync::Mutex;
use http::{StatusCode, header};
use std::ops::Range;
use std::sync::Arc;

/// A flight that is to land: dropped, it lands as lost where nothing was said.
#[derive(Debug)]
pub(super) struct Learning {
    pub(super) flight: Arc<PartFlight>,
}

impl Drop for Learning {
    fn drop(&mut self) {
        self.flight.land(PartLanded::Failed(Arc::new(FillError::Lost)));
    }
}

/// What came with a head.
struct Head {
    admitted: Admitted,
    length: u64,
    expected: Expected,
    begun: Option<(Response, Range<u64>)>,
}

impl Learning {
    pub(super) fn new(flight: Arc<PartFlight>) -> Self {
        Self { flight }
    }

    /// Makes the flight land. `stretch` is what is wanted, where that is known.
    pub(super) async fn run(self, stretch: Option<ByteSpan>) {
        let cache = &self.flight.shared.cache;
        let key = self.flight.subject.key();
        if let Some(Hit::Memory(_) | Hit::Disk(_)) = cache.lookup(key).await {
            return self.flight.land(PartLanded::Stored);
        }
        let is_page = matches!(self.flight.subject, Subject::Page(_));
        if is_page && cache.has_variants(key).await {
            return self.flight.land(PartLanded::Unknown);
        }
        if let Some(object) = self.on_disk().await {
            self.flight.land(PartLanded::Known(Arc::clone(&object)));
            return complete::see_to(&self.flight, &object).await;
        }
        if is_page && (stretch.is_none() || !cache.takes_parts()) {
            return self.flight.land(PartLanded::Unknown);
        }
        let (demand, readers) = (self.flight.subject.demand(), &self.flight.cursors.readers);
        let Some(place) = self.flight.shared.room.admit(&demand, readers) else {
            return self.flight.land(PartLanded::NotJoined(NotJoined::NoRoom));
        };
        let asking = Box::pin(self.ask(stretch));
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
            self.flight.land(PartLanded::Failed(Arc::new(error)));
        }
    }

    /// Asks an origin, and keeps what it brings.
    async fn ask(&self, stretch: Option<ByteSpan>) -> Result<(), FillError> {
        match (&self.flight.subject, stretch) {
            (Subject::Object(wanted), Some(stretch)) => self.by_get(wanted, stretch).await,
            (Subject::Object(wanted), None) => self.by_head(wanted).await,
            (Subject::Page(sought), Some(stretch)) => self.by_page(sought, stretch).await,
            (Subject::Page(_), None) => Err(FillError::Lost),
        }
    }

    /// The part that is kept, unless what is known of the object speaks against it: then the part
    /// is dropped, if all is known.
    async fn on_disk(&self) -> Option<Arc<Object>> {
        let part = self.flight.shared.cache.part(self.flight.subject.key()).await?;
        let meta = part.meta();
        let expected = self.expected(coding_of(&meta)).await;
        let identity = Identity::new(&meta, part.length(), checked(&expected));
        if !identity.ties_parts() || expected.check_length(part.length()).is_err() {
            // A claim that a disk does not tell may be the one that ties it.
            if !expected.is_unsure {
                self.flight.shared.cache.drop_part(&part).await;
            }
            return None;
        }
        Some(Arc::new(Object::new(Arc::new(identity), Kind::Kept(part), Told::ByDisk)))
    }

    async fn expected(&self, coding: Coding) -> Expected {
        self.flight.subject.expected(&self.flight.shared.cache, coding).await
    }

    async fn by_get(&self, wanted: &Wanted, stretch: ByteSpan) -> Result<(), FillError> {
        let end = stretch.last.saturating_add(1);
        let is_kept = self.flight.shared.cache.takes_parts();
        let asked = if is_kept { in_chunks(stretch) } else { stretch.first..end };
        let cache = &self.flight.shared.cache;
        let ask = sourced(cache, wanted, question(wanted, &asked, None)).await;
        let asking = wanted.upstream.origins.fetch(&ask);
        match self.flight.cursors.readers.while_open(asking).await?? {
            OriginAnswer::Found(response) if response.status == StatusCode::PARTIAL_CONTENT => {
                self.found_part(wanted, response, asked).await
            }
            OriginAnswer::Found(response) => {
                self.whole(wanted, Some(response));
                Ok(())
            }
            OriginAnswer::Absent { headers, origin, request_time, response_time } => {
                let times = Times { request: request_time, response: response_time };
                let (meta, keep) = wanted.absence(&headers, origin, times);
                let absent = self.flight.shared.absent(self.flight.ticket, meta, keep).await;
                self.flight.land(PartLanded::Absent(absent));
                Ok(())
            }
            // It ends before the stretch begins: its length tells.
            OriginAnswer::Changed => self.by_head(wanted).await,
            OriginAnswer::NotModified { origin, .. } => Err(self.unasked(origin, "304")),
        }
    }

    async fn found_part(
        &self,
        wanted: &Wanted,
        mut response: Response,
        asked: Range<u64>,
    ) -> Result<(), FillError> {
        let Some((span, Some(length))) = continuation::part(&response.headers) else {
            self.whole(wanted, None);
            return Ok(());
        };
        if span.first == 0 && span.last.checked_add(1) == Some(length) {
            response.status = StatusCode::OK;
            response.headers.remove(header::CONTENT_RANGE);
            self.whole(wanted, Some(response));
            return Ok(());
        }
        let admitted = wanted.admit_part(&response, length)?;
        let expected = self.expected(admitted.coding).await;
        let begun = Some((response, asked.start..asked.end.min(length)));
        self.known(Head { admitted, length, expected, begun }).await
    }

    async fn by_head(&self, wanted: &Wanted) -> Result<(), FillError> {
        let fills = Fills { shared: Arc::clone(&self.flight.shared) };
        let asked = match fills.head_alone(wanted.clone(), None) {
            Ok((_, asked)) => asked,
            Err(refused) => {
                self.flight.land(PartLanded::NotJoined(refused));
                return Ok(());
            }
        };
        match self.flight.cursors.readers.while_open(asked.landed()).await? {
            Landed::Head { admitted, length } => {
                let Some(length) = length.filter(|length| *length > CHUNK_BYTES) else {
                    self.whole(wanted, None);
                    return Ok(());
                };
                let expected = self.expected(admitted.coding).await;
                let admitted = Admitted::clone(&admitted);
                self.known(Head { admitted, length, expected, begun: None }).await
            }
            Landed::Absent(meta) => {
                self.flight.land(PartLanded::Absent(meta));
                Ok(())
            }
            Landed::Failed(error) => {
                self.flight.land(PartLanded::Failed(error));
                Ok(())
            }
            Landed::Streaming { .. } | Landed::Whole { .. } | Landed::Passing => {
                Err(FillError::Lost)
            }
        }
    }

    /// The head is known: from now on readers go by it.
    async fn known(&self, head: Head) -> Result<(), FillError> {
        let Head { admitted, length, expected, begun } = head;
        let flight = &self.flight;
        if let Err(rejection) = expected.check_length(length) {
            let origin = Arc::clone(&admitted.meta.origin);
            let labels = &[&*origin, rejection.reason()];
            flight.shared.metrics.rejected_bodies.with_label_values(labels).inc();
            return Err(FillError::Rejected { origin, rejection });
        }
        let Admitted { meta, keep, upstream_status, .. } = admitted;
        let identity = Arc::new(Identity::new(&meta, length, checked(&expected)));
        // What was asked for while the disk took nothing may begin within a chunk.
        let is_aligned =
            begun.as_ref().is_none_or(|(_, asked)| asked.start.is_multiple_of(CHUNK_BYTES));
        let is_kept = keep == Keep::IfVerified && expected.is_provable(Some(length));
        let part = if is_kept && identity.ties_parts() && is_aligned {
            flight.shared.cache.begin_part(meta.clone(), length).await
        } else {
            None
        };
        let begun = begun.map(|(response, asked)| Stretch::of(flight, &identity, response, asked));
        let told = Told::ByOrigin { upstream_status };
        let object = |kind| Arc::new(Object::new(Arc::clone(&identity), kind, told));
        if let Some(part) = part {
            self.kept(object(Kind::Kept(part.clone())), &part, begun).await;
        } else {
            let begun = Mutex::new(begun.map(Box::new));
            let kind = Kind::Passing { meta: Arc::new(meta), begun };
            flight.land(PartLanded::Known(object(kind)));
        }
        Ok(())
    }

    pub(super) async fn kept(&self, object: Arc<Object>, part: &Part, begun: Option<Stretch>) {
        let flight = &self.flight;
        let run = begun.as_ref().and_then(|begun| part.claim(begun.next(), begun.end()));
        flight.land(PartLanded::Known(Arc::clone(&object)));
        let (Some(stretch), Some(run)) = (begun, run) else { return };
        if object.bring(flight, run, Ok(stretch), Purpose::Readers).await.is_ok() {
            complete::see_to(flight, &object).await;
        }
    }

    /// Fetches the whole after all, with the answer to GET that is here already, if there is one.
    fn whole(&self, wanted: &Wanted, given: Option<Response>) {
        let fills = Fills { shared: Arc::clone(&self.flight.shared) };
        let before = match given {
            Some(given) => Before::Given(Box::new(given), self.flight.ticket),
            None => Before::Stale(None),
        };
        let landed = match fills.join_with(wanted.clone(), None, before) {
            Ok((role, flight)) => PartLanded::Whole(role, flight),
            Err(refused @ (NotJoined::NoRoom | NotJoined::Wrong { .. })) => {
                PartLanded::NotJoined(refused)
            }
            Err(NotJoined::Ended) => PartLanded::Stored,
        };
        self.flight.land(landed);
    }

    fn unasked(&self, origin: usize, what: &str) -> FillError {
        let origin = self.flight.subject.upstream().origins.name(origin);
        let detail = format!("{what} without conditions");
        FillError::Fetch(FetchError::Protocol { origin, detail })
    }
}

/// The chunks that a stretch lies in.
pub(super) fn in_chunks(stretch: ByteSpan) -> Range<u64> {
    let first = stretch.first - stretch.first % CHUNK_BYTES;
    let end = stretch.last.saturating_add(1);
    first..end.checked_next_multiple_of(CHUNK_BYTES).unwrap_or(u64::MAX)
}

/// What will be checked at the end.
fn checked(expected: &Expected) -> Checked {
    if expected.file_hash.is_some() { Checked::ByHash } else { Checked::ByLength }
}

/// Whether the bytes of an object with this head are the file itself.
pub(super) fn coding_of(meta: &Meta) -> Coding {
    if meta.headers.contains_key(header::CONTENT_ENCODING) {
        Coding::Encoded
    } else {
        Coding::Identity
    }
}
