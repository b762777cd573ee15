//! A client of the edge: HTTP/1.1 by hyper, a connection for each request, or HTTP/2, every byte
//! and the way it ends told.

use super::PATIENCE;
use super::edge::outcome;
use bytes::Bytes;
use http::response::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use sfv::{Item, List, ListEntry, Parser, TokenRef};
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

/// An answer with a body that is still coming.
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
            arriving.push(Arriving::of(response.expect("an answer in time").unwrap()));
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
        Ok(Arriving::of(response.expect("an answer in time")?))
    }
}

impl Arriving {
    /// Looks at the fields that every answer of every scenario must have right.
    #[track_caller]
    fn of(response: Response<Incoming>) -> Self {
        let (Parts { status, headers, .. }, body) = response.into_parts();
        check_cache_status(&headers);
        check_age(&headers);
        Self { status, headers, body, seen: Vec::new() }
    }

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
    pub(crate) async fn compare(self, body: &[u8]) -> (Option<usize>, bool) {
        self.compare_by(|at, piece| body.get(at..at + piece.len()) == Some(piece)).await
    }

    /// The same, with what says of each piece behind so many bytes whether it is right.
    pub(crate) async fn compare_by(
        mut self,
        mut is_right: impl FnMut(usize, &[u8]) -> bool,
    ) -> (Option<usize>, bool) {
        let mut seen = 0;
        loop {
            let piece = match timeout(PATIENCE, self.body.frame()).await.expect("a piece in time") {
                None => return (Some(seen), false),
                Some(Err(_)) => return (Some(seen), true),
                Some(Ok(piece)) => piece.into_data().unwrap_or_default(),
            };
            if !is_right(seen, &piece) {
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

/// `Cache-Status`, if there is one, is a structured list of named caches that ends with Narthex,
/// each parameter of the type that RFC 9211 gives it.
#[track_caller]
fn check_cache_status(headers: &HeaderMap) {
    let lines: Vec<_> = headers.get_all("cache-status").iter().map(|line| line.to_str()).collect();
    if lines.is_empty() {
        return;
    }
    let text = lines.into_iter().collect::<Result<Vec<_>, _>>().unwrap().join(", ");
    let list: List = Parser::new(&text).parse().unwrap_or_else(|e| panic!("{e}: {text}"));
    let Some(ListEntry::Item(own)) = list.last() else { panic!("no last item: {text}") };
    assert_eq!(own.bare_item.as_token().map(TokenRef::as_str), Some("narthex"), "{text}");
    for (name, value) in &own.params {
        let is_right = match name.as_str() {
            "hit" | "stored" | "collapsed" => value.as_boolean().is_some(),
            "fwd" => value.as_token().is_some(),
            "fwd-status" => value.as_integer().is_some_and(|n| (100..600).contains(&i64::from(n))),
            "ttl" => value.as_integer().is_some(),
            "key" => value.as_string().is_some(),
            "detail" => value.as_string().is_some() || value.as_token().is_some(),
            _ => false,
        };
        assert!(is_right, "{name} in {text}");
    }
    assert!(!(own.params.contains_key("hit") && own.params.contains_key("fwd")), "{text}");
}

/// `Age`, if there is one, is one structured integer that is no less than zero, below 2^31 (RFC
/// 9111 sections 1.2.2 and 5.1).
#[track_caller]
fn check_age(headers: &HeaderMap) {
    let mut lines = headers.get_all("age").iter();
    let Some(line) = lines.next() else { return };
    let age: Item = Parser::new(line.as_bytes()).parse().unwrap();
    let seconds = age.bare_item.as_integer().map(i64::from);
    assert!(seconds.is_some_and(|n| (0..=1 << 31).contains(&n)), "{line:?}");
    assert!(age.params.is_empty() && lines.next().is_none(), "{headers:?}");
}

impl Said {
    /// The value of the field `name`; empty if there is none.
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

    /// Expects this status, one of these outcomes, and a clean end.
    #[track_caller]
    pub(crate) fn expect_one_of(&self, status: u16, outcomes: &[&str]) -> &Self {
        let outcome = self.outcome();
        assert!(outcomes.contains(&outcome.as_str()), "none of {outcomes:?}: {self:?}");
        self.expect(status, &outcome)
    }

    /// Expects this status, of an answer that has no outcome.
    #[track_caller]
    pub(crate) fn expect_status(&self, status: u16) -> &Self {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
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
