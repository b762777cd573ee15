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
//! ORDER                  the eviction order of some minutes ago (see `eviction::snapshot`)
//! ```
//!
//! The form is version 3 (`format`, `body::trailer`, `body::sums`). A small body lies in the index
//! beside its record. The filters of the index are in memory, so one read finds an object, and
//! `index::key_filter` knows which keys the index lacks, so a miss needs no thread. Eviction is
//! S3-FIFO on bytes, one lane each for small and large bodies (`eviction::order`); it needs no walk
//! through folders, also at a start. Space is reserved before a write (`eviction::reserve`), from
//! a statvfs result of at most 50 ms if the disk has plenty. A write has 128 KiB, since the page
//! cache then holds large folios. `body::chunks` says why a flipped bit never reaches a reader, and
//! `disks::ledger` why a purge holds although disks come and go.
//!
//! # Owners
//!
//! [`handle::Store`] is what the tier holds of one disk. It shares a [`disk_store::DiskStore`], a
//! plain struct of owners. Each owner has its state and is handed its neighbours; nothing that an
//! owner names stands above it:
//!
//! ```text
//! Catalog        index, folder, account of space, recent bodies, stripes  (catalog, remove)
//! Reserve        space that is kept free, and the turn to make room          (eviction::reserve)
//! Syncs          which changes are safe from a power cut                      (syncs)
//! BodyReads      what is known of the chunks of open bodies                   (body::read)
//! MemoryWindows  memory of objects that are received                          (body::window)
//! Checks         the check that goes on                                       (check::object)
//! Lanes          threads                                                      (lanes)
//! OpenParts      parts that are open, beside the DiskStore                    (part::open)
//! ```
//!
//! Above them: `lookup` finds, `commit` places, `import` places in bulk, `recover` and `background`
//! run beside the service, `probe` brings a disk back.
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
//!   seconds the file system is synced, then the index (see `syncs`). A record without its file,
//!   or with one that has no whole trailer of the same key, N, length and SHA-256, is damaged: a
//!   miss that is counted and dropped. So is a body with a chunk that does not have its sum, when
//!   it is read. A note that is lost leaves a file without a record, which takes space until a
//!   repair.
//! - A sync that fails says nothing of what it was for, and neither does one that succeeds later:
//!   the chunks of a part are fetched again (see `part`), the index writes its journal anew (see
//!   `index`), bodies are read back from the disk (see `syncs`).
//! - Dropping an object notes its file in the change that takes the record away, then removes the
//!   file, then clears the note: the next open finishes what was cut short.
//! - A small body lies in the same change as its record, which after a crash is there whole or
//!   not at all, and its SHA-256 is checked when it is read. Readers may come in the middle of a
//!   change: see `lookup`.
//!
//! # Locks
//!
//! In this order: the stripe of a key's hash, the admission to the index's engine (a few seconds at
//! most), the space account. The account's is never held across I/O nor for more than some hundred
//! objects, none across an await, and eviction runs before any of them is taken. Loading takes none
//! but the account's. A stripe is held across I/O, and so are the lock of the counted parts and the
//! life of a part: they are taken on the disk's own threads alone, never by a task of the runtime.
//!
//! # Threads
//!
//! What requests and purges ask runs in two lanes (`tasks::lane`), `reads` and `changes`, so that
//! neither look-ups nor writes wait for threads that the other holds. Jobs of which one runs at a
//! time (`background`: loading, syncs, probes, checks, the scrubber) have no lane. A disk that
//! hangs is stalled and passed over; its callers wait a few seconds once.

mod background;
mod body;
mod catalog;
mod check;
mod commit;
mod disk_store;
mod disks;
mod erasure;
mod error;
mod eviction;
mod files;
mod folder;
mod format;
mod gauges;
mod handle;
mod import;
mod index;
mod lanes;
mod lookup;
mod part;
mod probe;
mod recover;
mod remove;
mod scope;
mod syncs;
#[cfg(test)]
pub(crate) mod tests;
mod tier_share;

pub use body::read::{BodyFile, RUN_BYTES, Stored, StoredBody};
pub use body::{
    EndedObject, Follower, Growing, ObjectWriter, OutOfOrder, ProvenObject, RangeWriter,
    ReadExtent, SealedObject, WITHHELD_BYTES, Withhold, WrittenRange,
};
pub use check::fsck::{CheckStart, FsckError, fsck};
pub use check::rebuild::RebuildError;
pub use check::report::{CheckFault, CheckProblem, CheckReport, CheckStage, Mode, PROBLEMS_MAX};
pub use commit::{ChangePermit, ConfirmedBody};
pub use disks::health::DiskHealth;
pub use disks::{ClaimUnknown, DiskReport, Disks, StoredVariants};
pub use error::{Broken, IndexError, OpenError, WriteError};
pub use eviction::accounting::DiskUsage;
pub use eviction::order::{Evicted, EvictionEntry, EvictionOrder};
pub use format::charge;
pub use handle::IndexMemory;
pub use part::{At, CHUNK_BYTES, Holding, KeepOutcome, Part, ReadError, Run, Synced};
pub use remove::{Published, VARIANTS_MAX};
pub use scope::{PurgeHold, PurgeOutcome, Purging, Scope};
