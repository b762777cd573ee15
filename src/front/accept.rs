//! The accept loop of one listener. Ends only when the process drains.

use super::admission::Permit;
use super::conn::{self, Shared};
use super::{AnswerBody, Door};
use prometheus::IntGauge;
use std::io::{self, ErrorKind};
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

/// An accepted connection within the limits, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) door: Door,
    pub(super) stream: TcpStream,
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
    pub(super) place: Place,
}

/// What an open connection holds beside its socket: a permit and a count in the gauge.
#[derive(Debug)]
pub(super) struct Place {
    _permit: Permit,
    gauge: IntGauge,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gauge.dec();
    }
}

/// Accepts until the process drains; the listener closes then.
pub(super) async fn run<B>(listener: Listener, shared: Arc<Shared<B>>)
where
    B: AnswerBody,
{
    let stop = shared.tasks.stopping();
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
                if let Some(accepted) = admit(listener.door, stream, peer, &shared) {
                    shared.tasks.spawn("connection", conn::run(accepted, Arc::clone(&shared)));
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                // Out of descriptors or memory: what is open goes on, new ones wait.
                tracing::warn!(%error, ?pause, "cannot accept connections; raise the limit");
                shared.refused("accept");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

/// The connection with its place; `None` where there is none, and it is closed at once.
fn admit<B>(
    door: Door,
    stream: TcpStream,
    peer: SocketAddr,
    shared: &Shared<B>,
) -> Option<Accepted> {
    let permit = match shared.admission.admit(peer.ip()) {
        Ok(permit) => permit,
        Err(full) => {
            shared.refused(full.as_str());
            return None;
        }
    };
    let gauge = shared.metrics.connections.with_label_values(&[door.as_str()]);
    gauge.inc();
    let place = Place { _permit: permit, gauge };
    let local = stream.local_addr().ok()?;
    let canonical =
        |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    Some(Accepted { door, stream, peer: canonical(peer), local: canonical(local), place })
}

/// Whether the error speaks of a connection that broke before it was accepted (accept(2)).
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
            | ErrorKind::TimedOut
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
            | ErrorKind::NetworkDown
    )
}
