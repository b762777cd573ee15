//! An origin that accepts requests and does not answer, while something stored could: what is
//! stale serves after `revalidation_wait`, the answer is taken in the background when it comes.

use crate::harness::{Edge, Gate, Origin, Package, Said, Script, Setup, eventually, noise, says};
use tokio::net::TcpListener;

const DAY: u64 = 86_400;
const CHUNK: usize = 1 << 20;

/// An edge before a binary cache, which waits so long for the confirmation of what is stale.
async fn edge(origin: &Origin, wait: &str) -> Edge {
    let site = format!("[site.lifetimes]\nrevalidation_wait = \"{wait}\"");
    without_completion(&site).start(&[origin]).await
}

/// The same before a generic site.
async fn generic(origin: &Origin, wait: &str) -> Edge {
    let site = format!("kind = \"generic\"\n[site.caching]\nrevalidation_wait = \"{wait}\"");
    without_completion(&site).start(&[origin]).await
}

fn without_completion(site: &str) -> Setup {
    Setup::default().site(site).tables("[server.limits]\ncompletion_size_max = 0")
}

fn log(name: &str) -> String {
    format!("/log/0c5x60p6h2p6jvqqs4x8rcwh3pg9z1nv-{name}.drv")
}

async fn range(edge: &Edge, path: &str, range: &str) -> Said {
    edge.read_with(path, &[("range", range)]).await
}

#[tokio::test]
async fn a_stale_narinfo_serves_and_is_confirmed_in_the_background_by_one_request() {
    let origin = Origin::start().await;
    let (package, gate) = (Package::new(1, 10), Gate::default());
    let path = &package.narinfo_path;
    let text = package.narinfo();
    let script = says(text.clone()).etag("\"a\"");
    origin.say_in_turn(path, vec![script.clone(), script.held(&gate)]);
    let edge = edge(&origin, "50ms").await;
    edge.get(path).await.expect(200, "miss");
    edge.pass_time(DAY + 5);
    for _ in 0..3 {
        let said = edge.get(path).await;
        said.expect(200, "hit_stale").with(text.as_bytes());
        assert_eq!(said.field("age"), (DAY + 5).to_string());
        assert_eq!(said.field("cache-status"), "narthex; hit; ttl=-5; detail=\"hit_stale\"");
    }
    edge.client().head(path).await.expect(200, "hit_stale").with(b"");
    range(&edge, path, "bytes=0-3").await.expect(206, "hit_stale").with(&text.as_bytes()[..4]);
    let same = edge.read_with(path, &[("if-none-match", "\"a\"")]).await;
    same.expect(304, "hit_stale");
    assert_eq!(origin.count(path), 2);
    gate.open();
    edge.until_idle().await;
    let fresh = edge.get(path).await;
    fresh.expect(200, "hit_memory").with(text.as_bytes());
    assert_eq!(fresh.field("age"), "0");
    assert_eq!(origin.count(path), 2);
    assert_eq!(edge.log(7).await[1]["response_state"], "hit_stale");
}

#[tokio::test]
async fn a_stale_nar_serves_whole_and_in_ranges_also_where_it_was_purged_softly() {
    let origin = Origin::start().await;
    let gate = Gate::default();
    let (dated, proven) =
        (Package::new(2, 200_000).without_file_claims(), Package::new(3, 200_000));
    origin.say(&proven.narinfo_path, says(proven.narinfo()));
    let edge = edge(&origin, "0s").await;
    edge.get(&proven.narinfo_path).await.expect(200, "miss");
    for package in [&dated, &proven] {
        let date = "Sun, 06 Nov 1994 08:49:37 GMT";
        let script = says(package.nar.clone()).last_modified(date);
        origin.say_in_turn(&package.nar_path, vec![script.clone(), script.held(&gate)]);
        edge.get(&package.nar_path).await.expect(200, "miss");
    }
    edge.until_idle().await;
    edge.pass_time(DAY);
    edge.purge(&format!("{{\"path\": \"{}\", \"soft\": true}}", proven.nar_path)).await;
    for package in [&dated, &proven] {
        let path = &package.nar_path;
        edge.get(path).await.expect(200, "hit_stale").with(&package.nar);
        let part = range(&edge, path, "bytes=100000-").await;
        part.expect(206, "hit_stale").with(&package.nar[100_000..]);
        origin.until_asked(path, 2).await;
    }
    gate.open();
    edge.until_idle().await;
    for package in [&dated, &proven] {
        edge.get(&package.nar_path).await.expect(200, "hit_disk").with(&package.nar);
        assert_eq!(origin.count(&package.nar_path), 2);
    }
}

#[tokio::test]
async fn a_port_that_accepts_and_reads_nothing_keeps_no_stale_object_from_serving() {
    let origin = Origin::start().await;
    let path = &log("a");
    origin.say(path, says("log").etag("\"a\""));
    let edge = edge(&origin, "50ms").await;
    edge.get(path).await.expect(200, "miss");
    edge.pass_time(DAY);
    let address = origin.url().split_once("//").unwrap().1.to_owned();
    origin.die();
    let mut silent = None;
    eventually("its old port", || {
        silent = std::net::TcpListener::bind(&address).ok();
        silent.is_some()
    })
    .await;
    let silent = silent.unwrap();
    silent.set_nonblocking(true).unwrap();
    let _silent = TcpListener::from_std(silent).unwrap();
    edge.get(path).await.expect(200, "hit_stale").with(b"log");
}

#[tokio::test]
async fn a_small_replacement_that_is_slow_is_for_later_requests_and_a_large_one_is_read_along() {
    let origin = Origin::start().await;
    let gate = Gate::default();
    let (small, large) = (&log("small"), &log("large"));
    let (old, new) = (noise(1, 300_000), noise(2, 300_000));
    origin.say_in_turn(
        small,
        vec![says("old").etag("\"1\""), says("newer").etag("\"2\"").held_at(2, &gate)],
    );
    origin.say_in_turn(
        large,
        vec![
            says(old.clone()).etag("\"1\""),
            says(new.clone()).etag("\"2\"").held_at(100_000, &gate),
        ],
    );
    let site = "[site.lifetimes]\nrevalidation_wait = \"1h\"\n\
                [[site.lifetimes.rule]]\npaths = [\"*small*\"]\nrevalidation_wait = \"50ms\"";
    let edge = Setup::default().site(site).start(&[&origin]).await;
    edge.get(small).await.expect(200, "miss");
    edge.get(large).await.expect(200, "miss");
    edge.until_idle().await;
    edge.pass_time(DAY);
    let mut arriving = edge.client().begin(large, &[]).await;
    assert_eq!(arriving.outcome(), "miss");
    assert!(arriving.read_to(50_000).await[..50_000] == new[..50_000]);
    edge.get(small).await.expect(200, "hit_stale").with(b"old");
    gate.open();
    arriving.rest().await.expect(200, "miss").with(&new);
    edge.until_idle().await;
    edge.get(small).await.expect(200, "hit_memory").with(b"newer");
    assert_eq!((origin.count(small), origin.count(large)), (2, 2));
}

#[tokio::test]
async fn what_must_be_confirmed_and_what_is_too_old_waits_for_its_origin() {
    let origin = Origin::start().await;
    let gate = Gate::default();
    let site = "[site.lifetimes]\nrevalidation_wait = \"0s\"\nstale_if_error = \"1h\"";
    let edge = Setup::default().site(site).start(&[&origin]).await;
    let (strict, old) = (&log("strict"), &log("old"));
    let revalidate = says("log").field("cache-control", "must-revalidate").etag("\"a\"");
    for (path, script) in [(strict, revalidate), (old, says("log").etag("\"a\""))] {
        origin.say_in_turn(path, vec![script.clone(), script.held(&gate)]);
        edge.get(path).await.expect(200, "miss");
    }
    edge.pass_time(DAY + 3_600);
    let asking: Vec<_> = [strict, old]
        .map(|path| {
            let (client, path) = (edge.client(), path.clone());
            tokio::spawn(async move { client.get(&path).await })
        })
        .into();
    for path in [strict, old] {
        origin.until_asked(path, 2).await;
    }
    gate.open();
    for asked in asking {
        asked.await.unwrap().expect(200, "revalidated").with(b"log");
    }
}

#[tokio::test]
async fn a_rule_sets_the_wait_of_its_paths() {
    let origin = Origin::start().await;
    let gate = Gate::default();
    let site = "[site.lifetimes]\nrevalidation_wait = \"1h\"\n\
                [[site.lifetimes.rule]]\npaths = [\"*-short*\"]\nrevalidation_wait = \"0s\"";
    let edge = Setup::default().site(site).start(&[&origin]).await;
    let (short, long) = (&log("short"), &log("long"));
    for path in [short, long] {
        let script = says("log").etag("\"a\"");
        origin.say_in_turn(path, vec![script.clone(), script.held(&gate)]);
        edge.get(path).await.expect(200, "miss");
    }
    edge.pass_time(DAY);
    edge.get(short).await.expect(200, "hit_stale");
    let waiting = {
        let (client, path) = (edge.client(), long.clone());
        tokio::spawn(async move { client.get(&path).await })
    };
    origin.until_asked(long, 2).await;
    gate.open();
    waiting.await.unwrap().expect(200, "revalidated");
}

#[tokio::test]
async fn a_stale_part_serves_what_is_here_of_it_and_is_confirmed_by_one_request() {
    let origin = Origin::start().await;
    let gate = Gate::default();
    let package = Package::new(4, 4 * CHUNK).without_file_claims();
    let (path, nar) = (&package.nar_path, &package.nar);
    let script = says(nar.clone()).etag("\"a\"");
    origin.say(path, script.clone());
    let edge = edge(&origin, "50ms").await;
    let bytes = format!("bytes={}-{}", CHUNK + 5, CHUNK + 99);
    range(&edge, path, &bytes).await.expect(206, "miss");
    edge.until_idle().await;
    edge.pass_time(DAY);
    origin.say(path, script.clone().held(&gate));
    for _ in 0..3 {
        let said = range(&edge, path, &bytes).await;
        said.expect(206, "hit_stale").with(&nar[CHUNK + 5..CHUNK + 100]);
    }
    assert_eq!(origin.count(path), 2);
    gate.open();
    edge.until_idle().await;
    range(&edge, path, &bytes).await.expect(206, "hit_disk");
    assert_eq!(origin.count(path), 2);

    // Without an origin it serves what is here, and nothing else.
    edge.pass_time(DAY);
    origin.die();
    range(&edge, path, &bytes).await.expect(206, "hit_stale");
    range(&edge, path, "bytes=0-5").await.expect(502, "origin_failed");
}

#[tokio::test]
async fn a_stale_response_serves_where_that_is_permitted_and_is_confirmed_in_the_background() {
    let origin = Origin::start().await;
    let gate = Gate::default();
    let edge = generic(&origin, "0s").await;
    let body = noise(5, 4 * CHUNK);
    for (path, control) in [
        ("/a", "max-age=60"),
        ("/b", "max-age=60, stale-if-error=100"),
        ("/must", "max-age=60, must-revalidate"),
        ("/shared", "s-maxage=60"),
        ("/part", "max-age=60"),
    ] {
        let body = if path == "/part" { body.clone() } else { "old".into() };
        let script = says(body).field("cache-control", control).etag("\"a\"");
        origin.say_in_turn(path, vec![script.clone(), script.held(&gate)]);
    }
    for path in ["/a", "/b", "/must", "/shared"] {
        edge.get(path).await.expect(200, "miss");
    }
    range(&edge, "/part", "bytes=5-9").await.expect(206, "miss");
    edge.until_idle().await;
    edge.pass_time(60);
    for path in ["/a", "/b"] {
        edge.get(path).await.expect(200, "hit_stale").with(b"old");
        edge.client().head(path).await.expect(200, "hit_stale");
        range(&edge, path, "bytes=1-").await.expect(206, "hit_stale").with(b"ld");
        origin.until_asked(path, 2).await;
    }
    for _ in 0..3 {
        range(&edge, "/part", "bytes=5-9").await.expect(206, "hit_stale").with(&body[5..10]);
    }
    let waiting: Vec<_> = [
        ("/must", None),
        ("/shared", None),
        ("/a", Some(("cache-control", "no-cache"))),
        ("/part", Some(("range", "bytes=2097152-2097155"))),
    ]
    .map(|(path, field)| {
        let client = edge.client();
        tokio::spawn(async move { client.read_with(path, field.as_slice()).await })
    })
    .into();
    for path in ["/must", "/shared", "/part"] {
        origin.until_asked(path, 2).await;
    }
    gate.open();
    for (asked, outcome) in
        waiting.into_iter().zip(["revalidated", "revalidated", "revalidated", "miss"])
    {
        let said = asked.await.unwrap();
        assert_eq!(said.outcome(), outcome, "{said:?}");
    }
    edge.until_idle().await;
    for path in ["/a", "/b"] {
        edge.get(path).await.expect(200, "hit_memory").with(b"old");
        assert_eq!(origin.count(path), 2);
    }
    range(&edge, "/part", "bytes=5-9").await.expect(206, "hit_disk");
    // One confirmed it, and one brought what was not here.
    assert_eq!(origin.count("/part"), 3);
}

#[tokio::test]
async fn a_part_serves_while_it_is_refreshed() {
    let origin = Origin::start().await;
    let gate = Gate::default();
    let body = noise(6, 4 * CHUNK);
    let control = "max-age=60, stale-while-revalidate=30";
    let script = says(body.clone()).field("cache-control", control).etag("\"a\"");
    origin.say_in_turn("/part", vec![script.clone(), script.held(&gate)]);
    let edge = generic(&origin, "1h").await;
    range(&edge, "/part", "bytes=5-9").await.expect(206, "miss");
    edge.until_idle().await;
    edge.pass_time(60);
    range(&edge, "/part", "bytes=5-9").await.expect(206, "hit_stale").with(&body[5..10]);
    origin.until_asked("/part", 2).await;
    gate.open();
    edge.until_idle().await;
    range(&edge, "/part", "bytes=5-9").await.expect(206, "hit_disk");
}

#[tokio::test]
async fn an_absence_that_is_too_old_never_serves() {
    let origin = Origin::start().await;
    let gate = Gate::default();
    let path = &log("none");
    origin.say_in_turn(path, vec![Script::status(404), says("log").held(&gate)]);
    let edge = edge(&origin, "0s").await;
    edge.get(path).await.expect(404, "absent");
    edge.pass_time(10);
    let waiting = {
        let (client, path) = (edge.client(), path.clone());
        tokio::spawn(async move { client.get(&path).await })
    };
    origin.until_asked(path, 2).await;
    gate.open();
    waiting.await.unwrap().expect(200, "miss").with(b"log");
}
