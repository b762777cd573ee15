//! Which connection a request goes over, for each scheme, host and port that a client asks. As
//! long lived as the client; its lock is held for a look at a few connections, never across an
//! await.
//!
//! A request takes a connection that has room, else it waits for the first of: a new connection,
//! or one that becomes free. As many connections are begun as the waiting requests need: one each
//! for HTTP/1.1, one for as many as it will take for HTTP/2, and a single one as long as the
//! version is not known. So the requests that a closing HTTP/2 connection leaves over do not all
//! shake hands with the server. The caller bounds the requests, and with them the connections.

use super::connector::DeadlineConnector;
use super::error::{ErrorChain, FailureShare};
use super::failure::Loss;
use super::http1::Http1;
use super::http2::{Http2, STREAMS_MAX};
use super::limits::IDLE;
use super::message::BoxError;
use crate::config::HttpVersion;
use crate::sync::Mutex;
use http::Uri;
use http::uri::{Authority, Scheme};
use hyper::rt::Executor;
use hyper_util::client::legacy::connect::Connection as _;
use hyper_util::rt::TokioExecutor;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tower_service::Service;

/// A scheme, a host and a port.
type Endpoint = (Scheme, Authority);

/// The connections of a client.
#[derive(Debug)]
pub(super) struct Pool {
    connector: DeadlineConnector,
    version: HttpVersion,
    /// Idle HTTP/1.1 connections that are kept for each endpoint.
    idle_max: usize,
    state: Mutex<PoolState>,
    itself: Weak<Self>,
}

#[derive(Debug, Default)]
struct PoolState {
    hosts: HashMap<Arc<Endpoint>, Host>,
    /// Whether a task closes what is idle for too long.
    is_tidied: bool,
}

/// The connections to one endpoint.
#[derive(Debug)]
struct Host {
    /// What its last connection spoke; `None` before the first.
    speaks: Option<ConnectionVersion>,
    idle: Vec<(Http1, Instant)>,
    shared: Vec<(Http2, Instant)>,
    waiting: VecDeque<WaitingRequest>,
    /// Connections that are being made.
    dials: usize,
    /// Streams at once that the server permitted last.
    streams_max: usize,
    /// Requests after which the server closes a connection, as it did last; `None` if it did not.
    quota: Option<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectionVersion {
    Http1,
    Http2,
}

/// A request without a connection.
#[derive(Debug)]
struct WaitingRequest {
    choice: Choice,
    answer: oneshot::Sender<Result<Lease, DialError>>,
}

/// Which connections a request may go over.
#[derive(Debug, Clone)]
pub(super) enum Choice {
    /// Any.
    Any,
    /// No HTTP/1.1 connection that was used before, nor this HTTP/2 connection: one like that has
    /// just left the request unprocessed.
    Other(Option<Http2>),
}

/// No connection was made.
#[derive(Debug, Clone)]
pub(super) struct DialError {
    pub source: ErrorChain,
    loss: Loss,
}

impl DialError {
    /// Which of the requests that it fails this is.
    pub(super) fn tell(&self) -> FailureShare {
        self.loss.tell()
    }
}

/// A connection that one request has, for as long as it has it: an HTTP/1.1 connection alone, an
/// HTTP/2 connection together with others. Goes back to the pool when it is dropped.
#[derive(Debug)]
pub(super) struct Lease {
    pub(super) connection: Option<PooledConnection>,
    endpoint: Arc<Endpoint>,
    pool: Weak<Pool>,
}

#[derive(Debug)]
pub(super) enum PooledConnection {
    Http1(Http1),
    Http2(Http2),
}

impl Pool {
    pub(super) fn new(
        connector: DeadlineConnector,
        version: HttpVersion,
        idle_max: usize,
    ) -> Arc<Self> {
        Arc::new_cyclic(|itself| Self {
            connector,
            version,
            idle_max,
            state: Mutex::default(),
            itself: Weak::clone(itself),
        })
    }

    /// A connection to `endpoint`.
    ///
    /// Cancel safe: a connection that is being made goes to another request or stays idle.
    pub(super) async fn lease(
        &self,
        endpoint: &Arc<Endpoint>,
        choice: Choice,
    ) -> Result<Lease, DialError> {
        let waiting = {
            let mut state = self.state.lock();
            let host = self.host(&mut state, endpoint);
            if let Some(connection) = host.take(&choice) {
                return Ok(self.leased(connection, endpoint));
            }
            let (answer, waiting) = oneshot::channel();
            host.waiting.push_back(WaitingRequest { choice, answer });
            self.dial(host, endpoint);
            waiting
        };
        let gone =
            |_| DialError { source: ErrorChain::text("the client is gone"), loss: Loss::default() };
        waiting.await.map_err(gone)?
    }

    fn host<'a>(&self, state: &'a mut PoolState, endpoint: &Arc<Endpoint>) -> &'a mut Host {
        state.hosts.entry(Arc::clone(endpoint)).or_insert_with(|| {
            let speaks = match self.version {
                HttpVersion::Http2 => Some(ConnectionVersion::Http2),
                HttpVersion::Auto if endpoint.0 == Scheme::HTTPS => None,
                HttpVersion::Auto | HttpVersion::Http1 => Some(ConnectionVersion::Http1),
            };
            Host::new(speaks)
        })
    }

    fn leased(&self, connection: PooledConnection, endpoint: &Arc<Endpoint>) -> Lease {
        let pool = Weak::clone(&self.itself);
        Lease { connection: Some(connection), endpoint: Arc::clone(endpoint), pool }
    }

    /// Begins as many connections as the waiting requests need beside those that are being made.
    fn dial(&self, host: &mut Host, endpoint: &Arc<Endpoint>) {
        host.waiting.retain(|waiting| !waiting.answer.is_closed());
        let needed = host.waiting.len().div_ceil(host.served_by_one());
        let Some(pool) = self.itself.upgrade() else { return };
        for _ in host.dials..needed {
            host.dials += 1;
            let (pool, endpoint) = (Arc::clone(&pool), Arc::clone(endpoint));
            TokioExecutor::new().execute(async move {
                let made = pool.connect(&endpoint).await;
                pool.dialed(&endpoint, made);
            });
        }
    }

    async fn connect(
        &self,
        (scheme, authority): &Endpoint,
    ) -> Result<PooledConnection, ErrorChain> {
        let uri = Uri::builder().scheme(scheme.clone()).authority(authority.clone());
        let uri = uri.path_and_query("/").build().map_err(|error| ErrorChain::of(&error))?;
        let text = |error: BoxError| ErrorChain::of(&*error);
        let form = self.connector.target_form(&uri);
        let stream = self.connector.clone().call(uri).await.map_err(text)?;
        let is_http2 = match self.version {
            HttpVersion::Http1 => false,
            HttpVersion::Auto => stream.connected().is_negotiated_h2(),
            HttpVersion::Http2 if *scheme != Scheme::HTTPS => true,
            HttpVersion::Http2 if stream.connected().is_negotiated_h2() => true,
            HttpVersion::Http2 => return Err(ErrorChain::text("the server does not speak HTTP/2")),
        };
        Ok(if is_http2 {
            PooledConnection::Http2(Http2::new(stream).await?)
        } else {
            PooledConnection::Http1(Http1::new(stream, form).await?)
        })
    }

    /// The end of one [`Pool::dial`].
    fn dialed(&self, endpoint: &Arc<Endpoint>, made: Result<PooledConnection, ErrorChain>) {
        let mut state = self.state.lock();
        let host = self.host(&mut state, endpoint);
        host.dials = host.dials.saturating_sub(1);
        match made {
            Ok(PooledConnection::Http1(connection)) => {
                host.speaks = Some(ConnectionVersion::Http1);
                self.hand_out(host, endpoint, connection, ConnectionUse::First);
            }
            Ok(PooledConnection::Http2(connection)) => {
                host.speaks = Some(ConnectionVersion::Http2);
                // One at least, though it may be closing again: the one that finds out has an end.
                self.give(host, endpoint, &connection);
                host.shared.push((connection, Instant::now()));
                self.fill(host, endpoint);
            }
            Err(source) => {
                host.fail(&DialError { source, loss: Loss::default() });
                self.tidy(&mut state);
                return;
            }
        }
        self.dial(host, endpoint);
        self.tidy(&mut state);
    }

    /// Gives a free HTTP/1.1 connection to the request that waits longest for one like it, else
    /// keeps it.
    fn hand_out(
        &self,
        host: &mut Host,
        endpoint: &Arc<Endpoint>,
        connection: Http1,
        of: ConnectionUse,
    ) {
        let mut connection = connection;
        let is_for = |choice: &Choice| of == ConnectionUse::First || matches!(choice, Choice::Any);
        while let Some(waiting) = host.next(is_for) {
            let lease = self.leased(PooledConnection::Http1(connection), endpoint);
            let Err(Ok(lease)) = waiting.answer.send(Ok(lease)) else { return };
            let Some(PooledConnection::Http1(back)) = lease.undo() else { return };
            connection = back;
        }
        if host.idle.len() < self.idle_max {
            host.idle.push((connection, Instant::now()));
        }
    }

    /// Gives what room the HTTP/2 connections have to the requests that wait.
    fn fill(&self, host: &mut Host, endpoint: &Arc<Endpoint>) {
        for at in 0..host.shared.len() {
            let Some((connection, _)) = host.shared.get(at).cloned() else { return };
            while host.has_room(&connection) && self.give(host, endpoint, &connection) {}
        }
    }

    /// Gives an HTTP/2 connection to the request that waits longest for one like it, if any does.
    fn give(&self, host: &mut Host, endpoint: &Arc<Endpoint>, connection: &Http2) -> bool {
        let Some(waiting) = host.next(|choice| choice.permits(connection)) else { return false };
        connection.begin();
        let lease = self.leased(PooledConnection::Http2(connection.clone()), endpoint);
        if let Err(Ok(lease)) = waiting.answer.send(Ok(lease)) {
            lease.undo();
        }
        true
    }

    /// A request is done with its connection.
    fn returned(&self, endpoint: &Arc<Endpoint>, connection: PooledConnection) {
        let mut state = self.state.lock();
        let host = self.host(&mut state, endpoint);
        match connection {
            // The requests that wait for one like it need another now.
            PooledConnection::Http1(connection) if connection.is_old() => {
                self.dial(host, endpoint);
            }
            PooledConnection::Http1(connection) => {
                self.hand_out(host, endpoint, connection, ConnectionUse::Further);
            }
            PooledConnection::Http2(connection) => {
                connection.end();
                let mut shared = host.shared.iter_mut();
                if let Some((_, since)) = shared.find(|(one, _)| one.is(&connection)) {
                    *since = Instant::now();
                }
                host.learn(&connection);
                self.fill(host, endpoint);
                if host.running().next().is_none() {
                    self.dial(host, endpoint);
                }
            }
        }
        self.tidy(&mut state);
    }

    /// Has a task close what is idle for too long, for as long as there is anything.
    fn tidy(&self, state: &mut PoolState) {
        if std::mem::replace(&mut state.is_tidied, true) {
            return;
        }
        let pool = Weak::clone(&self.itself);
        TokioExecutor::new().execute(async move {
            loop {
                tokio::time::sleep(IDLE).await;
                let Some(pool) = pool.upgrade() else { return };
                let mut state = pool.state.lock();
                state.hosts.retain(|_, host| host.is_used());
                if state.hosts.is_empty() {
                    state.is_tidied = false;
                    return;
                }
            }
        });
    }
}

/// Whether a connection has had a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ConnectionUse {
    First,
    Further,
}

impl Choice {
    fn permits(&self, connection: &Http2) -> bool {
        !matches!(self, Self::Other(Some(other)) if other.is(connection))
    }
}

impl Host {
    fn new(speaks: Option<ConnectionVersion>) -> Self {
        Self {
            speaks,
            idle: Vec::new(),
            shared: Vec::new(),
            waiting: VecDeque::new(),
            dials: 0,
            streams_max: STREAMS_MAX,
            quota: None,
        }
    }

    /// A connection with room, the one used last first: so that others can grow old and be closed.
    fn take(&mut self, choice: &Choice) -> Option<PooledConnection> {
        self.shared.retain(|(connection, _)| !connection.is_closing());
        let mut shared = self.shared.iter().map(|(connection, _)| connection);
        let free = shared.find(|one| choice.permits(one) && self.has_room(one));
        if let Some(connection) = free.cloned() {
            connection.begin();
            return Some(PooledConnection::Http2(connection));
        }
        if matches!(choice, Choice::Other(_)) {
            return None;
        }
        let mut idle = std::iter::from_fn(|| self.idle.pop());
        idle.find_map(|(connection, since)| {
            let is_young = !connection.is_old();
            let is_fresh = !connection.is_closed() && since.elapsed() < IDLE && is_young;
            is_fresh.then_some(PooledConnection::Http1(connection))
        })
    }

    fn has_room(&self, connection: &Http2) -> bool {
        connection.room(self.quota.unwrap_or(usize::MAX)) > 0
    }

    /// The request that waits longest of those that `is_for` chooses.
    fn next(&mut self, is_for: impl Fn(&Choice) -> bool) -> Option<WaitingRequest> {
        let is_next = |one: &WaitingRequest| !one.answer.is_closed() && is_for(&one.choice);
        let at = self.waiting.iter().position(is_next)?;
        self.waiting.remove(at)
    }

    /// How many waiting requests one further connection is for.
    fn served_by_one(&self) -> usize {
        match self.speaks {
            None => usize::MAX,
            Some(ConnectionVersion::Http1) => 1,
            Some(ConnectionVersion::Http2) => {
                let quota = self.quota.unwrap_or(usize::MAX);
                self.streams_max.min(quota).max(1)
            }
        }
    }

    /// The HTTP/2 connections that have streams; the end of a stream makes room for another.
    fn running(&self) -> impl Iterator<Item = &Http2> {
        let all = self.shared.iter().map(|(connection, _)| connection);
        all.filter(|one| !one.is_closing() && one.running() > 0)
    }

    /// Fails the requests that wait for nothing any more: no connection is being made for them, and
    /// none that has streams may take them.
    fn fail(&mut self, error: &DialError) {
        self.waiting.retain(|waiting| !waiting.answer.is_closed());
        let mut served = self.served_by_one().saturating_mul(self.dials);
        let running: Vec<_> = self.running().cloned().collect();
        // Those that came last are those that the connections being made are for.
        for waiting in std::mem::take(&mut self.waiting).into_iter().rev() {
            let is_for_running = running.iter().any(|one| waiting.choice.permits(one));
            if is_for_running || served > 0 {
                served -= usize::from(!is_for_running);
                self.waiting.push_front(waiting);
            } else {
                // A request that waits no longer needs no answer.
                drop(waiting.answer.send(Err(error.clone())));
            }
        }
    }

    /// Learns from a connection how many streams and requests the server permits.
    fn learn(&mut self, connection: &Http2) {
        self.streams_max = connection.streams_max();
        if let Some(taken) = connection.taken() {
            // One that takes none says nothing of the others.
            self.quota = Some(taken).filter(|taken| *taken > 0);
        } else if self.quota.is_some_and(|quota| connection.given() >= quota)
            && connection.running() == 0
            && !connection.is_closing()
        {
            self.quota = None;
        }
    }

    /// Drops what is closed or idle for too long; whether anything is left.
    fn is_used(&mut self) -> bool {
        self.idle.retain(|(connection, since)| !connection.is_closed() && since.elapsed() < IDLE);
        self.shared.retain(|(connection, since)| {
            !connection.is_closing() && (connection.running() > 0 || since.elapsed() < IDLE)
        });
        let is_empty = self.idle.is_empty() && self.shared.is_empty() && self.waiting.is_empty();
        !is_empty || self.dials > 0
    }
}

impl Lease {
    /// The HTTP/2 connection, if it is one.
    pub(super) fn shared(&self) -> Option<Http2> {
        match &self.connection {
            Some(PooledConnection::Http2(connection)) => Some(connection.clone()),
            Some(PooledConnection::Http1(_)) | None => None,
        }
    }

    /// Ends it without use: the connection is as it was before.
    fn undo(mut self) -> Option<PooledConnection> {
        let connection = self.connection.take();
        if let Some(PooledConnection::Http2(connection)) = &connection {
            connection.take_back();
        }
        connection
    }

    /// Lets an HTTP/1.1 connection end with the response that it brings.
    pub(super) fn end_connection(&mut self) {
        if matches!(self.connection, Some(PooledConnection::Http1(_))) {
            self.connection = None;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let (Some(connection), Some(pool)) = (self.connection.take(), self.pool.upgrade()) else {
            return;
        };
        // If the runtime is gone, so is every connection.
        if Handle::try_current().is_err() {
            return;
        }
        match connection {
            PooledConnection::Http1(connection) if connection.is_closed() => {}
            PooledConnection::Http1(mut connection) if !connection.is_ready() => {
                // The response is not read to its end, or its connection has not yet noticed.
                let endpoint = Arc::clone(&self.endpoint);
                TokioExecutor::new().execute(async move {
                    if connection.ready().await {
                        pool.returned(&endpoint, PooledConnection::Http1(connection));
                    }
                });
            }
            connection @ (PooledConnection::Http1(_) | PooledConnection::Http2(_)) => {
                pool.returned(&self.endpoint, connection);
            }
        }
    }
}
