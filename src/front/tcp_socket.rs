//! The TCP connection below HTTP and TLS: sets the options of the socket, tells the
//! [`ConnectionDeadlines`] what the client takes, and ends with a reset if an answer is unfinished.
//! One for each connection, owned by its task; no locks.

use super::connection_deadlines::ConnectionDeadlines;
use super::file_sender::FileSender;
use super::send_buffer::{self, SendBuffer, UNSENT_BYTES_MAX};
use crate::engine::ClientConnection;
use socket2::{SockRef, TcpKeepalive};
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// How long a client may be silent until the kernel asks whether it is still there.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(75);
/// How often the kernel asks again.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);
/// How many of these questions may stay unanswered.
const KEEPALIVE_RETRIES: u32 = 4;
/// Bytes that may wait in the kernel, not sent yet, for a fast client of HTTP/1 under TLS: fewer
/// wake-ups for more memory. Not over HTTP/2, where all that waits delays the answers behind it.
const FAST_UNSENT_BYTES_MAX: u32 = 1024 * 1024;

/// The TCP connection.
#[derive(Debug)]
pub(super) struct TcpSocket {
    stream: TcpStream,
    deadlines: Arc<ConnectionDeadlines>,
    /// Sends files in place of placeholders, if the connection may have any.
    files: Option<FileSender>,
    /// The send buffer of a connection under TLS; `files` has one of its own.
    send_buffer: Option<SendBuffer>,
}

impl TcpSocket {
    /// Sets the options of the socket. If one cannot be set, the connection works without it.
    pub(super) fn new(stream: TcpStream, deadlines: Arc<ConnectionDeadlines>) -> Self {
        let socket = SockRef::from(&stream);
        // A client that closed both its sides has forgotten the connection a minute later.
        let keepalive = TcpKeepalive::new()
            .with_time(KEEPALIVE_AFTER)
            .with_interval(KEEPALIVE_EVERY)
            .with_retries(KEEPALIVE_RETRIES);
        for result in [
            socket.set_tcp_nodelay(true),
            socket.set_tcp_notsent_lowat(UNSENT_BYTES_MAX),
            socket.set_tcp_keepalive(&keepalive),
        ] {
            if let Err(error) = result {
                tracing::debug!(%error, "cannot set a socket option");
            }
        }
        deadlines.socket_opened(stream.as_raw_fd());
        Self { stream, deadlines, files: None, send_buffer: None }
    }

    /// From now on the ranges of files in the queue of `connection` are sent in place of their
    /// placeholders.
    pub(super) fn sends_files_of(&mut self, connection: &Arc<ClientConnection>) {
        self.files = Some(FileSender::new(Arc::clone(connection)));
    }

    /// From now on more bytes may wait in the kernel for a client that reads fast.
    pub(super) fn enlarge_send_buffer(&mut self) {
        self.send_buffer = Some(SendBuffer::new(FAST_UNSENT_BYTES_MAX, &send_buffer::ALL));
    }

    fn seen(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &result {
            Poll::Ready(Ok(bytes)) => self.deadlines.wrote(*bytes),
            Poll::Ready(Err(_)) => {}
            Poll::Pending if self.files.as_ref().is_some_and(FileSender::is_reading) => {
                self.deadlines.reads_disk();
            }
            Poll::Pending => self.deadlines.blocked(),
        }
        result
    }
}

impl Drop for TcpSocket {
    fn drop(&mut self) {
        self.deadlines.socket_closes();
        if self.deadlines.is_reset()
            && let Err(error) = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))
        {
            tracing::debug!(%error, "cannot reset a connection");
        }
    }
}

impl AsyncRead for TcpSocket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for TcpSocket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = match &mut this.files {
            Some(file_sender) => file_sender.poll_send(&mut this.stream, cx, slices),
            None => Pin::new(&mut this.stream).poll_write_vectored(cx, slices),
        };
        if let (Some(send_buffer), Poll::Ready(Ok(bytes))) = (&mut this.send_buffer, &result) {
            send_buffer.sent(*bytes, &this.stream);
        }
        this.seen(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::front::connection_deadlines::DeadlineSettings;
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    pub(in crate::front) async fn pair() -> (TcpStream, TcpSocket, Arc<ConnectionDeadlines>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let long = Duration::from_hours(1);
        let settings = DeadlineSettings { request_head: long, idle: long, write_stall: long };
        let deadlines = Arc::new(ConnectionDeadlines::new(settings, Instant::now()));
        let raw = TcpSocket::new(listener.accept().await.unwrap().0, Arc::clone(&deadlines));
        (client, raw, deadlines)
    }

    /// Without this limit a reader of 10 kB/s shows no progress for minutes, and counts as stalled.
    #[tokio::test]
    async fn little_waits_unsent_in_the_kernel() {
        let (_client, raw, _) = pair().await;
        let socket = SockRef::from(&raw.stream);
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), UNSENT_BYTES_MAX);
        assert!(socket.tcp_nodelay().unwrap());
    }
}
