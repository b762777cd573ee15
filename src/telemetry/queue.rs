//! A bounded queue and one thread that writes what is put into it, so that what is written to never
//! holds up what writes: the access log and the diagnostic log. One for each log, as long lived as
//! it; sending takes no lock of its own.

use crate::sync::Mutex;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Puts items into the queue.
#[derive(Debug)]
pub(super) struct WriterQueue<T> {
    items: SyncSender<T>,
    ended: Mutex<Receiver<()>>,
}

/// What did not fit into the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueFull;

impl<T: Send + 'static> WriterQueue<T> {
    /// Starts `write`, which gets what is queued until nothing can be put in any more, on a thread
    /// called `name`. At most `items_max` wait for it.
    pub(super) fn start(
        name: &str,
        items_max: usize,
        write: impl FnOnce(&Receiver<T>) + Send + 'static,
    ) -> io::Result<Self> {
        let (items, queued) = sync_channel(items_max);
        let (end, ended) = sync_channel(1);
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            write(&queued);
            // Nothing waits any more if this fails.
            let _ = end.send(());
        })?;
        Ok(Self { items, ended: Mutex::new(ended) })
    }

    /// Puts `item` in, if there is room; never waits.
    pub(super) fn send(&self, item: T) -> Result<(), QueueFull> {
        self.items.try_send(item).map_err(|_| QueueFull)
    }

    /// Lets the thread write what is queued and end, for at most `deadline`; whether it did.
    /// Blocking.
    pub(super) fn end(self, deadline: Duration) -> bool {
        drop(self.items);
        self.ended.into_inner().recv_timeout(deadline).is_ok()
    }
}
