//! The nodes of the eviction order: objects in fixed chunks, linked into queues by position. Pure;
//! part of the eviction order. Growing never copies a node and never needs twice the memory.

use super::eviction::Entry;
use super::format::CHARGE_UNIT;
use crate::object::KeyHash;

/// No position.
pub(super) const NONE: u32 = u32::MAX;
const CHUNK: usize = 8192;

/// The queue of its lane that an object is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// New: on trial.
    Small,
    /// Asked for again.
    Main,
}

/// An object.
#[derive(Debug, Clone, Copy)]
pub(super) struct Node {
    /// Its key's hash.
    pub(super) hash: KeyHash,
    /// Its insertion sequence.
    pub(super) sequence: u64,
    /// Its charge in [`CHARGE_UNIT`]s.
    charge_units: u32,
    /// Towards the newest.
    newer: u32,
    /// Towards the oldest; the next free node in the list of free ones.
    older: u32,
    /// The queue it is in.
    pub(super) stage: Stage,
    /// Uses that still count for it.
    pub(super) uses: u8,
}

impl Node {
    /// An object in no queue yet.
    pub(super) fn new(entry: Entry, stage: Stage) -> Self {
        Self {
            hash: entry.hash,
            sequence: entry.sequence,
            charge_units: u32::try_from(entry.charge / CHARGE_UNIT).unwrap_or(u32::MAX),
            newer: NONE,
            older: NONE,
            stage,
            uses: 0,
        }
    }

    /// The object as others know it.
    pub(super) fn entry(&self) -> Entry {
        Entry { hash: self.hash, sequence: self.sequence, charge: self.charge() }
    }

    /// Bytes it counts.
    pub(super) fn charge(&self) -> u64 {
        u64::from(self.charge_units) * CHARGE_UNIT
    }
}

/// A queue: its ends, and the sum of its charges.
#[derive(Debug)]
pub(super) struct Queue {
    newest: u32,
    oldest: u32,
    bytes: u64,
}

impl Default for Queue {
    fn default() -> Self {
        Self { newest: NONE, oldest: NONE, bytes: 0 }
    }
}

impl Queue {
    /// The sum of all charges.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The position of the oldest, [`NONE`] where there is none.
    pub(super) fn oldest(&self) -> u32 {
        self.oldest
    }

    /// Adds a node as the newest.
    pub(super) fn push(&mut self, nodes: &mut Nodes, position: u32) {
        let Some(node) = nodes.get_mut(position) else { return };
        (node.newer, node.older) = (NONE, self.newest);
        self.bytes = self.bytes.saturating_add(node.charge());
        match nodes.get_mut(self.newest) {
            Some(newest) => newest.newer = position,
            None => self.oldest = position,
        }
        self.newest = position;
    }

    /// Takes a node out, which must be in this queue.
    pub(super) fn unlink(&mut self, nodes: &mut Nodes, position: u32) {
        let Some(&node) = nodes.get(position) else { return };
        match nodes.get_mut(node.newer) {
            Some(newer) => newer.older = node.older,
            None => self.newest = node.older,
        }
        match nodes.get_mut(node.older) {
            Some(older) => older.newer = node.newer,
            None => self.oldest = node.newer,
        }
        self.bytes = self.bytes.saturating_sub(node.charge());
    }
}

/// All nodes, by position.
#[derive(Debug)]
pub(super) struct Nodes {
    chunks: Vec<Vec<Node>>,
    free: u32,
}

impl Nodes {
    /// No node.
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new(), free: NONE }
    }

    /// The node at a position; also one that was released and not used again.
    pub(super) fn get(&self, position: u32) -> Option<&Node> {
        let position = position as usize;
        self.chunks.get(position / CHUNK)?.get(position % CHUNK)
    }

    /// As [`Nodes::get`].
    pub(super) fn get_mut(&mut self, position: u32) -> Option<&mut Node> {
        let position = position as usize;
        self.chunks.get_mut(position / CHUNK)?.get_mut(position % CHUNK)
    }

    /// A position for a node. `None` only past four billion nodes.
    pub(super) fn add(&mut self, node: Node) -> Option<u32> {
        let free = self.free;
        if let Some(slot) = self.get_mut(free) {
            let next = slot.older;
            *slot = node;
            self.free = next;
            return Some(free);
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let full = self.chunks.len().saturating_sub(1) * CHUNK;
        let chunk = self.chunks.last_mut()?;
        let position = u32::try_from(full + chunk.len()).ok().filter(|&p| p != NONE)?;
        chunk.push(node);
        Some(position)
    }

    /// Gives a position back, whose node is in no queue any more.
    pub(super) fn release(&mut self, position: u32) {
        let next = self.free;
        if let Some(node) = self.get_mut(position) {
            node.older = next;
            self.free = position;
        }
    }

    /// Bytes allocated.
    pub(super) fn memory_bytes(&self) -> usize {
        self.chunks.len() * CHUNK * size_of::<Node>() + self.chunks.capacity() * size_of::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_small() {
        assert_eq!(size_of::<Node>(), 40);
    }

    #[test]
    fn released_positions_are_used_again() {
        let mut nodes = Nodes::new();
        let entry = Entry { hash: KeyHash([1; 16]), sequence: 1, charge: CHARGE_UNIT };
        let positions: Vec<u32> =
            (0..3).map(|_| nodes.add(Node::new(entry, Stage::Small)).unwrap()).collect();
        nodes.release(positions[0]);
        nodes.release(positions[2]);
        let again: Vec<u32> =
            (0..3).map(|_| nodes.add(Node::new(entry, Stage::Small)).unwrap()).collect();
        assert_eq!((positions, again), (vec![0, 1, 2], vec![2, 0, 3]));
    }
}
