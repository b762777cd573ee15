//! Admission: what was asked for once is remembered, not stored, so that a scan leaves no trace.
//! Pure.

use super::{GHOST_BYTES, Objects, Policy};
use std::collections::VecDeque;

/// Keys that were there or asked for not long ago, the oldest forgotten first.
#[derive(Debug)]
pub(crate) struct Ghost {
    /// The number of each object's last addition; zero if it is not remembered.
    stamps: Vec<u64>,
    order: VecDeque<(u32, u64, u64)>,
    additions: u64,
    bytes: u64,
}

impl Ghost {
    /// None of the objects below `count`.
    pub(crate) fn new(count: usize) -> Self {
        Self { stamps: vec![0; count], order: VecDeque::new(), additions: 0, bytes: 0 }
    }

    /// Remembers an object.
    pub(crate) fn add(&mut self, object: u32, charge: u64) {
        self.additions += 1;
        self.stamps[object as usize] = self.additions;
        self.order.push_back((object, charge, self.additions));
        self.bytes += charge;
    }

    /// Whether it is remembered; it no longer is then.
    pub(crate) fn take(&mut self, object: u32) -> bool {
        std::mem::take(&mut self.stamps[object as usize]) != 0
    }

    /// Forgets the oldest while there are more than this many.
    pub(crate) fn keep_objects(&mut self, count: usize) {
        while self.order.len() > count {
            self.forget();
        }
    }

    /// Forgets the oldest while they have more than this many bytes.
    pub(crate) fn keep_bytes(&mut self, bytes: u64) {
        while self.bytes > bytes {
            self.forget();
        }
    }

    /// How many are remembered.
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }

    fn forget(&mut self) {
        let Some((object, charge, stamp)) = self.order.pop_front() else { return };
        self.bytes -= charge;
        if self.stamps[object as usize] == stamp {
            self.stamps[object as usize] = 0;
        }
    }
}

/// A policy that gets a large object only at its second request within as many bytes of such
/// misses as the limit has; small ones, and all while there is room, it gets at once.
#[derive(Debug)]
pub(crate) struct Doorkeeper<'a, P> {
    objects: &'a Objects,
    limit: u64,
    large_bytes: u64,
    ghost: Ghost,
    there: usize,
    inner: P,
}

impl<'a, P: Policy> Doorkeeper<'a, P> {
    /// In front of `inner`, for objects of `large_bytes` or more.
    pub(crate) fn new(objects: &'a Objects, limit: u64, large_bytes: u64, inner: P) -> Self {
        let ghost = Ghost::new(objects.charges.len());
        Self { objects, limit, large_bytes, ghost, there: 0, inner }
    }
}

impl<P: Policy> Policy for Doorkeeper<'_, P> {
    fn hit(&mut self, object: u32) -> bool {
        self.inner.hit(object)
    }

    fn insert(&mut self, object: u32) {
        let charge = self.objects.charges[object as usize];
        let is_large = charge >= self.large_bytes && self.inner.is_full_for(object);
        if is_large && !self.ghost.take(object) {
            self.ghost.add(object, charge);
            self.ghost.keep_bytes(self.limit);
            return;
        }
        self.there += 1;
        self.inner.insert(object);
    }

    fn is_full_for(&self, object: u32) -> bool {
        self.inner.is_full_for(object)
    }

    fn index_bytes(&self) -> f64 {
        let remembered = self.ghost.len() as f64 / self.there.max(1) as f64;
        self.inner.index_bytes() + GHOST_BYTES * remembered
    }
}
