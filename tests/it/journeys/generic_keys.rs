//! Sites of kind `generic`: what an origin is asked is what the key says, for every request: host,
//! scheme, path, fields, and the kind of the site.

use crate::harness::{Edge, Origin, Script, Setup, says};

const FRESH: &str = "max-age=60";

fn fresh(body: &'static str) -> Script {
    says(body).field("cache-control", FRESH)
}

async fn edge_with(origin: &Origin, site: &str) -> Edge {
    Setup::default().site(&format!("{site}\nkind = \"generic\"")).start(&[origin]).await
}

/// FAULTS.md G5.
#[tokio::test]
async fn a_host_that_the_site_does_not_name_reaches_no_origin() {
    let origin = Origin::start().await;
    origin.say("/a", fresh("one"));
    let edge = edge_with(&origin, "").await;
    let evil = [("host", "evil.example"), ("x-forwarded-host", "evil.example")];
    edge.read_with("/a", &evil).await.expect(200, "miss");
    edge.read_with("/a", &[("host", "good.example")]).await.expect(200, "hit_memory");
    assert_eq!(origin.asked("/a")[0].field("x-forwarded-host"), None);
}

/// FAULTS.md G5.
#[tokio::test]
async fn each_host_of_a_site_has_answers_of_its_own() {
    let origin = Origin::start().await;
    let edge = edge_with(&origin, "hosts = [\"a.example\", \"b.example\"]").await;
    for (host, body) in [("a.example:8080", "of a"), ("b.example", "of b")] {
        origin.say("/a", fresh(body));
        edge.read_with("/a", &[("host", host)]).await.expect(200, "miss");
    }
    for (at, host, body) in [(0, "A.example", "of a"), (1, "b.example:80", "of b")] {
        let said = edge.read_with("/a", &[("host", host)]).await;
        said.expect(200, "hit_memory").with(body.as_bytes());
        let forwarded = origin.asked("/a")[at].field("x-forwarded-host").map(str::to_owned);
        assert_eq!(forwarded, host.split(':').next().map(str::to_lowercase));
    }
    edge.purge("{\"path\": \"/a\"}").await.expect_status(200);
    for host in ["a.example", "b.example"] {
        edge.read_with("/a", &[("host", host)]).await.expect(200, "miss");
    }
    edge.client().post("/a", &[("host", "a.example")], "x").await.expect(200, "pass");
    edge.read_with("/a", &[("host", "b.example")]).await.expect(200, "miss");
}

/// FAULTS.md G5.
#[tokio::test]
async fn the_port_of_a_listener_is_told_and_has_answers_of_its_own() {
    let origin = Origin::start().await;
    origin.say("/a", fresh("one"));
    let edge = edge_with(&origin, "hosts = [\"a.example\"]").await;
    let named = format!("a.example:{}", edge.client().address.port());
    for (at, host) in [&*named, "a.example"].into_iter().enumerate() {
        edge.read_with("/a", &[("host", host)]).await.expect(200, "miss");
        edge.read_with("/a", &[("host", host)]).await.expect(200, "hit_memory");
        assert_eq!(origin.asked("/a")[at].field("x-forwarded-host"), Some(host));
    }
    edge.read_with("/a", &[("host", "a.example:1")]).await.expect(200, "hit_memory");
    edge.purge("{\"path\": \"/a\"}").await.expect_status(200);
    for host in [&*named, "a.example"] {
        edge.read_with("/a", &[("host", host)]).await.expect(200, "miss");
    }
}

/// FAULTS.md G12.
#[tokio::test]
async fn what_varies_by_a_field_that_the_edge_sends_is_found_again() {
    for vary in ["Host", "X-Forwarded-Proto", "X-Forwarded-Host, Accept-Encoding"] {
        let origin = Origin::start().await;
        origin.say("/a", fresh("one").field("vary", vary));
        let edge = edge_with(&origin, "").await;
        edge.get("/a").await.expect(200, "miss");
        edge.get("/a").await.expect(200, "hit_memory");
        let other = [("x-forwarded-proto", "gopher"), ("x-forwarded-host", "evil.example")];
        edge.read_with("/a", &other).await.expect(200, "hit_memory");
    }
}

/// FAULTS.md G8.
#[tokio::test]
async fn dot_segments_are_gone_before_key_and_request() {
    let origin = Origin::start().await;
    origin.say("/public/dot", fresh("one"));
    let edge = Setup::default().site("kind = \"generic\"");
    let url = format!("url = \"{}/public\"\nname = \"origin-0\"", origin.url());
    let edge = edge.start_before(&[url]).await;
    edge.get("/dot").await.expect(200, "miss");
    for path in ["/x/../dot", "/./dot", "/%2e/dot", "/x/%2E%2e/dot", "/x/y/../../dot"] {
        edge.get(path).await.expect(200, "hit_memory");
    }
    for path in ["/../secret", "/%2e%2e/secret", "/x/../../secret", "/..%2fsecret", "/x%5c..%5cy"] {
        edge.get(path).await.expect(400, "refused");
    }
    for path in ["/..;/secret", "/x/..;a=b/..;/secret", "/%2e%2e%3b/secret", "/.;/dot"] {
        edge.get(path).await.expect(400, "refused");
    }
    edge.get("/dot;v=1").await.expect(404, "pass");
    assert_eq!(origin.count("/public/dot;v=1"), 1);
    assert_eq!(origin.count("/secret") + origin.count("/public/../secret"), 0);
}

/// FAULTS.md G16g.
#[tokio::test]
async fn only_fields_that_are_known_to_be_harmless_reach_the_origin() {
    let origin = Origin::start().await;
    origin.say("/a", fresh("one"));
    origin.say("/b", fresh("one"));
    let harmful = [
        ("x-http-method", "DELETE"),
        ("x-original-host", "evil.example"),
        ("x-forwarded-ssl", "on"),
        ("front-end-https", "on"),
        ("x-requested-with", "XMLHttpRequest"),
        ("x-xsrf-token", "1"),
        ("x-unknown", "1"),
    ];
    let harmless = [("accept", "text/html"), ("cookie", "a=b"), ("x-request-id", "x")];
    let fields = [&harmful[..], &harmless[..]].concat();
    let edge = edge_with(&origin, "").await;
    edge.read_with("/a", &fields).await.expect(200, "miss");
    let asked = &origin.asked("/a")[0];
    for (name, _) in harmful {
        assert_eq!(asked.field(name), None, "{name}");
    }
    for (name, value) in harmless {
        assert_eq!(asked.field(name), Some(value), "{name}");
    }
    // What is not stored has what is of an application's own.
    edge.client().post("/a", &fields, "x").await.expect(200, "pass");
    let asked = &origin.asked("/a")[1];
    assert_eq!(asked.field("x-unknown"), Some("1"));
    assert_eq!(asked.field("x-requested-with"), Some("XMLHttpRequest"));
    assert_eq!(asked.field("x-original-host"), None);
    let caching = "[site.caching]\nrequest_headers = [\"X-Unknown\"]\n";
    let site = format!("kind = \"generic\"\n{caching}");
    let edge = Setup::default().site(&site).start(&[&origin]).await;
    edge.read_with("/b", &fields).await.expect(200, "miss");
    assert_eq!(origin.asked("/b")[0].field("x-unknown"), Some("1"));
}

/// FAULTS.md G11.
#[tokio::test]
async fn cookies_in_many_lines_are_one_field() {
    let origin = Origin::start().await;
    origin.say("/a", fresh("one"));
    let edge = edge_with(&origin, "").await;
    let names: Vec<String> = (0..70).map(|number| format!("c{number}=1")).collect();
    let cookies: Vec<(&str, &str)> = names.iter().map(|cookie| ("cookie", &**cookie)).collect();
    let client = edge.client();
    let arriving = client.begin_http2(&[("/a", &cookies)], 65_535).await.remove(0);
    arriving.rest().await.expect(200, "miss");
    let asked = &origin.asked("/a")[0];
    assert_eq!(asked.fields.iter().filter(|(name, _)| name == "cookie").count(), 1);
    assert_eq!(asked.field("cookie"), Some(&*names.join("; ")));
}

/// FAULTS.md G6.
#[tokio::test]
async fn what_a_generic_site_stored_is_nothing_to_a_binary_cache() {
    let origin = Origin::start().await;
    let narinfo = "/00000000000000000000000000000000.narinfo";
    origin.say(narinfo, fresh("not a narinfo"));
    let mut edge = Setup::default().site("kind = \"generic\"").start(&[&origin]).await;
    edge.get(narinfo).await.expect(200, "miss");
    edge.get(narinfo).await.expect(200, "hit_memory");
    let key = crate::harness::trusted_key().public_key().unwrap().to_string();
    let binary = format!("signatures = \"require\"\ntrusted_public_keys = [\"{key}\"]\n");
    let (before, after) = edge.text.split_once("kind = \"generic\"").unwrap();
    let after = after.replace("[site.caching]", "[site.lifetimes]");
    edge.text = format!("{before}{binary}{after}");
    edge.reload(&edge.text).await.unwrap();
    assert_eq!(edge.get(narinfo).await.status, 502);
    edge.restart().await;
    assert_eq!(edge.get(narinfo).await.status, 502);
}

/// FAULTS.md G16f.
#[tokio::test]
async fn a_query_counts_for_nothing_in_the_length_of_a_path() {
    let origin = Origin::start().await;
    let query = "q".repeat(900);
    origin.say(&format!("/a?{query}"), fresh("one"));
    let limits = "[server.limits]\npath_bytes_max = \"512B\"";
    let setup = Setup::default().tables(limits).site("kind = \"generic\"");
    let edge = setup.start(&[&origin]).await;
    edge.get(&format!("/a?{query}")).await.expect(200, "miss").with(b"one");
    edge.get(&format!("/a?{query}")).await.expect(200, "hit_memory").with(b"one");
    let long = format!("/{}", "a".repeat(512));
    assert_eq!(edge.get(&long).await.status, 414);
    assert_eq!(edge.get(&long[..512]).await.status, 404);
}
