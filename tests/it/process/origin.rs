//! An HTTP origin that follows a script: pages by path, bodies that can be held, and an account
//! of every request. Ends when it is dropped.

use super::edge::DEADLINE;
use narthex::cli::demo::sample::{Sample, SampleSize};
use narthex::nix::base32;
use narthex::nix::hash::sha256;
use narthex::nix::signature::SecretKey;
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

/// What `/nix-cache-info` says.
pub(super) const CACHE_INFO: &str = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n";

/// What a path answers.
#[derive(Debug, Clone)]
pub(super) struct Page {
    pub(super) status: u16,
    /// More header lines, each ended by CRLF.
    pub(super) lines: String,
    pub(super) body: Arc<Vec<u8>>,
    /// Holds the second half of the body until it is open.
    pub(super) gate: Option<Gate>,
}

/// Opened once.
#[derive(Debug, Clone, Default)]
pub(super) struct Gate(Arc<(Mutex<bool>, Condvar)>);

impl Gate {
    pub(super) fn open(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_all();
    }

    fn wait(&self) {
        let is_open = self.0.0.lock().unwrap();
        let waited = self.0.1.wait_timeout_while(is_open, DEADLINE, |is_open| !*is_open);
        drop(waited.unwrap().0);
    }
}

/// A running origin.
#[derive(Debug)]
pub(super) struct Origin {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    pages: Mutex<HashMap<String, Page>>,
    /// Heads as received.
    requests: Mutex<Vec<String>>,
    connections: Mutex<Vec<TcpStream>>,
    is_stopped: Mutex<bool>,
}

impl Origin {
    /// An origin with a `nix-cache-info` and nothing else.
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let origin = Self { address, shared: Arc::clone(&shared) };
        origin.put("/nix-cache-info", CACHE_INFO);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if *shared.is_stopped.lock().unwrap() {
                    return;
                }
                shared.connections.lock().unwrap().push(stream.try_clone().unwrap());
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        origin
    }

    /// Its URL.
    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Answers `path` with 200 and a body.
    pub(super) fn put(&self, path: &str, body: impl Into<Vec<u8>>) {
        self.put_page(path, 200, "", body);
    }

    /// Answers `path` so, with more header lines.
    pub(super) fn put_page(&self, path: &str, status: u16, lines: &str, body: impl Into<Vec<u8>>) {
        let body = Arc::new(body.into());
        let page = Page { status, lines: lines.to_owned(), body, gate: None };
        self.shared.pages.lock().unwrap().insert(path.to_owned(), page);
    }

    /// Answers `path` with a body; its second half waits for the gate.
    pub(super) fn put_held(&self, path: &str, body: impl Into<Vec<u8>>) -> Gate {
        self.put(path, body);
        let gate = Gate::default();
        self.shared.pages.lock().unwrap().get_mut(path).unwrap().gate = Some(gate.clone());
        gate
    }

    /// How many requests there were for a path.
    pub(super) fn requests_for(&self, path: &str) -> usize {
        let requests = self.shared.requests.lock().unwrap();
        requests.iter().filter(|head| head.split(' ').nth(1) == Some(path)).count()
    }

    /// Every request's head.
    pub(super) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Cuts every connection, and takes no more.
    pub(super) fn stop(&self) {
        *self.shared.is_stopped.lock().unwrap() = true;
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
        let _ = TcpStream::connect(self.address);
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) {
        let mut writing = stream.try_clone().unwrap();
        let mut reading = BufReader::new(stream);
        while let Some(head) = read_head(&mut reading) {
            let mut words = head.split(' ');
            let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or("/"));
            let page = self.pages.lock().unwrap().get(path).cloned();
            let is_head = method == "HEAD";
            self.requests.lock().unwrap().push(head.clone());
            if answer(&mut writing, page, is_head).is_err() {
                return;
            }
        }
    }
}

fn read_head(reading: &mut impl BufRead) -> Option<String> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reading.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    Some(head)
}

fn answer(out: &mut TcpStream, page: Option<Page>, is_head: bool) -> std::io::Result<()> {
    let page = page.unwrap_or_else(|| Page {
        status: 404,
        lines: String::new(),
        body: Arc::new(b"404".to_vec()),
        gate: None,
    });
    let (status, length, lines) = (page.status, page.body.len(), &page.lines);
    write!(out, "HTTP/1.1 {status} X\r\nContent-Length: {length}\r\n{lines}\r\n")?;
    if is_head {
        return Ok(());
    }
    let (first, second) = page.body.split_at(length / 2);
    out.write_all(first)?;
    if let Some(gate) = page.gate {
        gate.wait();
    }
    out.write_all(second)
}

/// Bytes that look like nothing, the same for the same seed.
pub(super) fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut noise = Vec::with_capacity(bytes + 8);
    while noise.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        noise.extend_from_slice(&state.to_le_bytes());
    }
    noise.truncate(bytes);
    noise
}

/// The path that a compressed NAR of these bytes has.
pub(super) fn nar_path(bytes: &[u8]) -> String {
    format!("/nar/{}.nar.xz", base32::encode(&sha256(bytes)))
}

/// A small signed cache.
pub(super) fn sample() -> Sample {
    let key = SecretKey::from_seed("process-tests-1", [3; 32]).unwrap();
    Sample::generate(SampleSize::Small, 1, &key).unwrap()
}

/// Writes a cache as `nix copy --to file://` does.
pub(super) fn write_folder(sample: &Sample, folder: &Path) {
    for object in &sample.objects {
        let file = folder.join(&object.key);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, &object.bytes).unwrap();
    }
}
