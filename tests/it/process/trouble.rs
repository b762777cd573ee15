//! An origin that is not there: the edge starts, says so, and serves what it holds.

use super::client::{Connection, get};
use super::edge::{Settings, site};
use super::origin::{CACHE_INFO, Origin, nar_path, noise, sample, write_folder};
use tempfile::TempDir;

#[test]
fn an_origin_that_is_gone_at_start_does_not_hold_the_edge_up() {
    let edge = Settings::new().start(&site("http://127.0.0.1:1"));
    assert_eq!(get(edge.admin, "/healthz").status, 200);
    let ready = edge.admin_until("/readyz", |reply| reply.text().contains("127.0.0.1"));
    assert_eq!(ready.status, 200, "{ready:?}");
    edge.process.stderr.wait(0, &["WARN", "origin is not usable"]);
    let answer = edge.get("/nix-cache-info");
    assert_eq!(answer.status, 502, "{answer:?}");
    assert!(answer.value("cache-status").unwrap().contains("narthex"), "{answer:?}");
    let id = answer.value("x-request-id").unwrap();
    edge.process.stdout.wait(0, &[id, "origin_failed"]);
}

#[test]
fn credentials_that_are_missing_are_told_and_are_no_absence() {
    let origin = "s3://bucket?region=us-east-1&endpoint=http://127.0.0.1:1&profile=nobody";
    let edge = Settings::new().start(&site(origin));
    let line = edge.process.stderr.wait(0, &["ERROR", "profile `nobody`"]);
    assert!(line.contains(".aws/credentials"), "{line}");
    let ready = edge.admin_until("/readyz", |reply| reply.text().contains("nobody"));
    assert_eq!(ready.status, 200, "{ready:?}");
    assert_eq!(edge.get("/nix-cache-info").status, 502);
}

#[test]
fn what_is_stored_outlives_a_restart_without_the_origin() {
    let (cache, sample) = (TempDir::new().unwrap(), sample());
    write_folder(&sample, cache.path());
    let root = sample.root().unwrap();
    let narinfo = format!("/{}.narinfo", root.store_path.hash_part());
    let nar = format!("/{}", root.url);
    let big = sample.objects.iter().max_by_key(|object| object.bytes.len()).unwrap();
    let big_path = format!("/{}", big.key);
    let settings = Settings::new();
    let with_key = format!(
        "[[site]]\ntrusted_public_keys = [\"{}\"]\n[[site.origin]]\nurl = \"file://{}\"\n",
        sample.public_key,
        cache.path().display()
    );
    let paths = ["/nix-cache-info", &narinfo, &nar, &big_path];
    let mut edge = settings.start(&with_key);
    let before = paths.map(|path| edge.get(path));
    assert!(before.iter().all(|reply| reply.status == 200), "{before:?}");
    assert_eq!(before[0].body, CACHE_INFO.as_bytes());
    assert_eq!(before[3].body, big.bytes);
    assert_eq!(edge.terminate(), Some(0));
    drop(cache);
    let edge = settings.start(&with_key);
    for (path, before) in paths.iter().zip(before) {
        let after = edge.get(path);
        assert_eq!((after.status, &after.body), (200, &before.body), "{path}");
        assert!(after.value("cache-status").unwrap().contains("hit"), "{path}: {after:?}");
        assert!(after.value("age").is_some(), "{after:?}");
        assert_eq!(after.value("content-type"), before.value("content-type"));
    }
    edge.admin_until("/readyz", |reply| reply.status == 200 && !reply.text().contains("usable"));
}

#[test]
fn an_absence_is_never_made_up() {
    let origin = Origin::start();
    let edge = Settings::new().start(&site(origin.url()));
    assert_eq!(edge.get("/nar/unknown.nar.xz").status, 404);
    origin.stop();
    let answer = edge.get("/nar/another.nar.xz");
    assert_eq!(answer.status, 502, "{answer:?}");
}

/// FAULTS.md F11: then bodies on disk could not be opened, and the disk took no writes.
#[test]
fn idle_clients_never_take_all_files() {
    let origin = Origin::start();
    let body = noise(1 << 20, 11);
    let path = nar_path(&body);
    origin.put(&path, body.clone());
    let edge = Settings::new().start_with_files(&site(origin.url()), 256);
    edge.process.stderr.wait(0, &["WARN", "connections_max=128"]);
    let mut client = Connection::open(edge.address());
    let mut ask = || {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        client.reply().unwrap()
    };
    assert!(ask().body == body);
    let idle: Vec<_> = (0..300).map(|_| Connection::open(edge.address())).collect();
    edge.admin_until("/metrics", |reply| {
        reply.text().contains("connections_refused_total{reason=\"connections_max\"} 173")
    });
    for _ in 0..3 {
        assert!(ask().body == body);
    }
    assert_eq!(edge.metric("narthex_disk_writable", &[]), 1);
    assert_eq!(origin.requests_for(&path), 1);
    drop(idle);
}
