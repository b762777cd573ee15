//! Answers: a status, fields, a body, and an outcome. Errors become statuses here, each kind in one
//! exhaustive match. The client sees nothing of an error except the id of the request.

use super::body::AnswerBody;
use super::request_record::{AnswerSummary, PendingRecord, RequestRecord};
use super::site::ServedSite;
use crate::client::UploadError;
use crate::fill::FillError;
use crate::metrics::Metrics;
use crate::nix::Class;
use crate::outcome::Outcome;
use crate::policy;
use crate::policy::request::RequestRefusal;
use crate::rfc::cache_status::{CacheStatus, ForwardReason};
use crate::telemetry::RequestId;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, header};
use http_body::Body as _;
use std::sync::Arc;

/// The field with the id of a request; logs have it too.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// `Retry-After`, in seconds, if a request is refused under load.
const SHED_RETRY_SECONDS: &str = "5";

/// An answer.
#[derive(Debug)]
pub(super) struct ClientAnswer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: AnswerBody,
    pub(super) outcome: Outcome,
    pub(super) origin: Option<Arc<str>>,
    /// The metric label of a refusal.
    pub(super) refused: Option<&'static str>,
    /// Whether the connection ends after it.
    pub(super) after: AfterAnswer,
    pub(super) request_id: RequestId,
}

/// Whether the connection ends after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterAnswer {
    Close,
    KeepOpen,
}

/// An answer, now or later.
pub enum Answering<B> {
    /// The answer is ready.
    Now(Response<B>),
    /// The answer must be waited for.
    Later(BoxFuture<'static, Response<B>>),
}

impl ClientAnswer {
    pub(super) fn new(
        status: StatusCode,
        headers: HeaderMap,
        body: AnswerBody,
        outcome: Outcome,
    ) -> Self {
        Self {
            status,
            headers,
            body,
            outcome,
            origin: None,
            refused: None,
            after: AfterAnswer::KeepOpen,
            request_id: RequestId::draw(),
        }
    }

    /// A short text with the id of the request, by which the log can be searched.
    pub(super) fn text(status: StatusCode, text: impl Into<Bytes>, outcome: Outcome) -> Self {
        let mut answer = Self::new(status, own_head(outcome), AnswerBody::empty(), outcome);
        answer.name_request();
        answer.set_text(text.into());
        answer
    }

    /// Tells the client the request's id.
    pub(super) fn name_request(&mut self) {
        self.headers.insert(REQUEST_ID, self.request_id.to_header_value());
    }

    fn set_text(&mut self, text: Bytes) {
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        self.headers.insert(header::CONTENT_TYPE, plain);
        self.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(text.len()));
        self.body = AnswerBody::whole(text);
    }

    /// The response, with the record that counts and logs it. The site and the class are given if
    /// they were found.
    pub(super) fn respond(
        self,
        metrics: &Metrics,
        parts: &Parts,
        record: PendingRecord,
        counted: Option<(&ServedSite, Class)>,
    ) -> Response<AnswerBody> {
        if let Some(reason) = self.refused {
            metrics.requests_refused.with_label_values(&[reason]).inc();
        }
        let summary = AnswerSummary {
            status: self.status,
            outcome: self.outcome,
            origin: self.origin.as_ref(),
            body_bytes: 0,
            request_id: self.request_id,
        };
        let record = record.with_body(&summary, counted);
        self.into_response(&parts.method, parts.version, record)
    }

    /// The response. HEAD gets no body, whatever the answer is.
    fn into_response(
        mut self,
        method: &Method,
        version: Version,
        record: RequestRecord,
    ) -> Response<AnswerBody> {
        if self.after == AfterAnswer::Close && version < Version::HTTP_2 {
            self.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if *method == Method::HEAD {
            self.state_length();
            self.body = AnswerBody::empty();
        }
        let mut response = Response::new(self.body.with_record(record));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

impl ClientAnswer {
    /// States the length of the body, since an answer to HEAD has none.
    fn state_length(&mut self) {
        if let Some(length @ 1..) = self.body.size_hint().exact()
            && !self.headers.contains_key(header::CONTENT_LENGTH)
        {
            self.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
    }
}

/// The fields of an answer that is not made of an object.
pub(super) fn own_head(outcome: Outcome) -> HeaderMap {
    let status = match outcome {
        Outcome::OriginFailed | Outcome::AbsentOptional => {
            CacheStatus::forwarded(ForwardReason::UriMiss)
        }
        Outcome::HitMemory
        | Outcome::HitDisk
        | Outcome::HitStale
        | Outcome::HitAbsent
        | Outcome::Revalidated
        | Outcome::Miss
        | Outcome::Collapsed
        | Outcome::Pass
        | Outcome::Absent
        | Outcome::AbsentFilter
        | Outcome::Local
        | Outcome::Refused
        | Outcome::Shed
        | Outcome::Fault => CacheStatus::own(),
    };
    policy::head::own_head(status.with_detail(outcome.as_str()).to_header_value())
}

/// A request that Narthex refuses by itself.
pub(super) fn refused(refusal: RequestRefusal) -> ClientAnswer {
    if refusal == RequestRefusal::Loop {
        // Any client can send the field, so this may be no fault of the configuration.
        tracing::warn!("a request names this cache in CDN-Loop: its origins form a circle");
    }
    let mut answer = ClientAnswer::text(refusal.status(), format!("{refusal}\n"), Outcome::Refused);
    answer.refused = Some(refusal.reason());
    if refusal.must_close() {
        answer.after = AfterAnswer::Close;
    }
    if let Some(allowed) = refusal.allow() {
        answer.headers.insert(header::ALLOW, HeaderValue::from_static(allowed));
    }
    if refusal == RequestRefusal::ClaimUnknown {
        answer.headers.insert(header::RETRY_AFTER, HeaderValue::from_static(SHED_RETRY_SECONDS));
    }
    answer
}

/// The absence filter of the site lacks the object. The answer is that of an origin's 404, and is
/// not stored.
pub(super) fn absent_by_filter() -> ClientAnswer {
    absent(Outcome::AbsentFilter)
}

fn absent(outcome: Outcome) -> ClientAnswer {
    let mut answer = ClientAnswer::text(StatusCode::NOT_FOUND, "404", outcome);
    answer.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    answer
}

/// The answer to a CORS preflight.
pub(super) fn preflight() -> ClientAnswer {
    let status = CacheStatus::own().with_detail(Outcome::Local.as_str());
    let headers = policy::head::preflight(status.to_header_value());
    ClientAnswer::new(StatusCode::NO_CONTENT, headers, AnswerBody::empty(), Outcome::Local)
}

/// The methods that a generic site permits, in answer to OPTIONS.
pub(super) fn options() -> ClientAnswer {
    const ALLOWED: &str = "GET, HEAD, OPTIONS, POST, PUT, PATCH, DELETE";
    let mut headers = own_head(Outcome::Local);
    headers.insert(header::ALLOW, HeaderValue::from_static(ALLOWED));
    ClientAnswer::new(StatusCode::NO_CONTENT, headers, AnswerBody::empty(), Outcome::Local)
}

/// The number of fills is at its limit: the client may come back later.
pub(super) fn shed() -> ClientAnswer {
    shed_as("too many fetches are under way\n")
}

fn shed_as(text: &'static str) -> ClientAnswer {
    let mut answer = ClientAnswer::text(StatusCode::SERVICE_UNAVAILABLE, text, Outcome::Shed);
    answer.headers.insert(header::RETRY_AFTER, HeaderValue::from_static(SHED_RETRY_SECONDS));
    answer
}

/// All recent bodies were invalid, so no origin is asked for so many seconds.
pub(super) fn wrong(seconds: u64) -> ClientAnswer {
    let text = "every origin sent a wrong body of late";
    let mut answer = with_id(StatusCode::BAD_GATEWAY, text, Outcome::OriginFailed);
    answer.headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    answer
}

/// A body that is not stored was gone before its only reader could take it.
pub(super) fn untaken() -> ClientAnswer {
    fault("a body is gone before its reader came")
}

/// No origin gave a usable answer: 504 if a deadline has passed, else 502. It is 404 only if the
/// origins that failed are optional and the others have no such object; no cache is to store that.
///
/// If the request's own body failed, no origin is to blame: 400, or 408 if the body was too slow.
/// An upload beyond the share of its client is 503.
pub(super) fn failed(error: &FillError) -> ClientAnswer {
    match error.upload() {
        Some(UploadError::Broken) => return refused(RequestRefusal::BodyBroken),
        Some(UploadError::Slow) => return refused(RequestRefusal::BodySlow),
        None => {}
    }
    if error.is_over_share() {
        return shed_as("too many uploads of this client are under way\n");
    }
    if error.is_of_optional_origin() {
        let mut answer = absent(Outcome::AbsentOptional);
        answer.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return answer;
    }
    let (status, text) = if error.is_timeout() {
        (StatusCode::GATEWAY_TIMEOUT, "no origin answered in time")
    } else {
        (StatusCode::BAD_GATEWAY, "no origin gave a usable answer")
    };
    with_id(status, text, Outcome::OriginFailed)
}

/// A fault inside Narthex.
pub(super) fn fault(detail: &str) -> ClientAnswer {
    tracing::error!(detail, "fault inside narthex");
    with_id(StatusCode::INTERNAL_SERVER_ERROR, "fault inside narthex", Outcome::Fault)
}

/// An origin that broke the protocol.
pub(super) fn unusable(detail: &str) -> ClientAnswer {
    tracing::warn!(detail, "unusable answer of an origin");
    with_id(StatusCode::BAD_GATEWAY, "no origin gave a usable answer", Outcome::OriginFailed)
}

fn with_id(status: StatusCode, text: &str, outcome: Outcome) -> ClientAnswer {
    let mut answer = ClientAnswer::text(status, "", outcome);
    let text = format!("{text} (request {})\n", answer.request_id);
    answer.set_text(text.into());
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::{FetchError, SlotLimit};

    #[test]
    fn a_body_that_its_client_does_not_finish_is_the_clients_fault() {
        for (source, status, reason) in
            [(UploadError::Broken, 400, "body_broken"), (UploadError::Slow, 408, "body_slow")]
        {
            let error = FillError::Fetch(FetchError::Upload { origin: "one".into(), source });
            let answer = failed(&error);
            assert_eq!((answer.status.as_u16(), answer.refused), (status, Some(reason)));
            assert_eq!((answer.outcome, answer.after), (Outcome::Refused, AfterAnswer::Close));
        }
    }

    #[test]
    fn an_upload_beyond_the_share_of_its_client_may_come_back() {
        let busy = |limit| FetchError::Busy { origin: "one".into(), limit };
        let answer = failed(&FillError::Fetch(busy(SlotLimit::Share)));
        assert_eq!((answer.status.as_u16(), answer.outcome), (503, Outcome::Shed));
        assert!(answer.headers.contains_key(header::RETRY_AFTER));
        assert_eq!(failed(&FillError::Fetch(busy(SlotLimit::Requests))).status, 504);
    }
}
