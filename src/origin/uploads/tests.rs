//! Places and the queue for them, with bodies that are given piece by piece by hand.

use super::*;
use crate::client::{BoxError, UploadError};
use bytes::Bytes;
use futures_util::{FutureExt, poll, stream};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use std::pin::pin;
use tokio::sync::mpsc;
use tokio::time::{advance, timeout};

const SECOND: Duration = Duration::from_secs(1);
/// More than proves an upload.
const MANY: usize = 9_000;

fn client(last: u8) -> Asker {
    Asker::at([192, 0, 2, last].into())
}

type Pieces = mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>;

/// An upload that is given piece by piece by hand.
struct Sent {
    pieces: Pieces,
    body: UploadBody,
    place: Option<UploadPlace>,
}

impl Sent {
    /// One that has arrived and waits for no place yet, of which so many bytes have come.
    fn arrived(uploads: &UploadQueue, client: Asker, bytes: usize) -> Self {
        let (pieces, given) = mpsc::unbounded_channel();
        let given = stream::unfold(given, |mut given| async move {
            given.recv().await.map(|piece| (piece, given))
        });
        let body = uploads.arrived(client, OutboundBody::new(StreamBody::new(given)));
        let sent = Self { pieces, body, place: None };
        sent.brings(bytes);
        sent
    }

    fn brings(&self, bytes: usize) {
        if bytes > 0 {
            self.pieces.send(Ok(Frame::data(vec![b'x'; bytes].into()))).unwrap();
        }
    }

    /// Takes what has come; whether the body has ended as too slow.
    fn is_ended(&mut self) -> bool {
        loop {
            match self.body.frame().now_or_never() {
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
}

/// The upload in its place, as soon as it has one; so many bytes of it have come.
async fn place(uploads: &Arc<UploadQueue>, client: Asker, bytes: usize) -> Option<Sent> {
    let mut sent = Sent::arrived(uploads, client, bytes);
    sent.place = uploads.place(&mut sent.body).await;
    sent.place.is_some().then_some(sent)
}

/// The same, if there is a place now.
fn place_now(uploads: &Arc<UploadQueue>, client: Asker) -> Option<Sent> {
    place(uploads, client, 0).now_or_never().flatten()
}

fn as_many(uploads: &Arc<UploadQueue>, last: u8) -> Vec<Sent> {
    std::iter::from_fn(|| place_now(uploads, client(last))).collect()
}

/// The positions of those that have ended as too slow.
fn ended(uploads: &mut [Sent]) -> Vec<usize> {
    let ended = uploads.iter_mut().map(Sent::is_ended).enumerate();
    ended.filter(|(_, is_ended)| *is_ended).map(|(at, _)| at).collect()
}

/// Uploads of these clients, of which nothing has come for longer than a pause may last.
async fn stalled(uploads: &Arc<UploadQueue>, clients: &[u8]) -> Vec<Sent> {
    let placed = clients.iter().map(|last| place_now(uploads, client(*last)).unwrap());
    let mut placed: Vec<_> = placed.collect();
    assert!(ended(&mut placed).is_empty());
    advance(PAUSE_MAX * 2).await;
    assert!(ended(&mut placed).is_empty(), "nothing waits for their places");
    placed
}

#[tokio::test]
async fn a_client_with_a_quarter_of_the_places_gets_none_of_the_last_quarter() {
    let uploads = UploadQueue::new(8, PAUSE_MAX);
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
    assert!(places.holders.is_empty() && places.queue.is_empty());
    assert!(places.shares.by_client.is_empty() && places.shares.taken == 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_upload_makes_room_for_a_client_that_has_fewer() {
    let uploads = UploadQueue::new(8, PAUSE_MAX);
    let mut placed = as_many(&uploads, 1);
    placed.extend(as_many(&uploads, 2));
    // The last one of the first client is fast enough.
    for _ in 0..20 {
        advance(SECOND).await;
        for (number, sent) in placed.iter().enumerate() {
            sent.brings(if number == 5 { 9_000 } else { 1_500 });
        }
        assert!(ended(&mut placed).is_empty(), "nothing waits for their places");
    }
    for waiting in [3, 4] {
        let mut waiting = Box::pin(place(&uploads, client(waiting), 0));
        assert!(poll!(&mut waiting).is_pending());
        let slow = ended(&mut placed);
        assert!(matches!(slow[..], [0..=4]), "{slow:?}");
        // What ends it has yet to give its place back.
        advance(LOOK).await;
        assert!(poll!(&mut waiting).is_pending());
        let left = placed.remove(slow[0]);
        assert!(ended(&mut placed).is_empty(), "no second one is ended");
        drop(left);
        // As many stand before the fast one as before.
        placed.insert(0, waiting.now_or_never().flatten().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn uploads_are_served_in_the_order_of_their_arrival() {
    for bytes in [0, MANY] {
        let uploads = UploadQueue::new(1, PAUSE_MAX);
        let first = place_now(&uploads, client(1)).unwrap();
        let mut second = Box::pin(place(&uploads, client(2), bytes));
        let mut third = Box::pin(place(&uploads, client(3), bytes));
        let mut fourth = Box::pin(place(&uploads, client(4), bytes));
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
}

#[tokio::test(start_paused = true)]
async fn an_upload_whose_client_has_its_share_holds_up_no_other() {
    let uploads = UploadQueue::new(8, PAUSE_MAX);
    let mut first = as_many(&uploads, 1);
    let mut more = Box::pin(place(&uploads, client(1), MANY));
    assert!(poll!(&mut more).is_pending());
    let second = place_now(&uploads, client(2)).unwrap();
    drop(first.pop());
    assert!(poll!(&mut more).is_pending(), "two are free, as many as are kept");
    drop(second);
    assert!(more.now_or_never().flatten().is_some());
}

#[tokio::test(start_paused = true)]
async fn no_upload_of_another_client_ends_for_one_that_has_as_many_and_proves_nothing() {
    let uploads = UploadQueue::new(4, PAUSE_MAX);
    let mut placed = stalled(&uploads, &[1, 2, 3, 4]).await;
    let mut same = Box::pin(place(&uploads, client(4), 0));
    assert!(poll!(&mut same).is_pending());
    assert_eq!(ended(&mut placed), vec![3]);
    drop(same);
    drop(placed.remove(3));
    let _fourth = place_now(&uploads, client(4)).unwrap();
    let mut other = Box::pin(place(&uploads, client(5), 0));
    assert!(poll!(&mut other).is_pending());
    assert_eq!(ended(&mut placed).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_upload_makes_room_for_one_of_its_own_client() {
    let uploads = UploadQueue::new(8, PAUSE_MAX);
    let mut placed = stalled(&uploads, &[1, 1, 1, 1, 1, 1]).await;
    let mut waiting = Box::pin(place(&uploads, client(1), 0));
    assert!(poll!(&mut waiting).is_pending());
    let slow = ended(&mut placed);
    assert_eq!(slow.len(), 1);
    drop(placed.remove(slow[0]));
    assert!(waiting.now_or_never().flatten().is_some());
}

#[tokio::test(start_paused = true)]
async fn no_upload_ends_in_vain() {
    let uploads = UploadQueue::new(8, PAUSE_MAX);
    let mut placed = stalled(&uploads, &[1, 1, 1, 1, 1, 1, 2, 2]).await;
    for bytes in [0, MANY] {
        let mut waiting = Box::pin(place(&uploads, client(1), bytes));
        assert!(poll!(&mut waiting).is_pending());
        assert!(ended(&mut placed).is_empty(), "the next place is kept from this client");
    }
    let mut slow = Box::pin(place(&uploads, client(3), 0));
    uploads.places.lock().looked_at = Some(Instant::now() + PAUSE_MAX * 2);
    assert!(poll!(&mut slow).is_pending());
    advance(PAUSE_MAX * 2).await;
    assert!(poll!(&mut slow).is_pending());
    assert!(ended(&mut placed).is_empty(), "it is slow itself");
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_goes_on_in_time_is_not_ended() {
    let uploads = UploadQueue::new(8, PAUSE_MAX);
    let mut placed = stalled(&uploads, &[1, 1, 1, 1, 1, 1, 2, 2]).await;
    let mut waiting = Box::pin(place(&uploads, client(3), 0));
    assert!(poll!(&mut waiting).is_pending());
    assert!(uploads.places.lock().to_end(Instant::now()).is_empty(), "one is ending");
    for sent in &placed {
        sent.brings(90_000);
    }
    assert!(ended(&mut placed).is_empty());
    placed.iter().filter_map(|sent| sent.place.as_ref()).for_each(UploadPlace::spare);
    advance(PAUSE_MAX / 2).await;
    assert!(poll!(&mut waiting).is_pending());
    assert!(ended(&mut placed).is_empty(), "their answers have begun");
}

#[tokio::test(start_paused = true)]
async fn what_its_origin_does_not_take_is_not_slow() {
    let uploads = UploadQueue::new(1, PAUSE_MAX);
    let mut sent = place_now(&uploads, client(1)).unwrap();
    sent.brings(1);
    assert!(sent.body.frame().now_or_never().is_some());
    advance(PAUSE_MAX * 9).await;
    assert!(place_now(&uploads, client(2)).is_none());
    assert!(!sent.is_ended());
    // From now on its client is waited for.
    advance(PAUSE_MAX / 2).await;
    assert!(place_now(&uploads, client(2)).is_none());
    assert!(!sent.is_ended());
    advance(PAUSE_MAX).await;
    assert!(place_now(&uploads, client(2)).is_none());
    assert!(sent.is_ended());
    assert!(!sent.place.unwrap().is_ended(), "not all of its body has come");
}

#[tokio::test(start_paused = true)]
async fn a_new_upload_is_slow_after_its_grace() {
    let uploads = UploadQueue::new(1, PAUSE_MAX / 4);
    let mut sent = place_now(&uploads, client(1)).unwrap();
    assert!(!sent.is_ended());
    advance(PAUSE_MAX / 2).await;
    assert!(place_now(&uploads, client(2)).is_none());
    assert!(sent.is_ended());
}

#[tokio::test(start_paused = true)]
async fn a_place_is_waited_for() {
    let uploads = UploadQueue::new(1, PAUSE_MAX);
    let mut sent = place(&uploads, client(1), 0).await.unwrap();
    let waiting = tokio::spawn({
        let uploads = Arc::clone(&uploads);
        async move { place(&uploads, client(2), MANY).await }
    });
    let ended = sent.body.frame().await.unwrap().unwrap_err();
    assert_eq!(ended.downcast_ref(), Some(&UploadError::Slow));
    drop(sent);
    drop(waiting.await.unwrap().unwrap());
    assert!(place_now(&uploads, client(1)).is_some());
}

/// An upload that brings ten bytes each fifth of a second, anew as often as it ends.
async fn trickles(uploads: Arc<UploadQueue>, client: Asker) {
    loop {
        let Ok(Some(mut sent)) = timeout(SECOND * 5, place(&uploads, client, 10)).await else {
            continue;
        };
        while !sent.is_ended() {
            sent.brings(10);
            sleep(SECOND / 5).await;
        }
        drop(sent);
        sleep(SECOND / 5).await;
    }
}

/// FAULTS.md G9: more slow uploads than places wait before it, each from an address of its own.
#[tokio::test(start_paused = true)]
async fn an_upload_that_goes_on_has_a_place_soon_however_many_clients_trickle() {
    let uploads = UploadQueue::new(8, SECOND * 5 / 2);
    let slow = (0..200).map(|last| tokio::spawn(trickles(Arc::clone(&uploads), client(last))));
    let slow: Vec<_> = slow.collect();
    sleep(SECOND * 7).await;
    // The first alone, then four that arrive together, two of them from one client.
    for clients in [&[201][..], &[202, 203, 204, 204]] {
        let asked = Instant::now();
        let placed = clients.iter().map(|last| place(&uploads, client(*last), 50_000));
        let placed = futures_util::future::join_all(placed).await;
        assert!(placed.iter().all(Option::is_some));
        assert!(asked.elapsed() < SECOND * 4, "{:?}", asked.elapsed());
        sleep(SECOND * 3).await;
    }
    assert!(slow.iter().all(|slow| !slow.is_finished()));
    slow.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn what_came_while_an_upload_waited_is_sent_first() {
    let uploads = UploadQueue::new(1, PAUSE_MAX);
    let first = place_now(&uploads, client(1)).unwrap();
    let mut sent = Sent::arrived(&uploads, client(2), 3_000);
    let mut waiting = Box::pin(uploads.place(&mut sent.body));
    assert!(poll!(&mut waiting).is_pending());
    sent.pieces.send(Ok(Frame::data(Bytes::from_static(b"yyy")))).unwrap();
    assert!(poll!(&mut waiting).is_pending());
    drop(first);
    let place = waiting.await.unwrap();
    sent.pieces.send(Ok(Frame::data(Bytes::from_static(b"z")))).unwrap();
    drop(sent.pieces);
    let whole = sent.body.collect().await.unwrap().to_bytes();
    assert_eq!(whole, [&[b'x'; 3_000][..], b"yyyz"].concat());
    assert!(place.is_ended());
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_breaks_off_waits_no_longer() {
    let uploads = UploadQueue::new(1, PAUSE_MAX);
    let _first = place_now(&uploads, client(1)).unwrap();
    let mut sent = Sent::arrived(&uploads, client(2), 0);
    let pieces = sent.pieces.clone();
    {
        let mut waiting = pin!(uploads.place(&mut sent.body));
        assert!(poll!(&mut waiting).is_pending());
        pieces.send(Err("gone".into())).unwrap();
        assert!(waiting.await.is_none());
    }
    assert!(sent.body.is_broken());
}
