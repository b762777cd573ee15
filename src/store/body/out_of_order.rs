//! Ranges of an object that come before their turn: written at their place in its file while the
//! bytes before them are still on their way. No reader sees them. When their turn has come,
//! [`ObjectWriter::take_in`] reads them back, compares their sums, and takes them into the digest;
//! so all that holds for an object that comes in order holds for one that comes in ranges.
//!
//! A range has one writer. One that was given up may have a write under way: no write goes below
//! the floor, which is raised before other bytes are written in its place, so that no byte there is
//! ever overwritten. The floor's lock is held on blocking threads alone, while a batch is written.
//!
//! [`ObjectWriter::take_in`]: super::ObjectWriter::take_in

use crate::object::KeyHash;
use crate::store::body::chunks::chunk_of;
use crate::store::body::growing::Growth;
use crate::store::body::segments::Segments;
use crate::store::body::sums::{CHUNK_BYTES, Sums};
use crate::store::disk_store::DiskStore;
use crate::store::error::WriteError;
use crate::store::eviction::reserve;
use crate::store::files;
use crate::sync::RwLock;
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes that wait in memory before they are written together.
const BATCH_BYTES: u64 = 256 * 1024;

/// The offset below which only the object's own writer writes.
#[derive(Debug, Clone, Default)]
pub(super) struct WriteFloor(Arc<RwLock<u64>>);

impl WriteFloor {
    /// No range is written before `offset` from now on. Blocking: waits for one batch.
    pub(super) fn raise(&self, offset: u64) {
        let mut floor = self.0.write();
        *floor = (*floor).max(offset);
    }
}

/// A file, and the offset below which no range is written ahead.
pub(super) type RangePlace = (Arc<File>, WriteFloor);

/// The place of ranges that come before their turn. Cloning shares it.
#[derive(Debug, Clone)]
pub struct OutOfOrder {
    store: Arc<DiskStore>,
    key: KeyHash,
    file: Arc<File>,
    floor: WriteFloor,
}

impl OutOfOrder {
    pub(super) fn new(store: Arc<DiskStore>, key: KeyHash, (file, floor): RangePlace) -> Self {
        Self { store, key, file, floor }
    }

    /// The object's file.
    #[cfg(test)]
    pub(in crate::store) fn file(&self) -> &File {
        &self.file
    }

    /// A writer of the range from `start` on, which must begin with a chunk.
    pub fn range_from(&self, start: u64) -> RangeWriter {
        debug_assert!(start.is_multiple_of(CHUNK_BYTES), "a range begins with a chunk");
        RangeWriter {
            place: self.clone(),
            start,
            segments: Segments::at(start),
            sums: Sums::from_chunk(self.key, chunk_of(start)),
        }
    }
}

/// A range that is being written before its turn. If it is dropped, what was written of it counts
/// for nothing.
#[derive(Debug)]
pub struct RangeWriter {
    place: OutOfOrder,
    start: u64,
    segments: Segments,
    sums: Sums,
}

impl RangeWriter {
    /// Adds the next bytes; waits for the disk if a batch is full. Not cancel safe: given up, the
    /// range must be dropped.
    pub async fn append(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        self.sums.update(&bytes);
        self.segments.push(bytes);
        if self.segments.bytes() >= BATCH_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Writes what is left. Not cancel safe, as [`RangeWriter::append`].
    pub async fn finish(mut self) -> Result<WrittenRange, WriteError> {
        self.flush().await?;
        Ok(WrittenRange { span: self.start..self.segments.end(), sums: self.sums })
    }

    async fn flush(&mut self) -> Result<(), WriteError> {
        let Some(batch) = self.segments.take_batch() else { return Ok(()) };
        let place = self.place.clone();
        let write = move || {
            let floor = place.floor.0.read();
            if batch.offset < *floor {
                return Err(WriteError::Interrupted);
            }
            reserve::write_at(&place.store.catalog, &place.file, &batch.segments, batch.offset)
        };
        let store = &self.place.store;
        let written = store.lanes.changes.blocking("store write range", write).await?;
        written.inspect_err(|error| store.catalog.write_failed(error))?;
        self.segments.batch_written();
        Ok(())
    }
}

/// A range that is in the file, and what it must read as.
#[derive(Debug)]
pub struct WrittenRange {
    span: Range<u64>,
    sums: Sums,
}

impl WrittenRange {
    /// Which bytes of the object it is.
    pub fn span(&self) -> Range<u64> {
        self.span.clone()
    }

    /// Gives its bytes in order to `each`, chunk by chunk with their offsets, up to the first chunk
    /// that does not read as it was written. Blocking.
    pub(super) fn read_back(
        &self,
        file: &File,
        growth: &Growth,
        mut each: impl FnMut(&[u8], u64) -> Result<(), WriteError>,
    ) -> Result<(), WriteError> {
        let failed = |source| WriteError::Io { operation: "read", source };
        let mut buffer = vec![0; usize::try_from(CHUNK_BYTES).unwrap_or_default()];
        let mut at = self.span.start;
        while at < self.span.end {
            let index = chunk_of(at);
            let damaged = || {
                let why = format!("bytes from {at} on are not what was written");
                failed(io::Error::new(io::ErrorKind::InvalidData, why))
            };
            let expected = self.sums.of(index).ok_or_else(damaged)?;
            let length = usize::try_from(expected.bytes).unwrap_or_default();
            let chunk = buffer.get_mut(..length).ok_or_else(damaged)?;
            files::read(|| file.read_exact_at(chunk, at)).map_err(failed)?;
            if growth.sum_of(index, chunk) != expected.sum {
                return Err(damaged());
            }
            each(chunk, at)?;
            at += expected.bytes;
        }
        Ok(())
    }
}
