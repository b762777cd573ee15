//! Answers made of responses of generic sites: which part of one a request gets, and the fields
//! that say how it came about. Pure but for the bodies it hands on.

use crate::cache::Found;
use crate::clock::Timestamp;
use crate::engine::answer::Answer;
use crate::engine::body::{Body, Source};
use crate::engine::connection::Connection;
use crate::engine::deliver::{cache_status, slice};
use crate::engine::tail::Tail;
use crate::fill::Passing;
use crate::object::Meta;
use crate::outcome::Outcome;
use crate::policy::Selection;
use crate::policy::generic::fields;
use crate::policy::request::ReadMethod;
use crate::policy::selection::select;
use crate::rfc::ContentRange;
use crate::rfc::cache_status::CACHE_STATUS;
use crate::store::{Growing, StoredBody};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use std::borrow::Cow;
use std::sync::Arc;

/// A response on its way to a client.
pub(super) struct Delivery<'a> {
    pub(super) parts: &'a Parts,
    pub(super) connection: &'a Arc<Connection>,
    pub(super) now: Timestamp,
    pub(super) meta: &'a Meta,
    /// Bytes of its body, where that is known.
    pub(super) length: Option<u64>,
    pub(super) outcome: Outcome,
}

/// Statuses whose answers have no body, nor a length of one.
fn is_bodiless(status: StatusCode) -> bool {
    status == StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

impl Delivery<'_> {
    /// One that is stored.
    pub(super) fn found(self, found: &Found) -> Answer {
        self.answer(|connection, first, sent| match found {
            Found::Hot(hot) => Body::whole(slice(&hot.body(), first, sent)),
            Found::Stored(stored) => match &stored.body {
                StoredBody::Bytes(bytes) => Body::whole(slice(bytes, first, sent)),
                StoredBody::File(file) => {
                    let tail = Tail::new(Arc::clone(file), None);
                    Body::from_source(Source::Stored(tail, first), sent, Arc::clone(connection))
                }
            },
        })
    }

    /// One that arrives.
    pub(super) fn growing(self, growing: Growing) -> Answer {
        self.answer(|connection, first, sent| {
            let source = Source::Growing(growing.follow(first), first);
            Body::from_source(source, sent, Arc::clone(connection))
        })
    }

    /// One that is this client's alone.
    pub(super) fn passing(self, passing: Passing) -> Answer {
        let has_trailers = self.length.is_none();
        let trailer = passing.trailer_names().cloned().filter(|_| has_trailers);
        let mut answer = self.answer(|connection, first, sent| {
            let source = Source::Passing(Box::new(passing), first);
            Body::from_source(source, sent, Arc::clone(connection))
        });
        if let Some(trailer) = trailer {
            answer.headers.insert(header::TRAILER, trailer);
        }
        answer
    }

    fn answer(self, body: impl FnOnce(&Arc<Connection>, u64, Option<u64>) -> Body) -> Answer {
        let mut headers = self.head();
        let is_head = self.parts.method == Method::HEAD;
        let may_select = is_head || self.parts.method == Method::GET;
        let selection = if self.meta.status == StatusCode::OK && may_select {
            let method = if is_head { ReadMethod::Head } else { ReadMethod::Get };
            let stored = || Cow::Borrowed(&self.meta.headers);
            select(method, &self.parts.headers, stored, self.length)
        } else {
            Selection::Whole
        };
        let (status, first, sent) = match selection {
            Selection::Whole => (self.meta.status, 0, self.length),
            Selection::Part(span) => {
                let content_range = ContentRange::Part { span, length: self.length };
                headers.insert(header::CONTENT_RANGE, content_range.to_header_value());
                (StatusCode::PARTIAL_CONTENT, span.first, Some(span.length()))
            }
            Selection::NotModified => {
                trim(&mut headers);
                return self.made_of(StatusCode::NOT_MODIFIED, headers, Body::empty());
            }
            Selection::PreconditionFailed => {
                trim(&mut headers);
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
                return self.made_of(StatusCode::PRECONDITION_FAILED, headers, Body::empty());
            }
            Selection::Unsatisfiable { length } => {
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
        if is_head || sent == Some(0) {
            if let Some(sent) = sent {
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(sent));
            }
            return self.made_of(status, headers, Body::empty());
        }
        let body = body(self.connection, first, sent);
        self.made_of(status, headers, body)
    }

    fn made_of(&self, status: StatusCode, headers: HeaderMap, body: Body) -> Answer {
        let mut answer = Answer::new(status, headers, body, self.outcome);
        answer.origin = Some(Arc::clone(&self.meta.origin));
        answer
    }

    /// The fields of the answer: the response's own, and those that this cache adds.
    fn head(&self) -> HeaderMap {
        let mut head = self.meta.headers.clone();
        let upstream: Vec<HeaderValue> = head.get_all(CACHE_STATUS).iter().cloned().collect();
        head.remove(header::CONTENT_LENGTH);
        fields::strip_for_client(&mut head);
        let is_used_again = self.outcome.is_hit() || self.outcome == Outcome::Revalidated;
        let age = self.meta.age_at(self.now);
        if is_used_again || self.meta.age_at_response > 0 {
            head.insert(header::AGE, HeaderValue::from(age));
        }
        let status = cache_status(&self.meta.facts(), self.outcome, self.now);
        head.insert(CACHE_STATUS, status.to_header_value_after(&upstream));
        head.append(header::VIA, HeaderValue::from_static("1.1 narthex"));
        head
    }
}

/// Takes out what describes a body that is not sent.
fn trim(headers: &mut HeaderMap) {
    for name in [header::CONTENT_ENCODING, header::CONTENT_LENGTH, header::CONTENT_RANGE] {
        headers.remove(name);
    }
}
