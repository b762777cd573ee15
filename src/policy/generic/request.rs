//! What is done with a request for a generic site before anything is looked up. Pure.

use crate::config::RequestControl;
use crate::rfc::cache_control::{CacheControl, Delta, Flag};
use crate::rfc::grammar;
use http::{HeaderMap, HeaderValue, Method, header};

/// What is done with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestHandling {
    /// GET and HEAD: from the cache if permitted, and into the cache if permitted.
    Cached,
    /// To the origin and back, nothing kept: a method that reads but is not cached here.
    Through,
    /// As [`RequestHandling::Through`], and what the answer's success makes stale is forgotten.
    Write,
    /// Not at all: it would make a tunnel, or reflect what is sent.
    Refused,
}

/// What is done with a request of this method (RFC 9110 section 9.2): one that is not known to be
/// safe counts as a write.
pub fn way(method: &Method) -> RequestHandling {
    match *method {
        Method::GET | Method::HEAD => RequestHandling::Cached,
        Method::OPTIONS => RequestHandling::Through,
        Method::CONNECT | Method::TRACE => RequestHandling::Refused,
        _ => RequestHandling::Write,
    }
}

/// Whether a request goes further (RFC 9110 section 7.6.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardingLimit {
    /// As it is.
    Further,
    /// With this as its `Max-Forwards`.
    FurtherWith(HeaderValue),
    /// It is answered here.
    Here,
}

/// How far a request of this method for `path` goes: `OPTIONS *` asks about a server, and this is
/// the one that was asked.
pub fn reach(method: &Method, path: &str, headers: &HeaderMap) -> ForwardingLimit {
    if *method != Method::OPTIONS {
        return ForwardingLimit::Further;
    }
    if path == "*" {
        return ForwardingLimit::Here;
    }
    let value = headers.get(header::MAX_FORWARDS).and_then(|value| value.to_str().ok());
    match value.map(str::parse::<u32>) {
        Some(Ok(0)) => ForwardingLimit::Here,
        Some(Ok(left)) => ForwardingLimit::FurtherWith(HeaderValue::from(left - 1)),
        Some(Err(_)) | None => ForwardingLimit::Further,
    }
}

/// What a request says about the use of stored responses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wishes {
    control: CacheControl,
    /// Whether it has credentials, so that only some responses to it may be stored.
    pub is_authorized: bool,
}

impl Wishes {
    /// Those of a request with these fields, as far as the site honours them.
    ///
    /// `Pragma: no-cache` counts if there is no `Cache-Control` (RFC 9111 section 5.4).
    pub fn of(headers: &HeaderMap, honoured: RequestControl) -> Self {
        let mut control = CacheControl::of(headers);
        if honoured == RequestControl::Ignore {
            let is_only_stored = control.has(Flag::OnlyIfCached);
            control = CacheControl::default();
            if is_only_stored {
                control = control.with(Flag::OnlyIfCached);
            }
        } else if !headers.contains_key(header::CACHE_CONTROL) && has_pragma(headers) {
            control = control.with(Flag::NoCache);
        }
        Self { control, is_authorized: headers.contains_key(header::AUTHORIZATION) }
    }

    /// Whether a stored response may be used only after its origin has confirmed it.
    pub const fn wants_confirmation(&self) -> bool {
        self.control.has(Flag::NoCache)
    }

    /// Whether the answer is not to be stored.
    pub const fn forbids_storing(&self) -> bool {
        self.control.has(Flag::NoStore)
    }

    /// Whether no origin is to be asked.
    pub const fn wants_stored_only(&self) -> bool {
        self.control.has(Flag::OnlyIfCached)
    }

    /// The oldest age that is accepted, in seconds.
    pub fn max_age(&self) -> Option<u64> {
        self.control.seconds(Delta::MaxAge).map(u64::from)
    }

    /// For how many seconds the answer is to stay fresh.
    pub fn min_fresh(&self) -> Option<u64> {
        self.control.seconds(Delta::MinFresh).map(u64::from)
    }

    /// For how many seconds the answer may have been stale.
    pub fn max_stale(&self) -> Option<u64> {
        self.control.seconds(Delta::MaxStale).map(u64::from)
    }

    /// For how many seconds the answer may have been stale if no origin has one.
    pub fn stale_if_error(&self) -> Option<u64> {
        self.control.seconds(Delta::StaleIfError).map(u64::from)
    }
}

fn has_pragma(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::PRAGMA)
        .iter()
        .flat_map(|line| grammar::list_members(line.as_bytes()))
        .any(|member| member.eq_ignore_ascii_case(b"no-cache"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::fields;

    fn wishes(lines: &[(&str, &str)]) -> Wishes {
        Wishes::of(&fields(lines), RequestControl::Honour)
    }

    #[test]
    fn a_method_that_is_not_known_to_be_safe_is_a_write() {
        for (method, expected) in [
            ("GET", RequestHandling::Cached),
            ("HEAD", RequestHandling::Cached),
            ("OPTIONS", RequestHandling::Through),
            ("TRACE", RequestHandling::Refused),
            ("CONNECT", RequestHandling::Refused),
            ("POST", RequestHandling::Write),
            ("PUT", RequestHandling::Write),
            ("M-SEARCH", RequestHandling::Write),
            ("get", RequestHandling::Write),
        ] {
            assert_eq!(way(&Method::from_bytes(method.as_bytes()).unwrap()), expected, "{method}");
        }
    }

    #[test]
    fn options_go_as_far_as_they_may() {
        let reach = |method: &str, path, value: &str| {
            let headers = fields(&[("max-forwards", value)]);
            reach(&Method::from_bytes(method.as_bytes()).unwrap(), path, &headers)
        };
        assert_eq!(reach("OPTIONS", "*", "5"), ForwardingLimit::Here);
        assert_eq!(reach("OPTIONS", "/a", "0"), ForwardingLimit::Here);
        assert_eq!(reach("OPTIONS", "/a", "5"), ForwardingLimit::FurtherWith(HeaderValue::from(4)));
        for value in ["", "x", "-1", "99999999999"] {
            assert_eq!(reach("OPTIONS", "/a", value), ForwardingLimit::Further);
        }
        assert_eq!(reach("GET", "/a", "0"), ForwardingLimit::Further);
    }

    #[test]
    fn pragma_counts_where_there_is_no_cache_control() {
        assert!(wishes(&[("pragma", "x, No-Cache")]).wants_confirmation());
        let both = [("pragma", "no-cache"), ("cache-control", "max-age=5")];
        assert!(!wishes(&both).wants_confirmation());
        assert_eq!(wishes(&both).max_age(), Some(5));
        assert!(wishes(&[("cache-control", "no-cache")]).wants_confirmation());
    }

    #[test]
    fn what_is_not_honoured_is_not_there() {
        let lines = fields(&[("cache-control", "no-cache, no-store, max-age=0, only-if-cached")]);
        let ignored = Wishes::of(&lines, RequestControl::Ignore);
        assert!(!ignored.wants_confirmation() && !ignored.forbids_storing());
        assert_eq!(ignored.max_age(), None);
        // It spares the origin, so it is always granted.
        assert!(ignored.wants_stored_only());
        assert!(
            !Wishes::of(&fields(&[("pragma", "no-cache")]), RequestControl::Ignore)
                .wants_confirmation()
        );
    }

    #[test]
    fn credentials_are_seen() {
        assert!(wishes(&[("authorization", "Basic eDp5")]).is_authorized);
        assert!(!wishes(&[]).is_authorized);
    }
}
