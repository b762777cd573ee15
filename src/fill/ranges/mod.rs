//! Ranges of objects that are not here as a whole: fetched chunk by chunk, each once, kept, and
//! made whole when all of them are here. One registry per process; a flight (`flight`) for each
//! object of which a range is wanted, as long as it is read or fetched. Called through `Fills`.
//!
//! # What is fetched
//!
//! `bytes=a-b` fetches the 1 MiB chunks that hold a to b, `bytes=N-` those from N's to the end or
//! to the next that is here or arriving, in one request. What is not known without the object's
//! length (suffixes, several ranges) begins with a HEAD. So a small range costs at most a chunk
//! more than it asks for. A run of chunks goes on while a reader wants its next byte. If it is 16
//! MiB ahead of all readers, it waits for a while; if none is left or none comes nearer, it ends at
//! the next chunk. So a client that leaves costs at most so much. If few bytes are missing, the
//! rest is fetched in the background (`complete`).
//!
//! # What holds it together
//!
//! The first answer tells length and entity tag. Every later request carries the tag, and its
//! answer must state both, or the part is dropped and its readers are reset; one that has got no
//! byte yet begins anew, once. Only what has a strong tag, or a FileHash that the whole is checked
//! against, is kept in parts; anything else passes through to its reader.
//!
//! What is said here holds for responses of generic sites too (RFC 9111 sections 3.3 and 3.4).
//! Every later answer about one must also permit storing it still, and renews its head.
//!
//! # Purges
//!
//! A flight takes its ticket before it looks at the disk or asks an origin. Nothing of a flight
//! that a purge has overtaken is noted or published, and none joins it. Its readers go on, as
//! those of any object that is purged.
//!
//! Locks: the registry's, short; never while a flight is dropped, which takes it.

mod complete;
mod confirm;
mod confirming;
mod cursors;
mod first_run;
mod flight;
mod handle;
mod identity;
mod learn;
mod lookup;
mod object;
mod reader;
mod reader_run;
mod run;
mod salvage;
mod stretch;

pub use confirming::PartConfirmation;
pub(super) use flight::PartRegistry;
pub use handle::PartHandle;
pub(super) use lookup::find;
pub use lookup::{PartSearch, RangeOutcome};
pub use reader::{PartReader, RangeProvenance};
pub(super) use salvage::salvage;
