//! What goes from every disk: purges, what is gone upstream, and what is superseded. The module
//! above says why a purge holds. Called by `cache` alone.

use crate::object::{Insertion, Key};
use crate::store::disk_store::DiskStore;
use crate::store::disks::Disks;
use crate::store::disks::disk::{OpenDisk, TierDisk};
use crate::store::disks::ledger::DiskId;
use crate::store::disks::tier::{DiskTier, PURGE_PATIENCE, change_all};
use crate::store::lanes::PATIENCE;
use crate::store::remove::Published;
use crate::store::scope::{PurgeHold, PurgeOutcome, Purging, Scope};
use futures_util::future::join_all;
use std::sync::Arc;

impl Disks {
    /// What was just published counts: what is older goes from the other disks that take writes, as
    /// [`Catalog::supersede`](crate::store::catalog::Catalog::supersede) says. Costs no thread if
    /// no disk may have anything of it.
    pub async fn supersede(&self, published: &Published) {
        let (key, hash) = (&published.key, published.key.hash());
        // Also if a disk does not answer now, or cannot drop what it has.
        for entered in self.0.disks.iter().filter_map(TierDisk::entered) {
            entered.store.disk.catalog.recent.forget(hash);
        }
        let primary = key.primary().hash();
        let may_hold = |(_, entered): &(&TierDisk, OpenDisk)| {
            let catalog = &entered.store.disk.catalog;
            if !catalog.is_open() {
                return false;
            }
            let may_hold =
                || !catalog.lacks(hash) || (published.may_vary && !catalog.lacks(primary));
            published.disk != Some(catalog.tier.disk) && may_hold()
        };
        let choices: Vec<_> = self.0.choices(key).filter(may_hold).collect();
        let published = published.clone();
        let supersede = move |store: &Arc<DiskStore>| store.catalog.supersede(&published);
        // One that fails has noted it, and serves what it has by its own lifetime.
        change_all(&choices, "store supersede", PATIENCE, supersede).await;
    }

    /// The same on the disk that it is on. Blocking: to be called on the threads of that disk.
    pub fn supersede_here(&self, published: &Published) {
        let disk = published.disk.and_then(|disk| self.0.disks.get(usize::from(disk)));
        if let Some(OpenDisk { store, .. }) = disk.and_then(TierDisk::entered) {
            store.disk.catalog.supersede(published);
        }
    }

    /// Drops an insertion that is not to be served, if it is still there. Blocking: to be called on
    /// the threads of its disk.
    pub fn drop_insertion(&self, key: &Key, insertion: Insertion) {
        let disk = self.0.disks.get(usize::from(insertion.disk)).and_then(TierDisk::entered);
        if let Some(OpenDisk { store, .. }) = disk {
            store.disk.catalog.drop_insertion(key.hash(), insertion.sequence);
        }
    }

    /// Drops the object under `key` wherever it is, whole or in part, all its variants, and the
    /// claims they make, as far as they were inserted before `before`, since it is there no more
    /// upstream; true if there was one. This is no purge: a disk that is out, fails or does not
    /// answer does not make up for it, and serves what it has by its own lifetime.
    pub async fn remove(&self, key: &Key, before: u64) -> bool {
        let hash = key.hash();
        let asked = self.0.holding(hash, key);
        let remove = move |store: &Arc<DiskStore>| store.catalog.remove_before(hash, before);
        let removed = change_all(&asked, "store remove", PATIENCE, remove).await;
        // One that fails has noted it.
        removed.into_iter().any(|removed| matches!(removed, Ok(Ok(1..))))
    }

    /// Makes everything in `scope` go, and the claims it makes, or makes it stale, as `purging`
    /// says. What is made stale and is here in part goes. Holds on disks that are out, stalled or
    /// fail: nothing in the scope is served from them before they have made up for it, and then it
    /// goes. Waits for a disk that does not come further for some
    /// seconds in all: one without a step of the purge, two for the sync, one for the record.
    pub async fn purge(&self, scope: &Scope, purging: Purging) -> PurgeOutcome {
        let working = self.0.working(scope);
        let own = scope.clone();
        let purge = move |store: &Arc<DiskStore>| store.catalog.purge(&own, purging);
        let purged = change_all(&working, "store purge", PURGE_PATIENCE, purge).await;
        let settling = working.iter().zip(purged).map(async |((_, entered), purged)| {
            let count = purged.ok().and_then(Result::ok)?;
            let disk = &entered.store.disk;
            let holds = disk.syncs.sync_soon(&disk.catalog).await.ok()?;
            Some(PurgeOutcome { objects: count, holds })
        });
        let mut outcome = PurgeOutcome::of(0);
        for ((_, entered), purged) in working.iter().zip(join_all(settling).await) {
            match purged {
                Some(purged) => outcome = outcome.and(purged),
                None => self.0.owe_one(entered.id, scope),
            }
        }
        outcome.holds = outcome.holds.max(self.0.write_debts().await);
        outcome
    }
}

impl DiskTier {
    /// The disks that are to carry out a purge of `scope`; all others owe it from now on.
    fn working(&self, scope: &Scope) -> Vec<(&TierDisk, OpenDisk)> {
        let mut recorded = self.ledger.lock();
        let answering = self.disks.iter().filter_map(|disk| Some((disk, disk.answering()?)));
        let working: Vec<_> = answering.filter(|(disk, _)| !disk.owes()).collect();
        let ids: Vec<_> = working.iter().map(|(_, entered)| entered.id).collect();
        if recorded.ledger.owe(scope, &ids) {
            recorded.changes += 1;
        }
        self.mark_debtors(&recorded);
        working
    }

    /// Writes down what is owed on the disks that answer, and gives up one that has not written it
    /// in a second. Says so if it is written nowhere.
    async fn write_debts(self: &Arc<Self>) -> PurgeHold {
        if self.write_records().await > 0 || !self.disks.iter().any(TierDisk::owes) {
            return PurgeHold::Always;
        }
        tracing::error!(
            "a purge could be written on no disk: it holds until this process ends; purge again \
             after a restart"
        );
        PurgeHold::UntilRestart
    }

    /// Notes that a disk owes a purge that it was to carry out itself.
    pub(super) fn owe_one(&self, id: DiskId, scope: &Scope) {
        let mut recorded = self.ledger.lock();
        if recorded.ledger.owe_one(id, scope) {
            recorded.changes += 1;
        }
        self.mark_debtors(&recorded);
    }
}
