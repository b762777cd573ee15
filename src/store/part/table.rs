//! What is known of each chunk of a partial object: missing, arriving, here. Pure; lives under the
//! short lock of its part.
//!
//! A chunk that is here names its checksum. A run is a row of neighbouring chunks that one writer
//! brings; no two runs overlap and none holds a chunk that was here when it began, so each byte of
//! the file has at most one writer. A run may be cut short for one that begins within it. Once a
//! table is sealed, no chunk enters or leaves it and no run begins.

use crate::store::Growing;
use crate::store::part::CHUNK_BYTES;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A chunk that is in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct PresentChunk {
    /// Another each time that the chunk comes to be here.
    pub(super) id: u64,
    /// What `sums` makes of it.
    pub(super) sum: u64,
    /// How far the index knows of it.
    pub(super) noted: IndexNote,
}

/// How far the index knows of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum IndexNote {
    /// Not at all.
    Not,
    /// It is being noted.
    Soon,
    /// A restart finds it.
    Yes,
}

/// A row of chunks that are arriving.
#[derive(Debug)]
struct ActiveRun {
    id: u64,
    first: u32,
    /// Offset of its end; shared with its writer, which stops there.
    end: Arc<AtomicU64>,
    growing: Growing,
}

impl ActiveRun {
    fn chunks(&self) -> Range<u32> {
        self.first..chunks_up_to(self.end.load(Ordering::Acquire))
    }
}

/// What is known of the chunk at an offset.
#[derive(Debug, Clone)]
pub enum At {
    /// It is in the file.
    Here,
    /// It is on its way; read along.
    Arriving(Growing),
    /// It has no writer.
    Missing,
}

/// What of a stretch is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holding {
    /// Chunks that are here.
    pub chunks: u64,
    /// Chunks that the stretch lies in.
    pub of_chunks: u64,
    /// Bytes of the stretch that are here.
    pub bytes: u64,
}

/// The chunks of one object.
#[derive(Debug)]
pub(super) struct ChunkTable {
    length: u64,
    here: BTreeMap<u32, PresentChunk>,
    here_bytes: u64,
    noted_bytes: u64,
    running: Vec<ActiveRun>,
    next_id: u64,
    failures: u64,
    is_sealed: bool,
}

/// A run that was entered.
#[derive(Debug)]
pub(super) struct ClaimedRun {
    pub(super) id: u64,
    pub(super) start: u64,
    pub(super) end: Arc<AtomicU64>,
}

impl ChunkTable {
    /// A table in which every chunk is missing.
    pub(super) fn new(length: u64) -> Self {
        Self {
            length,
            here: BTreeMap::new(),
            here_bytes: 0,
            noted_bytes: 0,
            running: Vec::new(),
            next_id: 0,
            failures: 0,
            is_sealed: false,
        }
    }

    /// The bytes that the chunk `number` covers.
    pub(super) fn span(&self, number: u32) -> Range<u64> {
        let start = u64::from(number).saturating_mul(CHUNK_BYTES).min(self.length);
        start..start.saturating_add(CHUNK_BYTES).min(self.length)
    }

    /// What is known of the chunk at `offset`.
    pub(super) fn at(&self, offset: u64) -> At {
        let number = number_at(offset);
        if self.here.contains_key(&number) {
            return At::Here;
        }
        let running = self.running.iter().find(|run| run.chunks().contains(&number));
        running.map_or(At::Missing, |run| At::Arriving(run.growing.clone()))
    }

    /// The chunk at `offset`, if it is here.
    pub(super) fn chunk(&self, number: u32) -> Option<PresentChunk> {
        self.here.get(&number).copied()
    }

    /// Whether a chunk is here, and was all the time since it got this id.
    pub(super) fn holds(&self, number: u32, id: u64) -> bool {
        self.here.get(&number).is_some_and(|chunk| chunk.id == id)
    }

    /// What is here of the bytes `asked`.
    pub(super) fn holding(&self, asked: &Range<u64>) -> Holding {
        let first = number_at(asked.start);
        let end = chunks_up_to(asked.end.min(self.length)).max(first);
        let mut holding = Holding { chunks: 0, of_chunks: u64::from(end - first), bytes: 0 };
        for number in self.here.range(first..end).map(|(number, _)| *number) {
            let span = self.span(number);
            let overlap = span.start.max(asked.start)..span.end.min(asked.end);
            holding.chunks += 1;
            holding.bytes += overlap.end.saturating_sub(overlap.start);
        }
        holding
    }

    /// The first of the bytes `asked` that is not here, arriving or not.
    pub(super) fn first_gap(&self, asked: &Range<u64>) -> Option<u64> {
        let end = chunks_up_to(asked.end.min(self.length));
        let missing = (number_at(asked.start)..end).find(|number| !self.here.contains_key(number));
        missing.map(|number| self.span(number).start.max(asked.start))
    }

    /// Bytes that are not here, arriving or not.
    pub(super) fn missing_bytes(&self) -> u64 {
        self.length.saturating_sub(self.here_bytes)
    }

    /// Bytes that the index knows of.
    pub(super) fn noted_bytes(&self) -> u64 {
        self.noted_bytes
    }

    /// The first of the bytes `asked` that is neither here nor arriving.
    pub(super) fn first_missing(&self, asked: &Range<u64>) -> Option<u64> {
        let mut number = number_at(asked.start);
        while number < chunks_up_to(asked.end.min(self.length)) {
            if let Some(run) = self.running.iter().find(|run| run.chunks().contains(&number)) {
                number = run.chunks().end;
            } else if self.here.contains_key(&number) {
                number += 1;
            } else {
                return Some(self.span(number).start.max(asked.start));
            }
        }
        None
    }

    /// Enters a run from the chunk at `from` up to the one that ends at or after `until`, or to the
    /// next that is here or arriving. None if the first of them is, or the table is sealed.
    /// `begin` makes its readers' side from its first offset.
    pub(super) fn claim(
        &mut self,
        from: u64,
        until: u64,
        begin: impl FnOnce(u64) -> Growing,
    ) -> Option<ClaimedRun> {
        let first = number_at(from);
        let is_missing = matches!(self.at(from), At::Missing);
        if self.is_sealed || from >= self.length || !is_missing {
            return None;
        }
        let limit = chunks_up_to(until.min(self.length)).max(first.saturating_add(1));
        let here = self.here.range(first..).next().map_or(limit, |(number, _)| *number);
        let starts = self.running.iter().map(|run| run.first).filter(|start| *start > first);
        let end = starts.fold(limit.min(here), u32::min);
        let start = self.span(first).start;
        let entered = ClaimedRun {
            id: self.new_id(),
            start,
            end: Arc::new(AtomicU64::new(self.span(end.saturating_sub(1)).end)),
        };
        let (id, end, growing) = (entered.id, Arc::clone(&entered.end), begin(start));
        self.running.push(ActiveRun { id, first, end, growing });
        Some(entered)
    }

    /// Ends the run that holds the chunk at `offset` before it, if that run has more than `near`
    /// bytes to go until there. What it loses is missing then.
    pub(super) fn cut(&mut self, offset: u64, near: u64) {
        let number = number_at(offset);
        let start = self.span(number).start;
        if let Some(run) = self.running.iter().find(|run| run.chunks().contains(&number))
            && number > run.first
            && run.growing.visible().saturating_add(near) < start
        {
            run.end.store(start, Ordering::Release);
        }
    }

    /// Ends a run. What of it is not here is missing.
    pub(super) fn leave(&mut self, id: u64) {
        self.running.retain(|run| run.id != id);
    }

    /// A chunk is in the file now.
    pub(super) fn add(&mut self, number: u32, sum: u64, noted: IndexNote) {
        self.remove(number);
        let (id, bytes) = (self.new_id(), self.bytes(number));
        self.here_bytes += bytes;
        if noted == IndexNote::Yes {
            self.noted_bytes += bytes;
        }
        self.here.insert(number, PresentChunk { id, sum, noted });
    }

    fn new_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// A chunk is not in the file any more; what was known of it.
    pub(super) fn remove(&mut self, number: u32) -> Option<PresentChunk> {
        let chunk = self.here.remove(&number)?;
        let bytes = self.bytes(number);
        self.here_bytes = self.here_bytes.saturating_sub(bytes);
        if chunk.noted == IndexNote::Yes {
            self.noted_bytes = self.noted_bytes.saturating_sub(bytes);
        }
        Some(chunk)
    }

    /// The chunks that the index does not know of yet, and their ids; they count as being noted.
    pub(super) fn take_unnoted(&mut self) -> Vec<(u32, u64)> {
        let unnoted = self.here.iter_mut().filter(|(_, chunk)| chunk.noted == IndexNote::Not);
        let taken = unnoted.map(|(number, chunk)| {
            chunk.noted = IndexNote::Soon;
            (*number, chunk.id)
        });
        taken.collect()
    }

    /// The sum of this chunk, if it is here still and is being noted.
    pub(super) fn being_noted(&self, number: u32, id: u64) -> Option<u64> {
        let chunk = self.here.get(&number);
        let is_meant = |chunk: &&PresentChunk| chunk.id == id && chunk.noted == IndexNote::Soon;
        chunk.filter(is_meant).map(|chunk| chunk.sum)
    }

    /// How many syncs of the file have failed.
    pub(super) fn failures(&self) -> u64 {
        self.failures
    }

    /// A sync of the file failed that these chunks waited for: they are missing, and those that
    /// came meanwhile. The bytes of each that is lost. What others are noting was synced before.
    pub(super) fn sync_failed(&mut self, waiting: &[(u32, u64)]) -> Vec<u64> {
        self.failures += 1;
        for (number, _) in waiting {
            if let Some(chunk) = self.here.get_mut(number) {
                chunk.noted = IndexNote::Not;
            }
        }
        let unsynced = self.here.iter().filter(|(_, chunk)| chunk.noted == IndexNote::Not);
        let lost: Vec<u32> = unsynced.map(|(number, _)| *number).collect();
        for number in &lost {
            self.remove(*number);
        }
        lost.into_iter().map(|number| self.bytes(number)).collect()
    }

    /// Whether there are chunks that are not being noted yet.
    pub(super) fn has_unnoted(&self) -> bool {
        self.here.values().any(|chunk| chunk.noted == IndexNote::Not)
    }

    /// How the noting of these chunks ended; those that were lost and came anew meanwhile have no
    /// part in it.
    pub(super) fn set_noted(&mut self, chunks: &[(u32, u64)], noted: IndexNote) {
        for (number, id) in chunks {
            let bytes = self.bytes(*number);
            if self.being_noted(*number, *id).is_none() {
                continue;
            }
            if noted == IndexNote::Yes {
                self.noted_bytes += bytes;
            }
            if let Some(chunk) = self.here.get_mut(number) {
                chunk.noted = noted;
            }
        }
    }

    /// Seals the table if the index knows of every chunk; their sums then, as a trailer has them. A
    /// run that is listed still has nothing left to write.
    pub(super) fn seal(&mut self) -> Option<Vec<u8>> {
        if self.noted_bytes != self.length {
            return None;
        }
        self.is_sealed = true;
        Some(self.here.values().flat_map(|chunk| chunk.sum.to_le_bytes()).collect())
    }

    /// Seals it, whether or not all of it is here.
    #[cfg(test)]
    pub(super) fn freeze(&mut self) {
        self.is_sealed = true;
    }

    /// Lets chunks change again: what it was sealed for has failed.
    pub(super) fn unseal(&mut self) {
        self.is_sealed = false;
    }

    /// Whether no chunk changes any more.
    pub(super) fn is_sealed(&self) -> bool {
        self.is_sealed
    }

    /// Bytes of a chunk.
    pub(super) fn bytes(&self, number: u32) -> u64 {
        let span = self.span(number);
        span.end - span.start
    }
}

/// The number of the chunk that holds the byte at `offset`.
pub(super) fn number_at(offset: u64) -> u32 {
    u32::try_from(offset / CHUNK_BYTES).unwrap_or(u32::MAX)
}

/// How many chunks begin before offset `end`.
pub(super) fn chunks_up_to(end: u64) -> u32 {
    u32::try_from(end.div_ceil(CHUNK_BYTES)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::KeyHash;
    use crate::store::body::Growth;
    use crate::tasks::Tasks;
    use proptest::prelude::{Strategy, any, prop, prop_oneof};
    use proptest::proptest;

    const CHUNKS: u32 = 12;
    const LENGTH: u64 = 11 * CHUNK_BYTES + 5;

    fn begin(base: u64) -> Growing {
        Growth::new_at(base, KeyHash([0; 16]), &Arc::default(), Tasks::new()).reader()
    }

    #[test]
    fn a_run_ends_where_another_begins_or_a_chunk_is_here() {
        let mut table = ChunkTable::new(LENGTH);
        table.add(7, 0, IndexNote::Not);
        let far = table.claim(9 * CHUNK_BYTES + 3, u64::MAX, begin).unwrap();
        assert_eq!((far.start, far.end.load(Ordering::Relaxed)), (9 * CHUNK_BYTES, LENGTH));
        let near = table.claim(CHUNK_BYTES * 2 - 1, u64::MAX, begin).unwrap();
        assert_eq!((near.start, near.end.load(Ordering::Relaxed)), (CHUNK_BYTES, 7 * CHUNK_BYTES));
        let one = table.claim(8 * CHUNK_BYTES, u64::MAX, begin).unwrap();
        assert_eq!(one.end.load(Ordering::Relaxed), 9 * CHUNK_BYTES);
        assert!(table.claim(7 * CHUNK_BYTES, u64::MAX, begin).is_none(), "here");
        assert!(table.claim(3 * CHUNK_BYTES, u64::MAX, begin).is_none(), "arriving");
        assert!(table.claim(LENGTH, u64::MAX, begin).is_none(), "behind the end");
        let exact = table.claim(5, 6, begin).unwrap();
        assert_eq!((exact.start, exact.end.load(Ordering::Relaxed)), (0, CHUNK_BYTES));
        assert_eq!(table.first_missing(&(0..LENGTH)), None);
        table.leave(near.id);
        assert_eq!(table.first_missing(&(0..LENGTH)), Some(CHUNK_BYTES));
        let within = CHUNK_BYTES + 7..CHUNK_BYTES + 9;
        assert_eq!(table.first_missing(&within), Some(within.start));
        assert_eq!(table.first_missing(&(0..CHUNK_BYTES)), None);
        assert_eq!(table.first_missing(&(7 * CHUNK_BYTES..LENGTH)), None);
    }

    #[test]
    fn a_run_is_cut_for_one_far_ahead_of_it_alone() {
        let mut table = ChunkTable::new(LENGTH);
        let run = table.claim(0, u64::MAX, begin).unwrap();
        table.cut(5 * CHUNK_BYTES + 9, 5 * CHUNK_BYTES);
        assert!(matches!(table.at(5 * CHUNK_BYTES), At::Arriving(_)), "it is near");
        table.cut(9, 0);
        table.cut(5 * CHUNK_BYTES + 9, CHUNK_BYTES);
        assert_eq!(run.end.load(Ordering::Relaxed), 5 * CHUNK_BYTES);
        assert!(matches!(table.at(5 * CHUNK_BYTES), At::Missing));
        assert!(matches!(table.at(5 * CHUNK_BYTES - 1), At::Arriving(_)));
    }

    #[test]
    fn what_is_held_of_a_stretch_is_counted_by_the_byte() {
        let mut table = ChunkTable::new(LENGTH);
        table.add(1, 0, IndexNote::Not);
        table.add(11, 0, IndexNote::Not);
        let holding = |from: u64, to: u64| table.holding(&(from..to));
        assert_eq!(holding(0, 10), Holding { chunks: 0, of_chunks: 1, bytes: 0 });
        let half = holding(CHUNK_BYTES - 4, CHUNK_BYTES + 4);
        assert_eq!(half, Holding { chunks: 1, of_chunks: 2, bytes: 4 });
        let last = holding(11 * CHUNK_BYTES, LENGTH);
        assert_eq!(last, Holding { chunks: 1, of_chunks: 1, bytes: 5 });
        assert_eq!(table.first_gap(&(11 * CHUNK_BYTES..LENGTH)), None);
        assert_eq!(table.first_gap(&(CHUNK_BYTES + 1..LENGTH)), Some(2 * CHUNK_BYTES));
        assert_eq!(table.first_gap(&(7..LENGTH)), Some(7));
        assert_eq!(table.missing_bytes(), 10 * CHUNK_BYTES);
    }

    #[test]
    fn a_chunk_that_came_anew_while_it_was_noted_is_not_noted() {
        for sum in [1, 2] {
            let mut table = ChunkTable::new(LENGTH);
            table.add(1, 1, IndexNote::Not);
            let before = table.take_unnoted();
            table.remove(1);
            table.add(1, sum, IndexNote::Not);
            table.set_noted(&before, IndexNote::Yes);
            assert_eq!((table.noted_bytes(), table.has_unnoted()), (0, true), "{sum}");
            let taken = table.take_unnoted();
            table.set_noted(&before, IndexNote::Yes);
            assert_eq!(table.noted_bytes(), 0, "the sync for it may not have ended");
            table.set_noted(&taken, IndexNote::Yes);
            table.set_noted(&taken, IndexNote::Yes);
            assert_eq!((table.noted_bytes(), table.has_unnoted()), (CHUNK_BYTES, false));
            table.remove(1);
            assert_eq!(table.noted_bytes(), 0);
        }
    }

    #[test]
    fn a_table_is_sealed_with_the_sums_of_all_chunks_or_not_at_all() {
        let mut table = ChunkTable::new(CHUNK_BYTES + 5);
        table.add(0, 1, IndexNote::Yes);
        table.add(1, 2, IndexNote::Not);
        assert_eq!((table.seal(), table.is_sealed()), (None, false), "not all is noted");
        let taken = table.take_unnoted();
        table.set_noted(&taken, IndexNote::Yes);
        let sums = [1_u64.to_le_bytes(), 2_u64.to_le_bytes()].concat();
        assert_eq!((table.seal(), table.is_sealed()), (Some(sums), true));
        table.remove(0);
        assert!(table.claim(0, 1, begin).is_none(), "sealed");
        table.unseal();
        assert!(table.claim(0, 1, begin).is_some());
        assert_eq!((table.seal(), table.is_sealed()), (None, false), "a chunk is missing");
    }

    #[derive(Debug, Clone)]
    enum Step {
        Claim(u64, u64),
        /// The run at this place among those under way brings its next chunk, or ends.
        Bring(usize),
        Leave(usize),
        Cut(u64),
        Damage(u32),
        Note,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let offset = || 0..LENGTH + 2;
        prop::collection::vec(
            prop_oneof![
                (offset(), offset()).prop_map(|(from, until)| Step::Claim(from, until)),
                any::<usize>().prop_map(Step::Bring),
                any::<usize>().prop_map(Step::Bring),
                any::<usize>().prop_map(Step::Leave),
                offset().prop_map(Step::Cut),
                (0..CHUNKS).prop_map(Step::Damage),
                any::<bool>().prop_map(|_| Step::Note),
            ],
            1..80,
        )
    }

    /// What the model knows of a chunk: here and noted or not, of which run, or nothing.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Known {
        Missing,
        Of(u64),
        Here { is_noted: bool },
    }

    /// A table and what is known of it, with the runs under way: id, end, next chunk.
    struct Pair {
        table: ChunkTable,
        model: [Known; CHUNKS as usize],
        runs: Vec<(u64, Arc<AtomicU64>, u32)>,
    }

    impl Pair {
        fn claim(&mut self, from: u64, until: u64) {
            let free = self.model.get(number_at(from) as usize);
            let is_free = from < LENGTH && free == Some(&Known::Missing);
            let entered = self.table.claim(from, until, begin);
            assert_eq!(entered.is_some(), is_free);
            let Some(run) = entered else { return };
            let first = number_at(run.start);
            let end = chunks_up_to(run.end.load(Ordering::Relaxed));
            for known in &mut self.model[first as usize..end as usize] {
                assert_eq!(*known, Known::Missing, "a chunk with two writers");
                *known = Known::Of(run.id);
            }
            self.runs.push((run.id, run.end, first));
        }

        fn bring(&mut self, at: usize) {
            let (id, end, next) = &mut self.runs[at];
            if *next < chunks_up_to(end.load(Ordering::Relaxed)) {
                self.table.add(*next, 0, IndexNote::Not);
                self.model[*next as usize] = Known::Here { is_noted: false };
                *next += 1;
            } else {
                self.table.leave(*id);
                self.runs.remove(at);
            }
        }

        fn leave(&mut self, at: usize) {
            let (id, ..) = self.runs.remove(at);
            self.table.leave(id);
            self.lose(id, 0);
        }

        fn cut(&mut self, offset: u64) {
            let number = number_at(offset) as usize;
            let Some(Known::Of(id)) = self.model.get(number).copied() else { return };
            self.table.cut(offset, 0);
            if (self.first(id) as usize) < number {
                self.lose(id, number);
            }
        }

        /// Only what is here and of no run can be read and found wrong.
        fn damage(&mut self, number: u32) {
            let is_of_a_run = self.runs.iter().any(|(id, end, _)| {
                let end = chunks_up_to(end.load(Ordering::Relaxed));
                (self.first(*id)..end).contains(&number)
            });
            if matches!(self.model[number as usize], Known::Here { .. }) && !is_of_a_run {
                self.table.remove(number);
                self.model[number as usize] = Known::Missing;
            }
        }

        fn note(&mut self) {
            let taken = self.table.take_unnoted();
            self.table.set_noted(&taken, IndexNote::Yes);
            for known in &mut self.model {
                if let Known::Here { is_noted } = known {
                    *is_noted = true;
                }
            }
        }

        fn first(&self, id: u64) -> u32 {
            self.table.running.iter().find(|run| run.id == id).map_or(0, |run| run.first)
        }

        fn lose(&mut self, id: u64, from: usize) {
            for known in &mut self.model[from..] {
                if *known == Known::Of(id) {
                    *known = Known::Missing;
                }
            }
        }

        fn check(&self) {
            let (mut missing, mut noted, mut first_missing) = (0, 0, None);
            for (number, known) in (0..).zip(&self.model) {
                let span = self.table.span(number);
                let found = self.table.at(span.start);
                let agrees = match known {
                    Known::Here { .. } => matches!(found, At::Here),
                    Known::Of(_) => matches!(found, At::Arriving(_)),
                    Known::Missing => matches!(found, At::Missing),
                };
                assert!(agrees, "chunk {number} is {known:?}, not {found:?}");
                let bytes = span.end - span.start;
                match known {
                    Known::Here { is_noted: true } => noted += bytes,
                    Known::Here { is_noted: false } => {}
                    Known::Missing | Known::Of(_) => missing += bytes,
                }
                if *known == Known::Missing {
                    first_missing = first_missing.or(Some(span.start));
                }
            }
            let told = (self.table.missing_bytes(), self.table.noted_bytes());
            assert_eq!(told, (missing, noted));
            assert_eq!(self.table.first_missing(&(0..self.table.length)), first_missing);
        }
    }

    proptest! {
        #[test]
        fn every_chunk_has_one_writer_at_most_as_in_the_model(steps in steps()) {
            let mut pair = Pair {
                table: ChunkTable::new(LENGTH),
                model: [Known::Missing; CHUNKS as usize],
                runs: Vec::new(),
            };
            for step in steps {
                let runs = pair.runs.len();
                match step {
                    Step::Claim(from, until) => pair.claim(from, until),
                    Step::Bring(which) if runs > 0 => pair.bring(which % runs),
                    Step::Leave(which) if runs > 0 => pair.leave(which % runs),
                    Step::Bring(_) | Step::Leave(_) => {}
                    Step::Cut(offset) => pair.cut(offset),
                    Step::Damage(number) => pair.damage(number),
                    Step::Note => pair.note(),
                }
                pair.check();
            }
        }
    }
}
