//! `narthex demo`: both journeys, to the end; and what it serves after them.

use super::client;
use super::edge::{Process, narthex, run};
use rustix::process::Signal;
use std::path::Path;
use std::process::Command;
use tempfile::TempDir;

#[test]
fn the_demo_comes_to_its_end() {
    let home = TempDir::new().unwrap();
    let mut command = small_demo(home.path());
    command.arg("--once");
    let output = run(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(told.contains("cold") && told.contains("warm"), "{told}");
    assert_nothing_is_left(home.path());
}

#[test]
fn the_demo_serves_until_it_is_told_to_end() {
    let home = TempDir::new().unwrap();
    let mut process = Process::start(&mut small_demo(home.path()));
    let line = process.stdout.wait(0, &["curl -i http://", ".narinfo"]);
    let (address, path) = line.split_once("http://").unwrap().1.split_once('/').unwrap();
    let reply = client::get(address.parse().unwrap(), &format!("/{path}"));
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!(reply.text().starts_with("StorePath: "), "{reply:?}");
    process.signal(Signal::TERM);
    assert_eq!(process.ended().code(), Some(0), "{}", process.stderr.so_far());
    assert_nothing_is_left(home.path());
}

/// The demo with a 64th of its bytes, on ports that the system chooses.
fn small_demo(home: &Path) -> Command {
    let mut command = narthex(home);
    command.args(["demo", "--small", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command.env("TMPDIR", home);
    command
}

fn assert_nothing_is_left(home: &Path) {
    assert_eq!(std::fs::read_dir(home).unwrap().count(), 0);
}
