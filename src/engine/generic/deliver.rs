//! Answers made of responses of generic sites: which part of one a request gets, and the fields
//! that say how it came about. Pure but for the bodies it hands on.

use super::Request;
use crate::cache::CachedObject;
use crate::engine::answer::Answer;
use crate::engine::body::{Body, Source};
use crate::engine::deliver::{cache_status, slice};
use crate::engine::row::Multipart;
use crate::engine::tail::Tail;
use crate::fill::{FlightReader, PartReader, Passing};
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

/// A response on its way to a client.
pub(super) struct Delivery<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) meta: &'a Meta,
    /// Bytes of its body, where that is known.
    pub(super) length: Option<u64>,
    pub(super) outcome: Outcome,
    /// What of it was here.
    pub(super) here: Here,
}

/// What of a response was here when it was asked for, where an origin was asked for the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Here {
    /// What its outcome says.
    AsTold,
    /// Nothing, and a part of it was asked for.
    Nothing,
    /// Another part.
    Part,
}

/// Where the bytes of a response come from.
enum Content<'f> {
    Found(&'f CachedObject),
    Growing(Growing, &'f FlightReader),
    Passing(Box<Passing>),
    Part(Box<PartReader>, GenericSelection),
    /// No byte of it is sent.
    Nothing,
}

/// Statuses whose answers have no body, nor a length of one.
fn is_bodiless(status: StatusCode) -> bool {
    status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

impl Delivery<'_> {
    /// One that is stored.
    pub(super) fn found(self, found: &CachedObject) -> Answer {
        self.answer(Content::Found(found))
    }

    /// One that arrives.
    pub(super) fn growing(self, growing: Growing, flight: &FlightReader) -> Answer {
        self.answer(Content::Growing(growing, flight))
    }

    /// One that is this client's alone.
    pub(super) fn passing(self, passing: Passing) -> Answer {
        let is_chunked = self.length.is_none() && self.request.parts.version > Version::HTTP_10;
        let trailer = passing.trailer_names().cloned().filter(|_| is_chunked);
        let mut answer = self.answer(Content::Passing(Box::new(passing)));
        if let Some(trailer) = trailer {
            answer.headers.insert(header::TRAILER, trailer);
        }
        answer
    }

    /// A stretch of one that is here in part: the one that was selected.
    pub(super) fn part(self, reader: PartReader, selected: GenericSelection) -> Answer {
        self.answer(Content::Part(Box::new(reader), selected))
    }

    /// What a request gets that selects no byte of one.
    pub(super) fn without_body(self) -> Answer {
        self.answer(Content::Nothing)
    }

    /// The `sent` bytes behind the first `skipped` of one that is a part itself, and of which they
    /// are the part `range`.
    pub(super) fn sliced(
        self,
        passing: Passing,
        range: ContentRange,
        (skipped, sent): (u64, u64),
    ) -> Answer {
        let mut headers = self.head();
        headers.insert(header::CONTENT_RANGE, range.to_header_value());
        let source = Source::Passing(Box::new(passing), skipped);
        let body = Body::from_source(source, Some(sent), Arc::clone(self.request.connection));
        self.made_of(StatusCode::PARTIAL_CONTENT, headers, body)
    }

    fn answer(self, content: Content<'_>) -> Answer {
        let mut headers = self.head();
        let (status, first, sent) = match self.selection(&content) {
            GenericSelection::Whole => (self.meta.status, 0, self.length),
            GenericSelection::Part(span) => {
                let content_range = ContentRange::Part { span, length: self.length };
                headers.insert(header::CONTENT_RANGE, content_range.to_header_value());
                (StatusCode::PARTIAL_CONTENT, span.first, Some(span.length()))
            }
            GenericSelection::Parts(spans) => match (&content, self.multipart(&content, &spans)) {
                (Content::Found(_), Some(made)) => return self.several(headers, made),
                _ => (self.meta.status, 0, self.length),
            },
            GenericSelection::NotModified => {
                trim(&mut headers);
                return self.made_of(StatusCode::NOT_MODIFIED, headers, Body::empty());
            }
            GenericSelection::PreconditionFailed => {
                trim(&mut headers);
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
                return self.made_of(StatusCode::PRECONDITION_FAILED, headers, Body::empty());
            }
            GenericSelection::Unsatisfiable { length } => {
                trim(&mut headers);
                let content_range = ContentRange::Unsatisfied { length };
                headers.insert(header::CONTENT_RANGE, content_range.to_header_value());
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
                return self.made_of(StatusCode::RANGE_NOT_SATISFIABLE, headers, Body::empty());
            }
        };
        if is_bodiless(status) {
            return self.made_of(status, headers, Body::empty());
        }
        if self.request.parts.method == Method::HEAD || sent == Some(0) {
            if let Some(sent) = sent {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(sent));
            }
            return self.made_of(status, headers, Body::empty());
        }
        let body = self.body(content, first, sent);
        self.made_of(status, headers, body)
    }

    fn selection(&self, content: &Content<'_>) -> GenericSelection {
        if let Content::Part(_, selected) = content {
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
        // Of what arrives, a part that is far ahead would keep one that is far behind waiting.
        let several = match content {
            Content::Found(_) => Several::Sent,
            Content::Growing(..) | Content::Passing(_) | Content::Part(..) | Content::Nothing => {
                Several::AsWhole
            }
        };
        select(method, &parts.headers, &self.meta.headers, (self.length, several))
    }

    fn body(&self, content: Content<'_>, first: u64, sent: Option<u64>) -> Body {
        let source = match content {
            Content::Found(found) => match in_memory(found) {
                Some(bytes) => return Body::whole(slice(&bytes, first, sent)),
                None => self.source(found, first, sent),
            },
            Content::Growing(growing, flight) => {
                Source::Growing(flight.follow(growing, first), first)
            }
            Content::Passing(passing) => Source::Passing(passing, first),
            Content::Part(reader, _) => Source::Part(reader),
            Content::Nothing => return Body::empty(),
        };
        Body::from_source(source, sent, Arc::clone(self.request.connection))
    }

    /// What brings the bytes of a stored body from `first` on.
    fn source(&self, found: &CachedObject, first: u64, sent: Option<u64>) -> Source {
        if let CachedObject::Stored(stored) = found
            && let StoredBody::File(file) = &stored.body
        {
            let rescue = self.request.rescue(stored);
            return Source::Stored(Tail::new(Arc::clone(file), Some(rescue)), first);
        }
        Source::Bytes(slice(&in_memory(found).unwrap_or_default(), first, sent))
    }

    fn multipart(&self, content: &Content<'_>, spans: &[ByteSpan]) -> Option<Multipart> {
        let Content::Found(found) = content else { return None };
        let content_type = self.meta.headers.get(header::CONTENT_TYPE);
        let source = |span: ByteSpan| self.source(found, span.first, Some(span.length()));
        Multipart::of(spans, (self.length?, content_type), source)
    }

    fn several(&self, mut headers: HeaderMap, made: Multipart) -> Answer {
        headers.insert(header::CONTENT_TYPE, made.content_type);
        let (row, length) = (Source::Row(made.row), Some(made.length));
        let body = Body::from_source(row, length, Arc::clone(self.request.connection));
        self.made_of(StatusCode::PARTIAL_CONTENT, headers, body)
    }

    fn made_of(&self, status: StatusCode, headers: HeaderMap, body: Body) -> Answer {
        let mut answer = Answer::new(status, headers, body, self.outcome);
        answer.origin = Some(Arc::clone(&self.meta.origin));
        answer
    }

    /// What `Cache-Status` says where parts were asked for (RFC 9211 section 2.2).
    fn in_part<'s>(&self, status: CacheStatus<'s>) -> CacheStatus<'s> {
        let status = match (self.here, self.outcome) {
            (Here::Nothing | Here::Part, Outcome::Miss) => {
                status.with_forward_status(StatusCode::PARTIAL_CONTENT)
            }
            _ => status,
        };
        if self.here == Here::Part { status.with_forward(ForwardReason::Partial) } else { status }
    }

    /// The fields of the answer: the response's own, and those that this cache adds.
    fn head(&self) -> HeaderMap {
        let mut head = self.meta.headers.clone();
        let upstream: Vec<HeaderValue> = head.get_all(CACHE_STATUS).iter().cloned().collect();
        head.remove(header::CONTENT_LENGTH);
        fields::strip_for_client(&mut head);
        let is_used_again = self.outcome.is_hit()
            || self.outcome == Outcome::Revalidated
            || self.here == Here::Part;
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

/// Takes out what describes a body that is not sent.
fn trim(headers: &mut HeaderMap) {
    for name in [header::CONTENT_ENCODING, header::CONTENT_LENGTH, header::CONTENT_RANGE] {
        headers.remove(name);
    }
}
