//! What clients see when the process drains.

use super::harness::{Edge, rest, rest_and_end, server, until};
use crate::front::Door;
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const LONG: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_drain_closes_the_listener_and_idle_connections_and_finishes_answers() {
    let edge = Edge::start(&server());
    let mut idle = edge.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n").await;
    until(&mut idle, "hello").await;
    let mut silent = edge.connect().await;
    let mut busy = edge.send("GET /held HTTP/1.1\r\nHost: h\r\n\r\n").await;
    edge.reached.notified().await;
    let tasks = edge.tasks.clone();
    let drained = tokio::spawn(async move { tasks.drain(LONG).await });
    assert_eq!(rest(&mut idle).await, "");
    assert_eq!(rest(&mut silent).await, "");
    assert!(TcpStream::connect(edge.address).await.is_err());
    edge.release.notify_one();
    let text = rest(&mut busy).await;
    assert!(text.contains("connection: close\r\n") && text.ends_with("held"), "{text}");
    assert!(drained.await.unwrap());
    assert_eq!(edge.open_connections(Door::Plain), 0);
}

#[tokio::test]
async fn what_the_drain_cannot_finish_is_reset() {
    let mut server = server();
    server.timeouts.drain = Duration::from_millis(50);
    let edge = Edge::start(&server);
    let mut client = edge.send("GET /greedy HTTP/1.1\r\nHost: h\r\n\r\n").await;
    until(&mut client, "xxxx").await;
    let tasks = edge.tasks.clone();
    let drained = tokio::spawn(async move { tasks.drain(LONG).await });
    let (_, end) = rest_and_end(&mut client).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(drained.await.unwrap());
    assert_eq!(edge.refused("drain"), 1);
}

#[tokio::test]
async fn a_request_that_was_not_whole_when_the_drain_began_is_still_answered() {
    let edge = Edge::start(&server());
    let mut held = edge.send("GET /held HTTP/1.1\r\nHost: h\r\n\r\n").await;
    edge.reached.notified().await;
    let mut half = edge.send("GET / HTTP/1.1\r\nHo").await;
    // One whole exchange: the edge has taken up both connections by then.
    edge.exchange("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
    let tasks = edge.tasks.clone();
    let drained = tokio::spawn(async move { tasks.drain(LONG).await });
    edge.release.notify_one();
    assert!(rest(&mut held).await.ends_with("held"));
    half.write_all(b"st: h\r\n\r\n").await.unwrap();
    let text = rest(&mut half).await;
    assert!(text.contains("connection: close\r\n") && text.ends_with("hello"), "{text}");
    assert!(drained.await.unwrap());
}

/// FAULTS.md C1: told to end, hyper drops what it has not written of an answer that is to be its
/// last.
#[tokio::test]
async fn a_drain_lets_a_slow_client_have_the_last_answer_of_its_connection() {
    for (head, length) in [
        ("GET /bytes?{} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 8_000_000),
        ("GET /bytes?{} HTTP/1.0\r\n\r\n", 8_000_000),
        // All of it is in the kernel when the drain begins, and waits there.
        ("GET /bytes?{} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", 100_000),
        ("GET /bytes?{} HTTP/1.1\r\nHost: h\r\n\r\n", 100_000),
        ("GET /streamed/{} HTTP/1.1\r\nHost: h\r\n\r\n", 100_000),
    ] {
        let edge = Edge::start(&server());
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut client = socket.connect(edge.address).await.unwrap();
        let request = head.replace("{}", &length.to_string());
        client.write_all(request.as_bytes()).await.unwrap();
        until(&mut client, "\r\n\r\n").await;
        let tasks = edge.tasks.clone();
        let drained = tokio::spawn(async move { tasks.drain(LONG).await });
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(!drained.is_finished(), "{request}");
        let mut body = Vec::new();
        client.read_to_end(&mut body).await.unwrap();
        assert_eq!(body.len(), length, "{request}");
        assert!(drained.await.unwrap());
        assert_eq!(edge.refused("drain"), 0);
    }
}
