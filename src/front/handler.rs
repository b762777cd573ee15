//! What the listeners hand requests to, and what they give it: the trait that the assembly
//! implements, the body of an answer, and the kinds of listener. No state, no locks.

use crate::engine::{Answering, ClientConnection, FastAnswer, SimpleRequest};
use bytes::{Buf, Bytes};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use std::io;
use std::sync::Arc;

/// The body of an answer. Before it yields an error, it calls [`ClientConnection::cut`].
/// `From<Bytes>` is for the answers that this module makes itself.
pub trait HandlerBody:
    http_body::Body<Data: Buf + From<Bytes> + Send, Error = io::Error> + Send + 'static
{
}

impl<B> HandlerBody for B where
    B: http_body::Body<Data: Buf + From<Bytes> + Send, Error = io::Error> + Send + 'static
{
}

/// What the listeners hand requests to.
pub trait Handler<B>: Send + Sync {
    /// Answers a request; never fails.
    fn answer(
        &self,
        request: Request<Incoming>,
        connection: &Arc<ClientConnection>,
    ) -> Answering<B>;

    /// Answers a simple request over HTTP/1.1: writes the whole answer behind `out`, or its head
    /// and returns the body, or does nothing. In the last case [`Handler::answer`] is called. A
    /// body has a known length.
    fn fast_path(
        &self,
        request: &SimpleRequest<'_>,
        connection: &Arc<ClientConnection>,
        out: &mut Vec<u8>,
    ) -> FastAnswer<B>;

    /// Logs a request that this module refused with `status`.
    fn refused(
        &self,
        request: &Request<Incoming>,
        status: StatusCode,
        connection: &Arc<ClientConnection>,
    );

    /// Logs bytes that are no request and were answered with `status`.
    fn unreadable(&self, status: StatusCode, connection: &Arc<ClientConnection>);
}

/// Which protocols a listener takes.
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
