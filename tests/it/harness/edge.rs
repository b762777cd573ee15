//! An edge in this process: assembled as the binary does it, on free ports, with a clock turned
//! by hand and its access log kept.

use super::client::{Client, Said};
use super::eventually;
use super::fixture::trusted_key;
use super::origin::Origin;
use http::HeaderMap;
use narthex::app::{self, RunningEdge, StartError, Surroundings};
use narthex::clock::{Clock, ManualClock, Timestamp};
use narthex::config::{self, Config, Sources};
use narthex::telemetry::AccessLogSink;
use parking_lot::Mutex;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;

/// When every scenario begins.
const START: Timestamp = Timestamp::from_secs(1_780_000_000);

/// The bearer token of the admin listener.
const TOKEN: &str = "a-token-of-the-tests-that-is-long-enough";

/// What an edge is started with.
pub(crate) struct Setup {
    disk_size: String,
    disks: usize,
    signatures: &'static str,
    site: String,
    timeouts: String,
    top: String,
    name: &'static str,
    clock: Option<Clock>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            disk_size: "256MiB".to_owned(),
            disks: 1,
            signatures: "require",
            site: String::new(),
            timeouts: "connect = \"5s\"\nfirst_byte = \"20s\"\nbetween_bytes = \"20s\"".to_owned(),
            top: String::new(),
            name: "edge",
            clock: None,
        }
    }
}

impl Setup {
    /// With a disk tier of this size; `0` for none.
    pub(crate) fn disk_size(self, size: &str) -> Self {
        Self { disk_size: size.to_owned(), ..self }
    }

    /// With so many disks.
    pub(crate) fn disks(self, disks: usize) -> Self {
        Self { disks, ..self }
    }

    /// With `signatures = ...`.
    pub(crate) fn signatures(self, signatures: &'static str) -> Self {
        Self { signatures, ..self }
    }

    /// With these lines in `[[site]]`, tables of it included.
    pub(crate) fn site(self, lines: &str) -> Self {
        Self { site: lines.to_owned(), ..self }
    }

    /// With these lines in `[site.origin.timeouts]` of each origin.
    pub(crate) fn timeouts(self, lines: &str) -> Self {
        Self { timeouts: lines.to_owned(), ..self }
    }

    /// With these further tables.
    pub(crate) fn tables(self, lines: &str) -> Self {
        Self { top: lines.to_owned(), ..self }
    }

    /// Called so in `CDN-Loop`.
    pub(crate) fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// By the system's clock.
    pub(crate) fn by_real_time(self) -> Self {
        Self { clock: Some(Clock::System), ..self }
    }

    /// Starts an edge in front of `origins`, asked in this order, once its self test has asked
    /// each of them.
    pub(crate) async fn start(self, origins: &[&Origin]) -> Edge {
        let tables: Vec<String> = origins
            .iter()
            .enumerate()
            .map(|(at, origin)| format!("url = \"{}\"\nname = \"origin-{at}\"", origin.url()))
            .collect();
        let is_generic = self.site.contains("kind = \"generic\"");
        let probe = if is_generic { "/" } else { "/nix-cache-info" };
        let probed: Vec<usize> = origins.iter().map(|origin| origin.count(probe)).collect();
        let edge = self.start_before(&tables).await;
        for (origin, before) in origins.iter().zip(probed) {
            origin.until_asked(probe, before + 1).await;
        }
        edge
    }

    /// Starts an edge with these keys of its origins.
    pub(crate) async fn start_before(self, origins: &[String]) -> Edge {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("token"), TOKEN).unwrap();
        let manual = ManualClock::starting_at(START);
        let clock = self.clock.clone().unwrap_or(Clock::Manual(manual.clone()));
        let log = Log::default();
        let text = self.text(&folder, origins);
        let running = run(&text, &clock, &log).await.unwrap();
        Edge { running: Some(running), folder, text, manual, clock, log }
    }

    fn text(&self, folder: &TempDir, origins: &[String]) -> String {
        let key = trusted_key().public_key().unwrap().to_string();
        let proofs =
            format!("signatures = \"{}\"\ntrusted_public_keys = [\"{key}\"]\n", self.signatures);
        // What proves a narinfo has no meaning elsewhere.
        let is_generic = self.site.contains("kind = \"generic\"");
        let proofs = if is_generic { String::new() } else { proofs };
        let paths: Vec<_> = (0..self.disks).map(|number| disk_folder(folder, number)).collect();
        let mut text = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\nname = \"{name}\"\n\
             [server.timeouts]\ndrain = \"20s\"\n\
             [admin]\nlisten = \"127.0.0.1:0\"\ntoken_file = \"{folder}/token\"\n\
             [memory]\nsize = \"16MiB\"\n\
             [disk]\npath = {paths:?}\nsize = \"{size}\"\n{top}\n\
             [[site]]\nname = \"main\"\n{proofs}{site}\n",
            name = self.name,
            folder = folder.path().display(),
            size = self.disk_size,
            top = self.top,
            site = patient(&self.site),
        );
        for origin in origins {
            text +=
                &format!("[[site.origin]]\n{origin}\n[site.origin.timeouts]\n{}\n", self.timeouts);
        }
        text
    }
}

/// The lines of a site, which waits for the confirmation of what is stale as long as a test may
/// take, unless they say how long.
fn patient(site: &str) -> String {
    const WAIT: &str = "revalidation_wait = \"1m\"";
    if site.contains("revalidation_wait") {
        return site.to_owned();
    }
    let is_generic = site.contains("kind = \"generic\"");
    let table = if is_generic { "[site.caching]\n" } else { "[site.lifetimes]\n" };
    if site.contains(table) {
        site.replacen(table, &format!("{table}{WAIT}\n"), 1)
    } else {
        format!("{site}\n{table}{WAIT}")
    }
}

/// A running edge, and what it keeps on disk.
pub(crate) struct Edge {
    running: Option<RunningEdge>,
    folder: TempDir,
    /// Its configuration.
    pub(crate) text: String,
    manual: ManualClock,
    clock: Clock,
    log: Log,
}

impl Edge {
    /// The edge with the usual settings before one origin.
    pub(crate) async fn before(origin: &Origin) -> Self {
        Setup::default().start(&[origin]).await
    }

    pub(crate) fn running(&self) -> &RunningEdge {
        self.running.as_ref().unwrap()
    }

    /// A client of its public listener.
    pub(crate) fn client(&self) -> Client {
        Client { address: self.running().addresses[0].1 }
    }

    /// A client of its admin listener.
    pub(crate) fn admin(&self) -> Client {
        Client { address: self.running().admin.unwrap() }
    }

    /// GET from its public listener.
    pub(crate) async fn get(&self, target: &str) -> Said {
        self.client().get(target).await
    }

    /// GET with fields from its public listener.
    pub(crate) async fn read_with(&self, target: &str, fields: &[(&str, &str)]) -> Said {
        self.client().read_with(target, fields).await
    }

    /// Its clock.
    pub(crate) fn manual(&self) -> ManualClock {
        self.manual.clone()
    }

    /// Turns the clock.
    pub(crate) fn pass_time(&self, seconds: u64) {
        self.manual.advance(Duration::from_secs(seconds));
    }

    /// Stops it in good order and starts it again on the same disk.
    pub(crate) async fn restart(&mut self) {
        assert!(self.stop().await, "the drain was cut");
        self.start_again().await;
    }

    /// Starts it on the same disk once it was stopped.
    pub(crate) async fn start_again(&mut self) {
        self.running = Some(run(&self.text, &self.clock, &self.log).await.unwrap());
    }

    /// Stops it in good order; whether everything ended by itself.
    pub(crate) async fn stop(&mut self) -> bool {
        let running = self.running.take().unwrap();
        running.drain().await
    }

    /// Takes over another configuration, as SIGHUP does.
    pub(crate) async fn reload(&self, text: &str) -> Result<Vec<&'static str>, StartError> {
        self.running().reload(parse(text)).await
    }

    /// Purges as an operator does: `request` is the JSON body.
    pub(crate) async fn purge(&self, request: &str) -> Said {
        let authorization = format!("Bearer {TOKEN}");
        let fields = [("authorization", &*authorization)];
        self.admin().post("/api/v1/purge", &fields, request).await
    }

    /// Sends a notice of uploads, as a feed does, to `target` of the admin listener.
    pub(crate) async fn notice(&self, target: &str, body: &str) -> Said {
        let authorization = format!("Bearer {TOKEN}");
        self.admin().post(target, &[("authorization", &*authorization)], body).await
    }

    /// What its clock says.
    pub(crate) fn now(&self) -> Timestamp {
        self.manual.now()
    }

    /// The value of a metric, labels and all as `/metrics` prints it; 0 if it is not there.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let said = self.admin().get("/metrics").await;
        let line = said.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }

    /// Waits until a metric has this value.
    pub(crate) async fn until_metric(&self, name: &str, value: u64) {
        for _ in 0..10_000 {
            if self.metric(name).await == value {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        panic!("{name} is {}, never {value}", self.metric(name).await);
    }

    /// Waits until no fill is under way.
    pub(crate) async fn until_idle(&self) {
        let metrics = self.running().metrics.clone();
        eventually("the end of every fill", || metrics.fills_running.get() == 0).await;
    }

    /// The access log, once it has `lines` lines.
    pub(crate) async fn log(&self, lines: usize) -> Vec<serde_json::Value> {
        let buffer = Arc::clone(&self.log.0);
        let newlines = || String::from_utf8_lossy(&buffer.lock()).lines().count();
        eventually("the access log's lines", || newlines() >= lines).await;
        let bytes = buffer.lock().clone();
        bytes
            .split(|byte| *byte == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect()
    }

    /// Bytes of all files below its disk's folder of objects, and how many there are.
    pub(crate) fn objects_on_disk(&self) -> (u64, usize) {
        let files = self.object_files();
        let bytes = files.iter().filter_map(|file| file.metadata().ok()).map(|file| file.len());
        (bytes.sum(), files.len())
    }

    /// Whether it has a disk tier.
    pub(crate) fn has_disk(&self) -> bool {
        self.folder.path().join("disk/index").exists()
    }

    /// Its disk's folder goes away under it, index and all.
    pub(crate) fn lose_disk(&self) {
        std::fs::remove_dir_all(disk_folder(&self.folder, 0)).unwrap();
    }

    /// The folder of one of its disks is taken away.
    pub(crate) fn take_disk(&self, number: usize) {
        std::fs::rename(disk_folder(&self.folder, number), self.folder.path().join("away"))
            .unwrap();
    }

    /// The folder that was taken away is back, in place of whatever is there.
    pub(crate) fn bring_disk_back(&self, number: usize) {
        let folder = disk_folder(&self.folder, number);
        // The edge may have made a new one there, and may make another meanwhile.
        for turn in 0.. {
            let _ = std::fs::rename(&folder, self.folder.path().join(format!("rubbish{turn}")));
            if std::fs::rename(self.folder.path().join("away"), &folder).is_ok() {
                return;
            }
            assert!(turn < 100, "{} cannot be put back", folder.display());
        }
    }

    /// The label that metrics give one of its disks.
    pub(crate) fn disk_label(&self, number: usize) -> String {
        disk_folder(&self.folder, number).display().to_string()
    }

    /// The files below its disk's folder of objects.
    pub(crate) fn object_files(&self) -> Vec<PathBuf> {
        let mut todo = vec![self.folder.path().join("disk/objects")];
        let mut files = Vec::new();
        while let Some(folder) = todo.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
                if path.is_dir() { todo.push(path) } else { files.push(path) }
            }
        }
        files
    }
}

fn disk_folder(folder: &TempDir, number: usize) -> PathBuf {
    let name = if number == 0 { "disk".to_owned() } else { format!("disk{number}") };
    folder.path().join(name)
}

/// How an answer came about: the detail of the edge's own member of `Cache-Status`, the last one.
pub(crate) fn outcome(headers: &HeaderMap) -> String {
    let last = headers.get_all("cache-status").iter().next_back();
    let text = last.map_or("", |value| value.to_str().unwrap());
    let text = text.rsplit(", ").next().unwrap_or("");
    assert!(text.is_empty() || text.starts_with("narthex"), "{text}");
    let detail = text.split("detail=").nth(1).unwrap_or("");
    detail.split(';').next().unwrap_or("").trim_matches('"').to_owned()
}

async fn run(text: &str, clock: &Clock, log: &Log) -> Result<RunningEdge, StartError> {
    let access_log = AccessLogSink::Writer(Box::new(log.clone()));
    let surroundings = Surroundings { clock: clock.clone(), access_log };
    app::start(parse(text), surroundings).await
}

fn parse(text: &str) -> Config {
    let file = Some((PathBuf::from("test.toml"), text.to_owned()));
    let loaded = config::load(&Sources { file, ..Sources::default() });
    loaded.unwrap_or_else(|problems| panic!("{problems}\n{text}")).config
}

/// The destination of the access log.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
