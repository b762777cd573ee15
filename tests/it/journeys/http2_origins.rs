//! Origins that speak HTTP/2 and close connections, refuse streams or cut them: a request that was
//! not processed is sent again at once, so that clients, retry budget and breaker do not notice.

use crate::harness::http2_origin::{
    ENHANCE_YOUR_CALM, Http2Origin, INTERNAL_ERROR, MAX_CONCURRENT_STREAMS, NO_ERROR, Peer,
    REFUSED_STREAM, Stream, TEXT,
};
use crate::harness::{Edge, Said, Setup};
use futures_util::future::join_all;

/// No retry is permitted, and the first failure opens the breaker.
const STRICT: &str =
    "[site.origin.budget]\nretries = 0\nhedges = 0\n[site.origin.breaker]\nfailures = 1\n";
const OPENED: &str = "narthex_origin_breaker_transitions_total{origin=\"one\",to=\"open\"}";
const RETRIES: &str = "narthex_origin_retries_total{origin=\"one\",result=\"spent\"}";
/// More requests than a connection of an origin takes in a test that does not limit them.
const UNLIMITED: usize = 1_000_000;

/// An edge before `origin` with these lines, and its connection, once the self test is answered.
async fn before(origin: &Http2Origin, lines: &str, settings: &[(u16, u32)]) -> (Edge, Peer) {
    let tables = [origin.table(lines)];
    let starting = Setup::default().start_before(&tables);
    let probing = async {
        let mut peer = origin.accept(settings).await;
        let probe = peer.request().await;
        peer.answer(probe).await.unwrap();
        peer
    };
    tokio::join!(starting, probing)
}

/// Asks for so many objects at once.
async fn objects(edge: &Edge, numbers: std::ops::Range<usize>) -> Vec<Said> {
    let client = edge.client();
    join_all(numbers.map(|number| async move {
        client.get(&format!("/log/0c5x60p6h2p6jvqqs4x8rcwh3pg9z1nv-{number}.drv")).await
    }))
    .await
}

/// Every answer is the object, the breaker never opened, and so many retries were spent.
async fn all_well(edge: &Edge, said: &[Said], retries: u64) {
    for said in said {
        said.expect(200, "miss").with(TEXT.as_bytes());
    }
    assert_eq!((edge.metric(OPENED).await, edge.metric(RETRIES).await), (0, retries));
}

/// What `asking` gives, while `serving` goes on.
async fn while_serving<A: Future, S: Future>(asking: A, serving: S) -> A::Output {
    let serving = async {
        serving.await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        said = asking => said,
        () = serving => unreachable!(),
    }
}

async fn requests<const N: usize>(peer: &mut Peer) -> [u32; N] {
    let mut streams = [0; N];
    for stream in &mut streams {
        *stream = peer.request().await;
    }
    streams
}

#[tokio::test]
async fn connections_that_close_after_some_requests_cost_nothing() {
    for limit in [1, 5, 100] {
        let origin = Http2Origin::start().await;
        let (edge, mut first) = before(&origin, STRICT, &[]).await;
        let serving = async {
            let first = origin.answer_on(&mut first, limit);
            let _ = tokio::join!(origin.answer(limit, &[]), first);
        };
        let asking = async {
            let mut said = Vec::new();
            for round in 0..4 {
                said.extend(objects(&edge, round * 50..(round + 1) * 50).await);
            }
            said
        };
        let said = Box::pin(while_serving(asking, serving)).await;
        all_well(&edge, &said, 0).await;
        assert_eq!(origin.processed(), 200, "a limit of {limit}");
        // The number of requests that a connection takes is learnt from the first that closes.
        let resends = edge.metric("narthex_origin_resends_total{origin=\"one\"}").await;
        assert!(resends <= 100, "{resends} resends with a limit of {limit}");
    }
}

#[tokio::test]
async fn a_response_that_has_begun_is_read_to_its_end_while_the_others_go_elsewhere() {
    let origin = Http2Origin::start().await;
    let (edge, mut first) = before(&origin, STRICT, &[]).await;
    let serving = async {
        let [begun, _, _] = requests(&mut first).await;
        first.head(begun, Some(TEXT.len())).await.unwrap();
        first.data(begun, &TEXT.as_bytes()[..2], Stream::GoesOn).await.unwrap();
        first.go_away(begun, NO_ERROR).await.unwrap();
        let mut second = origin.accept(&[]).await;
        for stream in requests::<2>(&mut second).await {
            second.answer(stream).await.unwrap();
        }
        first.data(begun, &TEXT.as_bytes()[2..], Stream::Ends).await.unwrap();
        tokio::join!(first.until_closed(), second.until_closed());
    };
    let said = while_serving(objects(&edge, 0..3), serving).await;
    all_well(&edge, &said, 0).await;
}

#[tokio::test]
async fn a_graceful_goodbye_and_the_one_that_follows_it_lose_nothing() {
    let origin = Http2Origin::start().await;
    let (edge, mut first) = before(&origin, STRICT, &[]).await;
    let serving = async {
        let [processed, left] = requests(&mut first).await;
        first.go_away(u32::MAX >> 1, NO_ERROR).await.unwrap();
        first.go_away(processed, NO_ERROR).await.unwrap();
        assert!(left > processed);
        let mut second = origin.accept(&[]).await;
        let [again] = requests(&mut second).await;
        second.answer(again).await.unwrap();
        first.answer(processed).await.unwrap();
        first.until_closed().await;
        origin.answer_on(&mut second, UNLIMITED).await.unwrap();
    };
    let asking = async {
        let mut said = objects(&edge, 0..2).await;
        said.extend(objects(&edge, 2..3).await);
        said
    };
    let said = Box::pin(while_serving(asking, serving)).await;
    all_well(&edge, &said, 0).await;
}

#[tokio::test]
async fn a_refused_stream_goes_over_another_connection() {
    let origin = Http2Origin::start().await;
    let (edge, mut first) = before(&origin, STRICT, &[]).await;
    let serving = async {
        let [refused, kept] = requests(&mut first).await;
        first.reset(refused, REFUSED_STREAM).await.unwrap();
        let mut second = origin.accept(&[]).await;
        let [again] = requests(&mut second).await;
        second.answer(again).await.unwrap();
        first.answer(kept).await.unwrap();
        tokio::join!(first.until_closed(), second.until_closed());
    };
    let said = while_serving(objects(&edge, 0..2), serving).await;
    all_well(&edge, &said, 0).await;
}

#[tokio::test]
async fn an_origin_that_refuses_every_stream_fails_after_a_bounded_number_of_requests() {
    let origin = Http2Origin::start().await;
    // A breaker that doubts the origin would send a probe.
    let lines = "[site.origin.budget]\nretries = 0\nhedges = 0\n";
    let (edge, mut first) = before(&origin, lines, &[]).await;
    let refused = std::sync::atomic::AtomicUsize::new(0);
    let refuse = async |peer: &mut Peer| loop {
        let stream = peer.request().await;
        refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        peer.reset(stream, REFUSED_STREAM).await.unwrap();
    };
    let serving = async {
        let second = async {
            let mut second = origin.accept(&[]).await;
            refuse(&mut second).await;
        };
        tokio::join!(refuse(&mut first), second);
    };
    let said = while_serving(objects(&edge, 0..1), serving).await;
    said[0].expect(502, "origin_failed");
    assert_eq!(refused.load(std::sync::atomic::Ordering::Relaxed), 9);
}

#[tokio::test]
async fn requests_wait_for_a_server_that_permits_few_streams() {
    for permitted in [1, 3] {
        let settings = [(MAX_CONCURRENT_STREAMS, permitted)];
        let origin = Http2Origin::start().await;
        let (edge, mut first) = before(&origin, STRICT, &settings).await;
        let serving = async {
            let first = origin.answer_on(&mut first, UNLIMITED);
            let _ = tokio::join!(origin.answer(UNLIMITED, &settings), first);
        };
        let said = while_serving(objects(&edge, 0..40), serving).await;
        all_well(&edge, &said, 0).await;
        assert_eq!(origin.processed(), 40);
    }
}

#[tokio::test]
async fn a_server_may_permit_fewer_streams_later() {
    let origin = Http2Origin::start().await;
    let (edge, mut first) = before(&origin, STRICT, &[]).await;
    let serving = async {
        let [one, two, three] = requests(&mut first).await;
        // What came before the edge has read this is refused, as servers do.
        first.settings(&[(MAX_CONCURRENT_STREAMS, 1)]).await.unwrap();
        first.reset(two, REFUSED_STREAM).await.unwrap();
        first.reset(three, REFUSED_STREAM).await.unwrap();
        first.answer(one).await.unwrap();
        let first = origin.answer_on(&mut first, UNLIMITED);
        let _ = tokio::join!(origin.answer(UNLIMITED, &[]), first);
    };
    let asking = async {
        let mut said = objects(&edge, 0..3).await;
        said.extend(objects(&edge, 3..20).await);
        said
    };
    let said = Box::pin(while_serving(asking, serving)).await;
    all_well(&edge, &said, 0).await;
}

#[tokio::test]
async fn a_connection_that_dies_is_one_failure_however_many_requests_it_had() {
    const MANY: usize = 60;
    // Two failures would open the breaker, and the reserve of retries is ten.
    let lines = "[site.origin.budget]\nhedges = 0\n[site.origin.breaker]\nfailures = 2\n";
    let origin = Http2Origin::start().await;
    let (edge, mut first) = before(&origin, lines, &[]).await;
    let serving = async {
        requests::<MANY>(&mut first).await;
        drop(first);
        origin.answer(UNLIMITED, &[]).await;
    };
    let said = while_serving(objects(&edge, 0..MANY), serving).await;
    all_well(&edge, &said, 1).await;
}

#[tokio::test]
async fn a_server_that_asks_for_calm_is_asked_again_and_failed_once() {
    let lines = "[site.origin.budget]\nhedges = 0\n[site.origin.breaker]\nfailures = 2\n";
    let origin = Http2Origin::start().await;
    let (edge, mut first) = before(&origin, lines, &[]).await;
    let serving = async {
        let [processed, _, _] = requests(&mut first).await;
        first.answer(processed).await.unwrap();
        first.go_away(processed, ENHANCE_YOUR_CALM).await.unwrap();
        let closed = first.until_closed();
        tokio::join!(origin.answer(UNLIMITED, &[]), closed);
    };
    let said = while_serving(objects(&edge, 0..3), serving).await;
    all_well(&edge, &said, 1).await;
}

#[tokio::test]
async fn a_stream_that_is_reset_for_another_reason_is_an_ordinary_retry() {
    let origin = Http2Origin::start().await;
    let lines = "[site.origin.budget]\nhedges = 0\n";
    let (edge, mut first) = before(&origin, lines, &[]).await;
    let serving = async {
        let [reset] = requests(&mut first).await;
        first.reset(reset, INTERNAL_ERROR).await.unwrap();
        origin.answer_on(&mut first, UNLIMITED).await.unwrap();
    };
    let said = while_serving(objects(&edge, 0..1), serving).await;
    all_well(&edge, &said, 1).await;
}

/// A reset without an error, or a goodbye that leaves the stream out, is no end of a body that has
/// no length: its client must not take what came for the whole.
#[tokio::test]
async fn a_body_ends_with_its_stream_alone() {
    for is_reset in [true, false] {
        let origin = Http2Origin::start().await;
        let site = "kind = \"generic\"";
        let tables = [origin.table("[site.origin.budget]\nretries = 0\nhedges = 0\n")];
        let starting = Box::pin(Setup::default().site(site).start_before(&tables));
        let serving = async {
            let mut peer = origin.accept(&[]).await;
            let probe = peer.request().await;
            peer.answer(probe).await.unwrap();
            let stream = peer.request().await;
            peer.head(stream, None).await.unwrap();
            peer.data(stream, b"the first half", Stream::GoesOn).await.unwrap();
            if is_reset {
                peer.reset(stream, NO_ERROR).await.unwrap();
            } else {
                peer.go_away(stream - 2, NO_ERROR).await.unwrap();
            }
            peer.until_closed().await;
        };
        let asking = async {
            let edge = starting.await;
            edge.client().try_to_read("/page", &[]).await
        };
        let said = Box::pin(while_serving(asking, serving)).await;
        assert!(said.is_none_or(|said| said.is_cut || said.status == 502), "reset: {is_reset}");
    }
}
