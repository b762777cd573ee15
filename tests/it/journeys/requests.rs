//! Requests that are refused, and what of a request reaches an origin.

use crate::harness::{Edge, Origin, Package, Script, Setup, noise, path_of_nar, says};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[tokio::test]
async fn malformed_paths_are_400_and_no_origin_is_asked() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    for path in [
        "/%2e%2e/x",
        "/nar/%2E%2e/x.narinfo",
        "/nar/../x",
        "/%00",
        "/nar/a%00.nar",
        "/%zz",
        "/%4",
        "/%",
        "//nar/x.nar",
        "/nar//x.nar",
        "/nar/%2f%2fx",
    ] {
        let said = edge.get(path).await;
        assert_eq!(said.outcome(), "refused", "{path} {said:?}");
        assert!([400, 404].contains(&said.status.as_u16()), "{path} {said:?}");
    }
    for path in ["/%2e%2e", "/%00", "/%zz", "//x.narinfo"] {
        assert_eq!(edge.get(path).await.status, 400, "{path}");
    }
    let long = format!("/nar/{}", "x".repeat(3_000));
    assert_eq!(edge.get(&long).await.status, 414);
    assert_eq!(origin.count_all(), 0);
}

#[tokio::test]
async fn paths_outside_a_binary_cache_are_404_and_no_origin_is_asked() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    for path in [
        "/robots.txt",
        "/favicon.ico",
        "/short.narinfo",
        "/nar/a/../../b",
        "/.git/config",
        "/0c5x60p6h2p6jvqqs4x8rcwh3pg9z1nv.narinfo/x.css",
        "/nar/",
    ] {
        let said = edge.get(path).await;
        assert_eq!(said.outcome(), "refused", "{path}");
        assert!([400, 404].contains(&said.status.as_u16()), "{path}");
    }
    assert_eq!(edge.get("/robots.txt").await.status, 404);
    assert_eq!(origin.count_all(), 0);
    let name = "narthex_requests_refused_total{reason=\"outside_cache\"}";
    assert!(edge.metric(name).await >= 5);
}

#[tokio::test]
async fn a_query_is_dropped() {
    let origin = Origin::start().await;
    let package = Package::new(1, 10);
    let path = &package.narinfo_path;
    origin.say(path, says(package.narinfo()));
    let edge = Edge::before(&origin).await;
    edge.get(&format!("{path}?a=1")).await.expect(200, "miss");
    edge.get(&format!("{path}?b=2")).await.expect(200, "hit_memory");
    edge.get(path).await.expect(200, "hit_memory");
    assert_eq!((origin.count(path), origin.count_all()), (1, 1));
}

#[tokio::test]
async fn a_query_that_a_narinfo_names_is_kept() {
    let origin = Origin::start().await;
    let mut edge = Edge::before(&origin).await;
    let one = Package::at(2, 100_000, "/nar/x.nar?hash=one");
    let two = Package::at(3, 100_000, "/nar/x.nar?hash=two");
    for package in [&one, &two] {
        origin.say(&package.narinfo_path, says(package.narinfo()));
        origin.say(&package.nar_path, says(package.nar.clone()));
        edge.get(&package.narinfo_path).await.expect(200, "miss");
    }
    for package in [&one, &two] {
        edge.get(&package.nar_path).await.expect(200, "miss").with(&package.nar);
    }
    edge.until_idle().await;
    edge.restart().await;
    for package in [&one, &two] {
        edge.get(&package.nar_path).await.expect(200, "hit_disk").with(&package.nar);
        assert_eq!(origin.count(&package.nar_path), 1);
    }
    edge.get("/nar/x.nar?hash=three").await.expect(404, "absent");
    assert_eq!(origin.count("/nar/x.nar?hash=three"), 1);
}

/// A client remembers narinfos for longer than they are stored here.
#[tokio::test]
async fn the_query_of_a_nar_is_sent_on_if_its_narinfo_is_not_known() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    let package = Package::at(5, 100_000, "/nar/x.nar?hash=one");
    origin.say("/nar/x.nar", Script::status(400));
    origin.say(&package.nar_path, says(package.nar.clone()));
    edge.get(&package.nar_path).await.expect(200, "miss").with(&package.nar);
    edge.until_idle().await;
    edge.get(&package.nar_path).await.expect(200, "hit_disk").with(&package.nar);
    origin.say(&package.narinfo_path, says(package.narinfo()));
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge.get(&package.nar_path).await.expect(200, "hit_disk").with(&package.nar);
    assert_eq!((origin.count(&package.nar_path), origin.count("/nar/x.nar")), (1, 0));
}

/// HOSTILE.md row 11.
#[tokio::test]
async fn no_query_leads_past_a_nar_that_is_stored_or_named_without_one() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    let (named, stored) = (Package::new(6, 100_000), Package::at(7, 100_000, "/nar/s.nar"));
    let proven = noise(8, 100_000);
    let proven_path = path_of_nar(&proven, "nar.xz");
    origin.say(&named.narinfo_path, says(named.narinfo()));
    edge.get(&named.narinfo_path).await.expect(200, "miss");
    for (path, body) in
        [(&named.nar_path, &named.nar), (&stored.nar_path, &stored.nar), (&proven_path, &proven)]
    {
        origin.say(path, says(body.clone()));
        edge.get(path).await.expect(200, "miss").with(body);
        edge.until_idle().await;
        for query in ["a", "b=c"] {
            edge.get(&format!("{path}?{query}")).await.expect(200, "hit_disk").with(body);
        }
        assert_eq!(origin.count(path), 1);
    }
}

#[tokio::test]
async fn a_nar_may_lie_wherever_its_narinfo_says() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    let package = Package::at(4, 100_000, "/serve/a b/Some~Thing.tar");
    let narinfo = package.narinfo().replace("serve/a b/", "serve/a%20b/");
    let asked = package.nar_path.replace(' ', "%20");
    origin.say(&package.nar_path, says(package.nar.clone()));
    edge.get(&asked).await.expect(404, "refused");
    origin.say(&package.narinfo_path, says(narinfo));
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge.get(&asked).await.expect(200, "miss").with(&package.nar);
    edge.until_idle().await;
    edge.get(&asked).await.expect(200, "hit_disk").with(&package.nar);
    assert_eq!(origin.count(&package.nar_path), 1);
}

#[tokio::test]
async fn a_request_that_comes_back_is_508() {
    let origin = Origin::start().await;
    let path = Package::new(5, 10).narinfo_path;
    let edge = Edge::before(&origin).await;
    edge.read_with(&path, &[("cdn-loop", "other, edge")]).await.expect(508, "refused");
    assert_eq!(origin.count_all(), 0);
    edge.read_with(&path, &[("cdn-loop", "other; a=b")]).await.expect(404, "absent");
    assert_eq!(origin.asked(&path)[0].field("cdn-loop"), Some("other; a=b, edge"));
}

#[tokio::test]
async fn only_a_listed_host_has_a_site() {
    let (first, second) = (Origin::start().await, Origin::start().await);
    let package = Package::new(6, 10);
    let other = Package::new(7, 10).signed_by(None);
    let unsigned = Package::new(6, 10).signed_by(None).narinfo();
    first.say(&package.narinfo_path, says(package.narinfo()));
    second.say(&package.narinfo_path, says(unsigned.clone()));
    second.say(&other.narinfo_path, says(other.narinfo()));
    let tables = format!(
        "[[site]]\nname = \"second\"\nhosts = [\"second.test\"]\nsignatures = \"off\"\n\
         [[site.origin]]\nurl = \"{}\"\n",
        second.url()
    );
    let setup = Setup::default().tables(&tables).site("hosts = [\"first.test\"]");
    let edge = setup.start(&[&first]).await;
    let ask = async |host: &str, path: &str| edge.read_with(path, &[("host", host)]).await;
    let path = &package.narinfo_path;
    let one = ask("first.test", path).await;
    one.expect(200, "miss").with(package.narinfo().as_bytes());
    let two = ask("SECOND.test:8080", path).await;
    two.expect(200, "miss").with(unsigned.as_bytes());
    ask("second.test", &other.narinfo_path).await.expect(200, "miss");
    ask("third.test", path).await.expect(421, "refused");
    assert_eq!(ask("bad host", path).await.status, 400);
    // With two sites a purge must say which.
    assert_eq!(edge.purge(&format!("{{\"path\": \"{path}\"}}")).await.status, 400);
    let purge = format!("{{\"path\": \"{path}\", \"site\": \"second\"}}");
    assert!(edge.purge(&purge).await.text().contains(":1"));
    ask("first.test", path).await.expect(200, "hit_memory");
    ask("second.test", path).await.expect(200, "miss");
}

#[tokio::test]
async fn only_if_cached_asks_no_origin() {
    let origin = Origin::start().await;
    let package = Package::new(8, 10);
    let path = &package.narinfo_path;
    origin.say(path, says(package.narinfo()));
    let edge = Edge::before(&origin).await;
    let only = [("cache-control", "only-if-cached")];
    edge.read_with(path, &only).await.expect(504, "refused");
    assert_eq!(origin.count_all(), 0);
    edge.get(path).await.expect(200, "miss");
    edge.read_with(path, &only).await.expect(200, "hit_memory");
    let forced = [("cache-control", "no-cache"), ("pragma", "no-cache")];
    edge.read_with(path, &forced).await.expect(200, "hit_memory");
    assert_eq!(origin.count_all(), 1);
}

#[tokio::test]
async fn methods() {
    let origin = Origin::start().await;
    let path = Package::new(9, 10).narinfo_path;
    let edge = Edge::before(&origin).await;
    let preflight = edge.client().ask("OPTIONS", &path, &[("origin", "https://x.test")]).await;
    preflight.expect(204, "local").with(b"");
    assert_eq!(preflight.field("access-control-allow-origin"), "*");
    assert_eq!(preflight.field("access-control-allow-methods"), "GET, HEAD, OPTIONS");
    for method in ["POST", "PUT", "DELETE", "PATCH", "PURGE", "TRACE"] {
        let said = edge.client().ask(method, &path, &[]).await;
        assert_eq!(said.status, 405, "{method}");
        assert_eq!(said.field("allow"), "GET, HEAD, OPTIONS");
    }
    assert_eq!(origin.count_all(), 0);
}

#[tokio::test]
async fn nothing_of_a_clients_fields_reaches_an_origin() {
    let origin = Origin::start().await;
    let path = format!("/nar/{}.nar.xz", "x".repeat(52));
    let edge = Edge::before(&origin).await;
    let fields = [
        ("authorization", "Basic eDp5"),
        ("cookie", "a=b"),
        ("x-forwarded-host", "evil"),
        ("x-amz-date", "evil"),
        ("connection", "host, x-amz-date"),
        ("accept-encoding", "gzip"),
        ("range", "bytes=0-5"),
        ("if-none-match", "\"x\""),
    ];
    edge.read_with(&path, &fields).await.expect(404, "absent");
    let asked = &origin.asked(&path)[0];
    for (name, _) in fields {
        // The edge asks for whole chunks.
        let own = (name == "range").then_some("bytes=0-1048575");
        assert_eq!(asked.field(name), own, "{name}");
    }
    assert_eq!(asked.field("host"), Some(&origin.url()["http://".len()..]));
}

#[tokio::test]
async fn a_path_reaches_an_origin_strictly_encoded() {
    let origin = Origin::start().await;
    let path = "/log/0c5x60p6h2p6jvqqs4x8rcwh3pg9z1nv-g++.drv";
    let body = noise(10, 100);
    origin.say(path, says(body.clone()));
    let edge = Edge::before(&origin).await;
    edge.get(path).await.expect(200, "miss").with(&body);
    edge.get(&path.replace('+', "%2b")).await.expect(200, "hit_memory");
    assert_eq!(origin.asked(path)[0].raw_target, path.replace('+', "%2B"));
}

#[tokio::test]
async fn what_the_doors_refuse_is_logged_as_well() {
    let origin = Origin::start().await;
    let edge = Edge::before(&origin).await;
    let (_, address) = edge.running().addresses[0];
    let mut client = TcpStream::connect(address).await.unwrap();
    let request = b"GET /x HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello";
    client.write_all(request).await.unwrap();
    let mut text = String::new();
    client.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    let line = &edge.log(1).await[0];
    assert_eq!((&line["response_status"], &line["url"]), (&400.into(), &"/x".into()));
    assert_eq!(line["response_state"], "refused");
}

/// FAULTS.md G18b.
#[tokio::test]
async fn an_address_has_its_site_in_whatever_form_it_is_written() {
    let origin = Origin::start().await;
    let package = Package::new(8, 10);
    origin.say(&package.narinfo_path, says(package.narinfo()));
    let setup = Setup::default().site("hosts = [\"[2001:db8:0:0::1]\"]");
    let edge = setup.start(&[&origin]).await;
    for (host, status) in [
        ("[2001:db8::1]", 200),
        ("[2001:DB8:0:0:0:0:0:1]:8080", 200),
        ("[2001:0db8::0001]", 200),
        ("[2001:db8::2]", 421),
    ] {
        let said = edge.read_with(&package.narinfo_path, &[("host", host)]).await;
        assert_eq!(said.status, status, "{host}");
    }
    assert_eq!(origin.count(&package.narinfo_path), 1);
}
