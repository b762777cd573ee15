//! What held when it was tried hard, and is to hold: connections in odd states, reloads and many
//! requests leave nothing behind in the process.

use super::client::{Connection, ask, get};
use super::edge::{DEADLINE, Edge, Settings, site};
use super::origin::{Origin, nar_path, noise};
use rustix::process::Signal;
use socket2::SockRef;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Files that may come and go with the load: connections to the origin, files of bodies.
const FILES: usize = 64;

fn open_files(edge: &Edge) -> usize {
    std::fs::read_dir(edge.process.proc("fd")).unwrap().count()
}

fn resident_kib(edge: &Edge) -> u64 {
    let status = std::fs::read_to_string(edge.process.proc("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// Waits until something holds.
fn until(what: &str, holds: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What a client does with its connection, and with the answer.
#[derive(Debug, Clone, Copy)]
enum Leaves {
    /// Closes in good order.
    Closes,
    /// Resets the connection.
    Resets,
    /// Closes its side alone, and reads to the end.
    HalfCloses,
    /// Reads a little, and closes.
    ReadsSome,
}

/// Sends these bytes, and leaves. The edge may have closed already.
fn leave(address: SocketAddr, bytes: &[u8], how: Leaves) {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let _ = stream.write_all(bytes);
    match how {
        Leaves::Closes => {}
        Leaves::Resets => SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap(),
        Leaves::HalfCloses => {
            let _ = stream.shutdown(Shutdown::Write);
            let _ = std::io::copy(&mut stream, &mut std::io::sink());
        }
        Leaves::ReadsSome => {
            let _ = stream.read_exact(&mut [0; 12]);
        }
    }
}

/// FAULTS.md Held: connections in odd states.
#[test]
fn connections_in_odd_states_leave_nothing_behind() {
    let origin = Origin::start();
    let (body, held) = (noise(300_000, 31), noise(300_000, 32));
    let (path, held_path) = (nar_path(&body), nar_path(&held));
    origin.put(&path, body.clone());
    let gate = origin.put_held(&held_path, held.clone());
    let edge = Settings::new().start(&site(origin.url()));
    assert!(edge.get(&path).body == body);
    edge.process.stderr.wait(0, &["origin answers"]);
    let before = open_files(&edge);
    let request = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n");
    let whole = request(&path);
    let states = [
        String::new(),
        "G".to_owned(),
        whole[..whole.len() - 2].to_owned(),
        whole.clone(),
        whole.repeat(3),
        request(&held_path),
        request("/nar/none.nar.xz"),
        format!("POST {path} HTTP/1.1\r\nHost: a.example\r\nContent-Length: 9\r\n\r\nhalf"),
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(),
        "\u{16}\u{3}\u{1}\u{1}\u{2}\u{1}".to_owned(),
        "\r\n\r\n\r\n".to_owned(),
    ];
    for round in 0..12 {
        for (number, state) in states.iter().enumerate() {
            for how in [Leaves::Closes, Leaves::Resets, Leaves::HalfCloses, Leaves::ReadsSome] {
                // These wait for what does not come before the gate opens or a deadline ends.
                let waits = matches!(how, Leaves::HalfCloses | Leaves::ReadsSome);
                if !(waits && matches!(number, 0..=2 | 5 | 7..)) {
                    leave(edge.address(), state.as_bytes(), how);
                }
            }
        }
        assert_eq!(edge.get("/nix-cache-info").status, 200, "round {round}");
    }
    gate.open();
    until("the end of every connection", || edge.metric("narthex_connections", &["plain"]) == 0);
    until("the end of every fetch", || edge.metric("narthex_fills_running", &[]) == 0);
    until("closed files", || open_files(&edge) <= before + FILES);
    assert!(edge.get(&held_path).body == held);
    assert!(edge.get(&path).body == body);
}

/// Says that it is over when it is dropped, also by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// FAULTS.md Held: 300 reloads.
#[test]
fn three_hundred_reloads_cost_no_request_and_no_file() {
    let origin = Origin::start();
    let body = noise(20_000, 33);
    let path = nar_path(&body);
    origin.put(&path, body.clone());
    let config = |priority: u32| {
        format!("[[site]]\n[site.cache_info]\npriority = {priority}\n{}", &site(origin.url())[9..])
    };
    let settings = Settings::new();
    let edge = settings.start(&config(0));
    assert!(edge.get(&path).body == body);
    let before = open_files(&edge);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = Over(&is_over);
        let asking = scope.spawn(|| {
            let mut asked = 0;
            while !is_over.load(Ordering::Acquire) {
                let reply = edge.get(&path);
                assert!(reply.body == body, "{} and {} bytes", reply.head, reply.body.len());
                asked += 1;
            }
            asked
        });
        for priority in 1..=30 {
            settings.write(&config(priority));
            for _ in 0..10 {
                edge.process.signal(Signal::HUP);
            }
            let line = format!("Priority: {priority}\n");
            until(&line, || edge.get("/nix-cache-info").text().contains(&line));
        }
        drop(over);
        assert!(asking.join().unwrap() > 0);
    });
    assert_eq!(origin.requests_for(&path), 1, "nothing is forgotten");
    until("closed files", || open_files(&edge) <= before + FILES);
}

/// FAULTS.md Held: memory over many requests.
#[test]
fn many_requests_take_no_more_memory_than_some() {
    const GROWTH_KIB: u64 = 8 << 10;
    let origin = Origin::start();
    let (small, large) = (noise(2_000, 34), noise(500_000, 35));
    let paths = [nar_path(&small), nar_path(&large)];
    origin.put_page(&paths[0], 200, "ETag: \"a\"\r\n", small);
    origin.put(&paths[1], large);
    let mut settings = Settings::new();
    settings.process = settings.process.replace("access = \"json\"", "access = \"off\"");
    let edge = settings.start(&site(origin.url()));
    let [small, large] = &paths;
    let requests = [
        format!("GET {small} HTTP/1.1\r\nHost: a\r\n\r\n"),
        format!("GET {small} HTTP/1.1\r\nHost: a\r\nIf-None-Match: \"a\"\r\n\r\n"),
        format!("GET {large} HTTP/1.1\r\nHost: a\r\nRange: bytes=1000-9000\r\n\r\n"),
        "GET /nar/none.nar.xz HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
    ];
    let round = |rounds: u32| {
        for _ in 0..rounds {
            let mut kept = Connection::open(edge.address());
            kept.send(requests.concat().repeat(10));
            for _ in 0..40 {
                assert!(kept.reply().unwrap().is_whole);
            }
            get(edge.address(), large);
            ask(edge.address(), "/../x", "Connection: close\r\n");
        }
    };
    round(30);
    let before = resident_kib(&edge);
    round(150);
    let after = resident_kib(&edge);
    assert!(after <= before + GROWTH_KIB, "{before} KiB, then {after} KiB after 6,300 requests");
}
