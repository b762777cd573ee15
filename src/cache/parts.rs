//! Objects that are on disk in part, behind the fence: what was fetched before a purge is not noted
//! after it. Each flight has the ticket of the moment before it looked for the part or began it. A
//! part that is refused keeps nothing more, unless it is still in the index: another flight may
//! have a later ticket. What touches the disk runs on its threads. Called by `fill`.

use super::fence::FenceEpoch;
use super::found::CachedObject;
use super::publish::{Publication, PublishError, PutOnDisk};
use super::tiers::Cache;
use crate::object::{Key, Meta, Sha256};
use crate::store::{Disks, KeepOutcome, Part};
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

    /// Begins a part of an object of `length` bytes; `None` if there is no disk or it refuses the
    /// part.
    pub async fn begin_part(&self, meta: Meta, length: u64) -> Option<Part> {
        let store = self.store.as_ref()?;
        let path = meta.key.clone();
        let begun = store.begin_part(meta, length).await;
        begun.inspect_err(|error| tracing::debug!(path = path.path(), %error, "not stored")).ok()
    }

    /// Makes what has come of a part survive a restart.
    pub async fn keep_part(&self, ticket: FenceEpoch, part: &Part) -> Result<(), PublishError> {
        let (cache, own) = (self.clone(), part.clone());
        let keep = move || {
            let Some(synced) = own.sync()? else { return Ok(()) };
            let allows = || cache.fence.allows(ticket, &[&own.meta()]);
            let kept = own.note(&synced, &allows)?;
            if kept == KeepOutcome::Loose && !allows() { Err(PublishError::Purged) } else { Ok(()) }
        };
        part.tasks().blocking("store part", keep).await?
    }

    /// Makes a part of which every chunk is kept a whole object, with the digest it was found to
    /// have.
    pub async fn publish_part(
        &self,
        ticket: FenceEpoch,
        part: &Part,
        meta: Meta,
        sha256: Sha256,
    ) -> Result<CachedObject, PublishError> {
        let (own, head) = (part.clone(), meta.clone());
        let place: PutOnDisk = Box::new(move |permit| own.promote(head, sha256, permit));
        let publication = Publication { ticket, meta, before: Some(part.meta()), claim: None };
        self.publish_large(part.tasks(), publication, place).await
    }

    /// Gives a part the head that its origin has confirmed, if it is still kept.
    pub async fn touch_part(&self, ticket: FenceEpoch, part: &Part, meta: Meta) {
        let own = part.clone();
        let permit = self.permit(ticket, [part.meta(), Arc::new(meta.clone())]);
        let touch = move || own.touch_meta(meta, &*permit);
        if let Err(error) = part.tasks().blocking("store part", touch).await {
            tracing::warn!(%error, "part keeps its older head");
        }
    }

    /// Drops a part; a reader that has it open goes on.
    pub async fn drop_part(&self, part: &Part) {
        let own = part.clone();
        if let Err(error) = part.tasks().blocking("store part", move || own.discard()).await {
            tracing::error!(%error, "part not dropped");
        }
    }
}
