//! What is written to a plain HTTP/1 socket: bytes as they are, and in place of placeholders the
//! ranges of files that they stand for (`engine::Spans`). Part of one connection's socket; no locks
//! but the queue's.

use super::socket::UNSENT_BYTES_MAX;
use crate::engine::{Connection, Piece, Sent, Spans};
use bytes::{Buf, Bytes};
use rustix::net::{SendAncillaryBuffer, SendFlags};
use socket2::SockRef;
use std::cell::RefCell;
use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncWrite, Interest};
use tokio::net::TcpStream;

/// Writes to one socket.
pub(super) struct Sender {
    connection: Arc<Connection>,
    reading: Option<Piece>,
    /// What was read and compared, and goes next.
    piece: Bytes,
    /// Bytes that went and do not count before what is read was compared.
    unsure: usize,
    pace: Pace,
}

/// Bytes of files by which the pace of a reader is told.
const PACE_BYTES: usize = 1 << 20;
/// A reader who takes [`PACE_BYTES`] in this time is fast.
const FAST: Duration = Duration::from_millis(250);
/// The option that leaves a socket to what the system is set to.
const UNBOUNDED: u32 = 0;

/// How fast the client takes files. What waits unsent for a slow one is bounded, so that its
/// progress shows. For a fast one that would cost a wake-up for each few packets, and as much CPU
/// again as the rest; the pages of a file that wait unsent are those of the page cache, and take no
/// memory. One that was fast and is not any more has shown no progress until it has taken a third
/// of what the kernel holds for it: 1.4 MiB at most, as Linux is set up.
#[derive(Debug)]
struct Pace {
    since: Instant,
    bytes: usize,
    taken: Taken,
}

/// How fast files are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Fast,
    Slowly,
}

impl Pace {
    /// Notes that bytes of files went.
    fn sent(&mut self, bytes: usize, stream: &TcpStream) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes < PACE_BYTES {
            return;
        }
        let now = Instant::now();
        let is_fast = now.saturating_duration_since(self.since) <= FAST;
        (self.since, self.bytes) = (now, 0);
        self.set(if is_fast { Taken::Fast } else { Taken::Slowly }, stream);
    }

    /// Notes that bytes are to be written that are copied, and take memory while they wait.
    fn copied(&mut self, stream: &TcpStream) {
        self.set(Taken::Slowly, stream);
    }

    fn set(&mut self, taken: Taken, stream: &TcpStream) {
        if taken == self.taken {
            return;
        }
        self.taken = taken;
        let unsent_max = match taken {
            Taken::Fast => UNBOUNDED,
            Taken::Slowly => UNSENT_BYTES_MAX,
        };
        if let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(unsent_max) {
            tracing::debug!(%error, "cannot set a socket option");
        }
    }
}

impl fmt::Debug for Sender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("unsure", &self.unsure).finish_non_exhaustive()
    }
}

/// Whether the kernel may wait for more before it sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    Follows,
    Unknown,
}

impl Sender {
    /// Writes for `connection`.
    pub(super) fn new(connection: Arc<Connection>) -> Self {
        let pace = Pace { since: Instant::now(), bytes: 0, taken: Taken::Slowly };
        Self { connection, reading: None, piece: Bytes::new(), unsure: 0, pace }
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
        let plain = slices.iter().position(|slice| Spans::is_placeholder(slice));
        let Some((bytes, rest)) = plain.and_then(|at| slices.split_at_checked(at)) else {
            let length: usize = slices.iter().map(|slice| slice.len()).sum();
            if length <= JOINED_BYTES_MAX {
                return poll_joined(stream, cx, slices);
            }
            self.pace.copied(stream);
            return Pin::new(stream).poll_write_vectored(cx, slices);
        };
        let length: usize = bytes.iter().map(|slice| slice.len()).sum();
        let mut written = 0;
        if length > 0 {
            let spans = self.connection.spans();
            let is_ready = spans.is_some_and(Spans::is_ready);
            let more = if is_ready { More::Follows } else { More::Unknown };
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

    /// The bytes that count now that what was read is right; none where none waited for that, and
    /// what was read goes next.
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

    /// Sends what the placeholders at the beginning of `slices` stand for, as much as goes at once;
    /// `written` bytes went before in the same call.
    fn poll_spans(
        &mut self,
        stream: &TcpStream,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        mut written: usize,
    ) -> Poll<io::Result<usize>> {
        let placeholders = slices.iter().take_while(|slice| Spans::is_placeholder(slice));
        let mut left: usize = placeholders.map(|slice| slice.len()).sum();
        let connection = Arc::clone(&self.connection);
        let Some(spans) = connection.spans() else {
            return Poll::Ready(Err(io::Error::other("a placeholder where none may be")));
        };
        while left > 0 {
            if !self.piece.is_empty() {
                let slices = [IoSlice::new(&self.piece)];
                let polled = poll_plain(stream, cx, &slices, More::Unknown);
                if polled.is_pending() && written > 0 {
                    break;
                }
                let bytes = ready!(polled)?;
                self.piece.advance(bytes);
                spans.skip(bytes);
                written += bytes;
                left = left.saturating_sub(bytes);
                continue;
            }
            let sent = match poll_writable(stream, cx, || spans.send(stream, left)) {
                Poll::Ready(sent) => sent?,
                Poll::Pending if written > 0 => break,
                Poll::Pending => return Poll::Pending,
            };
            let reading = match sent {
                Sent::Bytes(bytes) => {
                    self.pace.sent(bytes, stream);
                    written += bytes;
                    left = left.saturating_sub(bytes);
                    continue;
                }
                Sent::Missing(_) if written > 0 => break,
                Sent::Missing(reading) => reading,
                Sent::Unsure(bytes, reading) => {
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

/// An answer of up to this many bytes is copied together, which costs the kernel less than several
/// slices do.
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
    more: More,
) -> Poll<io::Result<usize>> {
    let flags = match more {
        More::Follows => SendFlags::NOSIGNAL | SendFlags::MORE,
        More::Unknown => SendFlags::NOSIGNAL,
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// A slow client's progress must show, and what is copied for any takes memory.
    #[tokio::test]
    async fn what_waits_unsent_is_bounded_but_for_files_that_are_taken_fast() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let unsent_max = || SockRef::from(&stream).tcp_notsent_lowat().unwrap();
        let (now, hour) = (Instant::now(), Duration::from_hours(1));
        let mut pace = Pace { since: now, bytes: 0, taken: Taken::Slowly };
        pace.set(Taken::Fast, &stream);
        pace.copied(&stream);
        assert_eq!(unsent_max(), UNSENT_BYTES_MAX);
        pace.since = now + hour;
        pace.sent(PACE_BYTES - 1, &stream);
        assert_eq!(unsent_max(), UNSENT_BYTES_MAX, "too little to tell");
        pace.sent(1, &stream);
        assert_eq!(unsent_max(), UNBOUNDED);
        pace.since = now.checked_sub(Duration::from_secs(1)).unwrap();
        pace.sent(PACE_BYTES, &stream);
        assert_eq!(unsent_max(), UNSENT_BYTES_MAX, "it is slow now");
    }
}
