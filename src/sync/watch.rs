//! As `tokio::sync::watch`, as far as it is used, but the receivers wake in the same order each
//! time: tokio draws that from a generator which no seed reaches. Compiled into unit tests alone.

use super::orders;
use parking_lot::{RwLock, RwLockReadGuard};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

#[derive(Debug)]
struct WatchedValue<T> {
    value: RwLock<T>,
    is_closed: AtomicBool,
    changed: Notify,
}

/// Sets the value.
#[derive(Debug)]
pub(crate) struct Sender<T>(Arc<WatchedValue<T>>);

/// Sees the value.
#[derive(Debug)]
pub(crate) struct Receiver<T>(Arc<WatchedValue<T>>);

/// The sender is gone.
#[derive(Debug)]
pub(crate) struct SenderClosed;

/// Both ends.
pub(crate) fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Sender<T> {
    pub(crate) fn new(value: T) -> Self {
        let (value, is_closed) = (RwLock::new(value), AtomicBool::new(false));
        Self(Arc::new(WatchedValue { value, is_closed, changed: Notify::new() }))
    }

    pub(crate) fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.0.value.read()
    }

    pub(crate) fn subscribe(&self) -> Receiver<T> {
        Receiver(Arc::clone(&self.0))
    }

    pub(crate) fn send_replace(&self, value: T) -> T {
        orders::step();
        let before = std::mem::replace(&mut *self.0.value.write(), value);
        self.0.changed.notify_waiters();
        before
    }

    pub(crate) fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        orders::step();
        let is_modified = modify(&mut self.0.value.write());
        if is_modified {
            self.0.changed.notify_waiters();
        }
        is_modified
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.is_closed.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
    }
}

impl<T> Receiver<T> {
    pub(crate) fn borrow(&self) -> RwLockReadGuard<'_, T> {
        self.0.value.read()
    }

    pub(crate) async fn wait_for(
        &mut self,
        mut is_it: impl FnMut(&T) -> bool,
    ) -> Result<RwLockReadGuard<'_, T>, SenderClosed> {
        loop {
            let changed = self.0.changed.notified();
            orders::step();
            let is_closed = self.0.is_closed.load(Ordering::Acquire);
            if is_it(&self.0.value.read()) {
                return Ok(self.0.value.read());
            }
            if is_closed {
                return Err(SenderClosed);
            }
            changed.await;
        }
    }
}
