//! A response body cut from shared bytes, in pieces and at a set pace. One per response of the
//! demo's origin; no locks. Never copies: every piece shares the object's memory.

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use std::convert::Infallible;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Bytes of a piece, at most.
const PIECE_BYTES: usize = 64 * 1024;

/// A body that hands out its bytes piece by piece.
#[derive(Debug)]
pub struct PacedBody {
    rest: Bytes,
    pace: Option<PiecePace>,
    bytes_sent: Arc<AtomicU64>,
}

/// How fast pieces may follow each other.
#[derive(Debug)]
struct PiecePace {
    bytes_per_second: NonZeroU64,
    next: Pin<Box<Sleep>>,
}

impl PacedBody {
    /// A body of `bytes`, at most `bytes_per_second` of them a second (`None`: as fast as they
    /// are taken). What was handed out is added to `bytes_sent`.
    pub fn new(
        bytes: Bytes,
        bytes_per_second: Option<NonZeroU64>,
        bytes_sent: Arc<AtomicU64>,
    ) -> Self {
        let pace = bytes_per_second.map(|bytes_per_second| PiecePace {
            bytes_per_second,
            next: Box::pin(tokio::time::sleep(Duration::ZERO)),
        });
        Self { rest: bytes, pace, bytes_sent }
    }
}

impl http_body::Body for PacedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            return Poll::Ready(None);
        }
        let piece_bytes = this.rest.len().min(PIECE_BYTES);
        if let Some(pace) = &mut this.pace {
            ready!(pace.next.as_mut().poll(context));
            let due = pace.next.deadline().max(Instant::now());
            let pause = pace.time_of(piece_bytes);
            pace.next.as_mut().reset(due + pause);
        }
        this.bytes_sent.fetch_add(piece_bytes as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(this.rest.split_to(piece_bytes)))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.rest.len() as u64)
    }
}

impl PiecePace {
    /// How long `bytes` take.
    fn time_of(&self, bytes: usize) -> Duration {
        let nanos = (bytes as u64).saturating_mul(1_000_000_000) / self.bytes_per_second;
        Duration::from_nanos(nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn pieces_share_the_memory_and_add_up() {
        let bytes = Bytes::from(vec![7; 3 * PIECE_BYTES + 5]);
        let sent = Arc::new(AtomicU64::new(0));
        let mut body = PacedBody::new(bytes.clone(), None, Arc::clone(&sent));
        let mut position = 0;
        while let Some(Ok(frame)) = body.frame().await {
            let piece = frame.into_data().unwrap();
            assert_eq!(piece.as_ptr(), bytes[position..].as_ptr());
            position += piece.len();
        }
        assert_eq!(position, bytes.len());
        assert_eq!(sent.load(Ordering::Relaxed), bytes.len() as u64);
    }

    #[tokio::test]
    async fn a_pace_puts_off_the_next_piece() {
        let bytes = Bytes::from(vec![7; 2 * PIECE_BYTES]);
        let rate = NonZeroU64::new(PIECE_BYTES as u64);
        let mut body = PacedBody::new(bytes, rate, Arc::default());
        let before = Instant::now();
        assert!(body.frame().await.is_some());
        let next = body.pace.unwrap().next.deadline();
        assert!(next.duration_since(before) >= Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_piece_takes_its_share_of_a_second() {
        let pace = PiecePace {
            bytes_per_second: NonZeroU64::new(1_000_000).unwrap(),
            next: Box::pin(tokio::time::sleep(Duration::ZERO)),
        };
        assert_eq!(pace.time_of(0), Duration::ZERO);
        assert_eq!(pace.time_of(65_536), Duration::from_micros(65_536));
    }
}
