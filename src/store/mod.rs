//! Objects on disk: found, written whole or not at all, recovered, evicted.
//!
//! Knows neither HTTP nor Nix: keys, metadata, bytes. One `Store` per disk folder, as long as
//! the process or until the folder goes away under it; cloning shares it. [`Disks`] makes one tier
//! of all of them. Called by `cache` and, for writing, by `fill` and `purge` through it. Methods
//! that are not async read and write the disk and belong on a blocking thread.
//!
//! ```text
//! NARTHEX-STORE          the format's version; a folder without it that is not empty is refused
//! LOCK                   locked while a process has the store open
//! objects/ab/cd/HASH-N   a body of 64 KiB or more, number N (hex), its chunks' sums, its trailer;
//!                        or the chunks of one that is here in part (see `part`), with holes
//! PURGES                 which purges which disks have yet to make up for (see `disks::ledger`)
//! tmp/                   files without a name yet; emptied at open
//! index/                 records, small bodies, claims, the order of insertion (see `index`)
//! index.bad-N/           an index that could not be opened, put aside by `fsck`
//! ORDER                  what the eviction order was like some minutes ago (see `snapshot`)
//! ```
//!
//! # Why a crash never exposes a wrong body
//!
//! A large body is written to a file without a name; its readers may see all of it before that,
//! since a body that is proven needs no disk.
//! A commit then (1) appends the trailer, (2) notes in `links` that a file `HASH-N` may be there,
//! (3) links it, (4) writes the record and clears the note in one atomic change of the index. N is
//! used once, so no file is ever replaced, and readers of an older one go on.
//! - Killed before (4): no record, so nothing is found; the note makes the next open remove the
//!   file. Before (3) the file vanishes by itself.
//! - Killed after (4): found, with all of its body.
//! - A power cut may lose any of the last seconds' bytes, names and records in any order: every few
//!   seconds the file system is synced, then the index (see `recover`). A record without its file,
//!   or with one that has no whole trailer of the same key, N, length and SHA-256, is damaged: a
//!   miss that is counted and dropped. So is a body with a chunk that does not have its sum, when
//!   it is read. A note that is lost leaves a file without a record, which takes space until a
//!   repair.
//! - A sync that fails says nothing of what it was for, and neither does one that succeeds later:
//!   the chunks of a part are fetched again (see `part`), the index writes its journal anew (see
//!   `index`), bodies are read back from the disk (see `recover`).
//! - Dropping an object notes its file in the change that takes the record away, then removes the
//!   file, then clears the note: the next open finishes what was cut short.
//! - A small body lies in the same change as its record, which after a crash is there whole or
//!   not at all, and its SHA-256 is checked when it is read. Readers may come in the middle of a
//!   change: see `lookup`.
//!
//! # Locks
//!
//! In this order: the stripe of a key's hash, the gate before the index's engine (a few seconds at
//! most), the space account. The account's is never held across I/O nor for more than some hundred
//! objects, none across an await, and eviction runs before any of them is taken. Loading takes none
//! but the account's. A stripe is held across I/O, and so are `parts` and the life of a part: they
//! are taken on the disk's own threads alone, never by a task of the runtime.
//!
//! # Threads
//!
//! What requests and purges ask runs in two lanes (`tasks::lane`), `readers` and `tasks`, so that
//! neither look-ups nor writes wait for threads that the other holds. Jobs of which one runs at a
//! time (`background`: loading, syncs, probes, checks, the scrubber) have no lane.

mod audit;
mod body;
mod check;
mod chunks;
mod commit;
mod direct;
mod disks;
mod entries;
mod error;
mod eviction;
mod files;
mod folder;
mod format;
mod fsck;
mod gate;
mod gauges;
mod ghost;
mod health;
mod import;
mod index;
mod lookup;
mod order_file;
mod pace;
mod part;
mod presence;
mod probe;
mod read;
mod rebuild;
mod recent;
mod recover;
mod remove;
mod report;
mod room;
mod scope;
mod scrub;
mod slab;
mod snapshot;
mod space;
mod sums;
#[cfg(test)]
pub(crate) mod tests;
mod trailer;
mod which;

pub use body::{
    EndedObject, Follower, Growing, ObjectWriter, OutOfOrder, ProvenObject, RangeWriter,
    SealedObject, WITHHELD_BYTES, Withhold, WrittenRange,
};
pub use check::Fault;
pub use commit::{Confirmed, Permit};
pub use disks::{ClaimUnknown, DiskReport, Disks, StoredVariants};
pub use error::{Broken, IndexError, OpenError, WriteError};
pub use eviction::{Entry, Evicted, EvictionOrder};
pub use format::charge;
pub use fsck::{Begun, FsckError, fsck};
pub use health::Health;
pub use part::{At, CHUNK_BYTES, Holding, Kept, Part, ReadError, Run, Synced};
pub use read::{BodyFile, RUN_BYTES, Stored, StoredBody};
pub use rebuild::RebuildError;
pub use remove::{Published, VARIANTS_MAX};
pub use report::{Mode, PROBLEMS_MAX, Problem, Report, Stage};
pub use scope::{Purging, Scope};
pub use space::Usage;

use crate::config;
use crate::metrics::Metrics;
use crate::object::{Insertion, Key, KeyHash};
use crate::sync::{Mutex, RwLock, Striped, watch};
use crate::tasks::{BlockingError, Jobs, Tasks};
use folder::Folder;
use format::Totals;
use index::Index;
use prometheus::IntCounter;
use remove::Reason;
use scrub::Scrubber;
use space::{Displaces, Reservation, Space};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Locks that keys share, so that changes of different keys seldom wait for each other; one more
/// stands beside them.
const STRIPES: usize = 64;
/// Insertion numbers skipped at open: more than a power cut can have made the index forget.
const SEQUENCE_GAP: u64 = 1 << 24;

/// How long a request waits for a disk that does not answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// How long a job may take that writes a batch of a large body, before its disk counts as stalled.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// Damaged objects that wait to be fetched again; more are fetched when they are asked for.
const DAMAGED_MAX: usize = 64;

/// The store of one disk. Cloning shares it; the folder is unlocked when the last clone and the
/// last [`ObjectWriter`] are gone.
#[derive(Debug, Clone)]
struct Store(Arc<Inner>);

/// Bytes of memory that the index takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexMemory {
    /// The eviction order, with what it remembers of objects that left.
    pub order_bytes: u64,
    /// Which keys there may be anything of.
    pub keys_bytes: u64,
    /// What was read from the key-value store, its filters among it.
    pub cache_bytes: u64,
    /// What is in its journal and not in its tables yet.
    pub unwritten_bytes: u64,
}

/// What a store shares with the others of its tier.
#[derive(Debug)]
struct Seat {
    /// Which of them it is.
    disk: u16,
    damaged: mpsc::Sender<Key>,
    /// The number of the next insertion.
    insertions: Arc<AtomicU64>,
    /// What runs on its disk, whichever store is open there.
    jobs: Arc<Jobs>,
    /// Threads of each of its two lanes.
    threads: usize,
}

impl Seat {
    /// That of a store that is alone.
    fn alone(damaged: mpsc::Sender<Key>) -> Self {
        let (insertions, jobs) = (Arc::default(), Arc::default());
        Self { disk: 0, damaged, insertions, jobs, threads: 64 }
    }
}

#[derive(Debug)]
struct Inner {
    /// The folder, as the configuration names it: in logs and metrics.
    label: String,
    index: Index,
    space: Arc<Space>,
    bodies: chunks::OpenBodies,
    open_parts: part::OpenParts,
    recent: recent::Recent,
    health: health::Monitor,
    receiving: body::Windows,
    memory_only: body::Windows,
    ahead: room::Ahead,
    spare: room::Spare,
    syncs: recover::Syncs,
    /// Held for reading by what adds to a part, makes it whole or drops it alone, for writing while
    /// some are counted. A part that goes with its key meanwhile may be counted all the same: this
    /// is for a gauge.
    parts: RwLock<()>,
    counted_parts: part::CountedParts,
    has_loaded: watch::Sender<bool>,
    stripes: Striped<()>,
    size_evictions: IntCounter,
    space_evictions: IntCounter,
    /// Of the check that goes on, or else the last one.
    report: Arc<Mutex<Report>>,
    /// What ends it.
    check_stop: Mutex<CancellationToken>,
    scrub_rate: u64,
    seat: Seat,
    /// Cancelled when the disk goes out or the process stops: what reads for long ends then.
    leaving: CancellationToken,
    metrics: Metrics,
    /// The lane of what changes something on the disk, and reads what it has just written.
    tasks: Tasks,
    /// The lane of look-ups, and of what reads for them.
    readers: Tasks,
    /// Work of which one job runs at a time, as long as the store.
    background: Tasks,
    #[cfg(test)]
    faults: tests::Faults,
    /// Last, so that it is unlocked when all else is closed.
    folder: Folder,
}

impl Store {
    /// Opens or makes the store in `disk.path`, with `disk.size` bytes as its limit. Blocking;
    /// needs a runtime, since it begins to load the eviction order and to sync in the background.
    /// Look-ups work at once. Changes nothing in a folder that is not a store of this format.
    fn open(
        seat: Seat,
        disk: &config::Disk,
        metrics: Metrics,
        tasks: &Tasks,
    ) -> Result<Self, OpenError> {
        let folder = Folder::open(&disk.path)?;
        let index = Index::open(&folder.index_path())?;
        let path = folder.path().to_owned();
        let failed = |source: IndexError| OpenError::Index { path, source };
        let inner = Inner::assemble(disk, seat, folder, index, metrics, tasks)?;
        inner.finish_links().map_err(failed)?;
        let tasks = &inner.background;
        tasks.spawn("store load", recover::load(Arc::downgrade(&inner), inner.leaving.clone()));
        tasks
            .spawn("store presence", presence::keep(Arc::downgrade(&inner), inner.leaving.clone()));
        let syncing = recover::sync_often(Arc::downgrade(&inner), tasks.stopping());
        tasks.spawn("store sync", syncing);
        tasks.spawn("store free", room::free_often(Arc::downgrade(&inner), inner.leaving.clone()));
        if !disk.scrub_pass.is_zero() {
            let stop = inner.leaving.clone();
            let scrubber = Scrubber { pass: disk.scrub_pass, rate: disk.scrub_rate, stop };
            tasks.spawn("store scrub", scrub::run(Arc::downgrade(&inner), scrubber));
        }
        let probing = probe::probe_when_in_doubt(Arc::downgrade(&inner), tasks.stopping());
        tasks.spawn("store probe", probing);
        Ok(Self(inner))
    }

    /// Promises the first space of an object of `length` bytes, if that is known, for which others
    /// go as far as it displaces them. Refuses an object that never fits, and every object for a
    /// while after repeated errors of the disk.
    async fn reserve(
        &self,
        (key, length): (&Key, Option<u64>),
        displaces: Displaces,
    ) -> Result<Reservation, WriteError> {
        let (store, hash) = (Arc::clone(&self.0), key.hash());
        let charge = charge(length.unwrap_or(format::INLINE_BYTES_MAX - 1));
        store.admit()?;
        store.fits(charge)?;
        let first = charge.min(store.space.step());
        if let Some(reservation) = store.reserve_at_once(first, displaces) {
            return Ok(reservation);
        }
        let work = move || {
            let reserved = store.reserve(first, displaces);
            reserved.inspect_err(|error| store.write_failed(error))
        };
        let reserved = self.0.tasks.blocking_for("store begin", PATIENCE, work).await;
        reserved?.inspect_err(|error| self.0.not_stored(error, hash, length.unwrap_or_default()))
    }

    /// Notes that the object of an insertion was used where it is kept in another tier, so that it
    /// stays here too; false where that was not noted, since the order is busy. Never waits.
    fn touch(&self, sequence: u64) -> bool {
        self.0.space.touch(sequence)
    }

    /// What the index keeps in memory. Takes some microseconds.
    fn memory(&self) -> IndexMemory {
        let access = self.0.index.access();
        let (cache_bytes, unwritten_bytes) =
            access.open().map_or((0, 0), index::Open::memory_bytes);
        IndexMemory {
            order_bytes: self.0.space.memory_bytes() as u64,
            keys_bytes: self.0.index.presence().memory_bytes() as u64,
            cache_bytes,
            unwritten_bytes,
        }
    }

    /// What the tier holds.
    fn usage(&self) -> Usage {
        self.0.space.usage()
    }

    /// Whether the tier takes writes, and the last error where not.
    fn health(&self) -> Health {
        let health = self.0.health.report(Instant::now());
        Health { is_writable: self.0.is_open(), ..health }
    }

    /// Waits until the eviction order is loaded. Cancel safe.
    async fn loaded(&self) {
        let mut receiver = self.0.has_loaded.subscribe();
        // The sender lives as long as this store, so there is always an answer.
        drop(receiver.wait_for(|has_loaded| *has_loaded).await);
    }
}

impl Inner {
    /// Puts a store together of its parts. Starts nothing, changes nothing on disk.
    fn assemble(
        disk: &config::Disk,
        seat: Seat,
        folder: Folder,
        index: Index,
        metrics: Metrics,
        tasks: &Tasks,
    ) -> Result<Arc<Self>, OpenError> {
        let failed =
            |source: IndexError| OpenError::Index { path: folder.path().to_owned(), source };
        let totals = index.access().open().and_then(index::Open::totals).map_err(failed)?;
        let next_sequence = totals.next_sequence.saturating_add(SEQUENCE_GAP);
        seat.insertions.fetch_max(next_sequence, Ordering::AcqRel);
        Ok(Arc::new(Self {
            label: disk.path.display().to_string(),
            space: Space::new(disk.size, Totals { next_sequence, ..totals }, &metrics),
            counted_parts: part::CountedParts::shown_on(&metrics),
            bodies: chunks::OpenBodies::default(),
            open_parts: part::OpenParts::default(),
            recent: recent::Recent::default(),
            health: health::Monitor::default(),
            receiving: body::Windows::to_the_disk(),
            memory_only: body::Windows::without_a_disk(),
            spare: room::Spare::default(),
            ahead: room::Ahead::default(),
            syncs: recover::Syncs::from_insertion(next_sequence),
            has_loaded: watch::Sender::new(false),
            parts: RwLock::new(()),
            stripes: Striped::new(STRIPES),
            size_evictions: metrics.evictions.with_label_values(&["disk", "size"]),
            space_evictions: metrics.evictions.with_label_values(&["disk", "space"]),
            report: Arc::default(),
            check_stop: Mutex::default(),
            scrub_rate: disk.scrub_rate,
            leaving: tasks.stopping().child_token(),
            metrics,
            tasks: tasks.lane(&seat.jobs, seat.threads, WRITE_PATIENCE),
            readers: tasks.lane(&seat.jobs, seat.threads, PATIENCE),
            background: tasks.beside(&seat.jobs),
            seat,
            #[cfg(test)]
            faults: tests::Faults::of_this_thread(),
            index,
            folder,
        }))
    }

    fn stripe(&self, hash: KeyHash) -> &Mutex<()> {
        let [.., byte] = hash.0;
        self.stripes.of(byte.into())
    }

    fn evictions(&self, reason: Reason) -> &IntCounter {
        match reason {
            Reason::Size => &self.size_evictions,
            Reason::Space => &self.space_evictions,
        }
    }

    /// What the insertion `sequence` is called outside of this store.
    fn insertion(&self, sequence: u64) -> Insertion {
        Insertion { disk: self.seat.disk, sequence }
    }

    fn next_sequence(&self) -> u64 {
        self.seat.insertions.fetch_add(1, Ordering::AcqRel)
    }

    fn finished_loading(&self) {
        self.has_loaded.send_replace(true);
    }

    /// Counts an error of the disk and remembers it; errors that are not its fault are ignored.
    fn write_failed(&self, error: &WriteError) {
        let Some(operation) = error.operation() else { return };
        if let WriteError::Index { source } = error {
            self.note_index(source);
        }
        self.count(operation);
        self.spare.forget();
        let disk = &*self.label;
        if self.health.failed(error, Instant::now()) {
            tracing::warn!(disk, operation, %error, "disk tier: write failed");
        } else {
            tracing::debug!(disk, operation, %error, "disk tier: write failed again");
        }
    }

    fn index_failed(&self, error: &IndexError) {
        self.note_index(error);
        self.count("index");
        let disk = &*self.label;
        if self.health.failed(error, Instant::now()) {
            tracing::warn!(disk, %error, "disk tier: index failed");
        } else {
            tracing::debug!(disk, %error, "disk tier: index failed again");
        }
    }

    /// What a job of a loop in the background has brought; none if it panicked, which is noted: the
    /// loop goes on. An error if the runtime goes away.
    fn unless_panicked<T>(
        &self,
        ended: Result<T, BlockingError>,
    ) -> Result<Option<T>, BlockingError> {
        match ended {
            Err(error) if error.is_panic() => {
                // The engine stays as its panic left it until it is opened again.
                self.index_failed(&IndexError::Panic);
                let disk = &*self.label;
                tracing::error!(disk, %error, "disk tier: a background job panicked");
                Ok(None)
            }
            ended => ended.map(Some),
        }
    }

    fn note_index(&self, error: &IndexError) {
        if error.is_final() {
            self.index.mark_failed();
        }
    }

    /// Whether a write may be tried.
    fn admit(&self) -> Result<(), WriteError> {
        self.health.admit(Instant::now())?;
        if self.index.has_failed() {
            let detail = "its index takes no writes until it is opened again".to_owned();
            return Err(WriteError::Refused { detail });
        }
        Ok(())
    }

    /// Whether writes are taken.
    fn is_open(&self) -> bool {
        self.is_admitting() && !self.index.has_failed()
    }

    /// Whether the disk is not left alone after errors; its index may have failed all the same.
    fn is_admitting(&self) -> bool {
        self.health.report(Instant::now()).is_writable
    }

    fn count(&self, operation: &str) {
        self.metrics.store_errors.with_label_values(&[&*self.label, operation]).inc();
    }

    fn count_damaged(&self, object: &str, why: &str) {
        self.metrics.damaged_objects.with_label_values(&["disk"]).inc();
        #[cfg(test)]
        crate::simulation::damaged(why);
        tracing::warn!(object, why, "damaged object dropped from disk");
    }
}
