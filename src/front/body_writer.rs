//! Writes the body of an answer of the fast path, below hyper and behind the head of the answer.
//! One at a time per connection, owned by its `fast_path`; no locks.
//!
//! A body that fails is an error of the socket. hyper gives the connection up then, and the
//! connection is reset, since its answer is unfinished.

use bytes::{Buf, BytesMut};
use http_body::Body;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Slices that are written in one call.
const SLICES_MAX: usize = 16;

/// A body that is being written. Dropping it ends its request.
pub(super) trait WriteBody: Send {
    /// Writes what is in `head`, then the body, to its end.
    fn poll_write_body(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        head: &mut BytesMut,
        socket: Pin<&mut dyn AsyncWrite>,
    ) -> Poll<io::Result<()>>;
}

pin_project_lite::pin_project! {
    /// The body of an answer, and the piece of it that is taken and not written yet.
    pub(super) struct BodyWriter<B>
    where
        B: Body,
    {
        #[pin]
        body: B,
        data: Option<B::Data>,
    }
}

impl<B: Body> BodyWriter<B> {
    /// A writer that has written nothing of `body` yet.
    pub(super) fn new(body: B) -> Self {
        Self { body, data: None }
    }
}

impl<B> WriteBody for BodyWriter<B>
where
    B: Body<Data: Send, Error = io::Error> + Send,
{
    fn poll_write_body(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        head: &mut BytesMut,
        mut socket: Pin<&mut dyn AsyncWrite>,
    ) -> Poll<io::Result<()>> {
        let mut this = self.project();
        loop {
            if this.data.as_ref().is_none_or(|data| !data.has_remaining()) {
                let next = if this.body.is_end_stream() {
                    Poll::Ready(None)
                } else {
                    this.body.as_mut().poll_frame(cx)
                };
                match next {
                    Poll::Ready(Some(frame)) => {
                        *this.data = frame?.into_data().ok();
                        continue;
                    }
                    Poll::Ready(None) if head.is_empty() => return Poll::Ready(Ok(())),
                    Poll::Pending if head.is_empty() => return Poll::Pending,
                    // The head is written alone.
                    Poll::Ready(None) | Poll::Pending => {}
                }
            }
            let written = ready!(poll_write(cx, head, this.data.as_ref(), socket.as_mut()))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_head = written.min(head.len());
            head.advance(of_head);
            if let Some(data) = this.data {
                data.advance(written - of_head);
            }
        }
    }
}

/// Writes some of `head` and of what follows it.
fn poll_write(
    cx: &mut Context<'_>,
    head: &[u8],
    data: Option<&impl Buf>,
    socket: Pin<&mut dyn AsyncWrite>,
) -> Poll<io::Result<usize>> {
    let mut slices = [IoSlice::new(&[]); SLICES_MAX];
    let (first, others) = slices.split_at_mut(usize::from(!head.is_empty()));
    first.fill(IoSlice::new(head));
    let count = data.map_or(0, |data| data.chunks_vectored(others));
    let used = first.len() + count;
    socket.poll_write_vectored(cx, slices.get(..used).unwrap_or_default())
}
