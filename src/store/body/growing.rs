//! An object while it is written, as its readers see it. Any number of readers, each with a cursor
//! of its own and no buffer: bytes that are not in the file are read from memory, the others from
//! the file, and compared first, as with a stored body (see `chunks`). Lives as long as
//! its last reader. One short lock, never held across an await or I/O.
//!
//! A reader sees the bytes that have come, without the last ones ([`Withhold`]), and never the end:
//! both become visible when the object is proven, and never before. If the bytes from some offset
//! on may be of another representation than those before ([`Growth::doubt_from`]), a reader that
//! ends before the object does gets none of them before that.
//!
//! If the disk fails, what is in the file stays there for the readers and the rest passes through
//! memory. Bytes between the two that all readers had, or that a reader did not take in time, are
//! gone; a reader that still needs them fails.

use crate::object::KeyHash;
use crate::store::body::chunks::{Chunks, Sight, WriterNumber, chunk_of};
use crate::store::body::read::{self, FileView};
use crate::store::body::segments::{Batch, Segments};
use crate::store::body::sums::{ChunkSum, Sums};
use crate::store::error::Broken;
use crate::sync::{Mutex, watch};
use crate::tasks::Tasks;
use bytes::Bytes;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// The end of a body that is withheld from every reader until the object is proven, in bytes.
pub const WITHHELD_BYTES: u64 = 16 << 10;

/// What readers do not see of an object before it is proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withhold {
    /// The last [`WITHHELD_BYTES`] and the end.
    LastBytes,
    /// The end alone: nothing but the framing of the message speaks for it.
    End,
}

/// A view of an object that is being written. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Growing(Arc<Growth>);

/// A reader with a known position, so that an object without a disk waits for it. Gone when it
/// is dropped.
#[derive(Debug)]
pub struct Follower {
    growing: Growing,
    number: u64,
    extent: ReadExtent,
}

/// How far a reader reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadExtent {
    /// To the end of the object, which it gets only if the object is proven.
    ToEnd,
    /// To an offset before that.
    Part,
    /// Everything that has come, withheld or not, to judge it.
    Judge,
}

impl ReadExtent {
    /// That of a reader that takes `sent` bytes from `offset` on, or all from there on, of an
    /// object of this length, if that is known.
    pub fn of(offset: u64, sent: Option<u64>, length: Option<u64>) -> Self {
        match (sent, length) {
            (Some(sent), Some(length)) if offset.saturating_add(sent) < length => Self::Part,
            (Some(_) | None, _) => Self::ToEnd,
        }
    }
}

/// What the writer and all readers share.
#[derive(Debug)]
pub(in crate::store) struct Growth {
    declared: Option<u64>,
    withhold: Withhold,
    key: KeyHash,
    chunks: Arc<Chunks>,
    writer: WriterNumber,
    /// Of the bytes that are in the file.
    sums: Mutex<Sums>,
    tasks: Tasks,
    state: Mutex<GrowthState>,
    view: watch::Sender<View>,
    is_memory_only: AtomicBool,
    /// Notified when a follower has moved or left.
    moved: Notify,
}

#[derive(Debug)]
struct GrowthState {
    segments: Segments,
    /// Bytes before this offset are in the file: the start of the segments, unless the disk has
    /// failed and bytes were let go since.
    file_end: u64,
    file: Option<Arc<File>>,
    followers: HashMap<u64, FollowerState>,
    followers_so_far: u64,
    /// As in the view.
    doubtful_from: u64,
}

#[derive(Debug, Clone, Copy)]
struct FollowerState {
    /// It has had all before.
    position: u64,
    extent: ReadExtent,
}

/// The followers that an object without a disk waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Followers {
    pub(super) count: usize,
    /// The lowest of their positions, and of what judges the body.
    slowest: u64,
    /// Whether that is what judges it.
    pub(super) is_judge_slowest: bool,
}

/// What readers are told.
#[derive(Debug, Clone, Copy)]
struct View {
    /// Bytes before this offset may be read.
    visible: u64,
    /// Bytes from this offset on are no part's before the object is proven.
    doubtful_from: u64,
    /// Bytes before this offset have come.
    received: u64,
    /// Whether no more will come of the body.
    has_ended: bool,
    phase: Phase,
}

impl View {
    /// Bytes before this offset may be read by a reader of this extent.
    fn visible_to(&self, extent: ReadExtent) -> u64 {
        match (extent, self.phase) {
            (ReadExtent::Part, Phase::Unproven | Phase::Abandoned) => {
                self.visible.min(self.doubtful_from)
            }
            (ReadExtent::Part, Phase::Proven) | (ReadExtent::ToEnd, _) => self.visible,
            (ReadExtent::Judge, _) => self.received,
        }
    }

    /// Whether a reader of this extent that has had all waits for no more.
    fn is_over_for(&self, extent: ReadExtent) -> bool {
        match extent {
            ReadExtent::Judge => self.has_ended,
            ReadExtent::ToEnd | ReadExtent::Part => self.phase == Phase::Proven,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Unproven,
    /// The object ends at the last visible byte, and is right.
    Proven,
    /// Nothing more will come.
    Abandoned,
}

/// The place of the bytes at an offset.
enum BytesAt {
    Memory(Bytes),
    /// In the file, of which so many bytes from the offset on may be read.
    File(Arc<File>, u64),
    Gone,
}

impl Growing {
    /// The length that was declared when the object was begun, in bytes.
    pub fn length(&self) -> Option<u64> {
        self.0.declared
    }

    /// Whether the object has left its disk: what it still has is for the readers that it has.
    pub fn is_memory_only(&self) -> bool {
        self.0.is_memory_only.load(Ordering::Acquire)
    }

    /// How many bytes can be read now.
    pub fn visible(&self) -> u64 {
        self.0.view.borrow().visible
    }

    /// The offset from which on a part of the object waits until the object is proven, if there is
    /// one.
    pub fn doubtful_from(&self) -> Option<u64> {
        Some(self.0.view.borrow().doubtful_from).filter(|from| *from < u64::MAX)
    }

    /// Up to `max` bytes from `offset`, as soon as there are any; empty only if the object is
    /// proven and ends at or before `offset`. Cancel safe. Waits without a deadline of its own: the
    /// writer has one.
    pub async fn read(&self, offset: u64, max: usize) -> Result<Bytes, Broken> {
        self.0.read(offset, max, ReadExtent::ToEnd).await
    }

    /// A reader from `offset` on that is waited for if the disk fails. If `sent` is told, it takes
    /// so many bytes.
    pub fn follow(self, offset: u64, sent: Option<u64>) -> Follower {
        let extent = ReadExtent::of(offset, sent, self.length());
        let number = self.0.state.lock().enter(FollowerState { position: offset, extent });
        self.0.moved.notify_one();
        Follower { growing: self, number, extent }
    }
}

impl Follower {
    /// Up to `max` bytes from `offset` if they are in memory and visible, without a copy; never
    /// empty. Bytes before `offset` will not be asked for again. Never waits.
    pub fn read_now(&self, offset: u64, max: usize) -> Option<Bytes> {
        let visible = self.growing.0.view.borrow().visible_to(self.extent).saturating_sub(offset);
        let max = usize::try_from(visible).map_or(max, |visible| visible.min(max));
        if max == 0 {
            return None;
        }
        let mut state = self.growing.0.state.lock();
        let bytes = state.segments.read(offset, max)?;
        state.followers.insert(self.number, self.state_at(offset));
        drop(state);
        self.growing.0.moved.notify_one();
        Some(bytes)
    }

    /// As [`Growing::read`]; bytes before `offset` will not be asked for again.
    pub async fn read(&self, offset: u64, max: usize) -> Result<Bytes, Broken> {
        let state = self.state_at(offset);
        self.growing.0.state.lock().followers.insert(self.number, state);
        self.growing.0.moved.notify_one();
        self.growing.0.read(offset, max, self.extent).await
    }

    fn state_at(&self, position: u64) -> FollowerState {
        FollowerState { position, extent: self.extent }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.growing.0.state.lock().followers.remove(&self.number);
        self.growing.0.moved.notify_one();
    }
}

/// What its writer does.
impl Growth {
    /// An empty object under a key, of `declared` bytes if that is known.
    pub(super) fn new(
        declared: Option<u64>,
        withhold: Withhold,
        key: KeyHash,
        tasks: Tasks,
    ) -> Arc<Self> {
        let (sums, chunks) = (Sums::new(key), Arc::default());
        Arc::new(Self::assemble(0, declared, withhold, key, sums, chunks, tasks))
    }

    /// A stretch of an object that begins with the chunk at offset `base`, visible as it comes.
    /// Readers and the writer go by offsets in the object. It is never proven by itself.
    pub(in crate::store) fn new_at(
        base: u64,
        key: KeyHash,
        chunks: &Arc<Chunks>,
        tasks: Tasks,
    ) -> Arc<Self> {
        let sums = Sums::from_chunk(key, chunk_of(base));
        let chunks = Arc::clone(chunks);
        Arc::new(Self::assemble(base, None, Withhold::End, key, sums, chunks, tasks))
    }

    fn assemble(
        base: u64,
        declared: Option<u64>,
        withhold: Withhold,
        key: KeyHash,
        sums: Sums,
        chunks: Arc<Chunks>,
        tasks: Tasks,
    ) -> Self {
        Self {
            declared,
            withhold,
            key,
            writer: chunks.new_writer(),
            chunks,
            sums: Mutex::new(sums),
            tasks,
            state: Mutex::new(GrowthState {
                segments: Segments::at(base),
                file_end: base,
                file: None,
                followers: HashMap::new(),
                followers_so_far: 0,
                doubtful_from: u64::MAX,
            }),
            view: watch::Sender::new(View {
                visible: base,
                doubtful_from: u64::MAX,
                received: base,
                has_ended: false,
                phase: Phase::Unproven,
            }),
            is_memory_only: AtomicBool::new(false),
            moved: Notify::new(),
        }
    }

    /// A reader.
    pub(in crate::store) fn reader(self: &Arc<Self>) -> Growing {
        Growing(Arc::clone(self))
    }

    /// The length that was declared.
    pub(super) fn declared(&self) -> Option<u64> {
        self.declared
    }

    /// Offset behind the last byte received.
    pub(in crate::store) fn received(&self) -> u64 {
        self.state.lock().segments.end()
    }

    /// Bytes in memory.
    pub(in crate::store) fn in_memory(&self) -> u64 {
        self.state.lock().segments.bytes()
    }

    /// Adds the next bytes, which readers see as far as they are not withheld.
    pub(in crate::store) fn push(&self, bytes: Bytes) {
        let mut state = self.state.lock();
        state.segments.push(bytes);
        let end = state.segments.end();
        drop(state);
        self.show(end);
    }

    /// Bytes from `offset` on, which has not come yet, may be of another representation of the
    /// object than those before: only the proof of the whole tells.
    pub(super) fn doubt_from(&self, offset: u64) {
        let mut state = self.state.lock();
        if state.doubtful_from <= offset {
            return;
        }
        state.doubtful_from = offset;
        drop(state);
        self.view.send_if_modified(|view| {
            view.doubtful_from = offset;
            true
        });
        // A part that stops there is not waited for.
        self.moved.notify_one();
    }

    /// All bytes that no thread has yet, to be written.
    pub(in crate::store) fn take_batch(&self) -> Option<Batch> {
        self.state.lock().segments.take_batch()
    }

    /// The batch that was taken last is in `file`.
    pub(in crate::store) fn batch_written(&self, file: &Arc<File>) {
        let mut state = self.state.lock();
        state.file.get_or_insert_with(|| Arc::clone(file));
        state.segments.batch_written();
        state.file_end = state.segments.start();
    }

    /// `bytes` are in the file, at `offset`, behind all others: takes their sums.
    pub(in crate::store) fn in_file(&self, bytes: &[u8], offset: u64) {
        self.sums.lock().update(bytes);
        let end = offset.saturating_add(bytes.len() as u64);
        self.chunks.written(self.writer, offset..end);
    }

    /// The last byte of a chunk, which may be a short one, is in the file.
    pub(in crate::store) fn chunk_in_file(&self, index: u64) {
        self.chunks.ended(self.writer, index);
    }

    /// The next `bytes` are in `file` already; only valid while nothing is in memory.
    pub(super) fn taken_in(&self, bytes: u64, file: &Arc<File>) {
        let mut state = self.state.lock();
        state.file.get_or_insert_with(|| Arc::clone(file));
        state.segments.skip(bytes);
        state.file_end = state.segments.end();
        let end = state.segments.end();
        drop(state);
        self.show(end);
    }

    /// The sum that `bytes` have as the chunk `index` of this object, or as its beginning.
    pub(super) fn sum_of(&self, index: u64, bytes: &[u8]) -> u64 {
        let mut sum = ChunkSum::new(self.key, index);
        sum.update(bytes);
        sum.value()
    }

    /// The sums of all that is in the file, as its trailer has them.
    pub(super) fn sums(&self) -> Vec<u8> {
        self.sums.lock().encode()
    }

    /// What its readers know of its chunks.
    pub(in crate::store) fn chunks(&self) -> &Arc<Chunks> {
        &self.chunks
    }

    /// Bytes in memory from `offset` on, if there are any.
    pub(super) fn read_memory(&self, offset: u64) -> Option<Bytes> {
        self.state.lock().segments.read(offset, usize::MAX)
    }

    /// All bytes in memory as one piece.
    pub(super) fn join(&self) -> Bytes {
        self.state.lock().segments.join()
    }

    /// Lets go of what every follower has had; the followers that can read on.
    pub(super) fn forget_what_all_had(&self) -> Followers {
        let visible = self.view.borrow().visible;
        let mut state = self.state.lock();
        let followers = state.followers_that_go_on();
        if followers.count > 0 {
            state.segments.forget_before(followers.slowest.min(visible));
        }
        followers
    }

    /// Waits until the slowest of these followers has moved or left, or one has come.
    pub(super) async fn slowest_moved(&self, followers: Followers) {
        while self.state.lock().followers_that_go_on() == followers {
            self.moved.notified().await;
        }
    }

    /// The object goes on in memory alone: it is for the readers that it has.
    pub(super) fn leave_the_disk(&self) {
        self.is_memory_only.store(true, Ordering::Release);
    }

    /// Lets go of the oldest `bytes`, whether or not a follower needs them; never of bytes that are
    /// withheld.
    pub(super) fn forget_oldest(&self, bytes: u64) {
        let visible = self.view.borrow().visible;
        let mut state = self.state.lock();
        let upto = state.segments.start().saturating_add(bytes).min(visible);
        state.segments.forget_before(upto);
    }

    /// A reader of all that has come, to judge it.
    pub(super) fn judge(self: &Arc<Self>) -> Follower {
        let extent = ReadExtent::Judge;
        let number = self.state.lock().enter(FollowerState { position: 0, extent });
        Follower { growing: self.reader(), number, extent }
    }

    /// The body has ended: what judges it waits for no more.
    pub(super) fn end(&self) {
        self.view.send_if_modified(|view| {
            view.has_ended = true;
            true
        });
    }

    /// The object is whole and right: readers see its last bytes and its end.
    pub(super) fn prove(&self) {
        let end = self.received();
        self.view.send_if_modified(|view| {
            (view.visible, view.phase) = (end, Phase::Proven);
            true
        });
    }

    /// Nothing more will come. Readers of a proven object go on, others fail when they need more.
    pub(in crate::store) fn abandon(&self) {
        self.view.send_if_modified(|view| {
            let is_unproven = view.phase == Phase::Unproven;
            if is_unproven {
                view.phase = Phase::Abandoned;
            }
            is_unproven
        });
    }

    /// Readers see what is not withheld of the bytes before `end`.
    fn show(&self, end: u64) {
        let limit = match self.withhold {
            Withhold::LastBytes => self.declared.unwrap_or(end).saturating_sub(WITHHELD_BYTES),
            Withhold::End => end,
        };
        self.view.send_if_modified(|view| {
            let before = (view.visible, view.received);
            view.visible = view.visible.max(end.min(limit));
            view.received = end;
            (view.visible, view.received) != before
        });
    }
}

/// What its readers do.
impl Growth {
    async fn read(
        self: &Arc<Self>,
        offset: u64,
        max: usize,
        extent: ReadExtent,
    ) -> Result<Bytes, Broken> {
        let visible = self.wait_past(offset, extent).await?;
        let within = usize::try_from(visible.saturating_sub(offset)).unwrap_or(usize::MAX);
        self.fetch(offset, max.min(within)).await
    }

    async fn wait_past(&self, offset: u64, extent: ReadExtent) -> Result<u64, Broken> {
        let is_settled = |view: &View| {
            view.visible_to(extent) > offset
                || view.is_over_for(extent)
                || view.phase == Phase::Abandoned
        };
        let mut receiver = self.view.subscribe();
        let view = *receiver.wait_for(is_settled).await.map_err(|_| Broken::Abandoned)?;
        let visible = view.visible_to(extent);
        if visible > offset || view.is_over_for(extent) {
            Ok(visible)
        } else {
            Err(Broken::Abandoned)
        }
    }

    async fn fetch(self: &Arc<Self>, offset: u64, max: usize) -> Result<Bytes, Broken> {
        if max == 0 {
            return Ok(Bytes::new());
        }
        let (file, max) = match self.state.lock().whereabouts(offset, max) {
            BytesAt::Memory(bytes) => return Ok(bytes),
            BytesAt::File(file, within) => {
                (file, usize::try_from(within).map_or(max, |within| within.min(max)))
            }
            BytesAt::Gone => return Err(Broken::Behind),
        };
        if let Some(bytes) = read::read_trusted(self.view(&file), offset, max) {
            return Ok(bytes);
        }
        let growth = Arc::clone(self);
        let compare = move || {
            let expected = |index| {
                let expected = growth.sums.lock().of(index);
                expected.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
            };
            read::read_compared(growth.view(&file), offset, max, growth.key, expected)
        };
        let reading = self.tasks.blocking("store read", compare);
        let result = reading.await.map_err(io::Error::other).flatten();
        result.map_err(|source| Broken::Unreadable { source })
    }

    fn view<'a>(&'a self, file: &'a File) -> FileView<'a> {
        FileView { file, chunks: &self.chunks, sight: Sight::Written(self.writer) }
    }
}

impl Drop for Growth {
    fn drop(&mut self) {
        self.chunks.leave(self.writer);
    }
}

impl GrowthState {
    /// A follower behind a gap can go no further than it, nor a part than to what is doubtful; they
    /// are not waited for.
    fn followers_that_go_on(&self) -> Followers {
        let (start, file_end) = (self.segments.start(), self.file_end);
        let can_go_on = |follower: &&FollowerState| {
            let is_behind_gap = start != file_end && follower.position < start;
            let is_held =
                follower.extent == ReadExtent::Part && follower.position >= self.doubtful_from;
            !is_behind_gap && !is_held
        };
        let going_on = || self.followers.values().filter(can_go_on);
        // What judges the body is waited for, and is no reason to receive it.
        let count = going_on().filter(|it| it.extent != ReadExtent::Judge).count();
        let slowest = going_on().min_by_key(|it| it.position);
        Followers {
            count,
            slowest: slowest.map_or(u64::MAX, |it| it.position),
            is_judge_slowest: slowest.is_some_and(|it| it.extent == ReadExtent::Judge),
        }
    }

    fn enter(&mut self, follower: FollowerState) -> u64 {
        self.followers_so_far += 1;
        self.followers.insert(self.followers_so_far, follower);
        self.followers_so_far
    }

    fn whereabouts(&self, offset: u64, max: usize) -> BytesAt {
        if let Some(bytes) = self.segments.read(offset, max) {
            return BytesAt::Memory(bytes);
        }
        match &self.file {
            Some(file) if offset < self.file_end => {
                BytesAt::File(Arc::clone(file), self.file_end - offset)
            }
            Some(_) | None => BytesAt::Gone,
        }
    }
}

#[cfg(test)]
mod tests;
