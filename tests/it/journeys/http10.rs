//! Clients of HTTP/1.0: no interim answers, no chunks, no trailer fields.

use crate::harness::{Edge, PATIENCE, Setup};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// What every request gets: hints, then a chunked body with a trailer field.
const ANSWER: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n\
    HTTP/1.1 102 Processing\r\n\r\n\
    HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\ncache-control: no-store\r\n\
    \r\n4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n";

/// A generic site before an origin that answers so.
async fn edge() -> Edge {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let table = format!("url = \"http://{}\"\nname = \"raw\"", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(converse(BufReader::new(stream)));
        }
    });
    Setup::default().site("kind = \"generic\"").start_before(&[table]).await
}

async fn converse(mut stream: BufReader<TcpStream>) -> std::io::Result<()> {
    loop {
        let mut length = 0;
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line == "\r\n" {
                break;
            }
        }
        stream.read_exact(&mut vec![0; length]).await?;
        stream.write_all(ANSWER.as_bytes()).await?;
    }
}

/// All that comes for `request`, to the end of the connection.
async fn raw(edge: &Edge, request: &str) -> String {
    let mut stream = TcpStream::connect(edge.client().address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = String::new();
    timeout(PATIENCE, stream.read_to_string(&mut said)).await.expect("an end").unwrap();
    said
}

#[tokio::test]
async fn a_client_of_http_1_0_gets_one_answer_that_it_can_read() {
    let edge = edge().await;
    for request in [
        "GET /a HTTP/1.0\r\nhost: cache.test\r\n\r\n",
        "POST /a HTTP/1.0\r\nhost: cache.test\r\nexpect: 100-continue\r\n\
         content-length: 2\r\n\r\nab",
    ] {
        let said = timeout(PATIENCE, raw(&edge, request)).await.unwrap().to_ascii_lowercase();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("http/1.0 200") || head.starts_with("http/1.1 200"), "{said}");
        assert_eq!(body, "body", "{said}");
        for word in ["transfer-encoding", "trailer", "x-sum", "early hints"] {
            assert!(!head.contains(word), "{said}");
        }
    }
}

#[tokio::test]
async fn a_client_of_http_1_1_gets_interim_answers() {
    let edge = edge().await;
    let request =
        "GET /a HTTP/1.1\r\nhost: cache.test\r\nte: trailers\r\nconnection: close\r\n\r\n";
    let said = raw(&edge, request).await.to_ascii_lowercase();
    assert!(said.starts_with("http/1.1 103 early hints\r\nlink: "), "{said}");
    let (_, last) = said.split_once("http/1.1 200 ok\r\n").unwrap();
    assert!(last.contains("\r\ntransfer-encoding: chunked\r\n"), "{said}");
}
