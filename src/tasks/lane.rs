//! The threads of one resource that may hang, such as a disk: how many it may have at once, and
//! whether it answers. Lives as long as the resource; a short lock, never held across I/O.
//!
//! A resource is *stalled* while a job on it is beyond its time, and answers again as soon as every
//! such job has ended: the jobs that hang are the probe, and no other is sent meanwhile. A job
//! that waits for a thread is waited for until the resource is stalled: a slow one is not given up.
//!
//! Never: more threads of a lane at once than it was made with, however many jobs hang.

use super::blocking::{BlockingError, start};
use crate::sync::Mutex;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

/// No job runs.
const NONE: u64 = u64::MAX;
/// The job has no thread yet.
const NOT_BEGUN: u64 = 0;

/// The jobs of a resource that run, and until when each may.
#[derive(Debug)]
pub struct Jobs {
    /// Which disk of a simulation it is.
    #[cfg(test)]
    device: u64,
    began: Instant,
    running: Mutex<RunningJobs>,
    /// The first moment at which one of them is beyond its time, in milliseconds since `began`.
    first: AtomicU64,
}

#[derive(Debug, Default)]
struct RunningJobs {
    /// Each with the moment until which it may run.
    until: BTreeSet<(u64, u64)>,
    next: u64,
}

impl Default for Jobs {
    fn default() -> Self {
        Self {
            #[cfg(test)]
            device: crate::simulation::disk::new_device(),
            began: Instant::now(),
            running: Mutex::default(),
            first: AtomicU64::new(NONE),
        }
    }
}

impl Jobs {
    /// Which disk of a simulation it is.
    #[cfg(test)]
    pub(super) fn device(&self) -> u64 {
        self.device
    }

    /// Whether a job is beyond its time. Never waits.
    pub fn is_stalled(&self) -> bool {
        let first = self.first.load(Ordering::Acquire);
        first != NONE && first <= self.now()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(NONE - 1)
    }

    fn change(&self, change: impl FnOnce(&mut RunningJobs)) {
        let mut running = self.running.lock();
        change(&mut running);
        let first = running.until.first().map_or(NONE, |(until, _)| *until);
        self.first.store(first, Ordering::Release);
    }
}

thread_local! {
    /// The job that this thread works on; in a simulation, each of its coroutines.
    static CURRENT: RefCell<BTreeMap<usize, Rc<Job>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Which coroutine of its thread this is; always the same outside of simulations.
fn coroutine() -> usize {
    #[cfg(test)]
    return crate::simulation::jobs::running();
    #[cfg(not(test))]
    0
}

/// Says that the job of this thread has come one step further: the time that it has begins anew.
/// Nothing outside of a lane.
pub fn step() {
    if let Some(job) = CURRENT.with_borrow(|jobs| jobs.get(&coroutine()).cloned()) {
        job.step();
    }
}

/// Makes a job that of this thread, until it is dropped.
struct JobScope;

impl JobScope {
    fn on(job: Job) -> Self {
        #[cfg(test)]
        crate::simulation::jobs::on_device(job.bound.jobs.device);
        CURRENT.with_borrow_mut(|jobs| jobs.insert(coroutine(), Rc::new(job)));
        Self
    }
}

impl Drop for JobScope {
    fn drop(&mut self) {
        let job = CURRENT.with_borrow_mut(|jobs| jobs.remove(&coroutine()));
        drop(job);
    }
}

/// A job that runs, until it is dropped.
#[derive(Debug)]
struct Job {
    bound: WaitBound,
    number: u64,
}

impl Job {
    fn begin(bound: WaitBound) -> Self {
        let (mut number, until) = (0, bound.deadline());
        bound.until.store(until, Ordering::Relaxed);
        bound.jobs.change(|running| {
            number = running.next;
            running.next += 1;
            running.until.insert((until, number));
        });
        Self { bound, number }
    }

    fn step(&self) {
        let until = self.bound.deadline();
        let before = self.bound.until.swap(until, Ordering::Relaxed);
        if before != until {
            self.bound.jobs.change(|running| {
                running.until.remove(&(before, self.number));
                running.until.insert((until, self.number));
            });
        }
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        let until = self.bound.until.load(Ordering::Relaxed);
        self.bound.jobs.change(|running| {
            running.until.remove(&(until, self.number));
        });
    }
}

/// How long a job is waited for. What runs it and what waits for it share this.
#[derive(Debug, Clone)]
struct WaitBound {
    jobs: Arc<Jobs>,
    patience: Duration,
    /// Until when it may run, in milliseconds as those of `jobs`, or [`NOT_BEGUN`].
    until: Arc<AtomicU64>,
}

impl WaitBound {
    fn new(jobs: &Arc<Jobs>, patience: Duration) -> Self {
        Self { jobs: Arc::clone(jobs), patience, until: Arc::new(AtomicU64::new(NOT_BEGUN)) }
    }

    fn deadline(&self) -> u64 {
        let patience = u64::try_from(self.patience.as_millis()).unwrap_or(NONE / 2);
        self.jobs.now().saturating_add(patience).clamp(NOT_BEGUN + 1, NONE - 1)
    }

    /// How much longer the job may run; `None` if it has not begun.
    fn left(&self) -> Option<Duration> {
        match self.until.load(Ordering::Relaxed) {
            NOT_BEGUN => None,
            until => Some(Duration::from_millis(until.saturating_sub(self.jobs.now()))),
        }
    }

    /// Waits for `working`, which runs the job.
    async fn wait<F: Future>(
        &self,
        name: &'static str,
        mut working: Pin<&mut F>,
    ) -> Result<F::Output, BlockingError> {
        let mut wait = self.left().unwrap_or(self.patience);
        loop {
            if let Ok(ended) = timeout(wait, working.as_mut()).await {
                return Ok(ended);
            }
            wait = match self.left() {
                Some(Duration::ZERO) => return Err(BlockingError::Late { name }),
                None if self.jobs.is_stalled() => return Err(BlockingError::Late { name }),
                left => left.unwrap_or(self.patience),
            };
        }
    }
}

/// Blocking work that has been started; it goes on whether or not it is waited for.
#[derive(Debug)]
pub struct Started<T> {
    name: &'static str,
    working: JoinHandle<T>,
    bound: Option<WaitBound>,
}

impl<T> Started<T> {
    /// Work that nothing bounds.
    pub(super) fn unbounded(name: &'static str, working: JoinHandle<T>) -> Self {
        Self { name, working, bound: None }
    }

    /// Whether it has ended.
    pub fn is_over(&self) -> bool {
        self.working.is_finished()
    }

    /// Waits for its result, as [`Tasks::blocking`](super::Tasks::blocking) does. Cancel safe.
    pub async fn ended(&mut self) -> Result<T, BlockingError> {
        let ended = match &self.bound {
            Some(bound) => bound.wait(self.name, Pin::new(&mut self.working)).await?,
            None => (&mut self.working).await,
        };
        ended.map_err(|source| BlockingError::Failed { name: self.name, source })
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

    pub(super) fn is_stalled(&self) -> bool {
        self.jobs.is_stalled()
    }

    /// Runs `work`, and gives up when it has made no step for `patience`. It is never begun once
    /// its caller has gone.
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
        let bound = WaitBound::new(&self.jobs, patience);
        let ended = bound.wait(name, pin!(self.begin(bound.clone(), work))).await?;
        ended.map_err(|source| BlockingError::Failed { name, source })
    }

    /// Begins `work`, at once if a thread is free.
    pub(super) fn start<T, F>(&self, name: &'static str, work: F) -> Started<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let bound = WaitBound::new(&self.jobs, self.patience);
        let own = Some(bound.clone());
        if let Ok(thread) = Arc::clone(&self.threads).try_acquire_owned() {
            let working = start("lane", move || {
                let _thread = thread;
                let _working = JobScope::on(Job::begin(bound));
                work()
            });
            return Started { name, working, bound: own };
        }
        let beginning = self.begin(bound, work);
        let working = tokio::spawn(async move {
            match beginning.await {
                Ok(result) => result,
                // As if the work had been done here.
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    // The runtime goes away, and this task with it.
                    Err(_) => std::future::pending().await,
                },
            }
        });
        Started { name, working, bound: own }
    }

    fn begin<T, F>(
        &self,
        bound: WaitBound,
        work: F,
    ) -> impl Future<Output = Result<T, tokio::task::JoinError>> + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let threads = Arc::clone(&self.threads);
        async move {
            // It is never closed.
            let thread = threads.acquire_owned().await.ok();
            let work = move || {
                let _thread = thread;
                let _working = JobScope::on(Job::begin(bound));
                work()
            };
            start("lane", work).await
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

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn a_thread_that_waits_in_place_gives_up_a_job_that_hangs_and_holds_up_nothing() {
        let jobs = Arc::<Jobs>::default();
        let tasks = Tasks::new().lane(&jobs, 2, Duration::from_millis(200));
        assert_eq!(tasks.blocking_in_place("works", || 7).unwrap(), 7);
        let (begun, held, work) = hanging();
        let waiting = tokio::spawn({
            let tasks = tasks.clone();
            async move { tasks.blocking_in_place("hangs", work) }
        });
        until(|| begun.try_recv().is_ok()).await;
        assert!(!waiting.is_finished(), "and this one goes on meanwhile");
        assert!(is_late(&waiting.await.unwrap()));
        assert!(is_late(&tasks.blocking_in_place("is not tried", || 7)));
        drop(held);
        until(|| !jobs.is_stalled()).await;
        assert_eq!(tasks.blocking_in_place("works again", || 7).unwrap(), 7);
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_that_hang_take_no_more_threads_than_there_are() {
        let (tasks, _) = lane(2);
        let (mut held, mut begun) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let (begins, holds, work) = hanging();
            drop(tasks.start_blocking("hangs", work));
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
        let mut later = tasks.start_blocking("later", || 3);
        assert!(!later.is_over());
        held.clear();
        assert_eq!(later.ended().await.unwrap(), 3);
        let are_gone = begun.iter().all(|begins| begins.try_recv().is_err());
        assert!(are_gone, "a job is not begun after its caller gave up");
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_waits_for_a_thread_is_given_up_once_the_resource_is_stalled() {
        let (tasks, jobs) = lane(1);
        let (steps, told) = mpsc::channel::<()>();
        let (seen, reports) = mpsc::channel();
        drop(tasks.start_blocking("walks", move || {
            for () in told {
                step();
                seen.send(()).unwrap();
            }
        }));
        let mut waiting = tasks.start_blocking("waits", || 7);
        let waiting = tokio::spawn(async move { (waiting.ended().await, waiting) });
        for _ in 0..5 {
            steps.send(()).unwrap();
            until(|| reports.try_recv().is_ok()).await;
            tokio::time::advance(PATIENCE / 2).await;
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished(), "a slow resource is waited for");
        }
        tokio::time::advance(PATIENCE).await;
        let (ended, mut waiting) = waiting.await.unwrap();
        assert!(is_late(&ended) && jobs.is_stalled());
        drop(steps);
        until(|| !jobs.is_stalled()).await;
        assert_eq!(waiting.ended().await.unwrap(), 7);
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
