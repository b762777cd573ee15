//! Space: what is used, which object goes next, and how room is made before the limit or the file
//! system is full.
//!
//! [`order`] is the eviction order (S3-FIFO on bytes), made of the nodes of [`slab`] and the
//! fingerprints of [`ghost`]. [`accounting`] is the order with its sums under one lock. [`reserve`]
//! promises space and evicts for it, from [`free_space`] if that suffices. [`snapshot`] writes the
//! order down in the form of [`order_file`] and reads it at the next start.

pub(super) mod accounting;
pub(super) mod free_space;
mod ghost;
pub(super) mod order;
mod order_file;
pub(super) mod reserve;
mod slab;
pub(super) mod snapshot;
