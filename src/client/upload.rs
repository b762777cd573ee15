//! The body of a request on its way to an origin, how far it has come, and how long that may take.
//! One per request; atomic values only.

use super::error::UploadError;
use super::message::{BoxError, OutboundBody};
use bytes::Bytes;
use futures_util::future::{AbortHandle, abortable};
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// The least mean rate of a body that is not yet sent to its end.
const RATE_MIN_BYTES_PER_SECOND: u64 = 1_000;
/// The rate counts once a body was under way for so long.
const RATE_AFTER: Duration = Duration::from_secs(30);

/// How far the body of a request has come.
#[derive(Debug, Clone, Default)]
pub(super) struct UploadProgress(Arc<UploadState>);

#[derive(Debug, Default)]
struct UploadState {
    /// Bytes that have gone.
    bytes: AtomicU64,
    /// Whether all of it has gone.
    is_ended: AtomicBool,
    /// What is wrong with it, if an error came in place of a piece.
    error: OnceLock<UploadError>,
    /// Whether its client is waited for, rather than the server.
    is_awaited: AtomicBool,
}

impl UploadProgress {
    /// What is wrong with the body, if an error came in place of a piece.
    pub(super) fn error(&self) -> Option<UploadError> {
        self.0.error.get().copied()
    }

    /// What is different after each progress.
    fn so_far(&self) -> (u64, bool) {
        (self.0.bytes.load(Ordering::Relaxed), self.0.is_ended.load(Ordering::Relaxed))
    }

    /// Whether what has come after `elapsed` is less than the least rate permits.
    fn is_too_slow(&self, elapsed: Duration) -> bool {
        let (bytes, is_ended) = self.so_far();
        let bytes_min = elapsed.as_secs().saturating_mul(RATE_MIN_BYTES_PER_SECOND);
        !is_ended && elapsed >= RATE_AFTER && bytes < bytes_min
    }

    fn late(&self) -> UploadTimeout {
        if self.0.is_awaited.load(Ordering::Relaxed) {
            UploadTimeout::Client
        } else {
            UploadTimeout::Server
        }
    }
}

/// What a request has waited for too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum UploadTimeout {
    /// The next piece of the body.
    Client,
    /// An answer, or room for the next piece.
    Server,
}

/// How long a request waits for the head of its answer.
#[derive(Debug)]
pub(super) struct Wait {
    progress: UploadProgress,
    first_byte: Duration,
    began: Instant,
    until: Instant,
}

impl Wait {
    /// From now on: `first_byte` from each progress of the body.
    pub(super) fn new(progress: UploadProgress, first_byte: Duration) -> Self {
        let began = Instant::now();
        Self { progress, first_byte, began, until: began + first_byte }
    }

    /// What `sending` gives in time.
    pub(super) async fn within<F: Future + Unpin>(
        &mut self,
        mut sending: F,
    ) -> Result<F::Output, UploadTimeout> {
        let mut before = self.progress.so_far();
        loop {
            let look = self.until.min(Instant::now() + RATE_AFTER);
            if let Ok(sent) = timeout_at(look, &mut sending).await {
                return Ok(sent);
            }
            if self.progress.is_too_slow(self.began.elapsed()) {
                return Err(self.progress.late());
            }
            if look < self.until {
                continue;
            }
            let now = self.progress.so_far();
            if now == before {
                return Err(self.progress.late());
            }
            before = now;
            self.until = Instant::now() + self.first_byte;
        }
    }
}

/// A body with a count of the bytes that have left.
#[derive(Debug)]
pub(super) struct CountedBody {
    body: OutboundBody,
    progress: UploadProgress,
}

impl CountedBody {
    pub(super) fn new(body: OutboundBody, progress: UploadProgress) -> Self {
        progress.0.is_ended.store(body.is_end_stream(), Ordering::Relaxed);
        Self { body, progress }
    }
}

impl Body for CountedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let state = &*this.progress.0;
        state.is_awaited.store(polled.is_pending(), Ordering::Relaxed);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Bytes::len);
                state.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                // What knows its length is asked for nothing behind it.
                state.is_ended.store(this.body.is_end_stream(), Ordering::Relaxed);
            }
            Poll::Ready(Some(Err(error))) => {
                let own = error.downcast_ref().copied();
                state.error.get_or_init(|| own.unwrap_or(UploadError::Broken));
            }
            Poll::Ready(None) => state.is_ended.store(true, Ordering::Relaxed),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A body on its way through an HTTP/2 stream, by a task of its own; dropping it ends that.
#[derive(Debug)]
pub(super) struct Uploading(AbortHandle);

impl Uploading {
    /// Sends `body` through `stream`, to its end or until the stream is reset.
    pub(super) fn begin(body: CountedBody, stream: SendStream<Bytes>) -> Self {
        let (sending, handle) = abortable(send(body, stream));
        TokioExecutor::new().execute(sending);
        Self(handle)
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn send(mut body: CountedBody, mut stream: SendStream<Bytes>) {
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return,
        };
        let sent = match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(bytes) => send_bytes(&mut stream, bytes).await,
                Err(frame) => return send_end(&mut stream, frame.into_trailers().ok()),
            },
            Some(Err(_)) => return stream.send_reset(Reason::CANCEL),
            None => return send_end(&mut stream, None),
        };
        if sent.is_none() {
            return;
        }
    }
}

/// Sends `bytes` as the server has room for them; `None` if the stream is reset.
async fn send_bytes(stream: &mut SendStream<Bytes>, mut bytes: Bytes) -> Option<()> {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let room = poll_fn(|cx| stream.poll_capacity(cx)).await?.ok()?;
        stream.send_data(bytes.split_to(room.min(bytes.len())), false).ok()?;
    }
    Some(())
}

/// Ends the stream; a stream that is reset already has no other end.
fn send_end(stream: &mut SendStream<Bytes>, trailers: Option<HeaderMap>) {
    let ended = match trailers {
        Some(trailers) => stream.send_trailers(trailers),
        None => stream.send_data(Bytes::new(), true),
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "request body not sent to its end");
    }
}
