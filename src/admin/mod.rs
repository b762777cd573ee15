//! The admin listener: metrics, health, readiness, purge, checks of the disk. Bound and served
//! once by the assembly; ends when the process drains. Nothing of it is reachable through the
//! public listeners.

mod fsck;
mod listener;
mod purge;
mod routes;
#[cfg(test)]
mod tests;
mod token;

pub use fsck::{FsckHandler, FsckRefusal, FsckRequest};
pub use listener::{Admin, BindError, Parts};
pub use purge::{PurgeError, PurgeHandler, PurgeMode, PurgeReply, PurgeRequest, PurgeScope};
pub use routes::{BeforeMetrics, Check, Readiness, ReadinessProbe};
