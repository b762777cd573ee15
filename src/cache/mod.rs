//! Memory and disk as one, and the fences that keep a purged object from coming back. One per
//! process, shared. Read by `engine`, written by `fill` and `purge` alone.
//!
//! # Publishing, and why a purge that was answered holds
//!
//! A fill takes a [`Ticket`] when it begins, and publishes in two steps ([`publish`]):
//! 1. On the disk's own threads: the body, and under the lock of its key the record, if the fence
//!    still allows it at that moment ([`Permit`](crate::store::Permit)).
//! 2. Under the fence's lock, without I/O: the fence is asked once more, and the object becomes
//!    visible in memory, with its claim and in the list of variants.
//!
//! A purge ([`purging`]) raises the fence, goes through memory, has each disk carry it out or owe
//! it, raises the second fence (`heating`), and goes through memory again. So, of what a purge
//! covers and is older than it:
//! - On disk: a record that was permitted before the raise is there when the disk passes the locks
//!   of its keys, and the purge finds it; a later one is refused (`store::disks`). A disk that has
//!   not carried it out serves nothing of it.
//! - In memory: what was published before the raise is there when memory is gone through; later it
//!   is refused. What a look-up reads from a disk becomes hot only if the second fence was not
//!   raised since the look-up began: so it came before memory is gone through the second time.
//! - In the hands of a fill: what is to be confirmed has the ticket of the moment before it was
//!   looked up ([`Stale`]). A fill takes its own ticket first and then drops what was purged since
//!   that other one; from then on its own ticket covers both. An answer that is here before its
//!   fill begins has its ticket from before it was asked for.
//! - Claims say which narinfo they come from, and count no longer than that.
//!
//! Never held across I/O or an await: any lock of this module. What a disk is asked runs on its own
//! threads, and is given up after a few seconds. So nothing here waits longer for a disk, and a
//! look-up in memory never does.
//!
//! # Order
//!
//! Publications are numbered as insertions are, across all disks. What is older than a publication
//! goes afterwards, disk by disk, by its number; memory compares the numbers of all that comes
//! (`memory`). A response whose head came before that of one that was published during its fetch is
//! not published. An absence removes only what was inserted before its fetch began.

mod claims;
mod fence;
mod parts;
mod publish;
mod purging;
#[cfg(test)]
pub(crate) mod tests;
mod variants;

pub use crate::store::{ClaimUnknown, Purging, Scope};
pub use fence::{Fence, Ticket};
pub use publish::PublishError;
use variants::Variants;

use crate::memory::{Hot, Memory, Usage};
use crate::metrics::Metrics;
use crate::nix::Class;
use crate::object::{Facts, Key, Meta, NarClaim};
use crate::store::{Disks, Stored, StoredBody};
use crate::tasks::Tasks;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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
            Self::Hot(hot) => Self::Hot(Arc::new(hot.with_meta(&meta))),
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

/// An object that was found and is to be confirmed.
#[derive(Debug, Clone)]
pub struct Stale {
    /// The object.
    pub found: Found,
    /// A ticket of the moment before it was looked up.
    pub looked: Ticket,
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

/// Memory and disk as one.
#[derive(Debug, Clone)]
pub struct Cache {
    memory: Memory,
    store: Option<Disks>,
    fence: Arc<Fence>,
    /// Raised when the disks are done with a purge: what was read from them before does not become
    /// hot.
    heating: Arc<Fence>,
    variants: Arc<Variants>,
    /// The number of the next publication, if there is no disk that numbers them.
    publications: Arc<AtomicU64>,
    tasks: Tasks,
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
        let (ticket, seen) = (self.heating.ticket(0), self.memory.seen(key));
        let stored = store.get(key).await?;
        let StoredBody::Bytes(body) = &stored.body else {
            return Some(Hit::Disk(Found::Stored(stored)));
        };
        let mut hot = Arc::new(hot_of(&stored, body));
        let heat = || self.memory.heat(key, Arc::clone(&hot), seen);
        if let Some(heated) = self.heating.leave(ticket, &[&stored.meta], heat) {
            hot = heated;
        }
        Some(Hit::Disk(Found::Hot(hot)))
    }

    /// A ticket of this moment: for a fill that begins, or before what it may confirm is looked up.
    /// Never waits.
    pub fn ticket(&self) -> Ticket {
        self.fence.ticket(self.next_order())
    }

    /// The number that the next publication gets.
    fn next_order(&self) -> u64 {
        let own = || self.publications.load(Ordering::Acquire);
        self.store.as_ref().map_or_else(own, Disks::next_insertion)
    }

    /// A number for what is published in memory alone.
    fn take_order(&self) -> u64 {
        let own = || self.publications.fetch_add(1, Ordering::AcqRel);
        self.store.as_ref().map_or_else(own, Disks::take_insertion)
    }

    /// What is to be confirmed, unless it was purged since it was looked up. To be asked by a fill
    /// that has its ticket.
    pub fn unpurged(&self, stale: Option<Stale>) -> Option<Found> {
        let Stale { found, looked } = stale?;
        self.fence.allows(looked, &[&found.meta()]).then_some(found)
    }

    /// Whether `key` was purged, or uploaded, since `ticket`.
    pub fn is_purged_since(&self, ticket: Ticket, key: &Key) -> bool {
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

/// Whether responses for the same object may have been of another kind: a class of its own never
/// varies.
fn may_vary(meta: &Meta) -> bool {
    meta.class == Class::Other
}

/// A copy of a small stored object.
fn hot_of(stored: &Stored, body: &Bytes) -> Hot {
    Hot::copy_of(&stored.meta, body, stored.insertion)
}
