//! A connection that speaks HTTP/2: many requests at once. Lives until either side closes it; the
//! pool and every request on it hold a clone. No lock across an await.
//!
//! h2 is used without hyper's dispatcher, for three things that it hides: whether a stream was
//! processed when its connection goes away, whether a connection goes away before a request is
//! given to it, and how many streams the server permits. hyper also takes a body for whole if its
//! stream ends by NO_ERROR; here every end but the end of the stream is an error.

use super::error::ErrorChain;
use super::failure::{FailedRequest, Loss, RequestFate};
use super::gather::StreamData;
use super::limits::{AGE_MAX, CONNECTION_WINDOW_BYTES, HEAD_BYTES_MAX, STREAM_WINDOW_BYTES};
use super::upload::{CountedBody, Uploading};
use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::rt::{Executor, Read, Write};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::time::Instant;

/// Requests under way on one connection, if the server permits so many: below the 100 that servers
/// permit at least (RFC 9113 section 6.5.2), so that none is refused before its settings are known.
pub(super) const STREAMS_MAX: usize = 64;
/// A connection with requests on which nothing was heard for so long is asked for a sign of life.
const PING_AFTER: Duration = Duration::from_secs(20);
/// It is dead if it gives none within this long.
const PONG_WITHIN: Duration = Duration::from_secs(10);

/// A connection.
#[derive(Debug, Clone)]
pub(super) struct Http2 {
    sender: SendRequest<Bytes>,
    state: Arc<Http2State>,
}

/// What its clones share.
#[derive(Debug)]
struct Http2State {
    /// Requests under way.
    running: AtomicUsize,
    /// Requests that were ever given to it.
    given: AtomicUsize,
    /// Requests that the server took before it closed the connection: the streams below the first
    /// one that it left unprocessed. Read only once there is one.
    taken: AtomicUsize,
    /// Whether that is new since it was last read.
    has_taken: AtomicBool,
    has_answered: AtomicBool,
    /// Whether something came since it was last asked for.
    is_heard: AtomicBool,
    is_retired: AtomicBool,
    made: Instant,
    loss: Loss,
}

impl Http2State {
    fn new() -> Self {
        Self {
            running: AtomicUsize::new(0),
            given: AtomicUsize::new(0),
            taken: AtomicUsize::new(usize::MAX),
            has_taken: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
            is_heard: AtomicBool::new(false),
            is_retired: AtomicBool::new(false),
            made: Instant::now(),
            loss: Loss::default(),
        }
    }

    /// The server left this stream unprocessed, since it is closing the connection. A client's
    /// streams have odd numbers.
    fn left(&self, stream: u32) {
        let taken = (stream / 2) as usize;
        if taken < self.taken.fetch_min(taken, Ordering::Relaxed) {
            self.has_taken.store(true, Ordering::Relaxed);
        }
    }
}

impl Http2 {
    /// Takes `stream` into use.
    pub(super) async fn new<S>(stream: S) -> Result<Self, ErrorChain>
    where
        S: Read + Write + Unpin + Send + 'static,
    {
        let handshake = h2::client::Builder::new()
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
            .initial_max_send_streams(STREAMS_MAX)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, mut connection) = handshake.map_err(|error| ErrorChain::of(&error))?;
        let state = Arc::new(Http2State::new());
        let pings = connection.ping_pong();
        TokioExecutor::new().execute(drive(connection, pings, Arc::clone(&state)));
        Ok(Self { sender, state })
    }

    /// How many requests it can take now, if it can take `requests` in its life.
    pub(super) fn room(&self, requests: usize) -> usize {
        if self.is_closing() {
            return 0;
        }
        // One request waits for the server if that permits none now.
        let streams = self.streams_max().max(1).saturating_sub(self.running());
        streams.min(requests.saturating_sub(self.given()))
    }

    /// How many requests may be under way at once.
    pub(super) fn streams_max(&self) -> usize {
        self.sender.current_max_send_streams().min(STREAMS_MAX)
    }

    /// Whether it can take no further request: it has failed, the server has sent GOAWAY, it was
    /// retired, or it is old.
    pub(super) fn is_closing(&self) -> bool {
        let mut now = Context::from_waker(Waker::noop());
        // A clone has no request of its own in front of the stream limit, so it is never pending.
        let ready = self.sender.clone().poll_ready(&mut now);
        let is_retired = self.state.is_retired.load(Ordering::Relaxed);
        is_retired || self.state.made.elapsed() >= AGE_MAX || !matches!(ready, Poll::Ready(Ok(())))
    }

    /// Lets it take no further request; those under way go on.
    pub(super) fn retire(&self) {
        self.state.is_retired.store(true, Ordering::Relaxed);
    }

    /// Requests under way.
    pub(super) fn running(&self) -> usize {
        self.state.running.load(Ordering::Relaxed)
    }

    /// Requests that were ever given to it.
    pub(super) fn given(&self) -> usize {
        self.state.given.load(Ordering::Relaxed)
    }

    /// How many requests the server has taken before it closed the connection; `None` if it did
    /// not, or nothing is new since this was last asked.
    pub(super) fn taken(&self) -> Option<usize> {
        let is_news = self.state.has_taken.swap(false, Ordering::Relaxed);
        is_news.then(|| self.state.taken.load(Ordering::Relaxed))
    }

    /// Whether both are the same connection.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.state, &other.state)
    }

    /// Counts a request that is given to it.
    pub(super) fn begin(&self) {
        self.state.running.fetch_add(1, Ordering::Relaxed);
        self.state.given.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the end of a request.
    pub(super) fn end(&self) {
        self.state.running.fetch_sub(1, Ordering::Relaxed);
    }

    /// Takes back [`Http2::begin`]: the request was not made.
    pub(super) fn take_back(&self) {
        self.end();
        self.state.given.fetch_sub(1, Ordering::Relaxed);
    }

    /// Sends a request and waits for the head of its response.
    ///
    /// Dropping the future resets the stream.
    pub(super) async fn send(
        &self,
        request: Request<CountedBody>,
    ) -> Result<Response<Http2Body>, FailedRequest> {
        let (mut head, body) = request.into_parts();
        head.version = Version::HTTP_2;
        strip(&mut head.headers, body.size_hint().exact());
        let mut sender = self.sender.clone();
        if let Err(error) = poll_fn(|cx| sender.poll_ready(cx)).await {
            return Err(self.failure(&error, RequestStage::Unsent(body)));
        }
        let is_all = body.is_end_stream();
        let (response, stream) = match sender.send_request(Request::from_parts(head, ()), is_all) {
            Ok(sent) => sent,
            Err(error) => return Err(self.failure(&error, RequestStage::Unsent(body))),
        };
        let uploading = (!is_all).then(|| Uploading::begin(body, stream));
        let id = response.stream_id().as_u32();
        let response = response.await;
        let response = response.map_err(|error| self.failure(&error, RequestStage::Sent(id)))?;
        self.state.has_answered.store(true, Ordering::Relaxed);
        self.state.is_heard.store(true, Ordering::Relaxed);
        let state = Arc::clone(&self.state);
        let length = length(response.headers(), response.body());
        let end = BodyEnd::Ahead;
        Ok(response.map(|stream| Http2Body {
            pieces: StreamData::new(stream),
            _uploading: uploading,
            state,
            length,
            end,
        }))
    }

    /// What `error` says of a request.
    fn failure(&self, error: &h2::Error, stage: RequestStage) -> FailedRequest {
        let source = ErrorChain::of(error);
        let reason = error.reason().filter(|_| error.is_remote());
        let is_going_away = error.is_go_away() && reason == Some(Reason::NO_ERROR);
        let is_refused = error.is_reset() && reason == Some(Reason::REFUSED_STREAM);
        let is_of_connection = error.is_io() || error.is_go_away();
        let has_answered = self.state.has_answered.load(Ordering::Relaxed);
        let fate = match stage {
            RequestStage::Unsent(body) if is_going_away || (is_of_connection && has_answered) => {
                RequestFate::Unsent(body)
            }
            RequestStage::Sent(stream) if is_going_away => {
                self.state.left(stream);
                RequestFate::Unprocessed
            }
            RequestStage::Sent(_) if is_refused => RequestFate::Unprocessed,
            RequestStage::Unsent(_) | RequestStage::Sent(_) => RequestFate::Unknown,
        };
        if is_of_connection {
            FailedRequest { fate, source, loss: self.state.loss.clone() }
        } else {
            FailedRequest::of_one_request(fate, source)
        }
    }
}

/// How far a request has come.
enum RequestStage {
    /// Nowhere; here is its body.
    Unsent(CountedBody),
    /// To this stream.
    Sent(u32),
}

/// The body of a response on a stream.
#[derive(Debug)]
pub(super) struct Http2Body {
    pieces: StreamData,
    /// The request's own body, if it is not yet sent to its end.
    _uploading: Option<Uploading>,
    state: Arc<Http2State>,
    /// Bytes to come, if the head said so.
    length: Option<u64>,
    end: BodyEnd,
}

/// How far a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyEnd {
    Ahead,
    AfterTrailers,
    Reached,
}

impl Http2Body {
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let frame = ready!(self.poll_stream(cx)).transpose();
        self.state.is_heard.store(true, Ordering::Relaxed);
        if !matches!(frame, Some(Ok(_))) {
            self.end = BodyEnd::Reached;
        }
        Poll::Ready(frame)
    }

    fn poll_stream(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Frame<Bytes>>, h2::Error>> {
        if self.end == BodyEnd::Reached {
            return Poll::Ready(Ok(None));
        }
        if self.end == BodyEnd::Ahead {
            if let Some(bytes) = ready!(self.pieces.poll_data(cx))? {
                self.length = self.length.map(|left| left.saturating_sub(bytes.len() as u64));
                return Poll::Ready(Ok(Some(Frame::data(bytes))));
            }
            self.end = BodyEnd::AfterTrailers;
        }
        let trailers = ready!(self.pieces.poll_trailers(cx))?;
        Poll::Ready(Ok(trailers.map(Frame::trailers)))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.end == BodyEnd::Reached || self.pieces.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// Removes what HTTP/2 does not know (RFC 9113 section 8.2.2), and names the length of the body.
fn strip(headers: &mut HeaderMap, length: Option<u64>) {
    for name in [CONNECTION, TRANSFER_ENCODING, UPGRADE, TE, HOST] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
    if let Some(length) = length.filter(|length| *length > 0) {
        headers.entry(CONTENT_LENGTH).or_insert(length.into());
    }
}

/// The length that the head of a response names; h2 holds the body to it.
fn length(headers: &HeaderMap, stream: &RecvStream) -> Option<u64> {
    let named = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    named.or_else(|| stream.is_end_stream().then_some(0))
}

type H2Connection<S> = Connection<TokioIo<S>, Bytes>;

/// Moves the frames of a connection until it ends or is found dead.
async fn drive<S>(connection: H2Connection<S>, pings: Option<PingPong>, state: Arc<Http2State>)
where
    S: Read + Write + Unpin,
{
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(error = %ErrorChain::of(&error), "connection to an origin ended");
        },
        () = dead(pings, &state) => {
            tracing::debug!("connection to an origin timed out");
        }
    }
}

/// Ends if nothing comes on a connection with requests although it was asked for.
async fn dead(pings: Option<PingPong>, state: &Http2State) {
    let Some(mut pings) = pings else { return std::future::pending().await };
    let is_heard = || state.is_heard.swap(false, Ordering::Relaxed);
    loop {
        tokio::time::sleep(PING_AFTER).await;
        if is_heard() || state.running.load(Ordering::Relaxed) == 0 {
            continue;
        }
        let mut pong = std::pin::pin!(pings.ping(Ping::opaque()));
        loop {
            match tokio::time::timeout(PONG_WITHIN, &mut pong).await {
                Ok(Ok(_)) => break,
                // The connection ends by itself, for this or another reason.
                Ok(Err(_)) => return std::future::pending().await,
                Err(_) if is_heard() => {}
                Err(_) => return,
            }
        }
    }
}
