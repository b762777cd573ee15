//! How many requests an origin may have under way at once. One per origin, as long lived as it; no
//! lock across an await.
//!
//! - An eighth is kept from NARs, so that narinfos do not wait behind downloads.
//! - Half is kept from uploads, so that clients that send slowly hold up no reads. The other half
//!   is shared by the clients that upload (`uploads`).
//! - Requests for objects that wait are served in the order of their arrival.

use super::exchange::{FetchError, SlotLimit};
use super::upload_body::{ClientBody, UploadBody};
use super::uploads::{UploadPlace, UploadQueue};
use crate::client::UploadError;
use crate::nix::Class;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One part in so many is kept from NARs.
const KEPT_FROM_NARS: usize = 8;

/// What a request takes a slot for.
#[derive(Debug)]
pub(super) enum SlotLoad<'a> {
    /// An object of this class.
    Object(Class),
    /// A request with this body.
    Upload(&'a mut UploadBody),
}

/// The slots of one origin.
#[derive(Debug)]
pub(super) struct Slots {
    origin: Arc<str>,
    all: Arc<Semaphore>,
    nars: Arc<Semaphore>,
    uploads: Arc<UploadQueue>,
    /// Requests for objects that wait.
    waiting: AtomicUsize,
    /// How long a request waits.
    deadline: Duration,
}

/// A request that waits, until it is dropped.
struct WaitingCount<'a>(&'a AtomicUsize);

impl<'a> WaitingCount<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for WaitingCount<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place among the requests under way; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    _one: OwnedSemaphorePermit,
    share: Option<SharedSlot>,
}

/// A place in the part of the slots that requests of one kind share.
#[derive(Debug)]
enum SharedSlot {
    Nar { _permit: OwnedSemaphorePermit },
    Upload(UploadPlace),
}

impl Slot {
    /// The slot of a request after its answer has begun. An upload gives its place back if all of
    /// its body has come; if not, no other upload ends it.
    pub(super) fn answered(self) -> Self {
        let is_needed = |share: &SharedSlot| match share {
            SharedSlot::Nar { .. } => true,
            SharedSlot::Upload(place) => {
                place.spare();
                !place.is_ended()
            }
        };
        Self { share: self.share.filter(is_needed), ..self }
    }
}

impl Slots {
    /// Room for `max` requests, for which others wait up to `deadline`. A new upload may bring
    /// nothing for half of that, so that one that waits can still have its place.
    pub(super) fn new(origin: Arc<str>, max: usize, deadline: Duration) -> Self {
        let max = max.clamp(1, Semaphore::MAX_PERMITS);
        let nars = max - max / KEPT_FROM_NARS;
        let uploads = UploadQueue::new(max.div_ceil(2), deadline / 2);
        let [all, nars] = [max, nars].map(|max| Arc::new(Semaphore::new(max)));
        Self { origin, all, nars, uploads, waiting: AtomicUsize::new(0), deadline }
    }

    /// An upload that has arrived.
    pub(super) fn upload(&self, body: ClientBody) -> Box<UploadBody> {
        Box::new(self.uploads.arrived(body.client, body.content))
    }

    /// A slot, as soon as there is one.
    pub(super) async fn wait(&self, mut load: SlotLoad<'_>) -> Result<Slot, FetchError> {
        let is_object = matches!(load, SlotLoad::Object(_));
        let _waiting = is_object.then(|| WaitingCount::begin(&self.waiting));
        if let Ok(Some(slot)) = tokio::time::timeout(self.deadline, self.next(&mut load)).await {
            return Ok(slot);
        }
        let origin = Arc::clone(&self.origin);
        let limit = match load {
            SlotLoad::Upload(body) if body.is_broken() => {
                return Err(FetchError::Upload { origin, source: UploadError::Broken });
            }
            SlotLoad::Upload(body) if self.uploads.has_full_share(body.client()) => {
                SlotLimit::Share
            }
            SlotLoad::Upload(_) | SlotLoad::Object(_) => SlotLimit::Requests,
        };
        Err(FetchError::Busy { origin, limit })
    }

    /// A slot for an object of this class, if there is one now.
    pub(super) fn now(&self, class: Class) -> Option<Slot> {
        let share = self.share(class).map(Arc::clone);
        let share = share.map(Semaphore::try_acquire_owned).transpose().ok()?;
        let share = share.map(|permit| SharedSlot::Nar { _permit: permit });
        Some(Slot { _one: Arc::clone(&self.all).try_acquire_owned().ok()?, share })
    }

    /// Requests for objects that wait, if one of this class would have to.
    pub(super) fn waiting(&self, class: Class) -> usize {
        let share = self.share(class);
        let is_full =
            [Some(&self.all), share].iter().flatten().any(|slots| slots.available_permits() == 0);
        if is_full { self.waiting.load(Ordering::Relaxed) } else { 0 }
    }

    async fn next(&self, load: &mut SlotLoad<'_>) -> Option<Slot> {
        let share = match load {
            SlotLoad::Upload(body) => {
                Some(SharedSlot::Upload(Box::pin(self.uploads.place(body)).await?))
            }
            SlotLoad::Object(class) => match self.share(*class) {
                Some(share) => {
                    let permit = Arc::clone(share).acquire_owned().await.ok()?;
                    Some(SharedSlot::Nar { _permit: permit })
                }
                None => None,
            },
        };
        Some(Slot { _one: Arc::clone(&self.all).acquire_owned().await.ok()?, share })
    }

    /// The part of the slots that objects of this class share.
    fn share(&self, class: Class) -> Option<&Arc<Semaphore>> {
        (class == Class::Nar).then_some(&self.nars)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::OutboundBody;
    use crate::origin::asker::Asker;
    use http_body_util::StreamBody;

    /// A slot for an upload of this client of which nothing has come.
    async fn upload(slots: &Slots, client: Asker) -> Result<Slot, FetchError> {
        let content = OutboundBody::new(StreamBody::new(futures_util::stream::pending()));
        slots.wait(SlotLoad::Upload(&mut slots.upload(ClientBody { client, content }))).await
    }

    /// FAULTS.md G9.
    #[tokio::test(start_paused = true)]
    async fn nars_leave_an_eighth_to_others() {
        let slots = Slots::new("one".into(), 16, Duration::from_secs(5));
        let nars: Vec<_> = std::iter::from_fn(|| slots.now(Class::Nar)).collect();
        assert_eq!(nars.len(), 14);
        assert!(matches!(
            slots.wait(SlotLoad::Object(Class::Nar)).await,
            Err(FetchError::Busy { .. })
        ));
        let small: Vec<_> = std::iter::from_fn(|| slots.now(Class::Narinfo)).collect();
        assert_eq!(small.len(), 2);
        drop(nars);
        assert!(slots.wait(SlotLoad::Object(Class::Nar)).await.is_ok());
        let upload = |last| upload(&slots, Asker::at([192, 0, 2, last].into()));
        let uploads: Vec<_> = futures_util::future::join_all((0..8).map(upload)).await;
        assert!(uploads.iter().all(Result::is_ok));
        assert!(matches!(upload(8).await, Err(FetchError::Busy { .. })));
        assert!(slots.now(Class::Other).is_some());
        let few = Slots::new("one".into(), 1, Duration::from_secs(5));
        assert!(few.wait(SlotLoad::Object(Class::Nar)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_is_told_what_is_used_up() {
        let slots = Slots::new("one".into(), 16, Duration::from_secs(5));
        let upload = |last| upload(&slots, Asker::at([192, 0, 2, last].into()));
        let mut held: Vec<_> = futures_util::future::join_all([1; 7].map(upload)).await;
        let seventh = held.pop().unwrap();
        assert!(
            matches!(seventh, Err(FetchError::Busy { limit: SlotLimit::Share, .. })),
            "{seventh:?}"
        );
        assert!(held.iter().all(Result::is_ok));
        let others = [upload(2).await, upload(3).await];
        assert!(others.iter().all(Result::is_ok));
        let more = upload(4).await;
        assert!(
            matches!(more, Err(FetchError::Busy { limit: SlotLimit::Requests, .. })),
            "{more:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn requests_for_objects_are_counted_while_they_wait() {
        let slots = Slots::new("one".into(), 1, Duration::from_secs(5));
        let taken = slots.wait(SlotLoad::Object(Class::Nar)).await.unwrap();
        assert_eq!(slots.waiting(Class::Narinfo), 0, "nothing waits");
        let mut uploading = Box::pin(upload(&slots, Asker::default()));
        let mut asking = Box::pin(slots.wait(SlotLoad::Object(Class::Narinfo)));
        assert!(futures_util::poll!(&mut uploading).is_pending());
        assert_eq!(slots.waiting(Class::Narinfo), 0, "no object");
        assert!(futures_util::poll!(&mut asking).is_pending());
        assert_eq!((slots.waiting(Class::Narinfo), slots.waiting(Class::Nar)), (1, 1));
        drop(uploading);
        drop(taken);
        assert_eq!(slots.waiting(Class::Narinfo), 1, "the slot is promised to it");
        let slot = asking.await.unwrap();
        assert_eq!(slots.waiting(Class::Narinfo), 0);
        drop(slot);
        let asking = slots.wait(SlotLoad::Object(Class::Narinfo)).await;
        assert_eq!((asking.is_ok(), slots.waiting(Class::Nar)), (true, 0));
    }
}
