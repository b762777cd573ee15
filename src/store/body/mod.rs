//! The body of an object while it is received: one writer, any number of readers.
//!
//! [`ObjectWriter`] owns it; [`Growing`] and [`Follower`] are its readers' side. A body has one
//! offset, in [`segments`]: bytes are pushed at its end, handed to a thread in batches, hashed in
//! the same order, and let go when they are in the file. Ranges that come before their turn go
//! through [`out_of_order`]. Called by `store`, and by `fill` through `cache`.

mod disk_side;
mod growing;
mod out_of_order;
mod segments;
mod window;
mod writer;

pub use growing::{Follower, Growing, WITHHELD_BYTES, Withhold};
pub use out_of_order::{OutOfOrder, RangeWriter, WrittenRange};
pub use writer::{EndedObject, ObjectWriter, ProvenObject, SealedObject};

pub(super) use disk_side::SealedBody;
pub(super) use growing::Growth;
pub(super) use segments::Batch;
pub(super) use window::MemoryWindows;
