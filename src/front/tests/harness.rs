//! A front with a handler made for tests, and clients that speak raw bytes.

use crate::config::{Limits, PieceSettings, Server, ServerTimeouts};
use crate::engine::{Answering, ClientConnection, FastAnswer, SimpleRequest};
use crate::front::{Door, Front, Handler};
use crate::metrics::Metrics;
use crate::sync::Mutex;
use crate::tasks::Tasks;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Incoming;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::consume_budget;
use tokio::time::timeout;

pub(super) type TestBody = UnsyncBoxBody<Bytes, io::Error>;

/// Longer than any test; a wait that lasts so long has failed.
const FOREVER: Duration = Duration::from_hours(1);
/// How long a test waits for its peer before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// A `[server]` that listens on any port of the loopback interface, without deadlines.
pub(super) fn server() -> Server {
    Server {
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        name: "test".to_owned(),
        http2: true,
        tls: None,
        limits: Limits {
            connections_max: 100,
            connections_per_address_max: 100,
            request_headers_max: 64,
            request_head_bytes_max: 16 * 1024,
            path_bytes_max: 2 * 1024,
            streams_max: 128,
            fills_max: 10,
            completion_size_max: 0,
            completions_max: 1,
            pieces: PieceSettings { size: 1 << 20, per_fill_max: 0, max: 1, after: FOREVER },
        },
        timeouts: ServerTimeouts {
            tls_handshake: FOREVER,
            request_head: FOREVER,
            idle: FOREVER,
            write_stall: FOREVER,
            lame_duck: Duration::ZERO,
            drain: FOREVER,
        },
    }
}

/// A front that serves.
pub(super) struct Edge {
    pub(super) address: SocketAddr,
    pub(super) metrics: Metrics,
    pub(super) tasks: Tasks,
    /// What reached the handler: `METHOD target VERSION`.
    pub(super) asked: Arc<Mutex<Vec<String>>>,
    /// The connections those requests came on.
    pub(super) connections: Arc<Mutex<Vec<Arc<ClientConnection>>>>,
    /// The statuses of the requests that the front refused by itself.
    pub(super) refused: Arc<Mutex<Vec<u16>>>,
    /// How many requests took the fast path.
    pub(super) fast_path: Arc<AtomicUsize>,
    /// Tells that `/held` was asked for.
    pub(super) reached: Arc<Notify>,
    /// Lets `/held` answer.
    pub(super) release: Arc<Notify>,
}

struct TestHandler {
    asked: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<Vec<Arc<ClientConnection>>>>,
    refused: Arc<Mutex<Vec<u16>>>,
    fast_path: Arc<AtomicUsize>,
    reached: Arc<Notify>,
    release: Arc<Notify>,
}

impl Handler<TestBody> for TestHandler {
    fn answer(
        &self,
        mut request: Request<Incoming>,
        connection: &Arc<ClientConnection>,
    ) -> Answering<TestBody> {
        self.asked.lock().push(format!(
            "{} {} {:?}",
            request.method(),
            request.uri(),
            request.version()
        ));
        self.connections.lock().push(Arc::clone(connection));
        assert_ne!(request.uri().path(), "/panic-at-once", "a panic made for the test");
        let (connection, reached) = (Arc::clone(connection), Arc::clone(&self.reached));
        let release = Arc::clone(&self.release);
        let later = async move {
            if request.uri().path() == "/read" {
                while let Some(frame) = request.body_mut().frame().await {
                    frame.unwrap();
                }
                connection.body_read();
            }
            respond(&request, &connection, &reached, &release).await
        };
        Answering::Later(later.boxed())
    }

    fn fast_path(
        &self,
        request: &SimpleRequest<'_>,
        connection: &Arc<ClientConnection>,
        out: &mut Vec<u8>,
    ) -> FastAnswer<TestBody> {
        let head = |length: usize| format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
        if let Some(path) = request.target.as_str().strip_prefix("/streamed") {
            self.fast_path.fetch_add(1, Ordering::Relaxed);
            let (length, body) = self.streamed(path, connection);
            out.extend_from_slice(head(length).as_bytes());
            return FastAnswer::HeadWritten(body);
        }
        let Some(number) = request.target.as_str().strip_prefix("/ready/") else {
            return FastAnswer::NotTaken;
        };
        assert_ne!(number, "panic", "a panic made for the test");
        self.fast_path.fetch_add(1, Ordering::Relaxed);
        let body = format!("ready {number}");
        out.extend_from_slice((head(body.len()) + &body).as_bytes());
        FastAnswer::Complete
    }

    fn refused(&self, _: &Request<Incoming>, status: StatusCode, _: &Arc<ClientConnection>) {
        self.refused.lock().push(status.as_u16());
    }

    fn unreadable(&self, status: StatusCode, _: &Arc<ClientConnection>) {
        self.refused.lock().push(status.as_u16());
    }
}

impl TestHandler {
    /// The body of `path` on the fast path, and its announced length.
    fn streamed(&self, path: &str, connection: &Arc<ClientConnection>) -> (usize, TestBody) {
        if path == "/held" {
            let (reached, release) = (Arc::clone(&self.reached), Arc::clone(&self.release));
            let later = async move {
                reached.notify_one();
                release.notified().await;
                Ok(Bytes::from_static(b"held"))
            };
            return (4, pieces(stream::once(later)));
        }
        if let Some(body) = streamed(path, connection) {
            return (1 << 40, body);
        }
        let body = noise(path.trim_start_matches('/').parse().unwrap());
        let parts: Vec<_> = body.chunks(40_000).map(|part| Ok(body.slice_ref(part))).collect();
        (body.len(), pieces(stream::iter(parts)))
    }
}

impl Edge {
    pub(super) fn start(server: &Server) -> Self {
        Self::start_with(server, None)
    }

    pub(super) fn start_with(server: &Server, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let front = Front::bind(server, tls).unwrap();
        let address = front.local_addresses().first().copied().map(|(_, address)| address).unwrap();
        let edge = Self {
            address,
            metrics: Metrics::new().unwrap(),
            tasks: Tasks::new(),
            asked: Arc::default(),
            connections: Arc::default(),
            refused: Arc::default(),
            fast_path: Arc::default(),
            reached: Arc::default(),
            release: Arc::default(),
        };
        front.serve(edge.handler(), &edge.metrics, &edge.tasks);
        edge
    }

    fn handler(&self) -> Arc<TestHandler> {
        Arc::new(TestHandler {
            asked: Arc::clone(&self.asked),
            connections: Arc::clone(&self.connections),
            refused: Arc::clone(&self.refused),
            fast_path: Arc::clone(&self.fast_path),
            reached: Arc::clone(&self.reached),
            release: Arc::clone(&self.release),
        })
    }

    /// A new connection.
    pub(super) async fn connect(&self) -> TcpStream {
        let client = TcpStream::connect(self.address).await.unwrap();
        client.set_nodelay(true).unwrap();
        client
    }

    /// How many requests took the fast path.
    pub(super) fn answered_at_once(&self) -> usize {
        self.fast_path.load(Ordering::Relaxed)
    }

    /// A new connection on which `bytes` were sent.
    pub(super) async fn send(&self, bytes: impl AsRef<[u8]>) -> TcpStream {
        let mut client = self.connect().await;
        client.write_all(bytes.as_ref()).await.unwrap();
        client
    }

    /// Everything that comes back for `bytes` until the edge closes.
    pub(super) async fn exchange(&self, bytes: impl AsRef<[u8]>) -> String {
        rest(&mut self.send(bytes).await).await
    }

    pub(super) fn refused(&self, reason: &str) -> u64 {
        self.metrics.connections_refused.with_label_values(&[reason]).get()
    }

    pub(super) fn requests_refused(&self, reason: &str) -> u64 {
        self.metrics.requests_refused.with_label_values(&[reason]).get()
    }

    pub(super) fn open_connections(&self, door: Door) -> i64 {
        self.metrics.connections.with_label_values(&[door.as_str()]).get()
    }
}

async fn respond(
    request: &Request<Incoming>,
    connection: &Arc<ClientConnection>,
    reached: &Notify,
    release: &Notify,
) -> Response<TestBody> {
    let body = match request.uri().path() {
        "/held" => {
            reached.notify_one();
            release.notified().await;
            whole("held")
        }
        "/bytes" => {
            let wanted = request.uri().query().unwrap_or_default();
            let body = Full::new(noise(wanted.parse().unwrap()));
            body.map_err(|never| match never {}).boxed_unsync()
        }
        "/panic" => panic!("a panic made for the test"),
        path => streamed(path, connection).unwrap_or_else(|| whole("hello")),
    };
    let mut response = Response::new(body);
    if request.uri().query() == Some("length") {
        response.headers_mut().insert("content-length", 100.into());
    }
    response
}

/// The bodies that come in pieces.
fn streamed(path: &str, connection: &Arc<ClientConnection>) -> Option<TestBody> {
    let cut = Arc::clone(connection);
    Some(match path {
        "/endless" => pieces(stream::repeat_with(|| Ok(Bytes::from_static(&[b'x'; 16_384])))),
        // Each piece uses up the budget of the poll, as a client does that reads everything at
        // once.
        "/greedy" => pieces(stream::poll_fn(|cx| {
            take_all(cx);
            Poll::Ready(Some(Ok(Bytes::from_static(b"xxxx"))))
        })),
        // Two pieces of a body, then the rest cannot be had.
        "/cut" => pieces(stream::iter(0..3).map_step(move |step| match step {
            0 | 1 => Ok(Bytes::from_static(b"piece")),
            _ => {
                cut.cut();
                Err(io::ErrorKind::UnexpectedEof.into())
            }
        })),
        "/panic-in-body" => pieces(stream::iter(0..2).map_step(|step| {
            assert_eq!(step, 0, "a panic made for the test");
            Ok(Bytes::from_static(b"piece"))
        })),
        _ => return None,
    })
}

/// `StreamExt::map`, under a name that does not need the trait in scope twice.
trait MapStep: futures_util::Stream + Sized {
    fn map_step<T, F: FnMut(Self::Item) -> T>(self, map: F) -> stream::Map<Self, F> {
        futures_util::StreamExt::map(self, map)
    }
}

impl<S: futures_util::Stream> MapStep for S {}

/// Uses up the budget that the runtime gives to this poll.
pub(in crate::front) fn take_all(cx: &mut Context<'_>) {
    let is_all = (0..1_000).any(|_| pin!(consume_budget()).poll(cx).is_pending());
    assert!(is_all, "no task of the runtime's");
}

/// So many bytes that repeat after a prime number of them.
pub(super) fn noise(length: usize) -> Bytes {
    (0..=250).cycle().take(length).collect()
}

fn whole(text: &'static str) -> TestBody {
    Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync()
}

fn pieces(
    pieces: impl futures_util::Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> TestBody {
    StreamBody::new(pieces.map_step(|piece| piece.map(Frame::data))).boxed_unsync()
}

/// Everything until the edge closes; a reset fails the test.
pub(super) async fn rest(client: &mut (impl AsyncRead + Unpin)) -> String {
    let mut bytes = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut bytes)).await.unwrap().unwrap();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What came until the edge closed, and how it closed.
pub(super) async fn rest_and_end(client: &mut TcpStream) -> (String, io::Result<()>) {
    let mut bytes = Vec::new();
    let end = timeout(PATIENCE, client.read_to_end(&mut bytes)).await.unwrap();
    (String::from_utf8_lossy(&bytes).into_owned(), end.map(drop))
}

/// Reads until `end` has come.
pub(super) async fn until(client: &mut (impl AsyncRead + Unpin), end: &str) -> String {
    let mut text = String::new();
    while !text.ends_with(end) {
        let byte = timeout(PATIENCE, client.read_u8()).await.unwrap();
        text.push(char::from(byte.unwrap_or_else(|error| panic!("{error} after {text:?}"))));
    }
    text
}

/// Waits until the edge reset the connection, without taking a byte.
pub(super) async fn reset(client: &TcpStream) {
    let ready = timeout(PATIENCE, client.ready(Interest::ERROR)).await.unwrap().unwrap();
    assert!(ready.is_error());
}
