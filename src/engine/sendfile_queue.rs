//! Ranges of stored files that the kernel sends to a plain HTTP/1 socket. The body of an answer
//! gives hyper slices of a placeholder, and queues the range that each slice stands for. When the
//! socket sees such a slice, it has the kernel send the range with `sendfile`, so no byte is copied
//! into the process. One queue for each connection, in the order of its answers; the lock is short
//! and never held across an await.
//!
//! # No byte of the placeholder is ever sent
//!
//! Only a connection with a queue gets slices, and only the socket below hyper sends what they
//! stand for. TLS and HTTP/2 need the bytes, so they have no queue. A slice without a range in the
//! queue is an error of the connection.
//!
//! # No byte that was not compared
//!
//! A range is queued only while its chunk is trusted and its pages are in the page cache
//! (`BodyFile::is_cached`). The same is checked again before it is sent. For a range that is not
//! the end of an answer, pages that were there within the last second are enough
//! (`BodyFile::was_cached`). If a page has left the cache when the call comes, the kernel reads it
//! from the disk. The count of blocks that this thread has read tells that. The chunk is doubted
//! then, and the connection waits until it was compared; if it is damaged, the connection is reset.
//! So the end of an answer is sent only after everything before it was found right.

use super::file_source::FileSource;
use crate::store::{BodyFile, CHUNK_BYTES, RUN_BYTES};
use crate::sync::Mutex;
use bytes::Bytes;
use nix::sys::resource::{UsageWho, getrusage};
use prometheus::IntCounter;
use rustix::fd::AsFd;
use rustix::io::Errno;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use tokio::sync::Notify;
use tokio::time::Instant;

/// The largest range: a chunk, which is trusted or not as a whole.
const RANGE_BYTES_MAX: usize = 1 << 20;
const _: () = assert!(RANGE_BYTES_MAX as u64 == CHUNK_BYTES);
/// Bytes that are read at a time if the kernel cannot send them.
const PIECE_BYTES: usize = 64 << 10;
/// The smallest end of an answer. The end begins at the start of a run of pages.
const END_BYTES_MIN: u64 = RUN_BYTES / 4;
/// Fewer bytes are copied, which costs less than the calls.
const RANGE_BYTES_MIN: usize = 8 << 10;

/// The memory of all slices. It is never read or written, so it takes no space. A plain array would
/// stand in the program's file.
static PLACEHOLDER: LazyLock<&'static [u8]> = LazyLock::new(|| vec![0; RANGE_BYTES_MAX].leak());

/// The ranges that wait to be sent on one connection.
#[derive(Debug)]
pub struct SendfileQueue {
    queue: Mutex<VecDeque<FileRange>>,
    has_drained: Notify,
    sent: IntCounter,
}

#[derive(Debug)]
struct FileRange {
    file_source: Arc<FileSource>,
    at: u64,
    left: usize,
    /// The offset of the end of the answer, from which on `PageCheck::Now` applies.
    end: u64,
    /// Whether its pages were found in the page cache since the last wait.
    is_fresh: bool,
}

/// When the pages of a range were last seen in the page cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PageCheck {
    /// Just now.
    Now,
    /// Within the last second.
    Lately,
}

impl PageCheck {
    /// The check for the range at `at`, if the end of the answer begins at `end`.
    fn of(at: u64, end: u64) -> Self {
        if at < end { Self::Lately } else { Self::Now }
    }

    fn is_cached(self, file: &BodyFile, at: u64, length: usize) -> bool {
        match self {
            Self::Now => file.is_cached(at, length),
            Self::Lately => file.was_cached(at, Instant::now()),
        }
    }
}

impl FileRange {
    fn is_ready(&mut self) -> bool {
        let file = self.file_source.file();
        let check = PageCheck::of(self.at, self.end);
        let is_cached = |file: &Arc<BodyFile>| check.is_cached(file, self.at, self.left);
        // A chunk that was doubted since then is compared before any more of it is sent.
        let is_fresh = |file: &Arc<BodyFile>| self.is_fresh && file.is_trusted(self.at);
        self.is_fresh = file.is_some_and(|file| is_fresh(file) || is_cached(file));
        self.is_fresh
    }

    /// Reads and compares the next bytes, from the file or its fallback.
    fn read(&self, max: usize) -> RangeRead {
        let (file_source, at, length) =
            (Arc::clone(&self.file_source), self.at, max.min(PIECE_BYTES));
        Box::pin(async move { file_source.read(at, length).await })
    }
}

/// A piece of a body that is being read and compared.
pub type RangeRead = Pin<Box<dyn Future<Output = io::Result<Bytes>> + Send>>;

/// The result of a call to send.
pub enum SendOutcome {
    /// So many bytes were sent.
    Bytes(usize),
    /// None were sent: the next bytes are not in the page cache, or the file has failed. The caller
    /// sends what this reads, and skips it in the queue.
    Missing(RangeRead),
    /// So many were sent, some of which came from the disk. Their chunk is being compared, and they
    /// count if it is right.
    Unsure(usize, RangeRead),
}

impl fmt::Debug for SendOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => f.debug_tuple("Bytes").field(bytes).finish(),
            Self::Missing(_) => f.write_str("Missing"),
            Self::Unsure(bytes, _) => f.debug_tuple("Unsure").field(bytes).finish(),
        }
    }
}

impl SendfileQueue {
    /// An empty queue. Sent bytes are counted in `sent`.
    pub fn new(sent: IntCounter) -> Self {
        Self { queue: Mutex::default(), has_drained: Notify::new(), sent }
    }

    /// Whether `slice` stands for a range.
    pub fn is_placeholder(slice: &[u8]) -> bool {
        !slice.is_empty() && PLACEHOLDER.as_ptr_range().contains(&slice.as_ptr())
    }

    /// Queues a range of the file from `at` on and returns the slice that stands for it; `left`
    /// bytes are left of the answer. None if the next bytes must be read. Never blocks.
    pub(super) fn put(&self, file_source: &Arc<FileSource>, at: u64, left: u64) -> Option<Bytes> {
        let end = end_of(at.saturating_add(left));
        let left = left.min(CHUNK_BYTES - at % CHUNK_BYTES);
        let left = usize::try_from(left).unwrap_or(RANGE_BYTES_MAX);
        let slice = PLACEHOLDER.get(..left).filter(|slice| slice.len() >= RANGE_BYTES_MIN)?;
        file_source.file().filter(|file| PageCheck::of(at, end).is_cached(file, at, left))?;
        let range =
            FileRange { file_source: Arc::clone(file_source), at, left, end, is_fresh: true };
        self.queue.lock().push_back(range);
        Some(Bytes::from_static(slice))
    }

    /// Whether the next range can be sent at once, without the disk.
    pub fn is_ready(&self) -> bool {
        self.queue.lock().front_mut().is_some_and(FileRange::is_ready)
    }

    /// Skips bytes of the next range, which were read and sent separately.
    pub fn skip(&self, bytes: usize) {
        self.advance(&mut self.queue.lock(), bytes);
    }

    /// Waits until no range is queued. For one waiter at a time. Cancel safe.
    pub(super) async fn drained(&self) {
        while !self.queue.lock().is_empty() {
            self.has_drained.notified().await;
        }
    }

    /// Sends up to `max` bytes of the next range to a socket that does not block.
    pub fn send(&self, socket: impl AsFd, max: usize) -> io::Result<SendOutcome> {
        let mut queue = self.queue.lock();
        let Some(range) = queue.front_mut() else {
            return Err(io::Error::other("a placeholder stands for nothing"));
        };
        // The end of an answer is sent alone.
        let before_end = usize::try_from(range.end.saturating_sub(range.at)).unwrap_or(usize::MAX);
        let at_once = if before_end > 0 { before_end } else { usize::MAX };
        let wanted = range.left.min(max).min(at_once);
        let is_ready = range.is_ready();
        let Some(file) = range.file_source.file().filter(|_| is_ready).map(Arc::clone) else {
            return Ok(SendOutcome::Missing(range.read(wanted)));
        };
        let (first, mut at) = (range.at, range.at);
        range.is_fresh = false;
        let before = blocks_read();
        let result = rustix::fs::sendfile(socket, file.file(), Some(&mut at), wanted);
        if blocks_read() != before {
            // Also if nothing was sent: the pages are in memory now, and were not compared.
            file.doubt(first);
        }
        // A disk that failed after its pages were seen has sent nothing.
        let sent = if result == Err(Errno::IO) { 0 } else { result? };
        if sent == 0 {
            // The file ends or fails here. A read tells which, and continues with the fallback.
            file.doubt(first);
            return Ok(SendOutcome::Missing(range.read(wanted)));
        }
        self.advance(&mut queue, sent);
        self.sent.inc_by(sent as u64);
        // Another thread may have read them from the disk while this call waited.
        if !file.is_trusted(first) {
            return Ok(SendOutcome::Unsure(
                sent,
                Box::pin(async move { file.read(first, 1).await }),
            ));
        }
        Ok(SendOutcome::Bytes(sent))
    }

    fn advance(&self, queue: &mut VecDeque<FileRange>, bytes: usize) {
        let Some(range) = queue.front_mut() else { return };
        range.at = range.at.saturating_add(bytes as u64);
        range.left = range.left.saturating_sub(bytes);
        range.is_fresh = false;
        if range.left == 0 {
            queue.pop_front();
            if queue.is_empty() {
                self.has_drained.notify_one();
            }
        }
    }
}

/// The offset at which the end of an answer begins; `behind` is the offset behind its last byte.
fn end_of(behind: u64) -> u64 {
    let latest = behind.saturating_sub(END_BYTES_MIN);
    latest - latest % RUN_BYTES
}

/// Blocks that this thread has read from disks.
fn blocks_read() -> i64 {
    getrusage(UsageWho::RUSAGE_THREAD).map_or(0, |usage| usage.block_reads())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::tests::meta;
    use crate::config::Disk;
    use crate::metrics::Metrics;
    use crate::object::Key;
    use crate::store::{Disks, StoredBody, Withhold};
    use crate::tasks::Tasks;
    use std::io::Read as _;

    #[test]
    fn the_end_of_an_answer_is_asked_about_just_before_it_goes() {
        let kib = 1 << 10;
        for (behind, end) in [
            (1, 0),
            (64 * kib, 0),
            (80 * kib - 1, 0),
            (80 * kib, 64 * kib),
            (1024 * kib, 960 * kib),
            (1025 * kib, 960 * kib),
            (1040 * kib, 1024 * kib),
        ] {
            assert_eq!(end_of(behind), end, "{behind}");
            assert_eq!(PageCheck::of(behind - 1, end), PageCheck::Now);
            assert_eq!(PageCheck::of(end, end), PageCheck::Now);
            assert_eq!(PageCheck::of(end.saturating_sub(1), end) == PageCheck::Lately, end > 0);
        }
    }

    #[tokio::test]
    async fn the_end_of_an_answer_goes_by_itself() {
        let place = tempfile::tempdir().unwrap();
        let disk = Disk::unscrubbed(place.path().to_owned(), 64 << 20);
        let store = Disks::open(&[disk], Metrics::new().unwrap(), Tasks::new()).unwrap();
        let body = (0..128_u32 << 10).map(|at| at.to_le_bytes()[1]).collect::<Bytes>();
        let key = Key::new("s", "/nar/x.nar", None);
        let mut pending = store.begin(&key, Some(body.len() as u64), Withhold::End).await.unwrap();
        pending.append(body.clone()).await.unwrap();
        let sealed = pending.end().await.unwrap().prove().unwrap().seal().unwrap();
        let stored = sealed.commit(meta(&key), None).unwrap();
        let StoredBody::File(file) = stored.body else { panic!("a small body") };
        let sendfile_queue = SendfileQueue::new(IntCounter::new("sent", "sent").unwrap());
        let slice = sendfile_queue.put(&FileSource::new(file, None), 0, body.len() as u64).unwrap();
        assert_eq!(slice.len(), body.len(), "all of it is one range");
        let (socket, mut client) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut got = vec![0; body.len()];
        for half in got.chunks_mut(64 << 10) {
            let sent = sendfile_queue.send(&socket, body.len()).unwrap();
            assert!(matches!(sent, SendOutcome::Bytes(bytes) if bytes == half.len()), "{sent:?}");
            client.read_exact(half).unwrap();
        }
        assert_eq!(got, body);
        assert!(!sendfile_queue.is_ready(), "nothing is left");
    }

    #[test]
    fn a_placeholder_is_known_and_stands_for_nothing_by_itself() {
        let own = vec![0; 64];
        assert!(!SendfileQueue::is_placeholder(&own) && !SendfileQueue::is_placeholder(&[]));
        let (first, last) = (PLACEHOLDER.first_chunk::<1>(), PLACEHOLDER.last_chunk::<1>());
        assert!(
            SendfileQueue::is_placeholder(first.unwrap())
                && SendfileQueue::is_placeholder(last.unwrap())
        );
        let sendfile_queue = SendfileQueue::new(IntCounter::new("sent", "sent").unwrap());
        assert!(!sendfile_queue.is_ready());
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let error = sendfile_queue.send(&socket, 10).unwrap_err();
        assert!(error.to_string().contains("stands for nothing"), "{error}");
    }
}
