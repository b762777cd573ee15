//! Makes objects into answers: conditions, ranges, and the fields that say how the answer came
//! about.

use super::answer::{self, ClientAnswer};
use super::body::{AnswerBody, BodyContent};
use super::body_source::BodySource;
use super::connection::ClientConnection;
use super::file_fallback::{FallbackRequest, FileFallback};
use super::file_source::FileSource;
use super::state::Engine;
use super::target::RoutedRequest;
use crate::cache::{Cache, CachedObject, Hit};
use crate::clock::Timestamp;
use crate::fill::{FillRole, Flight, FlightReader, PartReader, PassThroughBody};
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

/// What delivery needs to know of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct ReadRequest<'a> {
    pub(super) method: ReadMethod,
    pub(super) headers: &'a HeaderMap,
    pub(super) connection: &'a Arc<ClientConnection>,
    pub(super) engine: &'a Arc<Engine>,
    pub(super) routed: &'a RoutedRequest,
    pub(super) now: Timestamp,
}

/// The source of a body.
enum ObjectContent<'a> {
    Stored(&'a Stored),
    Growing(Growing, &'a FlightReader),
    Passing(Box<PassThroughBody>),
    Part(Box<PartReader>),
    /// No body, for HEAD.
    Nothing,
}

/// Provenance an answer came about.
#[derive(Debug, Clone, Copy)]
pub(super) struct OutcomeDetails<'a> {
    pub(super) outcome: Outcome,
    /// `Cache-Status` of the caches on the way to the origin, if an origin was asked.
    pub(super) upstream_status: &'a [HeaderValue],
}

impl From<Outcome> for OutcomeDetails<'_> {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, upstream_status: &[] }
    }
}

/// Delivers a whole object.
pub(super) fn found(
    request: &ReadRequest<'_>,
    found: &CachedObject,
    details: OutcomeDetails<'_>,
) -> ClientAnswer {
    match found {
        CachedObject::Hot(hot) => {
            let length = Some(hot.length());
            let stored = || Cow::Owned(hot.headers());
            let selection =
                policy::selection::select(request.method, request.headers, stored, length);
            let headers = hot_head(HeaderMap::new(), hot, request.now, details);
            let mut answer = hot_answer(request.method, selection, headers, hot, details.outcome);
            answer.origin = Some(Arc::clone(&hot.origin));
            answer
        }
        CachedObject::Stored(stored) => object(
            request,
            &stored.meta,
            Some(stored.length),
            ObjectContent::Stored(stored),
            details,
        ),
    }
}

/// Delivers a stored object. The fields of the answer replace those of the request, `headers`, to
/// reuse their allocation.
pub(super) fn stored(
    request: &ReadRequest<'_>,
    headers: HeaderMap,
    stored: &Stored,
    outcome: Outcome,
) -> ClientAnswer {
    let (meta, length) = (&stored.meta, Some(stored.length));
    let fields = || Cow::Borrowed(&meta.headers);
    let selection = policy::selection::select(request.method, &headers, fields, length);
    let headers = head_of(headers, fields_of(meta), &meta.facts(), request.now, outcome.into());
    let (method, status) = (request.method, meta.status);
    let selected = ObjectSelection { method, selection, status, length, outcome };
    selected.of_object(request, headers, meta, ObjectContent::Stored(stored))
}

/// Delivers an object that is still arriving. A range of a body of unknown length waits for the end
/// of the body, since the Nix client takes a 200 to a range request for an error.
pub(super) async fn streaming(
    request: &ReadRequest<'_>,
    cache: &Cache,
    meta: &Arc<Meta>,
    growing: Growing,
    flight: &FlightReader,
    outcome: Outcome,
) -> ClientAnswer {
    let details = OutcomeDetails { outcome, upstream_status: flight.upstream_status() };
    let mut length = growing.length();
    if length.is_none() && request.headers.contains_key(header::RANGE) {
        length = proven_length(&growing).await;
        if length.is_none() {
            flight.ended().await;
            return match cache.lookup(&meta.key).await {
                Some(Hit::Memory(whole) | Hit::Disk(whole)) => found(request, &whole, details),
                Some(Hit::Absent(_)) | None => {
                    answer::unusable("a body without a length ended before a range could be told")
                }
            };
        }
    }
    object(request, meta, length, ObjectContent::Growing(growing, flight), details)
}

/// Waits for the end of an object. Returns its length if all of it can be read, stored or not.
async fn proven_length(growing: &Growing) -> Option<u64> {
    // Nothing is behind the end; the read returns after the object is proven.
    growing.read(u64::MAX, 1).await.ok()?;
    (!growing.is_memory_only()).then(|| growing.visible())
}

/// Delivers a body that is not stored.
pub(super) fn passing(
    request: &ReadRequest<'_>,
    passing: PassThroughBody,
    role: FillRole,
    flight: &Flight,
) -> ClientAnswer {
    let outcome = match role {
        FillRole::Follow if passing.is_shared() => Outcome::Collapsed,
        FillRole::Lead | FillRole::Follow => Outcome::Pass,
    };
    let details = OutcomeDetails { outcome, upstream_status: flight.upstream_status() };
    let meta = Arc::clone(&passing.meta);
    let length = passing.length();
    object(request, &meta, length, ObjectContent::Passing(Box::new(passing)), details)
}

/// Delivers a range of an object of `length` bytes that is stored in part.
pub(super) fn part(
    request: &ReadRequest<'_>,
    meta: &Meta,
    length: u64,
    reader: PartReader,
    details: OutcomeDetails<'_>,
) -> ClientAnswer {
    object(request, meta, Some(length), ObjectContent::Part(Box::new(reader)), details)
}

/// Delivers the answer to a request with conditions or ranges that gets no byte of the object.
pub(super) fn without_body(
    request: &ReadRequest<'_>,
    meta: &Meta,
    length: u64,
    details: OutcomeDetails<'_>,
) -> ClientAnswer {
    object(request, meta, Some(length), ObjectContent::Nothing, details)
}

/// Delivers an object from memory; states no origin. The fields of the answer replace those of the
/// request, `headers`.
pub(super) fn hot(
    method: ReadMethod,
    headers: HeaderMap,
    now: Timestamp,
    hot: &Hot,
    outcome: Outcome,
) -> ClientAnswer {
    let stored = || Cow::Owned(hot.headers());
    let selection = policy::selection::select(method, &headers, stored, Some(hot.length()));
    let headers = hot_head(headers, hot, now, outcome.into());
    hot_answer(method, selection, headers, hot, outcome)
}

/// The fields of an answer from memory, in place of those in `head`.
fn hot_head(head: HeaderMap, hot: &Hot, now: Timestamp, details: OutcomeDetails<'_>) -> HeaderMap {
    head_of(head, hot.fields(), &hot.facts, now, details)
}

fn hot_answer(
    method: ReadMethod,
    selection: Selection,
    headers: HeaderMap,
    hot: &Hot,
    outcome: Outcome,
) -> ClientAnswer {
    let length = Some(hot.length());
    let selected = ObjectSelection { method, selection, status: hot.facts.status, length, outcome };
    selected.answer(headers, |first, sent| AnswerBody::whole(slice(&hot.body(), first, sent)))
}

/// The answer that the object does not exist.
pub(super) fn absent(
    request: &ReadRequest<'_>,
    meta: &Meta,
    details: OutcomeDetails<'_>,
) -> ClientAnswer {
    let head = head_of(HeaderMap::new(), fields_of(meta), &meta.facts(), request.now, details);
    let mut answer = absence(head, details.outcome);
    answer.origin = Some(Arc::clone(&meta.origin));
    answer
}

/// The answer from a remembered absence; states no origin. Its fields replace `headers`.
pub(super) fn hot_absence(
    headers: HeaderMap,
    now: Timestamp,
    hot: &Hot,
    outcome: Outcome,
) -> ClientAnswer {
    absence(hot_head(headers, hot, now, outcome.into()), outcome)
}

fn absence(mut headers: HeaderMap, outcome: Outcome) -> ClientAnswer {
    const TEXT: &str = "404";
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("3"));
    let body = AnswerBody::whole(Bytes::from_static(TEXT.as_bytes()));
    let mut answer = ClientAnswer::new(StatusCode::NOT_FOUND, headers, body, outcome);
    answer.name_request();
    answer
}

/// Answers HEAD from the answer of an origin to HEAD.
pub(super) fn head(request: &ReadRequest<'_>, meta: &Meta, length: Option<u64>) -> ClientAnswer {
    object(request, meta, length, ObjectContent::Nothing, Outcome::Pass.into())
}

fn object(
    request: &ReadRequest<'_>,
    meta: &Meta,
    length: Option<u64>,
    content: ObjectContent<'_>,
    details: OutcomeDetails<'_>,
) -> ClientAnswer {
    let headers = head_of(HeaderMap::new(), fields_of(meta), &meta.facts(), request.now, details);
    let (method, status, outcome) = (request.method, meta.status, details.outcome);
    let stored = || Cow::Borrowed(&meta.headers);
    let selection = policy::selection::select(method, request.headers, stored, length);
    let selected = ObjectSelection { method, selection, status, length, outcome };
    selected.of_object(request, headers, meta, content)
}

/// The part of an object of `length` bytes that a request gets.
struct ObjectSelection {
    method: ReadMethod,
    selection: Selection,
    status: StatusCode,
    length: Option<u64>,
    outcome: Outcome,
}

impl ObjectSelection {
    /// The answer with this part of `content`, and its origin.
    fn of_object(
        &self,
        request: &ReadRequest<'_>,
        headers: HeaderMap,
        meta: &Meta,
        content: ObjectContent<'_>,
    ) -> ClientAnswer {
        let mut answer = self.answer(headers, |first, sent| body(request, content, first, sent));
        answer.origin = Some(Arc::clone(&meta.origin));
        answer
    }

    /// The answer. `body` makes the body from an offset and a number of bytes.
    fn answer(
        &self,
        mut headers: HeaderMap,
        body: impl FnOnce(u64, Option<u64>) -> AnswerBody,
    ) -> ClientAnswer {
        let (status, first, sent) = match self.selection {
            Selection::Whole => (self.status, 0, self.length),
            Selection::Part(span) => {
                let content_range = ContentRange::Part { span, length: self.length };
                headers.insert(header::CONTENT_RANGE, content_range.to_header_value());
                (StatusCode::PARTIAL_CONTENT, span.first, Some(span.length()))
            }
            Selection::NotModified => {
                policy::head::trim_for_not_modified(&mut headers);
                return self.made_of(StatusCode::NOT_MODIFIED, headers, AnswerBody::empty());
            }
            Selection::PreconditionFailed => {
                policy::head::trim_for_not_modified(&mut headers);
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
                return self.made_of(StatusCode::PRECONDITION_FAILED, headers, AnswerBody::empty());
            }
            Selection::Unsatisfiable { length } => {
                policy::head::trim_for_not_modified(&mut headers);
                let content_range = ContentRange::Unsatisfied { length };
                headers.insert(header::CONTENT_RANGE, content_range.to_header_value());
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
                return self.made_of(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    headers,
                    AnswerBody::empty(),
                );
            }
        };
        let body = match (self.method, sent) {
            // The connection adds the length of a body, which costs less.
            (ReadMethod::Get, None | Some(1..)) => body(first, sent),
            (ReadMethod::Get | ReadMethod::Head, Some(sent)) => {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(sent));
                AnswerBody::empty()
            }
            (ReadMethod::Head, None) => AnswerBody::empty(),
        };
        self.made_of(status, headers, body)
    }

    fn made_of(&self, status: StatusCode, headers: HeaderMap, body: AnswerBody) -> ClientAnswer {
        ClientAnswer::new(status, headers, body, self.outcome)
    }
}

/// The fields of an answer, in place of those in `head`.
fn head_of<'a>(
    head: HeaderMap,
    fields: impl Iterator<Item = (&'a HeaderName, HeaderValue)>,
    facts: &Facts,
    now: Timestamp,
    details: OutcomeDetails<'_>,
) -> HeaderMap {
    let source =
        if details.outcome.is_hit() { AnswerSource::Stored } else { AnswerSource::Fetched };
    let own = cache_status(facts, details.outcome, now);
    // The caches on the way come first, the one nearest to the client last (RFC 9211 section 2).
    let status = own.to_header_value_after(details.upstream_status);
    policy::head::client_head(head, fields, facts, now, source, status)
}

fn fields_of(meta: &Meta) -> impl Iterator<Item = (&HeaderName, HeaderValue)> {
    let sent = meta.headers.iter().filter(|(name, _)| **name != TAG_FIELD);
    sent.map(|(name, value)| (name, value.clone()))
}

fn body(
    request: &ReadRequest<'_>,
    content: ObjectContent<'_>,
    first: u64,
    sent: Option<u64>,
) -> AnswerBody {
    let content = match content {
        ObjectContent::Nothing => return AnswerBody::empty(),
        ObjectContent::Stored(stored) => match &stored.body {
            StoredBody::Bytes(bytes) => return AnswerBody::whole(slice(bytes, first, sent)),
            StoredBody::File(file) => {
                stored_file(request.engine, request.routed.clone(), stored, file, first, sent)
            }
        },
        ObjectContent::Growing(growing, flight) => {
            BodySource::Growing(flight.follow(growing, first, sent), first).into()
        }
        ObjectContent::Passing(passing) => {
            BodySource::Passing(Box::new(passing.for_range(first, sent)), first).into()
        }
        ObjectContent::Part(reader) => BodySource::Part(reader).into(),
    };
    AnswerBody::from_content(content, sent, Arc::clone(request.connection))
}

/// The whole of an object with an open file.
pub(super) fn file(
    engine: &Arc<Engine>,
    connection: &Arc<ClientConnection>,
    routed: RoutedRequest,
    stored: &Stored,
    file: &Arc<BodyFile>,
) -> AnswerBody {
    let content = stored_file(engine, routed, stored, file, 0, None);
    AnswerBody::from_content(content, Some(stored.length), Arc::clone(connection))
}

/// `sent` bytes of a stored file from `first` on, with its fallback.
fn stored_file(
    engine: &Arc<Engine>,
    routed: RoutedRequest,
    stored: &Stored,
    file: &Arc<BodyFile>,
    first: u64,
    sent: Option<u64>,
) -> BodyContent {
    let end = sent.map(|sent| first.saturating_add(sent));
    let file_fallback = FileFallback::of(engine, FallbackRequest::Object(routed), stored, end);
    BodyContent::Stored(FileSource::new(Arc::clone(file), Some(file_fallback)), first)
}

/// The bytes of a body from `first` on, `sent` of them.
pub(super) fn slice(bytes: &Bytes, first: u64, sent: Option<u64>) -> Bytes {
    let length = bytes.len();
    let first = usize::try_from(first).unwrap_or(length).min(length);
    let sent = sent.and_then(|sent| usize::try_from(sent).ok()).unwrap_or(length);
    bytes.slice(first..first.saturating_add(sent).min(length))
}

/// `Cache-Status` of an answer with this outcome.
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
        | Outcome::AbsentOptional
        | Outcome::Fault => CacheStatus::own(),
    };
    let status = status.with_detail(outcome.as_str());
    ttl.map_or(status, |seconds| status.with_ttl(seconds))
}
