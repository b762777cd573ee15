//! The public listeners: sockets, protocols, limits and deadlines; what a request means is the
//! handler's business. Bound and served once by the assembly; ends when the process drains.
//!
//! A connection's way: `accept` admits it, `conn` finds out its protocol and runs it, `request`
//! looks at each request and calls the handler, `socket` is what hyper reads and writes, `watch`
//! knows what the connection may still wait for, `progress` what its client has taken, and
//! `watchdog` is the timer. Hits go a short way below hyper: `express` takes their requests out of
//! what is read, `carry` writes the bodies that are files.

mod accept;
mod admission;
mod bind;
mod carry;
mod conn;
mod express;
mod lines;
mod pace;
mod plain;
mod progress;
mod request;
mod secure;
mod sender;
mod socket;
#[cfg(test)]
mod tests;
mod watch;
mod watchdog;

pub use bind::BindError;

use crate::config::Server;
use crate::engine::{Answering, Connection, PlainRequest, Taken};
use crate::metrics::Metrics;
use crate::tasks::Tasks;
use accept::Listener;
use bytes::{Buf, Bytes};
use conn::Shared;
use http::{Request, StatusCode};
use hyper::body::Incoming;
use rustls::ServerConfig;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

/// The body of an answer: before it yields an error, [`Connection::cut`] was called. The doors'
/// own answers are made of bytes.
pub trait AnswerBody:
    http_body::Body<Data: Buf + From<Bytes> + Send, Error = io::Error> + Send + 'static
{
}

impl<B> AnswerBody for B where
    B: http_body::Body<Data: Buf + From<Bytes> + Send, Error = io::Error> + Send + 'static
{
}

/// What the doors hand requests to.
pub trait Handler<B>: Send + Sync {
    /// Answers a request; never fails.
    fn answer(&self, request: Request<Incoming>, connection: &Arc<Connection>) -> Answering<B>;

    /// Answers a plain request over HTTP/1.1 behind `out`, all of it and at once or but for its
    /// body, or leaves both alone: then [`Handler::answer`] is asked. A body has a known length.
    fn express(
        &self,
        request: &PlainRequest<'_>,
        connection: &Arc<Connection>,
        out: &mut Vec<u8>,
    ) -> Taken<B>;

    /// Hears of a request that the doors refused by themselves with `status`, for the log.
    fn refused(
        &self,
        request: &Request<Incoming>,
        status: StatusCode,
        connection: &Arc<Connection>,
    );

    /// Hears of bytes that are no request and were answered with `status`, for the log.
    fn unreadable(&self, status: StatusCode, connection: &Arc<Connection>);
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

/// Bound listeners that do not accept yet.
#[derive(Debug)]
pub struct Front {
    server: Server,
    tls: Option<Arc<ServerConfig>>,
    listeners: Vec<Listener>,
}

impl Front {
    /// Binds every listener of `[server]` and `[server.tls]`; `tls` is needed where the latter
    /// has any. Must be called inside a runtime. Nothing stays bound where one fails.
    pub fn bind(server: &Server, tls: Option<Arc<ServerConfig>>) -> Result<Self, BindError> {
        let mut listeners = Vec::new();
        for &address in &server.listen {
            listeners.push(Listener { door: Door::Plain, socket: bind::listener(address)? });
        }
        for &address in server.tls.iter().flat_map(|tls| &tls.listen) {
            if tls.is_none() {
                return Err(BindError::NoCertificates { address });
            }
            listeners.push(Listener { door: Door::Tls, socket: bind::listener(address)? });
        }
        Ok(Self { server: server.clone(), tls, listeners })
    }

    /// What the listeners are bound to, ports chosen by the system included; plain ones first,
    /// in the order of the config.
    pub fn local_addresses(&self) -> Vec<(Door, SocketAddr)> {
        let address =
            |listener: &Listener| Some((listener.door, listener.socket.local_addr().ok()?));
        self.listeners.iter().filter_map(address).collect()
    }

    /// Accepts from now on, until `tasks` stops: then the listeners close, idle connections end,
    /// and every other ends after its answers, or is reset after `[server.timeouts] drain`.
    /// Returns at once; drain `tasks` with a deadline somewhat above that timeout.
    pub fn serve<B>(self, handler: Arc<dyn Handler<B>>, metrics: &Metrics, tasks: &Tasks)
    where
        B: AnswerBody,
    {
        let Self { server, tls, listeners } = self;
        let open_files_max = admission::open_files_max();
        let connections_max = admission::connections_within(open_files_max);
        if connections_max < server.limits.connections_max {
            tracing::warn!(
                connections_max,
                open_files_max,
                "fewer connections than server.limits.connections_max; raise the limit on files"
            );
        }
        let shared = Arc::new(Shared::new(server, tls, handler, metrics.clone(), tasks.clone()));
        for listener in listeners {
            tasks.spawn("accept", accept::run(listener, Arc::clone(&shared)));
        }
    }
}
