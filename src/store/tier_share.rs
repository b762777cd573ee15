//! What the stores of one tier share: the number of the next insertion, and where damage is
//! reported. A value that each store owns; no locks.

use crate::object::Key;
use crate::tasks::Jobs;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use tokio::sync::mpsc;

/// What a store shares with the others of its tier.
#[derive(Debug)]
pub(super) struct TierShare {
    /// Which of them it is.
    pub(super) disk: u16,
    /// Takes the keys of objects that were in use and were found damaged.
    pub(super) damaged: mpsc::Sender<Key>,
    /// The number of the next insertion.
    pub(super) insertions: Arc<AtomicU64>,
    /// What runs on its disk, whichever store is open there.
    pub(super) jobs: Arc<Jobs>,
    /// Threads of each of its two lanes.
    pub(super) threads: usize,
}

impl TierShare {
    /// That of a store that is alone.
    pub(super) fn alone(damaged: mpsc::Sender<Key>) -> Self {
        let (insertions, jobs) = (Arc::default(), Arc::default());
        Self { disk: 0, damaged, insertions, jobs, threads: 64 }
    }
}
