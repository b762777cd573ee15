//! One request at the door: what is refused for its framing alone, the handler's call, and the
//! answer's body as hyper polls it. A panic in the handler fails its request and nothing else.

use super::carry::Carried;
use super::express::{self, Ready};
use super::handler::AnswerBody;
use super::state::FrontState;
use super::watch::{UnderWay, Watch};
use crate::engine::{Answering, Connection, PlainRequest, Taken};
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
    pub(super) connection: Arc<Connection>,
    pub(super) watch: Arc<Watch>,
    /// The metric, counted on by this connection's answers alone.
    pub(super) panics: Arc<IntCounter>,
}

impl<B> hyper::service::Service<Request<Incoming>> for Service<B>
where
    B: AnswerBody,
{
    type Response = Response<Answer<B>>;
    type Error = Infallible;
    type Future = Either<future::Ready<Answered<B>>, BoxFuture<'static, Answered<B>>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let body = announced(&request);
        let is_one_at_a_time = request.version() < Version::HTTP_2;
        let entered = Entered {
            version: request.version(),
            awaited: (body == Announced::Some && is_one_at_a_time).then(|| {
                self.connection.awaits_body();
                Arc::clone(&self.connection)
            }),
            under_way: UnderWay::begin(&self.watch),
            panics: Arc::clone(&self.panics),
        };
        let state = &self.state;
        let headers_max = state.server.limits.request_headers_max;
        if let Some(refusal) = refusal(request.method(), request.headers(), body, headers_max) {
            state.metrics.requests_refused.with_label_values(&[refusal.as_str()]).inc();
            state.handler.refused(&request, refusal.status(), &self.connection);
            let response = refusal.response(entered.version);
            return Either::Left(ready(Ok(entered.own(response))));
        }
        // The handler's state is dropped with its panic: nobody sees it half changed.
        let called = AssertUnwindSafe(|| state.handler.answer(request, &self.connection));
        match catch_unwind(called) {
            Ok(Answering::Now(response)) => Either::Left(ready(Ok(entered.handlers(response)))),
            Err(_) => Either::Left(ready(Ok(entered.panicked()))),
            Ok(Answering::Later(answer)) => Either::Right(Box::pin(async move {
                Ok(match AssertUnwindSafe(answer).catch_unwind().await {
                    Ok(response) => entered.handlers(response),
                    Err(_) => entered.panicked(),
                })
            })),
        }
    }
}

type Answered<B> = Result<Response<Answer<B>>, Infallible>;

/// What the door keeps of a request until there is an answer.
struct Entered {
    version: Version,
    /// The connection, where a body comes on it that may be left unread.
    awaited: Option<Arc<Connection>>,
    under_way: UnderWay,
    panics: Arc<IntCounter>,
}

impl Entered {
    /// The handler's answer. An HTTP/1 connection ends after it, unless the request's body was read
    /// to its end.
    fn handlers<B>(self, response: Response<B>) -> Response<Answer<B>>
    where
        B: AnswerBody,
    {
        let (mut parts, body) = response.into_parts();
        // What is left of a body could be taken for a request.
        if self.awaited.is_some_and(|connection| !connection.is_body_read()) {
            parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let sent = Sent::Handler { body };
        Response::from_parts(parts, Answer::new(sent, self.under_way, self.panics))
    }

    /// An answer of the door itself.
    fn own<B>(self, response: Response<Bytes>) -> Response<Answer<B>>
    where
        B: AnswerBody,
    {
        let (parts, text) = response.into_parts();
        Response::from_parts(parts, Answer::new(Sent::own(text), self.under_way, self.panics))
    }

    /// The answer of a handler that panicked.
    fn panicked<B>(self) -> Response<Answer<B>>
    where
        B: AnswerBody,
    {
        self.panics.inc();
        tracing::error!("a request ended in a panic; its client got status 500");
        self.own(plain(StatusCode::INTERNAL_SERVER_ERROR, "fault"))
    }
}

impl<B> Ready for Service<B>
where
    B: AnswerBody,
{
    fn answer(&self, request: &PlainRequest<'_>, out: &mut Vec<u8>) -> Taken<express::Body> {
        let before = out.len();
        let handler = &self.state.handler;
        // What the handler may leave half done is cut off.
        let called = AssertUnwindSafe(|| handler.express(request, &self.connection, out));
        match catch_unwind(called) {
            Ok(Taken::Begun(body)) => {
                let under_way = UnderWay::begin(&self.watch);
                let (sent, panics) = (Sent::Handler { body }, Arc::clone(&self.panics));
                Taken::Begun(Box::pin(Carried::new(Answer::new(sent, under_way, panics))))
            }
            Ok(Taken::Answered) => Taken::Answered,
            Ok(Taken::Not) => Taken::Not,
            Err(_) => {
                self.panics.inc();
                tracing::error!("a panic in the short way of a request; it goes the long way now");
                out.truncate(before);
                Taken::Not
            }
        }
    }
}

/// Whether a request has a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Announced {
    None,
    Some,
}

/// hyper drops `Content-Length` beside `Transfer-Encoding`, so over HTTP/1 its own framing tells.
/// An HTTP/2 request may leave its end to an empty frame, so there the length does.
fn announced(request: &Request<Incoming>) -> Announced {
    let is_empty = if request.version() < Version::HTTP_2 {
        request.body().is_end_stream()
    } else {
        request.headers().get_all(CONTENT_LENGTH).iter().all(|length| length == "0")
    };
    if is_empty { Announced::None } else { Announced::Some }
}

/// Why a request is refused for its framing alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
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
    body: Announced,
    headers_max: usize,
) -> Option<Refusal> {
    let is_known =
        |expectation: &HeaderValue| expectation.as_bytes().eq_ignore_ascii_case(b"100-continue");
    // HTTP/2 splits one field into as many lines as there are cookies (RFC 9113 section 8.2.3).
    let cookies = headers.get_all(COOKIE).iter().count().saturating_sub(1);
    if headers.len().saturating_sub(cookies) > headers_max {
        Some(Refusal::HeaderCount)
    } else if *method == Method::CONNECT {
        Some(Refusal::Connect)
    } else if body == Announced::Some && (*method == Method::GET || *method == Method::HEAD) {
        Some(Refusal::Body)
    } else if headers.keys().any(|name| *name == EXPECT)
        && !headers.get_all(EXPECT).iter().all(is_known)
    {
        Some(Refusal::Expectation)
    } else {
        None
    }
}

impl Refusal {
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
        let mut response = plain(self.status(), self.as_str());
        if version < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if self == Self::Connect {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        }
        response
    }
}

/// An answer of the door itself; `detail` is a token (RFC 9110 section 5.6.2).
fn plain(status: StatusCode, detail: &'static str) -> Response<Bytes> {
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
    /// The body of an answer, watched.
    pub(super) struct Answer<B> {
        #[pin]
        sent: Sent<B>,
        under_way: UnderWay,
        panics: Arc<IntCounter>,
    }
}

pin_project_lite::pin_project! {
    #[project = SentProjection]
    enum Sent<B> {
        Handler { #[pin] body: B },
        Own { bytes: Option<Bytes> },
    }
}

impl<B> Sent<B> {
    fn own(bytes: Bytes) -> Self {
        Self::Own { bytes: Some(bytes) }
    }
}

impl<B: AnswerBody> Answer<B> {
    fn new(sent: Sent<B>, mut under_way: UnderWay, panics: Arc<IntCounter>) -> Self {
        if sent.is_end_stream() {
            under_way.finished();
        }
        Self { sent, under_way, panics }
    }
}

impl<B: AnswerBody> Body for Answer<B> {
    type Data = B::Data;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, io::Error>>> {
        let mut this = self.project();
        this.under_way.asked();
        // A body that panicked is not polled again: the error ends it.
        let polled = catch_unwind(AssertUnwindSafe(|| this.sent.as_mut().poll_frame(cx)));
        let Ok(polled) = polled else {
            this.panics.inc();
            tracing::error!("an answer's body ended in a panic; its client is cut off");
            return Poll::Ready(Some(Err(io::Error::other("panic in an answer's body"))));
        };
        let frame = when_ready!(polled);
        if let Some(Ok(_)) = &frame {
            this.under_way.handed_over();
        }
        if frame.is_none() || this.sent.is_end_stream() {
            this.under_way.finished();
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

impl<B: AnswerBody> Body for Sent<B> {
    type Data = B::Data;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, io::Error>>> {
        match self.project() {
            SentProjection::Handler { body } => body.poll_frame(cx),
            SentProjection::Own { bytes } => {
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
