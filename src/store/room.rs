//! Making room and writing: space is promised and others evicted before the limit would be passed,
//! and again where the file system is full before the limit says so, of bytes or of inodes: those
//! are made by evicting objects that are files, by count. Blocking; no lock held but the one that
//! lets one thread make room on the file system at a time.
//!
//! What is not proven displaces little: an object that says how long it becomes displaces what was
//! never asked for again, one that does not say so takes what is free. A 32nd of the tier is kept
//! free for them: the commit of each object makes that room again. An object that finds no room is
//! remembered, and displaces anything when it is asked for again.

use super::Inner;
use super::error::WriteError;
use super::files;
use super::format;
use super::remove::Reason;
use super::space::{Displaces, Reservation, Room};
use crate::object::KeyHash;
use crate::sync::{Mutex, MutexGuard};
use crate::tasks;
use bytes::Bytes;
use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What is left free on the file system, so that the index never meets a full one; at most a 16th
/// of the limit.
pub(super) const FREE_BYTES_MIN: u64 = 64 * 1024 * 1024;
/// What is evicted at least when the file system turns out full.
const SHED_BYTES_MIN: u64 = 4 * 1024 * 1024;
/// Inodes that are left free on the file system, for the folders and files of objects being
/// written and of the index; at most a 16th of all it has.
const FREE_FILES_MIN: u64 = 1024;
/// Objects that are evicted at least when the file system turns out to have no inode left.
const SHED_FILES_MIN: u64 = 16;
/// What the file system has to spare beyond that, in bytes and in inodes, where it is not asked
/// before each promise.
const SPARE_BYTES_MIN: u64 = 256 * 1024 * 1024;
const SPARE_FILES_MIN: u64 = 4096;
/// Inodes that an object takes at most: two folders and its file, and one for the index.
const FILES_OF_ONE: u64 = 4;
/// How long an answer of the file system counts. If it goes away, objects that are begun meanwhile
/// reach their clients and are not stored.
const SPARE_AGE_MAX: Duration = Duration::from_millis(50);
/// How long to wait for the index to load more that can be evicted: less than a request waits for
/// the disk.
const LOAD_PATIENCE: Duration = Duration::from_secs(3);

/// How often, and how long apart, a file system is asked for what was freed on it.
const FREED_LOOKS: u32 = 20;
const FREED_PAUSE: Duration = Duration::from_millis(100);
/// How often a thread looks whether it is its turn to make room.
const TURN_LOOKS: u32 = 10;
/// How often a file system is told to free what was removed ahead of need.
const FREED_OFTEN: Duration = Duration::from_millis(250);
/// Within this long a file system shows what was freed on it.
const FREED_WITHIN: Duration = Duration::from_secs(6);

/// What a file system lacks.
#[derive(Debug, Clone, Copy)]
struct Shortage {
    bytes: u64,
    files: u64,
}

/// What the file system had to spare when it was last asked, less what was promised of it since.
#[derive(Debug, Default)]
pub(super) struct Spare(Mutex<Option<Spared>>);

#[derive(Debug)]
struct Spared {
    bytes: u64,
    files: u64,
    asked: Instant,
}

/// What is kept free on the file system for objects that are not proven.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    /// When the file system last freed what went for it. Held by the one thread that makes room on
    /// the file system.
    pub(super) freed: Mutex<Option<Instant>>,
    /// Bytes that objects have taken since as much went for them.
    taken: AtomicU64,
    /// How often more went for it than objects had taken.
    evictions: AtomicU64,
    /// How many of these evictions the file system has freed.
    freed_evictions: AtomicU64,
    /// Notified when the file system is to free what was removed.
    removed: Arc<Notify>,
}

/// Has the file system free what was removed ahead of need, a few times a second at most, until the
/// disk goes out or the process stops. That takes a sync, for which no answer waits.
pub(super) async fn free_often(store: Weak<Inner>, stop: CancellationToken) {
    let Some(removed) = store.upgrade().map(|store| Arc::clone(&store.ahead.removed)) else {
        return;
    };
    let freeing = async {
        loop {
            removed.notified().await;
            let Some(store) = store.upgrade() else { return };
            let own = Arc::clone(&store);
            let freed = store.background.blocking("store free", move || own.free_ahead()).await;
            if store.unless_panicked(freed).is_err() {
                return;
            }
            drop(store);
            tokio::time::sleep(FREED_OFTEN).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = freeing => {}
    }
}

impl Spare {
    /// The file system was asked, and has so much to spare.
    fn heard(&self, bytes: u64, files: u64) {
        *self.0.lock() = Some(Spared { bytes, files, asked: Instant::now() });
    }

    /// Nothing that it said counts any more.
    pub(super) fn forget(&self) {
        *self.0.lock() = None;
    }

    /// Whether there is plenty beyond `bytes`.
    fn has(&self, bytes: u64) -> bool {
        let spared = self.0.lock();
        let spared = spared.as_ref().filter(|spare| spare.asked.elapsed() < SPARE_AGE_MAX);
        spared.is_some_and(|spare| spare.bytes.saturating_sub(bytes) >= SPARE_BYTES_MIN)
    }

    /// Takes `bytes` and an object's inodes, where there is plenty of both.
    fn take(&self, bytes: u64) -> bool {
        let mut spared = self.0.lock();
        let Some(spare) = spared.as_mut().filter(|spare| spare.asked.elapsed() < SPARE_AGE_MAX)
        else {
            return false;
        };
        let (left, files) =
            (spare.bytes.saturating_sub(bytes), spare.files.saturating_sub(FILES_OF_ONE));
        if left < SPARE_BYTES_MIN || files < SPARE_FILES_MIN {
            return false;
        }
        (spare.bytes, spare.files) = (left, files);
        true
    }
}

impl Inner {
    /// What an object that becomes `length` bytes, if that is known, may take the place of before
    /// it is proven.
    pub(super) fn displaces(&self, hash: KeyHash, length: Option<u64>) -> Displaces {
        if self.lacks(hash) { self.space.displaces(hash, length) } else { Displaces::Anything }
    }

    /// Remembers an object that found no room, so that it displaces anything when it is asked for
    /// again; `bytes` is how long it became or becomes.
    pub(super) fn not_stored(&self, error: &WriteError, hash: KeyHash, bytes: u64) {
        if error.is_lack_of_room() {
            self.space.remember(hash, format::charge(bytes));
        }
    }

    /// Whether one object may count `bytes`.
    pub(super) fn fits(&self, bytes: u64) -> Result<(), WriteError> {
        let limit = self.space.object_max();
        if bytes > limit { Err(WriteError::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    /// Promises `bytes` where nothing must go for it and the file system, asked a moment ago, has
    /// plenty. Never waits.
    pub(super) fn reserve_at_once(&self, bytes: u64, displaces: Displaces) -> Option<Reservation> {
        if !self.spare.take(bytes) {
            return None;
        }
        self.space.reserve_free(bytes, displaces)
    }

    /// Promises `bytes` of the limit and of the file system, evicting first what goes for an object
    /// that displaces so much.
    pub(super) fn reserve(
        &self,
        bytes: u64,
        displaces: Displaces,
    ) -> Result<Reservation, WriteError> {
        let reservation = self.reserve_limit(bytes, displaces)?;
        if self.shortage(bytes)?.is_some() {
            self.make_room(bytes, displaces)?;
        }
        Ok(reservation)
    }

    /// Promises an object at least `missing` bytes more, `step` bytes at a time.
    pub(super) fn extend(
        &self,
        reservation: &mut Reservation,
        missing: u64,
        step: u64,
    ) -> Result<(), WriteError> {
        self.fits(reservation.bytes().saturating_add(missing))?;
        let displaces = reservation.displaces();
        let more = self.reserve(missing.max(step), displaces);
        reservation.join(more.or_else(|_| self.reserve(missing, displaces))?);
        Ok(())
    }

    /// Evicts so that `bytes` more find room on the file system, and waits for what it frees: some
    /// free what is removed a moment later. Anything goes for what is to stay free on it, which no
    /// object takes. One thread at a time, since each would evict for all. A thread that waits
    /// here does not wait for the disk.
    fn make_room(&self, bytes: u64, displaces: Displaces) -> Result<(), WriteError> {
        let _turn = self.turn_to_make_room().ok_or(WriteError::Busy { bytes })?;
        let mut has_evicted = false;
        for (bytes, displaces) in [(0, Displaces::Anything), (bytes, displaces)] {
            let Some(short) = self.shortage(bytes)? else { continue };
            let files = if short.files > 0 { short.files.max(SHED_FILES_MIN) } else { 0 };
            let mut evicted = self.space.shed(short.bytes, displaces);
            evicted.extend(self.space.shed_files(files, displaces));
            has_evicted |= !evicted.is_empty();
            self.evict(evicted, Reason::Space)?;
        }
        if has_evicted {
            self.free_removed();
            tasks::step();
        }
        let looks = if has_evicted { FREED_LOOKS } else { 1 };
        for _ in 1..looks {
            if self.shortage(bytes)?.is_none() {
                return Ok(());
            }
            tasks::sleep_blocking(FREED_PAUSE);
            tasks::step();
        }
        match (self.shortage(bytes)?, self.shortage(0)?) {
            (None, _) => Ok(()),
            (Some(_), None) => Err(WriteError::Busy { bytes }),
            (Some(_), Some(short)) if short.bytes == 0 => Err(WriteError::NoFiles),
            (Some(_), Some(_)) => Err(WriteError::NoSpace { bytes }),
        }
    }

    /// The turn of this thread to make room; none if another one takes too long.
    fn turn_to_make_room(&self) -> Option<MutexGuard<'_, Option<Instant>>> {
        for _ in 0..TURN_LOOKS {
            if let Some(turn) = self.ahead.freed.try_lock() {
                return Some(turn);
            }
            tasks::sleep_blocking(FREED_PAUSE);
            tasks::step();
        }
        None
    }

    /// Evicts until what is kept free for objects that are not proven is free again, of which
    /// `taken` bytes were taken. An error is noted.
    pub(super) fn keep_ahead(&self, taken: u64) {
        self.ahead.taken.fetch_add(taken, Ordering::Relaxed);
        let keep = || -> Result<(), WriteError> {
            self.evict(self.space.overfull(), Reason::Size)?;
            let ahead = self.space.ahead();
            if self.spare.has(ahead) {
                return Ok(());
            }
            let Some(freed) = self.ahead.freed.try_lock() else { return Ok(()) };
            let taken = self.ahead.taken.swap(0, Ordering::Relaxed);
            let Some(short) = self.shortage(ahead)? else { return Ok(()) };
            // What goes does not show before it is freed, nor at once then: as much goes as came.
            let evictions = self.ahead.evictions.load(Ordering::Acquire);
            let is_hidden = evictions != self.ahead.freed_evictions.load(Ordering::Acquire)
                || freed.is_some_and(|freed| freed.elapsed() < FREED_WITHIN);
            let bytes = if is_hidden { short.bytes.min(taken) } else { short.bytes };
            let evicted = self.space.shed(bytes, Displaces::Anything);
            if evicted.is_empty() {
                return Ok(());
            }
            if !is_hidden {
                self.ahead.evictions.fetch_add(1, Ordering::AcqRel);
            }
            self.evict(evicted, Reason::Space)?;
            self.ahead.removed.notify_one();
            Ok(())
        };
        if let Err(error) = keep() {
            self.write_failed(&error);
        }
    }

    /// Has the file system free what was removed ahead of need.
    fn free_ahead(&self) {
        let evictions = self.ahead.evictions.load(Ordering::Acquire);
        self.free_removed();
        if evictions != self.ahead.freed_evictions.load(Ordering::Acquire) {
            *self.ahead.freed.lock() = Some(Instant::now());
            self.ahead.freed_evictions.store(evictions, Ordering::Release);
        }
    }

    /// Has the file system free what was removed; if it does not, it will in its own time.
    fn free_removed(&self) {
        #[cfg(test)]
        self.faults.reach("what was removed is to be freed");
        if let Err(error) = self.folder.free_removed() {
            tracing::debug!(disk = &*self.label, %error, "what was removed is not yet free");
        }
    }

    /// What the file system lacks for `bytes` more and what is to stay free on it; `None` if
    /// nothing.
    fn shortage(&self, bytes: u64) -> Result<Option<Shortage>, WriteError> {
        let free = self.folder.free();
        let free = free.map_err(|source| WriteError::Io { operation: "space", source })?;
        #[cfg(test)]
        let free = self.faults.less(free);
        let wanted = bytes.saturating_add(FREE_BYTES_MIN.min(self.space.limit() / 16));
        let wanted_files = FREE_FILES_MIN.min(free.files_total / 16);
        let spare_files = free.files.saturating_sub(wanted_files);
        let spare_files = if free.files_total == 0 { u64::MAX } else { spare_files };
        self.spare.heard(free.bytes.saturating_sub(wanted), spare_files);
        self.space.set_capacity(free.bytes_total);
        let short = Shortage {
            bytes: wanted.saturating_sub(free.bytes),
            files: wanted_files.saturating_sub(free.files),
        };
        Ok(Some(short).filter(|short| short.bytes > 0 || short.files > 0))
    }

    fn reserve_limit(&self, bytes: u64, displaces: Displaces) -> Result<Reservation, WriteError> {
        loop {
            let was_loaded = self.space.usage().is_loaded;
            match self.space.reserve(bytes, displaces) {
                Room::Promised(reservation, evicted) => {
                    self.evict(evicted, Reason::Size)?;
                    return Ok(reservation);
                }
                Room::Short(evicted) if evicted.is_empty() => {
                    if displaces != Displaces::Anything
                        || was_loaded
                        || !self.space.wait_for_more(LOAD_PATIENCE)
                    {
                        return Err(WriteError::Busy { bytes });
                    }
                    tasks::step();
                }
                Room::Short(evicted) => self.evict(evicted, Reason::Size)?,
                Room::Never => {
                    return Err(WriteError::TooLarge { bytes, limit: self.space.limit() });
                }
            }
        }
    }

    /// Writes all of `chunks`, one behind the other, from `offset` on; evicts and tries once more
    /// where the disk is full. In few calls: the page cache holds what one call writes in large
    /// pieces, and what many small ones write in small pieces, of which it costs twice as much to
    /// send a body; see [`CALL_BYTES_MAX`].
    pub(super) fn write_at(
        &self,
        file: &Arc<File>,
        chunks: &[Bytes],
        offset: u64,
    ) -> Result<(), WriteError> {
        let write = || {
            #[cfg(test)]
            self.faults.next()?;
            write_all_at(file, chunks, offset)
        };
        let bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        self.evicting_once(bytes, "write", write)
    }

    /// Does `work`; if the file system is full, whatever was promised, evicts `bytes` or more and
    /// does it again until what was freed is there.
    pub(super) fn evicting_once<T>(
        &self,
        bytes: u64,
        operation: &'static str,
        work: impl Fn() -> io::Result<T>,
    ) -> Result<T, WriteError> {
        let failed = |source| WriteError::Io { operation, source };
        let mut result = work().map_err(failed);
        if !result.as_ref().is_err_and(WriteError::is_full) {
            return result;
        }
        let short = self.shortage(bytes).ok().flatten();
        let evicted = if short.is_some_and(|short| short.files > 0) {
            self.space.shed_files(SHED_FILES_MIN, Displaces::Anything)
        } else {
            self.space.shed(bytes.max(SHED_BYTES_MIN), Displaces::Anything)
        };
        if evicted.is_empty() {
            return Err(WriteError::NoSpace { bytes });
        }
        self.evict(evicted, Reason::Space)?;
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
}

/// Slices of one call at most (`IOV_MAX`).
const SLICES_MAX: usize = 1024;

/// Bytes of one call at most, which the page cache holds in one piece: enough for it to be sent for
/// the least. For more the kernel takes larger pieces, of memory that nobody has had for long: a
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
            match files::write(file, (offset, length), call) {
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

    #[test]
    fn what_the_file_system_had_to_spare_is_used_up() {
        let spare = Spare::default();
        assert!(!spare.take(1), "it was never asked");
        spare.heard(SPARE_BYTES_MIN + 10, u64::MAX);
        assert!(spare.take(4) && spare.take(6));
        assert!(!spare.take(1), "no bytes");
        spare.heard(u64::MAX, SPARE_FILES_MIN + 2 * FILES_OF_ONE);
        assert!(spare.take(1) && spare.take(1));
        assert!(!spare.take(1), "no inodes");
        spare.heard(u64::MAX, u64::MAX);
        assert!(spare.take(1));
        if let Some(spared) = spare.0.lock().as_mut() {
            spared.asked = spared.asked.checked_sub(SPARE_AGE_MAX).unwrap();
        }
        assert!(!spare.take(1), "asked too long ago");
        spare.heard(u64::MAX, u64::MAX);
        spare.forget();
        assert!(!spare.take(1), "something failed since");
    }
}
