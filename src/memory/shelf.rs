//! Small objects by their keys, within a budget of bytes. Shared by all that look something up; a
//! lock for each shard, held for one look-up or one change.
//!
//! An object is looked up by 64 bits drawn from its key and a secret of the process, and the text
//! of its key is compared then. So a look-up touches the table and the object, and no key beside
//! them. Two keys with the same bits cost a miss; without the secret they cannot be constructed.

use super::hot::Hot;
use crate::random;
use prometheus::IntCounter;
use quick_cache::sync::Cache;
use quick_cache::{Lifecycle, Options, OptionsBuilder, Weighter};
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What the table keeps for each entry, and for the half of an entry that left and is remembered,
/// in bytes of resident memory.
pub(super) const ENTRY_OVERHEAD: usize = 96;
/// Bytes of an ordinary entry, by which the table is laid out.
const ENTRY_BYTES: u64 = 2048;
/// A shard takes no less: objects of 64 KiB must find a place in it.
const SHARD_BYTES_MIN: u64 = 1 << 20;
/// Shards for each core.
const SHARDS_PER_CORE: usize = 4;

/// How a table within `size` bytes is laid out.
pub(super) fn options(size: u64) -> Options {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let shards_max = usize::try_from(size / SHARD_BYTES_MIN).unwrap_or(usize::MAX).max(1);
    // Rounded up to a power of two by the table, so given as one.
    let shards = (cores * SHARDS_PER_CORE).next_power_of_two().min(1 << shards_max.ilog2());
    let entries = usize::try_from(size / ENTRY_BYTES).unwrap_or(usize::MAX);
    let mut options = OptionsBuilder::new();
    options.shards(shards).estimated_items_capacity(entries).weight_capacity(size);
    #[expect(clippy::expect_used, reason = "both settings without a default are made above")]
    options.build().expect("complete options")
}

/// The objects.
pub(super) struct Shelf {
    entries: Cache<KeyDigest, Arc<Hot>, Weigher, BuildHasherDefault<DigestHasher>, EvictedObjects>,
    seed: u64,
    left: RemovalCounters,
}

/// Counts of what leaves, by reason.
#[derive(Debug, Clone)]
pub(super) struct RemovalCounters {
    /// For want of room.
    pub(super) size: IntCounter,
    /// For a newer one.
    pub(super) replaced: IntCounter,
    /// As it was told to.
    pub(super) removed: IntCounter,
}

impl fmt::Debug for Shelf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shelf").field("objects", &self.entries.len()).finish_non_exhaustive()
    }
}

impl Shelf {
    /// An empty one of `size` bytes.
    pub(super) fn new(size: u64, left: RemovalCounters) -> Self {
        let leaving = EvictedObjects(left.clone());
        let hasher = BuildHasherDefault::default();
        Self {
            entries: Cache::with_options(options(size), Weigher, hasher, leaving),
            // Without randomness, keys can be made that share a digest.
            seed: random::u64().unwrap_or_default(),
            left,
        }
    }

    /// The object of the key with this text.
    pub(super) fn get(&self, key: &str) -> Option<Arc<Hot>> {
        self.entries.get(&self.digest(key)).filter(|hot| hot.is(key))
    }

    /// The same; does not count as a use.
    pub(super) fn peek(&self, key: &str) -> Option<Arc<Hot>> {
        self.entries.peek(&self.digest(key)).filter(|hot| hot.is(key))
    }

    /// Keeps `hot` under its key, in place of what was there.
    pub(super) fn put(&self, key: &str, hot: &Arc<Hot>) {
        let left = self.entries.insert_with_lifecycle(self.digest(key), Arc::clone(hot));
        for gone in left {
            if !Arc::ptr_eq(&gone, hot) && gone.is(key) {
                self.left.replaced.inc();
            } else {
                self.left.size.inc();
            }
        }
    }

    /// Drops `hot`, if it is there still.
    pub(super) fn remove_exactly(&self, hot: &Arc<Hot>) -> bool {
        let is_meant = |there: &Arc<Hot>| Arc::ptr_eq(there, hot);
        let is_gone = self.entries.remove_if(&self.digest(hot.key_str()), is_meant).is_some();
        if is_gone {
            self.left.removed.inc();
        }
        is_gone
    }

    /// Drops the object of the key with this text; true when there was one.
    pub(super) fn remove(&self, key: &str) -> bool {
        let digest = self.digest(key);
        let is_gone = self.entries.remove_if(&digest, |hot| hot.is(key)).is_some();
        if is_gone {
            self.left.removed.inc();
        }
        is_gone
    }

    /// Every object that `matches`, one after the other, while others come and go.
    pub(super) fn matching(
        &self,
        matches: impl Fn(&Hot) -> bool,
    ) -> impl Iterator<Item = Arc<Hot>> {
        self.entries.iter().map(|(_, hot)| hot).filter(move |hot| matches(hot))
    }

    /// Bytes that it holds.
    pub(super) fn bytes(&self) -> u64 {
        self.entries.weight()
    }

    /// Objects that it holds.
    pub(super) fn objects(&self) -> u64 {
        self.entries.len() as u64
    }

    fn digest(&self, key: &str) -> KeyDigest {
        KeyDigest(xxh3_64_with_seed(key.as_bytes(), self.seed))
    }
}

/// What a key is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeyDigest(u64);

impl Hash for KeyDigest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0);
    }
}

/// Takes a digest for its own hash.
#[derive(Debug, Default)]
struct DigestHasher(u64);

impl Hasher for DigestHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    fn write_u64(&mut self, digest: u64) {
        self.0 = digest;
    }
}

#[derive(Debug, Clone)]
struct Weigher;

impl Weighter<KeyDigest, Arc<Hot>> for Weigher {
    fn weight(&self, _: &KeyDigest, hot: &Arc<Hot>) -> u64 {
        (ENTRY_OVERHEAD + hot.bytes()) as u64
    }
}

/// Gathers what an insertion drives out, so that it is dropped outside the lock, and counted.
#[derive(Debug, Clone)]
struct EvictedObjects(RemovalCounters);

impl Lifecycle<KeyDigest, Arc<Hot>> for EvictedObjects {
    type RequestState = Vec<Arc<Hot>>;

    fn begin_request(&self) -> Self::RequestState {
        Vec::new()
    }

    fn on_evict(&self, left: &mut Self::RequestState, _: KeyDigest, hot: Arc<Hot>) {
        left.push(hot);
    }

    fn end_request(&self, left: Self::RequestState) {
        self.0.size.inc_by(left.len() as u64);
    }
}
