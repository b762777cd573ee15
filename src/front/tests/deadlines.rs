//! HOSTILE.md rows 16 and 17: a client that is slow in one phase is let go by that phase's
//! deadline alone; the others are an hour in these tests.

use super::harness::{Edge, reset, rest, rest_and_end, server, until};
use std::io::ErrorKind;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

const SHORT: Duration = Duration::from_millis(50);
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";

#[tokio::test]
async fn a_client_that_says_nothing_is_let_go() {
    let mut server = server();
    server.timeouts.request_head = SHORT;
    let edge = Edge::start(&server);
    assert_eq!(rest(&mut edge.connect().await).await, "");
    assert_eq!(edge.refused("request_head"), 1);
}

#[tokio::test]
async fn a_head_that_does_not_end_is_let_go() {
    let mut server = server();
    server.timeouts.request_head = SHORT;
    let edge = Edge::start(&server);
    for head in ["P", "GET / HT", "GET / HTTP/1.1\r\nHost: h\r\n"] {
        assert_eq!(edge.exchange(head).await, "", "{head:?}");
    }
    assert_eq!(edge.refused("request_head"), 3);
    assert_eq!(edge.asked.lock().len(), 0);
}

#[tokio::test]
async fn a_second_head_that_does_not_end_is_let_go() {
    let mut server = server();
    server.timeouts.request_head = Duration::from_millis(500);
    let edge = Edge::start(&server);
    let mut client = edge.send(GET).await;
    until(&mut client, "hello").await;
    client.write_all(b"GET / HT").await.unwrap();
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(edge.refused("request_head"), 1);
}

#[tokio::test]
async fn half_a_request_sent_ahead_counts_as_a_head_begun() {
    let mut server = server();
    server.timeouts.request_head = Duration::from_millis(500);
    let edge = Edge::start(&server);
    let mut client = edge.send([GET, b"GET / HT"].concat()).await;
    until(&mut client, "hello").await;
    assert_eq!(rest(&mut client).await, "");
    assert_eq!(edge.asked.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_ends_a_body_is_no_head_begun() {
    let mut server = server();
    server.timeouts.request_head = Duration::from_secs(10);
    let edge = Edge::start(&server);
    let mut client = edge.connect().await;
    for pieces in [&["Content-Length: 4\r\n\r\nbody"][..], &["Content-Length: 4\r\n\r\nb", "ody"]] {
        client.write_all(b"PUT /read HTTP/1.1\r\nHost: h\r\n").await.unwrap();
        for piece in pieces {
            client.write_all(piece.as_bytes()).await.unwrap();
            sleep(Duration::from_secs(1)).await;
        }
        until(&mut client, "hello").await;
        sleep(Duration::from_secs(20)).await;
    }
    client.write_all(b"GET / HT").await.unwrap();
    assert_eq!(rest(&mut client).await, "");
    assert_eq!((edge.asked.lock().len(), edge.refused("request_head")), (2, 1));
}

#[tokio::test]
async fn an_idle_connection_is_let_go_and_not_counted_as_a_fault() {
    let mut server = server();
    server.timeouts.idle = SHORT;
    let edge = Edge::start(&server);
    let mut client = edge.send(GET).await;
    until(&mut client, "hello").await;
    assert_eq!(rest(&mut client).await, "");
    for reason in ["idle", "request_head", "write_stall"] {
        assert_eq!(edge.refused(reason), 0, "{reason}");
    }
}

#[tokio::test]
async fn a_client_waits_for_its_answer_longer_than_every_deadline() {
    let mut server = server();
    server.timeouts.idle = SHORT;
    server.timeouts.request_head = SHORT;
    server.timeouts.write_stall = SHORT;
    let edge = Edge::start(&server);
    let mut client = edge.send("GET /held HTTP/1.1\r\nHost: h\r\n\r\n").await;
    edge.reached.notified().await;
    // Another connection lives through a whole deadline meanwhile.
    assert_eq!(rest(&mut edge.connect().await).await, "");
    edge.release.notify_one();
    assert!(until(&mut client, "held").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_reset() {
    let mut server = server();
    server.timeouts.write_stall = Duration::from_millis(200);
    let edge = Edge::start(&server);
    let mut client = edge.send("GET /endless HTTP/1.1\r\nHost: h\r\n\r\n").await;
    reset(&client).await;
    let (_, end) = rest_and_end(&mut client).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(edge.refused("write_stall"), 1);
}

/// A client that has ended says no more than one that has only closed its side.
#[tokio::test(start_paused = true)]
async fn a_client_that_half_closed_is_let_go_if_no_byte_of_its_answer_comes() {
    let edge = Edge::start(&server());
    let started = Instant::now();
    let mut client = edge.send("GET /held HTTP/1.1\r\nHost: h\r\n\r\n").await;
    client.shutdown().await.unwrap();
    let end = client.read(&mut [0; 100]).await;
    assert_eq!(end.unwrap_err().kind(), ErrorKind::ConnectionReset);
    let waited = started.elapsed().as_secs();
    assert!((30..40).contains(&waited), "{waited}");
    assert_eq!(edge.refused("gone"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_half_closed_is_answered_whole_if_its_answer_goes_on() {
    let edge = Edge::start(&server());
    for path in ["/held", "/streamed/held"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        let mut client = edge.send(request.repeat(3)).await;
        client.shutdown().await.unwrap();
        for _ in 0..3 {
            edge.reached.notified().await;
            sleep(Duration::from_secs(25)).await;
            edge.release.notify_one();
        }
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text.matches("\r\n\r\nheld").count(), 3, "{path}: {text}");
    }
}
