//! Counts and logs one request: begins with its head, ends when its body is sent or given up. The
//! body of the response owns it. Dropping it counts the request, and hands the record to the access
//! log if that is on; without a log no record is made.

use super::connection::{ClientConnection, Transport};
use super::simple_request::SimpleRequest;
use super::site::{ServedSite, SiteMeters};
use crate::clock::Timestamp;
use crate::nix::Class;
use crate::outcome::Outcome;
use crate::policy::request::ReadMethod;
use crate::telemetry::{AccessLog, AccessRecord, RequestId, TlsUse};
use http::{HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The record of a request that has no answer yet.
#[derive(Debug)]
pub(super) struct PendingRecord {
    started: Instant,
    entry: Option<LogEntry>,
}

/// The record for the log as far as it is known, and the log.
#[derive(Debug)]
struct LogEntry {
    record: Box<AccessRecord>,
    log: Arc<AccessLog>,
}

impl PendingRecord {
    /// The record of `request`; its head was whole at `timestamp`.
    pub(super) fn of<B>(
        request: &Request<B>,
        timestamp: Timestamp,
        connection: &ClientConnection,
        log: &Arc<AccessLog>,
    ) -> Self {
        let asked = || {
            let (uri, headers) = (request.uri(), request.headers());
            let authority = || uri.authority().and_then(|host| host.as_str().try_into().ok());
            RequestFields {
                host: headers.get(header::HOST).cloned().or_else(authority),
                method: request.method().clone(),
                version: request.version(),
                uri: uri.clone(),
                referer: headers.get(header::REFERER).cloned(),
                user_agent: headers.get(header::USER_AGENT).cloned(),
            }
        };
        Self::logged(log, || record(asked(), timestamp, connection))
    }

    /// The record of a simple request.
    pub(super) fn of_simple(
        request: &SimpleRequest<'_>,
        timestamp: Timestamp,
        connection: &ClientConnection,
        log: &Arc<AccessLog>,
    ) -> Self {
        let value = |bytes: &[u8]| HeaderValue::from_bytes(bytes).ok();
        let asked = || RequestFields {
            host: value(request.host.as_bytes()),
            method: match request.method {
                ReadMethod::Get => Method::GET,
                ReadMethod::Head => Method::HEAD,
            },
            version: Version::HTTP_11,
            uri: request.target.as_str().parse().unwrap_or_default(),
            referer: request.referer.and_then(value),
            user_agent: request.user_agent.and_then(value),
        };
        Self::logged(log, || record(asked(), timestamp, connection))
    }

    fn logged(log: &Arc<AccessLog>, record: impl FnOnce() -> AccessRecord) -> Self {
        let entry =
            log.is_open().then(|| LogEntry { record: Box::new(record()), log: Arc::clone(log) });
        Self { started: Instant::now(), entry }
    }

    /// Counts and logs an answer that is written already.
    pub(super) fn answered(mut self, summary: &AnswerSummary<'_>, site: &ServedSite, class: Class) {
        self.tell(summary, Some((site, class)));
        let elapsed = self.started.elapsed();
        let bytes = summary.body_bytes as u64;
        if let Some(meters) = site.meters() {
            count(meters, class, summary.outcome, bytes, elapsed);
        }
        if let Some(LogEntry { mut record, log }) = self.entry.take() {
            record.elapsed = elapsed;
            record.response_body_bytes = bytes;
            log.record(record);
        }
    }

    /// The record of an answer with a body that is sent from now on. It is counted for this site
    /// and class, if they were found.
    pub(super) fn with_body(
        mut self,
        summary: &AnswerSummary<'_>,
        counted: Option<(&ServedSite, Class)>,
    ) -> RequestRecord {
        self.tell(summary, counted);
        let counted = counted.and_then(|(site, class)| Some((Arc::clone(site.meters()?), class)));
        RequestRecord { pending: self, counted, outcome: summary.outcome, bytes: 0 }
    }

    /// Adds the answer to the record, if there is one.
    fn tell(&mut self, summary: &AnswerSummary<'_>, counted: Option<(&ServedSite, Class)>) {
        let Some(LogEntry { record, .. }) = &mut self.entry else { return };
        let AnswerSummary { status, outcome, origin, body_bytes: _, request_id } = summary;
        record.status = *status;
        record.outcome = *outcome;
        record.site = counted.map(|(site, _)| site.shared_name());
        record.class = counted.map(|(_, class)| class);
        record.origin = origin.cloned();
        record.request_id = *request_id;
    }

    /// Whether there is a record for the log.
    pub(super) fn is_logged(&self) -> bool {
        self.entry.is_some()
    }

    /// Logs a refusal with `status`, which is not counted here.
    pub(super) fn refused(mut self, status: StatusCode) {
        if let Some(LogEntry { record, .. }) = &mut self.entry {
            record.status = status;
        }
        drop(RequestRecord { pending: self, counted: None, outcome: Outcome::Refused, bytes: 0 });
    }
}

/// What a request asks for, as the log has it.
struct RequestFields {
    host: Option<HeaderValue>,
    method: Method,
    version: Version,
    uri: Uri,
    referer: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
}

/// A record with what the request says. Everything else is that of a refusal until it is known.
fn record(
    asked: RequestFields,
    timestamp: Timestamp,
    connection: &ClientConnection,
) -> AccessRecord {
    let RequestFields { host, method, version, uri, referer, user_agent } = asked;
    AccessRecord {
        timestamp,
        elapsed: Duration::ZERO,
        host,
        method,
        version,
        uri,
        referer,
        user_agent,
        request_bytes: None,
        status: StatusCode::BAD_REQUEST,
        response_body_bytes: 0,
        outcome: Outcome::Refused,
        site: None,
        class: None,
        origin: None,
        request_id: RequestId::draw(),
        tls: match &connection.transport {
            Transport::Plain => None,
            Transport::Tls { protocol, cipher } => Some(TlsUse { protocol, cipher }),
        },
    }
}

/// Adds an answer to the counters of its site.
fn count(meters: &SiteMeters, class: Class, outcome: Outcome, bytes: u64, elapsed: Duration) {
    if let Some(counters) = meters.counters(class, outcome) {
        counters.requests.inc();
        counters.bytes.inc_by(bytes);
    }
    if let Some(seconds) = meters.seconds(class) {
        seconds.observe(elapsed.as_secs_f64());
    }
}

/// An answer as it is logged and counted.
#[derive(Debug)]
pub(super) struct AnswerSummary<'a> {
    pub(super) status: StatusCode,
    pub(super) outcome: Outcome,
    /// The origin that the object came from.
    pub(super) origin: Option<&'a Arc<str>>,
    /// Bytes of the body, if it is written with the head.
    pub(super) body_bytes: usize,
    pub(super) request_id: RequestId,
}

/// The record of a request while its body is sent.
pub(super) struct RequestRecord {
    pending: PendingRecord,
    counted: Option<(Arc<SiteMeters>, Class)>,
    outcome: Outcome,
    bytes: u64,
}

impl RequestRecord {
    pub(super) fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }
}

impl Drop for RequestRecord {
    fn drop(&mut self) {
        let elapsed = self.pending.started.elapsed();
        if let Some((meters, class)) = &self.counted {
            count(meters, *class, self.outcome, self.bytes, elapsed);
        }
        if let Some(LogEntry { mut record, log }) = self.pending.entry.take() {
            record.elapsed = elapsed;
            record.response_body_bytes = self.bytes;
            log.record(record);
        }
    }
}
