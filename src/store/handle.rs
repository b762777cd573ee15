//! The store of one disk as its tier has it: opened, asked to reserve space and to begin parts, and
//! looked at. Cloning shares it; the folder is unlocked when the last clone and the last object
//! that is received are gone.

use crate::config;
use crate::metrics::Metrics;
use crate::object::{Key, Meta};
use crate::store::background;
use crate::store::check::fsck::{self, CheckStart};
use crate::store::check::report::Mode;
use crate::store::check::scrub::{self, Scrubber};
use crate::store::disk_store::DiskStore;
use crate::store::disks::health::DiskHealth;
use crate::store::error::{IndexError, OpenError, WriteError};
use crate::store::eviction::accounting::{DiskUsage, Displaces, Reservation};
use crate::store::eviction::reserve;
use crate::store::folder::Folder;
use crate::store::format;
use crate::store::import;
use crate::store::index::{Index, Keyspaces};
use crate::store::lanes::PATIENCE;
use crate::store::part::{self, OpenParts, Part};
use crate::store::probe;
use crate::store::recover;
use crate::store::tier_share::TierShare;
use crate::tasks::Tasks;
use bytes::Bytes;
use std::sync::Arc;
use tokio::time::Instant;

/// The store of one disk. Cloning shares it; the folder is unlocked when the last clone and the
/// last [`ObjectWriter`](super::ObjectWriter) are gone.
#[derive(Debug, Clone)]
pub(super) struct Store {
    pub(super) disk: Arc<DiskStore>,
    pub(super) open_parts: Arc<OpenParts>,
}

/// Bytes of memory that the index takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexMemory {
    /// The eviction order, with what it remembers of objects that left.
    pub order_bytes: u64,
    /// Which keys there may be anything of.
    pub keys_bytes: u64,
    /// What was read from the key-value store, its filters among it.
    pub cache_bytes: u64,
    /// What is in its journal and not in its tables yet.
    pub unwritten_bytes: u64,
}

impl Store {
    /// Opens or makes the store in `disk.path`, with `disk.size` bytes as its limit. Blocking;
    /// needs a runtime, since it begins to load the eviction order and to sync in the background.
    /// Look-ups work at once. Changes nothing in a folder that is not a store of this format.
    pub(super) fn open(
        tier: TierShare,
        disk: &config::Disk,
        metrics: Metrics,
        tasks: &Tasks,
    ) -> Result<Self, OpenError> {
        let folder = Folder::open(&disk.path)?;
        let index = Index::open(&folder.index_path())?;
        let path = folder.path().to_owned();
        let failed = |source: IndexError| OpenError::Index { path, source };
        let store = DiskStore::assemble(disk, tier, folder, index, metrics, tasks)?;
        recover::finish_links(&store.catalog).map_err(failed)?;
        let tasks = &store.lanes.background;
        tasks.spawn(
            "store load",
            recover::load(Arc::downgrade(&store), store.lanes.leaving.clone()),
        );
        tasks.spawn(
            "store presence",
            background::keep_key_filter(Arc::downgrade(&store), store.lanes.leaving.clone()),
        );
        let syncing = background::sync_often(Arc::downgrade(&store), tasks.stopping());
        tasks.spawn("store sync", syncing);
        tasks.spawn(
            "store free",
            background::free_often(Arc::downgrade(&store), store.lanes.leaving.clone()),
        );
        if !disk.scrub_pass.is_zero() {
            let stop = store.lanes.leaving.clone();
            let scrubber = Scrubber { pass: disk.scrub_pass, rate: disk.scrub_rate, stop };
            tasks.spawn("store scrub", scrub::run(Arc::downgrade(&store), scrubber));
        }
        let probing = probe::probe_when_in_doubt(Arc::downgrade(&store), tasks.stopping());
        tasks.spawn("store probe", probing);
        Ok(Self { disk: store, open_parts: Arc::default() })
    }

    /// Promises the first space of an object of `length` bytes, if that is known, for which others
    /// go as far as it displaces them. Refuses an object that never fits, and every object for a
    /// while after repeated errors of the disk.
    pub(super) async fn reserve(
        &self,
        key: &Key,
        length: Option<u64>,
        displaces: Displaces,
    ) -> Result<Reservation, WriteError> {
        let (store, hash) = (Arc::clone(&self.disk), key.hash());
        let catalog = &self.disk.catalog;
        let charge = format::charge(length.unwrap_or(format::INLINE_BYTES_MAX - 1));
        catalog.admit()?;
        catalog.fits(charge)?;
        let first = charge.min(catalog.accounting.step());
        if let Some(reservation) = reserve::reserve_at_once(catalog, first, displaces) {
            return Ok(reservation);
        }
        let work = move || {
            let reserved = store.reserve.reserve(&store.catalog, first, displaces);
            reserved.inspect_err(|error| store.catalog.write_failed(error))
        };
        let reserved = self.disk.lanes.changes.blocking_for("store begin", PATIENCE, work).await;
        reserved?.inspect_err(|error| catalog.not_stored(error, hash, length.unwrap_or_default()))
    }

    /// Notes that the object of an insertion was used in another tier that keeps it too, so that it
    /// stays here too; false if that was not noted, since the order is busy. Never waits.
    pub(super) fn touch(&self, sequence: u64) -> bool {
        self.disk.catalog.accounting.touch(sequence)
    }

    /// What the index keeps in memory. Takes some microseconds.
    pub(super) fn memory(&self) -> IndexMemory {
        let access = self.disk.catalog.index.access();
        let (cache_bytes, unwritten_bytes) = access.open().map_or((0, 0), Keyspaces::memory_bytes);
        IndexMemory {
            order_bytes: self.disk.catalog.accounting.memory_bytes() as u64,
            keys_bytes: self.disk.catalog.index.key_filter().memory_bytes() as u64,
            cache_bytes,
            unwritten_bytes,
        }
    }

    /// What the tier holds.
    pub(super) fn usage(&self) -> DiskUsage {
        self.disk.catalog.accounting.usage()
    }

    /// Whether the tier takes writes, and the last error where not.
    pub(super) fn health(&self) -> DiskHealth {
        let health = self.disk.catalog.health.report(Instant::now());
        DiskHealth { is_writable: self.disk.catalog.is_open(), ..health }
    }

    /// Waits until the eviction order is loaded. Cancel safe.
    pub(super) async fn loaded(&self) {
        let mut receiver = self.disk.has_loaded.subscribe();
        // The sender lives as long as this store, so there is always an answer.
        drop(receiver.wait_for(|has_loaded| *has_loaded).await);
    }

    /// Begins a part of an object; see [`part::begin_part`].
    pub(super) async fn begin_part(&self, meta: Meta, length: u64) -> Result<Part, WriteError> {
        part::begin_part(&self.disk, &self.open_parts, meta, length).await
    }

    /// Puts small objects in the store; see [`import::import`]. Blocking.
    pub(super) fn import(&self, objects: Vec<(Meta, Bytes)>) -> Result<usize, WriteError> {
        import::import(&self.disk, objects)
    }

    /// Begins to check everything beside the service; see [`fsck::begin_check`].
    pub(super) fn begin_check(&self, mode: Mode, rate: Option<u64>) -> CheckStart {
        fsck::begin_check(&self.disk, mode, rate)
    }

    /// Ends the check that goes on, if there is one.
    pub(super) fn end_check(&self) {
        self.disk.checks.stop.lock().cancel();
    }
}
