//! Several origins, and origins in trouble: which is asked, how often, and what it costs.

use crate::harness::{Edge, Origin, Package, Script, Setup, says};

/// The keys of an origin with these lines behind its name.
fn table(name: &str, origin: &Origin, lines: &str) -> String {
    format!("url = \"{}\"\nname = \"{name}\"\n{lines}", origin.url())
}

/// An edge before one origin with these lines, once its self test has asked it.
async fn before(origin: &Origin, lines: &str) -> Edge {
    let edge = Setup::default().start_before(&[table("one", origin, lines)]).await;
    origin.until_asked("/nix-cache-info", 1).await;
    edge
}

/// So many narinfos, each of which the origins have.
fn narinfos(count: u64, origins: &[&Origin]) -> Vec<Package> {
    let packages: Vec<_> = (1..=count).map(|number| Package::new(number, 10)).collect();
    for package in &packages {
        for origin in origins {
            origin.say(&package.narinfo_path, says(package.narinfo()));
        }
    }
    packages
}

#[tokio::test]
async fn paths_are_shared_by_weight_and_one_that_is_gone_is_replaced() {
    let (one, two) = (Origin::start().await, Origin::start().await);
    let packages = narinfos(24, &[&one, &two]);
    let tables = [table("one", &one, "weight = 1"), table("two", &two, "weight = 1")];
    let edge = Setup::default().start_before(&tables).await;
    for package in &packages[..16] {
        edge.get(&package.narinfo_path).await.expect(200, "miss");
    }
    assert!(one.count_all() > 0 && two.count_all() > 0);
    assert_eq!(one.count_all() + two.count_all(), 16);
    one.die();
    for package in &packages[16..] {
        edge.get(&package.narinfo_path).await.expect(200, "miss");
    }
}

#[tokio::test]
async fn a_final_absence_asks_nobody_else() {
    let (one, two) = (Origin::start().await, Origin::start().await);
    let package = &narinfos(1, &[&two])[0];
    let tables = [table("one", &one, "absence = \"final\""), table("two", &two, "")];
    let edge = Setup::default().start_before(&tables).await;
    edge.get(&package.narinfo_path).await.expect(404, "absent");
    assert_eq!((one.count_all(), two.count_all()), (1, 0));
}

#[tokio::test]
async fn while_an_origin_is_left_alone_what_is_stored_serves_and_nothing_is_learnt() {
    let origin = Origin::start().await;
    let packages = narinfos(3, &[&origin]);
    let [stored, cold, absent] = [0, 1, 2].map(|at| packages[at].narinfo_path.clone());
    let lines = "[site.origin.breaker]\nfailures = 3\nopen_max = \"1s\"";
    let edge = before(&origin, lines).await;
    edge.get(&stored).await.expect(200, "miss");
    edge.pass_time(86_400);
    let trouble = || Script::status(500);
    let mended = says("StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n");
    for path in [&stored, &cold, &absent, "/nix-cache-info"] {
        origin.say(path, trouble());
    }
    edge.get(&cold).await.expect(502, "origin_failed");
    edge.until_metric("narthex_origin_breaker_state{origin=\"one\"}", 2).await;
    edge.get(&stored).await.expect(200, "hit_stale");
    edge.get(&cold).await.expect(502, "origin_failed");
    edge.get(&absent).await.expect(502, "origin_failed");
    origin.say("/nix-cache-info", mended);
    origin.say(&absent, Script::status(404));
    for package in &packages[..2] {
        origin.say(&package.narinfo_path, says(package.narinfo()));
    }
    edge.until_metric("narthex_origin_breaker_state{origin=\"one\"}", 0).await;
    edge.get(&cold).await.expect(200, "miss");
    edge.get(&absent).await.expect(404, "absent");
}

#[tokio::test]
async fn an_idle_origin_is_probed() {
    let origin = Origin::start().await;
    let _edge = before(&origin, "[site.origin.breaker]\nprobe_idle = \"10ms\"").await;
    origin.until_asked("/nix-cache-info", 4).await;
}

#[tokio::test]
async fn retries_have_a_budget() {
    for (lines, expected) in [("[site.origin.budget]\nretries = 0", 1), ("", 3)] {
        let origin = Origin::start().await;
        let path = Package::new(1, 10).narinfo_path;
        origin.say(&path, Script::status(500));
        let edge = before(&origin, lines).await;
        edge.get(&path).await.expect(502, "origin_failed");
        assert_eq!(origin.count(&path), expected);
    }
}

#[tokio::test]
async fn a_narinfo_that_does_not_come_is_asked_for_a_second_time() {
    let origin = Origin::start().await;
    let packages = narinfos(60, &[&origin]);
    let edge = before(&origin, "[site.origin.budget]\nhedges = 100").await;
    for package in &packages[1..] {
        edge.get(&package.narinfo_path).await.expect(200, "miss");
    }
    let slow = &packages[0];
    let scripts = vec![Script::hangs(), says(slow.narinfo())];
    origin.say_in_turn(&slow.narinfo_path, scripts);
    edge.get(&slow.narinfo_path).await.expect(200, "miss");
    assert_eq!(origin.count(&slow.narinfo_path), 2);
    let won = edge.metric("narthex_origin_hedges_total{event=\"won\",origin=\"one\"}").await;
    assert!(won >= 1, "{won}");
}

#[tokio::test]
async fn a_throttle_with_a_time_to_come_back_is_heeded() {
    let (one, two) = (Origin::start().await, Origin::start().await);
    let packages = narinfos(5, &[&two]);
    let throttled = Script::status(429).field("retry-after", "60");
    for package in &packages {
        one.say(&package.narinfo_path, throttled.clone());
    }
    let tables = [table("one", &one, ""), table("two", &two, "")];
    let edge = Setup::default().start_before(&tables).await;
    for package in &packages {
        edge.get(&package.narinfo_path).await.expect(200, "miss");
    }
    assert_eq!((one.count_all(), two.count_all()), (1, 5));
    assert_eq!(edge.metric("narthex_origin_throttled_total{origin=\"one\"}").await, 1);
}

#[tokio::test]
async fn the_bill_counts_what_left_and_what_came_at_the_prices_given() {
    let origin = Origin::start().await;
    let package = &narinfos(1, &[&origin])[0];
    let lines = "[site.origin.prices]\nthousand_gets = 2000\nthousand_heads = 7000.0\ngib = 0.09";
    let edge = before(&origin, lines).await;
    let missing = Package::new(2, 10).narinfo_path;
    let bill = "narthex_origin_cost_total{origin=\"one\",part=\"requests\"}";
    edge.until_metric(bill, 2).await;
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge.get(&package.narinfo_path).await.expect(200, "hit_memory");
    edge.until_metric(bill, 4).await;
    edge.client().head(&missing).await.expect(404, "absent");
    let by_reason = "narthex_origin_requests_by_reason_total{class=\"narinfo\",";
    let gets = format!("{by_reason}method=\"get\",origin=\"one\",reason=\"miss\"}}");
    let heads = format!("{by_reason}method=\"head\",origin=\"one\",reason=\"miss\"}}");
    let (gets, heads) = (edge.metric(&gets).await, edge.metric(&heads).await);
    assert_eq!(edge.metric(bill).await, 2 + 2 * gets + 7 * heads);
}
