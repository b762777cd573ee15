//! Fields that are of one connection, one hop or one client are never sent again: not out of
//! memory, not out of what a 304 has confirmed, not off the disk after a restart.

use crate::harness::{Edge, Origin, Package, Said, Script, Setup, noise, says};

/// What no stored answer may have; the first line names two more.
const NEVER: [(&str, &str); 12] = [
    ("connection", "x-of-the-connection, X-Of-It-Too"),
    ("x-of-the-connection", "1"),
    ("x-of-it-too", "1"),
    ("keep-alive", "timeout=5"),
    ("proxy-authenticate", "Basic"),
    ("proxy-authentication-info", "x=1"),
    ("proxy-authorization", "Basic eDp5"),
    ("proxy-connection", "keep-alive"),
    ("te", "gzip"),
    ("trailer", "x-trailer"),
    ("upgrade", "h2c"),
    ("set-cookie", "a=b"),
];

/// A field that is of the object, so that a missing one would show.
const KEPT: (&str, &str) = ("x-of-the-object", "kept");

fn with_all(script: Script) -> Script {
    let with = |script: Script, (name, value): &(&str, &str)| script.field(name, value);
    NEVER.iter().chain([&KEPT]).fold(script, with)
}

#[track_caller]
fn has_none(said: &Said, may: &[&str]) {
    assert_eq!(said.field(KEPT.0), KEPT.1);
    for (name, _) in NEVER {
        let is_there = said.headers.contains_key(name) && !may.contains(&name);
        assert!(!is_there, "{name} in {:?}", said.headers);
    }
}

async fn generic(origin: &Origin, caching: &str) -> Edge {
    let site = format!("kind = \"generic\"\n[site.caching]\n{caching}");
    Setup::default().site(&site).start(&[origin]).await
}

#[tokio::test]
async fn a_generic_site_replays_none_of_them() {
    let origin = Origin::start().await;
    for (path, size) in [("/small", 100), ("/large", 200_000)] {
        let script = says(noise(1, size)).etag("\"a\"").field("cache-control", "max-age=60");
        origin.say(path, with_all(script));
        let mut edge = generic(&origin, "").await;
        // The cookie is for the client that caused it.
        let said = edge.get(path).await;
        has_none(said.expect(200, "miss"), &["set-cookie"]);
        assert_eq!(said.field("set-cookie"), "a=b");
        edge.until_idle().await;
        let hit = if size < 1 << 16 { "hit_memory" } else { "hit_disk" };
        has_none(edge.get(path).await.expect(200, hit), &[]);
        edge.pass_time(60);
        // The 304 has all of them too, and a cookie of it is for the client that caused it.
        has_none(edge.get(path).await.expect(200, "revalidated"), &["set-cookie"]);
        has_none(edge.get(path).await.expect(200, hit), &[]);
        edge.restart().await;
        has_none(edge.get(path).await.expect(200, "hit_disk"), &[]);
        let head = edge.client().head(path).await;
        has_none(head.expect(200, hit), &[]);
        let part = edge.read_with(path, &[("range", "bytes=0-9")]).await;
        has_none(part.expect(206, hit), &[]);
        assert_eq!(origin.count(path), 2);
    }
}

#[tokio::test]
async fn what_passes_through_has_none_of_the_connection() {
    let origin = Origin::start().await;
    let script = says("one").field("cache-control", "no-store");
    origin.say("/a", with_all(script));
    let edge = generic(&origin, "").await;
    for _ in 0..2 {
        let said = edge.get("/a").await;
        has_none(said.expect(200, "pass"), &["set-cookie"]);
        assert_eq!(said.field("set-cookie"), "a=b");
    }
    let cookies = "set_cookie = \"strip\"\n[[site.caching.rule]]\npaths = [\"/c*\"]\n\
                   set_cookie = \"pass\"";
    let edge = generic(&origin, cookies).await;
    origin.say("/c", with_all(says("one").field("cache-control", "max-age=60")));
    for _ in 0..2 {
        let said = edge.get("/c").await;
        has_none(said.expect(200, "pass"), &["set-cookie"]);
        assert_eq!(said.field("set-cookie"), "a=b");
    }
}

#[tokio::test]
async fn a_binary_cache_replays_none_of_them() {
    let origin = Origin::start().await;
    let package = Package::new(1, 200_000);
    origin.say(&package.narinfo_path, with_all(says(package.narinfo()).etag("\"a\"")));
    let unproven = "/log/0c5x60p6h2p6jvqqs4x8rcwh3pg9z1nv-hello.drv";
    origin.say(unproven, with_all(says(noise(2, 200_000)).etag("\"b\"")));
    for (path, hit) in [(&*package.narinfo_path, "hit_memory"), (unproven, "hit_disk")] {
        let mut edge = Edge::before(&origin).await;
        has_none(edge.get(path).await.expect(200, "miss"), &[]);
        edge.until_idle().await;
        has_none(edge.get(path).await.expect(200, hit), &[]);
        edge.pass_time(86_400);
        has_none(edge.get(path).await.expect(200, "revalidated"), &[]);
        has_none(edge.get(path).await.expect(200, hit), &[]);
        edge.restart().await;
        has_none(edge.get(path).await.expect(200, "hit_disk"), &[]);
        assert_eq!(origin.count(path), 2);
    }
}
