//! The public listeners: bound once by the assembly, before anything is served; then each accepts
//! in a task of its own until the process drains. No locks.

use super::accept::{self, Listener};
use super::bind::{self, ListenError};
use super::connection_limits;
use super::handler::{Door, Handler, HandlerBody};
use super::state::FrontState;
use crate::config::Server;
use crate::metrics::Metrics;
use crate::tasks::Tasks;
use rustls::ServerConfig;
use std::net::SocketAddr;
use std::sync::Arc;

/// Bound listeners that do not accept yet.
#[derive(Debug)]
pub struct Front {
    server: Server,
    tls: Option<Arc<ServerConfig>>,
    listeners: Vec<Listener>,
}

impl Front {
    /// Binds every listener of `[server]` and `[server.tls]`. `tls` is needed if the latter has
    /// any. Must be called inside a runtime. If one cannot be bound, all are closed.
    pub fn bind(server: &Server, tls: Option<Arc<ServerConfig>>) -> Result<Self, ListenError> {
        let mut listeners = Vec::new();
        for &address in &server.listen {
            listeners.push(Listener { door: Door::Plain, socket: bind::listener(address)? });
        }
        for &address in server.tls.iter().flat_map(|tls| &tls.listen) {
            if tls.is_none() {
                return Err(ListenError::NoCertificates { address });
            }
            listeners.push(Listener { door: Door::Tls, socket: bind::listener(address)? });
        }
        Ok(Self { server: server.clone(), tls, listeners })
    }

    /// The addresses that the listeners are bound to, with the ports that the system chose. Plain
    /// ones come first, in the order of the config.
    pub fn local_addresses(&self) -> Vec<(Door, SocketAddr)> {
        let address =
            |listener: &Listener| Some((listener.door, listener.socket.local_addr().ok()?));
        self.listeners.iter().filter_map(address).collect()
    }

    /// Accepts from now on, until `tasks` stops. Then the listeners close and idle connections end.
    /// Every other connection ends after its answers, or is reset after `[server.timeouts] drain`.
    /// Returns at once; drain `tasks` with a deadline somewhat above that timeout.
    pub fn serve<B>(self, handler: Arc<dyn Handler<B>>, metrics: &Metrics, tasks: &Tasks)
    where
        B: HandlerBody,
    {
        let Self { server, tls, listeners } = self;
        let open_files_max = connection_limits::open_files_max();
        let connections_max = connection_limits::connections_within(open_files_max);
        if connections_max < server.limits.connections_max {
            tracing::warn!(
                connections_max,
                open_files_max,
                "fewer connections than server.limits.connections_max; raise the limit on files"
            );
        }
        let state = Arc::new(FrontState::new(server, tls, handler, metrics.clone(), tasks.clone()));
        for listener in listeners {
            tasks.spawn("accept", accept::run(listener, Arc::clone(&state)));
        }
    }
}
