//! Memory and disk as one, and the fences that keep a purged object from coming back. One per
//! process, shared. Read by `engine`, written by `fill` and `purge`; a write to a generic site
//! drops what it may have changed.
//!
//! # Publishing, and why a purge that was answered holds
//!
//! A fill takes a [`FenceEpoch`] when it begins, and publishes in two steps ([`publish`]):
//! 1. On the disk's own threads: the body, and under the lock of its key the record, if the fence
//!    still allows it at that moment ([`ChangePermit`](crate::store::ChangePermit)).
//! 2. Under the fence's lock, without I/O: the fence is asked once more, and the object becomes
//!    visible in memory, with its claim and in the list of variants.
//!
//! A purge ([`purging`]) raises the fence, goes through memory, has each disk carry it out or owe
//! it, raises the second fence (`heating`), and goes through memory again. So, of what a purge
//! covers and is older than it:
//! - On disk: a record that was permitted before the raise is there when the disk passes the locks
//!   of its keys, and the purge finds it; a later one is refused (`store::disks`). A disk that has
//!   not carried it out serves nothing of it.
//! - In memory: what was published before the raise is there when memory is gone through; later it
//!   is refused. What a look-up reads from a disk becomes hot only if the second fence was not
//!   raised since the look-up began: so it came before memory is gone through the second time.
//! - In the hands of a fill: what is to be confirmed has the ticket of the moment before it was
//!   looked up ([`Stale`]). A fill takes its own ticket first and then drops what was purged since
//!   that other one; from then on its own ticket covers both. An answer that is here before its
//!   fill begins has its ticket from before it was asked for.
//! - Claims say which narinfo they come from, and count no longer than that.
//!
//! Never held across I/O or an await: any lock of this module. What a disk is asked runs on its own
//! threads, and is given up after a few seconds. So nothing here waits longer for a disk, and a
//! look-up in memory never does.
//!
//! # Order
//!
//! Publications are numbered as insertions are, across all disks. What is older than a publication
//! goes afterwards, disk by disk, by its number; memory compares the numbers of all that comes
//! (`memory`). A response is not published if a response with a later head was published during its
//! fetch. An absence removes only what was inserted before its fetch began.

mod claims;
mod fence;
mod found;
mod parts;
mod publish;
mod purging;
mod selection;
#[cfg(test)]
pub(crate) mod tests;
mod tiers;
mod variants;

pub use crate::store::{ClaimUnknown, PurgeHold, PurgeOutcome, Purging, Scope};
pub use fence::{Fence, FenceEpoch};
pub use found::{CachedObject, ClaimOf, Hit, SMALL_BYTES_MAX, Stale};
pub use publish::PublishError;
pub use tiers::Cache;
