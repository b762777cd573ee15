//! The readers of what is being fetched, and how much of it has come. Shared by a flight, its
//! readers and the task that fetches; each change is one step under a watch channel's short lock,
//! so that a fetch is never ended while a reader enters.

use super::error::FillError;
use crate::sync::watch;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The readers of one fetch. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub(super) struct FillReaders(Arc<ReaderCounts>);

#[derive(Debug, Default)]
struct ReaderCounts {
    attendance: watch::Sender<Attendance>,
    /// Bytes that have come.
    received: AtomicU64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Attendance {
    count: usize,
    /// No reader may enter any more: the fetch is ended.
    is_closed: bool,
    /// The fetch needs no place among the fills any more.
    is_placeless: bool,
}

/// One reader, until it is dropped.
#[derive(Debug)]
pub(super) struct FillReader(FillReaders);

impl FillReaders {
    /// One reader more; none if the fetch is ended.
    pub(super) fn enter(&self) -> Option<FillReader> {
        let has_entered = self.0.attendance.send_if_modified(|attendance| {
            attendance.count += usize::from(!attendance.is_closed);
            !attendance.is_closed
        });
        has_entered.then(|| FillReader(self.clone()))
    }

    /// Ends the fetch if it has no reader; whether this call has ended it.
    pub(super) fn close_if_none(&self) -> bool {
        self.0.attendance.send_if_modified(|attendance| {
            let closes = attendance.count == 0 && !attendance.is_closed;
            attendance.is_closed |= closes;
            closes
        })
    }

    /// Whether the fetch is ended.
    pub(super) fn is_closed(&self) -> bool {
        self.0.attendance.borrow().is_closed
    }

    /// The fetch gives its place among the fills back, and goes on.
    pub(super) fn give_place_back(&self) {
        self.0.attendance.send_if_modified(|attendance| {
            attendance.is_placeless = true;
            true
        });
    }

    /// Waits until the fetch gives its place back. Cancel safe.
    pub(super) async fn place_given_back(&self) {
        self.when(|attendance| attendance.is_placeless).await;
    }

    /// Waits until there is no reader. Cancel safe.
    pub(super) async fn none(&self) {
        self.when(|attendance| attendance.count == 0).await;
    }

    /// Waits until there is a reader. Cancel safe.
    pub(super) async fn some(&self) {
        self.when(|attendance| attendance.count > 0).await;
    }

    /// Waits until there is no reader, and ends the fetch then.
    pub(super) async fn closed_without_any(&self) {
        while !self.is_closed() {
            self.none().await;
            self.close_if_none();
        }
    }

    /// What an origin is waited for, unless the fetch is ended before. `wait` is dropped then.
    pub(super) async fn while_open<T>(
        &self,
        wait: impl Future<Output = T>,
    ) -> Result<T, FillError> {
        tokio::select! {
            biased;
            came = wait => Ok(came),
            () = self.when(|attendance| attendance.is_closed) => Err(FillError::Unread),
        }
    }

    /// So many bytes more have come.
    pub(super) fn came(&self, bytes: u64) {
        self.0.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that have come.
    pub(super) fn received(&self) -> u64 {
        self.0.received.load(Ordering::Relaxed)
    }

    async fn when(&self, is_it: impl Fn(&Attendance) -> bool) {
        // The sender is in `self`: it is not gone before.
        drop(self.0.attendance.subscribe().wait_for(is_it).await);
    }
}

impl FillReader {
    /// One of a fetch that cannot have been ended.
    pub(super) fn first(readers: &FillReaders) -> Self {
        readers.0.attendance.send_if_modified(|attendance| {
            attendance.count += 1;
            true
        });
        Self(readers.clone())
    }
}

impl Clone for FillReader {
    fn clone(&self) -> Self {
        // There is a reader, so the fetch is not ended.
        Self::first(&self.0)
    }
}

impl Drop for FillReader {
    fn drop(&mut self) {
        self.0.0.attendance.send_if_modified(|attendance| {
            attendance.count = attendance.count.saturating_sub(1);
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FAULTS.md S5.
    #[test]
    fn a_fetch_is_ended_only_without_readers_and_takes_none_then() {
        let readers = FillReaders::default();
        let first = readers.enter().unwrap();
        let second = first.clone();
        drop(first);
        assert!(!readers.close_if_none());
        drop(second);
        assert!(readers.close_if_none());
        assert!(!readers.close_if_none(), "it is ended once");
        assert!(readers.enter().is_none());
    }

    /// FAULTS.md S5.
    #[tokio::test(start_paused = true)]
    async fn a_wait_for_an_origin_ends_with_the_fetch() {
        let readers = FillReaders::default();
        assert!(matches!(readers.while_open(async { 1 }).await, Ok(1)));
        assert!(readers.close_if_none());
        let waited = readers.while_open(std::future::pending::<()>()).await;
        assert!(matches!(waited, Err(FillError::Unread)));
    }
}
