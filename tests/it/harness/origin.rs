//! An HTTP/1.1 origin that follows a script, on a free port of loopback: each path has a list of
//! answers, the last of which stays. It keeps what it was asked. Written on bare TCP, so that it
//! can break the protocol wherever a scenario wants it broken.

use super::{PATIENCE, eventually};
use bytes::Bytes;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Something that is held until it is let go.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(CancellationToken);

impl Gate {
    /// Waits until it is let go.
    pub(crate) async fn opened(&self) {
        self.0.cancelled().await;
    }

    /// Lets go, for good.
    pub(crate) fn open(&self) {
        self.0.cancel();
    }
}

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length,
    Chunked,
    UntilClose,
}

/// How a connection ends in mid-body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Closed,
    Reset,
}

/// What is made of preconditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Conditions {
    Heeded,
    Ignored,
}

/// One answer.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    status: u16,
    fields: Vec<(String, String)>,
    body: Bytes,
    framing: Framing,
    knows_ranges: bool,
    etag: Option<String>,
    last_modified: Option<String>,
    cut_at: Option<(usize, Cut)>,
    surplus: usize,
    conditions: Conditions,
    is_for_ranges: bool,
    content_range: Option<String>,
    hold_at: Option<(usize, Gate)>,
    hold_head: Option<Gate>,
    hangs: bool,
}

/// 200 with `body`, its length, and ranges.
pub(crate) fn says(body: impl Into<Bytes>) -> Script {
    Script {
        status: 200,
        fields: Vec::new(),
        body: body.into(),
        framing: Framing::Length,
        knows_ranges: true,
        etag: None,
        last_modified: None,
        cut_at: None,
        surplus: 0,
        conditions: Conditions::Heeded,
        is_for_ranges: false,
        content_range: None,
        hold_at: None,
        hold_head: None,
        hangs: false,
    }
}

impl Script {
    /// `status` with a short body.
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..says(format!("origin says {status}\n")) }
    }

    /// `status` with the error document of S3.
    pub(crate) fn fault(status: u16, code: &str) -> Self {
        let body = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
        Self { status, ..says(body) }.field("content-type", "application/xml")
    }

    /// No answer, ever.
    pub(crate) fn hangs() -> Self {
        Self { hangs: true, ..says("") }
    }

    /// With this field.
    pub(crate) fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this entity tag, quotes included; conditions on it are honoured.
    pub(crate) fn etag(self, etag: &str) -> Self {
        Self { etag: Some(etag.to_owned()), ..self }
    }

    /// With this date; `If-Modified-Since` with the same text gets 304.
    pub(crate) fn last_modified(self, date: &str) -> Self {
        Self { last_modified: Some(date.to_owned()), ..self }
    }

    /// Ranges are ignored: 200 to everything.
    pub(crate) fn without_ranges(self) -> Self {
        Self { knows_ranges: false, ..self }
    }

    /// Chunked, without a length.
    pub(crate) fn chunked(self) -> Self {
        Self { framing: Framing::Chunked, ..self }
    }

    /// Without a length, ended by the end of the connection.
    pub(crate) fn until_close(self) -> Self {
        Self { framing: Framing::UntilClose, ..self }
    }

    /// The connection is closed after so many bytes of what is sent.
    pub(crate) fn cut_at(self, bytes: usize) -> Self {
        Self { cut_at: Some((bytes, Cut::Closed)), ..self }
    }

    /// The connection is reset after so many bytes of what is sent.
    pub(crate) fn reset_at(self, bytes: usize) -> Self {
        Self { cut_at: Some((bytes, Cut::Reset)), ..self }
    }

    /// So many bytes follow behind the body.
    pub(crate) fn surplus(self, bytes: usize) -> Self {
        Self { surplus: bytes, ..self }
    }

    /// Conditions are ignored.
    pub(crate) fn unconditional(self) -> Self {
        Self { conditions: Conditions::Ignored, ..self }
    }

    /// Who asks without a range gets 501.
    pub(crate) fn for_ranges_alone(self) -> Self {
        Self { is_for_ranges: true, ..self }
    }

    /// Every 206 says this of itself, whatever it is.
    pub(crate) fn content_range(self, value: &str) -> Self {
        Self { content_range: Some(value.to_owned()), ..self }
    }

    /// Stops after so many bytes of what is sent until the gate opens.
    pub(crate) fn held_at(self, bytes: usize, gate: &Gate) -> Self {
        Self { hold_at: Some((bytes, gate.clone())), ..self }
    }

    /// Says nothing until the gate opens.
    pub(crate) fn held(self, gate: &Gate) -> Self {
        Self { hold_head: Some(gate.clone()), ..self }
    }

    /// The same answer with another body.
    pub(crate) fn with_body(self, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..self }
    }
}

/// A request that reached the origin.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// As it was sent.
    pub(crate) raw_target: String,
    /// Decoded: what scripts go by.
    target: String,
    fields: Vec<(String, String)>,
}

impl Asked {
    /// The value of the field `name` (lower case).
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(own, _)| own == name).map(|(_, value)| &**value)
    }
}

#[derive(Debug, Default)]
struct State {
    scripts: Mutex<HashMap<String, VecDeque<Script>>>,
    asked: Mutex<Vec<Asked>>,
}

/// A running origin. Dropping it stops it: it refuses connections and breaks those it has.
#[derive(Debug)]
pub(crate) struct Origin {
    address: SocketAddr,
    state: Arc<State>,
    stop: CancellationToken,
    _guard: DropGuard,
}

impl Origin {
    /// An origin that has nothing but `nix-cache-info`.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stop = CancellationToken::new();
        let origin = Self {
            address: listener.local_addr().unwrap(),
            state: Arc::default(),
            stop: stop.clone(),
            _guard: stop.clone().drop_guard(),
        };
        let info = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n";
        origin.say("/nix-cache-info", says(info));
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

    /// `http://address`.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on `target` is answered so.
    pub(crate) fn say(&self, target: &str, script: Script) {
        self.say_in_turn(target, vec![script]);
    }

    /// From now on `target` is answered so, one after the other, the last for good.
    pub(crate) fn say_in_turn(&self, target: &str, scripts: Vec<Script>) {
        self.state.scripts.lock().insert(target.to_owned(), scripts.into());
    }

    /// Stops at once, as a machine does that loses its power.
    pub(crate) fn die(&self) {
        self.stop.cancel();
    }

    /// Every request for `target`.
    pub(crate) fn asked(&self, target: &str) -> Vec<Asked> {
        let asked = self.state.asked.lock();
        asked.iter().filter(|asked| asked.target == target).cloned().collect()
    }

    /// How many requests for `target` there were.
    pub(crate) fn count(&self, target: &str) -> usize {
        self.asked(target).len()
    }

    /// How many requests there were for anything but `nix-cache-info`, which the edge's self test
    /// asks for.
    pub(crate) fn count_all(&self) -> usize {
        let asked = self.state.asked.lock();
        asked.iter().filter(|asked| asked.target != "/nix-cache-info").count()
    }

    /// Waits until `target` was asked for `times` times.
    pub(crate) async fn until_asked(&self, target: &str, times: usize) {
        eventually(target, || self.count(target) >= times).await;
    }
}

impl State {
    fn script(&self, target: &str) -> Script {
        let mut scripts = self.scripts.lock();
        match scripts.get_mut(target) {
            Some(turns) if turns.len() > 1 => turns.pop_front().unwrap(),
            Some(turns) => turns.front().cloned().unwrap_or_else(|| Script::status(404)),
            None => Script::status(404),
        }
    }
}

async fn converse(stream: TcpStream, state: &State) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let asked = read_head(&mut stream).await?;
        let length = asked.field("content-length").map_or(0, |length| length.parse().unwrap());
        stream.read_exact(&mut vec![0; length]).await?;
        let script = state.script(&asked.target);
        state.asked.lock().push(asked.clone());
        if script.hangs {
            return std::future::pending().await;
        }
        if let Some(gate) = &script.hold_head {
            gate.0.cancelled().await;
        }
        if !answer(stream.get_mut(), &asked, &script).await? {
            return Ok(());
        }
    }
}

pub(super) async fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<Asked> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        lines.push(line.to_owned());
    }
    let mut first = lines[0].split(' ');
    let method = first.next().unwrap().to_owned();
    let raw_target = first.next().unwrap().to_owned();
    let target = percent_encoding::percent_decode_str(&raw_target).decode_utf8().unwrap().into();
    let fields = lines[1..].iter().map(|line| {
        let (name, value) = line.split_once(':').unwrap();
        (name.to_ascii_lowercase(), value.trim().to_owned())
    });
    Ok(Asked { method, target, raw_target, fields: fields.collect() })
}

/// Answers; whether the connection stays open.
async fn answer(stream: &mut TcpStream, asked: &Asked, script: &Script) -> io::Result<bool> {
    let (status, extra, body) = select(asked, script);
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in script.fields.iter().chain(&extra) {
        head += &format!("{name}: {value}\r\n");
    }
    if status != 304 {
        match script.framing {
            Framing::Length => head += &format!("content-length: {}\r\n", body.len()),
            Framing::Chunked => head += "transfer-encoding: chunked\r\n",
            Framing::UntilClose => head += "connection: close\r\n",
        }
    }
    stream.write_all(format!("{head}\r\n").as_bytes()).await?;
    if asked.method == "HEAD" || status == 304 {
        return Ok(script.framing != Framing::UntilClose);
    }
    let end = script.cut_at.map_or(body.len(), |(bytes, _)| bytes.min(body.len()));
    let mut at = 0;
    if let Some((hold_at, gate)) = &script.hold_at {
        let hold_at = (*hold_at).min(end);
        send(stream, script.framing, &body[..hold_at]).await?;
        at = hold_at;
        stream.flush().await?;
        gate.0.cancelled().await;
    }
    send(stream, script.framing, &body[at..end]).await?;
    if let Some((_, cut)) = script.cut_at {
        if cut == Cut::Reset {
            stream.set_zero_linger()?;
        }
        return Ok(false);
    }
    if script.surplus > 0 {
        stream.write_all(&vec![b'x'; script.surplus]).await?;
        return Ok(false);
    }
    if script.framing == Framing::Chunked {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    Ok(script.framing != Framing::UntilClose)
}

async fn send(stream: &mut TcpStream, framing: Framing, bytes: &[u8]) -> io::Result<()> {
    for piece in bytes.chunks(100_000) {
        if framing == Framing::Chunked {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
            stream.write_all(piece).await?;
            stream.write_all(b"\r\n").await?;
        } else {
            tokio::time::timeout(PATIENCE, stream.write_all(piece)).await??;
        }
    }
    Ok(())
}

/// Status, further fields and body that answer a request: conditions, then ranges.
fn select(asked: &Asked, script: &Script) -> (u16, Vec<(String, String)>, Bytes) {
    let mut extra = Vec::new();
    let mut add = |name: &str, value: &str| extra.push((name.to_owned(), value.to_owned()));
    if let Some(etag) = &script.etag {
        add("etag", etag);
    }
    if let Some(date) = &script.last_modified {
        add("last-modified", date);
    }
    if script.is_for_ranges && asked.field("range").is_none() {
        return (501, extra, Bytes::new());
    }
    if script.status != 200 {
        return (script.status, extra, script.body.clone());
    }
    let is_same = |name, own: &Option<String>| own.is_some() && asked.field(name) == own.as_deref();
    let has_condition =
        asked.field("if-match").is_some() && script.conditions == Conditions::Heeded;
    if has_condition && !is_same("if-match", &script.etag) {
        return (412, extra, Bytes::new());
    }
    if is_same("if-none-match", &script.etag) || is_same("if-modified-since", &script.last_modified)
    {
        return (304, extra, Bytes::new());
    }
    let is_other = asked.field("if-range").is_some()
        && script.conditions == Conditions::Heeded
        && !is_same("if-range", &script.etag)
        && !is_same("if-range", &script.last_modified);
    let Some(range) = asked.field("range").filter(|_| script.knows_ranges && !is_other) else {
        return (200, extra, script.body.clone());
    };
    let (first, last) = range.strip_prefix("bytes=").unwrap().split_once('-').unwrap();
    let length = script.body.len();
    let first: usize = first.parse().unwrap();
    let last = last.parse().map_or(length, |last: usize| (last + 1).min(length));
    if first >= length {
        return (416, extra, Bytes::new());
    }
    let content_range = format!("bytes {first}-{}/{length}", last - 1);
    let content_range = script.content_range.clone().unwrap_or(content_range);
    extra.push(("content-range".to_owned(), content_range));
    (206, extra, script.body.slice(first..last))
}
