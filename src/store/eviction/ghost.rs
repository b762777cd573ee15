//! What is remembered of objects that left early, so that one asked for again stays longer: two
//! bytes a key, as fingerprints in buckets, the oldest falling out. Pure; part of the eviction
//! order. It may take one key for another, once in some thousands: that one stays longer, no more.

use crate::object::KeyHash;

const BUCKET: usize = 16;
const EMPTY: u16 = 0;

/// Keys that left, as many of the newest as there are objects, about.
#[derive(Debug, Default)]
pub(in crate::store) struct Ghost {
    /// Newest first; their number is zero or a power of two.
    buckets: Vec<[u16; BUCKET]>,
}

impl Ghost {
    /// Remembers a key, where `objects` are there.
    pub(in crate::store) fn add(&mut self, hash: KeyHash, objects: usize) {
        self.grow(objects);
        let (at, fingerprint) = self.place(hash);
        if let Some(bucket) = self.buckets.get_mut(at) {
            bucket.copy_within(..BUCKET - 1, 1);
            bucket[0] = fingerprint;
        }
    }

    /// Whether a key is remembered, where `objects` are there.
    pub(in crate::store) fn has(&self, hash: KeyHash, objects: usize) -> bool {
        self.find(hash, objects).is_some()
    }

    /// The same; it is no longer remembered then.
    pub(in crate::store) fn take(&mut self, hash: KeyHash, objects: usize) -> bool {
        let Some((at, found)) = self.find(hash, objects) else { return false };
        if let Some(bucket) = self.buckets.get_mut(at) {
            bucket.copy_within(found + 1.., found);
            bucket[BUCKET - 1] = EMPTY;
        }
        true
    }

    /// The bucket and the slot of a key.
    fn find(&self, hash: KeyHash, objects: usize) -> Option<(usize, usize)> {
        let depth = objects.saturating_mul(BUCKET).div_ceil(self.slots().max(1)).clamp(1, BUCKET);
        let (at, fingerprint) = self.place(hash);
        let bucket = self.buckets.get(at)?;
        let found = bucket.iter().take(depth).position(|&slot| slot == fingerprint)?;
        Some((at, found))
    }

    /// Bytes allocated.
    pub(in crate::store) fn memory_bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<[u16; BUCKET]>()
    }

    fn slots(&self) -> usize {
        self.buckets.len() * BUCKET
    }

    /// Doubles until each object has a slot. Both halves begin with what the whole had: what is in
    /// the wrong one falls out in time.
    fn grow(&mut self, objects: usize) {
        if self.buckets.is_empty() {
            let buckets = objects.div_ceil(BUCKET).max(1).next_power_of_two();
            self.buckets = vec![[EMPTY; BUCKET]; buckets];
        }
        while self.slots() < objects {
            self.buckets.reserve_exact(self.buckets.len());
            self.buckets.extend_from_within(..);
        }
    }

    /// The bucket of a key and its fingerprint, which is never [`EMPTY`]; of other bytes of the
    /// hash than the order's table uses.
    fn place(&self, hash: KeyHash) -> (usize, u16) {
        let tail = hash.0.last_chunk().map_or(0, |tail| u64::from_le_bytes(*tail));
        let at = (tail >> 16) as usize & self.buckets.len().saturating_sub(1);
        (at, ((tail & 0xffff) as u16).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Sha256;

    fn key(number: u32) -> KeyHash {
        KeyHash(*Sha256::of(&number.to_le_bytes()).0.first_chunk().unwrap())
    }

    #[test]
    fn what_was_added_is_there_once() {
        let mut ghost = Ghost::default();
        assert!(!ghost.take(key(1), 10));
        for number in 0..4 {
            ghost.add(key(number), 10);
        }
        assert!(ghost.take(key(1), 10) && !ghost.take(key(1), 10));
        for number in [0, 2, 3] {
            assert!(ghost.take(key(number), 10), "{number}");
        }
    }

    #[test]
    fn as_many_are_remembered_as_there_are_objects() {
        for objects in [100_u32, 1000, 1500] {
            let mut ghost = Ghost::default();
            let added = objects * 8;
            (0..added).for_each(|number| ghost.add(key(number), objects as usize));
            let known = |range: std::ops::Range<u32>, ghost: &mut Ghost| {
                range.filter(|&number| ghost.take(key(number), objects as usize)).count()
            };
            let half = objects as usize / 2;
            let newest = known(added - objects / 2..added, &mut ghost);
            assert!(newest > half * 8 / 10, "{newest} of {half} newest");
            let oldest = known(0..added - objects * 2, &mut ghost);
            assert!(oldest < objects as usize / 20, "{oldest} of {added} are remembered too long");
        }
    }

    #[test]
    fn growing_forgets_nothing_new_and_takes_four_bytes_an_object_at_most() {
        let mut ghost = Ghost::default();
        (0..64).for_each(|number| ghost.add(key(number), 256));
        ghost.add(key(1000), 10_000);
        let found = (0..64).filter(|&number| ghost.take(key(number), 10_000)).count();
        assert!(found > 40, "{found} of 64");
        assert!(ghost.memory_bytes() <= 4 * 10_000, "{}", ghost.memory_bytes());
    }
}
