//! The positions of the readers of one object: a run that is fetched for them goes on as long as
//! one of them wants its next byte. One per flight; a short lock, never across an await.

use crate::fill::readers::{FillReader, FillReaders};
use crate::sync::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// How far a run goes ahead of its foremost reader, in bytes.
const AHEAD_BYTES: u64 = 16 << 20;

/// How far behind what arrives a reader may begin and still wait for it, in bytes.
pub(super) const NEAR_BYTES: u64 = 4 << 20;

/// How long a run that is ahead of its readers waits for one of them to move, in all.
const PATIENCE: Duration = Duration::from_secs(5);

/// All readers of one object.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    pub(super) readers: FillReaders,
    all: Mutex<CursorTable>,
    moved: Notify,
}

#[derive(Debug, Default)]
struct CursorTable {
    next_id: u64,
    /// The next byte that each reads, and the end of what it wants.
    places: HashMap<u64, (u64, u64)>,
}

/// A reader's place; gone when it is dropped.
#[derive(Debug)]
pub(super) struct Cursor {
    cursors: Arc<Cursors>,
    id: u64,
    _reader: FillReader,
}

/// Whether the byte at an offset is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Now,
    Later,
    Never,
}

impl Cursors {
    /// A reader that wants the bytes from `next` up to, not including, `end`; none if what is
    /// fetched is ended for want of readers.
    pub(super) fn register(self: &Arc<Self>, next: u64, end: u64) -> Option<Cursor> {
        let reader = self.readers.enter()?;
        let mut all = self.all.lock();
        let id = all.next_id;
        all.next_id += 1;
        all.places.insert(id, (next, end));
        Some(Cursor { cursors: Arc::clone(self), id, _reader: reader })
    }

    /// Whether a run that has come to `offset` should go on; waits while all readers that want its
    /// next byte are far behind. Bounded by [`PATIENCE`].
    pub(super) async fn wants(&self, offset: u64) -> bool {
        let settled = async {
            loop {
                let moved = self.moved.notified();
                match self.want(offset) {
                    Want::Now => return true,
                    Want::Never => return false,
                    Want::Later => moved.await,
                }
            }
        };
        tokio::time::timeout(PATIENCE, settled).await.unwrap_or(false)
    }

    fn want(&self, offset: u64) -> Want {
        let all = self.all.lock();
        let wanting = all
            .places
            .values()
            .filter(|(next, end)| offset < *end && *next <= offset.saturating_add(NEAR_BYTES));
        match wanting.map(|(next, _)| *next).max() {
            Some(next) if offset < next.saturating_add(AHEAD_BYTES) => Want::Now,
            Some(_) => Want::Later,
            None => Want::Never,
        }
    }
}

impl Cursor {
    /// The reader wants the bytes from `next` up to, not including, `end`.
    pub(super) fn set(&self, next: u64, end: u64) {
        self.cursors.all.lock().places.insert(self.id, (next, end));
        self.cursors.moved.notify_waiters();
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        self.cursors.all.lock().places.remove(&self.id);
        self.cursors.moved.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_follows_the_readers() {
        let cursors = Arc::new(Cursors::default());
        assert_eq!(cursors.want(0), Want::Never);
        let far = cursors.register(1 << 30, u64::MAX).unwrap();
        let near = cursors.register(100, 1000).unwrap();
        assert_eq!(cursors.want(0), Want::Now);
        assert_eq!(cursors.want(999), Want::Now);
        assert_eq!(cursors.want(1000), Want::Never);
        near.set(100, AHEAD_BYTES * 3);
        assert_eq!(cursors.want(99 + AHEAD_BYTES), Want::Now);
        assert_eq!(cursors.want(100 + AHEAD_BYTES), Want::Later);
        near.set(101, AHEAD_BYTES * 3);
        assert_eq!(cursors.want(100 + AHEAD_BYTES), Want::Now);
        drop(near);
        assert_eq!(cursors.want(0), Want::Never);
        drop(far);
        assert_eq!(cursors.want(1 << 30), Want::Never);
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_far_ahead_waits_for_its_reader_for_a_while() {
        let cursors = Arc::new(Cursors::default());
        let reader = cursors.register(0, u64::MAX).unwrap();
        assert!(cursors.wants(0).await);
        assert!(!cursors.wants(AHEAD_BYTES).await, "no reader moved");
        let waiting = {
            let cursors = Arc::clone(&cursors);
            tokio::spawn(async move { cursors.wants(AHEAD_BYTES).await })
        };
        tokio::task::yield_now().await;
        reader.set(1, u64::MAX);
        assert!(waiting.await.unwrap());
    }
}
