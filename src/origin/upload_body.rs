//! The body of an upload on its way to an origin, and whether its client brings it too slowly. One
//! per upload; its lock is short and never held across an await. Called by `uploads`.
//!
//! - An upload is slow if its client is waited for and brings less than [`RATE_MIN`], with pauses
//!   of up to [`PAUSE_MAX`]. One that its origin does not take faster is not slow.
//! - While it waits for a place, a little of it is read. It is proven when all of it has come, or
//!   [`PROOF_BYTES`] fast enough.

use super::asker::Asker;
use crate::client::{BoxError, OutboundBody, UploadError};
use crate::sync::Mutex;
use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes a second below which an upload is slow.
const RATE_MIN: u64 = 8_000;
/// How long an upload may bring nothing before it is slow: half of the time that an upload waits
/// for a place by default. So those that wait outlast those that only hold a place.
pub(super) const PAUSE_MAX: Duration = Duration::from_millis(2_500);
/// Bytes that tell an upload that goes on from one that only holds a place. At most so many, and
/// one piece more, are read before it has one.
const PROOF_BYTES: usize = 8_000;

/// The body of a client's request.
#[derive(Debug)]
pub struct ClientBody {
    /// The client.
    pub client: Asker,
    /// What it sends.
    pub content: OutboundBody,
}

/// The body of an upload. As it is sent, it ends in [`UploadError::Slow`] if it is to give up its
/// place.
#[derive(Debug)]
pub(super) struct UploadBody {
    client: Asker,
    body: OutboundBody,
    /// What was read while it waited.
    ahead: BytesMut,
    /// What came behind that, if it is no data: trailers or an error.
    behind: Option<Result<Frame<Bytes>, BoxError>>,
    /// Whether nothing comes any more.
    is_over: bool,
    pulse: Arc<Pulse>,
}

/// How the body of one upload comes.
#[derive(Debug)]
pub(super) struct Pulse(Mutex<PulseState>);

#[derive(Debug)]
struct PulseState {
    stage: UploadStage,
    /// Since when.
    since: Instant,
    /// Until when its client has been fast enough.
    fast_until: Instant,
    /// Bytes that have come.
    bytes: usize,
    /// Whether the answer has begun.
    is_answered: bool,
    /// What waits for the next piece.
    waker: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum UploadStage {
    /// The origin is to take what came, or has not been asked yet.
    Going,
    /// The client is waited for.
    Awaited,
    /// It is slow, and its body ends in an error as soon as its client is waited for.
    Ending,
    /// All of the body has come.
    Ended,
}

/// What is known of an upload that waits for a place, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Evidence {
    /// It goes on.
    Proven,
    /// Nothing yet.
    New,
    /// It is slow.
    Slow,
}

impl UploadBody {
    /// What `client` sends, which may bring nothing for up to `grace` from now on.
    pub(super) fn new(client: Asker, body: OutboundBody, grace: Duration) -> Self {
        let is_over = body.is_end_stream();
        let pulse = Arc::new(Pulse(Mutex::new(PulseState::first(grace))));
        if is_over {
            pulse.is_at_end();
        }
        Self { client, body, ahead: BytesMut::new(), behind: None, is_over, pulse }
    }

    /// The client that sends it.
    pub(super) fn client(&self) -> Asker {
        self.client
    }

    /// How it comes.
    pub(super) fn pulse(&self) -> &Arc<Pulse> {
        &self.pulse
    }

    /// Whether it ended in an error while it waited.
    pub(super) fn is_broken(&self) -> bool {
        matches!(self.behind, Some(Err(_)))
    }

    /// Reads on until the upload is proven or broken. Cancel safe.
    pub(super) async fn prove(&mut self) {
        poll_fn(|cx| self.poll_proof(cx)).await;
    }

    fn poll_proof(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.is_over && self.behind.is_none() && self.ahead.len() < PROOF_BYTES {
            match ready!(self.poll_body(cx)).map(|piece| piece.map(Frame::into_data)) {
                Some(Ok(Ok(bytes))) => self.ahead.extend_from_slice(&bytes),
                Some(Ok(Err(frame))) => self.behind = Some(Ok(frame)),
                Some(Err(error)) => self.behind = Some(Err(error)),
                None => {}
            }
        }
        Poll::Ready(())
    }

    /// The next piece that its client sends.
    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Pending => {
                if self.pulse.wait(cx).is_ready() {
                    return Poll::Ready(Some(Err(UploadError::Slow.into())));
                }
            }
            Poll::Ready(Some(Ok(frame))) => {
                // What knows its length is asked for nothing behind it.
                self.is_over = self.body.is_end_stream();
                let stage = if self.is_over { UploadStage::Ended } else { UploadStage::Going };
                self.pulse.came(frame.data_ref().map_or(0, Bytes::len), stage);
            }
            Poll::Ready(Some(Err(_)) | None) => {
                self.is_over = true;
                self.pulse.is_at_end();
            }
        }
        polled
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if !this.ahead.is_empty() {
            let ahead = std::mem::take(&mut this.ahead);
            return Poll::Ready(Some(Ok(Frame::data(ahead.freeze()))));
        }
        match this.behind.take() {
            Some(behind) => Poll::Ready(Some(behind)),
            None if this.is_over => Poll::Ready(None),
            None => this.poll_body(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ahead.is_empty() && self.behind.is_none() && self.is_over
    }

    fn size_hint(&self) -> SizeHint {
        let (ahead, rest) = (self.ahead.len() as u64, self.body.size_hint());
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(ahead));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(ahead));
        }
        hint
    }
}

impl Pulse {
    /// Has a place from now on: until it is asked for more, its client is not waited for.
    pub(super) fn enters(&self) {
        let mut beat = self.0.lock();
        if beat.stage == UploadStage::Awaited {
            beat.stage = UploadStage::Going;
            beat.since = Instant::now();
        }
    }

    /// Never ends the body from now on: its answer has begun.
    pub(super) fn spare(&self) {
        let mut beat = self.0.lock();
        beat.is_answered = true;
        if beat.stage == UploadStage::Ending {
            beat.stage = UploadStage::Awaited;
        }
    }

    /// Whether all of the body has come.
    pub(super) fn is_ended(&self) -> bool {
        self.0.lock().stage == UploadStage::Ended
    }

    /// What is known of an upload that waits.
    pub(super) fn evidence(&self, now: Instant) -> Evidence {
        let beat = self.0.lock();
        let has_enough = beat.bytes >= PROOF_BYTES;
        if beat.stage == UploadStage::Ended || (has_enough && beat.since <= beat.fast_until) {
            Evidence::Proven
        } else if has_enough || beat.slow_for(now).is_some() {
            Evidence::Slow
        } else {
            Evidence::New
        }
    }

    /// For how long its client has been too slow; none if it is not, or if it is too late to end.
    pub(super) fn slow_for(&self, now: Instant) -> Option<Duration> {
        self.0.lock().slow_for(now)
    }

    /// So many bytes have come.
    fn came(&self, bytes: usize, stage: UploadStage) {
        let now = Instant::now();
        let earned = (bytes as u64).saturating_mul(1_000_000) / RATE_MIN;
        let earned = Duration::from_micros(earned).min(PAUSE_MAX);
        // What was missed counts, as far back as a pause may be long.
        let floor = now.checked_sub(PAUSE_MAX).unwrap_or(now);
        let mut beat = self.0.lock();
        beat.bytes = beat.bytes.saturating_add(bytes);
        let fast_until = beat.fast_until.max(floor) + earned;
        beat.fast_until = fast_until.min(now + PAUSE_MAX);
        beat.since = now;
        // A little more does not save an upload that is too slow.
        let is_ending = beat.stage == UploadStage::Ending && now > beat.fast_until;
        if !is_ending || stage == UploadStage::Ended {
            beat.stage = stage;
        }
    }

    /// The client is waited for: it is not to blame for what its origin took until now. Ready if
    /// the upload is to end.
    fn wait(&self, cx: &Context<'_>) -> Poll<()> {
        let (now, mut beat) = (Instant::now(), self.0.lock());
        if beat.stage == UploadStage::Ending {
            return Poll::Ready(());
        }
        if beat.stage == UploadStage::Going {
            let fast_until = beat.fast_until + (now - beat.since);
            beat.fast_until = fast_until;
            beat.stage = UploadStage::Awaited;
            beat.since = now;
        }
        beat.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn is_at_end(&self) {
        self.0.lock().stage = UploadStage::Ended;
    }

    /// Ends the upload, if it is still slow.
    pub(super) fn end(&self) {
        let mut beat = self.0.lock();
        if beat.slow_for(Instant::now()).is_none() {
            return;
        }
        beat.stage = UploadStage::Ending;
        let waker = beat.waker.take();
        drop(beat);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Whether its place is about to be free.
    pub(super) fn is_ending(&self) -> bool {
        self.0.lock().stage == UploadStage::Ending
    }
}

impl PulseState {
    /// The body is about to be read.
    fn first(grace: Duration) -> Self {
        let since = Instant::now();
        let fast_until = since + grace;
        let stage = UploadStage::Going;
        Self { stage, since, fast_until, bytes: 0, is_answered: false, waker: None }
    }

    /// For how long its client has been too slow; none if it is not, or if it is too late to end.
    fn slow_for(&self, now: Instant) -> Option<Duration> {
        let is_slow = self.stage == UploadStage::Awaited && now > self.fast_until;
        (is_slow && !self.is_answered).then(|| now - self.fast_until)
    }
}
