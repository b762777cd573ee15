//! The accept loop of one listener. Ends only when the process drains.

use super::connection;
use super::connection_limits::{AcceptedConnection, ConnectionGuard};
use super::handler::{Door, HandlerBody};
use super::state::FrontState;
use rustix::io::Errno;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};

/// The first pause after the system refused to accept; doubled up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// A bound listener.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) door: Door,
    pub(super) socket: TcpListener,
}

/// Accepts until the process drains; the listener closes then.
pub(super) async fn run<B>(listener: Listener, state: Arc<FrontState<B>>)
where
    B: HandlerBody,
{
    let stop = state.tasks.stopping();
    let mut pause = PAUSE_MIN;
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.socket.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                pause = PAUSE_MIN;
                if let Some(accepted) = admit(listener.door, stream, peer, &state) {
                    state.tasks.spawn("connection", connection::run(accepted, Arc::clone(&state)));
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // No file descriptors or memory: open connections go on, new ones wait.
                tracing::warn!(%error, ?pause, "cannot accept connections; raise the limit");
                state.refused("accept");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// The connection with its permit. `None` if a limit is reached: then the connection is closed.
fn admit<B>(
    door: Door,
    stream: TcpStream,
    peer: SocketAddr,
    state: &FrontState<B>,
) -> Option<AcceptedConnection> {
    let permit = match state.connection_limits.admit(peer.ip()) {
        Ok(permit) => permit,
        Err(full) => {
            state.refused(full.as_str());
            return None;
        }
    };
    let gauge = state.metrics.connections.with_label_values(&[door.as_str()]);
    let guard = ConnectionGuard::new(permit, gauge);
    let local = stream.local_addr().ok()?;
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    Some(AcceptedConnection { door, stream, peer: canonical(peer), local: canonical(local), guard })
}

/// Whether the error is of one connection that broke before it was accepted (accept(2), "Error
/// handling").
fn is_of_one_connection(error: &io::Error) -> bool {
    let of_one = [
        Errno::CONNABORTED,
        Errno::CONNRESET,
        Errno::CONNREFUSED,
        Errno::INTR,
        Errno::TIMEDOUT,
        Errno::HOSTUNREACH,
        Errno::HOSTDOWN,
        Errno::NETUNREACH,
        Errno::NETDOWN,
        Errno::NONET,
        Errno::PROTO,
        Errno::NOPROTOOPT,
        Errno::OPNOTSUPP,
    ];
    Errno::from_io_error(error).is_some_and(|error| of_one.contains(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shortage_is_told_from_a_connection_that_broke() {
        let is_of_one = |error: Errno| is_of_one_connection(&error.into());
        assert!(is_of_one(Errno::CONNABORTED) && is_of_one(Errno::PROTO));
        assert!(!is_of_one(Errno::MFILE) && !is_of_one(Errno::NFILE) && !is_of_one(Errno::NOMEM));
    }
}
