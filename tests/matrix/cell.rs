//! The dimensions of the matrix and its cells: which there are, which of them run, what they are
//! called. Pure.

use super::covering::{Draw, covering};
use super::faults::pieces::{Gap, Pieces, Size};
use std::fmt;
use std::time::Duration;

const MIB: u64 = 1 << 20;

const PIECES: [(&str, Option<u64>); 10] = [
    ("1", Some(1)),
    ("7", Some(7)),
    ("500", Some(500)),
    ("1000", Some(1000)),
    ("1448", Some(1448)),
    ("2048", Some(2048)),
    ("4096", Some(4096)),
    ("16384", Some(16_384)),
    ("65536", Some(65_536)),
    ("drawn", None),
];

const GAPS: [(&str, Gap); 3] = [
    ("none", Gap::BackToBack),
    ("0.1ms", Gap::Apart(Duration::from_micros(100))),
    ("1ms", Gap::Apart(Duration::from_millis(1))),
];

const BODIES: [(&str, u64); 10] = [
    ("0", 0),
    ("1", 1),
    ("4095", 4095),
    ("4096", 4096),
    ("4097", 4097),
    ("1MiB-1", MIB - 1),
    ("1MiB", MIB),
    ("1MiB+1", MIB + 1),
    ("6MiB", 6 * MIB),
    ("70MiB", BODY_BYTES_MAX),
];

/// The longest body of all.
pub(crate) const BODY_BYTES_MAX: u64 = 70 * MIB;

/// How a body is framed, and what stands between origin and edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    Length,
    Chunked,
    Close,
    /// HTTP/2 with a length.
    Http2,
    /// HTTP/2 without a length: the end of the stream is the end of the body.
    Http2Open,
    /// TLS records of the size of a piece, with a length.
    Tls,
}

pub(crate) const CHANNELS: [(&str, Channel); 6] = [
    ("length", Channel::Length),
    ("chunked", Channel::Chunked),
    ("close", Channel::Close),
    ("http2", Channel::Http2),
    ("http2-open", Channel::Http2Open),
    ("tls", Channel::Tls),
];

impl Channel {
    /// Whether the origin states how long the body is.
    pub(crate) fn has_length(self) -> bool {
        matches!(self, Self::Length | Self::Http2 | Self::Tls)
    }
}

/// What the site is, and what proves the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `FileHash` in a narinfo that the client asked for first.
    Narinfo,
    /// The name: `nar/HASH.nar.xz`.
    Name,
    /// Nothing: `nar/....nar.zst` without a narinfo.
    Unproven,
    /// A generic site.
    Generic,
}

pub(crate) const KINDS: [(&str, Kind); 4] = [
    ("narinfo", Kind::Narinfo),
    ("name", Kind::Name),
    ("unproven", Kind::Unproven),
    ("generic", Kind::Generic),
];

impl Kind {
    /// Whether a hash of the body is known.
    pub(crate) fn is_proven(self) -> bool {
        matches!(self, Self::Narinfo | Self::Name)
    }
}

/// What the clients do while the body comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reader {
    First,
    /// A second client comes when half of the body has.
    Late,
    Slow,
    Range,
    /// Several clients, each of which asks for a range.
    Ranges,
}

const READERS: [(&str, Reader); 5] = [
    ("first", Reader::First),
    ("late", Reader::Late),
    ("slow", Reader::Slow),
    ("range", Reader::Range),
    ("ranges", Reader::Ranges),
];

/// Values of each dimension.
const LEVELS: [usize; 6] =
    [PIECES.len(), GAPS.len(), BODIES.len(), CHANNELS.len(), KINDS.len(), READERS.len()];

/// Cells that hit the faults of small pieces, whatever the rest is drawn to be.
const ALWAYS: [&str; 8] = [
    "1000/0.1ms/6MiB/length/unproven/first",
    "1000/0.1ms/6MiB/length/name/first",
    "1448/0.1ms/6MiB/chunked/narinfo/late",
    "500/none/6MiB/http2/generic/first",
    "2048/0.1ms/6MiB/tls/unproven/slow",
    "7/none/0/chunked/name/first",
    "7/none/0/close/narinfo/first",
    "1000/none/0/http2-open/name/late",
];

/// A cell: a value of each dimension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell([usize; 6]);

impl Cell {
    pub(crate) fn pieces(&self, draw: &mut Draw, bounds: Bounds) -> Pieces {
        let [size, gap, ..] = self.0;
        let gap = GAPS[gap].1;
        let count_max = match gap {
            Gap::Apart(_) => bounds.apart,
            Gap::Joined | Gap::BackToBack => bounds.back_to_back,
        };
        let size = PIECES[size].1.map_or_else(|| Size::Drawn(draw.next()), Size::Fixed);
        Pieces { size, gap, count_max }
    }

    pub(crate) fn body_bytes(&self) -> u64 {
        BODIES[self.0[2]].1
    }

    pub(crate) fn channel(&self) -> Channel {
        CHANNELS[self.0[3]].1
    }

    pub(crate) fn kind(&self) -> Kind {
        KINDS[self.0[4]].1
    }

    pub(crate) fn reader(&self) -> Reader {
        READERS[self.0[5]].1
    }

    fn parse(text: &str) -> Option<Self> {
        every().find(|cell| cell.to_string() == text)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [pieces, gap, body, channel, kind, reader] = self.0;
        let (pieces, gap, body) = (PIECES[pieces].0, GAPS[gap].0, BODIES[body].0);
        let (channel, kind, reader) = (CHANNELS[channel].0, KINDS[kind].0, READERS[reader].0);
        write!(f, "{pieces}/{gap}/{body}/{channel}/{kind}/{reader}")
    }
}

/// Pieces of one body at most, by what is between them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) apart: u64,
    pub(crate) back_to_back: u64,
}

/// All cells.
pub(crate) fn every() -> impl Iterator<Item = Cell> {
    (0..LEVELS.iter().product()).map(|mut number| {
        Cell(LEVELS.map(|level| {
            let value = number % level;
            number /= level;
            value
        }))
    })
}

/// The cells of a run: each combination of values of any `strength` dimensions is in one of them.
pub(crate) fn plan(strength: usize, seed: u64) -> Vec<Cell> {
    let mut draw = Draw::new(seed, "plan");
    let rows = covering(&LEVELS, strength, &mut draw);
    let mut cells: Vec<Cell> =
        rows.iter().filter_map(|row| row[..].try_into().ok()).map(Cell).collect();
    for cell in ALWAYS.into_iter().filter_map(Cell::parse) {
        if !cells.contains(&cell) {
            cells.push(cell);
        }
    }
    draw.shuffle(&mut cells);
    cells
}

/// Whether a name is as the pattern: with the same words between slashes, `*` for any.
pub(crate) fn is_meant(pattern: &str, name: &str) -> bool {
    let (mut wanted, mut words) = (pattern.split('/'), name.split('/'));
    loop {
        match (wanted.next(), words.next()) {
            (None, None) => return true,
            (Some(wanted), Some(word)) if wanted == "*" || wanted == word => {}
            (_, _) => return false,
        }
    }
}
