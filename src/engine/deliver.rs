//! Answers made of objects: conditions, ranges, and the fields that say how they came about.

use super::answer::{self, Answer};
use super::body::{Body, Source as BodySource};
use super::connection::Connection;
use super::rescue::{Lost, Rescue};
use super::tail::Tail;
use super::{Engine, Routed};
use crate::cache::{Cache, CachedObject, Hit};
use crate::clock::Timestamp;
use crate::fill::{Flight, FlightReader, PartReader, Passing, Role};
use crate::memory::Hot;
use crate::object::tags::TAG_FIELD;
use crate::object::{Facts, Lifetime, Meta};
use crate::outcome::Outcome;
use crate::policy;
use crate::policy::Selection;
use crate::policy::head::AnswerSource;
use crate::policy::request::ReadMethod;
use crate::rfc::ContentRange;
use crate::rfc::cache_status::{CacheStatus, ForwardReason};
use crate::store::{BodyFile, Growing, Stored, StoredBody};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use std::borrow::Cow;
use std::sync::Arc;

/// A request, as far as delivery needs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) method: ReadMethod,
    pub(super) headers: &'a HeaderMap,
    pub(super) connection: &'a Arc<Connection>,
    pub(super) engine: &'a Arc<Engine>,
    pub(super) routed: &'a Routed,
    pub(super) now: Timestamp,
}

/// A body that can be had, and where it comes from.
enum Content<'a> {
    Stored(&'a Stored),
    Growing(Growing, &'a FlightReader),
    Passing(Box<Passing>),
    Part(Box<PartReader>),
    /// For HEAD, where there is no body to read.
    Nothing,
}

/// How an answer came about.
#[derive(Debug, Clone, Copy)]
pub(super) struct How<'a> {
    pub(super) outcome: Outcome,
    /// `Cache-Status` of the caches on the way to the origin, where one was asked for this.
    pub(super) upstream_status: &'a [HeaderValue],
}

impl From<Outcome> for How<'_> {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, upstream_status: &[] }
    }
}

/// Delivers a whole object.
pub(super) fn found(asked: &Asked<'_>, found: &CachedObject, how: How<'_>) -> Answer {
    match found {
        CachedObject::Hot(hot) => {
            let length = Some(hot.length());
            let stored = || Cow::Owned(hot.headers());
            let selection = policy::selection::select(asked.method, asked.headers, stored, length);
            let headers = hot_head(HeaderMap::new(), hot, asked.now, how);
            let mut answer = hot_answer(asked.method, selection, headers, hot, how.outcome);
            answer.origin = Some(Arc::clone(&hot.origin));
            answer
        }
        CachedObject::Stored(stored) => {
            object(asked, &stored.meta, Some(stored.length), Content::Stored(stored), how)
        }
    }
}

/// Delivers a stored object; the request's fields are `headers`, whose place the answer's take.
pub(super) fn stored(
    asked: &Asked<'_>,
    headers: HeaderMap,
    stored: &Stored,
    outcome: Outcome,
) -> Answer {
    let (meta, length) = (&stored.meta, Some(stored.length));
    let fields = || Cow::Borrowed(&meta.headers);
    let selection = policy::selection::select(asked.method, &headers, fields, length);
    let headers = head_of(headers, fields_of(meta), &meta.facts(), asked.now, outcome.into());
    let (method, status) = (asked.method, meta.status);
    let selected = Selected { method, selection, status, length, outcome };
    selected.of_object(asked, headers, meta, Content::Stored(stored))
}

/// Delivers an object that is still arriving. Where a range is asked of a body whose length is
/// not known yet, its end is waited for: a 200 to a range request is an error to the Nix client.
pub(super) async fn streaming(
    asked: &Asked<'_>,
    cache: &Cache,
    meta: &Arc<Meta>,
    growing: Growing,
    flight: &FlightReader,
    outcome: Outcome,
) -> Answer {
    let how = How { outcome, upstream_status: flight.upstream_status() };
    let mut length = growing.length();
    if length.is_none() && asked.headers.contains_key(header::RANGE) {
        length = proven_length(&growing).await;
        if length.is_none() {
            flight.ended().await;
            return match cache.lookup(&meta.key).await {
                Some(Hit::Memory(whole) | Hit::Disk(whole)) => found(asked, &whole, how),
                Some(Hit::Absent(_)) | None => {
                    answer::unusable("a body without a length ended before a range could be told")
                }
            };
        }
    }
    object(asked, meta, length, Content::Growing(growing, flight), how)
}

/// Waits for the end of an object: its length, if all of it can be read, whether or not it is
/// stored.
async fn proven_length(growing: &Growing) -> Option<u64> {
    // There is nothing to read behind the end, which is seen once the object is proven.
    growing.read(u64::MAX, 1).await.ok()?;
    (!growing.is_memory_only()).then(|| growing.visible())
}

/// Delivers a body that is not kept.
pub(super) fn passing(
    asked: &Asked<'_>,
    passing: Passing,
    (role, flight): (Role, &Flight),
) -> Answer {
    let outcome = match role {
        Role::Follow if passing.is_shared() => Outcome::Collapsed,
        Role::Lead | Role::Follow => Outcome::Pass,
    };
    let how = How { outcome, upstream_status: flight.upstream_status() };
    let meta = Arc::clone(&passing.meta);
    let length = passing.length();
    object(asked, &meta, length, Content::Passing(Box::new(passing)), how)
}

/// Delivers a stretch of an object of `length` bytes that is here in part.
pub(super) fn part(
    asked: &Asked<'_>,
    meta: &Meta,
    length: u64,
    reader: PartReader,
    how: How<'_>,
) -> Answer {
    object(asked, meta, Some(length), Content::Part(Box::new(reader)), how)
}

/// Delivers what a request with conditions or ranges comes to that get no byte of an object.
pub(super) fn without_body(asked: &Asked<'_>, meta: &Meta, length: u64, how: How<'_>) -> Answer {
    object(asked, meta, Some(length), Content::Nothing, how)
}

/// Delivers an object that is in memory; says no origin. `headers` are the request's; the answer's
/// take their place.
pub(super) fn hot(
    method: ReadMethod,
    headers: HeaderMap,
    now: Timestamp,
    hot: &Hot,
    outcome: Outcome,
) -> Answer {
    let stored = || Cow::Owned(hot.headers());
    let selection = policy::selection::select(method, &headers, stored, Some(hot.length()));
    let headers = hot_head(headers, hot, now, outcome.into());
    hot_answer(method, selection, headers, hot, outcome)
}

/// The fields of an answer made of an object in memory, in place of those in `head`.
fn hot_head(head: HeaderMap, hot: &Hot, now: Timestamp, how: How<'_>) -> HeaderMap {
    head_of(head, hot.fields(), &hot.facts, now, how)
}

fn hot_answer(
    method: ReadMethod,
    selection: Selection,
    headers: HeaderMap,
    hot: &Hot,
    outcome: Outcome,
) -> Answer {
    let length = Some(hot.length());
    let selected = Selected { method, selection, status: hot.facts.status, length, outcome };
    selected.answer(headers, |first, sent| Body::whole(slice(&hot.body(), first, sent)))
}

/// Says that there is no such object.
pub(super) fn absent(asked: &Asked<'_>, meta: &Meta, how: How<'_>) -> Answer {
    let head = head_of(HeaderMap::new(), fields_of(meta), &meta.facts(), asked.now, how);
    let mut answer = absence(head, how.outcome);
    answer.origin = Some(Arc::clone(&meta.origin));
    answer
}

/// Says that there was no such object when it was last asked for; says no origin. The answer's
/// fields take the place of `headers`, whatever those are.
pub(super) fn hot_absence(
    headers: HeaderMap,
    now: Timestamp,
    hot: &Hot,
    outcome: Outcome,
) -> Answer {
    absence(hot_head(headers, hot, now, outcome.into()), outcome)
}

fn absence(mut headers: HeaderMap, outcome: Outcome) -> Answer {
    const TEXT: &str = "404";
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("3"));
    let body = Body::whole(Bytes::from_static(TEXT.as_bytes()));
    let mut answer = Answer::new(StatusCode::NOT_FOUND, headers, body, outcome);
    answer.name_request();
    answer
}

/// Answers HEAD from what an origin said to HEAD.
pub(super) fn head(asked: &Asked<'_>, meta: &Meta, length: Option<u64>) -> Answer {
    object(asked, meta, length, Content::Nothing, Outcome::Pass.into())
}

fn object(
    asked: &Asked<'_>,
    meta: &Meta,
    length: Option<u64>,
    content: Content<'_>,
    how: How<'_>,
) -> Answer {
    let headers = head_of(HeaderMap::new(), fields_of(meta), &meta.facts(), asked.now, how);
    let (method, status, outcome) = (asked.method, meta.status, how.outcome);
    let stored = || Cow::Borrowed(&meta.headers);
    let selection = policy::selection::select(method, asked.headers, stored, length);
    let selected = Selected { method, selection, status, length, outcome };
    selected.of_object(asked, headers, meta, content)
}

/// What a request gets of an object of `length` bytes.
struct Selected {
    method: ReadMethod,
    selection: Selection,
    status: StatusCode,
    length: Option<u64>,
    outcome: Outcome,
}

impl Selected {
    /// The answer with so much of `content`, and where that came from.
    fn of_object(
        &self,
        asked: &Asked<'_>,
        headers: HeaderMap,
        meta: &Meta,
        content: Content<'_>,
    ) -> Answer {
        let mut answer = self.answer(headers, |first, sent| body(asked, content, first, sent));
        answer.origin = Some(Arc::clone(&meta.origin));
        answer
    }

    /// The answer; `body` gives that many bytes from an offset on.
    fn answer(
        &self,
        mut headers: HeaderMap,
        body: impl FnOnce(u64, Option<u64>) -> Body,
    ) -> Answer {
        let (status, first, sent) = match self.selection {
            Selection::Whole => (self.status, 0, self.length),
            Selection::Part(span) => {
                let content_range = ContentRange::Part { span, length: self.length };
                headers.insert(header::CONTENT_RANGE, content_range.to_header_value());
                (StatusCode::PARTIAL_CONTENT, span.first, Some(span.length()))
            }
            Selection::NotModified => {
                policy::head::trim_for_not_modified(&mut headers);
                return self.made_of(StatusCode::NOT_MODIFIED, headers, Body::empty());
            }
            Selection::PreconditionFailed => {
                policy::head::trim_for_not_modified(&mut headers);
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
                return self.made_of(StatusCode::PRECONDITION_FAILED, headers, Body::empty());
            }
            Selection::Unsatisfiable { length } => {
                policy::head::trim_for_not_modified(&mut headers);
                let content_range = ContentRange::Unsatisfied { length };
                headers.insert(header::CONTENT_RANGE, content_range.to_header_value());
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
                return self.made_of(StatusCode::RANGE_NOT_SATISFIABLE, headers, Body::empty());
            }
        };
        let body = match (self.method, sent) {
            // The connection states the length of a body by itself, and cheaper.
            (ReadMethod::Get, None | Some(1..)) => body(first, sent),
            (ReadMethod::Get | ReadMethod::Head, Some(sent)) => {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(sent));
                Body::empty()
            }
            (ReadMethod::Head, None) => Body::empty(),
        };
        self.made_of(status, headers, body)
    }

    fn made_of(&self, status: StatusCode, headers: HeaderMap, body: Body) -> Answer {
        Answer::new(status, headers, body, self.outcome)
    }
}

/// The fields that say what is sent and how it came about, in place of those in `head`.
fn head_of<'a>(
    head: HeaderMap,
    fields: impl Iterator<Item = (&'a HeaderName, HeaderValue)>,
    facts: &Facts,
    now: Timestamp,
    how: How<'_>,
) -> HeaderMap {
    let source = if how.outcome.is_hit() { AnswerSource::Stored } else { AnswerSource::Fetched };
    let own = cache_status(facts, how.outcome, now);
    // The caches on the way speak first, the one nearest to the client last (RFC 9211 section 2).
    let status = own.to_header_value_after(how.upstream_status);
    policy::head::client_head(head, fields, facts, now, source, status)
}

fn fields_of(meta: &Meta) -> impl Iterator<Item = (&HeaderName, HeaderValue)> {
    let sent = meta.headers.iter().filter(|(name, _)| **name != TAG_FIELD);
    sent.map(|(name, value)| (name, value.clone()))
}

fn body(asked: &Asked<'_>, content: Content<'_>, first: u64, sent: Option<u64>) -> Body {
    let source = match content {
        Content::Nothing => return Body::empty(),
        Content::Stored(stored) => match &stored.body {
            StoredBody::Bytes(bytes) => return Body::whole(slice(bytes, first, sent)),
            StoredBody::File(file) => {
                stored_file(asked.engine, asked.routed.clone(), stored, file, first)
            }
        },
        Content::Growing(growing, flight) => {
            BodySource::Growing(flight.follow(growing, first), first)
        }
        Content::Passing(passing) => BodySource::Passing(passing, first),
        Content::Part(reader) => BodySource::Part(reader),
    };
    Body::from_source(source, sent, Arc::clone(asked.connection))
}

/// The whole of an object whose file is open.
pub(super) fn file(
    engine: &Arc<Engine>,
    connection: &Arc<Connection>,
    routed: Routed,
    stored: &Stored,
    file: &Arc<BodyFile>,
) -> Body {
    let source = stored_file(engine, routed, stored, file, 0);
    Body::from_source(source, Some(stored.length), Arc::clone(connection))
}

/// A stored file from `first` on, and what goes on where it fails.
fn stored_file(
    engine: &Arc<Engine>,
    routed: Routed,
    stored: &Stored,
    file: &Arc<BodyFile>,
    first: u64,
) -> BodySource {
    let rescue = Rescue::of(engine, Lost::Object(routed), stored);
    BodySource::Stored(Tail::new(Arc::clone(file), Some(rescue)), first)
}

/// The bytes of a body from `first` on, `sent` of them.
pub(super) fn slice(bytes: &Bytes, first: u64, sent: Option<u64>) -> Bytes {
    let length = bytes.len();
    let first = usize::try_from(first).unwrap_or(length).min(length);
    let sent = sent.and_then(|sent| usize::try_from(sent).ok()).unwrap_or(length);
    bytes.slice(first..first.saturating_add(sent).min(length))
}

/// What `Cache-Status` says of a response that came about in this way.
pub(super) fn cache_status(
    facts: &Facts,
    outcome: Outcome,
    now: Timestamp,
) -> CacheStatus<'static> {
    let ttl = match facts.lifetime {
        Lifetime::Seconds(lifetime) => {
            let age = i64::try_from(facts.age_at(now)).unwrap_or(i64::MAX);
            Some(i64::from(lifetime).saturating_sub(age))
        }
        Lifetime::Forever => None,
    };
    let status = match outcome {
        Outcome::HitMemory | Outcome::HitDisk | Outcome::HitStale | Outcome::HitAbsent => {
            CacheStatus::hit()
        }
        Outcome::Revalidated => CacheStatus::forwarded(ForwardReason::Stale)
            .with_forward_status(StatusCode::NOT_MODIFIED)
            .stored(),
        Outcome::Miss => CacheStatus::forwarded(ForwardReason::UriMiss)
            .with_forward_status(facts.status)
            .stored(),
        Outcome::Collapsed => CacheStatus::forwarded(ForwardReason::UriMiss).collapsed(),
        Outcome::Pass | Outcome::Absent => {
            CacheStatus::forwarded(ForwardReason::UriMiss).with_forward_status(facts.status)
        }
        Outcome::AbsentFilter
        | Outcome::Local
        | Outcome::Refused
        | Outcome::Shed
        | Outcome::OriginFailed
        | Outcome::Fault => CacheStatus::own(),
    };
    let status = status.with_detail(outcome.as_str());
    ttl.map_or(status, |seconds| status.with_ttl(seconds))
}
