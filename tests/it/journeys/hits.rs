//! Cold and warm: every class and size of object, from memory, from disk, and over a restart.

use crate::harness::{Edge, Origin, Package, Said, noise, path_of_nar, says};

#[tokio::test]
async fn a_narinfo_is_asked_for_once_and_outlives_a_restart_without_its_origin() {
    let origin = Origin::start().await;
    let package = Package::new(1, 100);
    origin.say(&package.narinfo_path, says(package.narinfo()).etag("\"n\""));
    let mut edge = Edge::before(&origin).await;

    let cold = edge.get(&package.narinfo_path).await;
    cold.expect(200, "miss").with(package.narinfo().as_bytes());
    assert_eq!(cold.field("content-type"), "text/x-nix-narinfo");
    assert_eq!(cold.field("accept-ranges"), "bytes");
    assert_eq!(cold.field("etag"), "\"n\"");
    assert_eq!(cold.field("age"), "");
    edge.pass_time(60);
    let warm = edge.get(&package.narinfo_path).await;
    warm.expect(200, "hit_memory").with(package.narinfo().as_bytes());
    assert_eq!(warm.field("age"), "60");
    assert_eq!(origin.count_all(), 1);

    origin.die();
    edge.restart().await;
    let restarted = edge.get(&package.narinfo_path).await;
    restarted.expect(200, "hit_disk").with(package.narinfo().as_bytes());
    edge.get(&package.narinfo_path).await.expect(200, "hit_memory");
}

#[tokio::test]
async fn small_objects_of_every_class_are_kept() {
    let origin = Origin::start().await;
    let digest = "a".repeat(64);
    let paths = [
        "/0c5x60p6h2p6jvqqs4x8rcwh3pg9z1nv.ls".to_owned(),
        "/log/0c5x60p6h2p6jvqqs4x8rcwh3pg9z1nv-hello.drv".to_owned(),
        "/debuginfo/0123456789abcdef0123456789abcdef01234567".to_owned(),
        format!("/realisations/sha256:{digest}!out.doi"),
        "/index.html".to_owned(),
    ];
    for path in &paths {
        origin.say(path, says(path.clone()));
    }
    let edge = Edge::before(&origin).await;
    for path in &paths {
        edge.get(path).await.expect(200, "miss").with(path.as_bytes());
        edge.get(path).await.expect(200, "hit_memory").with(path.as_bytes());
        let head = edge.client().head(path).await;
        head.expect(200, "hit_memory").with(b"");
        assert_eq!(head.field("content-length"), path.len().to_string());
    }
    edge.get("/").await.expect(200, "hit_memory").with(b"/index.html");
    edge.get("/nix-cache-info").await.expect(200, "miss");
    edge.get("/nix-cache-info").await.expect(200, "hit_memory");
    assert_eq!(origin.count_all(), paths.len());
}

#[tokio::test]
async fn one_realisation_has_one_key_however_its_name_is_written() {
    let origin = Origin::start().await;
    let digest = "b".repeat(64);
    let plain = format!("/realisations/sha256:{digest}!out.doi");
    origin.say(&plain, says("{}"));
    let edge = Edge::before(&origin).await;
    let escaped = plain.replace('!', "%21").replace(':', "%3A");
    edge.get(&escaped).await.expect(200, "miss");
    edge.get(&plain).await.expect(200, "hit_memory");
    edge.get(&plain.replace('!', "%21")).await.expect(200, "hit_memory");
    assert_eq!(origin.count_all(), 1);
}

#[tokio::test]
async fn nars_of_every_size_are_kept_and_outlive_a_restart() {
    let origin = Origin::start().await;
    let mut edge = Edge::before(&origin).await;
    let sizes = [0, 1, 1 << 10, (64 << 10) - 1, 64 << 10, (64 << 10) + 1, 5 << 20];
    let mut nars = Vec::new();
    for (seed, size) in (0..).zip(sizes) {
        let nar = noise(seed, size);
        let path = path_of_nar(&nar, "nar.xz");
        origin.say(&path, says(nar.clone()).etag("\"e\""));
        let head = edge.client().head(&path).await;
        head.expect(200, "pass");
        assert_eq!(head.field("content-length"), size.to_string());
        assert_eq!(origin.asked(&path)[0].method, "HEAD");
        let cold = edge.get(&path).await;
        cold.expect(200, "miss").with(&nar);
        assert_eq!(cold.field("content-length"), size.to_string(), "{size}");
        nars.push((path, nar));
    }
    edge.until_idle().await;
    for (path, nar) in &nars {
        let warm = edge.get(path).await;
        let tier = if nar.len() < 64 << 10 { "hit_memory" } else { "hit_disk" };
        warm.expect(200, tier).with(nar);
        let head = edge.client().head(path).await;
        head.expect(200, tier).with(b"");
        assert_eq!(head.field("content-length"), nar.len().to_string());
        assert_eq!(origin.count(path), 2);
    }
    origin.die();
    edge.restart().await;
    for (path, nar) in &nars {
        edge.get(path).await.expect(200, "hit_disk").with(nar);
    }
}

/// Whether an answer without a `Date` of its object went the short way.
fn is_short(said: &Said) -> bool {
    let place = |name| said.headers.keys().position(|other| other == name).unwrap();
    place("date") < place("content-length")
}

/// FAULTS.md Held: fast path and hyper.
/// A request with nothing but a host is answered below the HTTP library, one with a field that this
/// does not know above it: no client may tell them apart.
#[tokio::test]
async fn both_ways_of_a_hit_say_the_same() {
    let origin = Origin::start().await;
    let package = Package::new(1, 100);
    let (small, large) = (noise(7, 5_000), noise(8, 3 << 20));
    let nar = path_of_nar(&small, "nar.xz");
    let file = path_of_nar(&large, "nar.xz");
    let narinfo = says(package.narinfo()).etag("\"n\"").field("x-extra", "a").field("age", "5");
    origin.say(&package.narinfo_path, narinfo);
    origin.say(&nar, says(small.clone()).field("accept-ranges", "none"));
    origin.say(&file, says(large).etag("\"f\"").field("x-extra", "b").field("age", "7"));
    origin.say("/log/0c5x60p6h2p6jvqqs4x8rcwh3pg9z1nv-hello.drv", says(""));
    let absent = "/0c5x60p6h2p6jvqqs4x8rcwh3pg9z1nv.narinfo";
    let edge = Edge::before(&origin).await;
    let paths = [
        (&*package.narinfo_path, "hit_memory"),
        (&nar, "hit_memory"),
        ("/log/0c5x60p6h2p6jvqqs4x8rcwh3pg9z1nv-hello.drv", "hit_memory"),
        (absent, "hit_absent"),
        (&file, "hit_disk"),
    ];
    for (path, _) in paths {
        edge.get(path).await;
    }
    edge.until_idle().await;
    // Its file is open from here on.
    edge.get(&file).await.expect(200, "hit_disk");
    edge.pass_time(3);
    let mut lines = 6;
    for (path, outcome) in paths {
        for method in ["GET", "HEAD"] {
            let agent = ("user-agent", "curl/8 Nix/2.31");
            let short = edge.client().ask(method, path, &[agent]).await;
            let long = edge.client().ask(method, path, &[agent, ("x-unknown", "1")]).await;
            assert_eq!(short.outcome(), outcome, "{short:?}");
            // The library writes `Date` behind the length, if the object has none.
            // A head alone is no use of a file.
            let goes_short = method == "GET" || path != file;
            let ways = (is_short(&short), is_short(&long));
            assert_eq!(ways, (goes_short, false), "{method} {path}");
            assert_eq!((short.status, &short.body), (long.status, &long.body), "{path}");
            let fields = |said: &Said| {
                let mut fields = said.headers.clone();
                // Each request has its own id; an answer without a date gets the present one.
                let own = ["x-request-id", "date"].map(|name| fields.remove(name).is_some());
                (fields, own)
            };
            assert_eq!(fields(&short), fields(&long), "{method} {path}");
            lines += 2;
            let mut records = edge.log(lines).await;
            let (mut other, mut one) = (records.pop().unwrap(), records.pop().unwrap());
            for record in [&mut one, &mut other] {
                let record = record.as_object_mut().unwrap();
                for own in ["timestamp", "elapsed_usec", "request_id"] {
                    record.remove(own).unwrap();
                }
            }
            assert_eq!(one, other);
        }
        let class = if path.contains("narinfo") {
            "narinfo"
        } else if path.contains("/log/") {
            "log"
        } else {
            "nar"
        };
        let labels = format!("class=\"{class}\",outcome=\"{outcome}\",site=\"main\"");
        let requests = format!("narthex_requests_total{{{labels}}}");
        let opened = u64::from(path == file);
        assert_eq!(edge.metric(&requests).await, 4 + opened, "{labels}");
    }
}
