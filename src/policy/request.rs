//! Whether and how a request is served, from its method and fields alone. Pure. The engine asks
//! once a request, before any look-up. What is refused never reaches an origin.
//!
//! A binary cache is read-only, so a request with a body is either confused or smuggling: it is
//! refused, and the connection closed, since its end is in doubt. `Upgrade` is ignored. Of a
//! request's `Cache-Control` only `only-if-cached` counts: a client must not be able to make an
//! edge ask its origin again.

use crate::rfc::authority::HostError;
use crate::rfc::cache_control::{CacheControl, Flag};
use crate::rfc::cdn_loop::CdnLoopError;
use crate::rfc::content_length::announces_body;
use crate::rfc::path::PathError;
use http::{HeaderMap, Method, StatusCode, header};

/// The methods that are served, as `Allow` lists them.
pub const ALLOWED_METHODS: &str = "GET, HEAD, OPTIONS";

/// How a request is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestPlan {
    /// An object is looked up.
    Object {
        /// Whether its body is sent.
        method: ReadMethod,
        /// Whether an origin may be asked.
        upstream: OriginUse,
    },
    /// 204 with the fields of [`head::preflight`](super::head::preflight).
    Preflight,
}

/// The methods that read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadMethod {
    /// The object.
    Get,
    /// Its head only.
    Head,
}

/// Whether an origin may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OriginUse {
    /// An origin is asked if nothing usable is stored.
    MayBeAsked,
    /// Never: the request said `only-if-cached`, so a miss is [`RequestRefusal::NotStored`].
    StoredOnly,
}

/// Why a request is refused by Narthex itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestRefusal {
    /// Another method than GET, HEAD and OPTIONS.
    #[error("this cache is read-only; use GET or HEAD")]
    Method,
    /// A body, or framing that leaves in doubt whether there is one.
    #[error("the request announces a body; send none, and no Transfer-Encoding")]
    Body,
    /// A transfer coding other than `chunked` alone.
    #[error("the request's body is coded for its transfer; send it chunked, and nothing more")]
    TransferCoding,
    /// The body broke off: its client is gone, or its framing is wrong.
    #[error("the request's body does not come to its end as its fields say")]
    BodyBroken,
    /// The body comes too slowly.
    #[error("the request's body comes too slowly")]
    BodySlow,
    /// `Expect` with anything but `100-continue`.
    #[error("the request's Expect cannot be met; leave it out")]
    Expectation,
    /// The host is missing, repeated, malformed or contradicts itself.
    #[error(transparent)]
    Host(#[from] HostError),
    /// No site has this host, and there is no default site.
    #[error("no site of this server has the request's host")]
    UnknownHost,
    /// The path is malformed or too long.
    #[error(transparent)]
    Path(#[from] PathError),
    /// The path is sound, but no binary cache has such an object.
    #[error("no object of a binary cache has such a path")]
    OutsideCache,
    /// The path does not begin with the site's `base_path`.
    #[error("nothing is served outside of the base path of this cache")]
    OutsideBase,
    /// The path is outside the grammar, and a disk that may hold the narinfo that names it does not
    /// answer.
    #[error("a disk that may know this path does not answer; ask again")]
    ClaimUnknown,
    /// `CDN-Loop` is malformed or too long.
    #[error(transparent)]
    CdnLoop(#[from] CdnLoopError),
    /// The request has been here before.
    #[error("the request has passed this cache already; check the origins for a circle")]
    Loop,
    /// `only-if-cached`, and nothing usable is stored.
    #[error("the request allows only what is stored, and nothing usable is")]
    NotStored,
}

/// What happens to the connection after a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionFate {
    /// It may carry the next request.
    Kept,
    /// It is closed after the answer: the beginning of the next request is in doubt.
    Closed,
}

impl RequestRefusal {
    /// The status of the answer.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Body | Self::BodyBroken | Self::Host(_) | Self::CdnLoop(_) => {
                StatusCode::BAD_REQUEST
            }
            Self::BodySlow => StatusCode::REQUEST_TIMEOUT,
            Self::TransferCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::UnknownHost => StatusCode::MISDIRECTED_REQUEST,
            Self::Path(error) => error.status(),
            Self::OutsideCache | Self::OutsideBase => StatusCode::NOT_FOUND,
            Self::ClaimUnknown => StatusCode::SERVICE_UNAVAILABLE,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::NotStored => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// The reason, as a metric label; a closed set.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Method => "method",
            Self::Body => "body",
            Self::TransferCoding => "transfer_coding",
            Self::BodyBroken => "body_broken",
            Self::BodySlow => "body_slow",
            Self::Expectation => "expectation",
            Self::Host(_) => "host",
            Self::UnknownHost => "unknown_host",
            Self::Path(PathError::TooLong { .. }) => "path_too_long",
            Self::Path(_) => "path",
            Self::OutsideCache => "outside_cache",
            Self::OutsideBase => "outside_base",
            Self::ClaimUnknown => "claim_unknown",
            Self::CdnLoop(_) => "cdn_loop",
            Self::Loop => "loop",
            Self::NotStored => "not_stored",
        }
    }

    /// What happens to the connection.
    pub const fn connection(self) -> ConnectionFate {
        match self {
            Self::Method
            | Self::Body
            | Self::TransferCoding
            | Self::BodyBroken
            | Self::BodySlow
            | Self::Expectation
            | Self::Host(_) => ConnectionFate::Closed,
            Self::UnknownHost
            | Self::Path(_)
            | Self::OutsideCache
            | Self::OutsideBase
            | Self::ClaimUnknown
            | Self::CdnLoop(_)
            | Self::Loop
            | Self::NotStored => ConnectionFate::Kept,
        }
    }

    /// Whether the connection must be closed after the answer.
    pub fn must_close(self) -> bool {
        self.connection() == ConnectionFate::Closed
    }

    /// The value of `Allow`, for 405.
    pub const fn allow(self) -> Option<&'static str> {
        match self {
            Self::Method => Some(ALLOWED_METHODS),
            Self::Body
            | Self::TransferCoding
            | Self::BodyBroken
            | Self::BodySlow
            | Self::Expectation
            | Self::Host(_)
            | Self::UnknownHost
            | Self::Path(_)
            | Self::OutsideCache
            | Self::OutsideBase
            | Self::ClaimUnknown
            | Self::CdnLoop(_)
            | Self::Loop
            | Self::NotStored => None,
        }
    }
}

/// Decides on a request by its method and fields.
///
/// An HTTP/2 request can have a body that no field announces: the caller refuses such a body as
/// [`RequestRefusal::Body`] too. hyper drops a `Content-Length` beside a `Transfer-Encoding` before
/// this sees it, so the latter alone decides.
pub fn plan(method: &Method, headers: &HeaderMap) -> Result<RequestPlan, RequestRefusal> {
    let method = match *method {
        Method::GET => Some(ReadMethod::Get),
        Method::HEAD => Some(ReadMethod::Head),
        Method::OPTIONS => None,
        _ => return Err(RequestRefusal::Method),
    };
    if let (Some(method), true) = (method, is_plain(headers)) {
        return Ok(RequestPlan::Object { method, upstream: OriginUse::MayBeAsked });
    }
    if announces_body(headers) {
        return Err(RequestRefusal::Body);
    }
    let mut expectations = headers.get_all(header::EXPECT).iter();
    if !expectations.all(|line| line.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(RequestRefusal::Expectation);
    }
    let Some(method) = method else {
        return Ok(RequestPlan::Preflight);
    };
    let upstream = if CacheControl::of(headers).has(Flag::OnlyIfCached) {
        OriginUse::StoredOnly
    } else {
        OriginUse::MayBeAsked
    };
    Ok(RequestPlan::Object { method, upstream })
}

/// Whether none of the fields is there that [`plan`] looks at: one pass over the few that a request
/// has costs less than a look-up for each.
fn is_plain(headers: &HeaderMap) -> bool {
    !headers.keys().any(|name| {
        matches!(name.as_str(), "cache-control" | "content-length" | "expect" | "transfer-encoding")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn judge(
        method: &str,
        lines: &[(&'static str, &'static str)],
    ) -> Result<RequestPlan, RequestRefusal> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        plan(&Method::from_bytes(method.as_bytes()).unwrap(), &headers)
    }

    const GET: RequestPlan =
        RequestPlan::Object { method: ReadMethod::Get, upstream: OriginUse::MayBeAsked };

    #[test]
    fn reads_are_served() {
        assert_eq!(judge("GET", &[]), Ok(GET));
        let head =
            RequestPlan::Object { method: ReadMethod::Head, upstream: OriginUse::MayBeAsked };
        assert_eq!(judge("HEAD", &[("content-length", "0")]), Ok(head));
        assert_eq!(judge("OPTIONS", &[("origin", "https://x")]), Ok(RequestPlan::Preflight));
    }

    #[test]
    fn every_other_method_is_refused_and_closed() {
        for method in ["POST", "PUT", "DELETE", "TRACE", "CONNECT", "PATCH", "PURGE", "PRI", "get"]
        {
            assert_eq!(judge(method, &[]), Err(RequestRefusal::Method), "{method}");
        }
        assert_eq!(RequestRefusal::Method.status(), 405);
        assert_eq!(RequestRefusal::Method.allow(), Some("GET, HEAD, OPTIONS"));
        assert!(RequestRefusal::Method.must_close());
    }

    #[test]
    fn a_body_is_refused_and_closed() {
        for method in ["GET", "HEAD", "OPTIONS"] {
            for line in [
                ("transfer-encoding", "chunked"),
                ("transfer-encoding", "identity"),
                ("content-length", "5"),
                ("content-length", "+0"),
                ("content-length", "0, 0"),
            ] {
                assert_eq!(judge(method, &[line]), Err(RequestRefusal::Body), "{method} {line:?}");
            }
        }
        assert_eq!(RequestRefusal::Body.status(), 400);
        assert!(RequestRefusal::Body.must_close());
    }

    #[test]
    fn only_the_known_expectation_is_let_by() {
        assert_eq!(judge("GET", &[("expect", "100-Continue")]), Ok(GET));
        for value in ["", "200-ok", "100-continue, x"] {
            assert_eq!(
                judge("GET", &[("expect", value)]),
                Err(RequestRefusal::Expectation),
                "{value}"
            );
        }
        let two = [("expect", "100-continue"), ("expect", "x")];
        assert_eq!(judge("GET", &two), Err(RequestRefusal::Expectation));
        assert_eq!(RequestRefusal::Expectation.status(), 417);
        assert!(RequestRefusal::Expectation.must_close());
    }

    #[test]
    fn a_client_cannot_force_an_origin_request() {
        for line in [
            ("cache-control", "no-cache"),
            ("cache-control", "no-store, max-age=0"),
            ("pragma", "no-cache"),
            ("upgrade", "h2c"),
            ("authorization", "Basic eDp5"),
        ] {
            assert_eq!(judge("GET", &[line]), Ok(GET), "{line:?}");
        }
        assert_eq!(
            judge("GET", &[("cache-control", "max-age=0, Only-If-Cached")]),
            Ok(RequestPlan::Object { method: ReadMethod::Get, upstream: OriginUse::StoredOnly })
        );
        assert_eq!(RequestRefusal::NotStored.status(), 504);
    }

    #[test]
    fn refusals_keep_the_connection_where_its_framing_is_sound() {
        let long = RequestRefusal::Path(PathError::TooLong { bytes: 3, bytes_max: 2 });
        assert_eq!((long.status().as_u16(), long.reason()), (414, "path_too_long"));
        for (refusal, status) in [
            (RequestRefusal::Path(PathError::Nul), 400),
            (RequestRefusal::UnknownHost, 421),
            (RequestRefusal::OutsideCache, 404),
            (RequestRefusal::OutsideBase, 404),
            (RequestRefusal::ClaimUnknown, 503),
            (RequestRefusal::CdnLoop(CdnLoopError::Malformed), 400),
            (RequestRefusal::Loop, 508),
        ] {
            assert_eq!(refusal.status(), status);
            assert!(!refusal.must_close());
            assert_eq!(refusal.allow(), None);
        }
        assert!(RequestRefusal::Host(HostError::Repeated).must_close());
        for (refusal, status) in
            [(RequestRefusal::BodyBroken, 400), (RequestRefusal::BodySlow, 408)]
        {
            assert_eq!(refusal.status(), status);
            assert!(refusal.must_close(), "more of its body may come");
        }
    }
}
