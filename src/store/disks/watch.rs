//! How disks come in and go out: all of them at start, and each by itself afterwards. One task per
//! disk, so that one that hangs keeps no other from coming back. Its work takes one thread at most:
//! while the disk is stalled it is not looked at, since what hangs on it tells when it is back.
//! No thread works on two disks, but at the start.
//!
//! A folder is watched by the identity of its lock file: where another file system is mounted over
//! it, or it is unmounted (with `umount -l`, since the store keeps files open) or removed, the
//! store is closed, so that its files are free, and whatever is at the path afterwards is opened. A
//! folder without a store is made into one, but never the empty folder that is left at the mount
//! point of a disk was mounted, and never below a folder that has gone too.

use crate::store::disk_store::DiskStore;
use crate::store::disks::disk::{OpenDisk, TierDisk};
use crate::store::disks::ledger::{self, DiskId, Joiner, Ledger, Member};
use crate::store::disks::mount;
use crate::store::disks::tier::{DiskTier, PURGE_PATIENCE};
use crate::store::error::{IndexError, OpenError, WriteError};
use crate::store::files;
use crate::store::folder;
use crate::store::handle::Store;
use crate::store::lookup;
use crate::store::scope::Purging;
use crate::store::tier_share::TierShare;
use crate::tasks::BlockingError;
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often a disk is looked at, and how soon one that is out is tried.
const PACE: Duration = Duration::from_secs(1);
/// How seldom a disk that stays out is tried.
const PACE_MAX: Duration = Duration::from_secs(15);
/// How long a look may take without a step before the disk counts as stalled.
const LOOK_PATIENCE: Duration = Duration::from_secs(10);
/// Threads that blocking work on all disks takes at once; the rest of them is for everything else.
const THREADS: usize = 384;
/// Bounds of what one disk gets of them, half for what reads and half for what changes something.
const THREADS_OF_ONE: std::ops::RangeInclusive<usize> = 16..=128;

/// A disk that has its store open and is not in yet.
struct DiskToAdmit {
    position: usize,
    store: Store,
    id: Option<DiskId>,
    record: Option<Ledger>,
    is_empty: bool,
}

/// On which disks a record is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RecordAttempt {
    /// On one that takes writes.
    IfHealthy,
    /// On any, although its last write failed.
    Always,
}

/// Looks after one disk until the tier or the process goes away.
pub(super) async fn watch(shared: Weak<DiskTier>, position: usize, stop: CancellationToken) {
    let mut pace = PACE;
    let lane = {
        let Some(shared) = shared.upgrade() else { return };
        let Some(disk) = shared.disks.get(position) else { return };
        shared.tasks.lane(&disk.jobs, 1, LOOK_PATIENCE)
    };
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => {
                let Some(shared) = shared.upgrade() else { return };
                return shared.write_last_record(position).await;
            }
            () = tokio::time::sleep(pace) => {}
        }
        let Some(shared) = shared.upgrade() else { return };
        shared.tick();
        if shared.disks.get(position).is_some_and(TierDisk::is_stalled) {
            continue;
        }
        let own = Arc::clone(&shared);
        let look = move || own.look_after(position);
        let looked = lane.blocking_for("disk watch", LOOK_PATIENCE, look).await;
        shared.write_records().await;
        pace = match looked {
            Ok(true) => PACE,
            Ok(false) => (pace * 2).min(PACE_MAX),
            Err(BlockingError::Late { .. }) => pace,
            Err(error) if error.is_panic() => {
                shared.look_panicked(position, &error);
                (pace * 2).min(PACE_MAX)
            }
            Err(BlockingError::Failed { .. }) => return,
        };
    }
}

impl DiskTier {
    /// Opens every disk that can be opened; an error if none can.
    pub(super) fn open_all(&self) -> Result<(), OpenError> {
        let mounts = self.written_mounts();
        let runtime = tokio::runtime::Handle::try_current().ok();
        let open = |position: usize, disk: &TierDisk| {
            let _runtime = runtime.as_ref().map(tokio::runtime::Handle::enter);
            self.open_one(position, mounts.get(&disk.label).map(PathBuf::as_path))
        };
        let results: Vec<_> = match &*self.disks {
            disks if disks.len() == 1 || files::is_simulated() => {
                disks.iter().enumerate().map(|(at, disk)| Ok(open(at, disk))).collect()
            }
            disks => std::thread::scope(|scope| {
                let opening: Vec<_> = disks
                    .iter()
                    .enumerate()
                    .map(|(position, disk)| scope.spawn(move || open(position, disk)))
                    .collect();
                opening.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
            }),
        };
        let mut first_error = None;
        let mut opened = Vec::new();
        for (disk, result) in self.disks.iter().zip(results) {
            let lost = || OpenError::io(&disk.settings.path, "open it", io::Error::other("panic"));
            match result.unwrap_or_else(|_| Err(lost())) {
                Ok(one) => opened.push(one),
                Err(error) => {
                    if self.disks.len() > 1 {
                        self.stays_out(disk, &error);
                    }
                    first_error = first_error.or(Some(error));
                }
            }
        }
        // A disk with a history goes first: what it knows of the others counts.
        opened.sort_by_key(|one| (one.is_empty, one.record.is_none(), one.position));
        match first_error {
            Some(error) if opened.is_empty() => return Err(error),
            Some(_) | None => {}
        }
        for one in opened {
            self.admit(one)?;
        }
        self.write_own_records();
        Ok(())
    }

    /// Notes that a look at a disk panicked.
    fn look_panicked(&self, position: usize, error: &BlockingError) {
        let Some(disk) = self.disks.get(position) else { return };
        self.metrics.store_errors.with_label_values(&[&*disk.label, "watch"]).inc();
        tracing::error!(disk = disk.label, %error, "disk tier: a look at the disk panicked");
        if let Some(OpenDisk { store, .. }) = disk.entered() {
            store.disk.catalog.index_failed(&IndexError::Panic);
        }
    }

    /// Whether the disk is in, after seeing to it. Blocking.
    pub(super) fn look_after(&self, position: usize) -> bool {
        let Some(disk) = self.disks.get(position) else { return false };
        let Some(entered) = disk.entered() else { return self.try_to_enter(position, disk) };
        match entered.store.disk.catalog.folder.is_in_place() {
            Ok(true) => {
                if disk.owes() && entered.store.health().is_writable {
                    self.settle(disk, &entered);
                }
                true
            }
            Ok(false) => {
                tracing::error!(
                    disk = disk.label,
                    "disk tier: the folder is gone, or another is mounted there; closing it"
                );
                disk.leave("the folder is gone, or another is mounted there".to_owned());
                false
            }
            Err(source) => {
                entered
                    .store
                    .disk
                    .catalog
                    .write_failed(&WriteError::Io { operation: "look", source });
                true
            }
        }
    }

    fn try_to_enter(&self, position: usize, disk: &TierDisk) -> bool {
        let mount = disk.mount().or_else(|| self.known_mount(disk));
        let has_parent = disk.settings.path.parent().is_none_or(Path::exists);
        let opened = if has_parent {
            self.open_one(position, mount.as_deref())
        } else {
            let missing = io::Error::from(io::ErrorKind::NotFound);
            Err(OpenError::io(&disk.settings.path, "find the folder above it", missing))
        };
        match opened.and_then(|opened| self.admit(opened)) {
            Ok(()) => {
                tracing::info!(disk = disk.label, "disk tier: the disk is in");
                true
            }
            Err(error) => {
                self.stays_out(disk, &error);
                false
            }
        }
    }

    fn stays_out(&self, disk: &TierDisk, error: &OpenError) {
        let labels = &[&*disk.label, "open"];
        self.metrics.store_errors.with_label_values(labels).inc();
        if disk.stays_out(error.to_string()) {
            tracing::error!(disk = disk.label, %error, "disk tier: the disk is out");
        } else {
            tracing::debug!(disk = disk.label, %error, "disk tier: the disk stays out");
        }
    }

    /// Opens the store of a disk that is out; `mount` is the last mount point of its file system.
    fn open_one(&self, position: usize, mount: Option<&Path>) -> Result<DiskToAdmit, OpenError> {
        let Some(disk) = self.disks.get(position) else {
            return Err(OpenError::io(Path::new(""), "find it", io::ErrorKind::NotFound.into()));
        };
        let path = &disk.settings.path;
        if disk.is_closing() {
            return Err(OpenError::InUse { path: path.clone() });
        }
        if let Some(mount) = mount
            && !folder::is_store(path)
        {
            let is_mounted = mount::is_point(mount);
            if !is_mounted.map_err(|e| OpenError::io(mount, "look at it", e))? {
                return Err(OpenError::NotMounted { path: path.clone(), mount: mount.to_owned() });
            }
        }
        let number = u16::try_from(position).unwrap_or(u16::MAX);
        let threads =
            (THREADS / self.disks.len()).clamp(*THREADS_OF_ONE.start(), *THREADS_OF_ONE.end());
        let tier = TierShare {
            disk: number,
            damaged: self.damaged.clone(),
            insertions: Arc::clone(&self.insertions),
            jobs: Arc::clone(&disk.jobs),
            threads: threads / 2,
        };
        let store = Store::open(tier, &disk.settings, self.metrics.clone(), &self.tasks)?;
        let record = ledger::read(path);
        let record = record.map_err(|e| OpenError::io(path, "read its record of purges", e))?;
        let is_empty = lookup::is_empty(&store.disk.catalog);
        let is_empty =
            is_empty.map_err(|source| OpenError::Index { path: path.clone(), source })?;
        let (id, record) = record.unzip();
        Ok(DiskToAdmit { position, store, id, record, is_empty })
    }

    /// Takes an open disk in.
    fn admit(&self, opened: DiskToAdmit) -> Result<(), OpenError> {
        let DiskToAdmit { position, store, id, record, is_empty } = opened;
        let Some(disk) = self.disks.get(position) else { return Ok(()) };
        let path = &disk.settings.path;
        let mount = mount::point_of(path);
        let mut recorded = self.ledger.lock();
        let present: Vec<_> =
            self.disks.iter().filter_map(TierDisk::entered).map(|entered| entered.id).collect();
        // A name that is taken is that of a copied folder: what it knows is another's.
        let (id, record) = if let Some(id) = id.filter(|id| !present.contains(id)) {
            (id, record)
        } else {
            let drawn = DiskId::draw();
            (drawn.map_err(|e| OpenError::io(path, "draw a name for it", e))?, None)
        };
        let place = Member {
            path: disk.label.clone(),
            mount: mount.as_ref().map(|mount| mount.display().to_string()).unwrap_or_default(),
            ..Member::default()
        };
        let is_known = recorded.ledger.admit(Joiner { id, place, record, is_empty }, &present);
        recorded.changes += 1;
        // First what it owes: from the moment it is in, look-ups ask it.
        disk.set_owed(recorded.ledger.owed(id));
        disk.enter(OpenDisk { id, store }, mount);
        self.mark_debtors(&recorded);
        drop(recorded);
        if !is_known {
            let drops = self.disks.iter().filter(|disk| disk.owes()).map(|disk| &*disk.label);
            tracing::info!(
                disk = disk.label,
                drops = ?drops.collect::<Vec<_>>(),
                "disk tier: a disk that was never in together with the others; what may be purged \
                 without its knowledge, or without theirs, is dropped"
            );
        }
        Ok(())
    }

    /// Carries out what a disk owes; what fails is tried again.
    fn settle(&self, disk: &TierDisk, entered: &OpenDisk) {
        let OpenDisk { id, store } = entered;
        let Some(owed) = self.ledger.lock().ledger.owed(*id).cloned() else { return };
        let mut purged = 0_u64;
        for scope in owed.scopes() {
            let Ok(count) = store.disk.catalog.purge(&scope, Purging::Hard) else { return };
            purged = purged.saturating_add(count);
        }
        if store.disk.syncs.sync_index(&store.disk.catalog).is_err() {
            return;
        }
        let mut recorded = self.ledger.lock();
        if !recorded.ledger.settle(*id, &owed) {
            return;
        }
        recorded.changes += 1;
        self.mark_debtors(&recorded);
        drop(recorded);
        tracing::info!(
            disk = disk.label,
            purges = owed.len(),
            purged,
            "disk tier: the disk has made up for purges"
        );
    }

    /// Writes the ledger on every disk that answers and has not what it says now, and gives up
    /// one that has not written it in a second; on how many it is.
    pub(super) async fn write_records(self: &Arc<Self>) -> usize {
        let writing = (0..self.disks.len()).map(|position| self.write_record(position));
        join_all(writing).await.into_iter().filter(|is_written| *is_written).count()
    }

    /// Writes the ledger on every disk that has not what it says now. Blocking, for all of them.
    pub(super) fn write_own_records(&self) {
        for disk in &self.disks {
            self.write_own_record(disk, RecordAttempt::IfHealthy);
        }
    }

    async fn write_record(self: &Arc<Self>, position: usize) -> bool {
        let Some(disk) = self.disks.get(position) else { return false };
        let Some(OpenDisk { store, .. }) = disk.answering() else { return false };
        if self.is_recorded(disk) {
            return true;
        }
        let shared = Arc::clone(self);
        let work = move |_: &Arc<DiskStore>| {
            shared
                .disks
                .get(position)
                .is_some_and(|disk| shared.write_own_record(disk, RecordAttempt::IfHealthy))
        };
        disk.change(&store, "disk record", PURGE_PATIENCE, work).await.unwrap_or(false)
    }

    /// Writes the ledger once more on a disk that has not what it says now, before the process
    /// ends: a disk that failed or hung may have come back, and what it owes is forgotten
    /// otherwise. Waits for a second at most.
    async fn write_last_record(self: &Arc<Self>, position: usize) {
        let Some(disk) = self.disks.get(position) else { return };
        if disk.entered().is_none() || self.is_recorded(disk) {
            return;
        }
        let shared = Arc::clone(self);
        let work = move || {
            let disk = shared.disks.get(position);
            disk.is_some_and(|disk| shared.write_own_record(disk, RecordAttempt::Always))
        };
        let lane = self.tasks.lane(&disk.jobs, 1, PURGE_PATIENCE);
        // A failure is logged. A disk that hangs keeps its thread.
        let _ = lane.blocking_for("disk last record", PURGE_PATIENCE, work).await;
    }

    /// Whether a disk has all that the ledger says now.
    fn is_recorded(&self, disk: &TierDisk) -> bool {
        let Some(OpenDisk { id, .. }) = disk.entered() else { return false };
        let changes = self.ledger.lock().changes;
        self.files.lock().get(&disk.label) == Some(&(id, changes))
    }

    /// Writes the ledger on a disk that has not what it says now; whether it is there. Blocking.
    fn write_own_record(&self, disk: &TierDisk, attempt: RecordAttempt) -> bool {
        let _turn = disk.recording.lock();
        let Some(OpenDisk { id, store }) = disk.entered() else { return false };
        if self.is_recorded(disk) {
            return true;
        }
        if attempt == RecordAttempt::IfHealthy && !store.disk.catalog.is_admitting() {
            return false;
        }
        let (ledger, changes) = {
            let recorded = self.ledger.lock();
            (recorded.ledger.clone(), recorded.changes)
        };
        let written = match store.disk.catalog.folder.is_in_place() {
            Ok(true) => ledger::write(&disk.settings.path, id, &ledger),
            Ok(false) => Err(io::ErrorKind::NotFound.into()),
            Err(error) => Err(error),
        };
        let mut files = self.files.lock();
        match written {
            Ok(()) => {
                files.insert(disk.label.clone(), (id, changes));
                true
            }
            Err(source) => {
                files.remove(&disk.label);
                drop(files);
                store.disk.catalog.write_failed(&WriteError::Io { operation: "record", source });
                false
            }
        }
    }

    /// The mount points of the file systems of the folders, as the records on all disks say.
    fn written_mounts(&self) -> BTreeMap<String, PathBuf> {
        let records = self.disks.iter().filter_map(|disk| {
            // What cannot be read is told when the disk is opened.
            Some(ledger::read(&disk.settings.path).ok()??.1)
        });
        let members = records.flat_map(|record| record.members.into_values());
        let mounted = members.filter(|member| !member.mount.is_empty());
        mounted.map(|member| (member.path, member.mount.into())).collect()
    }

    /// The mount point of the file system of a disk that was never in, as the ledger says.
    fn known_mount(&self, disk: &TierDisk) -> Option<PathBuf> {
        let recorded = self.ledger.lock();
        let mut members = recorded.ledger.members.values();
        let member = members.find(|m| m.path == disk.label && !m.mount.is_empty())?;
        Some(member.mount.clone().into())
    }
}
