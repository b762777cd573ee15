//! TLS over one TCP connection, written in whole records and several records at a time. Bytes are
//! held until they fill a record, and records until they are worth a system call. One for each
//! connection. Its lock is taken in turn by hyper and by the task of the connection, and never held
//! across an await.
//!
//! h2 flushes each frame before it makes the next, and hyper each piece of a body. Instead of them,
//! the task that polls the connection flushes after the poll ([`TlsFlush`]).

use super::tcp_socket::TcpSocket;
use crate::sync::{Mutex, MutexGuard};
use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::server::TlsStream;

/// Bytes of a full record (RFC 8446 section 5.1).
const RECORD_BYTES: usize = 16 << 10;
/// Bytes that are encrypted before they are sent. If they cannot be sent, further bytes wait. Seven
/// records and what TLS adds fill two of the 64 KiB packets that Linux cuts; four or eight records
/// would leave a few bytes for another packet.
const SEALED_BYTES_MAX: usize = 7 * RECORD_BYTES;

/// The connection, shared by the side that writes it and the side that flushes it.
#[derive(Debug, Clone)]
pub(super) struct TlsRecords(Arc<Mutex<RecordBuffer>>);

#[derive(Debug)]
struct RecordBuffer {
    tls: TlsStream<TcpSocket>,
    /// Bytes that are not encrypted yet: less than a record.
    held: Vec<u8>,
    /// Encrypted bytes that may not be sent yet.
    sealed: usize,
    /// Whether the last call to the system left some of them.
    is_blocked: bool,
}

/// Lets the task that polls a connection flush it.
#[derive(Debug)]
pub(super) struct TlsFlush {
    records: TlsRecords,
    is_put_off: bool,
}

/// Whether more will soon be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MoreOutput {
    /// Answers are unfinished.
    Expected,
    /// No answer is unfinished.
    Unexpected,
}

impl TlsFlush {
    /// Flushes `records`.
    pub(super) fn of(records: &TlsRecords) -> Self {
        Self { records: records.clone(), is_put_off: false }
    }

    /// Flushes what the last poll wrote. If more is expected, the flush waits once, until the other
    /// tasks that are ready had their turn. So the answers of many tasks are sent together.
    pub(super) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        more: MoreOutput,
    ) -> Poll<io::Result<()>> {
        // What is held may become a whole record before there is room again.
        ready!(self.records.poll_unblock(cx))?;
        if more == MoreOutput::Expected && !self.is_put_off && self.records.is_unsent() {
            self.is_put_off = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.is_put_off = false;
        self.records.poll_flush(cx)
    }
}

impl TlsRecords {
    /// A connection after its handshake.
    pub(super) fn new(mut tls: TlsStream<TcpSocket>) -> Self {
        // `SEALED_BYTES_MAX` is the bound.
        tls.get_mut().1.set_buffer_limit(None);
        let inner = RecordBuffer { tls, held: Vec::new(), sealed: 0, is_blocked: false };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// From now on more bytes may wait in the kernel for a client that reads fast.
    pub(super) fn enlarge_send_buffer(&self) {
        self.inner().tls.get_mut().0.enlarge_send_buffer();
    }

    /// Reads, as `AsyncRead::poll_read` does.
    pub(super) fn poll_read(
        &self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner().tls).poll_read(cx, buffer)
    }

    /// Takes as many bytes of `slices` as there is room for.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut inner = self.inner();
        if inner.room() == 0 {
            ready!(inner.poll_send(cx))?;
        }
        let taken = inner.take(slices)?;
        if inner.room() == 0
            && let Poll::Ready(Err(error)) = inner.poll_send(cx)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(taken))
    }

    /// Encrypts and sends everything that was taken.
    pub(super) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        inner.seal()?;
        inner.poll_send(cx)
    }

    /// Flushes, and ends the connection in this direction.
    pub(super) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        inner.seal()?;
        Pin::new(&mut inner.tls).poll_shutdown(cx)
    }

    /// Whether something is taken and not sent.
    fn is_unsent(&self) -> bool {
        let inner = self.inner();
        inner.sealed > 0 || !inner.held.is_empty()
    }

    /// Ready when the system has taken everything that was encrypted before.
    fn poll_unblock(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.inner();
        if inner.is_blocked { inner.poll_send(cx) } else { Poll::Ready(Ok(())) }
    }

    fn inner(&self) -> MutexGuard<'_, RecordBuffer> {
        self.0.lock()
    }
}

impl RecordBuffer {
    /// Takes as many bytes of `slices` as may be encrypted now. Encrypts whole records, and holds
    /// the rest.
    fn take(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let length: usize = slices.iter().map(|slice| slice.len()).sum();
        let records = (self.held.len() + length) / RECORD_BYTES;
        let whole = records.min(self.room()) * RECORD_BYTES;
        let mut now = whole.saturating_sub(self.held.len());
        let taken = if whole == records * RECORD_BYTES { length } else { now };
        if whole > 0 {
            self.seal_whole(slices, now, whole)?;
        }
        if taken > now && self.held.capacity() == 0 {
            self.held.reserve_exact(RECORD_BYTES);
        }
        let mut left = taken;
        for slice in slices {
            let part = slice.get(..left.min(slice.len())).unwrap_or_default();
            left -= part.len();
            self.held.extend_from_slice(part.get(now.min(part.len())..).unwrap_or_default());
            now = now.saturating_sub(part.len());
        }
        Ok(taken)
    }

    /// Encrypts what is held and the first `now` bytes of `slices`: together `whole` bytes of
    /// records.
    fn seal_whole(&mut self, slices: &[IoSlice<'_>], now: usize, whole: usize) -> io::Result<()> {
        let mut parts = Vec::with_capacity(slices.len() + 1);
        parts.push(IoSlice::new(&self.held));
        let mut left = now;
        for slice in slices {
            let part = slice.get(..left.min(slice.len())).unwrap_or_default();
            left -= part.len();
            parts.push(IoSlice::new(part));
        }
        if self.tls.get_mut().1.writer().write_vectored(&parts)? != whole {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.sealed += whole;
        self.held.clear();
        Ok(())
    }

    /// Records that may be encrypted until some are sent.
    fn room(&self) -> usize {
        SEALED_BYTES_MAX.saturating_sub(self.sealed) / RECORD_BYTES
    }

    /// Encrypts what is held, and frees its buffer, since most connections are idle.
    fn seal(&mut self) -> io::Result<()> {
        let held = std::mem::take(&mut self.held);
        self.sealed += held.len();
        self.tls.get_mut().1.writer().write_all(&held)
    }

    /// Sends what is encrypted.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_blocked = true;
        ready!(Pin::new(&mut self.tls).poll_flush(cx))?;
        self.is_blocked = false;
        self.sealed = 0;
        Poll::Ready(Ok(()))
    }
}
