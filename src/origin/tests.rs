//! Tests of the order, the retries, the deadlines and the memory of several origins.

use super::testing::{
    Act, Scripted, ask, bench, found, http_origin, origins, says, site, whole, word,
};
use super::*;
use crate::config::{Objects, OriginTurns, PathPattern};
use std::net::SocketAddr;

mod care;
mod forwards;
mod groups;

async fn fetch(origins: &Origins, path: &str) -> Result<OriginAnswer<Response>, FetchError> {
    origins.fetch(&ask(path)).await
}

/// An address that refuses connections.
async fn closed() -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

fn at(name: &str, address: SocketAddr) -> Origin {
    let url = format!("http://{address}").parse().unwrap();
    testing::origin(name, OriginUrl::Http(url))
}

#[tokio::test(start_paused = true)]
async fn absence_needs_every_origin_and_failure_hides_it() {
    for (first, second, expected, asked) in [
        (says(200, "a"), says(200, "b"), "found", (1, 0)),
        (says(404, ""), says(200, "b"), "found", (1, 1)),
        (says(404, ""), says(410, ""), "absent", (1, 1)),
        (says(503, ""), says(200, "b"), "found", (3, 1)),
        (says(503, ""), says(404, ""), "status", (3, 1)),
        (says(404, ""), says(503, ""), "status", (1, 3)),
        (says(401, ""), says(404, ""), "credentials", (1, 1)),
        (says(302, ""), says(404, ""), "protocol", (1, 1)),
        (says(429, ""), says(200, "b"), "found", (3, 1)),
    ] {
        let case = format!("{first:?} {second:?}");
        let (one, two) = (Scripted::always(first).await, Scripted::always(second).await);
        let origins = origins(vec![http_origin("one", &one), http_origin("two", &two)]);
        let answer = fetch(&origins, "/x").await;
        assert_eq!(word(&answer), expected, "{case}");
        assert_eq!((one.asked(), two.asked()), asked, "{case}");
    }
}

#[tokio::test]
async fn an_answer_names_its_origin_and_its_times() {
    let (one, two) =
        (Scripted::always(says(404, "")).await, Scripted::always(says(200, "b")).await);
    let bench = bench(&site(vec![http_origin("one", &one), http_origin("two", &two)]));
    let response = found(fetch(&bench.origins, "/x").await);
    assert_eq!((response.origin, &*response.origin_name), (1, "two"));
    assert_eq!(response.content_length, Some(1));
    assert_eq!(
        (response.request_time, response.response_time.wall),
        (bench.clock.now(), bench.clock.now())
    );
    let pinned = Ask { only: Some(0), ..ask("/x") };
    let answer = bench.origins.fetch(&pinned).await;
    assert!(matches!(answer, Ok(OriginAnswer::Absent { origin: 0, .. })));
    assert_eq!(two.asked(), 1);
    let nobody = Ask { only: Some(2), ..ask("/x") };
    assert_eq!(word(&bench.origins.fetch(&nobody).await), "protocol");
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_tried_again_twice_and_every_request_is_counted() {
    let broken = Act::RawAndClose("HTTP/1.1 200 OK\r\nconte".to_owned());
    let server = Scripted::sequence(vec![broken, says(500, ""), says(200, "good")]).await;
    let bench = bench(&site(vec![http_origin("one", &server)]));
    let response = found(fetch(&bench.origins, "/x").await);
    assert_eq!(whole(response).await, b"good");
    assert_eq!(server.asked(), 3);
    let text = bench.metrics.text().unwrap();
    for line in [
        "narthex_origin_requests_total{class=\"other\",origin=\"one\",status=\"error\"} 1",
        "narthex_origin_requests_total{class=\"other\",origin=\"one\",status=\"500\"} 1",
        "narthex_origin_requests_total{class=\"other\",origin=\"one\",status=\"200\"} 1",
        "narthex_origin_bytes_total{class=\"other\",origin=\"one\"} 4",
        "narthex_origin_first_byte_seconds_count{origin=\"one\"} 2",
        "narthex_origin_up{origin=\"one\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_is_away_is_a_failure_and_remembered() {
    let server = Scripted::always(says(404, "")).await;
    let origins = origins(vec![at("away", closed().await), http_origin("one", &server)]);
    assert!(origins.health().iter().all(|health| health.is_up));
    assert_eq!(word(&fetch(&origins, "/x").await), "connect");
    let health = origins.health();
    assert_eq!((health[0].is_up, health[1].is_up), (false, true));
    assert!(health[0].last_error.as_ref().unwrap().contains("cannot connect"));
}

#[tokio::test(start_paused = true)]
async fn no_head_within_the_deadline_is_a_timeout() {
    let server = Scripted::always(Act::Hang).await;
    let origins = origins(vec![http_origin("one", &server)]);
    let before = Instant::now();
    let error = fetch(&origins, "/x").await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    assert_eq!(server.asked(), 3);
    assert!(before.elapsed() >= Duration::from_secs(45));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_or_ends_early_is_an_error() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf";
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    for (act, is_stall) in [
        (Act::Raw(head.to_owned()), true),
        (Act::RawAndClose(head.to_owned()), false),
        (Act::RawAndClose(chunked.to_owned()), false),
    ] {
        let server = Scripted::always(act).await;
        let origins = origins(vec![http_origin("one", &server)]);
        let mut response = found(fetch(&origins, "/x").await);
        assert_eq!(response.body.chunk().await.unwrap().unwrap(), "half");
        let error = response.body.chunk().await.unwrap_err();
        assert_eq!(matches!(error, BodyError::Stalled { seconds: 10, .. }), is_stall, "{error}");
        assert!(response.body.chunk().await.unwrap().is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_held_until_the_body_is_done_with() {
    let server = Scripted::always(says(200, "body")).await;
    let mut one = http_origin("one", &server);
    one.connections_max = 1;
    let origins = origins(vec![one]);
    let held = found(fetch(&origins, "/x").await);
    let error = fetch(&origins, "/x").await.unwrap_err();
    assert!(matches!(error, FetchError::Busy { .. }), "{error}");
    assert!(origins.health()[0].is_up);
    assert_eq!(server.asked(), 1);
    assert_eq!(whole(held).await, b"body");
    let dropped = found(fetch(&origins, "/x").await);
    drop(dropped);
    found(fetch(&origins, "/x").await);
}

#[tokio::test]
async fn connections_are_used_again_but_not_after_surplus_bytes() {
    let server = Scripted::always(says(200, "body")).await;
    let pooled = origins(vec![http_origin("one", &server)]);
    for _ in 0..3 {
        assert_eq!(whole(found(fetch(&pooled, "/x").await)).await, b"body");
    }
    assert_eq!((server.asked(), server.connections()), (3, 1));

    let surplus = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbodyHTTP/1.1 200 OK\r\n\r\n";
    let server = Scripted::always(Act::Raw(surplus.to_owned())).await;
    let pooled = origins(vec![http_origin("one", &server)]);
    for _ in 0..2 {
        assert_eq!(whole(found(fetch(&pooled, "/x").await)).await, b"body");
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test(start_paused = true)]
async fn ambiguous_framing_is_settled_or_refused_and_its_connection_not_used_again() {
    let two_codings = "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n";
    for (fields, expected) in [
        ("content-length: 9\r\ntransfer-encoding: chunked\r\n", "found"),
        ("transfer-encoding: chunked\r\ncontent-length: 2\r\n", "found"),
        ("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", "found"),
        ("transfer-encoding: gzip, chunked\r\n", "protocol"),
        ("transfer-encoding: identity\r\n", "protocol"),
        (two_codings, "protocol"),
    ] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{fields}\r\n4\r\nbody\r\n0\r\n\r\n");
        let server = Scripted::always(Act::Raw(bytes)).await;
        let origins = origins(vec![http_origin("one", &server)]);
        for _ in 0..2 {
            let answer = fetch(&origins, "/x").await;
            assert_eq!(word(&answer), expected, "{fields}");
            if expected == "found" {
                assert_eq!(whole(found(answer)).await, b"body", "{fields}");
            }
        }
        assert_eq!(server.connections(), 2, "{fields}");
    }
    for fields in ["content-length: 4\r\ncontent-length: 5\r\n", "content-length: +4\r\n"] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{fields}\r\nbody");
        let server = Scripted::always(Act::Raw(bytes)).await;
        let origins = origins(vec![http_origin("one", &server)]);
        assert_eq!(word(&fetch(&origins, "/x").await), "broken", "{fields}");
    }
}

#[tokio::test(start_paused = true)]
async fn heads_beyond_the_limits_are_refused() {
    let many = "a: b\r\n".repeat(501);
    let large = format!("a: {}\r\n", "b".repeat(210_000));
    for (fields, expected) in [(many, "broken"), (large, "protocol")] {
        let bytes = format!("HTTP/1.1 200 OK\r\n{fields}content-length: 0\r\n\r\n");
        let server = Scripted::always(Act::Raw(bytes)).await;
        let origins = origins(vec![http_origin("one", &server)]);
        assert_eq!(word(&fetch(&origins, "/x").await), expected);
    }
}

#[tokio::test]
async fn the_probe_tells_what_is_wrong_before_a_client_does() {
    let good = Scripted::always(says(200, "StoreDir: /nix/store\n")).await;
    let denied = Scripted::always(testing::says_fault(403, "AccessDenied")).await;
    let origins = origins(vec![
        http_origin("good", &good),
        http_origin("denied", &denied),
        at("away", closed().await),
    ]);
    let results = origins.probe().await;
    assert!(results[0].1.is_ok());
    assert!(
        matches!(&results[1].1, Err(FetchError::Credentials { code, .. }) if code == "AccessDenied")
    );
    assert!(matches!(results[2].1, Err(FetchError::Connect { .. })));
    assert!(good.heads()[0].starts_with("GET /nix-cache-info HTTP/1.1\r\n"));
    let is_up: Vec<bool> = origins.health().iter().map(|health| health.is_up).collect();
    assert_eq!(is_up, [true, false, false]);
    // Absence by `AccessDenied` does not make up for it.
    let pinned = Ask { only: Some(1), ..ask("/x.narinfo") };
    assert_eq!(word(&origins.fetch(&pinned).await), "absent");
    assert!(!origins.health()[1].is_up);
}

#[test]
fn an_endpoint_that_is_none_is_refused() {
    for endpoint in ["ftp://host", "host:9000", "http://host/x?y", "http://a b"] {
        let mut bucket = testing::s3_origin(
            SocketAddr::from(([127, 0, 0, 1], 1)),
            crate::config::S3Credentials::Anonymous,
        );
        if let OriginUrl::S3(bucket) = &mut bucket.url {
            bucket.endpoint = Some(endpoint.to_owned());
        }
        let metrics = Metrics::new().unwrap();
        let result = Origins::new(
            &site(vec![bucket]),
            Clock::System,
            metrics,
            Tasks::new(),
            &mut Trusts::default(),
        );
        assert!(matches!(result, Err(OriginSetupError::Endpoint { .. })), "{endpoint}");
    }
}

/// Three origins that have nothing, with rules for the paths of this test.
async fn three() -> (Origins, [Scripted; 3]) {
    let paths = |text: &str| vec![Objects::Paths(PathPattern::new(text))];
    let turns = [
        OriginTurns { never_for: paths("/none*"), ..OriginTurns::default() },
        OriginTurns { only_for: paths("/a*"), ..OriginTurns::default() },
        OriginTurns {
            first_for: paths("/*z"),
            never_for: paths("/none*"),
            ..OriginTurns::default()
        },
    ];
    let mut servers = Vec::new();
    let mut all = Vec::new();
    for (turns, name) in turns.into_iter().zip(["one", "two", "three"]) {
        let server = Scripted::always(says(404, "")).await;
        all.push(Origin { turns, ..http_origin(name, &server) });
        servers.push(server);
    }
    (origins(all), <[Scripted; 3]>::try_from(servers).ok().unwrap())
}

#[tokio::test]
async fn rules_and_the_narinfos_origin_make_the_order() {
    let (origins, _servers) = three().await;
    let order = |path: &str, prefer, avoid: &[usize]| {
        let ask = Ask { prefer, avoid: avoid.to_vec(), ..ask(path) };
        let asked = order::in_order(&origins.upstreams, &ask);
        asked.into_iter().map(|upstream| upstream.position).collect::<Vec<_>>()
    };
    assert_eq!(order("/a", None, &[]), [0, 1, 2]);
    assert_eq!(order("/b", None, &[]), [0, 2]);
    assert_eq!(order("/az", None, &[]), [2, 0, 1]);
    assert_eq!(order("/a", Some(1), &[]), [1, 0, 2]);
    assert_eq!(order("/az", Some(1), &[]), [2, 1, 0]);
    assert_eq!(order("/az", Some(1), &[2, 1]), [0, 2, 1]);
    assert_eq!(order("/none", Some(1), &[]), Vec::<usize>::new());
}

#[tokio::test]
async fn what_no_origin_is_asked_for_is_nowhere() {
    let (origins, servers) = three().await;
    assert_eq!(word(&fetch(&origins, "/none").await), "absent");
    let only = Ask { only: Some(1), ..ask("/none") };
    assert_eq!(word(&origins.fetch(&only).await), "absent");
    let unknown = Ask { only: Some(3), ..ask("/a") };
    assert_eq!(word(&origins.fetch(&unknown).await), "protocol");
    assert!(servers.iter().all(|server| server.asked() == 0));
}
