//! An object that is here in part: a sparse file, and for each chunk of it whether it is in the
//! file. Lives as long as it has readers or writers. What is kept is found again by `Disks::part`,
//! and an insertion that is open is found as it is: no two parts write one file.
//!
//! # Why no wrong byte is ever read
//!
//! A part is open once, so its table knows every writer of its file: it is opened under its stripe,
//! with the chunks that the index has then. A part that is loose and has users still is not found
//! again: the next one begins anew, in a file of its own.
//!
//! A chunk counts as here once all of it is in the file, and the index is told only after the file
//! was synced, so a record never promises what a power cut took back. If a sync fails, the system
//! takes what it could not write for written, and the next sync succeeds without it: the chunks
//! that waited for it are missing from then on, those that were arriving are not taken for here
//! when they end, and all of them are fetched and written again. What comes from the disk is
//! compared with its checksum before a byte of it is given out (see `chunks`); where it differs it
//! is missing and counted. It may be fetched again while it is read, so a reader looks after its
//! read whether the table has had the chunk all the time. The file is named as whole ones are: a
//! note in `links`, the link, then one change of the index with record, chunks and the note's end
//! (see the module above). Only the first change has to link, every later one adds chunks to a
//! record that must still be this insertion's.
//!
//! What drops the object (purge, eviction, a whole object that takes its place) takes record and
//! chunks in one change. A part that finds its record gone is *loose*: its readers and writers go
//! on in the file without a name, and nothing of it is ever kept again. A whole object and a part
//! of the same key are never both in the index. [`Part::promote`] turns a part into a whole object
//! in one change: same file, same insertion; the trailer that a crash may leave behind the body
//! before that change is behind every chunk and overwritten by the next try. It seals the table
//! first, with the sums of the trailer in hand: nothing ever writes a chunk of a whole object.
//! Where a reader of a sealed part finds damage, the whole is dropped.
//!
//! Locks, in the store's order: `parts`, stripe, index, then `life`, then `table`, then the space
//! account. The last two are never held across I/O. `syncing` is held while the file is synced, and
//! only `table` and the account are taken under it. That of `open_parts` is taken under none of
//! them but in passing, and none is taken under it.

mod counted;
mod durable;
mod open;
mod run;
mod table;

pub(super) use counted::CountedParts;
#[cfg(test)]
pub(super) use durable::COUNTED_AT_ONCE;
pub(super) use durable::{PAGE, part_of};
pub(super) use open::OpenParts;
pub use run::Run;
pub use table::{At, Holding};

use super::body::Growth;
use super::chunks::{Chunks, Sight};
use super::error::WriteError;
use super::eviction::ENTRY_BYTES_MAX;
use super::files;
use super::folder::NewFile;
use super::format;
use super::read::{self, FileView};
use super::space::{Displaces, Reservation};
pub use super::sums::CHUNK_BYTES;
use super::sums::{ChunkSum, Expected};
use super::{Inner, PATIENCE, Store};
use crate::object::{Key, KeyHash, Meta, Sha256};
use crate::sync::{Mutex, RwLock};
use crate::tasks::{self, BlockingError, Tasks};
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use table::{Chunk, Table};
use tokio_util::sync::CancellationToken;

/// An object that is here in part. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Part(Arc<State>);

#[derive(Debug)]
struct State {
    store: Arc<Inner>,
    key: Key,
    hash: KeyHash,
    sequence: u64,
    length: u64,
    meta: RwLock<Arc<Meta>>,
    file: Arc<File>,
    /// What its readers know of its chunks.
    chunks: Arc<Chunks>,
    life: Mutex<Life>,
    /// Held while the file is synced: an error is told to one of several callers alone.
    syncing: Mutex<()>,
    /// Whether `life` is at its end; read where nobody may wait for the disk.
    is_loose: AtomicBool,
    /// Whether one of its users completes it.
    is_completing: AtomicBool,
    table: Mutex<Table>,
    /// Space of chunks that are here and not in the index.
    promised: Mutex<Reservation>,
}

impl State {
    fn view(&self) -> FileView<'_> {
        FileView { file: &self.file, chunks: &self.chunks, sight: Sight::Whole }
    }
}

/// How a part stands with the index.
#[derive(Debug)]
enum Life {
    /// It has no name yet.
    New(NewFile),
    /// It has a record.
    Kept,
    /// It is not kept, or not as a part, any more.
    Loose,
}

/// Whether something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// A restart finds it.
    Yes,
    /// The object was dropped or replaced meanwhile: what is here serves those who have it open.
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
pub struct Synced(Vec<(u32, u64)>);

impl Store {
    /// Begins a part of the object `meta.key`, of `length` bytes in all, with nothing of it here.
    /// Refuses an object that would never fit as a whole, and every one while the disk takes no
    /// writes. What is stored under the key stays until the first chunk is kept.
    pub(super) async fn begin_part(&self, meta: Meta, length: u64) -> Result<Part, WriteError> {
        let store = Arc::clone(&self.0);
        let work = move || {
            store.admit()?;
            let limit = store.space.limit().min(ENTRY_BYTES_MAX);
            let bytes = format::charge(length);
            if bytes > limit || table::chunks_up_to(length) == u32::MAX {
                return Err(WriteError::TooLarge { bytes, limit });
            }
            let new = store.evicting_once(0, "create", || store.folder.new_file())?;
            let (file, sequence) = (Arc::clone(new.file()), store.next_sequence());
            let table = Table::new(length);
            Ok(Part::new(&store, meta, (sequence, length), file, (Life::New(new), table)))
        };
        let begun = self.0.tasks.blocking_for("store part", PATIENCE, work).await;
        begun?.inspect_err(|error| self.0.write_failed(error))
    }
}

impl Part {
    /// A part that is opened; if one of the same insertion was opened meanwhile, that one.
    fn new(
        store: &Arc<Inner>,
        meta: Meta,
        (sequence, length): (u64, u64),
        file: Arc<File>,
        (life, table): (Life, Table),
    ) -> Self {
        let part = Self(Arc::new(State {
            store: Arc::clone(store),
            key: meta.key.clone(),
            hash: meta.key.hash(),
            sequence,
            length,
            meta: RwLock::new(Arc::new(meta)),
            file,
            chunks: store.bodies.of(sequence),
            life: Mutex::new(life),
            syncing: Mutex::new(()),
            is_loose: AtomicBool::new(false),
            is_completing: AtomicBool::new(false),
            table: Mutex::new(table),
            promised: Mutex::new(Reservation::nothing(&store.space, Displaces::Untried)),
        }));
        store.open_parts.enter(part)
    }

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
        &self.0.store.tasks
    }

    /// Whether what comes to be here may still be kept.
    pub fn is_live(&self) -> bool {
        !self.0.is_loose.load(Ordering::Acquire)
    }

    /// Takes it on oneself to complete it; none if another does.
    pub fn begin_completion(&self) -> Option<Completing> {
        let is_taken = self.0.is_completing.swap(true, Ordering::AcqRel);
        (!is_taken).then(|| Completing(self.clone()))
    }

    /// Keeps nothing more of it. What is in the index is removed by what drops it. Blocking.
    pub fn let_go(&self) {
        self.loosen(&mut self.0.life.lock());
    }

    fn loosen(&self, life: &mut Life) {
        *life = Life::Loose;
        self.0.is_loose.store(true, Ordering::Release);
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
        self.0.store.space.touch(self.0.sequence);
    }

    /// Takes it on oneself to bring the chunks from the one at `from` to the one that ends at or
    /// after `until`, or to the next that is here or arriving; none where the first of them is, or
    /// the part is whole.
    pub fn claim(&self, from: u64, until: u64) -> Option<Run> {
        let mut shared = None;
        let begin = |base| {
            let state = &self.0;
            let tasks = state.store.tasks.clone();
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

    /// Up to `max` bytes from `offset`, of one chunk that is here: never empty; none where it is
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
            state.store.faults.reach("a part is to be read");
            let bytes = state.table.lock().bytes(number);
            let expected = |_| Ok(Expected { sum: chunk.sum, bytes });
            let read = read::read_compared(state.view(), (offset, max), state.hash, expected);
            let read = read.inspect_err(|error| part.clear(number, &chunk, &error.to_string()));
            let table = state.table.lock();
            match read {
                Ok(bytes) => Ok(Some(bytes).filter(|_| table.holds(number, chunk.id))),
                Err(_) if table.is_sealed() => Err(ReadError::Damaged),
                Err(_) => Ok(None),
            }
        };
        self.0.store.readers.blocking("store read", work).await?
    }

    /// Has the next read of each chunk compare it, as if it had left the page cache.
    #[cfg(test)]
    pub fn doubt(&self) {
        (0..table::chunks_up_to(self.0.length))
            .for_each(|number| self.0.chunks.doubt(u64::from(number)));
    }

    /// Has no chunk enter or leave it, as when the whole has been made of it.
    #[cfg(test)]
    pub fn freeze(&self) {
        self.0.table.lock().freeze();
    }

    fn piece(&self, offset: u64, max: usize) -> Option<(u32, Chunk, usize)> {
        let number = table::number_at(offset);
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

    /// The SHA-256 of the whole object, each chunk compared with its checksum on the way. None
    /// where a chunk is missing or damaged, or `stop` was heard. Blocking, for seconds where the
    /// object has gigabytes.
    pub fn digest(&self, stop: &CancellationToken) -> Option<Sha256> {
        let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for number in 0..table::chunks_up_to(self.0.length) {
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
            self.0.store.faults.meet("a part is to be synced")?;
            files::sync(&self.0.file)
        };
        match sync() {
            Ok(()) => Ok(Some(Synced(chunks))),
            Err(source) => {
                let lost = self.0.table.lock().sync_failed(&chunks);
                drop(self.0.promised.lock().split(run::promise_of(&lost)));
                drop(one);
                let error = WriteError::Io { operation: "sync", source };
                self.0.store.write_failed(&error);
                if error.is_full() {
                    self.0.store.keep_ahead(0);
                }
                Err(error)
            }
        }
    }
}
