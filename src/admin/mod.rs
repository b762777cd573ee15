//! The admin listener: metrics, health, readiness, purge. Bound and served once by the assembly;
//! ends when the process drains. Nothing of it is reachable through the public listeners.

mod listener;
mod purge;
mod routes;
#[cfg(test)]
mod tests;
mod token;

pub use listener::{Admin, BindError, Parts};
pub use purge::{PurgeError, PurgeHandler, PurgeMode, PurgeReply, PurgeRequest, PurgeScope};
pub use routes::{BeforeMetrics, Check, Readiness, ReadinessProbe};
