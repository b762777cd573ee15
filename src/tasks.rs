//! The one place that spawns. Every task has a name, is tracked, and hears when to stop.
//! Lives as long as the process; cloning shares; holds no lock across an await. Blocking work for a
//! resource that may hang goes through a lane of its own: see [`Tasks::lane`].

mod blocking;
mod lane;

pub use blocking::{BlockingError, sleep_blocking};
pub use lane::{Jobs, Started, step};

use blocking::start;
use futures_util::FutureExt;
use lane::Lane;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Spawns named tasks and waits for them when the process drains.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
    /// What blocking work goes through; none if nothing bounds it.
    lane: Option<Lane>,
    /// The disk of a simulation that work outside of a lane is done on.
    #[cfg(test)]
    device: u64,
}

impl Tasks {
    /// Nothing spawned yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Runs `future` to its end beside the caller. A panic in it is logged and ends it alone.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.tracker.spawn(async move {
            // What the future held is dropped with it: it is never seen half changed.
            if AssertUnwindSafe(future).catch_unwind().await.is_err() {
                #[cfg(test)]
                crate::simulation::panicked(name);
                tracing::error!(task = name, "task panicked");
            }
        })
    }

    /// The same tasks, with at most `threads` threads at once for blocking work. When a job has
    /// run for `patience` without a [`step`], its caller gives up and `jobs` is stalled. A job that
    /// waits for a thread is given up while `jobs` is stalled.
    pub fn lane(&self, jobs: &Arc<Jobs>, threads: usize, patience: Duration) -> Self {
        Self { lane: Some(Lane::new(jobs, threads, patience)), ..self.clone() }
    }

    /// The same tasks, for the disk of `jobs`. Nothing bounds their blocking work.
    #[cfg_attr(not(test), expect(unused_variables, reason = "simulations tell disks apart"))]
    pub fn beside(&self, jobs: &Jobs) -> Self {
        Self {
            lane: None,
            #[cfg(test)]
            device: jobs.device(),
            ..self.clone()
        }
    }

    /// Runs blocking work on a thread made for it and waits for the result; in a lane, no longer
    /// than its patience, which begins anew with each [`step`] of the work.
    ///
    /// Not cancel safe in the sense that the work goes on when the caller stops waiting.
    pub async fn blocking<T, F>(&self, name: &'static str, work: F) -> Result<T, BlockingError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        if let Some(lane) = &self.lane {
            return lane.run(name, lane.patience(), work).await;
        }
        let working = start(name, self.placed(work));
        working.await.map_err(|source| BlockingError::Failed { name, source })
    }

    /// The work, as work of its disk.
    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "simulations tell disks apart"))]
    fn placed<T, F>(&self, work: F) -> impl FnOnce() -> T + Send + use<T, F>
    where
        F: FnOnce() -> T + Send,
    {
        #[cfg(test)]
        let device = self.device;
        move || {
            #[cfg(test)]
            crate::simulation::jobs::on_device(device);
            work()
        }
    }

    /// The same with another patience. Outside of a lane there is no limit.
    pub async fn blocking_for<T, F>(
        &self,
        name: &'static str,
        patience: Duration,
        work: F,
    ) -> Result<T, BlockingError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        match &self.lane {
            Some(lane) => lane.run(name, patience, work).await,
            None => self.blocking(name, work).await,
        }
    }

    /// As [`Tasks::blocking`], for a caller that is not async: its thread waits, and what else the
    /// thread had to do goes on elsewhere if the runtime has more than one. In a lane that is
    /// stalled it waits for nothing. For what is rare.
    pub fn blocking_in_place<T, F>(&self, name: &'static str, work: F) -> Result<T, BlockingError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        if self.lane.as_ref().is_some_and(Lane::is_stalled) {
            return Err(BlockingError::Late { name });
        }
        match Handle::try_current() {
            Ok(runtime) if runtime.runtime_flavor() == RuntimeFlavor::MultiThread => {
                tokio::task::block_in_place(|| runtime.block_on(self.blocking(name, work)))
            }
            Ok(_) | Err(_) => Ok(work()),
        }
    }

    /// Starts blocking work on a thread made for it; it goes on whether or not it is waited for.
    pub fn start_blocking<T, F>(&self, name: &'static str, work: F) -> Started<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        match &self.lane {
            Some(lane) => lane.start(name, work),
            None => Started::unbounded(name, start(name, self.placed(work))),
        }
    }

    /// A token that is cancelled when the process begins to drain.
    pub fn stopping(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Tells every task to stop and waits for them, at most `deadline`; true when all ended.
    pub async fn drain(&self, deadline: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_drain_waits_for_tasks_that_hear_the_stop() {
        let tasks = Tasks::new();
        let stop = tasks.stopping();
        tasks.spawn("waits", async move { stop.cancelled().await });
        assert!(tasks.drain(Duration::from_secs(5)).await);
    }

    #[tokio::test]
    async fn a_panicking_task_does_not_hold_up_the_drain() {
        let tasks = Tasks::new();
        tasks.spawn("panics", async { panic!("on purpose") });
        assert!(tasks.drain(Duration::from_secs(5)).await);
    }
}
