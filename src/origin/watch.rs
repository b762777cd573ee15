//! The tasks that look after an origin without a request: one that probes it while its breaker is
//! not closed, one while it says nothing, and one while it is idle. Each runs once at most, and
//! hears the stop of the process. `upstream` gives them their work.

use crate::tasks::Tasks;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};

/// The tasks of one origin.
#[derive(Debug)]
pub(super) struct OriginWatch {
    tasks: Tasks,
    is_mending: AtomicBool,
    is_watching: AtomicBool,
    is_listening: AtomicBool,
}

impl OriginWatch {
    /// No task yet.
    pub(super) fn new(tasks: Tasks) -> Self {
        let new = || AtomicBool::new(false);
        Self { tasks, is_mending: new(), is_watching: new(), is_listening: new() }
    }

    /// Begins `mending`, which probes an origin that is left alone, unless another one goes on.
    pub(super) fn mend(&self, mending: impl Future<Output = ()> + Send + 'static) {
        if !self.is_mending.swap(true, Ordering::AcqRel) {
            self.spawn("origin probe", mending);
        }
    }

    /// Notes that mending is over.
    pub(super) fn mended(&self) {
        self.is_mending.store(false, Ordering::Release);
    }

    /// Notes that mending goes on after all; false if another task does it.
    pub(super) fn mends_on(&self) -> bool {
        !self.is_mending.swap(true, Ordering::AcqRel)
    }

    /// Begins `watching`, which probes an origin that is idle, unless another one goes on.
    pub(super) fn watch(&self, watching: impl Future<Output = ()> + Send + 'static) {
        if !self.is_watching.swap(true, Ordering::AcqRel) {
            self.spawn("idle origin probe", watching);
        }
    }

    /// Begins `listening`, which probes an origin that says nothing, unless another one goes on.
    pub(super) fn listen(&self, listening: impl Future<Output = ()> + Send + 'static) {
        if !self.is_listening.swap(true, Ordering::AcqRel) {
            self.spawn("silent origin probe", listening);
        }
    }

    /// Notes that listening is over.
    pub(super) fn listened(&self) {
        self.is_listening.store(false, Ordering::Release);
    }

    fn spawn(&self, name: &'static str, probing: impl Future<Output = ()> + Send + 'static) {
        let stop = self.tasks.stopping();
        self.tasks.spawn(name, async move {
            let _ = stop.run_until_cancelled(probing).await;
        });
    }
}
