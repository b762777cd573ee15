//! A whole edge before a folder, when its wall clock is set back by two hours, or its disk hangs:
//! nothing stays fresh for longer, whether the process goes on or another one begins, and no client
//! waits for the disk.

use super::{RunningEdge, Surroundings, start};
use crate::clock::{Clock, ManualClock, Timestamp};
use crate::config::{self, Sources};
use crate::object::Key;
use crate::store::At;
use crate::sync::Mutex;
use crate::telemetry::AccessLogSink;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const TWO_HOURS: Duration = Duration::from_hours(2);
const START: Timestamp = Timestamp::from_secs(1_780_000_000);
const HASH: &str = "0123456789abcdfghijklmnpqrsvwxyz";

/// A folder with a binary cache, and what an edge before it keeps.
struct Bench {
    place: TempDir,
}

/// An answer: its status, its `Age`, and its body.
type Said = (u16, Option<u64>, Vec<u8>);

impl Bench {
    fn new() -> Self {
        let bench = Self { place: tempfile::tempdir().unwrap() };
        std::fs::create_dir_all(bench.at("origin/nar")).unwrap();
        bench.put("nix-cache-info", b"StoreDir: /nix/store\n");
        bench
    }

    fn at(&self, path: &str) -> PathBuf {
        self.place.path().join(path)
    }

    /// The only object or part that is stored in a file.
    fn object_file(&self) -> PathBuf {
        let mut place = self.at("disk/objects");
        while place.is_dir() {
            place = std::fs::read_dir(&place).unwrap().next().unwrap().unwrap().path();
        }
        place
    }

    /// The origin has this from now on.
    fn put(&self, path: &str, body: &[u8]) {
        // A new file, as another one is written in its place.
        let written = self.at("written");
        std::fs::write(&written, body).unwrap();
        std::fs::rename(written, self.at("origin").join(path)).unwrap();
    }

    /// The origin has a narinfo that names so many bytes.
    fn put_narinfo(&self, bytes: u64) -> Vec<u8> {
        let text = format!(
            "StorePath: /nix/store/{HASH}-package\nURL: nar/{file}.nar.xz\nCompression: xz\n\
             FileHash: sha256:{file}\nFileSize: {bytes}\nNarHash: sha256:{file}\n\
             NarSize: 123456\nReferences: \n",
            file = "1".repeat(52),
        );
        self.put(&format!("{HASH}.narinfo"), text.as_bytes());
        text.into()
    }

    async fn start(&self, clock: &ManualClock) -> RunningEdge {
        let url = format!("file://{}", self.at("origin").display());
        self.start_before(&url, clock).await
    }

    /// An edge before the origin at `url`.
    async fn start_before(&self, url: &str, clock: &ManualClock) -> RunningEdge {
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\n[log]\naccess = \"off\"\n\
             [admin]\nlisten = \"off\"\n\
             [disk]\npath = {disk:?}\nsize = \"256MiB\"\n\
             [server.limits]\ncompletion_size_max = 0\n\
             [[site]]\nname = \"main\"\nsignatures = \"off\"\n\
             [site.lifetimes]\nnar = \"20s\"\nnarinfo = \"3s\"\nabsent = \"2s\"\n\
             revalidation_wait = \"1m\"\n\
             [[site.origin]]\nurl = {url:?}\n",
            disk = self.at("disk"),
        );
        let sources = Sources { file: Some((self.at("narthex.toml"), text)), ..Sources::default() };
        let loaded = config::load(&sources).unwrap_or_else(|problems| panic!("{problems}"));
        let clock = Clock::Manual(clock.clone());
        start(loaded.config, Surroundings { clock, access_log: AccessLogSink::Stdout })
            .await
            .unwrap()
    }
}

async fn get(edge: &RunningEdge, path: &str) -> Said {
    ask(edge, path, "").await
}

/// GET with more header lines, each ended by CRLF.
async fn ask(edge: &RunningEdge, path: &str, lines: &str) -> Said {
    let mut client = TcpStream::connect(edge.addresses[0].1).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{lines}\r\n");
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
    let body = answer.split_off(end + 4);
    let head = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let age = head.lines().find_map(|line| line.strip_prefix("age: "));
    (status, age.map(|age| age.parse().unwrap()), body)
}

/// GET of a large body, until it is stored: the answer to a fetch may end before that.
async fn get_stored(edge: &RunningEdge, path: &str) -> usize {
    for _ in 0..1_000 {
        let (status, age, body) = get(edge, path).await;
        assert_eq!(status, 200);
        if age.is_some() {
            return body.len();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it is never stored");
}

fn narinfo_path() -> String {
    format!("/{HASH}.narinfo")
}

/// FAULTS.md S6.
#[tokio::test(flavor = "multi_thread")]
async fn an_absence_ends_in_time_although_the_clock_is_set_back() {
    let (bench, clock) = (Bench::new(), ManualClock::starting_at(START));
    let edge = bench.start(&clock).await;
    assert_eq!(get(&edge, &narinfo_path()).await.0, 404);
    let narinfo = bench.put_narinfo(1);
    clock.set_back(TWO_HOURS);
    clock.advance(Duration::from_secs(1));
    let (status, age, _) = get(&edge, &narinfo_path()).await;
    assert_eq!((status, age), (404, Some(1)), "it is remembered");
    clock.advance(Duration::from_secs(1));
    let (status, _, body) = get(&edge, &narinfo_path()).await;
    assert_eq!((status, body), (200, narinfo));
    assert!(edge.drain().await);
}

/// FAULTS.md S6.
#[tokio::test(flavor = "multi_thread")]
async fn a_narinfo_in_memory_is_confirmed_in_time_although_the_clock_is_set_back() {
    let (bench, clock) = (Bench::new(), ManualClock::starting_at(START));
    let edge = bench.start(&clock).await;
    let older = bench.put_narinfo(1);
    assert_eq!(get(&edge, &narinfo_path()).await.2, older);
    let newer = bench.put_narinfo(1_000);
    clock.set_back(TWO_HOURS);
    clock.advance(Duration::from_secs(2));
    assert_eq!(get(&edge, &narinfo_path()).await, (200, Some(2), older));
    clock.advance(Duration::from_secs(1));
    assert_eq!(get(&edge, &narinfo_path()).await.2, newer);
    // What came after the step is as fresh as ever.
    bench.put_narinfo(2_000);
    clock.advance(Duration::from_secs(2));
    assert_eq!(get(&edge, &narinfo_path()).await, (200, Some(2), newer));
    assert!(edge.drain().await);
}

/// FAULTS.md S6.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_on_disk_is_confirmed_in_time_although_the_clock_is_set_back() {
    let (bench, clock) = (Bench::new(), ManualClock::starting_at(START));
    let edge = bench.start(&clock).await;
    let nar = format!("nar/{}.nar.zst", "1".repeat(52));
    let path = format!("/{nar}");
    bench.put(&nar, &vec![1; 300_000]);
    assert_eq!(get_stored(&edge, &path).await, 300_000);
    bench.put(&nar, &vec![2; 400_000]);
    clock.set_back(TWO_HOURS);
    clock.advance(Duration::from_secs(19));
    let (status, age, body) = get(&edge, &path).await;
    assert_eq!((status, age, body.len()), (200, Some(19), 300_000));
    clock.advance(Duration::from_secs(1));
    assert_eq!(get(&edge, &path).await.2.len(), 400_000);
    assert!(edge.drain().await);
}

/// FAULTS.md S6.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_process_stored_in_the_future_is_confirmed_once() {
    let bench = Bench::new();
    let nar = format!("nar/{}.nar.zst", "1".repeat(52));
    let path = format!("/{nar}");
    bench.put(&nar, &vec![1; 300_000]);
    let older = bench.put_narinfo(1);
    let edge = bench.start(&ManualClock::starting_at(START)).await;
    assert_eq!(get_stored(&edge, &path).await, 300_000);
    assert_eq!(get(&edge, &narinfo_path()).await.2, older);
    assert!(edge.drain().await);

    let newer = bench.put_narinfo(1_000);
    bench.put(&nar, &vec![2; 400_000]);
    let clock = ManualClock::starting_at(START);
    clock.set_back(TWO_HOURS);
    let clock = ManualClock::starting_at(clock.wall());
    let edge = bench.start(&clock).await;
    assert_eq!(get(&edge, &narinfo_path()).await.2, newer);
    assert_eq!(get(&edge, &path).await.2.len(), 400_000);
    assert_eq!(get_stored(&edge, &path).await, 400_000);
    clock.advance(Duration::from_secs(2));
    bench.put_narinfo(2_000);
    bench.put(&nar, &vec![3; 500_000]);
    assert_eq!(get(&edge, &narinfo_path()).await, (200, Some(2), newer));
    let (status, age, body) = get(&edge, &path).await;
    assert_eq!((status, age, body.len()), (200, Some(2), 400_000));
    assert!(edge.drain().await);
}

/// FAULTS.md S16a.
#[tokio::test(flavor = "multi_thread")]
async fn a_range_whose_chunk_the_disk_does_not_give_comes_from_its_origin() {
    let (bench, clock) = (Bench::new(), ManualClock::starting_at(START));
    let body: Vec<u8> = (0..6_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let file = format!("nar/{}.nar.zst", "1".repeat(52));
    bench.put(&file, &body);
    let (path, range) = (format!("/{file}"), "Range: bytes=2097152-2097251\r\n");
    let part = (206, body[2_097_152..2_097_252].to_vec());
    let edge = bench.start(&clock).await;
    let (status, _, bytes) = ask(&edge, &path, range).await;
    assert_eq!((status, bytes), part);
    // What an earlier process wrote is read from the disk.
    assert!(edge.drain().await);
    let edge = bench.start(&clock).await;
    let store = edge.engine.cache().store().unwrap().clone();
    let hold = store.hold(0, "a part is to be read");
    let asked = tokio::time::timeout(Duration::from_mins(1), ask(&edge, &path, range)).await;
    let (status, _, bytes) = asked.expect("an answer while the disk hangs");
    assert_eq!((status, bytes), part);
    assert!(hold.reached() > 0, "it was asked of the disk");
}

/// FAULTS.md S16a.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_late_once_gives_the_next_chunk_itself() {
    let (bench, clock) = (Bench::new(), ManualClock::starting_at(START));
    let body: Vec<u8> = (0..6_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let file = format!("nar/{}.nar.zst", "1".repeat(52));
    bench.put(&file, &body);
    let (path, range) = (format!("/{file}"), "Range: bytes=2097152-4194303\r\n");
    let part = (206, body[2_097_152..4_194_304].to_vec());
    let edge = bench.start(&clock).await;
    let (status, _, bytes) = ask(&edge, &path, range).await;
    assert!((status, bytes) == part);
    // What an earlier process wrote is read from the disk.
    assert!(edge.drain().await);
    let edge = bench.start(&clock).await;
    let store = edge.engine.cache().store().unwrap().clone();
    let hold = store.hold(0, "a part is to be read");
    let asking = ask(&edge, &path, range);
    let releasing = async move {
        // The second chunk is asked for once the first has passed.
        while hold.reached() < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let both = async { tokio::join!(asking, releasing) };
    let ((status, _, bytes), ()) =
        tokio::time::timeout(Duration::from_mins(1), both).await.unwrap();
    assert!((status, bytes) == part);
    assert_eq!(edge.metrics.range_bytes.with_label_values(&["passed"]).get(), 1 << 20);
}

/// What an origin does with a request for a range.
#[derive(Debug, Clone, Copy)]
enum Act {
    Send,
    /// It sends so many bytes, and breaks off.
    BreakOff(usize),
    /// It sends so many bytes, and nothing more.
    PauseAfter(usize),
    Busy,
    /// It sends so many bytes and breaks off, is busy when it is asked next, and then sends all.
    Stumble(usize),
}

/// An HTTP origin of one object, which may be told what to do and counts what it is asked.
#[derive(Clone)]
struct Ranged {
    body: Arc<Vec<u8>>,
    act: Arc<Mutex<(Act, u32)>>,
}

impl Ranged {
    /// The origin, and its URL.
    async fn start(body: Vec<u8>) -> (Self, String) {
        let origin = Self { body: Arc::new(body), act: Arc::new(Mutex::new((Act::Send, 0))) };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let own = origin.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(own.clone().converse(stream));
            }
        });
        (origin, url)
    }

    fn will(&self, act: Act) {
        *self.act.lock() = (act, 0);
    }

    fn asked(&self) -> u32 {
        self.act.lock().1
    }

    /// Answers one request.
    async fn converse(self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
        // The probe of an origin that failed asks for all.
        let Some((_, range)) = head.split_once("range: bytes=") else { return Ok(()) };
        let (first, rest) = range.split_once('-').unwrap();
        let first: usize = first.parse().unwrap();
        let last = rest.lines().next().unwrap().parse().unwrap_or(self.body.len() - 1);
        let act = {
            let mut act = self.act.lock();
            act.1 += 1;
            match (act.0, act.1) {
                (Act::Stumble(at), 1) => Act::BreakOff(at),
                (Act::Stumble(_), 2) => Act::Busy,
                (act, _) => act,
            }
        };
        if matches!(act, Act::Busy) {
            let busy = "HTTP/1.1 503 x\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            return stream.write_all(busy.as_bytes()).await;
        }
        let text = format!(
            "HTTP/1.1 206 x\r\netag: \"a\"\r\nconnection: close\r\ncontent-length: {}\r\n\
             content-range: bytes {first}-{last}/{}\r\n\r\n",
            last + 1 - first,
            self.body.len()
        );
        stream.write_all(text.as_bytes()).await?;
        let bytes = &self.body[first..=last];
        match act {
            Act::BreakOff(at) => stream.write_all(&bytes[..at.min(bytes.len())]).await,
            Act::PauseAfter(at) => {
                stream.write_all(&bytes[..at.min(bytes.len())]).await?;
                std::future::pending().await
            }
            Act::Send | Act::Busy | Act::Stumble(_) => stream.write_all(bytes).await,
        }
    }
}

/// FAULTS.md S16a.
#[tokio::test(flavor = "multi_thread")]
async fn a_late_disk_is_asked_again_if_the_origin_is_of_no_use() {
    for act in [Act::Busy, Act::BreakOff(1_000)] {
        let (bench, clock) = (Bench::new(), ManualClock::starting_at(START));
        let body: Vec<u8> = (0..6_u32 << 18).flat_map(u32::to_le_bytes).collect();
        let (origin, url) = Ranged::start(body.clone()).await;
        let path = format!("/nar/{}.nar.zst", "1".repeat(52));
        let range = "Range: bytes=2097152-3145727\r\n";
        let part = (206, body[2_097_152..3_145_728].to_vec());
        let edge = bench.start_before(&url, &clock).await;
        let (status, _, bytes) = ask(&edge, &path, range).await;
        assert!((status, bytes) == part, "{act:?}");
        // What an earlier process wrote is read from the disk.
        assert!(edge.drain().await);
        let edge = bench.start_before(&url, &clock).await;
        let store = edge.engine.cache().store().unwrap().clone();
        let hold = store.hold(0, "a part is to be read");
        origin.will(act);
        let asking = ask(&edge, &path, range);
        let releasing = async {
            while origin.asked() == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            // The disk answers again, after the origin.
            drop(hold);
        };
        let both = async { tokio::join!(asking, releasing) };
        let ((status, _, bytes), ()) =
            tokio::time::timeout(Duration::from_mins(1), both).await.unwrap();
        assert!((status, bytes) == part, "{act:?}: {status}");
        assert!(edge.drain().await);
    }
}

/// The whole is made of the part meanwhile, so that the chunk stays as it is.
#[tokio::test(flavor = "multi_thread")]
async fn what_passes_instead_of_a_damaged_chunk_is_continued_when_it_breaks_off() {
    let (bench, clock) = (Bench::new(), ManualClock::starting_at(START));
    let body: Vec<u8> = (0..6_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let (origin, url) = Ranged::start(body.clone()).await;
    let edge = bench.start_before(&url, &clock).await;
    let path = format!("/nar/{}.nar.zst", "1".repeat(52));
    let range = "Range: bytes=2097152-3145727\r\n";
    let (status, _, bytes) = ask(&edge, &path, range).await;
    assert!((status, &bytes[..]) == (206, &body[2_097_152..3_145_728]));
    let key = Key::new(edge.engine.sites().named("main").unwrap().key_space(), &path, None);
    // It is kept a little after it was sent.
    let part = loop {
        match edge.engine.cache().part(&key).await {
            Some(part) if matches!(part.at(2_097_152), At::Here) => break part,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let file = std::fs::File::options().write(true).open(bench.object_file()).unwrap();
    file.write_all_at(b"wrong", 2_097_157).unwrap();
    part.doubt();
    part.freeze();
    origin.will(Act::Stumble(1_000));
    let (status, _, bytes) = ask(&edge, &path, range).await;
    assert!((status, &bytes[..]) == (206, &body[2_097_152..3_145_728]), "{}", bytes.len());
    assert_eq!(origin.asked(), 3);
}

/// The first gap is looked for before the first byte is sent. What passes from there on is for its
/// place alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_passes_from_the_first_gap_on_is_not_sent_for_what_is_before_it() {
    let (bench, clock) = (Bench::new(), ManualClock::starting_at(START));
    let body: Vec<u8> = (0..6_u32 << 18).flat_map(u32::to_le_bytes).collect();
    let (origin, url) = Ranged::start(body.clone()).await;
    let edge = bench.start_before(&url, &clock).await;
    let path = format!("/nar/{}.nar.zst", "1".repeat(52));
    let (status, _, bytes) = ask(&edge, &path, "Range: bytes=2097152-3145727\r\n").await;
    assert!((status, &bytes[..]) == (206, &body[2_097_152..3_145_728]));
    // Another reader brings the first bytes of the next chunk.
    origin.will(Act::PauseAfter(600_000));
    let mut other = TcpStream::connect(edge.addresses[0].1).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\nRange: bytes=3145728-4194303\r\n\r\n");
    other.write_all(request.as_bytes()).await.unwrap();
    let sites = edge.engine.sites();
    let key = Key::new(sites.named("main").unwrap().key_space(), &path, None);
    let part = loop {
        if let Some(part) = edge.engine.cache().part(&key).await
            && let At::Arriving(growing) = part.at(3_145_728)
            && growing.visible() > 3_145_728
            && growing.follow(3_145_728, None).read_now(3_145_728, 1).is_none()
        {
            break part;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    // They are in the file, and the disk gives others, each time.
    let file = std::fs::File::options().write(true).open(bench.object_file()).unwrap();
    file.write_all_at(b"wrong", 3_145_733).unwrap();
    part.doubt();
    origin.will(Act::Send);
    let (status, _, bytes) = ask(&edge, &path, "Range: bytes=2097252-4194303\r\n").await;
    assert!((status, &bytes[..]) == (206, &body[2_097_252..4_194_304]));
    // A second request for a part of it is due only if the machine is too slow for the first.
    let passed = edge.metrics.range_bytes.with_label_values(&["passed"]).get();
    assert!((1 << 20..2 << 20).contains(&passed), "{passed}");
    drop(other);
}
