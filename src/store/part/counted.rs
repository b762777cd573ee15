//! How many parts a store has, and what they count against its limit, as its gauges show it. They
//! are counted after a start, in the order of their hashes; a change of a part that is counted
//! already is added, one of another part is seen when its turn comes. One per store; a short lock.

use crate::metrics::Metrics;
use crate::object::KeyHash;
use crate::store::gauges::SharedGauges;
use crate::sync::{Mutex, RwLock};

/// The parts that are counted, and the gauges that show them: objects and bytes.
#[derive(Debug)]
pub(in crate::store) struct CountedParts {
    /// Held for reading by what adds to a part, makes it whole or drops it alone, for writing while
    /// some are counted. A part that goes with its key meanwhile may be counted all the same: this
    /// is for a gauge.
    pub(in crate::store) changing: RwLock<()>,
    progress: Mutex<CountProgress>,
    shown: SharedGauges<2>,
}

/// Which parts are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum CountProgress {
    None,
    /// Those up to this one.
    UpTo(KeyHash),
    All,
}

impl CountProgress {
    fn has(self, hash: KeyHash) -> bool {
        match self {
            Self::None => false,
            Self::UpTo(last) => hash <= last,
            Self::All => true,
        }
    }
}

impl CountedParts {
    /// None yet.
    pub(in crate::store) fn shown_on(metrics: &Metrics) -> Self {
        let shown = SharedGauges::new([metrics.part_objects.clone(), metrics.part_bytes.clone()]);
        Self { changing: RwLock::new(()), progress: Mutex::new(CountProgress::None), shown }
    }

    /// Whether all are counted.
    pub(super) fn are_all(&self) -> bool {
        *self.progress.lock() == CountProgress::All
    }

    /// The last one that is counted, unless all are.
    pub(super) fn last(&self) -> Option<KeyHash> {
        match *self.progress.lock() {
            CountProgress::UpTo(last) => Some(last),
            CountProgress::None | CountProgress::All => None,
        }
    }

    /// The next ones come to so much, up to the one with the hash `last`; without one, all are
    /// counted.
    pub(super) fn add_up_to(&self, last: Option<KeyHash>, more: [i64; 2]) {
        let mut progress = self.progress.lock();
        self.shown.add(more);
        *progress = last.map_or(CountProgress::All, CountProgress::UpTo);
    }

    /// A part has changed by so much.
    pub(in crate::store) fn change(&self, hash: KeyHash, by: [i64; 2]) {
        let progress = self.progress.lock();
        if progress.has(hash) {
            self.shown.add(by);
        }
    }

    /// Has them counted once more.
    #[cfg(test)]
    pub(in crate::store) fn forget(&self) {
        let mut progress = self.progress.lock();
        self.shown.set([0, 0]);
        *progress = CountProgress::None;
    }
}
