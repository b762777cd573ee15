//! HOSTILE.md through the real process, as raw bytes on its plain listener. Nothing in the tables
//! reaches the origin, and after each row the process answers as before.

use super::client::{Connection, Reply, ask, get};
use super::edge::{Edge, Settings, site};
use super::origin::{Origin, nar_path, noise};

/// What becomes of the connection after the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Closed,
    Kept,
}
use Then::{Closed, Kept};

/// An edge that holds `nix-cache-info` and a NAR, and its origin.
struct Scene {
    origin: Origin,
    edge: Edge,
    nar: String,
    body: Vec<u8>,
}

fn scene_with(sites: impl Fn(&Origin) -> String) -> Scene {
    let origin = Origin::start();
    let body = noise(100_000, 9);
    let nar = nar_path(&body);
    origin.put(&nar, body.clone());
    let edge = Settings::new().start(&sites(&origin));
    edge.process.stderr.wait(0, &["origin answers"]);
    let scene = Scene { origin, edge, nar, body };
    scene.answers();
    assert_eq!(scene.edge.get(&scene.nar).status, 200);
    scene
}

fn scene() -> Scene {
    scene_with(|origin| site(origin.url()))
}

impl Scene {
    /// The edge goes on.
    fn answers(&self) {
        assert_eq!(self.edge.get("/nix-cache-info").status, 200);
    }

    /// Sends the bytes of one row: one answer with the status, and nothing after it but, where
    /// the connection is kept, the answer to the next request.
    fn row(&self, (row, status, then, bytes): &(u8, u16, Then, &[u8])) -> Reply {
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
        let asked = self.origin.requests().len();
        let mut connection = Connection::open(self.edge.address());
        connection.send(bytes);
        let head = connection.head().unwrap_or_else(|| panic!("row {row}: no answer to {shown:?}"));
        let reply = connection.rest_of(head);
        assert_eq!(reply.status, *status, "row {row}: {shown:?}: {reply:?}");
        match then {
            Closed => {
                let rest = connection.rest();
                assert_eq!(String::from_utf8_lossy(&rest), "", "row {row}: {shown:?}");
            }
            Kept => {
                connection.send("GET /nix-cache-info HTTP/1.1\r\nHost: a.example\r\n\r\n");
                let next = connection.reply().unwrap_or_else(|| panic!("row {row}: {shown:?}"));
                assert_eq!(next.status, 200, "row {row}: {shown:?}: {next:?}");
            }
        }
        assert_eq!(self.origin.requests().len(), asked, "row {row}: {shown:?}");
        self.answers();
        reply
    }
}

/// A GET of what is stored with these lines in its head, and these bytes behind it.
macro_rules! get {
    ($lines:expr, $behind:expr) => {
        concat!("GET /nix-cache-info HTTP/1.1\r\nHost: a\r\n", $lines, "\r\n", $behind).as_bytes()
    };
    ($lines:expr) => {
        get!($lines, "")
    };
}

const SMUGGLED: &str = "GET /nar/smuggled.nar HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn framing_in_doubt() {
    let scene = scene();
    let rows: &[(u8, u16, Then, &[u8])] = &[
        (1, 400, Closed, get!("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        (1, 400, Closed, get!("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n")),
        (1, 400, Closed, get!("Transfer-Encoding: chunked\r\n", "0\r\n\r\n")),
        (1, 400, Closed, get!("Transfer-Encoding: identity\r\n")),
        (1, 400, Closed, get!("Transfer-Encoding: xchunked\r\n")),
        (1, 400, Closed, get!("Transfer-Encoding: chunked, identity\r\n")),
        (1, 400, Closed, get!("Transfer-Encoding:\x0bchunked\r\n")),
        (1, 400, Closed, get!("Transfer-Encoding : chunked\r\n", "0\r\n\r\n")),
        (1, 400, Closed, get!("Content-Length: 5\r\nContent-Length: 6\r\n", "hello!")),
        (1, 400, Closed, get!("Content-Length: 5, 6\r\n", "hello!")),
        (1, 400, Closed, get!("Content-Length: 0\r\nContent-Length: 5\r\n", "hello")),
        (1, 400, Closed, get!("Content-Length: +5\r\n", "hello")),
        (1, 400, Closed, get!("Content-Length: -1\r\n")),
        (1, 400, Closed, get!("Content-Length: 5 5\r\n", "hello")),
        (1, 400, Closed, get!("Content-Length: 0x5\r\n", "hello")),
        (1, 400, Closed, get!("Content-Length: 18446744073709551616\r\n")),
        (1, 400, Closed, get!("Content-Length:\r\n")),
        (1, 400, Closed, get!("X: a\r\n b\r\n")),
        (1, 400, Closed, get!("X: a\0b\r\n")),
        (1, 400, Closed, get!("X\0: a\r\n")),
        (1, 400, Closed, get!("X: a\rb\r\n")),
        (1, 400, Closed, get!("X : a\r\n")),
        (1, 400, Closed, get!(": a\r\n")),
        (1, 400, Closed, get!(" X: a\r\n")),
        (1, 400, Closed, b"GET /nix-cache-info HTTP/1.1\nHost: a\n\n"),
        (1, 400, Closed, get!("X: a\nTransfer-Encoding: chunked\r\n")),
        (1, 400, Closed, get!("X: a\n\nGET /nar/smuggled.nar HTTP/1.1\nHost: a\r\n")),
        (1, 400, Closed, b"GET  /nix-cache-info HTTP/1.1\r\nHost: a\r\n\r\n"),
        (1, 400, Closed, b"GET /nix-cache-info HTTP/1.1 \r\nHost: a\r\n\r\n"),
        (1, 400, Closed, b"GET /nix\x01cache HTTP/1.1\r\nHost: a\r\n\r\n"),
        (1, 400, Closed, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"),
    ];
    for row in rows {
        scene.row(row);
    }
    assert!(
        scene.edge.metric("narthex_requests_refused_total", &[])
            >= u64::try_from(rows.len()).unwrap()
    );
}

#[test]
fn a_body_on_a_hit_is_never_the_next_request() {
    let scene = scene();
    let (path, length) = (&scene.nar, SMUGGLED.len());
    for (status, method) in [(400, "GET"), (400, "HEAD"), (400, "OPTIONS"), (405, "POST")] {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{SMUGGLED}"
        );
        let mut connection = Connection::open(scene.edge.address());
        connection.send(request);
        let all = String::from_utf8_lossy(&connection.rest()).into_owned();
        assert!(all.starts_with(&format!("HTTP/1.1 {status} ")), "{method}: {all}");
        assert_eq!(all.matches("HTTP/1.1 ").count(), 1, "{method}: {all}");
        scene.answers();
    }
    assert_eq!(scene.origin.requests_for("/nar/smuggled.nar"), 0);
    // Two honest requests in one write are two answers.
    let mut connection = Connection::open(scene.edge.address());
    connection.send(get!("", "").repeat(2));
    assert_eq!(connection.reply().unwrap().status, 200);
    assert_eq!(connection.reply().unwrap().status, 200);
}

#[test]
fn methods_protocols_and_expectations() {
    let scene = scene();
    for row in [
        (3, 405, Closed, &b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"[..]),
        (3, 405, Closed, b"TRACE /nix-cache-info HTTP/1.1\r\nHost: a\r\n\r\n"),
        (3, 405, Closed, b"PURGE /nix-cache-info HTTP/1.1\r\nHost: a\r\n\r\n"),
        (3, 405, Closed, b"get /nix-cache-info HTTP/1.1\r\nHost: a\r\n\r\n"),
        (3, 405, Closed, b"PRI /nix-cache-info HTTP/1.1\r\nHost: a\r\n\r\n"),
        (
            3,
            200,
            Kept,
            get!("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n"),
        ),
        (3, 200, Kept, get!("Connection: Upgrade\r\nUpgrade: websocket\r\n")),
        (
            4,
            400,
            Closed,
            b"GET /nix-cache-info HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        ),
        (4, 400, Closed, b"GET /nix-cache-info\r\n\r\n"),
        (4, 400, Closed, b"GET /nix-cache-info HTTP/3.0\r\nHost: a\r\n\r\n"),
        (4, 400, Closed, b"GET /nix-cache-info HTTP/1.2\r\nHost: a\r\n\r\n"),
        (4, 400, Closed, b"GET /nix-cache-info HTTP/2.0\r\nHost: a\r\n\r\n"),
        (4, 200, Closed, b"GET /nix-cache-info HTTP/1.0\r\n\r\n"),
        (5, 200, Kept, get!("Expect: 100-continue\r\n")),
        (5, 417, Closed, get!("Expect: 200-ok\r\n")),
        (5, 400, Closed, get!("Expect: 100-continue\r\nContent-Length: 5\r\n")),
    ] {
        let reply = scene.row(&row);
        if reply.status == 405 {
            assert!(reply.value("allow").unwrap().contains("GET, HEAD"), "{reply:?}");
        }
    }
}

#[test]
fn paths_that_no_cache_has() {
    let scene = scene();
    for (row, status, path) in [
        (8, 404, "/nix-cache-info/x.css"),
        (8, 404, "/nix-cache-info;.css"),
        (8, 404, "/NIX-CACHE-INFO"),
        (8, 404, "/wp-login.php"),
        (8, 400, "/nar/../nix-cache-info"),
        (8, 400, "/nar/%2e%2e/nix-cache-info"),
        (8, 400, "/nar/%00"),
        (8, 400, "/nar/%zz"),
        (8, 400, "/nar/%"),
        (8, 400, "//nix-cache-info"),
        (8, 400, "/nar/a%2fb"),
        (8, 404, "/nar/a%20b"),
        (24, 404, "/metrics"),
        (24, 404, "/healthz"),
        (24, 404, "/readyz"),
        (24, 404, "/api/v1/purge"),
        (26, 404, "http://169.254.169.254/latest/meta-data/"),
        (26, 404, "http://127.0.0.1:1/x"),
    ] {
        let asked = scene.origin.requests().len();
        let host = path.strip_prefix("http://").and_then(|rest| rest.split('/').next());
        let host = host.unwrap_or("a.example");
        let mut connection = Connection::open(scene.edge.address());
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let reply = connection.reply().unwrap();
        assert_eq!(reply.status, status, "row {row}: {path}: {reply:?}");
        assert_eq!(scene.origin.requests().len(), asked, "row {row}: {path}");
    }
    // The other way to write what is stored is the same object.
    for path in [
        "/nix-cache%2dinfo",
        "/%6eix-cache-info",
        "/nix-cache-info?x=1&y",
        "http://b/nix-cache-info",
    ] {
        let asked = scene.origin.requests().len();
        let mut connection = Connection::open(scene.edge.address());
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: b\r\n\r\n"));
        assert_eq!(connection.reply().unwrap().status, 200, "row 11: {path}");
        assert_eq!(scene.origin.requests().len(), asked, "row 11: {path}");
    }
    assert_eq!(scene.edge.get("/nix-cache-info").text(), super::origin::CACHE_INFO);
}

#[test]
fn limits_on_heads() {
    let scene = scene();
    let head = |lines: String| format!("GET /nix-cache-info HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    let fields = |count: usize| "X: y\r\n".repeat(count);
    let long = |bytes: usize| format!("X: {}\r\n", "y".repeat(bytes));
    let path = |bytes: usize| format!("GET /nar/{} HTTP/1.1\r\nHost: a\r\n\r\n", "y".repeat(bytes));
    for (status, then, bytes) in [
        (200, Kept, head(fields(63))),
        (431, Closed, head(fields(64))),
        (431, Closed, head(fields(1000))),
        (200, Kept, head(long(15 << 10))),
        (431, Closed, head(long(20 << 10))),
        (431, Closed, format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(200_000))),
        (414, Kept, path(3 << 10)),
    ] {
        scene.row(&(18, status, then, bytes.as_bytes()));
    }
}

#[test]
fn hosts() {
    let scene = scene_with(|origin| {
        format!("[[site]]\nhosts = [\"a.example\"]\n[[site.origin]]\nurl = {:?}\n", origin.url())
    });
    let request = |line: &str, hosts: &str| format!("GET {line} HTTP/1.1\r\n{hosts}\r\n");
    let info = "/nix-cache-info";
    for (status, then, bytes) in [
        (400, Closed, request(info, "")),
        (400, Closed, request(info, "Host: a.example\r\nHost: a.example\r\n")),
        (400, Closed, request(info, "Host: a.example\r\nHost: b.example\r\n")),
        (400, Closed, request(info, "Host:\r\n")),
        (400, Closed, request(info, "Host: a b\r\n")),
        (400, Closed, request(info, "Host: user@a.example\r\n")),
        (400, Closed, request(info, "Host: a.example:port\r\n")),
        (400, Closed, request(info, "Host: a.example:99999\r\n")),
        (400, Closed, request(info, "Host: a.example/path\r\n")),
        (400, Closed, request(info, "Host: a.example, b.example\r\n")),
        (400, Closed, request("http://a.example/nix-cache-info", "Host: b.example\r\n")),
        (400, Closed, request("http://u@a.example/nix-cache-info", "Host: a.example\r\n")),
        (421, Kept, request(info, "Host: b.example\r\n")),
        (421, Kept, request(info, "Host: a.example.evil.example\r\n")),
        (200, Kept, request(info, "Host: A.EXAMPLE.:8080\r\n")),
        (200, Kept, request("http://a.example/nix-cache-info", "Host: a.example\r\n")),
    ] {
        scene.row(&(19, status, then, bytes.as_bytes()));
    }
}

/// Rows 6, 7 and 20: nothing of a client's request but the path reaches the origin.
#[test]
fn an_origin_request_is_the_edges_own() {
    let scene = scene();
    // Its name proves it, so that its query means nothing (UPSTREAMS.md row 17).
    let path = &nar_path(b"a NAR");
    scene.origin.put(path, "a NAR");
    let reply = ask(
        scene.edge.address(),
        &format!("{path}?x-id=evil"),
        "X-Forwarded-Host: evil.example\r\nX-Original-URL: /evil\r\nX-HTTP-Method-Override: PUT\r\n\
         Authorization: Basic ZXZpbA==\r\nCookie: evil=1\r\nOrigin: https://evil.example\r\n\
         Connection: range, host, cdn-loop, x-amz-date\r\nRange: bytes=1-2\r\n\
         Accept-Encoding: evil\r\nUser-Agent: evil\r\nX-Amz-Date: evil\r\n\
         If-None-Match: \"evil\"\r\n",
    );
    assert!(matches!(reply.status, 200 | 206), "{reply:?}");
    let asked = scene.origin.requests();
    let head = asked.iter().find(|head| head.contains(path)).unwrap().to_ascii_lowercase();
    assert!(!head.contains("evil") && !head.contains("put"), "{head}");
    assert!(head.contains("range: bytes=0-1048575"), "the edge's own, by whole chunks: {head}");
    assert!(head.contains("cdn-loop: ") && head.contains("host: 127.0.0.1:"), "{head}");
    assert!(!reply.head.to_ascii_lowercase().contains("evil"), "{reply:?}");
    // What was stored is the whole.
    assert_eq!(get(scene.edge.address(), path).text(), "a NAR");
    assert_eq!(scene.origin.requests_for(path), 1);
}

#[test]
fn a_head_never_stands_for_a_get() {
    let scene = scene();
    let path = "/nar/asked-by-head.nar.xz";
    scene.origin.put(path, "a NAR");
    let mut connection = Connection::open(scene.edge.address());
    connection.send(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    let head = connection.head().unwrap();
    assert!(head.starts_with("HTTP/1.1 200 ") && head.to_lowercase().contains("content-length: 5"));
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(connection.reply().unwrap().text(), "a NAR");
}

/// Row 13: many ranges are one whole.
#[test]
fn ranges() {
    let scene = scene();
    let ask =
        |ranges: &str| ask(scene.edge.address(), &scene.nar, &format!("Range: bytes={ranges}\r\n"));
    let one = ask("10-19");
    assert_eq!((one.status, &one.body[..]), (206, &scene.body[10..20]));
    let many = (0..17).map(|n| format!("{n}-{n}")).collect::<Vec<_>>().join(",");
    for ranges in [many.as_str(), "0-,0-,0-", "a-b", "5-1", "0-0;1-1"] {
        let reply = ask(ranges);
        assert!(reply.body.len() <= scene.body.len(), "{ranges}: {reply:?}");
        assert!(matches!(reply.status, 200 | 206), "{ranges}: {reply:?}");
    }
    for beyond in ["100000-", "99999999999999999999-", "-0"] {
        let reply = ask(beyond);
        assert!(matches!(reply.status, 416 | 200), "{beyond}: {reply:?}");
    }
    assert_eq!(scene.origin.requests_for(&scene.nar), 1);
}

/// Row 26.
#[test]
fn loops() {
    let scene = scene();
    let line = scene.edge.process.stderr.wait(0, &["serving", "instance=\""]);
    let own = line.split("instance=\"").nth(1).unwrap().split('"').next().unwrap();
    for (status, value) in
        [(508, own.to_owned()), (508, format!("a, {own}; x=1, b")), (400, "a b".to_owned())]
    {
        let lines = format!("CDN-Loop: {value}\r\n");
        let reply = ask(scene.edge.address(), "/nar/looping.nar", &lines);
        assert_eq!(reply.status, status, "{value}: {reply:?}");
    }
    assert_eq!(scene.origin.requests_for("/nar/looping.nar"), 0);
    ask(scene.edge.address(), "/nar/passing.nar", "CDN-Loop: other\r\n");
    let asked = scene.origin.requests();
    let head = asked.iter().find(|head| head.contains("passing")).unwrap().to_ascii_lowercase();
    assert!(head.contains(&format!("cdn-loop: other, {own}")), "{head}");
}

/// Row 27: a line of the log is one object, whatever a client says.
#[test]
fn the_access_log_stays_one_object_a_line() {
    let scene = scene();
    let before = scene.edge.process.stdout.at_least(2).len();
    let mut sent = 0;
    for (path, lines) in [
        ("/nar/a%0a{%22evil%22:1}", "User-Agent: \"}\\n{\"evil\":2}\r\n"),
        ("/nar/%22,%22evil%22:%223", "Referer: \",\"evil\":\"4\r\n"),
        ("/nar/%1b[31m", "User-Agent: \x7f\r\n"),
        ("/nar/\"},{\"evil\":\"5", ""),
        ("/nar/x?\"\\u0022", "User-Agent: \u{2028}\u{85}\u{e4}\r\n"),
        ("/nar/x", "User-Agent: a\tb\\\"\r\n"),
    ] {
        let mut connection = Connection::open(scene.edge.address());
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
        sent += usize::from(connection.reply().is_some_and(|reply| reply.status != 400));
    }
    assert!(sent >= 3, "{sent}");
    scene.edge.get("/nix-cache-info");
    let lines = scene.edge.process.stdout.at_least(before + sent + 1);
    for line in lines {
        let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
        let object = parsed.as_object().unwrap();
        assert!(object.contains_key("response_status") && !object.contains_key("evil"), "{line}");
        assert!(line.bytes().all(|byte| byte >= 0x20), "{line:?}");
    }
}

/// Row 17: each phase has its deadline.
#[test]
fn slow_clients_are_let_go() {
    let origin = Origin::start();
    let mut settings = Settings::new();
    settings.process.push_str("[server.timeouts]\nrequest_head = \"300ms\"\nidle = \"300ms\"\n");
    let edge = settings.start(&site(origin.url()));
    let mut silent = Connection::open(edge.address());
    assert_eq!(silent.rest(), b"");
    for begun in ["G", "GET /nix-cache-info HTTP/1.1\r\nHost: a\r\nX: "] {
        let mut slow = Connection::open(edge.address());
        slow.send(begun);
        let said = String::from_utf8(slow.rest()).unwrap();
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408 "), "{said}");
    }
    let mut kept = Connection::open(edge.address());
    kept.send("GET /nix-cache-info HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(kept.reply().unwrap().status, 200);
    assert_eq!(kept.rest(), b"");
    assert_eq!(edge.get("/nix-cache-info").status, 200);
}
