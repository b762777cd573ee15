//! Which object goes next: S3-FIFO (Yang et al., SOSP 2023) on bytes, over a compact table. Pure
//! and sync; lives in the store's space account, under its lock. The simulator under `benches/`
//! runs it beside other policies; its figures chose this one and the numbers below.
//!
//! There are two kinds, small bodies (those that live in the index) and large ones (files), so
//! that neither starves the other. Small ones may take a tenth of all bytes before any of them
//! goes; what they leave of it, the large ones use.
//!
//! In each kind new objects queue in `small`, which holds a tenth of its bytes. One that was asked
//! for again by the end of it moves to `main`, others leave and are remembered by fingerprint for a
//! while; an object that is remembered goes straight to `main`. There each use counts, up to two,
//! for one more round. So what a crawler fetches once passes through a tenth of the space only.
//!
//! An object is known by its insertion sequence alone: sixteen bytes, less if the index knows
//! the rest. Its key's fingerprint in the memory of those that left takes two to four more.
//!
//! A start loads the objects in the order of their insertion into a queue of their own, then puts
//! them in the places that a snapshot of the order names, then the rest: see
//! [`EvictionOrder::load`]. What comes, is used or goes meanwhile does so at once.

use crate::object::KeyHash;
use crate::store::eviction::ghost::Ghost;
use crate::store::eviction::slab::{BodyKind, CHARGE_MAX, NONE, OrderQueue, QueueEnd, Slab};

pub use crate::store::eviction::slab::EvictionEntry;
pub(in crate::store) use crate::store::eviction::slab::{OrderedObject, QueueStage};

/// Uses that are counted.
pub(in crate::store) const USES_MAX: u8 = 2;
/// The part of a kind's bytes that new objects may take.
const SMALL_PART: u64 = 10;
/// The part of all bytes that small bodies may take before any of them goes.
const INLINE_PART: u64 = 10;
/// Bytes that one object may count at most: 128 GiB.
pub(in crate::store) const ENTRY_BYTES_MAX: u64 = CHARGE_MAX;

/// An object that was chosen to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Evicted {
    /// The object.
    pub entry: EvictionEntry,
    /// Whether it was still on trial: then [`EvictionOrder::remember`] its key.
    pub was_on_trial: bool,
}

/// Where loaded objects go that no snapshot places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Unplaced {
    /// There is no snapshot: the newest tenth of each kind is on trial, the others have passed it.
    All,
    /// They came after the snapshot: all are on trial.
    Newcomers,
}

/// The eviction order of all objects.
#[derive(Debug)]
pub struct EvictionOrder {
    slab: Slab,
    inline_ghost: Ghost,
    file_ghost: Ghost,
}

impl Default for EvictionOrder {
    fn default() -> Self {
        Self::new()
    }
}

impl EvictionOrder {
    /// No object.
    pub fn new() -> Self {
        let (inline_ghost, file_ghost) = (Ghost::default(), Ghost::default());
        Self { slab: Slab::new(), inline_ghost, file_ghost }
    }

    /// Objects.
    pub fn len(&self) -> u64 {
        (self.objects(BodyKind::Inline) + self.objects(BodyKind::File)) as u64
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The sum of all charges.
    pub fn bytes(&self) -> u64 {
        self.bytes_of(BodyKind::Inline).saturating_add(self.bytes_of(BodyKind::File))
    }

    /// Bytes of memory allocated for it.
    pub fn memory_bytes(&self) -> usize {
        let ghosts = self.inline_ghost.memory_bytes() + self.file_ghost.memory_bytes();
        self.slab.memory_bytes() + ghosts
    }

    /// The object of this insertion.
    pub fn get(&self, sequence: u64) -> Option<EvictionEntry> {
        Some(self.slab.seen(self.slab.position(sequence)?)?.entry)
    }

    /// Whether an object was used since it was stored, or has passed its trial.
    pub fn is_used(&self, sequence: u64) -> bool {
        let seen = self.slab.position(sequence).and_then(|position| self.slab.seen(position));
        seen.is_some_and(|seen| seen.uses > 0 || seen.stage == QueueStage::Main)
    }

    /// Changes what an object counts, within its kind; what it was before, if it is there.
    pub(in crate::store) fn recharge(&mut self, now: EvictionEntry) -> Option<EvictionEntry> {
        let position = self.slab.position(now.sequence)?;
        let before = self.slab.seen(position)?.entry;
        self.slab.recharge(position, now.charge);
        Some(before)
    }

    /// Marks an object as used, so that it stays longer.
    pub fn touch(&mut self, sequence: u64) {
        if let Some(position) = self.slab.position(sequence)
            && let Some(seen) = self.slab.seen(position)
        {
            self.slab.set_uses(position, seen.uses.saturating_add(1).min(USES_MAX));
        }
    }

    /// Adds an object under the key `hash` as the newest, in place of the insertion `replaced` of
    /// the same key, which is returned if it was there.
    pub fn insert(
        &mut self,
        entry: EvictionEntry,
        hash: KeyHash,
        replaced: Option<u64>,
    ) -> Option<EvictionEntry> {
        let gone = replaced.and_then(|sequence| self.take_out(sequence));
        let kind = BodyKind::of(entry.charge);
        let objects = self.objects(kind);
        let is_known = gone.is_some_and(|seen| seen.stage == QueueStage::Main)
            || self.ghost(kind).take(hash, objects);
        let stage = if is_known { QueueStage::Main } else { QueueStage::Small };
        self.slab.add(entry, stage, 0, QueueEnd::Newest);
        gone.map(|seen| seen.entry)
    }

    /// Adds an object again that was chosen to go and could not.
    pub fn restore(&mut self, entry: EvictionEntry) -> bool {
        self.slab.add(entry, QueueStage::Small, 0, QueueEnd::Newest)
    }

    /// Forgets an object.
    pub fn remove(&mut self, sequence: u64) -> Option<EvictionEntry> {
        self.take_out(sequence).map(|seen| seen.entry)
    }

    /// Takes out the object that goes next; `None` when there is none.
    pub fn evict(&mut self) -> Option<Evicted> {
        let is_inline_full = self.bytes_of(BodyKind::Inline) > self.bytes() / INLINE_PART;
        let (first, second) = if is_inline_full {
            (BodyKind::Inline, BodyKind::File)
        } else {
            (BodyKind::File, BodyKind::Inline)
        };
        let position = self.next(first).or_else(|| self.next(second))?;
        self.let_go(position)
    }

    /// Takes out the object that goes next of those that are on trial and were never asked for
    /// again; `None` when there is none. Those that were pass their trial.
    pub(in crate::store) fn evict_untried(&mut self) -> Option<Evicted> {
        let position =
            self.next_untried(BodyKind::File).or_else(|| self.next_untried(BodyKind::Inline))?;
        self.let_go(position)
    }

    fn next_untried(&mut self, kind: BodyKind) -> Option<u32> {
        loop {
            let position = self.slab.queue(kind, QueueStage::Small).oldest();
            let seen = self.slab.seen(position)?;
            if seen.uses == 0 {
                return Some(position);
            }
            self.slab.move_to(position, QueueStage::Main, 0, QueueEnd::Newest);
        }
    }

    /// Whether the key of an object that counts `charge` is remembered.
    pub(in crate::store) fn remembers(&self, hash: KeyHash, charge: u64) -> bool {
        let (kind, objects) = (BodyKind::of(charge), self.objects(BodyKind::of(charge)));
        match kind {
            BodyKind::Inline => self.inline_ghost.has(hash, objects),
            BodyKind::File => self.file_ghost.has(hash, objects),
        }
    }

    /// Takes out the object that goes next of those with a file of their own; `None` when there is
    /// none.
    pub(in crate::store) fn evict_file(&mut self) -> Option<Evicted> {
        let position = self.next(BodyKind::File)?;
        self.let_go(position)
    }

    fn let_go(&mut self, position: u32) -> Option<Evicted> {
        let seen = self.slab.remove(position)?;
        Some(Evicted { entry: seen.entry, was_on_trial: seen.stage == QueueStage::Small })
    }

    /// Remembers the key of an object that left on trial, so that it stays longer when it is back.
    pub fn remember(&mut self, hash: KeyHash, charge: u64) {
        let kind = BodyKind::of(charge);
        let objects = self.objects(kind);
        self.ghost(kind).add(hash, objects);
    }

    /// Adds an object that was there before the start; objects come in the order of their
    /// insertion. It may go, be used and be removed, and counts, but has no place yet.
    pub(in crate::store) fn load(&mut self, entry: EvictionEntry) {
        self.slab.add(entry, QueueStage::Waiting, 0, QueueEnd::Loaded);
    }

    /// Puts a loaded object in the place that a snapshot names; objects come in the order of the
    /// snapshot. One that is gone, or has a place already, stays as it is.
    pub(in crate::store) fn place(&mut self, sequence: u64, stage: QueueStage, uses: u8) {
        if let Some(position) = self.slab.position(sequence)
            && let Some(seen) = self.slab.seen(position)
            && seen.stage == QueueStage::Waiting
        {
            let uses = seen.uses.max(uses).min(USES_MAX);
            self.slab.move_to(position, stage, uses, QueueEnd::Loaded);
        }
    }

    /// Gives a place to at most `max` loaded objects that have none, the oldest first; false when
    /// all have one.
    pub(in crate::store) fn settle(&mut self, max: usize, unplaced: Unplaced) -> bool {
        for kind in [BodyKind::Inline, BodyKind::File] {
            let trial = match unplaced {
                Unplaced::All => self.bytes_of(kind) / SMALL_PART,
                Unplaced::Newcomers => u64::MAX,
            };
            for _ in 0..max {
                let waiting = self.slab.queue(kind, QueueStage::Waiting);
                let Some(seen) = self.slab.seen(waiting.oldest()) else { break };
                let stage =
                    if waiting.bytes() > trial { QueueStage::Main } else { QueueStage::Small };
                self.slab.move_to(waiting.oldest(), stage, seen.uses, QueueEnd::Loaded);
            }
        }
        self.slab.queue(BodyKind::Inline, QueueStage::Waiting).objects() > 0
            || self.slab.queue(BodyKind::File, QueueStage::Waiting).objects() > 0
    }

    /// Begins a walk over all objects that have a place, from the next to go to the last in each
    /// queue; the one before it ends.
    pub(in crate::store) fn begin_walk(&mut self) {
        for (kind, stage) in WALK {
            self.slab.begin_walk(kind, stage);
        }
    }

    /// At most `max` objects of a walk, all in one queue; none at its end. See [`Slab::walk`].
    pub(in crate::store) fn walk(&mut self, max: usize) -> Vec<OrderedObject> {
        let queues = WALK.into_iter();
        let mut walked = queues.map(|(kind, stage)| self.slab.walk(kind, stage, max));
        walked.find(|seen| !seen.is_empty()).unwrap_or_default()
    }

    /// The position of the object of a kind that goes next; `None` when there is none.
    fn next(&mut self, kind: BodyKind) -> Option<u32> {
        loop {
            let [waiting, small, main] = [QueueStage::Waiting, QueueStage::Small, QueueStage::Main]
                .map(|stage| self.slab.queue(kind, stage));
            let is_small_full = small.bytes() > self.bytes_of(kind) / SMALL_PART;
            let position = match (waiting.oldest(), small.oldest(), main.oldest()) {
                (NONE, NONE, NONE) => return None,
                (NONE, small, NONE) => small,
                (NONE, small, _) if is_small_full => small,
                (NONE, _, main) => main,
                (waiting, ..) => waiting,
            };
            let seen = self.slab.seen(position)?;
            if seen.uses == 0 {
                return Some(position);
            }
            let uses = if seen.stage == QueueStage::Main { seen.uses - 1 } else { 0 };
            self.slab.move_to(position, QueueStage::Main, uses, QueueEnd::Newest);
        }
    }

    fn take_out(&mut self, sequence: u64) -> Option<OrderedObject> {
        let position = self.slab.position(sequence)?;
        self.slab.remove(position)
    }

    fn ghost(&mut self, kind: BodyKind) -> &mut Ghost {
        match kind {
            BodyKind::Inline => &mut self.inline_ghost,
            BodyKind::File => &mut self.file_ghost,
        }
    }

    fn queues(&self, kind: BodyKind) -> impl Iterator<Item = OrderQueue> {
        [QueueStage::Waiting, QueueStage::Small, QueueStage::Main]
            .map(|s| self.slab.queue(kind, s))
            .into_iter()
    }

    fn objects(&self, kind: BodyKind) -> usize {
        self.queues(kind).map(|queue| queue.objects()).sum()
    }

    fn bytes_of(&self, kind: BodyKind) -> u64 {
        self.queues(kind).fold(0, |sum, queue| sum.saturating_add(queue.bytes()))
    }
}

/// The queues of a walk. The small ones first: an object that moves to a main queue meanwhile is
/// seen there.
const WALK: [(BodyKind, QueueStage); 4] = [
    (BodyKind::Inline, QueueStage::Small),
    (BodyKind::File, QueueStage::Small),
    (BodyKind::Inline, QueueStage::Main),
    (BodyKind::File, QueueStage::Main),
];

#[cfg(test)]
mod tests;
