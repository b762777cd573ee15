//! The body of a request on its way to an origin, and how far it has come. One per request; an
//! atomic number only.

use super::{BoxError, OutboundBody};
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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

/// Pieces that have gone.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// How many so far.
    pub(super) fn pieces(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A body whose pieces are counted as they go.
#[derive(Debug)]
pub(super) struct Upload {
    body: OutboundBody,
    progress: Progress,
}

impl Upload {
    pub(super) fn new(body: OutboundBody, progress: Progress) -> Self {
        Self { body, progress }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        this.progress.0.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(frame)
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
    pub(super) fn begin(body: Upload, stream: SendStream<Bytes>) -> Self {
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

async fn send(mut body: Upload, mut stream: SendStream<Bytes>) {
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
        tracing::debug!(%error, "request body was not sent to its end");
    }
}
