//! Reading stored bodies: without blocking if the page cache has them and they are trusted, else
//! on a blocking thread, which compares the sum of each chunk that comes from the disk: `chunks`
//! says why nothing else is ever given out. A body outlives its object: its file handle holds the
//! bytes until the last reader is gone. No locks but those of `chunks`.

use crate::object::{Insertion, KeyHash, Meta, Sha256};
use crate::store::body::chunks::{Chunks, OpenBodies, Sight, chunk_of};
use crate::store::body::sums::{CHUNK_BYTES, ChunkSum, ExpectedSum, SUM_BYTES};
use crate::store::body::trailer;
use crate::store::files;
use crate::store::format::RecordHead;
use crate::tasks::Tasks;
use bytes::{Bytes, BytesMut};
use rustix::fs::Advice;
use rustix::io::{Errno, ReadWriteFlags};
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::time::Instant;

/// Bytes that a read from the disk compares at a time, so that a reader holds no whole chunk.
const PIECE_BYTES: usize = 64 * 1024;

/// Bytes of an aligned run of pages, of which a question about many looks at one: such a run is
/// written, read and let go as one by the file systems that matter.
pub const RUN_BYTES: u64 = 64 * 1024;

/// A body file, and what of it a reader may see.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct FileView<'a> {
    /// The file.
    pub(in crate::store) file: &'a File,
    /// What is known of its chunks.
    pub(in crate::store) chunks: &'a Chunks,
    /// How much of a chunk is seen.
    pub(in crate::store) sight: Sight,
}

/// An object found in the store.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its metadata.
    pub meta: Arc<Meta>,
    /// Its body.
    pub body: StoredBody,
    /// Bytes of the body.
    pub length: u64,
    /// SHA-256 of the body.
    pub sha256: Sha256,
    /// Its disk and number: what [`Disks::touch`](crate::store::Disks::touch) takes.
    pub insertion: Insertion,
}

/// The body of a stored object.
#[derive(Debug, Clone)]
pub enum StoredBody {
    /// All of it.
    Bytes(Bytes),
    /// A file to read from.
    File(Arc<BodyFile>),
}

impl StoredBody {
    /// Whether it is a file.
    pub(in crate::store) fn is_file(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

/// The file of a large body, open for reading; the body is at offset 0.
pub struct BodyFile {
    file: Arc<File>,
    chunks: Arc<Chunks>,
    length: u64,
    hash: KeyHash,
    sequence: u64,
    tasks: Tasks,
    drop_damaged: DropDamaged,
}

impl std::fmt::Debug for BodyFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (hash, sequence) = (&self.hash, &self.sequence);
        f.debug_struct("BodyFile")
            .field("hash", hash)
            .field("sequence", sequence)
            .finish_non_exhaustive()
    }
}

/// Drops an insertion of a key that turned out damaged, and says why.
pub(in crate::store) type DropDamaged = Arc<dyn Fn(KeyHash, u64, &str) + Send + Sync>;

/// What the readers of all bodies of a store share.
pub(in crate::store) struct BodyReads {
    /// What is known of the chunks of the bodies that are open.
    pub(in crate::store) bodies: OpenBodies,
    /// The lane of look-ups.
    lane: Tasks,
    drop_damaged: DropDamaged,
}

impl std::fmt::Debug for BodyReads {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BodyReads").field("bodies", &self.bodies).finish_non_exhaustive()
    }
}

impl BodyReads {
    /// No body is open.
    pub(in crate::store) fn new(lane: Tasks, drop_damaged: DropDamaged) -> Self {
        Self { bodies: OpenBodies::default(), lane, drop_damaged }
    }

    /// The body of an insertion with this head, at the start of `file`, open for reading.
    pub(in crate::store) fn body_file(
        &self,
        file: Arc<File>,
        hash: KeyHash,
        head: &RecordHead,
    ) -> Arc<BodyFile> {
        Arc::new(BodyFile {
            file,
            chunks: self.bodies.of(head.sequence),
            length: head.length,
            hash,
            sequence: head.sequence,
            tasks: self.lane.clone(),
            drop_damaged: Arc::clone(&self.drop_damaged),
        })
    }
}

impl BodyFile {
    /// Bytes of the body.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The open file, for `sendfile` of a range within [`BodyFile::length`] of which
    /// [`BodyFile::is_cached`] has just said yes; what follows the body in it is the store's own.
    /// A caller that finds that the kernel read from the disk meanwhile, or meets the end of the
    /// file, calls [`BodyFile::doubt`] and reads on by [`BodyFile::read`].
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Whether `length` bytes from `offset`, within one chunk (1 MiB), are in the page cache and
    /// trusted: written by this process, or compared since they came from the disk. Looks at a page
    /// in sixteen. Never blocks.
    pub fn is_cached(&self, offset: u64, length: usize) -> bool {
        let index = chunk_of(offset);
        if !self.chunks.is_trusted(index) {
            return false;
        }
        let is_here = runs(offset, length as u64).all(|last| is_page_cached(&self.file, last));
        if !is_here {
            self.chunks.doubt(index);
        }
        is_here && self.chunks.is_trusted(index)
    }

    /// Whether the chunk that holds `offset` is in the page cache and trusted as
    /// [`BodyFile::is_cached`] says, or was within the last second. For a caller that notices if
    /// pages have left the cache since, and gives out nothing more before they are compared.
    pub fn was_cached(&self, offset: u64, now: Instant) -> bool {
        let index = chunk_of(offset);
        if self.chunks.was_seen(index, now) {
            return true;
        }
        let start = index * CHUNK_BYTES;
        let length = CHUNK_BYTES.min(self.length.saturating_sub(start));
        let is_here = usize::try_from(length).is_ok_and(|length| self.is_cached(start, length));
        if is_here {
            self.chunks.saw(index, now);
        }
        is_here
    }

    /// Whether the chunk that holds `offset` is trusted.
    pub fn is_trusted(&self, offset: u64) -> bool {
        self.chunks.is_trusted(chunk_of(offset))
    }

    /// Says that pages of the chunk that holds `offset` may have come from the disk.
    pub fn doubt(&self, offset: u64) {
        self.chunks.doubt(chunk_of(offset));
    }

    /// Up to `max` bytes from `offset` if they are in the page cache and trusted: never empty
    /// within the body, empty at its end, `None` where reading would block or failed:
    /// [`BodyFile::read`] then waits, or says why. Never past the end of a chunk. Never blocks.
    pub fn read_now(&self, offset: u64, max: usize) -> Option<Bytes> {
        read_trusted(self.view(), offset, self.clamp(offset, max))
    }

    /// The same into `buffer`; how many bytes it got, none at the end.
    pub fn read_now_into(&self, offset: u64, buffer: &mut [u8]) -> Option<usize> {
        let max = self.clamp(offset, buffer.len());
        let buffer = buffer.get_mut(..max)?;
        read_trusted_into(self.view(), offset, buffer)
    }

    /// Up to `max` bytes from `offset`, on a blocking thread: never empty within the body, empty
    /// at its end, never past the end of a chunk. If the file ends before the body, or what the
    /// disk gives is not what was written, that is an error and the object is dropped as damaged. A
    /// disk that does not answer in time is an error too. Cancel safe.
    pub async fn read(self: &Arc<Self>, offset: u64, max: usize) -> Result<Bytes, io::Error> {
        let body = Arc::clone(self);
        let work = move || body.read_blocking(offset, max);
        self.tasks.blocking("store read", work).await.map_err(io::Error::other)?
    }

    /// The same for a caller that is not async: its thread waits.
    pub fn read_in_place(self: &Arc<Self>, offset: u64, max: usize) -> Result<Bytes, io::Error> {
        let body = Arc::clone(self);
        let work = move || body.read_blocking(offset, max);
        self.tasks.blocking_in_place("store read", work).map_err(io::Error::other)?
    }

    /// The same on the caller's thread, however long that takes. Blocking.
    fn read_blocking(&self, offset: u64, max: usize) -> Result<Bytes, io::Error> {
        let max = self.clamp(offset, max);
        let expected = |index| self.expected(index);
        let result = read_compared(self.view(), offset, max, self.hash, expected);
        if let Err(error) = &result {
            (self.drop_damaged)(self.hash, self.sequence, &error.to_string());
        }
        result
    }

    fn view(&self) -> FileView<'_> {
        FileView { file: &self.file, chunks: &self.chunks, sight: Sight::Whole }
    }

    /// The sum of a chunk, from the trailer. A sum that is wrong itself makes its chunk wrong.
    fn expected(&self, index: u64) -> io::Result<ExpectedSum> {
        let mut sum = [0; 8];
        let at = self.length.saturating_add(index * SUM_BYTES);
        files::read(|| self.file.read_exact_at(&mut sum, at))?;
        let bytes = CHUNK_BYTES.min(self.length.saturating_sub(index * CHUNK_BYTES));
        Ok(ExpectedSum { sum: u64::from_le_bytes(sum), bytes })
    }

    fn clamp(&self, offset: u64, max: usize) -> usize {
        usize::try_from(self.length.saturating_sub(offset)).map_or(max, |left| left.min(max))
    }
}

/// Whether `file` is the one that was written with this head, by its size and its trailer; or why
/// not. Errors of the system say nothing about the file.
pub(in crate::store) fn check_file(
    file: &File,
    hash: KeyHash,
    head: &RecordHead,
) -> io::Result<Result<trailer::Footer, &'static str>> {
    let offset = trailer::tail_offset(head.length);
    let tail_bytes = usize::try_from(file.metadata()?.len().saturating_sub(offset));
    let written = trailer::FOOTER_BYTES..=trailer::TAIL_BYTES_MAX;
    let Some(tail_bytes) = tail_bytes.ok().filter(|bytes| written.contains(bytes)) else {
        return Ok(Err("its file has another length"));
    };
    let mut tail = vec![0; tail_bytes];
    files::read(|| file.read_exact_at(&mut tail, offset))?;
    Ok(trailer::check(hash, head, &tail).map_err(|_| "its file is another"))
}

/// Tells the kernel to fetch nothing that is not asked for. It is only a wish: the answer of a file
/// system that does not know it changes nothing but speed.
pub(in crate::store) fn without_readahead(file: File) -> File {
    let _ = rustix::fs::fadvise(&file, 0, None, Advice::Random);
    file
}

/// Up to `max` bytes from `offset` if the page cache has them and its chunk is trusted; see
/// `chunks`.
pub(in crate::store) fn read_trusted(view: FileView<'_>, offset: u64, max: usize) -> Option<Bytes> {
    let max = within_chunk(offset, max);
    if max > 0 && view.chunks.trusted(chunk_of(offset), view.sight).is_none() {
        return None;
    }
    let mut buffer = BytesMut::zeroed(max);
    let read = read_trusted_into(view, offset, &mut buffer)?;
    buffer.truncate(read);
    Some(buffer.freeze())
}

/// The same into `buffer`; how many bytes it got.
fn read_trusted_into(
    FileView { file, chunks, sight }: FileView<'_>,
    offset: u64,
    buffer: &mut [u8],
) -> Option<usize> {
    let (index, max) = (chunk_of(offset), within_chunk(offset, buffer.len()));
    if max == 0 {
        return Some(0);
    }
    let before = chunks.trusted(index, sight)?;
    let read = read_now(file, offset, buffer.get_mut(..max)?);
    let is_sound = chunks.is_still_trusted(before);
    if read.is_none_or(|read| read < max) {
        chunks.doubt(index);
    }
    read.filter(|_| is_sound)
}

/// Up to `max` bytes from `offset` of the body of a key, from the disk or from the page cache,
/// after all that may be seen of the chunk was compared with what is `expected` of it; see
/// `chunks`. Blocking. The end of the file is an error unless `max` is 0.
pub(in crate::store) fn read_compared(
    view: FileView<'_>,
    offset: u64,
    max: usize,
    key: KeyHash,
    expected: impl FnOnce(u64) -> io::Result<ExpectedSum>,
) -> io::Result<Bytes> {
    let (index, max) = (chunk_of(offset), within_chunk(offset, max));
    if max == 0 {
        return Ok(Bytes::new());
    }
    let FileView { file, chunks, sight } = view;
    let mut turn = chunks.turn(index);
    if let Some(bytes) = read_trusted(view, offset, max) {
        return Ok(bytes);
    }
    turn.begin();
    let expected = expected(index)?;
    let start = index * CHUNK_BYTES;
    let length = NonZeroU64::new(expected.bytes);
    // All of it at once from the disk, though it is read in pieces.
    let _ = rustix::fs::fadvise(file, start, length, Advice::WillNeed);
    let mut sum = ChunkSum::new(key, index);
    let mut wanted = BytesMut::with_capacity(max);
    let mut piece = vec![0; PIECE_BYTES];
    let (mut at, end) = (start, start + expected.bytes);
    while at < end {
        let length = usize::try_from(end - at).map_or(PIECE_BYTES, |left| left.min(PIECE_BYTES));
        let read = read_some(file, piece.get_mut(..length).unwrap_or_default(), at)?;
        let piece = piece.get(..read).unwrap_or_default();
        sum.update(piece);
        wanted.extend_from_slice(overlap(piece, at, offset, max));
        at += read as u64;
    }
    if sum.value() != expected.sum {
        let why = format!("bytes {start} to {end} are not what was written");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    if wanted.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    turn.compared(sight, expected.bytes);
    if index > 0 && offset == start && expected.bytes == CHUNK_BYTES {
        fetch_ahead(file, chunks, index + 1);
    }
    Ok(wanted.freeze())
}

/// Has the disk fetch the chunk that a reader of the one before will ask for next. It is
/// trusted only when it is compared, like any other.
fn fetch_ahead(file: &File, chunks: &Chunks, index: u64) {
    if !chunks.is_in_part_trusted(index) {
        chunks.doubt(index);
        let length = NonZeroU64::new(CHUNK_BYTES);
        // Only a wish.
        let _ = rustix::fs::fadvise(file, index * CHUNK_BYTES, length, Advice::WillNeed);
    }
}

/// What of `piece`, which lies at `at`, belongs to the `max` bytes from `offset`.
fn overlap(piece: &[u8], at: u64, offset: u64, max: usize) -> &[u8] {
    let first = usize::try_from(offset.saturating_sub(at)).unwrap_or(usize::MAX);
    let end = offset.saturating_add(max as u64).saturating_sub(at);
    let end = usize::try_from(end).unwrap_or(usize::MAX).min(piece.len());
    piece.get(first..end).unwrap_or_default()
}

/// The last byte of each run of pages that has one of the bytes from `offset`, as far as those go;
/// `length`, how many they are, is never 0.
fn runs(offset: u64, length: u64) -> impl Iterator<Item = u64> {
    let end = offset.saturating_add(length);
    let starts = (offset / RUN_BYTES..end.div_ceil(RUN_BYTES)).map(|run| run * RUN_BYTES);
    starts.map(move |start| start.saturating_add(RUN_BYTES).min(end) - 1)
}

/// At most `max`, and not past the end of the chunk that holds `offset`.
fn within_chunk(offset: u64, max: usize) -> usize {
    let left = CHUNK_BYTES - offset % CHUNK_BYTES;
    usize::try_from(left).map_or(max, |left| left.min(max))
}

/// Reads what of `buffer` is in the page cache, at least a byte; `None` where reading would block
/// or fails.
fn read_now(file: &File, offset: u64, buffer: &mut [u8]) -> Option<usize> {
    let slices = &mut [IoSliceMut::new(buffer)];
    let read = match rustix::io::preadv2(file, slices, offset, ReadWriteFlags::NOWAIT) {
        Err(Errno::OPNOTSUPP) if is_in_memory(file) => file.read_at(buffer, offset).ok(),
        read => read.ok(),
    };
    read.filter(|&read| read > 0)
}

/// Whether the page that holds `offset` can be read without waiting.
fn is_page_cached(file: &File, offset: u64) -> bool {
    read_now(file, offset, &mut [0]) == Some(1)
}

/// Whether a file is one of a `tmpfs`. It knows no reads without waiting, and its reads wait only
/// for what was swapped out.
fn is_in_memory(file: &File) -> bool {
    // TMPFS_MAGIC of linux/magic.h.
    rustix::fs::fstatfs(file).is_ok_and(|system| system.f_type == 0x0102_1994)
}

/// Fills a part of `buffer`, at least a byte; how many. Blocking. The end of the file is an error.
fn read_some(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        match files::read(|| file.read_at(buffer, offset)) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_in_memory_is_read_without_waiting() {
        let Ok(memory) = tempfile::tempfile_in("/dev/shm") else {
            assert!(std::env::var_os("CI").is_none(), "CI has /dev/shm");
            eprintln!("left out: no /dev/shm");
            return;
        };
        memory.write_all_at(b"narthex", 0).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(read_now(&memory, 3, &mut buffer), Some(4));
        assert_eq!(&buffer[..4], b"thex");
        assert!(is_page_cached(&memory, 6) && !is_page_cached(&memory, 7));
        let elsewhere = File::open("/proc/self/status").unwrap();
        assert!(is_in_memory(&memory) && !is_in_memory(&elsewhere));
    }

    #[test]
    fn a_page_of_each_run_is_looked_at_and_no_page_outside() {
        let of = |offset, length| runs(offset, length).collect::<Vec<_>>();
        let kib = 1 << 10;
        assert_eq!(of(0, 64 * kib), [64 * kib - 1]);
        assert_eq!(of(64 * kib, 1), [64 * kib]);
        assert_eq!(of(5, 64 * kib), [64 * kib - 1, 64 * kib + 4]);
        assert_eq!(
            of(63 * kib, 130 * kib),
            [64 * kib - 1, 128 * kib - 1, 192 * kib - 1, 193 * kib - 1]
        );
        assert_eq!(of(CHUNK_BYTES, CHUNK_BYTES).len(), 16);
    }
}
