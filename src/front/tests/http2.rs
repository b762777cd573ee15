//! HTTP/2 by prior knowledge: service, limits, abuse, drain.

use super::harness::{Edge, reset, server};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(30);

type Sender = SendRequest<Empty<Bytes>>;

async fn client(edge: &Edge) -> (Sender, JoinHandle<hyper::Result<()>>) {
    let io = TokioIo::new(edge.connect().await);
    let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    (sender, tokio::spawn(connection))
}

fn get(edge: &Edge, path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://{}{path}", edge.address)).body(Empty::new()).unwrap()
}

/// A frame (RFC 9113 section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// HEADERS that end the stream: GET, http, `/endless`, `:authority` a.
fn headers(stream: u32) -> Vec<u8> {
    frame(1, 0x5, stream, b"\x82\x86\x44\x08/endless\x41\x01a")
}

/// Reads frames until one of the kind comes; its payload.
async fn next(client: &mut TcpStream, wanted: u8) -> Vec<u8> {
    loop {
        let mut head = [0; 9];
        timeout(PATIENCE, client.read_exact(&mut head)).await.unwrap().unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; usize::try_from(length).unwrap()];
        timeout(PATIENCE, client.read_exact(&mut payload)).await.unwrap().unwrap();
        if head[3] == wanted {
            return payload;
        }
    }
}

#[tokio::test]
async fn many_requests_share_a_connection() {
    let edge = Edge::start(&server());
    let (mut sender, _connection) = client(&edge).await;
    let answers = (0..100).map(|_| sender.send_request(get(&edge, "/a"))).collect::<Vec<_>>();
    for answer in answers {
        let response = answer.await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
    }
    assert_eq!(edge.asked.lock().len(), 100);
    assert!(edge.asked.lock().iter().all(|asked| asked.ends_with("HTTP/2.0")));
    let connections = edge.connections.lock();
    assert!(connections.iter().all(|other| Arc::ptr_eq(other, &connections[0])));
}

#[tokio::test]
async fn a_cut_body_resets_its_stream_and_the_others_go_on() {
    let edge = Edge::start(&server());
    let (mut sender, _connection) = client(&edge).await;
    for path in ["/cut", "/cut?length", "/panic-in-body"] {
        // The reset may overtake the head.
        if let Ok(response) = sender.send_request(get(&edge, path)).await {
            assert!(response.into_body().collect().await.is_err(), "{path}");
        }
    }
    let response = sender.send_request(get(&edge, "/panic")).await.unwrap();
    assert_eq!(response.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let response = sender.send_request(get(&edge, "/")).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "hello");
}

#[tokio::test]
async fn heads_are_limited_as_over_http1() {
    let mut server = server();
    server.limits.request_headers_max = 8;
    server.limits.request_head_bytes_max = 4096;
    let edge = Edge::start(&server);
    let (mut sender, _connection) = client(&edge).await;
    let mut request = get(&edge, "/");
    for number in 0..9 {
        let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
        request.headers_mut().insert(name, "y".parse().unwrap());
    }
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let mut request = get(&edge, "/");
    request.headers_mut().insert("x", "y".repeat(8_000).parse().unwrap());
    // Refused by this client on sight of the setting, or by the edge.
    let answer = sender.send_request(request).await;
    assert!(
        answer.is_err()
            || answer.is_ok_and(|r| r.status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    );
    assert!(edge.asked.lock().is_empty());
}

#[tokio::test]
async fn a_body_on_a_get_is_refused() {
    let edge = Edge::start(&server());
    let io = TokioIo::new(edge.connect().await);
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let body = http_body_util::Full::new(Bytes::from_static(b"body"));
    let request = Request::get(format!("http://{}/", edge.address)).body(body).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(edge.asked.lock().is_empty());
    assert_eq!(edge.requests_refused("request_body"), 1);
    assert_eq!(*edge.refused.lock(), [400]);
}

#[tokio::test]
async fn the_settings_tell_the_limits() {
    let edge = Edge::start(&server());
    let mut client = edge.send([PREFACE, &frame(4, 0, 0, b"")].concat()).await;
    let settings = next(&mut client, 4).await;
    let value = |wanted: u16| {
        let found = settings.chunks(6).find(|s| u16::from_be_bytes([s[0], s[1]]) == wanted);
        found.map(|s| u32::from_be_bytes([s[2], s[3], s[4], s[5]]))
    };
    assert_eq!((value(3), value(6)), (Some(128), Some(16 * 1024)));
}

/// CVE-2023-44487: requests that are reset as soon as they are sent.
#[tokio::test]
async fn rapid_resets_end_the_connection_with_goaway() {
    let edge = Edge::start(&server());
    let mut bytes = [PREFACE, &frame(4, 0, 0, b"")].concat();
    for number in 0..2_000 {
        let stream = 2 * number + 1;
        bytes.extend(headers(stream));
        bytes.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    let received = flood(&edge, &bytes).await;
    assert!(says_calm_down(&received), "{received:?}");
    assert!(edge.asked.lock().len() < 1_000);
    assert_eq!(edge.refused("http2"), 1);
}

/// CVE-2025-8671: requests that make the edge reset their streams, by a faulty WINDOW_UPDATE.
#[tokio::test]
async fn provoked_resets_end_the_connection_with_goaway() {
    let edge = Edge::start(&server());
    let mut bytes = [PREFACE, &frame(4, 0, 0, b"")].concat();
    for number in 0..2_000 {
        let stream = 2 * number + 1;
        bytes.extend(headers(stream));
        // More than a window can hold.
        bytes.extend(frame(8, 0, stream, &0x7fff_ffff_u32.to_be_bytes()));
    }
    let received = flood(&edge, &bytes).await;
    assert!(says_calm_down(&received), "{received:?}");
    assert!(edge.asked.lock().len() < 1_000);
}

/// CVE-2024-27316: a head that never ends.
#[tokio::test]
async fn a_flood_of_continuations_ends_the_connection() {
    let edge = Edge::start(&server());
    let mut bytes = [PREFACE, &frame(4, 0, 0, b""), &frame(1, 1, 1, b"\x82\x86\x84")].concat();
    for _ in 0..10_000 {
        // A field without indexing: a: b
        bytes.extend(frame(9, 0, 1, &b"\x00\x01a\x01b".repeat(100)));
    }
    let received = flood(&edge, &bytes).await;
    assert!(says_calm_down(&received), "{received:?}");
    assert!(edge.asked.lock().is_empty());
}

/// CVE-2019-9512, CVE-2019-9515, CVE-2019-9518: frames that are answered, or that do nothing.
#[tokio::test]
async fn a_flood_of_control_frames_ends_the_connection() {
    for (kind, payload) in [(6, &[7; 8][..]), (4, &[0, 4, 0, 0, 255, 255]), (2, &[0, 0, 0, 0, 1])] {
        let edge = Edge::start(&server());
        let stream = u32::from(kind == 2);
        let bytes = [PREFACE, &frame(4, 0, 0, b"")].concat();
        let bytes = [bytes, frame(kind, 0, stream, payload).repeat(100_000)].concat();
        let received = flood(&edge, &bytes).await;
        assert!(received.len() < 500_000, "{kind}: {}", received.len());
        assert_eq!(edge.refused("control_frames"), 1, "{kind}");
    }
}

#[tokio::test]
async fn some_hundred_pings_are_answered() {
    let edge = Edge::start(&server());
    let pings = frame(6, 0, 0, &[7; 8]).repeat(500);
    let mut client = edge.send([PREFACE, &frame(4, 0, 0, b""), &pings].concat()).await;
    for _ in 0..500 {
        assert_eq!(next(&mut client, 6).await, [7; 8]);
    }
    assert_eq!(edge.refused("control_frames"), 0);
}

/// Resets of requests that were taken up already, which h2 does not count.
#[tokio::test]
async fn a_client_that_abandons_everything_is_let_go() {
    let edge = Edge::start(&server());
    let mut client = edge.send([PREFACE, &frame(4, 0, 0, b"")].concat()).await;
    for number in 0..600 {
        let stream = 2 * number + 1;
        if client.write_all(&headers(stream)).await.is_err() {
            break;
        }
        while edge.asked.lock().len() <= usize::try_from(number).unwrap()
            && edge.refused("abandoned_requests") == 0
        {
            tokio::task::yield_now().await;
        }
        if client.write_all(&frame(3, 0, stream, &8_u32.to_be_bytes())).await.is_err() {
            break;
        }
    }
    reset(&client).await;
    assert_eq!(edge.refused("abandoned_requests"), 1);
}

/// Sends all of it, or as much as the edge takes, and returns what the edge said.
async fn flood(edge: &Edge, bytes: &[u8]) -> Vec<u8> {
    let mut client = edge.connect().await;
    let (mut reading, mut writing) = client.split();
    let sent = async { writing.write_all(bytes).await.ok() };
    let said = async {
        let mut received = Vec::new();
        let _ = timeout(PATIENCE, reading.read_to_end(&mut received)).await.unwrap();
        received
    };
    tokio::join!(sent, said).1
}

/// Whether these frames end with GOAWAY and the code ENHANCE_YOUR_CALM.
fn says_calm_down(mut frames: &[u8]) -> bool {
    let mut codes = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = frames {
        let length = usize::try_from(u32::from_be_bytes([0, *a, *b, *c])).unwrap();
        let (payload, next) = rest.split_at(length.min(rest.len()));
        if let ([_, _, _, _, code @ ..], 7) = (payload, kind) {
            codes.push(code[..4].to_vec());
        }
        frames = next;
    }
    codes.last().is_some_and(|code| code == &11_u32.to_be_bytes())
}

/// Other than over HTTP/1, nothing is waited for: its requests end at once.
#[tokio::test(start_paused = true)]
async fn a_client_that_closes_its_side_is_let_go() {
    let edge = Edge::start(&server());
    let handles = Arc::strong_count(&edge.release);
    let request = frame(1, 0x5, 1, b"\x82\x86\x44\x05/held\x41\x01a");
    let mut client = edge.send([PREFACE, &frame(4, 0, 0, b""), &request].concat()).await;
    edge.reached.notified().await;
    assert_eq!(Arc::strong_count(&edge.release), handles + 1);
    client.shutdown().await.unwrap();
    let mut turns = 0..1_000;
    while Arc::strong_count(&edge.release) > handles {
        assert!(turns.next().is_some(), "the request goes on");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// CVE-2023-43622: a client that opens no window for what it asked for.
#[tokio::test]
async fn a_window_that_stays_shut_ends_the_connection() {
    let mut server = server();
    server.timeouts.write_stall = Duration::from_millis(200);
    let edge = Edge::start(&server);
    // INITIAL_WINDOW_SIZE 0.
    let settings = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let client = edge.send([PREFACE, &settings, &headers(1)].concat()).await;
    reset(&client).await;
    assert_eq!(edge.refused("write_stall"), 1);
}

#[tokio::test]
async fn an_idle_connection_gets_goaway() {
    let mut server = server();
    server.timeouts.idle = Duration::from_millis(50);
    let edge = Edge::start(&server);
    let (sender, connection) = client(&edge).await;
    timeout(PATIENCE, connection).await.unwrap().unwrap().unwrap();
    assert!(sender.is_closed());
}

#[tokio::test]
async fn a_drain_says_goaway_and_finishes_the_streams() {
    let edge = Edge::start(&server());
    let (mut sender, connection) = client(&edge).await;
    let answer = sender.send_request(get(&edge, "/held"));
    edge.reached.notified().await;
    let tasks = edge.tasks.clone();
    let drained = tokio::spawn(async move { tasks.drain(PATIENCE).await });
    edge.release.notify_one();
    let response = answer.await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "held");
    connection.await.unwrap().unwrap();
    assert!(drained.await.unwrap());
}

#[tokio::test]
async fn what_the_drain_cannot_finish_is_cut() {
    let mut server = server();
    server.timeouts.drain = Duration::from_millis(50);
    let edge = Edge::start(&server);
    let (mut sender, _connection) = client(&edge).await;
    let response = sender.send_request(get(&edge, "/endless")).await.unwrap();
    let tasks = edge.tasks.clone();
    let drained = tokio::spawn(async move { tasks.drain(PATIENCE).await });
    assert!(response.into_body().collect().await.is_err());
    assert!(drained.await.unwrap());
}
