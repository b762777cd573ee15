//! Tests of what spares an origin and its clients: breaker, pace, budgets, hedges, and the bill.

use super::*;
use crate::nix::Class;
use std::sync::atomic::{AtomicBool, Ordering};

fn narinfo(path: &str) -> Ask {
    Ask { class: Class::Narinfo, ..ask(path) }
}

/// A server that does `act` until it is mended, then answers 200.
async fn mendable(act: Act) -> (Scripted, Arc<AtomicBool>) {
    let is_mended = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&is_mended);
    let answer = move |_: &str| {
        if seen.load(Ordering::Relaxed) { says(200, "good") } else { act.clone() }
    };
    (Scripted::start(answer).await, is_mended)
}

#[tokio::test(start_paused = true)]
async fn a_dead_origin_costs_one_client_its_deadlines_and_comes_back_by_itself() {
    let (server, is_mended) = mendable(Act::Hang).await;
    let bench = bench(&site(vec![http_origin("one", &server)]));
    assert_eq!(word(&fetch(&bench.origins, "/x").await), "first byte");
    let asked = server.asked();
    let before = Instant::now();
    for _ in 0..100 {
        let error = fetch(&bench.origins, "/x").await.unwrap_err();
        assert!(error.to_string().contains("no answer within 15 s"), "{error}");
        assert!(matches!(error, FetchError::Open { .. }) && !error.is_timeout());
    }
    assert_eq!((before.elapsed(), server.asked()), (Duration::ZERO, asked));
    assert!(!bench.origins.health()[0].is_up);
    let recovered = bench.origins.recovered();
    is_mended.store(true, Ordering::Relaxed);
    recovered.await;
    assert!(server.heads().last().unwrap().starts_with("GET /nix-cache-info "));
    assert_eq!(whole(found(fetch(&bench.origins, "/x").await)).await, b"good");
    let text = bench.metrics.text().unwrap();
    for line in [
        "narthex_origin_breaker_state{origin=\"one\"} 0",
        "narthex_origin_breaker_transitions_total{origin=\"one\",to=\"closed\"} 1",
        "narthex_origin_requests_held_total{origin=\"one\",reason=\"open\"} 100",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_is_left_alone_is_passed_by_and_never_an_absence() {
    let (dead, good) = (Scripted::always(Act::Hang).await, Scripted::always(says(404, "")).await);
    let origins = origins(vec![http_origin("dead", &dead), http_origin("good", &good)]);
    assert_eq!(word(&fetch(&origins, "/x").await), "first byte");
    let (before, asked) = (Instant::now(), dead.asked());
    assert_eq!(word(&fetch(&origins, "/x").await), "open");
    assert_eq!((before.elapsed(), dead.asked(), good.asked()), (Duration::ZERO, asked, 2));
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_comes_back_is_found_within_two_seconds_where_somebody_wants_it() {
    let (server, is_mended) = mendable(Act::RawAndClose(String::new())).await;
    let bench = bench(&site(vec![http_origin("one", &server)]));
    for _ in 0..10 {
        assert!(fetch(&bench.origins, "/x").await.is_err());
    }
    tokio::time::sleep(Duration::from_hours(1)).await;
    let asked = server.asked();
    for _ in 0..600 {
        assert_eq!(word(&fetch(&bench.origins, "/x").await), "open");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // One in half a second to a second, beside the time that each takes.
    let probes = server.asked() - asked;
    assert!((50..=120).contains(&probes), "{probes} in a minute");
    is_mended.store(true, Ordering::Relaxed);
    let mut waited = 0;
    while fetch(&bench.origins, "/x").await.is_err() && waited < 20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        waited += 1;
    }
    assert!(waited < 20);
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_fails_for_some_objects_alone_is_not_left_alone() {
    let script = |head: &str| {
        if head.contains("/bad") { Act::RawAndClose(String::new()) } else { says(200, "good") }
    };
    let server = Scripted::start(script).await;
    let bench = bench(&site(vec![http_origin("one", &server)]));
    let bad: Vec<_> = (0..6).map(|number| format!("/bad/{number}")).collect();
    let failures = join_all(bad.iter().map(|path| fetch(&bench.origins, path))).await;
    assert!(failures.iter().all(|failure| word(failure) != "open"), "{failures:?}");
    assert_eq!(whole(found(fetch(&bench.origins, "/x").await)).await, b"good");
    let probes =
        server.heads().iter().filter(|head| head.starts_with("GET /nix-cache-info ")).count();
    assert_eq!(probes, 1);
    let text = bench.metrics.text().unwrap();
    assert!(!text.contains("narthex_origin_breaker_transitions_total{"), "{text}");
}

#[tokio::test(start_paused = true)]
async fn an_origin_whose_tasks_end_is_probed_no_more() {
    let server = Scripted::always(Act::Hang).await;
    let origins = origins(vec![http_origin("one", &server)]);
    assert_eq!(word(&fetch(&origins, "/x").await), "first byte");
    drop(origins);
    let asked = server.asked();
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert!(server.asked() <= asked + 1, "{} probes", server.asked() - asked);
}

#[tokio::test(start_paused = true)]
async fn an_idle_origin_is_probed_where_that_is_wanted() {
    for (probe_idle, expected) in [(30, 4..=6), (0, 1..=1)] {
        let server = Scripted::always(says(200, "")).await;
        let mut origin = http_origin("one", &server);
        origin.breaker.probe_idle = Duration::from_secs(probe_idle);
        let origins = origins(vec![origin]);
        assert!(origins.probe().await[0].1.is_ok());
        tokio::time::sleep(Duration::from_secs(150)).await;
        assert!(expected.contains(&server.asked()), "{probe_idle}: {}", server.asked());
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_not_multiplied() {
    let server = Scripted::always(says(500, "")).await;
    let mut origin = http_origin("one", &server);
    origin.breaker.failures = 0;
    let bench = bench(&site(vec![origin]));
    for _ in 0..50 {
        assert_eq!(word(&fetch(&bench.origins, "/x").await), "status");
    }
    // Fifty, the reserve of ten, a fifth of fifty, and what came back to the reserve meanwhile.
    assert!((69..=74).contains(&server.asked()), "{}", server.asked());
    let text = bench.metrics.text().unwrap();
    assert!(text.contains("narthex_origin_retries_total{origin=\"one\",result=\"refused\"}"));
    assert!(text.contains("narthex_origin_retries_total{origin=\"one\",result=\"spent\"}"));
}

#[tokio::test(start_paused = true)]
async fn retry_after_keeps_every_request_back_and_another_origin_serves() {
    for status in [429, 503] {
        let wait = vec![("retry-after", "30".to_owned())];
        let busy = Scripted::sequence(vec![Act::Answer(status, wait, ""), says(200, "one")]).await;
        let other = Scripted::always(says(200, "two")).await;
        let origins = origins(vec![http_origin("one", &busy), http_origin("two", &other)]);
        for _ in 0..5 {
            assert_eq!(whole(found(fetch(&origins, "/x").await)).await, b"two", "{status}");
        }
        assert_eq!(busy.asked(), 1, "{status}");
        let pinned = Ask { only: Some(0), ..ask("/x") };
        let error = origins.fetch(&pinned).await.unwrap_err();
        assert!(matches!(error, FetchError::Throttled { seconds: 30.., .. }), "{error}");
        tokio::time::sleep(Duration::from_secs(30)).await;
        assert_eq!(whole(found(fetch(&origins, "/x").await)).await, b"one", "{status}");
    }
}

/// Fast answers, but the first request for a path with `slow` in it is never answered.
async fn slow_at_first() -> Scripted {
    let mut is_first = true;
    Scripted::start(move |head| {
        let is_slow = head.contains("slow") && std::mem::replace(&mut is_first, false);
        if is_slow { Act::Hang } else { says(200, "good") }
    })
    .await
}

async fn warm(origins: &Origins) {
    for number in 0..60 {
        found(origins.fetch(&narinfo(&format!("/{number}.narinfo"))).await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_narinfo_is_asked_for_again_and_nothing_else_is() {
    let server = slow_at_first().await;
    let bench = bench(&site(vec![http_origin("one", &server)]));
    warm(&bench.origins).await;
    assert_eq!(server.asked(), 60);
    let before = Instant::now();
    found(bench.origins.fetch(&narinfo("/slow.narinfo")).await);
    assert!(before.elapsed() < Duration::from_secs(1));
    assert_eq!(server.asked(), 62);
    let text = bench.metrics.text().unwrap();
    for line in [
        "narthex_origin_hedges_total{event=\"begun\",origin=\"one\"} 1",
        "narthex_origin_hedges_total{event=\"won\",origin=\"one\"} 1",
        "narthex_origin_requests_total{class=\"narinfo\",origin=\"one\",status=\"dropped\"} 1",
        "narthex_origin_requests_by_reason_total{class=\"narinfo\",method=\"get\",origin=\"one\",\
         reason=\"hedge\"} 1",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }

    let server = slow_at_first().await;
    let origins = origins(vec![http_origin("one", &server)]);
    warm(&origins).await;
    let nar = Ask { class: Class::Nar, ..ask("/nar/slow") };
    found(origins.fetch(&nar).await);
    assert!(before.elapsed() > Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn a_hedge_goes_to_another_of_the_same_priority_whose_absence_is_no_answer() {
    for (second, expected) in [(says(200, "two"), "found"), (says(404, ""), "first byte")] {
        let one = Scripted::start(
            |head| {
                if head.contains("slow") { Act::Hang } else { says(200, "one") }
            },
        )
        .await;
        let two = Scripted::always(second).await;
        let origins = origins(vec![http_origin("one", &one), http_origin("two", &two)]);
        warm(&origins).await;
        assert_eq!(two.asked(), 0);
        let answer = origins.fetch(&narinfo("/slow.narinfo")).await;
        assert_eq!(word(&answer), expected);
        assert_eq!(two.asked(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_budget_nothing_is_asked_twice() {
    let server = slow_at_first().await;
    let mut origin = http_origin("one", &server);
    origin.budget = crate::config::BudgetSettings { retries_percent: 0, hedges_percent: 0 };
    let origins = origins(vec![origin]);
    warm(&origins).await;
    let answer = origins.fetch(&narinfo("/slow.narinfo")).await;
    assert_eq!((word(&answer), server.asked()), ("first byte", 61));
}

#[tokio::test]
async fn the_bill_is_what_requests_and_bytes_cost() {
    let server = Scripted::always(says(200, "0123456789abcdef")).await;
    let mut origin = http_origin("one", &server);
    origin.prices = crate::config::Prices {
        thousand_gets: 400_000_000_000,
        thousand_heads: 200_000_000_000,
        gib: 1_073_741_824 * 1_000_000_000,
    };
    let bench = bench(&site(vec![origin]));
    for _ in 0..5 {
        whole(found(fetch(&bench.origins, "/x").await)).await;
    }
    found(bench.origins.fetch(&testing::head("/x")).await);
    let text = bench.metrics.text().unwrap();
    let cost = |part: &str| -> f64 {
        let name = format!("narthex_origin_cost_total{{origin=\"one\",part=\"{part}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).unwrap().parse().unwrap()
    };
    assert!((cost("requests") - 2.2).abs() < 1e-6);
    assert!((cost("bytes") - 80.0).abs() < 1e-6);
}

/// FAULTS.md G16i.
#[tokio::test]
async fn a_page_of_an_absence_that_is_not_wanted_costs_no_connection() {
    let page = |bytes: usize| -> &'static str { String::leak("x".repeat(bytes)) };
    let server = Scripted::always(says(404, page(200_000))).await;
    let pooled = origins(vec![http_origin("one", &server)]);
    // It is read beside, so that the next request may come too early for it.
    while server.connections() == server.asked() {
        assert!(server.asked() < 200, "no connection was used again");
        assert_eq!(word(&fetch(&pooled, "/x").await), "absent");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let server = Scripted::always(says(404, page(1_000_000))).await;
    let pooled = origins(vec![http_origin("one", &server)]);
    for _ in 0..5 {
        assert_eq!(word(&fetch(&pooled, "/x").await), "absent");
    }
    assert_eq!((server.asked(), server.connections()), (5, 5));
}

/// An origin that may not be retried; its first failure opens its breaker.
fn strict(server: &Scripted) -> Origin {
    let mut origin = http_origin("one", server);
    origin.budget.retries_percent = 0;
    origin.breaker.failures = 1;
    origin
}

#[tokio::test]
async fn a_kept_connection_that_ends_in_place_of_an_answer_costs_nothing() {
    let closes = || Act::RawAndClose(String::new());
    let acts = vec![says(200, "one"), closes(), says(200, "two"), closes(), closes()];
    let server = Scripted::sequence(acts).await;
    let bench = bench(&site(vec![strict(&server)]));
    assert_eq!(whole(found(fetch(&bench.origins, "/one").await)).await, b"one");
    assert_eq!(whole(found(fetch(&bench.origins, "/two").await)).await, b"two");
    let text = bench.metrics.text().unwrap();
    for line in [
        "narthex_origin_resends_total{origin=\"one\"} 1",
        "narthex_origin_breaker_state{origin=\"one\"} 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    // A second end, on a new connection, is a failure.
    assert_eq!(word(&fetch(&bench.origins, "/three").await), "broken");
    assert_eq!((server.asked(), server.connections()), (5, 3));
}

#[tokio::test]
async fn answers_that_close_their_connection_cost_nothing() {
    let close = vec![("connection", "close".to_owned())];
    let server = Scripted::always(Act::Answer(200, close, "good")).await;
    let origins = origins(vec![strict(&server)]);
    let paths: Vec<_> = (0..40).map(|number| format!("/{number}")).collect();
    for some in paths.chunks(10) {
        for answer in join_all(some.iter().map(|path| fetch(&origins, path))).await {
            assert_eq!(whole(found(answer)).await, b"good");
        }
    }
    assert_eq!((server.asked(), server.connections()), (40, 40));
}

/// UPSTREAMS.md row 6.
#[tokio::test(start_paused = true)]
async fn the_next_origin_stands_in_for_one_that_says_nothing() {
    let (one, two) = (Scripted::always(Act::Hang).await, Scripted::always(says(200, "b")).await);
    let origins = origins(vec![http_origin("one", &one), http_origin("two", &two)]);
    let took = async || {
        let before = Instant::now();
        assert_eq!(found(origins.fetch(&narinfo("/x.narinfo")).await).origin, 1);
        before.elapsed()
    };
    assert!(took().await < Duration::from_secs(1));
    assert_eq!((one.asked(), two.asked()), (1, 1));
    for _ in 0..20 {
        assert!(took().await < Duration::from_millis(10));
    }
    assert_eq!(one.asked(), 1, "it is asked after the other");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(took().await < Duration::from_millis(10));
    assert_eq!(one.asked(), 2, "one probe at a time finds out whether it is back");
}

#[tokio::test(start_paused = true)]
async fn an_origin_that_answers_again_is_asked_first_again() {
    let one = Scripted::sequence(vec![Act::Hang, says(200, "a")]).await;
    let two = Scripted::always(says(200, "b")).await;
    let origins = origins(vec![http_origin("one", &one), http_origin("two", &two)]);
    let origin = async || found(origins.fetch(&narinfo("/x.narinfo")).await).origin;
    assert_eq!((origin().await, origin().await), (1, 1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(origin().await, 0);
}

#[tokio::test(start_paused = true)]
async fn the_absence_of_a_stand_in_is_no_answer() {
    let slow = Act::After(Duration::from_secs(3), 200, "a");
    let (one, two) = (Scripted::always(slow).await, Scripted::always(says(404, "")).await);
    let origins = origins(vec![http_origin("one", &one), http_origin("two", &two)]);
    assert_eq!(found(origins.fetch(&narinfo("/x.narinfo")).await).origin, 0);
    assert_eq!((one.asked(), two.asked()), (1, 1));
}

/// A large object may have to be made first.
#[tokio::test(start_paused = true)]
async fn an_origin_that_is_slow_with_a_large_object_is_not_silent() {
    let slow = Act::After(Duration::from_secs(8), 200, "a");
    let (one, two) = (Scripted::always(slow).await, Scripted::always(says(200, "b")).await);
    let origins = origins(vec![http_origin("one", &one), http_origin("two", &two)]);
    let nar = Ask { class: Class::Nar, ..ask("/nar/x") };
    let before = Instant::now();
    assert_eq!(found(origins.fetch(&nar).await).origin, 1);
    assert!(before.elapsed() >= Duration::from_secs(5));
    found(origins.fetch(&nar).await);
    assert_eq!(one.asked(), 2, "it is still asked first");
}
