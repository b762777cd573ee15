//! The conversation: reads requests, has them answered and spoilt, writes what comes of it. A task
//! for each connection; everything ends when its token is cancelled.

use super::body::{Outgoing, Step};
use super::fault::Fault;
use super::http2;
use super::plan::Plan;
use super::reply::{Asked, Cut, Framing, Head, Reply};
use super::script::Conditions;
use super::secure::{Identity, Wire};
use bytes::Bytes;
use narthex::clock::Clock;
use parking_lot::Mutex;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

/// The longest head that is read.
const HEAD_BYTES_MAX: u64 = 64 << 10;

/// What is said in place of HTTP.
const GARBAGE: &[u8] = b"\x16\x03\x01\x02\0\x01\0\x01\xfc this is no HTTP at all\r\n\r\n\xff\xfe";

/// The source of the right answers.
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

impl<S: Source> Server<S> {
    /// The answer to a request, spoilt as the plan has it.
    pub(super) async fn reply(&self, asked: &Asked, clock: &Clock) -> io::Result<Reply> {
        let drawn = self.plan.draw(asked);
        let drawn = drawn.filter(|(fault, _)| !fault.is_content_with(asked, clock));
        let conditions = match drawn {
            Some((fault, _)) if fault.ignores_conditions() => Conditions::Ignored,
            Some(_) | None => Conditions::Heeded,
        };
        let mut reply = self.source.reply(asked, conditions).await?;
        if let Some((fault, place)) = drawn {
            self.source.spoilt(asked, fault);
            fault.spoil(&mut reply, place, clock);
        }
        Ok(reply)
    }
}

/// What is spoken on a listener.
#[derive(Debug, Clone)]
pub(crate) enum Door {
    /// HTTP/1.1.
    Plain,
    /// HTTP/1.1 over TLS.
    Tls(Identity),
    /// HTTP/2 over TLS.
    Http2(Identity),
}

/// Takes connections until `life` ends, which ends them too: as a machine does that loses its
/// power.
pub(crate) async fn listen<S: Source>(
    listener: TcpListener,
    door: Door,
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
        let (door, server, life) = (door.clone(), Arc::clone(&server), life.clone());
        tokio::spawn(async move {
            // How a conversation ends is the client's business or the plan's.
            life.run_until_cancelled(enter(stream, &door, &server)).await;
        });
    }
}

async fn enter<S: Source>(
    stream: TcpStream,
    door: &Door,
    server: &Arc<Server<S>>,
) -> io::Result<()> {
    // A piece is a packet.
    stream.set_nodelay(true)?;
    match door {
        Door::Plain => converse(Wire::Plain(stream), server).await,
        Door::Tls(identity) => {
            let stream = identity.acceptor("http/1.1").accept(stream).await?;
            converse(Wire::Tls(Box::new(stream)), server).await
        }
        Door::Http2(identity) => {
            let stream = identity.acceptor("h2").accept(stream).await?;
            http2::converse(stream, server).await.map_err(io::Error::other)
        }
    }
}

async fn converse<S: Source>(stream: Wire, server: &Server<S>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let asked = read_head(&mut stream).await?;
        let length = asked.field("content-length").and_then(|length| length.parse().ok());
        let mut body = (&mut stream).take(length.unwrap_or(0));
        tokio::io::copy(&mut body, &mut tokio::io::sink()).await?;
        let clock = server.clock.lock().clone();
        let reply = server.reply(&asked, &clock).await?;
        match answer(stream.get_mut(), &asked, reply, &clock).await? {
            After::Open => {}
            After::Closed => return stream.shutdown().await,
            After::Broken => return Ok(()),
        }
    }
}

/// What becomes of a connection behind an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Open,
    /// It ends in order.
    Closed,
    /// It ends without a word, or with a reset.
    Broken,
}

/// Reads the head of a request.
pub(crate) async fn read_head(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Asked> {
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

/// Answers; what becomes of the connection.
async fn answer(
    stream: &mut Wire,
    asked: &Asked,
    reply: Reply,
    clock: &Clock,
) -> io::Result<After> {
    match reply.manner.head {
        Head::Sent => {}
        Head::Never => return std::future::pending().await,
        Head::Reset => {
            stream.reset_when_closed()?;
            return Ok(After::Broken);
        }
        Head::Garbage => {
            write(stream, GARBAGE).await?;
            return Ok(After::Closed);
        }
    }
    if let Some(gate) = &reply.manner.hold_head {
        gate.opened().await;
    }
    write(stream, head_of(&reply).as_bytes()).await?;
    let after = if reply.framing == Framing::UntilClose { After::Closed } else { After::Open };
    if asked.method == "HEAD" || reply.status == 304 {
        return Ok(if reply.manner.cut_at.is_some() { After::Broken } else { after });
    }
    let (surplus, overclaimed) = (reply.manner.surplus, reply.manner.overclaimed);
    let framing = reply.framing;
    if let Some(cut) = send(stream, reply, clock).await? {
        if cut == Cut::Reset {
            stream.reset_when_closed()?;
        }
        return Ok(After::Broken);
    }
    if surplus > 0 {
        write(stream, &vec![b'x'; surplus]).await?;
        return Ok(After::Closed);
    }
    if framing == Framing::Chunked {
        write(stream, b"0\r\n\r\n").await?;
    }
    Ok(if overclaimed > 0 { After::Broken } else { after })
}

/// Writes all of it, as one record over TLS.
async fn write(stream: &mut Wire, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

fn head_of(reply: &Reply) -> String {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", reply.status);
    for (name, value) in &reply.fields {
        head.extend([name, ": ", value, "\r\n"]);
    }
    if reply.status != 304 {
        let length = length_of(reply).to_string();
        match reply.framing {
            Framing::Length => head.extend(["content-length: ", &length, "\r\n"]),
            Framing::Chunked => head += "transfer-encoding: chunked\r\n",
            Framing::UntilClose => head += "connection: close\r\n",
        }
    }
    head + "\r\n"
}

/// The length that an answer claims to have.
pub(super) fn length_of(reply: &Reply) -> u64 {
    let length = reply.content.length().unwrap_or(0);
    length + reply.manner.longer_by + reply.manner.overclaimed
}

/// Sends the body in its manner; how it was cut, if it was.
async fn send(stream: &mut Wire, reply: Reply, clock: &Clock) -> io::Result<Option<Cut>> {
    let framing = reply.framing;
    let mut outgoing = Outgoing::new(reply.content, reply.manner, clock);
    loop {
        match outgoing.next().await? {
            Step::Send(block, sizes) => write(stream, &framed(framing, block, &sizes)).await?,
            Step::Break(cut) => return Ok(Some(cut)),
            Step::End => return Ok(None),
        }
    }
}

/// A block as it is written, in pieces of these sizes.
fn framed(framing: Framing, block: Bytes, sizes: &[usize]) -> Bytes {
    if framing != Framing::Chunked {
        return block;
    }
    let (mut framed, mut rest, mut last, mut head) = (Vec::new(), &block[..], 0, String::new());
    for size in sizes {
        if *size != last {
            last = *size;
            head = format!("{size:x}\r\n");
        }
        let (piece, behind) = rest.split_at(*size);
        framed.extend_from_slice(head.as_bytes());
        framed.extend_from_slice(piece);
        framed.extend_from_slice(b"\r\n");
        rest = behind;
    }
    framed.into()
}

#[cfg(test)]
mod tests {
    use super::super::pieces::{Gap, Pieces, Size};
    use super::super::script::{Script, says};
    use super::*;
    use http_body_util::{BodyExt, Empty};
    use hyper_util::rt::{TokioExecutor, TokioIo};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    use rustls::{ClientConfig, RootCertStore};
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;
    use tokio_util::sync::DropGuard;

    const BODY: &[u8] = &[b'x'; 2500];

    impl Source for Script {
        async fn reply(&self, asked: &Asked, conditions: Conditions) -> io::Result<Reply> {
            Ok(Script::reply(self, asked, conditions))
        }
    }

    /// A body in pieces of 1000 bytes.
    fn in_pieces(gap: Gap) -> Script {
        says(BODY).in_pieces(Pieces { size: Size::Fixed(1000), gap, count_max: u64::MAX })
    }

    async fn connect(script: Script, door: Door) -> (TcpStream, DropGuard) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let life = CancellationToken::new();
        let (plan, clock) = (Plan::default(), Mutex::default());
        let server = Arc::new(Server { source: script, plan, clock });
        tokio::spawn(listen(listener, door, server, life.clone()));
        (TcpStream::connect(address).await.unwrap(), life.drop_guard())
    }

    /// What comes up to the end of the connection.
    async fn read_all(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Vec<u8> {
        stream.write_all(b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n").await.unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        all
    }

    /// A stream that keeps what was read.
    struct Tapped(TcpStream, Vec<u8>);

    impl AsyncRead for Tapped {
        fn poll_read(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            into: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            let before = into.filled().len();
            let polled = Pin::new(&mut self.0).poll_read(context, into);
            self.1.extend_from_slice(&into.filled()[before..]);
            polled
        }
    }

    impl AsyncWrite for Tapped {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    async fn secure(stream: TcpStream, identity: &Identity, protocol: &str) -> TlsStream<Tapped> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(identity.authority.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.into()];
        let name = "127.0.0.1".try_into().unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        connector.connect(name, Tapped(stream, Vec::new())).await.unwrap()
    }

    #[tokio::test]
    async fn a_piece_is_a_chunk_joined_or_apart() {
        let chunk = |bytes| format!("{bytes:x}\r\n{}\r\n", "x".repeat(bytes));
        let wanted = chunk(1000) + &chunk(1000) + &chunk(500) + "0\r\n\r\n";
        for gap in [Gap::Joined, Gap::BackToBack, Gap::Apart(Duration::from_micros(100))] {
            let script = in_pieces(gap).chunked();
            let (mut stream, _life) = connect(script, Door::Plain).await;
            let asked = b"GET / HTTP/1.1\r\n\r\n";
            stream.write_all(asked).await.unwrap();
            let mut got = Vec::new();
            while !got.ends_with(b"\r\n0\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut got).await.unwrap(), 0, "{gap:?}");
            }
            assert!(String::from_utf8(got).unwrap().ends_with(&wanted), "{gap:?}");
        }
    }

    #[tokio::test]
    async fn a_piece_is_a_record_of_tls() {
        let identity = Identity::new().unwrap();
        let script = in_pieces(Gap::BackToBack).until_close();
        let (stream, _life) = connect(script, Door::Tls(identity.clone())).await;
        let mut stream = secure(stream, &identity, "http/1.1").await;
        assert!(read_all(&mut stream).await.ends_with(BODY));
        let mut rest = &stream.get_ref().0.1[..];
        let mut records = Vec::new();
        while let [kind, _, _, high, low, behind @ ..] = rest {
            let bytes = usize::from(u16::from_be_bytes([*high, *low]));
            records.push((*kind, bytes));
            rest = &behind[bytes..];
        }
        // Application data (23) with a tag of 16 bytes and a byte that says what is in it.
        let pieces = [1000, 1000, 500].map(|bytes| (23, bytes + 17));
        assert!(records.windows(3).any(|window| window == pieces), "{records:?}");
    }

    #[tokio::test]
    async fn a_piece_is_a_data_frame_of_http2() {
        let identity = Identity::new().unwrap();
        for gap in [Gap::Joined, Gap::BackToBack] {
            let (stream, _life) = connect(in_pieces(gap), Door::Http2(identity.clone())).await;
            let io = TokioIo::new(secure(stream, &identity, "h2").await);
            let shaken = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await;
            let (mut sender, connection) = shaken.unwrap();
            tokio::spawn(connection);
            let request = http::Request::get("https://127.0.0.1/").body(Empty::<Bytes>::new());
            let response = sender.send_request(request.unwrap()).await.unwrap();
            assert_eq!(response.headers()["content-length"], "2500");
            let (mut body, mut frames) = (response.into_body(), Vec::new());
            while let Some(frame) = body.frame().await {
                frames.push(frame.unwrap().into_data().unwrap().len());
            }
            frames.retain(|bytes| *bytes > 0);
            assert_eq!(frames, [1000, 1000, 500], "{gap:?}");
        }
    }
}
