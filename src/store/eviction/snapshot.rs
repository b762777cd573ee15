//! The eviction order outlives the process: its queues and uses are written to one small file every
//! so often and when the process drains, and put the loaded objects in their places at the next
//! start. Blocking. Takes the account's lock for a thousand objects at a time, so neither look-ups
//! nor fills wait; the file holds what the order was like while it was written.
//!
//! A file that is not there, is old, or is damaged is never an error: what it does not say falls
//! back to the order of insertion. It names insertions alone, and none is used twice, so it can
//! make nothing appear, and nothing that it says changes what is served.
//!
//! What is left out: the fingerprints of keys that left. They would double the file, and serve for
//! as long only as it takes for as many objects to leave.

use crate::store::catalog::Catalog;
use crate::store::eviction::order::{OrderedObject, QueueStage, Unplaced};
use crate::store::eviction::order_file::{self, OrderFileError, OrderFilePart, OrderReader};
use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Write};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Objects that are looked at or moved in one hold of the account's lock.
const STEP: usize = 512;
/// The least time between two snapshots, but for the last.
const INTERVAL_MIN: Duration = Duration::from_mins(5);
/// Bytes a second that snapshots may take of the disk, on average: ten million objects make a file
/// of some 40 MB, which is then written every ten minutes.
const BYTES_A_SECOND: u64 = 64 * 1024;
const BUFFER_BYTES: usize = 256 * 1024;

/// When the next snapshot is due.
#[derive(Debug)]
pub(in crate::store) struct Schedule {
    next: Instant,
    /// `Accounting::changes` at the last one.
    changes: Option<u64>,
}

impl Schedule {
    /// A snapshot is due some time after `now`.
    pub(in crate::store) fn starting(now: Instant) -> Self {
        Self { next: now + INTERVAL_MIN, changes: None }
    }

    /// Whether one is due at `now`, if the order's changes have come to `changes`.
    fn is_due(&self, now: Instant, changes: u64) -> bool {
        now >= self.next && self.changes != Some(changes)
    }

    /// One of `bytes` was tried at `now`.
    fn tried(&mut self, now: Instant, bytes: u64) {
        self.next = now + INTERVAL_MIN.max(Duration::from_secs(bytes / BYTES_A_SECOND));
    }
}

/// Writes a snapshot if one is due at `now`, or in any case if this is the last one and
/// the order has changed. Never before the order is loaded: it would forget the rest.
pub(in crate::store) fn keep_order(
    catalog: &Catalog,
    schedule: &mut Schedule,
    now: Instant,
    turn: SnapshotOccasion,
) {
    let Some(changes) = catalog.accounting.changes() else { return };
    let is_due = match turn {
        SnapshotOccasion::Regular => schedule.is_due(now, changes),
        SnapshotOccasion::Last => schedule.changes != Some(changes),
    };
    if !is_due {
        return;
    }
    let written = catalog.folder.replace_order(|file| write_order(catalog, file));
    match &written {
        Ok(_) => schedule.changes = Some(changes),
        Err(error) => {
            catalog.count("snapshot");
            tracing::warn!(%error, "the order of eviction was not written down");
        }
    }
    schedule.tried(now, written.unwrap_or(0));
}

fn write_order(catalog: &Catalog, file: &mut impl Write) -> io::Result<()> {
    file.write_all(&order_file::encode_head())?;
    // What moves meanwhile is seen again, but not without end.
    let mut left = catalog.accounting.usage().objects.saturating_mul(2);
    catalog.accounting.begin_walk();
    loop {
        let seen = catalog.accounting.walk(STEP);
        let Some(first) = seen.first().filter(|_| left > 0) else { break };
        left = left.saturating_sub(seen.len() as u64);
        let part = match first.stage {
            QueueStage::Main => OrderFilePart::Main,
            QueueStage::Small | QueueStage::Waiting => OrderFilePart::Trial,
        };
        let insertion = |seen: &OrderedObject| (seen.entry.sequence, seen.uses);
        let insertions: Vec<(u64, u8)> = seen.iter().map(insertion).collect();
        file.write_all(&order_file::encode_block(part, &insertions))?;
    }
    file.write_all(&order_file::encode_end())
}

/// Puts all loaded objects in their places: as the snapshot says, as far as that can be read,
/// and the others in the order of their insertion. Ends early when the process stops.
pub(in crate::store) fn arrange(catalog: &Catalog, stop: &CancellationToken) {
    let mut placed = false;
    let unplaced = match arrange_as_written(catalog, stop, &mut placed) {
        Ok(()) => Unplaced::Newcomers,
        Err(OrderFileError::Io(error)) if error.kind() == ErrorKind::NotFound => Unplaced::All,
        Err(error) => {
            tracing::warn!(
                path = %catalog.folder.order_path().display(),
                %error,
                "the snapshot of the eviction order is of no use; objects it does not place \
                 stand in the order of their insertion"
            );
            if placed { Unplaced::Newcomers } else { Unplaced::All }
        }
    };
    while !stop.is_cancelled() && catalog.accounting.settle(STEP, unplaced) {}
}

fn arrange_as_written(
    catalog: &Catalog,
    stop: &CancellationToken,
    placed: &mut bool,
) -> Result<(), OrderFileError> {
    let file = File::open(catalog.folder.order_path())?;
    let mut reader = OrderReader::new(BufReader::with_capacity(BUFFER_BYTES, file))?;
    while let Some(block) = reader.next()? {
        let stage = match block.part {
            OrderFilePart::Trial => QueueStage::Small,
            OrderFilePart::Main => QueueStage::Main,
        };
        for insertions in block.insertions.chunks(STEP) {
            if stop.is_cancelled() {
                return Ok(());
            }
            catalog.accounting.arrange(stage, insertions);
            *placed = true;
        }
    }
    Ok(())
}

/// Why a snapshot may be written now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum SnapshotOccasion {
    /// Time has passed.
    Regular,
    /// The process drains.
    Last,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_are_as_rare_as_they_are_large() {
        let start = Instant::now();
        let mut schedule = Schedule::starting(start);
        assert!(!schedule.is_due(start, 1));
        let due = start + INTERVAL_MIN;
        assert!(schedule.is_due(due, 1));
        schedule.tried(due, 1000);
        assert!(!schedule.is_due(due + INTERVAL_MIN / 2, 1));
        assert!(schedule.is_due(due + INTERVAL_MIN, 1));
        let hour = BYTES_A_SECOND * 3600;
        schedule.tried(due, hour);
        assert!(!schedule.is_due(due + Duration::from_mins(59), 1));
        assert!(schedule.is_due(due + Duration::from_hours(1), 1));
        schedule.changes = Some(1);
        assert!(!schedule.is_due(due + Duration::from_hours(1), 1), "nothing has changed");
    }
}
