//! Bytes of an object that come before their turn: written at their place in its file while what
//! is before them is still on its way. Nobody sees them. When their turn has come,
//! [`Pending::take_in`] reads them back, compares their sums, and takes them into the digest; so
//! all that is said of an object that comes in order holds for one that comes in pieces.
//!
//! A stretch has one writer. One that was given up may have a write under way: none goes below the
//! mark, which what takes its place raises first, so that no byte in its place is ever overwritten.
//! The mark's lock is held on blocking threads alone, while one batch is written.
//!
//! [`Pending::take_in`]: super::Pending::take_in

use super::Inner;
use super::chunks::chunk_of;
use super::error::WriteError;
use super::growing::Shared;
use super::sums::{CHUNK_BYTES, Sums};
use crate::object::KeyHash;
use crate::sync::RwLock;
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Bytes that wait in memory before they are written together.
const BATCH_BYTES: u64 = 256 * 1024;

/// The offset below which nobody writes any more but who has the object in hand.
#[derive(Debug, Clone, Default)]
pub(super) struct Mark(Arc<RwLock<u64>>);

impl Mark {
    /// Nothing before `offset` is written from now on. Blocking: waits for one batch.
    pub(super) fn raise(&self, offset: u64) {
        let mut mark = self.0.write();
        *mark = (*mark).max(offset);
    }
}

/// Where bytes go that come before their turn. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Ahead {
    store: Arc<Inner>,
    key: KeyHash,
    file: Arc<File>,
    mark: Mark,
}

impl Ahead {
    pub(super) fn new(store: Arc<Inner>, key: KeyHash, file: Arc<File>, mark: Mark) -> Self {
        Self { store, key, file, mark }
    }

    /// The object's file.
    #[cfg(test)]
    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// A stretch of the object from `start` on, which must begin with a chunk.
    pub fn stretch(&self, start: u64) -> Early {
        debug_assert!(start.is_multiple_of(CHUNK_BYTES), "a stretch begins with a chunk");
        Early {
            ahead: self.clone(),
            start,
            written: start,
            batch: Vec::new(),
            batch_bytes: 0,
            sums: Sums::from_chunk(self.key, chunk_of(start)),
        }
    }
}

/// A stretch that is being written before its turn. Dropped, what was written of it counts for
/// nothing.
#[derive(Debug)]
pub struct Early {
    ahead: Ahead,
    start: u64,
    written: u64,
    batch: Vec<Bytes>,
    batch_bytes: u64,
    sums: Sums,
}

impl Early {
    /// Adds the next bytes; waits for the disk where a batch is full. Not cancel safe: given up,
    /// the stretch must be dropped.
    pub async fn append(&mut self, chunk: Bytes) -> Result<(), WriteError> {
        self.batch_bytes += chunk.len() as u64;
        self.batch.push(chunk);
        if self.batch_bytes >= BATCH_BYTES { self.flush().await } else { Ok(()) }
    }

    /// Writes what is left. Not cancel safe, as [`Early::append`].
    pub async fn finish(mut self) -> Result<Written, WriteError> {
        self.flush().await?;
        Ok(Written { span: self.start..self.written, sums: self.sums })
    }

    async fn flush(&mut self) -> Result<(), WriteError> {
        let chunks = std::mem::take(&mut self.batch);
        let bytes = std::mem::take(&mut self.batch_bytes);
        if bytes == 0 {
            return Ok(());
        }
        for chunk in &chunks {
            self.sums.update(chunk);
        }
        let (ahead, offset) = (self.ahead.clone(), self.written);
        let write = move || {
            let mark = ahead.mark.0.read();
            if offset < *mark {
                return Err(WriteError::Interrupted);
            }
            ahead.store.write_at(&ahead.file, &chunks, offset)
        };
        let store = &self.ahead.store;
        let written = store.tasks.blocking("store write ahead", write).await;
        let written = written.map_err(|_| WriteError::Interrupted)?;
        written.inspect_err(|error| store.write_failed(error))?;
        self.written += bytes;
        Ok(())
    }
}

/// A stretch that is in the file, and what it must read as.
#[derive(Debug)]
pub struct Written {
    span: Range<u64>,
    sums: Sums,
}

impl Written {
    /// Which bytes of the object it is.
    pub fn span(&self) -> Range<u64> {
        self.span.clone()
    }

    /// Gives its bytes in order to `each`, chunk by chunk with their offsets, up to the first chunk
    /// that does not read as it was written. Blocking.
    pub(super) fn read_back(
        &self,
        file: &File,
        shared: &Shared,
        mut each: impl FnMut(&[u8], u64),
    ) -> io::Result<()> {
        let mut buffer = vec![0; usize::try_from(CHUNK_BYTES).unwrap_or_default()];
        let mut at = self.span.start;
        while at < self.span.end {
            let index = chunk_of(at);
            let damaged = || {
                let why = format!("bytes from {at} on are not what was written");
                io::Error::new(io::ErrorKind::InvalidData, why)
            };
            let expected = self.sums.of(index).ok_or_else(damaged)?;
            let length = usize::try_from(expected.bytes).unwrap_or_default();
            let chunk = buffer.get_mut(..length).ok_or_else(damaged)?;
            file.read_exact_at(chunk, at)?;
            if shared.sum_of(index, chunk) != expected.sum {
                return Err(damaged());
            }
            each(chunk, at);
            at += expected.bytes;
        }
        Ok(())
    }
}
