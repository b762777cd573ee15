//! Which clients' uploads an origin gets at once. One per origin, as long lived as it; its lock is
//! short and never held across an await. Called by `slots`.
//!
//! - A client that has a quarter of the places gets none of the last quarter.
//! - Uploads wait in a queue. A free place goes to the first of them whose client may have it.
//! - While an upload waits, one slow upload at a time is ended, if the waiting one can enter then.
//!   The upload is one of the client that has most places, and more than the waiting client. If
//!   there is none, it is one of the waiting client itself.
//! - `upload_body` says which uploads are slow. One whose answer has begun is never ended.

use super::asker::Asker;
use super::upload_body::{PAUSE_MAX, Pulse};
use crate::client::OutboundBody;
use crate::sync::Mutex;
use std::cmp::Reverse;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// One place in so many is kept from clients that have as many.
const KEPT_FROM_CLIENT: usize = 4;
/// How often slow uploads are looked for while others wait.
const LOOK: Duration = Duration::from_secs(1);

/// The places of all uploads.
#[derive(Debug)]
pub(super) struct Uploads {
    /// How long a new upload may bring nothing before it is slow.
    grace: Duration,
    places: Mutex<Places>,
}

/// A place among the uploads under way, until it is dropped.
#[derive(Debug)]
pub(super) struct UploadPlace {
    uploads: Arc<Uploads>,
    id: u64,
    pulse: Arc<Pulse>,
}

#[derive(Debug)]
struct Places {
    max: usize,
    next: u64,
    holders: HashMap<u64, Holder>,
    by_asker: HashMap<Asker, usize>,
    /// In the order of their arrival. None of them may have a place that is free.
    queue: VecDeque<QueueEntry>,
    /// When slow uploads were last looked for; none if the one that was found has left.
    looked_at: Option<Instant>,
}

#[derive(Debug)]
struct Holder {
    asker: Asker,
    pulse: Arc<Pulse>,
}

/// An upload that waits, until its receiver is dropped.
#[derive(Debug)]
struct QueueEntry {
    asker: Asker,
    give: oneshot::Sender<UploadPlace>,
}

impl Uploads {
    /// Places for `max` uploads; a new one may bring nothing for up to `grace`.
    pub(super) fn new(max: usize, grace: Duration) -> Arc<Self> {
        let places = Mutex::new(Places::new(max));
        Arc::new(Self { grace: grace.min(PAUSE_MAX), places })
    }

    /// The next place that this client may have, in the order of arrival. None only if its entry in
    /// the queue is lost. Cancel safe: a place that is not taken goes to the next.
    pub(super) async fn place(self: &Arc<Self>, asker: Asker) -> Option<UploadPlace> {
        let (give, mut given) = oneshot::channel();
        if let Some(place) = self.admit(QueueEntry { asker, give }) {
            return Some(place);
        }
        loop {
            self.look();
            if let Ok(place) = timeout(LOOK, &mut given).await {
                return place.ok();
            }
        }
    }

    /// Whether a client has so many places that it gets none of the last quarter.
    pub(super) fn has_full_share(&self, asker: Asker) -> bool {
        let places = self.places.lock();
        asker.is_known() && places.of(asker) >= places.kept().max(1)
    }

    /// A place, if there is one now; else the upload waits from now on.
    fn admit(self: &Arc<Self>, entry: QueueEntry) -> Option<UploadPlace> {
        let mut places = self.places.lock();
        if places.admits(entry.asker, None) {
            return Some(self.enter(&mut places, entry.asker));
        }
        places.queue.push_back(entry);
        None
    }

    fn enter(self: &Arc<Self>, places: &mut Places, asker: Asker) -> UploadPlace {
        let pulse = Arc::new(Pulse::new(self.grace));
        let id = places.enter(Holder { asker, pulse: Arc::clone(&pulse) });
        UploadPlace { uploads: Arc::clone(self), id, pulse }
    }

    /// Gives a place back, and what is free to the first that wait and may have it.
    fn release(self: &Arc<Self>, id: u64) {
        let mut given = Vec::new();
        let mut places = self.places.lock();
        places.leave(id);
        while let Some(QueueEntry { asker, give }) = places.first_admitted() {
            given.push((give, self.enter(&mut places, asker)));
        }
        drop(places);
        for (give, place) in given {
            // If its upload has left, the place is released again.
            drop(give.send(place));
        }
        self.look();
    }

    /// Ends a slow upload if that makes room for one that waits.
    fn look(&self) {
        let now = Instant::now();
        let mut places = self.places.lock();
        let is_recent = places.looked_at.is_some_and(|looked_at| now < looked_at + LOOK);
        if is_recent || places.queue.is_empty() {
            return;
        }
        places.looked_at = Some(now);
        places.forget_gone();
        let slowest = places.slowest(now);
        drop(places);
        if let Some(slowest) = slowest {
            slowest.end();
        }
    }
}

impl UploadPlace {
    /// The same body, which ends in [`UploadError::Slow`] if it is to give up this place.
    pub(super) fn paced(&self, body: OutboundBody) -> OutboundBody {
        self.pulse.paced(body, self.uploads.grace)
    }

    /// Never ends the upload from now on: its answer has begun.
    pub(super) fn spare(&self) {
        self.pulse.spare();
    }

    /// Whether all of the body has gone.
    pub(super) fn is_ended(&self) -> bool {
        self.pulse.is_ended()
    }
}

impl Drop for UploadPlace {
    fn drop(&mut self) {
        self.uploads.release(self.id);
    }
}

impl Places {
    fn new(max: usize) -> Self {
        Self {
            max,
            next: 0,
            holders: HashMap::new(),
            by_asker: HashMap::new(),
            queue: VecDeque::new(),
            looked_at: None,
        }
    }

    /// How many are kept from clients that have as many.
    fn kept(&self) -> usize {
        self.max / KEPT_FROM_CLIENT
    }

    /// How many this client has.
    fn of(&self, asker: Asker) -> usize {
        self.by_asker.get(&asker).copied().unwrap_or_default()
    }

    /// Whether a client may have a place, if an upload of the client `leaving` has left.
    fn admits(&self, asker: Asker, leaving: Option<Asker>) -> bool {
        let taken = self.holders.len().saturating_sub(usize::from(leaving.is_some()));
        let free = self.max.saturating_sub(taken);
        let own = self.of(asker).saturating_sub(usize::from(leaving == Some(asker)));
        free > 0 && (!asker.is_known() || own < self.kept() || free > self.kept())
    }

    fn enter(&mut self, holder: Holder) -> u64 {
        self.next += 1;
        *self.by_asker.entry(holder.asker).or_default() += 1;
        self.holders.insert(self.next, holder);
        self.next
    }

    fn leave(&mut self, id: u64) {
        let Some(Holder { asker, pulse }) = self.holders.remove(&id) else { return };
        if pulse.is_ending() {
            self.looked_at = None;
        }
        if let Some(count) = self.by_asker.get_mut(&asker) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_asker.remove(&asker);
            }
        }
        self.forget_gone();
    }

    /// Takes the first that waits and may have a place out of the queue.
    fn first_admitted(&mut self) -> Option<QueueEntry> {
        let at = self.queue.iter().position(|entry| self.admits(entry.asker, None))?;
        self.queue.remove(at)
    }

    /// Drops uploads that have left.
    fn forget_gone(&mut self) {
        self.queue.retain(|entry| !entry.give.is_closed());
    }

    /// The slow upload to end for the first that waits and can enter then; none if one is ending.
    fn slowest(&self, now: Instant) -> Option<Arc<Pulse>> {
        if self.holders.values().any(|holder| holder.pulse.is_ending()) {
            return None;
        }
        let slow = self.holders.values().filter_map(|holder| {
            let slow_for = holder.pulse.slow_for(now)?;
            Some(((self.of(holder.asker), slow_for), holder))
        });
        let mut slow: Vec<_> = slow.collect();
        slow.sort_by_key(|(order, _)| Reverse(*order));
        let ended_for = |asker: Asker| {
            let own = self.of(asker);
            let helps = |of: Asker| self.admits(asker, Some(of));
            let mut others = slow.iter().filter(|((held, _), _)| *held > own);
            let mut same = slow.iter().filter(|(_, holder)| holder.asker == asker);
            let of_others = others.find(|(_, holder)| helps(holder.asker));
            of_others.or_else(|| same.find(|_| helps(asker)))
        };
        let (_, holder) = self.queue.iter().find_map(|entry| ended_for(entry.asker))?;
        Some(Arc::clone(&holder.pulse))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::{BoxError, UploadError};
    use bytes::Bytes;
    use futures_util::{FutureExt, poll, stream};
    use http_body_util::{BodyExt, StreamBody};
    use hyper::body::Frame;
    use tokio::sync::mpsc;
    use tokio::time::advance;

    fn client(last: u8) -> Asker {
        Asker::at([192, 0, 2, last].into())
    }

    /// A place for this client, if there is one now.
    fn place_now(uploads: &Arc<Uploads>, asker: Asker) -> Option<UploadPlace> {
        uploads.place(asker).now_or_never().flatten()
    }

    fn as_many(uploads: &Arc<Uploads>, last: u8) -> Vec<UploadPlace> {
        std::iter::from_fn(|| place_now(uploads, client(last))).collect()
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

    /// The positions of those that have ended as too slow.
    fn ended(bodies: &mut [(Pieces, OutboundBody)]) -> Vec<usize> {
        let ended = bodies.iter_mut().map(|(_, body)| is_ended(body)).enumerate();
        ended.filter(|(_, is_ended)| *is_ended).map(|(at, _)| at).collect()
    }

    /// Places, six of the first client and two of the second, whose bodies nothing has come of for
    /// longer than a pause may last.
    async fn stalled(uploads: &Arc<Uploads>) -> (Vec<UploadPlace>, Vec<(Pieces, OutboundBody)>) {
        let mut places = as_many(uploads, 1);
        places.extend(as_many(uploads, 2));
        let mut bodies: Vec<_> = places.iter().map(body).collect();
        assert_eq!((bodies.len(), ended(&mut bodies)), (8, vec![]));
        advance(PAUSE_MAX * 2).await;
        assert!(ended(&mut bodies).is_empty(), "nothing waits for their places");
        (places, bodies)
    }

    #[tokio::test]
    async fn a_client_with_a_quarter_of_the_places_gets_none_of_the_last_quarter() {
        let uploads = Uploads::new(8, PAUSE_MAX);
        let first = as_many(&uploads, 1);
        assert_eq!((first.len(), as_many(&uploads, 2).len()), (6, 2));
        let second = as_many(&uploads, 2);
        assert_eq!((second.len(), as_many(&uploads, 3).len()), (2, 0));
        assert!(uploads.has_full_share(client(2)) && !uploads.has_full_share(client(3)));
        drop((first, second));
        let own: Vec<_> = std::iter::from_fn(|| place_now(&uploads, Asker::default())).collect();
        assert_eq!((own.len(), uploads.has_full_share(Asker::default())), (8, false));
        drop(own);
        let places = uploads.places.lock();
        assert!(places.holders.is_empty() && places.by_asker.is_empty());
        assert!(places.queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_upload_makes_room_for_a_client_that_has_fewer() {
        let uploads = Uploads::new(8, PAUSE_MAX);
        let mut places = as_many(&uploads, 1);
        places.extend(as_many(&uploads, 2));
        let mut bodies: Vec<_> = places.iter().map(body).collect();
        // The last one of the first client is fast enough.
        for _ in 0..20 {
            advance(Duration::from_secs(1)).await;
            for (number, (pieces, _)) in bodies.iter().enumerate() {
                give(pieces, if number == 5 { 9_000 } else { 1_500 });
            }
            assert!(ended(&mut bodies).is_empty(), "nothing waits for their places");
        }
        for waiting in [3, 4] {
            let mut waiting = Box::pin(uploads.place(client(waiting)));
            assert!(poll!(&mut waiting).is_pending());
            let slow = ended(&mut bodies);
            assert!(matches!(slow[..], [0..=4]), "{slow:?}");
            drop(bodies.remove(slow[0]));
            // What ends it has yet to give its place back.
            advance(LOOK).await;
            assert!(poll!(&mut waiting).is_pending());
            assert!(ended(&mut bodies).is_empty(), "no second one is ended");
            drop(places.remove(slow[0]));
            let place = waiting.now_or_never().flatten().unwrap();
            // As many stand before the fast one as before.
            bodies.insert(0, body(&place));
            places.insert(0, place);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn uploads_are_served_in_the_order_of_their_arrival() {
        let uploads = Uploads::new(1, PAUSE_MAX);
        let first = place_now(&uploads, client(1)).unwrap();
        let mut second = Box::pin(uploads.place(client(2)));
        let mut third = Box::pin(uploads.place(client(3)));
        let mut fourth = Box::pin(uploads.place(client(4)));
        for waiting in [&mut second, &mut third, &mut fourth] {
            assert!(poll!(waiting).is_pending());
        }
        drop(first);
        assert!(place_now(&uploads, client(5)).is_none(), "the place is promised");
        assert!(poll!(&mut third).is_pending());
        drop(second);
        assert!(place_now(&uploads, client(5)).is_none(), "it is promised to the next");
        assert!(poll!(&mut fourth).is_pending());
        let third = third.now_or_never().flatten().unwrap();
        drop(third);
        drop(fourth.now_or_never().flatten().unwrap());
        assert!(place_now(&uploads, client(5)).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_whose_client_has_its_share_holds_up_no_other() {
        let uploads = Uploads::new(8, PAUSE_MAX);
        let mut first = as_many(&uploads, 1);
        let mut more = Box::pin(uploads.place(client(1)));
        assert!(poll!(&mut more).is_pending());
        let second = place_now(&uploads, client(2)).unwrap();
        drop(first.pop());
        assert!(poll!(&mut more).is_pending(), "two are free, as many as are kept");
        drop(second);
        assert!(more.now_or_never().flatten().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn no_upload_of_another_client_ends_for_one_that_has_as_many() {
        let uploads = Uploads::new(4, PAUSE_MAX);
        let mut places: Vec<_> =
            (1..=4).filter_map(|last| place_now(&uploads, client(last))).collect();
        let mut bodies: Vec<_> = places.iter().map(body).collect();
        assert!(ended(&mut bodies).is_empty());
        advance(PAUSE_MAX * 2).await;
        let mut same = Box::pin(uploads.place(client(4)));
        assert!(poll!(&mut same).is_pending());
        assert_eq!(ended(&mut bodies), vec![3]);
        drop((bodies.remove(3), same));
        drop(places.remove(3));
        let _fourth = place_now(&uploads, client(4)).unwrap();
        let mut other = Box::pin(uploads.place(client(5)));
        assert!(poll!(&mut other).is_pending());
        assert_eq!(ended(&mut bodies).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_upload_makes_room_for_one_of_its_own_client() {
        let uploads = Uploads::new(8, PAUSE_MAX);
        let (mut places, mut bodies) = stalled(&uploads).await;
        places.truncate(6);
        bodies.truncate(6);
        let mut waiting = Box::pin(uploads.place(client(1)));
        assert!(poll!(&mut waiting).is_pending());
        let slow = ended(&mut bodies);
        assert_eq!(slow.len(), 1);
        drop(places.remove(slow[0]));
        assert!(waiting.now_or_never().flatten().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn no_upload_ends_in_vain() {
        let uploads = Uploads::new(8, PAUSE_MAX);
        let (_places, mut bodies) = stalled(&uploads).await;
        let mut waiting = Box::pin(uploads.place(client(1)));
        assert!(poll!(&mut waiting).is_pending());
        assert!(ended(&mut bodies).is_empty(), "the next place is kept from this client");
    }

    #[tokio::test(start_paused = true)]
    async fn an_upload_that_goes_on_in_time_is_not_ended() {
        let uploads = Uploads::new(8, PAUSE_MAX);
        let (places, mut bodies) = stalled(&uploads).await;
        let mut waiting = Box::pin(uploads.place(client(3)));
        assert!(poll!(&mut waiting).is_pending());
        assert!(uploads.places.lock().slowest(Instant::now()).is_none(), "one is ending");
        for (pieces, _) in &bodies {
            give(pieces, 90_000);
        }
        assert!(ended(&mut bodies).is_empty());
        places.iter().for_each(UploadPlace::spare);
        advance(LOOK * 2).await;
        assert!(poll!(&mut waiting).is_pending());
        assert!(ended(&mut bodies).is_empty(), "their answers have begun");
    }

    #[tokio::test(start_paused = true)]
    async fn what_its_origin_does_not_take_is_not_slow() {
        let uploads = Uploads::new(1, PAUSE_MAX);
        let place = place_now(&uploads, client(1)).unwrap();
        let (pieces, mut body) = body(&place);
        give(&pieces, 1);
        assert!(body.frame().now_or_never().is_some());
        advance(PAUSE_MAX * 9).await;
        assert!(place_now(&uploads, client(2)).is_none());
        assert!(!is_ended(&mut body));
        // From now on its client is waited for.
        advance(PAUSE_MAX / 2).await;
        assert!(place_now(&uploads, client(2)).is_none());
        assert!(!is_ended(&mut body));
        advance(PAUSE_MAX).await;
        assert!(place_now(&uploads, client(2)).is_none());
        assert!(is_ended(&mut body));
        assert!(!place.is_ended(), "not all of its body has gone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_upload_is_slow_after_its_grace() {
        let uploads = Uploads::new(1, PAUSE_MAX / 4);
        let place = uploads.place(client(1)).await.unwrap();
        let (_pieces, mut body) = body(&place);
        assert!(!is_ended(&mut body));
        advance(PAUSE_MAX / 2).await;
        assert!(place_now(&uploads, client(2)).is_none());
        assert!(is_ended(&mut body));
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_is_waited_for() {
        let uploads = Uploads::new(1, PAUSE_MAX);
        let place = uploads.place(client(1)).await;
        let (_pieces, mut body) = body(place.as_ref().unwrap());
        let waiting = tokio::spawn({
            let uploads = Arc::clone(&uploads);
            async move { uploads.place(client(2)).await }
        });
        let ended = body.frame().await.unwrap().unwrap_err();
        assert_eq!(ended.downcast_ref(), Some(&UploadError::Slow));
        drop(place);
        drop(waiting.await.unwrap().unwrap());
        assert!(place_now(&uploads, client(1)).is_some());
    }
}
