//! Answers made of objects: conditions, ranges, and the fields that say how they came about.

use super::answer::{self, Answer};
use super::body::{Body, Source};
use super::connection::Connection;
use crate::cache::{Cache, Found, Hit};
use crate::clock::Timestamp;
use crate::fill::{Flight, Passing, Wanted};
use crate::object::{Lifetime, Meta};
use crate::origin::{Answer as Said, FetchError, Response};
use crate::outcome::Outcome;
use crate::policy;
use crate::rfc::cache_status::{CACHE_STATUS, CacheStatus, Forward};
use crate::rfc::range::Resolved;
use crate::rfc::{ByteRanges, Condition, ContentRange, Validators, conditional};
use crate::store::{Growing, StoredBody};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use std::sync::Arc;

/// A request, as far as delivery needs it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asked<'a> {
    pub(super) parts: &'a Parts,
    pub(super) connection: &'a Arc<Connection>,
    pub(super) now: Timestamp,
}

impl Asked<'_> {
    pub(super) fn is_head(&self) -> bool {
        self.parts.method == Method::HEAD
    }
}

/// A body that can be had, and where it comes from.
enum Content<'a> {
    Found(&'a Found),
    Growing(Growing),
    Passing(Passing),
    /// For HEAD, where there is no body to read.
    Nothing,
}

/// Delivers a whole object.
pub(super) fn found(asked: &Asked<'_>, found: &Found, outcome: Outcome) -> Answer {
    let length = Some(found.length());
    object(asked, found.meta(), length, Content::Found(found), outcome)
}

/// Delivers an object that is still arriving. Where a range is asked of a body whose length is
/// not known yet, its end is waited for: a 200 to a range request is an error to the Nix client.
pub(super) async fn streaming(
    asked: &Asked<'_>,
    cache: &Cache,
    meta: &Arc<Meta>,
    growing: Growing,
    flight: &Flight,
    outcome: Outcome,
) -> Answer {
    if growing.length().is_none() && asked.parts.headers.contains_key(header::RANGE) {
        flight.ended().await;
        return match cache.lookup(&meta.key).await {
            Some(Hit::Memory(whole) | Hit::Disk(whole)) => found(asked, &whole, outcome),
            Some(Hit::Absent(_)) | None => answer::fault("a fill ended and left nothing"),
        };
    }
    let length = growing.length();
    object(asked, meta, length, Content::Growing(growing), outcome)
}

/// Delivers a body that is not kept.
pub(super) fn passing(asked: &Asked<'_>, passing: Passing) -> Answer {
    let meta = Arc::clone(&passing.meta);
    let length = passing.length();
    object(asked, &meta, length, Content::Passing(passing), Outcome::Pass)
}

/// Says that there is no such object.
pub(super) fn absent(asked: &Asked<'_>, meta: &Meta, outcome: Outcome) -> Answer {
    let mut answer = Answer::text(StatusCode::NOT_FOUND, "404", outcome);
    answer.origin = Some(Arc::clone(&meta.origin));
    answer.headers.insert(header::AGE, HeaderValue::from(meta.age_at(asked.now)));
    let status = cache_status(meta, outcome, asked.now);
    answer.headers.insert(CACHE_STATUS, status.to_header_value());
    answer
}

/// Answers HEAD from what an origin said to HEAD.
pub(super) fn head(
    asked: &Asked<'_>,
    wanted: &Wanted,
    said: Result<Said<Response>, FetchError>,
) -> Answer {
    let said = match said {
        Ok(said) => said,
        Err(error) => return answer::failed(&error.into()),
    };
    match said {
        Said::Found(response) => {
            let (meta, _) = wanted.meta_of(&response);
            object(asked, &meta, response.content_length, Content::Nothing, Outcome::Pass)
        }
        Said::Absent(said) => absent(asked, &wanted.absent_meta(&said), Outcome::Absent),
        Said::NotModified(_) | Said::Changed(_) => {
            answer::unusable("304, 412 or 416 to a HEAD without conditions")
        }
    }
}

fn object(
    asked: &Asked<'_>,
    meta: &Meta,
    length: Option<u64>,
    content: Content<'_>,
    outcome: Outcome,
) -> Answer {
    let mut headers = policy::response::client_headers(meta, asked.now);
    let upstream_status = cache_status(meta, outcome, asked.now);
    headers.append(CACHE_STATUS, upstream_status.to_header_value());
    let validators = Validators::of(&meta.headers);
    let request = &asked.parts.headers;
    let (status, span) = match conditional::evaluate(&asked.parts.method, request, &validators) {
        Condition::NotModified => {
            return bare(StatusCode::NOT_MODIFIED, not_modified(headers), meta, outcome);
        }
        Condition::PreconditionFailed => {
            let text = "the precondition does not hold\n";
            let mut answer = Answer::text(StatusCode::PRECONDITION_FAILED, text, outcome);
            answer.origin = Some(Arc::clone(&meta.origin));
            return answer;
        }
        Condition::Proceed => match range(asked, &validators, length) {
            Resolved::Unsatisfiable => return unsatisfiable(headers, length, meta, outcome),
            Resolved::Single(span) => (StatusCode::PARTIAL_CONTENT, Some(span)),
            Resolved::Whole | Resolved::Multiple(_) => (meta.status, None),
        },
    };
    let sent = match (span, length) {
        (Some(span), Some(length)) => {
            let content_range = ContentRange::Part { span, length: Some(length) };
            headers.insert(header::CONTENT_RANGE, content_range.to_header_value());
            Some(span.length())
        }
        (Some(_) | None, length) => length,
    };
    if let Some(sent) = sent {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(sent));
    }
    let first = span.map_or(0, |span| span.first);
    let body = if asked.is_head() { Body::empty() } else { body(asked, content, first, sent) };
    let mut answer = Answer::new(status, headers, body, outcome);
    answer.origin = Some(Arc::clone(&meta.origin));
    answer
}

fn body(asked: &Asked<'_>, content: Content<'_>, first: u64, sent: Option<u64>) -> Body {
    let source = match content {
        Content::Nothing => return Body::empty(),
        Content::Found(Found::Hot(hot)) => return Body::whole(slice(&hot.body, first, sent)),
        Content::Found(Found::Stored(stored)) => match &stored.body {
            StoredBody::Bytes(bytes) => return Body::whole(slice(bytes, first, sent)),
            StoredBody::File(file) => Source::File(Arc::clone(file), first),
        },
        Content::Growing(growing) => Source::Growing(growing, first),
        Content::Passing(passing) => Source::Passing(Box::new(passing), first),
    };
    Body::from_source(source, sent, Arc::clone(asked.connection))
}

fn slice(bytes: &bytes::Bytes, first: u64, sent: Option<u64>) -> bytes::Bytes {
    let length = bytes.len();
    let first = usize::try_from(first).unwrap_or(length).min(length);
    let sent = sent.and_then(|sent| usize::try_from(sent).ok()).unwrap_or(length);
    bytes.slice(first..first.saturating_add(sent).min(length))
}

/// The part of the object that the request wants; only GET asks for parts (RFC 9110 section
/// 14.2), several of them are answered with the whole.
fn range(asked: &Asked<'_>, validators: &Validators<'_>, length: Option<u64>) -> Resolved {
    let request = &asked.parts.headers;
    let (Some(length), false) = (length, asked.is_head()) else { return Resolved::Whole };
    if !conditional::range_applies(request, validators) {
        return Resolved::Whole;
    }
    ByteRanges::of(request).map_or(Resolved::Whole, |ranges| ranges.resolve(length))
}

fn unsatisfiable(
    mut headers: HeaderMap,
    length: Option<u64>,
    meta: &Meta,
    outcome: Outcome,
) -> Answer {
    let content_range = ContentRange::Unsatisfied { length: length.unwrap_or(0) };
    headers.insert(header::CONTENT_RANGE, content_range.to_header_value());
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(0));
    headers.remove(header::CONTENT_TYPE);
    headers.remove(header::CONTENT_ENCODING);
    bare(StatusCode::RANGE_NOT_SATISFIABLE, headers, meta, outcome)
}

/// A 304 carries what a 200 would, but nothing that describes a body (RFC 9110 section 15.4.5).
fn not_modified(mut headers: HeaderMap) -> HeaderMap {
    for name in [header::CONTENT_TYPE, header::CONTENT_ENCODING, header::CONTENT_LANGUAGE] {
        headers.remove(name);
    }
    headers
}

fn bare(status: StatusCode, headers: HeaderMap, meta: &Meta, outcome: Outcome) -> Answer {
    let mut answer = Answer::new(status, headers, Body::empty(), outcome);
    answer.origin = Some(Arc::clone(&meta.origin));
    answer
}

fn cache_status(meta: &Meta, outcome: Outcome, now: Timestamp) -> CacheStatus<'static> {
    let ttl = match meta.lifetime {
        Lifetime::Seconds(lifetime) => {
            let age = i64::try_from(meta.age_at(now)).unwrap_or(i64::MAX);
            Some(i64::from(lifetime).saturating_sub(age))
        }
        Lifetime::Forever => None,
    };
    let status = match outcome {
        Outcome::HitMemory | Outcome::HitDisk | Outcome::HitStale | Outcome::HitAbsent => {
            CacheStatus::hit()
        }
        Outcome::Revalidated => CacheStatus::forwarded(Forward::Stale)
            .with_forward_status(StatusCode::NOT_MODIFIED)
            .stored(),
        Outcome::Miss => {
            CacheStatus::forwarded(Forward::UriMiss).with_forward_status(meta.status).stored()
        }
        Outcome::Collapsed => CacheStatus::forwarded(Forward::UriMiss).collapsed(),
        Outcome::Pass | Outcome::Absent => {
            CacheStatus::forwarded(Forward::UriMiss).with_forward_status(meta.status)
        }
        Outcome::Local
        | Outcome::Refused
        | Outcome::Shed
        | Outcome::OriginFailed
        | Outcome::Fault => CacheStatus::own(),
    };
    let status = status.with_detail(outcome.as_str());
    ttl.map_or(status, |seconds| status.with_ttl(seconds))
}
