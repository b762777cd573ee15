//! What is known of each chunk of a partial object: missing, arriving, here. Pure; lives under the
//! short lock of its part.
//!
//! A chunk that is here names its checksum. A run is a row of neighbouring chunks that one writer
//! brings; no two runs overlap and none holds a chunk that was here when it began, so each byte of
//! the file has at most one writer. A run may be cut short for one that begins within it.

use super::CHUNK_BYTES;
use crate::store::Growing;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A chunk that is in the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    /// What `sums` makes of it.
    pub(super) sum: u64,
    /// How far the index knows of it.
    pub(super) noted: Noted,
}

/// How far the index knows of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noted {
    /// Not at all.
    Not,
    /// It is being noted.
    Soon,
    /// A restart finds it.
    Yes,
}

/// A row of chunks that are arriving.
#[derive(Debug)]
struct Running {
    id: u64,
    first: u32,
    /// Offset of its end; shared with its writer, which stops there.
    end: Arc<AtomicU64>,
    growing: Growing,
}

impl Running {
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
    /// Nobody has it.
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
pub(super) struct Table {
    length: u64,
    here: BTreeMap<u32, Chunk>,
    here_bytes: u64,
    noted_bytes: u64,
    running: Vec<Running>,
    next_id: u64,
}

/// A run that was entered.
#[derive(Debug)]
pub(super) struct Entered {
    pub(super) id: u64,
    pub(super) start: u64,
    pub(super) end: Arc<AtomicU64>,
}

impl Table {
    /// A table in which every chunk is missing.
    pub(super) fn new(length: u64) -> Self {
        Self {
            length,
            here: BTreeMap::new(),
            here_bytes: 0,
            noted_bytes: 0,
            running: Vec::new(),
            next_id: 0,
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

    /// The chunk at `offset`, where it is here.
    pub(super) fn chunk(&self, number: u32) -> Option<Chunk> {
        self.here.get(&number).copied()
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

    /// The offset of the first chunk that nobody has or brings.
    pub(super) fn first_missing(&self) -> Option<u64> {
        let mut number = 0;
        while number < chunks_up_to(self.length) {
            if let Some(run) = self.running.iter().find(|run| run.chunks().contains(&number)) {
                number = run.chunks().end;
            } else if self.here.contains_key(&number) {
                number += 1;
            } else {
                return Some(self.span(number).start);
            }
        }
        None
    }

    /// Enters a run from the chunk at `from` up to the one that ends at or after `until`, or to the
    /// next that is here or arriving. None where the first of them is. `begin` makes its readers'
    /// side from its first offset.
    pub(super) fn claim(
        &mut self,
        from: u64,
        until: u64,
        begin: impl FnOnce(u64) -> Growing,
    ) -> Option<Entered> {
        let first = number_at(from);
        if from >= self.length || !matches!(self.at(from), At::Missing) {
            return None;
        }
        let limit = chunks_up_to(until.min(self.length)).max(first.saturating_add(1));
        let here = self.here.range(first..).next().map_or(limit, |(number, _)| *number);
        let starts = self.running.iter().map(|run| run.first).filter(|start| *start > first);
        let end = starts.fold(limit.min(here), u32::min);
        let start = self.span(first).start;
        let entered = Entered {
            id: self.next_id,
            start,
            end: Arc::new(AtomicU64::new(self.span(end.saturating_sub(1)).end)),
        };
        self.next_id += 1;
        let (id, end, growing) = (entered.id, Arc::clone(&entered.end), begin(start));
        self.running.push(Running { id, first, end, growing });
        Some(entered)
    }

    /// Ends the run that holds the chunk at `offset` before it, where that run has more than `near`
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
    pub(super) fn add(&mut self, number: u32, chunk: Chunk) {
        self.remove(number);
        let bytes = self.bytes(number);
        self.here_bytes += bytes;
        if chunk.noted == Noted::Yes {
            self.noted_bytes += bytes;
        }
        self.here.insert(number, chunk);
    }

    /// A chunk is not in the file any more; what was known of it.
    pub(super) fn remove(&mut self, number: u32) -> Option<Chunk> {
        let chunk = self.here.remove(&number)?;
        let bytes = self.bytes(number);
        self.here_bytes = self.here_bytes.saturating_sub(bytes);
        if chunk.noted == Noted::Yes {
            self.noted_bytes = self.noted_bytes.saturating_sub(bytes);
        }
        Some(chunk)
    }

    /// The chunks that the index does not know of yet; they count as being noted.
    pub(super) fn take_unnoted(&mut self) -> Vec<(u32, u64)> {
        let unnoted = self.here.iter_mut().filter(|(_, chunk)| chunk.noted == Noted::Not);
        let taken = unnoted.map(|(number, chunk)| {
            chunk.noted = Noted::Soon;
            (*number, chunk.sum)
        });
        taken.collect()
    }

    /// How the noting of `numbers` ended.
    pub(super) fn set_noted(&mut self, numbers: &[(u32, u64)], noted: Noted) {
        for (number, _) in numbers {
            let bytes = self.bytes(*number);
            let Some(chunk) = self.here.get_mut(number) else { continue };
            if chunk.noted == Noted::Soon && noted == Noted::Yes {
                self.noted_bytes += bytes;
            }
            chunk.noted = noted;
        }
    }

    /// The sums of the chunks that are here, as a trailer has them.
    pub(super) fn sums(&self) -> Vec<u8> {
        self.here.values().flat_map(|chunk| chunk.sum.to_le_bytes()).collect()
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
