//! One connection from accept to close: TLS, which protocol, hyper with every limit set, the
//! deadlines, the drain, and how it ends. Runs as one task per connection; HTTP/2 streams are
//! tasks of their own.

use super::accept::Accepted;
use super::admission::{Admission, connections_within, open_files_max};
use super::express::Ready;
use super::plain::HeadLimits;
use super::request::Service;
use super::secure::{More, Secure, Unflushed};
use super::socket::{Opening, Raw, Socket, Stream};
use super::watch::{Deadlines, Fault, Version, Watch};
use super::watchdog::Watchdog;
use super::{AnswerBody, Door, Handler};
use crate::config::Server;
use crate::engine::{Connection, Spans, Transport, Turns};
use crate::metrics::Metrics;
use crate::tasks::Tasks;
use http::StatusCode;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{CipherSuite, ProtocolVersion, ServerConfig, ServerConnection};
use std::error::Error as _;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::unconstrained;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Bytes of a body that hyper may hold for an HTTP/1 connection, and that a request's head may
/// never exceed.
const HTTP1_BUFFER_BYTES_MAX: usize = 128 * 1024;
/// The smallest buffer that hyper takes.
const HTTP1_BUFFER_BYTES_MIN: usize = 8 * 1024;
/// Bytes of a body that may wait on one HTTP/2 stream beside the piece in hand.
const STREAM_BUFFER_BYTES_MAX: usize = 32 * 1024;
/// The receive window of HTTP/2 streams and connections: requests have no bodies.
const WINDOW_BYTES: u32 = 65_535;
/// Streams that a client may reset before they were looked at, and that a client's faults may
/// make h2 reset, before the connection ends with GOAWAY (CVE-2023-44487, CVE-2025-8671).
const RESET_STREAMS_MAX: usize = 20;
/// See [`RESET_STREAMS_MAX`].
const FAULTY_STREAMS_MAX: usize = 64;
/// How long a client may take to close its side after it has the last answer.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// Bytes of a refused request that are read and thrown away, so that the refusal is not lost to a
/// reset.
const DISCARD_BYTES_MAX: u64 = 256 * 1024;
/// The answer to HTTP/2 by prior knowledge where it is not offered.
const NOT_HTTP2: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// What all connections share.
pub(super) struct Shared<B> {
    pub(super) server: Server,
    pub(super) handler: Arc<dyn Handler<B>>,
    pub(super) metrics: Metrics,
    pub(super) tasks: Tasks,
    pub(super) admission: Arc<Admission>,
    deadlines: Deadlines,
    /// When the drain began.
    stopped_at: OnceLock<Instant>,
    tls: Option<TlsAcceptor>,
    http1: http1::Builder,
    http2: http2::Builder<Streams>,
}

impl<B> fmt::Debug for Shared<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Runs HTTP/2 streams as tasks.
#[derive(Debug, Clone)]
struct Streams(Tasks);

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.spawn("stream", stream);
    }
}

impl<B> Shared<B> {
    pub(super) fn new(
        server: Server,
        tls: Option<Arc<ServerConfig>>,
        handler: Arc<dyn Handler<B>>,
        metrics: Metrics,
        tasks: Tasks,
    ) -> Self {
        let (limits, timeouts) = (&server.limits, &server.timeouts);
        Self {
            admission: Arc::new(Admission::new(
                limits.connections_max.min(connections_within(open_files_max())),
                limits.connections_per_address_max,
            )),
            deadlines: Deadlines {
                request_head: timeouts.request_head,
                idle: timeouts.idle,
                write_stall: timeouts.write_stall,
            },
            stopped_at: OnceLock::new(),
            tls: tls.map(TlsAcceptor::from),
            http1: http1_builder(&server),
            http2: http2_builder(&server, Streams(tasks.clone())),
            handler,
            metrics,
            tasks,
            server,
        }
    }

    /// When the drain that has begun is over.
    fn drain_ends(&self) -> Instant {
        *self.stopped_at.get_or_init(Instant::now) + self.server.timeouts.drain
    }

    /// Counts a connection that was closed for a limit or a fault of its client.
    pub(super) fn refused(&self, reason: &str) {
        self.metrics.connections_refused.with_label_values(&[reason]).inc();
    }
}

/// A client may close its side once its request is whole: it is answered all the same (RFC 9112
/// section 9.6), and the [`Watch`] notices if it is gone.
///
/// hyper's own timeout of a request's head also runs while a kept connection is idle, so the
/// [`Watch`] keeps both. `pipeline_flush` stays off: it copies every body.
fn http1_builder(server: &Server) -> http1::Builder {
    let head_bytes_max = server.limits.request_head_bytes_max;
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(None)
        .half_close(true)
        .keep_alive(true)
        .max_headers(server.limits.request_headers_max)
        .max_header_size(head_bytes_max)
        .max_buf_size(head_bytes_max.max(HTTP1_BUFFER_BYTES_MAX).max(HTTP1_BUFFER_BYTES_MIN));
    builder
}

/// No PING asks whether a client is still there: it would wait behind all that a slow one has yet
/// to receive. The [`Watch`] tells.
fn http2_builder(server: &Server, streams: Streams) -> http2::Builder<Streams> {
    let head_bytes_max = u32::try_from(server.limits.request_head_bytes_max).unwrap_or(u32::MAX);
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(server.limits.streams_max)
        .max_header_list_size(head_bytes_max)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(FAULTY_STREAMS_MAX)
        .adaptive_window(false)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES)
        .max_send_buf_size(STREAM_BUFFER_BYTES_MAX);
    builder
}

/// Serves an accepted connection to its end.
pub(super) async fn run<B>(accepted: Accepted, shared: Arc<Shared<B>>)
where
    B: AnswerBody,
{
    let Accepted { door, stream, peer, local, place } = accepted;
    // Dropped last: the connection counts until its socket is closed.
    let _place = place;
    let watch = Arc::new(Watch::new(shared.deadlines, Instant::now()));
    let raw = Raw::new(stream, Arc::clone(&watch));
    // A token of its own: every poll of the connection looks at it, and takes its lock.
    let stop = shared.tasks.stopping().child_token();
    let opened = tokio::select! {
        biased;
        () = stop.cancelled() => return,
        opened = open(door, raw, &watch, &shared) => opened,
    };
    let Some(Opened { socket, version, transport }) = opened else { return };
    watch.speaks(version);
    let served = Served { shared, watch, stop, peer, local, transport };
    match version {
        Version::Http1 => served.http1(socket).await,
        Version::Http2 => served.http2(socket).await,
    }
}

/// A connection whose protocol is known.
struct Opened {
    socket: Socket,
    version: Version,
    transport: Transport,
}

/// TLS and the protocol, each under its deadline; `None` where the connection is over.
async fn open<B>(door: Door, raw: Raw, watch: &Arc<Watch>, shared: &Shared<B>) -> Option<Opened> {
    let (stream, transport, alpn) = match (door, &shared.tls) {
        (Door::Plain, _) => (Stream::Plain(raw), Transport::Plain, Alpn::None),
        (Door::Tls, Some(acceptor)) => secure(raw, acceptor, shared).await?,
        (Door::Tls, None) => return None,
    };
    let mut socket = Socket::new(stream, Arc::clone(watch));
    if alpn == Alpn::Http2 {
        return Some(Opened { socket, version: Version::Http2, transport });
    }
    let opening = match timeout(shared.deadlines.request_head, socket.opening()).await {
        Ok(Ok(opening)) => opening,
        Ok(Err(_)) => return None,
        Err(_) => {
            shared.refused(Fault::RequestHead.as_str());
            return None;
        }
    };
    match opening {
        Opening::Closed => None,
        Opening::Other => Some(Opened { socket, version: Version::Http1, transport }),
        Opening::Preface if door == Door::Plain && shared.server.http2 => {
            Some(Opened { socket, version: Version::Http2, transport })
        }
        Opening::Preface => {
            shared.refused("preface");
            let _ = timeout(CLOSE_DEADLINE, socket.write_all(NOT_HTTP2)).await;
            close(socket, watch, &shared.tasks.stopping()).await;
            None
        }
    }
}

/// Whether the client chose HTTP/2 in the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alpn {
    None,
    Http2,
}

async fn secure<B>(
    raw: Raw,
    acceptor: &TlsAcceptor,
    shared: &Shared<B>,
) -> Option<(Stream, Transport, Alpn)> {
    let handshake = Box::pin(acceptor.accept(raw));
    let stream = match timeout(shared.server.timeouts.tls_handshake, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            shared.refused("tls_handshake");
            return None;
        }
        Err(_) => {
            shared.refused("tls_handshake_timeout");
            return None;
        }
    };
    let (_, session) = stream.get_ref();
    let transport = Transport::Tls { protocol: protocol(session), cipher: cipher(session) };
    let alpn = match session.alpn_protocol() {
        Some(b"h2") => Alpn::Http2,
        Some(_) | None => Alpn::None,
    };
    Some((Stream::Tls(Secure::new(stream)), transport, alpn))
}

fn protocol(session: &ServerConnection) -> &'static str {
    match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2",
        Some(_) | None => "",
    }
}

/// The IANA name; rustls gives those of TLS 1.3 names of its own.
fn cipher(session: &ServerConnection) -> &'static str {
    match session.negotiated_cipher_suite().map(|suite| suite.suite()) {
        Some(CipherSuite::TLS13_AES_128_GCM_SHA256) => "TLS_AES_128_GCM_SHA256",
        Some(CipherSuite::TLS13_AES_256_GCM_SHA384) => "TLS_AES_256_GCM_SHA384",
        Some(CipherSuite::TLS13_CHACHA20_POLY1305_SHA256) => "TLS_CHACHA20_POLY1305_SHA256",
        Some(suite) => suite.as_str().unwrap_or(""),
        None => "",
    }
}

/// What a connection needs while it is served.
struct Served<B> {
    shared: Arc<Shared<B>>,
    watch: Arc<Watch>,
    stop: CancellationToken,
    peer: SocketAddr,
    local: SocketAddr,
    transport: Transport,
}

/// How serving a connection ended.
#[derive(Debug)]
enum Ended {
    /// As the protocol wants.
    Served,
    /// hyper gave up.
    Failed(hyper::Error),
    /// The socket failed below hyper.
    Lost,
    /// A deadline passed.
    Fault(Fault),
    /// The drain's deadline passed.
    Drained,
}

impl<B> Served<B>
where
    B: AnswerBody,
{
    async fn http1(self, mut socket: Socket) {
        let connection = self.connection(Version::Http1);
        let limits = &self.shared.server.limits;
        let limits = HeadLimits {
            bytes_max: limits.request_head_bytes_max,
            fields_max: limits.request_headers_max,
        };
        let service = Arc::new(self.service(&connection));
        let ready = Arc::clone(&service) as Arc<dyn Ready>;
        let unflushed = socket.speaks_http1(&connection, ready, limits);
        let mut http = self.shared.http1.serve_connection(TokioIo::new(socket), service);
        let ended = self.drive(&mut http, unflushed).await;
        self.count(&ended, &connection);
        // The library takes a failure of the short way for an end between two requests.
        let is_reset = connection.is_cut()
            || self.watch.is_carrying()
            || match &ended {
                Ended::Served => false,
                // hyper has answered a request that it could not parse, and nothing else.
                Ended::Failed(error) if error.is_parse() => false,
                // The client ended within its next request.
                Ended::Failed(error) if error.is_incomplete_message() => self.watch.is_answering(),
                Ended::Failed(_) => true,
                Ended::Lost | Ended::Fault(_) | Ended::Drained => self.watch.is_answering(),
            };
        if is_reset {
            self.watch.end_reset();
            return;
        }
        let socket = http.into_parts().io.into_inner();
        tokio::select! {
            biased;
            () = close(socket, &self.watch, &self.stop) => {}
            () = self.drained() => {}
        }
    }

    async fn http2(self, mut socket: Socket) {
        let connection = self.connection(Version::Http2);
        let unflushed = socket.speaks_http2(&connection);
        let service = self.service(&connection);
        let mut http = self.shared.http2.serve_connection(TokioIo::new(socket), service);
        let ended = self.drive(&mut http, unflushed).await;
        self.count(&ended, &connection);
        match &ended {
            // Not a broken connection but a broken rule, or one of h2's limits.
            Ended::Failed(error) if !is_io(error) => self.shared.refused("http2"),
            Ended::Served | Ended::Failed(_) | Ended::Lost | Ended::Fault(_) | Ended::Drained => {}
        }
        match &ended {
            _ if connection.is_broken() => self.watch.end_reset(),
            // hyper has said GOAWAY; single streams were reset by it.
            Ended::Served | Ended::Failed(_) | Ended::Fault(Fault::Idle) => {
                self.watch.end_clean();
                // A client that says anything to a closed socket has it reset, with all in it.
                tokio::select! {
                    biased;
                    () = self.drained() => {}
                    () = self.watch.stalled() => {}
                    () = self.watch.acknowledged() => {}
                }
            }
            Ended::Lost | Ended::Fault(_) => self.watch.end_reset(),
            Ended::Drained if self.watch.is_answering() => self.watch.end_reset(),
            Ended::Drained => self.watch.end_clean(),
        }
    }

    /// Ready when a drain is over.
    async fn drained(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep_until(self.shared.drain_ends()).await;
    }

    fn connection(&self, version: Version) -> Arc<Connection> {
        let connection = Connection::new(self.peer, self.local, self.transport.clone());
        Arc::new(match (&self.transport, version) {
            (Transport::Plain, Version::Http1) => connection
                .with_interims()
                .with_spans(Spans::new(self.shared.metrics.sendfile_bytes.clone())),
            (Transport::Tls { .. }, Version::Http1) => connection.with_interims(),
            (Transport::Plain | Transport::Tls { .. }, Version::Http2) => {
                connection.with_turns(Turns::Pieces)
            }
        })
    }

    fn service(&self, connection: &Arc<Connection>) -> Service<B> {
        Service {
            shared: Arc::clone(&self.shared),
            connection: Arc::clone(connection),
            watch: Arc::clone(&self.watch),
            panics: Arc::new(self.shared.metrics.request_panics.clone()),
        }
    }

    /// Runs the protocol until it ends, a deadline passes, or the drain is over. What it wrote to
    /// `unflushed` is flushed after each poll; it ends as the protocol wants only when all of that
    /// has gone, however slow the client is.
    async fn drive<P: Http>(&self, http: &mut P, mut unflushed: Option<Unflushed>) -> Ended {
        let mut watchdog = Watchdog::new(Arc::clone(&self.watch));
        let mut stopping = pin!(self.stop.cancelled());
        let mut heard: Option<Waker> = None;
        let mut drain = None;
        let mut is_winding_down = false;
        let mut is_served = false;
        poll_fn(|cx| {
            loop {
                self.watch.poll_begins();
                let served = if is_served { Poll::Ready(Ok(())) } else { http.poll_served(cx) };
                is_served = matches!(served, Poll::Ready(Ok(())));
                let more = if is_served { More::Unexpected } else { self.more() };
                let rest = unflushed.as_mut();
                let flushed = rest.map_or(Poll::Ready(Ok(())), |rest| rest.poll_flush(cx, more));
                let ended = self.watch.poll_ends();
                if let Poll::Ready(Err(error)) = served {
                    return Poll::Ready(Ended::Failed(error));
                }
                if let Poll::Ready(Err(error)) = flushed {
                    tracing::debug!(%error, peer = %self.peer, "connection lost");
                    return Poll::Ready(Ended::Lost);
                }
                if is_served && flushed.is_ready() {
                    return Poll::Ready(Ended::Served);
                }
                match watchdog.poll(cx, ended) {
                    Poll::Ready(Fault::Idle) if !is_winding_down => {
                        is_winding_down = true;
                        http.wind_down();
                        watchdog.snooze(CLOSE_DEADLINE);
                        continue;
                    }
                    Poll::Ready(fault) => return Poll::Ready(Ended::Fault(fault)),
                    Poll::Pending => {}
                }
                if drain.is_some() && !is_winding_down && self.watch.may_wind_down() {
                    is_winding_down = true;
                    http.wind_down();
                    continue;
                }
                let Some(drain) = &mut drain else {
                    // Whoever waits for the stop already only looks: that is cheaper.
                    let waits = heard.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
                    if waits && !self.stop.is_cancelled() {
                        return Poll::Pending;
                    }
                    if stopping.as_mut().poll(cx).is_pending() {
                        heard = Some(cx.waker().clone());
                        return Poll::Pending;
                    }
                    // What has begun of a request reaches it first.
                    self.watch.wind_down();
                    let ends = tokio::time::sleep_until(self.shared.drain_ends());
                    // What was just written must not use up the share of the one that ends it.
                    drain = Some(Box::pin(unconstrained(ends)));
                    continue;
                };
                return drain.as_mut().poll(cx).map(|()| Ended::Drained);
            }
        })
        .await
    }

    fn more(&self) -> More {
        if self.watch.has_requests() { More::Expected } else { More::Unexpected }
    }

    fn count(&self, ended: &Ended, connection: &Arc<Connection>) {
        match ended {
            Ended::Served | Ended::Lost | Ended::Fault(Fault::Idle | Fault::Gone) => {}
            Ended::Failed(error) => {
                tracing::debug!(%error, peer = %self.peer, "connection failed");
                if error.is_parse() {
                    let (reason, status) = if error.is_parse_too_large() {
                        ("request_too_large", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
                    } else {
                        ("malformed", StatusCode::BAD_REQUEST)
                    };
                    self.shared.metrics.requests_refused.with_label_values(&[reason]).inc();
                    self.shared.handler.unreadable(status, connection);
                }
            }
            Ended::Fault(fault) => {
                tracing::debug!(?fault, peer = %self.peer, "connection ended");
                self.shared.refused(fault.as_str());
            }
            Ended::Drained => {
                tracing::info!(peer = %self.peer, "connection cut: the drain is over");
                self.shared.refused("drain");
            }
        }
    }
}

fn is_io(error: &hyper::Error) -> bool {
    error.source().and_then(|source| source.downcast_ref::<io::Error>()).is_some()
}

/// Half-closes, and closes when the client has acknowledged all that was written and has closed its
/// side, or was given time for that. What it still sends is read: a socket closed over unread bytes
/// would be reset, and the last answer could be lost. Ends early if the client takes nothing.
async fn close(mut socket: Socket, watch: &Watch, stop: &CancellationToken) {
    watch.end_clean();
    let closed = async {
        socket.shutdown().await?;
        socket.takes_no_more();
        let (mut rest, mut sink) = (socket.take(DISCARD_BYTES_MAX), tokio::io::sink());
        let is_over = async {
            watch.acknowledged().await;
            let _ = timeout(CLOSE_DEADLINE, stop.cancelled()).await;
        };
        tokio::select! {
            _ = tokio::io::copy(&mut rest, &mut sink) => {}
            () = is_over => {}
        }
        watch.acknowledged().await;
        io::Result::Ok(())
    };
    tokio::select! {
        biased;
        () = watch.stalled() => {}
        // If anything goes wrong, the socket is dropped all the same.
        _ = closed => {}
    }
}

/// A connection of hyper's.
trait Http {
    /// Ready when nothing more is to be served.
    fn poll_served(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>>;
    /// Takes no further request.
    fn wind_down(&mut self);
}

impl<B> Http for http1::Connection<TokioIo<Socket>, Arc<Service<B>>>
where
    B: AnswerBody,
{
    fn poll_served(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.poll_without_shutdown(cx)
    }

    fn wind_down(&mut self) {
        Pin::new(self).graceful_shutdown();
    }
}

impl<B> Http for http2::Connection<TokioIo<Socket>, Service<B>, Streams>
where
    B: AnswerBody,
{
    fn poll_served(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        Pin::new(self).poll(cx)
    }

    fn wind_down(&mut self) {
        Pin::new(self).graceful_shutdown();
    }
}
