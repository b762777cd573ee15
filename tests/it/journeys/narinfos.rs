//! Narinfos and nix-cache-info that are not what they should be, and what a site says itself.

use crate::harness::{Edge, Origin, Package, Script, Setup, says, untrusted_key};

async fn rejected(edge: &Edge, reason: &str) -> u64 {
    let name = format!("narthex_rejected_bodies_total{{origin=\"origin-0\",reason=\"{reason}\"}}");
    edge.metric(&name).await
}

#[tokio::test]
async fn what_is_no_narinfo_of_that_path_is_502_and_not_kept() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    let package = Package::new(1, 10);
    let path = &package.narinfo_path;
    let good = package.narinfo();
    let cut_in_a_line = good[..good.find("NarHash").unwrap() + 20].to_owned();
    let bodies = [
        "<!doctype html><html>sign in</html>".to_owned(),
        Package::new(2, 10).narinfo(),
        cut_in_a_line,
        format!("{good}no colon here\n"),
        String::new(),
    ];
    for (count, body) in (1..).zip(bodies) {
        origin.say(path, says(body.clone()));
        edge.get(path).await.expect(502, "origin_failed");
        assert_eq!(rejected(&edge, "narinfo").await, count * 2, "{body}");
    }
    origin.say(path, says(good.clone()));
    edge.get(path).await.expect(200, "miss").with(good.as_bytes());
}

#[tokio::test]
async fn a_narinfo_without_a_good_signature_is_502_where_one_is_required() {
    for signer in [None, Some(untrusted_key())] {
        let origin = Origin::start().await;
        let package = Package::new(3, 10).signed_by(signer);
        origin.say(&package.narinfo_path, says(package.narinfo()));
        let edge = Edge::before(&origin).await;
        edge.get(&package.narinfo_path).await.expect(502, "origin_failed");
        assert_eq!(rejected(&edge, "signature").await, 2);
        let again = edge.get(&package.narinfo_path).await;
        again.expect(502, "origin_failed");
        assert_eq!((again.field("retry-after"), origin.count(&package.narinfo_path)), ("1", 2));
        edge.pass_time(1);
        edge.get(&package.narinfo_path).await.expect(502, "origin_failed");
        assert_eq!(origin.count(&package.narinfo_path), 4);
    }
}

#[tokio::test]
async fn a_narinfo_without_a_good_signature_is_served_where_none_is_required() {
    for signatures in ["warn", "off"] {
        let origin = Origin::start().await;
        let package = Package::new(4, 10).signed_by(Some(untrusted_key()));
        origin.say(&package.narinfo_path, says(package.narinfo()));
        let edge = Setup::default().signatures(signatures).start(&[&origin]).await;
        edge.get(&package.narinfo_path).await.expect(200, "miss");
        edge.get(&package.narinfo_path).await.expect(200, "hit_memory");
        assert_eq!(rejected(&edge, "signature").await, 0);
    }
}

#[tokio::test]
async fn a_narinfo_without_a_length_is_kept_where_its_signature_proves_it() {
    let origin = Origin::start().await;
    let package = Package::new(5, 10);
    origin.say(&package.narinfo_path, says(package.narinfo()).chunked());
    let edge = Edge::before(&origin).await;
    let cold = edge.get(&package.narinfo_path).await;
    cold.expect(200, "miss").with(package.narinfo().as_bytes());
    assert_eq!(cold.field("content-length"), package.narinfo().len().to_string());
    edge.get(&package.narinfo_path).await.expect(200, "hit_memory");
}

#[tokio::test]
async fn a_narinfo_without_a_length_is_not_kept_where_nothing_proves_it() {
    let origin = Origin::start().await;
    let package = Package::new(6, 10).signed_by(None);
    origin.say(&package.narinfo_path, says(package.narinfo()).until_close());
    let edge = Setup::default().signatures("off").start(&[&origin]).await;
    edge.get(&package.narinfo_path).await.expect(200, "pass");
    edge.get(&package.narinfo_path).await.expect(200, "pass");
    assert_eq!(origin.count(&package.narinfo_path), 2);
}

#[tokio::test]
async fn a_narinfo_of_more_than_a_mebibyte_is_refused() {
    let origin = Origin::start().await;
    let package = Package::new(7, 10);
    let long = format!("{}Deriver: {}\n", package.narinfo(), "x".repeat(1 << 20));
    origin.say(&package.narinfo_path, says(long));
    let edge = Edge::before(&origin).await;
    edge.get(&package.narinfo_path).await.expect(502, "origin_failed");
    assert_eq!(rejected(&edge, "too_large").await, 2);
}

#[tokio::test]
async fn a_page_in_place_of_nix_cache_info_is_502() {
    let origin = Origin::start().await;
    origin.say("/nix-cache-info", says("<html>sign in</html>"));
    let edge = Edge::before(&origin).await;
    edge.get("/nix-cache-info").await.expect(502, "origin_failed");
    assert_eq!(rejected(&edge, "cache_info").await, 2);
    origin.say("/nix-cache-info", says("StoreDir: /nix/store\n"));
    edge.get("/nix-cache-info").await.expect(200, "miss").with(b"StoreDir: /nix/store\n");
}

#[tokio::test]
async fn a_site_says_its_own_priority_also_while_its_origin_is_away() {
    let origin = Origin::start().await;
    let info = "StoreDir: /nix/store\nWantMassQuery: 0\nPriority: 41\n";
    origin.say("/nix-cache-info", says(info).etag("\"theirs\""));
    let setup = || Setup::default().site("[site.cache_info]\npriority = 7");
    let edge = setup().start(&[&origin]).await;
    let expected = "StoreDir: /nix/store\nWantMassQuery: 0\nPriority: 7\n";
    for outcome in ["miss", "hit_memory"] {
        let said = edge.get("/nix-cache-info").await;
        said.expect(200, outcome).with(expected.as_bytes());
        assert_eq!(said.field("etag"), "");
        assert_eq!(said.field("content-length"), expected.len().to_string());
    }
    let fields = [("if-none-match", "\"theirs\""), ("range", "bytes=0-1")];
    edge.read_with("/nix-cache-info", &fields).await.expect(200, "hit_memory");
    let head = edge.client().head("/nix-cache-info").await;
    head.expect(200, "hit_memory").with(b"");
    assert_eq!(head.field("content-length"), expected.len().to_string());

    let away = setup().start(&[&origin]).await;
    origin.die();
    let said = away.get("/nix-cache-info").await;
    said.expect(200, "local");
    assert_eq!(said.field("content-type"), "text/x-nix-cache-info");
    assert_eq!(said.text(), "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 7\n");
}

#[tokio::test]
async fn a_site_says_its_own_priority_where_its_origin_has_no_nix_cache_info() {
    let origin = Origin::start().await;
    origin.say("/nix-cache-info", Script::status(404));
    let setup = Setup::default().site("[site.cache_info]\npriority = 7");
    let edge = setup.start(&[&origin]).await;
    for _ in 0..2 {
        let said = edge.get("/nix-cache-info").await;
        said.expect(200, "local");
        assert_eq!(said.field("age"), "");
    }
}

#[tokio::test]
async fn a_site_without_a_page_has_a_landing_page() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    for path in ["/", "/index.html"] {
        let page = edge.get(path).await;
        page.expect(200, "local");
        assert_eq!(page.field("content-type"), "text/html; charset=utf-8");
        assert!(page.text().contains("test-1:"), "{}", page.text());
        assert_eq!(page.field("content-length"), page.body.len().to_string());
        edge.client().head(path).await.expect(200, "local").with(b"");
    }
    assert_eq!(origin.count("/index.html"), 1);
    edge.pass_time(10);
    origin.say("/index.html", says("<p>ours").field("content-type", "text/html"));
    edge.get("/").await.expect(200, "miss").with(b"<p>ours");
    edge.pass_time(86_400);
    origin.say("/index.html", Script::status(500));
    edge.get("/").await.expect(200, "hit_stale").with(b"<p>ours");
}

#[tokio::test]
async fn a_parents_cache_status_is_told_once() {
    let origin = Origin::start().await;
    let package = Package::new(8, 10);
    let script = says(package.narinfo()).field("cache-status", "parent; hit").field("age", "30");
    origin.say(&package.narinfo_path, script);
    let edge = Edge::before(&origin).await;
    let cold = edge.get(&package.narinfo_path).await;
    cold.expect(200, "miss");
    let line = cold.field("cache-status");
    assert!(line.starts_with("parent; hit, narthex; fwd=uri-miss"), "{line}");
    assert_eq!(cold.field("age"), "30");
    edge.pass_time(5);
    let warm = edge.get(&package.narinfo_path).await;
    assert!(warm.field("cache-status").starts_with("narthex; hit"));
    assert_eq!(warm.field("age"), "35");
    assert_eq!(origin.asked(&package.narinfo_path)[0].field("cdn-loop"), Some("edge"));
}
