//! What all connections share: the settings, the handler, the counters, the limits, and the setup
//! of TLS and hyper. Made once. Only the start of the drain is set later; no locks.

use super::connection_deadlines::DeadlineSettings;
use super::connection_limits::{ConnectionLimits, connections_within, open_files_max};
use super::handler::Handler;
use crate::config::Server;
use crate::metrics::Metrics;
use crate::tasks::Tasks;
use hyper::rt::Executor;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioTimer;
use rustls::ServerConfig;
use std::fmt;
use std::sync::{Arc, OnceLock};
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

/// Bytes that hyper may hold of a body on an HTTP/1 connection. The buffer is never smaller than
/// the largest head.
const HTTP1_BUFFER_BYTES_MAX: usize = 128 * 1024;
/// The smallest buffer that hyper takes.
const HTTP1_BUFFER_BYTES_MIN: usize = 8 * 1024;
/// Bytes of a body that may wait on one HTTP/2 stream beside the present piece.
const STREAM_BUFFER_BYTES_MAX: usize = 32 * 1024;
/// The receive window of HTTP/2 streams and connections: requests have no bodies.
const WINDOW_BYTES: u32 = 65_535;
/// Streams that a client may reset before the handler sees them. Beyond that the connection ends
/// with GOAWAY (CVE-2023-44487).
const RESET_STREAMS_MAX: usize = 20;
/// Streams that faults of a client may make h2 reset, before GOAWAY (CVE-2025-8671).
const FAULTY_STREAMS_MAX: usize = 64;

/// What all connections share.
pub(super) struct FrontState<B> {
    pub(super) server: Server,
    pub(super) handler: Arc<dyn Handler<B>>,
    pub(super) metrics: Metrics,
    pub(super) tasks: Tasks,
    pub(super) connection_limits: Arc<ConnectionLimits>,
    pub(super) deadline_settings: DeadlineSettings,
    /// When the drain began.
    stopped_at: OnceLock<Instant>,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<Streams>,
}

impl<B> fmt::Debug for FrontState<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontState").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Runs HTTP/2 streams as tasks.
#[derive(Debug, Clone)]
pub(super) struct Streams(Tasks);

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        self.0.spawn("stream", stream);
    }
}

impl<B> FrontState<B> {
    pub(super) fn new(
        server: Server,
        tls: Option<Arc<ServerConfig>>,
        handler: Arc<dyn Handler<B>>,
        metrics: Metrics,
        tasks: Tasks,
    ) -> Self {
        let (limits, timeouts) = (&server.limits, &server.timeouts);
        Self {
            connection_limits: Arc::new(ConnectionLimits::new(
                limits.connections_max.min(connections_within(open_files_max())),
                limits.connections_per_address_max,
            )),
            deadline_settings: DeadlineSettings {
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

    /// The moment at which the drain is over. The first call is the beginning of the drain.
    pub(super) fn drain_ends(&self) -> Instant {
        *self.stopped_at.get_or_init(Instant::now) + self.server.timeouts.drain
    }

    /// Counts a connection that was closed for a limit or a fault of its client.
    pub(super) fn refused(&self, reason: &str) {
        self.metrics.connections_refused.with_label_values(&[reason]).inc();
    }
}

/// A client may close its side after its request is whole, and is still answered (RFC 9112 section
/// 9.6). [`ConnectionDeadlines`](super::connection_deadlines::ConnectionDeadlines) notice if it is
/// gone.
///
/// They keep the timeouts of heads and of idle connections too, since hyper's own timeout of a head
/// also runs while a kept connection is idle. `pipeline_flush` stays off: it copies every body.
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

/// hyper sends no PING to find clients that are gone. A PING would wait behind everything that a
/// slow client has yet to receive.
/// [`ConnectionDeadlines`](super::connection_deadlines::ConnectionDeadlines) find them.
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
