//! Making room and writing: space is promised and others evicted before the limit would be passed,
//! and again if the file system is full before the limit says so, of bytes or of inodes: those
//! are made by evicting objects that are files, by count. Blocking; no lock held but the one that
//! lets one thread make room on the file system at a time.
//!
//! What is not proven displaces little: an object that says how long it becomes displaces what was
//! never asked for again, one that does not say so takes what is free. A 32nd of the tier is kept
//! free for them: the commit of each object makes that room again. An object that finds no room is
//! remembered, and displaces anything when it is asked for again.

use crate::store::catalog::{Catalog, EvictionReason};
use crate::store::error::WriteError;
use crate::store::eviction::accounting::{Displaces, Reservation, ReserveOutcome};
use crate::store::files;
use crate::sync::{Mutex, MutexGuard};
use crate::tasks;
use bytes::Bytes;
use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// What is left free on the file system, so that the index never meets a full one; at most a 16th
/// of the limit.
pub(in crate::store) const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// What is evicted at least when the file system turns out full.
const SHED_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// Inodes that are left free on the file system, for the folders and files of objects being
/// written and of the index; at most a 16th of all it has.
const FREE_FILES_MIN: u64 = 1024;
/// Objects that are evicted at least when the file system turns out to have no inode left.
const SHED_FILES_MIN: u64 = 16;
/// How long to wait for the index to load more that can be evicted: less than a request waits for
/// the disk.
const LOAD_PATIENCE: Duration = Duration::from_secs(3);

/// How often, and how long apart, a file system is asked for what was freed on it.
const FREED_LOOKS: u32 = 20;
const FREED_PAUSE: Duration = Duration::from_millis(100);
/// How often a thread looks whether it is its turn to make room.
const TURN_LOOKS: u32 = 10;
/// Within this long a file system shows what was freed on it.
const FREED_WITHIN: Duration = Duration::from_secs(6);

/// What a file system lacks.
#[derive(Debug, Clone, Copy)]
struct Shortage {
    bytes: u64,
    files: u64,
}

/// What is kept free on the file system for objects that are not proven.
#[derive(Debug, Default)]
pub(in crate::store) struct Reserve {
    /// When the file system last freed what went for it. Held by the one thread that makes room on
    /// the file system.
    pub(in crate::store) freed: Mutex<Option<Instant>>,
    /// Bytes that objects have taken since as much went for them.
    taken: AtomicU64,
    /// How often more went for it than objects had taken.
    evictions: AtomicU64,
    /// How many of these evictions the file system has freed.
    freed_evictions: AtomicU64,
    /// Notified when the file system is to free what was removed.
    pub(in crate::store) removed: Arc<Notify>,
}

impl Reserve {
    /// Promises `bytes` of the limit and of the file system, evicting first what goes for an object
    /// that displaces so much.
    pub(in crate::store) fn reserve(
        &self,
        catalog: &Catalog,
        bytes: u64,
        displaces: Displaces,
    ) -> Result<Reservation, WriteError> {
        let reservation = reserve_limit(catalog, bytes, displaces)?;
        if shortage(catalog, bytes)?.is_some() {
            self.make_room(catalog, bytes, displaces)?;
        }
        Ok(reservation)
    }

    /// Promises an object at least `missing` bytes more, `step` bytes at a time.
    pub(in crate::store) fn extend(
        &self,
        catalog: &Catalog,
        reservation: &mut Reservation,
        missing: u64,
        step: u64,
    ) -> Result<(), WriteError> {
        catalog.fits(reservation.bytes().saturating_add(missing))?;
        let displaces = reservation.displaces();
        let more = self.reserve(catalog, missing.max(step), displaces);
        reservation.join(more.or_else(|_| self.reserve(catalog, missing, displaces))?);
        Ok(())
    }

    /// Evicts so that `bytes` more find room on the file system, and waits for what it frees: some
    /// free what is removed a moment later. Anything goes for what is to stay free on it, which no
    /// object takes. One thread at a time, since each would evict for all. A thread that waits
    /// here does not wait for the disk.
    fn make_room(
        &self,
        catalog: &Catalog,
        bytes: u64,
        displaces: Displaces,
    ) -> Result<(), WriteError> {
        let _turn = self.turn_to_make_room().ok_or(WriteError::Busy { bytes })?;
        let mut has_evicted = false;
        for (bytes, displaces) in [(0, Displaces::Anything), (bytes, displaces)] {
            let Some(short) = shortage(catalog, bytes)? else { continue };
            let files = if short.files > 0 { short.files.max(SHED_FILES_MIN) } else { 0 };
            let mut evicted = catalog.accounting.shed(short.bytes, displaces);
            evicted.extend(catalog.accounting.shed_files(files, displaces));
            has_evicted |= !evicted.is_empty();
            catalog.evict(evicted, EvictionReason::Space)?;
        }
        if has_evicted {
            free_removed(catalog);
            tasks::step();
        }
        let looks = if has_evicted { FREED_LOOKS } else { 1 };
        for _ in 1..looks {
            if shortage(catalog, bytes)?.is_none() {
                return Ok(());
            }
            tasks::sleep_blocking(FREED_PAUSE);
            tasks::step();
        }
        match (shortage(catalog, bytes)?, shortage(catalog, 0)?) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(WriteError::Busy { bytes }),
            (Some(_), Some(short)) if short.bytes == 0 => Err(WriteError::NoFiles),
            (Some(_), Some(_)) => Err(WriteError::NoSpace { bytes }),
        }
    }

    /// The turn of this thread to make room; none if another one takes too long.
    fn turn_to_make_room(&self) -> Option<MutexGuard<'_, Option<Instant>>> {
        for _ in 0..TURN_LOOKS {
            if let Some(turn) = self.freed.try_lock() {
                return Some(turn);
            }
            tasks::sleep_blocking(FREED_PAUSE);
            tasks::step();
        }
        None
    }

    /// Evicts until what is kept free for objects that are not proven is free again, of which
    /// `taken` bytes were taken. An error is noted.
    pub(in crate::store) fn refill(&self, catalog: &Catalog, taken: u64) {
        self.taken.fetch_add(taken, Ordering::Relaxed);
        let keep = || -> Result<(), WriteError> {
            catalog.evict(catalog.accounting.overfull(), EvictionReason::Size)?;
            let wanted = catalog.accounting.reserve_bytes();
            if catalog.free_space.has(wanted) {
                return Ok(());
            }
            let Some(freed) = self.freed.try_lock() else { return Ok(()) };
            let taken = self.taken.swap(0, Ordering::Relaxed);
            let Some(short) = shortage(catalog, wanted)? else { return Ok(()) };
            // What goes does not show before it is freed, nor at once then: as much goes as came.
            let evictions = self.evictions.load(Ordering::Acquire);
            let is_hidden = evictions != self.freed_evictions.load(Ordering::Acquire)
                || freed.is_some_and(|freed| freed.elapsed() < FREED_WITHIN);
            let bytes = if is_hidden { short.bytes.min(taken) } else { short.bytes };
            let evicted = catalog.accounting.shed(bytes, Displaces::Anything);
            if evicted.is_empty() {
                return Ok(());
            }
            if !is_hidden {
                self.evictions.fetch_add(1, Ordering::AcqRel);
            }
            catalog.evict(evicted, EvictionReason::Space)?;
            self.removed.notify_one();
            Ok(())
        };
        if let Err(error) = keep() {
            catalog.write_failed(&error);
        }
    }

    /// Has the file system free what was removed ahead of need.
    pub(in crate::store) fn free_removed_files(&self, catalog: &Catalog) {
        let evictions = self.evictions.load(Ordering::Acquire);
        free_removed(catalog);
        if evictions != self.freed_evictions.load(Ordering::Acquire) {
            *self.freed.lock() = Some(Instant::now());
            self.freed_evictions.store(evictions, Ordering::Release);
        }
    }
}

/// Promises `bytes` if nothing must go for it and the file system, asked a moment ago, has
/// plenty. Never waits.
pub(in crate::store) fn reserve_at_once(
    catalog: &Catalog,
    bytes: u64,
    displaces: Displaces,
) -> Option<Reservation> {
    if !catalog.free_space.take(bytes) {
        return None;
    }
    catalog.accounting.reserve_free(bytes, displaces)
}

/// Has the file system free what was removed; if it does not, it will in its own time.
fn free_removed(catalog: &Catalog) {
    #[cfg(test)]
    catalog.faults.reach("what was removed is to be freed");
    if let Err(error) = catalog.folder.free_removed() {
        tracing::debug!(disk = &*catalog.label, %error, "what was removed is not yet free");
    }
}

/// What the file system lacks for `bytes` more and what is to stay free on it; `None` if
/// nothing.
fn shortage(catalog: &Catalog, bytes: u64) -> Result<Option<Shortage>, WriteError> {
    let free = catalog.folder.free();
    let free = free.map_err(|source| WriteError::Io { operation: "space", source })?;
    #[cfg(test)]
    let free = catalog.faults.less(free);
    let wanted = bytes.saturating_add(FREE_BYTES_MIN.min(catalog.accounting.limit() / 16));
    let wanted_files = FREE_FILES_MIN.min(free.files_total / 16);
    let free_files = free.files.saturating_sub(wanted_files);
    let free_files = if free.files_total == 0 { u64::MAX } else { free_files };
    catalog.free_space.answered(free.bytes.saturating_sub(wanted), free_files);
    catalog.accounting.set_capacity(free.bytes_total);
    let short = Shortage {
        bytes: wanted.saturating_sub(free.bytes),
        files: wanted_files.saturating_sub(free.files),
    };
    Ok(Some(short).filter(|short| short.bytes > 0 || short.files > 0))
}

fn reserve_limit(
    catalog: &Catalog,
    bytes: u64,
    displaces: Displaces,
) -> Result<Reservation, WriteError> {
    loop {
        let was_loaded = catalog.accounting.usage().is_loaded;
        match catalog.accounting.reserve(bytes, displaces) {
            ReserveOutcome::Promised(reservation, evicted) => {
                catalog.evict(evicted, EvictionReason::Size)?;
                return Ok(reservation);
            }
            ReserveOutcome::Short(evicted) if evicted.is_empty() => {
                if displaces != Displaces::Anything
                    || was_loaded
                    || !catalog.accounting.wait_for_more(LOAD_PATIENCE)
                {
                    return Err(WriteError::Busy { bytes });
                }
                tasks::step();
            }
            ReserveOutcome::Short(evicted) => catalog.evict(evicted, EvictionReason::Size)?,
            ReserveOutcome::Never => {
                return Err(WriteError::TooLarge { bytes, limit: catalog.accounting.limit() });
            }
        }
    }
}

/// Writes all of `chunks`, one behind the other, from `offset` on; evicts and tries once more
/// if the disk is full. In few calls: the page cache holds what one call writes in large
/// pieces, and what many small ones write in small pieces, of which it costs twice as much to
/// send a body; see [`CALL_BYTES_MAX`].
pub(in crate::store) fn write_at(
    catalog: &Catalog,
    file: &Arc<File>,
    chunks: &[Bytes],
    offset: u64,
) -> Result<(), WriteError> {
    let write = || {
        #[cfg(test)]
        catalog.faults.next()?;
        write_all_at(file, chunks, offset)
    };
    let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
    evicting_once(catalog, bytes, "write", write)
}

/// Does `work`; if the file system is full, whatever was promised, evicts `bytes` or more and
/// does it again until what was freed is there.
pub(in crate::store) fn evicting_once<T>(
    catalog: &Catalog,
    bytes: u64,
    operation: &'static str,
    work: impl Fn() -> io::Result<T>,
) -> Result<T, WriteError> {
    let failed = |source| WriteError::Io { operation, source };
    let mut result = work().map_err(failed);
    if !result.as_ref().is_err_and(WriteError::is_full) {
        return result;
    }
    let short = shortage(catalog, bytes).ok().flatten();
    let evicted = if short.is_some_and(|short| short.files > 0) {
        catalog.accounting.shed_files(SHED_FILES_MIN, Displaces::Anything)
    } else {
        catalog.accounting.shed(bytes.max(SHED_BYTES_MIN), Displaces::Anything)
    };
    if evicted.is_empty() {
        return Err(WriteError::NoSpace { bytes });
    }
    catalog.evict(evicted, EvictionReason::Space)?;
    for _ in 0..FREED_LOOKS {
        result = work().map_err(failed);
        if !result.as_ref().is_err_and(WriteError::is_full) {
            return result;
        }
        tasks::sleep_blocking(FREED_PAUSE);
        tasks::step();
    }
    Err(WriteError::NoSpace { bytes })
}

/// Slices of one call at most (`IOV_MAX`).
const SLICES_MAX: usize = 1024;

/// Bytes of one call at most, which the page cache holds in one piece: enough for it to be sent for
/// the least. For more the kernel takes larger pieces, of memory that was unused for long: a
/// virtual machine may have given that back to its host, and pays for each page of it once more.
const CALL_BYTES_MAX: usize = 128 * 1024;

/// Writes all of `chunks`, one behind the other, from `offset` on.
fn write_all_at(file: &File, chunks: &[Bytes], mut offset: u64) -> io::Result<()> {
    let mut rest = chunks.iter().map(|chunk| &**chunk).filter(|chunk| !chunk.is_empty());
    let mut next = rest.next();
    while next.is_some() {
        let mut slices = Vec::new();
        let within = usize::try_from(offset % CALL_BYTES_MAX as u64).unwrap_or(0);
        let mut room = CALL_BYTES_MAX - within;
        while let Some(chunk) = next.filter(|_| room > 0 && slices.len() < SLICES_MAX) {
            let (now, later) = chunk.split_at(room.min(chunk.len()));
            slices.push(IoSlice::new(now));
            room -= now.len();
            next = if later.is_empty() { rest.next() } else { Some(later) };
        }
        let mut left = slices.as_mut_slice();
        while !left.is_empty() {
            let length = left.iter().map(|slice| slice.len()).sum();
            let call = || Ok(rustix::io::pwritev(file, left, offset)?);
            match files::write(file, offset, length, call) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    tasks::step();
                    IoSlice::advance_slices(&mut left, written);
                    offset = offset.saturating_add(written as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn chunks_are_written_one_behind_the_other_however_many() {
        let chunk = |number: usize| Bytes::from(vec![number.to_le_bytes()[0]; number % 5]);
        let chunks: Vec<Bytes> = (0..2 * SLICES_MAX + 3).map(chunk).collect();
        let file = tempfile::tempfile().unwrap();
        write_all_at(&file, &chunks, 7).unwrap();
        write_all_at(&file, &[], 0).unwrap();
        let written = chunks.concat();
        assert_eq!(file.metadata().unwrap().len(), 7 + written.len() as u64);
        let mut read = vec![0; written.len()];
        file.read_exact_at(&mut read, 7).unwrap();
        assert_eq!(read, written);
        let sizes = [300_000, 0, 1, CALL_BYTES_MAX, 5, 2 * CALL_BYTES_MAX];
        let large = sizes.map(|size| Bytes::from(vec![u8::try_from(size % 251).unwrap(); size]));
        write_all_at(&file, &large, 3).unwrap();
        let mut read = vec![0; sizes.iter().sum()];
        file.read_exact_at(&mut read, 3).unwrap();
        assert!(read == large.concat());
        let read_only = File::open("/dev/null").unwrap();
        assert!(write_all_at(&read_only, &chunks, 0).is_err());
    }
}
