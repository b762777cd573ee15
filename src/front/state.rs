//! What all connections share: the settings, the handler, the counters, the limits, and how TLS and
//! hyper are set up. Made once; only the moment of the drain is set later. No locks.

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

    /// When the drain that has begun is over.
    pub(super) fn drain_ends(&self) -> Instant {
        *self.stopped_at.get_or_init(Instant::now) + self.server.timeouts.drain
    }

    /// Counts a connection that was closed for a limit or a fault of its client.
    pub(super) fn refused(&self, reason: &str) {
        self.metrics.connections_refused.with_label_values(&[reason]).inc();
    }
}

/// A client may close its side once its request is whole: it is answered all the same (RFC 9112
/// section 9.6), and the [`Watch`](super::watch::Watch) notices if it is gone.
///
/// hyper's own timeout of a request's head also runs while a kept connection is idle, so the
/// [`Watch`](super::watch::Watch) keeps both. `pipeline_flush` stays off: it copies every body.
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
/// to receive. The [`Watch`](super::watch::Watch) tells.
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
