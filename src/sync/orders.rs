//! Runs a test under a scheduler that draws another order of steps each time (`shuttle`). A step is
//! what lies between two takings of a lock of `sync`, two uses of its atomics, or two explicit
//! [`step`]s. Compiled into unit tests alone.
//!
//! A failure prints the schedule, which `shuttle::replay` runs again.

use std::cell::Cell;

thread_local! {
    static IS_CHECKED: Cell<bool> = const { Cell::new(false) };
}

/// Turns that a thread waits for a lock or a condition before that counts as for ever.
const TURNS_MAX: u32 = 100_000;

/// Runs `test` in this many orders of its steps. Its threads are those of `shuttle`.
pub(crate) fn check(orders: usize, test: impl Fn() + Send + Sync + 'static) {
    struct CheckGuard;
    impl Drop for CheckGuard {
        fn drop(&mut self) {
            IS_CHECKED.set(false);
        }
    }
    IS_CHECKED.set(true);
    let _checked = CheckGuard;
    shuttle::check_random(test, orders);
}

/// Whether this thread is in [`check`].
pub(crate) fn is_checked() -> bool {
    IS_CHECKED.get()
}

/// Another thread may go on here. Nothing outside of [`check`].
pub(crate) fn step() {
    if is_checked() {
        shuttle::thread::yield_now();
    }
}

/// Waits until `ready` gives something. `None` outside of [`check`].
pub(crate) fn wait_until<T>(mut ready: impl FnMut() -> Option<T>) -> Option<T> {
    if !is_checked() {
        return None;
    }
    for _ in 0..TURNS_MAX {
        if let Some(result) = ready() {
            return Some(result);
        }
        shuttle::thread::yield_now();
    }
    panic!("a lock or a condition is waited for without end")
}
