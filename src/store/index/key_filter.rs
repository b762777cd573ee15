//! Which keys the index may have anything of, in memory: a look-up of what is not there, which is
//! what every fill begins with, takes neither the index nor a thread. A Bloom filter, which nothing
//! is taken out of: what has gone is asked for in vain until the filter is made anew, as it is when
//! as many keys have come as it was made for. Until one is whole, anything may be there.
//!
//! A key is noted before the change that brings it and once more behind it, so that it is in every
//! filter that is whole by then, whenever that was begun and wherever its walk over the index was.
//! One that were missing would cost a fetch, and be noted with it. Lock: a short one, mostly read.

use crate::object::KeyHash;
use crate::sync::RwLock;
use fastbloom::AtomicBloomFilter;
use std::sync::atomic::{AtomicU64, Ordering};

/// Of the keys that are not there, those that are asked for all the same if a filter is full.
const IN_VAIN: f64 = 0.01;
/// Keys that a filter is made for, at least.
const KEYS_MIN: u64 = 1 << 16;

/// Which keys there may be anything of.
#[derive(Debug, Default)]
pub(in crate::store) struct KeyFilter {
    filters: RwLock<FilterPair>,
}

/// The filter in use, and the one that is being made.
#[derive(Debug, Default)]
struct FilterPair {
    whole: Option<Bloom>,
    next: Option<Bloom>,
}

#[derive(Debug)]
struct Bloom {
    bits: AtomicBloomFilter,
    keys_max: u64,
    keys: AtomicU64,
}

impl Bloom {
    /// For `keys` keys and as many more.
    fn new(keys: u64) -> Self {
        let keys_max = keys.saturating_mul(2).max(KEYS_MIN);
        let expected = usize::try_from(keys_max).unwrap_or(usize::MAX);
        Self {
            bits: AtomicBloomFilter::with_false_pos(IN_VAIN).expected_items(expected),
            keys_max,
            keys: AtomicU64::new(0),
        }
    }

    fn note(&self, key: KeyHash) {
        if !self.bits.insert(&key.0) {
            self.keys.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl KeyFilter {
    /// Notes a key that comes or has come.
    pub(in crate::store) fn note(&self, key: KeyHash) {
        let filters = self.filters.read();
        for filter in filters.whole.iter().chain(&filters.next) {
            filter.note(key);
        }
    }

    /// Whether nothing is there of a key, for certain. Never waits.
    pub(in crate::store) fn lacks(&self, key: KeyHash) -> bool {
        self.filters.read().whole.as_ref().is_some_and(|filter| !filter.bits.contains(&key.0))
    }

    /// Knows nothing any more.
    pub(in crate::store) fn forget(&self) {
        *self.filters.write() = FilterPair::default();
    }

    /// Bytes of memory.
    pub(in crate::store) fn memory_bytes(&self) -> usize {
        let filters = self.filters.read();
        let bits = |filter: &Bloom| filter.bits.num_bits();
        filters.whole.iter().chain(&filters.next).map(bits).sum::<usize>() / 8
    }

    pub(in crate::store) fn is_due(&self) -> bool {
        let filters = self.filters.read();
        let is_full = |filter: &Bloom| filter.keys.load(Ordering::Relaxed) > filter.keys_max;
        filters.whole.as_ref().is_none_or(is_full)
    }

    /// Begins a filter, which takes note from now on.
    pub(in crate::store) fn begin(&self, keys: u64) {
        self.filters.write().next = Some(Bloom::new(keys));
    }

    /// Notes what was there before that.
    pub(in crate::store) fn fill(&self, keys: impl IntoIterator<Item = KeyHash>) {
        let filters = self.filters.read();
        let Some(next) = &filters.next else { return };
        keys.into_iter().for_each(|key| next.note(key));
    }

    /// Takes the filter that was begun into use, unless all was forgotten since.
    pub(in crate::store) fn complete(&self) {
        let mut filters = self.filters.write();
        if let Some(next) = filters.next.take() {
            filters.whole = Some(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: u64) -> KeyHash {
        let mut hash = [7; 16];
        hash.iter_mut().zip(number.to_le_bytes()).for_each(|(to, from)| *to = from);
        KeyHash(hash)
    }

    #[test]
    fn nothing_is_certain_before_a_filter_is_whole() {
        let filter = KeyFilter::default();
        assert!(filter.is_due() && !filter.lacks(key(1)));
        filter.begin(10);
        assert!(filter.is_due() && !filter.lacks(key(1)));
        filter.complete();
        assert!(!filter.is_due() && filter.lacks(key(1)));
        filter.forget();
        assert!(filter.is_due() && !filter.lacks(key(1)));
    }

    #[test]
    fn what_comes_while_a_filter_is_made_is_in_it() {
        let filter = KeyFilter::default();
        filter.begin(10);
        filter.fill([key(1)]);
        filter.note(key(2));
        filter.complete();
        filter.begin(10);
        filter.note(key(3));
        assert!(!filter.lacks(key(3)), "in the one in use too");
        filter.complete();
        assert!(!filter.lacks(key(3)));
        assert!(filter.lacks(key(1)) && filter.lacks(key(2)), "the walk found neither");
    }

    #[test]
    fn what_was_forgotten_is_not_completed() {
        let filter = KeyFilter::default();
        filter.begin(10);
        filter.forget();
        filter.fill([key(1)]);
        filter.complete();
        assert!(filter.is_due() && !filter.lacks(key(9)));
    }

    #[test]
    fn a_full_filter_is_due_and_still_right() {
        let filter = KeyFilter::default();
        filter.begin(0);
        filter.complete();
        (0..KEYS_MIN).for_each(|number| filter.note(key(number)));
        (0..KEYS_MIN).for_each(|number| filter.note(key(number)));
        assert!(!filter.is_due(), "the same ones again are no more");
        let in_vain = (KEYS_MIN..2 * KEYS_MIN).filter(|number| !filter.lacks(key(*number)));
        assert!(in_vain.count() < usize::try_from(KEYS_MIN).unwrap() / 50);
        (KEYS_MIN..KEYS_MIN * 11 / 10).for_each(|number| filter.note(key(number)));
        assert!(filter.is_due());
        assert!((0..KEYS_MIN * 11 / 10).all(|number| !filter.lacks(key(number))));
    }
}
