//! HTTP clients towards origins: pooled keep-alive connections, TLS, HTTP/1.1 and HTTP/2, and
//! the deadlines of connecting and of the first byte. One client per origin, made once, as long
//! lived as the configuration; cloning shares the pool; no lock across an await. Called by
//! `origin` alone.

mod connector;
pub mod trust;
mod upload;

pub use trust::{Trust, TrustError, Trusts};

use bytes::Bytes;
use connector::DeadlineConnector;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, Request, response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::{CaptureConnection, capture_connection};
use hyper_util::client::legacy::{Client as Pool, Error as PoolError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use upload::{Progress, Upload};

/// A request to an origin.
pub type OutboundRequest = Request<OutboundBody>;

/// The body of a request to an origin.
pub type OutboundBody = UnsyncBoxBody<Bytes, BoxError>;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// No body; takes no memory.
pub fn no_body() -> OutboundBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Requests under way on one lane before the next lane is used: below the 100 streams that
/// HTTP/2 servers allow at least (RFC 9113 section 6.5.2), since a pool keeps one HTTP/2
/// connection for each host.
const REQUESTS_PER_LANE: usize = 64;
/// An idle connection is closed after this long.
const IDLE: Duration = Duration::from_secs(75);
/// Header fields of a response.
const HEADERS_MAX: usize = 100;
/// Bytes of a response's head, each field counted with its separators.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The read buffer of an HTTP/1 connection.
const READ_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// What an HTTP/2 server may send ahead on one stream.
const STREAM_WINDOW_BYTES: u32 = 2 * 1024 * 1024;
/// What an HTTP/2 server may send ahead on one connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// What is asked of the allocator once and given back; see [`keep_buffers`].
const KEPT_BYTES: usize = 4 * 1024 * 1024;

/// Deadlines and sizes of a client.
#[derive(Debug, Clone, Copy)]
pub struct ClientSettings {
    /// Until a connection stands: name resolution, TCP and TLS together.
    pub connect: Duration,
    /// From a standing connection to the response's head.
    pub first_byte: Duration,
    /// Requests that its user will have under way at once.
    pub requests_max: usize,
}

/// A pooled client.
///
/// It has several lanes, each a pool of its own, and takes the first that has room: so HTTP/1.1
/// connections are reused as far as possible, and HTTP/2 goes over more than one connection only
/// when one no longer suffices.
#[derive(Debug, Clone)]
pub struct Client {
    lanes: Arc<[Lane]>,
    first_byte: Duration,
}

#[derive(Debug)]
struct Lane {
    pool: Pool<DeadlineConnector, Upload>,
    running: Arc<AtomicUsize>,
}

/// A request's place in its client; dropped when the response's body is done with.
#[derive(Debug)]
pub struct Place {
    running: Arc<AtomicUsize>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A response whose head has arrived.
#[derive(Debug)]
pub struct Inbound {
    /// Status and fields.
    pub head: response::Parts,
    /// The body, not yet read.
    pub body: Incoming,
    /// To be kept as long as the body.
    pub place: Place,
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection: refused, unresolved, TLS refused, or too slow.
    #[error("cannot connect: {0}")]
    Connect(#[source] BoxError),
    /// The connection broke before the response's head was whole.
    #[error("broke off: {0}")]
    Broken(#[source] BoxError),
    /// The connection stood, and no head came within this long.
    #[error("no answer within {} s", .0.as_secs())]
    FirstByte(Duration),
    /// The response's framing is ambiguous, or its head too large.
    #[error("{0}")]
    Protocol(&'static str),
}

impl Client {
    /// A client without connections yet; it connects when first used.
    pub fn new(trust: &Trust, settings: ClientSettings) -> Self {
        keep_buffers();
        let lanes = settings.requests_max.div_ceil(REQUESTS_PER_LANE).max(1);
        let idle_max = settings.requests_max.clamp(1, REQUESTS_PER_LANE);
        let connector = DeadlineConnector::new(trust, settings.connect);
        let lane = || Lane { pool: pool(connector.clone(), idle_max), running: Arc::default() };
        Self {
            lanes: std::iter::repeat_with(lane).take(lanes).collect(),
            first_byte: settings.first_byte,
        }
    }

    /// Sends a request and waits for the response's head.
    ///
    /// Cancel safe: a dropped future closes its HTTP/1 connection or resets its stream.
    ///
    /// The deadline of the first byte begins anew with each piece of the request's own body.
    pub async fn send(&self, request: OutboundRequest) -> Result<Inbound, ClientError> {
        let progress = Progress::default();
        let mut request = request.map(|body| Upload::new(body, progress.clone()));
        let Some(lane) = self.lane() else {
            return Err(ClientError::Protocol("the client has no lanes"));
        };
        lane.running.fetch_add(1, Ordering::Relaxed);
        let place = Place { running: Arc::clone(&lane.running) };
        let mut connection = capture_connection(&mut request);
        let mut response = lane.pool.request(request);
        let early = tokio::select! {
            biased;
            response = &mut response => Some(response),
            () = connected(&mut connection) => None,
        };
        let response = match early {
            Some(response) => response,
            None => self.within_deadline(response, &progress).await?,
        };
        let (head, body) = response.map_err(|error| failure(&error))?.into_parts();
        if let Err(detail) = check_head(&head) {
            if let Some(connected) = connection.connection_metadata().as_ref() {
                connected.poison();
            }
            return Err(ClientError::Protocol(detail));
        }
        Ok(Inbound { head, body, place })
    }

    /// Waits for `response` for as long as the request's body goes on, and then for the first byte.
    async fn within_deadline<F: Future + Unpin>(
        &self,
        mut response: F,
        progress: &Progress,
    ) -> Result<F::Output, ClientError> {
        loop {
            let before = progress.pieces();
            match tokio::time::timeout(self.first_byte, &mut response).await {
                Ok(response) => return Ok(response),
                Err(_) if progress.pieces() != before => {}
                Err(_) => return Err(ClientError::FirstByte(self.first_byte)),
            }
        }
    }

    /// The first lane with room, else the emptiest.
    fn lane(&self) -> Option<&Lane> {
        let running = |lane: &&Lane| lane.running.load(Ordering::Relaxed);
        self.lanes
            .iter()
            .find(|lane| running(lane) < REQUESTS_PER_LANE)
            .or_else(|| self.lanes.iter().min_by_key(running))
    }
}

/// Has glibc keep up to twice [`KEPT_BYTES`] of what is freed for each of its arenas, as it does
/// once it has seen so large a block: else the buffers of bodies, which come and go by hundreds
/// of KiB, go back to the kernel each time and come as fresh pages, an eighth of a fill's CPU.
fn keep_buffers() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(KEPT_BYTES)));
}

fn pool(connector: DeadlineConnector, idle_max: usize) -> Pool<DeadlineConnector, Upload> {
    Pool::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(idle_max)
        .http1_max_headers(HEADERS_MAX)
        .http1_max_buf_size(READ_BUFFER_BYTES_MAX)
        .http2_max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
        .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .http2_keep_alive_timeout(Duration::from_secs(10))
        .retry_canceled_requests(true)
        .set_host(true)
        .build(connector)
}

/// Ends when the request has been given a connection.
async fn connected(connection: &mut CaptureConnection) {
    connection.wait_for_connection_metadata().await;
}

fn failure(error: &PoolError) -> ClientError {
    if error.is_connect() {
        ClientError::Connect(Box::new(Chain::of(error)))
    } else {
        ClientError::Broken(Box::new(Chain::of(error)))
    }
}

/// Refuses what two readers could frame in two ways (RFC 9112 section 6.3), and heads beyond the
/// limit. hyper itself refuses differing or malformed lengths, and a transfer coding in HTTP/1.0.
fn check_head(head: &response::Parts) -> Result<(), &'static str> {
    if head.headers.len() > HEADERS_MAX || head_bytes(&head.headers) > HEAD_BYTES_MAX {
        return Err("the head of the response is too large");
    }
    let mut codings = head.headers.get_all(TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else {
        return Ok(());
    };
    if head.headers.contains_key(CONTENT_LENGTH) {
        return Err("the response has both Content-Length and Transfer-Encoding");
    }
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err("the response has another transfer coding than `chunked`");
    }
    Ok(())
}

fn head_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

/// An error and everything behind it as one line: hyper's own text stops at the first link.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Chain(String);

impl Chain {
    /// The texts of `error` and its sources, joined by `: `, without repetitions.
    pub fn of(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            let link = error.to_string();
            if !text.ends_with(&link) {
                text.push_str(": ");
                text.push_str(&link);
            }
            source = error.source();
        }
        Self(text)
    }
}

#[cfg(test)]
mod tests;
