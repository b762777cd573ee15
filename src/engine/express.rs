//! The short way of a hit: a request that asks for an object and for nothing else, answered from
//! memory as bytes that are ready for the socket of an HTTP/1.1 connection, or, where its file is
//! open, as such a head and a body whose file the socket sends. What it says, counts and logs is
//! what `Engine::handle` would; whatever needs more than that is left to it. Holds no lock, never
//! waits.

use super::body::Body;
use super::deliver::{self, cache_status};
use super::tally::{Account, Begun};
use super::target::Path;
use super::{Connection, Engine, InMemory, ObjectWay, Site, local};
use crate::clock::{Moment, Timestamp};
use crate::memory::Hot;
use crate::object::Facts;
use crate::object::tags::TAG_FIELD;
use crate::outcome::Outcome;
use crate::policy;
use crate::policy::request::{OriginUse, ReadMethod};
use crate::rfc::path::PlainPath;
use crate::rfc::{Authority, CdnLoop};
use crate::store::StoredBody;
use crate::telemetry::RequestId;
use http::{HeaderMap, StatusCode, header};
use httpdate::HttpDate;
use std::cell::RefCell;
use std::sync::Arc;

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
#[derive(Debug)]
pub enum Taken<B> {
    /// The whole answer was written, and the request is counted and logged.
    Answered,
    /// The answer's head was written; this is its body, which counts and logs the request.
    Begun(B),
    /// Nothing was done.
    Not,
}

/// What an answer of the short way from memory has beside the fields of its object.
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
    /// nothing more is to be decided; its head alone, if its file is open; does nothing otherwise.
    pub fn express(
        self: &Arc<Self>,
        request: &PlainRequest<'_>,
        connection: &Arc<Connection>,
        out: &mut Vec<u8>,
    ) -> Taken<Body> {
        self.try_express(request, connection, out).unwrap_or(Taken::Not)
    }

    fn try_express(
        self: &Arc<Self>,
        request: &PlainRequest<'_>,
        connection: &Arc<Connection>,
        out: &mut Vec<u8>,
    ) -> Option<Taken<Body>> {
        let moment = self.clock.moment();
        let sites = self.sites.load();
        let site = with_host(request.host, |host| sites.route(Some(host)))?;
        let is_long = request.target.as_str().len() > self.limits.path_bytes_max;
        if site.upstream.site.caching.is_some() || is_long {
            return None;
        }
        let path = Path::plain(request.target);
        let Some((hit, class)) = self.in_memory(site, &path, moment.edge) else {
            return self.express_file(request, connection, (site, path), moment, out);
        };
        if local::may_adapt(class) {
            return None;
        }
        let begun = Begun::of_plain(request, moment.wall, connection, &self.log);
        let request_id = RequestId::draw();
        let said = match &hit {
            InMemory::Object(hot, outcome) => {
                if hot.facts.status != StatusCode::OK || hot.length() > BODY_BYTES_MAX {
                    return None;
                }
                let (status, outcome) = (STATUS_OK, *outcome);
                Said { status, hot, outcome, body: hot.body_bytes(), request_id: None }
            }
            InMemory::Absence(hot) => {
                let (status, outcome) = ("HTTP/1.1 404 Not Found\r\n", Outcome::HitAbsent);
                Said { status, hot, outcome, body: ABSENT, request_id: Some(request_id) }
            }
        };
        let sent = said.write(request.method, moment, out);
        begun.answered(&said.account(sent, request_id), site, class);
        Some(Taken::Answered)
    }

    /// The same for an object whose file is open, on a connection that sends files by itself.
    fn express_file(
        self: &Arc<Self>,
        request: &PlainRequest<'_>,
        connection: &Arc<Connection>,
        (site, path): (&Arc<Site>, Path<'_>),
        moment: Moment,
        out: &mut Vec<u8>,
    ) -> Option<Taken<Body>> {
        connection.spans().filter(|_| request.method == ReadMethod::Get)?;
        let (method, upstream) = (request.method, OriginUse::MayBeAsked);
        let way = ObjectWay { site, passed: CdnLoop::default(), path, method, upstream };
        let (stored, outcome, routed) = self.open_file(&way, moment.edge)?;
        let class = routed.target.class;
        let StoredBody::File(file) = &stored.body else { return None };
        if stored.meta.status != StatusCode::OK || stored.length == 0 || local::may_adapt(class) {
            return None;
        }
        let begun = Begun::of_plain(request, moment.wall, connection, &self.log);
        out.extend_from_slice(STATUS_OK.as_bytes());
        let facts = stored.meta.facts();
        write_objects(&stored.meta.headers, &facts, out);
        write_own(&facts, outcome, moment.edge, out);
        if !stored.meta.headers.contains_key(header::DATE) {
            write_date(moment.wall, out);
        }
        write_end(stored.length, out);
        let account = Account {
            status: StatusCode::OK,
            outcome,
            origin: &stored.meta.origin,
            body_bytes: 0,
            request_id: RequestId::draw(),
        };
        let tally = begun.going(&account, site, class);
        let body = deliver::file(self, connection, routed, &stored, file);
        Some(Taken::Begun(body.tallied(tally)))
    }
}

/// The status line of an object.
const STATUS_OK: &str = "HTTP/1.1 200 OK\r\n";

/// Writes the fields that an answer has from its object, and a `Content-Type` in any case.
fn write_objects(fields: &HeaderMap, facts: &Facts, out: &mut Vec<u8>) {
    for (name, value) in fields {
        if policy::head::is_objects(name) && *name != TAG_FIELD {
            policy::head::write_field(out, name.as_str(), value.as_bytes());
        }
    }
    if !fields.contains_key(header::CONTENT_TYPE) {
        let own = facts.class.content_type();
        policy::head::write_field(out, header::CONTENT_TYPE.as_str(), own.as_bytes());
    }
}

/// Writes the fields that say how an answer came about.
fn write_own(facts: &Facts, outcome: Outcome, now: Timestamp, out: &mut Vec<u8>) {
    let cache_status = cache_status(facts, outcome, now);
    policy::head::write_added(out, facts, now, &cache_status);
}

/// Writes what comes last in a head.
fn write_end(body_bytes: u64, out: &mut Vec<u8>) {
    let mut length = itoa::Buffer::new();
    policy::head::write_field(out, "content-length", length.format(body_bytes).as_bytes());
    out.extend_from_slice(b"\r\n");
}

impl Said<'_> {
    /// Writes the answer at this moment; how many bytes of its body that were.
    fn write(&self, method: ReadMethod, moment: Moment, out: &mut Vec<u8>) -> usize {
        out.extend_from_slice(self.status.as_bytes());
        out.extend_from_slice(self.hot.lines());
        write_own(&self.hot.facts, self.outcome, moment.edge, out);
        if let Some(id) = self.request_id {
            let value = id.to_header_value();
            policy::head::write_field(out, "x-request-id", value.as_bytes());
        }
        if !self.hot.has_date() {
            write_date(moment.wall, out);
        }
        write_end(self.body.len() as u64, out);
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
