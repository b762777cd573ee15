//! Writes to a plain HTTP/1 socket. Bytes are written as they are; in place of placeholders the
//! ranges of files are sent that they stand for (`engine::SendfileQueue`). Part of one connection's
//! socket; only the queue has a lock.

use super::send_buffer::{self, SendBuffer};
use crate::engine::{ClientConnection, RangeRead, SendOutcome, SendfileQueue};
use bytes::{Buf, Bytes};
use rustix::net::{SendAncillaryBuffer, SendFlags};
use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncWrite, Interest};
use tokio::net::TcpStream;

/// Writes to one socket.
pub(super) struct FileSender {
    connection: Arc<ClientConnection>,
    reading: Option<RangeRead>,
    /// What was read and compared with its checksum, and is sent next.
    piece: Bytes,
    /// Bytes that are sent, and count only after their chunk was compared.
    unsure: usize,
    send_buffer: SendBuffer,
}

/// The value of the option that leaves a socket with the default of the system.
const UNBOUNDED: u32 = 0;

impl fmt::Debug for FileSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileSender").field("unsure", &self.unsure).finish_non_exhaustive()
    }
}

/// Whether the kernel may wait for more bytes before it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FollowingBytes {
    Soon,
    Unknown,
}

impl FileSender {
    /// Writes for `connection`.
    pub(super) fn new(connection: Arc<ClientConnection>) -> Self {
        // Pages of a file that wait unsent belong to the page cache, and take no memory.
        let send_buffer = SendBuffer::new(UNBOUNDED, &send_buffer::ALL);
        Self { connection, reading: None, piece: Bytes::new(), unsure: 0, send_buffer }
    }

    /// Whether the next bytes are still read from the disk.
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Writes some of `slices`, as `AsyncWrite::poll_write_vectored` does.
    pub(super) fn poll_send(
        &mut self,
        stream: &mut TcpStream,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let Some(written) = ready!(self.poll_compared(cx))? {
            return Poll::Ready(Ok(written));
        }
        let plain = slices.iter().position(|slice| SendfileQueue::is_placeholder(slice));
        let Some((bytes, rest)) = plain.and_then(|at| slices.split_at_checked(at)) else {
            let length: usize = slices.iter().map(|slice| slice.len()).sum();
            if length <= JOINED_BYTES_MAX {
                return poll_joined(stream, cx, slices);
            }
            // These bytes take memory while they wait.
            self.send_buffer.slow_down(stream);
            return Pin::new(stream).poll_write_vectored(cx, slices);
        };
        let length: usize = bytes.iter().map(|slice| slice.len()).sum();
        let mut written = 0;
        if length > 0 {
            let sendfile_queue = self.connection.sendfile_queue();
            let is_ready = sendfile_queue.is_some_and(SendfileQueue::is_ready);
            let more = if is_ready { FollowingBytes::Soon } else { FollowingBytes::Unknown };
            written = ready!(poll_plain(stream, cx, bytes, more))?;
            if written < length {
                return Poll::Ready(Ok(written));
            }
        }
        let polled = self.poll_spans(stream, cx, rest, written);
        if polled.is_pending() && written > 0 && self.reading.is_none() {
            return Poll::Ready(Ok(written));
        }
        polled
    }

    /// Waits until a read is done and compared. Returns the sent bytes that count now, or none if
    /// only the next bytes to send were read.
    fn poll_compared(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<usize>>> {
        let Some(reading) = &mut self.reading else { return Poll::Ready(Ok(None)) };
        let compared = ready!(reading.as_mut().poll(cx));
        self.reading = None;
        let unsure = std::mem::take(&mut self.unsure);
        Poll::Ready(compared.map(|piece| {
            if unsure > 0 {
                return Some(unsure);
            }
            self.piece = piece;
            None
        }))
    }

    /// Sends what the placeholders at the beginning of `slices` stand for, as much as goes at once.
    /// `written` bytes were sent before in the same call.
    fn poll_spans(
        &mut self,
        stream: &TcpStream,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        mut written: usize,
    ) -> Poll<io::Result<usize>> {
        let placeholders = slices.iter().take_while(|slice| SendfileQueue::is_placeholder(slice));
        let mut left: usize = placeholders.map(|slice| slice.len()).sum();
        let connection = Arc::clone(&self.connection);
        let Some(sendfile_queue) = connection.sendfile_queue() else {
            return Poll::Ready(Err(io::Error::other("a placeholder where none may be")));
        };
        while left > 0 {
            if !self.piece.is_empty() {
                let slices = [IoSlice::new(&self.piece)];
                let polled = poll_plain(stream, cx, &slices, FollowingBytes::Unknown);
                if polled.is_pending() && written > 0 {
                    break;
                }
                let bytes = ready!(polled)?;
                self.piece.advance(bytes);
                sendfile_queue.skip(bytes);
                written += bytes;
                left = left.saturating_sub(bytes);
                continue;
            }
            let sent = match poll_writable(stream, cx, || sendfile_queue.send(stream, left)) {
                Poll::Ready(sent) => sent?,
                Poll::Pending if written > 0 => break,
                Poll::Pending => return Poll::Pending,
            };
            let reading = match sent {
                SendOutcome::Bytes(bytes) => {
                    self.send_buffer.sent(bytes, stream);
                    written += bytes;
                    left = left.saturating_sub(bytes);
                    continue;
                }
                SendOutcome::Missing(_) if written > 0 => break,
                SendOutcome::Missing(reading) => reading,
                SendOutcome::Unsure(bytes, reading) => {
                    self.unsure = written + bytes;
                    reading
                }
            };
            self.reading = Some(reading);
            if let Some(unsure) = ready!(self.poll_compared(cx))? {
                return Poll::Ready(Ok(unsure));
            }
        }
        Poll::Ready(Ok(written))
    }
}

/// An answer of at most so many bytes is copied together, which costs less than a write of several
/// slices.
const JOINED_BYTES_MAX: usize = 2048;

/// Writes slices of at most [`JOINED_BYTES_MAX`] bytes in all, none of them a placeholder.
fn poll_joined(
    stream: &mut TcpStream,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    thread_local! {
        static JOINED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    JOINED.with_borrow_mut(|joined| {
        joined.clear();
        for slice in slices {
            joined.extend_from_slice(slice);
        }
        Pin::new(stream).poll_write(cx, joined)
    })
}

/// Writes bytes as they are.
fn poll_plain(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    slices: &[IoSlice<'_>],
    more: FollowingBytes,
) -> Poll<io::Result<usize>> {
    let flags = match more {
        FollowingBytes::Soon => SendFlags::NOSIGNAL | SendFlags::MORE,
        FollowingBytes::Unknown => SendFlags::NOSIGNAL,
    };
    poll_writable(stream, cx, || {
        let nothing = &mut SendAncillaryBuffer::default();
        Ok(rustix::net::sendmsg(stream, slices, nothing, flags)?)
    })
}

/// Runs `write` as soon as the socket takes bytes.
fn poll_writable<T>(
    stream: &TcpStream,
    cx: &mut Context<'_>,
    mut write: impl FnMut() -> io::Result<T>,
) -> Poll<io::Result<T>> {
    loop {
        ready!(stream.poll_write_ready(cx))?;
        match stream.try_io(Interest::WRITABLE, &mut write) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return Poll::Ready(result),
        }
    }
}
