//! Tests of what becomes of clients' requests: with bodies, with credentials, and of probes of
//! generic sites.

use super::*;
use crate::client::{BoxError, OutboundBody, UploadError};
use crate::config::{S3Credentials, Site};
use ::http::{HeaderValue, Method, header};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use std::sync::atomic::{AtomicBool, Ordering};
use testing::{Bench, s3_origin, says_fault};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

type Piece = Result<Frame<Bytes>, BoxError>;

/// The origins of a generic site.
fn generic(origins: Vec<Origin>) -> Bench {
    bench(&Site { caching: Some(Arc::default()), ..site(origins) })
}

fn get(path: &str) -> ForwardRequest {
    ForwardRequest { method: Method::GET, retries: Retries::Usual, ..ForwardRequest::probe(path) }
}

/// A write with a body of which one byte comes, and then what `then` gives.
fn put(path: &str, then: impl Stream<Item = Piece> + Send + 'static) -> ForwardRequest {
    let first: Piece = Ok(Frame::data(Bytes::from_static(b"x")));
    let pieces = stream::once(async { first }).chain(then);
    let content: OutboundBody = OutboundBody::new(StreamBody::new(pieces));
    let body = Some(ClientBody { client: Asker::default(), content });
    ForwardRequest { method: Method::PUT, body, ..get(path) }
}

/// The same from this client.
fn put_of(
    last: u8,
    path: &str,
    then: impl Stream<Item = Piece> + Send + 'static,
) -> ForwardRequest {
    let forward = put(path, then);
    let client = Asker::at([192, 0, 2, last].into());
    ForwardRequest { body: forward.body.map(|body| ClientBody { client, ..body }), ..forward }
}

/// A client that sends 1.5 kB a second, without end.
fn trickling() -> impl Stream<Item = Piece> + Send {
    stream::repeat(()).then(|()| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(Frame::data(Bytes::from_static(&[b'x'; 1_500])))
    })
}

/// A client that goes away after more than a second.
fn aborted() -> impl Stream<Item = Piece> + Send {
    stream::once(async {
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        Err("gone".into())
    })
}

/// FAULTS.md G1.
#[tokio::test(start_paused = true)]
async fn an_upload_never_tests_an_origin_that_is_left_alone() {
    let is_mended = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_mended);
    // Its root fails for good, so that no probe tells that it is back.
    let server = Scripted::start(move |head| {
        let is_good = seen.load(Ordering::Relaxed) && !head.starts_with("HEAD / ");
        if is_good { says(200, "good") } else { Act::RawAndClose(String::new()) }
    })
    .await;
    let origins = generic(vec![http_origin("one", &server)]).origins;
    for _ in 0..40 {
        assert!(origins.forward(get("/x")).await.is_err());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let left_alone = origins.forward(get("/x")).await;
    assert!(matches!(left_alone, Err(FetchError::Open { .. })), "{left_alone:?}");
    tokio::time::sleep(Duration::from_hours(1)).await;
    is_mended.store(true, Ordering::Relaxed);
    for _ in 0..20 {
        let uploaded = origins.forward(put("/x", stream::pending())).await;
        assert!(matches!(uploaded, Err(FetchError::Open { .. })), "{uploaded:?}");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let mut tries = 0;
    while origins.forward(get("/x")).await.is_err() {
        tries += 1;
        assert!(tries < 40);
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(server.heads().iter().all(|head| !head.starts_with("PUT ")));
}

/// FAULTS.md G1.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_finish_its_upload_is_no_failure_of_the_origin() {
    let server =
        Scripted::start(
            |head| {
                if head.starts_with("PUT ") { Act::Hang } else { says(200, "good") }
            },
        )
        .await;
    let bench = generic(vec![http_origin("one", &server)]);
    for _ in 0..6 {
        let broken = bench.origins.forward(put("/x", aborted())).await.unwrap_err();
        assert_eq!(broken.upload(), Some(UploadError::Broken), "{broken}");
        assert!(broken.may_have_reached() && !broken.may_retry() && !broken.is_timeout());
        let stalled = bench.origins.forward(put("/x", stream::pending())).await.unwrap_err();
        assert_eq!(stalled.upload(), Some(UploadError::Slow), "{stalled}");
        assert!(stalled.may_have_reached() && !stalled.may_retry() && !stalled.is_timeout());
    }
    assert!(bench.origins.health()[0].is_up);
    assert_eq!(bench.origins.forward(get("/x")).await.unwrap().status, 200);
    let text = bench.metrics.text().unwrap();
    assert!(text.contains("narthex_origin_breaker_state{origin=\"one\"} 0"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn slow_uploads_keep_those_of_other_clients_from_no_origin() {
    let server =
        Scripted::start(
            |head| {
                if head.starts_with("PUT /slow") { Act::Hang } else { says(200, "good") }
            },
        )
        .await;
    let origin = Origin { connections_max: 16, ..http_origin("one", &server) };
    let bench = generic(vec![origin]);
    let slow: Vec<_> = [1, 1, 1, 2, 2, 2, 3, 3]
        .into_iter()
        .map(|client| {
            let origins = bench.origins.clone();
            tokio::spawn(async move { origins.forward(put_of(client, "/slow", trickling())).await })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(server.asked(), 8);
    let put = bench.origins.forward(put_of(4, "/x", stream::empty())).await;
    assert_eq!(put.unwrap().status, 200);
    let mut ended = slow.into_iter().filter(tokio::task::JoinHandle::is_finished);
    let slow = ended.next().unwrap().await.unwrap();
    let error = slow.as_ref().err().and_then(FetchError::upload);
    assert!(error == Some(UploadError::Slow) && ended.next().is_none(), "{slow:?}");
    assert!(bench.origins.health()[0].is_up);
}

/// A server that closes the connections of writes after two seconds, and answers all else.
async fn closing_late() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = [0; 4_096];
                let read = stream.read(&mut head).await.unwrap();
                if head[..read].starts_with(b"PUT ") {
                    return tokio::time::sleep(Duration::from_secs(2)).await;
                }
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                stream.write_all(answer).await.unwrap();
            });
        }
    });
    address
}

/// FAULTS.md G1.
#[tokio::test(start_paused = true)]
async fn a_few_writes_that_break_off_late_do_not_open_the_breaker() {
    let origins = generic(vec![at("one", closing_late().await)]).origins;
    for _ in 0..8 {
        let broken = origins.forward(put("/x", stream::empty())).await;
        assert!(matches!(broken, Err(FetchError::Broken { .. })), "{broken:?}");
    }
    assert_eq!(origins.forward(get("/x")).await.unwrap().status, 200);
}

/// FAULTS.md G19a.
#[tokio::test]
async fn credentials_go_to_no_fallback_although_it_alone_is_asked() {
    let (one, two) =
        (Scripted::always(says(200, "a")).await, Scripted::always(says(200, "a")).await);
    let fallback = Origin { priority: 2, ..http_origin("two", &two) };
    let origins = generic(vec![http_origin("one", &one), fallback]).origins;
    let fields = [
        (header::AUTHORIZATION, HeaderValue::from_static("Bearer secret")),
        (header::COOKIE, HeaderValue::from_static("a=b")),
        (header::RANGE, HeaderValue::from_static("bytes=1-")),
    ];
    for only in [0, 1] {
        let headers = HeaderMap::from_iter(fields.clone());
        let asked = ForwardRequest { only: Some(only), headers, ..get("/x") };
        assert_eq!(origins.forward(asked).await.unwrap().origin, only);
    }
    let heads = [one.heads(), two.heads()].concat();
    for (head, has_any) in heads.iter().zip([true, false]) {
        for secret in ["authorization: Bearer secret\r\n", "cookie: a=b\r\n"] {
            assert_eq!(head.contains(secret), has_any, "{head}");
        }
        assert!(head.contains("range: bytes=1-\r\n"), "{head}");
    }
}

/// FAULTS.md G1.
#[tokio::test]
async fn a_bucket_of_a_generic_site_that_may_not_be_listed_is_there() {
    let server = Scripted::always(says_fault(403, "AccessDenied")).await;
    let bucket = || vec![s3_origin(server.address, S3Credentials::Anonymous)];
    let lists = generic(bucket()).origins;
    assert!(lists.probe().await[0].1.is_ok());
    assert!(lists.health()[0].is_up);
    let binary_cache = origins(bucket());
    assert!(binary_cache.probe().await[0].1.is_err());
}

/// FAULTS.md G20a.
#[tokio::test]
async fn a_write_that_may_be_repeated_is_sent_again_if_a_kept_connection_ends_instead() {
    for (method, times) in [(Method::PUT, 2), (Method::DELETE, 2), (Method::POST, 1)] {
        let acts = vec![says(200, "one"), Act::RawAndClose(String::new()), says(200, "two")];
        let server = Scripted::sequence(acts).await;
        let origins = generic(vec![http_origin("one", &server)]).origins;
        assert_eq!(whole(origins.forward(get("/x")).await.unwrap()).await, b"one");
        let asked = ForwardRequest { method: method.clone(), ..get("/x") };
        assert_eq!(origins.forward(asked).await.is_ok(), times == 2, "{method}");
        let line = format!("{method} /x ");
        let heads = server.heads();
        assert_eq!(heads.iter().filter(|head| head.starts_with(&line)).count(), times, "{method}");
    }
}
