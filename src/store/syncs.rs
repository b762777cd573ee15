//! The syncs of one disk: every few seconds, and at once for a purge that waits for it; purges that
//! come together wait for one sync. The system takes what a failed sync of the files could not
//! write for written, so the bodies that it was for are read back after the next one that succeeds.
//! One [`Syncs`] per store; blocking, but for [`Syncs::sync_soon`].

use crate::store::catalog::Catalog;
use crate::store::check::object;
use crate::store::check::pace::{ReadPacer, Stopped};
use crate::store::error::{IndexError, WriteError};
use crate::store::eviction::snapshot::{self, Schedule, SnapshotOccasion};
use crate::store::format;
use crate::store::index::Keyspaces;
use crate::store::scope::PurgeHold;
use crate::sync::{Mutex, watch};
use fjall::Slice;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Insertions read in one go.
const PAGE: usize = 4096;
/// How long a purge waits until what it changed is safe from a power cut. A disk that takes longer
/// has carried it out all the same.
const SYNC_PATIENCE: Duration = Duration::from_secs(2);

/// What is safe from a power cut, and the syncs that are waited for. As long as the store; a short
/// lock. Changes are counted by the index: a sync makes safe those that were made when it began,
/// and says so when it has succeeded.
#[derive(Debug)]
pub(super) struct Syncs {
    /// How many changes of the index are safe.
    indexed: AtomicU64,
    /// How many are safe with the files that they name.
    whole: AtomicU64,
    /// How many syncs were asked for.
    asked: AtomicU64,
    pub(super) wanted: Arc<Notify>,
    /// The last of them that was given up.
    late: AtomicU64,
    /// The last of them that is done, and whether that failed.
    ended: watch::Sender<(u64, bool)>,
    bodies: Mutex<Bodies>,
    /// Ends what takes long.
    leaving: CancellationToken,
}

/// Which body files are safe from a power cut.
#[derive(Debug)]
struct Bodies {
    /// The insertion that was next when the last sync that succeeded began. Bodies before it were
    /// written by then, but perhaps not their trailers.
    begun: u64,
    /// Bodies of insertions before this one are safe.
    safe: u64,
    /// From this one on a sync failed, which says nothing of what it was for.
    doubted: Option<u64>,
}

impl Bodies {
    /// A sync succeeded that began when the insertion `next` was next.
    fn synced(&mut self, next: u64) {
        self.safe = std::mem::replace(&mut self.begun, next);
    }

    fn sync_failed(&mut self) {
        self.doubted = Some(self.doubted.unwrap_or(u64::MAX).min(self.safe));
    }
}

impl Syncs {
    /// Of a store with this first insertion. What an earlier process has left is as good as
    /// its files say, but its removals may not be safe.
    pub(super) fn from_insertion(first: u64, leaving: CancellationToken) -> Self {
        Self {
            indexed: AtomicU64::new(0),
            whole: AtomicU64::new(1),
            asked: AtomicU64::default(),
            wanted: Arc::default(),
            late: AtomicU64::default(),
            ended: watch::Sender::default(),
            bodies: Mutex::new(Bodies { begun: first, safe: first, doubted: None }),
            leaving,
        }
    }
}

#[cfg(test)]
impl Syncs {
    /// The last of them that is done, and whether that failed.
    pub(super) fn ended(&self) -> (u64, bool) {
        *self.ended.borrow()
    }
}

/// What was changed may be undone by a power cut: the sync failed.
#[derive(Debug)]
pub(super) struct Unsynced;

/// Why the index is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    /// It is time again.
    Tick,
    /// A purge waits for it.
    Wanted,
    /// The process stops.
    Stop,
}

impl Syncs {
    /// Whether all that was changed in the index is safe from a power cut.
    pub(super) fn is_synced(&self, catalog: &Catalog) -> bool {
        self.indexed.load(Ordering::Acquire) >= catalog.index.changes()
    }

    /// Waits, for a while, until all that was changed in the index is safe from a power cut. Cancel
    /// safe.
    pub(super) async fn sync_soon(&self, catalog: &Catalog) -> Result<PurgeHold, Unsynced> {
        if self.is_synced(catalog) {
            return Ok(PurgeHold::Always);
        }
        let number = self.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.wanted.notify_one();
        let mut ended = self.ended.subscribe();
        if ended.borrow().0 < self.late.load(Ordering::Acquire) {
            // It hangs: one purge that waits for it is enough.
            return Ok(PurgeHold::UntilRestart);
        }
        let waiting = ended.wait_for(|(last, _)| *last >= number);
        if let Ok(Ok(ended)) = tokio::time::timeout(SYNC_PATIENCE, waiting).await {
            let (_, has_failed) = *ended;
            return if has_failed { Err(Unsynced) } else { Ok(PurgeHold::Always) };
        }
        self.late.fetch_max(number, Ordering::AcqRel);
        let disk = &*catalog.label;
        tracing::warn!(disk, "disk tier: purges do not wait for a slow sync");
        Ok(PurgeHold::UntilRestart)
    }

    /// Syncs; so many syncs had been asked for before.
    pub(super) fn sync_for(
        &self,
        catalog: &Catalog,
        wake: Wake,
        asked: u64,
        mut schedule: Schedule,
    ) -> Schedule {
        let is_synced = self.synced_for(catalog, wake, asked);
        self.ended.send_replace((asked, !is_synced));
        match wake {
            Wake::Tick => snapshot::keep_order(
                catalog,
                &mut schedule,
                Instant::now(),
                SnapshotOccasion::Regular,
            ),
            Wake::Stop => {
                let now = Instant::now();
                snapshot::keep_order(catalog, &mut schedule, now, SnapshotOccasion::Last);
            }
            Wake::Wanted => {}
        }
        schedule
    }

    /// Syncs; whether that was done of what the purges need that asked, so many by now: the index
    /// alone, whatever woke it.
    pub(super) fn synced_for(&self, catalog: &Catalog, wake: Wake, asked: u64) -> bool {
        let made = catalog.index.changes();
        let is_all_synced = match wake {
            Wake::Tick => self.sync_now(catalog, SnapshotOccasion::Regular),
            Wake::Stop => self.sync_now(catalog, SnapshotOccasion::Last),
            Wake::Wanted => return self.sync_index(catalog).is_ok(),
        };
        if self.ended.borrow().0 >= asked {
            return is_all_synced;
        }
        // Without a change since the start nothing was synced, and what was removed before it may
        // not be safe.
        let is_index_synced = self.indexed.load(Ordering::Acquire) >= made;
        (is_all_synced && is_index_synced) || self.sync_index(catalog).is_ok()
    }

    /// Syncs what has changed: the trailers and names of body files, then the index. Keeps short
    /// what the next start has to read. Whether that was done; an error is noted.
    pub(super) fn sync_now(&self, catalog: &Catalog, turn: SnapshotOccasion) -> bool {
        let made = catalog.index.changes();
        // At the end, also what an earlier start left in the journal.
        if self.whole.load(Ordering::Acquire) >= made && turn == SnapshotOccasion::Regular {
            return true;
        }
        #[cfg(test)]
        catalog.faults.reach("the files are to be synced");
        let synced = match self.sync_files(catalog, turn) {
            Ok(()) => Self::sync_whole_index(catalog, turn),
            Err(error) => {
                catalog.health.not_synced();
                catalog.write_failed(&error);
                Err(())
            }
        };
        if synced.is_ok() {
            catalog.health.synced();
            self.indexed.fetch_max(made, Ordering::AcqRel);
            self.whole.fetch_max(made, Ordering::AcqRel);
        }
        synced.is_ok()
    }

    /// Syncs the trailers and names of body files. Blocking.
    fn sync_files(&self, catalog: &Catalog, turn: SnapshotOccasion) -> Result<(), WriteError> {
        let failed = |source| WriteError::Io { operation: "sync", source };
        let next = catalog.tier.insertions.load(Ordering::Acquire);
        let sync = || {
            #[cfg(test)]
            catalog.faults.meet("the file system is to sync")?;
            catalog.folder.sync()
        };
        sync().inspect_err(|_| self.bodies.lock().sync_failed()).map_err(failed)?;
        self.bodies.lock().synced(next);
        let doubted = self.bodies.lock().doubted;
        // A process that stops does not wait for it: readers compare what comes from the disk.
        let Some(from) = doubted.filter(|_| turn == SnapshotOccasion::Regular) else {
            return Ok(());
        };
        self.read_back(catalog, from)?;
        self.bodies.lock().doubted = None;
        Ok(())
    }

    /// Reads the bodies of all insertions from this one on back from the disk, and drops those that
    /// it does not have: a sync failed, and the one that succeeded since was not for them.
    /// Blocking.
    fn read_back(&self, catalog: &Catalog, mut from: u64) -> Result<(), WriteError> {
        let failed =
            |why: String| WriteError::Io { operation: "sync", source: io::Error::other(why) };
        let mut pacer = ReadPacer::new(u64::MAX, self.leaving.clone());
        loop {
            let page = catalog.index.access().open()?.order_page(from, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            let next = last.sequence.saturating_add(1);
            for (entry, hash) in page {
                let record = catalog.index.access().open()?.record(hash)?;
                let is_meant = |record: &Slice| {
                    let head = format::decode_head(record);
                    head.is_ok_and(|h| h.sequence == entry.sequence && h.place.is_file())
                };
                let Some(record) = record.filter(is_meant) else { continue };
                let checked = object::check_object(catalog, hash, &record, &mut pacer);
                let checked = checked.map_err(|Stopped| failed("it was stopped".to_owned()))?;
                match &checked.wrong {
                    None => {}
                    Some((fault, why)) if fault.is_of_object() => {
                        object::drop_checked(catalog, hash, &checked, why);
                    }
                    Some((_, why)) => return Err(failed(why.clone())),
                }
            }
            from = next;
            self.bodies.lock().doubted = Some(from);
        }
    }

    /// Syncs the index, and keeps its journal short. Blocking; an error is noted.
    fn sync_whole_index(catalog: &Catalog, turn: SnapshotOccasion) -> Result<(), ()> {
        let access = catalog.index.access();
        let synced = access.open().and_then(|index| {
            sync_engine(catalog, index)?;
            match turn {
                SnapshotOccasion::Regular => index.tidy_journal(),
                SnapshotOccasion::Last => index.empty_journal(),
            }
        });
        synced.map_err(|error| catalog.index_failed(&error))
    }

    /// Syncs the index alone. Blocking.
    pub(super) fn sync_index(&self, catalog: &Catalog) -> Result<(), IndexError> {
        let made = catalog.index.changes();
        #[cfg(test)]
        catalog.faults.reach("the index is to be synced");
        let access = catalog.index.access();
        let synced = access.open().and_then(|index| sync_engine(catalog, index));
        synced.inspect_err(|error| catalog.index_failed(error))?;
        self.indexed.fetch_max(made, Ordering::AcqRel);
        Ok(())
    }

    /// How many syncs were asked for.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    /// The sync for the first `asked` that were asked for panicked.
    pub(super) fn panicked(&self, asked: u64) {
        self.ended.send_replace((asked, true));
    }
}

#[cfg_attr(not(test), expect(unused_variables, reason = "tests let it fail"))]
fn sync_engine(catalog: &Catalog, index: &Keyspaces) -> Result<(), IndexError> {
    #[cfg(test)]
    catalog.faults.meet("the engine is to sync").map_err(fjall::Error::from)?;
    index.sync()
}
