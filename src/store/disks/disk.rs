//! One disk: its store while it is in, why not while it is out, and how requests are kept from
//! hanging on it. One per configured folder, as long as the process. Short locks, never across
//! I/O or an await.

use super::super::index::Open;
use super::super::read::Stored;
use super::super::space::Reservation;
use super::super::{Health, Inner, Part, Store, WriteError};
use super::ledger::{DiskId, Owed};
use crate::config;
use crate::object::{Key, Meta};
use crate::sync::Mutex;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;

/// Look-ups that one disk may keep waiting at once: far below the threads that block for all.
const LOOKUPS_MAX: usize = 96;
/// How long a request waits for a disk that does not answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a disk is passed over that did not answer.
const STALL: Duration = Duration::from_secs(30);

/// A configured disk.
#[derive(Debug)]
pub(super) struct Disk {
    /// Its folder and size.
    pub(super) settings: config::Disk,
    /// The folder as the configuration names it.
    pub(super) label: String,
    state: Mutex<State>,
    /// Whether it has purges to make up for; the ledger says which.
    owes: AtomicBool,
    lookups: Arc<Semaphore>,
    stalled_until: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct State {
    store: Option<Store>,
    /// Its name, once it was in.
    id: Option<DiskId>,
    /// Where its file system was mounted when it was in.
    mount: Option<PathBuf>,
    /// Why it is out.
    fault: String,
    /// The engine of the store that was closed last.
    closed: Weak<Open>,
}

/// A disk that is in.
#[derive(Debug, Clone)]
pub(super) struct Entered {
    pub(super) id: DiskId,
    pub(super) store: Store,
}

/// It did not answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stalled;

impl Disk {
    /// A disk that is out.
    pub(super) fn new(settings: config::Disk) -> Self {
        Self {
            label: settings.path.display().to_string(),
            settings,
            state: Mutex::default(),
            owes: AtomicBool::new(false),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            stalled_until: Mutex::new(None),
        }
    }

    /// Its store and name while it is in.
    pub(super) fn entered(&self) -> Option<Entered> {
        let state = self.state.lock();
        Some(Entered { id: state.id?, store: state.store.clone()? })
    }

    /// Its store, where it is in and answers.
    pub(super) fn answering(&self) -> Option<Entered> {
        let until = *self.stalled_until.lock();
        let is_stalled = until.is_some_and(|until| Instant::now() < until);
        if is_stalled { None } else { self.entered() }
    }

    /// Where its file system was mounted when it was last in.
    pub(super) fn mount(&self) -> Option<PathBuf> {
        self.state.lock().mount.clone()
    }

    /// Whether the engine of the store that was closed last still works.
    pub(super) fn is_closing(&self) -> bool {
        self.state.lock().closed.strong_count() > 0
    }

    /// It is in.
    pub(super) fn enter(&self, entered: Entered, mount: Option<PathBuf>) {
        let mut state = self.state.lock();
        state.mount = mount;
        state.id = Some(entered.id);
        state.store = Some(entered.store);
        state.fault.clear();
        drop(state);
        *self.stalled_until.lock() = None;
    }

    /// It is out from now on; its store is closed. Blocking.
    pub(super) fn leave(&self, fault: String) {
        let store = {
            let mut state = self.state.lock();
            state.fault = fault;
            state.store.take()
        };
        if let Some(store) = store {
            store.0.leaving.cancel();
            let closed = store.0.index.close();
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

    /// The object under a key; an error where the disk does not answer. Waits a few seconds at
    /// most. Cancel safe.
    pub(super) async fn get(&self, store: &Store, key: &Key) -> Result<Option<Stored>, Stalled> {
        let key = key.clone();
        self.ask(store, "store get", move |store| store.find(&key)).await
    }

    /// The part that is kept of an object, as [`Disk::get`].
    pub(super) async fn part(&self, store: &Store, key: &Key) -> Result<Option<Part>, Stalled> {
        let key = key.clone();
        self.ask(store, "store part", move |store| store.find_part(&key)).await
    }

    async fn ask<T: Send + 'static>(
        &self,
        store: &Store,
        name: &'static str,
        find: impl FnOnce(&Arc<Inner>) -> Option<T> + Send + 'static,
    ) -> Result<Option<T>, Stalled> {
        let asking = async {
            let place = Arc::clone(&self.lookups).acquire_owned().await.ok();
            let inner = Arc::clone(&store.0);
            let work = move || {
                // Kept by the thread, however long it hangs, not by whoever waits for it.
                let _place = place;
                find(&inner)
            };
            store.0.tasks.blocking(name, work).await.ok().flatten()
        };
        let answer = tokio::time::timeout(PATIENCE, asking).await;
        let answer = answer.map_err(|_| self.stalled(store))?;
        self.answered();
        Ok(answer)
    }

    /// Promises the space of an object, as [`Store::reserve`] does; refused if the disk has purges
    /// to make up for, or does not answer for a few seconds.
    pub(super) async fn reserve(
        &self,
        store: &Store,
        length: Option<u64>,
    ) -> Result<Reservation, WriteError> {
        self.take(store, store.reserve(length)).await
    }

    /// Begins a part of an object, as [`Store::begin_part`] does; refused as [`Disk::reserve`] is.
    pub(super) async fn begin_part(
        &self,
        store: &Store,
        meta: Meta,
        length: u64,
    ) -> Result<Part, WriteError> {
        self.take(store, store.begin_part(meta, length)).await
    }

    async fn take<T>(
        &self,
        store: &Store,
        taking: impl Future<Output = Result<T, WriteError>>,
    ) -> Result<T, WriteError> {
        if self.owes() {
            let detail = format!("disk {} has purges to make up for", self.label);
            return Err(WriteError::Refused { detail });
        }
        tokio::time::timeout(PATIENCE, taking).await.unwrap_or_else(|_| {
            let Stalled = self.stalled(store);
            Err(WriteError::Refused { detail: "the disk does not answer".to_owned() })
        })
    }

    /// Notes that it did not answer in time.
    fn stalled(&self, store: &Store) -> Stalled {
        let now = Instant::now();
        let mut until = self.stalled_until.lock();
        if until.is_none_or(|until| until < now) {
            tracing::error!(
                disk = self.label,
                "disk tier: the disk does not answer; passed over for a while"
            );
        }
        *until = Some(now + STALL);
        store.0.count("stall");
        Stalled
    }

    /// Whether it did not answer lately.
    pub(super) fn is_stalled(&self, now: Instant) -> bool {
        self.stalled_until.lock().is_some_and(|until| now < until)
    }

    /// Whether it has not answered again since it did not answer in time.
    pub(super) fn is_suspect(&self) -> bool {
        self.stalled_until.lock().is_some()
    }

    fn answered(&self) {
        let mut until = self.stalled_until.lock();
        if until.is_some_and(|until| until <= Instant::now()) {
            *until = None;
        }
    }

    /// What an operator is told of it.
    pub(super) fn health(&self, owed: usize) -> Health {
        let Some(Entered { store, .. }) = self.entered() else {
            return Health { is_writable: false, detail: self.fault() };
        };
        if self.is_stalled(Instant::now()) {
            return Health { is_writable: false, detail: "it does not answer".to_owned() };
        }
        let health = store.health();
        if owed == 0 {
            return health;
        }
        let more = if health.detail.is_empty() { "" } else { "; " };
        let detail =
            format!("{}{more}it makes up for {owed} purges before it takes objects", health.detail);
        Health { is_writable: false, detail }
    }
}
