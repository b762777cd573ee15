//! The fast path of a hit: answers a request that asks for an object and nothing else. From memory
//! it writes the bytes that an HTTP/1.1 socket sends. If the file of the object is open, it writes
//! the head and returns a body that the socket sends with sendfile. Answers, counts and logs are
//! those of `Engine::handle`, which gets every other request. Holds no lock, never waits.

use super::body::AnswerBody;
use super::connection::ClientConnection;
use super::deliver::{self, cache_status};
use super::lookup::{self, MemoryHit, ObjectRoute};
use super::request_record::{AnswerSummary, PendingRecord};
use super::simple_request::{FastAnswer, SimpleRequest};
use super::site::ServedSite;
use super::site_pages;
use super::state::Engine;
use super::target::Path;
use crate::clock::{Moment, Timestamp};
use crate::memory::Hot;
use crate::object::Facts;
use crate::object::tags::TAG_FIELD;
use crate::outcome::Outcome;
use crate::policy;
use crate::policy::request::{OriginUse, ReadMethod};
use crate::rfc::{Authority, CdnLoop};
use crate::store::StoredBody;
use crate::telemetry::RequestId;
use http::{HeaderMap, StatusCode, header};
use httpdate::HttpDate;
use std::cell::RefCell;
use std::sync::Arc;

/// Bytes of the largest body that is copied from memory.
const BODY_BYTES_MAX: u64 = 16 * 1024;
/// The body of an absence.
const ABSENT: &[u8] = b"404";

/// An answer from memory, except for the fields of its object.
struct MemoryAnswer<'a> {
    status: &'static str,
    hot: &'a Hot,
    outcome: Outcome,
    body: &'a [u8],
    /// The id of the request, if the answer states it.
    request_id: Option<RequestId>,
}

impl Engine {
    /// Writes the whole answer to `request` behind `out`, counts and logs it, if memory has it and
    /// nothing more is to be decided. If only its file is open, writes the head and returns the
    /// body. Does nothing otherwise.
    pub fn fast_path(
        self: &Arc<Self>,
        request: &SimpleRequest<'_>,
        connection: &Arc<ClientConnection>,
        out: &mut Vec<u8>,
    ) -> FastAnswer<AnswerBody> {
        self.try_fast_path(request, connection, out).unwrap_or(FastAnswer::NotTaken)
    }

    fn try_fast_path(
        self: &Arc<Self>,
        request: &SimpleRequest<'_>,
        connection: &Arc<ClientConnection>,
        out: &mut Vec<u8>,
    ) -> Option<FastAnswer<AnswerBody>> {
        let moment = self.clock.moment();
        let sites = self.sites.load();
        let site = with_host(request.host, |host| sites.route(Some(host)))?;
        let is_long = request.target.as_str().len() > self.limits.path_bytes_max;
        if site.upstream.site.caching.is_some() || is_long {
            return None;
        }
        let path = Path::plain(request.target, &site.upstream.site.base_path)?;
        let Some((hit, class)) = lookup::in_memory(&self.cache, site, &path, moment.edge) else {
            return self.fast_path_file(request, connection, site, path, moment, out);
        };
        if site_pages::may_adapt(class) {
            return None;
        }
        let record = PendingRecord::of_simple(request, moment.wall, connection, &self.log);
        let request_id = RequestId::draw();
        let answer = match &hit {
            MemoryHit::Object(hot, outcome) => {
                if hot.facts.status != StatusCode::OK || hot.length() > BODY_BYTES_MAX {
                    return None;
                }
                let (status, outcome) = (STATUS_OK, *outcome);
                MemoryAnswer { status, hot, outcome, body: hot.body_bytes(), request_id: None }
            }
            MemoryHit::Absence(hot) => {
                let (status, outcome) = ("HTTP/1.1 404 Not Found\r\n", Outcome::HitAbsent);
                MemoryAnswer { status, hot, outcome, body: ABSENT, request_id: Some(request_id) }
            }
        };
        let sent = answer.write(request.method, moment, out);
        record.answered(&answer.summary(sent, request_id), site, class);
        Some(FastAnswer::Complete)
    }

    /// The same for an object with an open file, on a connection that sends files.
    fn fast_path_file(
        self: &Arc<Self>,
        request: &SimpleRequest<'_>,
        connection: &Arc<ClientConnection>,
        site: &Arc<ServedSite>,
        path: Path<'_>,
        moment: Moment,
        out: &mut Vec<u8>,
    ) -> Option<FastAnswer<AnswerBody>> {
        connection.sendfile_queue().filter(|_| request.method == ReadMethod::Get)?;
        let (method, upstream) = (request.method, OriginUse::MayBeAsked);
        let route = ObjectRoute { site, passed: CdnLoop::default(), path, method, upstream };
        let (stored, outcome, routed) = lookup::open_file(&self.cache, &route, moment.edge)?;
        let class = routed.target.class;
        let StoredBody::File(file) = &stored.body else { return None };
        if stored.meta.status != StatusCode::OK
            || stored.length == 0
            || site_pages::may_adapt(class)
        {
            return None;
        }
        let record = PendingRecord::of_simple(request, moment.wall, connection, &self.log);
        out.extend_from_slice(STATUS_OK.as_bytes());
        let facts = stored.meta.facts();
        write_objects(&stored.meta.headers, &facts, out);
        write_own(&facts, outcome, moment.edge, out);
        if !stored.meta.headers.contains_key(header::DATE) {
            write_date(moment.wall, out);
        }
        write_end(stored.length, out);
        let summary = AnswerSummary {
            status: StatusCode::OK,
            outcome,
            origin: Some(&stored.meta.origin),
            body_bytes: 0,
            request_id: RequestId::draw(),
        };
        let record = record.with_body(&summary, Some((site, class)));
        let body = deliver::file(self, connection, routed, &stored, file);
        Some(FastAnswer::HeadWritten(body.with_record(record)))
    }
}

/// The status line of an object.
const STATUS_OK: &str = "HTTP/1.1 200 OK\r\n";

/// Writes the fields of the object. There is always a `Content-Type`.
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

/// Writes the last field and the end of a head.
fn write_end(body_bytes: u64, out: &mut Vec<u8>) {
    let mut length = itoa::Buffer::new();
    policy::head::write_field(out, "content-length", length.format(body_bytes).as_bytes());
    out.extend_from_slice(b"\r\n");
}

impl MemoryAnswer<'_> {
    /// Writes the answer at this moment. Returns how many bytes of its body were written.
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

    fn summary(&self, body_bytes: usize, request_id: RequestId) -> AnswerSummary<'_> {
        let status = match self.request_id {
            None => StatusCode::OK,
            Some(_) => StatusCode::NOT_FOUND,
        };
        AnswerSummary {
            status,
            outcome: self.outcome,
            origin: Some(&self.hot.origin),
            body_bytes,
            request_id,
        }
    }
}

/// Writes `Date`, which is formatted once a second.
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

/// Calls `with` with the host name in the field value `text`. Most requests of a thread repeat the
/// last value, which is then not parsed again.
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
