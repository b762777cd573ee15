//! A large body that comes in pieces, joined in order. Owned by one fill; no locks but those of
//! `limits`.
//!
//! # How it comes
//!
//! It begins as an ordinary answer to an ordinary request: the *front*, which feeds the readers.
//! Three things make pieces possible: its head tells the length, its origin knows ranges, and there
//! is a strong entity tag or a FileHash. If the rest would take too long at the front's pace,
//! further connections fetch the pieces behind it, each a task that writes ahead into the object's
//! file (`piece`). When the front reaches a piece, what is in the file is read back, compared
//! and hashed in its turn, and that piece's answer is the front from there on. If the front is all
//! that is missing, the latter half of it becomes a piece.
//!
//! # What holds
//!
//! - Bytes are appended, hashed and shown in their order alone. Pieces that come ahead change
//!   nothing about the end, which is withheld from every reader until the whole is proven.
//! - A front that would go on by itself is ended at a piece only once that piece's answer has said
//!   that it is of the same object: an origin that knows no ranges after all, has another object by
//!   now, or is too busy, costs a request, and the object comes over one connection as ever.
//! - A piece that breaks off is continued as every body is (`resumable_body`), but after two
//!   requests that brought little it is left: it is asked for in its turn, from any origin that has
//!   it, and no further piece is begun. So an origin that breaks off again and again is not asked
//!   more often because there are pieces.
//! - Memory: a batch of each piece that is under way. The disk: what was promised to the object
//!   from the start. Origins and clients: see `limits`.
//! - A purge, a disk that fails, the end of the process: the fill's, as without pieces. They live
//!   and go with it.

mod body;
mod limits;
mod piece;

pub(super) use body::{ParallelBody, ParallelStart, RangeSupport};
pub(super) use limits::ParallelLimits;
