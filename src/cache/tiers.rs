//! Both tiers, and how an object is looked for in them. Other files of this module add
//! publications, purges, claims, parts and the selection of variants. No locks of its own.

use super::fence::{Fence, FenceEpoch};
use super::found::{CachedObject, Hit, Stale, hot_of};
use super::variants::Variants;
use crate::memory::{Hot, Memory, TierUsage};
use crate::metrics::Metrics;
use crate::object::Key;
use crate::store::{Disks, Stored, StoredBody};
use crate::tasks::Tasks;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Memory and disk as one.
#[derive(Debug, Clone)]
pub struct Cache {
    pub(super) memory: Memory,
    pub(super) store: Option<Disks>,
    pub(super) fence: Arc<Fence>,
    /// Raised when the disks are done with a purge: what was read from them before does not become
    /// hot.
    pub(super) heating: Arc<Fence>,
    pub(super) variants: Arc<Variants>,
    /// The number of the next publication, if there is no disk that numbers them.
    pub(super) publications: Arc<AtomicU64>,
    pub(super) tasks: Tasks,
}

impl Cache {
    /// Joins the tiers; without a `store` only small objects are kept.
    pub fn new(memory: Memory, store: Option<Disks>, tasks: Tasks) -> Self {
        let (fence, heating) = (Arc::default(), Arc::default());
        let variants = Arc::new(Variants::new(store.as_ref()));
        Self { memory, store, fence, heating, variants, publications: Arc::default(), tasks }
    }

    /// Looks in memory only, by the text of a key; never waits.
    pub fn peek(&self, key: &str) -> Option<Hit> {
        if let Some(hot) = self.memory.get(key) {
            self.note_use(&hot);
            return Some(Hit::Memory(CachedObject::Hot(hot)));
        }
        self.memory.absent(key).map(Hit::Absent)
    }

    /// The large object under `key`, if its file is still open from a recent request. Never waits.
    pub fn recent(&self, key: &Key) -> Option<Stored> {
        self.store.as_ref()?.recent(key)
    }

    /// Looks in memory, then on disk; a small object found on disk becomes hot.
    pub async fn lookup(&self, key: &Key) -> Option<Hit> {
        if let Some(hit) = self.peek(key.as_str()) {
            return Some(hit);
        }
        let store = self.store.as_ref()?;
        let (ticket, seen) = (self.heating.ticket(0), self.memory.seen(key));
        let stored = store.get(key).await?;
        let StoredBody::Bytes(body) = &stored.body else {
            return Some(Hit::Disk(CachedObject::Stored(stored)));
        };
        let mut hot = Arc::new(hot_of(&stored, body));
        let heat = || self.memory.heat(key, Arc::clone(&hot), seen);
        if let Some(heated) = self.heating.leave(ticket, &[&stored.meta], heat) {
            hot = heated;
        }
        Some(Hit::Disk(CachedObject::Hot(hot)))
    }

    /// A ticket of this moment: for a fill that begins, or before what it may confirm is looked up.
    /// Never waits.
    pub fn ticket(&self) -> FenceEpoch {
        self.fence.ticket(self.next_order())
    }

    /// The number that the next publication gets.
    pub(super) fn next_order(&self) -> u64 {
        let own = || self.publications.load(Ordering::Acquire);
        self.store.as_ref().map_or_else(own, Disks::next_insertion)
    }

    /// A number for what is published in memory alone.
    pub(super) fn take_order(&self) -> u64 {
        let own = || self.publications.fetch_add(1, Ordering::AcqRel);
        self.store.as_ref().map_or_else(own, Disks::take_insertion)
    }

    /// What is to be confirmed, unless it was purged since it was looked up. To be asked by a fill
    /// that has its ticket.
    pub fn unpurged(&self, stale: Option<Stale>) -> Option<CachedObject> {
        let Stale { found, looked } = stale?;
        self.fence.allows(looked, &[&found.meta()]).then_some(found)
    }

    /// Whether `key` was purged, or uploaded, since `ticket`.
    pub fn is_purged_since(&self, ticket: FenceEpoch, key: &Key) -> bool {
        self.fence.is_raised_since(ticket, key)
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
        for (tier, TierUsage { bytes, objects }) in tiers {
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
