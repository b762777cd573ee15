//! Which object goes next: SIEVE (Zhang et al., NSDI 2024) over a compact table, in bytes. Pure
//! and sync; lives in the store's space account, under its lock.
//!
//! A node is 40 bytes and its table slot 5 to 11: nodes lie in fixed chunks, so that growing never
//! copies them and never needs twice the memory.

use super::format::CHARGE_UNIT;
use crate::object::KeyHash;
use hashbrown::HashTable;

const NONE: u32 = u32::MAX;
const CHUNK: usize = 8192;

/// An object as the eviction order knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its key's hash.
    pub(super) hash: KeyHash,
    /// Its insertion sequence.
    pub(super) sequence: u64,
    /// Bytes it counts; a multiple of [`CHARGE_UNIT`].
    pub(super) charge: u64,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    hash: KeyHash,
    sequence: u64,
    charge_units: u32,
    /// Towards the newest.
    newer: u32,
    /// Towards the oldest; the next free node in the list of free ones.
    older: u32,
    is_visited: bool,
}

impl Node {
    fn entry(&self) -> Entry {
        Entry {
            hash: self.hash,
            sequence: self.sequence,
            charge: u64::from(self.charge_units) * CHARGE_UNIT,
        }
    }
}

/// The eviction order of all objects.
#[derive(Debug)]
pub(super) struct Sieve {
    table: HashTable<u32>,
    nodes: Nodes,
    newest: u32,
    oldest: u32,
    hand: u32,
    bytes: u64,
}

impl Sieve {
    /// No object.
    pub(super) fn new() -> Self {
        Self {
            table: HashTable::new(),
            nodes: Nodes { chunks: Vec::new(), free: NONE },
            newest: NONE,
            oldest: NONE,
            hand: NONE,
            bytes: 0,
        }
    }

    /// Objects.
    pub(super) fn len(&self) -> u64 {
        self.table.len() as u64
    }

    /// The sum of all charges.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The object with this hash.
    pub(super) fn get(&self, hash: KeyHash) -> Option<Entry> {
        self.nodes.get(self.position(hash)?).map(Node::entry)
    }

    /// Marks an object as used, so that the hand passes it once.
    pub(super) fn touch(&mut self, hash: KeyHash) {
        if let Some(node) = self.position(hash).and_then(|position| self.nodes.get_mut(position)) {
            node.is_visited = true;
        }
    }

    /// Adds an object as the newest; one with the same hash is replaced and returned.
    pub(super) fn insert(&mut self, entry: Entry) -> Option<Entry> {
        let replaced = self.remove(entry.hash);
        let units = u32::try_from(entry.charge / CHARGE_UNIT).unwrap_or(u32::MAX);
        let node = Node {
            hash: entry.hash,
            sequence: entry.sequence,
            charge_units: units,
            newer: NONE,
            older: self.newest,
            is_visited: false,
        };
        let Some(position) = self.nodes.add(node) else { return replaced };
        match self.nodes.get_mut(self.newest) {
            Some(newest) => newest.newer = position,
            None => self.oldest = position,
        }
        self.newest = position;
        self.bytes = self.bytes.saturating_add(node.entry().charge);
        let nodes = &self.nodes;
        let rehash = |&position: &u32| nodes.get(position).map_or(0, |node| slot(node.hash));
        self.table.insert_unique(slot(entry.hash), position, rehash);
        replaced
    }

    /// Forgets an object.
    pub(super) fn remove(&mut self, hash: KeyHash) -> Option<Entry> {
        let position = self.position(hash)?;
        self.unlink(position)
    }

    /// Takes out the object that goes next; `None` when there is none.
    pub(super) fn evict(&mut self) -> Option<Entry> {
        let mut position = if self.hand == NONE { self.oldest } else { self.hand };
        loop {
            let oldest = self.oldest;
            let node = self.nodes.get_mut(position)?;
            if !node.is_visited {
                self.hand = position;
                return self.unlink(position);
            }
            node.is_visited = false;
            position = if node.newer == NONE { oldest } else { node.newer };
        }
    }

    /// Puts all objects in the order of their insertion; for objects loaded in any order.
    pub(super) fn sort_by_sequence(&mut self) {
        let mut positions: Vec<u32> = self.table.iter().copied().collect();
        positions.sort_unstable_by_key(|&position| {
            self.nodes.get(position).map_or(0, |node| node.sequence)
        });
        (self.oldest, self.newest, self.hand) = (NONE, NONE, NONE);
        for position in positions {
            let older = self.newest;
            if let Some(node) = self.nodes.get_mut(older) {
                node.newer = position;
            } else {
                self.oldest = position;
            }
            if let Some(node) = self.nodes.get_mut(position) {
                (node.older, node.newer) = (older, NONE);
            }
            self.newest = position;
        }
    }

    fn position(&self, hash: KeyHash) -> Option<u32> {
        let is_it = |&position: &u32| self.nodes.get(position).is_some_and(|n| n.hash == hash);
        self.table.find(slot(hash), is_it).copied()
    }

    fn unlink(&mut self, position: u32) -> Option<Entry> {
        let node = *self.nodes.get(position)?;
        if let Ok(found) = self.table.find_entry(slot(node.hash), |&p| p == position) {
            found.remove();
        }
        match self.nodes.get_mut(node.newer) {
            Some(newer) => newer.older = node.older,
            None => self.newest = node.older,
        }
        match self.nodes.get_mut(node.older) {
            Some(older) => older.newer = node.newer,
            None => self.oldest = node.newer,
        }
        if self.hand == position {
            self.hand = node.newer;
        }
        self.nodes.release(position);
        let entry = node.entry();
        self.bytes = self.bytes.saturating_sub(entry.charge);
        Some(entry)
    }
}

/// The hash is uniform already: its first eight bytes pick the slot.
fn slot(hash: KeyHash) -> u64 {
    hash.0.first_chunk().map_or(0, |head| u64::from_le_bytes(*head))
}

#[derive(Debug)]
struct Nodes {
    chunks: Vec<Vec<Node>>,
    free: u32,
}

impl Nodes {
    fn get(&self, position: u32) -> Option<&Node> {
        let position = position as usize;
        self.chunks.get(position / CHUNK)?.get(position % CHUNK)
    }

    fn get_mut(&mut self, position: u32) -> Option<&mut Node> {
        let position = position as usize;
        self.chunks.get_mut(position / CHUNK)?.get_mut(position % CHUNK)
    }

    /// `None` only past four billion nodes.
    fn add(&mut self, node: Node) -> Option<u32> {
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

    fn release(&mut self, position: u32) {
        let next = self.free;
        if let Some(node) = self.get_mut(position) {
            node.older = next;
            self.free = position;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{Strategy, any, prop_oneof, proptest};

    fn entry(number: u8, sequence: u64) -> Entry {
        Entry { hash: KeyHash([number; 16]), sequence, charge: CHARGE_UNIT * u64::from(number + 1) }
    }

    #[test]
    fn a_node_is_small() {
        assert_eq!(size_of::<Node>(), 40);
    }

    #[test]
    fn the_oldest_unused_goes_first() {
        let mut sieve = Sieve::new();
        for number in 0..4 {
            sieve.insert(entry(number, u64::from(number)));
        }
        sieve.touch(KeyHash([0; 16]));
        assert_eq!(sieve.evict(), Some(entry(1, 1)));
        assert_eq!(sieve.evict(), Some(entry(2, 2)));
        assert_eq!(sieve.evict(), Some(entry(3, 3)));
        assert_eq!(sieve.evict(), Some(entry(0, 0)));
        assert_eq!((sieve.evict(), sieve.len(), sieve.bytes()), (None, 0, 0));
    }

    #[test]
    fn loaded_objects_are_put_in_their_order() {
        let mut sieve = Sieve::new();
        for (number, sequence) in [(1, 30), (2, 10), (3, 20)] {
            sieve.insert(entry(number, sequence));
        }
        sieve.sort_by_sequence();
        let order: Vec<u64> = std::iter::from_fn(|| sieve.evict()).map(|e| e.sequence).collect();
        assert_eq!(order, [10, 20, 30]);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u8),
        Touch(u8),
        Remove(u8),
        Evict,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            any::<u8>().prop_map(|n| Step::Insert(n % 16)),
            any::<u8>().prop_map(|n| Step::Touch(n % 16)),
            any::<u8>().prop_map(|n| Step::Remove(n % 16)),
            any::<u8>().prop_map(|_| Step::Evict),
        ];
        proptest::collection::vec(step, 0..200)
    }

    /// SIEVE as the paper has it, on a plain list with the newest first.
    #[derive(Default)]
    struct Model {
        list: Vec<(Entry, bool)>,
        hand: Option<KeyHash>,
    }

    impl Model {
        fn remove(&mut self, hash: KeyHash) -> Option<Entry> {
            let at = self.list.iter().position(|(e, _)| e.hash == hash)?;
            if self.hand == Some(hash) {
                self.hand = at.checked_sub(1).map(|newer| self.list[newer].0.hash);
            }
            Some(self.list.remove(at).0)
        }

        fn evict(&mut self) -> Option<Entry> {
            let last = self.list.len().checked_sub(1)?;
            let hand = self.hand.and_then(|h| self.list.iter().position(|(e, _)| e.hash == h));
            let mut at = hand.unwrap_or(last);
            while self.list[at].1 {
                self.list[at].1 = false;
                at = at.checked_sub(1).unwrap_or(last);
            }
            let hash = self.list[at].0.hash;
            self.hand = Some(hash);
            self.remove(hash)
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_paper(steps in steps()) {
            let (mut sieve, mut model, mut sequence) = (Sieve::new(), Model::default(), 0);
            for step in steps {
                match step {
                    Step::Insert(number) => {
                        sequence += 1;
                        let new = entry(number, sequence);
                        let replaced = model.remove(new.hash);
                        model.list.insert(0, (new, false));
                        assert_eq!(sieve.insert(new), replaced);
                    }
                    Step::Touch(number) => {
                        let hash = KeyHash([number; 16]);
                        sieve.touch(hash);
                        for (entry, is_visited) in &mut model.list {
                            *is_visited |= entry.hash == hash;
                        }
                    }
                    Step::Remove(number) => {
                        let hash = KeyHash([number; 16]);
                        assert_eq!(sieve.remove(hash), model.remove(hash));
                    }
                    Step::Evict => assert_eq!(sieve.evict(), model.evict()),
                }
                let bytes: u64 = model.list.iter().map(|(e, _)| e.charge).sum();
                assert_eq!((sieve.len(), sieve.bytes()), (model.list.len() as u64, bytes));
            }
        }
    }
}
