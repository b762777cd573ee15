//! Bodies: the one of an object that is received, with one writer and any number of readers, and
//! the file of a stored one.
//!
//! [`ObjectWriter`] owns a body while it is received; [`Growing`] and [`Follower`] are its readers'
//! side. A body has one offset, in [`segments`]: bytes are pushed at its end, handed to a thread in
//! batches, hashed in the same order, and let go when they are in the file. Ranges that come before
//! their turn go through [`out_of_order`]. A stored body is read by [`read`], which compares the
//! [`sums`] of each chunk that comes from the disk; [`chunks`] says why no other byte is given out.
//! [`recent`] keeps files open. Called by `store`, and by `fill` and `engine` through `cache`.

pub(super) mod chunks;
pub(super) mod direct;
mod disk_side;
mod growing;
mod out_of_order;
pub(super) mod read;
pub(super) mod recent;
mod segments;
pub(super) mod sums;
pub(super) mod trailer;
mod window;
mod writer;

pub use growing::{Follower, Growing, ReadExtent, WITHHELD_BYTES, Withhold};
pub use out_of_order::{OutOfOrder, RangeWriter, WrittenRange};
pub use writer::{EndedObject, ObjectWriter, ProvenObject, SealedObject};

pub(super) use disk_side::SealedBody;
pub(super) use growing::Growth;
pub(super) use segments::Batch;
pub(super) use window::MemoryWindows;
