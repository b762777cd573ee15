//! Requests that are answered below hyper, between others that are not. Every answer comes in its
//! place, and what may be a body is never taken for a request.

use super::harness::{Edge, noise, reset, rest, rest_and_end, server, until};
use proptest::collection::vec;
use proptest::prelude::{Just, ProptestConfig, Strategy, any};
use proptest::{prop_oneof, proptest};
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A request on a kept connection, and the body of its answer.
#[derive(Debug, Clone)]
struct Exchange {
    request: String,
    body: Vec<u8>,
}

fn get(target: &str, fields: &str, body: impl Into<Vec<u8>>) -> Exchange {
    let request = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
    Exchange { request, body: body.into() }
}

/// A request that takes the fast path.
fn ready(number: u32) -> Exchange {
    let fields = "User-Agent: curl/8\r\nAccept: */*\r\nConnection: Keep-Alive\r\n";
    get(&format!("/ready/{number}"), fields, format!("ready {number}"))
}

/// A request that takes the fast path, with a body of so many bytes that is not in memory.
fn streamed(length: usize) -> Exchange {
    get(&format!("/streamed/{length}"), "", noise(length))
}

/// A request that may not take the fast path because of a field, although its target would.
fn with_a_range() -> Exchange {
    get("/ready/0", "Range: bytes=0-\r\n", "hello")
}

/// Reads so many answers.
async fn bodies(client: &mut TcpStream, count: usize) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    for _ in 0..count {
        let head = until(client, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let mut body = vec![0; length.parse().unwrap()];
        client.read_exact(&mut body).await.unwrap();
        bodies.push(body);
    }
    bodies
}

/// What comes back for `exchanges`, sent in pieces of so many bytes, one after the other.
async fn answers(edge: &Edge, exchanges: &[Exchange], pieces: &[usize]) -> Vec<Vec<u8>> {
    let text: String = exchanges.iter().map(|exchange| exchange.request.as_str()).collect();
    let client = edge.connect().await;
    let count = exchanges.len();
    let (mut reading, mut writing) = client.into_split();
    let send = async move {
        let (mut rest, mut sizes) = (text.as_bytes(), pieces.iter().cycle());
        while !rest.is_empty() {
            let size = (*sizes.next().unwrap()).clamp(1, rest.len());
            let (piece, others) = rest.split_at(size);
            writing.write_all(piece).await.unwrap();
            tokio::task::yield_now().await;
            rest = others;
        }
        writing
    };
    let read = async {
        let mut bytes = Vec::new();
        let mut found = Vec::new();
        while found.len() < count {
            let mut piece = vec![0; 65_536];
            let read = reading.read(&mut piece).await.unwrap();
            assert_ne!(read, 0, "closed after {found:?} and {:?}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&piece[..read]);
            found.extend(split(&mut bytes));
        }
        found
    };
    tokio::join!(send, read).1
}

/// Takes the whole answers off the beginning of `bytes`; their bodies.
fn split(bytes: &mut Vec<u8>) -> Vec<Vec<u8>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(end) = bytes[at..].windows(4).position(|four| four == b"\r\n\r\n") {
        let head = std::str::from_utf8(&bytes[at..at + end + 2]).unwrap();
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let length = head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap();
        let body = at + end + 4;
        let next = body + length.parse::<usize>().unwrap();
        let Some(whole) = bytes.get(body..next) else { break };
        found.push(whole.to_vec());
        at = next;
    }
    bytes.drain(..at);
    found
}

fn bodies_of(exchanges: &[Exchange]) -> Vec<Vec<u8>> {
    exchanges.iter().map(|exchange| exchange.body.clone()).collect()
}

#[tokio::test]
async fn a_plain_request_never_reaches_the_library() {
    let edge = Edge::start(&server());
    let exchanges = [ready(1), ready(2), get("/ready/3", "", "ready 3")];
    for pieces in [1, 7, 1_000] {
        assert_eq!(answers(&edge, &exchanges, &[pieces]).await, bodies_of(&exchanges));
    }
    assert_eq!((edge.answered_at_once(), edge.asked.lock().len()), (9, 0));
}

#[tokio::test]
async fn what_is_not_plain_goes_the_long_way() {
    let edge = Edge::start(&server());
    for fields in [
        "Range: bytes=0-1\r\n",
        "If-None-Match: \"a\"\r\n",
        "If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
        "Cache-Control: only-if-cached\r\n",
        "CDN-Loop: a\r\n",
        "Authorization: Basic eDp5\r\n",
        "Cookie: a=b\r\n",
        "X-Unknown: 1\r\n",
        "Content-Length: 0\r\n",
        "Expect: 100-continue\r\n",
        "Upgrade: h2c\r\nConnection: upgrade\r\n",
        "Host: h\r\n",
    ] {
        let asked = edge.asked.lock().len();
        let request = format!("GET /ready/1 HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let mut client = edge.send(request).await;
        until(&mut client, "hello").await;
        assert_eq!(edge.asked.lock().len(), asked + 1, "{fields}");
    }
    for request in [
        "GET /ready/1 HTTP/1.0\r\nHost: h\r\n\r\n",
        "GET /ready/1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "GET http://h/ready/1 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "GET /ready/1?a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "GET /ready/%31 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "GET /ready/1 HTTP/1.1\r\nConnection: close\r\n\r\n",
    ] {
        assert!(edge.exchange(request).await.ends_with("hello"), "{request}");
    }
    assert!(edge.exchange("GET /ready/1 HTTP/1.1\nHost: h\n\n").await.contains(" 400 "));
    assert_eq!(edge.answered_at_once(), 0);
}

#[tokio::test]
async fn answers_come_in_the_order_of_the_requests() {
    let edge = Edge::start(&server());
    let large = get("/bytes?300000", "", noise(300_000));
    let exchanges =
        [ready(1), large.clone(), ready(2), ready(3), with_a_range(), large, ready(4), ready(5)];
    let mut exchanges = exchanges.to_vec();
    exchanges.extend([streamed(300_000), streamed(0), ready(6), streamed(1), with_a_range()]);
    for pieces in [1, 50, 10_000] {
        assert_eq!(answers(&edge, &exchanges, &[pieces]).await, bodies_of(&exchanges));
    }
    assert_eq!((edge.answered_at_once(), edge.asked.lock().len()), (27, 12));
}

/// hyper may still wait for its answer when the next request is read.
#[tokio::test]
async fn a_request_that_waits_behind_another_is_answered_after_it() {
    let edge = Edge::start(&server());
    let held = get("/held", "", "held").request;
    let mut client = edge.send(held + &ready(1).request).await;
    edge.reached.notified().await;
    client.write_all(ready(2).request.as_bytes()).await.unwrap();
    assert_eq!(edge.answered_at_once(), 0);
    edge.release.notify_one();
    assert_eq!(bodies(&mut client, 3).await, [&b"held"[..], b"ready 1", b"ready 2"]);
}

#[tokio::test]
async fn a_body_is_never_taken_for_a_request() {
    let edge = Edge::start(&server());
    let inner = ready(9).request;
    for head in [
        format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", inner.len()),
        format!("POST / HTTP/1.1\r\nHost: h\r\ncOnTeNt-LeNgTh: {}\r\n\r\n", inner.len()),
        format!("GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", inner.len()),
        format!(
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n",
            inner.len()
        ),
    ] {
        let before = edge.answered_at_once();
        let mut client = edge.send(format!("{}{head}", ready(1).request)).await;
        until(&mut client, "ready 1").await;
        let _ = client.write_all(inner.as_bytes()).await;
        let _ = client.shutdown().await;
        let (text, _) = rest_and_end(&mut client).await;
        assert!(!text.contains("ready 9"), "{head} {text}");
        assert_eq!(edge.answered_at_once(), before + 1, "{head}");
    }
}

#[tokio::test]
async fn a_client_that_reads_nothing_has_one_batch_waiting() {
    let edge = Edge::start(&server());
    let client = edge.connect().await;
    let (mut reading, mut writing) = client.into_split();
    let count = 200_000;
    let all = async {
        let text: String = (0..100).map(|number| ready(number).request).collect();
        for _ in 0..count / 100 {
            writing.write_all(text.as_bytes()).await.unwrap();
        }
    };
    let mut all = Box::pin(all);
    // This task yields while the edge still takes bytes.
    let mut before = usize::MAX;
    while before != edge.answered_at_once() {
        before = edge.answered_at_once();
        for _ in 0..1_000 {
            tokio::select! {
                biased;
                () = &mut all => panic!("everything was taken of a client that reads nothing"),
                () = tokio::task::yield_now() => {}
            }
        }
    }
    let read = async {
        let (mut bytes, mut found) = (Vec::new(), 0);
        let mut piece = vec![0; 1 << 20];
        while found < count {
            let read = reading.read(&mut piece).await.unwrap();
            assert_ne!(read, 0, "closed after {found}");
            bytes.extend_from_slice(&piece[..read]);
            for body in split(&mut bytes) {
                assert_eq!(body, format!("ready {}", found % 100).as_bytes());
                found += 1;
            }
        }
    };
    tokio::join!(all, read);
    assert_eq!(edge.answered_at_once(), count);
}

#[tokio::test]
async fn a_client_that_takes_no_answer_is_reset() {
    let mut server = server();
    server.timeouts.write_stall = Duration::from_millis(200);
    let edge = Edge::start(&server);
    let (text, client) = (ready(1).request.repeat(1_000), edge.connect().await);
    let send = async {
        loop {
            client.writable().await.unwrap();
            let _ = client.try_write(text.as_bytes());
            tokio::task::yield_now().await;
        }
    };
    tokio::select! { () = send => {}, () = reset(&client) => {} }
    assert_eq!(edge.refused("write_stall"), 1);
}

#[tokio::test]
async fn what_comes_before_the_end_is_answered() {
    let edge = Edge::start(&server());
    let mut client = edge.send(ready(1).request + &ready(2).request).await;
    client.shutdown().await.unwrap();
    let text = rest(&mut client).await;
    assert!(text.contains("ready 1HTTP/1.1 200 OK") && text.ends_with("ready 2"), "{text}");
    let mut client = edge.send("GET /ready/3 HT").await;
    client.shutdown().await.unwrap();
    let _ = rest_and_end(&mut client).await;
    assert_eq!((edge.answered_at_once(), edge.asked.lock().len()), (2, 0));
}

#[tokio::test]
async fn an_idle_connection_is_let_go() {
    let mut server = server();
    server.timeouts.idle = Duration::from_millis(50);
    let edge = Edge::start(&server);
    let mut client = edge.send(ready(1).request).await;
    until(&mut client, "ready 1").await;
    assert_eq!(rest(&mut client).await, "");
    for reason in ["idle", "request_head", "write_stall"] {
        assert_eq!(edge.refused(reason), 0, "{reason}");
    }
}

#[tokio::test]
async fn a_head_that_does_not_end_is_let_go() {
    let mut server = server();
    server.timeouts.request_head = Duration::from_millis(500);
    let edge = Edge::start(&server);
    let mut client = edge.send(ready(1).request + "GET /ready/2 HT").await;
    until(&mut client, "ready 1").await;
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(edge.refused("request_head"), 1);
}

#[tokio::test]
async fn a_panic_sends_a_request_the_long_way() {
    let edge = Edge::start(&server());
    let exchanges = [ready(1), get("/ready/panic", "", "hello"), ready(2)];
    assert_eq!(answers(&edge, &exchanges, &[1_000]).await, bodies_of(&exchanges));
    assert_eq!(edge.metrics.request_panics.get(), 1);
}

/// hyper knows of no answer, and would end the connection during this one.
#[tokio::test]
async fn a_drain_lets_a_body_of_the_short_way_end() {
    let edge = Edge::start(&server());
    let held = get("/streamed/held", "", "held").request;
    let mut client = edge.send(held + &ready(1).request).await;
    edge.reached.notified().await;
    until(&mut client, "\r\n\r\n").await;
    let tasks = edge.tasks.clone();
    let drained = tokio::spawn(async move { tasks.drain(Duration::from_secs(30)).await });
    edge.tasks.stopping().cancelled().await;
    // One whole poll of the connection.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    edge.release.notify_one();
    // What came behind it is the last that is answered.
    let text = rest(&mut client).await;
    assert!(text.starts_with("heldHTTP/1.1 200") && text.ends_with("hello"), "{text}");
    assert!(drained.await.unwrap());
}

#[tokio::test]
async fn a_body_of_the_short_way_that_outlasts_the_drain_is_reset() {
    let mut server = server();
    server.timeouts.drain = Duration::from_millis(50);
    let edge = Edge::start(&server);
    let mut client = edge.send(get("/streamed/greedy", "", "").request).await;
    until(&mut client, "xxxx").await;
    let tasks = edge.tasks.clone();
    let drained = tokio::spawn(async move { tasks.drain(Duration::from_secs(30)).await });
    let (_, end) = rest_and_end(&mut client).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(drained.await.unwrap());
    assert_eq!(edge.refused("drain"), 1);
}

#[tokio::test]
async fn a_body_of_the_short_way_that_fails_is_never_ended_as_if_whole() {
    let edge = Edge::start(&server());
    for path in ["/streamed/cut", "/streamed/panic-in-body"] {
        let mut client = edge.send(get(path, "", "").request + &ready(1).request).await;
        let (text, end) = rest_and_end(&mut client).await;
        let end = end.map_err(|error| error.kind());
        assert_eq!(end, Err(ErrorKind::ConnectionReset), "{path} {text}");
        assert!(!text.contains("ready 1"), "{path} {text}");
    }
    assert_eq!(edge.metrics.request_panics.get(), 1);
}

#[tokio::test]
async fn a_client_that_takes_no_body_of_the_short_way_is_reset() {
    let mut server = server();
    server.timeouts.write_stall = Duration::from_millis(200);
    let edge = Edge::start(&server);
    let client = edge.send(get("/streamed/endless", "", "").request).await;
    reset(&client).await;
    assert_eq!(edge.refused("write_stall"), 1);
}

/// The connection waits for the edge's own disk, so no deadline of the client runs.
#[tokio::test]
async fn a_body_of_the_short_way_may_take_its_time() {
    let mut server = server();
    let short = Duration::from_millis(20);
    (server.timeouts.idle, server.timeouts.request_head) = (short, short);
    server.timeouts.write_stall = short;
    let edge = Edge::start(&server);
    let mut client = edge.send(get("/streamed/held", "", "held").request).await;
    edge.reached.notified().await;
    let other = edge.send(get("/ready/1", "", "").request).await;
    // The deadline of a connection that began later has passed.
    reset_or_closed(other).await;
    edge.release.notify_one();
    until(&mut client, "held").await;
    assert_eq!((edge.refused("write_stall"), edge.refused("request_head")), (0, 0));
}

/// Waits until the edge has ended a connection.
async fn reset_or_closed(mut client: TcpStream) {
    let _ = rest_and_end(&mut client).await;
}

#[tokio::test]
async fn a_drain_ends_a_connection_between_answers() {
    let edge = Edge::start(&server());
    let mut client = edge.send(ready(1).request).await;
    until(&mut client, "ready 1").await;
    edge.tasks.stopping().cancel();
    assert_eq!(rest(&mut client).await, "");
}

fn exchange() -> impl Strategy<Value = Exchange> {
    prop_oneof![
        4 => any::<u32>().prop_map(ready),
        1 => Just(with_a_range()),
        1 => (0..70_000_usize).prop_map(|length| {
            get(&format!("/bytes?{length}"), "", noise(length))
        }),
        1 => (0..200_000_usize).prop_map(streamed),
        1 => Just(get("/x", "X-Unknown: 1\r\n", "hello")),
        1 => Just(Exchange {
            // Empty lines before a request are allowed (RFC 9112 section 2.2).
            request: format!("\r\n{}", ready(7).request),
            body: b"ready 7".to_vec(),
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    /// FAULTS.md Held: pipelined requests.
    #[test]
    fn any_requests_in_any_pieces_are_answered_in_order(
        exchanges in vec(exchange(), 1..30),
        pieces in vec(1..2_000_usize, 1..20),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let found = runtime.block_on(async {
            let edge = Edge::start(&server());
            let found = answers(&edge, &exchanges, &pieces).await;
            edge.tasks.stopping().cancel();
            found
        });
        assert_eq!(found, bodies_of(&exchanges));
    }
}
