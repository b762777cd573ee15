//! Which lines of the diagnostic log are one too many of their kind. A kind is a place in the code.
//! One for the process, asked for each line that would be written; a mutex held for one look-up.
//!
//! Many lines are written for what a request or a peer does, and any client can send a million of
//! those. Of each kind so many lines are written in a while; the others are counted, and the next
//! line says how many there were.

use crate::sync::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::{Level, Metadata};

/// Lines of one kind that are written within [`WHILE`].
pub(super) const LINES_MAX: u32 = 50;
/// See [`LINES_MAX`].
pub(super) const WHILE: Duration = Duration::from_secs(10);
/// Modules with lines on what an operator did. Each line up to the level is written: what the
/// modules warn of above it may be any client's doing, except in those that no client reaches.
const OPERATORS: [(&str, Level); 3] = [
    ("narthex::admin", Level::INFO),
    ("narthex::purge", Level::INFO),
    ("narthex::cli", Level::ERROR),
];

/// Counts the lines of each kind; there are no more kinds than places in the code.
#[derive(Debug, Default)]
pub(super) struct Repeats(Mutex<HashMap<Identifier, LineCount>>);

#[derive(Debug)]
struct LineCount {
    since: Instant,
    lines: u32,
}

/// What becomes of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineVerdict {
    /// It is written; before it, so many of its kind were left out.
    Written { left_out: u32 },
    /// It is left out.
    LeftOut,
}

impl Repeats {
    /// Whether a line at the place that `metadata` names is written at `now`.
    pub(super) fn judge(&self, metadata: &Metadata<'_>, now: Instant) -> LineVerdict {
        let is_told = OPERATORS.iter().any(|(module, most)| {
            metadata.level() >= most && metadata.target().starts_with(module)
        });
        // What is below INFO was asked for by name.
        if is_told || *metadata.level() > Level::INFO {
            return LineVerdict::Written { left_out: 0 };
        }
        let mut kinds = self.0.lock();
        let kind =
            kinds.entry(metadata.callsite()).or_insert_with(|| LineCount { since: now, lines: 0 });
        let mut left_out = 0;
        if now.saturating_duration_since(kind.since) >= WHILE {
            left_out = kind.lines.saturating_sub(LINES_MAX);
            *kind = LineCount { since: now, lines: 0 };
        }
        kind.lines = kind.lines.saturating_add(1);
        if kind.lines > LINES_MAX {
            LineVerdict::LeftOut
        } else {
            LineVerdict::Written { left_out }
        }
    }
}
