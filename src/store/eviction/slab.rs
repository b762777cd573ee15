//! The nodes of the eviction order: sixteen bytes an object, in chunks that are sorted by insertion
//! sequence, linked into queues by position. Pure; part of the eviction order.
//!
//! A sequence names an object: it is unique and grows, so a new object goes to the end of the last
//! chunk, and a binary search finds any. So there is no hash and no table of hashes here; the index
//! knows the key of a sequence. A chunk that has lost a quarter of its nodes is written anew, with
//! a neighbour of its size where both fit in one: at most a quarter of the memory is ever unused. A
//! node that moves takes its links along, so no position outlives a call that adds or removes.

use crate::store::format::{CHARGE_UNIT, INLINE_BYTES_MAX, RecordHead, charge};

/// No position.
pub(in crate::store) const NONE: u32 = u32::MAX;
/// Nodes of a chunk, at most: few enough that writing one anew is short.
const CHUNK: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: u32 = 10;
/// Chunks, at most: as many as a position tells apart.
const SLOTS_MAX: u32 = NONE >> CHUNK_BITS;
/// Nodes that two chunks have together at most when they become one.
const MERGED_MAX: usize = CHUNK / 4 * 3;
/// How far below the first sequence of a chunk one may come late and still go into it.
const LATE_MAX: u64 = 1 << 16;
const UNITS_MAX: u32 = u32::MAX >> 4;
/// Bytes that an object may count at most.
pub(in crate::store) const CHARGE_MAX: u64 = UNITS_MAX as u64 * CHARGE_UNIT;

/// An object as the eviction order knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EvictionEntry {
    /// Its insertion sequence.
    pub sequence: u64,
    /// Bytes it counts: what [`charge`] says.
    pub charge: u64,
}

impl EvictionEntry {
    /// The insertion with this head.
    pub(in crate::store) const fn of(head: &RecordHead) -> Self {
        Self { sequence: head.sequence, charge: head.charge() }
    }
}

/// The two kinds of objects, which have queues of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum BodyKind {
    /// The body is in the index.
    Inline,
    /// The body is a file.
    File,
}

impl BodyKind {
    /// The kind of an object that counts this many bytes.
    pub(in crate::store) const fn of(bytes: u64) -> Self {
        if bytes < charge(INLINE_BYTES_MAX) { Self::Inline } else { Self::File }
    }
}

/// The queue of its kind that an object is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum QueueStage {
    /// Loaded; its place is not known yet.
    Waiting,
    /// New: on trial.
    Small,
    /// Asked for again.
    Main,
}

/// Where in a queue an object is put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum QueueEnd {
    /// As the newest of all.
    Newest,
    /// As the newest of those that were put in so; older than all others.
    Loaded,
}

/// An object: its sequence less the first of its chunk, its place among others of its queue, and,
/// in one number, its charge in units, its stage and its uses. No stage: it is gone.
#[derive(Debug, Clone, Copy)]
struct OrderNode {
    offset: u32,
    packed: u32,
    newer: u32,
    older: u32,
}

const GONE: u32 = 0b1100;

impl OrderNode {
    fn new(offset: u32, units: u32, stage: QueueStage, uses: u8) -> Self {
        let mut node = Self { offset, packed: units << 4, newer: NONE, older: NONE };
        node.set(stage, uses);
        node
    }

    fn set(&mut self, stage: QueueStage, uses: u8) {
        let stage = match stage {
            QueueStage::Waiting => 0b0000,
            QueueStage::Small => 0b0100,
            QueueStage::Main => 0b1000,
        };
        self.packed = self.packed & !0b1111 | stage | u32::from(uses & 0b11);
    }

    fn stage(&self) -> Option<QueueStage> {
        match self.packed & GONE {
            0b0000 => Some(QueueStage::Waiting),
            0b0100 => Some(QueueStage::Small),
            0b1000 => Some(QueueStage::Main),
            _ => None,
        }
    }

    fn charge(&self) -> u64 {
        u64::from(self.packed >> 4) * CHARGE_UNIT
    }

    fn queue(&self) -> Option<usize> {
        Some(queue_of(BodyKind::of(self.charge()), self.stage()?))
    }
}

/// An object as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct OrderedObject {
    /// Its sequence and what it counts.
    pub(in crate::store) entry: EvictionEntry,
    /// The queue it is in.
    pub(in crate::store) stage: QueueStage,
    /// Uses that still count for it.
    pub(in crate::store) uses: u8,
}

/// A queue: its ends, the newest of those loaded, the position of a walk, and its sums.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct OrderQueue {
    newest: u32,
    oldest: u32,
    loaded: u32,
    walked: u32,
    bytes: u64,
    objects: usize,
}

impl OrderQueue {
    const EMPTY: Self =
        Self { newest: NONE, oldest: NONE, loaded: NONE, walked: NONE, bytes: 0, objects: 0 };

    /// The sum of all charges.
    pub(in crate::store) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Objects in it.
    pub(in crate::store) fn objects(&self) -> usize {
        self.objects
    }

    /// The position of the oldest, [`NONE`] if there is none.
    pub(in crate::store) fn oldest(&self) -> u32 {
        self.oldest
    }
}

/// What `partition_point` gives, found from a guess: the nearer, the fewer items it looks at.
fn partition_point_near<T>(items: &[T], guess: usize, is_before: impl Fn(&T) -> bool) -> usize {
    let before = |at: usize| items.get(at).is_some_and(&is_before);
    let guess = guess.min(items.len());
    let (mut low, mut high, mut step) = (guess, guess, 1);
    while before(high) {
        low = high + 1;
        high = high.saturating_add(step).min(items.len());
        step *= 2;
    }
    step = 1;
    while low > 0 && !before(low - 1) {
        high = low - 1;
        low = low.saturating_sub(step);
        step *= 2;
    }
    let range = items.get(low..high).unwrap_or_default();
    low + range.partition_point(is_before)
}

fn units(charge: u64) -> u32 {
    u32::try_from(charge / CHARGE_UNIT).map_or(UNITS_MAX, |units| units.min(UNITS_MAX))
}

fn queue_of(kind: BodyKind, stage: QueueStage) -> usize {
    let first = match kind {
        BodyKind::Inline => 0,
        BodyKind::File => 3,
    };
    first
        + match stage {
            QueueStage::Waiting => 0,
            QueueStage::Small => 1,
            QueueStage::Main => 2,
        }
}

#[derive(Debug, Default)]
struct SlabChunk {
    first: u64,
    live: usize,
    nodes: Vec<OrderNode>,
}

/// A chunk in the order of sequences.
#[derive(Debug, Clone, Copy)]
struct SlabChunkPlace {
    first: u64,
    slot: u32,
}

/// All objects, by position, by sequence and in their queues.
#[derive(Debug)]
pub(in crate::store) struct Slab {
    chunks: Vec<SlabChunk>,
    free: Vec<u32>,
    places: Vec<SlabChunkPlace>,
    queues: [OrderQueue; 6],
}

impl Slab {
    /// No object.
    pub(in crate::store) fn new() -> Self {
        let (chunks, free, places) = (Vec::new(), Vec::new(), Vec::new());
        Self { chunks, free, places, queues: [OrderQueue::EMPTY; 6] }
    }

    /// Bytes allocated.
    pub(in crate::store) fn memory_bytes(&self) -> usize {
        let nodes: usize = self.chunks.iter().map(|chunk| chunk.nodes.capacity()).sum();
        nodes * size_of::<OrderNode>()
            + self.chunks.capacity() * size_of::<SlabChunk>()
            + self.places.capacity() * size_of::<SlabChunkPlace>()
            + self.free.capacity() * size_of::<u32>()
    }

    /// A queue.
    pub(in crate::store) fn queue(&self, kind: BodyKind, stage: QueueStage) -> OrderQueue {
        self.queues.get(queue_of(kind, stage)).copied().unwrap_or(OrderQueue::EMPTY)
    }

    /// The object at a position.
    pub(in crate::store) fn seen(&self, position: u32) -> Option<OrderedObject> {
        let (slot, index) = split(position);
        let chunk = self.chunks.get(slot)?;
        let node = chunk.nodes.get(index)?;
        let sequence = chunk.first + u64::from(node.offset);
        let entry = EvictionEntry { sequence, charge: node.charge() };
        Some(OrderedObject { entry, stage: node.stage()?, uses: (node.packed & 0b11) as u8 })
    }

    /// The position of a sequence. Sequences seldom leave gaps, so the place that it would have
    /// without any is mostly right: a look at two cold lines of memory, not twenty.
    pub(in crate::store) fn position(&self, sequence: u64) -> Option<u32> {
        let guess = self.guess(sequence);
        let is_before = |place: &SlabChunkPlace| place.first <= sequence;
        let at = partition_point_near(&self.places, guess, is_before).checked_sub(1)?;
        let place = self.places.get(at)?;
        let chunk = self.chunks.get(place.slot as usize)?;
        let offset = u32::try_from(sequence - chunk.first).ok()?;
        let is_up_to = |node: &OrderNode| node.offset <= offset;
        let guess = offset as usize;
        let index = partition_point_near(&chunk.nodes, guess, is_up_to).checked_sub(1)?;
        let node = chunk.nodes.get(index).filter(|node| node.offset == offset)?;
        node.stage()?;
        Some(join(place.slot, index))
    }

    /// The place of the chunk of a sequence, were all of them alike.
    fn guess(&self, sequence: u64) -> usize {
        let (Some(first), Some(last)) = (self.places.first(), self.places.last()) else { return 0 };
        let span = last.first.saturating_sub(first.first);
        let before = sequence.saturating_sub(first.first).min(span);
        let at = u128::from(before) * (self.places.len() - 1) as u128 / u128::from(span.max(1));
        usize::try_from(at).unwrap_or(usize::MAX)
    }

    /// Adds an object and puts it in its queue; false if it is there already, or if there is
    /// no position left, past two billion objects.
    pub(in crate::store) fn add(
        &mut self,
        entry: EvictionEntry,
        stage: QueueStage,
        uses: u8,
        end: QueueEnd,
    ) -> bool {
        let units = units(entry.charge);
        let Some(position) = self.make(entry.sequence, OrderNode::new(0, units, stage, uses))
        else {
            return false;
        };
        self.link(position, end);
        true
    }

    /// Takes an object out of its queue and forgets it.
    pub(in crate::store) fn remove(&mut self, position: u32) -> Option<OrderedObject> {
        let seen = self.seen(position)?;
        self.unlink(position);
        self.release(position);
        Some(seen)
    }

    /// Counts uses of an object.
    pub(in crate::store) fn set_uses(&mut self, position: u32, uses: u8) {
        if let Some(node) = self.node_mut(position)
            && let Some(stage) = node.stage()
        {
            node.set(stage, uses);
        }
    }

    /// Changes what an object counts, within its kind.
    pub(in crate::store) fn recharge(&mut self, position: u32, charge: u64) {
        let Some(node) = self.node_mut(position) else { return };
        let before = *node;
        node.packed = units(charge) << 4 | node.packed & 0b1111;
        let after = node.charge();
        if let Some(queue) = self.queue_mut(&before) {
            queue.bytes = queue.bytes.saturating_sub(before.charge()).saturating_add(after);
        }
    }

    /// Puts an object in another queue of its kind, or in another place of its own.
    pub(in crate::store) fn move_to(
        &mut self,
        position: u32,
        stage: QueueStage,
        uses: u8,
        end: QueueEnd,
    ) {
        self.unlink(position);
        if let Some(node) = self.node_mut(position) {
            node.set(stage, uses);
        }
        self.link(position, end);
    }

    /// Begins a walk of a queue from its oldest; the one before it ends.
    pub(in crate::store) fn begin_walk(&mut self, kind: BodyKind, stage: QueueStage) {
        if let Some(queue) = self.queues.get_mut(queue_of(kind, stage)) {
            queue.walked = queue.oldest;
        }
    }

    /// The next objects of a walk, at most `max`; none at its end. Objects that are added, taken
    /// out or moved meanwhile may be seen, not seen, or seen twice; all others are seen once, in
    /// order.
    pub(in crate::store) fn walk(
        &mut self,
        kind: BodyKind,
        stage: QueueStage,
        max: usize,
    ) -> Vec<OrderedObject> {
        let name = queue_of(kind, stage);
        let mut position = self.queues.get(name).map_or(NONE, |queue| queue.walked);
        let mut walked = Vec::with_capacity(max);
        while walked.len() < max
            && let Some(seen) = self.seen(position)
        {
            walked.push(seen);
            position = self.node(position).map_or(NONE, |node| node.newer);
        }
        if let Some(queue) = self.queues.get_mut(name) {
            queue.walked = position;
        }
        walked
    }

    fn node(&self, position: u32) -> Option<&OrderNode> {
        let (slot, index) = split(position);
        self.chunks.get(slot)?.nodes.get(index)
    }

    fn node_mut(&mut self, position: u32) -> Option<&mut OrderNode> {
        let (slot, index) = split(position);
        self.chunks.get_mut(slot)?.nodes.get_mut(index)
    }

    fn queue_mut(&mut self, node: &OrderNode) -> Option<&mut OrderQueue> {
        self.queues.get_mut(node.queue()?)
    }

    fn link(&mut self, position: u32, end: QueueEnd) {
        let Some(mut node) = self.node(position).copied() else { return };
        let Some(queue) = self.queue_mut(&node) else { return };
        queue.bytes = queue.bytes.saturating_add(node.charge());
        queue.objects += 1;
        node.older = if end == QueueEnd::Newest { queue.newest } else { queue.loaded };
        let oldest = queue.oldest;
        if end == QueueEnd::Loaded {
            queue.loaded = position;
        }
        node.newer = match self.node(node.older) {
            Some(older) => older.newer,
            // The first of a queue, or the first loaded one: before all others.
            None => oldest,
        };
        self.point_neighbours(&node, position, position);
        if let Some(slot) = self.node_mut(position) {
            *slot = node;
        }
    }

    fn unlink(&mut self, position: u32) {
        let Some(node) = self.node(position).copied() else { return };
        self.point_neighbours(&node, node.newer, node.older);
        let Some(queue) = self.queue_mut(&node) else { return };
        queue.bytes = queue.bytes.saturating_sub(node.charge());
        queue.objects = queue.objects.saturating_sub(1);
        if queue.loaded == position {
            queue.loaded = node.older;
        }
        if queue.walked == position {
            queue.walked = node.newer;
        }
    }

    /// Makes the older neighbour of a node, or the end of its queue, point to `newer`, and the
    /// newer one to `older`.
    fn point_neighbours(&mut self, node: &OrderNode, newer: u32, older: u32) {
        match self.node_mut(node.older) {
            Some(neighbour) => neighbour.newer = newer,
            None => {
                if let Some(queue) = self.queue_mut(node) {
                    queue.oldest = newer;
                }
            }
        }
        match self.node_mut(node.newer) {
            Some(neighbour) => neighbour.older = older,
            None => {
                if let Some(queue) = self.queue_mut(node) {
                    queue.newest = older;
                }
            }
        }
    }

    /// A position for a new node that is in no queue yet; the nodes after it may move.
    fn make(&mut self, sequence: u64, node: OrderNode) -> Option<u32> {
        let at = self.places.partition_point(|place| place.first <= sequence);
        let before = at.checked_sub(1).and_then(|at| self.places.get(at)).copied();
        let fitting = before.and_then(|place| {
            let chunk = self.chunks.get(place.slot as usize)?;
            let offset = u32::try_from(sequence - chunk.first).ok()?;
            Some((place.slot, offset, chunk.nodes.partition_point(|node| node.offset < offset)))
        });
        let Some((slot, offset, index)) = fitting else {
            return self.make_late(at, sequence, node);
        };
        let chunk = self.chunks.get_mut(slot as usize)?;
        let node = OrderNode { offset, ..node };
        if let Some(same) = chunk.nodes.get_mut(index).filter(|same| same.offset == offset) {
            if same.stage().is_some() {
                return None;
            }
            *same = node;
            chunk.live += 1;
            return Some(join(slot, index));
        }
        if chunk.nodes.len() < CHUNK {
            return self.put(slot, index, node);
        }
        if index == CHUNK {
            return self.make_late(at, sequence, node);
        }
        self.rewrite(at - 1, 1);
        self.make(sequence, node)
    }

    /// A position in the chunk after, if that begins soon and has room, else in a new one.
    fn make_late(&mut self, at: usize, sequence: u64, node: OrderNode) -> Option<u32> {
        let node = OrderNode { offset: 0, ..node };
        if let Some(place) = self.places.get_mut(at)
            && let Some(chunk) = self.chunks.get_mut(place.slot as usize)
            && chunk.nodes.len() < CHUNK
            && let Some(early) = chunk.first.checked_sub(sequence).filter(|by| *by < LATE_MAX)
            && let Ok(by) = u32::try_from(early)
            && chunk.nodes.last().is_some_and(|last| last.offset.checked_add(by).is_some())
        {
            chunk.nodes.iter_mut().for_each(|node| node.offset += by);
            (chunk.first, place.first) = (sequence, sequence);
            let slot = place.slot;
            return self.put(slot, 0, node);
        }
        let slot = self.open(at, sequence, 0)?;
        self.put(slot, 0, node)
    }

    /// Puts a node in a chunk that has room, at `index`; those behind it move on by one.
    fn put(&mut self, slot: u32, index: usize, node: OrderNode) -> Option<u32> {
        let chunk = self.chunks.get_mut(slot as usize)?;
        let length = chunk.nodes.len();
        if length == chunk.nodes.capacity() {
            chunk.nodes.reserve_exact(length.max(4).min(CHUNK - length));
        }
        chunk.nodes.push(node);
        chunk.live += 1;
        for from in (index..chunk.nodes.len() - 1).rev() {
            self.relocate(join(slot, from), join(slot, from + 1));
        }
        let position = join(slot, index);
        *self.node_mut(position)? = node;
        Some(position)
    }

    /// Copies a node to another position, to which nothing points, and makes all that point to
    /// it point there.
    fn relocate(&mut self, from: u32, to: u32) {
        let Some(node) = self.node(from).copied() else { return };
        if let Some(slot) = self.node_mut(to) {
            *slot = node;
        }
        if node.stage().is_none() {
            return;
        }
        self.point_neighbours(&node, to, to);
        if let Some(queue) = self.queue_mut(&node) {
            for cursor in [&mut queue.loaded, &mut queue.walked] {
                if *cursor == from {
                    *cursor = to;
                }
            }
        }
    }

    /// A new chunk in place `at` of the order; `None` if no slot is left.
    fn open(&mut self, at: usize, first: u64, nodes: usize) -> Option<u32> {
        let slot = if let Some(slot) = self.free.pop() {
            slot
        } else {
            let slot = u32::try_from(self.chunks.len()).ok().filter(|slot| *slot < SLOTS_MAX)?;
            self.chunks.push(SlabChunk::default());
            slot
        };
        let chunk = self.chunks.get_mut(slot as usize)?;
        *chunk = SlabChunk { first, live: 0, nodes: Vec::with_capacity(nodes) };
        self.places.insert(at, SlabChunkPlace { first, slot });
        Some(slot)
    }

    /// Forgets a node that is in no queue any more, and writes its chunk anew if that has lost
    /// enough.
    fn release(&mut self, position: u32) {
        let (slot, index) = split(position);
        let Some(chunk) = self.chunks.get_mut(slot) else { return };
        if let Some(node) = chunk.nodes.get_mut(index) {
            node.packed |= GONE;
            chunk.live -= 1;
        }
        let (first, live, length) = (chunk.first, chunk.live, chunk.nodes.len());
        if live * 4 >= length * 3 {
            return;
        }
        let Some(at) = self.places.partition_point(|place| place.first <= first).checked_sub(1)
        else {
            return;
        };
        if live == 0 {
            self.places.remove(at);
            self.close(slot);
            return;
        }
        if self.fit_in_one(at, at + 1) {
            self.rewrite(at, 2);
        } else if let Some(before) = at.checked_sub(1).filter(|&b| self.fit_in_one(b, at)) {
            self.rewrite(before, 2);
        } else {
            self.rewrite(at, 1);
        }
    }

    /// Whether two chunks are of a size, and fit in one together.
    fn fit_in_one(&self, at: usize, next: usize) -> bool {
        let chunk = |at: usize| self.chunks.get(self.places.get(at)?.slot as usize);
        let (Some(one), Some(two)) = (chunk(at), chunk(next)) else { return false };
        let span = two.first - one.first + two.nodes.last().map_or(0, |n| u64::from(n.offset));
        let (less, more) = (one.live.min(two.live), one.live.max(two.live));
        less + more <= MERGED_MAX && more <= less * 4 && span < u64::from(u32::MAX)
    }

    /// Writes the live nodes of `count` chunks from `at` on into new ones: one, or two if they
    /// would nearly fill it.
    fn rewrite(&mut self, at: usize, count: usize) {
        let places: Vec<SlabChunkPlace> = self.places.drain(at..at + count).collect();
        let chunks = places.iter().filter_map(|place| self.chunks.get(place.slot as usize));
        let live: usize = chunks.map(|chunk| chunk.live).sum();
        let each = if live > MERGED_MAX { live.div_ceil(2) } else { live };
        let (mut to, mut at): (Option<(u32, usize)>, _) = (None, at);
        for place in &places {
            let length = self.chunks.get(place.slot as usize).map_or(0, |c| c.nodes.len());
            for index in 0..length {
                let from = join(place.slot, index);
                let Some(seen) = self.seen(from) else { continue };
                let (slot, filled) = match to {
                    Some((slot, filled)) if filled < each => (slot, filled),
                    _ => {
                        let Some(slot) = self.open(at, seen.entry.sequence, each) else { return };
                        at += 1;
                        (slot, 0)
                    }
                };
                self.hand_over(from, slot, seen.entry.sequence);
                to = Some((slot, filled + 1));
            }
        }
        for place in places {
            self.close(place.slot as usize);
        }
    }

    /// Moves a node to the end of another chunk.
    fn hand_over(&mut self, from: u32, slot: u32, sequence: u64) {
        let Some(node) = self.node(from).copied() else { return };
        let Some(chunk) = self.chunks.get_mut(slot as usize) else { return };
        let offset = u32::try_from(sequence - chunk.first).unwrap_or(u32::MAX);
        let index = chunk.nodes.len();
        chunk.nodes.push(node);
        chunk.live += 1;
        self.relocate(from, join(slot, index));
        if let Some(moved) = self.node_mut(join(slot, index)) {
            moved.offset = offset;
        }
    }

    fn close(&mut self, slot: usize) {
        if let (Some(chunk), Ok(free)) = (self.chunks.get_mut(slot), u32::try_from(slot)) {
            *chunk = SlabChunk::default();
            self.free.push(free);
        }
    }
}

fn join(slot: u32, index: usize) -> u32 {
    // An index is below the length of a chunk.
    slot << CHUNK_BITS | u32::try_from(index).unwrap_or(0)
}

fn split(position: u32) -> (usize, usize) {
    let position = position as usize;
    (position / CHUNK, position % CHUNK)
}

#[cfg(test)]
mod tests;
