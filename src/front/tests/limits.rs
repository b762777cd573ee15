//! HOSTILE.md rows 17 and 18: how many connections, how large a head.

use super::harness::{Edge, rest, rest_and_end, server, until};
use crate::front::Door;
use tokio::io::AsyncWriteExt;

const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

#[tokio::test]
async fn a_connection_above_the_limit_of_its_address_is_closed_at_once() {
    let mut server = server();
    server.limits.connections_per_address_max = 2;
    let edge = Edge::start(&server);
    let mut first = edge.send(GET).await;
    let mut second = edge.send(GET).await;
    until(&mut first, "hello").await;
    until(&mut second, "hello").await;
    assert_eq!(edge.open_connections(Door::Plain), 2);
    let (text, _) = rest_and_end(&mut edge.connect().await).await;
    assert_eq!(text, "");
    assert_eq!(edge.refused("connections_per_address_max"), 1);
    // A place that is given up serves the next.
    first.write_all(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(rest(&mut first).await.ends_with("hello"));
    drop(first);
    while edge.open_connections(Door::Plain) > 1 {
        tokio::task::yield_now().await;
    }
    until(&mut edge.send(GET).await, "hello").await;
}

#[tokio::test]
async fn a_connection_above_the_limit_of_all_is_closed_at_once() {
    let mut server = server();
    server.limits.connections_max = 1;
    let edge = Edge::start(&server);
    until(&mut edge.send(GET).await, "hello").await;
    let mut kept = edge.connect().await;
    let (text, _) = rest_and_end(&mut edge.connect().await).await;
    assert_eq!(text, "");
    assert_eq!(edge.refused("connections_max"), 1);
    kept.write_all(GET.as_bytes()).await.unwrap();
    until(&mut kept, "hello").await;
}

#[tokio::test]
async fn an_ipv4_client_of_a_dual_stack_listener_is_one() {
    let mut server = server();
    server.listen = vec!["[::]:0".parse().unwrap()];
    server.limits.connections_per_address_max = 1;
    let mut edge = Edge::start(&server);
    edge.address.set_ip([127, 0, 0, 1].into());
    let mut client = edge.send(GET).await;
    until(&mut client, "hello").await;
    let peer = edge.connections.lock()[0].peer;
    assert_eq!(peer, client.local_addr().unwrap());
    assert_eq!(edge.connections.lock()[0].local, edge.address);
    assert_eq!(rest_and_end(&mut edge.connect().await).await.0, "");
}

#[tokio::test]
async fn a_head_with_too_many_fields_is_431() {
    let mut server = server();
    server.limits.request_headers_max = 5;
    let edge = Edge::start(&server);
    let fields = |count| "X: y\r\n".repeat(count);
    let request = |count| format!("GET / HTTP/1.1\r\n{}Connection: close\r\n\r\n", fields(count));
    assert!(edge.exchange(request(4)).await.starts_with("HTTP/1.1 200 "));
    assert!(edge.exchange(request(5)).await.starts_with("HTTP/1.1 431 "));
    assert_eq!(edge.requests_refused("request_too_large"), 1);
    assert_eq!(edge.asked.lock().len(), 1);
}

#[tokio::test]
async fn a_head_with_too_many_bytes_is_431_even_when_it_goes_on() {
    let mut server = server();
    server.limits.request_head_bytes_max = 1024;
    let edge = Edge::start(&server);
    let frame = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX: \r\n\r\n".len();
    let request = |bytes: usize| {
        let filler = "y".repeat(bytes - frame);
        format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX: {filler}\r\n\r\n")
    };
    assert!(edge.exchange(request(1024)).await.starts_with("HTTP/1.1 200 "));
    assert!(edge.exchange(request(1025)).await.starts_with("HTTP/1.1 431 "));
    let endless = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(100_000));
    assert!(edge.exchange(endless).await.starts_with("HTTP/1.1 431 "));
    assert_eq!(edge.asked.lock().len(), 1);
    assert_eq!(edge.requests_refused("request_too_large"), 2);
}

#[tokio::test]
async fn a_malformed_request_is_counted() {
    let edge = Edge::start(&server());
    assert!(edge.exchange("nonsense\r\n\r\n").await.starts_with("HTTP/1.1 400 "));
    assert_eq!(edge.requests_refused("malformed"), 1);
}
