//! The short way of a hit: a request that asks for an object and for nothing else, answered from
//! memory as bytes that are ready for the socket of an HTTP/1.1 connection. What it says, counts
//! and logs is what `Engine::handle` would; whatever needs more than that is left to it. Holds no
//! lock, never waits.

use super::deliver::cache_status;
use super::tally::{Account, Begun};
use super::target::Path;
use super::{Connection, Engine, InMemory, local};
use crate::clock::Timestamp;
use crate::memory::Hot;
use crate::outcome::Outcome;
use crate::policy;
use crate::policy::request::ReadMethod;
use crate::rfc::Authority;
use crate::rfc::path::PlainPath;
use crate::telemetry::RequestId;
use http::StatusCode;
use httpdate::HttpDate;
use std::cell::RefCell;

/// Bytes of the largest body that goes the short way, where it is copied once.
const BODY_BYTES_MAX: u64 = 16 * 1024;
/// The body of an absence.
const ABSENT: &[u8] = b"404";

/// A request of HTTP/1.1 without conditions, ranges, or anything else that has a say in its answer.
#[derive(Debug, Clone, Copy)]
pub struct PlainRequest<'a> {
    /// GET or HEAD.
    pub method: ReadMethod,
    /// The request target.
    pub target: PlainPath<'a>,
    /// `Host`.
    pub host: &'a str,
    /// `Referer`, for the log.
    pub referer: Option<&'a [u8]>,
    /// `User-Agent`, for the log.
    pub user_agent: Option<&'a [u8]>,
}

/// Whether a request was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// The whole answer was written, and the request is counted and logged.
    Answered,
    /// Nothing was done.
    Not,
}

/// What an answer of the short way has beside the fields of its object.
struct Said<'a> {
    status: &'static str,
    hot: &'a Hot,
    outcome: Outcome,
    body: &'a [u8],
    /// Where the answer names it.
    request_id: Option<RequestId>,
}

impl Engine {
    /// Writes the whole answer to `request` behind `out`, counts and logs it, if memory has it and
    /// nothing more is to be decided; does nothing otherwise.
    pub fn express(
        &self,
        request: &PlainRequest<'_>,
        connection: &Connection,
        out: &mut Vec<u8>,
    ) -> Taken {
        match self.try_express(request, connection, out) {
            Some(()) => Taken::Answered,
            None => Taken::Not,
        }
    }

    fn try_express(
        &self,
        request: &PlainRequest<'_>,
        connection: &Connection,
        out: &mut Vec<u8>,
    ) -> Option<()> {
        let now = self.clock.now();
        let sites = self.sites.load();
        let site = with_host(request.host, |host| sites.route(Some(host)))?;
        let is_long = request.target.as_str().len() > self.limits.path_bytes_max;
        if site.upstream.site.caching.is_some() || is_long {
            return None;
        }
        let path = Path::plain(request.target);
        let (hit, class) = self.in_memory(site, &path, now)?;
        if local::may_adapt(class) {
            return None;
        }
        let begun = Begun::of_plain(request, now, connection, &self.log);
        let request_id = RequestId::draw();
        let said = match &hit {
            InMemory::Object(hot, outcome) => {
                if hot.facts.status != StatusCode::OK || hot.length() > BODY_BYTES_MAX {
                    return None;
                }
                let (status, outcome) = ("HTTP/1.1 200 OK\r\n", *outcome);
                Said { status, hot, outcome, body: hot.body_bytes(), request_id: None }
            }
            InMemory::Absence(hot) => {
                let (status, outcome) = ("HTTP/1.1 404 Not Found\r\n", Outcome::HitAbsent);
                Said { status, hot, outcome, body: ABSENT, request_id: Some(request_id) }
            }
        };
        let sent = said.write(request.method, now, out);
        begun.answered(&said.account(sent, request_id), site, class);
        Some(())
    }
}

impl Said<'_> {
    /// Writes the answer at `now`; how many bytes of its body that were.
    fn write(&self, method: ReadMethod, now: Timestamp, out: &mut Vec<u8>) -> usize {
        let facts = &self.hot.facts;
        out.extend_from_slice(self.status.as_bytes());
        let cache_status = cache_status(facts, self.outcome, now);
        out.extend_from_slice(self.hot.lines());
        policy::head::write_added(out, facts, now, &cache_status);
        if let Some(id) = self.request_id {
            let value = id.to_header_value();
            policy::head::write_field(out, "x-request-id", value.as_bytes());
        }
        if !self.hot.has_date() {
            write_date(now, out);
        }
        let mut length = itoa::Buffer::new();
        let length = length.format(self.body.len());
        policy::head::write_field(out, "content-length", length.as_bytes());
        out.extend_from_slice(b"\r\n");
        match method {
            ReadMethod::Get => {
                out.extend_from_slice(self.body);
                self.body.len()
            }
            ReadMethod::Head => 0,
        }
    }

    fn account(&self, body_bytes: usize, request_id: RequestId) -> Account<'_> {
        let status = match self.request_id {
            None => StatusCode::OK,
            Some(_) => StatusCode::NOT_FOUND,
        };
        Account { status, outcome: self.outcome, origin: &self.hot.origin, body_bytes, request_id }
    }
}

/// Writes `Date`, which is put together once a second.
fn write_date(now: Timestamp, out: &mut Vec<u8>) {
    thread_local! {
        static LINE: RefCell<(i64, Vec<u8>)> = const { RefCell::new((i64::MIN, Vec::new())) };
    }
    LINE.with_borrow_mut(|(second, line)| {
        if *second != now.secs() {
            *second = now.secs();
            line.clear();
            let date = HttpDate::from(now.to_system_time()).to_string();
            policy::head::write_field(line, "date", date.as_bytes());
        }
        out.extend_from_slice(line);
    });
}

/// Calls `with` with the name of the host in the field value `text`, which is the same from one
/// request to the next more often than not, and is then not read again.
fn with_host<T>(text: &str, with: impl FnOnce(&str) -> Option<T>) -> Option<T> {
    thread_local! {
        static LAST: RefCell<(String, String)> = RefCell::default();
    }
    LAST.with_borrow_mut(|(last, name)| {
        if *last != text || text.is_empty() {
            let authority = Authority::parse(text).ok()?;
            text.clone_into(last);
            authority.host.as_ref().clone_into(name);
        }
        with(name)
    })
}
