//! Which keys the index may have anything of, in memory: a look-up of what is not there, which is
//! what every fill begins with, takes neither the index nor a thread. A Bloom filter, which nothing
//! is taken out of: what has gone is asked for in vain until the filter is made anew, as it is when
//! as many keys have come as it was made for. Until one is whole, anything may be there.
//!
//! A key is noted before the change that brings it and once more behind it, so that it is in every
//! filter that is whole by then, whenever that was begun and wherever its walk over the index was.
//! One that were missing would cost a fetch, and be noted with it. Lock: a short one, mostly read.

use super::Inner;
use super::error::IndexError;
use crate::object::KeyHash;
use crate::sync::RwLock;
use fastbloom::AtomicBloomFilter;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Of the keys that are not there, those that are asked for all the same where a filter is full.
const IN_VAIN: f64 = 0.01;
/// Keys that a filter is made for, at least.
const KEYS_MIN: u64 = 1 << 16;
/// Keys that are read in one go.
const PAGE: usize = 4096;
/// How often to look whether a filter is to be made.
const PACE: Duration = Duration::from_secs(5);

/// Which keys there may be anything of.
#[derive(Debug, Default)]
pub(super) struct Presence {
    filters: RwLock<Filters>,
}

/// The filter in use, and the one that is being made.
#[derive(Debug, Default)]
struct Filters {
    whole: Option<Filter>,
    next: Option<Filter>,
}

#[derive(Debug)]
struct Filter {
    bits: AtomicBloomFilter,
    keys_max: u64,
    keys: AtomicU64,
}

impl Filter {
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

impl Presence {
    /// Notes a key that comes or has come.
    pub(super) fn note(&self, key: KeyHash) {
        let filters = self.filters.read();
        for filter in filters.whole.iter().chain(&filters.next) {
            filter.note(key);
        }
    }

    /// Whether nothing is there of a key, for certain. Never waits.
    pub(super) fn lacks(&self, key: KeyHash) -> bool {
        self.filters.read().whole.as_ref().is_some_and(|filter| !filter.bits.contains(&key.0))
    }

    /// Knows nothing any more.
    pub(super) fn forget(&self) {
        *self.filters.write() = Filters::default();
    }

    /// Bytes of memory.
    pub(super) fn memory_bytes(&self) -> usize {
        let filters = self.filters.read();
        let bits = |filter: &Filter| filter.bits.num_bits();
        filters.whole.iter().chain(&filters.next).map(bits).sum::<usize>() / 8
    }

    fn is_due(&self) -> bool {
        let filters = self.filters.read();
        let is_full = |filter: &Filter| filter.keys.load(Ordering::Relaxed) > filter.keys_max;
        filters.whole.as_ref().is_none_or(is_full)
    }

    /// Begins a filter, which takes note from now on.
    fn begin(&self, keys: u64) {
        self.filters.write().next = Some(Filter::new(keys));
    }

    /// Notes what was there before that.
    fn fill(&self, keys: impl IntoIterator<Item = KeyHash>) {
        let filters = self.filters.read();
        let Some(next) = &filters.next else { return };
        keys.into_iter().for_each(|key| next.note(key));
    }

    /// Takes the filter that was begun into use, unless all was forgotten since.
    fn complete(&self) {
        let mut filters = self.filters.write();
        if let Some(next) = filters.next.take() {
            filters.whole = Some(next);
        }
    }
}

impl Inner {
    /// Whether nothing is stored of a key, whole, in part or as variants. Never waits; says no
    /// where that is not certain.
    pub(super) fn lacks(&self, key: KeyHash) -> bool {
        self.index.presence().lacks(key)
    }

    /// Makes a filter out of all that the index has; blocking, for one at a time. Ends early where
    /// the disk goes out or the process stops.
    fn renew_presence(&self) -> Result<(), IndexError> {
        let presence = self.index.presence();
        presence.begin(self.space.usage().objects);
        let mut from = 0;
        while !self.leaving.is_cancelled() {
            // Anew for each page, so that nobody who opens the index again waits for this.
            let page = self.index.access().open()?.order_page(from, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            from = last.sequence.saturating_add(1);
            presence.fill(page.iter().map(|(_, key)| *key));
        }
        let mut after = None;
        while !self.leaving.is_cancelled() {
            let page = self.index.access().open()?.variants_page(after, PAGE)?;
            after = page.last().copied();
            if after.is_none() {
                presence.complete();
                break;
            }
            presence.fill(page.iter().map(|(primary, _)| *primary));
        }
        Ok(())
    }
}

/// Keeps the filter of a store fit until it or the process goes away.
pub(super) async fn keep(store: Weak<Inner>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(PACE);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Some(store) = store.upgrade() else { return };
        if !store.index.presence().is_due() {
            continue;
        }
        let own = Arc::clone(&store);
        let work = move || {
            if let Err(error) = own.renew_presence() {
                own.index_failed(&error);
            }
        };
        let renewed = store.background.blocking("store presence", work).await;
        if store.unless_panicked(renewed).is_err() {
            return;
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
        let presence = Presence::default();
        assert!(presence.is_due() && !presence.lacks(key(1)));
        presence.begin(10);
        assert!(presence.is_due() && !presence.lacks(key(1)));
        presence.complete();
        assert!(!presence.is_due() && presence.lacks(key(1)));
        presence.forget();
        assert!(presence.is_due() && !presence.lacks(key(1)));
    }

    #[test]
    fn what_comes_while_a_filter_is_made_is_in_it() {
        let presence = Presence::default();
        presence.begin(10);
        presence.fill([key(1)]);
        presence.note(key(2));
        presence.complete();
        presence.begin(10);
        presence.note(key(3));
        assert!(!presence.lacks(key(3)), "in the one in use too");
        presence.complete();
        assert!(!presence.lacks(key(3)));
        assert!(presence.lacks(key(1)) && presence.lacks(key(2)), "the walk found neither");
    }

    #[test]
    fn what_was_forgotten_is_not_completed() {
        let presence = Presence::default();
        presence.begin(10);
        presence.forget();
        presence.fill([key(1)]);
        presence.complete();
        assert!(presence.is_due() && !presence.lacks(key(9)));
    }

    #[test]
    fn a_full_filter_is_due_and_still_right() {
        let presence = Presence::default();
        presence.begin(0);
        presence.complete();
        (0..KEYS_MIN).for_each(|number| presence.note(key(number)));
        (0..KEYS_MIN).for_each(|number| presence.note(key(number)));
        assert!(!presence.is_due(), "the same ones again are no more");
        let in_vain = (KEYS_MIN..2 * KEYS_MIN).filter(|number| !presence.lacks(key(*number)));
        assert!(in_vain.count() < usize::try_from(KEYS_MIN).unwrap() / 50);
        (KEYS_MIN..KEYS_MIN * 11 / 10).for_each(|number| presence.note(key(number)));
        assert!(presence.is_due());
        assert!((0..KEYS_MIN * 11 / 10).all(|number| !presence.lacks(key(number))));
    }
}
