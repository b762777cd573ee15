//! The program under test: started on a folder of its own, asked what it takes, ended, checked.
//! Killed when dropped.

use super::{Failure, origin::Origins};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start or an end may take.
const DEADLINE: Duration = Duration::from_mins(1);

/// A folder with a config, and the program that runs on it.
#[derive(Debug)]
pub(crate) struct Setup {
    program: PathBuf,
    folder: PathBuf,
}

#[derive(Debug)]
pub(crate) struct Edge {
    process: Child,
    pub(crate) address: SocketAddr,
}

impl Setup {
    pub(crate) fn new(program: &Path, folder: &Path, origins: &Origins) -> Result<Self, Failure> {
        let authority = folder.join("authority.pem");
        std::fs::write(&authority, &origins.authority)?;
        let mut config = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n\
             [memory]\nsize = \"16MiB\"\n\
             [disk]\npath = \"{}\"\nsize = \"32GiB\"\n\
             [log]\naccess = \"off\"\n",
            folder.join("disk").display()
        );
        let authority = format!("ca_file = \"{}\"\n", authority.display());
        for (door, url) in &origins.urls {
            for kind in ["nix-cache", "generic"] {
                config += &site(kind, door, url);
                if url.starts_with("https") {
                    config += &authority;
                }
            }
        }
        std::fs::write(folder.join("narthex.toml"), config)?;
        Ok(Self { program: program.to_owned(), folder: folder.to_owned() })
    }

    fn command(&self, command: &str) -> Command {
        let mut made = Command::new(&self.program);
        made.args([command, "--config"]).arg(self.folder.join("narthex.toml"));
        made.env_clear().env("HOME", &self.folder).stdin(Stdio::null());
        made
    }

    /// Starts it; waits until it serves.
    pub(crate) fn start(&self) -> Result<Edge, Failure> {
        let log = self.folder.join("log");
        if log.exists() {
            std::fs::rename(&log, self.folder.join("log.before"))?;
        }
        let errors = File::create(&log)?;
        let process = self.command("serve").stdout(Stdio::null()).stderr(errors).spawn()?;
        let mut edge = Edge { process, address: ([127, 0, 0, 1], 0).into() };
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            let said = std::fs::read_to_string(&log)?;
            let address = said.split_once("addresses=[").and_then(|(_, rest)| rest.split_once(']'));
            if let Some((address, _)) = address {
                edge.address = address.parse()?;
                return Ok(edge);
            }
            if edge.process.try_wait()?.is_some() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err(format!("the edge did not start: {}", std::fs::read_to_string(&log)?).into())
    }

    /// What `narthex fsck` says of the folder at rest, and whether all is well.
    pub(crate) fn check(&self) -> Result<(bool, String), Failure> {
        let output = self.command("fsck").output()?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        Ok((output.status.success(), said + &String::from_utf8_lossy(&output.stderr)))
    }

    /// Lines of the log that tell of a panic.
    pub(crate) fn panics(&self) -> Result<Vec<String>, Failure> {
        let log = std::fs::read_to_string(self.folder.join("log"))?;
        Ok(log.lines().filter(|line| line.contains("panicked")).map(str::to_owned).collect())
    }

    /// The files of stored bodies.
    pub(crate) fn stored(&self) -> Vec<PathBuf> {
        let (mut found, mut folders) = (Vec::new(), vec![self.folder.join("disk/objects")]);
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            for path in entries.filter_map(Result::ok).map(|entry| entry.path()) {
                if path.is_dir() { folders.push(path) } else { found.push(path) }
            }
        }
        found
    }
}

/// A site, up to the keys of its origin.
fn site(kind: &str, door: &str, url: &str) -> String {
    // A cell that goes wrong must not close the origin to the others.
    format!(
        "[[site]]\nhosts = [\"{kind}.{door}\"]\nkind = \"{kind}\"\n\
         [[site.origin]]\nurl = \"{url}\"\nbreaker = {{ failures = 0 }}\n"
    )
}

impl Edge {
    /// Bytes of memory that it takes, by `VmRSS`.
    pub(crate) fn resident_bytes(&self) -> Result<u64, Failure> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kibibytes: u64 =
            line.and_then(|line| line.trim().strip_suffix(" kB")).ok_or("no VmRSS")?.parse()?;
        Ok(kibibytes << 10)
    }

    /// Ends it in order.
    pub(crate) fn end(mut self) -> Result<(), Failure> {
        kill_process(Pid::from_child(&self.process), Signal::TERM)?;
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            if let Some(status) = self.process.try_wait()? {
                return if status.success() { Ok(()) } else { Err(status.to_string().into()) };
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Err("the edge did not end after SIGTERM".into())
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
