//! The embedded key-value store beside the body files: records, small bodies, claims, links,
//! totals. One per store. Blocking: every call may read or write the disk. Locks: a short one to
//! take the handle, never held while the engine works; and the gate's.
//!
//! The engine takes no write after one that failed ([`Index::revive`] opens it again, once the disk
//! takes writes), but answers reads as before. What a failed sync was for may be missing on the
//! disk although every later sync succeeds, so the journal is written anew in between; until that
//! succeeds, every sync fails. While it flushes or compacts too slowly it lets
//! writers sleep inside a commit, and for ever where the thread that flushes has died of an error
//! of the disk. So no writer goes in unless the engine is far from that point, and no more than a
//! few at once: see [`Gate`].
//!
//! | keyspace | key | value |
//! |---|---|---|
//! | `objects` | key hash | record, and behind it a body below 4 KiB |
//! | `order` | sequence, big-endian | key hash, charge in units of 512 bytes (little-endian) |
//! | `bodies` | key hash, sequence | a body from 4 KiB to 64 KiB |
//! | `claims` | key hash of a NAR | claim |
//! | `variants` | key hash without the variant, with it | what the variant is selected by |
//! | `tags` | tag and site, key hash | nothing: an object that its record says has the tag |
//! | `links` | key hash, sequence | nothing: a file that may be there without a record |
//! | `parts` | key hash | record of an object that is here in part, its digest left zero |
//! | `chunks` | key hash, sequence, chunk number | xxh3-64 of a chunk that is here |
//! | `state` | `totals` | totals of the last commit |
//! | `state` | `scrub` | how far the scrubber is |

mod change;
pub(super) mod engine;
mod journal;
mod options;
mod pages;
mod tags;

use super::error::{IndexError, OpenError};
use super::format::{self, Totals};
use super::gate::Gate;
use super::presence::Presence;
use crate::object::KeyHash;
use crate::sync::Mutex;
use crate::tasks;
pub(super) use change::Change;
use change::Row;
use engine::{Database, Keyspace};
use fjall::{PersistMode, Slice};
use options::{Sought, options};
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

const TOTALS: &str = "totals";
const SCRUB: &str = "scrub";
const MIB: u64 = 1024 * 1024;
/// Memory for the blocks of data that were read.
const CACHE_BYTES: u64 = 32 * MIB;
/// What the journal may hold, the least there may be: a start after a kill reads all of it before
/// the first look-up.
const JOURNAL_BYTES_MAX: u64 = 64 * MIB;
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
    shared: Shared,
}

/// What outlives the engine when the index is opened again.
#[derive(Debug, Clone)]
struct Shared {
    presence: Arc<Presence>,
    /// How many changes were made; what an earlier process has left, synced or not, counts as one.
    changes: Arc<AtomicU64>,
}

/// The open keyspaces.
pub(super) struct Open {
    database: Database,
    objects: Keyspace,
    order: Keyspace,
    bodies: Keyspace,
    claims: Keyspace,
    variants: Keyspace,
    tags: Keyspace,
    links: Keyspace,
    parts: Keyspace,
    chunks: Keyspace,
    state: Keyspace,
    gate: Gate,
    /// Held by a change of claims: two narinfos may make one of the same NAR, each under its own
    /// stripe.
    claiming: Mutex<()>,
    shared: Shared,
    /// Why its journal could not be written anew after a failure.
    in_doubt: Option<String>,
    /// Refuses every change, as an engine that has failed does.
    #[cfg(test)]
    refuses: AtomicBool,
    /// Called between the rows of a change.
    #[cfg(test)]
    torn: std::sync::OnceLock<Torn>,
}

/// What looks at an index in the middle of a change.
#[cfg(test)]
type Torn = Box<dyn Fn(&Open) + Send + Sync>;

/// Access to the index as it was open at one moment.
pub(super) struct Access(Option<Arc<Open>>);

impl Index {
    /// Opens or makes the index.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let shared = Shared { presence: Arc::default(), changes: Arc::new(AtomicU64::new(1)) };
        journal::remove_unfinished(path);
        let open = Open::new(path, &shared, None)
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
    pub(super) fn presence(&self) -> &Presence {
        &self.shared.presence
    }

    /// How many changes were made since the store was opened, and one for those before; each is
    /// counted when it is done.
    pub(super) fn changes(&self) -> u64 {
        self.shared.changes.load(Ordering::Acquire)
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
    /// not. Where the failed one is still in use, it stays. Where the journal cannot be written
    /// anew, it is opened all the same, so that what makes room can go, and no sync succeeds.
    pub(super) fn revive(&self) -> Result<(), IndexError> {
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
        let open = Open::new(&self.path, &self.shared, in_doubt)?;
        self.shared.presence.forget();
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
    /// Opens or makes the keyspaces. The engine panics over some files that are damaged: that is an
    /// error like any other here, and nothing of what it held is used.
    fn new(path: &Path, shared: &Shared, in_doubt: Option<String>) -> Result<Self, IndexError> {
        let open = || Self::try_new(path, shared, in_doubt);
        let opened = std::panic::catch_unwind(AssertUnwindSafe(open));
        Ok(opened.map_err(|_| IndexError::Panic)??)
    }

    fn try_new(path: &Path, shared: &Shared, in_doubt: Option<String>) -> fjall::Result<Self> {
        let builder = engine::builder(path)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(2)
            .max_cached_files(Some(256));
        let database = engine::open(builder, path)?;
        let keyspace = |name, memtable_bytes: u64, sought: Sought| {
            database.keyspace(name, || options(memtable_bytes, sought))
        };
        Ok(Self {
            objects: keyspace("objects", 8 * MIB, Sought::OftenInVain)?,
            order: keyspace("order", 2 * MIB, Sought::InOrder)?,
            bodies: keyspace("bodies", 8 * MIB, Sought::WhereItIs)?,
            claims: keyspace("claims", 2 * MIB, Sought::OftenInVain)?,
            variants: keyspace("variants", MIB, Sought::OftenInVain)?,
            tags: keyspace("tags", MIB, Sought::InOrder)?,
            links: keyspace("links", MIB, Sought::InOrder)?,
            parts: keyspace("parts", MIB, Sought::OftenInVain)?,
            chunks: keyspace("chunks", 4 * MIB, Sought::InOrder)?,
            state: keyspace("state", MIB, Sought::InOrder)?,
            gate: Gate::default(),
            claiming: Mutex::new(()),
            shared: shared.clone(),
            in_doubt,
            #[cfg(test)]
            refuses: AtomicBool::new(false),
            #[cfg(test)]
            torn: std::sync::OnceLock::new(),
            database,
        })
    }

    /// Bytes of memory that the engine keeps of what was read, and of what is in no table yet.
    pub(super) fn memory_bytes(&self) -> (u64, u64) {
        (self.database.cache_size(), self.database.write_buffer_size())
    }

    /// The row of a key: its record, encoded, and behind it its body, if that is its place.
    pub(super) fn record(&self, hash: KeyHash) -> Result<Option<Slice>, IndexError> {
        Ok(self.objects.get(hash.0)?)
    }

    /// The small body of an insertion that stands beside its record.
    pub(super) fn body(&self, hash: KeyHash, sequence: u64) -> Result<Option<Slice>, IndexError> {
        Ok(self.bodies.get(insertion(hash, sequence))?)
    }

    /// The claim about a NAR, encoded.
    pub(super) fn claim(&self, nar: KeyHash) -> Result<Option<Slice>, IndexError> {
        Ok(self.claims.get(nar.0)?)
    }

    /// The key of an insertion that is in the eviction order.
    pub(super) fn ordered(&self, sequence: u64) -> Result<Option<KeyHash>, IndexError> {
        let value = self.order.get(sequence.to_be_bytes())?;
        Ok(value.and_then(|value| Some(KeyHash(*value.first_chunk()?))))
    }

    /// The insertions of a key whose small bodies are there; one, but for damage.
    pub(super) fn bodies_of(&self, hash: KeyHash) -> Result<Vec<u64>, IndexError> {
        let mut sequences = Vec::new();
        for guard in self.bodies.prefix(hash.0) {
            if let Some(sequence) = guard.key()?.last_chunk() {
                sequences.push(u64::from_be_bytes(*sequence));
            }
        }
        Ok(sequences)
    }

    /// At most `max` variants of an object: the hash of each one's key, and its row.
    pub(super) fn variants(
        &self,
        primary: KeyHash,
        max: usize,
    ) -> Result<Vec<(KeyHash, Slice)>, IndexError> {
        let mut variants = Vec::new();
        for guard in self.variants.prefix(primary.0).take(max) {
            let (key, row) = guard.into_inner()?;
            if let Some(hash) = key.last_chunk() {
                variants.push((KeyHash(*hash), row));
            }
        }
        Ok(variants)
    }

    /// Whether nothing is stored at all.
    pub(super) fn is_empty(&self) -> Result<bool, IndexError> {
        Ok(self.objects.is_empty()? && self.parts.is_empty()? && self.claims.is_empty()?)
    }

    /// The record of an object that is here in part, encoded.
    pub(super) fn part(&self, hash: KeyHash) -> Result<Option<Slice>, IndexError> {
        Ok(self.parts.get(hash.0)?)
    }

    /// The chunks of an insertion that are here, in their order, each with its checksum.
    pub(super) fn chunks(
        &self,
        hash: KeyHash,
        sequence: u64,
    ) -> Result<Vec<(u32, u64)>, IndexError> {
        let mut chunks = Vec::new();
        for guard in self.chunks.prefix(insertion(hash, sequence)) {
            let (key, value) = guard.into_inner()?;
            if let Some(number) = key.last_chunk::<4>()
                && let Ok(sum) = <[u8; 8]>::try_from(&*value)
            {
                chunks.push((u32::from_be_bytes(*number), u64::from_le_bytes(sum)));
            }
        }
        Ok(chunks)
    }

    /// The insertion of the first chunk that is noted of a key, whatever its record says.
    pub(super) fn insertion_of_chunks(&self, hash: KeyHash) -> Result<Option<u64>, IndexError> {
        let Some(guard) = self.chunks.prefix(hash.0).next() else { return Ok(None) };
        let key = guard.key()?;
        let sequence = key.get(16..24).and_then(|bytes| bytes.try_into().ok());
        Ok(sequence.map(u64::from_be_bytes))
    }

    /// The totals of the last commit; zero where there are none or they cannot be read.
    pub(super) fn totals(&self) -> Result<Totals, IndexError> {
        let bytes = self.state.get(TOTALS)?;
        Ok(bytes.and_then(|bytes| format::decode_totals(&bytes).ok()).unwrap_or_default())
    }

    /// Whether the file of an insertion is noted as one that may be there without a record.
    pub(super) fn has_link(&self, hash: KeyHash, sequence: u64) -> Result<bool, IndexError> {
        Ok(self.links.contains_key(insertion(hash, sequence))?)
    }

    /// How far the scrubber is, encoded.
    pub(super) fn scrubbed(&self) -> Result<Option<Slice>, IndexError> {
        Ok(self.state.get(SCRUB)?)
    }

    /// Begins changes that happen together.
    pub(super) fn change(&self) -> Change<'_> {
        Change::of(self)
    }

    /// Empties a full journal into the tables, where the engine has begun another one: it keeps the
    /// old one until every keyspace has passed it, the seldom written ones too, and a start after a
    /// kill reads all there are. Does nothing else, and goes on in the background.
    pub(super) fn tidy_journal(&self) -> Result<(), IndexError> {
        if self.database.journal_count() > 1 { self.empty_journal() } else { Ok(()) }
    }

    /// Begins to put all that is in the journal alone into the tables.
    pub(super) fn empty_journal(&self) -> Result<(), IndexError> {
        for keyspace in self.keyspaces() {
            keyspace.rotate_memtable()?;
        }
        Ok(())
    }

    /// All of them.
    fn keyspaces(&self) -> [&Keyspace; 10] {
        let Self { objects, order, bodies, claims, variants, .. } = self;
        let Self { tags, links, parts, chunks, state, .. } = self;
        [objects, order, bodies, claims, variants, tags, links, parts, chunks, state]
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
        self.keyspaces().into_iter().any(|keyspace| {
            let backlog = engine::backlog(keyspace);
            backlog.sealed > SEALED_MAX
                || backlog.runs > RUNS_MAX
                || backlog.active_bytes > ACTIVE_BYTES_MAX
        })
    }

    /// Makes these changes, in this order, as one.
    fn apply<'a>(&self, rows: impl Iterator<Item = Row<'a>>) -> Result<(), IndexError> {
        let mut batch = self.database.batch();
        for Row { keyspace, key, value } in rows {
            match value {
                Some(value) => batch.insert(keyspace, key, value),
                None => batch.remove(keyspace, key),
            }
            #[cfg(test)]
            if let Some(between) = self.torn.get() {
                std::mem::replace(&mut batch, self.database.batch()).commit()?;
                between(self);
            }
        }
        batch.commit()?;
        self.shared.changes.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Makes every change row by row from now on, and calls `between` after each, as a reader that
    /// comes in the middle.
    #[cfg(test)]
    pub(super) fn tear(&self, between: impl Fn(&Self) + Send + Sync + 'static) {
        assert!(self.torn.set(Box::new(between)).is_ok());
    }

    /// Makes everything written so far survive a power cut.
    pub(super) fn sync(&self) -> Result<(), IndexError> {
        if let Some(why) = &self.in_doubt {
            return Err(IndexError::InDoubt { why: why.clone() });
        }
        Ok(self.database.persist(PersistMode::SyncData)?)
    }
}

fn of_insertion(key: &[u8]) -> Option<(KeyHash, u64)> {
    let (hash, sequence) = key.split_first_chunk::<16>()?;
    Some((KeyHash(*hash), u64::from_be_bytes(sequence.try_into().ok()?)))
}

fn pair(one: KeyHash, other: KeyHash) -> [u8; 32] {
    let mut key = [0; 32];
    let (head, tail) = key.split_at_mut(16);
    head.copy_from_slice(&one.0);
    tail.copy_from_slice(&other.0);
    key
}

fn insertion(hash: KeyHash, sequence: u64) -> [u8; 24] {
    let mut key = [0; 24];
    let (head, tail) = key.split_at_mut(16);
    head.copy_from_slice(&hash.0);
    tail.copy_from_slice(&sequence.to_be_bytes());
    key
}

fn chunk(hash: KeyHash, sequence: u64, number: u32) -> [u8; 28] {
    let mut key = [0; 28];
    let (head, tail) = key.split_at_mut(24);
    head.copy_from_slice(&insertion(hash, sequence));
    tail.copy_from_slice(&number.to_be_bytes());
    key
}
