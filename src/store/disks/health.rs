//! Whether the disk takes writes: after repeated errors it is left alone until a probe (see
//! [`crate::store::probe`]) succeeds, or for a while if no probe runs. One per store, as long as
//! it; a short lock, never across an await or I/O.

use crate::store::error::WriteError;
use crate::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Errors in a row after which writes are refused.
const ERRORS_MAX: u32 = 3;
/// How long they are refused before the next attempt.
const PAUSE: Duration = Duration::from_secs(5);

/// Whether the disk tier takes writes, and what it last complained of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskHealth {
    /// Whether [`Disks::begin`](crate::store::Disks::begin) is open.
    pub is_writable: bool,
    /// The last error; empty while all is well.
    pub detail: String,
}

/// The store's memory of its write errors.
#[derive(Debug, Default)]
pub(in crate::store) struct Monitor(Mutex<Errors>);

#[derive(Debug, Default)]
struct Errors {
    in_a_row: u32,
    refused_until: Option<Instant>,
    last: String,
    /// Whether the last sync failed: what was written since may be in the page cache alone.
    is_unsynced: bool,
}

impl Monitor {
    /// Whether a write may be tried at `now`.
    pub(in crate::store) fn admit(&self, now: Instant) -> Result<(), WriteError> {
        let errors = self.0.lock();
        match errors.refused_until {
            Some(until) if now < until => Err(WriteError::Refused { detail: errors.last.clone() }),
            Some(_) | None => Ok(()),
        }
    }

    /// Remembers a write error at `now`; every one past [`ERRORS_MAX`] in a row pauses writing.
    /// Whether that is news for an operator: the first error, or the one that pauses writing.
    pub(in crate::store) fn failed(&self, error: &dyn std::error::Error, now: Instant) -> bool {
        let mut errors = self.0.lock();
        let was_refusing = errors.in_a_row >= ERRORS_MAX;
        errors.in_a_row = errors.in_a_row.saturating_add(1);
        errors.last = error.to_string();
        let is_refusing = errors.in_a_row >= ERRORS_MAX;
        if is_refusing {
            errors.refused_until = Some(now + PAUSE);
        }
        errors.in_a_row == 1 || is_refusing != was_refusing
    }

    /// Whether there was an error since the last success.
    pub(in crate::store) fn is_in_doubt(&self) -> bool {
        self.0.lock().in_a_row > 0
    }

    /// Pauses writing at `now`, whatever the errors before: a probe has failed.
    pub(in crate::store) fn refuse(&self, error: &dyn std::error::Error, now: Instant) -> bool {
        let mut errors = self.0.lock();
        let was_refusing = errors.in_a_row >= ERRORS_MAX;
        errors.in_a_row = errors.in_a_row.saturating_add(1).max(ERRORS_MAX);
        errors.last = error.to_string();
        errors.refused_until = Some(now + PAUSE);
        !was_refusing
    }

    /// Remembers that a sync failed: until one succeeds, or a probe, no write takes errors back.
    pub(in crate::store) fn not_synced(&self) {
        self.0.lock().is_unsynced = true;
    }

    /// Remembers that a sync succeeded.
    pub(in crate::store) fn synced(&self) {
        self.0.lock().is_unsynced = false;
    }

    /// Remembers that a write reached the page cache.
    pub(in crate::store) fn wrote(&self) {
        let mut errors = self.0.lock();
        if !errors.is_unsynced {
            *errors = Errors::default();
        }
    }

    /// Remembers that a write reached the disk; whether there was an error before.
    pub(in crate::store) fn succeeded(&self) -> bool {
        let mut errors = self.0.lock();
        let was_in_doubt = errors.in_a_row > 0;
        *errors = Errors::default();
        was_in_doubt
    }

    /// What an operator is told at `now`.
    pub(in crate::store) fn report(&self, now: Instant) -> DiskHealth {
        let errors = self.0.lock();
        let is_writable = errors.refused_until.is_none_or(|until| now >= until);
        DiskHealth { is_writable, detail: errors.last.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_pause_after_repeated_errors_and_come_back() {
        let monitor = Monitor::default();
        let start = Instant::now();
        for _ in 0..ERRORS_MAX {
            assert!(monitor.admit(start).is_ok());
            monitor.failed(&WriteError::NoSpace { bytes: 1 }, start);
        }
        assert!(matches!(monitor.admit(start), Err(WriteError::Refused { .. })));
        assert!(!monitor.report(start).is_writable);
        assert!(monitor.report(start).detail.contains("no space"));
        let later = start + PAUSE;
        assert!(monitor.admit(later).is_ok());
        monitor.failed(&WriteError::NoSpace { bytes: 1 }, later);
        assert!(monitor.admit(later).is_err(), "one failed attempt pauses again");
        assert!(monitor.is_in_doubt() && monitor.succeeded() && !monitor.is_in_doubt());
        assert_eq!(monitor.report(later), DiskHealth { is_writable: true, detail: String::new() });
    }

    #[test]
    fn what_reaches_the_page_cache_alone_takes_no_error_of_a_sync_back() {
        let (monitor, now) = (Monitor::default(), Instant::now());
        let error = WriteError::NoSpace { bytes: 1 };
        for _ in 0..ERRORS_MAX {
            monitor.not_synced();
            monitor.failed(&error, now);
            monitor.wrote();
        }
        assert!(monitor.admit(now).is_err());
        monitor.synced();
        monitor.wrote();
        assert!(monitor.admit(now).is_ok());
    }

    #[test]
    fn a_failed_probe_pauses_at_once_and_is_news_once() {
        let monitor = Monitor::default();
        let now = Instant::now();
        let error = WriteError::NoSpace { bytes: 1 };
        assert!(monitor.refuse(&error, now));
        assert!(!monitor.report(now).is_writable);
        assert!(!monitor.refuse(&error, now + PAUSE), "the same again is no news");
        assert!(!monitor.report(now + PAUSE).is_writable);
        monitor.succeeded();
        let news = [(); 5].map(|()| monitor.failed(&error, now));
        assert_eq!(news, [true, false, true, false, false]);
    }
}
