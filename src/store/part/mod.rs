//! An object that is here in part: a sparse file, and for each chunk of it whether it is in the
//! file. Lives as long as it has readers or writers. What is kept is found again by `Disks::part`,
//! and an insertion that is open is found as it is: no two parts write one file.
//!
//! # Why no wrong byte is ever read
//!
//! A part is open once, so its table knows every writer of its file: it is opened under its stripe,
//! with the chunks that the index has then. A part that is loose and has users still is not found
//! again: the next one begins anew, in a file of its own.
//!
//! A chunk counts as here once all of it is in the file, and the index is told only after the file
//! was synced, so a record never promises what a power cut took back. If a sync fails, the system
//! takes what it could not write for written, and the next sync succeeds without it: the chunks
//! that waited for it are missing from then on, those that were arriving are not taken for here
//! when they end, and all of them are fetched and written again. What comes from the disk is
//! compared with its checksum before a byte of it is given out (see `chunks`); if it differs it
//! is missing and counted. It may be fetched again while it is read, so a reader looks after its
//! read whether the table has had the chunk all the time. The file is named as whole ones are: a
//! note in `links`, the link, then one change of the index with record, chunks and the note's end
//! (see the module above). Only the first change has to link, every later one adds chunks to a
//! record that must still be this insertion's.
//!
//! What drops the object (purge, eviction, a whole object that takes its place) takes record and
//! chunks in one change. A part that finds its record gone is *loose*: its readers and writers go
//! on in the file without a name, and nothing of it is ever kept again. A whole object and a part
//! of the same key are never both in the index. [`Part::promote`] turns a part into a whole object
//! in one change: same file, same insertion; the trailer that a crash may leave behind the body
//! before that change is behind every chunk and overwritten by the next try. It seals the table
//! first, with the sums of the trailer in hand: nothing ever writes a chunk of a whole object.
//! If a reader of a sealed part finds damage, the whole is dropped.
//!
//! Locks, in the store's order: that of the counted parts, stripe, index, then `life`, then
//! `table`, then the space account. The last two are never held across I/O. `syncing` is held while
//! the file is synced, and only `table` and the account are taken under it. That of `open_parts` is
//! taken under none of them but in passing, and none is taken under it.

mod counted;
mod durable;
mod handle;
mod open;
mod records;
mod run;
mod table;

pub(super) use counted::CountedParts;
pub(super) use durable::find_part;
pub(super) use handle::begin_part;
pub use handle::{KeepOutcome, ReadError, Synced};
pub(super) use open::OpenParts;
pub use open::Part;
#[cfg(test)]
pub(super) use records::COUNTED_AT_ONCE;
pub(super) use records::{
    PAGE, count_parts, drop_part, erase_part, is_part, part_of, replace_part,
};
pub use run::Run;
pub use table::{At, Holding};

pub use crate::store::body::sums::CHUNK_BYTES;
