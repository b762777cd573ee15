//! Purges by the names that an origin gives its responses in `Surrogate-Key`: all that have the
//! name and nothing else, in memory and on disk, in every state of a fill.

use crate::harness::{Edge, Gate, Origin, Package, Script, Setup, noise, path_of_nar, says};

const SMALL: usize = 1_000;
const LARGE: usize = 200_000;

fn tagged(seed: u64, size: usize, tags: &str) -> Script {
    says(noise(seed, size)).field("cache-control", "max-age=600").field("surrogate-key", tags)
}

fn purge_of(tag: &str, more: &str) -> String {
    format!("{{\"key\": \"{tag}\"{more}}}")
}

const SOFT: &str = ", \"soft\": true";

async fn edge(origin: &Origin, disk_size: &str) -> Edge {
    Setup::default().site("kind = \"generic\"").disk_size(disk_size).start(&[origin]).await
}

/// The number of objects that a purge says.
async fn purged(edge: &Edge, request: &str) -> u64 {
    let said = edge.purge(request).await;
    assert_eq!(said.status, 200, "{request} {said:?}");
    let value: serde_json::Value = serde_json::from_str(said.text()).unwrap();
    value["purged"].as_u64().unwrap()
}

/// Four objects, two of them large: `a` and `b` have "x", `c` and `d` have not.
async fn four(origin: &Origin, edge: &Edge) {
    origin.say("/a", tagged(1, SMALL, "x y").etag("\"a\""));
    origin.say("/b", tagged(2, LARGE, "z, x").etag("\"b\""));
    origin.say("/c", tagged(3, SMALL, "xx y z").etag("\"c\""));
    origin.say("/d", says(noise(4, LARGE)).field("cache-control", "max-age=600"));
    for path in ["/a", "/b", "/c", "/d"] {
        let said = edge.get(path).await;
        // What is large is kept only if there is a disk.
        let outcome = if edge.has_disk() || path == "/a" || path == "/c" { "miss" } else { "pass" };
        assert!(!said.expect(200, outcome).headers.contains_key("surrogate-key"));
    }
    edge.until_idle().await;
}

#[tokio::test]
async fn all_that_has_the_name_goes_and_nothing_else() {
    let origin = Origin::start().await;
    let mut edge = edge(&origin, "256MiB").await;
    four(&origin, &edge).await;
    assert_eq!(purged(&edge, &purge_of("nobody", "")).await, 0);
    assert_eq!(purged(&edge, &purge_of("x", "")).await, 2);
    edge.get("/c").await.expect(200, "hit_memory");
    edge.get("/d").await.expect(200, "hit_disk");
    edge.get("/a").await.expect(200, "miss").with(&noise(1, SMALL));
    edge.get("/b").await.expect(200, "miss").with(&noise(2, LARGE));
    edge.until_idle().await;
    edge.get("/b").await.expect(200, "hit_disk");
    // What a start finds on disk has its names still.
    edge.restart().await;
    // One that has both counts once.
    assert_eq!(purged(&edge, "{\"keys\": [\"y\", \"z\"]}").await, 3);
    for path in ["/a", "/b", "/c"] {
        edge.get(path).await.expect(200, "miss");
    }
    edge.get("/d").await.expect(200, "hit_disk");
    assert_eq!(edge.metric("narthex_purges_total{scope=\"key\"}").await, 1);
}

#[tokio::test]
async fn a_purge_holds_over_a_restart() {
    let origin = Origin::start().await;
    let mut edge = edge(&origin, "256MiB").await;
    four(&origin, &edge).await;
    assert_eq!(purged(&edge, &purge_of("x", "")).await, 2);
    edge.restart().await;
    for (path, outcome) in [("/a", "miss"), ("/b", "miss"), ("/c", "hit_disk"), ("/d", "hit_disk")]
    {
        edge.get(path).await.expect(200, outcome);
    }
    edge.until_idle().await;
    assert_eq!(purged(&edge, &purge_of("x", SOFT)).await, 2);
    edge.restart().await;
    for path in ["/a", "/b"] {
        edge.get(path).await.expect(200, "revalidated");
    }
    edge.get("/c").await.expect(200, "hit_disk");
}

#[tokio::test]
async fn a_soft_purge_has_each_confirmed_or_bridges_an_outage() {
    for disk_size in ["256MiB", "0"] {
        let origin = Origin::start().await;
        let edge = edge(&origin, disk_size).await;
        let has_disk = disk_size != "0";
        four(&origin, &edge).await;
        let expected = if has_disk { 2 } else { 1 };
        assert_eq!(purged(&edge, &purge_of("x", SOFT)).await, expected, "{disk_size}");
        edge.get("/a").await.expect(200, "revalidated").with(&noise(1, SMALL));
        edge.get("/a").await.expect(200, "hit_memory");
        if has_disk {
            edge.get("/b").await.expect(200, "revalidated").with(&noise(2, LARGE));
            edge.get("/b").await.expect(200, "hit_disk");
            edge.get("/d").await.expect(200, "hit_disk");
        }
        edge.get("/c").await.expect(200, "hit_memory");
        assert_eq!(origin.asked("/a")[1].field("if-none-match"), Some("\"a\""));
        assert_eq!(purged(&edge, &purge_of("x", SOFT)).await, expected, "{disk_size}");
        origin.die();
        edge.get("/a").await.expect(200, "hit_stale").with(&noise(1, SMALL));
        assert_eq!(purged(&edge, &purge_of("x", "")).await, expected);
        edge.get("/a").await.expect(502, "origin_failed");
        edge.get("/c").await.expect(200, "hit_memory");
        let softly = "narthex_purges_total{scope=\"key_soft\"}";
        assert_eq!(edge.metric(softly).await, 2);
    }
}

#[tokio::test]
async fn memory_alone_is_purged_too() {
    let origin = Origin::start().await;
    let edge = edge(&origin, "0").await;
    four(&origin, &edge).await;
    assert_eq!(purged(&edge, &purge_of("x", "")).await, 1);
    edge.get("/a").await.expect(200, "miss");
    edge.get("/c").await.expect(200, "hit_memory");
}

#[tokio::test]
async fn a_fill_that_began_before_a_purge_of_its_name_never_commits_after_it() {
    for more in ["", SOFT] {
        for (old_tags, is_meant) in [("x", true), ("y", false)] {
            let origin = Origin::start().await;
            let gate = Gate::default();
            let old = tagged(5, LARGE, old_tags);
            origin.say_in_turn("/a", vec![old.held_at(150_000, &gate), tagged(6, LARGE, "x")]);
            let edge = edge(&origin, "256MiB").await;
            let mut before = edge.client().begin("/a", &[]).await;
            before.read_to(50_000).await;
            assert_eq!(purged(&edge, &purge_of("x", more)).await, 0);
            gate.open();
            before.rest().await.expect(200, "miss").with(&noise(5, LARGE));
            edge.until_idle().await;
            if is_meant {
                edge.get("/a").await.expect(200, "miss").with(&noise(6, LARGE));
            } else {
                edge.get("/a").await.expect(200, "hit_disk").with(&noise(5, LARGE));
            }
        }
    }
}

#[tokio::test]
async fn a_confirmation_that_began_before_a_purge_does_not_undo_it() {
    for (more, outcome) in [("", "miss"), (SOFT, "revalidated")] {
        let origin = Origin::start().await;
        let gate = Gate::default();
        let script = tagged(7, SMALL, "x").etag("\"a\"");
        origin.say_in_turn("/a", vec![script.clone(), script.clone().held(&gate), script]);
        let edge = edge(&origin, "256MiB").await;
        edge.get("/a").await.expect(200, "miss");
        edge.pass_time(600);
        let waiting = {
            let client = edge.client();
            tokio::spawn(async move { client.get("/a").await })
        };
        origin.until_asked("/a", 2).await;
        assert_eq!(purged(&edge, &purge_of("x", more)).await, 1);
        gate.open();
        waiting.await.unwrap().expect(200, "revalidated");
        edge.until_idle().await;
        edge.get("/a").await.expect(200, outcome);
        assert_eq!(origin.count("/a"), 3);
    }
}

#[tokio::test]
async fn the_names_that_count_are_the_newest_and_each_variant_has_its_own() {
    let origin = Origin::start().await;
    let edge = edge(&origin, "256MiB").await;
    origin.say("/a", tagged(8, SMALL, "old").etag("\"a\""));
    edge.get("/a").await.expect(200, "miss");
    origin.say("/a", tagged(8, SMALL, "new").etag("\"a\""));
    edge.pass_time(600);
    edge.get("/a").await.expect(200, "revalidated");
    assert_eq!(purged(&edge, &purge_of("old", "")).await, 0);
    edge.get("/a").await.expect(200, "hit_memory");
    assert_eq!(purged(&edge, &purge_of("new", "")).await, 1);
    for (language, tag) in [("en", "english"), ("de", "deutsch")] {
        origin.say("/v", tagged(9, SMALL, tag).field("vary", "accept-language"));
        edge.read_with("/v", &[("accept-language", language)]).await.expect(200, "miss");
    }
    assert_eq!(purged(&edge, &purge_of("english", "")).await, 1);
    edge.read_with("/v", &[("accept-language", "de")]).await.expect(200, "hit_memory");
    edge.read_with("/v", &[("accept-language", "en")]).await.expect(200, "miss");
}

#[tokio::test]
async fn what_has_too_many_names_or_too_long_ones_goes_with_each() {
    let origin = Origin::start().await;
    let edge = edge(&origin, "256MiB").await;
    let names = |count: usize| (0..count).map(|n| format!("n{n}")).collect::<Vec<_>>().join(" ");
    let long = "l".repeat(1_025);
    for (path, tags) in [("/most", names(128)), ("/many", names(129)), ("/long", long.clone())] {
        origin.say(path, tagged(10, SMALL, &tags));
        edge.get(path).await.expect(200, "miss");
    }
    assert_eq!(purged(&edge, &purge_of("n127", "")).await, 3);
    for path in ["/most", "/many", "/long"] {
        edge.get(path).await.expect(200, "miss");
    }
    assert_eq!(purged(&edge, &purge_of("other", "")).await, 2);
    edge.get("/most").await.expect(200, "hit_memory");
    for wrong in [
        purge_of(&long, ""),
        purge_of("a b", ""),
        purge_of("", ""),
        "{\"keys\": []}".to_owned(),
        purge_of("a", ", \"path\": \"/most\""),
        purge_of("a", ", \"site\": \"other\""),
    ] {
        let said = edge.purge(&wrong).await;
        assert!(said.status.is_client_error(), "{wrong} {said:?}");
    }
    edge.get("/most").await.expect(200, "hit_memory");
}

#[tokio::test]
async fn a_binary_cache_is_purged_by_name_where_its_origin_gives_any() {
    let origin = Origin::start().await;
    let mut edge = Edge::before(&origin).await;
    let (one, other) = (Package::new(11, 10), Package::new(12, 10));
    let nar = noise(13, LARGE);
    let nar_path = path_of_nar(&nar, "nar.xz");
    origin.say(&one.narinfo_path, says(one.narinfo()).field("surrogate-key", "release-1 infos"));
    origin.say(&other.narinfo_path, says(other.narinfo()).field("surrogate-key", "infos"));
    origin.say(&nar_path, says(nar.clone()).field("surrogate-key", "release-1"));
    let paths = [&one.narinfo_path, &other.narinfo_path, &nar_path];
    for outcome in ["miss", "hit"] {
        for path in paths {
            let said = edge.get(path).await;
            let cache_status = said.field("cache-status").to_owned();
            assert!(cache_status.contains(outcome), "{cache_status}");
            assert!(!said.headers.contains_key("surrogate-key"), "{path}");
        }
        edge.until_idle().await;
    }
    assert_eq!(purged(&edge, &purge_of("release-1", "")).await, 2);
    edge.get(&other.narinfo_path).await.expect(200, "hit_memory");
    edge.get(&one.narinfo_path).await.expect(200, "miss");
    edge.get(&nar_path).await.expect(200, "miss").with(&nar);
    edge.until_idle().await;
    edge.restart().await;
    let said = edge.get(&one.narinfo_path).await;
    assert!(!said.expect(200, "hit_disk").headers.contains_key("surrogate-key"));
    assert_eq!(purged(&edge, &purge_of("infos", SOFT)).await, 2);
    assert_eq!(edge.get(&one.narinfo_path).await.status, 200);
    assert_eq!(origin.count(&one.narinfo_path), 3);
    edge.get(&nar_path).await.expect(200, "hit_disk");
}

#[tokio::test]
async fn a_remembered_absence_goes_with_its_name() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    let package = Package::new(15, 10);
    let path = &package.narinfo_path;
    for more in ["", SOFT] {
        origin.say(path, Script::status(404).field("surrogate-key", "infos"));
        assert_eq!(edge.get(path).await.status, 404);
        let said = edge.get(path).await;
        assert!(!said.expect(404, "hit_absent").headers.contains_key("surrogate-key"));
        origin.say(path, says(package.narinfo()));
        purged(&edge, &purge_of("other", more)).await;
        edge.get(path).await.expect(404, "hit_absent");
        purged(&edge, &purge_of("infos", more)).await;
        edge.get(path).await.expect(200, "miss");
        edge.purge(&format!("{{\"path\": \"{path}\"}}")).await;
    }
}

#[tokio::test]
async fn a_part_of_an_object_goes_with_its_name() {
    for (tag, is_meant) in [("release-1", true), ("release-2", false)] {
        let origin = Origin::start().await;
        let edge = Edge::before(&origin).await;
        let package = Package::new(14, 40 << 20);
        origin.say(&package.narinfo_path, says(package.narinfo()));
        origin.say(
            &package.nar_path,
            says(package.nar.clone()).etag("\"a\"").field("surrogate-key", "release-1"),
        );
        edge.get(&package.narinfo_path).await.expect(200, "miss");
        let range = [("range", "bytes=20000000-20000999")];
        edge.read_with(&package.nar_path, &range).await.expect(206, "miss");
        edge.until_idle().await;
        assert_eq!(purged(&edge, &purge_of(tag, "")).await, u64::from(is_meant));
        let outcome = if is_meant { "miss" } else { "hit_disk" };
        let said = edge.read_with(&package.nar_path, &range).await;
        said.expect(206, outcome).with(&package.nar[20_000_000..20_001_000]);
    }
}

#[tokio::test]
async fn a_part_of_a_generic_object_goes_with_its_name() {
    for (tag, is_meant) in [("release-1", true), ("release-2", false)] {
        let origin = Origin::start().await;
        let limits = "[server.limits]\ncompletion_size_max = 0";
        let setup = Setup::default().site("kind = \"generic\"").tables(limits);
        let mut edge = setup.start(&[&origin]).await;
        origin.say("/a", tagged(15, 5 << 20, "release-1 x").etag("\"a\""));
        let range = [("range", "bytes=2000000-2000999")];
        let body = noise(15, 5 << 20);
        for outcome in ["miss", "hit_disk"] {
            let said = edge.read_with("/a", &range).await;
            said.expect(206, outcome).with(&body[2_000_000..2_001_000]);
            assert_eq!(said.field("surrogate-key"), "");
            edge.until_idle().await;
        }
        edge.restart().await;
        assert_eq!(purged(&edge, &purge_of(tag, "")).await, u64::from(is_meant));
        let outcome = if is_meant { "miss" } else { "hit_disk" };
        edge.read_with("/a", &range).await.expect(206, outcome);
    }
}
