//! Several disks as one tier: an object goes to the disk that [`place`] names for it, or to the
//! next one if that is out or fails, and is found on whichever has it. One per process; cloning
//! shares it. Called by `cache` alone. Methods that are not async wait for no disk, but for
//! [`Disks::open`] and [`Disks::import`], which block.
//!
//! A disk is *in* while its store is open. One that cannot be opened, or goes away under its
//! folder, is *out* and tried again in the background ([`watch`]); the others go on. A disk that is
//! in and in trouble serves what it can read, takes nothing new, and is probed by its own store.
//!
//! Whatever is asked of a disk runs on threads of its own, which are bounded, and no job works on
//! two disks. So a disk that hangs holds up its own threads alone, and a caller for a few seconds,
//! once: then it is *stalled*, and passed over until all that hangs on it has ended ([`disk`]).
//!
//! Look-ups ask every disk at once. All but the one that has the object say no from the filters of
//! their indexes, which are in memory: a miss costs little, however many disks there are. Two disks
//! have an object each only if one was passed over when it was written anew: the later one
//! counts, the other is dropped. A whole object counts before parts of it, which go from every disk
//! when it is stored. Variants of an object are objects of their own here, each with its own first
//! choice.
//!
//! # Why a purge holds
//!
//! A change that puts something on a disk asks its [`ChangePermit`] under the lock of its
//! key, and has written its record when it gives that lock up. The permit says no as soon as a
//! purge is raised that covers the object. So a purge that was raised first passes every lock of
//! the store once ([`Catalog::purge`](crate::store::catalog::Catalog::purge)), and from then on
//! each older change is in the index, in which the purge finds it, or will be refused: no mark is
//! needed for what is half published, and no crash brings it back. A purge is synced before it is
//! answered.
//!
//! A disk that is out, stalled, fails, or does not come further with a purge for a second owes it
//! ([`ledger`]): nothing that it covers is served from there before it has made up for it.
//!
//! An [`Insertion`] names its disk by position. If another disk takes that position, a use noted
//! with an old insertion moves another object in the order of eviction, and nothing else.
//!
//! Locks: `checks` (inside it those of the reports), `ledger` (inside it a disk's own), `files`;
//! all of them short, never across I/O. A disk comes in, and a purge picks the disks that carry it
//! out, under `ledger`: so each purge is carried out by a disk or owed by it.

mod disk;
pub(super) mod health;
mod ledger;
mod mount;
mod place;
mod purging;
mod tier;
mod watch;

use crate::clock::Clock;
use crate::config;
use crate::metrics::Metrics;
use crate::object::{Insertion, Key, KeyHash, Meta, NarClaim, Variant, came_later};
use crate::store::body::read::Stored;
use crate::store::body::{ObjectWriter, ProvenObject, Withhold};
use crate::store::check::fsck::CheckStart;
use crate::store::check::report::{CheckFault, CheckProblem, CheckReport, CheckStage, Mode};
use crate::store::commit::{self, ChangePermit, ConfirmedBody};
use crate::store::disk_store::DiskStore;
use crate::store::disks::health::DiskHealth;
use crate::store::error::{OpenError, WriteError};
use crate::store::eviction::accounting::{DiskUsage, Displaces, Reservation};
use crate::store::handle::{IndexMemory, Store};
use crate::store::lanes::PATIENCE;
use crate::store::lookup::{self, StoredClaim};
use crate::store::part::Part;
use crate::sync::Mutex;
use crate::tasks::Tasks;
use bytes::Bytes;
use disk::{OpenDisk, TierDisk};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tier::{DiskCheck, DiskTier, change_all, read_all};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Damaged objects that wait to be fetched again; more are fetched when they are asked for.
const DAMAGED_MAX: usize = 64;

/// The disk tier. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Disks(Arc<DiskTier>);

/// Whether a narinfo claims anything about a NAR is not known: a disk that may have the claim does
/// not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a disk that may have the claim does not tell")]
pub struct ClaimUnknown;

/// Variants of one object.
#[derive(Debug)]
pub struct StoredVariants {
    /// Each with the key that it is stored under.
    pub list: Vec<(Key, Variant)>,
    /// Whether every disk has told which ones it has.
    pub is_whole: bool,
}

/// What an operator is told of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskReport {
    /// The folder, as the configuration names it.
    pub path: String,
    /// Whether it takes objects, and what is wrong.
    pub health: DiskHealth,
}

impl Disks {
    /// Opens or makes a store in each folder. Blocking; needs a runtime, since each begins to load
    /// its order and to sync in the background.
    /// A disk that cannot be opened is logged and tried again later, as long as another can; if
    /// none can, that is the error.
    pub fn open(
        settings: &[config::Disk],
        metrics: Metrics,
        tasks: Tasks,
    ) -> Result<Self, OpenError> {
        let (damaged, damaged_keys) = mpsc::channel(DAMAGED_MAX);
        let shared = Arc::new(DiskTier {
            disks: settings.iter().cloned().map(TierDisk::new).collect(),
            ledger: Mutex::default(),
            files: Mutex::default(),
            insertions: Arc::default(),
            checks: Mutex::default(),
            damaged,
            damaged_keys: Mutex::new(Some(damaged_keys)),
            opened: Instant::now(),
            epoch: AtomicU32::new(0),
            metrics,
            tasks,
        });
        shared.open_all()?;
        for position in 0..shared.disks.len() {
            let watching = watch::watch(Arc::downgrade(&shared), position, shared.tasks.stopping());
            shared.tasks.spawn("disk watch", watching);
        }
        Ok(Self(shared))
    }

    /// The object under a key, with its body open for reading, as `Store::get` gives it. Cancel
    /// safe.
    pub async fn get(&self, key: &Key) -> Option<Stored> {
        if let Some(stored) = self.0.recent(key) {
            return Some(stored);
        }
        let mut found: Option<Stored> = None;
        let hash = key.hash();
        let mut asked = self.0.asked(key);
        let in_reach = asked.len();
        asked.retain(|(_, entered)| !entered.store.disk.catalog.lacks(hash));
        let (mut copies, mut answers) = (0, in_reach - asked.len());
        let ticket =
            |(_, entered): &(&TierDisk, OpenDisk)| entered.store.disk.catalog.recent.ticket(hash);
        let tickets: Vec<_> = asked.iter().map(ticket).collect();
        let asking = asked.iter().map(|(disk, entered)| disk.get(&entered.store, key));
        for ((disk, _), answer) in asked.iter().zip(join_all(asking).await) {
            // One that does not answer has nothing; it has said so to the log.
            let Ok(answer) = answer else { continue };
            answers += 1;
            let Some(stored) = answer else { continue };
            if disk.owes() && self.0.is_owed(disk, key) {
                continue; // purged while it was looked up
            }
            copies += 1;
            let time = stored.meta.response_time;
            let is_later =
                |than: &Stored| came_later(time, than.meta.response_time, Clock::System.now());
            if found.as_ref().is_none_or(is_later) {
                found = Some(stored);
            }
        }
        if copies > 1
            && let Some(found) = &found
        {
            let (shared, meta) = (Arc::clone(&self.0), Arc::clone(&found.meta));
            let dropping = async move { shared.drop_older(&meta).await };
            self.0.tasks.spawn("disk copies", dropping);
        }
        if copies == 1
            && answers == self.0.disks.len()
            && let Some(stored) = found.as_ref().filter(|stored| stored.body.is_file())
        {
            for ((_, OpenDisk { store, .. }), ticket) in asked.iter().zip(tickets) {
                if store.disk.catalog.tier.disk == stored.insertion.disk {
                    store.disk.catalog.recent.remember(ticket, stored.clone());
                }
            }
        }
        found
    }

    /// The object under a key, where [`Disks::get`] has found it lately and its file is still open.
    /// Never waits.
    pub fn recent(&self, key: &Key) -> Option<Stored> {
        self.0.recent(key)
    }

    /// Begins to write an object of `length` bytes, if that is known, on the first disk of its
    /// order that takes it. The error is that of its first choice.
    pub async fn begin(
        &self,
        key: &Key,
        length: Option<u64>,
        withhold: Withhold,
    ) -> Result<ObjectWriter, WriteError> {
        let displaces = |store: &Store| store.disk.catalog.displaces(key.hash(), length);
        let (store, reservation) = self.reserve(key, length, displaces).await?;
        Ok(ObjectWriter::new(store.disk, key.clone(), length, withhold, reservation))
    }

    /// As [`Disks::begin`], for a body of at most some MiB that is here as a whole and proven.
    pub async fn begin_whole(&self, key: &Key, body: Bytes) -> Result<ProvenObject, WriteError> {
        let length = Some(body.len() as u64);
        let (store, reservation) = self.reserve(key, length, |_| Displaces::Anything).await?;
        ProvenObject::whole(store.disk, key.clone(), body, reservation)
    }

    async fn reserve(
        &self,
        key: &Key,
        length: Option<u64>,
        displaces: impl Fn(&Store) -> Displaces,
    ) -> Result<(Store, Reservation), WriteError> {
        let mut first = None;
        for (disk, OpenDisk { store, .. }) in self.0.choices_to_write(key) {
            match disk.reserve(&store, key, length, displaces(&store)).await {
                Ok(reservation) => return Ok((store, reservation)),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(no_disk))
    }

    /// The part that is kept of an object, opened for reading and writing, from the first disk of
    /// its order that has one. Cancel safe.
    pub async fn part(&self, key: &Key) -> Option<Part> {
        let hash = key.hash();
        for (disk, OpenDisk { store, .. }) in self.0.asked(key) {
            if store.disk.catalog.lacks(hash) {
                continue;
            }
            let Ok(Some(part)) = disk.part(&store, key).await else { continue };
            if disk.owes() && self.0.is_owed(disk, key) {
                continue; // purged while it was looked up
            }
            return Some(part);
        }
        None
    }

    /// Begins a part of an object, as `Store::begin_part` does, on the first disk of its order that
    /// takes it. The error is that of its first choice.
    pub async fn begin_part(&self, meta: Meta, length: u64) -> Result<Part, WriteError> {
        let mut first = None;
        for (disk, OpenDisk { store, .. }) in self.0.choices_to_write(&meta.key) {
            match disk.begin_part(&store, meta.clone(), length).await {
                Ok(part) => return Ok(part),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(no_disk))
    }

    /// The variants that are stored of the object under `key`; at most 32 on each disk, since of
    /// more the oldest are dropped. Cancel safe.
    pub async fn variants(&self, key: &Key) -> StoredVariants {
        let mut asked = self.0.asked(key);
        let in_reach = asked.len();
        asked.retain(|(_, entered)| !entered.store.disk.catalog.lacks(key.hash()));
        let (mut list, mut answers) = (Vec::<(Key, Variant)>::new(), in_reach - asked.len());
        let own = key.clone();
        let find = move |store: &Arc<DiskStore>| lookup::find_variants(&store.catalog, &own);
        let found = read_all(&asked, "store variants", find).await;
        for ((disk, _), answer) in asked.iter().zip(found) {
            let Ok(Ok(variants)) = answer else { continue };
            answers += 1;
            for (own, variant) in variants {
                let is_owed = disk.owes() && self.0.is_owed(disk, &own);
                if !is_owed && !list.iter().any(|(other, _)| *other == own) {
                    list.push((own, variant));
                }
            }
        }
        StoredVariants { list, is_whole: answers == self.0.disks.len() }
    }

    /// The number that the next insertion gets, on whatever disk.
    pub fn next_insertion(&self) -> u64 {
        self.0.insertions.load(Ordering::Acquire)
    }

    /// Takes a number as an insertion does, for what is published in another tier alone.
    pub fn take_insertion(&self) -> u64 {
        self.0.insertions.fetch_add(1, Ordering::AcqRel)
    }

    /// Notes that an object was used in another tier that keeps it too, so that it stays here;
    /// false if that was not noted: the disk is out, or its order is busy. Never waits.
    pub fn touch(&self, insertion: Insertion) -> bool {
        let disk = self.0.disks.get(usize::from(insertion.disk)).and_then(TierDisk::entered);
        disk.is_some_and(|entered| entered.store.touch(insertion.sequence))
    }

    /// A number that grows once a minute: a tier that keeps copies of objects touches each at most
    /// once in an epoch. Never [`u32::MAX`]. Reads no clock.
    pub fn epoch(&self) -> u32 {
        self.0.epoch.load(Ordering::Relaxed)
    }

    /// Puts small objects in the store, as many at once as a thousand; how many. Those of each disk
    /// come in together or not at all; one with a key that is stored there already, or comes twice,
    /// is left out. For filling a store in bulk. Blocking.
    pub fn import(&self, objects: Vec<(Meta, Bytes)>) -> Result<usize, WriteError> {
        let mut shares: BTreeMap<u16, (Store, Vec<(Meta, Bytes)>)> = BTreeMap::new();
        for object in objects {
            let choices = self.0.choices_to_write(&object.0.key);
            let (_, OpenDisk { store, .. }) = choices.into_iter().next().ok_or_else(no_disk)?;
            let share = shares.entry(store.disk.catalog.tier.disk);
            share.or_insert_with(|| (store, Vec::new())).1.push(object);
        }
        shares.into_values().map(|(store, share)| store.import(share)).sum()
    }

    /// Replaces the metadata of an object, wherever it is, while its body is still the one that was
    /// confirmed and no head of a later response is there, unless `permit` says no; true if it was
    /// replaced.
    pub async fn touch_meta(
        &self,
        meta: &Arc<Meta>,
        confirmed: ConfirmedBody,
        permit: &ChangePermit,
    ) -> bool {
        let hash = meta.key.hash();
        let asked = self.0.holding(hash, &meta.key);
        let (meta, permit) = (Arc::clone(meta), Arc::clone(permit));
        let touch = move |store: &Arc<DiskStore>| {
            commit::rewrite_meta(&store.catalog, hash, confirmed, &meta, &*permit).unwrap_or(false)
        };
        let touched = change_all(&asked, "store touch", PATIENCE, touch).await;
        touched.into_iter().any(|touched| touched.unwrap_or(false))
    }

    /// Whether no disk that is in has anything of an object, for certain. Never waits.
    pub fn lack(&self, key: &Key) -> bool {
        let hash = key.hash();
        self.0
            .disks
            .iter()
            .filter_map(TierDisk::entered)
            .all(|entered| entered.store.disk.catalog.lacks(hash))
    }

    /// What a stored narinfo claims about the NAR `nar`, and the hash of the narinfo's key. An
    /// error if no disk that answers has it and another may. Cancel safe.
    pub async fn claim(&self, nar: &Key) -> Result<Option<(KeyHash, NarClaim)>, ClaimUnknown> {
        let answering = self.0.disks.iter().filter_map(|disk| Some((disk, disk.answering()?)));
        let asked: Vec<_> = answering.collect();
        let mut have_all_answered = asked.len() == self.0.disks.len();
        let wanted = nar.clone();
        let find = move |store: &Arc<DiskStore>| lookup::find_claim(&store.catalog, &wanted);
        let found = read_all(&asked, "store claim", find).await;
        // Insertions are numbered for all disks together.
        let mut newest: Option<StoredClaim> = None;
        for ((disk, _), found) in asked.iter().zip(found) {
            match found {
                // The claim of a narinfo that was purged must not count, and the disk tells only
                // the hash of its key.
                Ok(Ok(Some(claimed))) if !self.0.may_be_owed(disk, nar.site(), claimed.by) => {
                    if newest.as_ref().is_none_or(|newest| newest.sequence < claimed.sequence) {
                        newest = Some(claimed);
                    }
                }
                Ok(Ok(None)) => {}
                Ok(Ok(Some(_)) | Err(_)) | Err(_) => have_all_answered = false,
            }
        }
        match newest {
            Some(claimed) => Ok(Some((claimed.by, claimed.claim))),
            None if have_all_answered => Ok(None),
            None => Err(ClaimUnknown),
        }
    }

    /// The key of the object that is stored under `hash`; none if no disk that answers has it.
    /// Cancel safe.
    pub async fn key_of(&self, hash: KeyHash) -> Option<Key> {
        let answering = self.0.disks.iter().filter_map(|disk| Some((disk, disk.answering()?)));
        let asked: Vec<_> = answering.collect();
        let find = move |store: &Arc<DiskStore>| lookup::key_of(&store.catalog, hash);
        let found = read_all(&asked, "store key", find).await;
        found.into_iter().find_map(|found| found.ok().flatten())
    }

    /// What the disks that are in hold together.
    pub fn usage(&self) -> DiskUsage {
        let nothing =
            DiskUsage { bytes: 0, reserved_bytes: 0, limit_bytes: 0, objects: 0, is_loaded: true };
        let usages = self.0.disks.iter().filter_map(TierDisk::entered).map(|e| e.store.usage());
        usages.fold(nothing, |sum, usage| DiskUsage {
            bytes: sum.bytes.saturating_add(usage.bytes),
            reserved_bytes: sum.reserved_bytes.saturating_add(usage.reserved_bytes),
            limit_bytes: sum.limit_bytes.saturating_add(usage.limit_bytes),
            objects: sum.objects.saturating_add(usage.objects),
            is_loaded: sum.is_loaded && usage.is_loaded,
        })
    }

    /// How each disk is, in the order of the configuration.
    pub fn reports(&self) -> Vec<DiskReport> {
        let report = |disk: &TierDisk| DiskReport {
            path: disk.label.clone(),
            health: disk.health(self.0.owed_count(disk)),
        };
        self.0.disks.iter().map(report).collect()
    }

    /// Whether any disk takes objects.
    pub fn is_writable(&self) -> bool {
        let mut trusted = self.0.disks.iter().filter(|disk| !disk.owes());
        trusted.any(|disk| {
            disk.answering().is_some_and(|entered| entered.store.disk.catalog.is_open())
        })
    }

    /// What the indexes of the disks that are in keep in memory. Takes some microseconds.
    pub fn memory(&self) -> IndexMemory {
        let entered = self.0.disks.iter().filter_map(TierDisk::entered);
        let nothing =
            IndexMemory { order_bytes: 0, keys_bytes: 0, cache_bytes: 0, unwritten_bytes: 0 };
        entered.map(|entered| entered.store.memory()).fold(nothing, |sum, own| IndexMemory {
            order_bytes: sum.order_bytes.saturating_add(own.order_bytes),
            keys_bytes: sum.keys_bytes.saturating_add(own.keys_bytes),
            cache_bytes: sum.cache_bytes.saturating_add(own.cache_bytes),
            unwritten_bytes: sum.unwritten_bytes.saturating_add(own.unwritten_bytes),
        })
    }

    /// Keys of objects that were in use and were found damaged by a check of any disk; each is to
    /// be fetched again. The first caller gets them.
    pub fn damaged_keys(&self) -> Option<mpsc::Receiver<Key>> {
        self.0.damaged_keys.lock().take()
    }

    /// Begins to check everything on all disks at once beside the service, each at `rate` bytes a
    /// second or else at the scrubber's; needs a runtime. A disk that is out is told of as one that
    /// could not be checked.
    pub fn begin_check(&self, mode: Mode, rate: Option<u64>) -> CheckStart {
        let mut checks = self.0.checks.lock();
        if checks.iter().any(|check| check.report.lock().stage == CheckStage::Running) {
            return CheckStart::Already;
        }
        let begin = |disk: &TierDisk| {
            let path = disk.label.clone();
            let Some(OpenDisk { store, .. }) = disk.entered() else {
                let report = Arc::new(Mutex::new(unchecked(disk.fault())));
                return DiskCheck { path, report };
            };
            store.begin_check(mode, rate);
            DiskCheck { path, report: Arc::clone(&store.disk.checks.report) }
        };
        *checks = self.0.disks.iter().map(begin).collect();
        CheckStart::Now
    }

    /// Ends the check that goes on, if there is one.
    pub fn end_check(&self) {
        for OpenDisk { store, .. } in self.0.disks.iter().filter_map(TierDisk::entered) {
            store.end_check();
        }
    }

    /// What the check that goes on, or else the last one, found on all disks.
    pub fn checked(&self) -> CheckReport {
        let checks = self.0.checks.lock();
        let report = |check: &DiskCheck| (check.path.clone(), check.report.lock().clone());
        CheckReport::of_all(checks.iter().map(report).collect())
    }

    /// Sets the gauges of each disk; called before metrics are read.
    pub fn show(&self, metrics: &Metrics) {
        let count = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        for disk in &self.0.disks {
            let owed = self.0.owed_count(disk);
            let usage = disk.entered().map(|entered| entered.store.usage());
            let (bytes, objects) = usage.map_or((0, 0), |usage| (usage.bytes, usage.objects));
            let label = &[&*disk.label];
            let is_in = i64::from(disk.answering().is_some());
            metrics.disk_readable.with_label_values(label).set(is_in);
            let is_writable = i64::from(disk.health(owed).is_writable);
            metrics.disk_writable.with_label_values(label).set(is_writable);
            metrics.disk_stored_bytes.with_label_values(label).set(count(bytes));
            metrics.disk_stored_objects.with_label_values(label).set(count(objects));
            metrics.disk_purges_owed.with_label_values(label).set(count(owed as u64));
        }
    }

    /// Looks after each disk once, as the watch does.
    #[cfg(test)]
    pub(crate) fn look(&self) -> Vec<bool> {
        let are_in = (0..self.0.disks.len()).map(|position| self.0.look_after(position)).collect();
        self.0.write_own_records();
        are_in
    }

    /// The store of each disk that is in.
    #[cfg(test)]
    pub(super) fn stores(&self) -> Vec<Store> {
        self.0.disks.iter().filter_map(TierDisk::entered).map(|entered| entered.store).collect()
    }

    /// Whether a power cut undoes no change of an index.
    #[cfg(test)]
    pub(crate) fn is_synced(&self) -> bool {
        self.stores().iter().all(|store| store.disk.syncs.is_synced(&store.disk.catalog))
    }

    /// Waits until the eviction order of each disk that is in is loaded. Cancel safe.
    pub async fn loaded(&self) {
        for disk in &self.0.disks {
            if let Some(OpenDisk { store, .. }) = disk.entered() {
                store.loaded().await;
            }
        }
    }
}

fn no_disk() -> WriteError {
    WriteError::Refused { detail: "no disk can be used".to_owned() }
}

/// The report of a disk that is out.
fn unchecked(fault: String) -> CheckReport {
    let what = "the disk is out".to_owned();
    let problem =
        CheckProblem { kind: CheckFault::Unreadable, what, detail: fault, is_repaired: false };
    let mut report = CheckReport { stage: CheckStage::BrokenOff, ..CheckReport::default() };
    report.add(problem);
    report
}
