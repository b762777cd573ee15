//! The writing side of an object: [`Pending`] while bytes come, [`Sealed`] when all have come and
//! are on the disk, then committed or gone. One task owns it. Dropping either leaves no trace:
//! the file has no name yet, the promised space is given back, readers that need more fail.
//!
//! Bytes are hashed and written in batches beside whoever brings them, who waits for the disk only
//! while a window of them is not in the file yet. An origin that sends at its pace never makes up
//! for a wait: so the window is as long as the disk's hiccups where few objects are received.
//!
//! When the last byte has come its digest is known: it can be judged and shown to its readers
//! before it is synced, since a sync that fails means only that the object is not stored. Where
//! the disk fails earlier, [`Pending::adrift`] goes on without it.

use super::Inner;
use super::adrift::Adrift;
use super::ahead::{Ahead, Mark, Written};
use super::chunks::Chunks;
use super::error::WriteError;
use super::folder::NewFile;
use super::format::{self, Place};
use super::growing::{Growing, Shared};
use super::read::Stored;
use super::space::Reservation;
use crate::object::{Key, Meta, NarClaim, Sha256};
use aws_lc_rs::digest;
use bytes::Bytes;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::task::JoinHandle;

/// What all objects that are being received have in memory together while the disk is busy, as
/// long as the least of each allows it.
const WINDOWS_BYTES: u64 = 256 * 1024 * 1024;
/// What one of them has at most: 1 Gbit/s for 32 ms.
const WINDOW_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// What one of them has at least, however many there are.
const WINDOW_BYTES_MIN: u64 = 512 * 1024;
/// Batches in a window.
const BATCHES: u64 = 4;
/// Bytes that are hashed without leaving the runtime when the body ends: some 150 us of work.
const TAIL_BYTES_MAX: u64 = 256 * 1024;
/// Bytes between two rounds of writing dirty pages to the disk.
const WRITEBACK_BYTES: u64 = 32 * 1024 * 1024;
/// Space that an object of unknown length asks for at a time.
const GROWTH_BYTES: u64 = 4 * 1024 * 1024;

/// Objects that are being received at present.
#[derive(Debug, Default)]
pub(super) struct Receiving(AtomicU64);

impl Receiving {
    /// Bytes of one of them that may be in memory alone, those under way to the file among them.
    fn window_bytes(&self) -> u64 {
        let count = self.0.load(Ordering::Relaxed).max(1);
        (WINDOWS_BYTES / count).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX)
    }
}

/// Counts an object as being received until it is dropped.
#[derive(Debug)]
struct Counted(Arc<Inner>);

impl Counted {
    fn new(store: &Arc<Inner>) -> Self {
        store.receiving.0.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(store))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.receiving.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An object that is being received.
#[derive(Debug)]
pub struct Pending {
    key: Key,
    store: Arc<Inner>,
    pub(super) shared: Arc<Shared>,
    guard: Guard,
    /// Away while a write is under way; gone for good when that came to no end.
    writer: Option<Writer>,
    /// The write under way.
    writing: Option<JoinHandle<Wrote>>,
    /// Whether a write failed: no other is tried.
    is_failed: bool,
    unsynced_bytes: u64,
    _counted: Counted,
    /// Dirty pages on their way to the disk beside the fill.
    writeback: Option<JoinHandle<()>>,
}

/// What a write gives back: the file, which has so many bytes more, or why not.
type Wrote = (Writer, u64, Result<Arc<File>, WriteError>);

/// What the blocking side needs.
struct Writer {
    store: Arc<Inner>,
    shared: Arc<Shared>,
    file: Option<NewFile>,
    mark: Mark,
    hash: digest::Context,
    /// Bytes that `hash` knows.
    hashed: u64,
    reservation: Reservation,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("file", &self.file).finish_non_exhaustive()
    }
}

impl Pending {
    /// An object of nothing yet.
    pub(super) fn new(
        store: Arc<Inner>,
        key: Key,
        length: Option<u64>,
        reservation: Reservation,
    ) -> Self {
        let shared = Shared::new(length, key.hash(), store.tasks.clone());
        let writer = Writer {
            store: Arc::clone(&store),
            shared: Arc::clone(&shared),
            file: None,
            mark: Mark::default(),
            hash: digest::Context::new(&digest::SHA256),
            hashed: 0,
            reservation,
        };
        Self {
            _counted: Counted::new(&store),
            key,
            store,
            guard: Guard(Arc::clone(&shared)),
            shared,
            writer: Some(writer),
            writing: None,
            is_failed: false,
            unsynced_bytes: 0,
            writeback: None,
        }
    }

    /// A reader of what is received and revealed.
    pub fn growing(&self) -> Growing {
        self.shared.reader()
    }

    /// The key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.shared.received()
    }

    /// Lets readers see everything before offset `upto`, as far as it has come; never takes
    /// anything back. Nothing is visible before the first call.
    pub fn reveal(&self, upto: u64) {
        self.shared.reveal(upto);
    }

    /// Adds the next bytes, which readers see at once as far as they are revealed; then waits for
    /// the disk where too much is not written yet. Refuses more than the declared length. Where the
    /// disk fails, now or in an earlier batch, nothing of the body is lost: see
    /// [`Pending::adrift`]. Cancel safe once the bytes are added.
    pub async fn append(&mut self, chunk: Bytes) -> Result<(), WriteError> {
        let received = self.shared.received().saturating_add(chunk.len() as u64);
        if let Some(declared) = self.shared.declared()
            && received > declared
        {
            return Err(WriteError::Length { declared, received });
        }
        if chunk.is_empty() {
            return Ok(());
        }
        if self.is_failed || (self.writer.is_none() && self.writing.is_none()) {
            return Err(WriteError::Interrupted);
        }
        self.shared.push(chunk);
        let window = self.store.receiving.window_bytes();
        let is_full = self.shared.unwritten() >= window;
        if is_full || self.writing.as_ref().is_some_and(JoinHandle::is_finished) {
            self.written().await?;
        }
        if self.writing.is_none() && self.shared.unwritten() >= window / BATCHES {
            self.start_writing();
        }
        Ok(())
    }

    /// Where bytes may be written before their turn. To be asked for only where the length is
    /// declared. Not cancel safe: given up, the object is gone.
    pub async fn ahead(&mut self) -> Result<Ahead, WriteError> {
        self.written().await?;
        let length = self.shared.declared().unwrap_or_else(|| self.shared.received());
        let mut writer = self.writer.take().ok_or(WriteError::Interrupted)?;
        let open = move || {
            let file = writer.ensure(length, 0).and_then(|()| writer.file(length));
            (writer, file)
        };
        let opened = self.store.tasks.blocking("store ahead", open).await;
        let (writer, file) = opened.map_err(|_| WriteError::Interrupted)?;
        let mark = writer.mark.clone();
        self.writer = Some(writer);
        let file = file.inspect_err(|error| self.store.write_failed(error))?;
        Ok(Ahead::new(Arc::clone(&self.store), self.key.hash(), file, mark))
    }

    /// Takes in what was written ahead, which must begin where the object has come to, as far as
    /// it reads as it was written: look at [`Pending::received`]. Not cancel safe: given up, the
    /// object is gone.
    pub async fn take_in(&mut self, written: Written) -> Result<(), WriteError> {
        let (span, received) = (written.span(), self.shared.received());
        if span.start != received || self.shared.declared().is_none_or(|end| span.end > end) {
            return Err(WriteError::Length { declared: received, received: span.start });
        }
        self.written().await?;
        if self.shared.unwritten() > 0 {
            self.start_writing();
            self.written().await?;
        }
        let mut writer = self.writer.take().ok_or(WriteError::Interrupted)?;
        let work = move || {
            let result = writer.take_in(&written);
            (writer, result)
        };
        let worked = self.store.tasks.blocking("store take in", work).await;
        let (writer, result) = worked.map_err(|_| WriteError::Interrupted)?;
        self.writer = Some(writer);
        let file = result.inspect_err(|error| {
            self.is_failed = true;
            self.store.write_failed(error);
        })?;
        self.written_back(self.shared.received().saturating_sub(received), file)
    }

    /// Ends the body, with all but its last bytes written: its SHA-256 and its bytes. Refuses a
    /// body that is shorter than declared. Reveals nothing.
    pub async fn end(&mut self) -> Result<(Sha256, u64), WriteError> {
        let length = self.shared.received();
        if let Some(declared) = self.shared.declared()
            && length != declared
        {
            return Err(WriteError::Length { declared, received: length });
        }
        self.written().await?;
        if self.shared.unwritten() > TAIL_BYTES_MAX {
            self.start_writing();
            self.written().await?;
        }
        let (start, chunks) = self.shared.tail();
        let writer = self.writer.as_mut().ok_or(WriteError::Interrupted)?;
        writer.hash_tail(start, &chunks);
        self.shared.seal();
        Ok((Sha256::finish(writer.hash.clone()), length))
    }

    /// Lets readers see all of a body that has ended and is proven to be right, whether or not it
    /// can be stored. They read on when this is gone.
    pub fn reveal_all(&self) {
        self.guard.reveal_all();
    }

    /// Writes what is left of the body and syncs it to the disk, ending it first where that was not
    /// done. Reveals nothing. Not cancel safe: given up, the object is gone.
    pub async fn seal(self) -> Result<Sealed, WriteError> {
        let tasks = self.store.tasks.clone();
        let closed = self.close().await?;
        if closed.is_quick() {
            return closed.seal();
        }
        tasks.blocking("store seal", || closed.seal()).await.map_err(|_| WriteError::Interrupted)?
    }

    /// Ends the body where that was not done, and waits for what is under way to the disk; the
    /// rest is [`Closed::seal`]'s. Reveals nothing. Not cancel safe, as [`Pending::seal`].
    pub async fn close(mut self) -> Result<Closed, WriteError> {
        if !self.shared.is_sealed() {
            self.end().await?;
        }
        let length = self.shared.received();
        let body = (!Place::of(length).is_file()).then(|| self.shared.join());
        if let Some(writeback) = self.writeback.take()
            && writeback.await.is_err()
        {
            self.shared.writeback_failed();
        }
        let writer = self.writer.take().ok_or(WriteError::Interrupted)?;
        Ok(Closed { pending: self, writer, length, body })
    }

    /// Goes on without the disk, after a write failed or was refused: the object will not be
    /// stored, its readers get it all the same.
    pub fn adrift(self) -> Result<Adrift, WriteError> {
        let Self { store, shared, guard, writer, .. } = self;
        let mut writer = writer.ok_or(WriteError::Interrupted)?;
        let (start, chunks) = shared.tail();
        writer.hash_tail(start, &chunks);
        let Writer { hash, reservation, .. } = writer;
        Ok(Adrift::new(store, shared, hash, guard, reservation))
    }

    /// Begins to write all that is not in the file.
    fn start_writing(&mut self) {
        let Some(mut writer) = self.writer.take() else { return };
        let (start, chunks) = self.shared.tail();
        let bytes: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let work = move || {
            let result = writer.write(start, &chunks);
            (writer, bytes, result)
        };
        self.writing = Some(self.store.tasks.start_blocking(work));
    }

    /// Waits for the write under way, if there is one. Cancel safe.
    async fn written(&mut self) -> Result<(), WriteError> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let written = writing.await;
        self.writing = None;
        let (writer, bytes, result) = written.map_err(|_| WriteError::Interrupted)?;
        self.writer = Some(writer);
        let file = result.inspect_err(|error| {
            self.is_failed = true;
            self.store.write_failed(error);
        })?;
        self.shared.written(bytes, &file);
        self.written_back(bytes, file)
    }

    /// Begins to write dirty pages to the disk where `bytes` more in `file` make enough of them.
    fn written_back(&mut self, bytes: u64, file: Arc<File>) -> Result<(), WriteError> {
        self.check_writeback()?;
        self.unsynced_bytes += bytes;
        let is_idle = self.writeback.as_ref().is_none_or(JoinHandle::is_finished);
        if self.unsynced_bytes >= WRITEBACK_BYTES && is_idle {
            self.unsynced_bytes = 0;
            #[cfg(test)]
            let store = Arc::clone(&self.store);
            let sync = move || {
                #[cfg(test)]
                store.faults.next_writeback()?;
                file.sync_data()
            };
            self.writeback = Some(self.shared.start_writeback(sync));
        }
        Ok(())
    }

    fn check_writeback(&mut self) -> Result<(), WriteError> {
        if !self.shared.has_writeback_failed() {
            return Ok(());
        }
        self.is_failed = true;
        let source = io::Error::other("writing dirty pages failed");
        let error = WriteError::Io { operation: "sync", source };
        self.store.write_failed(&error);
        Err(error)
    }
}

/// A body that waits to be placed.
#[derive(Debug)]
pub(super) enum SealedBody {
    /// Below 64 KiB.
    Inline(Bytes),
    /// On the disk, without a name.
    File {
        /// The body alone.
        new: NewFile,
        /// The sums of its chunks.
        sums: Vec<u8>,
        /// What its readers know of its chunks.
        chunks: Arc<Chunks>,
    },
}

impl Writer {
    /// Writes chunks at an offset, retrying once after eviction when the disk is full.
    fn write(&mut self, start: u64, chunks: &[Bytes]) -> Result<Arc<File>, WriteError> {
        let bytes: u64 = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        self.ensure(start.saturating_add(bytes), GROWTH_BYTES)?;
        let file = self.file(bytes)?;
        self.mark.raise(start.saturating_add(bytes));
        #[cfg(test)]
        self.store.faults.reach("a batch is to be written");
        self.hash_tail(start, chunks);
        self.store.write_at(&file, chunks, start)?;
        let mut offset = start;
        for chunk in chunks {
            self.shared.in_file(chunk, offset);
            offset += chunk.len() as u64;
        }
        Ok(file)
    }

    /// The file, made where there is none yet; `bytes` are to be written.
    fn file(&mut self, bytes: u64) -> Result<Arc<File>, WriteError> {
        if let Some(new) = &self.file {
            return Ok(Arc::clone(new.file()));
        }
        let create = || self.store.folder.new_file();
        let made = self.store.evicting_once(bytes, "create", create)?;
        Ok(Arc::clone(self.file.insert(made).file()))
    }

    /// Takes in what is in the file already, as far as it reads as it was written.
    fn take_in(&mut self, written: &Written) -> Result<Arc<File>, WriteError> {
        let file = self.file(0)?;
        self.mark.raise(written.span().end);
        let (shared, hash, hashed) = (&self.shared, &mut self.hash, &mut self.hashed);
        let read = written.read_back(&file, shared, |bytes, offset| {
            hash.update(bytes);
            *hashed += bytes.len() as u64;
            shared.in_file(bytes, offset);
            shared.taken_in(bytes.len() as u64, &file);
        });
        if let Err(error) = read {
            self.store.count("read");
            tracing::warn!(%error, "what was written ahead does not read as it was written");
        }
        Ok(file)
    }

    /// Takes what is new of `chunks`, which begin at `start`, into the digest.
    fn hash_tail(&mut self, start: u64, chunks: &[Bytes]) {
        let mut offset = start;
        for chunk in chunks {
            let known = usize::try_from(self.hashed.saturating_sub(offset)).unwrap_or(usize::MAX);
            if let Some(new) = chunk.get(known..) {
                self.hash.update(new);
                self.hashed += new.len() as u64;
            }
            offset += chunk.len() as u64;
        }
    }

    /// Bytes of space that a body of `length` bytes is not promised yet.
    fn missing(&self, length: u64) -> u64 {
        format::charge(length).saturating_sub(self.reservation.bytes())
    }

    /// Makes sure that a body of `length` bytes has its space promised, `step` bytes at a time.
    fn ensure(&mut self, length: u64, step: u64) -> Result<(), WriteError> {
        let missing = self.missing(length);
        if missing > 0 {
            let more =
                self.store.reserve(missing.max(step)).or_else(|_| self.store.reserve(missing))?;
            self.reservation.join(more);
        }
        Ok(())
    }

    fn finish(
        mut self,
        length: u64,
        body: Option<Bytes>,
    ) -> Result<(Sha256, Reservation, SealedBody), WriteError> {
        self.ensure(length, 0)?;
        self.mark.raise(u64::MAX);
        let (start, chunks) = self.shared.tail();
        if body.is_none() && !chunks.is_empty() {
            let file = self.write(start, &chunks)?;
            self.shared.written(length.saturating_sub(start), &file);
        }
        let body = match (body, self.file) {
            (Some(body), _) => SealedBody::Inline(body),
            (None, Some(new)) => {
                // Never tried again: the kernel tells of lost pages once, then all seems well.
                let sync = || {
                    #[cfg(test)]
                    self.store.faults.next_sync()?;
                    new.file().sync_data()
                };
                #[cfg(test)]
                self.store.faults.reach("a body is to be synced");
                sync().map_err(|source| WriteError::Io { operation: "sync", source })?;
                #[cfg(test)]
                self.store.faults.reach("a body is synced");
                let sums = self.shared.sums();
                SealedBody::File { new, sums, chunks: Arc::clone(self.shared.chunks()) }
            }
            (None, None) => return Err(WriteError::Interrupted),
        };
        let sha256 = Sha256::finish(self.hash);
        Ok((sha256, self.reservation, body))
    }
}

/// A body that has ended, not all of it on the disk.
#[derive(Debug)]
pub struct Closed {
    pending: Pending,
    writer: Writer,
    length: u64,
    body: Option<Bytes>,
}

impl Closed {
    /// Whether there is nothing to write or to wait for: it goes into the index with its record.
    fn is_quick(&self) -> bool {
        self.body.is_some() && self.writer.missing(self.length) == 0
    }

    /// Writes what is left of the body and syncs it to the disk. Reveals nothing. Blocking.
    pub fn seal(self) -> Result<Sealed, WriteError> {
        let Self { mut pending, writer, length, body } = self;
        let (sha256, reservation, body) = writer.finish(length, body).inspect_err(|error| {
            pending.shared.writeback_failed();
            pending.store.write_failed(error);
        })?;
        pending.check_writeback()?;
        let Pending { key, store, guard, .. } = pending;
        Ok(Sealed { length, sha256, key, store, body, reservation, guard })
    }
}

/// A whole body on the disk, not yet in the store.
#[derive(Debug)]
pub struct Sealed {
    /// Bytes of the body.
    pub length: u64,
    /// SHA-256 of the body.
    pub sha256: Sha256,
    key: Key,
    store: Arc<Inner>,
    body: SealedBody,
    reservation: Reservation,
    guard: Guard,
}

/// Fails the readers that need more when its owner is gone.
#[derive(Debug)]
pub(super) struct Guard(Arc<Shared>);

impl Guard {
    /// Lets readers see all of it.
    pub(super) fn reveal_all(&self) {
        self.0.reveal(u64::MAX);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abandon();
    }
}

impl Sealed {
    /// A reader of what is revealed.
    pub fn growing(&self) -> Growing {
        self.guard.0.reader()
    }

    /// Lets readers see all of it: what they have read is proven to be right, whether or not it
    /// can be stored.
    pub fn reveal_all(&self) {
        self.guard.reveal_all();
    }

    /// Gives the object up: no trace of it stays, and readers that need more than was revealed
    /// fail.
    pub fn discard(self) {
        drop(self);
    }

    /// Puts the object in the store under `meta.key`, which is the key it was begun with, in place
    /// of what was there, together with a claim it makes about a NAR; then reveals all of it.
    /// Blocking, but quick: the body is on the disk already. On an error nothing is stored.
    pub fn commit(self, meta: Meta, claim: Option<(Key, NarClaim)>) -> Result<Stored, WriteError> {
        let Self { length, sha256, key, store, body, reservation, guard } = self;
        debug_assert_eq!(key, meta.key, "an object is committed under the key it was begun with");
        let stored = store
            .place(super::commit::Placing { length, sha256, meta, claim, body, reservation })
            .inspect_err(|error| store.write_failed(error))?;
        store.health.succeeded();
        guard.reveal_all();
        Ok(stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_a_share_within_its_bounds() {
        for (count, window) in [
            (0, WINDOW_BYTES_MAX),
            (64, WINDOW_BYTES_MAX),
            (128, WINDOWS_BYTES / 128),
            (100_000, WINDOW_BYTES_MIN),
        ] {
            assert_eq!(Receiving(AtomicU64::new(count)).window_bytes(), window, "{count}");
        }
    }
}
