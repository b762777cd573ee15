//! The blocking side of an object that is being received: its file, its digest and its promised
//! space. In one thread's hands at a time; no lock but the object's own, for a moment.

use crate::object::Sha256;
use crate::store::body::chunks::chunk_of;
use crate::store::body::growing::Growth;
use crate::store::body::out_of_order::{RangePlace, WriteFloor, WrittenRange};
use crate::store::body::segments::Batch;
use crate::store::disk_store::DiskStore;
use crate::store::error::WriteError;
use crate::store::eviction::accounting::Reservation;
use crate::store::eviction::reserve;
use crate::store::folder::NewFile;
use crate::store::format;
use crate::sync::Mutex;
use aws_lc_rs::digest;
use bytes::Bytes;
use std::fs::File;
use std::sync::Arc;

/// What a thread needs to write an object.
pub(super) struct DiskSide {
    store: Arc<DiskStore>,
    growth: Arc<Growth>,
    file: Option<NewFile>,
    floor: WriteFloor,
    digest: SharedDigest,
    reservation: Reservation,
}

/// The digest of the bytes that were handed to threads. Cloning shares it. The lock is held while a
/// batch is hashed, never across I/O.
#[derive(Clone, Default)]
pub(super) struct SharedDigest(Arc<Mutex<Hashing>>);

#[derive(Default)]
enum Hashing {
    /// The disk side has it.
    Open(RunningDigest),
    /// The object goes on without its disk: a thread that still works for it changes nothing.
    #[default]
    Left,
}

/// A SHA-256 and the offset behind the last byte that it knows.
pub(super) struct RunningDigest {
    context: digest::Context,
    end: u64,
}

impl std::fmt::Debug for DiskSide {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskSide").field("file", &self.file).finish_non_exhaustive()
    }
}

impl RunningDigest {
    fn new() -> Self {
        Self { context: digest::Context::new(&digest::SHA256), end: 0 }
    }

    /// Takes the next bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
        self.end += bytes.len() as u64;
    }

    /// Takes what is new of the bytes in memory.
    fn catch_up(&mut self, growth: &Growth) {
        while let Some(bytes) = growth.read_memory(self.end) {
            self.update(&bytes);
        }
    }

    /// The SHA-256 of all bytes so far, and how many they are.
    pub(super) fn finish(&self) -> (Sha256, u64) {
        (Sha256::finish(self.context.clone()), self.end)
    }
}

impl SharedDigest {
    /// Of no bytes.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Hashing::Open(RunningDigest::new()))))
    }

    /// Takes the digest away from the disk side, with all bytes in memory that it did not know.
    pub(super) fn leave_the_disk(&self, growth: &Growth) -> Option<RunningDigest> {
        let mut hashing = self.0.lock();
        match std::mem::take(&mut *hashing) {
            Hashing::Open(mut digest) => {
                digest.catch_up(growth);
                Some(digest)
            }
            Hashing::Left => None,
        }
    }

    /// Takes a batch, which must be the next one.
    fn take(&self, batch: &Batch) -> Result<(), WriteError> {
        self.with(|digest| {
            if digest.end != batch.offset {
                return Err(WriteError::Interrupted);
            }
            batch.segments.iter().for_each(|bytes| digest.update(bytes));
            Ok(())
        })?
    }

    /// Takes what is new of the bytes in memory: the SHA-256 of all bytes, and how many they are.
    pub(super) fn catch_up(&self, growth: &Growth) -> Result<(Sha256, u64), WriteError> {
        self.with(|digest| {
            digest.catch_up(growth);
            digest.finish()
        })
    }

    /// Does `work` with the digest, unless the object goes on without its disk.
    fn with<T>(&self, work: impl FnOnce(&mut RunningDigest) -> T) -> Result<T, WriteError> {
        match &mut *self.0.lock() {
            Hashing::Open(digest) => Ok(work(digest)),
            Hashing::Left => Err(WriteError::Interrupted),
        }
    }
}

impl DiskSide {
    pub(super) fn new(
        store: Arc<DiskStore>,
        growth: Arc<Growth>,
        reservation: Reservation,
    ) -> Self {
        let (floor, digest) = (WriteFloor::default(), SharedDigest::new());
        Self { store, growth, file: None, floor, digest, reservation }
    }

    /// The digest of what it is given.
    pub(super) fn digest(&self) -> SharedDigest {
        self.digest.clone()
    }

    /// Hashes and writes a batch, which is the next one. One that cannot be written stays in
    /// memory.
    pub(super) fn take(&mut self, batch: &Batch) -> Result<(), WriteError> {
        self.digest.take(batch)?;
        self.write(batch)
    }

    /// Writes a batch. If the file system is full, others are evicted and it is tried once more.
    pub(super) fn write(&mut self, batch: &Batch) -> Result<(), WriteError> {
        let (bytes, start) = (batch.bytes(), batch.offset);
        self.promise(start.saturating_add(bytes))?;
        let file = self.file(bytes)?;
        self.floor.raise(start.saturating_add(bytes));
        #[cfg(test)]
        self.store.catalog.faults.reach("a batch is to be written");
        reserve::write_at(&self.store.catalog, &file, &batch.segments, start)?;
        let mut offset = start;
        for segment in &batch.segments {
            self.growth.in_file(segment, offset);
            offset += segment.len() as u64;
        }
        self.digest.with(|_| self.growth.batch_written(&file))
    }

    /// Makes the file for ranges that come before their turn, with the space of the whole object
    /// promised.
    pub(super) fn open_for_ranges(&mut self, length: u64) -> Result<(), WriteError> {
        self.promise(length)?;
        self.file(length).map(drop)
    }

    /// Where ranges are written before their turn, if the file was made.
    pub(super) fn range_place(&self) -> Option<RangePlace> {
        Some((Arc::clone(self.file.as_ref()?.file()), self.floor.clone()))
    }

    /// Takes in a range that is in the file already, as far as it reads as it was written.
    pub(super) fn take_in(&mut self, range: &WrittenRange) -> Result<(), WriteError> {
        let file = self.file(0)?;
        self.floor.raise(range.span().end);
        let read = range.read_back(&file, &self.growth, |bytes, offset| {
            self.digest.with(|digest| {
                digest.update(bytes);
                self.growth.in_file(bytes, offset);
                self.growth.taken_in(bytes.len() as u64, &file);
            })
        });
        match read {
            Ok(()) => Ok(()),
            Err(WriteError::Io { source, .. }) => {
                self.store.catalog.count("read");
                tracing::warn!(error = %source, "a range does not read as it was written");
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Ends a proven body of `length` bytes that goes into the index: its promised space.
    pub(super) fn finish_inline(mut self, length: u64) -> Result<Reservation, WriteError> {
        self.reservation.prove();
        self.promise(length)?;
        Ok(self.reservation)
    }

    /// Ends a proven body of `length` bytes that goes into a file: writes its last batch.
    pub(super) fn finish_file(
        mut self,
        length: u64,
        last: Option<&Batch>,
    ) -> Result<(NewFile, Reservation), WriteError> {
        self.reservation.prove();
        self.promise(length)?;
        self.floor.raise(u64::MAX);
        if let Some(batch) = last {
            self.write(batch)?;
        }
        self.growth.chunk_in_file(chunk_of(length.saturating_sub(1)));
        #[cfg(test)]
        self.store.catalog.faults.reach("a body is written");
        let file = self.file.ok_or(WriteError::Interrupted)?;
        Ok((file, self.reservation))
    }

    /// The file, made if there is none yet; `bytes` are to be written.
    fn file(&mut self, bytes: u64) -> Result<Arc<File>, WriteError> {
        if let Some(new) = &self.file {
            return Ok(Arc::clone(new.file()));
        }
        let create = || self.store.catalog.folder.new_file();
        let made = reserve::evicting_once(&self.store.catalog, bytes, "create", create)?;
        Ok(Arc::clone(self.file.insert(made).file()))
    }

    /// Makes sure that the space of a body of `length` bytes is promised; ahead of more, if more
    /// may come.
    fn promise(&mut self, length: u64) -> Result<(), WriteError> {
        let missing = format::charge(length).saturating_sub(self.reservation.bytes());
        if missing == 0 {
            return Ok(());
        }
        let whole = self.growth.declared().map_or(u64::MAX, format::charge);
        let step = self
            .store
            .catalog
            .accounting
            .step()
            .min(whole.saturating_sub(self.reservation.bytes()));
        self.store.reserve.extend(&self.store.catalog, &mut self.reservation, missing, step)
    }
}

/// A body that is ready to be placed.
#[derive(Debug)]
pub(in crate::store) enum SealedBody {
    /// Below 64 KiB.
    Inline(Bytes),
    /// On the disk, without a name.
    File {
        /// The body alone.
        new: NewFile,
        /// The sums of its chunks.
        sums: Vec<u8>,
        /// What its readers know of its chunks.
        chunks: Arc<crate::store::body::chunks::Chunks>,
    },
}
