//! Sending a request over a connection, and the body of its response. The body keeps its
//! connection: HTTP/1.1 connections go back to the pool when the body is dropped, HTTP/2 streams
//! are closed. No locks.

use super::error::ErrorChain;
use super::failure::{FailedRequest, RequestFate};
use super::http2::Http2Body;
use super::pool::{Lease, PooledConnection};
use super::upload::CountedBody;
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll};

/// A body that arrives. Dropping it before its end closes the HTTP/1.1 connection or resets the
/// HTTP/2 stream.
#[derive(Debug)]
pub struct InboundBody(Box<LeasedBody>);

/// Boxed, since futures that hold a response move it.
#[derive(Debug)]
struct LeasedBody {
    kind: InboundKind,
    lease: Lease,
}

#[derive(Debug)]
enum InboundKind {
    Http1(Incoming),
    Http2(Http2Body),
}

impl Lease {
    /// Sends a request and waits for the head of its response.
    ///
    /// Dropping the future closes an HTTP/1.1 connection, or resets the stream.
    pub(super) async fn send(
        mut self,
        request: Request<CountedBody>,
    ) -> Result<Response<InboundBody>, FailedRequest> {
        match &mut self.connection {
            Some(PooledConnection::Http1(connection)) => {
                let response = connection.send(request).await?;
                Ok(response.map(|body| InboundBody::new(InboundKind::Http1(body), self)))
            }
            Some(PooledConnection::Http2(connection)) => {
                let response = connection.send(request).await?;
                Ok(response.map(|body| InboundBody::new(InboundKind::Http2(body), self)))
            }
            None => Err(FailedRequest::of_one_request(
                RequestFate::Unknown,
                ErrorChain::text("no connection"),
            )),
        }
    }
}

impl InboundBody {
    fn new(kind: InboundKind, lease: Lease) -> Self {
        Self(Box::new(LeasedBody { kind, lease }))
    }

    /// Has its connection end with it, if that is HTTP/1.1.
    pub(super) fn ends_its_connection(&mut self) {
        self.0.lease.end_connection();
    }

    /// Drops the body, and its connection too if that is HTTP/1.1: what follows on it would not be
    /// understood.
    pub(super) fn discard(mut self) {
        self.ends_its_connection();
    }
}

impl Body for InboundBody {
    type Data = Bytes;
    type Error = ErrorChain;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ErrorChain>>> {
        match &mut self.get_mut().0.kind {
            InboundKind::Http1(body) => {
                Pin::new(body).poll_frame(cx).map_err(|error| ErrorChain::of(&error))
            }
            InboundKind::Http2(body) => body.poll_frame(cx).map_err(|error| ErrorChain::of(&error)),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0.kind {
            InboundKind::Http1(body) => body.is_end_stream(),
            InboundKind::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0.kind {
            InboundKind::Http1(body) => body.size_hint(),
            InboundKind::Http2(body) => body.size_hint(),
        }
    }
}
