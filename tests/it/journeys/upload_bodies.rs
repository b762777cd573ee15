//! Uploads over HTTP/1.1: every byte reaches the origin as it is, whatever it looks like, and
//! what comes behind it on the connection of a client is a request of its own.

use crate::harness::{Setup, noise};
use std::io::Write as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// A method and a body, as an origin got them.
type Received = (String, Vec<u8>);

/// A body out of chunks, and the bytes that it takes; none before its end is here.
fn unchunked(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let (mut body, mut at) = (Vec::new(), 0);
    loop {
        let end = at + bytes[at..].windows(2).position(|pair| pair == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[at..end]).unwrap(), 16);
        let (size, first) = (size.unwrap(), end + 2);
        body.extend_from_slice(bytes.get(first..first + size)?);
        at = first + size + 2;
        if bytes.len() < at {
            return None;
        }
        if size == 0 {
            return Some((body, at));
        }
    }
}

/// Receives the requests of one connection.
async fn receive(mut stream: TcpStream, tell: UnboundedSender<Received>) {
    let mut bytes = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        bytes.drain(..end);
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.parse().unwrap());
        let is_chunked = head.contains("transfer-encoding: chunked");
        let (body, taken) = loop {
            let plain = || Some((bytes.get(..length)?.to_vec(), length));
            if let Some(whole) = if is_chunked { unchunked(&bytes) } else { plain() } {
                break whole;
            }
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
        };
        bytes.drain(..taken);
        let method = head.split(' ').next().unwrap_or_default().to_owned();
        let _ = tell.send((method, body));
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

#[tokio::test]
async fn every_byte_of_an_upload_reaches_its_origin() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("url = \"http://{}\"", listener.local_addr().unwrap());
    let (tell, mut received) = unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(receive(stream, tell.clone()));
        }
    });
    let edge = Setup::default().site("kind = \"generic\"").start_before(&[url]).await;
    let bodies = [
        "line one\nline two\n\n\r\n\r\n".repeat(10_000).into_bytes(),
        noise(51, 300_000).to_vec(),
        b"\n".to_vec(),
        b"ends in a method: DELE".to_vec(),
    ];
    let mut client = TcpStream::connect(edge.client().address).await.unwrap();
    for body in bodies.iter().chain(&bodies) {
        for is_chunked in [false, true] {
            let mut request = b"PUT /a HTTP/1.1\r\nhost: x\r\n".to_vec();
            if is_chunked {
                request.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                for chunk in body.chunks(70_001) {
                    write!(request, "{:x}\r\n", chunk.len()).unwrap();
                    request.extend_from_slice(chunk);
                    request.extend_from_slice(b"\r\n");
                }
                request.extend_from_slice(b"0\r\n\r\n");
            } else {
                write!(request, "content-length: {}\r\n\r\n", body.len()).unwrap();
                request.extend_from_slice(body);
            }
            client.write_all(&request).await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
            let got = loop {
                let (method, got) = received.recv().await.unwrap();
                if method == "put" {
                    break got;
                }
                assert!(["get", "head"].contains(&&*method), "{method}");
            };
            assert!(got == *body, "{} of {} bytes", got.len(), body.len());
        }
    }
}
