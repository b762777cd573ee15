//! W-TinyLFU (Einziger, Friedman, Manes, 2017), on bytes: an LRU window, a segmented LRU behind
//! it, and a count-min sketch that judges which object may pass from one to the other. Pure.

use super::queue::{Links, Queue};
use super::{NODE_BYTES, Objects, Policy};

const WINDOW_PERCENT: u64 = 1;
/// Of what is not the window.
const PROTECTED_PERCENT: u64 = 80;
const ROWS: u32 = 4;
const COUNT_MAX: u8 = 15;
/// Additions for each counter of a row until all are halved.
const SAMPLE_FACTOR: usize = 10;

/// How often a key was asked for lately, at most; counters of four bits (here a byte each).
#[derive(Debug)]
struct Sketch {
    counters: Vec<u8>,
    row: usize,
    additions: usize,
}

impl Sketch {
    fn new(expected: usize) -> Self {
        let row = expected.next_power_of_two().max(64);
        Self { counters: vec![0; row * ROWS as usize], row, additions: 0 }
    }

    fn positions(&self, hash: u64) -> impl Iterator<Item = usize> + use<> {
        let row = self.row;
        (0..ROWS).map(move |number| {
            let spread = crate::random::mix(hash.rotate_left(number * 16));
            number as usize * row + (spread as usize & (row - 1))
        })
    }

    fn add(&mut self, hash: u64) {
        for at in self.positions(hash) {
            self.counters[at] = (self.counters[at] + 1).min(COUNT_MAX);
        }
        self.additions += 1;
        if self.additions >= self.row * SAMPLE_FACTOR {
            self.additions /= 2;
            self.counters.iter_mut().for_each(|count| *count /= 2);
        }
    }

    fn count(&self, hash: u64) -> u8 {
        self.positions(hash).map(|at| self.counters[at]).min().unwrap_or_default()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Absent,
    Window,
    Probation,
    Protected,
}

/// The window, the two segments and the sketch.
#[derive(Debug)]
pub(crate) struct TinyLfu<'a> {
    objects: &'a Objects,
    limit: u64,
    place: Vec<Place>,
    links: Links,
    window: Queue,
    probation: Queue,
    protected: Queue,
    sketch: Sketch,
}

impl<'a> TinyLfu<'a> {
    /// An empty cache of `limit` bytes.
    pub(crate) fn new(objects: &'a Objects, limit: u64) -> Self {
        let count = objects.charges.len();
        let mean = objects.charges.iter().sum::<u64>() / (count as u64).max(1);
        let expected = (limit / mean.max(1)) as usize;
        Self {
            objects,
            limit,
            place: vec![Place::Absent; count],
            links: Links::new(count),
            window: Queue::default(),
            probation: Queue::default(),
            protected: Queue::default(),
            sketch: Sketch::new(expected),
        }
    }

    fn window_limit(&self) -> u64 {
        self.limit / 100 * WINDOW_PERCENT
    }

    fn main_limit(&self) -> u64 {
        self.limit - self.window_limit()
    }

    fn queue(&mut self, place: Place) -> Option<&mut Queue> {
        match place {
            Place::Absent => None,
            Place::Window => Some(&mut self.window),
            Place::Probation => Some(&mut self.probation),
            Place::Protected => Some(&mut self.protected),
        }
    }

    fn put(&mut self, object: u32, place: Place) {
        let charge = self.objects.charges[object as usize];
        let mut links = std::mem::replace(&mut self.links, Links::new(0));
        let before = self.place[object as usize];
        if let Some(queue) = self.queue(before) {
            queue.unlink(&mut links, object, charge);
        }
        if let Some(queue) = self.queue(place) {
            queue.push(&mut links, object, charge);
        }
        self.links = links;
        self.place[object as usize] = place;
    }

    fn shrink_protected(&mut self) {
        let protected_limit = self.main_limit() / 100 * PROTECTED_PERCENT;
        while self.protected.bytes() > protected_limit
            && let Some(oldest) = self.protected.oldest()
        {
            self.put(oldest, Place::Probation);
        }
    }

    /// The window's oldest goes on if it is asked for more often than each one it would replace.
    fn judge(&mut self, candidate: u32) {
        let charge = self.objects.charges[candidate as usize];
        let frequency = self.sketch.count(self.objects.hashes[candidate as usize]);
        while self.probation.bytes() + self.protected.bytes() + charge > self.main_limit() {
            let victim = self.probation.oldest().or(self.protected.oldest());
            let Some(victim) = victim else {
                self.put(candidate, Place::Absent);
                return;
            };
            if frequency <= self.sketch.count(self.objects.hashes[victim as usize]) {
                self.put(candidate, Place::Absent);
                return;
            }
            self.put(victim, Place::Absent);
        }
        self.put(candidate, Place::Probation);
    }
}

impl Policy for TinyLfu<'_> {
    fn hit(&mut self, object: u32) -> bool {
        self.sketch.add(self.objects.hashes[object as usize]);
        match self.place[object as usize] {
            Place::Absent => return false,
            Place::Window => self.put(object, Place::Window),
            Place::Probation | Place::Protected => {
                self.put(object, Place::Protected);
                self.shrink_protected();
            }
        }
        true
    }

    fn insert(&mut self, object: u32) {
        self.put(object, Place::Window);
        while self.window.bytes() > self.window_limit()
            && let Some(oldest) = self.window.oldest()
        {
            self.judge(oldest);
        }
    }

    fn is_full_for(&self, object: u32) -> bool {
        let used = self.window.bytes() + self.probation.bytes() + self.protected.bytes();
        used + self.objects.charges[object as usize] > self.limit
    }

    fn index_bytes(&self) -> f64 {
        let objects = self.window.len() + self.probation.len() + self.protected.len();
        NODE_BYTES + self.sketch.counters.len() as f64 / 2.0 / objects.max(1) as f64
    }
}
