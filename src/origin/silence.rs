//! Whether an origin accepts requests and says nothing: then it is asked after the others, while a
//! task probes it once a second, until it answers. One per origin, as long lived as it; no lock.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long an origin may say nothing before the next one is asked beside it, if it is not known
/// how fast it usually is.
pub(super) const SILENCE_MAX: Duration = Duration::from_millis(750);
/// The same for large objects, which an origin may have to fetch or to make.
pub(super) const LARGE_SILENCE_MAX: Duration = Duration::from_secs(5);
/// The time between two probes of a silent origin.
pub(super) const PROBE_EVERY: Duration = Duration::from_secs(1);

/// Whether an origin is silent.
#[derive(Debug, Default)]
pub(super) struct Silence(AtomicBool);

impl Silence {
    /// The next origin has answered a request that this one said nothing to; false if that is
    /// known.
    pub(super) fn begin(&self) -> bool {
        !self.0.swap(true, Ordering::AcqRel)
    }

    /// It has answered.
    pub(super) fn end(&self) {
        self.0.store(false, Ordering::Release);
    }

    /// Whether it is silent.
    pub(super) fn holds(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
