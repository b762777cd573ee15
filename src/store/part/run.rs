//! The writing side of a row of chunks. One task owns it; dropping it gives back what it claimed,
//! and readers look for another. A chunk is here once all of it is in the file; what broke off
//! within a chunk is fetched again.

use crate::store::body::sums::{CHUNK_BYTES, ChunkSum};
use crate::store::body::{Batch, Growing, Growth};
use crate::store::error::WriteError;
use crate::store::eviction::accounting::Reservation;
use crate::store::eviction::reserve;
use crate::store::part::open::Part;
use crate::store::part::table::{ClaimedRun, IndexNote, number_at};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes that wait in memory before they are written together.
const BATCH_BYTES: u64 = 256 * 1024;
/// Space that is asked for at a time.
const GROWTH_BYTES: u64 = 4 * CHUNK_BYTES;
/// What a chunk may add to what its part counts, beside its bytes: overhead and rounding.
const ROUNDING_BYTES: u64 = 8 * 1024;
/// The space that is promised to chunks of so many bytes each.
pub(super) fn promise_of(chunks: &[u64]) -> u64 {
    chunks.iter().map(|bytes| bytes + ROUNDING_BYTES).sum()
}

/// Promised beyond the bytes of a run, for the chunks that one write may end.
const OVERHEAD_BYTES: u64 = 4 * ROUNDING_BYTES;

/// Chunks that are arriving.
#[derive(Debug)]
pub struct Run {
    part: Part,
    start: u64,
    end: Arc<AtomicU64>,
    growth: Arc<Growth>,
    /// Away while a write is under way; gone for good when that was given up.
    writer: Option<RunWriter>,
}

/// The right to write the chunks of a run; given back when it is dropped. A thread that hangs in a
/// write keeps it, so that each byte of the file has one writer at most.
struct Claim {
    part: Part,
    id: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.part.0.table.lock().leave(self.id);
    }
}

/// What the blocking side needs.
struct RunWriter {
    part: Part,
    _claim: Claim,
    growth: Arc<Growth>,
    next: u64,
    sum: Box<ChunkSum>,
    /// How many syncs of the file had failed when its chunk was begun.
    failures: u64,
    reservation: Reservation,
}

impl std::fmt::Debug for RunWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunWriter").field("next", &self.next).finish_non_exhaustive()
    }
}

impl Run {
    pub(super) fn new(part: Part, entered: ClaimedRun, growth: Arc<Growth>) -> Self {
        let ClaimedRun { id, start, end } = entered;
        let displaces = part.0.store.catalog.displaces(part.0.hash, Some(part.0.length));
        let writer = RunWriter {
            part: part.clone(),
            _claim: Claim { part: part.clone(), id },
            growth: Arc::clone(&growth),
            next: start,
            sum: Box::new(ChunkSum::new(part.0.hash, u64::from(number_at(start)))),
            failures: part.0.table.lock().failures(),
            reservation: Reservation::nothing(&part.0.store.catalog.accounting, displaces),
        };
        Self { part, start, end, growth, writer: Some(writer) }
    }

    /// A reader of what comes; it goes by offsets in the object.
    pub fn growing(&self) -> Growing {
        self.growth.reader()
    }

    /// Offset of its first byte.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// Offset behind its last byte; comes nearer where another run takes over a part of it.
    pub fn end(&self) -> u64 {
        self.end.load(Ordering::Acquire)
    }

    /// Offset behind the last byte that has come.
    pub fn received(&self) -> u64 {
        self.growth.received()
    }

    /// Adds the next bytes, as far as they belong to it; waits for the disk when a batch is full.
    /// Not cancel safe: given up half way, every later call fails.
    pub async fn append(&mut self, mut piece: Bytes) -> Result<(), WriteError> {
        let left = self.end().saturating_sub(self.received());
        piece.truncate(usize::try_from(left).unwrap_or(usize::MAX).min(piece.len()));
        if piece.is_empty() {
            return Ok(());
        }
        if self.writer.is_none() {
            return Err(WriteError::Interrupted);
        }
        self.growth.push(piece);
        if self.growth.in_memory() >= BATCH_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Writes what is left. What of it makes whole chunks is here then. Not cancel safe.
    pub async fn finish(&mut self) -> Result<(), WriteError> {
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), WriteError> {
        let mut writer = self.writer.take().ok_or(WriteError::Interrupted)?;
        let Some(batch) = self.growth.take_batch() else {
            self.writer = Some(writer);
            return Ok(());
        };
        let end = self.end();
        let work = move || {
            let result = writer.write(&batch, end);
            (writer, result)
        };
        let store = &self.part.0.store;
        let written =
            store.lanes.changes.blocking("store write", work).await.map_err(WriteError::from);
        let (writer, result) = written.inspect_err(|error| store.catalog.write_failed(error))?;
        result.inspect_err(|error| store.catalog.write_failed(error))?;
        self.writer = Some(writer);
        self.growth.batch_written(&self.part.0.file);
        Ok(())
    }
}

impl Drop for Run {
    /// Readers that wait look at the table again, so it must know first.
    fn drop(&mut self) {
        drop(self.writer.take());
        self.growth.abandon();
    }
}

impl RunWriter {
    /// Writes a batch that follows what was written; `end` is the end of the run.
    fn write(&mut self, batch: &Batch, end: u64) -> Result<(), WriteError> {
        if batch.offset != self.next {
            return Err(WriteError::Interrupted);
        }
        self.ensure(batch.bytes(), end)?;
        let state = Arc::clone(&self.part.0);
        for segment in &batch.segments {
            let mut rest = segment.clone();
            while !rest.is_empty() {
                let number = number_at(self.next);
                let chunk_end = state.table.lock().span(number).end;
                let left = usize::try_from(chunk_end.saturating_sub(self.next)).unwrap_or(0);
                let part = rest.split_to(left.min(rest.len()));
                if part.is_empty() {
                    return Err(WriteError::Length { declared: state.length, received: self.next });
                }
                reserve::write_at(
                    &state.store.catalog,
                    &state.file,
                    std::slice::from_ref(&part),
                    self.next,
                )?;
                self.sum.update(&part);
                self.growth.in_file(&part, self.next);
                self.next += part.len() as u64;
                if self.next == chunk_end {
                    self.chunk_ended(number);
                }
            }
        }
        Ok(())
    }

    /// All of a chunk was written: it is here, unless a sync failed meanwhile, which says nothing
    /// of what was written before.
    fn chunk_ended(&mut self, number: u32) {
        let state = &self.part.0;
        self.growth.chunk_in_file(u64::from(number));
        let next = ChunkSum::new(state.hash, u64::from(number) + 1);
        let sum = std::mem::replace(&mut *self.sum, next).value();
        let mut table = state.table.lock();
        let begun = std::mem::replace(&mut self.failures, table.failures());
        let is_sound = begun == table.failures();
        let bytes = table.bytes(number);
        if is_sound {
            table.add(number, sum, IndexNote::Not);
        }
        drop(table);
        if is_sound {
            let promise = self.reservation.split(promise_of(&[bytes]));
            state.promised.lock().join(promise);
        }
        state.store.catalog.metrics.chunks.with_label_values(&["fetched"]).inc();
    }

    /// Makes sure that `bytes` more, up to the end of the chunk that they reach, have their space
    /// promised.
    fn ensure(&mut self, bytes: u64, end: u64) -> Result<(), WriteError> {
        let begun = self.next % CHUNK_BYTES;
        let needed = begun.saturating_add(bytes).saturating_add(OVERHEAD_BYTES);
        if needed > self.reservation.bytes() {
            let left = end.saturating_sub(self.next).saturating_add(begun);
            let wanted = left.min(GROWTH_BYTES).saturating_add(OVERHEAD_BYTES).max(needed);
            let missing = wanted - self.reservation.bytes();
            let store = &self.part.0.store;
            store.reserve.extend(&store.catalog, &mut self.reservation, missing, 0)?;
        }
        Ok(())
    }
}
