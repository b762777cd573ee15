//! The bytes of a growing object that are in memory: one queue with one offset. Its segments are
//! `writing` (handed to a thread), `ready`, and `open`, the only one that is appended to. Pure;
//! owned by one writer, behind the lock of the object when readers share it.

use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;

/// Pieces up to this many bytes are copied into the open segment, so that a peer that sends single
/// bytes does not make a segment of each.
const COPIED_BYTES_MAX: usize = 4096;
/// Bytes of the open segment when it is full.
const OPEN_BYTES_MAX: usize = 64 * 1024;

/// Consecutive bytes of an object.
#[derive(Debug)]
pub(super) struct Segments {
    /// In the order of their offsets, without gaps; never appended to.
    closed: VecDeque<Segment>,
    /// How many of them, from the front, are in the batch that a thread writes.
    writing: usize,
    /// Behind the closed ones.
    open: BytesMut,
    /// Offset behind the last byte.
    end: u64,
}

#[derive(Debug)]
struct Segment {
    offset: u64,
    bytes: Bytes,
}

/// Bytes that are handed to a thread together.
#[derive(Debug, Clone)]
pub(in crate::store) struct Batch {
    /// Offset of the first byte in the object.
    pub(in crate::store) offset: u64,
    /// The bytes, one behind the other.
    pub(in crate::store) segments: Vec<Bytes>,
}

impl Batch {
    /// How many bytes it has.
    pub(in crate::store) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len() as u64).sum()
    }
}

impl Segments {
    /// No bytes yet; the first comes at `offset`.
    pub(super) fn at(offset: u64) -> Self {
        Self { closed: VecDeque::new(), writing: 0, open: BytesMut::new(), end: offset }
    }

    /// Offset of the first byte in memory.
    pub(super) fn start(&self) -> u64 {
        let open = self.end - self.open.len() as u64;
        self.closed.front().map_or(open, |segment| segment.offset)
    }

    /// Offset behind the last byte.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Bytes in memory.
    pub(super) fn bytes(&self) -> u64 {
        self.end - self.start()
    }

    /// Adds the next bytes.
    pub(super) fn push(&mut self, bytes: Bytes) {
        if bytes.is_empty() {
            return;
        }
        let length = bytes.len() as u64;
        if bytes.len() <= COPIED_BYTES_MAX {
            if self.open.len() + bytes.len() > OPEN_BYTES_MAX {
                self.close_open();
            }
            self.open.extend_from_slice(&bytes);
        } else {
            self.close_open();
            self.closed.push_back(Segment { offset: self.end, bytes });
        }
        self.end += length;
    }

    /// All that no thread has yet, as one batch; `None` if that is nothing. The batch stays in
    /// memory until [`Segments::batch_written`].
    pub(super) fn take_batch(&mut self) -> Option<Batch> {
        self.close_open();
        let ready = || self.closed.iter().skip(self.writing);
        let offset = ready().next()?.offset;
        let segments = ready().map(|segment| segment.bytes.clone()).collect();
        self.writing = self.closed.len();
        Some(Batch { offset, segments })
    }

    /// The batches that were taken are in the file: lets them go.
    pub(super) fn batch_written(&mut self) {
        self.closed.drain(..self.writing);
        self.writing = 0;
    }

    /// Lets go of the closed segments that end at or before `upto`.
    pub(super) fn forget_before(&mut self, upto: u64) {
        let is_before = |segment: &Segment| segment.offset + segment.bytes.len() as u64 <= upto;
        let count = self.closed.partition_point(is_before);
        self.closed.drain(..count);
        self.writing = self.writing.saturating_sub(count);
    }

    /// Skips `bytes` that came another way; only valid while nothing is in memory.
    pub(super) fn skip(&mut self, bytes: u64) {
        debug_assert_eq!(self.bytes(), 0, "what is in memory comes before it");
        self.end += bytes;
    }

    /// At least one of the bytes from `offset` on, at most `max`; `None` if they are not here.
    pub(super) fn read(&self, offset: u64, max: usize) -> Option<Bytes> {
        let open = self.end - self.open.len() as u64;
        if offset >= open {
            let first = usize::try_from(offset - open).ok()?;
            let rest = self.open.get(first..).filter(|rest| !rest.is_empty())?;
            return rest.get(..max.min(rest.len())).map(Bytes::copy_from_slice);
        }
        let number = self.closed.partition_point(|segment| segment.offset <= offset);
        let segment = self.closed.get(number.checked_sub(1)?)?;
        let first = usize::try_from(offset - segment.offset).ok()?;
        let left = segment.bytes.len().checked_sub(first)?;
        Some(segment.bytes.slice(first..first + max.min(left)))
    }

    /// All bytes in memory as one piece.
    pub(super) fn join(&self) -> Bytes {
        let closed = self.closed.iter().map(|segment| &*segment.bytes);
        let mut joined = BytesMut::with_capacity(usize::try_from(self.bytes()).unwrap_or_default());
        closed.chain([&*self.open]).for_each(|bytes| joined.extend_from_slice(bytes));
        joined.freeze()
    }

    /// Ends the open segment; what is much smaller than its buffer is copied, so that the buffer
    /// does not stay.
    fn close_open(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let offset = self.end - self.open.len() as u64;
        let bytes = if self.open.len() < self.open.capacity() / 2 {
            let bytes = Bytes::copy_from_slice(&self.open);
            self.open.clear();
            bytes
        } else {
            std::mem::take(&mut self.open).freeze()
        };
        self.closed.push_back(Segment { offset, bytes });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn byte(offset: u64) -> u8 {
        u8::try_from(offset * 31 % 251).unwrap_or_default()
    }

    fn piece(from: u64, bytes: usize) -> Bytes {
        (from..from + bytes as u64).map(byte).collect::<Vec<_>>().into()
    }

    #[test]
    fn single_bytes_make_few_segments_and_small_buffers() {
        let mut segments = Segments::at(0);
        for offset in 0..1_000_000 {
            segments.push(piece(offset, 1));
        }
        assert_eq!(segments.bytes(), 1_000_000);
        let batch = segments.take_batch().unwrap();
        assert!(batch.segments.len() <= 16, "{} segments", batch.segments.len());
        segments.batch_written();
        segments.push(piece(1_000_000, 1));
        segments.push(piece(1_000_001, 5000));
        let kept: usize = segments.closed.iter().map(|segment| segment.bytes.len()).sum();
        assert_eq!((kept, segments.open.len()), (5001, 0));
    }

    #[test]
    fn a_piece_that_comes_while_a_batch_is_written_stays() {
        let mut segments = Segments::at(0);
        segments.push(piece(0, 1000));
        let batch = segments.take_batch().unwrap();
        segments.push(piece(1000, 1000));
        segments.batch_written();
        assert_eq!((batch.bytes(), segments.start(), segments.end()), (1000, 1000, 2000));
        assert_eq!(segments.read(1000, 2000).unwrap(), piece(1000, 1000));
        assert_eq!(segments.join(), piece(1000, 1000));
        assert!(segments.read(999, 1).is_none() && segments.read(2000, 1).is_none());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(usize),
        Take,
        Written,
        ForgetBefore(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let size = prop_oneof![Just(1_usize), 2..600_usize, 4000..4200_usize, 4097..90_000_usize];
        let step = prop_oneof![
            8 => size.prop_map(Step::Push),
            2 => Just(Step::Take),
            2 => Just(Step::Written),
            1 => (0..100_000_u64).prop_map(Step::ForgetBefore),
        ];
        proptest::collection::vec(step, 1..80)
    }

    proptest! {
        /// However pieces, batches and their ends follow each other, no byte is lost or moved:
        /// batches are consecutive, and what is in memory reads as it came.
        #[test]
        fn no_byte_is_lost_or_moved(steps in steps(), base in 0..3_000_000_u64) {
            let mut segments = Segments::at(base);
            let (mut end, mut taken, mut written, mut start) = (base, base, base, base);
            let mut is_memory_only = false;
            for step in steps {
                match step {
                    Step::Take | Step::Written if is_memory_only => {}
                    Step::Push(bytes) => {
                        segments.push(piece(end, bytes));
                        end += bytes as u64;
                    }
                    Step::Take => {
                        let batch = segments.take_batch();
                        let bytes = batch.map_or_else(Vec::new, |batch| batch.segments.concat());
                        let length = usize::try_from(end - taken).unwrap();
                        prop_assert!(bytes == piece(taken, length));
                        taken = end;
                    }
                    Step::Written => {
                        segments.batch_written();
                        written = taken;
                        start = start.max(written);
                    }
                    Step::ForgetBefore(by) => {
                        is_memory_only = true;
                        segments.forget_before(written + by);
                        let kept_from = segments.start();
                        prop_assert!((start..=start.max(written + by)).contains(&kept_from));
                        start = kept_from;
                    }
                }
                prop_assert_eq!((segments.start(), segments.end()), (start, end));
                for at in (start..end).step_by(701) {
                    let read = segments.read(at, 50).unwrap();
                    prop_assert!(!read.is_empty() && read == piece(at, read.len()));
                }
                let held = usize::try_from(end - start).unwrap();
                prop_assert!(segments.join() == piece(start, held));
            }
        }
    }
}
