//! How an object becomes visible: in two steps, as the module above says. What touches a disk runs
//! on that disk's threads; the caller gives it up after a while. Called by `fill`.
//!
//! A publication that its caller gave up never becomes visible: the two agree by [`Turn`], and the
//! thread that comes too late removes what it has written.

use super::variants::Shown;
use super::{Cache, ClaimOf, Found, Ticket, hot_of, may_vary};
use crate::memory::Hot;
use crate::object::{Key, Meta, Sha256};
use crate::store::{
    Disks, ObjectWriter, Permit, ProvenObject, Published, Stored, StoredBody, Withhold, WriteError,
};
use crate::tasks::BlockingError;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;

/// How long whoever waits for a small object waits for the disk to take it.
const SMALL_PATIENCE: Duration = Duration::from_secs(4);
/// The same for a large one, whose readers have it already.
const LARGE_PATIENCE: Duration = Duration::from_secs(10);

/// Why an object was not kept.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// It was purged while it was fetched.
    #[error("purged while it was fetched")]
    Purged,
    /// The disk refused.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// The writing thread did not finish.
    #[error(transparent)]
    Blocking(#[from] BlockingError),
}

/// Says which of the two decides: the thread that publishes, or its caller that gives up.
#[derive(Debug, Clone, Default)]
struct Turn(Arc<AtomicBool>);

impl Turn {
    /// Takes the turn; false if the other has it.
    fn take(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    fn is_taken(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// A body that has ended, and what it is to be published as.
struct Publication {
    ticket: Ticket,
    proven: ProvenObject,
    meta: Meta,
    claim: Option<ClaimOf>,
    turn: Turn,
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

    /// Publishes a proven object: written out, named and shown in one turn of a blocking thread.
    pub async fn publish(
        &self,
        ticket: Ticket,
        proven: ProvenObject,
        meta: Meta,
        claim: Option<ClaimOf>,
    ) -> Result<Found, PublishError> {
        self.publish_within(LARGE_PATIENCE, (ticket, proven), (meta, claim)).await
    }

    /// Publishes a verified small object: on disk where there is one that takes it, and in memory.
    pub async fn publish_small(
        &self,
        ticket: Ticket,
        meta: Meta,
        body: Bytes,
        claim: Option<ClaimOf>,
    ) -> Result<Found, PublishError> {
        if let Some(store) = &self.store {
            let published = async {
                let proven = store.begin_whole(&meta.key, body.clone()).await?;
                let published_as = (meta.clone(), claim.clone());
                self.publish_within(SMALL_PATIENCE, (ticket, proven), published_as).await
            };
            match published.await {
                Err(PublishError::Write(error)) => {
                    tracing::debug!(path = meta.key.path(), %error, "kept in memory only");
                }
                ended => return ended,
            }
        }
        let hot = Arc::new(Hot::new(&meta, &body));
        let order = self.store.as_ref().map_or(0, Disks::take_insertion);
        let published =
            Published { key: meta.key.clone(), disk: None, order, may_vary: may_vary(&meta) };
        self.show(ticket, &[&meta], (Some(&hot), claim), &published)?;
        if let Some(store) = self.store.as_ref().filter(|_| published.may_vary) {
            store.supersede(&published).await;
        }
        Ok(Found::Hot(hot))
    }

    /// Publishes on the threads of a disk, and gives up if that takes longer than it may.
    async fn publish_within(
        &self,
        patience: Duration,
        (ticket, proven): (Ticket, ProvenObject),
        (meta, claim): (Meta, Option<ClaimOf>),
    ) -> Result<Found, PublishError> {
        let tasks = proven.tasks().clone();
        let turn = Turn::default();
        let publication = Box::new(Publication { ticket, proven, meta, claim, turn });
        let (tell, told) = oneshot::channel();
        let (cache, turn) = (self.clone(), publication.turn.clone());
        let work = move || {
            // The receiver is there, or has given up.
            let _ = tell.send(cache.place(publication));
        };
        let placed = match tasks.blocking_for("commit", patience, work).await {
            Err(error @ BlockingError::Late { .. }) if turn.take() => {
                return Err(WriteError::from(error).into());
            }
            Err(error @ BlockingError::Failed { .. }) => return Err(error.into()),
            // It may be late and yet have the turn: then it waits for nothing any more.
            Ok(()) | Err(BlockingError::Late { .. }) => {
                told.await.map_err(|_| WriteError::Interrupted)?
            }
        };
        let (found, published) = placed?;
        if let Some(store) = &self.store {
            store.supersede(&published).await;
        }
        Ok(found)
    }

    /// Writes an object and makes it visible. Blocking; on the threads of its disk.
    fn place(&self, publication: Box<Publication>) -> Result<(Found, Published), PublishError> {
        let Publication { ticket, proven, meta, claim, turn } = *publication;
        let sealed = proven.seal()?;
        let head = meta.clone();
        let permit = || !turn.is_taken() && self.fence.allows(ticket, &[&head]);
        let stored = sealed.commit_if(meta, claim.clone(), &permit)?;
        let stored = stored.ok_or(PublishError::Purged)?;
        if !turn.take() {
            self.drop_again(&stored);
            return Err(WriteError::Interrupted.into());
        }
        let found = match &stored.body {
            StoredBody::Bytes(body) => Found::Hot(Arc::new(hot_of(&stored, body))),
            StoredBody::File(_) => Found::Stored(stored.clone()),
        };
        let hot = match &found {
            Found::Hot(hot) => Some(hot),
            Found::Stored(_) => None,
        };
        let published = self.show_stored((ticket, &[&stored.meta]), &stored, (hot, claim))?;
        Ok((found, published))
    }

    /// Makes visible what was placed on a disk, and drops from there what is older; drops it again
    /// if a newer response took its place meanwhile. What the fence refuses here, the purge finds
    /// on the disk. Blocking; on the threads of its disk.
    pub(super) fn show_stored(
        &self,
        (ticket, heads): (Ticket, &[&Meta]),
        stored: &Stored,
        hot_and_claim: (Option<&Arc<Hot>>, Option<ClaimOf>),
    ) -> Result<Published, PublishError> {
        let published = Published {
            key: stored.meta.key.clone(),
            disk: Some(stored.insertion.disk),
            order: stored.insertion.sequence,
            may_vary: may_vary(&stored.meta),
        };
        match self.show(ticket, heads, hot_and_claim, &published)? {
            Shown::Yes => {
                if let Some(store) = &self.store {
                    store.supersede_here(&published);
                }
            }
            Shown::Superseded => self.drop_again(stored),
        }
        Ok(published)
    }

    fn drop_again(&self, stored: &Stored) {
        if let Some(store) = &self.store {
            store.drop_insertion(&stored.meta.key, stored.insertion);
        }
    }

    /// Makes a publication visible in memory, if the fence allows it. No I/O.
    pub(super) fn show(
        &self,
        ticket: Ticket,
        heads: &[&Meta],
        (hot, claim): (Option<&Arc<Hot>>, Option<ClaimOf>),
        published: &Published,
    ) -> Result<Shown, PublishError> {
        let key = &published.key;
        let nar = claim.as_ref().map(|(nar, _)| nar.clone());
        let show = || {
            let is_renewed = claim.is_some_and(|claim| self.put_claim(key.hash(), claim));
            let put = || match hot {
                Some(hot) => self.memory.put(key, hot),
                None => self.memory.remove_one(key),
            };
            if !published.may_vary {
                put();
                return (Shown::Yes, is_renewed);
            }
            let shown = self.variants.publish(published, heads, |others| {
                put();
                for other in others {
                    self.memory.remove_one(other);
                }
            });
            (shown, is_renewed)
        };
        let shown = self.fence.leave(ticket, heads, show);
        let (shown, is_renewed) = shown.ok_or(PublishError::Purged)?;
        if let Some(nar) = nar.filter(|_| is_renewed) {
            // What was found of it by the claim before says nothing any more.
            self.fence.raise_uploads(&[nar]);
        }
        Ok(shown)
    }

    /// Remembers that there is no such object, and drops what was stored of it before the fetch
    /// that says so began. What was stored since stays.
    pub async fn publish_absent(
        &self,
        ticket: Ticket,
        meta: Arc<Meta>,
    ) -> Result<(), PublishError> {
        let absence = Arc::new(Hot::new(&meta, b""));
        let publish = || self.memory.put_absent(&meta.key, &absence, ticket.insertions);
        self.fence.leave_absent(ticket, &meta, publish).ok_or(PublishError::Purged)?;
        if let Some(store) = &self.store
            && !store.lack(&meta.key)
        {
            store.remove(&meta.key, ticket.insertions).await;
        }
        Ok(())
    }

    /// Gives a stored object the head that a 304 confirmed, if it is still there.
    pub async fn touch(&self, ticket: Ticket, found: Found, meta: Meta) -> Found {
        let (meta, before) = (Arc::new(meta), found.meta());
        let (confirmed, sha256) = match found {
            Found::Hot(hot) => {
                let body = hot.body();
                let confirmed = Hot::copy_of(&meta, &body, hot.insertion());
                (Found::Hot(Arc::new(confirmed)), Sha256::of(&body))
            }
            Found::Stored(stored) => {
                let sha256 = stored.sha256;
                (Found::Stored(Stored { meta: Arc::clone(&meta), ..stored }), sha256)
            }
        };
        if let Some(store) = &self.store {
            let permit = self.permit(ticket, [Arc::clone(&meta), Arc::clone(&before)]);
            store.touch_meta(&meta, sha256, &permit).await;
        }
        if let Found::Hot(hot) = &confirmed {
            self.fence.leave(ticket, &[&meta, &before], || self.memory.put(&meta.key, hot));
        }
        confirmed
    }

    /// Says whether the fence still allows these heads.
    pub(super) fn permit<const N: usize>(&self, ticket: Ticket, heads: [Arc<Meta>; N]) -> Permit {
        let fence = Arc::clone(&self.fence);
        Arc::new(move || fence.allows(ticket, &heads.each_ref().map(|head| &**head)))
    }
}
