//! The admin listener: metrics, health, readiness, purge, notices of uploads, checks of the disk.
//! Bound and served once by the assembly; ends when the process drains. Nothing of it is reachable
//! through the public listeners.

mod browser;
mod fsck;
mod json;
mod listener;
mod parts;
mod purge;
mod routes;
#[cfg(test)]
mod tests;
mod token;
mod uploads;

pub use fsck::{FsckHandler, FsckRefusal, FsckRequest};
pub use listener::{AdminBindError, AdminListener};
pub use parts::{AdminParts, BeforeMetrics, Readiness, ReadinessCheck, ReadinessProbe};
pub use purge::{PurgeError, PurgeHandler, PurgeMode, PurgeReply, PurgeRequest, PurgeScope};
pub use uploads::{UploadsError, UploadsHandler, UploadsReply, UploadsRequest};
