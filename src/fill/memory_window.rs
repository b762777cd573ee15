//! Bytes of a body that is not stored, in memory for the readers that share it: a stretch that
//! moves on, with the SHA-256 of all bytes before each piece's end. Owned by one relay, behind its
//! lock.
//!
//! All windows of the process share one amount of memory ([`WindowMemory`]), counted in the bytes
//! of their pieces; a piece may keep the buffer alive that it was read into. A window has
//! [`Bounds::least_bytes`] for as long as it lives, and more while there is more. It lets go of its
//! oldest bytes first.

use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Pieces up to this many bytes are copied behind the one before, so that an origin that sends
/// single bytes does not make a piece of each.
const COPIED_BYTES_MAX: usize = 4096;
/// What a piece costs beside its bytes: its entry and its digest.
const PIECE_COST: u64 = 512;

/// What a window keeps of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WindowExtent {
    /// A stretch that moves on. Something must tell what may continue the body
    /// (an entity tag, or a hash).
    Stretch,
    /// All of it.
    Whole,
}

/// How much memory there is for windows.
#[derive(Debug, Clone, Copy)]
#[expect(clippy::struct_field_names, reason = "each is a number of bytes")]
pub(super) struct Bounds {
    /// Of all windows.
    pub(super) all_bytes: u64,
    /// What each window has for certain.
    pub(super) least_bytes: u64,
    /// What no window exceeds.
    pub(super) most_bytes: u64,
    /// What no piece exceeds.
    pub(super) piece_bytes: usize,
}

impl Bounds {
    /// 1 Gbit/s for 60 ms for a single body. A quarter of all is kept for what each window has for
    /// certain: 128 bodies at least are shared at once.
    pub(super) fn usual() -> Self {
        #[cfg(test)]
        if crate::simulation::world().is_some() {
            return Self {
                all_bytes: 256 << 10,
                least_bytes: 32 << 10,
                most_bytes: 64 << 10,
                piece_bytes: 6 << 10,
            };
        }
        Self {
            all_bytes: 128 << 20,
            least_bytes: 256 << 10,
            most_bytes: 8 << 20,
            piece_bytes: 64 << 10,
        }
    }
}

/// The memory of all windows.
#[derive(Debug)]
pub(super) struct WindowMemory {
    bounds: Bounds,
    taken: AtomicU64,
}

/// A window's part of it, given back when it is dropped.
#[derive(Debug)]
struct MemoryShare {
    memory: Arc<WindowMemory>,
    /// What the window has for certain.
    floor: u64,
    bytes: u64,
}

/// Consecutive bytes of a body, up to the last that has come.
pub(super) struct MemoryWindow {
    /// In their order, without gaps; never appended to.
    pieces: VecDeque<WindowPiece>,
    /// Behind them.
    open: BytesMut,
    /// Offset behind the last byte.
    end: u64,
    /// Of all bytes before `end`.
    digest: digest::Context,
    share: MemoryShare,
}

struct WindowPiece {
    bytes: Bytes,
    /// Offset behind its last byte.
    end: u64,
    /// Of all bytes before that.
    digest: digest::Context,
}

/// A piece of a body that a reader takes.
pub(super) struct WindowBytes {
    pub(super) bytes: Bytes,
    /// SHA-256 of all bytes up to the end of these.
    pub(super) digest: digest::Context,
}

impl WindowMemory {
    /// Nothing taken yet.
    pub(super) fn new(bounds: Bounds) -> Arc<Self> {
        Arc::new(Self { bounds, taken: AtomicU64::new(0) })
    }

    /// A window for one body more, with no bytes yet; none if all memory is taken.
    pub(super) fn open(self: &Arc<Self>) -> Option<MemoryWindow> {
        let Bounds { all_bytes, least_bytes, .. } = self.bounds;
        self.take(least_bytes, all_bytes)?;
        Some(self.window(least_bytes))
    }

    /// A window that has room for all of a body of `length` bytes, with no bytes yet; none if there
    /// is not so much memory, or no window may have it.
    pub(super) fn open_for_all(self: &Arc<Self>, length: u64) -> Option<MemoryWindow> {
        let Bounds { all_bytes, least_bytes, most_bytes, piece_bytes } = self.bounds;
        // At worst a piece just above those that are copied comes after each that is.
        let entries = length / COPIED_BYTES_MAX as u64 * 2 + 4;
        let bytes = length.checked_add(entries * PIECE_COST + 3 * piece_bytes as u64)?;
        let bytes = Some(bytes.max(least_bytes)).filter(|bytes| *bytes <= most_bytes)?;
        self.take(bytes, all_bytes - all_bytes / 4)?;
        Some(self.window(bytes))
    }

    fn window(self: &Arc<Self>, floor: u64) -> MemoryWindow {
        MemoryWindow {
            pieces: VecDeque::new(),
            open: BytesMut::new(),
            end: 0,
            digest: digest::Context::new(&digest::SHA256),
            share: MemoryShare { memory: Arc::clone(self), floor, bytes: floor },
        }
    }

    /// Bytes that are taken.
    #[cfg(test)]
    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64, limit: u64) -> Option<()> {
        let add = |taken: u64| taken.checked_add(bytes).filter(|taken| *taken <= limit);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).ok().map(drop)
    }
}

impl MemoryShare {
    /// Makes it `bytes`, or what a window has for certain if that is more; false if it stays as it
    /// is, since there is not so much.
    fn resize(&mut self, bytes: u64) -> bool {
        let Bounds { all_bytes, most_bytes, .. } = self.memory.bounds;
        let bytes = bytes.max(self.floor);
        if let Some(surplus) = self.bytes.checked_sub(bytes) {
            self.memory.taken.fetch_sub(surplus, Ordering::Relaxed);
        } else {
            let is_there = || self.memory.take(bytes - self.bytes, all_bytes - all_bytes / 4);
            if bytes > most_bytes || is_there().is_none() {
                return false;
            }
        }
        self.bytes = bytes;
        true
    }
}

impl Drop for MemoryShare {
    fn drop(&mut self) {
        self.memory.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl MemoryWindow {
    /// Offset of the first byte in it.
    pub(super) fn start(&self) -> u64 {
        let open = self.end - self.open.len() as u64;
        self.pieces.front().map_or(open, |piece| piece.end - piece.bytes.len() as u64)
    }

    /// Offset behind the last byte.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// What bounds it.
    pub(super) fn bounds(&self) -> Bounds {
        self.share.memory.bounds
    }

    /// Adds the next `bytes`, no more than a piece; `digest` is the SHA-256 of all bytes with them.
    /// If need be, lets go of the oldest, but of none at or behind `foremost`; false, with `bytes`
    /// not added, if that is not enough. It is enough if there is nothing behind `foremost`.
    pub(super) fn push(&mut self, bytes: &Bytes, digest: &digest::Context, foremost: u64) -> bool {
        while !self.share.resize(self.cost() + bytes.len() as u64 + PIECE_COST) {
            if !self.forget_oldest(foremost) {
                return false;
            }
        }
        let piece_bytes = self.bounds().piece_bytes;
        let is_copied = bytes.len() <= COPIED_BYTES_MAX;
        if !is_copied || self.open.len() + bytes.len() > piece_bytes {
            self.close_open();
        }
        self.end += bytes.len() as u64;
        self.digest.clone_from(digest);
        if is_copied {
            if self.open.capacity() - self.open.len() < bytes.len() {
                self.open.reserve(piece_bytes);
            }
            self.open.extend_from_slice(bytes);
        } else {
            let (bytes, digest) = (bytes.clone(), self.digest.clone());
            self.pieces.push_back(WindowPiece { bytes, end: self.end, digest });
        }
        true
    }

    /// All bytes from `offset` to the end of the piece that it lies in; none if there are none.
    pub(super) fn take(&self, offset: u64) -> Option<WindowBytes> {
        let open = self.end - self.open.len() as u64;
        if offset >= open {
            let first = usize::try_from(offset - open).ok()?;
            let rest = self.open.get(first..).filter(|rest| !rest.is_empty())?;
            return Some(WindowBytes {
                bytes: Bytes::copy_from_slice(rest),
                digest: self.digest.clone(),
            });
        }
        let piece = self.pieces.get(self.pieces.partition_point(|piece| piece.end <= offset))?;
        let left = usize::try_from(piece.end - offset).ok()?;
        let first = piece.bytes.len().checked_sub(left)?;
        Some(WindowBytes { bytes: piece.bytes.slice(first..), digest: piece.digest.clone() })
    }

    /// Lets go of the pieces that end at or before `upto`.
    pub(super) fn forget_before(&mut self, upto: u64) {
        while self.forget_oldest(upto) {}
        // Less than it was.
        self.share.resize(self.cost());
    }

    /// Lets go of one piece, if it ends at or before `upto`.
    fn forget_oldest(&mut self, upto: u64) -> bool {
        match self.pieces.front() {
            Some(piece) if piece.end <= upto => self.pieces.pop_front().is_some(),
            None if self.end <= upto && !self.open.is_empty() => {
                self.open.clear();
                true
            }
            Some(_) | None => false,
        }
    }

    /// Bytes that it holds, with those that its open piece may take without another buffer.
    fn cost(&self) -> u64 {
        let held = self.end - self.start();
        held + PIECE_COST * self.pieces.len() as u64 + 2 * self.bounds().piece_bytes as u64
    }

    fn close_open(&mut self) {
        if !self.open.is_empty() {
            let (bytes, digest) = (self.open.split().freeze(), self.digest.clone());
            self.pieces.push_back(WindowPiece { bytes, end: self.end, digest });
        }
    }
}

impl std::fmt::Debug for MemoryWindow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemoryWindow").field("end", &self.end).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE_BYTES: usize = 64 << 10;
    const BOUNDS: Bounds = Bounds {
        all_bytes: 8 << 20,
        least_bytes: 256 << 10,
        most_bytes: 2 << 20,
        piece_bytes: PIECE_BYTES,
    };

    fn push(window: &mut MemoryWindow, bytes: usize, foremost: u64) -> bool {
        let (piece, digest) = (Bytes::from(vec![7; bytes]), window.digest.clone());
        window.push(&piece, &digest, foremost)
    }

    #[test]
    fn single_bytes_make_few_pieces() {
        let mut window = WindowMemory::new(BOUNDS).open().unwrap();
        for _ in 0..300_000 {
            assert!(push(&mut window, 1, 0));
        }
        assert!(window.pieces.len() <= 5, "{} pieces", window.pieces.len());
        // Nor do pieces just too large to be copied cost more than is counted.
        for _ in 0..2_000 {
            let end = window.end();
            assert!(push(&mut window, COPIED_BYTES_MAX + 1, end) && push(&mut window, 1, end));
            assert!(window.cost() <= BOUNDS.most_bytes);
        }
    }

    #[test]
    fn all_windows_together_never_exceed_the_memory() {
        let memory = WindowMemory::new(BOUNDS);
        let mut windows: Vec<_> = std::iter::from_fn(|| memory.open()).collect();
        assert_eq!(windows.len(), 32);
        assert_eq!(memory.taken(), BOUNDS.all_bytes);
        for window in &mut windows {
            for _ in 0..100 {
                let end = window.end();
                assert!(push(window, PIECE_BYTES, end), "a body always goes on");
                assert!(window.cost() <= BOUNDS.least_bytes);
            }
            assert!(!push(window, PIECE_BYTES, 0), "all memory is taken");
        }
        assert_eq!(memory.taken(), BOUNDS.all_bytes);
        windows.truncate(2);
        for window in &mut windows {
            while push(window, PIECE_BYTES, 0) {}
            assert!(window.cost() > BOUNDS.most_bytes - 2 * PIECE_BYTES as u64);
        }
        let held: u64 = windows.iter().map(|window| window.share.bytes).sum();
        assert_eq!(memory.taken(), held);
        // A quarter stays for others.
        let more: Vec<_> = std::iter::from_fn(|| memory.open()).collect();
        assert!(more.len() >= 8 && memory.taken() <= BOUNDS.all_bytes);
        drop((windows, more));
        assert_eq!(memory.taken(), 0);
    }

    #[test]
    fn a_window_for_all_of_a_body_never_lets_go_of_a_byte() {
        for sizes in [&[1, 4_097][..], &[4_097], &[1], &[65_536], &[4_096, 4_097, 7]] {
            let memory = WindowMemory::new(BOUNDS);
            let length = 500_000;
            let mut window = memory.open_for_all(length).unwrap();
            for size in sizes.iter().cycle() {
                let left = usize::try_from(length - window.end()).unwrap();
                if left == 0 {
                    break;
                }
                let bytes = Bytes::from(vec![7; left.min(*size)]);
                assert!(window.push(&bytes, &digest::Context::new(&digest::SHA256), 0));
                assert_eq!(window.start(), 0);
            }
            drop(window);
            assert_eq!(memory.taken(), 0);
        }
        assert!(WindowMemory::new(BOUNDS).open_for_all(BOUNDS.most_bytes).is_none());
        assert!(WindowMemory::new(BOUNDS).open_for_all(u64::MAX).is_none());
    }
}
