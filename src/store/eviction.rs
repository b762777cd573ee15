//! Which object goes next: S3-FIFO (Yang et al., SOSP 2023) on bytes, over a compact table. Pure
//! and sync; lives in the store's space account, under its lock. The simulator under `benches/`
//! runs it beside other policies; its figures chose this one and the numbers below.
//!
//! There are two lanes, small bodies (those that live in the index) and large ones (files), so
//! that neither starves the other. Small ones may take a tenth of all bytes before any of them
//! goes; what they leave of it, the large ones use.
//!
//! In each lane new objects queue in `small`, which holds a tenth of its bytes. Who was asked for
//! again by the end of it moves to `main`, others leave and are remembered by fingerprint for a
//! while; who is remembered goes straight to `main`. There each use counts, up to two, for one
//! more round. So what a crawler fetches once passes through a tenth of the space only.
//!
//! A node is 40 bytes, its table slot 5 to 11, its fingerprint 2 to 4.

use super::format::{INLINE_BYTES_MAX, charge};
use super::ghost::Ghost;
use super::slab::{NONE, Node, Nodes, Queue, Stage};
use crate::object::KeyHash;
use hashbrown::HashTable;

/// Uses that are counted.
const USES_MAX: u8 = 2;
/// The part of a lane's bytes that new objects may take.
const SMALL_PART: u64 = 10;
/// The part of all bytes that small bodies may take before any of them goes.
const INLINE_PART: u64 = 10;

/// An object as the eviction order knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Its key's hash.
    pub hash: KeyHash,
    /// Its insertion sequence.
    pub sequence: u64,
    /// Bytes it counts: what [`charge`] says.
    pub charge: u64,
}

/// Objects of one kind, from the next to go to the last.
#[derive(Debug, Default)]
struct Lane {
    small: Queue,
    main: Queue,
    ghost: Ghost,
    objects: usize,
}

impl Lane {
    fn bytes(&self) -> u64 {
        self.small.bytes().saturating_add(self.main.bytes())
    }

    fn queue(&mut self, stage: Stage) -> &mut Queue {
        match stage {
            Stage::Small => &mut self.small,
            Stage::Main => &mut self.main,
        }
    }

    /// The position of the object that goes next; `None` when there is none.
    fn next(&mut self, nodes: &mut Nodes) -> Option<u32> {
        loop {
            let is_small_full = self.small.bytes() > self.bytes() / SMALL_PART;
            let stage = match (is_small_full, self.small.oldest(), self.main.oldest()) {
                (_, NONE, NONE) => return None,
                (true, ..) | (_, _, NONE) => Stage::Small,
                (false, ..) => Stage::Main,
            };
            let position = self.queue(stage).oldest();
            let node = nodes.get_mut(position)?;
            if node.uses == 0 {
                return Some(position);
            }
            node.uses = if stage == Stage::Small { 0 } else { node.uses - 1 };
            node.stage = Stage::Main;
            self.queue(stage).unlink(nodes, position);
            self.main.push(nodes, position);
        }
    }
}

/// The eviction order of all objects.
#[derive(Debug)]
pub struct EvictionOrder {
    table: HashTable<u32>,
    nodes: Nodes,
    inline: Lane,
    file: Lane,
}

impl Default for EvictionOrder {
    fn default() -> Self {
        Self::new()
    }
}

impl EvictionOrder {
    /// No object.
    pub fn new() -> Self {
        Self {
            table: HashTable::new(),
            nodes: Nodes::new(),
            inline: Lane::default(),
            file: Lane::default(),
        }
    }

    /// Objects.
    pub fn len(&self) -> u64 {
        self.table.len() as u64
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The sum of all charges.
    pub fn bytes(&self) -> u64 {
        self.inline.bytes().saturating_add(self.file.bytes())
    }

    /// Bytes of memory allocated for it.
    pub fn memory_bytes(&self) -> usize {
        let ghosts = self.inline.ghost.memory_bytes() + self.file.ghost.memory_bytes();
        self.nodes.memory_bytes() + self.table.allocation_size() + ghosts
    }

    /// The object with this hash.
    pub fn get(&self, hash: KeyHash) -> Option<Entry> {
        self.nodes.get(self.position(hash)?).map(Node::entry)
    }

    /// Marks an object as used, so that it stays longer.
    pub fn touch(&mut self, hash: KeyHash) {
        if let Some(node) = self.position(hash).and_then(|position| self.nodes.get_mut(position)) {
            node.uses = node.uses.saturating_add(1).min(USES_MAX);
        }
    }

    /// Adds an object as the newest; one with the same hash is replaced and returned.
    pub fn insert(&mut self, entry: Entry) -> Option<Entry> {
        let replaced = self.take_out(entry.hash);
        let lane = lane(&mut self.inline, &mut self.file, entry.charge);
        let is_known = replaced.is_some_and(|node| node.stage == Stage::Main)
            || lane.ghost.take(entry.hash, lane.objects);
        let stage = if is_known { Stage::Main } else { Stage::Small };
        let replaced = replaced.map(|node| node.entry());
        let Some(position) = self.nodes.add(Node::new(entry, stage)) else { return replaced };
        lane.objects += 1;
        lane.queue(stage).push(&mut self.nodes, position);
        let nodes = &self.nodes;
        let rehash = |&position: &u32| nodes.get(position).map_or(0, |node| slot(node.hash));
        self.table.insert_unique(slot(entry.hash), position, rehash);
        replaced
    }

    /// Forgets an object.
    pub fn remove(&mut self, hash: KeyHash) -> Option<Entry> {
        self.take_out(hash).map(|node| node.entry())
    }

    /// Takes out the object that goes next; `None` when there is none.
    pub fn evict(&mut self) -> Option<Entry> {
        let is_inline_full = self.inline.bytes() > self.bytes() / INLINE_PART;
        let (first, second) = if is_inline_full {
            (&mut self.inline, &mut self.file)
        } else {
            (&mut self.file, &mut self.inline)
        };
        let next = first.next(&mut self.nodes).or_else(|| second.next(&mut self.nodes))?;
        self.let_go(next)
    }

    /// Takes out the object that goes next of those with a file of their own; `None` when there is
    /// none.
    pub(super) fn evict_file(&mut self) -> Option<Entry> {
        let next = self.file.next(&mut self.nodes)?;
        self.let_go(next)
    }

    fn let_go(&mut self, position: u32) -> Option<Entry> {
        let node = self.unlink(position)?;
        if node.stage == Stage::Small {
            let lane = lane(&mut self.inline, &mut self.file, node.charge());
            lane.ghost.add(node.hash, lane.objects);
        }
        Some(node.entry())
    }

    /// Puts all objects in the order of their insertion; for objects loaded in any order. The
    /// newest of each lane are on trial, the others have passed it.
    pub fn sort_by_sequence(&mut self) {
        let mut positions: Vec<u32> = self.table.iter().copied().collect();
        positions.sort_unstable_by_key(|&position| {
            self.nodes.get(position).map_or(0, |node| node.sequence)
        });
        let mut left = [self.inline.bytes(), self.file.bytes()];
        let trial = left.map(|bytes| bytes / SMALL_PART);
        for lane in [&mut self.inline, &mut self.file] {
            (lane.small, lane.main) = (Queue::default(), Queue::default());
        }
        let ([left_inline, left_file], [trial_inline, trial_file]) = (&mut left, trial);
        for position in positions {
            let Some(node) = self.nodes.get_mut(position) else { continue };
            let (left, trial) = if is_inline(node.charge()) {
                (&mut *left_inline, trial_inline)
            } else {
                (&mut *left_file, trial_file)
            };
            let stage = if *left > trial { Stage::Main } else { Stage::Small };
            *left = left.saturating_sub(node.charge());
            node.stage = stage;
            let lane = lane(&mut self.inline, &mut self.file, node.charge());
            lane.queue(stage).push(&mut self.nodes, position);
        }
    }

    fn position(&self, hash: KeyHash) -> Option<u32> {
        let is_it = |&position: &u32| self.nodes.get(position).is_some_and(|n| n.hash == hash);
        self.table.find(slot(hash), is_it).copied()
    }

    fn take_out(&mut self, hash: KeyHash) -> Option<Node> {
        let position = self.position(hash)?;
        self.unlink(position)
    }

    fn unlink(&mut self, position: u32) -> Option<Node> {
        let node = *self.nodes.get(position)?;
        if let Ok(found) = self.table.find_entry(slot(node.hash), |&p| p == position) {
            found.remove();
        }
        let lane = lane(&mut self.inline, &mut self.file, node.charge());
        lane.objects = lane.objects.saturating_sub(1);
        lane.queue(node.stage).unlink(&mut self.nodes, position);
        self.nodes.release(position);
        Some(node)
    }
}

/// Whether an object that counts this many bytes has its body in the index.
fn is_inline(bytes: u64) -> bool {
    bytes < charge(INLINE_BYTES_MAX)
}

fn lane<'a>(inline: &'a mut Lane, file: &'a mut Lane, bytes: u64) -> &'a mut Lane {
    if is_inline(bytes) { inline } else { file }
}

/// The hash is uniform already: its first eight bytes pick the slot.
fn slot(hash: KeyHash) -> u64 {
    hash.0.first_chunk().map_or(0, |head| u64::from_le_bytes(*head))
}

#[cfg(test)]
mod tests;
