//! The store of one disk: its owners of state, side by side. It decides nothing: what works on a
//! store is handed the owners that it needs, and stands above this file. Lives until the last
//! handle of the store, body that is received and background job are gone.

use crate::config;
use crate::metrics::Metrics;
use crate::object::KeyHash;
use crate::store::body::MemoryWindows;
use crate::store::body::read::BodyReads;
use crate::store::catalog::Catalog;
use crate::store::check::object::Checks;
use crate::store::error::OpenError;
use crate::store::eviction::reserve::Reserve;
use crate::store::folder::Folder;
use crate::store::index::Index;
use crate::store::lanes::Lanes;
use crate::store::syncs::Syncs;
use crate::store::tier_share::TierShare;
use crate::sync::watch;
use crate::tasks::Tasks;
use std::sync::{Arc, Weak};

/// The store of one disk.
#[derive(Debug)]
pub(super) struct DiskStore {
    pub(super) reads: BodyReads,
    pub(super) windows: MemoryWindows,
    pub(super) reserve: Reserve,
    pub(super) syncs: Syncs,
    /// Whether the eviction order is loaded.
    pub(super) has_loaded: watch::Sender<bool>,
    pub(super) checks: Checks,
    pub(super) lanes: Lanes,
    /// Last: it unlocks the folder when all else is closed.
    pub(super) catalog: Catalog,
}

impl DiskStore {
    /// Puts a store together of its parts. Starts nothing, changes nothing on disk.
    pub(super) fn assemble(
        disk: &config::Disk,
        tier: TierShare,
        folder: Folder,
        index: Index,
        metrics: Metrics,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, OpenError> {
        let path = folder.path().to_owned();
        let failed = |source| OpenError::Index { path, source };
        let lanes = Lanes::new(tasks, &tier);
        let label = disk.path.display().to_string();
        let catalog =
            Catalog::new(label, disk.size, tier, folder, index, metrics).map_err(failed)?;
        let first = catalog.accounting.first_new();
        Ok(Arc::new_cyclic(|store: &Weak<Self>| {
            let store = Weak::clone(store);
            let drop_damaged = move |hash: KeyHash, sequence: u64, why: &str| {
                if let Some(store) = store.upgrade() {
                    store.catalog.drop_damaged(hash, sequence, why);
                }
            };
            Self {
                reads: BodyReads::new(lanes.reads.clone(), Arc::new(drop_damaged)),
                windows: MemoryWindows::default(),
                reserve: Reserve::default(),
                syncs: Syncs::from_insertion(first, lanes.leaving.clone()),
                has_loaded: watch::Sender::new(false),
                checks: Checks::at_rate(disk.scrub_rate),
                lanes,
                catalog,
            }
        }))
    }
}
