//! A `narthex` process: started in a folder of its own, watched by its log lines, killed by its id
//! when it is dropped. Every wait has a deadline.

use super::client::{self, Reply};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long anything may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);

/// The program, with nothing of this process's environment but a home of its own.
pub(super) fn narthex(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_narthex"));
    command.env_clear().env("HOME", home).current_dir(home).stdin(Stdio::null());
    command
}

/// Runs a command that ends by itself.
pub(super) fn run(mut command: Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut process = Process::watch(child);
    let status = process.ended();
    Output {
        status,
        stdout: process.stdout.whole().into_bytes(),
        stderr: process.stderr.whole().into_bytes(),
    }
}

/// The code that a command ended with, and what it said on standard error.
pub(super) fn complaint(command: Command) -> (i32, String) {
    let output = run(command);
    (output.status.code().unwrap_or(-1), String::from_utf8(output.stderr).unwrap())
}

/// Lines that a process wrote so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Lines(Arc<(Mutex<Written>, Condvar)>);

#[derive(Debug, Default)]
struct Written {
    lines: Vec<String>,
    is_ended: bool,
}

impl Lines {
    fn collect(source: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let own = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).into_owned();
                own.0.0.lock().unwrap().lines.push(line);
                own.0.1.notify_all();
            }
            own.0.0.lock().unwrap().is_ended = true;
            own.0.1.notify_all();
        });
        lines
    }

    /// The first line, from the `skipped`th, that is as wanted; `None` if they ended without.
    fn find(&self, skipped: usize, is_wanted: impl Fn(&str) -> bool) -> Option<String> {
        let until = Instant::now() + DEADLINE;
        let mut written = self.0.0.lock().unwrap();
        loop {
            if let Some(line) = written.lines.iter().skip(skipped).find(|line| is_wanted(line)) {
                return Some(line.clone());
            }
            let left = until.saturating_duration_since(Instant::now());
            if written.is_ended || left.is_zero() {
                return None;
            }
            written = self.0.1.wait_timeout(written, left).unwrap().0;
        }
    }

    /// How many there are.
    pub(super) fn count(&self) -> usize {
        self.0.0.lock().unwrap().lines.len()
    }

    /// Waits for a line, from the `skipped`th, with every one of `parts`.
    pub(super) fn wait(&self, skipped: usize, parts: &[&str]) -> String {
        let found = self.find(skipped, |line| parts.iter().all(|part| line.contains(part)));
        found.unwrap_or_else(|| panic!("no line with {parts:?} in:\n{}", self.so_far()))
    }

    /// Waits until there are `wanted` lines at least, and gives them.
    pub(super) fn at_least(&self, wanted: usize) -> Vec<String> {
        let until = Instant::now() + DEADLINE;
        let mut written = self.0.0.lock().unwrap();
        while written.lines.len() < wanted {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero() && !written.is_ended, "{} lines", written.lines.len());
            written = self.0.1.wait_timeout(written, left).unwrap().0;
        }
        written.lines.clone()
    }

    /// Everything so far.
    pub(super) fn so_far(&self) -> String {
        self.0.0.lock().unwrap().lines.join("\n")
    }

    /// Everything, once the process has ended.
    fn whole(&self) -> String {
        assert!(self.find(0, |_| false).is_none());
        let mut text = self.so_far();
        text.push('\n');
        text
    }
}

/// A process and what it writes. Killed when dropped.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pub(super) stdout: Lines,
    pub(super) stderr: Lines,
}

impl Process {
    /// Starts `command`.
    pub(super) fn start(command: &mut Command) -> Self {
        Self::watch(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn watch(mut child: Child) -> Self {
        let stdout = Lines::collect(child.stdout.take().unwrap());
        let stderr = Lines::collect(child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    /// What `/proc` has of it at `place`.
    pub(super) fn proc(&self, place: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{place}", self.child.id()))
    }

    /// Sends a signal.
    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end.
    pub(super) fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "still running:\n{}", self.stderr.so_far());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Whether it still runs.
    pub(super) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running edge.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) process: Process,
    /// The public listeners, plain before TLS.
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) admin: SocketAddr,
    folder: Arc<TempDir>,
}

/// What an edge is started with, beside its sites.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    folder: Arc<TempDir>,
    /// TOML in front of the sites.
    pub(super) process: String,
}

impl Settings {
    /// An edge with a disk of its own, on ports that the system chooses.
    pub(super) fn new() -> Self {
        let folder = Arc::new(TempDir::new().unwrap());
        let process = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"127.0.0.1:0\"\n\
             [disk]\npath = \"{}\"\nsize = \"64MiB\"\n[log]\naccess = \"json\"\n",
            folder.path().join("disk").display()
        );
        Self { folder, process }
    }

    /// The folder that its disk and its config are in.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The config's file.
    pub(super) fn file(&self) -> PathBuf {
        self.folder().join("narthex.toml")
    }

    /// Writes the config.
    pub(super) fn write(&self, sites: &str) {
        std::fs::write(self.file(), format!("{}\n{sites}", self.process)).unwrap();
    }

    /// Starts an edge with these sites that may open so many files.
    pub(super) fn start_with_files(&self, sites: &str, files_max: u32) -> Edge {
        self.write(sites);
        let mut command = Command::new("/bin/sh");
        command.arg("-c").arg(format!("ulimit -n {files_max}; exec \"$0\" \"$@\""));
        command.arg(env!("CARGO_BIN_EXE_narthex")).args(["serve", "--config"]).arg(self.file());
        command.env_clear().env("HOME", self.folder()).stdin(Stdio::null());
        Edge::start(&mut command, &self.folder)
    }

    /// Starts an edge with these sites, a TOML text.
    pub(super) fn start(&self, sites: &str) -> Edge {
        self.write(sites);
        let mut command = narthex(self.folder());
        Edge::start(command.args(["serve", "--config"]).arg(self.file()), &self.folder)
    }
}

/// One site with one origin.
pub(super) fn site(origin: impl std::fmt::Display) -> String {
    format!("[[site]]\n[[site.origin]]\nurl = \"{origin}\"\n")
}

impl Edge {
    /// One site with one origin, and nothing else out of the ordinary.
    pub(super) fn of(origin: impl std::fmt::Display) -> Self {
        Settings::new().start(&site(origin))
    }

    /// Starts a `serve` command and waits until it serves.
    pub(super) fn start(command: &mut Command, folder: &Arc<TempDir>) -> Self {
        let process = Process::start(command);
        let line = process.stderr.wait(0, &["serving", "addresses=["]);
        let addresses = between(&line, "addresses=[", "]").split(", ");
        let addresses = addresses.map(|address| address.parse().unwrap()).collect();
        let admin = between(&line, "admin=Some(", ")").parse().unwrap();
        Self { process, addresses, admin, folder: Arc::clone(folder) }
    }

    /// The first public listener.
    pub(super) fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// The folder of its disk tier.
    pub(super) fn disk(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    /// GET of a path.
    pub(super) fn get(&self, path: &str) -> Reply {
        client::get(self.address(), path)
    }

    /// The value of a metric's sample, summed over what has each of `labels`.
    pub(super) fn metric(&self, name: &str, labels: &[&str]) -> u64 {
        let text = client::get(self.admin, "/metrics").text();
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|label| line.contains(label))
        });
        lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
    }

    /// Asks the admin listener again and again until its answer is as wanted.
    pub(super) fn admin_until(&self, path: &str, is_wanted: impl Fn(&Reply) -> bool) -> Reply {
        let until = Instant::now() + DEADLINE;
        loop {
            let reply = client::get(self.admin, path);
            if is_wanted(&reply) {
                return reply;
            }
            assert!(Instant::now() < until, "{path}: {reply:?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM, and the code it ends with.
    pub(super) fn terminate(&mut self) -> Option<i32> {
        self.process.signal(Signal::TERM);
        self.process.ended().code()
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        self.process.signal(Signal::KILL);
        self.process.ended();
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let (_, rest) = text.split_once(before).unwrap_or_else(|| panic!("no {before} in {text}"));
    rest.split_once(after).unwrap().0
}
