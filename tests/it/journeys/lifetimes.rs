//! How long objects of a binary cache stay fresh if the site says so for some paths or classes:
//! each key of `[site.lifetimes]` and its rules.

use crate::harness::{Edge, Origin, Package, Script, Setup, says};

/// The path of a log of this name.
fn log(name: &str) -> String {
    format!("/log/0c5x60p6h2p6jvqqs4x8rcwh3pg9z1nv-{name}.drv")
}

async fn edge_with(origin: &Origin, lifetimes: &str) -> Edge {
    Setup::default().site(&format!("[site.lifetimes]\n{lifetimes}")).start(&[origin]).await
}

#[tokio::test]
async fn a_rule_is_for_its_paths_and_classes_and_the_first_counts() {
    let origin = Origin::start().await;
    let rules = "log = \"100s\"\n\
                 [[site.lifetimes.rule]]\npaths = [\"/log/*-short*\"]\nfresh = \"10s\"\n\
                 [[site.lifetimes.rule]]\nclasses = [\"listing\", \"log\"]\npaths = [\"*long*\"]\n\
                 fresh = \"1000s\"\n\
                 [[site.lifetimes.rule]]\nclasses = [\"narinfo\"]\nfresh = \"50s\"";
    let edge = edge_with(&origin, rules).await;
    let package = Package::new(1, 10);
    let narinfo = &package.narinfo_path;
    origin.say(narinfo, says(package.narinfo()));
    let logs = ["short-long", "usual", "long"].map(log);
    for path in &logs {
        origin.say(path, says("log"));
    }
    let paths = [&logs[0], narinfo, &logs[1], &logs[2]];
    for path in paths {
        edge.get(path).await.expect(200, "miss");
    }
    let fresh_until = [10, 50, 100, 1_000];
    let mut now = 0;
    for (at, until) in fresh_until.into_iter().enumerate() {
        edge.pass_time(until - 1 - now);
        now = until - 1;
        edge.get(paths[at]).await.expect(200, "hit_memory");
        edge.pass_time(1);
        now += 1;
        edge.get(paths[at]).await.expect(200, "miss");
    }
    assert_eq!(origin.count(paths[3]), 2);
}

#[tokio::test]
async fn an_origin_shortens_a_lifetime_to_the_least_and_never_lengthens_it() {
    let origin = Origin::start().await;
    let lifetimes = "fresh_min = \"20s\"\nlog = \"100s\"\n\
                     [[site.lifetimes.rule]]\npaths = [\"/log/*-least*\"]\nfresh_min = \"60s\"";
    let edge = edge_with(&origin, lifetimes).await;
    for (name, control, fresh_for) in [
        ("a", "max-age=5", 20),
        ("b", "max-age=50", 50),
        ("c", "max-age=5000", 100),
        ("least-a", "max-age=5", 60),
        ("least-b", "max-age=5000", 100),
    ] {
        let path = &log(name);
        origin.say(path, says("log").field("cache-control", control));
        edge.get(path).await.expect(200, "miss");
        edge.pass_time(fresh_for - 1);
        edge.get(path).await.expect(200, "hit_memory");
        edge.pass_time(1);
        edge.get(path).await.expect(200, "miss");
    }
    origin.say(&log("d"), says("log").field("cache-control", "no-cache"));
    for _ in 0..2 {
        edge.get(&log("d")).await.expect(200, "miss");
    }
}

#[tokio::test]
async fn an_absence_is_remembered_as_the_rule_says() {
    let origin = Origin::start().await;
    let lifetimes = "absent = \"10s\"\n\
                     [[site.lifetimes.rule]]\nclasses = [\"log\"]\nabsent = \"0s\"\n\
                     [[site.lifetimes.rule]]\npaths = [\"*.narinfo\"]\nabsent = \"30s\"";
    let edge = edge_with(&origin, lifetimes).await;
    let narinfo = Package::new(2, 10).narinfo_path;
    edge.get(&narinfo).await.expect(404, "absent");
    edge.pass_time(29);
    edge.get(&narinfo).await.expect(404, "hit_absent");
    edge.pass_time(1);
    edge.get(&narinfo).await.expect(404, "absent");
    for _ in 0..2 {
        edge.get(&log("none")).await.expect(404, "absent");
    }
}

#[tokio::test]
async fn what_is_stale_serves_while_it_is_confirmed() {
    let origin = Origin::start().await;
    let lifetimes = "log = \"100s\"\nstale_while_revalidate = \"50s\"\nstale_if_error = \"0s\"\n\
                     [[site.lifetimes.rule]]\npaths = [\"/log/*-never*\"]\n\
                     stale_while_revalidate = \"0s\"";
    let edge = edge_with(&origin, lifetimes).await;
    let (a, b, never) = (&log("a"), &log("b"), &log("never"));
    for path in [a, never] {
        origin.say(path, says("old").etag("\"old\""));
        edge.get(path).await.expect(200, "miss");
    }
    edge.pass_time(149);
    origin.say(a, says("new").etag("\"new\""));
    edge.get(a).await.expect(200, "hit_stale").with(b"old");
    edge.until_idle().await;
    edge.get(a).await.expect(200, "hit_memory").with(b"new");
    assert_eq!(origin.asked(a)[1].field("if-none-match"), Some("\"old\""));
    edge.get(never).await.expect(200, "revalidated").with(b"old");
    edge.pass_time(150);
    edge.get(a).await.expect(200, "revalidated").with(b"new");
    // What was purged softly is confirmed first, and so is what its origin wants confirmed.
    edge.purge(&format!("{{\"path\": \"{a}\", \"soft\": true}}")).await;
    edge.get(a).await.expect(200, "revalidated");
    origin.say(b, says("old").etag("\"b\"").field("cache-control", "must-revalidate"));
    edge.get(b).await.expect(200, "miss");
    edge.pass_time(101);
    edge.get(b).await.expect(200, "revalidated");
    assert_eq!(origin.count(b), 2);
}

#[tokio::test]
async fn an_outage_is_bridged_as_long_as_the_rule_says() {
    let origin = Origin::start().await;
    let lifetimes = "log = \"100s\"\nstale_if_error = \"50s\"\n\
                     [[site.lifetimes.rule]]\npaths = [\"*-long*\"]\nstale_if_error = \"500s\"";
    let edge = edge_with(&origin, lifetimes).await;
    let (a, long) = (&log("a"), &log("long"));
    for path in [a, long] {
        origin.say(path, says("log"));
        edge.get(path).await.expect(200, "miss");
        origin.say(path, Script::status(500));
    }
    edge.pass_time(149);
    for path in [a, long] {
        edge.get(path).await.expect(200, "hit_stale");
    }
    edge.pass_time(1);
    edge.get(a).await.expect(502, "origin_failed");
    edge.get(long).await.expect(200, "hit_stale");
}
