//! A body in pieces: how large, how far apart, and in which parts of a long body. Pure, but for the
//! wait between two pieces. Owned by one answer.

use std::time::{Duration, Instant};

/// Bytes of a block: a body that does not come in pieces is sent by blocks.
const BLOCK_BYTES: u64 = 64 << 10;
/// Stretches of a body that come in pieces, if the whole would be too many pieces.
const STRETCHES: u64 = 7;
const MIB: u64 = 1 << 20;

/// How a body comes in pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pieces {
    pub(crate) size: Size,
    pub(crate) gap: Gap,
    /// So many pieces at most. A body with more comes in blocks of 64 KiB, back to back, but for
    /// its beginning, its end and five stretches between them, each about a border of a MiB in a
    /// body of 6 MiB or more.
    pub(crate) count_max: u64,
}

/// How large a piece is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Size {
    Fixed(u64),
    /// Drawn for each piece from this seed, from 1 byte to 64 KiB, small ones as often as large.
    Drawn(u64),
}

/// What is between two pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Gap {
    /// Nothing: many pieces are one write. They are still chunks or frames of their own.
    Joined,
    /// As long as the write of one takes.
    BackToBack,
    Apart(Duration),
}

/// What is sent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// A piece; the stretch goes on for so many bytes.
    Piece { bytes: u64, left: u64 },
    /// A block.
    Block(u64),
}

impl Size {
    /// Bytes of the piece number `number`.
    fn of(self, number: u64) -> u64 {
        match self {
            Self::Fixed(bytes) => bytes.max(1),
            Self::Drawn(seed) => {
                let drawn = xxhash_rust::xxh3::xxh3_64_with_seed(&number.to_le_bytes(), seed);
                let largest = 2 << (drawn % 16);
                1 + (drawn >> 8) % largest
            }
        }
    }

    fn mean(self) -> u64 {
        match self {
            Self::Fixed(bytes) => bytes.max(1),
            // Half of the mean of 2, 4, 8 ... 65,536.
            Self::Drawn(_) => 4096,
        }
    }
}

impl Pieces {
    /// How long the gaps of a body of `length` bytes take together.
    pub(crate) fn duration(&self, length: u64) -> Duration {
        let count = (length / self.size.mean()).min(self.count_max);
        match self.gap {
            Gap::Joined | Gap::BackToBack => Duration::ZERO,
            Gap::Apart(gap) => gap.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)),
        }
    }

    /// What is sent at the offset `at` of `length` bytes, as piece `number` if as a piece.
    pub(super) fn next(&self, at: u64, length: Option<u64>, number: u64) -> Next {
        let piece = |left| Next::Piece { bytes: self.size.of(number), left };
        let width = (self.count_max / STRETCHES).max(1).saturating_mul(self.size.mean());
        let Some(length) = length.filter(|length| *length > width.saturating_mul(STRETCHES)) else {
            return if number < self.count_max {
                piece(u64::MAX)
            } else {
                Next::Block(BLOCK_BYTES)
            };
        };
        for stretch in 0..STRETCHES {
            let middle = length / (STRETCHES - 1) * stretch;
            let middle = if length < 6 * MIB { middle } else { middle - middle % MIB };
            let is_last = stretch == STRETCHES - 1;
            let first = if is_last { length - width } else { middle.saturating_sub(width / 2) };
            if at < first {
                return Next::Block(BLOCK_BYTES.min(first - at));
            }
            if at < first + width {
                return piece(first + width - at);
            }
        }
        Next::Block(BLOCK_BYTES)
    }

    /// The sizes of pieces from number `number` on that are `bytes` bytes together.
    pub(super) fn sizes(&self, bytes: usize, mut number: u64) -> Vec<usize> {
        let (mut sizes, mut left) = (Vec::new(), bytes);
        while left > 0 {
            let size = usize::try_from(self.size.of(number)).unwrap_or(usize::MAX).min(left);
            sizes.push(size);
            left -= size;
            number += 1;
        }
        sizes
    }
}

/// Waits until the next piece is due: gaps stay the same on average, however long a write takes,
/// but a piece that is late does not take the whole gap from the one behind it.
#[derive(Debug, Default)]
pub(super) struct Pacer(Option<Instant>);

impl Pacer {
    /// Waits between a piece and the next.
    pub(super) async fn wait(&mut self, gap: Gap) {
        let gap = match gap {
            Gap::Joined => return,
            // The task of the connection may send what it has.
            Gap::BackToBack => return tokio::task::yield_now().await,
            Gap::Apart(gap) => gap,
        };
        let now = Instant::now();
        let due = self.0.map_or(now + gap, |before| (before + gap).max(now + gap / 2));
        self.0 = Some(due);
        if gap >= Duration::from_millis(1) {
            return tokio::time::sleep_until(due.into()).await;
        }
        // Below the grain of tokio's timers. A thread that sleeps is 0.06 ms late each time, which
        // the next due time makes up for; one that spins would take a core from its peer.
        let left = due.saturating_duration_since(now);
        let _ = tokio::task::spawn_blocking(move || std::thread::sleep(left)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offset, bytes and kind of all that is sent.
    fn sent(pieces: &Pieces, length: u64) -> Vec<(u64, u64, bool)> {
        let (mut at, mut number, mut sent) = (0, 0, Vec::new());
        while at < length {
            let (bytes, is_piece) = match pieces.next(at, Some(length), number) {
                Next::Piece { bytes, left } => (bytes.min(left), true),
                Next::Block(bytes) => (bytes, false),
            };
            let bytes = bytes.min(length - at);
            assert!(bytes > 0);
            sent.push((at, bytes, is_piece));
            at += bytes;
            number += u64::from(is_piece);
        }
        sent
    }

    #[test]
    fn a_short_body_is_pieces_alone() {
        let pieces = Pieces { size: Size::Fixed(7), gap: Gap::BackToBack, count_max: 100 };
        assert_eq!(sent(&pieces, 15), [(0, 7, true), (7, 7, true), (14, 1, true)]);
        assert!(sent(&pieces, 7 * 98).iter().all(|(_, _, is_piece)| *is_piece));
        let apart = Pieces { gap: Gap::Apart(Duration::from_millis(1)), ..pieces };
        assert_eq!(apart.duration(70), Duration::from_millis(10));
        assert_eq!(apart.duration(7_000_000), Duration::from_millis(100));
    }

    #[test]
    fn a_long_body_is_pieces_at_both_ends_and_about_borders_of_a_mib() {
        for (size, length) in
            [(1, 6 * MIB), (1000, 70 * MIB), (1448, 64 * MIB + 1), (7, MIB - 1), (1, 4097)]
        {
            let pieces = Pieces { size: Size::Fixed(size), gap: Gap::BackToBack, count_max: 700 };
            let sent = sent(&pieces, length);
            let count = sent.iter().filter(|(_, _, is_piece)| *is_piece).count();
            assert!((650..=710).contains(&count), "{size} of {length}: {count}");
            assert!(sent.first().unwrap().2 && sent.last().unwrap().2);
            let is_cut = |border: u64| {
                let mut pieces = sent.iter().filter(|(_, _, is_piece)| *is_piece);
                pieces.any(|(at, bytes, _)| (*at..=at + bytes).contains(&border))
            };
            let borders = (0..=length / MIB).filter(|border| is_cut(border * MIB)).count();
            assert!(length < 6 * MIB || borders >= 6, "{size} of {length}: {borders}");
        }
    }

    #[test]
    fn drawn_sizes_are_small_and_large() {
        let size = Size::Drawn(1);
        let drawn: Vec<u64> = (0..1000).map(|number| size.of(number)).collect();
        assert!(drawn.iter().all(|bytes| (1..=65_536).contains(bytes)));
        for (first, end) in [(1, 17), (1000, 5000), (20_000, 65_537)] {
            assert!(drawn.iter().filter(|bytes| (first..end).contains(*bytes)).count() > 30);
        }
        assert_ne!(drawn, (0..1000).map(|number| Size::Drawn(2).of(number)).collect::<Vec<_>>());
    }
}
