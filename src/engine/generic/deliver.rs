//! Makes responses of generic sites into answers: which part of a response a request gets, and the
//! fields that say how the answer came about. Pure, except for the bodies.

use super::request::GenericRequest;
use crate::cache::CachedObject;
use crate::engine::answer::ClientAnswer;
use crate::engine::body::{AnswerBody, BodyContent};
use crate::engine::body_source::BodySource;
use crate::engine::deliver::{cache_status, slice};
use crate::engine::file_source::FileSource;
use crate::engine::multipart::{Multipart, MultipartSegment};
use crate::fill::{FlightReader, PartReader, PassThroughBody};
use crate::object::Meta;
use crate::outcome::Outcome;
use crate::policy::generic::fields;
use crate::policy::generic::selection::{GenericSelection, Several, select};
use crate::policy::request::ReadMethod;
use crate::rfc::ContentRange;
use crate::rfc::cache_status::{CACHE_STATUS, CacheStatus, ForwardReason};
use crate::rfc::range::ByteSpan;
use crate::store::{Growing, StoredBody};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use std::sync::Arc;

/// A response that is sent to a client.
pub(super) struct Delivery<'a> {
    pub(super) request: &'a GenericRequest<'a>,
    pub(super) meta: &'a Meta,
    /// The length of its body, if known.
    pub(super) length: Option<u64>,
    pub(super) outcome: Outcome,
    /// Which part of it was stored.
    pub(super) stored_part: StoredPart,
}

/// Which part of a response was stored before, if an origin was asked for the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoredPart {
    /// The outcome says it.
    ByOutcome,
    /// None, and a part was asked for.
    Nothing,
    /// Another part.
    Part,
}

/// The source of the bytes of a response.
enum ResponseContent<'f> {
    Found(&'f CachedObject),
    Growing(Growing, &'f FlightReader),
    Passing(Box<PassThroughBody>),
    Part(Box<PartReader>, GenericSelection),
    /// None: no byte is sent.
    Nothing,
}

/// Statuses with answers that have no body and state no length.
fn is_bodiless(status: StatusCode) -> bool {
    status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// The answer with a stored response.
pub(super) fn found(
    request: &GenericRequest<'_>,
    found: &CachedObject,
    outcome: Outcome,
) -> ClientAnswer {
    Delivery::of(request, &found.meta(), Some(found.length()), outcome).found(found)
}

/// The answer with a response that passes through.
pub(super) fn passing(
    request: &GenericRequest<'_>,
    passing: PassThroughBody,
    outcome: Outcome,
) -> ClientAnswer {
    let meta = Arc::clone(&passing.meta);
    Delivery::of(request, &meta, passing.length(), outcome).passing(passing)
}

impl<'a> Delivery<'a> {
    /// A delivery of a response with this head; nothing more is known than the outcome says.
    pub(super) fn of(
        request: &'a GenericRequest<'_>,
        meta: &'a Meta,
        length: Option<u64>,
        outcome: Outcome,
    ) -> Self {
        Self { request, meta, length, outcome, stored_part: StoredPart::ByOutcome }
    }
}

impl Delivery<'_> {
    /// A stored response.
    fn found(self, found: &CachedObject) -> ClientAnswer {
        self.answer(ResponseContent::Found(found))
    }

    /// A response that is arriving.
    pub(super) fn growing(self, growing: Growing, flight: &FlightReader) -> ClientAnswer {
        self.answer(ResponseContent::Growing(growing, flight))
    }

    /// A response for this client alone.
    fn passing(self, passing: PassThroughBody) -> ClientAnswer {
        let is_chunked = self.length.is_none() && self.request.parts.version > Version::HTTP_10;
        let trailer = passing.trailer_names().cloned().filter(|_| is_chunked);
        let mut answer = self.answer(ResponseContent::Passing(Box::new(passing)));
        if let Some(trailer) = trailer {
            answer.headers.insert(header::TRAILER, trailer);
        }
        answer
    }

    /// The selected range of a response that is stored in part.
    pub(super) fn part(self, reader: PartReader, selected: GenericSelection) -> ClientAnswer {
        self.answer(ResponseContent::Part(Box::new(reader), selected))
    }

    /// The answer to a request that selects no byte.
    pub(super) fn without_body(self) -> ClientAnswer {
        self.answer(ResponseContent::Nothing)
    }

    /// The `sent` bytes behind the first `skipped` bytes of a response that is itself a part. They
    /// are the part `range` of the whole.
    pub(super) fn sliced(
        self,
        passing: PassThroughBody,
        range: ContentRange,
        skipped: u64,
        sent: u64,
    ) -> ClientAnswer {
        let mut headers = self.head();
        headers.insert(header::CONTENT_RANGE, range.to_header_value());
        let source = BodySource::Passing(Box::new(passing), skipped);
        let body =
            AnswerBody::from_content(source, Some(sent), Arc::clone(self.request.connection));
        self.made_of(StatusCode::PARTIAL_CONTENT, headers, body)
    }

    fn answer(self, content: ResponseContent<'_>) -> ClientAnswer {
        let mut headers = self.head();
        let (status, first, sent) = match self.selection(&content) {
            GenericSelection::Whole => (self.meta.status, 0, self.length),
            GenericSelection::Part(span) => {
                let content_range = ContentRange::Part { span, length: self.length };
                headers.insert(header::CONTENT_RANGE, content_range.to_header_value());
                (StatusCode::PARTIAL_CONTENT, span.first, Some(span.length()))
            }
            GenericSelection::Parts(spans) => match (&content, self.multipart(&content, &spans)) {
                (ResponseContent::Found(_), Some(made)) => return self.several(headers, made),
                _ => (self.meta.status, 0, self.length),
            },
            GenericSelection::NotModified => {
                trim(&mut headers);
                return self.made_of(StatusCode::NOT_MODIFIED, headers, AnswerBody::empty());
            }
            GenericSelection::PreconditionFailed => {
                trim(&mut headers);
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
                return self.made_of(StatusCode::PRECONDITION_FAILED, headers, AnswerBody::empty());
            }
            GenericSelection::Unsatisfiable { length } => {
                trim(&mut headers);
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
        if is_bodiless(status) {
            return self.made_of(status, headers, AnswerBody::empty());
        }
        if self.request.parts.method == Method::HEAD || sent == Some(0) {
            if let Some(sent) = sent {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(sent));
            }
            return self.made_of(status, headers, AnswerBody::empty());
        }
        let body = self.body(content, first, sent);
        self.made_of(status, headers, body)
    }

    fn selection(&self, content: &ResponseContent<'_>) -> GenericSelection {
        if let ResponseContent::Part(_, selected) = content {
            return selected.clone();
        }
        let parts = self.request.parts;
        let method = match parts.method {
            Method::HEAD => ReadMethod::Head,
            Method::GET => ReadMethod::Get,
            _ => return GenericSelection::Whole,
        };
        if self.meta.status != StatusCode::OK {
            return GenericSelection::Whole;
        }
        // While a response arrives, a range far ahead would delay a range far behind.
        let several = match content {
            ResponseContent::Found(_) => Several::Sent,
            ResponseContent::Growing(..)
            | ResponseContent::Passing(_)
            | ResponseContent::Part(..)
            | ResponseContent::Nothing => Several::AsWhole,
        };
        select(method, &parts.headers, &self.meta.headers, self.length, several)
    }

    fn body(&self, content: ResponseContent<'_>, first: u64, sent: Option<u64>) -> AnswerBody {
        let content: BodyContent = match content {
            ResponseContent::Found(found) => match in_memory(found) {
                Some(bytes) => return AnswerBody::whole(slice(&bytes, first, sent)),
                None => self.segment(found, first, sent).into(),
            },
            ResponseContent::Growing(growing, flight) => {
                BodySource::Growing(flight.follow(growing, first, sent), first).into()
            }
            ResponseContent::Passing(passing) => BodySource::Passing(passing, first).into(),
            ResponseContent::Part(reader, _) => BodySource::Part(reader).into(),
            ResponseContent::Nothing => return AnswerBody::empty(),
        };
        AnswerBody::from_content(content, sent, Arc::clone(self.request.connection))
    }

    /// The source of `sent` bytes of a stored body from `first` on.
    fn segment(&self, found: &CachedObject, first: u64, sent: Option<u64>) -> MultipartSegment {
        if let CachedObject::Stored(stored) = found
            && let StoredBody::File(file) = &stored.body
        {
            let end = sent.map(|sent| first.saturating_add(sent));
            let file_fallback = self.request.file_fallback(stored, end);
            return MultipartSegment::Stored(
                FileSource::new(Arc::clone(file), Some(file_fallback)),
                first,
            );
        }
        let body = in_memory(found);
        debug_assert!(body.is_some(), "what is no file is in memory");
        MultipartSegment::Bytes(slice(&body.unwrap_or_default(), first, sent))
    }

    fn multipart(&self, content: &ResponseContent<'_>, spans: &[ByteSpan]) -> Option<Multipart> {
        let ResponseContent::Found(found) = content else { return None };
        let content_type = self.meta.headers.get(header::CONTENT_TYPE);
        let source = |span: ByteSpan| self.segment(found, span.first, Some(span.length()));
        Multipart::of(spans, self.length?, content_type, source)
    }

    fn several(&self, mut headers: HeaderMap, made: Multipart) -> ClientAnswer {
        headers.insert(header::CONTENT_TYPE, made.content_type);
        let (multipart, length) = (BodyContent::Multipart(made.body), Some(made.length));
        let body = AnswerBody::from_content(multipart, length, Arc::clone(self.request.connection));
        self.made_of(StatusCode::PARTIAL_CONTENT, headers, body)
    }

    fn made_of(&self, status: StatusCode, headers: HeaderMap, body: AnswerBody) -> ClientAnswer {
        let mut answer = ClientAnswer::new(status, headers, body, self.outcome);
        answer.origin = Some(Arc::clone(&self.meta.origin));
        answer
    }

    /// `Cache-Status` if parts were asked for (RFC 9211 section 2.2).
    fn in_part<'s>(&self, status: CacheStatus<'s>) -> CacheStatus<'s> {
        let status = match (self.stored_part, self.outcome) {
            (StoredPart::Nothing | StoredPart::Part, Outcome::Miss) => {
                status.with_forward_status(StatusCode::PARTIAL_CONTENT)
            }
            _ => status,
        };
        if self.stored_part == StoredPart::Part {
            status.with_forward(ForwardReason::Partial)
        } else {
            status
        }
    }

    /// The fields of the answer: the response's own, and those that this cache adds.
    fn head(&self) -> HeaderMap {
        let mut head = self.meta.headers.clone();
        let upstream: Vec<HeaderValue> = head.get_all(CACHE_STATUS).iter().cloned().collect();
        head.remove(header::CONTENT_LENGTH);
        fields::strip_for_client(&mut head);
        let is_used_again = self.outcome.is_hit()
            || self.outcome == Outcome::Revalidated
            || self.stored_part == StoredPart::Part;
        let now = self.request.now;
        let age = self.meta.age_at(now);
        if is_used_again || self.meta.age_at_response > 0 {
            head.insert(header::AGE, HeaderValue::from(age));
        }
        let status = self.in_part(cache_status(&self.meta.facts(), self.outcome, now));
        head.insert(CACHE_STATUS, status.to_header_value_after(&upstream));
        head.append(header::VIA, HeaderValue::from_static("1.1 narthex"));
        head
    }
}

/// The bytes of a body that is in memory.
fn in_memory(found: &CachedObject) -> Option<Bytes> {
    match found {
        CachedObject::Hot(hot) => Some(hot.body()),
        CachedObject::Stored(stored) => match &stored.body {
            StoredBody::Bytes(bytes) => Some(bytes.clone()),
            StoredBody::File(_) => None,
        },
    }
}

/// Removes the fields that describe a body, since none is sent.
fn trim(headers: &mut HeaderMap) {
    for name in [header::CONTENT_ENCODING, header::CONTENT_LENGTH, header::CONTENT_RANGE] {
        headers.remove(name);
    }
}
