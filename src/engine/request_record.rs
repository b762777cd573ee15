//! What is counted and logged of one request: begun with its head, ended when its body is sent
//! or given up. Owned by the response's body; dropping it counts the request and, where there is a
//! log, hands over the record. Without a log none is made.

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

/// A request's account before there is an answer.
#[derive(Debug)]
pub(super) struct PendingRecord {
    started: Instant,
    entry: Option<LogEntry>,
}

/// A record for the log, as far as it is known, and the log.
#[derive(Debug)]
struct LogEntry {
    record: Box<AccessRecord>,
    log: Arc<AccessLog>,
}

impl PendingRecord {
    /// That of `request`, whose head was whole at `timestamp`.
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

    /// That of a plain request.
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

    /// Counts and logs an answer that is whole already.
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

    /// The account of an answer whose body goes now, counted at the site and for the class that were
    /// found.
    pub(super) fn with_body(
        mut self,
        summary: &AnswerSummary<'_>,
        counted: Option<(&ServedSite, Class)>,
    ) -> RequestRecord {
        self.tell(summary, counted);
        let counted = counted.and_then(|(site, class)| Some((Arc::clone(site.meters()?), class)));
        RequestRecord { pending: self, counted, outcome: summary.outcome, bytes: 0 }
    }

    /// Tells the record, if there is one, of an answer.
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

    /// Whether the log takes it.
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

/// What the request itself says; the rest is that of a refusal until it is known.
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

/// Adds an answer to what its site counts.
fn count(meters: &SiteMeters, class: Class, outcome: Outcome, bytes: u64, elapsed: Duration) {
    if let Some(counters) = meters.counters(class, outcome) {
        counters.requests.inc();
        counters.bytes.inc_by(bytes);
    }
    if let Some(seconds) = meters.seconds(class) {
        seconds.observe(elapsed.as_secs_f64());
    }
}

/// What there is to say of an answer.
#[derive(Debug)]
pub(super) struct AnswerSummary<'a> {
    pub(super) status: StatusCode,
    pub(super) outcome: Outcome,
    /// The origin that the object came from.
    pub(super) origin: Option<&'a Arc<str>>,
    /// Bytes of the body, where it goes at once.
    pub(super) body_bytes: usize,
    pub(super) request_id: RequestId,
}

/// A request's account.
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
