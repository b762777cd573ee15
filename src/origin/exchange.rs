//! The vocabulary between `fill` and the origins: what is asked, what comes back, what can go
//! wrong and what that means for another try. Values only, but for a response's body.

use crate::client::{ErrorChain, FailureShare, UploadError};
use crate::clock::{Moment, Timestamp};
use crate::nix::Class;
use http::{HeaderMap, HeaderValue, StatusCode};
use std::fmt;
use std::sync::Arc;

/// The method of a request to an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// The object.
    Get,
    /// Its head only.
    Head,
}

impl Method {
    /// The same, as HTTP's.
    pub fn as_http(self) -> http::Method {
        match self {
            Self::Get => http::Method::GET,
            Self::Head => http::Method::HEAD,
        }
    }
}

/// The bytes that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RangeAsked {
    /// Offset of the first byte.
    pub first: u64,
    /// Offset of the last byte; `None` for the end of the object.
    pub last: Option<u64>,
}

impl RangeAsked {
    /// The field `Range`.
    pub fn field(&self) -> Option<HeaderValue> {
        let last = self.last.map(|last| last.to_string()).unwrap_or_default();
        HeaderValue::try_from(format!("bytes={}-{last}", self.first)).ok()
    }
}

/// A request to an origin, built from scratch: nothing of the client's request is in it but the
/// canonical path.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The method.
    pub method: Method,
    /// Canonical, decoded, with a leading `/`.
    pub path: Arc<str>,
    /// Sent as it is, without the `?`; `None` for S3 and most paths.
    pub query: Option<Arc<str>>,
    /// The class of the path, for metrics.
    pub class: Class,
    /// A single range, or the whole object.
    pub range: Option<RangeAsked>,
    /// `If-None-Match`, for revalidation.
    pub if_none_match: Option<HeaderValue>,
    /// `If-Modified-Since`, for revalidation if there is no entity tag.
    pub if_modified_since: Option<HeaderValue>,
    /// `If-Match`, for continuing a body.
    pub if_match: Option<HeaderValue>,
    /// The whole `CDN-Loop` value to send to HTTP origins, this instance included.
    pub cdn_loop: Option<HeaderValue>,
    /// The only origin to ask, by its position; `None` for all in their order.
    pub only: Option<usize>,
    /// The origin to ask before those that have the same turn, by its position.
    pub prefer: Option<usize>,
    /// Origins to ask after all others, by their positions: what they gave was wrong.
    pub avoid: Vec<usize>,
    /// Whether an origin that failed is asked again at once.
    pub retries: Retries,
    /// Why it is asked, for metrics; `None` for what the request looks like.
    pub reason: Option<FetchReason>,
}

impl Ask {
    /// The question of a probe, for an object that every binary cache has.
    pub(super) fn probe() -> Self {
        Self {
            method: Method::Get,
            path: "/nix-cache-info".into(),
            query: None,
            class: Class::CacheInfo,
            range: None,
            if_none_match: None,
            if_modified_since: None,
            if_match: None,
            cdn_loop: None,
            only: None,
            prefer: None,
            avoid: Vec::new(),
            retries: Retries::Usual,
            reason: Some(FetchReason::Probe),
        }
    }

    /// What the request is for.
    pub(super) fn purpose(&self) -> RequestPurpose {
        let has_condition = self.if_none_match.is_some() || self.if_modified_since.is_some();
        let looks_like = if has_condition {
            FetchReason::Revalidation
        } else if self.retries == Retries::None {
            FetchReason::Resume
        } else if self.range.is_some() {
            FetchReason::Part
        } else {
            FetchReason::Miss
        };
        RequestPurpose { class: self.class, reason: self.reason.unwrap_or(looks_like) }
    }
}

/// Why a request leaves for an origin; a closed set, the label of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchReason {
    /// An object, or its head, that is not here.
    Miss,
    /// What is here may have changed.
    Revalidation,
    /// A range of what is not here as a whole.
    Part,
    /// The rest of a body that broke off.
    Resume,
    /// The rest of an object that is here in part; no client waits for it.
    Completion,
    /// What was found damaged on disk.
    Heal,
    /// Another request failed.
    Retry,
    /// Another request is slow.
    Hedge,
    /// To see whether the origin answers.
    Probe,
    /// A client's request with a method that does not only read.
    Write,
}

/// What a request is for: what metrics tell of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestPurpose {
    /// The class of the path.
    pub class: Class,
    /// Why it leaves.
    pub reason: FetchReason,
}

/// Whether an origin that failed is asked again at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retries {
    /// Twice, if the error permits it.
    Usual,
    /// Never: the caller asks again by itself.
    None,
}

/// What an origin, or all of them together, said.
#[derive(Debug)]
pub enum OriginAnswer<R> {
    /// 200 or 206, with a body (empty for HEAD).
    Found(R),
    /// 304: what is stored still holds; these fields are to be merged into it.
    NotModified {
        /// Fields of the 304.
        headers: HeaderMap,
        /// Position of the origin that said so.
        origin: usize,
        /// When the request left, in edge time.
        request_time: Timestamp,
        /// When the 304 arrived.
        response_time: Moment,
    },
    /// Every origin that may be asked said that there is no such object.
    Absent {
        /// Fields of the last such answer (for `Age`).
        headers: HeaderMap,
        /// Position of the last origin that said so.
        origin: usize,
        /// When the request to it left, in edge time.
        request_time: Timestamp,
        /// When its answer arrived.
        response_time: Moment,
    },
    /// 412, or 416 if a range was asked: the body to be continued belongs to another object than
    /// the origin's.
    Changed,
}

/// Why no usable answer came from any origin.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection within the deadline, or it was refused.
    #[error("origin {origin}: cannot connect: {source}")]
    Connect {
        /// The origin's name.
        origin: Arc<str>,
        /// What the connector said.
        source: ErrorChain,
        /// Whether another request has told of the same.
        share: FailureShare,
    },
    /// The connection broke before the response's head was whole.
    #[error("origin {origin}: broke off before its answer: {source}")]
    Broken {
        /// The origin's name.
        origin: Arc<str>,
        /// What the client said.
        source: ErrorChain,
        /// Whether another request has told of the loss of the same connection.
        share: FailureShare,
    },
    /// No head within the deadline.
    #[error("origin {origin}: no answer within {seconds} s")]
    FirstByte {
        /// The origin's name.
        origin: Arc<str>,
        /// The deadline.
        seconds: u64,
    },
    /// The client's own body did not come to its end, so neither did the request.
    #[error("origin {origin}: was not asked to the end: {source}")]
    Upload {
        /// The origin's name.
        origin: Arc<str>,
        /// What is wrong with the body.
        source: UploadError,
    },
    /// The credentials were refused, or there are none. Never absence.
    #[error("origin {origin}: credentials do not serve ({code}): {detail}")]
    Credentials {
        /// The origin's name.
        origin: Arc<str>,
        /// The S3 error code, the HTTP status, or `missing`.
        code: String,
        /// What to do about it.
        detail: String,
    },
    /// A status that is neither an object nor absence.
    #[error("origin {origin}: answered {status}")]
    Status {
        /// The origin's name.
        origin: Arc<str>,
        /// The status.
        status: StatusCode,
        /// `Retry-After` in seconds, if sent.
        retry_after_seconds: Option<u64>,
    },
    /// An answer that breaks the protocol (a redirect that may not be followed, two lengths).
    #[error("origin {origin}: unusable answer: {detail}")]
    Protocol {
        /// The origin's name.
        origin: Arc<str>,
        /// What was wrong.
        detail: String,
    },
    /// A folder could not be read.
    #[error("origin {origin}: {source}")]
    Folder {
        /// The origin's name.
        origin: Arc<str>,
        /// What the system said.
        source: std::io::Error,
    },
    /// It failed again and again, and is left alone for a while: it was not asked.
    #[error("origin {origin}: is left alone for a while, since it failed again and again: {last}")]
    Open {
        /// The origin's name.
        origin: Arc<str>,
        /// What was wrong with it last.
        last: String,
    },
    /// It asked for fewer requests, and this one would have had to wait for too long.
    #[error("origin {origin}: asks for fewer requests; the next may go in {seconds} s")]
    Throttled {
        /// The origin's name.
        origin: Arc<str>,
        /// How long it would have had to wait.
        seconds: u64,
    },
    /// As many requests are under way as may be, and none ended in time.
    #[error("origin {origin}: as many {limit} are under way as its connections_max allows")]
    Busy {
        /// The origin's name.
        origin: Arc<str>,
        /// Which limit is reached.
        limit: SlotLimit,
    },
    /// An optional origin failed, and no other origin that was asked has the object or failed: the
    /// object counts as absent, and that is not remembered.
    #[error("{0}; the origin is optional, so the object counts as absent")]
    Optional(Box<FetchError>),
}

impl FetchError {
    /// Whether the origin gave no answer, or said that it cannot answer now. Refused credentials
    /// and answers that break a rule last until an operator acts, so they are no outage.
    pub(super) fn is_outage(&self) -> bool {
        match self {
            Self::Status { status, .. } => {
                status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS
            }
            Self::Connect { .. }
            | Self::Broken { .. }
            | Self::FirstByte { .. }
            | Self::Folder { .. }
            | Self::Open { .. }
            | Self::Throttled { .. } => true,
            // A limit of the edge says nothing of the origin.
            Self::Busy { .. }
            | Self::Upload { .. }
            | Self::Credentials { .. }
            | Self::Protocol { .. }
            | Self::Optional(_) => false,
        }
    }

    /// What is wrong with the body of the request itself, if it was for that.
    pub fn upload(&self) -> Option<UploadError> {
        match self {
            Self::Upload { source, .. } => Some(*source),
            Self::Connect { .. }
            | Self::Broken { .. }
            | Self::FirstByte { .. }
            | Self::Credentials { .. }
            | Self::Status { .. }
            | Self::Protocol { .. }
            | Self::Folder { .. }
            | Self::Open { .. }
            | Self::Throttled { .. }
            | Self::Busy { .. }
            | Self::Optional(_) => None,
        }
    }

    /// Whether the same request may be sent to the same origin again.
    pub fn may_retry(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Broken { .. } | Self::FirstByte { .. } => true,
            // What forms a circle, or knows no such method, does so at the next try as well.
            Self::Status { status, .. } => {
                let is_lasting =
                    [StatusCode::LOOP_DETECTED, StatusCode::NOT_IMPLEMENTED].contains(status);
                let is_trouble =
                    status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS;
                is_trouble && !is_lasting
            }
            Self::Upload { .. }
            | Self::Credentials { .. }
            | Self::Protocol { .. }
            | Self::Folder { .. }
            | Self::Open { .. }
            | Self::Throttled { .. }
            | Self::Busy { .. }
            | Self::Optional(_) => false,
        }
    }

    /// Whether the origin may have got the request: not if no connection stood, or if the request
    /// was held back here.
    pub fn may_have_reached(&self) -> bool {
        match self {
            Self::Broken { .. }
            | Self::FirstByte { .. }
            | Self::Upload { .. }
            | Self::Credentials { .. }
            | Self::Status { .. }
            | Self::Protocol { .. }
            | Self::Folder { .. } => true,
            Self::Connect { .. }
            | Self::Open { .. }
            | Self::Throttled { .. }
            | Self::Busy { .. } => false,
            Self::Optional(error) => error.may_have_reached(),
        }
    }

    /// Whether another request has told of the same fault: a connection that is lost, or that was
    /// not made, is one fault of the origin, however many requests were to go over it.
    pub(super) fn is_told(&self) -> bool {
        matches!(
            self,
            Self::Connect { share: FailureShare::Further, .. }
                | Self::Broken { share: FailureShare::Further, .. }
        )
    }

    /// Whether the fault is one of time: 504 rather than 502.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Self::FirstByte { .. } | Self::Busy { .. } | Self::Throttled { .. })
    }

    /// Whether the client has as many uploads under way as its share of the origin allows: 503.
    pub fn is_over_share(&self) -> bool {
        matches!(self, Self::Busy { limit: SlotLimit::Share, .. })
    }
}

/// A limit on the slots of an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotLimit {
    /// Of all requests, or of those of one kind.
    Requests,
    /// Of the uploads of one client.
    Share,
}

impl fmt::Display for SlotLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Requests => "requests",
            Self::Share => "uploads of this client",
        })
    }
}

/// Why a body could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection broke, or the framing was wrong.
    #[error("origin {origin}: body broke off: {source}")]
    Broken {
        /// The origin's name.
        origin: Arc<str>,
        /// What the client said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Nothing came within the deadline.
    #[error("origin {origin}: body stalled for {seconds} s")]
    Stalled {
        /// The origin's name.
        origin: Arc<str>,
        /// The deadline.
        seconds: u64,
    },
}
