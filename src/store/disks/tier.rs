//! What the clones of the tier, its watches and its purges share: the disks, the ledger, and which
//! disks are asked for a key. As long lived as the tier. Locks: as the module above says.

use crate::metrics::Metrics;
use crate::object::{Key, KeyHash, Meta};
use crate::store::body::read::Stored;
use crate::store::check::report::CheckReport;
use crate::store::disk_store::DiskStore;
use crate::store::disks::disk::{OpenDisk, TierDisk};
use crate::store::disks::ledger::{self, DiskId, Ledger};
use crate::store::disks::place;
use crate::store::lanes::PATIENCE;
use crate::store::lookup;
use crate::sync::Mutex;
use crate::tasks::{BlockingError, Tasks};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// How long one use of an object in another tier counts: see [`Disks::epoch`](super::Disks::epoch).
const EPOCH: Duration = Duration::from_mins(1);
/// How long a purge waits for a disk that does not come further with it.
pub(super) const PURGE_PATIENCE: Duration = Duration::from_secs(1);

/// What all clones of the tier share.
#[derive(Debug)]
pub(super) struct DiskTier {
    pub(super) disks: Vec<TierDisk>,
    pub(super) ledger: Mutex<VersionedLedger>,
    /// By folder, the disk of the record that was written there, and how many changes were in it.
    pub(super) files: Mutex<BTreeMap<String, (DiskId, u64)>>,
    /// The number of the next insertion, of all disks: so each is later than those below it,
    /// wherever they are, since this process began.
    pub(super) insertions: Arc<AtomicU64>,
    /// Of the check that goes on, or else the last one, disk by disk.
    pub(super) checks: Mutex<Vec<DiskCheck>>,
    /// What the stores find damaged goes in here.
    pub(super) damaged: mpsc::Sender<Key>,
    pub(super) damaged_keys: Mutex<Option<mpsc::Receiver<Key>>>,
    pub(super) opened: Instant,
    /// See [`Disks::epoch`](super::Disks::epoch); the watches keep it.
    pub(super) epoch: AtomicU32,
    pub(super) metrics: Metrics,
    pub(super) tasks: Tasks,
}

/// The ledger, and how often what it says of debts has changed.
#[derive(Debug, Default)]
pub(super) struct VersionedLedger {
    pub(super) ledger: Ledger,
    pub(super) changes: u64,
}

/// The check of one disk. It outlives the store: of a disk that goes out it says that it broke off.
#[derive(Debug)]
pub(super) struct DiskCheck {
    /// The folder, as the configuration names it.
    pub(super) path: String,
    pub(super) report: Arc<Mutex<CheckReport>>,
}

impl DiskTier {
    /// Notes what time it is.
    pub(super) fn tick(&self) {
        let epoch = self.opened.elapsed().as_secs() / EPOCH.as_secs();
        let epoch = u32::try_from(epoch).unwrap_or(u32::MAX).min(u32::MAX - 1);
        self.epoch.store(epoch, Ordering::Relaxed);
    }

    /// An object that has its file open, since a look-up that asked every disk has found it on this
    /// one alone. Never waits.
    pub(super) fn recent(&self, key: &Key) -> Option<Stored> {
        let answering = self.disks.iter().filter_map(|disk| Some((disk, disk.answering()?)));
        for (disk, OpenDisk { store, .. }) in answering {
            if let Some(stored) = store.disk.catalog.recent.get(key)
                && !(disk.owes() && self.is_owed(disk, key))
            {
                store.touch(stored.insertion.sequence);
                return Some(stored);
            }
        }
        None
    }

    /// The positions of the disks, from the first choice for a key to the last; those that were
    /// never in come last.
    pub(super) fn order(&self, key: &Key) -> Vec<usize> {
        if self.disks.len() == 1 {
            return vec![0];
        }
        let entered = self.disks.iter().enumerate().filter_map(|(position, disk)| {
            Some((position, (disk.entered()?.id, disk.settings.size)))
        });
        let (positions, names): (Vec<usize>, Vec<_>) = entered.unzip();
        let order = place::order(key.hash(), &names);
        order.into_iter().filter_map(|at| positions.get(at).copied()).collect()
    }

    /// The disks that are in and answer, from the first choice for a key to the last.
    pub(super) fn choices(&self, key: &Key) -> impl Iterator<Item = (&TierDisk, OpenDisk)> {
        let order = self.order(key).into_iter();
        let disks = order.filter_map(|position| self.disks.get(position));
        disks.filter_map(|disk| Some((disk, disk.answering()?)))
    }

    /// The same, for writing: a disk that has just failed comes last.
    pub(super) fn choices_to_write(&self, key: &Key) -> Vec<(&TierDisk, OpenDisk)> {
        let mut choices: Vec<_> = self.choices(key).collect();
        choices.sort_by_key(|(_, OpenDisk { store, .. })| store.disk.catalog.is_in_doubt());
        choices
    }

    /// Those that a look-up asks.
    pub(super) fn asked(&self, key: &Key) -> Vec<(&TierDisk, OpenDisk)> {
        self.choices(key).filter(|(disk, _)| !(disk.owes() && self.is_owed(disk, key))).collect()
    }

    /// Those of them that may have something of the object.
    pub(super) fn holding(&self, hash: KeyHash, key: &Key) -> Vec<(&TierDisk, OpenDisk)> {
        let mut asked = self.asked(key);
        asked.retain(|(_, entered)| !entered.store.disk.catalog.lacks(hash));
        asked
    }

    pub(super) fn is_owed(&self, disk: &TierDisk, key: &Key) -> bool {
        let recorded = self.ledger.lock();
        let owed = disk.entered().and_then(|entered| recorded.ledger.owed(entered.id));
        owed.is_some_and(|owed| owed.covers(key))
    }

    /// Whether a disk owes a purge that may be of the object of `site` with this key hash.
    pub(super) fn may_be_owed(&self, disk: &TierDisk, site: &str, hash: KeyHash) -> bool {
        if !disk.owes() {
            return false;
        }
        let recorded = self.ledger.lock();
        let owed = disk.entered().and_then(|entered| recorded.ledger.owed(entered.id));
        owed.is_some_and(|owed| owed.may_cover(site, hash))
    }

    pub(super) fn owed_count(&self, disk: &TierDisk) -> usize {
        if !disk.owes() {
            return 0;
        }
        let recorded = self.ledger.lock();
        let owed = disk.entered().and_then(|entered| recorded.ledger.owed(entered.id));
        owed.map_or(0, ledger::Owed::len)
    }

    /// Drops the copies of an object that have earlier heads than this one.
    pub(super) async fn drop_older(&self, meta: &Arc<Meta>) {
        let asked = self.holding(meta.key.hash(), &meta.key);
        let meta = Arc::clone(meta);
        let drop_older = move |store: &Arc<DiskStore>| lookup::drop_older(&store.catalog, &meta);
        // One that fails has noted it, and is asked again with the next look-up.
        change_all(&asked, "store copies", PATIENCE, drop_older).await;
    }

    pub(super) fn mark_debtors(&self, recorded: &VersionedLedger) {
        for disk in &self.disks {
            if let Some(OpenDisk { id, .. }) = disk.entered() {
                disk.set_owed(recorded.ledger.owed(id));
            }
        }
    }
}

/// What `find` finds on each of these disks, all of which are asked at once.
pub(super) async fn read_all<T: Send + 'static>(
    asked: &[(&TierDisk, OpenDisk)],
    name: &'static str,
    find: impl Fn(&Arc<DiskStore>) -> T + Clone + Send + 'static,
) -> Vec<Result<T, BlockingError>> {
    let asking = asked.iter().map(|(disk, entered)| disk.read(&entered.store, name, find.clone()));
    join_all(asking).await
}

/// Has `work` change something on each of these disks, on all at once.
pub(super) async fn change_all<T: Send + 'static>(
    asked: &[(&TierDisk, OpenDisk)],
    name: &'static str,
    patience: Duration,
    work: impl Fn(&Arc<DiskStore>) -> T + Clone + Send + 'static,
) -> Vec<Result<T, BlockingError>> {
    let changing = asked
        .iter()
        .map(|(disk, entered)| disk.change(&entered.store, name, patience, work.clone()));
    join_all(changing).await
}
