//! The heads of HTTP/1.1 requests that are waiting to be read: which of them ask for an object and
//! for nothing else, and which end where their head does. Pure; called by `express` with what was
//! read. Whatever is in the least unusual is for the HTTP library to judge.

use super::lines::has_bare_line_feed;
use crate::engine::PlainRequest;
use crate::policy::request::ReadMethod;
use httparse::{EMPTY_HEADER, Header, Request, Status};

/// Fields of the largest head that is looked at.
const FIELDS_MAX: usize = 24;

/// Fields that have no say in what a binary cache answers to a request; `Connection` and `Host`
/// are looked at by themselves.
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

/// Fields with which a request may have a body, or not be the last of its kind.
const FRAMING: [&str; 5] = ["content-length", "transfer-encoding", "expect", "upgrade", "trailer"];

/// Limits on a head.
#[derive(Debug, Clone, Copy)]
pub(super) struct HeadLimits {
    pub(super) bytes_max: usize,
    pub(super) fields_max: usize,
}

/// What stands at the beginning of what was read.
#[derive(Debug)]
pub(super) enum Head<'a> {
    /// The beginning of a head.
    Partial,
    /// A request for an object and for nothing else, of so many bytes.
    Plain(PlainRequest<'a>, usize),
    /// Another GET or HEAD without a body, of so many bytes.
    Bodiless(usize),
    /// Anything else.
    Other,
}

impl<'a> Head<'a> {
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
        match Fields::of(request.headers) {
            Fields::Framed => Self::Other,
            Fields::Plain { host, referer, user_agent } => match request.path {
                Some(target) if target.starts_with('/') && crate::rfc::path::is_plain(target) => {
                    let plain = PlainRequest { method, target, host, referer, user_agent };
                    Self::Plain(plain, length)
                }
                Some(_) | None => Self::Bodiless(length),
            },
            Fields::Others => Self::Bodiless(length),
        }
    }
}

/// What the fields of a request come to.
enum Fields<'a> {
    /// They have no say, but for the one host.
    Plain { host: &'a str, referer: Option<&'a [u8]>, user_agent: Option<&'a [u8]> },
    /// They may have a say in the answer, and none in where the request ends.
    Others,
    /// They may say that there is a body, or that the connection ends.
    Framed,
}

impl<'a> Fields<'a> {
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
            // One that is there twice is not for this to judge.
            are_plain &= seen.replace(value).is_none();
        }
        match host.map(std::str::from_utf8) {
            Some(Ok(host)) if are_plain => Self::Plain { host, referer, user_agent },
            Some(_) | None => Self::Others,
        }
    }
}
