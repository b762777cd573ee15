//! Connections after requests with bodies: kept if the body was read to its end, closed if it
//! was not, so that what is left of it is never taken for a request.

use crate::harness::{Edge, Origin, Setup, says};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// All that comes back for these bytes until the connection ends.
async fn exchange(edge: &Edge, bytes: &str) -> String {
    let mut stream = TcpStream::connect(edge.client().address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    // The rest of a body that is not read may be answered with a reset.
    let _ = tokio::time::timeout(crate::harness::PATIENCE, stream.read_to_end(&mut said))
        .await
        .expect("the end in time");
    String::from_utf8(said).unwrap()
}

#[tokio::test]
async fn a_connection_is_kept_after_bodies_that_went_to_the_origin() {
    let origin = Origin::start().await;
    origin.say("/a", says("done").field("cache-control", "no-store"));
    origin.say("/b", says("last").field("cache-control", "no-store"));
    let edge = Setup::default().site("kind = \"generic\"").start(&[&origin]).await;
    let said = exchange(
        &edge,
        "POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello\
         PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n\
         POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\n\r\nhello!\
         GET /b HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert_eq!(said.matches("HTTP/1.1 200 OK").count(), 4, "{said}");
    assert_eq!(said.matches("connection: close").count(), 1, "{said}");
    assert!(said.ends_with("last"), "{said}");
    let methods: Vec<_> = origin.asked("/a").into_iter().map(|asked| asked.method).collect();
    assert_eq!(methods, ["POST", "PUT", "POST"]);
}

#[tokio::test]
async fn a_connection_ends_after_a_body_that_nobody_read() {
    let origin = Origin::start().await;
    origin.say("/b", says("never"));
    let inner = "GET /b HTTP/1.1\r\nHost: h\r\n\r\n";
    let length = inner.len();
    let generic = Setup::default().site("kind = \"generic\"").start(&[&origin]).await;
    for (edge, method) in [(&Edge::before(&origin).await, "POST"), (&generic, "TRACE")] {
        let request =
            format!("{method} /a HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{inner}");
        let said = exchange(edge, &request).await;
        assert!(said.starts_with("HTTP/1.1 405 "), "{said}");
        assert_eq!(said.matches("HTTP/1.1 ").count(), 1, "{said}");
        assert_eq!(said.matches("connection: close").count(), 1, "{said}");
    }
    assert_eq!(origin.count("/b"), 0);
}
