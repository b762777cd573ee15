//! What hyper reads and writes: a TCP connection in the clear or under TLS. Takes requests of the
//! fast path out of what is read, refuses bare line feeds, and writes interim answers in between.
//! Tells its [`ConnectionDeadlines`] what happens. One for each connection, owned by its task; no
//! locks.

use super::bare_lf::{BareLf, BareLfFilter};
use super::connection_deadlines::ConnectionDeadlines;
use super::fast_path::{FastPath, FastResponder, InputOwner, NextStep};
use super::simple_request::HeadLimits;
use super::tcp_socket::TcpSocket;
use super::tls_records::{TlsFlush, TlsRecords};
use crate::engine::{ClientConnection, Interims};
use bytes::{Buf, Bytes, BytesMut};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What an HTTP/2 client sends first (RFC 9113 section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What ends a request's head.
const END_OF_HEAD: &[u8] = b"\r\n\r\n";

/// Plain or under TLS.
#[derive(Debug)]
pub(super) enum ClientStream {
    Plain(TcpSocket),
    Tls(TlsRecords),
}

/// What the first bytes of a client are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// None: the client closed.
    Closed,
    /// The preface of HTTP/2.
    Preface,
    /// Anything else.
    Other,
}

/// The connection as hyper sees it.
#[derive(Debug)]
pub(super) struct Socket {
    stream: ClientStream,
    /// Bytes that [`Socket::opening`] read, to be read again.
    ahead: BytesMut,
    /// The filter of line ends over HTTP/1; `None` until the protocol is known.
    bare_lf: Option<BareLfFilter>,
    /// Interim answers that are to be written, over HTTP/1.
    interims: Option<InterimWriter>,
    /// The fast path of hits, over HTTP/1.
    fast_path: Option<FastPath>,
    deadlines: Arc<ConnectionDeadlines>,
    /// The connection as the engine knows it; `None` until the protocol is known.
    connection: Option<Arc<ClientConnection>>,
    flushed: FlushBy,
}

/// Which side flushes what was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FlushBy {
    /// The writer, hyper.
    Writer,
    /// The task of the connection, after it polled the writer.
    Task,
}

/// Interim answers, and whether one may be written now.
#[derive(Debug)]
struct InterimWriter {
    waiting: Arc<Interims>,
    /// The rest of one that is being written.
    rest: Bytes,
    /// Whether everything before is written, so that the next write begins an answer.
    is_between: bool,
}

impl InterimWriter {
    /// What to write before the next answer. Interim answers that come after their answer has begun
    /// are dropped.
    fn next(&mut self) -> &mut Bytes {
        if self.rest.is_empty() && self.waiting.has_bytes() {
            let bytes = self.waiting.take();
            if self.is_between {
                self.rest = bytes.into();
            }
        }
        &mut self.rest
    }
}

impl Socket {
    pub(super) fn new(stream: ClientStream, deadlines: Arc<ConnectionDeadlines>) -> Self {
        Self {
            stream,
            ahead: BytesMut::new(),
            bare_lf: None,
            interims: None,
            fast_path: None,
            deadlines,
            connection: None,
            flushed: FlushBy::Writer,
        }
    }

    /// From now on hyper reads HTTP/1, in which no line ends in a bare line feed, and its writes
    /// may contain placeholders of `connection`. If their heads keep to `limits`, requests that
    /// `responder` answers never reach hyper. See [`Socket::left_unflushed`] for the returned
    /// value.
    pub(super) fn speaks_http1(
        &mut self,
        connection: &Arc<ClientConnection>,
        responder: Arc<dyn FastResponder>,
        limits: HeadLimits,
    ) -> Option<TlsFlush> {
        let held = std::mem::take(&mut self.ahead);
        self.deadlines.read(&held);
        self.fast_path = Some(FastPath::new(responder, limits, held));
        self.bare_lf = Some(BareLfFilter::default());
        self.connection = Some(Arc::clone(connection));
        self.interims = connection.interims().map(|waiting| {
            let waiting = Arc::clone(waiting);
            InterimWriter { waiting, rest: Bytes::new(), is_between: true }
        });
        match &mut self.stream {
            ClientStream::Plain(raw) if connection.sendfile_queue().is_some() => {
                raw.sends_files_of(connection);
            }
            ClientStream::Plain(_) => {}
            ClientStream::Tls(records) => records.enlarge_send_buffer(),
        }
        self.left_unflushed()
    }

    /// From now on h2 reads and writes. See [`Socket::left_unflushed`] for the returned value.
    pub(super) fn speaks_http2(&mut self, connection: &Arc<ClientConnection>) -> Option<TlsFlush> {
        self.connection = Some(Arc::clone(connection));
        self.left_unflushed()
    }

    /// hyper flushes each piece of a body, and h2 each frame. Under TLS that costs too much: from
    /// now on their flushes do nothing, and the caller flushes the returned value after each poll.
    fn left_unflushed(&mut self) -> Option<TlsFlush> {
        match &self.stream {
            ClientStream::Plain(_) => None,
            ClientStream::Tls(tls_records) => {
                self.flushed = FlushBy::Task;
                Some(TlsFlush::of(tls_records))
            }
        }
    }

    /// An error if nothing may be written any more, since a stored file could not be read.
    fn check(&self) -> io::Result<()> {
        match &self.connection {
            Some(connection) if connection.is_broken() => {
                Err(io::Error::other("a stored file failed while it was written"))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Writes the interim answers that wait.
    fn poll_interims(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(interims) = &mut self.interims else { return Poll::Ready(Ok(())) };
        let rest = interims.next();
        while !rest.is_empty() {
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            rest.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Notes that an answer is being written.
    fn is_answering(&mut self) {
        if let Some(interims) = &mut self.interims {
            interims.is_between = false;
        }
    }

    /// From now on no request is answered: input is only read to its end.
    pub(super) fn takes_no_more(&mut self) {
        self.fast_path = None;
    }

    /// Writes answers of the fast path that did not fit into the socket, and their body.
    fn poll_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(fast_path) = &mut self.fast_path else { return Poll::Ready(Ok(())) };
        fast_path.poll_rest(cx, &self.deadlines, Pin::new(&mut self.stream))
    }

    /// Reads, answers what the fast path can, and gives hyper the rest in `buffer`.
    fn poll_library(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        loop {
            ready!(self.poll_rest(cx))?;
            let Some(fast_path) = &mut self.fast_path else { return self.poll_all(cx, buffer) };
            if let Some(bytes) = fast_path.owed(buffer.remaining()) {
                buffer.put_slice(&bytes);
                self.refuse_bare_line_feeds(buffer, before);
                return Poll::Ready(Ok(()));
            }
            let owner = fast_path.owner();
            match owner {
                InputOwner::Closed => {
                    self.fast_path = None;
                    continue;
                }
                // hyper may learn of an end in the middle of its answer, and of nothing else.
                InputOwner::Library { .. } if fast_path.holds() => return Poll::Pending,
                InputOwner::Library { .. } => {}
                InputOwner::FastPath if self.deadlines.is_winding_down() => {
                    fast_path.close();
                    continue;
                }
                InputOwner::FastPath => {
                    let (mut failed, stream) = (None, &mut self.stream);
                    let next =
                        fast_path.take(&self.deadlines, |fast_path, batch| {
                            match Pin::new(stream).poll_write(cx, batch) {
                                Poll::Ready(Ok(written)) => {
                                    fast_path.keep(batch.get(written..).unwrap_or_default());
                                }
                                Poll::Ready(Err(error)) => failed = Some(error),
                                Poll::Pending => fast_path.keep(batch),
                            }
                        });
                    if let Some(error) = failed {
                        return Poll::Ready(Err(error));
                    }
                    if next == NextStep::Again {
                        continue;
                    }
                }
            }
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
            let bytes = buffer.filled().get(before..).unwrap_or_default();
            if bytes.is_empty() {
                if !fast_path.holds() {
                    return Poll::Ready(Ok(()));
                }
                fast_path.close();
                continue;
            }
            self.deadlines.read(bytes);
            fast_path.hold(bytes);
            buffer.set_filled(before);
            if owner != InputOwner::FastPath {
                return Poll::Pending;
            }
        }
    }

    /// Reads, after the fast path has ended: hyper gets everything.
    fn poll_all(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        if self.ahead.has_remaining() {
            let bytes = self.ahead.split_to(self.ahead.len().min(buffer.remaining()));
            buffer.put_slice(&bytes);
            if self.ahead.is_empty() {
                self.ahead = BytesMut::new();
            }
        } else {
            ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        }
        if let Some(bytes) = buffer.filled().get(before..) {
            self.deadlines.read(bytes);
        }
        self.refuse_bare_line_feeds(buffer, before);
        Poll::Ready(Ok(()))
    }

    /// Refuses bare line feeds in the bytes of `buffer` from `before`, which hyper gets.
    fn refuse_bare_line_feeds(&mut self, buffer: &mut ReadBuf<'_>, before: usize) {
        let Some(bare_lf) = &mut self.bare_lf else { return };
        let bytes = buffer.filled_mut().get_mut(before..).unwrap_or_default();
        // The deadlines know such an end from the bytes themselves.
        let is_noted = bytes.ends_with(b"\n\r\n");
        if bare_lf.refuse_bare_line_feeds(bytes) == BareLf::First {
            // hyper parses what it has begun to read only when it sees the end of it.
            self.ahead.extend_from_slice(END_OF_HEAD);
        }
        if !is_noted
            && bare_lf.is_between_requests()
            && !self.fast_path.as_ref().is_some_and(FastPath::holds)
        {
            self.deadlines.is_between_requests();
        }
    }

    /// Reads until HTTP/2 can be told from everything else. The next reads yield the same bytes
    /// again. Not cancel safe; without a deadline of its own.
    pub(super) async fn opening(&mut self) -> io::Result<Opening> {
        self.ahead.reserve(PREFACE.len());
        while self.ahead.len() < PREFACE.len() && PREFACE.starts_with(&self.ahead) {
            let missing = PREFACE.len() - self.ahead.len();
            let mut rest = (&mut self.stream).take(missing as u64);
            if rest.read_buf(&mut self.ahead).await? == 0 {
                let is_empty = self.ahead.is_empty();
                return Ok(if is_empty { Opening::Closed } else { Opening::Other });
            }
        }
        Ok(if self.ahead == PREFACE { Opening::Preface } else { Opening::Other })
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.fast_path.is_some() {
            return this.poll_library(cx, buffer);
        }
        this.poll_all(cx, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let this = self.get_mut();
        this.deadlines.library_writes();
        ready!(this.poll_rest(cx))?;
        ready!(this.poll_interims(cx))?;
        this.is_answering();
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        let this = self.get_mut();
        this.deadlines.library_writes();
        ready!(this.poll_rest(cx))?;
        ready!(this.poll_interims(cx))?;
        this.is_answering();
        Pin::new(&mut this.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper flushes only if it holds nothing unwritten.
        let this = self.get_mut();
        if let Some(interims) = &mut this.interims {
            interims.is_between = true;
        }
        this.deadlines.library_flushed();
        ready!(this.poll_rest(cx))?;
        ready!(this.poll_interims(cx))?;
        if let Some(fast_path) = &mut this.fast_path
            && fast_path.flushed(&this.deadlines)
        {
            // hyper may still wait for the socket.
            cx.waker().wake_by_ref();
        }
        match this.flushed {
            FlushBy::Writer => Pin::new(&mut this.stream).poll_flush(cx),
            FlushBy::Task => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_rest(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(raw) => Pin::new(raw).poll_read(cx, buffer),
            Self::Tls(tls) => tls.poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(raw) => Pin::new(raw).poll_write(cx, bytes),
            Self::Tls(tls) => tls.poll_write(cx, &[IoSlice::new(bytes)]),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(raw) => Pin::new(raw).poll_write_vectored(cx, slices),
            Self::Tls(tls) => tls.poll_write(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(raw) => raw.is_write_vectored(),
            Self::Tls(_) => true,
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(raw) => Pin::new(raw).poll_flush(cx),
            Self::Tls(tls) => tls.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(raw) => Pin::new(raw).poll_shutdown(cx),
            Self::Tls(tls) => tls.poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::tcp_socket::tests::pair;
    use tokio::io::AsyncWriteExt;

    #[tokio::test]
    async fn what_was_read_to_tell_the_protocol_is_read_again() {
        for (pieces, expected) in [
            (&["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nmore"][..], Opening::Preface),
            (&["PRI * HTTP/2.0\r\n", "\r\nSM\r\n\r\n"], Opening::Preface),
            (&["PRI * HTTP/2.0\r\n\r\nSM\r\n\rX"], Opening::Other),
            (&["P", "RI", " / HTTP/1.1\r\n"], Opening::Other),
            (&["GET / HTTP/1.1\r\n\r\n"], Opening::Other),
            (&["PRI"], Opening::Other),
            (&[], Opening::Closed),
        ] {
            let (mut client, raw, deadlines) = pair().await;
            let mut socket = Socket::new(ClientStream::Plain(raw), deadlines);
            let send = async {
                for piece in pieces {
                    client.write_all(piece.as_bytes()).await.unwrap();
                    tokio::task::yield_now().await;
                }
                client.shutdown().await.unwrap();
            };
            let (opening, ()) = tokio::join!(socket.opening(), send);
            assert_eq!(opening.unwrap(), expected, "{pieces:?}");
            let mut text = String::new();
            socket.read_to_string(&mut text).await.unwrap();
            assert_eq!(text, pieces.concat());
        }
    }
}
