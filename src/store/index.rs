//! The embedded key-value store beside the body files: records, small bodies, claims, links,
//! totals. One per store. Blocking: every call may read or write the disk. Locks: a short one to
//! take the handle, never held while the engine works; and the gate's.
//!
//! The engine takes no write after one that failed ([`Index::revive`] opens it again, once the disk
//! takes writes), but answers reads as before. While it flushes or compacts too slowly it lets
//! writers sleep inside a commit, and for ever where the thread that flushes has died of an error
//! of the disk. So no writer goes in unless the engine is far from that point, and no more than a
//! few at once: see [`Gate`].
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `objects` | key hash | record |
//! | `bodies` | key hash, sequence | a body below 64 KiB |
//! | `claims` | key hash of a NAR | claim |
//! | `links` | key hash, sequence | nothing: a file that may be there without a record |
//! | `state` | `totals` | totals of the last commit |

use super::error::{IndexError, OpenError};
use super::format::{self, Head, Place, Totals};
use super::gate::Gate;
use crate::object::KeyHash;
use fjall::{
    AbstractTree, Database, Keyspace, KeyspaceCreateOptions, OwnedWriteBatch, PersistMode, Slice,
};
use parking_lot::Mutex;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

const TOTALS: &str = "totals";
const MIB: u64 = 1024 * 1024;
/// How long [`Index::revive`] waits for those who still use the failed engine.
const LAST_USERS_PATIENCE: Duration = Duration::from_secs(2);
/// Memtables of a keyspace that may wait to be flushed while writers go in; at four the engine
/// lets them sleep. Those inside at once never fill two.
const SEALED_MAX: usize = 1;
/// Runs of the first level that may wait for compaction while writers go in; at thirty the engine
/// lets them sleep.
const RUNS_MAX: usize = 24;
/// Bytes of a memtable that should have been sealed long ago.
const ACTIVE_BYTES_MAX: u64 = 32 * MIB;

/// The index, open or waiting to be opened again.
#[derive(Debug)]
pub(super) struct Index {
    path: PathBuf,
    open: Mutex<Option<Arc<Open>>>,
    has_failed: AtomicBool,
    is_closed: AtomicBool,
    /// Held by the one who opens it again.
    reviving: Mutex<()>,
}

/// The open keyspaces.
pub(super) struct Open {
    database: Database,
    objects: Keyspace,
    bodies: Keyspace,
    claims: Keyspace,
    links: Keyspace,
    state: Keyspace,
    gate: Gate,
    /// Refuses every change, as an engine that has failed does.
    #[cfg(test)]
    refuses: AtomicBool,
}

/// Access to the index as it was open at one moment.
pub(super) struct Access(Option<Arc<Open>>);

/// Changes that happen together or not at all.
pub(super) struct Change<'a> {
    open: &'a Open,
    batch: OwnedWriteBatch,
}

impl Index {
    /// Opens or makes the index.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let open = Open::new(path)
            .map_err(|error| OpenError::Index { path: path.to_owned(), source: error.into() })?;
        Ok(Self {
            path: path.to_owned(),
            open: Mutex::new(Some(Arc::new(open))),
            has_failed: AtomicBool::new(false),
            is_closed: AtomicBool::new(false),
            reviving: Mutex::new(()),
        })
    }

    /// Access to the index; `Closed` while a failed one waits to be opened again.
    pub(super) fn access(&self) -> Access {
        Access(self.open.lock().clone())
    }

    /// Whether a write has failed since it was opened.
    pub(super) fn has_failed(&self) -> bool {
        self.has_failed.load(Ordering::Acquire)
    }

    /// Closes it for good: its files are closed as soon as nobody uses it, which the result tells.
    pub(super) fn close(&self) -> Weak<Open> {
        self.is_closed.store(true, Ordering::Release);
        self.mark_failed();
        let open = self.open.lock().take();
        open.map_or_else(Weak::new, |open| Arc::downgrade(&open))
    }

    /// Whether the engine still takes writes; notes where it does not.
    pub(super) fn check(&self) -> Result<(), IndexError> {
        let checked = self.access().open().and_then(Open::check);
        checked.inspect_err(|_| self.mark_failed())
    }

    /// Notes that a write failed, so that the next [`Index::revive`] opens the index again.
    pub(super) fn mark_failed(&self) {
        self.has_failed.store(true, Ordering::Release);
    }

    /// Opens the index again where a write has failed since the last time. To be called only where
    /// the disk takes writes: a failed engine still answers reads, one that cannot be opened does
    /// not. Where the failed one is still in use, it stays.
    pub(super) fn revive(&self) -> Result<(), IndexError> {
        if !self.has_failed() {
            return Ok(());
        }
        let Some(_one) = self.reviving.try_lock() else { return Err(IndexError::Closed) };
        if self.is_closed.load(Ordering::Acquire) {
            return Err(IndexError::Closed);
        }
        let taken = self.open.lock().take();
        if let Some(failed) = taken {
            let users = Arc::downgrade(&failed);
            drop(failed);
            let began = Instant::now();
            while users.strong_count() > 0 {
                if began.elapsed() > LAST_USERS_PATIENCE {
                    // Upgrading fails only where the last user has just gone.
                    *self.open.lock() = users.upgrade();
                    return Err(IndexError::Stalled);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        let open = Open::new(&self.path)?;
        if !self.is_closed.load(Ordering::Acquire) {
            *self.open.lock() = Some(Arc::new(open));
            self.has_failed.store(false, Ordering::Release);
        }
        Ok(())
    }
}

impl Access {
    /// The open index.
    pub(super) fn open(&self) -> Result<&Open, IndexError> {
        self.0.as_deref().ok_or(IndexError::Closed)
    }
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Open")
    }
}

impl Open {
    fn new(path: &Path) -> fjall::Result<Self> {
        let database = Database::builder(path)
            .cache_size(32 * MIB)
            .max_journaling_size(128 * MIB)
            .worker_threads(2)
            .max_cached_files(Some(256))
            .open()?;
        let keyspace = |name, memtable_bytes: u64| {
            database.keyspace(name, || {
                KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes)
            })
        };
        Ok(Self {
            objects: keyspace("objects", 8 * MIB)?,
            bodies: keyspace("bodies", 8 * MIB)?,
            claims: keyspace("claims", 2 * MIB)?,
            links: keyspace("links", MIB)?,
            state: keyspace("state", MIB)?,
            gate: Gate::default(),
            #[cfg(test)]
            refuses: AtomicBool::new(false),
            database,
        })
    }

    /// The record of a key, encoded.
    pub(super) fn record(&self, hash: KeyHash) -> Result<Option<Slice>, IndexError> {
        Ok(self.objects.get(hash.0)?)
    }

    /// The small body of an insertion.
    pub(super) fn body(&self, hash: KeyHash, sequence: u64) -> Result<Option<Slice>, IndexError> {
        Ok(self.bodies.get(insertion(hash, sequence))?)
    }

    /// The claim about a NAR, encoded.
    pub(super) fn claim(&self, nar: KeyHash) -> Result<Option<Slice>, IndexError> {
        Ok(self.claims.get(nar.0)?)
    }

    /// At most `max` records in the order of their hashes, from the first one after `after`.
    pub(super) fn page(
        &self,
        after: Option<KeyHash>,
        max: usize,
    ) -> Result<Vec<(KeyHash, Slice)>, IndexError> {
        page(&self.objects, after, max)
    }

    /// At most `max` claims in the order of their hashes, from the first one after `after`.
    pub(super) fn claims_page(
        &self,
        after: Option<KeyHash>,
        max: usize,
    ) -> Result<Vec<(KeyHash, Slice)>, IndexError> {
        page(&self.claims, after, max)
    }

    /// At most `max` files that may be there without a record.
    pub(super) fn links(&self, max: usize) -> Result<Vec<(KeyHash, u64)>, IndexError> {
        let mut links = Vec::new();
        for guard in self.links.iter().take(max) {
            let key = guard.key()?;
            if let Some((hash, sequence)) = key.split_first_chunk::<16>()
                && let Ok(sequence) = sequence.try_into()
            {
                links.push((KeyHash(*hash), u64::from_be_bytes(sequence)));
            }
        }
        Ok(links)
    }

    /// The totals of the last commit; zero where there are none or they cannot be read.
    pub(super) fn totals(&self) -> Result<Totals, IndexError> {
        let bytes = self.state.get(TOTALS)?;
        Ok(bytes.and_then(|bytes| format::decode_totals(&bytes).ok()).unwrap_or_default())
    }

    /// Begins changes that happen together.
    pub(super) fn change(&self) -> Change<'_> {
        Change { open: self, batch: self.database.batch() }
    }

    /// Makes every change fail from now on, until it is opened again.
    #[cfg(test)]
    pub(super) fn refuse(&self) {
        self.refuses.store(true, Ordering::Release);
    }

    /// Whether the engine still takes writes: it refuses every one after an error of its own.
    fn check(&self) -> Result<(), IndexError> {
        let _pass = self.gate.enter(|| false)?;
        Ok(self.database.persist(PersistMode::Buffer)?)
    }

    /// Whether the engine is so far behind that a writer might sleep in it.
    fn is_behind(&self) -> bool {
        let keyspaces = [&self.objects, &self.bodies, &self.claims, &self.links, &self.state];
        keyspaces.iter().any(|keyspace| {
            let tree = &keyspace.tree;
            tree.sealed_memtable_count() > SEALED_MAX
                || tree.l0_run_count() > RUNS_MAX
                || tree.active_memtable().size() > ACTIVE_BYTES_MAX
        })
    }

    /// Makes everything written so far survive a power cut.
    pub(super) fn sync(&self) -> Result<(), IndexError> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }
}

impl Change<'_> {
    /// Sets the record of a key.
    pub(super) fn set_record(&mut self, hash: KeyHash, record: &[u8]) {
        self.batch.insert(&self.open.objects, hash.0, record);
    }

    /// Sets the small body of an insertion.
    pub(super) fn set_body(&mut self, hash: KeyHash, sequence: u64, body: &[u8]) {
        self.batch.insert(&self.open.bodies, insertion(hash, sequence), body);
    }

    /// Sets the claim about a NAR.
    pub(super) fn set_claim(&mut self, nar: KeyHash, claim: &[u8]) {
        self.batch.insert(&self.open.claims, nar.0, claim);
    }

    /// Drops the claim about a NAR.
    pub(super) fn drop_claim(&mut self, nar: KeyHash) {
        self.batch.remove(&self.open.claims, nar.0);
    }

    /// Drops the record of a key.
    pub(super) fn drop_record(&mut self, hash: KeyHash) {
        self.batch.remove(&self.open.objects, hash.0);
    }

    /// Drops the body of an insertion, or notes that its file is to be removed.
    pub(super) fn drop_body(&mut self, hash: KeyHash, sequence: u64, place: Place) {
        match place {
            Place::Inline => self.batch.remove(&self.open.bodies, insertion(hash, sequence)),
            Place::File => self.set_link(hash, sequence),
        }
    }

    /// Drops the claim that an object with this head makes, where it is still the one who does.
    pub(super) fn drop_claim_of(&mut self, owner: KeyHash, head: &Head) -> Result<(), IndexError> {
        let Some(nar) = head.claims.map(KeyHash) else { return Ok(()) };
        let claim = self.open.claim(nar)?;
        if claim.is_some_and(|c| format::decode_claim(&c).is_ok_and(|(by, ..)| by == owner)) {
            self.drop_claim(nar);
        }
        Ok(())
    }

    /// Notes that the file of an insertion may be there without a record.
    pub(super) fn set_link(&mut self, hash: KeyHash, sequence: u64) {
        self.batch.insert(&self.open.links, insertion(hash, sequence), []);
    }

    /// Notes that the file of an insertion has a record, or is gone.
    pub(super) fn drop_link(&mut self, hash: KeyHash, sequence: u64) {
        self.batch.remove(&self.open.links, insertion(hash, sequence));
    }

    /// Sets the totals.
    pub(super) fn set_totals(&mut self, totals: &Totals) {
        if let Ok(bytes) = format::encode_totals(totals) {
            self.batch.insert(&self.open.state, TOTALS, bytes);
        }
    }

    /// Makes the changes: they survive a crash of the process, and a power cut after the next sync.
    /// Waits a few seconds at most for an engine that is behind.
    pub(super) fn commit(self) -> Result<(), IndexError> {
        let _pass = self.open.gate.enter(|| self.open.is_behind())?;
        #[cfg(test)]
        if self.open.refuses.load(Ordering::Acquire) {
            return Err(fjall::Error::Poisoned.into());
        }
        Ok(self.batch.commit()?)
    }
}

fn page(
    keyspace: &Keyspace,
    after: Option<KeyHash>,
    max: usize,
) -> Result<Vec<(KeyHash, Slice)>, IndexError> {
    let from = after.map_or(Bound::Unbounded, |hash| Bound::Excluded(hash.0));
    let mut entries = Vec::with_capacity(max.min(4096));
    for guard in keyspace.range::<[u8; 16], _>((from, Bound::Unbounded)).take(max) {
        let (key, value) = guard.into_inner()?;
        if let Ok(hash) = <[u8; 16]>::try_from(&*key) {
            entries.push((KeyHash(hash), value));
        }
    }
    Ok(entries)
}

fn insertion(hash: KeyHash, sequence: u64) -> [u8; 24] {
    let mut key = [0; 24];
    let (head, tail) = key.split_at_mut(16);
    head.copy_from_slice(&hash.0);
    tail.copy_from_slice(&sequence.to_be_bytes());
    key
}
