//! Parses the heads of HTTP/1.1 requests: finds those that ask for an object and nothing else, and
//! those that end with their head. Pure; called by `fast_path` with what was read. Whatever is in
//! the least unusual is left to hyper.

use super::bare_lf::has_bare_line_feed;
use crate::engine::SimpleRequest;
use crate::policy::request::ReadMethod;
use crate::rfc::path::PlainPath;
use httparse::{EMPTY_HEADER, Header, Request, Status};

/// The largest head that is parsed has so many fields.
const FIELDS_MAX: usize = 24;

/// Fields that do not change what a binary cache answers. `Connection` and `Host` are treated
/// separately.
const IGNORED: [&str; 11] = [
    "accept",
    "accept-encoding",
    "accept-language",
    "forwarded",
    "priority",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Fields that announce a body, or make the request the last one of its protocol.
const FRAMING: [&str; 5] = ["content-length", "transfer-encoding", "expect", "upgrade", "trailer"];

/// Limits on a head.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadLimits {
    pub(super) bytes_max: usize,
    pub(super) fields_max: usize,
}

/// What the bytes begin with.
#[derive(Debug)]
pub(super) enum RequestHead<'a> {
    /// The beginning of a head.
    Partial,
    /// A request for an object and for nothing else, and the bytes of its head.
    Simple(SimpleRequest<'a>, usize),
    /// Another GET or HEAD without a body, and the bytes of its head.
    Bodiless(usize),
    /// Anything else.
    Other,
}

impl<'a> RequestHead<'a> {
    /// The head at the beginning of `bytes`.
    pub(super) fn of(bytes: &'a [u8], limits: HeadLimits) -> Self {
        let mut fields = [EMPTY_HEADER; FIELDS_MAX];
        let mut request = Request::new(&mut fields);
        let length = match request.parse(bytes) {
            Ok(Status::Complete(length)) => length,
            Ok(Status::Partial) if bytes.len() < limits.bytes_max => return Self::Partial,
            Ok(Status::Partial) | Err(_) => return Self::Other,
        };
        let Some(head) = bytes.get(..length) else { return Self::Other };
        if length > limits.bytes_max
            || request.headers.len() > limits.fields_max
            || has_bare_line_feed(head)
        {
            return Self::Other;
        }
        let method = match (request.method, request.version) {
            (Some("GET"), Some(1)) => ReadMethod::Get,
            (Some("HEAD"), Some(1)) => ReadMethod::Head,
            _ => return Self::Other,
        };
        match HeadFields::of(request.headers) {
            HeadFields::Framed => Self::Other,
            HeadFields::Simple { host, referer, user_agent } => {
                match request.path.and_then(PlainPath::of) {
                    Some(target) => {
                        let plain = SimpleRequest { method, target, host, referer, user_agent };
                        Self::Simple(plain, length)
                    }
                    None => Self::Bodiless(length),
                }
            }
            HeadFields::Others => Self::Bodiless(length),
        }
    }
}

/// What the fields of a request mean together.
enum HeadFields<'a> {
    /// Only the host matters.
    Simple { host: &'a str, referer: Option<&'a [u8]>, user_agent: Option<&'a [u8]> },
    /// They may change the answer, but the request ends with its head.
    Others,
    /// They may announce a body, or the end of the connection.
    Framed,
}

impl<'a> HeadFields<'a> {
    fn of(fields: &[Header<'a>]) -> Self {
        let (mut host, mut referer, mut user_agent) = (None, None, None);
        let mut are_plain = true;
        for &Header { name, value } in fields {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            let seen = if is("host") {
                &mut host
            } else if is("user-agent") {
                &mut user_agent
            } else if is("referer") {
                &mut referer
            } else if is("connection") {
                if !value.eq_ignore_ascii_case(b"keep-alive") {
                    return Self::Framed;
                }
                continue;
            } else if IGNORED.iter().any(|ignored| is(ignored)) {
                continue;
            } else if FRAMING.iter().any(|framing| is(framing)) {
                return Self::Framed;
            } else {
                are_plain = false;
                continue;
            };
            // A field that is there twice is left to hyper.
            are_plain &= seen.replace(value).is_none();
        }
        match host.map(std::str::from_utf8) {
            Some(Ok(host)) if are_plain => Self::Simple { host, referer, user_agent },
            Some(_) | None => Self::Others,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{Strategy, any};
    use proptest::proptest;

    const LIMITS: HeadLimits = HeadLimits { bytes_max: 4_096, fields_max: 64 };

    #[test]
    fn a_head_ends_where_the_next_begins() {
        let (first, second) = ("GET /a HTTP/1.1\r\nHost: h\r\n\r\n", "GET /b HTTP/1.1\r\n\r\n");
        let both = [first, second].concat();
        let RequestHead::Simple(request, length) = RequestHead::of(both.as_bytes(), LIMITS) else {
            panic!()
        };
        assert_eq!((request.host, request.target.as_str(), length), ("h", "/a", first.len()));
        let rest = &both.as_bytes()[length..];
        let behind = RequestHead::of(rest, LIMITS);
        assert!(matches!(behind, RequestHead::Bodiless(length) if length == rest.len()));
        for end in 0..first.len() {
            assert!(
                matches!(RequestHead::of(&first.as_bytes()[..end], LIMITS), RequestHead::Partial),
                "{end}"
            );
        }
    }

    #[test]
    fn a_head_beyond_the_limits_is_for_the_library_to_refuse() {
        let of = |fields: usize, bytes_max: usize| {
            let head = format!("GET / HTTP/1.1\r\n{}\r\n", "Accept: a\r\n".repeat(fields));
            let limits = HeadLimits { bytes_max, fields_max: 5 };
            matches!(RequestHead::of(head.as_bytes(), limits), RequestHead::Other)
        };
        assert!(!of(5, 200) && of(6, 200) && of(5, 50) && of(FIELDS_MAX + 1, 4_096));
        let endless = [b'a'; 100];
        let limits = HeadLimits { bytes_max: 100, fields_max: 5 };
        assert!(matches!(RequestHead::of(&endless, limits), RequestHead::Other));
        assert!(matches!(RequestHead::of(&endless[..99], limits), RequestHead::Partial));
    }

    fn line() -> impl Strategy<Value = String> {
        "(Host|host|Content-Length|Transfer-Encoding|Range|Accept|Connection|X-A): ?[ -~]{0,12}"
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_end_or_none(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            match RequestHead::of(&bytes, LIMITS) {
                RequestHead::Simple(_, length) | RequestHead::Bodiless(length) => {
                    assert!(length <= bytes.len());
                }
                RequestHead::Partial | RequestHead::Other => {}
            }
        }

        /// Whatever the fields, a request that announces a body never takes the fast path.
        #[test]
        fn no_body_is_overlooked(lines in proptest::collection::vec(line(), 0..6)) {
            let mut head = "GET /a HTTP/1.1\r\n".to_owned();
            for line in lines.iter().map(String::as_str).chain([""]) {
                head.push_str(line);
                head.push_str("\r\n");
            }
            let lower = head.to_ascii_lowercase();
            let is_framed =
                lower.contains("\r\ncontent-length:") || lower.contains("\r\ntransfer-encoding:");
            match RequestHead::of(head.as_bytes(), LIMITS) {
                RequestHead::Simple(request, length) => {
                    assert!(!is_framed && length == head.len(), "{head}");
                    assert_eq!(lower.matches("\r\nhost:").count(), 1, "{head}");
                    assert!(!lower.contains("\r\nrange:") && !lower.contains("\r\nx-a:"), "{head}");
                    assert_eq!(request.target.as_str(), "/a");
                }
                RequestHead::Bodiless(length) => {
                    assert!(!is_framed && length == head.len(), "{head}");
                }
                RequestHead::Other => {}
                RequestHead::Partial => panic!("{head}"),
            }
        }
    }
}
