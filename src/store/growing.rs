//! An object while it is written, as its readers see it: any number of them, each at its own
//! offset, none with a buffer of its own. What is not yet in the file is read from memory, the
//! rest from the file, so that the first bytes of a slow origin reach readers at once and a reader
//! far behind holds nothing up; what comes back from the disk is compared first, as with a stored
//! body (see `chunks`). Lives as long as its last reader; one short lock, never across an
//! await or I/O.
//!
//! Where the disk fails under it (see `adrift`), what is in the file stays there for its readers
//! and the rest passes through memory alone: bytes between the two that all readers have had, or
//! that a reader left lying too long, are gone, and who still needs them fails.

use super::chunks::{Chunks, chunk_of};
use super::error::Broken;
use super::read;
use super::sums::{CHUNK_BYTES, ChunkSum, Sums};
use crate::object::KeyHash;
use crate::sync::Mutex;
use crate::tasks::Tasks;
use bytes::{Bytes, BytesMut};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

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
    key: KeyHash,
    chunks: Arc<Chunks>,
    /// Of the bytes that are in the file.
    sums: Mutex<Sums>,
    tasks: Tasks,
    tail: Mutex<Tail>,
    progress: watch::Sender<Progress>,
    has_writeback_failed: AtomicBool,
    /// Told when a follower has moved or left.
    moved: Notify,
}

/// A reader whose place is known, so that an object that has no disk any more waits for it. Gone
/// with its drop.
#[derive(Debug)]
pub struct Follower {
    growing: Growing,
    number: u64,
}

#[derive(Debug)]
struct Tail {
    /// What is not in the file, without gaps.
    chunks: VecDeque<Bytes>,
    /// Offset of the first of them.
    start: u64,
    /// Bytes in the file: `start`, unless the object is adrift and has let some go since.
    file_end: u64,
    file: Option<Arc<File>>,
    /// Where each follower is: it has had everything before.
    followers: HashMap<u64, u64>,
    followers_so_far: u64,
}

/// Where the bytes at an offset are.
enum Whereabouts {
    Memory(Bytes),
    /// In the file, of which so many bytes from the offset on may be read.
    File(Arc<File>, u64),
    Gone,
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
    /// The length that was declared at [`Disks::begin`](super::Disks::begin), in bytes.
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

    /// A reader from `offset` on that is waited for where the disk fails.
    pub fn follow(self, offset: u64) -> Follower {
        let number = self.0.tail.lock().enter(offset);
        self.0.moved.notify_one();
        Follower { growing: self, number }
    }
}

impl Follower {
    /// Up to `max` bytes from `offset` where they are in memory and revealed, without a copy; never
    /// empty. What is before `offset` will not be asked for again. Never waits.
    pub fn read_now(&self, offset: u64, max: usize) -> Option<Bytes> {
        let visible = self.growing.visible().saturating_sub(offset);
        let max = usize::try_from(visible).map_or(max, |visible| visible.min(max));
        if max == 0 {
            return None;
        }
        let mut tail = self.growing.0.tail.lock();
        let bytes = tail.read(offset, max)?;
        tail.followers.insert(self.number, offset);
        drop(tail);
        self.growing.0.moved.notify_one();
        Some(bytes)
    }

    /// As [`Growing::read`]; what is before `offset` will not be asked for again.
    pub async fn read(&self, offset: u64, max: usize) -> Result<Bytes, Broken> {
        self.growing.0.tail.lock().followers.insert(self.number, offset);
        self.growing.0.moved.notify_one();
        self.growing.read(offset, max).await
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.growing.0.tail.lock().followers.remove(&self.number);
        self.growing.0.moved.notify_one();
    }
}

impl Shared {
    /// An empty object under a key, of `declared` bytes where that is known.
    pub(super) fn new(declared: Option<u64>, key: KeyHash, tasks: Tasks) -> Arc<Self> {
        let progress = Progress { received: 0, revealed: 0, phase: Phase::Filling };
        Arc::new(Self {
            declared,
            key,
            chunks: Arc::default(),
            sums: Mutex::new(Sums::new(key)),
            tasks,
            tail: Mutex::new(Tail::empty_at(0)),
            progress: watch::Sender::new(progress),
            has_writeback_failed: AtomicBool::new(false),
            moved: Notify::new(),
        })
    }

    /// A stretch of an object that begins with the chunk at offset `base`, all of it revealed as it
    /// comes. Readers and the writer go by offsets in the object.
    pub(super) fn new_at(base: u64, key: KeyHash, chunks: &Arc<Chunks>, tasks: Tasks) -> Arc<Self> {
        let progress = Progress { received: base, revealed: u64::MAX, phase: Phase::Filling };
        Arc::new(Self {
            declared: None,
            key,
            chunks: Arc::clone(chunks),
            sums: Mutex::new(Sums::from_chunk(key, chunk_of(base))),
            tasks,
            tail: Mutex::new(Tail::empty_at(base)),
            progress: watch::Sender::new(progress),
            has_writeback_failed: AtomicBool::new(false),
            moved: Notify::new(),
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

    /// The sums of all that is in the file, as its trailer has them.
    pub(super) fn sums(&self) -> Vec<u8> {
        self.sums.lock().encode()
    }

    /// What its readers know of its chunks.
    pub(super) fn chunks(&self) -> &Arc<Chunks> {
        &self.chunks
    }

    /// `bytes` are in the file, at `offset`, behind all others.
    pub(super) fn in_file(&self, bytes: &[u8], offset: u64) {
        self.sums.lock().update(bytes);
        let last = chunk_of(offset.saturating_add(bytes.len() as u64).saturating_sub(1));
        // The first one may hold bytes from before, which somebody may doubt by now.
        for index in offset.div_ceil(CHUNK_BYTES)..=last {
            self.chunks.trust(index);
        }
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
        tail.file_end = tail.start;
    }

    /// The sum that `bytes` have as the chunk `index` of this object, or as its beginning.
    pub(super) fn sum_of(&self, index: u64, bytes: &[u8]) -> u64 {
        let mut sum = ChunkSum::new(self.key, index);
        sum.update(bytes);
        sum.value()
    }

    /// The next `bytes` have come by way of `file`, where they are already: to be called only
    /// while nothing is in memory.
    pub(super) fn taken_in(&self, bytes: u64, file: &Arc<File>) {
        let mut tail = self.tail.lock();
        debug_assert!(tail.chunks.is_empty(), "what is in memory is before it");
        tail.file.get_or_insert_with(|| Arc::clone(file));
        tail.start += bytes;
        tail.file_end = tail.start;
        drop(tail);
        self.progress.send_modify(|progress| progress.received += bytes);
    }

    /// Bytes in memory.
    pub(super) fn in_memory(&self) -> u64 {
        self.received().saturating_sub(self.tail.lock().start)
    }

    /// Lets go of whole chunks that every follower has had; false where nobody follows any more
    /// who could still read on.
    pub(super) fn forget_what_all_had(&self) -> bool {
        let visible = self.progress.borrow().visible();
        let mut tail = self.tail.lock();
        let (start, file_end) = (tail.start, tail.file_end);
        // Whoever is behind a gap can go no further than it, and is not waited for.
        let can_go_on = |place: &u64| start == file_end || *place >= start;
        let Some(slowest) = tail.followers.values().copied().filter(can_go_on).min() else {
            return false;
        };
        tail.forget_before(slowest.min(visible));
        true
    }

    /// Lets go of `bytes` or a little more of the oldest chunks, whoever still needs them; never of
    /// what nobody may see yet.
    pub(super) fn forget_oldest(&self, bytes: u64) {
        let visible = self.progress.borrow().visible();
        let mut tail = self.tail.lock();
        let upto = tail.start.saturating_add(bytes).min(visible);
        tail.forget_before(upto);
    }

    /// Waits until a follower has come, moved or left since the last wait.
    pub(super) async fn moved(&self) {
        self.moved.notified().await;
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

    /// Begins to write dirty pages to the disk beside the fill, so that the last sync of a large
    /// object has little left to do. The kernel reports a failure only once: whoever syncs later
    /// waits for the end of this first, and then asks whether it failed.
    pub(super) fn start_writeback<F>(self: &Arc<Self>, sync: F) -> JoinHandle<()>
    where
        F: FnOnce() -> io::Result<()> + Send + 'static,
    {
        let shared = Arc::clone(self);
        self.tasks.spawn("store writeback", async move {
            let synced = shared.tasks.blocking("store writeback", sync).await;
            if !matches!(synced, Ok(Ok(()))) {
                shared.writeback_failed();
            }
        })
    }

    /// Notes that a write to the disk beside the fill failed. What is in the file is from now on
    /// read from the page cache alone: the disk may hold something else.
    pub(super) fn writeback_failed(&self) {
        self.has_writeback_failed.store(true, Ordering::Release);
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

    async fn fetch(self: &Arc<Self>, offset: u64, max: usize) -> Result<Bytes, Broken> {
        if max == 0 {
            return Ok(Bytes::new());
        }
        let (file, max) = match self.tail.lock().whereabouts(offset, max) {
            Whereabouts::Memory(bytes) => return Ok(bytes),
            Whereabouts::File(file, within) => {
                (file, usize::try_from(within).map_or(max, |within| within.min(max)))
            }
            Whereabouts::Gone => return Err(Broken::Behind),
        };
        if let Some(bytes) = read::read_trusted(&file, &self.chunks, offset, max) {
            return Ok(bytes);
        }
        if self.has_writeback_failed() {
            let source = io::Error::other("it was not written to the disk");
            return Err(Broken::Unreadable { source });
        }
        let shared = Arc::clone(self);
        let compare = move || {
            let expected = |index| {
                let expected = shared.sums.lock().of(index);
                expected.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            };
            read::read_compared(&file, &shared.chunks, (offset, max), shared.key, expected)
        };
        let reading = self.tasks.blocking("store read", compare);
        let result = reading.await.map_err(io::Error::other).flatten();
        result.map_err(|source| Broken::Unreadable { source })
    }
}

impl Tail {
    fn empty_at(start: u64) -> Self {
        Self {
            chunks: VecDeque::new(),
            start,
            file_end: start,
            file: None,
            followers: HashMap::new(),
            followers_so_far: 0,
        }
    }

    fn enter(&mut self, offset: u64) -> u64 {
        self.followers_so_far += 1;
        self.followers.insert(self.followers_so_far, offset);
        self.followers_so_far
    }

    fn forget_before(&mut self, upto: u64) {
        while let Some(chunk) = self.chunks.front() {
            let end = self.start + chunk.len() as u64;
            if end > upto {
                break;
            }
            self.start = end;
            self.chunks.pop_front();
        }
    }

    fn whereabouts(&self, offset: u64, max: usize) -> Whereabouts {
        if let Some(bytes) = self.read(offset, max) {
            return Whereabouts::Memory(bytes);
        }
        match &self.file {
            Some(file) if offset < self.file_end => {
                Whereabouts::File(Arc::clone(file), self.file_end - offset)
            }
            Some(_) | None => Whereabouts::Gone,
        }
    }

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
    use proptest::prelude::*;
    use std::future::Future;
    use std::os::unix::fs::FileExt;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn is_waiting(future: impl Future) -> bool {
        pin!(future).poll(&mut Context::from_waker(Waker::noop())).is_pending()
    }

    #[tokio::test]
    async fn readers_see_what_is_revealed_and_wait_for_the_rest() {
        let shared = Shared::new(Some(6), KeyHash([0; 16]), Tasks::new());
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
        let shared = Shared::new(None, KeyHash([0; 16]), Tasks::new());
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
        let shared = Shared::new(None, KeyHash([0; 16]), Tasks::new());
        for _ in 0..10_000 {
            shared.push(Bytes::from_static(b"x"));
        }
        assert!(shared.tail().1.len() <= 3);
        assert_eq!(shared.join().len(), 10_000);
        assert_eq!(shared.unwritten(), 10_000);
    }

    /// What may happen to an object.
    #[derive(Debug, Clone)]
    enum Step {
        Push(u16),
        Written,
        Reveal(u64),
        Follow(u64),
        Move(usize, u64),
        Leave(usize),
        ForgetWhatAllHad,
        ForgetOldest(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (1..9_000_u16).prop_map(Step::Push),
            1 => Just(Step::Written),
            2 => (0..60_000_u64).prop_map(Step::Reveal),
            2 => (0..60_000_u64).prop_map(Step::Follow),
            4 => (any::<usize>(), 0..20_000_u64).prop_map(|(who, by)| Step::Move(who, by)),
            1 => any::<usize>().prop_map(Step::Leave),
            3 => Just(Step::ForgetWhatAllHad),
            1 => (0..20_000_u64).prop_map(Step::ForgetOldest),
        ];
        proptest::collection::vec(step, 1..60)
    }

    proptest! {
        /// Whatever is let go of, what is read is right, what may not be seen yet is kept, and who
        /// is waited for loses nothing.
        #[test]
        fn what_is_let_go_of_is_never_read_wrongly(steps in steps()) {
            let shared = Shared::new(None, KeyHash([0; 16]), Tasks::new());
            let file = Arc::new(tempfile::tempfile().unwrap());
            let byte = |offset: u64| u8::try_from(offset * 31 % 251).unwrap();
            let mut is_adrift = false;
            let mut followers: Vec<(Follower, u64)> = Vec::new();
            for step in steps {
                match step {
                    Step::Push(bytes) => {
                        let from = shared.received();
                        let chunk: Vec<u8> = (from..from + u64::from(bytes)).map(byte).collect();
                        shared.push(chunk.into());
                    }
                    Step::Written if !is_adrift => {
                        let (start, chunks) = shared.tail();
                        let chunks = chunks.concat();
                        file.write_all_at(&chunks, start).unwrap();
                        shared.written(chunks.len() as u64, &file);
                    }
                    Step::Reveal(upto) => shared.reveal(upto),
                    Step::Follow(offset) => {
                        let follower = shared.reader().follow(offset);
                        let tail = shared.tail.lock();
                        let is_late = offset < tail.start && tail.start > tail.file_end;
                        drop(tail);
                        if !is_late {
                            followers.push((follower, offset));
                        }
                    }
                    Step::Move(who, by) if !followers.is_empty() => {
                        let who = who % followers.len();
                        let (follower, place) = &mut followers[who];
                        *place += by;
                        shared.tail.lock().followers.insert(follower.number, *place);
                    }
                    Step::Leave(who) if !followers.is_empty() => {
                        followers.remove(who % followers.len());
                    }
                    Step::Written | Step::Move(..) | Step::Leave(_) => {}
                    Step::ForgetWhatAllHad => {
                        is_adrift = true;
                        shared.forget_what_all_had();
                    }
                    Step::ForgetOldest(bytes) => {
                        is_adrift = true;
                        shared.forget_oldest(bytes);
                        // Whoever is behind that is waited for no more.
                        let tail = shared.tail.lock();
                        let (start, file_end) = (tail.start, tail.file_end);
                        drop(tail);
                        followers.retain(|(_, place)| start == file_end || *place >= start);
                    }
                }
                let (visible, received) = (shared.progress.borrow().visible(), shared.received());
                let tail = shared.tail.lock();
                prop_assert!(tail.start <= visible.max(tail.file_end));
                for at in (0..received).step_by(997) {
                    match tail.whereabouts(at, 10) {
                        Whereabouts::Memory(bytes) => {
                            let right: Vec<u8> = (at..received).map(byte).take(10).collect();
                            prop_assert!(right.starts_with(&bytes) && !bytes.is_empty());
                        }
                        Whereabouts::File(_, within) => {
                            prop_assert_eq!(at + within, tail.file_end);
                        }
                        Whereabouts::Gone => prop_assert!(at < tail.start),
                    }
                }
                for (_, place) in followers.iter().filter(|(_, place)| *place < received) {
                    prop_assert!(!matches!(tail.whereabouts(*place, 1), Whereabouts::Gone));
                }
            }
        }
    }
}
