//! What is counted and logged of one request: begun with its head, ended when its body is sent
//! or given up. Owned by the response's body; dropping it writes the record.

use super::connection::{Connection, Transport};
use super::site::Site;
use crate::clock::Timestamp;
use crate::nix::Class;
use crate::outcome::Outcome;
use crate::telemetry::{AccessLog, AccessRecord, TlsUse};
use http::{HeaderValue, Method, Request, StatusCode, Uri, Version, header};
use std::sync::Arc;
use std::time::Instant;

/// What a request said that the log keeps.
#[derive(Debug, Clone)]
pub(super) struct Said {
    timestamp: Timestamp,
    method: Method,
    uri: Uri,
    version: Version,
    host: Option<HeaderValue>,
    referer: Option<HeaderValue>,
    user_agent: Option<HeaderValue>,
}

impl Said {
    pub(super) fn of<B>(request: &Request<B>, timestamp: Timestamp) -> Self {
        let (uri, headers) = (request.uri(), request.headers());
        let authority = uri.authority();
        let authority = authority.and_then(|host| HeaderValue::from_str(host.as_str()).ok());
        Self {
            timestamp,
            method: request.method().clone(),
            uri: uri.clone(),
            version: request.version(),
            host: headers.get(header::HOST).cloned().or(authority),
            referer: headers.get(header::REFERER).cloned(),
            user_agent: headers.get(header::USER_AGENT).cloned(),
        }
    }
}

/// A request's account.
pub(super) struct Tally {
    pub(super) started: Instant,
    pub(super) said: Option<Said>,
    pub(super) connection: Arc<Connection>,
    pub(super) log: Arc<AccessLog>,
    pub(super) site: Option<Arc<Site>>,
    pub(super) class: Class,
    pub(super) outcome: Outcome,
    pub(super) origin: Option<Arc<str>>,
    pub(super) status: StatusCode,
    pub(super) request_id: String,
    pub(super) bytes: u64,
}

impl Tally {
    pub(super) fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let elapsed = self.started.elapsed();
        if let Some(site) = &self.site {
            if let Some(counters) = site.counters(self.class, self.outcome) {
                counters.requests.inc();
                counters.bytes.inc_by(self.bytes);
            }
            if let Some(seconds) = site.seconds(self.class) {
                seconds.observe(elapsed.as_secs_f64());
            }
        }
        let Some(said) = self.said.take() else { return };
        let tls = match &self.connection.transport {
            Transport::Plain => None,
            Transport::Tls { protocol, cipher } => Some(TlsUse { protocol, cipher }),
        };
        self.log.record(AccessRecord {
            timestamp: said.timestamp,
            elapsed,
            host: said.host,
            method: said.method,
            version: said.version,
            uri: said.uri,
            referer: said.referer,
            user_agent: said.user_agent,
            request_bytes: None,
            status: self.status,
            response_body_bytes: self.bytes,
            outcome: self.outcome,
            site: self.site.as_ref().map(|site| Arc::from(site.name())),
            class: self.site.as_ref().map(|_| self.class),
            origin: self.origin.take(),
            request_id: std::mem::take(&mut self.request_id),
            tls,
        });
    }
}
