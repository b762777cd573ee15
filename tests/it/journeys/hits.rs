//! Cold and warm: every class and size of object, from memory, from disk, and over a restart.

use crate::harness::{Edge, Origin, Package, noise, path_of_nar, says};

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
        assert!(warm.outcome().starts_with("hit_"), "{warm:?}");
        assert_eq!(warm.outcome() == "hit_memory", nar.len() < 64 << 10, "{}", nar.len());
        warm.expect(200, &warm.outcome()).with(nar);
        let head = edge.client().head(path).await;
        head.expect(200, &warm.outcome()).with(b"");
        assert_eq!(head.field("content-length"), nar.len().to_string());
        assert_eq!(origin.count(path), 2);
    }
    origin.die();
    edge.restart().await;
    for (path, nar) in &nars {
        edge.get(path).await.expect(200, "hit_disk").with(nar);
    }
}
