//! An HTTP/1.1 origin of objects that are made on the fly, so that they may have gigabytes: every
//! byte follows from the object's seed and its offset. It keeps what it was asked and counts what
//! it sent, may cut its answers by a plan of its own, and its objects may change.

use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Bytes that are made and sent together.
const PIECE_BYTES: u64 = 64 << 10;

/// An object that is held in no memory.
#[derive(Debug, Clone)]
pub(crate) struct Made {
    /// What its bytes follow from.
    pub(crate) seed: u64,
    /// Its length in bytes.
    pub(crate) length: u64,
    /// Its entity tag, quotes included; empty for none.
    pub(crate) etag: String,
    /// Whether it is sent in parts.
    pub(crate) knows_ranges: bool,
}

impl Made {
    /// An object with a strong tag of its own.
    pub(crate) fn new(seed: u64, length: u64) -> Self {
        Self { seed, length, etag: format!("\"v{seed}\""), knows_ranges: true }
    }

    /// Its bytes in a range.
    pub(crate) fn bytes(&self, range: Range<u64>) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(usize::try_from(range.end - range.start).unwrap() + 16);
        let mut word = range.start / 8;
        while word * 8 < range.end {
            bytes.extend_from_slice(&mixed(self.seed, word).to_le_bytes());
            word += 1;
        }
        bytes.drain(..usize::try_from(range.start % 8).unwrap());
        bytes.truncate(usize::try_from(range.end - range.start).unwrap());
        bytes
    }
}

fn mixed(seed: u64, word: u64) -> u64 {
    let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// A request that reached the origin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wish {
    pub(crate) method: String,
    pub(crate) path: String,
    /// First byte, and the last if it was named.
    pub(crate) range: Option<(u64, Option<u64>)>,
    pub(crate) if_match: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    objects: Mutex<HashMap<String, Made>>,
    wishes: Mutex<Vec<Wish>>,
    sent: AtomicU64,
    /// The seed of the plan by which one answer in three is cut; 0 for none.
    cutting: AtomicU64,
    /// Bytes of each answer after which it waits for its gate.
    held: Mutex<Option<(u64, super::Gate)>>,
}

/// A running origin. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct VirtualOrigin {
    address: SocketAddr,
    state: Arc<State>,
    _guard: DropGuard,
}

impl VirtualOrigin {
    /// An origin without objects.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stop = CancellationToken::new();
        let origin = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
            _guard: stop.clone().drop_guard(),
        };
        let state = Arc::clone(&origin.state);
        tokio::spawn(async move {
            while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
                let (state, stop) = (Arc::clone(&state), stop.clone());
                tokio::spawn(async move {
                    stop.run_until_cancelled(converse(stream, &state)).await;
                });
            }
        });
        origin
    }

    /// The keys of `[[site.origin]]`.
    pub(crate) fn table(&self) -> String {
        format!("url = \"http://{}\"\nname = \"origin-0\"", self.address)
    }

    /// From now on `path` is this object; `None` for no object.
    pub(crate) fn set(&self, path: &str, object: Option<Made>) {
        let mut objects = self.state.objects.lock();
        match object {
            Some(object) => objects.insert(path.to_owned(), object),
            None => objects.remove(path),
        };
    }

    /// From now on one answer in three is cut, by a plan that follows from `seed`; 0 for none.
    pub(crate) fn cut_by(&self, seed: u64) {
        self.state.cutting.store(seed, Ordering::Relaxed);
    }

    /// From now on every answer stops after so many bytes until the gate opens.
    pub(crate) fn hold(&self, bytes: u64, gate: &super::Gate) {
        *self.state.held.lock() = Some((bytes, gate.clone()));
    }

    /// What it was asked, but for `nix-cache-info`.
    pub(crate) fn wishes(&self) -> Vec<Wish> {
        self.state.wishes.lock().clone()
    }

    /// Bytes of bodies that it sent.
    pub(crate) fn sent(&self) -> u64 {
        self.state.sent.load(Ordering::Relaxed)
    }
}

async fn converse(stream: TcpStream, state: &State) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(wish) = read_wish(&mut stream).await? {
        if !answer(stream.get_mut(), &wish, state).await? {
            return Ok(());
        }
    }
    Ok(())
}

async fn read_wish(stream: &mut BufReader<TcpStream>) -> io::Result<Option<Wish>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let field = |name: &str| {
        let line = lines.iter().find(|line| line.to_ascii_lowercase().starts_with(name))?;
        Some(line.split_once(": ")?.1.to_owned())
    };
    // A suffix gets the whole.
    let range = field("range").and_then(|range| {
        let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
        Some((first.parse().ok()?, last.parse().ok()))
    });
    let mut words = lines[0].split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    Ok(Some(Wish { method, path, range, if_match: field("if-match") }))
}

/// Answers; whether the connection stays open.
async fn answer(stream: &mut TcpStream, wish: &Wish, state: &State) -> io::Result<bool> {
    if wish.path == "/nix-cache-info" {
        let body = "StoreDir: /nix/store\n";
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(head.as_bytes()).await?;
        return Ok(true);
    }
    state.wishes.lock().push(wish.clone());
    let object = state.objects.lock().get(&wish.path).cloned();
    let Some(object) = object else { return bare(stream, 404, "").await };
    let etag = match &*object.etag {
        "" => String::new(),
        etag => format!("etag: {etag}\r\n"),
    };
    if wish.if_match.as_ref().is_some_and(|wanted| *wanted != object.etag) {
        return bare(stream, 412, &etag).await;
    }
    let (status, span, range) = match wish.range.filter(|_| object.knows_ranges) {
        None => (200, 0..object.length, String::new()),
        Some((first, _)) if first >= object.length => return bare(stream, 416, &etag).await,
        Some((first, last)) => {
            let end = last.map_or(object.length, |last| (last + 1).min(object.length));
            let named = format!("content-range: bytes {first}-{}/{}\r\n", end - 1, object.length);
            (206, first..end, named)
        }
    };
    let length = span.end - span.start;
    let head = format!("HTTP/1.1 {status} X\r\n{etag}{range}content-length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    if wish.method == "HEAD" {
        return Ok(true);
    }
    let seed = state.cutting.load(Ordering::Relaxed);
    let draw = mixed(seed, state.wishes.lock().len() as u64);
    let is_cut = seed != 0 && draw.is_multiple_of(3);
    let end = if is_cut { span.start + (draw >> 8) % length } else { span.end };
    let stop = state.held.lock().clone();
    let mut at = span.start;
    while at < end {
        if let Some((bytes, gate)) = &stop
            && at - span.start >= *bytes
        {
            gate.opened().await;
        }
        let next = (at + PIECE_BYTES).min(end);
        let piece = Bytes::from(object.bytes(at..next));
        stream.write_all(&piece).await?;
        state.sent.fetch_add(next - at, Ordering::Relaxed);
        at = next;
    }
    Ok(!is_cut)
}

async fn bare(stream: &mut TcpStream, status: u16, fields: &str) -> io::Result<bool> {
    let head = format!("HTTP/1.1 {status} X\r\n{fields}content-length: 0\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    Ok(true)
}
