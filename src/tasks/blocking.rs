//! Work on the threads that may block: how it begins, and why it may bring no result. Called by
//! the tasks above and by their lanes.

use std::time::Duration;
use tokio::task::JoinHandle;

/// Work on a blocking thread brought no result.
#[derive(Debug, thiserror::Error)]
pub enum BlockingError {
    /// It panicked, or the runtime went away.
    #[error("the blocking task {name} did not finish")]
    Failed {
        /// The task's name.
        name: &'static str,
        /// What the runtime said.
        #[source]
        source: tokio::task::JoinError,
    },
    /// It was given up. If it had begun, it goes on.
    #[error("the blocking task {name} took too long")]
    Late {
        /// The task's name.
        name: &'static str,
    },
}

impl BlockingError {
    /// Whether the work panicked.
    pub fn is_panic(&self) -> bool {
        match self {
            Self::Failed { source, .. } => source.is_panic(),
            Self::Late { .. } => false,
        }
    }
}

/// Begins blocking work: on a thread of the runtime's pool; in a simulation as one of its jobs.
#[cfg_attr(not(test), expect(unused_variables, reason = "the name is for simulations"))]
pub(super) fn start<T, F>(name: &'static str, work: F) -> JoinHandle<T>
where
    T: Send + 'static,
    F: FnOnce() -> T + Send + 'static,
{
    #[cfg(test)]
    let work = match crate::simulation::jobs::start(name, work) {
        Ok(started) => return started,
        Err(work) => work,
    };
    tokio::task::spawn_blocking(work)
}

/// Lets a blocking thread sleep; in a simulation, in its time.
pub fn sleep_blocking(time: Duration) {
    #[cfg(test)]
    if crate::simulation::jobs::sleep(time) {
        return;
    }
    std::thread::sleep(time);
}
