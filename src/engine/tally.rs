//! What is counted and logged of one request: begun with its head, ended when its body is sent
//! or given up. Owned by the response's body; dropping it writes the record.

use super::connection::{Connection, Transport};
use super::site::Site;
use crate::nix::Class;
use crate::outcome::Outcome;
use crate::telemetry::{AccessLog, AccessRecord};
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri, Version, header};
use std::sync::Arc;
use std::time::Instant;

/// What a request said that the log keeps.
#[derive(Debug, Clone)]
pub(super) struct Said {
    method: Method,
    url: String,
    version: Version,
    host: Option<String>,
    referer: Option<String>,
    user_agent: Option<String>,
    range: Option<String>,
}

impl Said {
    pub(super) fn of(method: &Method, uri: &Uri, version: Version, headers: &HeaderMap) -> Self {
        let text = |name: HeaderName| {
            headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        Self {
            method: method.clone(),
            url: uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str).to_owned(),
            version,
            host: text(header::HOST).or_else(|| uri.authority().map(ToString::to_string)),
            referer: text(header::REFERER),
            user_agent: text(header::USER_AGENT),
            range: text(header::RANGE),
        }
    }
}

/// A request's account.
pub(super) struct Tally {
    pub(super) started: Instant,
    pub(super) said: Option<Said>,
    pub(super) connection: Arc<Connection>,
    pub(super) log: AccessLog,
    pub(super) site: Option<Arc<Site>>,
    pub(super) class: Class,
    pub(super) outcome: Outcome,
    pub(super) origin: Option<Arc<str>>,
    pub(super) status: StatusCode,
    pub(super) request_id: String,
    pub(super) bytes: u64,
    pub(super) is_cut: bool,
}

impl Tally {
    pub(super) fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    pub(super) fn cut(&mut self) {
        self.is_cut = true;
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
        let (protocol, cipher) = match &self.connection.transport {
            Transport::Plain => (None, None),
            Transport::Tls { protocol, cipher } => (Some(*protocol), Some(*cipher)),
        };
        self.log.record(AccessRecord {
            elapsed,
            host: said.host,
            method: said.method,
            version: said.version,
            referer: said.referer,
            user_agent: said.user_agent,
            range: said.range,
            url: said.url,
            status: self.status,
            body_bytes: self.bytes,
            is_cut: self.is_cut,
            outcome: self.outcome,
            site: self.site.as_ref().map(|site| Arc::from(site.name())),
            class: self.class,
            origin: self.origin.take(),
            request_id: std::mem::take(&mut self.request_id),
            tls_protocol: protocol,
            tls_cipher: cipher,
        });
    }
}
