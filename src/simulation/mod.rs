//! What a simulation puts in the place of threads, the disk, the network and random numbers, so
//! that one seed decides everything. Compiled into unit tests alone; `simulator` drives it.
//!
//! A thread that has entered a [`World`] runs everything of one seed: a current-thread runtime with
//! paused time, and blocking work as coroutines (`jobs`) that suspend at each disk operation
//! (`disk`) and at locks. Code asks for the world of its thread; without one, as in all other
//! tests, nothing changes.

pub(crate) mod disk;
pub(crate) mod jobs;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::time::Instant;

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// Opens a connection to the scripted origin of this name.
type Connect = Box<dyn Fn(&str) -> Option<DuplexStream>>;

/// One seed's source of every choice, and what it has found.
pub(crate) struct World {
    random: Cell<u64>,
    trace: Cell<u64>,
    steps: Cell<u64>,
    is_printing: bool,
    /// When the process that lives now began, and how long those before lived.
    began: Cell<Option<Instant>>,
    past: Cell<Duration>,
    last: Cell<Duration>,
    violations: RefCell<Vec<String>>,
    connect: RefCell<Option<Connect>>,
    pub(crate) disk: disk::Disk,
}

/// Leaves the world when dropped.
pub(crate) struct Entered(());

impl World {
    /// The world of a seed; `is_printing` shows each event.
    pub(crate) fn new(seed: u64, is_printing: bool) -> Rc<Self> {
        Rc::new(Self {
            random: Cell::new(seed),
            trace: Cell::new(0xcbf2_9ce4_8422_2325),
            steps: Cell::new(0),
            is_printing,
            began: Cell::default(),
            past: Cell::default(),
            last: Cell::default(),
            violations: RefCell::default(),
            connect: RefCell::default(),
            disk: disk::Disk::default(),
        })
    }

    /// Makes it the world of this thread.
    pub(crate) fn enter(self: &Rc<Self>) -> Entered {
        WORLD.set(Some(Rc::clone(self)));
        Entered(())
    }

    /// A random number (SplitMix64).
    #[track_caller]
    pub(crate) fn random(&self) -> u64 {
        if self.is_printing && std::env::var_os("NARTHEX_SIMULATOR_DRAWS").is_some() {
            eprintln!("draw {}", std::panic::Location::caller());
        }
        let next = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A random number below `end`, which is not 0.
    #[track_caller]
    pub(crate) fn below(&self, end: u64) -> u64 {
        self.random() % end
    }

    /// True in `percent` of all cases.
    #[track_caller]
    pub(crate) fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// A random number of milliseconds within both bounds.
    #[track_caller]
    pub(crate) fn millis(&self, least: u64, most: u64) -> Duration {
        Duration::from_millis(least + self.below(most - least + 1))
    }

    /// Adds an event to the trace; `detail` must be the same in each run of the seed.
    pub(crate) fn note(&self, event: &str, detail: u64) {
        let mut hash = self.trace.get();
        for byte in event.bytes().chain(detail.to_le_bytes()) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.trace.set(hash);
        self.steps.set(self.steps.get() + 1);
        if self.is_printing {
            eprintln!("{:>10} {event} {detail}", self.now().as_millis());
        }
    }

    /// Shows a line, if events are shown.
    pub(crate) fn say(&self, line: impl FnOnce() -> String) {
        if self.is_printing {
            eprintln!("{:>10} {}", self.now().as_millis(), line());
        }
    }

    /// A process begins to live.
    pub(crate) fn begin_life(&self) {
        self.began.set(Some(Instant::now()));
    }

    /// The process has died.
    pub(crate) fn end_life(&self) {
        self.past.set(self.now());
        self.began.set(None);
    }

    /// The time since the simulation began.
    pub(crate) fn now(&self) -> Duration {
        let began = self.began.get();
        let lived = began.map_or(Duration::ZERO, |began| began.elapsed());
        self.past.get() + lived
    }

    /// The time since the simulation began, later than at every call before.
    pub(crate) fn moment(&self) -> Duration {
        let moment = self.now().max(self.last.get() + Duration::from_nanos(1));
        self.last.set(moment);
        moment
    }

    /// What all events so far come to.
    pub(crate) fn trace(&self) -> u64 {
        self.trace.get()
    }

    /// Events so far.
    pub(crate) fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// Notes that a rule was broken.
    pub(crate) fn violated(&self, what: String) {
        self.say(|| format!("VIOLATION {what}"));
        let mut violations = self.violations.borrow_mut();
        if violations.len() < 10 {
            violations.push(what);
        }
    }

    /// The runtime's thread waits for a lock that a job holds in the middle of a disk operation.
    pub(crate) fn blocked_runtime(&self, job: &str, operation: &str) {
        self.note("the runtime waits for a disk", 0);
        self.violated(format!("the runtime waits for a lock of the job {job}: {operation}"));
    }

    /// The rules that were broken.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.borrow().clone()
    }

    /// Has every connection to an origin made by `connect`.
    pub(crate) fn set_origin(&self, connect: Connect) {
        *self.connect.borrow_mut() = Some(connect);
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        WORLD.set(None);
    }
}

/// The world of this thread.
pub(crate) fn world() -> Option<Rc<World>> {
    WORLD.with_borrow(Clone::clone)
}

/// A random number of this thread's world.
pub(crate) fn random() -> Option<u64> {
    world().map(|world| world.random())
}

/// A stored object is not what was written: allowed only if a power cut took what was not synced
/// yet.
pub(crate) fn damaged(why: &str) {
    if let Some(world) = world() {
        world.note("damaged", 0);
        if !world.disk.may_damage() {
            world.violated(format!("a stored object is damaged: {why}"));
        }
    }
}

/// A task or a job has panicked.
pub(crate) fn panicked(name: &str) {
    if let Some(world) = world().filter(|world| !world.disk.is_dead()) {
        world.violated(format!("{name} panicked"));
    }
}

/// The wall clock of this thread's world, in milliseconds since the Unix epoch.
pub(crate) fn wall_clock() -> Option<i64> {
    let since = world()?.now().as_millis();
    Some(1_800_000_000_000 + i64::try_from(since).unwrap_or(0))
}

/// A connection to the origin `host`; `None` outside of a simulation.
pub(crate) fn connect(host: &str) -> Option<std::io::Result<DuplexStream>> {
    let world = world()?;
    let connect = world.connect.borrow();
    let connected = connect.as_ref().and_then(|connect| connect(host));
    Some(connected.ok_or_else(|| std::io::ErrorKind::ConnectionRefused.into()))
}
