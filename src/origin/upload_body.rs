//! The body of an upload on its way to an origin, and whether its client brings it too slowly. One
//! per upload; its lock is short and never held across an await. Called by `uploads`.
//!
//! An upload is slow if its client is waited for and brings less than [`RATE_MIN`], with pauses of
//! up to [`PAUSE_MAX`]. One that its origin does not take faster is not slow.

use crate::client::{BoxError, OutboundBody, UploadError};
use crate::sync::Mutex;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes a second below which an upload is slow.
const RATE_MIN: u64 = 8_000;
/// How long an upload may bring nothing before it is slow.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How the body of one upload comes.
#[derive(Debug)]
pub(super) struct Pulse(Mutex<Beat>);

#[derive(Debug)]
struct Beat {
    stage: Stage,
    /// Since when.
    since: Instant,
    /// Until when its client has been fast enough.
    fast_until: Instant,
    /// Whether the answer has begun.
    is_answered: bool,
    /// What waits for the next piece.
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The origin is to take what came, or has not been asked yet.
    Going,
    /// The client is waited for.
    Awaited,
    /// It is slow, and its body ends in an error as soon as its client is waited for.
    Ending,
    /// All of the body has gone.
    Ended,
}

impl Pulse {
    /// That of an upload which may bring nothing for up to `grace`.
    pub(super) fn new(grace: Duration) -> Self {
        Self(Mutex::new(Beat::first(grace)))
    }

    /// `body`, which is about to be sent. It ends in [`UploadError::Slow`] if [`Pulse::end`] says so.
    pub(super) fn paced(self: &Arc<Self>, body: OutboundBody, grace: Duration) -> OutboundBody {
        *self.0.lock() = Beat::first(grace);
        Paced { body, pulse: Arc::clone(self) }.boxed_unsync()
    }

    /// Never ends the body from now on: its answer has begun.
    pub(super) fn spare(&self) {
        let mut beat = self.0.lock();
        beat.is_answered = true;
        if beat.stage == Stage::Ending {
            beat.stage = Stage::Awaited;
        }
    }

    /// Whether all of the body has gone.
    pub(super) fn is_ended(&self) -> bool {
        self.0.lock().stage == Stage::Ended
    }

    /// For how long its client has been too slow; none if it is not, or if it is too late to end.
    pub(super) fn slow_for(&self, now: Instant) -> Option<Duration> {
        self.0.lock().slow_for(now)
    }

    /// So many bytes have come.
    fn came(&self, bytes: usize, stage: Stage) {
        let now = Instant::now();
        let earned = (bytes as u64).saturating_mul(1_000_000) / RATE_MIN;
        let earned = Duration::from_micros(earned).min(PAUSE_MAX);
        // What was missed counts, as far back as a pause may be long.
        let floor = now.checked_sub(PAUSE_MAX).unwrap_or(now);
        let mut beat = self.0.lock();
        let fast_until = beat.fast_until.max(floor) + earned;
        beat.fast_until = fast_until.min(now + PAUSE_MAX);
        beat.since = now;
        // A little more does not save an upload that is too slow.
        let is_ending = beat.stage == Stage::Ending && now > beat.fast_until;
        if !is_ending || stage == Stage::Ended {
            beat.stage = stage;
        }
    }

    /// The client is waited for: it is not to blame for what its origin took until now. Ready if
    /// the upload is to end.
    fn wait(&self, cx: &Context<'_>) -> Poll<()> {
        let (now, mut beat) = (Instant::now(), self.0.lock());
        if beat.stage == Stage::Ending {
            return Poll::Ready(());
        }
        if beat.stage == Stage::Going {
            let fast_until = beat.fast_until + (now - beat.since);
            beat.fast_until = fast_until;
            beat.stage = Stage::Awaited;
            beat.since = now;
        }
        beat.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_at_end(&self) {
        self.0.lock().stage = Stage::Ended;
    }

    /// Ends the upload, if it is still slow.
    pub(super) fn end(&self) {
        let mut beat = self.0.lock();
        if beat.slow_for(Instant::now()).is_none() {
            return;
        }
        beat.stage = Stage::Ending;
        let waker = beat.waker.take();
        drop(beat);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether its place is about to be free.
    pub(super) fn is_ending(&self) -> bool {
        self.0.lock().stage == Stage::Ending
    }
}

impl Beat {
    /// The body is about to be sent.
    fn first(grace: Duration) -> Self {
        let since = Instant::now();
        let fast_until = since + grace;
        Self { stage: Stage::Going, since, fast_until, is_answered: false, waker: None }
    }

    /// For how long its client has been too slow; none if it is not, or if it is too late to end.
    fn slow_for(&self, now: Instant) -> Option<Duration> {
        let is_slow = self.stage == Stage::Awaited && now > self.fast_until;
        (is_slow && !self.is_answered).then(|| now - self.fast_until)
    }
}

/// The body of an upload that has a place.
struct Paced {
    body: OutboundBody,
    pulse: Arc<Pulse>,
}

impl Body for Paced {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match &polled {
            Poll::Pending => {
                if this.pulse.wait(cx).is_ready() {
                    return Poll::Ready(Some(Err(UploadError::Slow.into())));
                }
            }
            Poll::Ready(Some(Ok(frame))) => {
                // What knows its length is asked for nothing behind it.
                let is_last = this.body.is_end_stream();
                let stage = if is_last { Stage::Ended } else { Stage::Going };
                this.pulse.came(frame.data_ref().map_or(0, Bytes::len), stage);
            }
            Poll::Ready(Some(Err(_)) | None) => this.pulse.is_at_end(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
