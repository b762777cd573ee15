//! The locks under which the tables change, key by key, and what tells which of two publications of
//! a key is newer. As long as the process; each lock is held for one change of the tables, never
//! across I/O or an await. Called by this module alone.
//!
//! What is in a table knows the number of its publication. Of what is in none (it is large, or was
//! evicted), the lock of its key tells: keys share locks, and each lock has the highest number that
//! was published of its keys, and counts their publications. So a key may seem to have changed when
//! another one did: then it is not kept in memory, and the disk is asked. It never seems unchanged
//! when it has changed.

use crate::random;
use crate::sync::{MutexGuard, Striped};
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Locks that keys share.
const LOCKS: usize = 4_096;

/// What is known of all keys that share a lock.
#[derive(Debug, Default)]
pub(super) struct History {
    /// One above the highest number that was published.
    end: u64,
    /// Publications so far.
    changes: u64,
}

impl History {
    /// Counts a publication.
    pub(super) fn count(&mut self, order: u64) {
        self.changes += 1;
        self.end = self.end.max(order.saturating_add(1));
    }

    /// Whether nothing was published that has this number or a higher one.
    pub(super) fn is_before(&self, order: u64) -> bool {
        self.end <= order
    }

    /// Whether nothing was published since.
    pub(super) fn is_as(&self, seen: HistoryMark) -> bool {
        self.changes == seen.0
    }

    pub(super) fn seen(&self) -> HistoryMark {
        HistoryMark(self.changes)
    }
}

/// A moment, counted in publications of the keys that share a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistoryMark(u64);

/// What was published, key by key, each behind its lock.
#[derive(Debug)]
pub(super) struct Histories {
    locks: Striped<History>,
    seed: u64,
}

impl Default for Histories {
    fn default() -> Self {
        // Without randomness, keys can be made that share a lock.
        Self { locks: Striped::new(LOCKS), seed: random::u64().unwrap_or_default() }
    }
}

impl Histories {
    /// Takes the lock of the key with this text.
    pub(super) fn of(&self, key: &str) -> MutexGuard<'_, History> {
        self.locks.of(xxh3_64_with_seed(key.as_bytes(), self.seed)).lock()
    }
}
