//! The seam for faults: what a test lets happen at the steps of a store. One per store that a test
//! opens; short locks, unless a test holds a step.

use crate::object::Key;
use crate::store::Disks;
use crate::store::folder::Free;
use crate::store::part;
use crate::sync::{Condvar, Mutex};
use std::cell::RefCell;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The seam for faults: what a test lets happen at the steps of the store.
#[derive(Default)]
pub(in crate::store) struct Faults {
    /// Writes that find the disk full.
    pub(super) full: AtomicU32,
    /// Bytes of the file system that others take.
    pub(super) others: AtomicU64,
    /// Whether no probe succeeds.
    pub(super) is_out: AtomicBool,
    observer: Option<Observer>,
    /// The steps at which whatever reaches them waits.
    held: Mutex<Vec<(&'static str, Held)>>,
    /// The step at which the next thread that reaches it panics.
    panics: Mutex<Option<&'static str>>,
    /// The steps that fail, and how often they still do.
    failing: Mutex<Vec<(&'static str, u32)>>,
}

/// Those that wait at a step: how many came, and whether they may go on.
type Held = Arc<(Mutex<(usize, bool)>, Condvar)>;

/// Holds whatever reaches a step, until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold(Held);

impl Hold {
    /// How many have come.
    pub(crate) fn reached(&self) -> usize {
        self.0.0.lock().0
    }

    /// Waits until one has come. Lets no time pass.
    pub(crate) async fn until_reached(&self) {
        while self.reached() == 0 {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.0.0.lock().1 = true;
        self.0.1.notify_all();
    }
}

impl Disks {
    /// Holds whatever reaches `step` on a disk.
    pub(crate) fn hold(&self, disk: usize, step: &'static str) -> Hold {
        self.stores()[disk].disk.catalog.faults.hold(step)
    }

    /// Counts the parts of a disk again, on a thread of its own.
    pub(crate) fn count_parts_again(&self, disk: usize) -> std::thread::JoinHandle<()> {
        let store = self.stores()[disk].clone();
        store.disk.catalog.counted_parts.forget();
        std::thread::spawn(move || {
            part::count_parts(&store.disk.catalog, &store.disk.lanes.leaving).unwrap();
        })
    }

    /// How many syncs of the first disk were asked for.
    pub(crate) fn syncs_asked(&self) -> u64 {
        self.stores()[0].disk.syncs.asked()
    }

    /// Whether a disk has a record of a key, whether or not it is served.
    pub(crate) fn has_record(&self, key: &Key) -> bool {
        self.stores().iter().any(|store| {
            let access = store.disk.catalog.index.access();
            access.open().is_ok_and(|index| index.record(key.hash()).unwrap().is_some())
        })
    }
}

/// Told of every step before which, or after which, the process may be killed.
pub(super) type Observer = Arc<dyn Fn(&'static str) + Send + Sync>;

thread_local! {
    /// The observer of the stores that this thread opens.
    pub(super) static OBSERVER: RefCell<Option<Observer>> = const { RefCell::new(None) };
}

impl std::fmt::Debug for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Faults").field("full", &self.full).finish_non_exhaustive()
    }
}

impl Faults {
    /// What the test on this thread asks for.
    pub(in crate::store) fn of_this_thread() -> Self {
        Self { observer: OBSERVER.with_borrow(Clone::clone), ..Self::default() }
    }

    /// What is free beside what others take.
    pub(in crate::store) fn less(&self, free: Free) -> Free {
        let others = self.others.load(Ordering::Relaxed);
        Free { bytes: free.bytes.saturating_sub(others), ..free }
    }

    /// The store is at this step.
    pub(in crate::store) fn reach(&self, step: &'static str) {
        if let Some(observer) = &self.observer {
            observer(step);
        }
        let panics = self.panics.lock().take_if(|at| *at == step).is_some();
        assert!(!panics, "on purpose");
        let held = self.held.lock().iter().find(|(at, _)| *at == step).map(|(_, h)| Arc::clone(h));
        if let Some(held) = held {
            let mut state = held.0.lock();
            state.0 += 1;
            while !state.1 {
                held.1.wait(&mut state);
            }
        }
    }

    /// Panics the next time that `step` is reached.
    pub(super) fn panic_once(&self, step: &'static str) {
        *self.panics.lock() = Some(step);
    }

    /// Lets `step` fail with an input or output error, so often from now on.
    pub(super) fn fail(&self, step: &'static str, times: u32) {
        let mut failing = self.failing.lock();
        failing.retain(|(at, _)| *at != step);
        failing.push((step, times));
    }

    /// What the work at this step meets.
    pub(in crate::store) fn meet(&self, step: &'static str) -> io::Result<()> {
        let mut failing = self.failing.lock();
        let Some((_, left)) = failing.iter_mut().find(|(at, left)| *at == step && *left > 0) else {
            return Ok(());
        };
        *left -= 1;
        Err(rustix::io::Errno::IO.into())
    }

    /// Holds whatever reaches `step` from now on.
    pub(in crate::store) fn hold(&self, step: &'static str) -> Hold {
        let held = Held::default();
        let mut all = self.held.lock();
        all.retain(|(at, _)| *at != step);
        all.push((step, Arc::clone(&held)));
        Hold(held)
    }

    /// What a probe meets.
    pub(in crate::store) fn probe(&self) -> io::Result<()> {
        if self.is_out.load(Ordering::Relaxed) { Err(rustix::io::Errno::IO.into()) } else { Ok(()) }
    }

    /// What the next write meets.
    pub(in crate::store) fn next(&self) -> io::Result<()> {
        let less = |left: u32| left.checked_sub(1);
        match self.full.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => Err(io::ErrorKind::StorageFull.into()),
            Err(_) => Ok(()),
        }
    }
}
