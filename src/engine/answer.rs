//! Answers: a status, fields, a body, and how they came about. Errors become statuses here, each
//! kind in one exhaustive match; nothing of their detail reaches the client but a request id.

use super::body::Body;
use super::host::HostError;
use super::tally::Tally;
use super::target::TargetError;
use crate::fill::FillError;
use crate::outcome::Outcome;
use crate::policy::request::Refusal;
use crate::rfc::cache_status::{CACHE_STATUS, CacheStatus, Forward};
use crate::rfc::cdn_loop::CdnLoopError;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version, header};
use std::sync::Arc;

/// The field that names a request in answers and logs.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// `Retry-After` of an answer that sheds load, in seconds.
const SHED_RETRY_SECONDS: &str = "5";

/// An answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
    pub(super) outcome: Outcome,
    pub(super) origin: Option<Arc<str>>,
    /// The metric label of a refusal.
    pub(super) refused: Option<&'static str>,
    /// Whether the connection ends after it.
    pub(super) ends: Ends,
    pub(super) request_id: String,
}

/// Whether the connection ends after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ends {
    Connection,
    Request,
}

impl Answer {
    pub(super) fn new(
        status: StatusCode,
        headers: HeaderMap,
        body: Body,
        outcome: Outcome,
    ) -> Self {
        Self {
            status,
            headers,
            body,
            outcome,
            origin: None,
            refused: None,
            ends: Ends::Request,
            request_id: request_id(),
        }
    }

    /// A short text; errors name their request, so that the log can be searched for it.
    pub(super) fn text(status: StatusCode, text: impl Into<String>, outcome: Outcome) -> Self {
        let body = Bytes::from(text.into());
        let mut headers = HeaderMap::with_capacity(8);
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, plain);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let mut answer = Self::new(status, headers, Body::whole(body), outcome);
        if let Ok(id) = HeaderValue::from_str(&answer.request_id) {
            answer.headers.insert(REQUEST_ID, id);
        }
        answer
    }

    pub(super) fn into_response(mut self, version: Version, tally: Tally) -> Response<Body> {
        if self.ends == Ends::Connection && version < Version::HTTP_2 {
            self.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if !self.headers.contains_key(CACHE_STATUS) {
            let status = match self.outcome {
                Outcome::OriginFailed => CacheStatus::forwarded(Forward::UriMiss),
                _ => CacheStatus::own(),
            };
            let status = status.with_detail(self.outcome.as_str());
            self.headers.insert(CACHE_STATUS, status.to_header_value());
        }
        let mut response = Response::new(self.body.tallied(tally));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// A request that is refused before any work.
fn refusal(status: StatusCode, text: &str, reason: &'static str, ends: Ends) -> Answer {
    let mut answer = Answer::text(status, format!("{text}\n"), Outcome::Refused);
    answer.refused = Some(reason);
    answer.ends = ends;
    answer
}

pub(super) fn refused(refused: &Refusal) -> Answer {
    let ends = if refused.must_close() { Ends::Connection } else { Ends::Request };
    let mut answer = refusal(refused.status(), &refused.to_string(), refused.reason(), ends);
    if refused.status() == StatusCode::METHOD_NOT_ALLOWED {
        answer.headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
    }
    answer
}

pub(super) fn bad_host(error: HostError) -> Answer {
    refusal(StatusCode::BAD_REQUEST, &error.to_string(), "host", Ends::Connection)
}

pub(super) fn unknown_host() -> Answer {
    let text = "no site has this host, and there is no default site";
    refusal(StatusCode::MISDIRECTED_REQUEST, text, "unknown_host", Ends::Request)
}

pub(super) fn bad_loop(error: &CdnLoopError) -> Answer {
    refusal(StatusCode::BAD_REQUEST, &error.to_string(), "cdn_loop", Ends::Request)
}

pub(super) fn loops(instance: &str) -> Answer {
    let text = format!("this request has been through {instance} before: origins form a circle");
    tracing::error!(instance, "a request came back: the origins of the caches form a circle");
    refusal(StatusCode::LOOP_DETECTED, &text, "loop", Ends::Request)
}

pub(super) fn bad_target(error: &TargetError) -> Answer {
    let (status, reason) = match error {
        TargetError::Path(error) => (error.status(), "path"),
        TargetError::NotOfACache => (StatusCode::NOT_FOUND, "path_grammar"),
    };
    refusal(status, &error.to_string(), reason, Ends::Request)
}

/// The answer to a CORS preflight.
pub(super) fn preflight() -> Answer {
    let mut headers = HeaderMap::with_capacity(8);
    let fields = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
        (header::ALLOW, "GET, HEAD, OPTIONS"),
    ];
    for (name, value) in fields {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Answer::new(StatusCode::NO_CONTENT, headers, Body::empty(), Outcome::Local)
}

/// The answer to `only-if-cached` where nothing fresh is stored (RFC 9111 section 5.2.1.7).
pub(super) fn not_cached() -> Answer {
    Answer::text(StatusCode::GATEWAY_TIMEOUT, "not stored\n", Outcome::Refused)
}

/// As many fills are under way as may be: come back later.
pub(super) fn shed() -> Answer {
    let text = "too many fetches are under way\n";
    let mut answer = Answer::text(StatusCode::SERVICE_UNAVAILABLE, text, Outcome::Shed);
    answer.headers.insert(header::RETRY_AFTER, HeaderValue::from_static(SHED_RETRY_SECONDS));
    answer
}

/// No origin gave a usable answer: 504 where it was a matter of time, else 502. Never 404.
pub(super) fn failed(error: &FillError) -> Answer {
    let (status, text) = if error.is_timeout() {
        (StatusCode::GATEWAY_TIMEOUT, "no origin answered in time")
    } else {
        (StatusCode::BAD_GATEWAY, "no origin gave a usable answer")
    };
    with_id(status, text, Outcome::OriginFailed)
}

/// A fault inside Narthex.
pub(super) fn fault(detail: &str) -> Answer {
    tracing::error!(detail, "fault inside narthex");
    with_id(StatusCode::INTERNAL_SERVER_ERROR, "fault inside narthex", Outcome::Fault)
}

/// An origin that broke the protocol.
pub(super) fn unusable(detail: &str) -> Answer {
    tracing::warn!(detail, "unusable answer of an origin");
    with_id(StatusCode::BAD_GATEWAY, "no origin gave a usable answer", Outcome::OriginFailed)
}

fn with_id(status: StatusCode, text: &str, outcome: Outcome) -> Answer {
    let mut answer = Answer::text(status, "", outcome);
    let body = Bytes::from(format!("{text} (request {})\n", answer.request_id));
    answer.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    answer.body = Body::whole(body);
    answer
}

/// 64 random bits in hexadecimal.
fn request_id() -> String {
    format!("{:016x}", getrandom::u64().unwrap_or_default())
}
