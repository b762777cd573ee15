//! Blocking work as coroutines on the thread of the runtime. Each is a task that resumes its
//! coroutine; if the work would wait (at a disk operation, at a lock that another holds) the
//! coroutine suspends, and the seed says when it goes on. Coroutines are kept for the next work of
//! the same thread.

use super::{World, world};
use generator::{Generator, Gn};
use std::cell::{Cell, RefCell};
use std::future::Future;
use std::mem::ManuallyDrop;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Sleep;

/// Words of a coroutine's stack: 1 MiB, of which only what is used is ever taken.
const STACK_WORDS: usize = 128 * 1024;
/// Steps that other jobs may take while the runtime's thread waits for a lock.
const STEPS_MAX: u32 = 100_000;

type Work = Box<dyn FnOnce() + Send>;

/// Why a coroutine is suspended.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pause {
    /// Its work is done.
    Idle,
    /// Its thread does not run just then.
    Turn,
    /// A disk operation is under way.
    Disk(&'static str),
    /// A lock is held by another, or it sleeps.
    For(Duration),
}

struct Slot {
    coroutine: Option<Generator<'static, (), Pause>>,
    pause: Pause,
    name: &'static str,
    /// The disk of the thread that it runs on; 0 if none.
    device: u64,
    waker: Option<Waker>,
}

thread_local! {
    static SLOTS: RefCell<ManuallyDrop<Vec<Slot>>> =
        const { RefCell::new(ManuallyDrop::new(Vec::new())) };
    static NEXT: Cell<Option<Work>> = const { Cell::new(None) };
    static RUNNING: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Begins `work` as a job, if this thread simulates.
pub(crate) fn start<T, F>(name: &'static str, work: F) -> Result<JoinHandle<T>, F>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    let Some(world) = world() else { return Err(work) };
    world.note(name, 0);
    let (sender, receiver) = tokio::sync::oneshot::channel();
    let work = Box::new(move || drop(sender.send(work())));
    let job = Job { slot: None, work: Some(work), name, wait: Wait::Turns(world.below(3)) };
    Ok(tokio::spawn(async move {
        job.await;
        receiver.await.unwrap_or_else(|_| panic!("the job {name} panicked"))
    }))
}

enum Wait {
    Turns(u64),
    Sleep(Pin<Box<Sleep>>),
}

struct Job {
    slot: Option<usize>,
    work: Option<Work>,
    name: &'static str,
    wait: Wait,
}

impl Future for Job {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(slot) = self.slot
                && pause_of(slot) == Pause::Idle
            {
                SLOTS.with_borrow_mut(|slots| slots[slot].waker = None);
                self.slot = None;
                return Poll::Ready(());
            }
            match &mut self.wait {
                Wait::Turns(0) => {}
                Wait::Turns(left) => {
                    *left -= 1;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Wait::Sleep(sleep) => {
                    if sleep.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                }
            }
            if let Some(work) = self.work.take() {
                self.slot = Some(begin(self.name, work, context.waker().clone()));
            }
            let pause = resume(self.slot.expect("work that has begun"));
            let world = world().expect("a job of a simulation");
            self.wait = wait(&world, pause, device_of(self.slot));
        }
    }
}

/// How long a coroutine stays suspended.
fn wait(world: &World, pause: Pause, device: u64) -> Wait {
    let time = match pause {
        Pause::Idle => return Wait::Turns(0),
        Pause::Turn => return Wait::Turns(world.below(4)),
        Pause::For(time) => time,
        Pause::Disk(_) => match world.disk.delay(world, device) {
            Some(time) => time,
            None => return Wait::Turns(world.below(4)),
        },
    };
    Wait::Sleep(Box::pin(tokio::time::sleep(time)))
}

fn pause_of(slot: usize) -> Pause {
    SLOTS.with_borrow(|slots| slots[slot].pause)
}

/// Gives `work` to a coroutine.
fn begin(name: &'static str, work: Work, waker: Waker) -> usize {
    let free = SLOTS.with_borrow(|slots| {
        slots.iter().position(|slot| slot.waker.is_none() && slot.pause == Pause::Idle)
    });
    let slot = free.unwrap_or_else(|| {
        SLOTS.with_borrow_mut(|slots| {
            let coroutine = Some(new_coroutine());
            slots.push(Slot { coroutine, pause: Pause::Idle, name, device: 0, waker: None });
            slots.len() - 1
        })
    });
    SLOTS.with_borrow_mut(|slots| {
        slots[slot].name = name;
        slots[slot].device = 0;
        slots[slot].waker = Some(waker);
        slots[slot].pause = Pause::Turn;
    });
    NEXT.set(Some(work));
    slot
}

fn new_coroutine() -> Generator<'static, (), Pause> {
    Gn::<()>::new_opt(STACK_WORDS, || {
        loop {
            if let Some(work) = NEXT.take() {
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
                if ended.is_err() {
                    super::panicked("a job");
                }
            }
            suspend(Pause::Idle);
        }
    })
}

#[expect(deprecated, reason = "a scope cannot be handed through the code that is simulated")]
fn suspend(pause: Pause) {
    generator::yield_with(pause);
}

/// Lets a coroutine run until it suspends next.
fn resume(slot: usize) -> Pause {
    let coroutine = SLOTS.with_borrow_mut(|slots| slots[slot].coroutine.take());
    let mut coroutine = coroutine.expect("a coroutine that is not running");
    let before = RUNNING.replace(Some(slot));
    let pause = coroutine.resume().expect("a coroutine never ends");
    RUNNING.set(before);
    SLOTS.with_borrow_mut(|slots| {
        slots[slot].coroutine = Some(coroutine);
        slots[slot].pause = pause;
    });
    pause
}

/// Which coroutine runs: 0 for the runtime itself.
pub(crate) fn running() -> usize {
    RUNNING.get().map_or(0, |slot| slot + 1)
}

fn device_of(slot: Option<usize>) -> u64 {
    slot.map_or(0, |slot| SLOTS.with_borrow(|slots| slots[slot].device))
}

/// The disk of the thread that runs this code; 0 if none.
pub(crate) fn device() -> u64 {
    device_of(RUNNING.get())
}

/// The running code is on a thread of this disk from now on.
pub(crate) fn on_device(device: u64) {
    if let Some(slot) = RUNNING.get() {
        SLOTS.with_borrow_mut(|slots| slots[slot].device = device);
    }
}

/// A disk operation begins or ends: others may go on meanwhile.
pub(crate) fn at_disk(operation: &'static str) {
    if RUNNING.get().is_some() {
        suspend(Pause::Disk(operation));
    }
}

/// The thread may lose its turn here.
pub(crate) fn may_lose_turn() {
    if RUNNING.get().is_some()
        && let Some(world) = world()
        && world.chance(10)
    {
        suspend(Pause::Turn);
    }
}

/// Sleeps, if this thread simulates.
pub(crate) fn sleep(time: Duration) -> bool {
    let is_running = RUNNING.get().is_some();
    if is_running {
        suspend(Pause::For(time));
    }
    is_running
}

/// Waits until `ready` gives something: for a lock, or for a condition. `None` outside of a
/// simulation.
pub(crate) fn wait_until<T>(mut ready: impl FnMut() -> Option<T>) -> Option<T> {
    let world = world()?;
    let mut pause = Duration::from_millis(1);
    for _ in 0..STEPS_MAX {
        if let Some(result) = ready() {
            return Some(result);
        }
        if RUNNING.get().is_some() {
            suspend(Pause::For(pause));
            pause = (pause * 2).min(Duration::from_millis(64));
        } else {
            run_another(&world);
        }
    }
    panic!("a lock or a condition is waited for without end")
}

/// The runtime's own thread waits: lets a job take a step. What waits for the disk comes last, and
/// breaks a rule: no client waits for that.
fn run_another(world: &World) {
    let of = |wanted: fn(Pause) -> bool| -> Vec<usize> {
        SLOTS.with_borrow(|slots| {
            let waiting = slots.iter().enumerate().filter(|(_, slot)| wanted(slot.pause));
            waiting.map(|(at, _)| at).collect()
        })
    };
    let mut chosen = of(|pause| pause == Pause::Turn);
    if chosen.is_empty() {
        chosen = of(|pause| matches!(pause, Pause::Disk(_)));
        if let Some(first) = chosen.first() {
            let (name, pause) =
                SLOTS.with_borrow(|slots| (slots[*first].name, slots[*first].pause));
            world.blocked_runtime(name, &format!("{pause:?}"));
        }
    }
    if chosen.is_empty() {
        chosen = of(|pause| matches!(pause, Pause::For(_)));
    }
    assert!(!chosen.is_empty(), "the runtime's thread waits for a lock that it holds itself");
    step(chosen[usize::try_from(world.below(chosen.len() as u64)).unwrap_or(0)]);
}

/// Lets a job take a step out of its turn.
fn step(slot: usize) {
    if resume(slot) == Pause::Idle {
        let waker = SLOTS.with_borrow_mut(|slots| slots[slot].waker.clone());
        waker.iter().for_each(Waker::wake_by_ref);
    }
}

/// Whether no job is under way.
pub(crate) fn are_idle() -> bool {
    SLOTS.with_borrow(|slots| slots.iter().all(|slot| slot.pause == Pause::Idle))
}

/// Runs every job to its end, as when the process dies and the disk does nothing any more.
pub(crate) fn finish_all() {
    for _ in 0..STEPS_MAX {
        let open = SLOTS.with_borrow(|slots| {
            slots.iter().position(|slot| slot.pause != Pause::Idle && slot.coroutine.is_some())
        });
        let Some(_) = open else { break };
        let all: Vec<usize> = SLOTS.with_borrow(|slots| {
            let open = slots.iter().enumerate().filter(|(_, slot)| slot.pause != Pause::Idle);
            open.map(|(at, _)| at).collect()
        });
        all.into_iter().for_each(step);
    }
    SLOTS.with_borrow_mut(|slots| slots.iter_mut().for_each(|slot| slot.waker = None));
}
