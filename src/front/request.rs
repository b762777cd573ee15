//! One request before and after the handler: refuses it for its framing alone, calls the handler,
//! and tracks the body of its answer while hyper polls it. A panic in the handler fails its request
//! and nothing else.

use super::body_writer::BodyWriter;
use super::connection_deadlines::{ActiveRequest, ConnectionDeadlines};
use super::fast_path::{FastBody, FastResponder};
use super::handler::HandlerBody;
use super::state::FrontState;
use crate::engine::{Answering, ClientConnection, FastAnswer, SimpleRequest};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::{self, BoxFuture, Either, ready};
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use prometheus::IntCounter;
use std::convert::Infallible;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready as when_ready};

/// `Cache-Status` (RFC 9211).
const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What hyper calls with each request of one connection.
#[derive(Debug)]
pub(super) struct Service<B> {
    pub(super) state: Arc<FrontState<B>>,
    pub(super) connection: Arc<ClientConnection>,
    pub(super) deadlines: Arc<ConnectionDeadlines>,
    /// The metric, counted on by this connection's answers alone.
    pub(super) panics: Arc<IntCounter>,
}

impl<B> hyper::service::Service<Request<Incoming>> for Service<B>
where
    B: HandlerBody,
{
    type Response = Response<TrackedBody<B>>;
    type Error = Infallible;
    type Future = Either<future::Ready<ServiceResult<B>>, BoxFuture<'static, ServiceResult<B>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let body = announced(&request);
        let is_one_at_a_time = request.version() < Version::HTTP_2;
        let pending = PendingAnswer {
            version: request.version(),
            awaited: (body == RequestBody::Present && is_one_at_a_time).then(|| {
                self.connection.awaits_body();
                Arc::clone(&self.connection)
            }),
            active: ActiveRequest::begin(&self.deadlines),
            panics: Arc::clone(&self.panics),
        };
        let state = &self.state;
        let headers_max = state.server.limits.request_headers_max;
        if let Some(refusal) = refusal(request.method(), request.headers(), body, headers_max) {
            state.metrics.requests_refused.with_label_values(&[refusal.as_str()]).inc();
            state.handler.refused(&request, refusal.status(), &self.connection);
            let response = refusal.response(pending.version);
            return Either::Left(ready(Ok(pending.own(response))));
        }
        // A panic drops the state of the handler, so no code sees that half changed.
        let called = AssertUnwindSafe(|| state.handler.answer(request, &self.connection));
        match catch_unwind(called) {
            Ok(Answering::Now(response)) => Either::Left(ready(Ok(pending.handlers(response)))),
            Err(_) => Either::Left(ready(Ok(pending.panicked()))),
            Ok(Answering::Later(answer)) => Either::Right(Box::pin(async move {
                Ok(match AssertUnwindSafe(answer).catch_unwind().await {
                    Ok(response) => pending.handlers(response),
                    Err(_) => pending.panicked(),
                })
            })),
        }
    }
}

type ServiceResult<B> = Result<Response<TrackedBody<B>>, Infallible>;

/// What is kept of a request until there is an answer.
struct PendingAnswer {
    version: Version,
    /// The connection, if a body comes on it that may stay unread.
    awaited: Option<Arc<ClientConnection>>,
    active: ActiveRequest,
    panics: Arc<IntCounter>,
}

impl PendingAnswer {
    /// The handler's answer. An HTTP/1 connection ends after it, unless the request's body was read
    /// to its end.
    fn handlers<B>(self, response: Response<B>) -> Response<TrackedBody<B>>
    where
        B: HandlerBody,
    {
        let (mut parts, body) = response.into_parts();
        // The rest of a body could be taken for a request.
        if self.awaited.is_some_and(|connection| !connection.is_body_read()) {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let sent = AnswerContent::Handler { body };
        Response::from_parts(parts, TrackedBody::new(sent, self.active, self.panics))
    }

    /// An answer that this module makes itself.
    fn own<B>(self, response: Response<Bytes>) -> Response<TrackedBody<B>>
    where
        B: HandlerBody,
    {
        let (parts, text) = response.into_parts();
        Response::from_parts(
            parts,
            TrackedBody::new(AnswerContent::own(text), self.active, self.panics),
        )
    }

    /// The answer of a handler that panicked.
    fn panicked<B>(self) -> Response<TrackedBody<B>>
    where
        B: HandlerBody,
    {
        self.panics.inc();
        tracing::error!("request panicked, answered 500");
        self.own(own_answer(StatusCode::INTERNAL_SERVER_ERROR, "fault"))
    }
}

impl<B> FastResponder for Service<B>
where
    B: HandlerBody,
{
    fn answer(&self, request: &SimpleRequest<'_>, out: &mut Vec<u8>) -> FastAnswer<FastBody> {
        let before = out.len();
        let handler = &self.state.handler;
        // If the handler panics, what it wrote is cut off.
        let called = AssertUnwindSafe(|| handler.fast_path(request, &self.connection, out));
        match catch_unwind(called) {
            Ok(FastAnswer::HeadWritten(body)) => {
                let active = ActiveRequest::begin(&self.deadlines);
                let (sent, panics) = (AnswerContent::Handler { body }, Arc::clone(&self.panics));
                FastAnswer::HeadWritten(Box::pin(BodyWriter::new(TrackedBody::new(
                    sent, active, panics,
                ))))
            }
            Ok(FastAnswer::Complete) => FastAnswer::Complete,
            Ok(FastAnswer::NotTaken) => FastAnswer::NotTaken,
            Err(_) => {
                self.panics.inc();
                tracing::error!("panic in the fast path; the request takes the usual path");
                out.truncate(before);
                FastAnswer::NotTaken
            }
        }
    }
}

/// Whether a request has a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestBody {
    Absent,
    Present,
}

/// Over HTTP/1 the framing of hyper decides, since hyper drops `Content-Length` beside
/// `Transfer-Encoding`. An HTTP/2 request may leave its end to an empty frame, so there the length
/// decides.
fn announced(request: &Request<Incoming>) -> RequestBody {
    let is_empty = if request.version() < Version::HTTP_2 {
        request.body().is_end_stream()
    } else {
        request.headers().get_all(CONTENT_LENGTH).iter().all(|length| length == "0")
    };
    if is_empty { RequestBody::Absent } else { RequestBody::Present }
}

/// Why a request is refused for its framing alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FramingRefusal {
    /// A GET or HEAD with a body: its framing is in doubt.
    Body,
    /// CONNECT: this is no tunnel.
    Connect,
    /// An `Expect` other than `100-continue` (RFC 9110 section 10.1.1).
    Expectation,
    /// More header fields than allowed.
    HeaderCount,
}

fn refusal(
    method: &Method,
    headers: &HeaderMap,
    body: RequestBody,
    headers_max: usize,
) -> Option<FramingRefusal> {
    let is_known =
        |expectation: &HeaderValue| expectation.as_bytes().eq_ignore_ascii_case(b"100-continue");
    // HTTP/2 splits one field into as many lines as there are cookies (RFC 9113 section 8.2.3).
    let cookies = headers.get_all(COOKIE).iter().count().saturating_sub(1);
    if headers.len().saturating_sub(cookies) > headers_max {
        Some(FramingRefusal::HeaderCount)
    } else if *method == Method::CONNECT {
        Some(FramingRefusal::Connect)
    } else if body == RequestBody::Present && (*method == Method::GET || *method == Method::HEAD) {
        Some(FramingRefusal::Body)
    } else if headers.keys().any(|name| *name == EXPECT)
        && !headers.get_all(EXPECT).iter().all(is_known)
    {
        Some(FramingRefusal::Expectation)
    } else {
        None
    }
}

impl FramingRefusal {
    /// The reason in metrics.
    const fn as_str(self) -> &'static str {
        match self {
            Self::Body => "request_body",
            Self::Connect => "connect",
            Self::Expectation => "expectation",
            Self::HeaderCount => "request_headers_max",
        }
    }

    const fn status(self) -> StatusCode {
        match self {
            Self::Body => StatusCode::BAD_REQUEST,
            Self::Connect => StatusCode::METHOD_NOT_ALLOWED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::HeaderCount => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        }
    }

    /// The whole answer; an HTTP/1 connection closes after it.
    fn response(self, version: Version) -> Response<Bytes> {
        let mut response = own_answer(self.status(), self.as_str());
        if version < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if self == Self::Connect {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}

/// An answer that this module makes itself. `detail` is a token (RFC 9110 section 5.6.2).
fn own_answer(status: StatusCode, detail: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(format!("{} ({detail})\n", status.as_u16())));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if let Ok(value) = HeaderValue::from_str(&format!("narthex; detail={detail}")) {
        headers.insert(CACHE_STATUS, value);
    }
    response
}

pin_project_lite::pin_project! {
    /// The body of an answer. Tells the deadlines of the connection when it is polled and ends.
    pub(super) struct TrackedBody<B> {
        #[pin]
        sent: AnswerContent<B>,
        active: ActiveRequest,
        panics: Arc<IntCounter>,
    }
}

pin_project_lite::pin_project! {
    #[project = AnswerContentProjection]
    enum AnswerContent<B> {
        Handler { #[pin] body: B },
        Own { bytes: Option<Bytes> },
    }
}

impl<B> AnswerContent<B> {
    fn own(bytes: Bytes) -> Self {
        Self::Own { bytes: Some(bytes) }
    }
}

impl<B: HandlerBody> TrackedBody<B> {
    fn new(sent: AnswerContent<B>, mut active: ActiveRequest, panics: Arc<IntCounter>) -> Self {
        if sent.is_end_stream() {
            active.finished();
        }
        Self { sent, active, panics }
    }
}

impl<B: HandlerBody> Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, io::Error>>> {
        let mut this = self.project();
        this.active.asked();
        // A body that panicked is not polled again: the error ends it.
        let polled = catch_unwind(AssertUnwindSafe(|| this.sent.as_mut().poll_frame(cx)));
        let Ok(polled) = polled else {
            this.panics.inc();
            tracing::error!("body of an answer panicked, connection cut");
            return Poll::Ready(Some(Err(io::Error::other("panic in an answer's body"))));
        };
        let frame = when_ready!(polled);
        if let Some(Ok(_)) = &frame {
            this.active.handed_over();
        }
        if frame.is_none() || this.sent.is_end_stream() {
            this.active.finished();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.sent.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.sent.size_hint()
    }
}

impl<B: HandlerBody> Body for AnswerContent<B> {
    type Data = B::Data;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, io::Error>>> {
        match self.project() {
            AnswerContentProjection::Handler { body } => body.poll_frame(cx),
            AnswerContentProjection::Own { bytes } => {
                Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b.into()))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Handler { body } => body.is_end_stream(),
            Self::Own { bytes } => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Handler { body } => body.size_hint(),
            Self::Own { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
        }
    }
}
