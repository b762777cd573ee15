//! S3-FIFO (Yang et al., SOSP 2023), on bytes, with its parameters open. Pure.

use super::admission::Ghost;
use super::queue::{Links, Queue};
use super::{GHOST_BYTES, NODE_BYTES, Objects, Policy};

/// What may be chosen. The paper: a tenth, more than one use, uses up to three.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parameters {
    /// Percent of the limit that the small queue may take before others must go from it.
    pub(crate) small_percent: u64,
    /// Uses in the small queue that let an object into the main one.
    pub(crate) uses_wanted: u8,
    /// Uses that are counted.
    pub(crate) uses_max: u8,
    /// What is remembered of the evicted.
    pub(crate) ghost: GhostSize,
}

/// How long the small queue's evicted are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GhostSize {
    /// As many as are in the main queue.
    MainObjects,
    /// As many bytes as the main queue may have.
    MainBytes,
}

/// The paper's.
pub(crate) const PAPER: Parameters =
    Parameters { small_percent: 10, uses_wanted: 2, uses_max: 3, ghost: GhostSize::MainObjects };

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Absent,
    Small,
    Main,
}

/// A small queue for the new, a main one for the used, a ghost of those that left the small one.
#[derive(Debug)]
pub(crate) struct S3Fifo<'a> {
    objects: &'a Objects,
    limit: u64,
    parameters: Parameters,
    place: Vec<Place>,
    uses: Vec<u8>,
    links: Links,
    small: Queue,
    main: Queue,
    ghost: Ghost,
}

impl<'a> S3Fifo<'a> {
    /// An empty cache of `limit` bytes.
    pub(crate) fn new(objects: &'a Objects, limit: u64, parameters: Parameters) -> Self {
        let count = objects.charges.len();
        Self {
            objects,
            limit,
            parameters,
            place: vec![Place::Absent; count],
            uses: vec![0; count],
            links: Links::new(count),
            small: Queue::default(),
            main: Queue::default(),
            ghost: Ghost::new(count),
        }
    }

    fn evict(&mut self) {
        let small_limit = self.limit / 100 * self.parameters.small_percent;
        if self.small.bytes() > small_limit || self.main.len() == 0 {
            self.evict_small();
        } else {
            self.evict_main();
        }
    }

    /// Moves the oldest to the main queue if it was used, else out.
    fn evict_small(&mut self) {
        let Some(object) = self.small.oldest() else { return };
        let at = object as usize;
        let charge = self.objects.charges[at];
        self.small.unlink(&mut self.links, object, charge);
        if self.uses[at] >= self.parameters.uses_wanted {
            self.place[at] = Place::Main;
            self.uses[at] = 0;
            self.main.push(&mut self.links, object, charge);
            return;
        }
        self.place[at] = Place::Absent;
        self.ghost.add(object, charge);
        match self.parameters.ghost {
            GhostSize::MainObjects => self.ghost.keep_objects(self.main.len()),
            GhostSize::MainBytes => {
                self.ghost.keep_bytes(self.limit / 100 * (100 - self.parameters.small_percent));
            }
        }
    }

    fn evict_main(&mut self) {
        while let Some(object) = self.main.oldest() {
            let at = object as usize;
            let charge = self.objects.charges[at];
            self.main.unlink(&mut self.links, object, charge);
            if self.uses[at] == 0 {
                self.place[at] = Place::Absent;
                return;
            }
            self.uses[at] -= 1;
            self.main.push(&mut self.links, object, charge);
        }
    }
}

impl Policy for S3Fifo<'_> {
    fn hit(&mut self, object: u32) -> bool {
        let at = object as usize;
        let is_there = self.place[at] != Place::Absent;
        if is_there {
            self.uses[at] = (self.uses[at] + 1).min(self.parameters.uses_max);
        }
        is_there
    }

    fn insert(&mut self, object: u32) {
        while self.is_full_for(object) && self.small.len() + self.main.len() > 0 {
            self.evict();
        }
        let at = object as usize;
        self.uses[at] = 0;
        let (place, queue) = if self.ghost.take(object) {
            (Place::Main, &mut self.main)
        } else {
            (Place::Small, &mut self.small)
        };
        self.place[at] = place;
        queue.push(&mut self.links, object, self.objects.charges[at]);
    }

    fn is_full_for(&self, object: u32) -> bool {
        let charge = self.objects.charges[object as usize];
        self.small.bytes() + self.main.bytes() + charge > self.limit
    }

    fn index_bytes(&self) -> f64 {
        let objects = (self.small.len() + self.main.len()).max(1);
        NODE_BYTES + GHOST_BYTES * self.ghost.len() as f64 / objects as f64
    }
}
