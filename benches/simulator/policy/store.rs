//! The store's own eviction order: the code that runs in the edge. Pure.

use super::{Objects, Policy};
use crate::random::mix;
use narthex::object::KeyHash;
use narthex::store::{EvictionEntry, EvictionOrder};

/// The order, and the limit that the store's account keeps.
#[derive(Debug)]
pub(crate) struct StoreOrder<'a> {
    objects: &'a Objects,
    limit: u64,
    order: EvictionOrder,
    /// The object of each insertion, and the insertion of each object; none: [`NEVER`].
    insertions: Vec<u32>,
    sequences: Vec<u64>,
    objects_max: u64,
}

const NEVER: u64 = u64::MAX;

impl<'a> StoreOrder<'a> {
    /// An empty cache of `limit` bytes.
    pub(crate) fn new(objects: &'a Objects, limit: u64) -> Self {
        Self {
            objects,
            limit,
            order: EvictionOrder::new(),
            insertions: Vec::new(),
            sequences: vec![NEVER; objects.hashes.len()],
            objects_max: 0,
        }
    }

    fn key(&self, object: u32) -> KeyHash {
        let hash = self.objects.hashes[object as usize];
        let both = u128::from(hash) << 64 | u128::from(mix(hash));
        KeyHash(both.to_le_bytes())
    }
}

impl Policy for StoreOrder<'_> {
    fn hit(&mut self, object: u32) -> bool {
        let sequence = self.sequences[object as usize];
        self.order.touch(sequence);
        self.order.get(sequence).is_some()
    }

    fn insert(&mut self, object: u32) {
        while self.is_full_for(object)
            && let Some(evicted) = self.order.evict()
        {
            if evicted.was_on_trial {
                let key = self.key(self.insertions[evicted.entry.sequence as usize]);
                self.order.remember(key, evicted.entry.charge);
            }
        }
        let entry = EvictionEntry {
            sequence: self.insertions.len() as u64,
            charge: self.objects.charges[object as usize],
        };
        let replaced = self.sequences[object as usize];
        self.order.insert(entry, self.key(object), Some(replaced));
        self.sequences[object as usize] = entry.sequence;
        self.insertions.push(object);
        self.objects_max = self.objects_max.max(self.order.len());
    }

    fn is_full_for(&self, object: u32) -> bool {
        self.order.bytes() + self.objects.charges[object as usize] > self.limit
    }

    /// What is allocated, over the objects there were at most: it is never given back.
    fn index_bytes(&self) -> f64 {
        self.order.memory_bytes() as f64 / self.objects_max.max(1) as f64
    }
}
