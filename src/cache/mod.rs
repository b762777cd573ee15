//! Memory and disk as one, and the fence that stops a purged object from coming back. One per
//! process, shared; holds the fence's lock only on blocking threads or without an await.
//! Read by `engine`, written by `fill` and `purge` alone.

mod fence;
mod parts;
#[cfg(test)]
pub(crate) mod tests;
mod variants;

pub use crate::store::Scope;
pub use fence::{Fence, Ticket};
use variants::Variants;

use crate::memory::{Hot, Memory, Usage};
use crate::metrics::Metrics;
use crate::nix::Class;
use crate::object::{Facts, Key, Meta, NarClaim, Sha256, Tags};
use crate::store::{Disks, ObjectWriter, ProvenObject, Stored, StoredBody, Withhold, WriteError};
use crate::sync::Mutex;
use crate::tasks::{BlockingError, Tasks};
use bytes::Bytes;
use std::sync::Arc;

/// Bodies up to this many bytes are kept in memory.
pub const SMALL_BYTES_MAX: u64 = 64 << 10;

/// A whole object that was found.
#[derive(Debug, Clone)]
pub enum Found {
    /// In memory.
    Hot(Arc<Hot>),
    /// On disk.
    Stored(Stored),
}

impl Found {
    /// Its head; that of an object in memory is made anew.
    pub fn meta(&self) -> Arc<Meta> {
        match self {
            Self::Hot(hot) => Arc::new(hot.meta()),
            Self::Stored(stored) => Arc::clone(&stored.meta),
        }
    }

    /// What is known of it beside its key, its fields and its body.
    pub fn facts(&self) -> Facts {
        match self {
            Self::Hot(hot) => hot.facts,
            Self::Stored(stored) => stored.meta.facts(),
        }
    }

    /// The same body with another head.
    #[must_use]
    pub fn with_meta(&self, meta: Arc<Meta>) -> Self {
        match self {
            Self::Hot(hot) => Self::Hot(Arc::new(Hot::new(&meta, &hot.body()))),
            Self::Stored(stored) => Self::Stored(Stored { meta, ..stored.clone() }),
        }
    }

    /// Bytes of its body.
    pub fn length(&self) -> u64 {
        match self {
            Self::Hot(hot) => hot.length(),
            Self::Stored(stored) => stored.length,
        }
    }
}

/// What a look-up found.
#[derive(Debug, Clone)]
pub enum Hit {
    /// The object, in memory.
    Memory(Found),
    /// The object, on disk.
    Disk(Found),
    /// That there was none when it was last asked for.
    Absent(Arc<Hot>),
}

/// A claim that a narinfo makes, and the NAR it makes it of.
pub type ClaimOf = (Key, NarClaim);

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

/// Memory and disk as one.
#[derive(Debug, Clone)]
pub struct Cache {
    memory: Memory,
    store: Option<Disks>,
    fence: Arc<Fence>,
    /// Raised when a purge has ended: what was read from disk before does not become hot.
    heating: Arc<Fence>,
    variants: Arc<Variants>,
    /// Held while a purge goes through memory: one that makes objects stale takes them out and puts
    /// them back, and must not put back what another one means to go.
    forgetting: Arc<Mutex<()>>,
    tasks: Tasks,
}

impl Cache {
    /// Joins the tiers; without a `store` only small objects are kept.
    pub fn new(memory: Memory, store: Option<Disks>, tasks: Tasks) -> Self {
        let (fence, heating, variants) = (Arc::default(), Arc::default(), Arc::default());
        Self { memory, store, fence, heating, variants, forgetting: Arc::default(), tasks }
    }

    /// Looks in memory only, by the text of a key; never waits.
    pub fn peek(&self, key: &str) -> Option<Hit> {
        if let Some(hot) = self.memory.get(key) {
            self.note_use(&hot);
            return Some(Hit::Memory(Found::Hot(hot)));
        }
        self.memory.absent(key).map(Hit::Absent)
    }

    /// The large object under `key`, where its file is open since it was asked for lately. Never
    /// waits.
    pub fn recent(&self, key: &Key) -> Option<Stored> {
        self.store.as_ref()?.recent(key)
    }

    /// Looks in memory, then on disk; a small object found on disk becomes hot.
    pub async fn lookup(&self, key: &Key) -> Option<Hit> {
        if let Some(hit) = self.peek(key.as_str()) {
            return Some(hit);
        }
        let store = self.store.as_ref()?;
        let ticket = self.heating.ticket();
        let stored = store.get(key).await?;
        let StoredBody::Bytes(body) = &stored.body else {
            return Some(Hit::Disk(Found::Stored(stored)));
        };
        let mut hot = Arc::new(hot_of(&stored, body));
        if let Some(_leave) = self.heating.leave(ticket, &[&stored.meta]) {
            hot = self.memory.heat(key, hot);
        }
        Some(Hit::Disk(Found::Hot(hot)))
    }

    /// A ticket for a fill that begins now.
    pub fn ticket(&self) -> Ticket {
        self.fence.ticket()
    }

    /// Whether `key` was purged, or uploaded, since `ticket`.
    pub fn is_purged_since(&self, ticket: Ticket, key: &Key) -> bool {
        self.fence.is_raised_since(ticket, key)
    }

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
        let cache = self.clone();
        let memory = self.memory.clone();
        let commit = move || {
            let key = meta.key.clone();
            // Outside of the fence, so that no purge waits for the disk.
            let sealed = proven.seal()?;
            let _leave = cache.fence.leave(ticket, &[&meta]).ok_or(PublishError::Purged)?;
            let stored = sealed.commit(meta, claim.clone())?;
            if let Some(store) = &cache.store {
                store.keep_only(&stored.meta, stored.sha256);
            }
            if may_vary(&stored.meta) {
                cache.settle_variants(&stored.meta);
            }
            if let Some((nar, claim)) = claim {
                memory.put_claim(nar, claim);
            }
            let StoredBody::Bytes(body) = &stored.body else {
                memory.remove(&key);
                return Ok(Found::Stored(stored));
            };
            let hot = Arc::new(hot_of(&stored, body));
            memory.put(&key, &hot);
            Ok(Found::Hot(hot))
        };
        self.tasks.blocking("commit", commit).await?
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
                self.publish(ticket, proven, meta.clone(), claim.clone()).await
            };
            match published.await {
                Err(PublishError::Write(error)) => {
                    tracing::debug!(path = meta.key.path(), %error, "kept in memory only");
                }
                ended => return ended,
            }
        }
        let _leave = self.fence.leave(ticket, &[&meta]).ok_or(PublishError::Purged)?;
        if let Some((nar, claim)) = claim {
            self.memory.put_claim(nar, claim);
        }
        if may_vary(&meta) {
            self.settle_variants(&meta);
        }
        let hot = Arc::new(Hot::new(&meta, &body));
        self.memory.put(&meta.key, &hot);
        Ok(Found::Hot(hot))
    }

    /// Remembers that there is no such object, and drops what was stored of it.
    pub async fn publish_absent(
        &self,
        ticket: Ticket,
        meta: Arc<Meta>,
    ) -> Result<(), PublishError> {
        {
            let _leave = self.fence.leave_absent(ticket, &meta).ok_or(PublishError::Purged)?;
            self.memory.put_absent(&meta.key, &Arc::new(Hot::new(&meta, b"")));
        }
        if !self.store.as_ref().is_some_and(|store| store.lack(&meta.key)) {
            self.on_disk(move |store| store.remove(&meta.key)).await;
        }
        Ok(())
    }

    /// Gives a stored object the head that a 304 confirmed, if it is still there.
    pub async fn touch(&self, ticket: Ticket, found: Found, meta: Meta) -> Found {
        let (meta, before) = (Arc::new(meta), found.meta());
        let confirmed = match found {
            Found::Hot(hot) => {
                Found::Hot(Arc::new(Hot::copy_of(&meta, &hot.body(), hot.insertion())))
            }
            Found::Stored(stored) => Found::Stored(Stored { meta: Arc::clone(&meta), ..stored }),
        };
        let (touched, heads) = (confirmed.clone(), (Arc::clone(&meta), Arc::clone(&before)));
        let fence = Arc::clone(&self.fence);
        let touch = move |store: &Disks| {
            let (head, before) = heads;
            let Some(_leave) = fence.leave(ticket, &[&head, &before]) else { return false };
            let sha256 = match &touched {
                Found::Hot(hot) => Sha256::of(&hot.body()),
                Found::Stored(stored) => stored.sha256,
            };
            store.touch_meta(&head.key, sha256, &head)
        };
        self.on_disk(touch).await;
        if let Some(_leave) = self.fence.leave(ticket, &[&meta, &before])
            && let Found::Hot(hot) = &confirmed
        {
            self.memory.put(&meta.key, hot);
        }
        confirmed
    }

    /// What a narinfo said of `key`, where its class is that of NARs.
    pub async fn claim_of_nar(&self, key: &Key, class: Class) -> Option<NarClaim> {
        if class == Class::Nar { self.claim(key).await } else { None }
    }

    /// What a narinfo said of the NAR `key`.
    pub async fn claim(&self, key: &Key) -> Option<NarClaim> {
        if let Some(claim) = self.memory.claim(key) {
            return Some(claim);
        }
        let (wanted, ticket) = (key.clone(), self.heating.ticket());
        let claim = self.on_disk(move |store| store.claim(&wanted)).await??;
        match self.heating.leave_unseen(ticket, key) {
            Some(_leave) => Some(self.memory.heat_claim(key, claim)),
            None => Some(claim),
        }
    }

    /// Makes everything in `scope` go; how many objects there were. Fills under way in it do not
    /// commit.
    pub async fn purge(&self, scope: Scope) -> u64 {
        let cache = self.clone();
        let purging = self.tasks.blocking("purge", move || {
            cache.fence.raise(scope.clone());
            let from_memory = cache.forget(&scope);
            let from_disk = cache.store.as_ref().map_or(0, |store| store.purge(&scope));
            // Look-ups have made hot what the disk still held, and those under way might yet.
            cache.heating.raise(scope.clone());
            cache.forget(&scope);
            from_disk.max(from_memory)
        });
        purging.await.unwrap_or_else(|error| not_ended(&error))
    }

    /// Forgets that these were absent: they were uploaded. Fills under way that find them absent do
    /// not have it remembered, and are joined by nobody any more. What is stored stays; the disk
    /// remembers no absence.
    pub async fn forget_absences(&self, keys: Vec<Key>) -> Result<(), BlockingError> {
        let (fence, memory) = (Arc::clone(&self.fence), self.memory.clone());
        let forgetting = move || {
            fence.raise_uploads(&keys);
            for key in &keys {
                memory.forget_absence(key);
            }
        };
        self.tasks.blocking("uploads", forgetting).await
    }

    /// Makes every object of `site` that has one of `tags` stale at once without dropping it; how
    /// many there were. What a fill or a confirmation under way brings of them does not commit: it
    /// may be what is purged.
    pub async fn invalidate_tagged(&self, site: &str, tags: Tags) -> u64 {
        let (cache, site) = (self.clone(), site.to_owned());
        let purging = self.tasks.blocking("purge", move || {
            let scope = Scope::Tags { site: site.clone(), tags: tags.clone() };
            let in_memory = || {
                let _one = cache.forgetting.lock();
                cache.memory.invalidate_tagged(&site, &tags)
            };
            cache.fence.raise(scope.clone());
            let from_memory = in_memory();
            let disks = cache.store.as_ref();
            let from_disk = disks.map_or(0, |store| store.invalidate_tagged(&site, &tags));
            cache.heating.raise(scope);
            in_memory();
            from_disk.max(from_memory)
        });
        purging.await.unwrap_or_else(|error| not_ended(&error))
    }

    /// Drops what is in memory; how many objects there were.
    fn forget(&self, scope: &Scope) -> u64 {
        let _one = self.forgetting.lock();
        if *scope == Scope::All {
            self.memory.clear_claims();
        }
        match scope {
            Scope::Key(key) => {
                self.variants.forget(Some(key));
                u64::from(self.memory.remove(key))
            }
            // Other variants of the same objects stay, and a list is all that leads to them where
            // there is no disk.
            Scope::Tags { site, tags } => self.memory.remove_tagged(site, tags),
            Scope::Prefix { .. } | Scope::All => {
                self.variants.forget(None);
                self.memory.remove_matching(|key| scope.may_cover(key))
            }
        }
    }

    /// Runs `work` on a blocking thread, where there is a disk.
    async fn on_disk<T, F>(&self, work: F) -> Option<T>
    where
        T: Send + 'static,
        F: FnOnce(&Disks) -> T + Send + 'static,
    {
        let store = self.store.clone()?;
        self.tasks.blocking("store", move || work(&store)).await.ok()
    }

    /// Makes the object of `key` stale at once without dropping it; true when there was one. A fill
    /// of it that is under way does not commit: what it fetches may be what is purged.
    pub async fn invalidate(&self, key: &Key) -> bool {
        let (fence, scope) = (Arc::clone(&self.fence), Scope::Key(key.clone()));
        if let Err(error) = self.tasks.blocking("purge", move || fence.raise(scope)).await {
            tracing::error!(%error, "a purge did not end; purge again");
        }
        let Some(Hit::Memory(found) | Hit::Disk(found)) = self.lookup(key).await else {
            let part = key.clone();
            let from_disk = self.on_disk(move |store| store.remove_part(&part)).await;
            return self.memory.remove(key) || from_disk.unwrap_or(false);
        };
        let ticket = self.fence.ticket();
        let meta = Meta { is_invalidated: true, ..Meta::clone(&found.meta()) };
        self.touch(ticket, found, meta).await;
        true
    }

    /// What is served from memory counts as used on disk too, once in each of its epochs: else what
    /// is asked for most would go from there first.
    fn note_use(&self, hot: &Hot) {
        if let Some(store) = &self.store {
            hot.note_use(store.epoch(), |insertion| store.touch(insertion));
        }
    }

    /// Sets the gauges of what is stored; called before metrics are read.
    pub fn report(&self, metrics: &Metrics) {
        let tiers = [("memory", self.memory.usage()), ("absent", self.memory.absent_usage())];
        for (tier, Usage { bytes, objects }) in tiers {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            metrics.stored_bytes.with_label_values(&[tier]).set(bytes);
            let objects = i64::try_from(objects).unwrap_or(i64::MAX);
            metrics.stored_objects.with_label_values(&[tier]).set(objects);
        }
        if let Some(store) = &self.store {
            store.show(metrics);
        }
        if let Some(memory) = self.store.as_ref().map(Disks::memory) {
            let parts = [
                ("order", memory.order_bytes),
                ("keys", memory.keys_bytes),
                ("cache", memory.cache_bytes),
                ("unwritten", memory.unwritten_bytes),
            ];
            for (part, bytes) in parts {
                let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
                metrics.index_memory_bytes.with_label_values(&[part]).set(bytes);
            }
        }
    }

    /// The disk tier.
    pub fn store(&self) -> Option<&Disks> {
        self.store.as_ref()
    }
}

fn not_ended(error: &BlockingError) -> u64 {
    tracing::error!(%error, "a purge did not end; purge again");
    0
}

/// Whether responses for the same object may have been of another kind: a class of its own never
/// varies.
fn may_vary(meta: &Meta) -> bool {
    meta.class == Class::Other
}

/// A copy of a small stored object.
fn hot_of(stored: &Stored, body: &Bytes) -> Hot {
    Hot::copy_of(&stored.meta, body, Some(stored.insertion))
}
