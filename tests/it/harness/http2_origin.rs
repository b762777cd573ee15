//! An origin that speaks HTTP/2 over TLS frame by frame, as a test tells it: so that the test
//! chooses which stream is processed, refused or cut, and how a connection is closed. Each
//! connection is a [`Peer`] that the test holds, or is answered by [`Http2Origin::answer`].

use super::PATIENCE;
use bytes::{Buf, Bytes, BytesMut};
use futures_util::stream::{FuturesUnordered, StreamExt};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEAD_BYTES: usize = 9;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Codes of RST_STREAM and GOAWAY (RFC 9113 section 7).
pub(crate) const NO_ERROR: u32 = 0;
pub(crate) const INTERNAL_ERROR: u32 = 2;
pub(crate) const REFUSED_STREAM: u32 = 7;
pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;

/// SETTINGS_MAX_CONCURRENT_STREAMS.
pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;

/// The body of each answer.
pub(crate) const TEXT: &str = "an object";

/// A listening origin.
pub(crate) struct Http2Origin {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    address: SocketAddr,
    certificate: NamedTempFile,
    processed: AtomicUsize,
}

/// Whether a stream ends with a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    GoesOn,
    Ends,
}

/// A connection of the edge.
pub(crate) struct Peer {
    stream: TlsStream<TcpStream>,
    read: BytesMut,
}

struct Frame {
    kind: Kind,
    stream: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Data = 0,
    Headers = 1,
    Reset = 3,
    Settings = 4,
    Ping = 6,
    GoAway = 7,
    Other = 255,
}

impl Http2Origin {
    pub(crate) async fn start() -> Self {
        let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
        let mut certificate = NamedTempFile::new().unwrap();
        certificate.write_all(issued.cert.pem().as_bytes()).unwrap();
        let key = issued.signing_key.serialize_der().try_into().unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![issued.cert.der().clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            address: listener.local_addr().unwrap(),
            listener,
            acceptor: TlsAcceptor::from(Arc::new(tls)),
            certificate,
            processed: AtomicUsize::new(0),
        }
    }

    /// The keys of `[[site.origin]]`, with these lines behind them.
    pub(crate) fn table(&self, lines: &str) -> String {
        format!(
            "url = \"https://localhost:{}\"\nname = \"one\"\nca_file = \"{}\"\n{lines}",
            self.address.port(),
            self.certificate.path().display()
        )
    }

    /// Requests that [`Http2Origin::answer`] has processed.
    pub(crate) fn processed(&self) -> usize {
        self.processed.load(Ordering::Relaxed)
    }

    /// The next connection, with these settings.
    pub(crate) async fn accept(&self, settings: &[(u16, u32)]) -> Peer {
        timeout(PATIENCE, self.next(settings)).await.expect("a connection").unwrap()
    }

    async fn next(&self, settings: &[(u16, u32)]) -> io::Result<Peer> {
        let (stream, _) = self.listener.accept().await?;
        self.shake(stream, settings).await
    }

    async fn shake(&self, stream: TcpStream, settings: &[(u16, u32)]) -> io::Result<Peer> {
        stream.set_nodelay(true)?;
        let mut peer = Peer { stream: self.acceptor.accept(stream).await?, read: BytesMut::new() };
        peer.settings(settings).await?;
        peer.fill(PREFACE.len()).await?;
        assert!(peer.read.split_to(PREFACE.len()) == PREFACE, "no preface");
        Ok(peer)
    }

    /// Answers every request of every further connection; each connection takes `limit` requests
    /// and says with the last of them that it goes away, as nginx does. Never ends.
    pub(crate) async fn answer(&self, limit: usize, settings: &[(u16, u32)]) {
        let mut answering = FuturesUnordered::new();
        loop {
            tokio::select! {
                accepted = self.listener.accept() => {
                    let stream = accepted.unwrap().0;
                    answering.push(async move {
                        let mut peer = self.shake(stream, settings).await?;
                        self.answer_on(&mut peer, limit).await
                    });
                }
                // The edge may break off a connection at any time.
                Some(_) = answering.next() => {}
            }
        }
    }

    /// The same for one connection that is there.
    pub(crate) async fn answer_on(&self, peer: &mut Peer, limit: usize) -> io::Result<()> {
        for number in 1..=limit {
            let stream = peer.try_request().await?;
            if number == limit {
                peer.go_away(stream, NO_ERROR).await?;
            }
            self.processed.fetch_add(1, Ordering::Relaxed);
            peer.answer(stream).await?;
        }
        peer.stream.shutdown().await?;
        peer.until_closed().await;
        Ok(())
    }
}

impl Peer {
    /// The stream of the next request; the frames in between are acknowledged as needed.
    pub(crate) async fn request(&mut self) -> u32 {
        timeout(PATIENCE, self.try_request()).await.expect("a request").unwrap()
    }

    async fn try_request(&mut self) -> io::Result<u32> {
        loop {
            let frame = self.frame().await?;
            if frame.kind == Kind::Headers {
                return Ok(frame.stream);
            }
        }
    }

    /// Answers 200 with [`TEXT`].
    pub(crate) async fn answer(&mut self, stream: u32) -> io::Result<()> {
        self.head(stream, Some(TEXT.len())).await?;
        self.data(stream, TEXT.as_bytes(), Stream::Ends).await
    }

    /// The head of a 200, with the length if there is one.
    pub(crate) async fn head(&mut self, stream: u32, length: Option<usize>) -> io::Result<()> {
        // Index 8 of HPACK's static table: `:status: 200`; 28: `content-length`.
        let mut block = vec![0x88];
        if let Some(length) = length {
            let digits = length.to_string();
            block.extend([0x0f, 0x0d, u8::try_from(digits.len()).unwrap()]);
            block.extend(digits.as_bytes());
        }
        self.write(Kind::Headers, END_HEADERS, stream, &block).await
    }

    pub(crate) async fn data(&mut self, stream: u32, bytes: &[u8], end: Stream) -> io::Result<()> {
        let flags = if end == Stream::Ends { END_STREAM } else { 0 };
        self.write(Kind::Data, flags, stream, bytes).await
    }

    pub(crate) async fn reset(&mut self, stream: u32, code: u32) -> io::Result<()> {
        self.write(Kind::Reset, 0, stream, &code.to_be_bytes()).await
    }

    /// `last` is the last stream that is processed.
    pub(crate) async fn go_away(&mut self, last: u32, code: u32) -> io::Result<()> {
        let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
        self.write(Kind::GoAway, 0, 0, &payload).await
    }

    pub(crate) async fn settings(&mut self, settings: &[(u16, u32)]) -> io::Result<()> {
        let each = |(name, value): &(u16, u32)| {
            [&name.to_be_bytes()[..], &value.to_be_bytes()[..]].concat()
        };
        let payload: Vec<u8> = settings.iter().flat_map(each).collect();
        self.write(Kind::Settings, 0, 0, &payload).await
    }

    /// Reads on until the edge closes the connection.
    pub(crate) async fn until_closed(&mut self) {
        while self.frame().await.is_ok() {}
    }

    async fn write(
        &mut self,
        kind: Kind,
        flags: u8,
        stream: u32,
        payload: &[u8],
    ) -> io::Result<()> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind as u8, flags], &stream.to_be_bytes()].concat();
        self.stream.write_all(&[&head, payload].concat()).await?;
        self.stream.flush().await
    }

    async fn frame(&mut self) -> io::Result<Frame> {
        self.fill(FRAME_HEAD_BYTES).await?;
        let head = self.read.split_to(FRAME_HEAD_BYTES).freeze();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        self.fill(length).await?;
        let payload: Bytes = self.read.split_to(length).freeze();
        let (kind, flags) = (Kind::of(head[3]), head[4]);
        if kind == Kind::Settings && flags & ACK == 0 {
            self.write(kind, ACK, 0, &[]).await?;
        }
        if kind == Kind::Ping && flags & ACK == 0 {
            self.write(kind, ACK, 0, &payload).await?;
        }
        Ok(Frame { kind, stream: (&head[5..]).get_u32() })
    }

    async fn fill(&mut self, length: usize) -> io::Result<()> {
        while self.read.len() < length {
            if self.stream.read_buf(&mut self.read).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }
}

impl Kind {
    fn of(number: u8) -> Self {
        let kinds =
            [Self::Data, Self::Headers, Self::Reset, Self::Settings, Self::Ping, Self::GoAway];
        kinds.into_iter().find(|kind| *kind as u8 == number).unwrap_or(Self::Other)
    }
}
