//! How the head of an object becomes known of which ranges are wanted: from a part on disk, or from
//! the first answer of an origin; its body is the first run. One task for each flight, so a client
//! that leaves cancels nothing.

use super::complete;
use super::flight::{PartFlight, PartOutcome};
use super::identity::PartIdentity;
use super::object::{HeadSource, PartDelivery, PartObject};
use super::{learn_object, learn_page};
use crate::cache::Hit;
use crate::fill::error::{FillError, JoinError};
use crate::fill::proof::coding_of;
use crate::fill::request::FillRequest;
use crate::fill::resumable_body::BodyCheck;
use crate::rfc::range::ByteSpan;
use std::sync::Arc;

/// A flight that is to land: dropped, it lands as failed if nothing was told.
#[derive(Debug)]
pub(super) struct HeadLearner {
    pub(super) flight: Arc<PartFlight>,
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
        let cache = &self.flight.resources().cache;
        let key = self.flight.request.key();
        if let Some(Hit::Memory(_) | Hit::Disk(_)) = cache.lookup(key).await {
            return self.flight.announce(PartOutcome::Stored);
        }
        let is_page = matches!(self.flight.request, FillRequest::Page(_));
        if is_page && cache.has_variants(key).await {
            return self.flight.announce(PartOutcome::Unknown);
        }
        if let Some(object) = on_disk(&self.flight).await {
            self.flight.announce(PartOutcome::Known(Arc::clone(&object)));
            return complete::see_to(&self.flight, &object).await;
        }
        if is_page && (stretch.is_none() || !cache.takes_parts()) {
            return self.flight.announce(PartOutcome::Unknown);
        }
        let (demand, readers) = (self.flight.request.demand(), &self.flight.cursors.readers);
        let Some(place) = self.flight.resources().places.admit(&demand, readers) else {
            return self.flight.announce(PartOutcome::NotJoined(JoinError::NoRoom));
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
            self.flight.announce(PartOutcome::Failed(Arc::new(error)));
        }
    }

    /// Asks an origin, and keeps what it brings.
    async fn ask(&self, stretch: Option<ByteSpan>) -> Result<(), FillError> {
        match (&self.flight.request, stretch) {
            (FillRequest::Object(request), Some(stretch)) => {
                learn_object::by_get(&self.flight, request, stretch).await
            }
            (FillRequest::Object(request), None) => {
                learn_object::by_head(&self.flight, request).await
            }
            (FillRequest::Page(request), Some(stretch)) => {
                learn_page::by_page(&self.flight, request, stretch).await
            }
            (FillRequest::Page(_), None) => Err(FillError::NoResult),
        }
    }
}

/// The part that is kept, unless what is known of the object speaks against it: then the part
/// is dropped, if all is known.
async fn on_disk(flight: &PartFlight) -> Option<Arc<PartObject>> {
    let part = flight.resources().cache.part(flight.request.key()).await?;
    let meta = part.meta();
    let expected = flight.request.expected(&flight.resources().cache, coding_of(&meta)).await;
    let identity = PartIdentity::new(&meta, part.length(), BodyCheck::of(&expected));
    if !identity.ties_parts() || expected.check_length(part.length()).is_err() {
        // A claim that a disk does not tell may be the one that ties it.
        if !expected.is_unsure {
            flight.resources().cache.drop_part(&part).await;
        }
        return None;
    }
    Some(Arc::new(PartObject::new(
        Arc::new(identity),
        PartDelivery::Kept(part),
        HeadSource::ByDisk,
    )))
}
