//! A site that knows its bucket's keys: what is answered without the origin, and when the filter
//! steps aside.

use crate::harness::{Draw, Edge, Gate, Origin, Package, Script, Setup, eventually, says};
use narthex::clock::Timestamp;
use narthex::filter::{Builder, FilterFacts};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const KEEP_ALIVE: &str = r#"{"keep_alive": true}"#;
const UPLOADS: &str = "/api/v1/uploads";

/// The folder of an edge's filter; it outlives the edge.
struct Bucket(TempDir);

impl Bucket {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("main.filter")
    }

    /// The settings of a site with this filter; the retention is an hour.
    fn setup(&self) -> Setup {
        Setup::default().site(&format!(
            "[site.absence_filter]\nfile = \"{}\"\nbucket = \"cache\"\nfeed_timeout = \"5m\"\n\
             feed_retention = \"1h\"\nuploads_max = 1000",
            self.file().display()
        ))
    }

    /// An edge without a filter yet; its feed has begun.
    async fn edge(&self, origin: &Origin) -> Edge {
        let edge = self.setup().start(&[origin]).await;
        until_journal(&edge).await;
        edge.notice(UPLOADS, KEEP_ALIVE).await.expect_status(200);
        edge
    }

    /// Makes a filter of these keys, complete up to `at`.
    fn build(&self, keys: &[&str], at: Timestamp) {
        let mut builder = Builder::new(self.0.path()).unwrap();
        builder.add("nix-cache-info").unwrap();
        for key in keys {
            builder.add(key.trim_start_matches('/')).unwrap();
        }
        let facts = FilterFacts {
            bucket: "cache".to_owned(),
            complete_up_to: at,
            source: "test".to_owned(),
            built: at,
        };
        builder.finish(facts, &self.file(), |_| ()).unwrap();
    }

    /// An edge that answers by a filter of these keys.
    async fn answering(&self, origin: &Origin, keys: &[&str]) -> Edge {
        let edge = self.edge(origin).await;
        edge.pass_time(10);
        self.build(keys, edge.now());
        edge.reload(&edge.text).await.unwrap();
        edge
    }
}

async fn until_journal(edge: &Edge) {
    for _ in 0..10_000 {
        let bytes = edge.metric("narthex_absence_filter_bytes{part=\"journal\",site=\"main\"}");
        if bytes.await > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("the journal is never opened");
}

async fn until_loaded(edge: &Edge, keys: u64) {
    edge.until_metric("narthex_absence_filter_keys{part=\"file\",site=\"main\"}", keys).await;
}

fn uploaded(edge: &Edge, path: &str) -> String {
    let time = narthex::filter::print_moment(edge.now());
    let key = path.trim_start_matches('/');
    format!(
        r#"{{"Records": [{{"eventSource": "aws:s3", "eventName": "ObjectCreated:Put",
        "eventTime": "{time}", "s3": {{"bucket": {{"name": "cache"}},
        "object": {{"key": "{key}"}}}}}}]}}"#
    )
}

fn delivered(since: Timestamp, up_to: Timestamp) -> String {
    let print = narthex::filter::print_moment;
    let (since, up_to) = (print(since), print(up_to));
    format!(r#"{{"delivered": {{"since": "{since}", "up_to": "{up_to}"}}}}"#)
}

fn path_of(number: u64) -> String {
    format!("/{number:032}.narinfo")
}

#[tokio::test]
async fn an_absent_narinfo_is_answered_without_the_origin() {
    let (origin, bucket) = (Origin::start().await, Bucket::new());
    let package = Package::new(1, 10);
    origin.say(&package.narinfo_path, says(package.narinfo()));
    let edge = bucket.answering(&origin, &[&package.narinfo_path]).await;
    let absent = edge.get(&path_of(1)).await;
    absent.expect(404, "absent_filter").with(b"404");
    assert_eq!(absent.field("content-type"), "text/plain");
    assert_ne!(absent.field("x-request-id"), "");
    edge.client().head(&path_of(2)).await.expect(404, "absent_filter").with(b"");
    edge.get(&path_of(1)).await.expect(404, "absent_filter");
    assert_eq!(origin.count_all(), 0);
    assert_eq!(edge.metric("narthex_stored_objects{tier=\"absent\"}").await, 0);
    edge.get(&package.narinfo_path).await.expect(200, "miss");
    edge.get(&package.narinfo_path).await.expect(200, "hit_memory");
    // Other classes are asked for as ever.
    edge.get("/log/0c5x60p6h2p6jvqqs4x8rcwh3pg9z1nv-a.drv").await.expect(404, "absent");
    let checks = |result| {
        format!("narthex_absence_filter_checks_total{{result=\"{result}\",site=\"main\"}}")
    };
    assert_eq!(edge.metric(&checks("absent")).await, 3);
    assert_eq!(edge.metric(&checks("maybe")).await, 1);
    assert_eq!(edge.metric("narthex_absence_filter_answering{site=\"main\"}").await, 1);
    let last = edge.log(6).await.remove(0);
    assert_eq!(last["response_state"], "absent_filter");
    let ready = edge.admin().get("/readyz").await;
    assert!(ready.text().contains("answers for cache"), "{}", ready.text());
}

#[tokio::test]
async fn an_uploaded_path_is_served_at_once() {
    let (origin, bucket) = (Origin::start().await, Bucket::new());
    let edge = bucket.answering(&origin, &[]).await;
    let package = Package::new(2, 10);
    let path = &package.narinfo_path;
    edge.get(path).await.expect(404, "absent_filter");
    origin.say(path, says(package.narinfo()));
    let said = edge.notice(UPLOADS, &uploaded(&edge, path)).await;
    assert!(said.expect_status(200).text().contains("\"uploads\":1"), "{}", said.text());
    edge.get(path).await.expect(200, "miss").with(package.narinfo().as_bytes());
    assert_eq!(edge.metric("narthex_upload_notices_total{result=\"noted\"}").await, 1);
    // A removal takes nothing out: the origin is asked.
    let removed = uploaded(&edge, &path_of(3));
    edge.notice(UPLOADS, &removed).await.expect_status(200);
    let removed = removed.replace("ObjectCreated:Put", "ObjectRemoved:Delete");
    edge.notice(UPLOADS, &removed).await.expect_status(200);
    edge.get(&path_of(3)).await.expect(404, "absent");
    let other = uploaded(&edge, &path_of(4)).replace("\"cache\"", "\"elsewhere\"");
    edge.notice(UPLOADS, &other).await.expect_status(200);
    edge.get(&path_of(4)).await.expect(404, "absent_filter");
    assert_eq!(edge.metric("narthex_upload_notices_total{result=\"foreign\"}").await, 1);
}

#[tokio::test]
async fn a_notice_ends_a_remembered_absence_and_one_on_its_way() {
    let (origin, bucket) = (Origin::start().await, Bucket::new());
    let edge = bucket.edge(&origin).await;
    let (package, gate) = (Package::new(3, 10), Gate::default());
    let path = &package.narinfo_path;
    edge.get(path).await.expect(404, "absent");
    edge.get(path).await.expect(404, "hit_absent");
    let (held, found) = (Script::status(404).held(&gate), says(package.narinfo()));
    origin.say_in_turn(path, vec![held, found]);
    edge.notice(UPLOADS, &uploaded(&edge, path)).await.expect_status(200);
    let client = edge.client();
    let early = {
        let path = path.clone();
        tokio::spawn(async move { client.get(&path).await })
    };
    origin.until_asked(path, 2).await;
    edge.notice(UPLOADS, &uploaded(&edge, path)).await.expect_status(200);
    edge.get(path).await.expect(200, "miss");
    gate.open();
    early.await.unwrap().expect(404, "absent");
    edge.until_idle().await;
    edge.get(path).await.expect(200, "hit_memory").with(package.narinfo().as_bytes());
    assert_eq!(origin.count(path), 3);
}

#[tokio::test]
async fn a_late_feed_makes_the_filter_step_aside_until_it_is_certain_again() {
    let (origin, bucket) = (Origin::start().await, Bucket::new());
    let edge = bucket.answering(&origin, &[]).await;
    edge.get(&path_of(1)).await.expect(404, "absent_filter");
    edge.notice(UPLOADS, KEEP_ALIVE).await.expect_status(200);
    edge.pass_time(301);
    edge.get(&path_of(1)).await.expect(404, "absent");
    let ready = edge.admin().get("/readyz").await;
    assert!(ready.text().contains("is late") && ready.status == 200, "{}", ready.text());
    edge.notice(UPLOADS, KEEP_ALIVE).await.expect_status(200);
    edge.get(&path_of(2)).await.expect(404, "absent");
    let ready = edge.admin().get("/readyz").await;
    assert!(ready.text().contains("may be unknown"), "{}", ready.text());
    // What was said lately is not enough; what reaches back to the time when the feed was heard is.
    let since = |seconds: i64| Timestamp::from_millis(edge.now().millis() - seconds * 1_000);
    edge.notice(UPLOADS, &delivered(since(200), edge.now())).await.expect_status(200);
    edge.get(&path_of(3)).await.expect(404, "absent");
    edge.notice(UPLOADS, &delivered(since(301), edge.now())).await.expect_status(200);
    edge.get(&path_of(4)).await.expect(404, "absent_filter");
}

#[tokio::test]
async fn an_unreadable_notice_ends_all_certainty() {
    let (origin, bucket) = (Origin::start().await, Bucket::new());
    let edge = bucket.answering(&origin, &[]).await;
    edge.get(&path_of(3)).await.expect(404, "absent_filter");
    edge.pass_time(1);
    edge.notice(UPLOADS, "{\"Records\": [{}]}").await.expect_status(400);
    for _ in 0..30 {
        edge.notice(UPLOADS, KEEP_ALIVE).await.expect_status(200);
        edge.pass_time(240);
    }
    edge.get(&path_of(1)).await.expect(404, "absent");
    bucket.build(&[], edge.now());
    edge.reload(&edge.text).await.unwrap();
    edge.get(&path_of(2)).await.expect(404, "absent_filter");
}

#[tokio::test]
async fn a_filter_of_the_time_before_its_feed_is_never_believed() {
    let (origin, bucket) = (Origin::start().await, Bucket::new());
    let edge = bucket.edge(&origin).await;
    bucket.build(&[], Timestamp::from_millis(edge.now().millis() - 1));
    edge.reload(&edge.text).await.unwrap();
    edge.get(&path_of(1)).await.expect(404, "absent");
    assert_eq!(edge.metric("narthex_absence_filter_answering{site=\"main\"}").await, 0);
}

#[tokio::test]
async fn a_damaged_or_foreign_file_changes_nothing() {
    let (origin, bucket) = (Origin::start().await, Bucket::new());
    std::fs::write(bucket.file(), "no filter at all").unwrap();
    let edge = bucket.edge(&origin).await;
    edge.get(&path_of(1)).await.expect(404, "absent");
    let ready = edge.admin().get("/readyz").await;
    assert!(ready.text().contains("this is no filter"), "{}", ready.text());
    let refused = edge.reload(&edge.text).await.unwrap_err().to_string();
    assert!(refused.contains("site main") && refused.contains("no filter"), "{refused}");

    edge.pass_time(10);
    bucket.build(&[], edge.now());
    edge.reload(&edge.text).await.unwrap();
    edge.get(&path_of(2)).await.expect(404, "absent_filter");
    let good = std::fs::read(bucket.file()).unwrap();
    let mut damaged = good.clone();
    damaged[good.len() / 2] ^= 1;
    for bad in [&damaged[..], &good[..good.len() - 1], b"NARTHEX-FILTER\0\n\x09\0\0\0"] {
        std::fs::write(bucket.file(), bad).unwrap();
        edge.reload(&edge.text).await.unwrap_err();
        edge.get(&path_of(3)).await.expect(404, "absent_filter");
    }
    let other = edge.text.replace("bucket = \"cache\"", "bucket = \"other\"");
    std::fs::write(bucket.file(), &good).unwrap();
    let refused = edge.reload(&other).await.unwrap_err().to_string();
    assert!(refused.contains("journal"), "{refused}");
    std::fs::remove_file(bucket.file()).unwrap();
    edge.reload(&edge.text).await.unwrap();
    edge.get(&path_of(4)).await.expect(404, "absent_filter");
    assert_eq!(origin.count_all(), 1);
}

#[tokio::test]
async fn uploads_outlast_a_restart_and_the_restart_is_a_gap() {
    let (origin, bucket) = (Origin::start().await, Bucket::new());
    let mut edge = bucket.answering(&origin, &[]).await;
    edge.notice(UPLOADS, &uploaded(&edge, &path_of(1))).await.expect_status(200);
    for _ in 0..3 {
        edge.pass_time(290);
        edge.notice(UPLOADS, KEEP_ALIVE).await.expect_status(200);
    }
    edge.restart().await;
    until_loaded(&edge, 1).await;
    edge.notice(UPLOADS, KEEP_ALIVE).await.expect_status(200);
    edge.get(&path_of(2)).await.expect(404, "absent");
    // What could not be delivered meanwhile is sent again within the retention.
    for _ in 0..13 {
        edge.pass_time(290);
        edge.notice(UPLOADS, KEEP_ALIVE).await.expect_status(200);
    }
    edge.get(&path_of(2)).await.expect(404, "absent_filter");
    edge.get(&path_of(1)).await.expect(404, "absent");
    // A newer filter knows it, and the journal need not.
    bucket.build(&[&path_of(1)], edge.now());
    edge.reload(&edge.text).await.unwrap();
    let noted = "narthex_absence_filter_keys{part=\"noted\",site=\"main\"}";
    assert_eq!(edge.metric(noted).await, 0);
    edge.pass_time(11);
    edge.get(&path_of(1)).await.expect(404, "absent");
    // An older one does not, and is refused.
    bucket.build(&[], Timestamp::from_millis(edge.now().millis() - 60_000));
    let refused = edge.reload(&edge.text).await.unwrap_err().to_string();
    assert!(refused.contains("build a newer one"), "{refused}");
}

#[tokio::test]
async fn notices_that_cannot_be_noted_are_refused_and_counted_as_a_gap() {
    let (origin, bucket) = (Origin::start().await, Bucket::new());
    let edge = bucket.answering(&origin, &[]).await;
    let full = edge.text.replace("uploads_max = 1000", "uploads_max = 1");
    edge.reload(&full).await.unwrap();
    edge.notice(UPLOADS, &uploaded(&edge, &path_of(1))).await.expect_status(200);
    edge.get(&path_of(3)).await.expect(404, "absent_filter");
    edge.pass_time(1);
    let refused = edge.notice(UPLOADS, &uploaded(&edge, &path_of(2))).await;
    assert!(refused.expect_status(503).text().contains("uploads_max"), "{}", refused.text());
    edge.get(&path_of(3)).await.expect(404, "absent");
    edge.notice(UPLOADS, KEEP_ALIVE).await.expect_status(200);
    edge.get(&path_of(4)).await.expect(404, "absent");
    assert_eq!(edge.metric("narthex_upload_notices_total{result=\"refused\"}").await, 1);
}

#[tokio::test]
async fn only_who_has_the_token_may_send_notices() {
    let (origin, bucket) = (Origin::start().await, Bucket::new());
    let edge = bucket.edge(&origin).await;
    edge.admin().post(UPLOADS, &[], KEEP_ALIVE).await.expect_status(401);
    edge.admin().get(UPLOADS).await.expect_status(405);
    edge.client().post(UPLOADS, &[], KEEP_ALIVE).await.expect_status(405);
    edge.notice("/api/v1/uploads?site=nobody", KEEP_ALIVE).await.expect_status(404);
    edge.notice("/api/v1/uploads?site=main", KEEP_ALIVE).await.expect_status(200);
}

/// At most one in a hundred of 10^5 absent narinfos reaches the origin; about one in 250 does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_absent_narinfos_few_reach_the_origin() {
    const ABSENT: u64 = 100_000;
    let (origin, bucket) = (Origin::start().await, Bucket::new());
    let mut draw = Draw(7);
    let keys: Vec<String> = (0..20_000).map(|_| path_of(1 << 60 | draw.next() >> 8)).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let edge = bucket.setup().disk_size("0").start(&[&origin]).await;
    until_journal(&edge).await;
    edge.notice(UPLOADS, KEEP_ALIVE).await.expect_status(200);
    bucket.build(&keys, edge.now());
    edge.reload(&edge.text).await.unwrap();
    let address = edge.client().address;
    let ask = |from: u64| async move {
        let mut stream = TcpStream::connect(address).await.unwrap();
        for batch in (from..from + ABSENT / 4).step_by(100) {
            let requests: Vec<String> = (batch..batch + 100)
                .map(|number| format!("GET {} HTTP/1.1\r\nhost: h\r\n\r\n", path_of(number)))
                .collect();
            stream.write_all(requests.concat().as_bytes()).await.unwrap();
            let (mut answers, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
            let end = b"\r\n\r\n404";
            while answers.windows(end.len()).filter(|window| window == end).count() < 100 {
                let count = stream.read(&mut buffer).await.unwrap();
                assert_ne!(count, 0, "{}", String::from_utf8_lossy(&answers));
                answers.extend_from_slice(&buffer[..count]);
            }
        }
    };
    let asking = [0, 1, 2, 3].map(|part| tokio::spawn(ask(part * ABSENT / 4)));
    for part in asking {
        part.await.unwrap();
    }
    let requests = |outcome| {
        format!("narthex_requests_total{{class=\"narinfo\",outcome=\"{outcome}\",site=\"main\"}}")
    };
    let by_filter = edge.metric(&requests("absent_filter")).await;
    let by_origin = edge.metric(&requests("absent")).await;
    assert_eq!(by_filter + by_origin, ABSENT);
    assert!(origin.count_all() as u64 <= ABSENT / 100, "{}", origin.count_all());
    eventually("the end of every fill", || edge.running().metrics.fills_running.get() == 0).await;
}
