//! SIEVE (Zhang et al., NSDI 2024), on bytes. Pure.

use super::queue::{Links, Queue};
use super::{NODE_BYTES, Objects, Policy};

/// One queue, a mark on what was used, and a hand that passes the marked once.
#[derive(Debug)]
pub(crate) struct Sieve<'a> {
    objects: &'a Objects,
    limit: u64,
    is_there: Vec<bool>,
    is_visited: Vec<bool>,
    links: Links,
    queue: Queue,
    hand: Option<u32>,
}

impl<'a> Sieve<'a> {
    /// An empty cache of `limit` bytes.
    pub(crate) fn new(objects: &'a Objects, limit: u64) -> Self {
        let count = objects.charges.len();
        Self {
            objects,
            limit,
            is_there: vec![false; count],
            is_visited: vec![false; count],
            links: Links::new(count),
            queue: Queue::default(),
            hand: None,
        }
    }

    fn evict(&mut self) {
        let mut at = self.hand.or(self.queue.oldest());
        while let Some(object) = at
            && self.is_visited[object as usize]
        {
            self.is_visited[object as usize] = false;
            at = self.links.newer(object).or(self.queue.oldest());
        }
        let Some(object) = at else { return };
        self.hand = self.links.newer(object);
        self.is_there[object as usize] = false;
        let charge = self.objects.charges[object as usize];
        self.queue.unlink(&mut self.links, object, charge);
    }
}

impl Policy for Sieve<'_> {
    fn hit(&mut self, object: u32) -> bool {
        let is_there = self.is_there[object as usize];
        self.is_visited[object as usize] |= is_there;
        is_there
    }

    fn insert(&mut self, object: u32) {
        while self.is_full_for(object) && self.queue.len() > 0 {
            self.evict();
        }
        self.is_there[object as usize] = true;
        self.is_visited[object as usize] = false;
        self.queue.push(&mut self.links, object, self.objects.charges[object as usize]);
    }

    fn is_full_for(&self, object: u32) -> bool {
        self.queue.bytes() + self.objects.charges[object as usize] > self.limit
    }

    fn index_bytes(&self) -> f64 {
        NODE_BYTES
    }
}
