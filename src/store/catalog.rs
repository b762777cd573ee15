//! What one disk holds: its index, its body files, the account of its space, and what is known of
//! all of them in memory. One per store, owned by it. Whatever finds, places or drops an object is
//! handed it. Locks: the stripes, then what the index takes; see the head of the module.

use crate::metrics::Metrics;
use crate::object::{Insertion, KeyHash};
use crate::store::body::recent::Recent;
use crate::store::disks::health::Monitor;
use crate::store::error::{IndexError, WriteError};
use crate::store::eviction::accounting::{Accounting, Displaces};
use crate::store::eviction::free_space::FreeSpace;
use crate::store::folder::Folder;
use crate::store::format::{self, BodyPlace, RecordHead, Totals};
use crate::store::index::{Change, Index, Keyspaces};
use crate::store::part::CountedParts;
#[cfg(test)]
use crate::store::tests::Faults;
use crate::store::tier_share::TierShare;
use crate::sync::{Mutex, Striped};
use crate::tasks::BlockingError;
use prometheus::IntCounter;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// Locks that keys share, so that changes of different keys seldom wait for each other; one more
/// stands beside them.
const STRIPES: usize = 64;
/// Insertion numbers skipped at open: more than a power cut can have made the index forget.
pub(super) const SEQUENCE_GAP: u64 = 1 << 24;

/// What one disk holds.
#[derive(Debug)]
pub(super) struct Catalog {
    /// The folder, as the configuration names it: in logs and metrics.
    pub(super) label: String,
    pub(super) accounting: Arc<Accounting>,
    pub(super) free_space: FreeSpace,
    pub(super) recent: Recent,
    pub(super) counted_parts: CountedParts,
    pub(super) stripes: Striped<()>,
    pub(super) health: Monitor,
    pub(super) tier: TierShare,
    pub(super) metrics: Metrics,
    evictions: EvictionCounters,
    #[cfg(test)]
    pub(super) faults: Faults,
    pub(super) index: Index,
    /// Last, so that it is unlocked when all else is closed.
    pub(super) folder: Folder,
}

/// Why objects are evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EvictionReason {
    /// The limit of the tier.
    Size,
    /// The file system is full before the limit is reached.
    Space,
}

/// The counters of evictions, by their reason.
#[derive(Debug)]
struct EvictionCounters {
    size: IntCounter,
    space: IntCounter,
}

impl Catalog {
    /// The catalog of an open folder and its open index, with `limit` bytes as its limit. Changes
    /// nothing on disk.
    pub(super) fn new(
        label: String,
        limit: u64,
        tier: TierShare,
        folder: Folder,
        index: Index,
        metrics: Metrics,
    ) -> Result<Self, IndexError> {
        let totals = index.access().open().and_then(Keyspaces::totals)?;
        let next_sequence = totals.next_sequence.saturating_add(SEQUENCE_GAP);
        tier.insertions.fetch_max(next_sequence, Ordering::AcqRel);
        Ok(Self {
            label,
            accounting: Accounting::new(limit, Totals { next_sequence, ..totals }, &metrics),
            free_space: FreeSpace::default(),
            recent: Recent::default(),
            counted_parts: CountedParts::shown_on(&metrics),
            stripes: Striped::new(STRIPES),
            health: Monitor::default(),
            tier,
            evictions: EvictionCounters {
                size: metrics.evictions.with_label_values(&["disk", "size"]),
                space: metrics.evictions.with_label_values(&["disk", "space"]),
            },
            metrics,
            #[cfg(test)]
            faults: Faults::of_this_thread(),
            index,
            folder,
        })
    }

    pub(super) fn stripe(&self, hash: KeyHash) -> &Mutex<()> {
        let [.., byte] = hash.0;
        self.stripes.of(byte.into())
    }

    pub(super) fn evictions_for(&self, reason: EvictionReason) -> &IntCounter {
        match reason {
            EvictionReason::Size => &self.evictions.size,
            EvictionReason::Space => &self.evictions.space,
        }
    }

    /// What the insertion `sequence` is called outside of this store.
    pub(super) fn insertion(&self, sequence: u64) -> Insertion {
        Insertion { disk: self.tier.disk, sequence }
    }

    pub(super) fn next_sequence(&self) -> u64 {
        self.tier.insertions.fetch_add(1, Ordering::AcqRel)
    }

    /// Counts an error of the disk and remembers it; errors that are not its fault are ignored.
    pub(super) fn write_failed(&self, error: &WriteError) {
        let Some(operation) = error.operation() else { return };
        if let WriteError::Index { source } = error {
            self.note_index(source);
        }
        self.count(operation);
        self.free_space.forget();
        let disk = &*self.label;
        if self.health.failed(error, Instant::now()) {
            tracing::warn!(disk, operation, %error, "disk tier: write failed");
        } else {
            tracing::debug!(disk, operation, %error, "disk tier: write failed again");
        }
    }

    pub(super) fn index_failed(&self, error: &IndexError) {
        self.note_index(error);
        self.count("index");
        let disk = &*self.label;
        if self.health.failed(error, Instant::now()) {
            tracing::warn!(disk, %error, "disk tier: index failed");
        } else {
            tracing::debug!(disk, %error, "disk tier: index failed again");
        }
    }

    /// What a job of a loop in the background has brought; none if it panicked, which is noted: the
    /// loop goes on. An error if the runtime goes away.
    pub(super) fn unless_panicked<T>(
        &self,
        ended: Result<T, BlockingError>,
    ) -> Result<Option<T>, BlockingError> {
        match ended {
            Err(error) if error.is_panic() => {
                // The engine stays as its panic left it until it is opened again.
                self.index_failed(&IndexError::Panic);
                let disk = &*self.label;
                tracing::error!(disk, %error, "disk tier: a background job panicked");
                Ok(None)
            }
            ended => ended.map(Some),
        }
    }

    fn note_index(&self, error: &IndexError) {
        if error.is_final() {
            self.index.mark_failed();
        }
    }

    /// Whether a write may be tried.
    pub(super) fn admit(&self) -> Result<(), WriteError> {
        self.health.admit(Instant::now())?;
        if self.index.has_failed() {
            let detail = "its index takes no writes until it is opened again".to_owned();
            return Err(WriteError::Refused { detail });
        }
        Ok(())
    }

    /// Whether writes are taken.
    pub(super) fn is_open(&self) -> bool {
        self.is_admitting() && !self.index.has_failed()
    }

    /// Whether the disk is not left alone after errors; its index may have failed all the same.
    pub(super) fn is_admitting(&self) -> bool {
        self.health.report(Instant::now()).is_writable
    }

    pub(super) fn count(&self, operation: &str) {
        self.metrics.store_errors.with_label_values(&[&*self.label, operation]).inc();
    }

    pub(super) fn count_damaged(&self, object: &str, why: &str) {
        self.metrics.damaged_objects.with_label_values(&["disk"]).inc();
        #[cfg(test)]
        crate::simulation::damaged(why);
        tracing::warn!(object, why, "damaged object dropped from disk");
    }

    /// Whether something failed since it last took a write.
    pub(super) fn is_in_doubt(&self) -> bool {
        self.health.is_in_doubt() || self.index.has_failed()
    }

    /// Whether nothing is stored of a key, whole, in part or as variants. Never waits; says no
    /// if that is not certain.
    pub(super) fn lacks(&self, key: KeyHash) -> bool {
        self.index.key_filter().lacks(key)
    }

    /// What an object that becomes `length` bytes, if that is known, may take the place of before
    /// it is proven.
    pub(super) fn displaces(&self, hash: KeyHash, length: Option<u64>) -> Displaces {
        if self.lacks(hash) { self.accounting.displaces(hash, length) } else { Displaces::Anything }
    }

    /// Remembers an object that found no room, so that it displaces anything when it is asked for
    /// again; `bytes` is how long it became or becomes.
    pub(super) fn not_stored(&self, error: &WriteError, hash: KeyHash, bytes: u64) {
        if error.is_lack_of_room() {
            self.accounting.remember(hash, format::charge(bytes));
        }
    }

    /// Whether one object may count `bytes`.
    pub(super) fn fits(&self, bytes: u64) -> Result<(), WriteError> {
        let limit = self.accounting.object_max();
        if bytes > limit { Err(WriteError::TooLarge { bytes, limit }) } else { Ok(()) }
    }

    /// Says what the store is like once `objects` more are in it, the last with `sequence`.
    pub(super) fn set_totals(
        &self,
        change: &mut Change<'_>,
        sequence: u64,
        bytes: u64,
        objects: u64,
    ) {
        let usage = self.accounting.usage();
        change.set_totals(&Totals {
            next_sequence: sequence + 1,
            bytes: usage.bytes.saturating_add(bytes),
            objects: usage.objects.saturating_add(objects),
        });
    }

    /// Counts what was asked to be stored.
    pub(super) fn count_payload(&self, head: &RecordHead) {
        let place = match head.place {
            BodyPlace::Within | BodyPlace::Inline => "index",
            BodyPlace::File => "file",
        };
        self.metrics.stored_payload_bytes.with_label_values(&[place]).inc_by(head.length);
    }

    /// Removes the file of an insertion that has no record any more, and the note about it. What
    /// fails here is done again at the next open.
    pub(super) fn unlink(&self, index: &Keyspaces, hash: KeyHash, sequence: u64) {
        #[cfg(test)]
        self.faults.reach("a file is to be removed");
        if let Err(error) = self.folder.remove_body(hash, sequence) {
            self.count("remove");
            tracing::warn!(object = %hash, %error, "body file stays until restart");
            return;
        }
        #[cfg(test)]
        self.faults.reach("a file is removed");
        let mut change = index.change();
        change.drop_link(hash, sequence);
        if change.commit().is_err_and(|error| error.is_final()) {
            self.index.mark_failed();
        }
        #[cfg(test)]
        self.faults.reach("a note is cleared");
    }

    /// Shows what has become of a part; if it is not counted yet, the count itself will.
    pub(super) fn show_part(&self, hash: KeyHash, objects: i64, charge: u64, before: u64) {
        self.counted_parts.change(hash, [objects, signed(charge) - signed(before)]);
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
