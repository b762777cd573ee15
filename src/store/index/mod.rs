//! The embedded key-value store beside the body files: records, small bodies, claims, links,
//! totals. One per store. Blocking: every call may read or write the disk. Locks: a short one to
//! take the handle, never held while the engine works; and that of the admission.
//!
//! The engine takes no write after one that failed ([`Index::revive`] opens it again, once the disk
//! takes writes), but answers reads as before. What a failed sync was for may be missing on the
//! disk although every later sync succeeds, so the journal is written anew in between; until that
//! succeeds, every sync fails. While it flushes or compacts too slowly it lets
//! writers sleep inside a commit, and for ever if the thread that flushes has died of an error
//! of the disk. So no writer goes in unless the engine is far from that point, and no more than a
//! few at once: see [`write_admission`].
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
mod handle;
mod journal;
mod key_filter;
mod keyspaces;
mod options;
mod pages;
mod tags;
mod write_admission;

pub(super) use change::Change;
pub(super) use handle::Index;
pub(super) use keyspaces::Keyspaces;
