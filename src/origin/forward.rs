//! Requests that go to an origin as a client sent them, and answers of any status: for generic
//! sites. Values, and the rules of which origin's answer counts.
//!
//! Any method is sent on, with a body that streams. A write goes to the first origin once. A read
//! goes on to the next origin after a failure or an absence. An origin of another priority gets no
//! credentials and no cookies. A body that its client does not finish is 400 or 408, and no fault
//! of the origin.

use super::exchange::{Ask, FetchReason, Method as AskMethod, RangeAsked, RequestPurpose, Retries};
use super::response::{Response, ResponseBody};
use super::upload_body::ClientBody;
use super::wire::{OriginReply, ResponseHead};
use crate::clock::Moment;
use crate::nix::Class;
use crate::rfc::range::ByteRanges;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use std::fmt;
use std::sync::Arc;

/// What hears of interim answers (1xx) of an origin.
pub type InterimObserver = Arc<dyn Fn(StatusCode, &HeaderMap) + Send + Sync>;

/// A request for an origin.
pub struct ForwardRequest {
    /// The method.
    pub method: Method,
    /// The path as it stands in the request line, percent encodings and all.
    pub path: Arc<str>,
    /// The query, without the `?`.
    pub query: Option<Arc<str>>,
    /// Every field but those of the connection; `Host` is the origin's own.
    pub headers: HeaderMap,
    /// The body; none for a request that may be sent twice.
    pub body: Option<ClientBody>,
    /// What hears of interim answers.
    pub interim: Option<InterimObserver>,
    /// The only origin to ask, once, by its position; `None` for all in their order.
    pub only: Option<usize>,
    /// Whether an origin that failed is asked again at once, if the request may be repeated.
    pub retries: Retries,
}

impl fmt::Debug for ForwardRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forward")
            .field("method", &self.method)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl ForwardRequest {
    /// The question of a probe: for the head of `path`.
    pub(super) fn probe(path: &str) -> Self {
        Self {
            method: Method::HEAD,
            path: path.into(),
            query: None,
            headers: HeaderMap::new(),
            body: None,
            interim: None,
            only: None,
            retries: Retries::None,
        }
    }

    /// Whether it may be sent again, and to another origin, if nothing is known of its fate: it
    /// has no body, and its method only reads (RFC 9110 section 9.2.2). One that is meant for one
    /// origin alone comes back by itself.
    pub(super) fn may_repeat(&self) -> bool {
        self.body.is_none() && self.method.is_safe() && self.only.is_none()
    }

    /// What the request is for.
    pub(super) fn purpose(&self) -> RequestPurpose {
        let has = |name| self.headers.contains_key(name);
        let reason = if !self.method.is_safe() {
            FetchReason::Write
        } else if has(header::IF_NONE_MATCH) || has(header::IF_MODIFIED_SINCE) {
            FetchReason::Revalidation
        } else if has(header::RANGE) {
            let is_resumed = self.only.is_some() || self.retries == Retries::None;
            if is_resumed { FetchReason::Resume } else { FetchReason::Part }
        } else {
            FetchReason::Miss
        };
        RequestPurpose { class: Class::Other, reason }
    }

    /// The same request once more; it must be one that may be repeated.
    pub(super) fn again(&self) -> Self {
        Self {
            method: self.method.clone(),
            path: Arc::clone(&self.path),
            query: self.query.clone(),
            headers: self.headers.clone(),
            body: None,
            interim: self.interim.clone(),
            only: self.only,
            retries: self.retries,
        }
    }

    /// The same request without what lets its client in.
    pub(super) fn anonymous(mut self) -> Self {
        self.headers.remove(header::AUTHORIZATION);
        self.headers.remove(header::COOKIE);
        self
    }

    /// The question that an origin without HTTP methods of its own understands.
    pub(super) fn ask(&self) -> ForwardedGet {
        let method = match self.method {
            Method::GET => AskMethod::Get,
            Method::HEAD => AskMethod::Head,
            _ => return ForwardedGet::Write,
        };
        let Ok(decoded) = crate::rfc::path::canonicalise(&self.path, usize::MAX) else {
            return ForwardedGet::Nothing;
        };
        let condition = |name| self.headers.get(name).cloned();
        ForwardedGet::Object(Box::new(Ask {
            method,
            path: decoded.into(),
            query: self.query.clone(),
            class: Class::Other,
            range: ByteRanges::of(&self.headers).as_ref().and_then(single),
            if_none_match: condition(header::IF_NONE_MATCH),
            if_modified_since: condition(header::IF_MODIFIED_SINCE),
            if_match: condition(header::IF_MATCH),
            cdn_loop: None,
            only: None,
            prefer: None,
            avoid: Vec::new(),
            retries: Retries::Usual,
            reason: None,
        }))
    }
}

/// What a request is to an origin that only knows objects.
#[derive(Debug)]
pub(super) enum ForwardedGet {
    /// A question for an object.
    Object(Box<Ask>),
    /// No object has such a path.
    Nothing,
    /// Neither GET nor HEAD.
    Write,
}

/// The one range that is asked for, if it does not depend on the object's length.
fn single(ranges: &ByteRanges) -> Option<RangeAsked> {
    let span = ranges.stretch()?;
    Some(RangeAsked { first: span.first, last: (span.last != u64::MAX).then_some(span.last) })
}

/// What an answer means for the choice among several origins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AnswerStanding {
    /// It counts, whatever others would say.
    Final,
    /// There is no such object here; another origin may have it.
    Absent,
    /// The origin is in trouble; another may not be.
    Trouble,
}

/// The standing of an answer of `status`.
pub(super) fn standing(status: StatusCode) -> AnswerStanding {
    match status.as_u16() {
        404 | 410 => AnswerStanding::Absent,
        500 | 502 | 503 | 504 => AnswerStanding::Trouble,
        _ => AnswerStanding::Final,
    }
}

/// What an origin that only knows objects said to `ask`, as an answer of HTTP.
pub(super) fn as_response(
    ask: &Ask,
    reply: OriginReply,
    now: Moment,
    origin: usize,
    name: &Arc<str>,
) -> Response {
    match reply {
        OriginReply::Found(response) => *response,
        OriginReply::NotModified(heard) => own(StatusCode::NOT_MODIFIED, heard, origin, name),
        OriginReply::Absent(heard, _) => own(StatusCode::NOT_FOUND, heard, origin, name),
        OriginReply::Changed => {
            let heard = unheard(now, HeaderMap::new());
            // Without a condition it can only mean the range.
            let status = match ask.if_match {
                Some(_) => StatusCode::PRECONDITION_FAILED,
                None => StatusCode::RANGE_NOT_SATISFIABLE,
            };
            own(status, heard, origin, name)
        }
    }
}

/// The answer of an origin that only knows objects to a method that does not read them.
pub(super) fn read_only(now: Moment, origin: usize, name: &Arc<str>) -> Response {
    let mut headers = HeaderMap::new();
    headers.insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    own(StatusCode::METHOD_NOT_ALLOWED, unheard(now, headers), origin, name)
}

/// The answer to a client's request of an origin that only knows objects, and has none here.
pub(super) fn nowhere(now: Moment, origin: usize, name: &Arc<str>) -> Response {
    own(StatusCode::NOT_FOUND, unheard(now, HeaderMap::new()), origin, name)
}

fn unheard(now: Moment, headers: HeaderMap) -> ResponseHead {
    ResponseHead { headers, request_time: now.edge, response_time: now }
}

/// An answer with a body of this cache's own: the error document of a bucket is no page for a
/// client.
fn own(status: StatusCode, heard: ResponseHead, origin: usize, name: &Arc<str>) -> Response {
    let ResponseHead { mut headers, request_time, response_time } = heard;
    let text = if status == StatusCode::NOT_MODIFIED {
        Bytes::new()
    } else {
        for name in [header::CONTENT_ENCODING, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
            headers.remove(name);
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        Bytes::from(format!("{}\n", status.as_u16()))
    };
    Response {
        status,
        headers,
        content_length: Some(text.len() as u64),
        body: ResponseBody::of(text, Arc::clone(name)),
        origin,
        origin_name: Arc::clone(name),
        request_time,
        response_time,
        is_framed: true,
    }
}
