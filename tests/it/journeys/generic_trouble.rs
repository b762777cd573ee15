//! Sites of kind `generic` with an origin that answers some requests badly: what follows is for the
//! object or the path that failed, and for nothing else.

use crate::harness::{Edge, Fault, Gate, Origin, Script, Setup, noise, says};
use std::time::Duration;

fn fresh(body: &'static str) -> Script {
    says(body).field("cache-control", "max-age=5")
}

async fn edge(origin: &Origin) -> Edge {
    Setup::default().site("kind = \"generic\"").start(&[origin]).await
}

/// So many clients ask at once.
async fn at_once(edge: &Edge, path: &'static str, clients: usize) {
    let asking = (0..clients).map(|_| {
        let client = edge.client();
        tokio::spawn(async move { client.get(path).await })
    });
    for asked in asking.collect::<Vec<_>>() {
        assert_eq!(asked.await.unwrap().status, 200);
    }
}

/// FAULTS.md G10, C3.
#[tokio::test]
async fn an_error_sends_no_client_to_the_origin_alone() {
    for first in [
        Script::status(404),
        Script::status(500),
        fresh("one").until_close(),
        says("one").field("cache-control", "private"),
    ] {
        let origin = Origin::start().await;
        let edge = edge(&origin).await;
        origin.say_in_turn("/a", vec![first, fresh("two")]);
        edge.get("/a").await;
        // What is stored ends that every client asks alone.
        edge.get("/a").await.expect(200, "miss").with(b"two");
        edge.pass_time(6);
        let before = origin.count("/a");
        let gate = Gate::default();
        origin.say("/a", fresh("two").held(&gate));
        let asking = async {
            origin.until_asked("/a", before + 1).await;
            edge.get("/none").await.expect(404, "pass");
            gate.open();
        };
        tokio::join!(at_once(&edge, "/a", 12), asking);
        assert_eq!(origin.count("/a"), before + 1);
    }
}

/// FAULTS.md C3.
#[tokio::test]
async fn the_minute_in_which_every_client_asks_alone_begins_with_the_answer() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    let (slow, gate) = (Gate::default(), Gate::default());
    let private = says("one").field("cache-control", "private");
    origin.say_in_turn("/a", vec![private.clone().held(&slow), private.held(&gate)]);
    let asking = async {
        origin.until_asked("/a", 1).await;
        edge.pass_time(61);
        slow.open();
    };
    tokio::join!(at_once(&edge, "/a", 1), asking);
    let asking = async {
        origin.until_asked("/a", 4).await;
        gate.open();
    };
    tokio::join!(at_once(&edge, "/a", 3), asking);
}

#[tokio::test]
async fn a_purge_ends_that_every_client_asks_alone() {
    for purge in ["{\"path\": \"/a\"}", "{\"prefix\": \"/\"}", "{\"all\": true}"] {
        let origin = Origin::start().await;
        let edge = edge(&origin).await;
        let private = says("one").field("cache-control", "private");
        origin.say("/a", private);
        edge.get("/a").await.expect(200, "pass");
        edge.purge(purge).await.expect_status(200);
        let gate = Gate::default();
        origin.say("/a", fresh("two").held(&gate));
        let asking = async {
            origin.until_asked("/a", 2).await;
            edge.get("/none").await.expect(404, "pass");
            gate.open();
        };
        tokio::join!(at_once(&edge, "/a", 30), asking);
        assert_eq!(origin.count("/a"), 2, "{purge}");
    }
}

/// FAULTS.md G7.
#[tokio::test]
async fn a_path_that_throttles_holds_up_no_other() {
    for status in [429, 503] {
        let origin = Origin::start().await;
        origin.say("/api", Script::status(status).field("retry-after", "60"));
        origin.say("/a", fresh("one"));
        let edge = edge(&origin).await;
        let said = edge.get("/api").await;
        assert_eq!((said.status.as_u16(), said.field("retry-after")), (status, "60"));
        let asked = tokio::time::timeout(Duration::from_secs(10), edge.get("/a")).await;
        asked.expect("no wait for another path").expect(200, "miss");
    }
}

/// FAULTS.md G1.
#[tokio::test]
async fn an_origin_that_refuses_unknown_paths_comes_back() {
    let origin = Origin::start().await;
    origin.say("/a", fresh("one"));
    let scans: Vec<_> = (0..12).map(|number| format!("/scan{number}")).collect();
    // As `return 444` does, for all that is not known.
    let unknown = [&["/".to_owned()], &scans[..]].concat();
    origin.fail_at(&unknown, Fault::ResetBeforeHead);
    let breaker = "[site.origin.breaker]\nfailures = 3\nopen_max = \"1s\"";
    let table = format!("url = \"{}\"\nname = \"one\"\n{breaker}", origin.url());
    let edge = Setup::default().site("kind = \"generic\"").start_before(&[table]).await;
    for scan in &scans {
        edge.get(scan).await.expect(502, "origin_failed");
    }
    edge.until_metric("narthex_origin_breaker_state{origin=\"one\"}", 2).await;
    for _ in 0..1_000 {
        let said = edge.get("/a").await;
        if said.status == 200 {
            said.expect(200, "miss");
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came back");
}

/// FAULTS.md G1.
#[tokio::test]
async fn the_probe_of_a_generic_site_asks_for_its_root() {
    let origin = Origin::start().await;
    origin.say("/", Script::status(403));
    let edge = Setup::default().site("kind = \"generic\"");
    let url = format!("url = \"{}\"\nname = \"origin-0\"", origin.url());
    let _edge = edge.start_before(&[url]).await;
    origin.until_asked("/", 1).await;
    assert_eq!(origin.asked("/")[0].method, "HEAD");
    assert_eq!(origin.count("/nix-cache-info"), 0);
}

/// FAULTS.md G2.
#[tokio::test]
async fn a_request_for_no_path_is_answered_here_or_refused() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    let said = edge.client().ask("OPTIONS", "*", &[]).await;
    assert_eq!((said.status.as_u16(), said.body.len()), (204, 0));
    assert!(said.field("allow").contains("GET"));
    for (method, target) in [("GET", "*"), ("POST", "*")] {
        edge.client().ask(method, target, &[]).await.expect(400, "refused");
    }
    assert_eq!(origin.count_all(), 0);
}

/// FAULTS.md G16d.
#[tokio::test]
async fn a_request_that_may_go_no_further_is_answered_here() {
    let origin = Origin::start().await;
    origin.say("/a", Script::status(204));
    let edge = edge(&origin).await;
    let none = [("max-forwards", "0")];
    let said = edge.client().ask("OPTIONS", "/a", &none).await;
    assert_eq!((said.status.as_u16(), origin.count("/a")), (204, 0));
    edge.client().ask("OPTIONS", "/a", &[("max-forwards", "2")]).await.expect(204, "pass");
    assert_eq!(origin.asked("/a")[0].field("max-forwards"), Some("1"));
}

/// FAULTS.md G15.
#[tokio::test]
async fn a_folder_lacks_files_without_being_a_binary_cache() {
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("a"), "one").unwrap();
    let url = format!("url = \"file://{}\"", folder.path().display());
    let edge = Setup::default().site("kind = \"generic\"").start_before(&[url]).await;
    assert_eq!(edge.get("/a").await.expect(200, "miss").text(), "one");
    for path in ["/b", "/c/d", "/", "/a%2Fb", "//a"] {
        assert_eq!(edge.get(path).await.status, 404, "{path}");
    }
    edge.get("/x/../a").await.expect(200, "revalidated");
    assert_eq!(edge.client().post("/a", &[], "x").await.status, 405);
    drop(folder);
    assert_eq!(edge.get("/b").await.status, 502);
}

/// FAULTS.md G19a.
#[tokio::test]
async fn a_fallback_gets_no_credentials_that_were_meant_for_another_origin() {
    let (main, fallback) = (Origin::start().await, Origin::start().await);
    main.say("/a", Script::status(503));
    fallback.say("/a", says("one"));
    let tables = [(&main, 1), (&fallback, 2)].map(|(origin, priority)| {
        format!("url = \"{}\"\nname = \"{priority}\"\npriority = {priority}", origin.url())
    });
    let edge = Setup::default().site("kind = \"generic\"").start_before(&tables).await;
    let fields = [("authorization", "Bearer secret"), ("cookie", "a=b"), ("accept", "text/x")];
    assert_eq!(edge.read_with("/a", &fields).await.status, 200);
    assert_eq!(main.asked("/a")[0].field("authorization"), Some("Bearer secret"));
    let asked = &fallback.asked("/a")[0];
    assert_eq!((asked.field("authorization"), asked.field("cookie")), (None, None));
    assert_eq!(asked.field("accept"), Some("text/x"));
}

/// FAULTS.md G19a.
#[tokio::test]
async fn a_body_goes_on_from_a_fallback_without_the_credentials_of_its_client() {
    let (main, fallback) = (Origin::start().await, Origin::start().await);
    let body = noise(7, 1 << 20);
    let whole = says(body.clone()).field("cache-control", "no-store").etag("\"same\"");
    main.say_in_turn("/a", vec![whole.clone().cut_at(400_000), Script::status(404)]);
    fallback.say("/a", whole);
    let tables = [(&main, 1), (&fallback, 2)].map(|(origin, priority)| {
        format!("url = \"{}\"\nname = \"{priority}\"\npriority = {priority}", origin.url())
    });
    let edge = Setup::default().site("kind = \"generic\"").start_before(&tables).await;
    let fields = [("authorization", "Bearer secret"), ("cookie", "a=b")];
    edge.read_with("/a", &fields).await.expect(200, "pass").with(&body);
    let first = &main.asked("/a")[0];
    assert_eq!(first.field("authorization"), Some("Bearer secret"));
    let rest = &fallback.asked("/a")[0];
    assert_eq!(rest.field("range"), Some("bytes=400000-"));
    assert_eq!((rest.field("authorization"), rest.field("cookie")), (None, None));
}

/// The end of the second answer shows nothing: it may be cut off.
#[tokio::test]
async fn a_chunked_body_does_not_go_on_with_one_that_ends_with_its_connection() {
    let origin = Origin::start().await;
    let body = noise(8, 1 << 20);
    let script = |body| says(body).field("cache-control", "max-age=60").etag("\"same\"");
    let cut = script(body.clone()).chunked().cut_at(400_000);
    let short = script(body.slice(..900_000)).without_ranges().until_close();
    origin.say_in_turn("/a", vec![cut, short, script(body.clone())]);
    let edge = edge(&origin).await;
    assert!(edge.client().begin("/a", &[]).await.rest().await.is_cut);
    edge.get("/a").await.expect(200, "miss").with(&body);
}

/// FAULTS.md G16h.
#[tokio::test]
async fn an_answer_to_a_request_for_a_part_is_none_to_another() {
    let origin = Origin::start().await;
    for status in [206, 304] {
        origin.say("/a", Script::status(status).field("content-range", "bytes 0-1/5"));
        let edge = edge(&origin).await;
        edge.get("/a").await.expect(502, "origin_failed");
        assert_eq!(edge.client().post("/a", &[], "x").await.status, 502);
    }
}

/// FAULTS.md G16b.
#[tokio::test]
async fn a_variant_in_another_language_stays_when_it_is_confirmed() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    let script = fresh("one").etag("\"1\"").field("vary", "accept-language");
    origin.say("/a", script.field("content-language", "de"));
    let ask = async |language| edge.read_with("/a", &[("accept-language", language)]).await;
    ask("de").await.expect(200, "miss");
    edge.pass_time(6);
    ask("de, en;q=0.5").await.expect(200, "revalidated");
    ask("de").await.expect(200, "revalidated");
    ask("de").await.expect(200, "hit_memory");
}

/// FAULTS.md C6d.
#[tokio::test]
async fn a_purge_of_a_path_leaves_its_queries_and_one_of_a_prefix_takes_them() {
    let origin = Origin::start().await;
    let edge = edge(&origin).await;
    for target in ["/a", "/a?b=1"] {
        origin.say(target, fresh("one"));
        edge.get(target).await.expect(200, "miss");
    }
    assert!(edge.purge("{\"path\": \"/a\"}").await.text().contains(":1"));
    edge.get("/a?b=1").await.expect(200, "hit_memory");
    edge.get("/a").await.expect(200, "miss");
    assert!(edge.purge("{\"prefix\": \"/a\"}").await.text().contains(":2"));
    for target in ["/a", "/a?b=1"] {
        edge.get(target).await.expect(200, "miss");
    }
}
