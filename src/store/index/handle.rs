//! The index as the store has it: open, or closed for a moment until it is opened again after a
//! failure. One per store. Locks: a short one to take the handle, never held while the engine
//! works.

use crate::store::error::{IndexError, OpenError};
use crate::store::index::engine;
use crate::store::index::journal;
use crate::store::index::key_filter::KeyFilter;
use crate::store::index::keyspaces::{IndexShared, Keyspaces};
use crate::sync::Mutex;
use crate::tasks;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// How long [`Index::revive`] waits for the users of the failed engine.
const LAST_USERS_PATIENCE: Duration = Duration::from_secs(2);

/// The index, open or waiting to be opened again.
#[derive(Debug)]
pub(in crate::store) struct Index {
    path: PathBuf,
    open: Mutex<Option<Arc<Keyspaces>>>,
    has_failed: AtomicBool,
    is_closed: AtomicBool,
    /// Held by the thread that opens it again.
    reviving: Mutex<()>,
    shared: IndexShared,
}

/// Access to the index as it was open at one moment.
pub(in crate::store) struct Access(Option<Arc<Keyspaces>>);

impl Index {
    /// Opens or makes the index.
    pub(in crate::store) fn open(path: &Path) -> Result<Self, OpenError> {
        let shared =
            IndexShared { key_filter: Arc::default(), changes: Arc::new(AtomicU64::new(1)) };
        journal::remove_unfinished(path);
        let open = Keyspaces::new(path, &shared, None)
            .map_err(|source| OpenError::Index { path: path.to_owned(), source })?;
        Ok(Self {
            path: path.to_owned(),
            open: Mutex::new(Some(Arc::new(open))),
            has_failed: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            reviving: Mutex::new(()),
            shared,
        })
    }

    /// Which keys it may have anything of.
    pub(in crate::store) fn key_filter(&self) -> &KeyFilter {
        &self.shared.key_filter
    }

    /// How many changes were made since the store was opened, and one for those before; each is
    /// counted when it is done.
    pub(in crate::store) fn changes(&self) -> u64 {
        self.shared.changes.load(Ordering::Acquire)
    }

    /// Access to the index; `Closed` while a failed one waits to be opened again.
    pub(in crate::store) fn access(&self) -> Access {
        Access(self.open.lock().clone())
    }

    /// Whether a write has failed since it was opened.
    pub(in crate::store) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Closes it for good: its files are closed after its last use, which the result tells.
    pub(in crate::store) fn close(&self) -> Weak<Keyspaces> {
        self.is_closed.store(true, Ordering::Release);
        self.mark_failed();
        let open = self.open.lock().take();
        open.map_or_else(Weak::new, |open| Arc::downgrade(&open))
    }

    /// Whether the engine still takes writes; notes if it does not.
    pub(in crate::store) fn check(&self) -> Result<(), IndexError> {
        let checked = self.access().open().and_then(Keyspaces::check);
        checked.inspect_err(|_| self.mark_failed())
    }

    /// Notes that a write failed, so that the next [`Index::revive`] opens the index again.
    pub(in crate::store) fn mark_failed(&self) {
        self.has_failed.store(true, Ordering::Release);
    }

    /// Opens the index again if a write has failed since the last time. To be called only if
    /// the disk takes writes: a failed engine still answers reads, one that cannot be opened does
    /// not. If the failed one is still in use, it stays. If the journal cannot be written
    /// anew, it is opened all the same, so that what makes room can go, and no sync succeeds.
    pub(in crate::store) fn revive(&self) -> Result<(), IndexError> {
        if !self.has_failed() {
            return Ok(());
        }
        let Some(_one) = self.reviving.try_lock() else { return Err(IndexError::Closed) };
        if self.is_closed.load(Ordering::Acquire) {
            return Err(IndexError::Closed);
        }
        let taken = self.open.lock().take();
        if let Some(mut failed) = taken {
            let began = Instant::now();
            // What is dropped here is closed behind it.
            while let Err(used) = Arc::try_unwrap(failed) {
                if began.elapsed() > LAST_USERS_PATIENCE {
                    *self.open.lock() = Some(used);
                    return Err(IndexError::Stalled);
                }
                failed = used;
                tasks::sleep_blocking(Duration::from_millis(5));
            }
        }
        let rewritten = engine::rewrite_journal(&self.path);
        let in_doubt = rewritten.err().map(|error| error.to_string());
        let open = Keyspaces::new(&self.path, &self.shared, in_doubt)?;
        self.shared.key_filter.forget();
        if !self.is_closed.load(Ordering::Acquire) {
            *self.open.lock() = Some(Arc::new(open));
            self.has_failed.store(false, Ordering::Release);
        }
        Ok(())
    }
}

impl Access {
    /// The open index.
    pub(in crate::store) fn open(&self) -> Result<&Keyspaces, IndexError> {
        self.0.as_deref().ok_or(IndexError::Closed)
    }
}
