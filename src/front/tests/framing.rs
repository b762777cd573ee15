//! HOSTILE.md rows 1 to 5 and 31, on the wire.

use super::harness::{Edge, rest, rest_and_end, server, until};
use crate::engine::Transport;
use std::io::ErrorKind;
use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn requests_follow_each_other_on_one_connection() {
    let edge = Edge::start(&server());
    let mut client = edge.send("GET /a HTTP/1.1\r\nHost: h\r\n\r\n").await;
    let first = until(&mut client, "hello").await;
    assert!(first.starts_with("HTTP/1.1 200 OK\r\n"), "{first}");
    client.write_all(b"GET /b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
    let second = rest(&mut client).await;
    assert!(second.contains("connection: close\r\n") && second.ends_with("hello"), "{second}");
    assert_eq!(*edge.asked.lock(), ["GET /a HTTP/1.1", "GET /b HTTP/1.1"]);
    let connections = edge.connections.lock();
    assert_eq!(connections[0].transport, Transport::Plain);
    assert_eq!(connections[0].local, edge.address);
    assert!(std::sync::Arc::ptr_eq(&connections[0], &connections[1]));
}

/// FAULTS.md Held: pipelined requests.
#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let edge = Edge::start(&server());
    let text = edge
        .exchange(
            "GET /a HTTP/1.1\r\nHost: h\r\n\r\n\
             GET /b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        )
        .await;
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2);
    assert_eq!(*edge.asked.lock(), ["GET /a HTTP/1.1", "GET /b HTTP/1.1"]);
}

/// Each of these gets the status, a closed connection, and never reaches the handler.
#[tokio::test]
async fn doubtful_framing_is_refused_and_the_connection_closed() {
    for (status, request) in [
        (400, "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, "HEAD / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: xchunked\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, gzip\r\n\r\n"),
        (
            400,
            "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\
             Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n\r\nhello"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 5 5\r\n\r\nhello"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nX : a\r\n\r\n"),
        (400, "GET / HTTP/1.1\r\nHost: h\r\nX: a\rb\r\n\r\n"),
        (400, "GET  / HTTP/1.1\r\nHost: h\r\n\r\n"),
        (400, "GET /\r\n\r\n"),
        (400, "GET / HTTP/1.2\r\nHost: h\r\n\r\n"),
        (400, "GET / HTTP/2.0\r\nHost: h\r\n\r\n"),
        (400, "GET / http/1.1\r\nHost: h\r\n\r\n"),
        (400, "GET / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        (400, "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n"),
        (405, "CONNECT h:443 HTTP/1.1\r\nHost: h\r\n\r\n"),
        (417, "GET / HTTP/1.1\r\nHost: h\r\nExpect: miracles\r\n\r\n"),
    ] {
        let edge = Edge::start(&server());
        let text = edge.exchange(request).await;
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?} got {text:?}");
        assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{request:?} got {text:?}");
        assert_eq!(*edge.asked.lock(), [""; 0], "{request:?}");
    }
}

#[tokio::test]
async fn an_empty_body_that_is_announced_as_such_is_none() {
    let edge = Edge::start(&server());
    let text = edge
        .exchange("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        .await;
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
}

/// What the unread body says can then not be taken for a request.
#[tokio::test]
async fn a_request_with_a_body_ends_the_connection_after_its_answer() {
    let edge = Edge::start(&server());
    let inner = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
    let length = inner.len();
    let text = edge
        .exchange(format!("PUT / HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{inner}"))
        .await;
    assert_eq!(text.matches("HTTP/1.1 ").count(), 1, "{text}");
    assert!(text.contains("connection: close\r\n"), "{text}");
    assert_eq!(*edge.asked.lock(), ["PUT / HTTP/1.1"]);
}

#[tokio::test]
async fn a_body_that_was_read_keeps_the_connection() {
    let edge = Edge::start(&server());
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    let text = edge
        .exchange(format!(
            "POST /read HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello\
             PUT /read HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}\
             POST /unread HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello\
             GET /never HTTP/1.1\r\nHost: h\r\n\r\n"
        ))
        .await;
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 3, "{text}");
    assert_eq!(text.matches("connection: close\r\n").count(), 1, "{text}");
    let asked = ["POST /read HTTP/1.1", "PUT /read HTTP/1.1", "POST /unread HTTP/1.1"];
    assert_eq!(*edge.asked.lock(), asked);
}

#[tokio::test]
async fn no_interim_response_is_sent() {
    let edge = Edge::start(&server());
    let text = edge
        .exchange("GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n")
        .await;
    assert!(text.starts_with("HTTP/1.1 200 ") && !text.contains(" 100 "), "{text}");
}

#[tokio::test]
async fn an_upgrade_is_ignored() {
    let edge = Edge::start(&server());
    let text = edge
        .exchange(
            "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade, HTTP2-Settings, close\r\n\
             Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        )
        .await;
    assert!(text.starts_with("HTTP/1.1 200 ") && text.ends_with("hello"), "{text}");
}

#[tokio::test]
async fn http_1_0_is_answered_and_closed() {
    let edge = Edge::start(&server());
    let text = edge.exchange("GET / HTTP/1.0\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.0 200 ") && text.ends_with("hello"), "{text}");
}

#[tokio::test]
async fn the_preface_of_http2_is_refused_where_http2_is_off() {
    let mut server = server();
    server.http2 = false;
    let edge = Edge::start(&server);
    let text = edge.exchange("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    assert_eq!(edge.refused("preface"), 1);
}

#[tokio::test]
async fn a_first_byte_that_the_preface_shares_is_no_preface() {
    let edge = Edge::start(&server());
    let mut client = edge.send("P").await;
    client.write_all(b"RI / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
    let text = rest(&mut client).await;
    assert!(text.starts_with("HTTP/1.1 200 "), "{text}");
    assert_eq!(*edge.asked.lock(), ["PRI / HTTP/1.1"]);
}

/// A body cut short is never ended cleanly, however it is framed.
#[tokio::test]
async fn a_cut_body_ends_with_a_reset() {
    for request in [
        "GET /cut HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /cut?length HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET /cut HTTP/1.0\r\n\r\n",
        "GET /panic-in-body HTTP/1.0\r\n\r\n",
    ] {
        let edge = Edge::start(&server());
        let mut client = edge.send(request).await;
        let (text, end) = rest_and_end(&mut client).await;
        let kind = end.expect_err(&text).kind();
        assert_eq!(kind, ErrorKind::ConnectionReset, "{request:?} got {text:?}");
        assert!(!text.ends_with("0\r\n\r\n"), "{text:?}");
    }
}

#[tokio::test]
async fn a_panic_fails_its_request_and_nothing_else() {
    let edge = Edge::start(&server());
    for path in ["/panic", "/panic-at-once"] {
        let mut client = edge.send(format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n")).await;
        let first = until(&mut client, "500 (fault)\n").await;
        assert!(first.starts_with("HTTP/1.1 500 "), "{first}");
        client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(rest(&mut client).await.ends_with("hello"));
    }
    assert_eq!(edge.metrics.request_panics.get(), 2);
}

/// FAULTS.md F10: RFC 9112 section 9.6; a client that has sent all it has may close its side.
#[tokio::test]
async fn a_client_that_half_closes_is_answered() {
    let edge = Edge::start(&server());
    for ahead in ["", "G"] {
        let mut client = edge.send("GET /held HTTP/1.1\r\nHost: h\r\n\r\n").await;
        client.write_all(ahead.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        edge.reached.notified().await;
        // The edge has seen the end when it has seen what another client sent later.
        edge.exchange("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await;
        edge.release.notify_one();
        let text = rest(&mut client).await;
        assert!(text.starts_with("HTTP/1.1 200 ") && text.contains("held"), "{ahead:?}: {text}");
    }
}

/// FAULTS.md F14c.
#[tokio::test]
async fn bytes_that_are_no_request_are_told_for_the_log() {
    let edge = Edge::start(&server());
    edge.exchange("\0\0\0 nonsense\r\n\r\n").await;
    let long = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(20_000));
    edge.exchange(long).await;
    assert_eq!(*edge.refused.lock(), [400, 431]);
}
