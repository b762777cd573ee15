//! The metrics of one origin. Counters only; shared by everybody who asks it.

use crate::metrics::Metrics;
use crate::nix::Class;
use http::StatusCode;
use prometheus::IntCounter;
use std::sync::Arc;
use std::time::Instant;

/// The metrics of one origin.
#[derive(Debug, Clone)]
pub(super) struct Meters {
    metrics: Metrics,
    origin: Arc<str>,
}

/// Whether an origin's last answer was usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usable {
    Yes,
    No,
}

/// Whether looking for keys found any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeysFound {
    Yes,
    No,
}

/// A request under way; counted as an error where it is dropped without an answer.
#[derive(Debug)]
pub(super) struct RequestMeter<'a> {
    meters: &'a Meters,
    class: Class,
    started: Instant,
    status: Option<StatusCode>,
}

impl Meters {
    pub(super) fn new(metrics: Metrics, origin: Arc<str>) -> Self {
        Self { metrics, origin }
    }

    /// A request is about to leave.
    pub(super) fn request(&self, class: Class) -> RequestMeter<'_> {
        RequestMeter { meters: self, class, started: Instant::now(), status: None }
    }

    /// The counter of body bytes received for `class`.
    pub(super) fn bytes(&self, class: Class) -> IntCounter {
        self.metrics.origin_bytes.with_label_values(&[&*self.origin, class.as_str()])
    }

    /// Looking for keys has ended: with others than were known, or with none.
    pub(super) fn keys(&self, found: KeysFound) {
        let result = match found {
            KeysFound::Yes => "found",
            KeysFound::No => "failed",
        };
        self.metrics.origin_keys.with_label_values(&[&*self.origin, result]).inc();
    }

    /// The origin refused a signature for its time, and the clock was corrected.
    pub(super) fn clock_corrected(&self) {
        self.metrics.origin_clock_corrections.with_label_values(&[&*self.origin]).inc();
    }

    /// Sets the gauge of health.
    pub(super) fn up(&self, usable: Usable) {
        let gauge = self.metrics.origin_up.with_label_values(&[&*self.origin]);
        gauge.set(i64::from(usable == Usable::Yes));
    }
}

impl RequestMeter<'_> {
    /// The head of an answer arrived.
    pub(super) fn answered(mut self, status: StatusCode) {
        self.status = Some(status);
        let seconds = self.started.elapsed().as_secs_f64();
        let meters = self.meters;
        meters
            .metrics
            .origin_first_byte_seconds
            .with_label_values(&[&*meters.origin])
            .observe(seconds);
    }
}

impl Drop for RequestMeter<'_> {
    fn drop(&mut self) {
        let status = self.status.as_ref().map_or("error", StatusCode::as_str);
        let labels = [&*self.meters.origin, self.class.as_str(), status];
        self.meters.metrics.origin_requests.with_label_values(&labels).inc();
    }
}
