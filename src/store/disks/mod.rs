//! Several disks as one tier: an object goes to the disk that [`place`] names for it, or to the
//! next one where that is out or fails, and is found on whichever has it. One per process; cloning
//! shares it. Called by `cache` alone. Methods that are not async read and write disks and belong
//! on a blocking thread.
//!
//! A disk is *in* while its store is open. One that cannot be opened, or goes away under its
//! folder, is *out* and tried again in the background ([`watch`]); the others go on. A disk that is
//! in and in trouble serves what it can read, takes nothing new, and is probed by its own store.
//!
//! Look-ups ask the first choice, and of the others only those whose eviction order, which is in
//! memory, has the object or is not loaded yet: a miss costs one look-up, however many disks there
//! are. Two disks have an object each only where one was passed over when it was written anew: the
//! later one counts, the other is dropped.
//!
//! Purges hold whatever state a disk is in: see [`ledger`].
//!
//! Locks: `ledger` (short, never across I/O; inside it a disk's own), `files` while records are
//! written. A disk comes in, and a purge picks the disks that carry it out, under `ledger`: so
//! each purge is carried out by a disk or owed by it.

mod disk;
mod ledger;
mod mount;
mod place;
mod watch;

use super::{Health, OpenError, Pending, Stored, Usage, WriteError};
use crate::config;
use crate::metrics::Metrics;
use crate::object::{Key, Meta, NarClaim, Sha256};
use crate::store::Scope;
use crate::tasks::Tasks;
use disk::{Disk, Entered};
use ledger::{DiskId, Ledger};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The disk tier. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Disks(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    disks: Vec<Disk>,
    ledger: Mutex<Recorded>,
    /// By folder, whose record was written there, and how many changes were in it.
    files: Mutex<BTreeMap<String, (DiskId, u64)>>,
    metrics: Metrics,
    tasks: Tasks,
}

/// The ledger, and how often what it says of debts has changed.
#[derive(Debug, Default)]
struct Recorded {
    ledger: Ledger,
    changes: u64,
}

/// What an operator is told of one disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskReport {
    /// The folder, as the configuration names it.
    pub path: String,
    /// Whether it takes objects, and what is wrong.
    pub health: Health,
}

impl Disks {
    /// Opens or makes a store in each folder. Blocking; needs a runtime, as `Store::open` does.
    /// A disk that cannot be opened is logged and tried again later, as long as another can; where
    /// none can, that is the error.
    pub fn open(
        settings: &[config::Disk],
        metrics: Metrics,
        tasks: Tasks,
    ) -> Result<Self, OpenError> {
        let shared = Arc::new(Shared {
            disks: settings.iter().cloned().map(Disk::new).collect(),
            ledger: Mutex::default(),
            files: Mutex::default(),
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
        let mut found: Option<Stored> = None;
        let mut copies = 0;
        for (disk, Entered { store, .. }) in self.0.holding(key) {
            // One that does not answer has nothing; it has said so to the log.
            let Ok(Some(stored)) = disk.get(&store, key).await else { continue };
            if disk.owes() && self.0.is_owed(disk, key) {
                continue; // purged while it was looked up
            }
            copies += 1;
            let is_later = |than: &Stored| stored.meta.response_time > than.meta.response_time;
            if found.as_ref().is_none_or(is_later) {
                found = Some(stored);
            }
        }
        if copies > 1
            && let Some(found) = &found
        {
            let (shared, meta) = (Arc::clone(&self.0), Arc::clone(&found.meta));
            self.0.tasks.spawn("disk copies", async move {
                let tasks = shared.tasks.clone();
                let work = move || shared.drop_older(&meta);
                let _ = tasks.blocking("disk copies", work).await;
            });
        }
        found
    }

    /// Begins to write an object, as `Store::begin` does, on the first disk of its order that
    /// takes it. The error is that of its first choice.
    pub async fn begin(&self, key: &Key, length: Option<u64>) -> Result<Pending, WriteError> {
        let mut first = None;
        let mut choices: Vec<_> = self.0.choices(key).collect();
        // A disk that has just failed is asked last.
        choices.sort_by_key(|(_, Entered { store, .. })| store.0.is_in_doubt());
        for (disk, Entered { store, .. }) in choices {
            if disk.owes() {
                let detail = format!("disk {} has purges to make up for", disk.label);
                first = first.or(Some(WriteError::Refused { detail }));
                continue;
            }
            match disk.begin(&store, key, length).await {
                Ok(pending) => return Ok(pending),
                Err(error) => first = first.or(Some(error)),
            }
        }
        let no_disk = || WriteError::Refused { detail: "no disk can be used".to_owned() };
        Err(first.unwrap_or_else(no_disk))
    }

    /// What was just published counts: copies of an object that other disks have are dropped.
    /// Blocking; costs nothing where one disk has the object.
    pub fn keep_only(&self, meta: &Meta, sha256: Sha256) {
        self.0.keep_only(meta, sha256);
    }

    /// Replaces the metadata of an object as `Store::touch_meta` does, wherever it is. Where an
    /// object cannot be marked as stale, it is not served any more. Blocking.
    pub fn touch_meta(&self, key: &Key, sha256: Sha256, meta: &Meta) -> bool {
        let mut is_replaced = false;
        for (_, entered) in self.0.holding(key) {
            match entered.store.0.rewrite_meta(key.hash(), sha256, meta) {
                Ok(replaced) => is_replaced |= replaced,
                Err(_) if meta.is_invalidated => {
                    self.0.owe_one(entered.id, &Scope::Key(key.clone()));
                    self.0.write_debts();
                }
                Err(_) => {}
            }
        }
        is_replaced
    }

    /// Drops the object under `key` wherever it is, and the claim it makes, since it is there no
    /// more upstream; true where there was one. This is no purge: a disk that is out does not make
    /// up for it. Blocking.
    pub fn remove(&self, key: &Key) -> bool {
        let scope = Scope::Key(key.clone());
        let mut was_there = false;
        for (_, entered) in self.0.holding(key) {
            match entered.store.0.purge(&scope) {
                Ok(removed) => was_there |= removed > 0,
                // Written down by the watch: this is no purge, and comes by the thousand.
                Err(_) => self.0.owe_one(entered.id, &scope),
            }
        }
        was_there
    }

    /// Makes everything in `scope` go, and the claims it makes; returns the number of objects that
    /// went. Holds on disks that are out or fail: nothing in the scope is served from them before
    /// they have made up for it. Blocking.
    pub fn purge(&self, scope: &Scope) -> u64 {
        self.0.purge(scope)
    }

    /// What a stored narinfo claims about the NAR `nar`. Blocking, seldom for long.
    pub fn claim(&self, nar: &Key) -> Option<NarClaim> {
        // The claim of a narinfo that was purged must not count, and nothing says whose it is.
        let trusted = self.0.disks.iter().filter(|disk| !disk.owes());
        trusted.filter_map(Disk::answering).find_map(|entered| entered.store.claim(nar))
    }

    /// What the disks that are in hold together.
    pub fn usage(&self) -> Usage {
        let nothing =
            Usage { bytes: 0, reserved_bytes: 0, limit_bytes: 0, objects: 0, is_loaded: true };
        let usages = self.0.disks.iter().filter_map(Disk::entered).map(|e| e.store.usage());
        usages.fold(nothing, |sum, usage| Usage {
            bytes: sum.bytes.saturating_add(usage.bytes),
            reserved_bytes: sum.reserved_bytes.saturating_add(usage.reserved_bytes),
            limit_bytes: sum.limit_bytes.saturating_add(usage.limit_bytes),
            objects: sum.objects.saturating_add(usage.objects),
            is_loaded: sum.is_loaded && usage.is_loaded,
        })
    }

    /// How each disk is, in the order of the configuration.
    pub fn reports(&self) -> Vec<DiskReport> {
        let report = |disk: &Disk| DiskReport {
            path: disk.label.clone(),
            health: disk.health(self.0.owed_count(disk)),
        };
        self.0.disks.iter().map(report).collect()
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
    pub(super) fn look(&self) -> Vec<bool> {
        (0..self.0.disks.len()).map(|position| self.0.look_after(position)).collect()
    }

    /// The store of each disk that is in.
    #[cfg(test)]
    pub(super) fn stores(&self) -> Vec<super::Store> {
        self.0.disks.iter().filter_map(Disk::entered).map(|entered| entered.store).collect()
    }

    /// Waits until the eviction order of each disk that is in is loaded. Cancel safe.
    pub async fn loaded(&self) {
        for disk in &self.0.disks {
            if let Some(Entered { store, .. }) = disk.entered() {
                store.loaded().await;
            }
        }
    }
}

impl Shared {
    /// The positions of the disks, from the first choice for a key to the last; those that were
    /// never in come last.
    fn order(&self, key: &Key) -> Vec<usize> {
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
    fn choices(&self, key: &Key) -> impl Iterator<Item = (&Disk, Entered)> {
        let order = self.order(key).into_iter();
        let disks = order.filter_map(|position| self.disks.get(position));
        disks.filter_map(|disk| Some((disk, disk.answering()?)))
    }

    /// Those of them that may have the object, and may serve it.
    fn holding(&self, key: &Key) -> Vec<(&Disk, Entered)> {
        let hash = key.hash();
        let may_hold = |(rank, (_, entered)): &(usize, (&Disk, Entered))| {
            *rank == 0 || entered.store.0.space.may_hold(hash)
        };
        let holding = self.choices(key).enumerate().filter(may_hold).map(|(_, one)| one);
        holding.filter(|(disk, _)| !(disk.owes() && self.is_owed(disk, key))).collect()
    }

    fn is_owed(&self, disk: &Disk, key: &Key) -> bool {
        let recorded = self.ledger.lock();
        let owed = disk.entered().and_then(|entered| recorded.ledger.owed(entered.id));
        owed.is_some_and(|owed| owed.covers(key))
    }

    fn owed_count(&self, disk: &Disk) -> usize {
        if !disk.owes() {
            return 0;
        }
        let recorded = self.ledger.lock();
        let owed = disk.entered().and_then(|entered| recorded.ledger.owed(entered.id));
        owed.map_or(0, ledger::Owed::len)
    }

    fn keep_only(&self, meta: &Meta, sha256: Sha256) {
        if self.disks.len() == 1 {
            return;
        }
        let holding = self.holding(&meta.key);
        let hash = meta.key.hash();
        let may_hold = |(_, entered): &&(&Disk, Entered)| entered.store.0.space.may_hold(hash);
        if holding.iter().filter(may_hold).count() < 2 {
            return;
        }
        for (_, Entered { store, .. }) in holding {
            let Some(version) = store.0.version(&meta.key) else { continue };
            if (version.response_time, version.sha256) != (meta.response_time, sha256) {
                store.0.drop_insertion(hash, version.sequence);
            }
        }
    }

    /// Drops the copies of an object whose head came before this one.
    fn drop_older(&self, meta: &Meta) {
        for (_, Entered { store, .. }) in self.holding(&meta.key) {
            if let Some(version) = store.0.version(&meta.key)
                && version.response_time < meta.response_time
            {
                store.0.drop_insertion(meta.key.hash(), version.sequence);
            }
        }
    }

    fn purge(&self, scope: &Scope) -> u64 {
        let mut working = Vec::new();
        {
            let mut recorded = self.ledger.lock();
            for disk in &self.disks {
                working.extend(disk.answering().filter(|_| !disk.owes()));
            }
            let ids: Vec<_> = working.iter().map(|entered| entered.id).collect();
            if recorded.ledger.owe(scope, &ids) {
                recorded.changes += 1;
            }
            self.mark_debtors(&recorded);
        }
        let mut purged = 0_u64;
        for Entered { id, store } in working {
            match store.0.purge(scope) {
                Ok(count) => purged = purged.saturating_add(count),
                Err(_) => self.owe_one(id, scope),
            }
        }
        self.write_debts();
        purged
    }

    /// Writes down what is owed; says so where that is nowhere.
    fn write_debts(&self) {
        if self.write_records() == 0 && self.disks.iter().any(Disk::owes) {
            tracing::error!(
                "a purge could be written on no disk: it holds until this process ends; purge \
                 again after a restart"
            );
        }
    }

    /// Notes that a disk owes a purge that it was to carry out itself.
    fn owe_one(&self, id: DiskId, scope: &Scope) {
        let mut recorded = self.ledger.lock();
        if recorded.ledger.owe_one(id, scope) {
            recorded.changes += 1;
        }
        self.mark_debtors(&recorded);
    }

    fn mark_debtors(&self, recorded: &Recorded) {
        for disk in &self.disks {
            if let Some(Entered { id, .. }) = disk.entered() {
                disk.set_owed(recorded.ledger.owed(id));
            }
        }
    }
}
