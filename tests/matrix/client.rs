//! A client of the edge: asks, and compares every byte with the right one as it comes. A connection
//! for each request; a client without a byte for a while gives up.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use socket2::{SockRef, Socket};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpSocket;
use tokio::time::timeout;

/// Without a byte for so long, a client gives up.
const PATIENCE: Duration = Duration::from_secs(40);
/// A slow reader waits so long before so many reads of so many bytes; then it is fast.
const SLOW_WAIT: Duration = Duration::from_millis(2);
const SLOW_READS: u32 = 600;
const SLOW_BUFFER_BYTES: u32 = 8 << 10;
/// What it may have waiting once it is fast: with less than a segment of loopback TCP sends on a
/// timer of 0.2 s.
const FAST_BUFFER_BYTES: usize = 1 << 20;

/// How a client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Fast,
    Slow,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Question<'a> {
    pub(crate) edge: SocketAddr,
    pub(crate) host: &'a str,
    pub(crate) path: &'a str,
    /// Bytes of the body; else all of it.
    pub(crate) range: Option<Range<u64>>,
    pub(crate) pace: Pace,
    /// How many bytes of the body have come.
    pub(crate) seen: Option<&'a AtomicU64>,
}

/// How an answer outcome out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The right bytes, to a clean end.
    Right,
    /// A clean end, of other bytes.
    Wrong(String),
    /// It broke off, or it was no answer of 2xx.
    Refused(String),
    /// Nothing outcome any more.
    Hung(String),
}

#[derive(Debug, Clone)]
pub(crate) struct Answer {
    pub(crate) outcome: Outcome,
    /// Whether it outcome from the cache, by `Cache-Status`.
    pub(crate) is_hit: bool,
    pub(crate) status: u16,
}

/// The right bytes of an answer, and how many of them have come.
struct Comparison<'a> {
    right: &'a [u8],
    seen: u64,
    /// The first byte that was another.
    other: Option<u64>,
}

impl Comparison<'_> {
    fn compare(&mut self, piece: &[u8]) {
        let at = usize::try_from(self.seen).unwrap_or(usize::MAX);
        let right = self.right.get(at..).unwrap_or_default();
        if self.other.is_none() && !right.starts_with(piece) {
            let same = piece.iter().zip(right).take_while(|(one, other)| one == other).count();
            self.other = Some(self.seen + same as u64);
        }
        self.seen += piece.len() as u64;
    }
}

impl fmt::Display for Comparison<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.seen, self.right.len())?;
        self.other.map_or(Ok(()), |other| write!(f, ", another from byte {other}"))
    }
}

impl Question<'_> {
    /// Asks, and compares the answer with `body`, which is all of the object.
    pub(crate) async fn ask(&self, body: &[u8]) -> Answer {
        match self.try_to_ask("GET", body).await {
            Ok(answer) => answer,
            Err(error) => Answer { outcome: Outcome::Refused(error), is_hit: false, status: 0 },
        }
    }

    /// Whether it is stored, by HEAD.
    pub(crate) async fn is_stored(&self) -> bool {
        self.try_to_ask("HEAD", &[]).await.is_ok_and(|answer| answer.is_hit)
    }

    async fn connect(&self) -> io::Result<tokio::net::TcpStream> {
        let socket = TcpSocket::new_v4()?;
        if self.pace == Pace::Slow {
            socket.set_recv_buffer_size(SLOW_BUFFER_BYTES)?;
        }
        socket.connect(self.edge).await
    }

    async fn try_to_ask(&self, method: &str, body: &[u8]) -> Result<Answer, String> {
        let told = |error: &dyn fmt::Display| error.to_string();
        let stream = self.connect().await.map_err(|error| told(&error))?;
        let socket = SockRef::from(&stream).try_clone().map_err(|error| told(&error))?;
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|error| told(&error))?;
        tokio::spawn(connection);
        let mut request =
            Request::builder().method(method).uri(self.path).header("host", self.host);
        if let Some(range) = &self.range {
            request = request.header("range", format!("bytes={}-{}", range.start, range.end - 1));
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| told(&error))?;
        let Ok(response) = timeout(PATIENCE, sender.send_request(request)).await else {
            let outcome = Outcome::Hung("no answer".to_owned());
            return Ok(Answer { outcome, is_hit: false, status: 0 });
        };
        let (head, incoming) = response.map_err(|error| told(&error))?.into_parts();
        let field = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let is_hit = field("cache-status").is_some_and(|text| text.starts_with("narthex; hit"));
        let status = head.status.as_u16();
        let right = match (status, &self.range) {
            (200, _) => body,
            (206, Some(range)) => {
                let wanted = format!("bytes {}-{}/{}", range.start, range.end - 1, body.len());
                if field("content-range") != Some(&wanted) {
                    let outcome =
                        Outcome::Wrong(format!("{:?} for {wanted}", field("content-range")));
                    return Ok(Answer { outcome, is_hit, status });
                }
                let [first, end] = [range.start, range.end].map(|at| usize::try_from(at).ok());
                first.zip(end).and_then(|(first, end)| body.get(first..end)).unwrap_or_default()
            }
            (_, _) => {
                let outcome = Outcome::Refused(format!("status {status}"));
                return Ok(Answer { outcome, is_hit, status });
            }
        };
        if method == "HEAD" {
            return Ok(Answer { outcome: Outcome::Right, is_hit, status });
        }
        let outcome =
            self.read(incoming, &socket, Comparison { right, seen: 0, other: None }).await;
        Ok(Answer { outcome, is_hit, status })
    }

    async fn read(
        &self,
        mut body: hyper::body::Incoming,
        socket: &Socket,
        mut got: Comparison<'_>,
    ) -> Outcome {
        let mut waits = if self.pace == Pace::Slow { SLOW_READS } else { 0 };
        loop {
            if waits > 0 {
                waits -= 1;
                tokio::time::sleep(SLOW_WAIT).await;
                if waits == 0
                    && let Err(error) = socket.set_recv_buffer_size(FAST_BUFFER_BYTES)
                {
                    return Outcome::Refused(error.to_string());
                }
            }
            let piece = match timeout(PATIENCE, body.frame()).await {
                Err(_) => return Outcome::Hung(format!("after {got}")),
                Ok(None) => break,
                Ok(Some(Err(error))) => return Outcome::Refused(format!("{error} after {got}")),
                Ok(Some(Ok(frame))) => frame.into_data().unwrap_or_default(),
            };
            got.compare(&piece);
            if let Some(seen) = self.seen {
                seen.store(got.seen, Ordering::Relaxed);
            }
        }
        if got.other.is_none() && got.seen == got.right.len() as u64 {
            return Outcome::Right;
        }
        Outcome::Wrong(got.to_string())
    }
}
