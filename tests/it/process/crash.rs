//! kill -9 at the worst moment: what was whole is served again, what was not leaves nothing.

use super::client::Connection;
use super::edge::{Edge, Settings, site};
use super::origin::{Origin, nar_path, noise};
use std::path::Path;

/// Every regular file below a folder.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![folder.to_owned()];
    while let Some(folder) = todo.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found
}

fn hit(edge: &Edge, path: &str) -> bool {
    edge.get(path).value("cache-status").unwrap().starts_with("narthex; hit")
}

#[test]
fn a_kill_during_a_fetch_leaves_nothing_of_it_and_loses_nothing_else() {
    let origin = Origin::start();
    let (small, large, cut) = (noise(1_000, 6), noise(400_000, 7), noise(2 << 20, 8));
    let paths = [nar_path(&small), nar_path(&large), nar_path(&cut)];
    origin.put(&paths[0], small.clone());
    origin.put(&paths[1], large.clone());
    let gate = origin.put_held(&paths[2], cut.clone());
    let settings = Settings::new();
    let mut edge = settings.start(&site(origin.url()));
    for path in &paths[..2] {
        assert_eq!(edge.get(path).status, 200);
        while !hit(&edge, path) {}
    }
    edge.admin_until("/metrics", |reply| {
        reply.text().contains("narthex_stored_objects{tier=\"disk\"} 2")
    });
    let mut client = Connection::open(edge.address());
    client.send(format!("GET {} HTTP/1.1\r\nHost: a.example\r\n\r\n", paths[2]));
    let head = client.head().unwrap();
    client.at_least(cut.len() / 4);
    edge.kill();
    assert!(!client.rest_of(head).is_whole);
    gate.open();

    let edge = settings.start(&site(origin.url()));
    for (path, body) in paths[..2].iter().zip([&small, &large]) {
        let reply = edge.get(path);
        assert_eq!((reply.status, &reply.body == body), (200, true));
        assert!(reply.value("cache-status").unwrap().starts_with("narthex; hit"), "{reply:?}");
        assert_eq!(origin.requests_for(path), 1);
    }
    let stored = edge.metric("narthex_stored_objects", &["tier=\"disk\""]);
    assert_eq!(stored, 2);
    assert_eq!(left_in_tmp(&edge), Vec::<std::path::PathBuf>::new());
    let before = origin.requests_for(&paths[2]);
    let reply = edge.get(&paths[2]);
    assert!(reply.status == 200 && reply.is_whole && reply.body == cut, "{reply:?}");
    assert_eq!(origin.requests_for(&paths[2]), before + 1);
}

/// What unfinished writes left behind.
fn left_in_tmp(edge: &Edge) -> Vec<std::path::PathBuf> {
    let tmp = edge.disk().join("tmp");
    files(&tmp)
}

#[test]
fn kills_in_a_row_never_serve_a_wrong_byte() {
    let origin = Origin::start();
    let bodies = (0..6).map(|seed| noise(150_000 + 40_000 * seed, seed as u64 + 20));
    let bodies = bodies.collect::<Vec<_>>();
    for body in &bodies {
        origin.put(&nar_path(body), body.clone());
    }
    let settings = Settings::new();
    for round in 0..bodies.len() {
        let mut edge = settings.start(&site(origin.url()));
        for body in &bodies[..=round] {
            let reply = edge.get(&nar_path(body));
            assert_eq!((reply.status, &reply.body == body), (200, true), "round {round}");
        }
        // At once after the last byte: before or after its commit, as it happens.
        edge.kill();
    }
    let edge = settings.start(&site(origin.url()));
    for body in &bodies {
        assert!(&edge.get(&nar_path(body)).body == body);
    }
    assert_eq!(edge.metric("narthex_damaged_objects_total", &[]), 0);
}

/// FAULTS.md C6b. Of a body without a length HTTP/1.0 has no end but that of the connection.
#[test]
fn a_client_sees_that_the_process_was_killed_wherever_the_framing_tells() {
    let origin = Origin::start();
    let body = noise(2 << 20, 9);
    let path = nar_path(&body);
    let _gate = origin.put_held(&path, body.clone());
    let mut edge = Settings::new().start(&site(origin.url()));
    let mut clients = ["1.0", "1.1"].map(|version| {
        let mut client = Connection::open(edge.address());
        client.send(format!("GET {path} HTTP/{version}\r\nHost: a.example\r\n\r\n"));
        let head = client.head().unwrap();
        client.at_least(body.len() / 4);
        (client, head)
    });
    edge.kill();
    for (client, head) in &mut clients {
        let reply = client.rest_of(std::mem::take(head));
        assert!(!reply.is_whole && body.starts_with(&reply.body), "{reply:?}");
    }
}
