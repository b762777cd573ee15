//! The locks of the program, under one name, so that tests may put others in their place: a
//! simulator that steps from lock to lock, a checker of all orders of steps. Lives nowhere; every
//! module that shares state with another thread takes its locks from here.

/// For statics: in no simulation a step, since others of the process share it.
pub(crate) use parking_lot::Mutex as StaticMutex;
#[cfg(not(test))]
pub(crate) use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
#[cfg(not(test))]
pub(crate) use std::sync::atomic::AtomicU64;
#[cfg(not(test))]
pub(crate) use tokio::sync::watch;
#[cfg(test)]
pub(crate) mod orders;
#[cfg(test)]
pub(crate) mod watch;

#[cfg(test)]
pub(crate) use stepped::{Condvar, Mutex, MutexGuard, RwLock, SteppedU64 as AtomicU64};

/// Locks that keys share. A number that differs from key to key, such as a part of a hash, says
/// which lock a key has.
#[derive(Debug)]
pub(crate) struct Striped<T> {
    first: Mutex<T>,
    others: Box<[Mutex<T>]>,
}

impl<T: Default> Striped<T> {
    /// This many locks, at least one.
    pub(crate) fn new(count: usize) -> Self {
        Self { first: Mutex::default(), others: (1..count).map(|_| Mutex::default()).collect() }
    }
}

impl<T> Striped<T> {
    /// The lock of the keys with this number.
    pub(crate) fn of(&self, number: u64) -> &Mutex<T> {
        let count = self.others.len() as u64 + 1;
        let at = usize::try_from(number % count).ok();
        at.and_then(|at| self.others.get(at)).unwrap_or(&self.first)
    }

    /// Every lock, always in the same order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Mutex<T>> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

/// The same locks, but on a thread that simulates, one that is held lets the jobs of that thread go
/// on.
#[cfg(test)]
mod stepped {
    use super::orders;
    use crate::simulation::{jobs, world};
    pub(crate) use parking_lot::{MutexGuard, RwLockReadGuard, RwLockWriteGuard};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;
    use tokio::time::Instant;

    /// Others may go on here.
    fn turn() {
        orders::step();
        jobs::may_lose_turn();
    }

    /// Waits until `ready` gives something; `None` if threads are real.
    fn wait_until<T>(ready: impl FnMut() -> Option<T>) -> Option<T> {
        if orders::is_checked() { orders::wait_until(ready) } else { jobs::wait_until(ready) }
    }

    /// Whether threads are anything else than real.
    fn is_stepped() -> bool {
        orders::is_checked() || world().is_some()
    }

    /// A number; each use of it is a step of the model.
    #[derive(Debug, Default)]
    pub(crate) struct SteppedU64(AtomicU64);

    impl SteppedU64 {
        pub(crate) const fn new(value: u64) -> Self {
            Self(AtomicU64::new(value))
        }

        pub(crate) fn load(&self, order: Ordering) -> u64 {
            orders::step();
            self.0.load(order)
        }

        pub(crate) fn fetch_add(&self, value: u64, order: Ordering) -> u64 {
            orders::step();
            self.0.fetch_add(value, order)
        }
    }

    #[derive(Debug, Default)]
    pub struct Mutex<T: ?Sized>(parking_lot::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(parking_lot::Mutex::new(value))
        }

        pub(crate) fn into_inner(self) -> T {
            self.0.into_inner()
        }
    }

    impl<T: ?Sized> Mutex<T> {
        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            turn();
            let free = self.0.try_lock();
            free.or_else(|| wait_until(|| self.0.try_lock())).unwrap_or_else(|| self.0.lock())
        }

        pub(crate) fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock()
        }

        pub(crate) fn get_mut(&mut self) -> &mut T {
            self.0.get_mut()
        }
    }

    /// As with the real one, no reader goes in while a writer waits.
    #[derive(Debug, Default)]
    pub(crate) struct RwLock<T: ?Sized> {
        waiting_writers: AtomicU64,
        lock: parking_lot::RwLock<T>,
    }

    impl<T> RwLock<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self { waiting_writers: AtomicU64::new(0), lock: parking_lot::RwLock::new(value) }
        }
    }

    impl<T: ?Sized> RwLock<T> {
        pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
            turn();
            let try_read = || {
                let is_free = self.waiting_writers.load(Ordering::Relaxed) == 0;
                is_free.then(|| self.lock.try_read()).flatten()
            };
            let free = try_read().or_else(|| wait_until(try_read));
            free.unwrap_or_else(|| self.lock.read())
        }

        pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
            turn();
            if let Some(free) = self.lock.try_write() {
                return free;
            }
            self.waiting_writers.fetch_add(1, Ordering::Relaxed);
            let written = wait_until(|| self.lock.try_write());
            self.waiting_writers.fetch_sub(1, Ordering::Relaxed);
            written.unwrap_or_else(|| self.lock.write())
        }
    }

    /// Counts what it was told, so that a waiting coroutine knows of it.
    #[derive(Debug, Default)]
    pub(crate) struct Condvar(parking_lot::Condvar, AtomicU64);

    /// How a wait ended.
    pub(crate) struct Waited {
        has_timed_out: bool,
    }

    impl Waited {
        pub(crate) fn timed_out(&self) -> bool {
            self.has_timed_out
        }
    }

    impl Condvar {
        pub(crate) const fn new() -> Self {
            Self(parking_lot::Condvar::new(), AtomicU64::new(0))
        }

        pub(crate) fn wait<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>) {
            if is_stepped() {
                self.wait_for(guard, Duration::from_hours(24));
            } else {
                self.0.wait(guard);
            }
        }

        pub(crate) fn wait_for<T: ?Sized>(
            &self,
            guard: &mut MutexGuard<'_, T>,
            time: Duration,
        ) -> Waited {
            if !is_stepped() {
                return Waited { has_timed_out: self.0.wait_for(guard, time).timed_out() };
            }
            let (told, end) = (self.1.load(Ordering::Relaxed), Instant::now() + time);
            let is_told = || (self.1.load(Ordering::Relaxed) != told).then_some(false);
            let ended = || is_told().or_else(|| (Instant::now() >= end).then_some(true));
            let waited = MutexGuard::unlocked(guard, || wait_until(ended));
            Waited { has_timed_out: waited.unwrap_or(true) }
        }

        pub(crate) fn notify_one(&self) {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.notify_one();
        }

        pub(crate) fn notify_all(&self) {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.notify_all();
        }
    }
}
