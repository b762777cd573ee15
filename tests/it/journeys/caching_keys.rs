//! Each key of `[site.caching]` at the site and in a rule, if the scenarios of generic sites do
//! not show it already.

use crate::harness::{Edge, Origin, Script, Setup, says};

async fn edge_with(origin: &Origin, caching: &str) -> Edge {
    let site = format!("kind = \"generic\"\n[site.caching]\n{caching}");
    Setup::default().site(&site).start(&[origin]).await
}

/// The same keys for the site, and for some paths of a site that says otherwise.
fn for_site_and_rule(keys: &str, otherwise: &str) -> [String; 2] {
    [
        keys.to_owned(),
        format!("{otherwise}\n[[site.caching.rule]]\npaths = [\"/none\", \"/a*\"]\n{keys}"),
    ]
}

#[tokio::test]
async fn what_does_not_state_a_lifetime_gets_the_default_for_the_statuses() {
    let keys = "ttl_default = \"30s\"\nstatuses = [\"200\", \"403\"]";
    for caching in for_site_and_rule(keys, "ttl_default = \"5s\"") {
        let origin = Origin::start().await;
        origin.say("/a", says("one"));
        origin.say("/a-403", Script::status(403));
        origin.say("/a-404", Script::status(404));
        let edge = edge_with(&origin, &caching).await;
        edge.get("/a").await.expect(200, "miss");
        edge.get("/a-403").await.expect(403, "miss");
        edge.pass_time(29);
        edge.get("/a").await.expect(200, "hit_memory");
        edge.get("/a-403").await.expect(403, "hit_memory");
        edge.pass_time(1);
        edge.get("/a").await.expect(200, "miss");
        edge.get("/a-404").await;
        edge.get("/a-404").await;
        assert_eq!(origin.count("/a-404"), 2, "not one of the statuses");
    }
}

#[tokio::test]
async fn a_lifetime_is_bounded_from_both_sides() {
    let keys = "ttl_min = \"20s\"\nttl_max = \"40s\"";
    for caching in for_site_and_rule(keys, "ttl_min = \"1s\"\nttl_max = \"2s\"") {
        let origin = Origin::start().await;
        let edge = edge_with(&origin, &caching).await;
        for (path, control, fresh_for) in
            [("/a1", "max-age=5", 20), ("/a2", "max-age=30", 30), ("/a3", "max-age=500", 40)]
        {
            origin.say(path, says("one").field("cache-control", control));
            edge.get(path).await.expect(200, "miss");
            edge.pass_time(fresh_for - 1);
            edge.get(path).await.expect(200, "hit_memory");
            edge.pass_time(1);
            edge.get(path).await.expect(200, "miss");
        }
        origin.say("/a4", says("one").field("cache-control", "no-store"));
        for _ in 0..2 {
            edge.get("/a4").await.expect(200, "pass");
        }
    }
}

#[tokio::test]
async fn stale_windows_count_where_a_response_does_not_say_so_itself() {
    let keys = "stale_while_revalidate = \"20s\"\nstale_if_error = \"50s\"";
    for caching in for_site_and_rule(keys, "stale_if_error = \"0s\"") {
        let origin = Origin::start().await;
        let edge = edge_with(&origin, &caching).await;
        let own = "max-age=60, stale-while-revalidate=0, stale-if-error=0";
        for (path, control) in [("/a", "max-age=60"), ("/a-own", own)] {
            origin.say(path, says("one").field("cache-control", control));
            edge.get(path).await.expect(200, "miss");
        }
        edge.pass_time(79);
        edge.get("/a").await.expect(200, "hit_stale");
        edge.until_idle().await;
        edge.get("/a").await.expect(200, "hit_memory");
        edge.get("/a-own").await.expect(200, "miss");
        edge.pass_time(109);
        for path in ["/a", "/a-own"] {
            origin.say(path, Script::status(503));
        }
        edge.get("/a").await.expect(200, "hit_stale");
        edge.get("/a-own").await.expect(503, "pass");
        edge.pass_time(1);
        edge.get("/a").await.expect(503, "pass");
    }
}

#[tokio::test]
async fn what_is_set_and_removed_is_so_on_every_answer() {
    let origin = Origin::start().await;
    let caching = "set_headers = [\"X-A: 2\", \"X-B: 3\"]\n\
                   remove_headers = [\"Server\", \"Set-Cookie\"]";
    let edge = edge_with(&origin, caching).await;
    let script = says("one").etag("\"a\"").field("server", "old").field("x-a", "1");
    let script = script.field("set-cookie", "a=b");
    origin.say("/a", script.clone().field("cache-control", "max-age=60"));
    origin.say("/pass", script.field("cache-control", "no-store"));
    let mut said = vec![edge.get("/a").await, edge.get("/a").await, edge.get("/pass").await];
    said.push(edge.read_with("/a", &[("if-none-match", "\"a\"")]).await);
    said.push(edge.client().post("/pass", &[], "x").await);
    said.push(edge.client().ask("TRACE", "/a", &[]).await);
    origin.die();
    said.push(edge.get("/down").await);
    let statuses: Vec<u16> = said.iter().map(|said| said.status.as_u16()).collect();
    assert_eq!(statuses, [200, 200, 200, 304, 200, 405, 502]);
    for said in said {
        assert_eq!((said.field("x-a"), said.field("x-b")), ("2", "3"), "{said:?}");
        let has_any = ["server", "set-cookie"].iter().any(|name| said.headers.contains_key(*name));
        assert!(!has_any, "{said:?}");
    }
}

#[tokio::test]
async fn a_purge_takes_paths_and_queries_as_requests_do() {
    let origin = Origin::start().await;
    for target in ["/", "/a b", "/q?c=2"] {
        origin.say(target, says("one").field("cache-control", "max-age=60"));
    }
    let caching = "query = \"only\"\nquery_names = [\"c\"]";
    let edge = edge_with(&origin, caching).await;
    for (asked, purged) in [("/", "/"), ("/a%20b", "/a%20b"), ("/q?b=1&c=2", "/q?c=2&x=5")] {
        edge.get(asked).await.expect(200, "miss");
        edge.get(asked).await.expect(200, "hit_memory");
        let said = edge.purge(&format!("{{\"path\": \"{purged}\"}}")).await;
        assert!(said.text().contains(":1"), "{purged}: {said:?}");
        edge.get(asked).await.expect(200, "miss");
    }
}
