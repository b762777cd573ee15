//! Every metric: its name, help and labels, in this one file. Made once at start and shared;
//! counters are atomic, no lock is held across an await. Labels come from closed sets: sites and
//! origins of the config, classes, outcomes.

use crate::nix::Class;
use crate::outcome::Outcome;
use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

/// Every metric of the process.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Registry,
    /// Requests answered, by site, class and outcome.
    pub requests: IntCounterVec,
    /// Body bytes sent to clients, by site, class and outcome.
    pub response_bytes: IntCounterVec,
    /// Seconds from a request's head to the end of its answer, by site and class.
    pub request_seconds: HistogramVec,
    /// Requests that left for an origin, by origin, class and status (`error` without one).
    pub origin_requests: IntCounterVec,
    /// Body bytes received from origins, by origin and class.
    pub origin_bytes: IntCounterVec,
    /// Seconds from a request to an origin until its head, by origin.
    pub origin_first_byte_seconds: HistogramVec,
    /// Whether the origin's last answer was usable (1) or not (0), by origin.
    pub origin_up: IntGaugeVec,
    /// Bytes stored, by tier.
    pub stored_bytes: IntGaugeVec,
    /// Objects stored, by tier.
    pub stored_objects: IntGaugeVec,
    /// Objects evicted, by tier and reason.
    pub evictions: IntCounterVec,
    /// Fills ended, by class and result.
    pub fills: IntCounterVec,
    /// Bodies taken up again after their origin broke off, by result.
    pub fill_resumes: IntCounterVec,
    /// Fills under way.
    pub fills_running: IntGauge,
    /// Bodies that did not match what was promised, by origin and reason.
    pub rejected_bodies: IntCounterVec,
    /// Stored objects found damaged, and dropped, by tier.
    pub damaged_objects: IntCounterVec,
    /// Errors of the disk tier, by operation.
    pub store_errors: IntCounterVec,
    /// Open client connections, by listener kind.
    pub connections: IntGaugeVec,
    /// Client connections closed for misbehaviour or a limit, by reason.
    pub connections_refused: IntCounterVec,
    /// Requests refused before any work, by reason.
    pub requests_refused: IntCounterVec,
    /// Requests that ended in a panic; each is a fault of Narthex.
    pub request_panics: IntCounter,
    /// Purges carried out, by scope.
    pub purges: IntCounterVec,
    /// Access-log records dropped since the log could not keep up.
    pub access_log_dropped: IntCounter,
}

const SECONDS: &[f64] = &[
    0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 30.0, 60.0, 300.0,
];

impl Metrics {
    /// Registers every metric.
    ///
    /// Fails only where two share a name, which the tests of this file exclude.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let vector = IntCounterVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vector.clone()))?;
            Ok::<_, prometheus::Error>(vector)
        };
        let gauges = |name: &str, help: &str, labels: &[&str]| {
            let vector = IntGaugeVec::new(Opts::new(name, help), labels)?;
            registry.register(Box::new(vector.clone()))?;
            Ok::<_, prometheus::Error>(vector)
        };
        let seconds = |name: &str, help: &str, labels: &[&str]| {
            let options = HistogramOpts::new(name, help).buckets(SECONDS.to_vec());
            let vector = HistogramVec::new(options, labels)?;
            registry.register(Box::new(vector.clone()))?;
            Ok::<_, prometheus::Error>(vector)
        };
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help)?;
            registry.register(Box::new(gauge.clone()))?;
            Ok::<_, prometheus::Error>(gauge)
        };
        Ok(Self {
            requests: counters(
                "narthex_requests_total",
                "Requests answered.",
                &["site", "class", "outcome"],
            )?,
            response_bytes: counters(
                "narthex_response_bytes_total",
                "Body bytes sent to clients.",
                &["site", "class", "outcome"],
            )?,
            request_seconds: seconds(
                "narthex_request_seconds",
                "Seconds from a request's head to the end of its answer.",
                &["site", "class"],
            )?,
            origin_requests: counters(
                "narthex_origin_requests_total",
                "Requests that left for an origin, retries included.",
                &["origin", "class", "status"],
            )?,
            origin_bytes: counters(
                "narthex_origin_bytes_total",
                "Body bytes received from origins.",
                &["origin", "class"],
            )?,
            origin_first_byte_seconds: seconds(
                "narthex_origin_first_byte_seconds",
                "Seconds from a request to an origin until its head.",
                &["origin"],
            )?,
            origin_up: gauges(
                "narthex_origin_up",
                "Whether the origin's last answer was usable.",
                &["origin"],
            )?,
            stored_bytes: gauges("narthex_stored_bytes", "Bytes stored.", &["tier"])?,
            stored_objects: gauges("narthex_stored_objects", "Objects stored.", &["tier"])?,
            evictions: counters(
                "narthex_evictions_total",
                "Objects evicted.",
                &["tier", "reason"],
            )?,
            fills: counters("narthex_fills_total", "Fills ended.", &["class", "result"])?,
            fill_resumes: counters(
                "narthex_fill_resumes_total",
                "Tries to take up a body again after its origin broke off.",
                &["result"],
            )?,
            fills_running: gauge("narthex_fills_running", "Fills under way.")?,
            rejected_bodies: counters(
                "narthex_rejected_bodies_total",
                "Bodies that did not match what was promised; none of them is stored.",
                &["origin", "reason"],
            )?,
            damaged_objects: counters(
                "narthex_damaged_objects_total",
                "Stored objects found damaged and dropped.",
                &["tier"],
            )?,
            store_errors: counters(
                "narthex_store_errors_total",
                "Errors of the disk tier.",
                &["operation"],
            )?,
            connections: gauges("narthex_connections", "Open client connections.", &["door"])?,
            connections_refused: counters(
                "narthex_connections_refused_total",
                "Client connections closed for a limit or a fault of the client.",
                &["reason"],
            )?,
            requests_refused: counters(
                "narthex_requests_refused_total",
                "Requests refused before any work.",
                &["reason"],
            )?,
            request_panics: counter(
                "narthex_request_panics_total",
                "Requests that ended in a panic; each is a fault of Narthex.",
            )?,
            purges: counters("narthex_purges_total", "Purges carried out.", &["scope"])?,
            access_log_dropped: counter(
                "narthex_access_log_dropped_total",
                "Access-log records dropped since the log could not keep up.",
            )?,
            registry,
        })
    }

    /// The Prometheus text exposition of every metric.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        let mut buffer = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut buffer)?;
        String::from_utf8(buffer).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }

    /// The counters that one answered request adds to.
    pub fn answered(&self, site: &str, class: Class, outcome: Outcome) -> (IntCounter, IntCounter) {
        let labels = &[site, class.as_str(), outcome.as_str()];
        (self.requests.with_label_values(labels), self.response_bytes.with_label_values(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_registers_and_prints() {
        let metrics = Metrics::new().unwrap();
        metrics.answered("main", Class::Nar, Outcome::Miss).0.inc();
        let text = metrics.text().unwrap();
        assert!(
            text.contains("narthex_requests_total{class=\"nar\",outcome=\"miss\",site=\"main\"} 1")
        );
    }
}
