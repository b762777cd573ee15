//! The threads of one resource that may hang, such as a disk: how many it may have at once, and
//! whether it answers. Lives as long as the resource; a short lock, never held across I/O.
//!
//! A resource is *stalled* while a job on it is beyond its time, and answers again as soon as every
//! such job has ended: the jobs that hang are the probe, and no other is sent meanwhile. A job
//! that waits for a thread counts for nothing, and is never begun once its caller has gone.
//!
//! Never: more threads of a lane at once than it was made with, however many jobs hang.

use super::BlockingError;
use crate::sync::Mutex;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// No job runs.
const NONE: u64 = u64::MAX;

/// The jobs of a resource that run, and until when each may.
#[derive(Debug)]
pub struct Jobs {
    began: Instant,
    running: Mutex<Running>,
    /// The first moment at which one of them is beyond its time, in milliseconds since `began`.
    first: AtomicU64,
}

#[derive(Debug, Default)]
struct Running {
    /// Each with the moment until which it may run.
    until: BTreeSet<(u64, u64)>,
    next: u64,
}

impl Default for Jobs {
    fn default() -> Self {
        Self { began: Instant::now(), running: Mutex::default(), first: AtomicU64::new(NONE) }
    }
}

impl Jobs {
    /// Whether a job is beyond its time. Never waits.
    pub fn is_stalled(&self) -> bool {
        let first = self.first.load(Ordering::Acquire);
        first != NONE && first <= self.now()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(NONE - 1)
    }

    fn change(&self, change: impl FnOnce(&mut Running)) {
        let mut running = self.running.lock();
        change(&mut running);
        let first = running.until.first().map_or(NONE, |(until, _)| *until);
        self.first.store(first, Ordering::Release);
    }
}

thread_local! {
    /// The job that this thread works on.
    static CURRENT: RefCell<Option<Job>> = const { RefCell::new(None) };
}

/// Says that the job of this thread has come one step further: the time that it has begins anew.
/// Nothing outside of a lane.
pub fn step() {
    CURRENT.with_borrow(|job| {
        if let Some(job) = job {
            job.step();
        }
    });
}

/// Makes a job that of this thread, until it is dropped.
struct Working;

impl Working {
    fn on(job: Job) -> Self {
        CURRENT.set(Some(job));
        Self
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        drop(CURRENT.take());
    }
}

/// A job that runs, until it is dropped.
#[derive(Debug)]
struct Job {
    jobs: Arc<Jobs>,
    number: u64,
    patience: u64,
    until: AtomicU64,
    steps: Arc<AtomicU64>,
}

impl Job {
    fn begin(jobs: &Arc<Jobs>, patience: Duration, steps: &Arc<AtomicU64>) -> Self {
        let patience = u64::try_from(patience.as_millis()).unwrap_or(NONE / 2);
        let until = jobs.now().saturating_add(patience).min(NONE - 1);
        let mut number = 0;
        jobs.change(|running| {
            number = running.next;
            running.next += 1;
            running.until.insert((until, number));
        });
        let (jobs, steps) = (Arc::clone(jobs), Arc::clone(steps));
        Self { jobs, number, patience, until: AtomicU64::new(until), steps }
    }

    fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
        let until = self.jobs.now().saturating_add(self.patience).min(NONE - 1);
        let before = self.until.swap(until, Ordering::Relaxed);
        if before != until {
            self.jobs.change(|running| {
                running.until.remove(&(before, self.number));
                running.until.insert((until, self.number));
            });
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let until = self.until.load(Ordering::Relaxed);
        self.jobs.change(|running| {
            running.until.remove(&(until, self.number));
        });
    }
}

/// A bounded number of threads.
#[derive(Debug, Clone)]
pub(super) struct Lane {
    threads: Arc<Semaphore>,
    jobs: Arc<Jobs>,
    patience: Duration,
}

impl Lane {
    pub(super) fn new(jobs: &Arc<Jobs>, threads: usize, patience: Duration) -> Self {
        Self { threads: Arc::new(Semaphore::new(threads)), jobs: Arc::clone(jobs), patience }
    }

    pub(super) fn patience(&self) -> Duration {
        self.patience
    }

    /// Runs `work`, and gives up when `patience` has passed without a step of it.
    pub(super) async fn run<T, F>(
        &self,
        name: &'static str,
        patience: Duration,
        work: F,
    ) -> Result<T, BlockingError>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let steps = Arc::<AtomicU64>::default();
        let mut working = pin!(self.begin(patience, Arc::clone(&steps), work));
        let mut seen = 0;
        loop {
            if let Ok(ended) = timeout(patience, &mut working).await {
                return ended.map_err(|source| BlockingError::Failed { name, source });
            }
            let come = steps.load(Ordering::Relaxed);
            if come == seen {
                return Err(BlockingError::Late { name });
            }
            seen = come;
        }
    }

    /// Begins `work`, at once if a thread is free.
    pub(super) fn start<T, F>(&self, work: F) -> JoinHandle<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (lane, patience, steps) = (self.clone(), self.patience, Arc::default());
        if let Ok(thread) = Arc::clone(&self.threads).try_acquire_owned() {
            return tokio::task::spawn_blocking(move || {
                let _thread = thread;
                let _working = Working::on(Job::begin(&lane.jobs, patience, &steps));
                work()
            });
        }
        tokio::spawn(async move {
            match lane.begin(patience, steps, work).await {
                Ok(result) => result,
                // As if the work had been done here.
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime goes away, and this task with it.
                    Err(_) => std::future::pending().await,
                },
            }
        })
    }

    fn begin<T, F>(
        &self,
        patience: Duration,
        steps: Arc<AtomicU64>,
        work: F,
    ) -> impl Future<Output = Result<T, tokio::task::JoinError>> + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (threads, jobs) = (Arc::clone(&self.threads), Arc::clone(&self.jobs));
        async move {
            // It is never closed.
            let thread = threads.acquire_owned().await.ok();
            let work = move || {
                let _thread = thread;
                let _working = Working::on(Job::begin(&jobs, patience, &steps));
                work()
            };
            tokio::task::spawn_blocking(work).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Tasks;
    use super::*;
    use std::sync::mpsc;

    const PATIENCE: Duration = Duration::from_secs(4);

    fn lane(threads: usize) -> (Tasks, Arc<Jobs>) {
        let jobs = Arc::<Jobs>::default();
        (Tasks::new().lane(&jobs, threads, PATIENCE), jobs)
    }

    fn is_late<T>(result: &Result<T, BlockingError>) -> bool {
        matches!(result, Err(BlockingError::Late { .. }))
    }

    /// Work that hangs until the sender is dropped, and tells when it has begun.
    fn hanging() -> (mpsc::Receiver<()>, mpsc::Sender<()>, impl FnOnce() + Send + 'static) {
        let (begins, begun) = mpsc::channel();
        let (held, holds) = mpsc::channel::<()>();
        let work = move || {
            begins.send(()).unwrap();
            let _ = holds.recv();
        };
        (begun, held, work)
    }

    async fn until(what: impl Fn() -> bool) {
        while !what() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_hangs_is_given_up_and_stalls_its_resource_until_it_ends() {
        let (tasks, jobs) = lane(2);
        let (begun, held, work) = hanging();
        let waiting = tokio::spawn({
            let tasks = tasks.clone();
            async move { tasks.blocking("hangs", work).await }
        });
        until(|| begun.try_recv().is_ok()).await;
        assert!(!jobs.is_stalled());
        tokio::time::advance(PATIENCE).await;
        assert!(is_late(&waiting.await.unwrap()));
        assert!(jobs.is_stalled());
        assert_eq!(tasks.blocking("works", || 7).await.unwrap(), 7, "there is a thread left");
        assert!(jobs.is_stalled(), "the other still hangs");
        drop(held);
        until(|| !jobs.is_stalled()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_that_hang_take_no_more_threads_than_there_are() {
        let (tasks, _) = lane(2);
        let (mut held, mut begun) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (begins, holds, work) = hanging();
            drop(tasks.start_blocking(work));
            until(|| begins.try_recv().is_ok()).await;
            held.push(holds);
        }
        for _ in 0..3 {
            let (begins, holds, work) = hanging();
            let tasks = tasks.clone();
            let waiting = tokio::spawn(async move { tasks.blocking("waits", work).await });
            tokio::task::yield_now().await;
            tokio::time::advance(PATIENCE).await;
            assert!(is_late(&waiting.await.unwrap()));
            begun.push(begins);
            drop(holds);
        }
        let later = tasks.start_blocking(|| 3);
        assert!(!later.is_finished());
        held.clear();
        assert_eq!(later.await.unwrap(), 3);
        let are_gone = begun.iter().all(|begins| begins.try_recv().is_err());
        assert!(are_gone, "a job whose caller gave up is not begun");
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_comes_further_is_waited_for() {
        let (tasks, jobs) = lane(1);
        let (steps, told) = mpsc::channel::<()>();
        let (seen, reports) = mpsc::channel();
        let waiting = tokio::spawn(async move {
            let work = move || {
                for () in told {
                    step();
                    seen.send(()).unwrap();
                }
            };
            tasks.blocking_for("walks", PATIENCE, work).await
        });
        for _ in 0..5 {
            steps.send(()).unwrap();
            until(|| reports.try_recv().is_ok()).await;
            tokio::time::advance(PATIENCE.saturating_sub(Duration::from_millis(1))).await;
            assert!(!jobs.is_stalled() && !waiting.is_finished());
        }
        drop(steps);
        waiting.await.unwrap().unwrap();
    }
}
