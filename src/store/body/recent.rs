//! Large objects that were found lately, with their files open: to find one again takes neither the
//! disk nor a thread. One per store, gone with it; a lock per shard, never held across I/O.
//!
//! # Nothing is found here that is not stored
//!
//! Whatever changes or drops a record forgets the key here when it is done, whether it succeeded or
//! not: it counts the change first, then takes the entry out. A look-up takes the count
//! before, and takes its entry out again if the count is another afterwards. So either the entry
//! was there when the change took it out, or the look-up that put it there sees the change.

use crate::object::{Key, KeyHash};
use crate::store::body::read::Stored;
use crate::sync::AtomicU64;
use quick_cache::sync::Cache;
use std::sync::atomic::Ordering;

/// Files that are held open at most, beside those that are being read.
const OPEN_MAX: usize = 512;
/// Counts of changes, which keys share.
const COUNTS: usize = 64;

/// Objects that were found lately.
pub(in crate::store) struct Recent {
    open: Cache<KeyHash, Stored>,
    changes: [AtomicU64; COUNTS],
}

/// The count of changes when a look-up began.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct LookupEpoch(u64);

impl std::fmt::Debug for Recent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recent").field("open", &self.open.len()).finish_non_exhaustive()
    }
}

impl Default for Recent {
    fn default() -> Self {
        let changes = std::array::from_fn(|_| AtomicU64::new(0));
        Self { open: Cache::new(OPEN_MAX), changes }
    }
}

impl Recent {
    /// The object under a key. Never waits.
    pub(in crate::store) fn get(&self, key: &Key) -> Option<Stored> {
        self.open.get(&key.hash()).filter(|stored| stored.meta.key == *key)
    }

    /// A ticket for a look-up that begins now.
    pub(in crate::store) fn ticket(&self, hash: KeyHash) -> LookupEpoch {
        LookupEpoch(self.count(hash).load(Ordering::Acquire))
    }

    /// Remembers what a look-up found, unless the key has changed since it began.
    pub(in crate::store) fn remember(&self, ticket: LookupEpoch, stored: Stored) {
        let hash = stored.meta.key.hash();
        self.open.insert(hash, stored);
        if self.count(hash).load(Ordering::SeqCst) != ticket.0 {
            self.open.remove(&hash);
        }
    }

    /// Forgets a key: its record has changed or is gone.
    pub(in crate::store) fn forget(&self, hash: KeyHash) {
        self.count(hash).fetch_add(1, Ordering::SeqCst);
        self.open.remove(&hash);
    }

    fn count(&self, hash: KeyHash) -> &AtomicU64 {
        let [first, ..] = &self.changes;
        let [.., byte] = hash.0;
        self.changes.get(usize::from(byte) % COUNTS).unwrap_or(first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::body::read::StoredBody;
    use crate::store::tests::{key, meta};
    use crate::sync::{Mutex, orders};
    use bytes::Bytes;
    use std::sync::Arc;

    fn stored(name: &str) -> Stored {
        let (meta, body) =
            (Arc::new(meta(&key(name))), StoredBody::Bytes(Bytes::from_static(b"body")));
        let sha256 = crate::object::Sha256::of(b"body");
        let insertion = crate::object::Insertion { disk: 0, sequence: 1 };
        Stored { meta, body, length: 4, sha256, insertion }
    }

    #[test]
    fn what_changed_since_the_look_up_began_is_not_remembered() {
        let (recent, key) = (Recent::default(), key("a"));
        let ticket = recent.ticket(key.hash());
        recent.remember(ticket, stored("a"));
        assert!(recent.get(&key).is_some());
        recent.forget(key.hash());
        assert!(recent.get(&key).is_none());
        recent.remember(ticket, stored("a"));
        assert!(recent.get(&key).is_none(), "it was looked up before the change");
        recent.remember(recent.ticket(key.hash()), stored("a"));
        assert!(recent.get(&key).is_some());
    }

    #[test]
    fn few_files_are_held_open() {
        let recent = Recent::default();
        for number in 0..4 * OPEN_MAX {
            let name = number.to_string();
            recent.remember(recent.ticket(key(&name).hash()), stored(&name));
        }
        assert!((OPEN_MAX / 2..=OPEN_MAX).contains(&recent.open.len()), "{recent:?}");
    }

    #[test]
    fn in_any_order_nothing_is_found_that_was_changed() {
        orders::check(5_000, || {
            let recent = Arc::new(Recent::default());
            let (hash, record) = (key("a").hash(), Arc::new(Mutex::new(Some(1))));
            let looking = {
                let (recent, record) = (Arc::clone(&recent), Arc::clone(&record));
                shuttle::thread::spawn(move || {
                    let ticket = recent.ticket(hash);
                    let found = *record.lock();
                    orders::step();
                    if found.is_some() {
                        recent.remember(ticket, stored("a"));
                    }
                })
            };
            *record.lock() = None;
            recent.forget(hash);
            looking.join().unwrap();
            assert!(recent.get(&key("a")).is_none(), "the record went");
        });
    }
}
