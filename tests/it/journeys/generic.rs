//! Sites of kind `generic`: what an HTTP cache stores, uses again, confirms, shares and forgets
//! (RFC 9111), and each of its settings.

use crate::harness::{Edge, Origin, Script, Setup, noise, says};

const FRESH: &str = "max-age=60";

fn fresh(body: &'static str) -> Script {
    says(body).field("cache-control", FRESH)
}

/// An edge in front of `origin` with these lines in `[site.caching]`.
async fn edge_with(origin: &Origin, caching: &str) -> Edge {
    let site = format!("kind = \"generic\"\n[site.caching]\n{caching}");
    Setup::default().site(&site).start(&[origin]).await
}

async fn edge(origin: &Origin) -> Edge {
    edge_with(origin, "").await
}

#[tokio::test]
async fn what_is_fresh_is_used_again_and_what_is_stale_is_confirmed() {
    let origin = Origin::start().await;
    origin.say("/a", fresh("one").etag("\"1\""));
    let edge = edge(&origin).await;
    edge.get("/a").await.expect(200, "miss").with(b"one");
    edge.pass_time(59);
    let said = edge.get("/a").await;
    said.expect(200, "hit_memory").with(b"one");
    assert_eq!(said.field("age"), "59");
    assert_eq!(said.field("via"), "1.1 narthex");
    edge.pass_time(1);
    edge.get("/a").await.expect(200, "revalidated").with(b"one");
    assert_eq!(origin.asked("/a")[1].field("if-none-match"), Some("\"1\""));
    edge.get("/a").await.expect(200, "hit_memory").with(b"one");
    assert_eq!(origin.count("/a"), 2);
}

#[tokio::test]
async fn a_large_body_is_stored_on_disk_and_survives_a_restart() {
    let origin = Origin::start().await;
    let body = noise(1, 3 << 20);
    for (path, script) in [("/a", says(body.clone())), ("/b", says(body.clone()).chunked())] {
        origin.say(path, script.field("cache-control", FRESH));
        let mut edge = edge(&origin).await;
        edge.get(path).await.expect(200, "miss").with(&body);
        edge.until_idle().await;
        edge.restart().await;
        edge.get(path).await.expect(200, "hit_disk").with(&body);
        let part = edge.read_with(path, &[("range", "bytes=5-9")]).await;
        part.expect(206, "hit_disk").with(&body[5..10]);
    }
}

#[tokio::test]
async fn a_body_whose_end_proves_nothing_is_passed_on_and_not_kept() {
    let origin = Origin::start().await;
    origin.say("/a", fresh("one").until_close());
    origin.say("/b", says(noise(2, 1 << 20)).field("cache-control", FRESH).cut_at(500_000));
    let edge = edge(&origin).await;
    for _ in 0..2 {
        edge.get("/a").await.expect(200, "pass").with(b"one");
        assert!(edge.get("/b").await.is_cut);
    }
    assert_eq!((origin.count("/a"), origin.count("/b")), (2, 2));
}

#[tokio::test]
async fn what_varies_is_kept_for_each_who_selects_it() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    origin.say("/a", fresh("english").field("vary", "Accept-Language"));
    let ask = async |language| edge.read_with("/a", &[("accept-language", language)]).await;
    ask("en").await.expect(200, "miss").with(b"english");
    origin.say("/a", fresh("deutsch").field("vary", "Accept-Language"));
    ask("de").await.expect(200, "miss").with(b"deutsch");
    ask("en").await.expect(200, "hit_memory").with(b"english");
    ask("DE").await.expect(200, "hit_memory").with(b"deutsch");
    edge.get("/a").await.expect(200, "miss").with(b"deutsch");
    // The newest says that it does not vary.
    origin.say("/a", fresh("all"));
    ask("fr").await.expect(200, "miss").with(b"all");
    ask("en").await.expect(200, "hit_memory").with(b"all");
}

#[tokio::test]
async fn what_is_private_goes_to_one_alone() {
    let origin = Origin::start().await;
    for (path, control) in [("/a", "private, max-age=60"), ("/b", "no-store")] {
        origin.say(path, says("one").field("cache-control", control).field("set-cookie", "a=b"));
    }
    let edge = edge(&origin).await;
    for path in ["/a", "/b"] {
        for _ in 0..2 {
            let said = edge.get(path).await;
            said.expect(200, "pass").with(b"one");
            assert_eq!(said.field("set-cookie"), "a=b");
        }
        assert_eq!(origin.count(path), 2);
    }
}

#[tokio::test]
async fn a_cookie_goes_to_the_client_that_caused_it_alone() {
    let origin = Origin::start().await;
    origin.say("/a", fresh("one").field("set-cookie", "a=b"));
    let edge = edge(&origin).await;
    assert_eq!(edge.get("/a").await.expect(200, "miss").field("set-cookie"), "a=b");
    let again = edge.get("/a").await;
    assert!(!again.expect(200, "hit_memory").headers.contains_key("set-cookie"));
    let edge = edge_with(&origin, "set_cookie = \"pass\"").await;
    for _ in 0..2 {
        edge.get("/a").await.expect(200, "pass");
    }
}

#[tokio::test]
async fn a_write_goes_through_and_what_it_changed_is_forgotten() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    origin.say("/a", fresh("old"));
    origin.say("/b", fresh("old"));
    for path in ["/a", "/b"] {
        edge.get(path).await.expect(200, "miss");
    }
    origin.say("/a", Script::status(500));
    edge.client().post("/a", &[], "x").await.expect(500, "pass");
    edge.get("/a").await.expect(200, "hit_memory").with(b"old");
    origin.say("/a", Script::status(201).field("location", "/b"));
    edge.client().post("/a", &[], "x").await.expect(201, "pass");
    for path in ["/a", "/b"] {
        origin.say(path, fresh("new"));
        edge.get(path).await.expect(200, "miss").with(b"new");
    }
    edge.client().ask("TRACE", "/a", &[]).await.expect(405, "refused");
}

#[tokio::test]
async fn an_outage_is_bridged_where_that_is_permitted() {
    let origin = Origin::start().await;
    origin.say("/a", says("one").field("cache-control", "max-age=60, stale-if-error=100"));
    origin.say("/b", says("one").field("cache-control", "max-age=60, must-revalidate"));
    origin.say("/c", fresh("one"));
    let edge = edge(&origin).await;
    for path in ["/a", "/b", "/c"] {
        edge.get(path).await.expect(200, "miss");
    }
    edge.pass_time(61);
    for path in ["/a", "/b", "/c"] {
        origin.say(path, Script::status(503));
    }
    edge.get("/a").await.expect(200, "hit_stale").with(b"one");
    edge.get("/b").await.expect(503, "pass");
    edge.get("/c").await.expect(503, "pass");
    origin.die();
    edge.get("/a").await.expect(200, "hit_stale").with(b"one");
    edge.get("/c").await.expect(200, "hit_stale").with(b"one");
    edge.get("/b").await.expect(502, "origin_failed");
    edge.pass_time(100);
    edge.get("/a").await.expect(502, "origin_failed");
}

#[tokio::test]
async fn a_request_may_ask_for_more_where_the_site_honours_it() {
    let origin = Origin::start().await;
    origin.say("/a", fresh("one"));
    let edge = edge(&origin).await;
    edge.get("/a").await.expect(200, "miss");
    let ask = async |control| edge.read_with("/a", &[("cache-control", control)]).await;
    ask("no-cache").await.expect(200, "miss");
    ask("only-if-cached").await.expect(200, "hit_memory");
    edge.pass_time(70);
    ask("only-if-cached").await.expect(504, "refused");
    ask("max-stale=20").await.expect(200, "hit_memory");
    let deaf = edge_with(&origin, "request_cache_control = \"ignore\"").await;
    deaf.get("/a").await.expect(200, "miss");
    deaf.read_with("/a", &[("cache-control", "no-cache")]).await.expect(200, "hit_memory");
}

#[tokio::test]
async fn the_sites_rules_bound_what_responses_say() {
    let origin = Origin::start().await;
    for path in ["/a", "/long/a", "/short/a"] {
        origin.say(path, says("one").field("cache-control", "max-age=60"));
    }
    origin.say("/plain", says("one"));
    origin.say("/none", Script::status(403));
    let rules = "ttl_default = \"30s\"\nstatuses = [\"200\", \"403\"]\n\
                 [[site.caching.rule]]\npaths = [\"/long/*\"]\nttl_min = \"200s\"\n\
                 [[site.caching.rule]]\npaths = [\"/short/*\"]\nttl_max = \"10s\"\n\
                 stale_while_revalidate = \"20s\"";
    let edge = edge_with(&origin, rules).await;
    for path in ["/a", "/long/a", "/short/a", "/plain"] {
        edge.get(path).await.expect(200, "miss");
    }
    edge.get("/none").await.expect(403, "miss");
    edge.pass_time(15);
    edge.get("/plain").await.expect(200, "hit_memory");
    edge.get("/none").await.expect(403, "hit_memory");
    edge.get("/short/a").await.expect(200, "hit_stale");
    edge.until_idle().await;
    edge.get("/short/a").await.expect(200, "hit_memory");
    edge.pass_time(85);
    edge.get("/long/a").await.expect(200, "hit_memory");
    edge.get("/a").await.expect(200, "miss");
    edge.get("/plain").await.expect(200, "miss");
}

#[tokio::test]
async fn of_a_query_only_what_is_kept_counts() {
    let origin = Origin::start().await;
    for target in ["/a?b=1&c=2", "/a?c=2", "/a"] {
        origin.say(target, fresh("one"));
    }
    let kept = edge(&origin).await;
    kept.get("/a?b=1&c=2").await.expect(200, "miss");
    kept.get("/a?c=2").await.expect(200, "miss");
    let only = edge_with(&origin, "query = \"only\"\nquery_names = [\"c\"]").await;
    only.get("/a?b=1&c=2").await.expect(200, "miss");
    only.get("/a?c=2&b=3").await.expect(200, "hit_memory");
    let dropped = edge_with(&origin, "query = \"drop\"").await;
    dropped.get("/a?b=1").await.expect(200, "miss");
    dropped.get("/a?x").await.expect(200, "hit_memory");
}

#[tokio::test]
async fn the_site_sets_and_removes_fields() {
    let origin = Origin::start().await;
    origin.say("/a", fresh("one").field("server", "old").field("x-a", "1"));
    let settings = "set_headers = [\"X-A: 2\"]\nremove_headers = [\"Server\"]";
    let edge = edge_with(&origin, settings).await;
    for outcome in ["miss", "hit_memory"] {
        let said = edge.get("/a").await;
        assert_eq!(said.expect(200, outcome).field("x-a"), "2");
        assert!(!said.headers.contains_key("server"));
    }
}

#[tokio::test]
async fn a_targeted_field_counts_where_the_site_names_it() {
    let origin = Origin::start().await;
    let script = says("one").field("cache-control", "no-store").field("own-control", "max-age=60");
    origin.say("/a", script.field("surrogate-key", "x"));
    let plain = edge(&origin).await;
    plain.get("/a").await.expect(200, "pass");
    let edge = edge_with(&origin, "targeted = [\"Own-Control\"]").await;
    edge.get("/a").await.expect(200, "miss");
    let said = edge.get("/a").await;
    assert!(!said.expect(200, "hit_memory").headers.contains_key("surrogate-key"));
}

#[tokio::test]
async fn nothing_that_no_key_has_reaches_the_origin() {
    let origin = Origin::start().await;
    origin.say("/a", fresh("one"));
    let edge = edge(&origin).await;
    let fields = [
        ("x-forwarded-host", "evil.example"),
        ("x-original-url", "/admin"),
        ("connection", "x-secret"),
        ("x-secret", "1"),
        ("x-request-id", "1"),
        ("if-none-match", "\"a\""),
        ("range", "bytes=0-0"),
    ];
    edge.read_with("/a", &fields[..6]).await.expect(200, "miss");
    let asked = &origin.asked("/a")[0];
    for (name, _) in [("x-original-url", ""), ("x-secret", ""), ("if-none-match", "")] {
        assert_eq!(asked.field(name), None, "{name}");
    }
    assert_eq!(asked.field("x-request-id"), Some("1"));
    assert_eq!(asked.field("x-forwarded-proto"), Some("http"));
    assert_ne!(asked.field("x-forwarded-host"), Some("evil.example"));
    assert!(asked.field("cdn-loop").is_some());
}

#[tokio::test]
async fn a_purge_forgets_every_variant() {
    let origin = Origin::start().await;
    origin.say("/a", fresh("one").field("vary", "accept-a"));
    let edge = edge(&origin).await;
    for value in ["1", "2"] {
        edge.read_with("/a", &[("accept-a", value)]).await.expect(200, "miss");
        edge.read_with("/a", &[("accept-a", value)]).await.expect(200, "hit_memory");
    }
    edge.purge("{\"path\": \"/a\"}").await;
    for value in ["1", "2"] {
        edge.read_with("/a", &[("accept-a", value)]).await.expect(200, "miss");
    }
}
