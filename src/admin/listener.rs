//! Accepts on the admin address: few connections, one request each, a deadline on everything. If
//! all places are taken, a connection that waits for its client makes room: for the end of a head,
//! or for an answer to be taken. The one that has waited longest goes first.

use super::parts::{AdminParts, AdminState};
use super::routes;
use super::token::Tokens;
use crate::sync::Mutex;
use crate::tasks::Tasks;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Open connections; more wait in the kernel.
const CONNECTIONS_MAX: usize = 64;
/// From accept to the end of a request's head.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// From accept to the end of the answer.
const CONNECTION_DEADLINE: Duration = Duration::from_mins(5);
/// Header fields of a request.
const HEADERS_MAX: usize = 64;
/// Bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long to wait after the system refused to accept.
const PAUSE: Duration = Duration::from_millis(250);

/// Why the admin listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum AdminBindError {
    /// Another process listens there.
    #[error("{address}: in use; stop what listens there, or choose another port in admin.listen")]
    InUse {
        /// The address.
        address: SocketAddr,
    },
    /// The process may not listen there.
    #[error("{address}: not allowed; choose a port of 1024 or above in admin.listen")]
    Denied {
        /// The address.
        address: SocketAddr,
    },
    /// Anything else.
    #[error("{address}: cannot listen: {source}; change admin.listen")]
    Other {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// A bound admin listener that does not accept yet.
#[derive(Debug)]
pub struct AdminListener {
    listener: TcpListener,
}

impl AdminListener {
    /// Binds `[admin] listen`. Must be called inside a runtime.
    pub fn bind(address: SocketAddr) -> Result<Self, AdminBindError> {
        let listener = std::net::TcpListener::bind(address)
            .and_then(|listener| {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)
            })
            .map_err(|source| bind_error(address, source))?;
        Ok(Self { listener })
    }

    /// The bound address; `None` if the system does not say.
    pub fn local_address(&self) -> Option<SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Accepts from now on, until `tasks` stops. Returns at once. The tasks are best drained last:
    /// operators ask how a drain goes.
    pub fn serve(self, parts: AdminParts, tasks: &Tasks) {
        let tokens = Tokens::new(parts.token_file.clone());
        let shared = Arc::new(AdminState { parts, tokens });
        tasks.spawn("admin accept", accept(self.listener, shared, tasks.clone()));
    }
}

fn bind_error(address: SocketAddr, source: io::Error) -> AdminBindError {
    if source.kind() == ErrorKind::AddrInUse {
        return AdminBindError::InUse { address };
    }
    if source.kind() == ErrorKind::PermissionDenied {
        return AdminBindError::Denied { address };
    }
    AdminBindError::Other { address, source }
}

/// Connections that wait for their clients, the one that has waited longest first.
#[derive(Default)]
struct WaitingConnections(Mutex<VecDeque<(u64, CancellationToken)>>);

impl WaitingConnections {
    /// Ends the first.
    fn make_room(&self) {
        if let Some((_, gone)) = self.0.lock().pop_front() {
            gone.cancel();
        }
    }
}

async fn accept(listener: TcpListener, shared: Arc<AdminState>, tasks: Tasks) {
    let stop = tasks.stopping();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let waiting = Arc::new(WaitingConnections::default());
    for number in 0.. {
        let accepted = async {
            let accepted = listener.accept().await;
            if places.available_permits() == 0 {
                waiting.make_room();
            }
            Some((accepted, Arc::clone(&places).acquire_owned().await.ok()?))
        };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = accepted => accepted,
        };
        match accepted {
            Some((Ok((stream, peer)), place)) => {
                let turn = ConnectionTurn::new(number, Arc::clone(&waiting));
                let connection =
                    serve(stream, peer, place, turn, Arc::clone(&shared), tasks.clone());
                tasks.spawn("admin connection", connection);
            }
            Some((Err(error), _)) => {
                tracing::warn!(%error, "cannot accept admin connections");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(PAUSE) => {}
                }
            }
            None => return,
        }
    }
}

/// Which end of a connection has its turn: the client as long as the connection is in the queue.
struct ConnectionTurn {
    number: u64,
    /// Cancelled when it is to make room.
    gone: CancellationToken,
    waiting: Arc<WaitingConnections>,
}

impl ConnectionTurn {
    /// The client's turn.
    fn new(number: u64, waiting: Arc<WaitingConnections>) -> Self {
        let turn = Self { number, gone: CancellationToken::new(), waiting };
        turn.of_client();
        turn
    }

    fn of_client(&self) {
        self.waiting.0.lock().push_back((self.number, self.gone.clone()));
    }

    fn of_server(&self) {
        self.waiting.0.lock().retain(|(other, _)| *other != self.number);
    }
}

impl Drop for ConnectionTurn {
    fn drop(&mut self) {
        self.of_server();
    }
}

async fn serve(
    stream: TcpStream,
    peer: SocketAddr,
    _place: OwnedSemaphorePermit,
    turn: ConnectionTurn,
    shared: Arc<AdminState>,
    tasks: Tasks,
) {
    let gauge = shared.parts.metrics.connections.with_label_values(&["admin"]);
    gauge.inc();
    let service = service_fn(async |request| {
        turn.of_server();
        let answer = routes::answer(&shared, peer.ip(), request).await;
        turn.of_client();
        Ok::<_, Infallible>(answer)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_DEADLINE)
        .keep_alive(false)
        .max_headers(HEADERS_MAX)
        .max_header_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(timeout(CONNECTION_DEADLINE, connection));
    let stop = tasks.stopping();
    let served = tokio::select! {
        biased;
        served = &mut connection => Some(served),
        () = turn.gone.cancelled() => None,
        // A request under way is answered; the drain has its own deadline.
        () = stop.cancelled() => Some(connection.await),
    };
    match served {
        Some(Ok(Ok(()))) => {}
        Some(Ok(Err(error))) => tracing::debug!(%error, %peer, "admin connection failed"),
        Some(Err(_)) => tracing::debug!(%peer, "admin connection took too long"),
        None => tracing::debug!(%peer, "admin connection made room for another"),
    }
    gauge.dec();
}
