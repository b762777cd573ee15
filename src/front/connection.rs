//! One connection from accept to close: TLS, the choice of the protocol, hyper, the deadlines, the
//! drain, and the end. One task for each connection; HTTP/2 streams are tasks of their own.

use super::connection_deadlines::{ConnectionDeadlines, ConnectionFault, ConnectionProtocol};
use super::connection_limits::AcceptedConnection;
use super::fast_path::FastResponder;
use super::handler::{Door, HandlerBody};
use super::request::Service;
use super::simple_request::HeadLimits;
use super::socket::{ClientStream, Opening, Socket};
use super::state::{FrontState, Streams};
use super::tcp_socket::TcpSocket;
use super::tls_records::{MoreOutput, TlsFlush, TlsRecords};
use super::watchdog::Watchdog;
use crate::engine::{AnswerOrder, ClientConnection, SendfileQueue, Transport};
use http::StatusCode;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use rustls::{CipherSuite, ProtocolVersion, ServerConnection};
use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::unconstrained;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// How long a client may take to close its side after it has the last answer.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);
/// Bytes of a refused request that are read and dropped, so that no reset discards the refusal.
const DISCARD_BYTES_MAX: u64 = 256 * 1024;
/// The answer to HTTP/2 by prior knowledge if it is not offered.
const NOT_HTTP2: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// Serves an accepted connection to its end.
pub(super) async fn run<B>(accepted: AcceptedConnection, state: Arc<FrontState<B>>)
where
    B: HandlerBody,
{
    let AcceptedConnection { door, stream, peer, local, guard } = accepted;
    // Dropped last: the connection counts until its socket is closed.
    let _guard = guard;
    let deadlines = Arc::new(ConnectionDeadlines::new(state.deadline_settings, Instant::now()));
    let raw = TcpSocket::new(stream, Arc::clone(&deadlines));
    // A token of its own, since every poll of the connection takes the lock of its token.
    let stop = state.tasks.stopping().child_token();
    let opened = tokio::select! {
        biased;
        () = stop.cancelled() => return,
        opened = open(door, raw, &deadlines, &state) => opened,
    };
    let Some(NegotiatedSocket { socket, version, transport }) = opened else { return };
    deadlines.speaks(version);
    let served = ConnectionTask { state, deadlines, stop, peer, local, transport };
    match version {
        ConnectionProtocol::Http1 => served.http1(socket).await,
        ConnectionProtocol::Http2 => served.http2(socket).await,
    }
}

/// A connection after its protocol is known.
struct NegotiatedSocket {
    socket: Socket,
    version: ConnectionProtocol,
    transport: Transport,
}

/// Finds out TLS and the protocol, each under its deadline; `None` if the connection is over.
async fn open<B>(
    door: Door,
    raw: TcpSocket,
    deadlines: &Arc<ConnectionDeadlines>,
    state: &FrontState<B>,
) -> Option<NegotiatedSocket> {
    let (stream, transport, alpn) = match (door, &state.tls) {
        (Door::Plain, _) => (ClientStream::Plain(raw), Transport::Plain, Alpn::None),
        (Door::Tls, Some(acceptor)) => tls_handshake(raw, acceptor, state).await?,
        (Door::Tls, None) => return None,
    };
    let mut socket = Socket::new(stream, Arc::clone(deadlines));
    if alpn == Alpn::Http2 {
        return Some(NegotiatedSocket { socket, version: ConnectionProtocol::Http2, transport });
    }
    let opening = match timeout(state.deadline_settings.request_head, socket.opening()).await {
        Ok(Ok(opening)) => opening,
        Ok(Err(_)) => return None,
        Err(_) => {
            state.refused(ConnectionFault::RequestHead.as_str());
            return None;
        }
    };
    match opening {
        Opening::Closed => None,
        Opening::Other => {
            Some(NegotiatedSocket { socket, version: ConnectionProtocol::Http1, transport })
        }
        Opening::Preface if door == Door::Plain && state.server.http2 => {
            Some(NegotiatedSocket { socket, version: ConnectionProtocol::Http2, transport })
        }
        Opening::Preface => {
            state.refused("preface");
            let _ = timeout(CLOSE_DEADLINE, socket.write_all(NOT_HTTP2)).await;
            close(socket, deadlines, &state.tasks.stopping()).await;
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

async fn tls_handshake<B>(
    raw: TcpSocket,
    acceptor: &TlsAcceptor,
    state: &FrontState<B>,
) -> Option<(ClientStream, Transport, Alpn)> {
    let handshake = Box::pin(acceptor.accept(raw));
    let stream = match timeout(state.server.timeouts.tls_handshake, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake failed");
            state.refused("tls_handshake");
            return None;
        }
        Err(_) => {
            state.refused("tls_handshake_timeout");
            return None;
        }
    };
    let (_, session) = stream.get_ref();
    let transport = Transport::Tls { protocol: protocol(session), cipher: cipher(session) };
    let alpn = match session.alpn_protocol() {
        Some(b"h2") => Alpn::Http2,
        Some(_) | None => Alpn::None,
    };
    Some((ClientStream::Tls(TlsRecords::new(stream)), transport, alpn))
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
struct ConnectionTask<B> {
    state: Arc<FrontState<B>>,
    deadlines: Arc<ConnectionDeadlines>,
    stop: CancellationToken,
    peer: SocketAddr,
    local: SocketAddr,
    transport: Transport,
}

/// How serving a connection ended.
#[derive(Debug)]
enum ConnectionEnd {
    /// As the protocol wants.
    Served,
    /// hyper gave up.
    Failed(hyper::Error),
    /// The socket failed below hyper.
    Lost,
    /// A deadline passed.
    Fault(ConnectionFault),
    /// The drain's deadline passed.
    Drained,
}

impl<B> ConnectionTask<B>
where
    B: HandlerBody,
{
    async fn http1(self, mut socket: Socket) {
        let connection = self.connection(ConnectionProtocol::Http1);
        let limits = &self.state.server.limits;
        let limits = HeadLimits {
            bytes_max: limits.request_head_bytes_max,
            fields_max: limits.request_headers_max,
        };
        let service = Arc::new(self.service(&connection));
        let ready = Arc::clone(&service) as Arc<dyn FastResponder>;
        let unflushed = socket.speaks_http1(&connection, ready, limits);
        let mut http = self.state.http1.serve_connection(TokioIo::new(socket), service);
        let ended = self.drive(&mut http, unflushed).await;
        self.count(&ended, &connection);
        // hyper takes a failure of the fast path for an end between two requests.
        let is_reset = connection.is_cut()
            || self.deadlines.is_fast_path_writing()
            || match &ended {
                ConnectionEnd::Served => false,
                // hyper has answered a request that it could not parse, and nothing else.
                ConnectionEnd::Failed(error) if error.is_parse() => false,
                // The client ended within its next request.
                ConnectionEnd::Failed(error) if error.is_incomplete_message() => {
                    self.deadlines.is_answering()
                }
                ConnectionEnd::Failed(_) => true,
                ConnectionEnd::Lost | ConnectionEnd::Fault(_) | ConnectionEnd::Drained => {
                    self.deadlines.is_answering()
                }
            };
        if is_reset {
            self.deadlines.end_reset();
            return;
        }
        let socket = http.into_parts().io.into_inner();
        tokio::select! {
            biased;
            () = close(socket, &self.deadlines, &self.stop) => {}
            () = self.drained() => {}
        }
    }

    async fn http2(self, mut socket: Socket) {
        let connection = self.connection(ConnectionProtocol::Http2);
        let unflushed = socket.speaks_http2(&connection);
        let service = self.service(&connection);
        let mut http = self.state.http2.serve_connection(TokioIo::new(socket), service);
        let ended = self.drive(&mut http, unflushed).await;
        self.count(&ended, &connection);
        match &ended {
            // The client broke a rule, or met one of h2's limits.
            ConnectionEnd::Failed(error) if !is_io(error) => self.state.refused("http2"),
            ConnectionEnd::Served
            | ConnectionEnd::Failed(_)
            | ConnectionEnd::Lost
            | ConnectionEnd::Fault(_)
            | ConnectionEnd::Drained => {}
        }
        match &ended {
            _ if connection.is_broken() => self.deadlines.end_reset(),
            // hyper has said GOAWAY; single streams were reset by it.
            ConnectionEnd::Served
            | ConnectionEnd::Failed(_)
            | ConnectionEnd::Fault(ConnectionFault::Idle) => {
                self.deadlines.end_clean();
                // A client that sends to a closed socket gets a reset, which discards what it has
                // not read.
                tokio::select! {
                    biased;
                    () = self.drained() => {}
                    () = self.deadlines.stalled() => {}
                    () = self.deadlines.acknowledged() => {}
                }
            }
            ConnectionEnd::Lost | ConnectionEnd::Fault(_) => self.deadlines.end_reset(),
            ConnectionEnd::Drained if self.deadlines.is_answering() => self.deadlines.end_reset(),
            ConnectionEnd::Drained => self.deadlines.end_clean(),
        }
    }

    /// Ready when a drain is over.
    async fn drained(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep_until(self.state.drain_ends()).await;
    }

    fn connection(&self, version: ConnectionProtocol) -> Arc<ClientConnection> {
        let connection = ClientConnection::new(self.peer, self.local, self.transport.clone());
        Arc::new(match (&self.transport, version) {
            (Transport::Plain, ConnectionProtocol::Http1) => connection
                .with_interims()
                .with_sendfile_queue(SendfileQueue::new(self.state.metrics.sendfile_bytes.clone())),
            (Transport::Tls { .. }, ConnectionProtocol::Http1) => connection.with_interims(),
            (Transport::Plain | Transport::Tls { .. }, ConnectionProtocol::Http2) => {
                connection.with_order(AnswerOrder::Interleaved)
            }
        })
    }

    fn service(&self, connection: &Arc<ClientConnection>) -> Service<B> {
        Service {
            state: Arc::clone(&self.state),
            connection: Arc::clone(connection),
            deadlines: Arc::clone(&self.deadlines),
            panics: Arc::new(self.state.metrics.request_panics.clone()),
        }
    }

    /// Runs the protocol until it ends, a deadline passes, or the drain is over. What it leaves in
    /// `unflushed` is flushed after each poll. It ends as the protocol wants only after all of that
    /// is sent, however slow the client is.
    async fn drive<P: Http>(&self, http: &mut P, mut unflushed: Option<TlsFlush>) -> ConnectionEnd {
        let mut watchdog = Watchdog::new(Arc::clone(&self.deadlines));
        let mut stopping = pin!(self.stop.cancelled());
        let mut heard: Option<Waker> = None;
        let mut drain = None;
        let mut is_winding_down = false;
        let mut is_served = false;
        poll_fn(|cx| {
            loop {
                self.deadlines.poll_begins();
                let served = if is_served { Poll::Ready(Ok(())) } else { http.poll_served(cx) };
                is_served = matches!(served, Poll::Ready(Ok(())));
                let more = if is_served { MoreOutput::Unexpected } else { self.more() };
                let rest = unflushed.as_mut();
                let flushed = rest.map_or(Poll::Ready(Ok(())), |rest| rest.poll_flush(cx, more));
                let ended = self.deadlines.poll_ends();
                if let Poll::Ready(Err(error)) = served {
                    return Poll::Ready(ConnectionEnd::Failed(error));
                }
                if let Poll::Ready(Err(error)) = flushed {
                    tracing::debug!(%error, peer = %self.peer, "connection lost");
                    return Poll::Ready(ConnectionEnd::Lost);
                }
                if is_served && flushed.is_ready() {
                    return Poll::Ready(ConnectionEnd::Served);
                }
                match watchdog.poll(cx, ended) {
                    Poll::Ready(ConnectionFault::Idle) if !is_winding_down => {
                        is_winding_down = true;
                        http.wind_down();
                        watchdog.snooze(CLOSE_DEADLINE);
                        continue;
                    }
                    Poll::Ready(fault) => return Poll::Ready(ConnectionEnd::Fault(fault)),
                    Poll::Pending => {}
                }
                if drain.is_some() && !is_winding_down && self.deadlines.may_wind_down() {
                    is_winding_down = true;
                    http.wind_down();
                    continue;
                }
                let Some(drain) = &mut drain else {
                    // A task that already waits for the stop only looks at it, which is cheaper.
                    let waits = heard.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()));
                    if waits && !self.stop.is_cancelled() {
                        return Poll::Pending;
                    }
                    if stopping.as_mut().poll(cx).is_pending() {
                        heard = Some(cx.waker().clone());
                        return Poll::Pending;
                    }
                    // The beginning of a request reaches hyper first.
                    self.deadlines.wind_down();
                    let ends = tokio::time::sleep_until(self.state.drain_ends());
                    // Unconstrained, since the writes may have used up the budget of this poll.
                    drain = Some(Box::pin(unconstrained(ends)));
                    continue;
                };
                return drain.as_mut().poll(cx).map(|()| ConnectionEnd::Drained);
            }
        })
        .await
    }

    fn more(&self) -> MoreOutput {
        if self.deadlines.has_requests() { MoreOutput::Expected } else { MoreOutput::Unexpected }
    }

    fn count(&self, ended: &ConnectionEnd, connection: &Arc<ClientConnection>) {
        match ended {
            ConnectionEnd::Served
            | ConnectionEnd::Lost
            | ConnectionEnd::Fault(ConnectionFault::Idle | ConnectionFault::Gone) => {}
            ConnectionEnd::Failed(error) => {
                tracing::debug!(%error, peer = %self.peer, "connection failed");
                if error.is_parse() {
                    let (reason, status) = if error.is_parse_too_large() {
                        ("request_too_large", StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
                    } else {
                        ("malformed", StatusCode::BAD_REQUEST)
                    };
                    self.state.metrics.requests_refused.with_label_values(&[reason]).inc();
                    self.state.handler.unreadable(status, connection);
                }
            }
            ConnectionEnd::Fault(fault @ ConnectionFault::ControlFrames) => {
                tracing::info!(peer = %self.peer, "client floods frames of control");
                self.state.refused(fault.as_str());
            }
            ConnectionEnd::Fault(fault) => {
                tracing::debug!(?fault, peer = %self.peer, "connection ended");
                self.state.refused(fault.as_str());
            }
            ConnectionEnd::Drained => {
                tracing::info!(peer = %self.peer, "connection cut, the drain is over");
                self.state.refused("drain");
            }
        }
    }
}

fn is_io(error: &hyper::Error) -> bool {
    error.source().and_then(|source| source.downcast_ref::<io::Error>()).is_some()
}

/// Closes the sending side. Closes the rest when the client has acknowledged all and has closed its
/// side, or had time for that. What it still sends is read: a socket that is closed over unread
/// bytes is reset, and the last answer could be lost. Ends early if the client acknowledges
/// nothing.
async fn close(mut socket: Socket, deadlines: &ConnectionDeadlines, stop: &CancellationToken) {
    deadlines.end_clean();
    let closed = async {
        socket.shutdown().await?;
        socket.takes_no_more();
        let (mut rest, mut sink) = (socket.take(DISCARD_BYTES_MAX), tokio::io::sink());
        let is_over = async {
            deadlines.acknowledged().await;
            let _ = timeout(CLOSE_DEADLINE, stop.cancelled()).await;
        };
        tokio::select! {
            _ = tokio::io::copy(&mut rest, &mut sink) => {}
            () = is_over => {}
        }
        deadlines.acknowledged().await;
        io::Result::Ok(())
    };
    tokio::select! {
        biased;
        () = deadlines.stalled() => {}
        // If anything goes wrong, the socket is dropped all the same.
        _ = closed => {}
    }
}

/// What the two protocols of hyper have in common.
trait Http {
    /// Ready when nothing more is to be served.
    fn poll_served(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>>;
    /// Takes no further request.
    fn wind_down(&mut self);
}

impl<B> Http for http1::Connection<TokioIo<Socket>, Arc<Service<B>>>
where
    B: HandlerBody,
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
    B: HandlerBody,
{
    fn poll_served(&mut self, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        Pin::new(self).poll(cx)
    }

    fn wind_down(&mut self) {
        Pin::new(self).graceful_shutdown();
    }
}
