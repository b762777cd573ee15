//! The threads of one store: a lane of look-ups, a lane of changes, and background jobs of which
//! one runs at a time. One per store; no locks.

use crate::store::tier_share::TierShare;
use crate::tasks::Tasks;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a request waits for a disk that does not answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(4);
/// How long a job may take that writes a batch of a large body, before its disk counts as stalled.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// The threads of one store.
#[derive(Debug)]
pub(super) struct Lanes {
    /// Cancelled when the disk goes out or the process stops: what reads for long ends then.
    pub(super) leaving: CancellationToken,
    /// The lane of what changes something on the disk, and reads what it has just written.
    pub(super) changes: Tasks,
    /// The lane of look-ups, and of what reads for them.
    pub(super) reads: Tasks,
    /// Work of which one job runs at a time, as long as the store.
    pub(super) background: Tasks,
}

impl Lanes {
    /// The lanes of a store with this share of its tier.
    pub(super) fn new(tasks: &Tasks, tier: &TierShare) -> Self {
        Self {
            leaving: tasks.stopping().child_token(),
            changes: tasks.lane(&tier.jobs, tier.threads, WRITE_PATIENCE),
            reads: tasks.lane(&tier.jobs, tier.threads, PATIENCE),
            background: tasks.beside(&tier.jobs),
        }
    }
}
