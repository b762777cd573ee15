//! The one writer of a growing object. Its states are types, consumed by their transition:
//!
//! ```text
//! ObjectWriter --end of body--> EndedObject --proven--> ProvenObject --sealed--> SealedObject
//!                                           \-> dropped: every reader fails, nothing stays
//! ```
//!
//! A fill's task owns it. If any state is dropped, no trace stays: the file has no name yet, the
//! promised space is given back, readers that need more fail. An object that is proven is read on
//! by its readers, whether or not it can be stored.
//!
//! Bytes are hashed and written in batches beside the task, which waits for the disk only while a
//! window of them is not in the file yet. If the disk fails, or takes nothing for some time (see
//! `tasks::lane`), the object goes on in memory alone: it is not stored any more, and the bytes
//! that are not in the file pass through a window that moves with the slowest reader. A reader that
//! does not move for [`READER_STALL_MAX`] while another waits for it is left behind. Bytes that are
//! withheld are never let go, so the end stays withheld.
//!
//! No body is synced by itself: the index is synced every few seconds, after everything that the
//! file system holds (see `syncs`), and a body that a power cut took is a miss, since its trailer
//! and the sums of its chunks tell.

use crate::object::{Key, Meta, NarClaim, Sha256};
use crate::store::body::disk_side::{DiskSide, RunningDigest, SealedBody, SharedDigest};
use crate::store::body::growing::{Follower, Growing, Growth, Withhold};
use crate::store::body::out_of_order::{OutOfOrder, RangePlace, WrittenRange};
use crate::store::body::read::Stored;
use crate::store::body::segments::Batch;
use crate::store::body::window::BodyWindow;
use crate::store::commit::{self, ObjectCommit};
use crate::store::disk_store::DiskStore;
use crate::store::error::WriteError;
use crate::store::eviction::accounting::Reservation;
use crate::store::format::BodyPlace;
use crate::tasks::{Started, Tasks};
use bytes::Bytes;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Batches in a window.
const BATCHES: u64 = 4;
/// Bytes that are hashed without leaving the runtime when the body ends: some 150 us of work.
const LAST_BATCH_BYTES_MAX: u64 = 256 * 1024;
/// How long a full window without a disk waits for its slowest reader.
const READER_STALL_MAX: Duration = Duration::from_secs(10);
/// How long a full window without a disk waits for a first reader, which may be about to begin.
const NO_READER_MAX: Duration = Duration::from_secs(1);

/// An object that is being received.
#[derive(Debug)]
pub struct ObjectWriter {
    object: ObjectCore,
    storage: Storage,
}

/// What an object is in each of its states.
#[derive(Debug)]
struct ObjectCore {
    key: Key,
    store: Arc<DiskStore>,
    readers: ReaderGuard,
}

/// Fails the readers that need more when it is dropped.
#[derive(Debug)]
struct ReaderGuard(Arc<Growth>);

impl Drop for ReaderGuard {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

/// The destination of the bytes.
#[derive(Debug)]
enum Storage {
    /// To the disk.
    Disk(DiskStorage),
    /// Through memory to the readers alone.
    Memory(MemoryOnly),
}

struct DiskStorage {
    /// Away while a write is under way; gone for good when that came to no end.
    side: Option<Box<DiskSide>>,
    digest: SharedDigest,
    /// The write under way.
    writing: Option<Started<WriteResult>>,
    window: BodyWindow,
}

/// What a write gives back.
type WriteResult = (Box<DiskSide>, Result<(), WriteError>);

struct MemoryOnly {
    /// Why it is not stored.
    cause: WriteError,
    digest: RunningDigest,
    window: BodyWindow,
    /// The file takes its space as long as the object is received.
    _file: Option<Box<DiskSide>>,
}

impl std::fmt::Debug for DiskStorage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DiskStorage")
            .field("is_writing", &self.writing.is_some())
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for MemoryOnly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryOnly").field("window", &self.window).finish_non_exhaustive()
    }
}

impl ObjectWriter {
    /// An object of no bytes yet, of `length` bytes if that is known.
    pub(in crate::store) fn new(
        store: Arc<DiskStore>,
        key: Key,
        length: Option<u64>,
        withhold: Withhold,
        reservation: Reservation,
    ) -> Self {
        let growth = Growth::new(length, withhold, key.hash(), store.lanes.changes.clone());
        let side = DiskSide::new(Arc::clone(&store), Arc::clone(&growth), reservation);
        let window = store.windows.to_disk.open();
        let digest = side.digest();
        let disk = DiskStorage { side: Some(Box::new(side)), digest, writing: None, window };
        let object = ObjectCore { key, store, readers: ReaderGuard(growth) };
        Self { object, storage: Storage::Disk(disk) }
    }

    /// A reader of what is received and visible.
    pub fn growing(&self) -> Growing {
        self.growth().reader()
    }

    /// A reader of all that is received, withheld or not, which judges it.
    pub fn judge(&self) -> Follower {
        self.growth().judge()
    }

    /// The key.
    pub fn key(&self) -> &Key {
        &self.object.key
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.growth().received()
    }

    /// Whether the object is not stored any more: its disk has failed.
    pub fn is_memory_only(&self) -> bool {
        matches!(self.storage, Storage::Memory(_))
    }

    /// Adds the next bytes, which readers see at once as far as they are not withheld; then waits
    /// for the disk while too much is not written yet, or, without a disk, for the slowest reader.
    /// Refuses more than the declared length. Not cancel safe: given up, the object must be
    /// dropped.
    pub async fn append(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        let received = self.received().saturating_add(bytes.len() as u64);
        if let Some(declared) = self.growth().declared()
            && received > declared
        {
            return Err(WriteError::Length { declared, received });
        }
        match &mut self.storage {
            Storage::Disk(_) => {
                self.growth().push(bytes);
                let result = self.write_what_is_due().await;
                self.unless_disk_failed(result)
            }
            Storage::Memory(memory) => {
                memory.digest.update(&bytes);
                memory.make_room(&self.object.readers.0, bytes.len() as u64).await?;
                self.growth().push(bytes);
                Ok(())
            }
        }
    }

    /// Bytes from `offset` on, which have not come yet, may be of another representation than those
    /// before: a reader of a part gets none of them before the object is proven.
    pub fn doubt_from(&self, offset: u64) {
        self.growth().doubt_from(offset);
    }

    /// Where ranges may be written before their turn; `None` if there is no disk any more. To be
    /// asked for only if the length is declared. Not cancel safe, as [`ObjectWriter::append`].
    pub async fn out_of_order(&mut self) -> Result<Option<OutOfOrder>, WriteError> {
        let length = self.growth().declared().unwrap_or_else(|| self.received());
        let Storage::Disk(disk) = &mut self.storage else { return Ok(None) };
        let opened = disk.open_for_ranges(&self.object.store, length).await;
        match opened {
            Ok(place) => {
                let (store, key) = (Arc::clone(&self.object.store), self.object.key.hash());
                Ok(Some(OutOfOrder::new(store, key, place)))
            }
            Err(error) => self.unless_disk_failed(Err(error)).map(|()| None),
        }
    }

    /// Takes in a range that was written before its turn, which must begin at the offset that the
    /// object has come to, as far as it reads as it was written: [`ObjectWriter::received`] tells.
    /// Not cancel safe, as [`ObjectWriter::append`].
    pub async fn take_in(&mut self, range: WrittenRange) -> Result<(), WriteError> {
        let (span, received) = (range.span(), self.received());
        if span.start != received || self.growth().declared().is_none_or(|end| span.end > end) {
            return Err(WriteError::Length { declared: received, received: span.start });
        }
        let (growth, store) = (&self.object.readers.0, &self.object.store);
        let Storage::Disk(disk) = &mut self.storage else { return Ok(()) };
        let taken = async {
            disk.write_all(growth, store).await?;
            disk.start(store, move |side| side.take_in(&range));
            disk.written().await
        };
        let result = taken.await;
        self.unless_disk_failed(result)
    }

    /// Ends the body. Refuses one that is shorter than declared. Shows readers nothing.
    pub async fn end(mut self) -> Result<EndedObject, WriteError> {
        let length = self.received();
        if let Some(declared) = self.growth().declared()
            && length != declared
        {
            return Err(WriteError::Length { declared, received: length });
        }
        if let Storage::Disk(disk) = &mut self.storage {
            let (growth, store) = (&self.object.readers.0, &self.object.store);
            let result = disk.write_most(growth, store).await;
            self.unless_disk_failed(result)?;
        }
        let (digest, storable) = match self.storage {
            Storage::Memory(memory) => (memory.digest.finish(), Err(memory.cause)),
            Storage::Disk(DiskStorage { side, digest, .. }) => {
                let side = side.ok_or(WriteError::Interrupted)?;
                let last = self.object.readers.0.take_batch();
                (digest.catch_up(&self.object.readers.0)?, Ok(StorableBody { side, last }))
            }
        };
        let (sha256, hashed) = digest;
        if hashed != length {
            return Err(WriteError::Length { declared: length, received: hashed });
        }
        self.object.readers.0.end();
        Ok(EndedObject { length, sha256, object: self.object, storable })
    }

    pub(in crate::store) fn growth(&self) -> &Arc<Growth> {
        &self.object.readers.0
    }

    async fn write_what_is_due(&mut self) -> Result<(), WriteError> {
        let (growth, store) = (&self.object.readers.0, &self.object.store);
        let Storage::Disk(disk) = &mut self.storage else { return Ok(()) };
        let window = disk.window.bytes();
        let is_over = disk.writing.as_ref().is_some_and(Started::is_over);
        if is_over || growth.in_memory() >= window {
            disk.written().await?;
        }
        if disk.writing.is_none() && growth.in_memory() >= window / BATCHES {
            disk.start_batch(growth, store);
        }
        Ok(())
    }

    /// Goes on in memory alone if `result` is an error of the disk.
    fn unless_disk_failed(&mut self, result: Result<(), WriteError>) -> Result<(), WriteError> {
        let Err(error) = result else { return Ok(()) };
        let Storage::Disk(disk) = &mut self.storage else { return Err(error) };
        if !error.spares_the_body() {
            return Err(error);
        }
        let ObjectCore { key, store, readers } = &self.object;
        let received = readers.0.received();
        store.catalog.write_failed(&error);
        store.catalog.not_stored(&error, key.hash(), readers.0.declared().unwrap_or(received));
        readers.0.leave_the_disk();
        let (site, path) = (key.site(), key.path());
        let why = &error as &dyn std::error::Error;
        if error.is_of_the_object() {
            tracing::debug!(site, path, received, error = why, "no room; continuing in memory");
        } else {
            tracing::warn!(site, path, received, error = why, "disk failed; continuing in memory");
        }
        store.catalog.metrics.fills_adrift.inc();
        let digest = disk.digest.leave_the_disk(&readers.0).ok_or(WriteError::Interrupted)?;
        let window = store.windows.without_disk.open();
        let file = disk.side.take();
        self.storage = Storage::Memory(MemoryOnly { cause: error, digest, window, _file: file });
        Ok(())
    }
}

impl DiskStorage {
    /// Begins to write all that no thread has yet.
    fn start_batch(&mut self, growth: &Growth, store: &DiskStore) {
        if self.side.is_none() {
            return;
        }
        if let Some(batch) = growth.take_batch() {
            self.start(store, move |side| side.take(&batch));
        }
    }

    fn start(
        &mut self,
        store: &DiskStore,
        work: impl FnOnce(&mut DiskSide) -> Result<(), WriteError> + Send + 'static,
    ) {
        let Some(mut side) = self.side.take() else { return };
        let work = move || {
            let result = work(&mut side);
            (side, result)
        };
        self.writing = Some(store.lanes.changes.start_blocking("store write", work));
    }

    /// Waits for the write under way, if there is one.
    async fn written(&mut self) -> Result<(), WriteError> {
        let Some(writing) = &mut self.writing else {
            return if self.side.is_some() { Ok(()) } else { Err(WriteError::Interrupted) };
        };
        let written = writing.ended().await;
        self.writing = None;
        let (side, result) = written?;
        self.side = Some(side);
        result
    }

    /// Writes all that was received.
    async fn write_all(&mut self, growth: &Growth, store: &DiskStore) -> Result<(), WriteError> {
        self.written().await?;
        self.start_batch(growth, store);
        self.written().await
    }

    /// Writes what was received, but for a little that the end of the body may hash at once.
    async fn write_most(&mut self, growth: &Growth, store: &DiskStore) -> Result<(), WriteError> {
        self.written().await?;
        if growth.in_memory() > LAST_BATCH_BYTES_MAX {
            self.write_all(growth, store).await
        } else {
            Ok(())
        }
    }

    async fn open_for_ranges(
        &mut self,
        store: &DiskStore,
        length: u64,
    ) -> Result<RangePlace, WriteError> {
        self.written().await?;
        self.start(store, move |side| side.open_for_ranges(length));
        self.written().await?;
        let place = self.side.as_ref().and_then(|side| side.range_place());
        place.ok_or(WriteError::Interrupted)
    }
}

impl MemoryOnly {
    /// Waits until `bytes` more fit into the window.
    async fn make_room(&self, growth: &Growth, bytes: u64) -> Result<(), WriteError> {
        let has_room = || growth.in_memory().saturating_add(bytes) <= self.window.bytes();
        while !has_room() {
            let followers = growth.forget_what_all_had();
            if has_room() {
                break;
            }
            let wait_max = match followers.count {
                0 => NO_READER_MAX,
                // The deadlines of its connection end it.
                1 if !followers.is_judge_slowest => Duration::MAX,
                _ => READER_STALL_MAX,
            };
            if timeout(wait_max, growth.slowest_moved(followers)).await.is_ok() {
                continue;
            }
            if followers.count == 0 {
                return Err(WriteError::NoReaders);
            }
            // Half of it, so that the next of many slow readers is not waited for at once.
            growth.forget_oldest((self.window.bytes() / 2).max(bytes));
        }
        Ok(())
    }
}

/// An object with a body that has ended, to be judged by its digest. Readers do not see its last
/// bytes nor its end.
#[derive(Debug)]
pub struct EndedObject {
    /// Bytes of the body.
    pub length: u64,
    /// SHA-256 of the body.
    pub sha256: Sha256,
    object: ObjectCore,
    storable: Result<StorableBody, WriteError>,
}

/// What makes an object that its disk has taken.
#[derive(Debug)]
struct StorableBody {
    side: Box<DiskSide>,
    /// Hashed, and not written yet.
    last: Option<Batch>,
}

impl EndedObject {
    /// A reader of all of it, which judges it.
    pub fn judge(&self) -> Follower {
        self.object.readers.0.judge()
    }

    /// The body is right: readers see all of it, and read on when this is gone. Gives back what may
    /// still be stored, or why it is not.
    pub fn prove(self) -> Result<ProvenObject, WriteError> {
        let Self { length, sha256, object, storable } = self;
        object.readers.0.prove();
        storable.map(|storable| ProvenObject { length, sha256, storable, object })
    }
}

/// An object that is proven and may be stored.
#[derive(Debug)]
pub struct ProvenObject {
    length: u64,
    sha256: Sha256,
    storable: StorableBody,
    object: ObjectCore,
}

impl ProvenObject {
    /// A body that is here as a whole and proven, of at most some MiB: hashed at once.
    pub(in crate::store) fn whole(
        store: Arc<DiskStore>,
        key: Key,
        body: Bytes,
        reservation: Reservation,
    ) -> Result<Self, WriteError> {
        let declared = Some(body.len() as u64);
        let growth = Growth::new(declared, Withhold::End, key.hash(), store.lanes.changes.clone());
        growth.push(body);
        let side = DiskSide::new(Arc::clone(&store), Arc::clone(&growth), reservation);
        let (sha256, length) = side.digest().catch_up(&growth)?;
        let storable = StorableBody { side: Box::new(side), last: growth.take_batch() };
        growth.prove();
        let object = ObjectCore { key, store, readers: ReaderGuard(growth) };
        Ok(Self { length, sha256, storable, object })
    }

    /// What runs its blocking work: the threads of its disk.
    pub fn tasks(&self) -> &Tasks {
        &self.object.store.lanes.changes
    }

    /// Writes what is left of the body. Blocking.
    pub fn seal(self) -> Result<SealedObject, WriteError> {
        let Self { length, sha256, storable: StorableBody { side, last }, object } = self;
        let ObjectCore { key, store, .. } = &object;
        let growth = &object.readers.0;
        let sealed = if BodyPlace::of(length).is_file() {
            side.finish_file(length, last.as_ref()).map(|(new, reservation)| {
                let (sums, chunks) = (growth.sums(), Arc::clone(growth.chunks()));
                (SealedBody::File { new, sums, chunks }, reservation)
            })
        } else {
            let body = growth.join();
            if body.len() as u64 != length {
                return Err(WriteError::Interrupted);
            }
            side.finish_inline(length).map(|reservation| (SealedBody::Inline(body), reservation))
        };
        let (body, reservation) = sealed.inspect_err(|error| store.catalog.write_failed(error))?;
        let (key, store) = (key.clone(), Arc::clone(store));
        Ok(SealedObject { length, sha256, key, store, body, reservation })
    }
}

/// A whole and proven body that has no name in the store yet.
#[derive(Debug)]
pub struct SealedObject {
    pub(in crate::store) length: u64,
    pub(in crate::store) sha256: Sha256,
    key: Key,
    store: Arc<DiskStore>,
    body: SealedBody,
    reservation: Reservation,
}

impl SealedObject {
    /// Puts the object in the store under `meta.key`, which is the key it was begun with, in place
    /// of what was there, together with a claim it makes about a NAR; none if `permit` says no, or
    /// if a response is there that came later and is not older than the insertion `since`.
    /// Blocking. On an error nothing is stored.
    pub fn commit_if(
        self,
        meta: Meta,
        claim: Option<(Key, NarClaim)>,
        since: u64,
        permit: &dyn Fn() -> bool,
    ) -> Result<Option<Stored>, WriteError> {
        let Self { length, sha256, key, store, body, reservation } = self;
        debug_assert_eq!(key, meta.key, "an object is committed under the key it was begun with");
        let placing = ObjectCommit { length, sha256, meta, claim, since, body, reservation };
        let placed = commit::place(&store, placing, permit);
        let stored = placed.inspect_err(|error| store.catalog.write_failed(error))?;
        if stored.is_some() {
            store.catalog.health.wrote();
        }
        Ok(stored)
    }
}
