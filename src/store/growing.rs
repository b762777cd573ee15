//! An object while it is written, as its readers see it: any number of them, each at its own
//! offset, none with a buffer of its own. What is not yet in the file is read from memory, the
//! rest from the file, so that the first bytes of a slow origin reach readers at once and a reader
//! far behind holds nothing up. Lives as long as its last reader; one short lock, never across an
//! await or I/O.

use super::error::Broken;
use super::read;
use crate::tasks::Tasks;
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::fs::File;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// Two neighbouring chunks of together at most this many bytes become one, so that an origin that
/// sends single bytes does not make a chunk of each.
const JOIN_BYTES_MAX: usize = 4096;

/// A view of an object that is being written. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Growing(Arc<Shared>);

/// What the writer and all readers share.
#[derive(Debug)]
pub(super) struct Shared {
    declared: Option<u64>,
    tasks: Tasks,
    tail: Mutex<Tail>,
    progress: watch::Sender<Progress>,
    is_writeback_running: AtomicBool,
    has_writeback_failed: AtomicBool,
}

#[derive(Debug)]
struct Tail {
    /// What is not in the file, without gaps.
    chunks: VecDeque<Bytes>,
    /// Offset of the first of them: everything before is in the file.
    start: u64,
    file: Option<Arc<File>>,
}

#[derive(Debug, Clone, Copy)]
struct Progress {
    received: u64,
    revealed: u64,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Filling,
    Sealed,
    Abandoned,
}

impl Progress {
    fn visible(&self) -> u64 {
        self.revealed.min(self.received)
    }

    fn is_whole(&self) -> bool {
        self.phase == Phase::Sealed && self.revealed >= self.received
    }
}

impl Growing {
    /// The length that was declared at [`Store::begin`](super::Store::begin), in bytes.
    pub fn length(&self) -> Option<u64> {
        self.0.declared
    }

    /// How many bytes can be read now.
    pub fn visible(&self) -> u64 {
        self.0.progress.borrow().visible()
    }

    /// Up to `max` bytes from `offset`, as soon as there are any; empty only when the object is
    /// whole, wholly revealed and ends at or before `offset`. Cancel safe. Waits without a
    /// deadline of its own: the writer has one.
    pub async fn read(&self, offset: u64, max: usize) -> Result<Bytes, Broken> {
        let visible = self.0.wait_past(offset).await?;
        let within = usize::try_from(visible.saturating_sub(offset)).unwrap_or(usize::MAX);
        self.0.fetch(offset, max.min(within)).await
    }
}

impl Shared {
    /// An empty object, of `declared` bytes where that is known.
    pub(super) fn new(declared: Option<u64>, tasks: Tasks) -> Arc<Self> {
        let progress = Progress { received: 0, revealed: 0, phase: Phase::Filling };
        Arc::new(Self {
            declared,
            tasks,
            tail: Mutex::new(Tail { chunks: VecDeque::new(), start: 0, file: None }),
            progress: watch::Sender::new(progress),
            is_writeback_running: AtomicBool::new(false),
            has_writeback_failed: AtomicBool::new(false),
        })
    }

    /// A stretch of an object that begins at offset `base`, all of it revealed as it comes. Readers
    /// and the writer go by offsets in the object.
    pub(super) fn new_at(base: u64, tasks: Tasks) -> Arc<Self> {
        let progress = Progress { received: base, revealed: u64::MAX, phase: Phase::Filling };
        Arc::new(Self {
            declared: None,
            tasks,
            tail: Mutex::new(Tail { chunks: VecDeque::new(), start: base, file: None }),
            progress: watch::Sender::new(progress),
            is_writeback_running: AtomicBool::new(false),
            has_writeback_failed: AtomicBool::new(false),
        })
    }

    /// A reader.
    pub(super) fn reader(self: &Arc<Self>) -> Growing {
        Growing(Arc::clone(self))
    }

    /// The length that was declared.
    pub(super) fn declared(&self) -> Option<u64> {
        self.declared
    }

    /// Bytes received so far.
    pub(super) fn received(&self) -> u64 {
        self.progress.borrow().received
    }

    /// Bytes in memory that are not in the file.
    pub(super) fn unwritten(&self) -> u64 {
        self.received().saturating_sub(self.tail.lock().start)
    }

    /// Adds a chunk to the tail.
    pub(super) fn push(&self, chunk: Bytes) {
        let bytes = chunk.len() as u64;
        self.tail.lock().push(chunk);
        self.progress.send_modify(|progress| progress.received += bytes);
    }

    /// The tail and its offset.
    pub(super) fn tail(&self) -> (u64, Vec<Bytes>) {
        let tail = self.tail.lock();
        (tail.start, tail.chunks.iter().cloned().collect())
    }

    /// The first `bytes` of the tail are in `file` now.
    pub(super) fn written(&self, bytes: u64, file: &Arc<File>) {
        let mut tail = self.tail.lock();
        tail.file.get_or_insert_with(|| Arc::clone(file));
        let end = tail.start.saturating_add(bytes);
        while tail.start < end {
            let Some(chunk) = tail.chunks.pop_front() else { break };
            tail.start += chunk.len() as u64;
        }
    }

    /// The tail is the whole body: makes it one chunk and returns it.
    pub(super) fn join(&self) -> Bytes {
        let mut tail = self.tail.lock();
        let mut chunks = std::mem::take(&mut tail.chunks);
        let mut whole = BytesMut::with_capacity(chunks.iter().map(Bytes::len).sum());
        chunks.drain(..).for_each(|chunk| whole.extend_from_slice(&chunk));
        let whole = whole.freeze();
        if !whole.is_empty() {
            tail.chunks.push_back(whole.clone());
        }
        whole
    }

    /// Readers may see everything before `upto`; never takes back what they may see already.
    pub(super) fn reveal(&self, upto: u64) {
        self.progress.send_if_modified(|progress| {
            let before = (progress.visible(), progress.is_whole());
            progress.revealed = progress.revealed.max(upto);
            before != (progress.visible(), progress.is_whole())
        });
    }

    /// Nothing more will come: the object ends where it is.
    pub(super) fn seal(&self) {
        self.progress.send_modify(|progress| progress.phase = Phase::Sealed);
    }

    /// Whether nothing more will come.
    pub(super) fn is_sealed(&self) -> bool {
        self.progress.borrow().phase == Phase::Sealed
    }

    /// The writer is gone. Readers of a whole and wholly revealed object go on, others fail.
    pub(super) fn abandon(&self) {
        self.progress.send_if_modified(|progress| {
            let is_whole = progress.is_whole();
            if !is_whole {
                progress.phase = Phase::Abandoned;
            }
            !is_whole
        });
    }

    /// Starts to write dirty pages to the disk beside the fill, unless that runs already, so that
    /// the last sync of a large object has little left to do.
    pub(super) fn start_writeback(self: &Arc<Self>, file: Arc<File>) {
        if self.is_writeback_running.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared = Arc::clone(self);
        self.tasks.spawn("store writeback", async move {
            let synced = shared.tasks.blocking("store writeback", move || file.sync_data()).await;
            if !matches!(synced, Ok(Ok(()))) {
                shared.has_writeback_failed.store(true, Ordering::Release);
            }
            shared.is_writeback_running.store(false, Ordering::Release);
        });
    }

    /// Whether a write to the disk beside the fill failed: the kernel reports that only once.
    pub(super) fn has_writeback_failed(&self) -> bool {
        self.has_writeback_failed.load(Ordering::Acquire)
    }

    async fn wait_past(&self, offset: u64) -> Result<u64, Broken> {
        let is_settled =
            |p: &Progress| p.visible() > offset || p.is_whole() || p.phase == Phase::Abandoned;
        let mut receiver = self.progress.subscribe();
        let progress = *receiver.wait_for(is_settled).await.map_err(|_| Broken::Abandoned)?;
        if progress.visible() > offset || progress.is_whole() {
            Ok(progress.visible())
        } else {
            Err(Broken::Abandoned)
        }
    }

    async fn fetch(&self, offset: u64, max: usize) -> Result<Bytes, Broken> {
        if max == 0 {
            return Ok(Bytes::new());
        }
        // Behind what is written, the file of a part may have a hole.
        let (file, max) = {
            let tail = self.tail.lock();
            if let Some(bytes) = tail.read(offset, max) {
                return Ok(bytes);
            }
            let written = usize::try_from(tail.start.saturating_sub(offset)).unwrap_or(usize::MAX);
            (tail.file.clone(), max.min(written))
        };
        let Some(file) = file else { return Err(Broken::Abandoned) };
        if let Some(bytes) = read::read_now(&file, offset, max) {
            return Ok(bytes);
        }
        let reading = self.tasks.blocking("store read", move || read::read(&file, offset, max));
        let result = reading.await.map_err(std::io::Error::other).flatten();
        result.map_err(|source| Broken::Unreadable { source })
    }
}

impl Tail {
    fn push(&mut self, chunk: Bytes) {
        match self.chunks.back_mut() {
            Some(last) if last.len() + chunk.len() <= JOIN_BYTES_MAX => {
                let mut joined = BytesMut::with_capacity(JOIN_BYTES_MAX);
                joined.extend_from_slice(last);
                joined.extend_from_slice(&chunk);
                *last = joined.freeze();
            }
            Some(_) | None => self.chunks.push_back(chunk),
        }
    }

    /// Bytes from `offset` where the tail has them. Its chunks are few: at most a batch of writes.
    fn read(&self, offset: u64, max: usize) -> Option<Bytes> {
        let mut skip = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        for chunk in &self.chunks {
            if skip < chunk.len() {
                return Some(chunk.slice(skip..chunk.len().min(skip.saturating_add(max))));
            }
            skip -= chunk.len();
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn is_waiting(future: impl Future) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn readers_see_what_is_revealed_and_wait_for_the_rest() {
        let shared = Shared::new(Some(6), Tasks::new());
        let reader = shared.reader();
        assert_eq!(reader.length(), Some(6));
        assert!(is_waiting(reader.read(0, 10)));
        shared.push(Bytes::from_static(b"abcd"));
        assert!(is_waiting(reader.read(0, 10)), "received but not revealed");
        shared.reveal(3);
        assert_eq!((reader.visible(), reader.read(1, 10).await.unwrap()), (3, "bc".into()));
        assert!(is_waiting(reader.read(3, 10)));
        shared.push(Bytes::from_static(b"ef"));
        shared.reveal(u64::MAX);
        assert_eq!(reader.read(3, 2).await.unwrap(), "de");
        assert!(is_waiting(reader.read(6, 1)), "no end before the seal");
        shared.seal();
        assert_eq!(reader.read(6, 1).await.unwrap(), "");
        assert_eq!(reader.read(60, 1).await.unwrap(), "");
        shared.abandon();
        assert_eq!(reader.read(5, 1).await.unwrap(), "f");
    }

    #[tokio::test]
    async fn an_abandoned_object_breaks_its_readers_where_they_need_more() {
        let shared = Shared::new(None, Tasks::new());
        let reader = shared.reader();
        shared.push(Bytes::from_static(b"abcd"));
        shared.reveal(2);
        shared.seal();
        let waiting = reader.read(2, 1);
        let mut waiting = pin!(waiting);
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut context).is_pending(), "sealed, not revealed");
        shared.abandon();
        assert!(matches!(waiting.await, Err(Broken::Abandoned)));
        assert_eq!(reader.read(0, 9).await.unwrap(), "ab");
        let result = pin!(reader.read(4, 1)).poll(&mut context);
        assert!(matches!(result, Poll::Ready(Err(Broken::Abandoned))));
    }

    #[test]
    fn single_bytes_are_joined() {
        let shared = Shared::new(None, Tasks::new());
        for _ in 0..10_000 {
            shared.push(Bytes::from_static(b"x"));
        }
        assert!(shared.tail().1.len() <= 3);
        assert_eq!(shared.join().len(), 10_000);
        assert_eq!(shared.unwritten(), 10_000);
    }
}
