//! The policies that are compared, each on bytes. Objects are numbers of the trace; what a policy
//! keeps of them lies in tables by number. Pure; called by `replay`.

mod admission;
pub(crate) mod choice;
mod queue;
mod s3_fifo;
mod sieve;
mod store;
mod tiny_lfu;

use queue::{Links, Queue};

/// Bytes of a node as the store's index has it: key hash 16, insertion sequence 8, charge 4, two
/// links 8, a byte of marks, rounded up to 40; its slot in a hash table takes about 8.
pub(crate) const NODE_BYTES: f64 = 48.0;
/// Bytes of a remembered key: a fingerprint of two bytes in a table that is half full or more.
pub(crate) const GHOST_BYTES: f64 = 3.0;

/// Objects as the policies see them.
#[derive(Debug)]
pub(crate) struct Objects {
    /// What each takes of the limit in bytes.
    pub(crate) charges: Vec<u64>,
    /// The hash of each one's key.
    pub(crate) hashes: Vec<u64>,
}

/// What decides which object stays.
pub(crate) trait Policy {
    /// Notes a request; whether the object is there.
    fn hit(&mut self, object: u32) -> bool;
    /// Takes an object in that was not there, and evicts until the limit holds.
    fn insert(&mut self, object: u32);
    /// Whether the object is larger than what is free.
    fn is_full_for(&self, object: u32) -> bool;
    /// Bytes of memory an object that is there takes in a compact index.
    fn index_bytes(&self) -> f64;
}

/// What a hit does in a plain queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnHit {
    /// It becomes the newest: LRU.
    Renew,
    /// Nothing: FIFO.
    Ignore,
}

/// LRU and FIFO.
#[derive(Debug)]
pub(crate) struct Plain<'a> {
    objects: &'a Objects,
    limit: u64,
    on_hit: OnHit,
    is_there: Vec<bool>,
    links: Links,
    queue: Queue,
}

impl<'a> Plain<'a> {
    /// An empty cache of `limit` bytes.
    pub(crate) fn new(objects: &'a Objects, limit: u64, on_hit: OnHit) -> Self {
        let count = objects.charges.len();
        let is_there = vec![false; count];
        Self { objects, limit, on_hit, is_there, links: Links::new(count), queue: Queue::default() }
    }
}

impl Policy for Plain<'_> {
    fn hit(&mut self, object: u32) -> bool {
        let is_there = self.is_there[object as usize];
        if is_there && self.on_hit == OnHit::Renew {
            let charge = self.objects.charges[object as usize];
            self.queue.unlink(&mut self.links, object, charge);
            self.queue.push(&mut self.links, object, charge);
        }
        is_there
    }

    fn insert(&mut self, object: u32) {
        while self.is_full_for(object)
            && let Some(oldest) = self.queue.oldest()
        {
            let charge = self.objects.charges[oldest as usize];
            self.queue.unlink(&mut self.links, oldest, charge);
            self.is_there[oldest as usize] = false;
        }
        self.is_there[object as usize] = true;
        self.queue.push(&mut self.links, object, self.objects.charges[object as usize]);
    }

    fn is_full_for(&self, object: u32) -> bool {
        self.queue.bytes() + self.objects.charges[object as usize] > self.limit
    }

    fn index_bytes(&self) -> f64 {
        NODE_BYTES
    }
}
