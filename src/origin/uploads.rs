//! Which clients' uploads an origin gets at once. One per origin, as long lived as it; its lock is
//! short and never held across an await. Called by `slots`.
//!
//! - A client that has a quarter of the places gets none of the last quarter.
//! - While an upload finds no place, slow uploads of clients that have more places than its own are
//!   ended, one after the other: first one of the client that has most.
//! - An upload is slow if its client is waited for and brings less than [`RATE_MIN`], with pauses
//!   of up to [`PAUSE_MAX`]. One that its origin does not take faster is not slow.

use super::asker::Asker;
use crate::client::{BoxError, OutboundBody, UploadError};
use crate::sync::Mutex;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// One place in so many is kept from clients that have as many.
const KEPT_FROM_CLIENT: usize = 4;
/// Bytes a second below which an upload is slow.
const RATE_MIN: u64 = 8_000;
/// How long an upload may bring nothing before it is slow.
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// How often an upload that waits looks whether others have become slow.
const LOOK: Duration = Duration::from_secs(1);

/// The places of all uploads.
#[derive(Debug)]
pub(super) struct Uploads {
    max: usize,
    taken: Mutex<Places>,
    /// Notified when a place is free.
    changed: Notify,
}

/// A place among the uploads under way, until it is dropped.
#[derive(Debug)]
pub(super) struct UploadPlace {
    uploads: Arc<Uploads>,
    id: u64,
    pulse: Arc<Pulse>,
}

#[derive(Debug, Default)]
struct Places {
    next: u64,
    holders: HashMap<u64, Holder>,
    by_asker: HashMap<Asker, usize>,
}

#[derive(Debug)]
struct Holder {
    asker: Asker,
    pulse: Arc<Pulse>,
}

/// How the body of one upload comes.
#[derive(Debug)]
struct Pulse {
    beat: Mutex<Beat>,
    /// Cancelled if the upload is to end.
    ending: CancellationToken,
}

#[derive(Debug, Clone, Copy)]
struct Beat {
    stage: Stage,
    /// Since when.
    since: Instant,
    /// Until when its client has been fast enough.
    fast_until: Instant,
}

impl Beat {
    /// The body is about to be sent.
    fn first() -> Self {
        let since = Instant::now();
        Self { stage: Stage::Going, since, fast_until: since + PAUSE_MAX }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// The origin is to take what came, or has not been asked yet.
    Going,
    /// The client is waited for.
    Awaited,
    /// All of the body has gone.
    Ended,
}

impl Uploads {
    /// Places for `max` uploads.
    pub(super) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { max, taken: Mutex::default(), changed: Notify::new() })
    }

    /// A place, as soon as there is one. Cancel safe.
    pub(super) async fn place(self: &Arc<Self>, asker: Asker) -> UploadPlace {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if let Some(place) = self.admit(asker) {
                return place;
            }
            // Whether it ends by a place or by the time, it looks again.
            drop(timeout(LOOK, changed).await);
        }
    }

    /// A place, if there is one now; if all are taken, a slow upload may have to give up its own.
    fn admit(self: &Arc<Self>, asker: Asker) -> Option<UploadPlace> {
        let mut taken = self.taken.lock();
        let (own, free) = (taken.of(asker), self.max.saturating_sub(taken.holders.len()));
        if free == 0 {
            let slowest = taken.slowest(own);
            drop(taken);
            if let Some(slowest) = slowest {
                slowest.cancel();
            }
            return None;
        }
        let kept = self.max / KEPT_FROM_CLIENT;
        if asker.is_known() && own >= kept && free <= kept {
            return None;
        }
        let pulse = Arc::new(Pulse::new());
        let id = taken.enter(Holder { asker, pulse: Arc::clone(&pulse) });
        drop(taken);
        Some(UploadPlace { uploads: Arc::clone(self), id, pulse })
    }
}

impl UploadPlace {
    /// The same body, which ends in [`UploadError::Slow`] if it is to give up this place.
    pub(super) fn paced(&self, body: OutboundBody) -> OutboundBody {
        let ending = Box::pin(self.pulse.ending.clone().cancelled_owned());
        *self.pulse.beat.lock() = Beat::first();
        Paced { body, pulse: Arc::clone(&self.pulse), ending }.boxed_unsync()
    }

    /// Whether all of the body has gone.
    pub(super) fn is_ended(&self) -> bool {
        self.pulse.beat.lock().stage == Stage::Ended
    }
}

impl Drop for UploadPlace {
    fn drop(&mut self) {
        self.uploads.taken.lock().leave(self.id);
        self.uploads.changed.notify_waiters();
    }
}

impl Places {
    /// How many this client has.
    fn of(&self, asker: Asker) -> usize {
        self.by_asker.get(&asker).copied().unwrap_or_default()
    }

    fn enter(&mut self, holder: Holder) -> u64 {
        self.next += 1;
        *self.by_asker.entry(holder.asker).or_default() += 1;
        self.holders.insert(self.next, holder);
        self.next
    }

    fn leave(&mut self, id: u64) {
        let Some(Holder { asker, .. }) = self.holders.remove(&id) else { return };
        if let Some(count) = self.by_asker.get_mut(&asker) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_asker.remove(&asker);
            }
        }
    }

    /// What ends the slowest upload of a client that has more than `own` places; none if one is
    /// about to end.
    fn slowest(&self, own: usize) -> Option<CancellationToken> {
        if self.holders.values().any(|holder| holder.pulse.is_ending()) {
            return None;
        }
        let now = Instant::now();
        let slow = self.holders.values().filter_map(|Holder { asker, pulse }| {
            let others = self.of(*asker);
            let slow_for = pulse.slow_for(now).filter(|_| others > own)?;
            Some(((others, slow_for), &pulse.ending))
        });
        slow.max_by_key(|(order, _)| *order).map(|(_, ending)| ending.clone())
    }
}

impl Pulse {
    fn new() -> Self {
        Self { beat: Mutex::new(Beat::first()), ending: CancellationToken::new() }
    }

    /// So many bytes have come.
    fn came(&self, bytes: usize, stage: Stage) {
        let now = Instant::now();
        let earned = (bytes as u64).saturating_mul(1_000_000) / RATE_MIN;
        let earned = Duration::from_micros(earned).min(PAUSE_MAX);
        // What was missed counts, as far back as a pause may be long.
        let floor = now.checked_sub(PAUSE_MAX).unwrap_or(now);
        let mut beat = self.beat.lock();
        let fast_until = beat.fast_until.max(floor) + earned;
        *beat = Beat { stage, since: now, fast_until: fast_until.min(now + PAUSE_MAX) };
    }

    /// The client is waited for; it is not to blame for what its origin took until now.
    fn is_awaited(&self) {
        let (now, mut beat) = (Instant::now(), self.beat.lock());
        if beat.stage == Stage::Going {
            let fast_until = beat.fast_until + (now - beat.since);
            *beat = Beat { stage: Stage::Awaited, since: now, fast_until };
        }
    }

    fn is_at_end(&self) {
        self.beat.lock().stage = Stage::Ended;
    }

    /// For how long its client has been too slow; none if it is not.
    fn slow_for(&self, now: Instant) -> Option<Duration> {
        let beat = *self.beat.lock();
        let is_slow = beat.stage == Stage::Awaited && now > beat.fast_until;
        is_slow.then(|| now - beat.fast_until)
    }

    /// Whether its end is certain, and near.
    fn is_ending(&self) -> bool {
        self.ending.is_cancelled() && self.beat.lock().stage == Stage::Awaited
    }
}

/// The body of an upload that has a place.
struct Paced {
    body: OutboundBody,
    pulse: Arc<Pulse>,
    ending: Pin<Box<WaitForCancellationFutureOwned>>,
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
                this.pulse.is_awaited();
                if this.ending.as_mut().poll(cx).is_ready() {
                    this.pulse.is_at_end();
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

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, stream};
    use http_body_util::StreamBody;
    use tokio::sync::mpsc;

    fn client(last: u8) -> Asker {
        Asker::at([192, 0, 2, last].into())
    }

    fn as_many(uploads: &Arc<Uploads>, last: u8) -> Vec<UploadPlace> {
        std::iter::from_fn(|| uploads.admit(client(last))).collect()
    }

    type Pieces = mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>;

    /// A body in this place, whose pieces are given by hand.
    fn body(place: &UploadPlace) -> (Pieces, OutboundBody) {
        let (give, pieces) = mpsc::unbounded_channel();
        let pieces = stream::unfold(pieces, |mut pieces| async move {
            pieces.recv().await.map(|piece| (piece, pieces))
        });
        (give, place.paced(OutboundBody::new(StreamBody::new(pieces))))
    }

    fn give(pieces: &Pieces, bytes: usize) {
        pieces.send(Ok(Frame::data(vec![b'x'; bytes].into()))).unwrap();
    }

    /// Takes what has come; whether the body has ended as too slow.
    fn is_ended(body: &mut OutboundBody) -> bool {
        loop {
            match body.frame().now_or_never() {
                None => return false,
                Some(Some(Ok(_))) => {}
                Some(Some(Err(error))) => {
                    assert_eq!(error.downcast_ref(), Some(&UploadError::Slow));
                    return true;
                }
                Some(None) => panic!("it ended well"),
            }
        }
    }

    #[tokio::test]
    async fn a_client_with_a_quarter_of_the_places_gets_none_of_the_last_quarter() {
        let uploads = Uploads::new(8);
        let first = as_many(&uploads, 1);
        assert_eq!((first.len(), as_many(&uploads, 2).len()), (6, 2));
        let second = as_many(&uploads, 2);
        assert_eq!((second.len(), as_many(&uploads, 3).len()), (2, 0));
        drop((first, second));
        let own: Vec<_> = std::iter::from_fn(|| uploads.admit(Asker::default())).collect();
        assert_eq!(own.len(), 8);
        drop(own);
        let taken = uploads.taken.lock();
        assert!(taken.holders.is_empty() && taken.by_asker.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_upload_makes_room_for_a_client_that_has_fewer() {
        let uploads = Uploads::new(8);
        let mut places = as_many(&uploads, 1);
        places.extend(as_many(&uploads, 2));
        let mut bodies: Vec<_> = places.iter().map(body).enumerate().collect();
        // The second one is fast enough.
        for _ in 0..20 {
            tokio::time::advance(Duration::from_secs(1)).await;
            for (number, (pieces, body)) in &mut bodies {
                give(pieces, if *number == 1 { 9_000 } else { 1_500 });
                assert!(!is_ended(body), "nothing waits for its place");
            }
        }
        for waiting in [3, 4] {
            assert!(uploads.admit(client(waiting)).is_none());
            assert!(uploads.admit(client(waiting)).is_none(), "no second one is ended");
            let mut ended = Vec::new();
            for (at, (number, (_, body))) in bodies.iter_mut().enumerate() {
                if is_ended(body) {
                    ended.push((at, *number));
                }
            }
            assert!(matches!(ended[..], [(_, 0 | 2..=5)]), "{ended:?}");
            drop((bodies.remove(ended[0].0), places.remove(ended[0].0)));
            places.push(uploads.admit(client(waiting)).unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_upload_ends_for_a_client_that_has_as_many() {
        let uploads = Uploads::new(4);
        let places: Vec<_> = (1..=4).filter_map(|last| uploads.admit(client(last))).collect();
        let mut bodies: Vec<_> = places.iter().map(body).collect();
        assert!(bodies.iter_mut().all(|(_, body)| !is_ended(body)));
        tokio::time::advance(PAUSE_MAX * 2).await;
        assert!(uploads.admit(client(4)).is_none());
        assert!(bodies.iter_mut().all(|(_, body)| !is_ended(body)));
        assert!(uploads.admit(client(5)).is_none());
        let ended = bodies.iter_mut().map(|(_, body)| is_ended(body));
        assert_eq!(ended.filter(|is_ended| *is_ended).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_its_origin_does_not_take_is_not_slow() {
        let uploads = Uploads::new(1);
        let place = uploads.admit(client(1)).unwrap();
        let (pieces, mut body) = body(&place);
        give(&pieces, 1);
        assert!(body.frame().now_or_never().is_some());
        tokio::time::advance(PAUSE_MAX * 9).await;
        assert!(uploads.admit(client(2)).is_none());
        assert!(!is_ended(&mut body));
        // From now on its client is waited for.
        tokio::time::advance(PAUSE_MAX / 2).await;
        assert!(uploads.admit(client(2)).is_none());
        assert!(!is_ended(&mut body));
        tokio::time::advance(PAUSE_MAX).await;
        assert!(uploads.admit(client(2)).is_none());
        assert!(is_ended(&mut body));
        assert!(place.is_ended());
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_waited_for() {
        let uploads = Uploads::new(1);
        let place = uploads.place(client(1)).await;
        let (_pieces, mut body) = body(&place);
        let waiting = tokio::spawn({
            let uploads = Arc::clone(&uploads);
            async move { uploads.place(client(2)).await }
        });
        let ended = body.frame().await.unwrap().unwrap_err();
        assert_eq!(ended.downcast_ref(), Some(&UploadError::Slow));
        drop(place);
        drop(waiting.await.unwrap());
        assert!(uploads.admit(client(1)).is_some());
    }
}
