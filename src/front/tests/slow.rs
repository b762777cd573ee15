//! Clients that take little at a time are served to the end over every
//! protocol, and those that take nothing are not. Time is turned by hand once the sockets are full;
//! until then it is real, since sockets are.

use super::harness::{Edge, server};
use super::tls::{ALL, Authority, start, tls_server};
use crate::front::Door;
use std::io::{ErrorKind, Read};
use std::net::TcpStream as Blocking;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::yield_now;
use tokio::time::{advance, pause, resume};

/// What a client may have waiting in its own kernel.
const RECEIVE_BYTES: u32 = 16 << 10;
/// What a slow client takes at a time: more than fits, so the edge hears of it.
const STEP_BYTES: usize = 64 << 10;
/// What it takes at once, if it is fast at first.
const FAST_BYTES: usize = 4 << 20;
/// What a client takes that takes nothing more: some of an answer, behind any handshake.
const FIRST_BYTES: usize = 8 << 10;
/// How long it pauses: less than it may.
const PAUSE: Duration = Duration::from_secs(55);
const STALL: Duration = Duration::from_mins(1);
const GET: &[u8] = b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n";
/// HTTP/2 with windows that never shut, and a GET of `/endless`.
const GET_HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\
    \0\0\x06\x04\0\0\0\0\0\0\x04\x7f\xff\xff\xff\
    \0\0\x04\x08\0\0\0\0\0\x7f\xff\0\0\
    \0\0\x0f\x01\x05\0\0\0\x01\x82\x86\x44\x08/endless\x41\x01a";

fn edge() -> Edge {
    let mut server = server();
    server.timeouts.write_stall = STALL;
    Edge::start(&server)
}

fn tls_edge(authority: &Authority) -> Edge {
    let (mut server, certificates) = tls_server(vec![authority.issue("a.example")]);
    server.timeouts.write_stall = STALL;
    start(&server, &certificates)
}

async fn connect(edge: &Edge) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVE_BYTES).unwrap();
    socket.connect(edge.address).await.unwrap()
}

async fn plain(edge: &Edge, request: &[u8]) -> TcpStream {
    let mut client = connect(edge).await;
    client.write_all(request).await.unwrap();
    client
}

/// Over TLS: what comes is not decrypted.
async fn secure(edge: &Edge, authority: &Authority, alpn: &[u8], request: &[u8]) -> TcpStream {
    let stream = connect(edge).await;
    let client = authority.connect_over(stream, "a.example", &[alpn], ALL).await;
    let mut client = client.unwrap();
    client.write_all(request).await.unwrap();
    client.flush().await.unwrap();
    client.into_inner().0
}

/// Lets the edge do what it can.
async fn settle() {
    for _ in 0..200 {
        yield_now().await;
    }
}

/// The client takes so much.
async fn take(client: &mut Blocking, bytes: usize) -> std::io::Result<()> {
    let (mut taken, mut buffer) = (0, vec![0; STEP_BYTES]);
    for _ in 0..1_000_000 {
        match client.read(&mut buffer) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => taken += count,
            Err(error) if error.kind() == ErrorKind::WouldBlock => yield_now().await,
            Err(error) => return Err(error),
        }
        if taken >= bytes {
            return Ok(());
        }
    }
    Err(ErrorKind::TimedOut.into())
}

/// The client is fast at first, then pauses nearly as long as it may before each little step.
async fn is_served_for_an_hour(edge: &Edge, mut client: TcpStream) {
    let mut fast = vec![0; FAST_BYTES];
    client.read_exact(&mut fast).await.unwrap();
    settle().await;
    let mut client = client.into_std().unwrap();
    pause();
    for step in 0..65 {
        advance(PAUSE).await;
        settle().await;
        let taken = take(&mut client, STEP_BYTES).await;
        taken.unwrap_or_else(|error| panic!("{error} at step {step}"));
    }
    assert_eq!(edge.refused("write_stall"), 0);
}

/// The client takes nothing more. Until it is reset takes longer than the stall: what its kernel
/// had acknowledged before the first look counts as progress, and what it acknowledges later, in
/// real time, does so too.
async fn is_reset_after_the_stall(edge: &Edge, mut client: TcpStream) {
    client.read_exact(&mut vec![0; FIRST_BYTES]).await.unwrap();
    settle().await;
    let mut client = client.into_std().unwrap();
    pause();
    advance(PAUSE).await;
    settle().await;
    assert_eq!(edge.refused("write_stall"), 0);
    for _ in 0..40 {
        advance(STALL / 8).await;
        settle().await;
    }
    assert_eq!(edge.refused("write_stall"), 1);
    assert!(take(&mut client, FAST_BYTES).await.is_err());
}

/// FAULTS.md F2.
#[tokio::test]
async fn a_slow_reader_is_served_over_http1() {
    let edge = edge();
    is_served_for_an_hour(&edge, plain(&edge, GET).await).await;
}

/// FAULTS.md F2.
#[tokio::test]
async fn a_slow_reader_is_served_over_tls() {
    let authority = Authority::new();
    let edge = tls_edge(&authority);
    is_served_for_an_hour(&edge, secure(&edge, &authority, b"http/1.1", GET).await).await;
}

/// FAULTS.md F1.
#[tokio::test]
async fn a_slow_reader_is_served_over_http2() {
    let edge = edge();
    is_served_for_an_hour(&edge, plain(&edge, GET_HTTP2).await).await;
}

/// FAULTS.md F1.
#[tokio::test]
async fn a_slow_reader_is_served_over_http2_under_tls() {
    let authority = Authority::new();
    let edge = tls_edge(&authority);
    is_served_for_an_hour(&edge, secure(&edge, &authority, b"h2", GET_HTTP2).await).await;
}

#[tokio::test]
async fn a_reader_of_http1_that_takes_nothing_is_reset() {
    let edge = edge();
    is_reset_after_the_stall(&edge, plain(&edge, GET).await).await;
}

#[tokio::test]
async fn a_reader_under_tls_that_takes_nothing_is_reset() {
    let authority = Authority::new();
    let edge = tls_edge(&authority);
    is_reset_after_the_stall(&edge, secure(&edge, &authority, b"http/1.1", GET).await).await;
}

/// FAULTS.md F1.
#[tokio::test]
async fn a_reader_of_http2_that_takes_nothing_is_reset() {
    let edge = edge();
    is_reset_after_the_stall(&edge, plain(&edge, GET_HTTP2).await).await;
}

/// FAULTS.md F13: one byte sent ahead hid that a client had left, until its origin answered.
#[tokio::test]
async fn a_client_that_left_is_noticed_before_its_origin_answers() {
    for ahead in ["", "G"] {
        let edge = edge();
        let client = plain(&edge, b"GET /held HTTP/1.1\r\nHost: h\r\n\r\n").await;
        edge.reached.notified().await;
        client.try_write(ahead.as_bytes()).unwrap();
        socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
        drop(client);
        settle().await;
        pause();
        for _ in 0..3 {
            advance(Duration::from_secs(1)).await;
            settle().await;
        }
        assert_eq!(edge.open_connections(Door::Plain), 0, "{ahead:?}");
        resume();
    }
}

/// FAULTS.md F10: it is looked at as often as one that left.
#[tokio::test]
async fn a_client_that_closed_its_own_side_alone_is_answered() {
    let edge = edge();
    let mut client = plain(&edge, b"GET /held HTTP/1.1\r\nHost: h\r\n\r\n").await;
    client.shutdown().await.unwrap();
    edge.reached.notified().await;
    settle().await;
    pause();
    for _ in 0..28 {
        advance(Duration::from_secs(1)).await;
        settle().await;
    }
    resume();
    edge.release.notify_one();
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("held"), "{text}");
}
