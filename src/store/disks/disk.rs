//! One disk: its store while it is in, why not while it is out, and whether it answers. One per
//! configured folder, as long as the process. Short locks, never across I/O or an await.
//!
//! Everything that is asked of a disk runs in the lanes of its store (see `tasks::lane`), and each
//! caller gives up after a few seconds. From then on the disk counts as stalled and is passed over
//! by every request and every purge, until all that hangs on it has ended.

use crate::config;
use crate::object::{Key, Meta};
use crate::store::body::read::Stored;
use crate::store::disk_store::DiskStore;
use crate::store::disks::health::DiskHealth;
use crate::store::disks::ledger::{DiskId, Owed};
use crate::store::error::WriteError;
use crate::store::eviction::accounting::{Displaces, Reservation};
use crate::store::handle::Store;
use crate::store::index::Keyspaces;
use crate::store::lookup;
use crate::store::part::{Part, find_part};
use crate::sync::Mutex;
use crate::tasks::{BlockingError, Jobs};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// A configured disk.
#[derive(Debug)]
pub(super) struct TierDisk {
    /// Its folder and size.
    pub(super) settings: config::Disk,
    /// The folder as the configuration names it.
    pub(super) label: String,
    state: Mutex<DiskState>,
    /// Whether it has purges to make up for; the ledger says which.
    owes: AtomicBool,
    /// What runs on it, whichever store is open there.
    pub(super) jobs: Arc<Jobs>,
    /// Held by the thread that writes its record.
    pub(super) recording: Mutex<()>,
    /// Whether it was said that it is stalled.
    is_said_stalled: AtomicBool,
}

#[derive(Debug, Default)]
struct DiskState {
    store: Option<Store>,
    /// Its name, once it was in.
    id: Option<DiskId>,
    /// The mount point of its file system when it was in.
    mount: Option<PathBuf>,
    /// Why it is out.
    fault: String,
    /// The engine of the store that was closed last.
    closed: Weak<Keyspaces>,
}

/// A disk that is in.
#[derive(Debug, Clone)]
pub(super) struct OpenDisk {
    pub(super) id: DiskId,
    pub(super) store: Store,
}

impl TierDisk {
    /// A disk that is out.
    pub(super) fn new(settings: config::Disk) -> Self {
        Self {
            label: settings.path.display().to_string(),
            settings,
            state: Mutex::default(),
            owes: AtomicBool::new(false),
            jobs: Arc::default(),
            recording: Mutex::new(()),
            is_said_stalled: AtomicBool::new(false),
        }
    }

    /// Its store and name while it is in.
    pub(super) fn entered(&self) -> Option<OpenDisk> {
        let state = self.state.lock();
        Some(OpenDisk { id: state.id?, store: state.store.clone()? })
    }

    /// Its store, if it is in and answers.
    pub(super) fn answering(&self) -> Option<OpenDisk> {
        if self.is_stalled() { None } else { self.entered() }
    }

    /// Whether something hangs on it. Never waits.
    pub(super) fn is_stalled(&self) -> bool {
        let is_stalled = self.jobs.is_stalled();
        if self.is_said_stalled.load(Ordering::Relaxed) != is_stalled
            && self.is_said_stalled.swap(is_stalled, Ordering::Relaxed) != is_stalled
        {
            let disk = &*self.label;
            if is_stalled {
                tracing::error!(disk, "disk tier: the disk does not answer; skipped until it does");
            } else {
                tracing::info!(disk, "disk tier: the disk answers again");
            }
        }
        is_stalled
    }

    /// The mount point of its file system when it was last in.
    pub(super) fn mount(&self) -> Option<PathBuf> {
        self.state.lock().mount.clone()
    }

    /// Whether the engine of the store that was closed last still works.
    pub(super) fn is_closing(&self) -> bool {
        self.state.lock().closed.strong_count() > 0
    }

    /// It is in.
    pub(super) fn enter(&self, entered: OpenDisk, mount: Option<PathBuf>) {
        let mut state = self.state.lock();
        state.mount = mount;
        state.id = Some(entered.id);
        state.store = Some(entered.store);
        state.fault.clear();
    }

    /// It is out from now on; its store is closed. Blocking.
    pub(super) fn leave(&self, fault: String) {
        let store = {
            let mut state = self.state.lock();
            state.fault = fault;
            state.store.take()
        };
        if let Some(store) = store {
            store.disk.lanes.leaving.cancel();
            let closed = store.disk.catalog.index.close();
            self.state.lock().closed = closed;
        }
    }

    /// Notes why it stays out; whether that is another reason than before.
    pub(super) fn stays_out(&self, fault: String) -> bool {
        let mut state = self.state.lock();
        let is_news = state.fault != fault;
        state.fault = fault;
        is_news
    }

    /// Why it is out; empty while it is in.
    pub(super) fn fault(&self) -> String {
        self.state.lock().fault.clone()
    }

    /// Whether it has purges to make up for.
    pub(super) fn owes(&self) -> bool {
        self.owes.load(Ordering::Acquire)
    }

    /// Notes what it has to make up for.
    pub(super) fn set_owed(&self, owed: Option<&Owed>) {
        self.owes.store(owed.is_some_and(|owed| !owed.is_empty()), Ordering::Release);
    }

    /// The object under a key; an error if the disk does not answer in time. Cancel safe.
    pub(super) async fn get(
        &self,
        store: &Store,
        key: &Key,
    ) -> Result<Option<Stored>, BlockingError> {
        let key = key.clone();
        self.read(store, "store get", move |store| lookup::find(store, &key)).await
    }

    /// The part that is kept of an object, as [`TierDisk::get`].
    pub(super) async fn part(
        &self,
        store: &Store,
        key: &Key,
    ) -> Result<Option<Part>, BlockingError> {
        let (open, key) = (Arc::clone(&store.open_parts), key.clone());
        self.read(store, "store part", move |store| find_part(store, &open, &key)).await
    }

    /// What `work` finds on it; an error if it does not answer in time. Cancel safe.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        store: &Store,
        name: &'static str,
        work: impl FnOnce(&Arc<DiskStore>) -> T + Send + 'static,
    ) -> Result<T, BlockingError> {
        let inner = Arc::clone(&store.disk);
        self.in_time(store, store.disk.lanes.reads.blocking(name, move || work(&inner)).await)
    }

    /// Has `work` change something on it; an error if it does not come further for `patience`. Then
    /// the work goes on as soon as the disk does.
    pub(super) async fn change<T: Send + 'static>(
        &self,
        store: &Store,
        name: &'static str,
        patience: Duration,
        work: impl FnOnce(&Arc<DiskStore>) -> T + Send + 'static,
    ) -> Result<T, BlockingError> {
        let inner = Arc::clone(&store.disk);
        let work = move || work(&inner);
        self.in_time(store, store.disk.lanes.changes.blocking_for(name, patience, work).await)
    }

    /// Promises the space of an object, as [`Store::reserve`] does; refused if the disk has purges
    /// to make up for, or does not answer in time.
    pub(super) async fn reserve(
        &self,
        store: &Store,
        key: &Key,
        length: Option<u64>,
        displaces: Displaces,
    ) -> Result<Reservation, WriteError> {
        self.admit()?;
        store.reserve(key, length, displaces).await
    }

    /// Begins a part of an object, as [`Store::begin_part`] does; refused as [`TierDisk::reserve`]
    /// is.
    pub(super) async fn begin_part(
        &self,
        store: &Store,
        meta: Meta,
        length: u64,
    ) -> Result<Part, WriteError> {
        self.admit()?;
        store.begin_part(meta, length).await
    }

    fn admit(&self) -> Result<(), WriteError> {
        if !self.owes() {
            return Ok(());
        }
        let detail = format!("disk {} has purges to make up for", self.label);
        Err(WriteError::Refused { detail })
    }

    fn in_time<T>(
        &self,
        store: &Store,
        answer: Result<T, BlockingError>,
    ) -> Result<T, BlockingError> {
        if let Err(error @ BlockingError::Late { .. }) = &answer {
            store.disk.catalog.count("stall");
            tracing::debug!(disk = self.label, %error, "disk tier: a job was given up");
        }
        answer
    }

    /// What an operator is told of it.
    pub(super) fn health(&self, owed: usize) -> DiskHealth {
        let Some(OpenDisk { store, .. }) = self.entered() else {
            return DiskHealth { is_writable: false, detail: self.fault() };
        };
        if self.is_stalled() {
            return DiskHealth { is_writable: false, detail: "it does not answer".to_owned() };
        }
        let health = store.health();
        if owed == 0 {
            return health;
        }
        let more = if health.detail.is_empty() { "" } else { "; " };
        let detail =
            format!("{}{more}it makes up for {owed} purges before it takes objects", health.detail);
        DiskHealth { is_writable: false, detail }
    }
}
