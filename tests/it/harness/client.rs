//! A client of the edge: HTTP/1.1 by hyper, a connection for each request, or HTTP/2, every byte
//! and the way it ends told.

use super::PATIENCE;
use super::edge::outcome;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::fmt;
use std::net::SocketAddr;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A client of the listener at an address.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Client {
    pub(crate) address: SocketAddr,
}

/// A whole answer, or what came of it.
pub(crate) struct Said {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether it ended before its time.
    pub(crate) is_cut: bool,
}

impl fmt::Debug for Said {
    /// With the beginning of the body alone: it may have megabytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Said")
            .field("status", &self.status)
            .field("headers", &self.headers)
            .field("body_bytes", &self.body.len())
            .field("body_begins", &self.body.slice(..self.body.len().min(200)))
            .field("is_cut", &self.is_cut)
            .finish()
    }
}

/// An answer whose body is still coming.
#[derive(Debug)]
pub(crate) struct Arriving {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    seen: Vec<u8>,
}

impl Client {
    /// GET.
    pub(crate) async fn get(&self, target: &str) -> Said {
        self.ask("GET", target, &[]).await
    }

    /// GET with fields.
    pub(crate) async fn read_with(&self, target: &str, fields: &[(&str, &str)]) -> Said {
        self.ask("GET", target, fields).await
    }

    /// HEAD.
    pub(crate) async fn head(&self, target: &str) -> Said {
        self.ask("HEAD", target, &[]).await
    }

    /// Any method; the whole answer.
    pub(crate) async fn ask(&self, method: &str, target: &str, fields: &[(&str, &str)]) -> Said {
        self.open(method, target, fields, "").await.rest().await
    }

    /// GET, up to the head of the answer.
    pub(crate) async fn begin(&self, target: &str, fields: &[(&str, &str)]) -> Arriving {
        self.open("GET", target, fields, "").await
    }

    /// POST with a body.
    pub(crate) async fn post(&self, target: &str, fields: &[(&str, &str)], body: &str) -> Said {
        self.open("POST", target, fields, body).await.rest().await
    }

    /// GET of which nothing may come but the end of the connection.
    pub(crate) async fn try_to_read(&self, target: &str, fields: &[(&str, &str)]) -> Option<Said> {
        match self.try_to_open("GET", target, fields, "").await {
            Ok(arriving) => Some(arriving.rest().await),
            Err(_) => None,
        }
    }

    /// GETs of `targets`, each with fields, on one connection of HTTP/2 that lets `window` bytes
    /// come unread, up to the heads of the answers.
    pub(crate) async fn begin_http2(
        &self,
        asked: &[(&str, &[(&str, &str)])],
        window: u32,
    ) -> Vec<Arriving> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.initial_stream_window_size(window).initial_connection_window_size(window);
        let shaken = builder.handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.unwrap();
        tokio::spawn(connection);
        let mut arriving = Vec::new();
        for (target, fields) in asked {
            let mut request = Request::get(format!("http://cache.test{target}"));
            for (name, value) in *fields {
                request = request.header(*name, *value);
            }
            let request = request.body(Full::new(Bytes::new())).unwrap();
            let response = timeout(PATIENCE, sender.send_request(request)).await;
            let (head, body) = response.expect("an answer in time").unwrap().into_parts();
            let (status, headers, seen) = (head.status, head.headers, Vec::new());
            arriving.push(Arriving { status, headers, body, seen });
        }
        arriving
    }

    async fn open(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Arriving {
        self.try_to_open(method, target, fields, body).await.expect("an answer")
    }

    async fn try_to_open(
        &self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Result<Arriving, hyper::Error> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.unwrap();
        tokio::spawn(connection);
        let mut request =
            Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(target);
        if !fields.iter().any(|(name, _)| *name == "host") {
            request = request.header("host", "cache.test");
        }
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
        let response = timeout(PATIENCE, sender.send_request(request)).await;
        let (head, body) = response.expect("an answer in time")?.into_parts();
        Ok(Arriving { status: head.status, headers: head.headers, body, seen: Vec::new() })
    }
}

impl Arriving {
    /// Waits until `bytes` of the body are here.
    pub(crate) async fn read_to(&mut self, bytes: usize) -> &[u8] {
        while self.seen.len() < bytes {
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("a piece in time");
            let piece = frame.expect("more of the body").expect("a sound body");
            self.seen.extend_from_slice(&piece.into_data().unwrap_or_default());
        }
        &self.seen
    }

    /// Whatever else comes, and how it ends.
    pub(crate) async fn rest(mut self) -> Said {
        let is_cut = loop {
            match timeout(PATIENCE, self.body.frame()).await.expect("a piece in time") {
                None => break false,
                Some(Err(_)) => break true,
                Some(Ok(piece)) => {
                    self.seen.extend_from_slice(&piece.into_data().unwrap_or_default());
                }
            }
        };
        Said { status: self.status, headers: self.headers, body: self.seen.into(), is_cut }
    }

    /// Reads the rest without keeping it; how many bytes came, if each of them was as `body` has
    /// it, and whether it ended before its time.
    pub(crate) async fn compare(mut self, body: &[u8]) -> (Option<usize>, bool) {
        let mut seen = 0;
        loop {
            let piece = match timeout(PATIENCE, self.body.frame()).await.expect("a piece in time") {
                None => return (Some(seen), false),
                Some(Err(_)) => return (Some(seen), true),
                Some(Ok(piece)) => piece.into_data().unwrap_or_default(),
            };
            if body.get(seen..seen + piece.len()) != Some(&piece[..]) {
                return (None, false);
            }
            seen += piece.len();
        }
    }

    /// How it came about.
    pub(crate) fn outcome(&self) -> String {
        outcome(&self.headers)
    }
}

impl Said {
    /// The value of the field `name`; empty where there is none.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    /// How it came about, as `Cache-Status` has it.
    pub(crate) fn outcome(&self) -> String {
        outcome(&self.headers)
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// Expects this status and outcome, and a clean end.
    #[track_caller]
    pub(crate) fn expect(&self, status: u16, outcome: &str) -> &Self {
        assert_eq!((self.status.as_u16(), &*self.outcome()), (status, outcome), "{self:?}");
        assert!(!self.is_cut, "cut after {} bytes", self.body.len());
        self
    }

    /// Expects exactly these bytes.
    #[track_caller]
    pub(crate) fn with(&self, body: &[u8]) -> &Self {
        assert_eq!(self.body.len(), body.len());
        assert!(self.body == body, "other bytes");
        self
    }
}
