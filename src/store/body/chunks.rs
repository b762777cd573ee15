//! Which chunks of an open body file may be read from the page cache. One [`Chunks`] for each
//! insertion, shared by every reader of it; a short lock, never held across I/O. Blocks only where
//! another reads the same chunk from the disk.
//!
//! # What is given out was checked
//!
//! The page cache gets a page of a body file by our own write, with bytes that are part of a
//! SHA-256 that the fill verifies, or by a read from the disk, which may bring anything. So a chunk
//! is trusted only after one of these, and read without more checks only while it is trusted:
//! - all of it was written by this process, or
//! - one reader read all of it, compared its sum, and it was not doubted meanwhile.
//!
//! While a chunk is written, its file may hold other bytes behind those that were. So until its
//! last byte it is trusted by the readers of its writer alone, which see nothing behind them.
//!
//! It is doubted as soon as a read without waiting comes back short: pages of it have left the
//! cache, and that very call may have made the kernel fetch them again. A reader from the cache
//! asks before and after its read whether the chunk is trusted, and forgets what it read if it is
//! not, or if it was doubted meanwhile and compared anew. A reader from the disk takes the chunk's
//! turn, doubts it, reads it whole, compares, gives out its own copy of what it compared, and then
//! trusts it. So a page that came from the disk is behind a doubt until a reader has compared it,
//! and a chunk with a wrong sum is never trusted, however many readers have the file open. Body
//! files are opened without read-ahead (`FADV_RANDOM`), so that a read brings no page of a
//! neighbour unless the reader itself asks for the next chunk, which it doubts first.
//!
//! To ask of the pages of a chunk costs as much as to send some of them. So a chunk of which the
//! pages were all found in the cache is taken to be there for a second ([`SEEN_FOR`]) by
//! `sendfile`, since its reads from the disk are seen afterwards, and the chunk doubted and
//! compared. The end of an answer never goes that way: it is asked about just before it goes, and
//! that is when all before it was sent without such a read, or compared since
//! (`engine::sendfile_queue`).
//!
//! Not covered: memory that flips a bit after the comparison; pages that left the cache and that
//! another process fetched again (a backup that reads the folder) or that
//! another's read without waiting fetched and that arrived before that call came back; the last
//! bytes of a body that `sendfile` fetches because their page left the cache between the question
//! and the call (that it did is seen afterwards, and the chunk doubted and compared); a page that
//! `sendfile` waited for while another call fetched it, which doubts it a moment too late; one that
//! left the cache half written, and that the kernel fetched again to write the other half; on a
//! `tmpfs`, which is memory, pages that were swapped out and in.
//! The scrubber reads past the cache, and so finds what is wrong on the disk in any case.
//!
//! A body is remembered for a while after its last reader has gone, so that it need not be compared
//! at each request; which bodies is a matter of a fixed number of bitmaps.

use crate::store::body::sums::CHUNK_BYTES;
use crate::sync::{Condvar, Mutex};
use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// How long a chunk that was found in the page cache is taken to be there, by a reader that notices
/// if it is not: far less than it takes the kernel to let go of a page that was just used.
const SEEN_FOR: Duration = Duration::from_secs(1);

/// Insertions that are remembered without a reader: about 3 MiB.
const REMEMBERED_MAX: usize = 16_384;

/// What is known of the chunks of one insertion.
#[derive(Debug, Default)]
pub(in crate::store) struct Chunks {
    state: Mutex<ChunkTrust>,
    turned: Condvar,
}

#[derive(Debug, Default)]
struct ChunkTrust {
    /// A bit for each chunk.
    trusted: Vec<u64>,
    /// How often any chunk was doubted.
    doubts: u64,
    /// A bit for each chunk that was found in the page cache since `seen_since`.
    seen: Vec<u64>,
    seen_since: Option<Instant>,
    /// Chunks that are being read from the disk.
    reading: Vec<DiskRead>,
    /// Chunks of which a writer has written a part, and has written or compared all that its
    /// readers see; with the number of the writer.
    begun: Vec<(u64, u64)>,
    writers_so_far: u64,
}

/// What of a chunk a reader may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Sight {
    /// All of it.
    Whole,
    /// What this writer has written of it.
    Written(WriterNumber),
}

/// A writer of the file; what it has begun is forgotten with [`Chunks::leave`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct WriterNumber(u64);

/// A chunk that is being read from the disk.
#[derive(Debug)]
struct DiskRead {
    index: u64,
    /// Since the read began.
    is_doubted: bool,
}

/// The right to read one chunk from the disk; given back when it is dropped.
#[derive(Debug)]
pub(in crate::store) struct DiskReadTurn<'a> {
    chunks: &'a Chunks,
    index: u64,
}

/// What was known of a chunk before it was read from the page cache.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct TrustBefore {
    index: u64,
    sight: Sight,
    doubts: u64,
}

impl Chunks {
    /// Whether the page cache may be believed about a chunk.
    pub(in crate::store) fn is_trusted(&self, index: u64) -> bool {
        self.state.lock().is_trusted(index)
    }

    /// Whether the page cache may be believed about what a reader sees of a chunk; to be asked
    /// again with [`Chunks::is_still_trusted`] after a read.
    pub(in crate::store) fn trusted(&self, index: u64, sight: Sight) -> Option<TrustBefore> {
        let state = self.state.lock();
        state.is_sound(index, sight).then_some(TrustBefore { index, sight, doubts: state.doubts })
    }

    /// Whether all or a part of a chunk is trusted.
    pub(in crate::store) fn is_in_part_trusted(&self, index: u64) -> bool {
        let state = self.state.lock();
        state.is_trusted(index) || state.begun.iter().any(|(begun, _)| *begun == index)
    }

    /// Whether a chunk has been trusted all the time since. False also if another chunk of the body
    /// was doubted.
    pub(in crate::store) fn is_still_trusted(&self, before: TrustBefore) -> bool {
        let state = self.state.lock();
        state.is_sound(before.index, before.sight) && state.doubts == before.doubts
    }

    /// Whether a chunk is trusted, and all of it was found in the page cache lately.
    pub(in crate::store) fn was_seen(&self, index: u64, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.forget_seen_before(now);
        state.is_trusted(index) && has_bit(&state.seen, index)
    }

    /// All of a chunk was found in the page cache.
    pub(in crate::store) fn saw(&self, index: u64, now: Instant) {
        let mut state = self.state.lock();
        state.forget_seen_before(now);
        if state.is_trusted(index) {
            set_bit(&mut state.seen, index);
        }
    }

    /// Another writer of the file.
    pub(in crate::store) fn new_writer(&self) -> WriterNumber {
        let mut state = self.state.lock();
        state.writers_so_far += 1;
        WriterNumber(state.writers_so_far)
    }

    /// A writer, which writes one byte behind the other, has written these.
    pub(in crate::store) fn written(&self, writer: WriterNumber, bytes: Range<u64>) {
        let mut state = self.state.lock();
        for index in chunk_of(bytes.start)..bytes.end.div_ceil(CHUNK_BYTES) {
            let start = index.saturating_mul(CHUNK_BYTES);
            if bytes.start <= start {
                state.begin(index, writer);
            }
            if bytes.end >= start.saturating_add(CHUNK_BYTES) {
                state.end(index, writer);
            }
        }
    }

    /// A writer has written the last byte of a chunk that may be a short one.
    pub(in crate::store) fn ended(&self, writer: WriterNumber, index: u64) {
        self.state.lock().end(index, writer);
    }

    /// Nothing is read any more of what a writer has begun and not ended.
    pub(in crate::store) fn leave(&self, writer: WriterNumber) {
        self.state.lock().begun.retain(|(_, of)| *of != writer.0);
    }

    /// All of a chunk was written or compared.
    #[cfg(test)]
    pub(in crate::store) fn trust(&self, index: u64) {
        self.state.lock().trust(index);
    }

    /// Pages of the chunk may have come from the disk, or be about to.
    pub(in crate::store) fn doubt(&self, index: u64) {
        self.state.lock().doubt(index);
    }

    /// Waits until no other reader reads the chunk from the disk, then takes the turn. Blocking.
    pub(in crate::store) fn turn(&self, index: u64) -> DiskReadTurn<'_> {
        let mut state = self.state.lock();
        while state.reading.iter().any(|reading| reading.index == index) {
            self.turned.wait(&mut state);
        }
        state.reading.push(DiskRead { index, is_doubted: true });
        DiskReadTurn { chunks: self, index }
    }
}

impl DiskReadTurn<'_> {
    /// Doubts the chunk: what is read from now on comes from the disk.
    pub(in crate::store) fn begin(&mut self) {
        let mut state = self.chunks.state.lock();
        state.doubt(self.index);
        if let Some(reading) = state.reading_of(self.index) {
            reading.is_doubted = false;
        }
    }

    /// What a reader sees of the chunk, `bytes` from its start on, was read and is right: trusts it
    /// so far, unless it was doubted meanwhile.
    pub(in crate::store) fn compared(self, sight: Sight, bytes: u64) {
        let mut state = self.chunks.state.lock();
        if state.reading_of(self.index).is_none_or(|reading| reading.is_doubted) {
            return;
        }
        match sight {
            Sight::Written(writer) if bytes < CHUNK_BYTES => state.begun_by(self.index, writer),
            Sight::Written(_) | Sight::Whole => state.trust(self.index),
        }
    }
}

impl Drop for DiskReadTurn<'_> {
    fn drop(&mut self) {
        self.chunks.state.lock().reading.retain(|reading| reading.index != self.index);
        self.chunks.turned.notify_all();
    }
}

impl ChunkTrust {
    fn is_trusted(&self, index: u64) -> bool {
        has_bit(&self.trusted, index)
    }

    fn is_sound(&self, index: u64, sight: Sight) -> bool {
        self.is_trusted(index)
            || matches!(sight, Sight::Written(writer) if self.begun.contains(&(index, writer.0)))
    }

    fn trust(&mut self, index: u64) {
        set_bit(&mut self.trusted, index);
    }

    /// A writer has written the first bytes of a chunk: what was known of others is over.
    fn begin(&mut self, index: u64, writer: WriterNumber) {
        if self.is_trusted(index) {
            self.doubt(index);
        }
        self.begun.retain(|(begun, _)| *begun != index);
        self.begun_by(index, writer);
    }

    fn begun_by(&mut self, index: u64, WriterNumber(writer): WriterNumber) {
        if !self.begun.contains(&(index, writer)) {
            self.begun.push((index, writer));
        }
    }

    /// A writer has written the last byte of a chunk: trusts it, if it was not doubted on the way.
    fn end(&mut self, index: u64, WriterNumber(writer): WriterNumber) {
        if let Some(at) = self.begun.iter().position(|begun| *begun == (index, writer)) {
            self.begun.swap_remove(at);
            self.trust(index);
        }
    }

    fn forget_seen_before(&mut self, now: Instant) {
        let is_over = |since| now.saturating_duration_since(since) >= SEEN_FOR;
        if self.seen_since.is_none_or(is_over) {
            self.seen.fill(0);
            self.seen_since = Some(now);
        }
    }

    fn reading_of(&mut self, index: u64) -> Option<&mut DiskRead> {
        self.reading.iter_mut().find(|reading| reading.index == index)
    }

    fn doubt(&mut self, index: u64) {
        self.doubts += 1;
        if let Some(reading) = self.reading_of(index) {
            reading.is_doubted = true;
        }
        self.begun.retain(|(begun, _)| *begun != index);
        let (word, bit) = place(index);
        for bits in [&mut self.trusted, &mut self.seen] {
            if let Some(bits) = bits.get_mut(word) {
                *bits &= !bit;
            }
        }
    }
}

fn has_bit(bits: &[u64], index: u64) -> bool {
    let (word, bit) = place(index);
    bits.get(word).is_some_and(|bits| bits & bit != 0)
}

fn set_bit(bits: &mut Vec<u64>, index: u64) {
    let (word, bit) = place(index);
    if bits.len() <= word {
        bits.resize(word + 1, 0);
    }
    if let Some(bits) = bits.get_mut(word) {
        *bits |= bit;
    }
}

/// The word and the bit of a chunk. A file has fewer chunks than there are words.
fn place(index: u64) -> (usize, u64) {
    (usize::try_from(index / 64).unwrap_or(0), 1 << (index % 64))
}

/// The chunk that holds the byte at `offset`.
pub(in crate::store) const fn chunk_of(offset: u64) -> u64 {
    offset / CHUNK_BYTES
}

/// The chunks of every open body, by insertion, and of those that were open last.
#[derive(Debug, Default)]
pub(in crate::store) struct OpenBodies(Mutex<OpenChunks>);

#[derive(Debug, Default)]
struct OpenChunks {
    by_sequence: HashMap<u64, Weak<Chunks>>,
    recent: VecDeque<(u64, Arc<Chunks>)>,
}

impl OpenBodies {
    /// What is known of an insertion that is opened; nothing yet if it was not open lately.
    pub(in crate::store) fn of(&self, sequence: u64) -> Arc<Chunks> {
        let mut known = self.0.lock();
        if let Some(chunks) = known.by_sequence.get(&sequence).and_then(Weak::upgrade) {
            return chunks;
        }
        let chunks = Arc::default();
        known.remember(sequence, &chunks);
        chunks
    }

    /// Remembers an insertion that was just written.
    pub(in crate::store) fn written(&self, sequence: u64, chunks: &Arc<Chunks>) {
        self.0.lock().remember(sequence, chunks);
    }
}

impl OpenChunks {
    fn remember(&mut self, sequence: u64, chunks: &Arc<Chunks>) {
        self.by_sequence.insert(sequence, Arc::downgrade(chunks));
        self.recent.push_back((sequence, Arc::clone(chunks)));
        if self.recent.len() > REMEMBERED_MAX
            && let Some((oldest, chunks)) = self.recent.pop_front()
            && Arc::strong_count(&chunks) == 1
        {
            self.by_sequence.remove(&oldest);
        }
        // Those that lost their last reader after they were forgotten above.
        if self.by_sequence.len() > 2 * REMEMBERED_MAX {
            self.by_sequence.retain(|_, chunks| chunks.strong_count() > 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::orders;

    #[test]
    fn a_chunk_is_trusted_when_it_was_compared_and_not_doubted() {
        let chunks = Chunks::default();
        assert!(!chunks.is_trusted(0) && !chunks.is_trusted(70));
        let mut turn = chunks.turn(70);
        turn.begin();
        turn.compared(Sight::Whole, CHUNK_BYTES);
        assert!(chunks.is_trusted(70) && !chunks.is_trusted(6));
        let mut turn = chunks.turn(70);
        turn.begin();
        assert!(!chunks.is_trusted(70), "what comes from the disk now is not compared yet");
        chunks.doubt(70);
        turn.compared(Sight::Whole, CHUNK_BYTES);
        assert!(!chunks.is_trusted(70), "another may have let a page go meanwhile");
        let mut turn = chunks.turn(70);
        turn.begin();
        chunks.doubt(71);
        turn.compared(Sight::Whole, CHUNK_BYTES);
        assert!(chunks.is_trusted(70), "what becomes of a neighbour does not matter");
        chunks.turn(1).compared(Sight::Whole, CHUNK_BYTES);
        assert!(!chunks.is_trusted(1), "nothing was read");
        chunks.trust(70);
        chunks.doubt(70);
        assert!(!chunks.is_trusted(70));
    }

    #[test]
    fn a_chunk_that_was_seen_counts_as_there_for_a_moment_unless_it_is_doubted() {
        let (chunks, now) = (Chunks::default(), Instant::now());
        let later = now + SEEN_FOR;
        let just_before = later.checked_sub(Duration::from_millis(1)).unwrap();
        chunks.saw(3, now);
        chunks.trust(3);
        assert!(!chunks.was_seen(3, now), "what is not trusted is not seen either");
        chunks.trust(70);
        chunks.saw(70, now);
        assert!(chunks.was_seen(70, just_before) && !chunks.was_seen(6, just_before));
        chunks.doubt(70);
        chunks.trust(70);
        assert!(!chunks.was_seen(70, just_before), "its pages may have gone");
        chunks.saw(70, just_before);
        assert!(!chunks.was_seen(70, later), "too long ago");
        chunks.saw(70, later);
        assert!(chunks.was_seen(70, later));
    }

    #[test]
    fn a_turn_that_is_dropped_trusts_nothing_and_lets_the_next_go_on() {
        let chunks = Chunks::default();
        let mut turn = chunks.turn(3);
        turn.begin();
        let next = std::thread::scope(|scope| {
            let next = scope.spawn(|| chunks.turn(3).index);
            drop(chunks.turn(4));
            drop(turn);
            next.join().unwrap()
        });
        assert_eq!(next, 3);
        assert!(!chunks.is_trusted(3));
    }

    #[test]
    fn readers_of_one_insertion_share_and_memory_is_bounded() {
        let bodies = OpenBodies::default();
        let first = bodies.of(0);
        first.trust(0);
        assert!(Arc::ptr_eq(&first, &bodies.of(0)));
        for sequence in 1..5 * REMEMBERED_MAX as u64 {
            bodies.of(sequence);
        }
        assert!(Arc::ptr_eq(&first, &bodies.of(0)), "an open one is never known twice");
        drop(first);
        let known = bodies.0.lock();
        assert_eq!(known.recent.len(), REMEMBERED_MAX);
        assert!(known.by_sequence.len() <= 2 * REMEMBERED_MAX + 1);
    }

    /// The page of a chunk in the page cache; true is what its sum says.
    #[derive(Clone, Copy, PartialEq)]
    enum Page {
        Absent,
        /// Asked of the disk, and not here yet.
        Coming(bool),
        Here(bool),
    }

    struct Body {
        chunks: Chunks,
        page: Mutex<Page>,
        /// What the disk brings.
        disk: Mutex<bool>,
    }

    impl Body {
        /// Reads without waiting. The kernel asks for an absent page, which comes after the doubt.
        fn read_cached(&self) -> Option<bool> {
            let before = self.chunks.trusted(0, Sight::Whole)?;
            let read = {
                let mut page = self.page.lock();
                let read = *page;
                if read == Page::Absent {
                    *page = Page::Coming(*self.disk.lock());
                }
                read
            };
            let is_sound = self.chunks.is_still_trusted(before);
            if let Page::Here(is_right) = read {
                return is_sound.then_some(is_right);
            }
            self.chunks.doubt(0);
            let mut page = self.page.lock();
            if let Page::Coming(is_right) = *page {
                *page = Page::Here(is_right);
            }
            None
        }

        /// Reads from the disk and compares.
        fn read_compared(&self) -> Option<bool> {
            let mut turn = self.chunks.turn(0);
            turn.begin();
            let is_right = {
                let mut page = self.page.lock();
                let is_right = match *page {
                    Page::Absent => *self.disk.lock(),
                    Page::Coming(is_right) | Page::Here(is_right) => is_right,
                };
                *page = Page::Here(is_right);
                is_right
            };
            if !is_right {
                return None;
            }
            turn.compared(Sight::Whole, CHUNK_BYTES);
            Some(is_right)
        }
    }

    #[test]
    fn in_any_order_nothing_is_given_out_that_was_not_compared() {
        orders::check(5_000, || {
            let (page, disk) = (Mutex::new(Page::Here(true)), Mutex::new(false));
            let body = Arc::new(Body { chunks: Chunks::default(), page, disk });
            body.chunks.trust(0);
            let reading = (0..3).map(|_| {
                let body = Arc::clone(&body);
                shuttle::thread::spawn(move || {
                    for _ in 0..2 {
                        let given = body.read_cached().or_else(|| body.read_compared());
                        assert_ne!(given, Some(false), "bytes that were never compared");
                    }
                })
            });
            let reading: Vec<_> = reading.collect();
            for is_right in [true, false, true] {
                *body.page.lock() = Page::Absent;
                *body.disk.lock() = is_right;
            }
            for thread in reading {
                thread.join().unwrap();
            }
        });
    }
}
