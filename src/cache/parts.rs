//! Objects that are on disk in part, behind the fence: what was fetched before a purge is not noted
//! after it. A part has the ticket of the moment before it was looked for or begun; from the first
//! refusal on, it keeps nothing more. Called by `fill`.

use super::{Cache, Found, PublishError, Ticket, may_vary};
use crate::object::{Key, Meta, Sha256};
use crate::store::{Disks, Kept, Part};
use std::sync::Arc;

impl Cache {
    /// What is kept of an object in part.
    pub async fn part(&self, key: &Key) -> Option<Part> {
        self.store.as_ref()?.part(key).await
    }

    /// Whether there is a disk that takes writes.
    pub fn takes_parts(&self) -> bool {
        self.store.as_ref().is_some_and(Disks::is_writable)
    }

    /// Begins a part of an object of `length` bytes; `None` where there is no disk or it does not
    /// take it.
    pub async fn begin_part(&self, meta: Meta, length: u64) -> Option<Part> {
        let store = self.store.as_ref()?;
        let path = meta.key.clone();
        let begun = store.begin_part(meta, length).await;
        begun.inspect_err(|error| tracing::debug!(path = path.path(), %error, "not stored")).ok()
    }

    /// Makes what has come of a part survive a restart.
    pub async fn keep_part(&self, ticket: Ticket, part: &Part) -> Result<(), PublishError> {
        let (fence, part) = (Arc::clone(&self.fence), part.clone());
        let keep = move || {
            let Some(synced) = part.sync()? else { return Ok(()) };
            let Some(_leave) = fence.leave(ticket, &[&part.meta()]) else {
                part.let_go();
                return Err(PublishError::Purged);
            };
            part.note(&synced)?;
            Ok(())
        };
        self.tasks.blocking("store part", keep).await?
    }

    /// Makes a part of which every chunk is kept a whole object, with the digest it was found to
    /// have; none where it is not kept any more.
    pub async fn publish_part(
        &self,
        ticket: Ticket,
        part: &Part,
        meta: Meta,
        sha256: Sha256,
    ) -> Result<Option<Found>, PublishError> {
        let (memory, store, cache) = (self.memory.clone(), self.store.clone(), self.clone());
        let (fence, part) = (Arc::clone(&self.fence), part.clone());
        let publish = move || {
            let leave = fence.leave(ticket, &[&part.meta(), &meta]);
            let Some(_leave) = leave else {
                part.let_go();
                return Err(PublishError::Purged);
            };
            let stored = part.promote(meta, sha256)?;
            if let Some(stored) = &stored {
                if let Some(store) = store {
                    store.keep_only(&stored.meta, stored.sha256);
                }
                memory.remove(part.key());
                if may_vary(&stored.meta) {
                    cache.settle_variants(&stored.meta);
                }
            }
            Ok(stored.map(Found::Stored))
        };
        self.tasks.blocking("commit", publish).await?
    }

    /// Gives a part the head that its origin has confirmed, if it is still kept.
    pub async fn touch_part(&self, ticket: Ticket, part: &Part, meta: Meta) {
        let (fence, part) = (Arc::clone(&self.fence), part.clone());
        let touch = move || match fence.leave(ticket, &[&part.meta(), &meta]) {
            Some(_leave) => part.touch_meta(meta),
            None => Kept::Loose,
        };
        if let Err(error) = self.tasks.blocking("store part", touch).await {
            tracing::warn!(%error, "a part keeps its older head");
        }
    }

    /// Drops a part; who has it open goes on.
    pub async fn drop_part(&self, part: &Part) {
        let part = part.clone();
        if let Err(error) = self.tasks.blocking("store part", move || part.discard()).await {
            tracing::error!(%error, "a part was not dropped");
        }
    }
}
