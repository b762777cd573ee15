//! An origin that dies and comes back on the same port: it has one object, with a strong tag and
//! ranges, and counts what it sends. It dies by itself when it has sent so much, as a machine that
//! loses its power does: its connections are reset and it listens no more.

use super::PATIENCE;
use crate::faults::wire::read_head;
use bytes::Bytes;
use parking_lot::Mutex;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// Bytes that are sent in one go: what it sends beyond its death is less.
const PIECE_BYTES: usize = 32 << 10;

/// A running or dead origin. Dropping it kills it.
pub(crate) struct Brittle {
    address: SocketAddr,
    state: Arc<State>,
    life: Mutex<CancellationToken>,
}

struct State {
    path: String,
    body: Bytes,
    /// What its heads say beside.
    field: &'static str,
    sent: AtomicU64,
    dies_at: AtomicU64,
}

impl Brittle {
    /// An origin that has `body` at `path`.
    pub(crate) async fn start(path: &str, body: Bytes) -> Self {
        Self::start_saying(path, body, "").await
    }

    /// One that says that it knows ranges.
    pub(crate) async fn start_ranged(path: &str, body: Bytes) -> Self {
        Self::start_saying(path, body, "accept-ranges: bytes\r\n").await
    }

    async fn start_saying(path: &str, body: Bytes, field: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sent, dies_at) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
        let state = Arc::new(State { path: path.to_owned(), body, field, sent, dies_at });
        let life = CancellationToken::new();
        live(listener, &state, &life);
        Self { address, state, life: Mutex::new(life) }
    }

    /// `http://address`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Body bytes that it has given to its connections.
    pub(crate) fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }

    /// It dies when it has sent so many bytes in all.
    pub(crate) fn dies_at(&self, bytes: u64) {
        self.state.dies_at.store(bytes, Ordering::Relaxed);
    }

    /// Waits until it is dead.
    pub(crate) async fn until_dead(&self) {
        let life = self.life.lock().clone();
        tokio::time::timeout(PATIENCE, life.cancelled()).await.expect("its death");
    }

    /// Back on the same port, to die at `dies_at` bytes.
    pub(crate) async fn revive(&self, dies_at: u64) {
        self.dies_at(dies_at);
        let binding = async {
            loop {
                // The old life may not have let go of it yet.
                match TcpListener::bind(self.address).await {
                    Ok(listener) => return listener,
                    Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
                }
            }
        };
        let listener = tokio::time::timeout(PATIENCE, binding).await.expect("its old port");
        let life = CancellationToken::new();
        live(listener, &self.state, &life);
        *self.life.lock() = life;
    }
}

impl Drop for Brittle {
    fn drop(&mut self) {
        self.life.lock().cancel();
    }
}

fn live(listener: TcpListener, state: &Arc<State>, life: &CancellationToken) {
    let (state, life) = (Arc::clone(state), life.clone());
    tokio::spawn(async move {
        while let Some(Ok((stream, _))) = life.run_until_cancelled(listener.accept()).await {
            stream.set_zero_linger().unwrap();
            let (state, life) = (Arc::clone(&state), life.clone());
            tokio::spawn(async move {
                life.run_until_cancelled(converse(stream, &state, &life)).await;
            });
        }
    });
}

async fn converse(stream: TcpStream, state: &State, life: &CancellationToken) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let asked = read_head(&mut stream).await?;
        let is_it = asked.raw_target == state.path;
        let (length, field, stream) = (state.body.len(), state.field, stream.get_mut());
        let range = asked.field("range").and_then(|range| range.strip_prefix("bytes="));
        let range = range.and_then(|range| {
            let (first, last) = range.split_once('-')?;
            let end = last.parse::<usize>().map_or(length, |last| last + 1);
            Some((first.parse::<usize>().ok()?, end))
        });
        let (first, end) = range.unwrap_or((0, length));
        let head = match range.filter(|_| is_it) {
            _ if !is_it => "HTTP/1.1 404 No\r\ncontent-length: 0\r\n\r\n".to_owned(),
            None => format!(
                "HTTP/1.1 200 Yes\r\ncontent-length: {length}\r\netag: \"b\"\r\n{field}\r\n"
            ),
            Some(_) => format!(
                "HTTP/1.1 206 Part\r\ncontent-length: {}\r\netag: \"b\"\r\n\
                 content-range: bytes {first}-{}/{length}\r\n\r\n",
                end - first,
                end - 1
            ),
        };
        stream.write_all(head.as_bytes()).await?;
        if !is_it {
            continue;
        }
        for piece in state.body[first..end].chunks(PIECE_BYTES) {
            stream.write_all(piece).await?;
            let bytes = piece.len() as u64;
            let sent = state.sent.fetch_add(bytes, Ordering::Relaxed) + bytes;
            if sent >= state.dies_at.load(Ordering::Relaxed) {
                life.cancel();
                return Ok(());
            }
        }
    }
}
