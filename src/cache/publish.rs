//! How an object becomes visible: in two steps, as the module above says. What touches a disk runs
//! on that disk's threads; the caller gives it up after a while. Called by `fill`.
//!
//! A publication that its caller gave up never becomes visible: the two agree by [`Handover`], and
//! the thread that comes too late removes what it has written. One that is visible is told of at
//! once; what is older goes from its disk afterwards.

use super::fence::FenceEpoch;
use super::found::{CachedObject, ClaimOf, hot_of};
use super::tiers::Cache;
use super::variants::Visibility;
use crate::memory::{Hot, NewObject};
use crate::nix::Class;
use crate::object::{Key, Meta, Sha256};
use crate::store::{
    ChangePermit, ConfirmedBody, ObjectWriter, ProvenObject, Published, Stored, StoredBody,
    Withhold, WriteError,
};
use crate::tasks::{BlockingError, Tasks};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long the readers of a small object wait for the disk to take it.
const SMALL_PATIENCE: Duration = Duration::from_secs(4);
/// The same for a large object; its readers have it already.
const LARGE_PATIENCE: Duration = Duration::from_secs(10);

/// Why an object was not kept.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It was purged while it was fetched.
    #[error("purged while it was fetched")]
    Purged,
    /// A later response was published while it was fetched, or its part is kept no more.
    #[error("replaced while it was fetched")]
    Superseded,
    /// The disk refused.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The writing thread did not finish.
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

/// Says which of the two decides: the thread that publishes, or its caller that gives up.
#[derive(Debug, Clone, Default)]
struct Handover(Arc<AtomicBool>);

impl Handover {
    /// Takes the turn; false if the other has it.
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    fn is_taken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What is to be published.
#[derive(Debug, Clone)]
pub(super) struct Publication {
    pub(super) ticket: FenceEpoch,
    pub(super) meta: Meta,
    /// The head that a part of it had, which a purge may cover as well.
    pub(super) before: Option<Arc<Meta>>,
    pub(super) claim: Option<ClaimOf>,
}

impl Publication {
    /// The heads that no purge may have covered.
    fn heads(&self) -> Vec<&Meta> {
        std::iter::once(&self.meta).chain(self.before.as_deref()).collect()
    }
}

/// Puts an object on its disk, if what it is given says yes under the lock of the object's key;
/// none if not, or if what is there stays. Blocking.
pub(super) type PutOnDisk =
    Box<dyn FnOnce(&dyn Fn() -> bool) -> Result<Option<Stored>, WriteError> + Send>;

/// What is left to be done on a disk once a publication was decided.
enum DiskWork {
    Nothing,
    /// What is older goes.
    Older(Published),
    /// The object itself goes again.
    Itself(Stored),
}

impl Cache {
    /// Begins to write an object to disk; `None` if there is no disk or it does not take writes.
    pub async fn begin(
        &self,
        key: &Key,
        length: Option<u64>,
        withhold: Withhold,
    ) -> Option<ObjectWriter> {
        match self.store.as_ref()?.begin(key, length, withhold).await {
            Ok(writer) => Some(writer),
            Err(error) => {
                tracing::debug!(path = key.path(), %error, "not stored");
                None
            }
        }
    }

    /// Publishes a proven object, which makes no claim.
    pub async fn publish(
        &self,
        ticket: FenceEpoch,
        proven: ProvenObject,
        meta: Meta,
    ) -> Result<CachedObject, PublishError> {
        let publication = Publication { ticket, meta, before: None, claim: None };
        self.publish_proven(LARGE_PATIENCE, publication, proven).await
    }

    /// Publishes a verified small object: on disk if one takes it, and in memory.
    pub async fn publish_small(
        &self,
        ticket: FenceEpoch,
        meta: Meta,
        body: Bytes,
        claim: Option<ClaimOf>,
    ) -> Result<CachedObject, PublishError> {
        let publication = Publication { ticket, meta, before: None, claim };
        let meta = &publication.meta;
        if let Some(store) = &self.store {
            let published = async {
                let proven = store.begin_whole(&meta.key, body.clone()).await?;
                self.publish_proven(SMALL_PATIENCE, publication.clone(), proven).await
            };
            match published.await {
                Err(PublishError::Write(error)) => {
                    tracing::debug!(path = meta.key.path(), %error, "kept in memory only");
                }
                ended => return ended,
            }
        }
        let order = self.take_order();
        let hot = Arc::new(Hot::published(meta, &body, order));
        let (key, may_vary) = (meta.key.clone(), may_vary(meta));
        let published = Published { key, disk: None, order, may_vary };
        self.show(&publication, Some(&hot), &published)?;
        if let Some(store) = self.store.as_ref().filter(|_| may_vary) {
            store.supersede(&published).await;
        }
        Ok(CachedObject::Hot(hot))
    }

    async fn publish_proven(
        &self,
        patience: Duration,
        publication: Publication,
        proven: ProvenObject,
    ) -> Result<CachedObject, PublishError> {
        let tasks = proven.tasks().clone();
        let Publication { ticket, meta, claim, .. } = publication.clone();
        let place: PutOnDisk = Box::new(move |permit| {
            proven.seal()?.commit_if(meta, claim, ticket.publications, permit)
        });
        self.publish_on(&tasks, patience, Box::new(publication), place).await
    }

    /// Publishes a large object that `place` puts on a disk. `tasks` are the threads of that disk.
    pub(super) async fn publish_large(
        &self,
        tasks: &Tasks,
        publication: Publication,
        place: PutOnDisk,
    ) -> Result<CachedObject, PublishError> {
        self.publish_on(tasks, LARGE_PATIENCE, Box::new(publication), place).await
    }

    /// Publishes on the threads of a disk, and gives up if that takes longer than it may.
    async fn publish_on(
        &self,
        tasks: &Tasks,
        patience: Duration,
        publication: Box<Publication>,
        place: PutOnDisk,
    ) -> Result<CachedObject, PublishError> {
        let (tell, told) = oneshot::channel();
        let (cache, turn) = (self.clone(), Handover::default());
        let own = turn.clone();
        let work = move || {
            let (placed, left) = cache.place(&publication, &own, place);
            // The receiver is there, or has given up.
            let _ = tell.send(placed);
            cache.finish(left);
        };
        let placed = match tasks.blocking_for("commit", patience, work).await {
            Err(error @ BlockingError::Late { .. }) if turn.take() => {
                return Err(WriteError::from(error).into());
            }
            // If it is late and yet has the turn, it is told before the disk is touched again.
            Ok(()) | Err(BlockingError::Late { .. }) => {
                told.await.map_err(|_| WriteError::Interrupted)?
            }
            Err(error @ BlockingError::Failed { .. }) => told.await.map_err(|_| error)?,
        };
        let (found, published) = placed?;
        if let Some(store) = &self.store {
            store.supersede(&published).await;
        }
        Ok(found)
    }

    /// Writes an object and makes it visible. Blocking; on the threads of its disk.
    fn place(
        &self,
        publication: &Publication,
        turn: &Handover,
        place: PutOnDisk,
    ) -> (Result<(CachedObject, Published), PublishError>, DiskWork) {
        let allows = || self.fence.allows(publication.ticket, &publication.heads());
        let stored = match place(&|| !turn.is_taken() && allows()) {
            Ok(Some(stored)) => stored,
            Ok(None) if allows() => return (Err(PublishError::Superseded), DiskWork::Nothing),
            Ok(None) => return (Err(PublishError::Purged), DiskWork::Nothing),
            Err(error) => return (Err(error.into()), DiskWork::Nothing),
        };
        if !turn.take() {
            return (Err(WriteError::Interrupted.into()), DiskWork::Itself(stored));
        }
        let (found, hot) = match &stored.body {
            StoredBody::Bytes(body) => {
                let hot = Arc::new(hot_of(&stored, body));
                (CachedObject::Hot(Arc::clone(&hot)), Some(hot))
            }
            StoredBody::File(_) => (CachedObject::Stored(stored.clone()), None),
        };
        let published = Published {
            key: stored.meta.key.clone(),
            disk: Some(stored.insertion.disk),
            order: stored.insertion.sequence,
            may_vary: may_vary(&stored.meta),
        };
        match self.show(publication, hot.as_ref(), &published) {
            Ok(()) => (Ok((found, published.clone())), DiskWork::Older(published)),
            Err(error @ PublishError::Superseded) => (Err(error), DiskWork::Itself(stored)),
            // The purge finds it on the disk.
            Err(error) => (Err(error), DiskWork::Nothing),
        }
    }

    /// Drops what is left to be dropped. Blocking; on the threads of its disk.
    fn finish(&self, left: DiskWork) {
        let Some(store) = &self.store else { return };
        match left {
            DiskWork::Nothing => {}
            DiskWork::Older(published) => store.supersede_here(&published),
            DiskWork::Itself(stored) => store.drop_insertion(&stored.meta.key, stored.insertion),
        }
    }

    /// Makes a publication visible in memory, if the fence allows it and nothing newer is there. No
    /// I/O.
    fn show(
        &self,
        publication: &Publication,
        hot: Option<&Arc<Hot>>,
        published: &Published,
    ) -> Result<(), PublishError> {
        let Publication { ticket, meta, claim, .. } = publication;
        let (key, order) = (&published.key, published.order);
        let (since, response_time) = (ticket.publications, meta.response_time);
        let coming = NewObject { hot, order, response_time, since };
        let show = || {
            // The claim first: a reader that finds the narinfo must find its claim.
            let claim = claim.clone().map(|claim| self.put_claim(published, claim));
            let put = |others: &[Key]| {
                let is_shown = self.memory.publish(key, &coming);
                if is_shown {
                    let superseding = NewObject { hot: None, since: u64::MAX, ..coming };
                    for other in others {
                        self.memory.publish(other, &superseding);
                    }
                }
                is_shown
            };
            let shown = if published.may_vary {
                self.variants.publish(published, meta, put)
            } else if put(&[]) {
                Visibility::Yes
            } else {
                Visibility::Superseded
            };
            if shown == Visibility::Superseded
                && let Some(claim) = &claim
            {
                self.memory.forget_claim(&claim.nar, &claim.held);
            }
            (shown, claim.filter(|claim| claim.is_news))
        };
        let shown = self.fence.leave(*ticket, &publication.heads(), show);
        match shown.ok_or(PublishError::Purged)? {
            (Visibility::Superseded, _) => return Err(PublishError::Superseded),
            // What was found of it by the claim before says nothing any more.
            (Visibility::Yes, Some(claim)) => self.fence.raise_uploads(&[claim.nar]),
            (Visibility::Yes, None) => {}
        }
        Ok(())
    }

    /// Remembers that there is no such object, and drops what was stored of it before the fetch
    /// that says so began. What was published since stays.
    pub async fn publish_absent(
        &self,
        ticket: FenceEpoch,
        meta: Arc<Meta>,
    ) -> Result<(), PublishError> {
        let absence = Arc::new(Hot::published(&meta, b"", ticket.publications));
        let publish = || self.memory.put_absent(&meta.key, &absence);
        self.fence.leave_absent(ticket, &meta, publish).ok_or(PublishError::Purged)?;
        if let Some(store) = &self.store
            && !store.lack(&meta.key)
        {
            store.remove(&meta.key, ticket.publications).await;
        }
        Ok(())
    }

    /// Gives an object the head that a 304 confirmed, in memory and on disk, as far as it is there
    /// still.
    pub async fn touch(&self, ticket: FenceEpoch, found: CachedObject, meta: Meta) -> CachedObject {
        let (meta, before) = (Arc::new(meta), found.meta());
        let confirmed = found.with_meta(Arc::clone(&meta));
        let seen = self.memory.seen(&meta.key);
        let is_stored = match &self.store {
            Some(store) => {
                let sha256 = match &found {
                    CachedObject::Hot(hot) => Sha256::of(hot.body_bytes()),
                    CachedObject::Stored(stored) => stored.sha256,
                };
                let confirmed = ConfirmedBody { sha256, response_time: before.response_time };
                let permit = self.permit(ticket, [Arc::clone(&meta), Arc::clone(&before)]);
                store.touch_meta(&meta, confirmed, &permit).await
            }
            None => false,
        };
        if let CachedObject::Hot(hot) = &confirmed {
            let renew = || self.memory.renew(&meta.key, hot, is_stored.then_some(seen));
            self.fence.leave(ticket, &[&meta, &before], renew);
        }
        confirmed
    }

    /// Says whether the fence still allows these heads.
    pub(super) fn permit<const N: usize>(
        &self,
        ticket: FenceEpoch,
        heads: [Arc<Meta>; N],
    ) -> ChangePermit {
        let fence = Arc::clone(&self.fence);
        Arc::new(move || fence.allows(ticket, &heads.each_ref().map(|head| &**head)))
    }
}

/// Whether responses for the same object may have been of another kind: a class of its own never
/// varies.
fn may_vary(meta: &Meta) -> bool {
    meta.class == Class::Other
}
