//! One request, one decision table.

pub mod body;
pub mod connection;

pub use body::Body;
pub use connection::{Connection, Transport};
