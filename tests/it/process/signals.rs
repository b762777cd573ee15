//! SIGHUP takes a new config over, SIGTERM lets downloads end, a second one does not.

use super::client::Connection;
use super::edge::{Edge, Process, Settings, narthex, site};
use super::origin::{Gate, Origin, nar_path, noise};
use rustix::process::Signal;

const RELOADED: &[&str] = &["narthex::cli::serve: reloaded"];

fn priority(origin: &Origin, priority: u32) -> String {
    format!(
        "[[site]]\n[site.cache_info]\npriority = {priority}\n[[site.origin]]\nurl = {:?}\n",
        origin.url()
    )
}

/// Sends SIGHUP, and waits for what the log says of it.
fn reload(edge: &Edge, parts: &[&str]) -> String {
    let before = edge.process.stderr.count();
    edge.process.signal(Signal::HUP);
    edge.process.stderr.wait(before, parts)
}

#[test]
fn a_reload_takes_sites_over_and_keeps_the_old_ones_where_the_new_are_bad() {
    let origin = Origin::start();
    let settings = Settings::new();
    let mut edge = settings.start(&priority(&origin, 30));
    let says = |line: &str| assert!(edge.get("/nix-cache-info").text().contains(line));
    says("Priority: 30\n");
    settings.write(&priority(&origin, 20));
    reload(&edge, RELOADED);
    says("Priority: 20\n");
    for (bad, place) in [
        ("[[site]]\n[[site.origin]]\nurl = \"ftp://x\"\n".to_owned(), "site[0].origin[0].url"),
        ("[[site]\n".to_owned(), "narthex.toml"),
        (format!("{}\n[site.lifetime]\n", priority(&origin, 10)), "lifetimes"),
    ] {
        settings.write(&bad);
        let line = reload(&edge, &["ERROR", "reload refused"]);
        assert!(edge.process.stderr.so_far().contains(place), "{line}");
        says("Priority: 20\n");
    }
    std::fs::remove_file(settings.file()).unwrap();
    reload(&edge, &["ERROR", "reload refused", "narthex.toml"]);
    says("Priority: 20\n");
    settings.write(&priority(&origin, 11));
    reload(&edge, RELOADED);
    says("Priority: 11\n");
    assert!(edge.process.is_running());
}

#[test]
fn what_needs_a_restart_is_told_and_the_rest_taken_over() {
    let origin = Origin::start();
    let mut settings = Settings::new();
    let edge = settings.start(&priority(&origin, 30));
    settings.process = settings.process.replace("64MiB", "65MiB");
    settings.write(&priority(&origin, 20));
    // As often as it is asked for.
    for _ in 0..2 {
        let line = reload(&edge, &["WARN", "need a restart"]);
        assert!(line.contains("[disk]") && !line.contains("[server]"), "{line}");
    }
    assert!(edge.get("/nix-cache-info").text().contains("Priority: 20\n"));
}

#[test]
fn a_new_site_is_there_after_a_reload() {
    let (first, second) = (Origin::start(), Origin::start());
    let settings = Settings::new();
    let edge = settings.start(&site(first.url()));
    settings.write(&format!(
        "[[site]]\nhosts = [\"a.example\"]\n[[site.origin]]\nurl = {:?}\n",
        second.url()
    ));
    reload(&edge, RELOADED);
    assert_eq!(edge.get("/nix-cache-info").status, 200);
    assert_eq!(second.requests_for("/nar/x.nar.xz"), 0);
    let mut other = Connection::open(edge.address());
    other.send("GET /nix-cache-info HTTP/1.1\r\nHost: b.example\r\n\r\n");
    assert_eq!(other.reply().unwrap().status, 421);
}

/// An edge with a client in the middle of a download.
struct Downloading {
    edge: Edge,
    client: Connection,
    head: String,
    body: Vec<u8>,
    gate: Gate,
    _origin: Origin,
}

fn downloading() -> Downloading {
    downloading_from(&Settings::new())
}

fn downloading_from(settings: &Settings) -> Downloading {
    let origin = Origin::start();
    let body = noise(1 << 20, 5);
    let path = nar_path(&body);
    let gate = origin.put_held(&path, body.clone());
    let edge = settings.start(&site(origin.url()));
    let mut client = Connection::open(edge.address());
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
    let head = client.head().unwrap();
    client.at_least(body.len() / 4);
    Downloading { edge, client, head, body, gate, _origin: origin }
}

#[test]
fn a_drain_lets_a_download_end() {
    let mut scene = downloading();
    scene.edge.process.signal(Signal::TERM);
    scene.edge.process.stderr.wait(0, &["stopping"]);
    scene.gate.open();
    let reply = scene.client.rest_of(scene.head);
    assert_eq!((reply.status, reply.is_whole), (200, true), "{reply:?}");
    assert!(reply.body == scene.body);
    assert_eq!(scene.edge.process.ended().code(), Some(0));
    let said = scene.edge.process.stderr.so_far();
    assert!(!said.contains("cut at the end"), "{said}");
    // The last line of the access log is not lost.
    scene.edge.process.stdout.wait(0, &["\"miss\"", "200"]);
}

/// FAULTS.md F8: a load balancer that asks saw a refused connection and no 503.
#[test]
fn readiness_says_that_the_edge_leaves_until_the_last_answer_has_ended() {
    let mut scene = downloading();
    scene.edge.process.signal(Signal::TERM);
    let reply = scene.edge.admin_until("/readyz", |reply| reply.status == 503);
    assert!(reply.text().contains("draining"), "{reply:?}");
    assert_eq!(super::client::get(scene.edge.admin, "/healthz").status, 200);
    scene.gate.open();
    assert!(scene.client.rest_of(scene.head).is_whole);
    assert_eq!(scene.edge.process.ended().code(), Some(0));
}

/// FAULTS.md F8.
#[test]
fn a_lame_duck_still_takes_connections() {
    let origin = Origin::start();
    let mut settings = Settings::new();
    settings.process.push_str("[server.timeouts]\nlame_duck = \"1h\"\n");
    let mut edge = settings.start(&site(origin.url()));
    edge.process.signal(Signal::TERM);
    edge.admin_until("/readyz", |reply| reply.status == 503);
    assert_eq!(edge.get("/nix-cache-info").status, 200);
    assert_eq!(edge.terminate(), Some(0), "a second signal ends it");
}

/// FAULTS.md F15d: a certificate that cannot be read yet, as on a file system that hangs.
#[test]
fn a_start_that_hangs_is_ended_by_a_signal() {
    let origin = Origin::start();
    let mut settings = Settings::new();
    let pipe = settings.folder().join("hangs");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    let pipe = pipe.display();
    settings.process.push_str(&format!(
        "[server.tls]\nlisten = [\"127.0.0.1:0\"]\n[[server.tls.certificates]]\n\
         certificate = \"{pipe}\"\nkey = \"{pipe}\"\n"
    ));
    settings.write(&site(origin.url()));
    let mut command = narthex(settings.folder());
    let mut process = Process::start(command.args(["serve", "--config"]).arg(settings.file()));
    // Opens when the edge has begun to read, and gives it nothing.
    let _writer = std::fs::File::options().write(true).open(settings.folder().join("hangs"));
    process.signal(Signal::TERM);
    assert_eq!(process.ended().code(), Some(0));
    process.stderr.wait(0, &["stopped before the start was over"]);
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut scene = downloading();
    scene.edge.process.signal(Signal::TERM);
    scene.edge.process.stderr.wait(0, &["stopping"]);
    assert!(scene.edge.process.is_running());
    scene.edge.process.signal(Signal::TERM);
    assert_eq!(scene.edge.process.ended().code(), Some(0));
    scene.edge.process.stderr.wait(0, &["WARN", "second signal"]);
    let reply = scene.client.rest_of(scene.head);
    assert!(!reply.is_whole, "{reply:?}");
}

#[test]
fn an_idle_edge_ends_at_once() {
    let origin = Origin::start();
    for signal in [Signal::TERM, Signal::INT] {
        let mut edge = Edge::of(origin.url());
        let mut kept = Connection::open(edge.address());
        kept.send("GET /nix-cache-info HTTP/1.1\r\nHost: a.example\r\n\r\n");
        assert_eq!(kept.reply().unwrap().status, 200);
        edge.process.signal(signal);
        assert_eq!(edge.process.ended().code(), Some(0));
        assert_eq!(kept.rest(), b"");
    }
}

/// FAULTS.md C6c: a few seconds beyond `drain`, which the README bounds.
#[test]
fn a_drain_that_cuts_ends_within_what_is_documented() {
    let mut settings = Settings::new();
    settings.process.push_str("[server.timeouts]\ndrain = \"1s\"\n");
    let mut scene = downloading_from(&settings);
    scene.edge.process.signal(Signal::TERM);
    assert_eq!(scene.edge.process.ended().code(), Some(0));
    scene.edge.process.stderr.wait(0, &["WARN", "some answers were cut"]);
    assert!(!scene.client.rest_of(scene.head).is_whole);
    let readme = include_str!("../../../README.md");
    assert!(readme.contains("exit status 0, at most 20 s later"));
    scene.gate.open();
}
