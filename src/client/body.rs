//! Sending a request over a connection, and the body of its response. The body keeps its
//! connection: HTTP/1.1 connections go back to the pool when the body is dropped, HTTP/2 streams
//! are closed. No locks.

use super::error::Chain;
use super::failure::{Failure, Fate};
use super::http2::Http2Body;
use super::pool::{Connection, Lease};
use super::upload::Upload;
use bytes::Bytes;
use http::{Request, Response};
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
enum Kind {
    Http1(Incoming),
    Http2(Http2Body),
}

impl Lease {
    /// Sends a request and waits for the head of its response.
    ///
    /// Dropping the future closes an HTTP/1.1 connection, or resets the stream.
    pub(super) async fn send(
        mut self,
        request: Request<Upload>,
    ) -> Result<Response<InboundBody>, Failure> {
        match &mut self.connection {
            Some(Connection::Http1(connection)) => {
                let response = connection.send(request).await?;
                Ok(response.map(|body| InboundBody::new(Kind::Http1(body), self)))
            }
            Some(Connection::Http2(connection)) => {
                let response = connection.send(request).await?;
                Ok(response.map(|body| InboundBody::new(Kind::Http2(body), self)))
            }
            None => Err(Failure::of_one_request(Fate::Unknown, Chain::text("no connection"))),
        }
    }
}

impl InboundBody {
    fn new(kind: Kind, lease: Lease) -> Self {
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
