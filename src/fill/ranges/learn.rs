//! How the head of an object becomes known of which ranges are wanted: from a part on disk, or from
//! the first answer of an origin, whose body is the first run at once. One task for each flight, so
//! a client that leaves cancels nothing.

use super::complete;
use super::flight::{PartFlight, PartLanded};
use super::identity::Identity;
use super::object::{Kind, Object, Told};
use super::{learn_object, learn_page};
use crate::cache::Hit;
use crate::fill::error::{FillError, NotJoined};
use crate::fill::proof::coding_of;
use crate::fill::request::Subject;
use crate::fill::resumable_body::Checked;
use crate::rfc::range::ByteSpan;
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

impl Learning {
    pub(super) fn new(flight: Arc<PartFlight>) -> Self {
        Self { flight }
    }

    /// Makes the flight land. `stretch` is what is wanted, where that is known.
    pub(super) async fn run(self, stretch: Option<ByteSpan>) {
        let cache = &self.flight.resources().cache;
        let key = self.flight.subject.key();
        if let Some(Hit::Memory(_) | Hit::Disk(_)) = cache.lookup(key).await {
            return self.flight.land(PartLanded::Stored);
        }
        let is_page = matches!(self.flight.subject, Subject::Page(_));
        if is_page && cache.has_variants(key).await {
            return self.flight.land(PartLanded::Unknown);
        }
        if let Some(object) = on_disk(&self.flight).await {
            self.flight.land(PartLanded::Known(Arc::clone(&object)));
            return complete::see_to(&self.flight, &object).await;
        }
        if is_page && (stretch.is_none() || !cache.takes_parts()) {
            return self.flight.land(PartLanded::Unknown);
        }
        let (demand, readers) = (self.flight.subject.demand(), &self.flight.cursors.readers);
        let Some(place) = self.flight.resources().room.admit(&demand, readers) else {
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
            (Subject::Object(wanted), Some(stretch)) => {
                learn_object::by_get(&self.flight, wanted, stretch).await
            }
            (Subject::Object(wanted), None) => learn_object::by_head(&self.flight, wanted).await,
            (Subject::Page(sought), Some(stretch)) => {
                learn_page::by_page(&self.flight, sought, stretch).await
            }
            (Subject::Page(_), None) => Err(FillError::Lost),
        }
    }
}

/// The part that is kept, unless what is known of the object speaks against it: then the part
/// is dropped, if all is known.
async fn on_disk(flight: &PartFlight) -> Option<Arc<Object>> {
    let part = flight.resources().cache.part(flight.subject.key()).await?;
    let meta = part.meta();
    let expected = flight.subject.expected(&flight.resources().cache, coding_of(&meta)).await;
    let identity = Identity::new(&meta, part.length(), Checked::of(&expected));
    if !identity.ties_parts() || expected.check_length(part.length()).is_err() {
        // A claim that a disk does not tell may be the one that ties it.
        if !expected.is_unsure {
            flight.resources().cache.drop_part(&part).await;
        }
        return None;
    }
    Some(Arc::new(Object::new(Arc::new(identity), Kind::Kept(part), Told::ByDisk)))
}
