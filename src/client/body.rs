//! The body of an origin's response. It keeps its connection: HTTP/1.1 connections go back to the
//! pool when the body is dropped, HTTP/2 streams are closed. No locks.

use super::Chain;
use super::http2::Http2Body;
use super::pool::Lease;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A body that arrives. Dropping it before its end closes the HTTP/1.1 connection or resets the
/// HTTP/2 stream.
#[derive(Debug)]
pub struct InboundBody(Box<Held>);

/// Boxed, since futures that hold a response move it.
#[derive(Debug)]
struct Held {
    kind: Kind,
    lease: Lease,
}

#[derive(Debug)]
pub(super) enum Kind {
    Http1(Incoming),
    Http2(Http2Body),
}

impl InboundBody {
    pub(super) fn new(kind: Kind, lease: Lease) -> Self {
        Self(Box::new(Held { kind, lease }))
    }

    /// Drops the body, and its connection too if that is HTTP/1.1: what follows on it would not be
    /// understood.
    pub(super) fn discard(self) {
        self.0.lease.discard();
    }
}

impl Body for InboundBody {
    type Data = Bytes;
    type Error = Chain;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Chain>>> {
        match &mut self.get_mut().0.kind {
            Kind::Http1(body) => Pin::new(body).poll_frame(cx).map_err(|error| Chain::of(&error)),
            Kind::Http2(body) => body.poll_frame(cx).map_err(|error| Chain::of(&error)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0.kind {
            Kind::Http1(body) => body.is_end_stream(),
            Kind::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0.kind {
            Kind::Http1(body) => body.size_hint(),
            Kind::Http2(body) => body.size_hint(),
        }
    }
}
