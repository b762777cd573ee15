//! What is remembered of an origin's state: for readiness, the gauge, and one log line for each
//! change. One per origin; the lock is held for a comparison only.

use super::exchange::FetchError;
use super::meters::{OriginMeters, Usability};
use crate::sync::Mutex;
use std::sync::Arc;
use tokio::sync::Notify;

/// The state of one origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginHealth {
    /// The origin's name.
    pub name: Arc<str>,
    /// Whether its last answer was usable; true before the first.
    pub is_up: bool,
    /// What was wrong with the last answer, if it was not usable.
    pub last_error: Option<String>,
}

/// Remembers one origin's state.
#[derive(Debug)]
pub(super) struct HealthRecord {
    name: Arc<str>,
    meters: OriginMeters,
    state: Mutex<HealthState>,
    /// Told when an answer is usable that was not before; shared by a site's origins.
    recovery: Arc<Notify>,
}

#[derive(Debug, PartialEq, Eq)]
enum HealthState {
    Unknown,
    Up,
    Down { trouble: Trouble, error: String },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trouble {
    Credentials,
    Other,
}

impl HealthRecord {
    pub(super) fn new(name: Arc<str>, meters: OriginMeters, recovery: Arc<Notify>) -> Self {
        Self { name, meters, state: Mutex::new(HealthState::Unknown), recovery }
    }

    /// An answer was usable.
    pub(super) fn usable(&self) {
        self.meters.up(Usability::Yes);
        let before = std::mem::replace(&mut *self.state.lock(), HealthState::Up);
        if matches!(before, HealthState::Down { .. }) {
            tracing::info!(origin = %self.name, "origin is usable again");
            self.recovery.notify_waiters();
        }
    }

    /// No usable answer came. That it was not asked, or not to the end, says nothing of it.
    pub(super) fn failed(&self, error: &FetchError) {
        let trouble = match error {
            FetchError::Upload { .. }
            | FetchError::Busy { .. }
            | FetchError::Open { .. }
            | FetchError::Throttled { .. }
            | FetchError::Optional(_) => return,
            FetchError::Credentials { .. } => Trouble::Credentials,
            FetchError::Connect { .. }
            | FetchError::Broken { .. }
            | FetchError::FirstByte { .. }
            | FetchError::Status { .. }
            | FetchError::Protocol { .. }
            | FetchError::Folder { .. } => Trouble::Other,
        };
        self.meters.up(Usability::No);
        let error = error.to_string();
        let now = HealthState::Down { trouble, error: error.clone() };
        let before = std::mem::replace(&mut *self.state.lock(), now);
        let was = match before {
            HealthState::Down { trouble, .. } => Some(trouble),
            HealthState::Unknown | HealthState::Up => None,
        };
        match trouble {
            _ if was == Some(trouble) => {}
            Trouble::Credentials => {
                tracing::error!(origin = %self.name, %error, "origin refuses the credentials");
            }
            Trouble::Other => tracing::warn!(origin = %self.name, %error, "origin is not usable"),
        }
    }

    /// The state now.
    pub(super) fn now(&self) -> OriginHealth {
        let last_error = match &*self.state.lock() {
            HealthState::Down { error, .. } => Some(error.clone()),
            HealthState::Unknown | HealthState::Up => None,
        };
        OriginHealth { name: Arc::clone(&self.name), is_up: last_error.is_none(), last_error }
    }
}
