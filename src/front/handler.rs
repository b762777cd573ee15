//! What the listeners hand requests to, and what they give it: the trait that the assembly
//! implements, the body of an answer, and the kinds of listener. No state, no locks.

use crate::engine::{Answering, ClientConnection, FastAnswer, SimpleRequest};
use bytes::{Buf, Bytes};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use std::io;
use std::sync::Arc;

/// The body of an answer: before it yields an error, [`ClientConnection::cut`] was called. The doors'
/// own answers are made of bytes.
pub trait HandlerBody:
    http_body::Body<Data: Buf + From<Bytes> + Send, Error = io::Error> + Send + 'static
{
}

impl<B> HandlerBody for B where
    B: http_body::Body<Data: Buf + From<Bytes> + Send, Error = io::Error> + Send + 'static
{
}

/// What the doors hand requests to.
pub trait Handler<B>: Send + Sync {
    /// Answers a request; never fails.
    fn answer(
        &self,
        request: Request<Incoming>,
        connection: &Arc<ClientConnection>,
    ) -> Answering<B>;

    /// Answers a plain request over HTTP/1.1 behind `out`, all of it and at once or but for its
    /// body, or leaves both alone: then [`Handler::answer`] is asked. A body has a known length.
    fn fast_path(
        &self,
        request: &SimpleRequest<'_>,
        connection: &Arc<ClientConnection>,
        out: &mut Vec<u8>,
    ) -> FastAnswer<B>;

    /// Hears of a request that the doors refused by themselves with `status`, for the log.
    fn refused(
        &self,
        request: &Request<Incoming>,
        status: StatusCode,
        connection: &Arc<ClientConnection>,
    );

    /// Hears of bytes that are no request and were answered with `status`, for the log.
    fn unreadable(&self, status: StatusCode, connection: &Arc<ClientConnection>);
}

/// What travels through a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// HTTP/1 and HTTP/2 by prior knowledge, in the clear.
    Plain,
    /// HTTP/1 and HTTP/2 by ALPN, under TLS.
    Tls,
}

impl Door {
    /// The name in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Tls => "tls",
        }
    }
}
