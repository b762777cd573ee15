//! Every metric: its name, help and labels, in this one file; the values of the labels stand in
//! `labels.rs`. Made once at start and shared; counters are atomic, no lock is held across an
//! await. Labels come from closed sets: sites and origins of the config, classes, outcomes.

mod definition;
mod labels;
mod printed;
mod reference;
mod registrar;
mod sharded;

pub use sharded::Shard;

use crate::nix::Class;
use crate::outcome::Outcome;
use definition::{Definition, define};
use printed::Export;
use prometheus::{
    CounterVec, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
};
use registrar::Registrar;
use sharded::ShardedMetric;
use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

/// Every metric of the process.
#[derive(Debug, Clone)]
pub struct Metrics {
    printed: Arc<Export>,
    /// Requests answered, by site, class and outcome.
    requests: ShardedMetric<IntCounterVec>,
    /// Body bytes sent to clients, by site, class and outcome.
    response_bytes: ShardedMetric<IntCounterVec>,
    /// Seconds from a request's head to the end of its answer, by site and class.
    request_seconds: ShardedMetric<HistogramVec>,
    /// Requests that left for an origin, by origin, class and status (`error` without one).
    pub origin_requests: IntCounterVec,
    /// Body bytes received from origins, by origin and class.
    pub origin_bytes: IntCounterVec,
    /// Seconds from a request to an origin until its head, by origin.
    pub origin_first_byte_seconds: HistogramVec,
    /// Whether the origin's last answer was usable (1) or not (0), by origin.
    pub origin_up: IntGaugeVec,
    /// Requests that left for an origin, by origin, class, method and reason.
    pub origin_reasons: IntCounterVec,
    /// What origins take for requests and bytes, at the configured prices.
    pub origin_cost: CounterVec,
    /// Whether an origin is asked (0), left alone (2), or under a probe (1), by origin.
    pub origin_breaker_state: IntGaugeVec,
    /// Changes of that, by origin and what it changed to.
    pub origin_breaker_transitions: IntCounterVec,
    /// Answers of an origin that asked for fewer requests, by origin.
    pub origin_throttled: IntCounterVec,
    /// Requests a second that an origin gets (0: no limit), by origin.
    pub origin_rate_limit: GaugeVec,
    /// Requests that did not leave for an origin, by origin and reason.
    pub origin_held: IntCounterVec,
    /// Retries, by origin and whether the budget had one left.
    pub origin_retries: IntCounterVec,
    /// Second requests after a slow first one, by origin and what came of them.
    pub origin_hedges: IntCounterVec,
    /// Requests sent again since they were not processed, by origin.
    pub origin_resends: IntCounterVec,
    /// Times that keys of a bucket were looked for and came to be others, or were not found, by
    /// origin and result.
    pub origin_keys: IntCounterVec,
    /// Times that signatures came to be dated by the origin's clock, by origin.
    pub origin_clock_corrections: IntCounterVec,
    /// Bytes stored, by tier.
    pub stored_bytes: IntGaugeVec,
    /// Objects stored, by tier.
    pub stored_objects: IntGaugeVec,
    /// Objects in the eviction order of the disk tier: those stored, once it is loaded.
    pub ordered_objects: IntGauge,
    /// Bytes of memory that the index of the disk tier takes, by part.
    pub index_memory_bytes: IntGaugeVec,
    /// Body bytes put in the disk tier, by their place in it.
    pub stored_payload_bytes: IntCounterVec,
    /// Bytes that the process has made the kernel write to disks.
    pub disk_written_bytes: IntCounter,
    /// Objects evicted, by tier and reason.
    pub evictions: IntCounterVec,
    /// Fills ended, by class and result.
    pub fills: IntCounterVec,
    /// Bodies taken up again after their origin broke off, by result.
    pub fill_resumes: IntCounterVec,
    /// Pieces of objects that were fetched over further connections, by result.
    pub fill_pieces: IntCounterVec,
    /// Fills under way.
    pub fills_running: IntGauge,
    /// Fills that went on without the disk after it failed under them.
    pub fills_adrift: IntCounter,
    /// Requests for which no origin was asked, since every body of late was wrong.
    pub fills_spared: IntCounter,
    /// Bytes of stored files that the kernel sent by itself.
    pub sendfile_bytes: IntCounter,
    /// Answers with a stored file that was found damaged while it was sent, by what became of them.
    pub body_rescues: IntCounterVec,
    /// Bodies that did not match what was promised, by origin and reason.
    pub rejected_bodies: IntCounterVec,
    /// Stored objects found damaged, and dropped, by tier.
    pub damaged_objects: IntCounterVec,
    /// Bytes that were read back and compared, by the check (`scrub`, `fsck`).
    pub checked_bytes: IntCounterVec,
    /// Objects that were read back and compared, by the check.
    pub checked_objects: IntCounterVec,
    /// What a check of stored objects found wrong, by kind.
    pub check_faults: IntCounterVec,
    /// How much of its present pass the scrubber has done, 0 to 1, by disk.
    pub scrub_progress: GaugeVec,
    /// When the scrubber ended its last pass, in seconds since the Unix epoch, by disk.
    pub scrub_last_pass: IntGaugeVec,
    /// Damaged objects that were fetched again, by result.
    pub healed_objects: IntCounterVec,
    /// Chunks of partial objects, by what became of them.
    pub chunks: IntCounterVec,
    /// Bytes of ranges answered by way of parts, by their source and their purpose.
    pub range_bytes: IntCounterVec,
    /// Objects on disk of which only a part is there.
    pub part_objects: IntGauge,
    /// Bytes of disk that partial objects count.
    pub part_bytes: IntGauge,
    /// Partial objects dropped since what an origin sent does not fit, by reason.
    pub parts_dropped: IntCounterVec,
    /// Partial objects with their last chunk stored, or to be completed, by result.
    pub completions: IntCounterVec,
    /// Errors of the disk tier, by disk and operation.
    pub store_errors: IntCounterVec,
    /// Whether a disk's objects can be read (1) or it is out (0), by disk.
    pub disk_readable: IntGaugeVec,
    /// Whether a disk takes objects (1) or not (0), by disk.
    pub disk_writable: IntGaugeVec,
    /// Bytes stored, by disk.
    pub disk_stored_bytes: IntGaugeVec,
    /// Objects stored, by disk.
    pub disk_stored_objects: IntGaugeVec,
    /// Purges that a disk has yet to carry out, by disk.
    pub disk_purges_owed: IntGaugeVec,
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
    /// Keys that absence filters were asked for, by site and result.
    pub absence_filter_checks: IntCounterVec,
    /// Keys that absence filters hold, by site and part.
    pub absence_filter_keys: IntGaugeVec,
    /// Bytes of absence filters, by site and part.
    pub absence_filter_bytes: IntGaugeVec,
    /// Seconds since the feed of uploads was heard (-1 before), by site.
    pub absence_filter_feed_age: IntGaugeVec,
    /// Whether an absence filter answers (1) or steps aside (0), by site.
    pub absence_filter_answering: IntGaugeVec,
    /// Records of notices of uploads, by result.
    pub upload_notices: IntCounterVec,
    /// Access-log records dropped since the log could not keep up.
    pub access_log_dropped: IntCounter,
}

/// Lines of the diagnostic log that were left out: its queue was `full`, its reader `failed`, or
/// they were `repeated`. The log is the process's, so its counters are too.
pub fn log_lines_dropped(reason: &'static str) -> IntCounter {
    LOG_LINES.with_label_values(&[reason])
}

static LOG_LINES: LazyLock<IntCounterVec> = LazyLock::new(|| {
    let known = LOG_LINES_DROPPED.counters();
    #[expect(clippy::expect_used, reason = "fails only for a name that is none")]
    known.expect("the name of a metric")
});

const REQUESTS: Definition = define(
    "narthex_requests_total",
    "Requests answered.",
    &[labels::SITE, labels::CLASS, labels::OUTCOME],
);
const RESPONSE_BYTES: Definition = define(
    "narthex_response_bytes_total",
    "Body bytes sent to clients.",
    &[labels::SITE, labels::CLASS, labels::OUTCOME],
);
const REQUEST_SECONDS: Definition = define(
    "narthex_request_seconds",
    "Seconds from the head of a request to the end of its answer.",
    &[labels::SITE, labels::CLASS],
);
const ORIGIN_REQUESTS: Definition = define(
    "narthex_origin_requests_total",
    "Requests sent to an origin, with retries and hedges.",
    &[labels::ORIGIN, labels::CLASS, labels::STATUS],
);
const ORIGIN_BYTES: Definition = define(
    "narthex_origin_bytes_total",
    "Body bytes received from an origin.",
    &[labels::ORIGIN, labels::CLASS],
);
const ORIGIN_FIRST_BYTE_SECONDS: Definition = define(
    "narthex_origin_first_byte_seconds",
    "Seconds from a request to an origin to the head of its answer.",
    &[labels::ORIGIN],
);
const ORIGIN_UP: Definition = define(
    "narthex_origin_up",
    "1 if the last answer of the origin was usable, else 0.",
    &[labels::ORIGIN],
);
const ORIGIN_REASONS: Definition = define(
    "narthex_origin_requests_by_reason_total",
    "Requests sent to an origin, by method and purpose.",
    &[labels::ORIGIN, labels::CLASS, labels::METHOD, labels::PURPOSE],
);
const ORIGIN_COST: Definition = define(
    "narthex_origin_cost_total",
    "Estimated bill of an origin, at the prices and in the currency of [site.origin.prices].",
    &[labels::ORIGIN, labels::COST],
);
const ORIGIN_BREAKER_STATE: Definition = define(
    "narthex_origin_breaker_state",
    "State of the breaker: 0 closed, 1 half open (a probe is under way), 2 open (no request is \
     sent).",
    &[labels::ORIGIN],
);
const ORIGIN_BREAKER_TRANSITIONS: Definition = define(
    "narthex_origin_breaker_transitions_total",
    "Changes of the state of the breaker.",
    &[labels::ORIGIN, labels::BREAKER_STATE],
);
const ORIGIN_THROTTLED: Definition = define(
    "narthex_origin_throttled_total",
    "Answers that asked for fewer requests: 429, 503 with Retry-After, 503 of a bucket.",
    &[labels::ORIGIN],
);
const ORIGIN_RATE_LIMIT: Definition = define(
    "narthex_origin_rate_limit",
    "Requests a second that Narthex sends at most after the origin throttled; 0 for no limit.",
    &[labels::ORIGIN],
);
const ORIGIN_HELD: Definition = define(
    "narthex_origin_requests_held_total",
    "Requests that were not sent to an origin.",
    &[labels::ORIGIN, labels::HELD],
);
const ORIGIN_RETRIES: Definition = define(
    "narthex_origin_retries_total",
    "Retries, by the decision of the retry budget.",
    &[labels::ORIGIN, labels::RETRY],
);
const ORIGIN_RESENDS: Definition = define(
    "narthex_origin_resends_total",
    "Requests sent again at once on another connection, since the origin had not processed them.",
    &[labels::ORIGIN],
);
const ORIGIN_HEDGES: Definition = define(
    "narthex_origin_hedges_total",
    "Hedges: second requests after a slow first one.",
    &[labels::ORIGIN, labels::HEDGE],
);
const ORIGIN_KEYS: Definition = define(
    "narthex_origin_keys_total",
    "Look-ups of the credentials of a bucket that changed them or failed.",
    &[labels::ORIGIN, labels::CREDENTIALS],
);
const ORIGIN_CLOCK_CORRECTIONS: Definition = define(
    "narthex_origin_clock_corrections_total",
    "Corrections of the time in signatures by the clock of the origin.",
    &[labels::ORIGIN],
);
const STORED_BYTES: Definition = define("narthex_stored_bytes", "Bytes stored.", &[labels::TIER]);
const STORED_OBJECTS: Definition =
    define("narthex_stored_objects", "Objects stored.", &[labels::TIER]);
const ORDERED_OBJECTS: Definition = define(
    "narthex_ordered_objects",
    "Objects in the eviction order of the disk tier; fewer than stored while the order loads \
     after a start.",
    &[],
);
const INDEX_MEMORY_BYTES: Definition = define(
    "narthex_index_memory_bytes",
    "Memory of the index of the disk tier.",
    &[labels::INDEX_PART],
);
const STORED_PAYLOAD_BYTES: Definition = define(
    "narthex_stored_payload_bytes_total",
    "Body bytes written to the disk tier.",
    &[labels::PLACE],
);
const DISK_WRITTEN_BYTES: Definition = define(
    "narthex_disk_written_bytes_total",
    "Bytes that the kernel wrote to disks for the process; divided by the payload, the write \
     amplification.",
    &[],
);
const EVICTIONS: Definition = define(
    "narthex_evictions_total",
    "Objects that left a tier.",
    &[labels::TIER, labels::EVICTION],
);
const FILLS: Definition =
    define("narthex_fills_total", "Fills ended.", &[labels::CLASS, labels::FILL]);
const FILL_RESUMES: Definition = define(
    "narthex_fill_resumes_total",
    "Attempts to resume a body after its origin broke off.",
    &[labels::RESUME],
);
const FILL_PIECES: Definition = define(
    "narthex_fill_pieces_total",
    "Pieces of large objects requested over further connections.",
    &[labels::PIECE],
);
const FILLS_RUNNING: Definition = define("narthex_fills_running", "Fills under way.", &[]);
const FILLS_ADRIFT: Definition = define(
    "narthex_fills_adrift_total",
    "Fills that continued from memory after the disk failed or had no space for them.",
    &[],
);
const FILLS_SPARED: Definition = define(
    "narthex_fills_spared_total",
    "Requests refused without an origin request, since every recent body of the key was wrong.",
    &[],
);
const SENDFILE_BYTES: Definition = define(
    "narthex_sendfile_bytes_total",
    "Bytes of stored files sent by sendfile, without a copy in Narthex.",
    &[],
);
const BODY_RESCUES: Definition = define(
    "narthex_body_rescues_total",
    "Answers with a stored file that was found damaged while it was sent.",
    &[labels::RESCUE],
);
const REJECTED_BODIES: Definition = define(
    "narthex_rejected_bodies_total",
    "Bodies that did not match what was promised; none of them is stored.",
    &[labels::ORIGIN, labels::REJECTION],
);
const DAMAGED_OBJECTS: Definition = define(
    "narthex_damaged_objects_total",
    "Stored objects found damaged and dropped.",
    &[labels::DAMAGED_TIER],
);
const CHECKED_BYTES: Definition = define(
    "narthex_checked_bytes_total",
    "Stored bytes read back and compared.",
    &[labels::CHECKER],
);
const CHECKED_OBJECTS: Definition = define(
    "narthex_checked_objects_total",
    "Stored objects read back and compared.",
    &[labels::CHECKER],
);
const CHECK_FAULTS: Definition = define(
    "narthex_check_faults_total",
    "Faults of stored objects that a check found.",
    &[labels::CHECKER, labels::CHECK_FAULT],
);
const SCRUB_PROGRESS: Definition = define(
    "narthex_scrub_progress_ratio",
    "Part of the present pass that the scrubber has done, 0 to 1.",
    &[labels::DISK],
);
const SCRUB_LAST_PASS: Definition = define(
    "narthex_scrub_last_pass_timestamp_seconds",
    "Unix time of the end of the last pass of the scrubber; 0 before the first.",
    &[labels::DISK],
);
const HEALED_OBJECTS: Definition = define(
    "narthex_healed_objects_total",
    "Damaged objects in use that were to be fetched again.",
    &[labels::HEAL],
);
const CHUNKS: Definition =
    define("narthex_chunks_total", "Chunks of 1 MiB of partial objects.", &[labels::CHUNK]);
const RANGE_BYTES: Definition = define(
    "narthex_range_bytes_total",
    "Bytes of ranges of objects that are not stored whole.",
    &[labels::RANGE],
);
const PART_OBJECTS: Definition = define(
    "narthex_part_objects",
    "Partial objects on disk; they also count as stored objects.",
    &[],
);
const PART_BYTES: Definition = define(
    "narthex_part_bytes",
    "Bytes of disk of partial objects; they also count as stored bytes.",
    &[],
);
const PARTS_DROPPED: Definition = define(
    "narthex_parts_dropped_total",
    "Partial objects dropped, since what an origin sent does not fit them.",
    &[labels::PART_DROP],
);
const COMPLETIONS: Definition = define(
    "narthex_completions_total",
    "Ends of the completion of partial objects.",
    &[labels::COMPLETION],
);
const STORE_ERRORS: Definition = define(
    "narthex_store_errors_total",
    "Errors of the disk tier.",
    &[labels::DISK, labels::OPERATION],
);
const DISK_READABLE: Definition = define(
    "narthex_disk_readable",
    "1 while the objects of the disk can be read, else 0.",
    &[labels::DISK],
);
const DISK_WRITABLE: Definition =
    define("narthex_disk_writable", "1 while the disk takes objects, else 0.", &[labels::DISK]);
const DISK_STORED_BYTES: Definition =
    define("narthex_disk_stored_bytes", "Bytes stored on the disk.", &[labels::DISK]);
const DISK_STORED_OBJECTS: Definition =
    define("narthex_disk_stored_objects", "Objects stored on the disk.", &[labels::DISK]);
const DISK_PURGES_OWED: Definition = define(
    "narthex_disk_purges_owed",
    "Purges that the disk, which was out or failed, has not carried out yet.",
    &[labels::DISK],
);
const CONNECTIONS: Definition =
    define("narthex_connections", "Open client connections.", &[labels::DOOR]);
const CONNECTIONS_REFUSED: Definition = define(
    "narthex_connections_refused_total",
    "Client connections closed for a limit or a fault of the client.",
    &[labels::CONNECTION_REFUSAL],
);
const REQUESTS_REFUSED: Definition = define(
    "narthex_requests_refused_total",
    "Requests refused before any work.",
    &[labels::REQUEST_REFUSAL],
);
const REQUEST_PANICS: Definition = define(
    "narthex_request_panics_total",
    "Requests that ended in a panic; each is a fault of Narthex.",
    &[],
);
const PURGES: Definition =
    define("narthex_purges_total", "Purges carried out.", &[labels::PURGE_SCOPE]);
const ABSENCE_FILTER_CHECKS: Definition = define(
    "narthex_absence_filter_checks_total",
    "Narinfos looked up in the absence filter.",
    &[labels::SITE, labels::VERDICT],
);
const ABSENCE_FILTER_KEYS: Definition = define(
    "narthex_absence_filter_keys",
    "Keys that the absence filter holds.",
    &[labels::SITE, labels::FILTER_KEYS],
);
const ABSENCE_FILTER_BYTES: Definition = define(
    "narthex_absence_filter_bytes",
    "Bytes of the absence filter.",
    &[labels::SITE, labels::FILTER_BYTES],
);
const ABSENCE_FILTER_FEED_AGE: Definition = define(
    "narthex_absence_filter_feed_age_seconds",
    "Seconds since the last upload that the feed reported; -1 if the feed is not alive.",
    &[labels::SITE],
);
const ABSENCE_FILTER_ANSWERING: Definition = define(
    "narthex_absence_filter_answering",
    "1 while the absence filter answers, 0 while it steps aside.",
    &[labels::SITE],
);
const UPLOAD_NOTICES: Definition =
    define("narthex_upload_notices_total", "Records of upload notices.", &[labels::NOTICE]);
const LOG_LINES_DROPPED: Definition = define(
    "narthex_log_lines_dropped_total",
    "Lines left out of the diagnostic log.",
    &[labels::LOG_DROP],
);
const ACCESS_LOG_DROPPED: Definition = define(
    "narthex_access_log_dropped_total",
    "Access-log records dropped, since the reader of the log was too slow.",
    &[],
);

impl Metrics {
    /// Registers every metric.
    ///
    /// Fails only if two share a name, which the tests of this file exclude.
    pub fn new() -> Result<Self, prometheus::Error> {
        let mut registrar = Registrar::default();
        Ok(Self {
            requests: registrar.sharded_counters(&REQUESTS)?,
            response_bytes: registrar.sharded_counters(&RESPONSE_BYTES)?,
            request_seconds: registrar.sharded_seconds(&REQUEST_SECONDS)?,
            origin_requests: registrar.counters(&ORIGIN_REQUESTS)?,
            origin_bytes: registrar.counters(&ORIGIN_BYTES)?,
            origin_first_byte_seconds: registrar.seconds(&ORIGIN_FIRST_BYTE_SECONDS)?,
            origin_up: registrar.gauges(&ORIGIN_UP)?,
            origin_reasons: registrar.counters(&ORIGIN_REASONS)?,
            origin_cost: registrar.sums(&ORIGIN_COST)?,
            origin_breaker_state: registrar.gauges(&ORIGIN_BREAKER_STATE)?,
            origin_breaker_transitions: registrar.counters(&ORIGIN_BREAKER_TRANSITIONS)?,
            origin_throttled: registrar.counters(&ORIGIN_THROTTLED)?,
            origin_rate_limit: registrar.ratios(&ORIGIN_RATE_LIMIT)?,
            origin_held: registrar.counters(&ORIGIN_HELD)?,
            origin_retries: registrar.counters(&ORIGIN_RETRIES)?,
            origin_hedges: registrar.counters(&ORIGIN_HEDGES)?,
            origin_resends: registrar.counters(&ORIGIN_RESENDS)?,
            origin_keys: registrar.counters(&ORIGIN_KEYS)?,
            origin_clock_corrections: registrar.counters(&ORIGIN_CLOCK_CORRECTIONS)?,
            stored_bytes: registrar.gauges(&STORED_BYTES)?,
            stored_objects: registrar.gauges(&STORED_OBJECTS)?,
            ordered_objects: registrar.gauge(&ORDERED_OBJECTS)?,
            index_memory_bytes: registrar.gauges(&INDEX_MEMORY_BYTES)?,
            stored_payload_bytes: registrar.counters(&STORED_PAYLOAD_BYTES)?,
            disk_written_bytes: registrar.counter(&DISK_WRITTEN_BYTES)?,
            evictions: registrar.counters(&EVICTIONS)?,
            fills: registrar.counters(&FILLS)?,
            fill_resumes: registrar.counters(&FILL_RESUMES)?,
            fill_pieces: registrar.counters(&FILL_PIECES)?,
            fills_running: registrar.gauge(&FILLS_RUNNING)?,
            sendfile_bytes: registrar.counter(&SENDFILE_BYTES)?,
            fills_adrift: registrar.counter(&FILLS_ADRIFT)?,
            fills_spared: registrar.counter(&FILLS_SPARED)?,
            body_rescues: registrar.counters(&BODY_RESCUES)?,
            rejected_bodies: registrar.counters(&REJECTED_BODIES)?,
            damaged_objects: registrar.counters(&DAMAGED_OBJECTS)?,
            checked_bytes: registrar.counters(&CHECKED_BYTES)?,
            checked_objects: registrar.counters(&CHECKED_OBJECTS)?,
            check_faults: registrar.counters(&CHECK_FAULTS)?,
            scrub_progress: registrar.ratios(&SCRUB_PROGRESS)?,
            scrub_last_pass: registrar.gauges(&SCRUB_LAST_PASS)?,
            healed_objects: registrar.counters(&HEALED_OBJECTS)?,
            chunks: registrar.counters(&CHUNKS)?,
            range_bytes: registrar.counters(&RANGE_BYTES)?,
            part_objects: registrar.gauge(&PART_OBJECTS)?,
            part_bytes: registrar.gauge(&PART_BYTES)?,
            parts_dropped: registrar.counters(&PARTS_DROPPED)?,
            completions: registrar.counters(&COMPLETIONS)?,
            store_errors: registrar.counters(&STORE_ERRORS)?,
            disk_readable: registrar.gauges(&DISK_READABLE)?,
            disk_writable: registrar.gauges(&DISK_WRITABLE)?,
            disk_stored_bytes: registrar.gauges(&DISK_STORED_BYTES)?,
            disk_stored_objects: registrar.gauges(&DISK_STORED_OBJECTS)?,
            disk_purges_owed: registrar.gauges(&DISK_PURGES_OWED)?,
            connections: registrar.gauges(&CONNECTIONS)?,
            connections_refused: registrar.counters(&CONNECTIONS_REFUSED)?,
            requests_refused: registrar.counters(&REQUESTS_REFUSED)?,
            request_panics: registrar.counter(&REQUEST_PANICS)?,
            purges: registrar.counters(&PURGES)?,
            absence_filter_checks: registrar.counters(&ABSENCE_FILTER_CHECKS)?,
            absence_filter_keys: registrar.gauges(&ABSENCE_FILTER_KEYS)?,
            absence_filter_bytes: registrar.gauges(&ABSENCE_FILTER_BYTES)?,
            absence_filter_feed_age: registrar.gauges(&ABSENCE_FILTER_FEED_AGE)?,
            absence_filter_answering: registrar.gauges(&ABSENCE_FILTER_ANSWERING)?,
            upload_notices: registrar.counters(&UPLOAD_NOTICES)?,
            access_log_dropped: registrar.counter(&ACCESS_LOG_DROPPED)?,
            printed: Arc::new(Export::of(registrar.process_wide(&LOG_LINES_DROPPED, &LOG_LINES)?)),
        })
    }

    /// Takes over what the config names now. Series of a site or an origin that it named before and
    /// does not name any more are not printed until it does again.
    pub fn name(&self, sites: BTreeSet<String>, origins: BTreeSet<String>) {
        self.printed.name(sites, origins);
    }

    /// The text of `deploy/METRICS.md`: every metric, its type, its labels with their values, and
    /// what it means, as Markdown.
    pub fn reference(&self) -> String {
        reference::of(self.printed.entries())
    }

    /// The Prometheus text exposition of every metric.
    pub fn text(&self) -> Result<String, prometheus::Error> {
        self.printed.text()
    }

    /// The counters that one answered request adds to, requests and bytes, in `shard`.
    pub fn answered(
        &self,
        shard: Shard,
        site: &str,
        class: Class,
        outcome: Outcome,
    ) -> Option<(IntCounter, IntCounter)> {
        let labels = &[site, class.as_str(), outcome.as_str()];
        let requests = self.requests.shard(shard)?.with_label_values(labels);
        Some((requests, self.response_bytes.shard(shard)?.with_label_values(labels)))
    }

    /// The histogram for the time of one answered request, in `shard`.
    pub fn answer_seconds(&self, shard: Shard, site: &str, class: Class) -> Option<Histogram> {
        let seconds = self.request_seconds.shard(shard)?;
        Some(seconds.with_label_values(&[site, class.as_str()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_registers_and_prints() {
        let metrics = Metrics::new().unwrap();
        let shard = Shard::of_thread();
        metrics.answered(shard, "main", Class::Nar, Outcome::Miss).unwrap().0.inc();
        let text = metrics.text().unwrap();
        assert!(
            text.contains("narthex_requests_total{class=\"nar\",outcome=\"miss\",site=\"main\"} 1")
        );
    }

    /// FAULTS.md F9: the series of a dead origin raised an alarm until the next restart.
    #[test]
    fn series_of_what_the_config_no_longer_names_are_not_printed() {
        let metrics = Metrics::new().unwrap();
        let set = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        metrics.name(set(&["main"]), set(&["one", "two"]));
        for origin in ["one", "two"] {
            metrics.origin_up.with_label_values(&[origin]).set(0);
        }
        metrics.absence_filter_answering.with_label_values(&["main"]).set(1);
        let prints = |part: &str| metrics.text().unwrap().contains(part);
        assert!(prints("origin_up{origin=\"one\"} 0") && prints("origin_up{origin=\"two\"} 0"));
        metrics.name(set(&["other"]), set(&["two"]));
        // Something that is still under way counts on.
        metrics.origin_up.with_label_values(&["one"]).set(0);
        assert!(!prints("\"one\"") && prints("origin_up{origin=\"two\"} 0"));
        assert!(!prints("narthex_absence_filter_answering"));
        metrics.name(set(&["main"]), set(&["one", "two"]));
        assert!(prints("\"one\"") && prints("narthex_absence_filter_answering"));
    }
}
