//! The open keyspaces of the index: look-ups of single rows, and how a change is applied. Lives
//! until the index is closed or opened again. Locks: that of the admission while a change is made.

use crate::object::KeyHash;
use crate::store::error::IndexError;
use crate::store::format::{self, Totals};
use crate::store::index::engine::{self, Database, Keyspace};
use crate::store::index::key_filter::KeyFilter;
use crate::store::index::options::{LookupPattern, options};
use crate::store::index::write_admission::WriteAdmission;
use crate::sync::Mutex;
use fjall::{PersistMode, Slice};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
#[cfg(test)]
use std::sync::atomic::AtomicBool;
use std::sync::atomic::{AtomicU64, Ordering};

pub(super) const TOTALS: &str = "totals";
pub(super) const SCRUB: &str = "scrub";
const MIB: u64 = 1024 * 1024;
/// Memory for the blocks of data that were read.
const CACHE_BYTES: u64 = 32 * MIB;
/// What the journal may hold, the least there may be: a start after a kill reads all of it before
/// the first look-up.
const JOURNAL_BYTES_MAX: u64 = 64 * MIB;
/// Memtables of a keyspace that may wait to be flushed while writers go in; at four the engine
/// lets them sleep. Those inside at once never fill two.
const SEALED_MAX: usize = 1;
/// Runs of the first level that may wait for compaction while writers go in; at thirty the engine
/// lets them sleep.
const RUNS_MAX: usize = 24;
/// Bytes of a memtable that should have been sealed long ago.
const ACTIVE_BYTES_MAX: u64 = 32 * MIB;

/// What outlives the engine when the index is opened again.
#[derive(Debug, Clone)]
pub(super) struct IndexShared {
    pub(super) key_filter: Arc<KeyFilter>,
    /// How many changes were made; what an earlier process has left, synced or not, counts as one.
    pub(super) changes: Arc<AtomicU64>,
}

/// The open keyspaces.
pub(in crate::store) struct Keyspaces {
    database: Database,
    pub(super) objects: Keyspace,
    pub(super) order: Keyspace,
    pub(super) bodies: Keyspace,
    pub(super) claims: Keyspace,
    pub(super) variants: Keyspace,
    pub(super) tags: Keyspace,
    pub(super) links: Keyspace,
    pub(super) parts: Keyspace,
    pub(super) chunks: Keyspace,
    pub(super) state: Keyspace,
    pub(super) admission: WriteAdmission,
    /// Held by a change of claims: two narinfos may make one of the same NAR, each under its own
    /// stripe.
    pub(super) claiming: Mutex<()>,
    pub(super) shared: IndexShared,
    /// Why its journal could not be written anew after a failure.
    in_doubt: Option<String>,
    /// Refuses every change, as an engine that has failed does.
    #[cfg(test)]
    pub(super) refuses: AtomicBool,
    /// Called between the rows of a change.
    #[cfg(test)]
    torn: std::sync::OnceLock<Torn>,
}

/// What looks at an index in the middle of a change.
#[cfg(test)]
type Torn = Box<dyn Fn(&Keyspaces) + Send + Sync>;

impl std::fmt::Debug for Keyspaces {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyspaces")
    }
}

impl Keyspaces {
    /// Opens or makes the keyspaces. The engine panics over some files that are damaged: that is an
    /// error like any other here, and nothing of what it held is used.
    pub(super) fn new(
        path: &Path,
        shared: &IndexShared,
        in_doubt: Option<String>,
    ) -> Result<Self, IndexError> {
        let open = || Self::try_new(path, shared, in_doubt);
        let opened = std::panic::catch_unwind(AssertUnwindSafe(open));
        Ok(opened.map_err(|_| IndexError::Panic)??)
    }

    fn try_new(path: &Path, shared: &IndexShared, in_doubt: Option<String>) -> fjall::Result<Self> {
        let builder = engine::builder(path)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(2)
            .max_cached_files(Some(256));
        let database = engine::open(builder, path)?;
        let keyspace = |name, memtable_bytes: u64, sought: LookupPattern| {
            database.keyspace(name, || options(memtable_bytes, sought))
        };
        Ok(Self {
            objects: keyspace("objects", 8 * MIB, LookupPattern::OftenInVain)?,
            order: keyspace("order", 2 * MIB, LookupPattern::InOrder)?,
            bodies: keyspace("bodies", 8 * MIB, LookupPattern::WhereItIs)?,
            claims: keyspace("claims", 2 * MIB, LookupPattern::OftenInVain)?,
            variants: keyspace("variants", MIB, LookupPattern::OftenInVain)?,
            tags: keyspace("tags", MIB, LookupPattern::InOrder)?,
            links: keyspace("links", MIB, LookupPattern::InOrder)?,
            parts: keyspace("parts", MIB, LookupPattern::OftenInVain)?,
            chunks: keyspace("chunks", 4 * MIB, LookupPattern::InOrder)?,
            state: keyspace("state", MIB, LookupPattern::InOrder)?,
            admission: WriteAdmission::default(),
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
    pub(in crate::store) fn memory_bytes(&self) -> (u64, u64) {
        (self.database.cache_size(), self.database.write_buffer_size())
    }

    /// The row of a key: its record, encoded, and behind it its body, if that is its place.
    pub(in crate::store) fn record(&self, hash: KeyHash) -> Result<Option<Slice>, IndexError> {
        Ok(self.objects.get(hash.0)?)
    }

    /// The small body of an insertion that stands beside its record.
    pub(in crate::store) fn body(
        &self,
        hash: KeyHash,
        sequence: u64,
    ) -> Result<Option<Slice>, IndexError> {
        Ok(self.bodies.get(insertion(hash, sequence))?)
    }

    /// The claim about a NAR, encoded.
    pub(in crate::store) fn claim(&self, nar: KeyHash) -> Result<Option<Slice>, IndexError> {
        Ok(self.claims.get(nar.0)?)
    }

    /// The key of an insertion that is in the eviction order.
    pub(in crate::store) fn ordered(&self, sequence: u64) -> Result<Option<KeyHash>, IndexError> {
        let value = self.order.get(sequence.to_be_bytes())?;
        Ok(value.and_then(|value| Some(KeyHash(*value.first_chunk()?))))
    }

    /// The insertions of a key that have small bodies; one, but for damage.
    pub(in crate::store) fn bodies_of(&self, hash: KeyHash) -> Result<Vec<u64>, IndexError> {
        let mut sequences = Vec::new();
        for guard in self.bodies.prefix(hash.0) {
            if let Some(sequence) = guard.key()?.last_chunk() {
                sequences.push(u64::from_be_bytes(*sequence));
            }
        }
        Ok(sequences)
    }

    /// At most `max` variants of an object: the hash of each one's key, and its row.
    pub(in crate::store) fn variants(
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
    pub(in crate::store) fn is_empty(&self) -> Result<bool, IndexError> {
        Ok(self.objects.is_empty()? && self.parts.is_empty()? && self.claims.is_empty()?)
    }

    /// The record of an object that is here in part, encoded.
    pub(in crate::store) fn part(&self, hash: KeyHash) -> Result<Option<Slice>, IndexError> {
        Ok(self.parts.get(hash.0)?)
    }

    /// The chunks of an insertion that are here, in their order, each with its checksum.
    pub(in crate::store) fn chunks(
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
    pub(in crate::store) fn insertion_of_chunks(
        &self,
        hash: KeyHash,
    ) -> Result<Option<u64>, IndexError> {
        let Some(guard) = self.chunks.prefix(hash.0).next() else { return Ok(None) };
        let key = guard.key()?;
        let sequence = key.get(16..24).and_then(|bytes| bytes.try_into().ok());
        Ok(sequence.map(u64::from_be_bytes))
    }

    /// The totals of the last commit; zero if there are none or they cannot be read.
    pub(in crate::store) fn totals(&self) -> Result<Totals, IndexError> {
        let bytes = self.state.get(TOTALS)?;
        Ok(bytes.and_then(|bytes| format::decode_totals(&bytes).ok()).unwrap_or_default())
    }

    /// Whether the file of an insertion is noted as one that may be there without a record.
    pub(in crate::store) fn has_link(
        &self,
        hash: KeyHash,
        sequence: u64,
    ) -> Result<bool, IndexError> {
        Ok(self.links.contains_key(insertion(hash, sequence))?)
    }

    /// How far the scrubber is, encoded.
    pub(in crate::store) fn scrubbed(&self) -> Result<Option<Slice>, IndexError> {
        Ok(self.state.get(SCRUB)?)
    }

    /// Empties a full journal into the tables, if the engine has begun another one: it keeps the
    /// old one until every keyspace has passed it, the seldom written ones too, and a start after a
    /// kill reads all there are. Does nothing else, and goes on in the background.
    pub(in crate::store) fn tidy_journal(&self) -> Result<(), IndexError> {
        if self.database.journal_count() > 1 { self.empty_journal() } else { Ok(()) }
    }

    /// Begins to put all that is in the journal alone into the tables.
    pub(in crate::store) fn empty_journal(&self) -> Result<(), IndexError> {
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
    pub(in crate::store) fn refuse(&self) {
        self.refuses.store(true, Ordering::Release);
    }

    /// Whether the engine still takes writes: it refuses every one after an error of its own.
    pub(super) fn check(&self) -> Result<(), IndexError> {
        let _pass = self.admission.enter(|| false)?;
        Ok(self.database.persist(PersistMode::Buffer)?)
    }

    /// Whether the engine is so far behind that a writer might sleep in it.
    pub(super) fn is_behind(&self) -> bool {
        self.keyspaces().into_iter().any(|keyspace| {
            let backlog = engine::backlog(keyspace);
            backlog.sealed > SEALED_MAX
                || backlog.runs > RUNS_MAX
                || backlog.active_bytes > ACTIVE_BYTES_MAX
        })
    }

    /// Makes these changes, in this order, as one.
    pub(super) fn apply<'a>(
        &self,
        rows: impl Iterator<Item = RowChange<'a>>,
    ) -> Result<(), IndexError> {
        let mut batch = self.database.batch();
        for RowChange { keyspace, key, value } in rows {
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
    pub(in crate::store) fn tear(&self, between: impl Fn(&Self) + Send + Sync + 'static) {
        assert!(self.torn.set(Box::new(between)).is_ok());
    }

    /// Makes everything written so far survive a power cut.
    pub(in crate::store) fn sync(&self) -> Result<(), IndexError> {
        if let Some(why) = &self.in_doubt {
            return Err(IndexError::InDoubt { why: why.clone() });
        }
        Ok(self.database.persist(PersistMode::SyncData)?)
    }
}

/// A row that is set, or dropped.
pub(super) struct RowChange<'a> {
    pub(super) keyspace: &'a Keyspace,
    pub(super) key: Slice,
    pub(super) value: Option<Slice>,
}

impl<'a> RowChange<'a> {
    pub(super) fn set(
        keyspace: &'a Keyspace,
        key: impl Into<Slice>,
        value: impl Into<Slice>,
    ) -> Self {
        Self { keyspace, key: key.into(), value: Some(value.into()) }
    }

    pub(super) fn gone(keyspace: &'a Keyspace, key: impl Into<Slice>) -> Self {
        Self { keyspace, key: key.into(), value: None }
    }
}

pub(super) fn of_insertion(key: &[u8]) -> Option<(KeyHash, u64)> {
    let (hash, sequence) = key.split_first_chunk::<16>()?;
    Some((KeyHash(*hash), u64::from_be_bytes(sequence.try_into().ok()?)))
}

pub(super) fn pair(one: KeyHash, other: KeyHash) -> [u8; 32] {
    let mut key = [0; 32];
    let (head, tail) = key.split_at_mut(16);
    head.copy_from_slice(&one.0);
    tail.copy_from_slice(&other.0);
    key
}

pub(super) fn insertion(hash: KeyHash, sequence: u64) -> [u8; 24] {
    let mut key = [0; 24];
    let (head, tail) = key.split_at_mut(16);
    head.copy_from_slice(&hash.0);
    tail.copy_from_slice(&sequence.to_be_bytes());
    key
}

pub(super) fn chunk(hash: KeyHash, sequence: u64, number: u32) -> [u8; 28] {
    let mut key = [0; 28];
    let (head, tail) = key.split_at_mut(24);
    head.copy_from_slice(&insertion(hash, sequence));
    tail.copy_from_slice(&number.to_be_bytes());
    key
}
