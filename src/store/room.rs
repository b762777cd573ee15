//! Making room and writing: space is promised and others evicted before the limit would be passed,
//! and again where the file system is full before the limit says so, of bytes or of inodes: those
//! are made by evicting objects that are files, by count. Blocking; no lock held.

use super::Inner;
use super::error::WriteError;
use super::folder::Free;
use super::remove::Reason;
use super::space::{Reservation, Room};
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

/// What is left free on the file system, so that the index never meets a full one; at most a 16th
/// of the limit.
const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// What is evicted at least when the file system turns out full.
const SHED_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// Inodes that are left free on the file system, for the folders and files of objects being
/// written and of the index; at most a 16th of all it has.
const FREE_FILES_MIN: u64 = 1024;
/// Objects that are evicted at least when the file system turns out to have no inode left.
const SHED_FILES_MIN: u64 = 16;
/// How long to wait for the index to load more that can be evicted.
const LOAD_PATIENCE: Duration = Duration::from_secs(5);

impl Inner {
    /// Promises `bytes` of the limit and of the file system, evicting what must go first.
    pub(super) fn reserve(&self, bytes: u64) -> Result<Reservation, WriteError> {
        let reservation = self.reserve_limit(bytes)?;
        let mut short = self.shortage(bytes)?;
        if short.bytes > 0 {
            self.evict(self.space.shed(short.bytes), Reason::Space)?;
            short = self.shortage(bytes)?;
        }
        if short.files > 0 {
            self.evict(self.space.shed_files(short.files.max(SHED_FILES_MIN)), Reason::Space)?;
            short = self.shortage(bytes)?;
        }
        if short.bytes > 0 {
            return Err(WriteError::NoSpace { bytes });
        }
        if short.files > 0 {
            return Err(WriteError::NoFiles);
        }
        Ok(reservation)
    }

    /// What the file system lacks for `bytes` more and what is to stay free on it.
    fn shortage(&self, bytes: u64) -> Result<Free, WriteError> {
        let free = self.folder.free();
        let free = free.map_err(|source| WriteError::Io { operation: "space", source })?;
        let wanted = bytes.saturating_add(FREE_BYTES_MIN.min(self.space.limit() / 16));
        Ok(Free {
            bytes: wanted.saturating_sub(free.bytes),
            files: FREE_FILES_MIN.min(free.files_total / 16).saturating_sub(free.files),
            files_total: free.files_total,
        })
    }

    fn reserve_limit(&self, bytes: u64) -> Result<Reservation, WriteError> {
        loop {
            let was_loaded = self.space.usage().is_loaded;
            match self.space.reserve(bytes) {
                Room::Promised(reservation, evicted) => {
                    self.evict(evicted, Reason::Size)?;
                    return Ok(reservation);
                }
                Room::Short(evicted) if evicted.is_empty() => {
                    if was_loaded || !self.space.wait_for_more(LOAD_PATIENCE) {
                        return Err(WriteError::Busy { bytes });
                    }
                }
                Room::Short(evicted) => self.evict(evicted, Reason::Size)?,
                Room::Never => {
                    return Err(WriteError::TooLarge { bytes, limit: self.space.limit() });
                }
            }
        }
    }

    /// Writes all of `chunk` at `offset`; evicts and tries once more where the disk is full.
    pub(super) fn write_at(
        &self,
        file: &Arc<File>,
        chunk: &Bytes,
        offset: u64,
    ) -> Result<(), WriteError> {
        let write = || {
            #[cfg(test)]
            self.faults.next()?;
            file.write_all_at(chunk, offset)
        };
        self.evicting_once(chunk.len() as u64, "write", write)
    }

    /// Does `work`; where the file system is full, evicts `bytes` or more and does it once more.
    pub(super) fn evicting_once<T>(
        &self,
        bytes: u64,
        operation: &'static str,
        work: impl Fn() -> io::Result<T>,
    ) -> Result<T, WriteError> {
        let failed = |source| WriteError::Io { operation, source };
        let result = work().map_err(failed);
        match result {
            Err(error) if error.is_full() => {
                let lacks_files = self.shortage(bytes).is_ok_and(|short| short.files > 0);
                let evicted = if lacks_files {
                    self.space.shed_files(SHED_FILES_MIN)
                } else {
                    self.space.shed(bytes.max(SHED_BYTES_MIN))
                };
                if evicted.is_empty() {
                    return Err(WriteError::NoSpace { bytes });
                }
                self.evict(evicted, Reason::Space)?;
                work().map_err(failed).map_err(|error| {
                    if error.is_full() { WriteError::NoSpace { bytes } } else { error }
                })
            }
            result => result,
        }
    }
}
