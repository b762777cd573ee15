//! A part as its readers and its completion use it: what is here, what is read of it, which
//! chunks are claimed, and the sync of its file.

use crate::object::{Key, Meta, Sha256};
use crate::store::body::Growth;
use crate::store::body::read;
use crate::store::body::sums::{ChunkSum, ExpectedSum};
use crate::store::disk_store::DiskStore;
use crate::store::error::WriteError;
use crate::store::eviction::order::ENTRY_BYTES_MAX;
use crate::store::eviction::reserve;
use crate::store::files;
use crate::store::format;
use crate::store::lanes::PATIENCE;
use crate::store::part::open::{Life, OpenParts, Part};
use crate::store::part::run::{Run, promise_of};
use crate::store::part::table::{At, ChunkTable, Holding, PresentChunk, chunks_up_to, number_at};
use crate::tasks::{self, BlockingError, Tasks};
use bytes::Bytes;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio_util::sync::CancellationToken;

/// Whether something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepOutcome {
    /// A restart finds it.
    Yes,
    /// The object was dropped or replaced meanwhile: what is here serves the readers that have it
    /// open.
    Loose,
}

/// The right to complete a part; given back when it is dropped.
#[derive(Debug)]
pub struct Completing(Part);

impl Drop for Completing {
    fn drop(&mut self) {
        self.0.0.is_completing.store(false, Ordering::Release);
    }
}

/// Why a chunk that is here was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The disk does not answer in time.
    #[error(transparent)]
    Blocking(#[from] BlockingError),
    /// It is damaged, and nothing writes the file any more.
    #[error("a chunk of a sealed part is damaged")]
    Damaged,
}

/// Chunks that are safe from a power cut and wait to be noted in the index, with their ids.
#[derive(Debug)]
pub struct Synced(pub(super) Vec<(u32, u64)>);

/// Begins a part of the object `meta.key`, of `length` bytes in all, with nothing of it here.
/// Refuses an object that would never fit as a whole, and every one while the disk takes no
/// writes. What is stored under the key stays until the first chunk is kept.
pub(in crate::store) async fn begin_part(
    store: &Arc<DiskStore>,
    open: &Arc<OpenParts>,
    meta: Meta,
    length: u64,
) -> Result<Part, WriteError> {
    let (own, open) = (Arc::clone(store), Arc::clone(open));
    let work = move || {
        let catalog = &own.catalog;
        catalog.admit()?;
        let limit = catalog.accounting.limit().min(ENTRY_BYTES_MAX);
        let bytes = format::charge(length);
        if bytes > limit || chunks_up_to(length) == u32::MAX {
            return Err(WriteError::TooLarge { bytes, limit });
        }
        let new = reserve::evicting_once(catalog, 0, "create", || catalog.folder.new_file())?;
        let (file, sequence) = (Arc::clone(new.file()), catalog.next_sequence());
        let table = ChunkTable::new(length);
        Ok(Part::new(&own, &open, meta, (sequence, length), file, (Life::New(new), table)))
    };
    let begun = store.lanes.changes.blocking_for("store part", PATIENCE, work).await;
    begun?.inspect_err(|error| store.catalog.write_failed(error))
}

impl Part {
    /// The object's metadata.
    pub fn meta(&self) -> Arc<Meta> {
        Arc::clone(&self.0.meta.read())
    }

    /// The object's key.
    pub fn key(&self) -> &Key {
        &self.0.key
    }

    /// Bytes of the whole object.
    pub fn length(&self) -> u64 {
        self.0.length
    }

    /// What runs its blocking methods: the threads of its disk.
    pub fn tasks(&self) -> &Tasks {
        &self.0.store.lanes.changes
    }

    /// Takes it on oneself to complete it; none if another does.
    pub fn begin_completion(&self) -> Option<Completing> {
        let is_taken = self.0.is_completing.swap(true, Ordering::AcqRel);
        (!is_taken).then(|| Completing(self.clone()))
    }

    /// What is known of the chunk at `offset`.
    pub fn at(&self, offset: u64) -> At {
        self.0.table.lock().at(offset)
    }

    /// What is here of the bytes `asked`.
    pub fn holding(&self, asked: &Range<u64>) -> Holding {
        self.0.table.lock().holding(asked)
    }

    /// The first of the bytes `asked` that is not here, arriving or not.
    pub fn first_gap(&self, asked: &Range<u64>) -> Option<u64> {
        self.0.table.lock().first_gap(asked)
    }

    /// Bytes that are not here.
    pub fn missing_bytes(&self) -> u64 {
        self.0.table.lock().missing_bytes()
    }

    /// The first of the bytes `asked` that is neither here nor arriving.
    pub fn first_missing(&self, asked: &Range<u64>) -> Option<u64> {
        self.0.table.lock().first_missing(asked)
    }

    /// Notes that it was asked for, so that it stays longer.
    pub fn touch(&self) {
        self.0.store.catalog.accounting.touch(self.0.sequence);
    }

    /// Takes it on oneself to bring the chunks from the one at `from` to the one that ends at or
    /// after `until`, or to the next that is here or arriving; none if the first of them is, or
    /// the part is whole.
    pub fn claim(&self, from: u64, until: u64) -> Option<Run> {
        let mut shared = None;
        let begin = |base| {
            let state = &self.0;
            let tasks = state.store.lanes.changes.clone();
            let new = Growth::new_at(base, state.hash, &state.chunks, tasks);
            shared.insert(new).reader()
        };
        let entered = self.0.table.lock().claim(from, until, begin)?;
        Some(Run::new(self.clone(), entered, shared?))
    }

    /// Takes the chunks from the one at `offset` on from a run that has more than `near` bytes to
    /// go until there, so that they can be claimed.
    pub fn cut(&self, offset: u64, near: u64) {
        self.0.table.lock().cut(offset, near);
    }

    /// Up to `max` bytes from `offset`, of one chunk that is here: never empty; none if it is
    /// not, turns out damaged, or was fetched anew meanwhile. An error if the disk does not answer
    /// in time, or the chunk is damaged and the part is sealed. Cancel safe.
    pub async fn read(&self, offset: u64, max: usize) -> Result<Option<Bytes>, ReadError> {
        let Some((number, chunk, max)) = self.piece(offset, max) else { return Ok(None) };
        if let Some(bytes) = read::read_trusted(self.0.view(), offset, max) {
            return Ok(Some(bytes).filter(|_| self.0.table.lock().holds(number, chunk.id)));
        }
        let part = self.clone();
        let work = move || {
            let state = &part.0;
            #[cfg(test)]
            state.store.catalog.faults.reach("a part is to be read");
            let bytes = state.table.lock().bytes(number);
            let expected = |_| Ok(ExpectedSum { sum: chunk.sum, bytes });
            let read = read::read_compared(state.view(), offset, max, state.hash, expected);
            let read = read.inspect_err(|error| part.clear(number, &chunk, &error.to_string()));
            let table = state.table.lock();
            match read {
                Ok(bytes) => Ok(Some(bytes).filter(|_| table.holds(number, chunk.id))),
                Err(_) if table.is_sealed() => Err(ReadError::Damaged),
                Err(_) => Ok(None),
            }
        };
        self.0.store.lanes.reads.blocking("store read", work).await?
    }

    /// Has the next read of each chunk compare it, as if it had left the page cache.
    #[cfg(test)]
    pub fn doubt(&self) {
        (0..chunks_up_to(self.0.length)).for_each(|number| self.0.chunks.doubt(u64::from(number)));
    }

    /// Has no chunk enter or leave it, as when the whole has been made of it.
    #[cfg(test)]
    pub fn freeze(&self) {
        self.0.table.lock().freeze();
    }

    fn piece(&self, offset: u64, max: usize) -> Option<(u32, PresentChunk, usize)> {
        let number = number_at(offset);
        let table = self.0.table.lock();
        let chunk = table.chunk(number)?;
        let left = usize::try_from(table.span(number).end.checked_sub(offset)?).ok()?;
        (left > 0 && max > 0).then_some((number, chunk, max.min(left)))
    }

    fn bytes_of(&self, number: u32) -> io::Result<Vec<u8>> {
        let span = self.0.table.lock().span(number);
        let mut bytes = vec![0; usize::try_from(span.end - span.start).unwrap_or_default()];
        files::read(|| self.0.file.read_exact_at(&mut bytes, span.start))?;
        Ok(bytes)
    }

    /// The SHA-256 of the whole object, each chunk compared with its checksum on the way and then
    /// shown to `also`. None
    /// if a chunk is missing or damaged, or `stop` was heard. Blocking, for seconds if the
    /// object has gigabytes.
    pub fn digest(&self, stop: &CancellationToken, mut also: impl FnMut(&[u8])) -> Option<Sha256> {
        let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for number in 0..chunks_up_to(self.0.length) {
            tasks::step();
            let chunk = self.0.table.lock().chunk(number)?;
            let bytes = self.bytes_of(number).unwrap_or_default();
            let mut sum = ChunkSum::new(self.0.hash, u64::from(number));
            sum.update(&bytes);
            if sum.value() != chunk.sum {
                self.clear(number, &chunk, "a chunk of it is not what was written");
                return None;
            }
            if stop.is_cancelled() {
                return None;
            }
            hash.update(&bytes);
            also(&bytes);
        }
        Some(Sha256::finish(hash))
    }

    /// Syncs the chunks that are not in the index to the disk, if there are any; if that fails,
    /// they are missing. Blocking.
    pub fn sync(&self) -> Result<Option<Synced>, WriteError> {
        if !self.is_live() {
            return Ok(None);
        }
        let one = self.0.syncing.lock();
        let chunks = self.0.table.lock().take_unnoted();
        if chunks.is_empty() {
            return Ok(None);
        }
        let sync = || {
            #[cfg(test)]
            self.0.store.catalog.faults.meet("a part is to be synced")?;
            files::sync(&self.0.file)
        };
        match sync() {
            Ok(()) => Ok(Some(Synced(chunks))),
            Err(source) => {
                let lost = self.0.table.lock().sync_failed(&chunks);
                drop(self.0.promised.lock().split(promise_of(&lost)));
                drop(one);
                let error = WriteError::Io { operation: "sync", source };
                self.0.store.catalog.write_failed(&error);
                if error.is_full() {
                    let store = &self.0.store;
                    store.reserve.refill(&store.catalog, 0);
                }
                Err(error)
            }
        }
    }
}
