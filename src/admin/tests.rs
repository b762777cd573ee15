//! Scenarios over a real socket: what an operator asks and gets.

use super::{
    AdminBindError, AdminListener, AdminParts, FsckRefusal, FsckRequest, PurgeError, PurgeReply,
    PurgeRequest, PurgeScope, Readiness, ReadinessCheck, UploadsError, UploadsReply,
};
use crate::metrics::Metrics;
use crate::store::{CheckReport, CheckStage, Mode};
use crate::sync::Mutex;
use crate::tasks::Tasks;
use futures_util::FutureExt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

struct Office {
    address: SocketAddr,
    metrics: Metrics,
    tasks: Tasks,
    is_ready: Arc<AtomicBool>,
    purges: Arc<Mutex<Vec<PurgeRequest>>>,
}

impl Office {
    fn open(token_file: Option<PathBuf>) -> Self {
        let admin = AdminListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let office = Self {
            address: admin.local_address().unwrap(),
            metrics: Metrics::new().unwrap(),
            tasks: Tasks::new(),
            is_ready: Arc::new(AtomicBool::new(true)),
            purges: Arc::default(),
        };
        let (is_ready, purges) = (Arc::clone(&office.is_ready), Arc::clone(&office.purges));
        let parts = AdminParts {
            before_metrics: Arc::new(|| ()),
            metrics: office.metrics.clone(),
            readiness: Arc::new(move || {
                let is_ready = is_ready.load(Ordering::Relaxed);
                let check = ReadinessCheck {
                    name: "disk".to_owned(),
                    is_ok: is_ready,
                    detail: "d".to_owned(),
                };
                Readiness { is_ready, checks: vec![check] }
            }),
            uploads: Arc::new(|request| {
                let taken = match request.notices {
                    Ok(events) if request.site.as_deref() != Some("full") => {
                        Ok(UploadsReply { uploads: events.len() as u64, others: 0 })
                    }
                    Ok(_) => Err(UploadsError::Refused { detail: "full".to_owned() }),
                    Err(error) => Err(error.into()),
                };
                async move { taken }.boxed()
            }),
            purge: Arc::new(move |request: PurgeRequest| {
                purges.lock().push(request.clone());
                async move {
                    match request.site.as_deref() {
                        Some("panic") => panic!("a panic made for the test"),
                        Some("hang") => std::future::pending().await,
                        Some(name) => Err(PurgeError::UnknownSite { name: name.to_owned() }),
                        None => Ok(PurgeReply { purged: 7, is_lasting: true }),
                    }
                }
                .boxed()
            }),
            fsck: Arc::new(|request| match request {
                FsckRequest::Begin { mode: Mode::Repair, .. } => Err(FsckRefusal::Busy),
                FsckRequest::Begin { mode: Mode::Report, .. } => {
                    Ok(CheckReport { stage: CheckStage::Running, ..CheckReport::default() })
                }
                FsckRequest::End => {
                    Ok(CheckReport { stage: CheckStage::BrokenOff, ..CheckReport::default() })
                }
                FsckRequest::Look => Err(FsckRefusal::NoDisk),
            }),
            token_file,
        };
        admin.serve(parts, &office.tasks);
        office
    }

    async fn exchange(&self, request: impl AsRef<[u8]>) -> String {
        let mut client = TcpStream::connect(self.address).await.unwrap();
        client.write_all(request.as_ref()).await.unwrap();
        let mut bytes = Vec::new();
        // A refusal of a body that was not read to its end may be followed by a reset.
        let _ = timeout(PATIENCE, client.read_to_end(&mut bytes)).await.unwrap();
        String::from_utf8(bytes).unwrap()
    }

    async fn ask(&self, method: &str, path: &str) -> String {
        self.exchange(format!("{method} {path} HTTP/1.1\r\nHost: h\r\n\r\n")).await
    }

    async fn purge(&self, authorization: &str, body: &str) -> String {
        let length = body.len();
        self.exchange(format!(
            "POST /api/v1/purge HTTP/1.1\r\nHost: h\r\n{authorization}\
             Content-Length: {length}\r\n\r\n{body}"
        ))
        .await
    }
}

fn status(response: &str) -> u16 {
    response.split(' ').nth(1).unwrap().parse().unwrap()
}

fn body(response: &str) -> &str {
    response.split_once("\r\n\r\n").unwrap().1
}

fn token_file(folder: &TempDir, token: &str) -> PathBuf {
    let file = folder.path().join("token");
    std::fs::write(&file, token).unwrap();
    file
}

#[tokio::test]
async fn the_pages_answer() {
    let office = Office::open(None);
    office.metrics.access_log_dropped.inc();
    let metrics = office.ask("GET", "/metrics").await;
    assert!(metrics.contains("content-type: text/plain; version=0.0.4"), "{metrics}");
    assert!(body(&metrics).contains("narthex_access_log_dropped_total 1\n"), "{metrics}");
    assert_eq!(body(&office.ask("GET", "/healthz").await), "ok\n");
    assert!(office.ask("GET", "/").await.contains("href=\"/metrics\""));
    let head = office.ask("HEAD", "/healthz").await;
    assert!(status(&head) == 200 && body(&head).is_empty(), "{head}");
    assert_eq!(status(&office.ask("GET", "/nowhere").await), 404);
    for (method, path) in [
        ("POST", "/metrics"),
        ("DELETE", "/"),
        ("GET", "/api/v1/purge"),
        ("PURGE", "/api/v1/purge"),
    ] {
        let text = office.ask(method, path).await;
        assert!(status(&text) == 405 && text.contains("\r\nallow: "), "{text}");
    }
}

#[tokio::test]
async fn readiness_tells_what_each_part_says() {
    let office = Office::open(None);
    let ready = office.ask("GET", "/readyz").await;
    assert_eq!(status(&ready), 200);
    office.is_ready.store(false, Ordering::Relaxed);
    let not = office.ask("GET", "/readyz").await;
    assert_eq!(status(&not), 503);
    let expected = serde_json::json!({
        "ready": false,
        "checks": [{ "name": "disk", "ok": false, "detail": "d" }],
    });
    assert_eq!(serde_json::from_str::<serde_json::Value>(body(&not)).unwrap(), expected);
    assert_eq!(status(&office.ask("GET", "/healthz").await), 200);
}

#[tokio::test]
async fn a_purge_needs_the_token() {
    let folder = TempDir::new().unwrap();
    let office = Office::open(Some(token_file(&folder, "s3cret\n")));
    let request = r#"{"path":"/a.narinfo"}"#;
    for wrong in [
        "",
        "Authorization: Bearer s3cre\r\n",
        "Authorization: Bearer s3cret2\r\n",
        "Authorization: Bearer S3CRET\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: Basic s3cret\r\n",
        "Authorization: s3cret\r\n",
    ] {
        let text = office.purge(wrong, request).await;
        assert!(status(&text) == 401, "{wrong}: {text}");
        assert!(text.contains("www-authenticate: Bearer\r\n"), "{text}");
    }
    assert!(office.purges.lock().is_empty());
    let refused = office.metrics.requests_refused.with_label_values(&["admin_token"]);
    assert_eq!(refused.get(), 7);
    let text = office.purge("Authorization: Bearer s3cret\r\n", request).await;
    assert_eq!((status(&text), body(&text)), (200, "{\"lasting\":true,\"purged\":7}\n"));
    let scope = PurgeScope::Paths(vec!["/a.narinfo".to_owned()]);
    assert_eq!(office.purges.lock().last().unwrap().scope, scope);
}

/// FAULTS.md F12b.
#[tokio::test]
async fn a_check_needs_the_token_and_says_how_it_stands() {
    let folder = TempDir::new().unwrap();
    let office = Office::open(Some(token_file(&folder, "s3cret")));
    let ask = |method: &str, authorization: &str, body: &str| {
        let length = body.len();
        office.exchange(format!(
            "{method} /api/v1/fsck HTTP/1.1\r\nHost: h\r\n{authorization}\
             Content-Length: {length}\r\n\r\n{body}"
        ))
    };
    let token = "Authorization: Bearer s3cret\r\n";
    for (method, authorization, request, expected, word) in [
        ("POST", "", "{}", 401, "token"),
        ("GET", "", "", 401, "token"),
        ("POST", token, "", 202, "\"stage\":\"running\""),
        ("POST", token, r#"{"repair":true}"#, 409, "goes on"),
        ("POST", token, r#"{"repari":true}"#, 400, "`repari`"),
        ("POST", token, "[true]", 400, "no JSON object"),
        ("POST", token, r#"{"rate":0}"#, 400, "at least 65536"),
        ("DELETE", token, "", 200, "\"stage\":\"broken"),
        ("DELETE", "", "", 401, "token"),
        ("GET", token, "", 404, "no disk"),
        ("PUT", token, "", 405, "GET, POST"),
    ] {
        let text = ask(method, authorization, request).await;
        assert!(status(&text) == expected && text.contains(word), "{method} {request}: {text}");
    }
}

#[tokio::test]
async fn a_changed_token_counts_at_once() {
    let folder = TempDir::new().unwrap();
    let office = Office::open(Some(token_file(&folder, "old")));
    token_file(&folder, "new");
    let request = r#"{"all":true}"#;
    assert_eq!(status(&office.purge("Authorization: Bearer old\r\n", request).await), 401);
    assert_eq!(status(&office.purge("Authorization: Bearer new\r\n", request).await), 200);
}

#[tokio::test]
async fn wrong_tokens_are_limited_and_lock_no_right_one_out() {
    let folder = TempDir::new().unwrap();
    let office = Office::open(Some(token_file(&folder, "s3cret")));
    let right = "Authorization: Bearer s3cret\r\n";
    for _ in 0..10 {
        let guess = "Authorization: Bearer guess\r\n";
        assert_eq!(status(&office.purge(guess, "{}").await), 401);
    }
    for round in 1..=3 {
        let text = office.purge("Authorization: Bearer guess\r\n", r#"{"all":true}"#).await;
        assert!(status(&text) == 429 && text.contains("retry-after: 60\r\n"), "{text}");
        assert_eq!(status(&office.purge(right, r#"{"all":true}"#).await), 200);
        assert_eq!(office.purges.lock().len(), round);
    }
}

#[tokio::test]
async fn without_a_token_purging_is_off() {
    let office = Office::open(None);
    let text = office.purge("Authorization: Bearer x\r\n", r#"{"all":true}"#).await;
    assert!(status(&text) == 403 && text.contains("admin.token_file"), "{text}");
    let folder = TempDir::new().unwrap();
    for file in [token_file(&folder, " \n"), folder.path().join("missing")] {
        let office = Office::open(Some(file));
        let text = office.purge("Authorization: Bearer \r\n", r#"{"all":true}"#).await;
        assert!(status(&text) == 500 && text.contains("token file"), "{text}");
        assert!(office.purges.lock().is_empty());
    }
}

#[tokio::test]
async fn a_bad_purge_says_what_is_wrong() {
    let folder = TempDir::new().unwrap();
    let office = Office::open(Some(token_file(&folder, "s3cret")));
    let long = format!(r#"{{"path":"/{}"}}"#, "x".repeat(65 * 1024));
    for (body, expected, word) in [
        (r#"{"path":"/a","sofft":true}"#, 400, "`sofft`"),
        ("nonsense", 400, "not a purge request"),
        (&long, 413, "64 KiB"),
        (r#"{"path":"/a","site":"nowhere"}"#, 404, "nowhere"),
        (r#"{"path":"/a","site":"panic"}"#, 500, "fault"),
    ] {
        let text = office.purge("Authorization: Bearer s3cret\r\n", body).await;
        assert!(status(&text) == expected && text.contains(word), "{text}");
    }
    assert_eq!(office.metrics.request_panics.get(), 1);
}

#[tokio::test]
async fn a_drain_closes_the_listener_and_answers_what_is_under_way() {
    let office = Office::open(None);
    let mut client = TcpStream::connect(office.address).await.unwrap();
    client.write_all(b"GET /healthz HTTP/1.1\r\n").await.unwrap();
    // A whole exchange: the connection before it has been taken up.
    office.ask("GET", "/healthz").await;
    let tasks = office.tasks.clone();
    let drained = tokio::spawn(async move { tasks.drain(PATIENCE).await });
    while TcpStream::connect(office.address).await.is_ok() {}
    client.write_all(b"Host: h\r\n\r\n").await.unwrap();
    let mut text = String::new();
    timeout(PATIENCE, client.read_to_string(&mut text)).await.unwrap().unwrap();
    assert!(text.ends_with("ok\n"), "{text}");
    assert!(drained.await.unwrap());
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let office = Office::open(None);
    let error = AdminListener::bind(office.address).unwrap_err();
    assert!(matches!(error, AdminBindError::InUse { .. }), "{error}");
}

/// FAULTS.md F7a, F7b.
#[tokio::test]
async fn a_page_in_a_browser_neither_purges_nor_locks_out_nor_reads_by_a_name_of_its_own() {
    let folder = TempDir::new().unwrap();
    let office = Office::open(Some(token_file(&folder, "s3cret")));
    for _ in 0..30 {
        for fields in ["Sec-Fetch-Site: cross-site\r\n", "Origin: http://evil.example\r\n"] {
            let text = office
                .exchange(format!("GET /api/v1/fsck HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n"));
            assert_eq!(status(&text.await), 403, "{fields}");
        }
    }
    let right = "Authorization: Bearer s3cret\r\n";
    assert_eq!(status(&office.purge(right, r#"{"all":true}"#).await), 200);
    let rebound = "GET /metrics HTTP/1.1\r\nHost: evil.example\r\nAccept-Language: en\r\n\r\n";
    let text = office.exchange(rebound).await;
    assert!(status(&text) == 403 && !text.contains("narthex_"), "{text}");
    assert!(office.ask("GET", "/metrics").await.contains("reason=\"admin_host\"} 1"));
    // Its own origin in the browser's eyes: it guesses no token. A program may send one.
    let page = "Origin: http://evil.example\r\n";
    for (fields, token, expected) in
        [(page, "guess", 403), (page, "s3cret", 403), ("", "guess", 401), ("", "s3cret", 200)]
    {
        let text = office.exchange(format!(
            "POST /api/v1/purge HTTP/1.1\r\nHost: evil.example\r\n{fields}Accept-Language: *\r\n\
             Authorization: Bearer {token}\r\nContent-Length: 12\r\n\r\n{{\"all\":true}}"
        ));
        assert_eq!(status(&text.await), expected, "{fields}{token}");
    }
}

/// FAULTS.md F7a, F14a: bodies that never come are not waited for before the token is judged.
#[tokio::test]
async fn half_bodies_with_wrong_tokens_hold_up_no_right_one() {
    let folder = TempDir::new().unwrap();
    let office = Office::open(Some(token_file(&folder, "s3cret")));
    let guess = "POST /api/v1/purge HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer guess\r\n\
                 Content-Length: 1000\r\n\r\n{\"all\":";
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut client = TcpStream::connect(office.address).await.unwrap();
        client.write_all(guess.as_bytes()).await.unwrap();
        held.push(client);
    }
    let right = "Authorization: Bearer s3cret\r\n";
    for _ in 0..3 {
        assert_eq!(status(&office.purge(right, r#"{"all":true}"#).await), 200);
    }
    assert_eq!(office.purges.lock().len(), 3);
}

#[tokio::test]
async fn a_host_in_doubt_is_refused_as_by_the_other_listeners() {
    let office = Office::open(None);
    for (head, expected) in [
        ("GET /healthz HTTP/1.1\r\nHost: h\r\n", 200),
        ("GET /healthz HTTP/1.0\r\n", 200),
        ("GET /healthz HTTP/1.1\r\n", 200),
        ("HEAD /readyz HTTP/1.1\r\nHost:\r\n", 200),
        ("POST /api/v1/purge HTTP/1.1\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: h\r\nHost: h\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: h\r\nhost: evil.example\r\n", 400),
        ("GET /healthz HTTP/1.1\r\nHost: a@b\r\n", 400),
        ("GET http://evil.example/metrics HTTP/1.1\r\nHost: h\r\n", 400),
    ] {
        let text = office.exchange(format!("{head}\r\n")).await;
        assert_eq!(status(&text), expected, "{head}: {text}");
    }
    let metrics = office.ask("GET", "/metrics").await;
    assert!(metrics.contains("reason=\"host\"} 5"), "{metrics}");
}

/// FAULTS.md F14b: serde takes an array for an object, by position.
#[tokio::test]
async fn an_array_purges_nothing() {
    let folder = TempDir::new().unwrap();
    let office = Office::open(Some(token_file(&folder, "s3cret")));
    let right = "Authorization: Bearer s3cret\r\n";
    for body in [r#"["main",null,null,"/"]"#, "[null,\"/a\"]", "\"/a\"", ""] {
        let text = office.purge(right, body).await;
        assert!(status(&text) == 400 && text.contains("no JSON object"), "{body}: {text}");
    }
    assert!(office.purges.lock().is_empty());
}

/// FAULTS.md F14a: connections that say nothing held the places of all others for ten seconds.
#[tokio::test]
async fn half_heads_hold_up_nothing() {
    let office = Office::open(None);
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut client = TcpStream::connect(office.address).await.unwrap();
        client.write_all(b"GET /healthz HT").await.unwrap();
        held.push(client);
    }
    let began = std::time::Instant::now();
    assert_eq!(body(&office.ask("GET", "/healthz").await), "ok\n");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // The newest of them may still be answered.
    let mut last = held.pop().unwrap();
    last.write_all(b"TP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let mut text = String::new();
    last.read_to_string(&mut text).await.unwrap();
    assert_eq!(body(&text), "ok\n");
}

/// FAULTS.md F14a: a client that takes no answer kept its place for five minutes.
#[tokio::test]
async fn an_answer_that_is_not_taken_holds_up_nothing() {
    let folder = TempDir::new().unwrap();
    let office = Office::open(Some(token_file(&folder, "s3cret")));
    // More than the sockets hold.
    let long = "x".repeat(16 << 20);
    office.metrics.requests_refused.with_label_values(&[&long]).inc();
    let mut reader = TcpStream::connect(office.address).await.unwrap();
    reader.write_all(b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    reader.readable().await.unwrap();
    // All other places are taken by what the server is to blame for.
    let body = r#"{"path":"/a","site":"hang"}"#;
    let request = format!(
        "POST /api/v1/purge HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer s3cret\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut held = Vec::new();
    for _ in 1..64 {
        let mut client = TcpStream::connect(office.address).await.unwrap();
        client.write_all(request.as_bytes()).await.unwrap();
        held.push(client);
    }
    let asked = async {
        while office.purges.lock().len() < held.len() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, asked).await.unwrap();
    assert!(office.ask("GET", "/healthz").await.ends_with("ok\n"));
    let mut taken = Vec::new();
    // It was cut.
    let _ = timeout(PATIENCE, reader.read_to_end(&mut taken)).await.unwrap();
    assert!(taken.len() < long.len(), "{}", taken.len());
}
