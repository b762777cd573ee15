//! The conversation: reads requests, has them answered and spoilt, writes what comes of it. A task
//! for each connection; everything ends when its token is cancelled.

use super::fault::Fault;
use super::plan::Plan;
use super::reply::{Asked, Cut, Framing, Head, Manner, Reply};
use super::script::Conditions;
use narthex::clock::Clock;
use parking_lot::Mutex;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// The longest head that is read.
const HEAD_BYTES_MAX: u64 = 64 << 10;

/// What is said in place of HTTP.
const GARBAGE: &[u8] = b"\x16\x03\x01\x02\0\x01\0\x01\xfc this is no HTTP at all\r\n\r\n\xff\xfe";

/// Who knows the right answers.
pub(crate) trait Source: Send + Sync + 'static {
    /// The answer as it should be.
    fn reply(
        &self,
        asked: &Asked,
        conditions: Conditions,
    ) -> impl Future<Output = io::Result<Reply>> + Send;

    /// An answer is to be spoilt so.
    fn spoilt(&self, _asked: &Asked, _fault: Fault) {}
}

/// What all connections of an origin share.
#[derive(Debug, Default)]
pub(crate) struct Server<S> {
    pub(crate) source: S,
    pub(crate) plan: Plan,
    /// Turned, or waited for, a second for each byte that drips.
    pub(crate) clock: Mutex<Clock>,
}

/// Takes connections until `life` ends, which ends them too: as a machine does that loses its
/// power.
pub(crate) async fn listen<S: Source>(
    listener: TcpListener,
    server: Arc<Server<S>>,
    life: CancellationToken,
) {
    while let Some(accepted) = life.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        if server.plan.refuses() {
            // Closed with a reset: nothing is left to say.
            let _ = stream.set_zero_linger();
            continue;
        }
        let (server, life) = (Arc::clone(&server), life.clone());
        tokio::spawn(async move {
            // How a conversation ends is the client's business or the plan's.
            life.run_until_cancelled(converse(stream, &server)).await;
        });
    }
}

async fn converse<S: Source>(stream: TcpStream, server: &Server<S>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    loop {
        let asked = read_head(&mut stream).await?;
        let length = asked.field("content-length").and_then(|length| length.parse().ok());
        let mut body = (&mut stream).take(length.unwrap_or(0));
        tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
        let clock = server.clock.lock().clone();
        let drawn = server.plan.draw(&asked);
        let drawn = drawn.filter(|(fault, _)| !fault.is_content_with(&asked, &clock));
        let conditions = match drawn {
            Some((fault, _)) if fault.ignores_conditions() => Conditions::Ignored,
            Some(_) | None => Conditions::Heeded,
        };
        let mut reply = server.source.reply(&asked, conditions).await?;
        if let Some((fault, place)) = drawn {
            server.source.spoilt(&asked, fault);
            fault.spoil(&mut reply, place, &clock);
        }
        if !answer(stream.get_mut(), &asked, reply, &clock).await? {
            return Ok(());
        }
    }
}

/// Reads the head of a request.
pub(crate) async fn read_head(stream: &mut BufReader<TcpStream>) -> io::Result<Asked> {
    let mut lines = Vec::new();
    let mut head = stream.take(HEAD_BYTES_MAX);
    loop {
        let mut line = String::new();
        if head.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() && !lines.is_empty() {
            break;
        }
        lines.push(line.to_owned());
    }
    parse_head(&lines).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

fn parse_head(lines: &[String]) -> Option<Asked> {
    let (first, rest) = lines.split_first()?;
    let mut first = first.split(' ');
    let method = first.next()?.to_owned();
    let raw_target = first.next()?.to_owned();
    let target = percent_encoding::percent_decode_str(&raw_target).decode_utf8().ok()?.into();
    let fields = rest.iter().map(|line| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_ascii_lowercase(), value.trim().to_owned()))
    });
    Some(Asked { method, raw_target, target, fields: fields.collect::<Option<_>>()? })
}

/// Answers; whether the connection stays open.
async fn answer(
    stream: &mut TcpStream,
    asked: &Asked,
    reply: Reply,
    clock: &Clock,
) -> io::Result<bool> {
    let is_open = reply.framing != Framing::UntilClose;
    match reply.manner.head {
        Head::Sent => {}
        Head::Never => return std::future::pending().await,
        Head::Reset => {
            stream.set_zero_linger()?;
            return Ok(false);
        }
        Head::Garbage => {
            stream.write_all(GARBAGE).await?;
            return Ok(false);
        }
    }
    if let Some(gate) = &reply.manner.hold_head {
        gate.opened().await;
    }
    stream.write_all(head_of(&reply).as_bytes()).await?;
    if asked.method == "HEAD" || reply.status == 304 {
        return Ok(is_open && reply.manner.cut_at.is_none());
    }
    let Reply { framing, manner, .. } = &reply;
    let (framing, manner) = (*framing, manner.clone());
    if let Some(cut) = send(stream, reply, clock).await? {
        if cut == Cut::Reset {
            stream.set_zero_linger()?;
        }
        return Ok(false);
    }
    if manner.surplus > 0 {
        stream.write_all(&vec![b'x'; manner.surplus]).await?;
        return Ok(false);
    }
    if framing == Framing::Chunked {
        stream.write_all(b"0\r\n\r\n").await?;
    }
    Ok(is_open && manner.overclaimed == 0)
}

fn head_of(reply: &Reply) -> String {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
    for (name, value) in &reply.fields {
        head.extend([name, ": ", value, "\r\n"]);
    }
    if reply.status != 304 {
        let length = reply.content.length().unwrap_or(0);
        let length = length + reply.manner.longer_by + reply.manner.overclaimed;
        match reply.framing {
            Framing::Length => head.extend(["content-length: ", &length.to_string(), "\r\n"]),
            Framing::Chunked => head += "transfer-encoding: chunked\r\n",
            Framing::UntilClose => head += "connection: close\r\n",
        }
    }
    head + "\r\n"
}

/// Sends the body in its manner; how it was cut, where it was.
async fn send(stream: &mut TcpStream, reply: Reply, clock: &Clock) -> io::Result<Option<Cut>> {
    let Reply { mut content, framing, manner, .. } = reply;
    let mut sent = 0;
    let mut hold_at = manner.hold_at.clone();
    loop {
        if let Some((at, gate)) = &hold_at
            && (*at <= sent || content.length() == Some(0))
        {
            stream.flush().await?;
            gate.opened().await;
            hold_at = None;
        }
        if let Some((at, cut)) = manner.cut_at
            && (at <= sent || content.length() == Some(0))
        {
            return Ok(Some(cut));
        }
        let hold = hold_at.as_ref().map(|(at, _)| *at);
        let piece = content.next(until_next_stop(&manner, hold, sent)).await?;
        if piece.is_empty() {
            break;
        }
        let piece = turn_bit(&manner, sent, piece);
        send_piece(stream, framing, &piece).await?;
        sent += piece.len() as u64;
        if sent <= manner.drip {
            pass_second(clock).await;
        }
    }
    if manner.longer_by > 0 {
        let more = vec![b'x'; usize::try_from(manner.longer_by).unwrap_or(0)];
        send_piece(stream, framing, &more).await?;
    }
    Ok(None)
}

/// Bytes that may be sent in one go.
fn until_next_stop(manner: &Manner, hold_at: Option<u64>, sent: u64) -> u64 {
    if sent < manner.drip {
        return 1;
    }
    let stops = [hold_at, manner.cut_at.map(|(at, _)| at)];
    stops.into_iter().flatten().map(|at| at - sent).min().unwrap_or(u64::MAX)
}

fn turn_bit(manner: &Manner, sent: u64, piece: bytes::Bytes) -> bytes::Bytes {
    let at = manner.flip_at.and_then(|at| usize::try_from(at.checked_sub(sent)?).ok());
    let mut turned = piece.to_vec();
    match at.and_then(|at| turned.get_mut(at)) {
        Some(byte) => *byte ^= 1,
        None => return piece,
    }
    turned.into()
}

async fn send_piece(stream: &mut TcpStream, framing: Framing, piece: &[u8]) -> io::Result<()> {
    if framing != Framing::Chunked {
        return stream.write_all(piece).await;
    }
    stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
    stream.write_all(piece).await?;
    stream.write_all(b"\r\n").await
}

/// A second, by a clock that is turned for it where it is one that is turned by hand.
async fn pass_second(clock: &Clock) {
    let second = Duration::from_secs(1);
    match clock {
        Clock::System => tokio::time::sleep(second).await,
        Clock::Manual(manual) => {
            manual.advance(second);
            tokio::task::yield_now().await;
        }
    }
}
