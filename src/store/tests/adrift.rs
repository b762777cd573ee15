//! The disk fails under an object in mid-write: its readers go on, nothing of it is stored.

use super::{Bench, KIB, MIB, OBSERVER, bytes, digest, key, meta, read};
use crate::store::error::{Broken, WriteError};
use crate::store::{Adrift, Deserted, Follower, Pending, Store};
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The chunks that an origin might send.
fn pieces(body: &Bytes) -> impl Iterator<Item = Bytes> {
    let body = body.clone();
    (0..body.len()).step_by(50_000).map(move |at| body.slice(at..body.len().min(at + 50_000)))
}

/// Reads to the end, `max` bytes at a time.
async fn read_all(follower: Follower, from: usize, max: usize) -> Result<Vec<u8>, Broken> {
    let mut got = Vec::new();
    loop {
        let chunk = follower.read((from + got.len()) as u64, max).await?;
        if chunk.is_empty() {
            return Ok(got);
        }
        got.extend_from_slice(&chunk);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_and_origin_go_on_while_the_disk_is_busy() {
    let (reached, at) = std::sync::mpsc::channel();
    let (go_on, gate) = std::sync::mpsc::channel::<()>();
    let gate = crate::sync::Mutex::new((Some(reached), gate));
    OBSERVER.set(Some(Arc::new(move |step| {
        let mut gate = gate.lock();
        if step == "a batch is to be written"
            && let Some(reached) = gate.0.take()
        {
            reached.send(()).unwrap();
            gate.1.recv().unwrap();
        }
    })));
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    OBSERVER.set(None);
    let body = bytes(9, 3 * MIB);
    let mut pending = store.begin(&key("a"), Some(body.len() as u64)).await.unwrap();
    pending.reveal(u64::MAX);
    let follower = pending.growing().follow(0);
    for piece in pieces(&body) {
        pending.append(piece).await.unwrap();
    }
    at.recv().unwrap();
    assert_eq!(pending.shared.unwritten(), body.len() as u64, "nothing of it is in the file");
    let mut got = Vec::new();
    while let Some(piece) = follower.read_now(got.len() as u64, 64 * KIB) {
        got.extend_from_slice(&piece);
    }
    assert!(got == body, "{} bytes without waiting", got.len());
    go_on.send(()).unwrap();
    let sealed = pending.seal().await.unwrap();
    assert_eq!(sealed.sha256, digest(&body));
    let stored = sealed.commit(meta(&key("a")), None).unwrap();
    assert_eq!(read(&stored).await, body);
}

/// Writes `body` up to where the disk fails; the object is adrift then, and what is left of it.
async fn fail_midway(
    store: &Store,
    mut pending: Pending,
    body: &Bytes,
    failing_at: u64,
) -> (Adrift, Vec<Bytes>) {
    let mut rest = pieces(body);
    while let Some(piece) = rest.next() {
        if pending.received() >= failing_at {
            store.0.faults.full.store(u32::MAX, Ordering::Relaxed);
        }
        let result = pending.append(piece).await;
        pending.reveal(pending.received().saturating_sub(1000));
        if let Err(error) = result {
            assert!(error.spares_the_body(), "{error}");
            let next = pending.append(Bytes::from_static(b"more")).await;
            assert!(matches!(next, Err(WriteError::Interrupted)));
            return (pending.adrift().unwrap(), rest.collect());
        }
    }
    // The last batch met it.
    let error = pending.end().await.expect_err("the disk did not fail");
    assert!(error.spares_the_body(), "{error}");
    (pending.adrift().unwrap(), Vec::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_go_on_when_the_disk_fails_under_an_object() {
    for failing_at in [0, 100, 6 * MIB as u64] {
        let bench = Bench::new(64 * MIB);
        let store = bench.open().await;
        let body = bytes(3, 30 * MIB + 17);
        let pending = store.begin(&key("a"), Some(body.len() as u64)).await.unwrap();
        let readers: Vec<_> = (0..20)
            .map(|number| {
                let from = number * 100_000;
                let follower = pending.growing().follow(from as u64);
                (from, tokio::spawn(read_all(follower, from, 10_000 + number * 3_000)))
            })
            .collect();
        let (mut adrift, rest) = fail_midway(&store, pending, &body, failing_at).await;
        for piece in rest {
            adrift.append(piece).await.unwrap();
            adrift.reveal(adrift.received().saturating_sub(1000));
            assert!(adrift.in_memory() <= 8 << 20, "{}", adrift.in_memory());
        }
        assert_eq!(adrift.end(), (digest(&body), body.len() as u64));
        assert!(readers.iter().all(|(_, reader)| !reader.is_finished()), "the end is held back");
        adrift.reveal_all();
        for (from, reader) in readers {
            assert!(reader.await.unwrap().unwrap() == body[from..], "other bytes from {from}");
        }
        assert!(store.get(&key("a")).await.is_none());
        assert_eq!((store.usage().bytes, store.usage().reserved_bytes), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_object_adrift_breaks_its_readers_before_its_end() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let body = bytes(4, 2 * MIB);
    let pending = store.begin(&key("a"), None).await.unwrap();
    let reader = tokio::spawn(read_all(pending.growing().follow(0), 0, 64 * KIB));
    let (mut adrift, rest) = fail_midway(&store, pending, &body, MIB as u64).await;
    for piece in rest {
        adrift.append(piece).await.unwrap();
        adrift.reveal(adrift.received().saturating_sub(1000));
    }
    adrift.end();
    drop(adrift);
    assert!(matches!(reader.await.unwrap(), Err(Broken::Abandoned)));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stands_still_is_left_behind_and_holds_up_nobody_for_long() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let body = bytes(5, 30 * MIB);
    let pending = store.begin(&key("a"), None).await.unwrap();
    let still = pending.growing().follow(0);
    let other = tokio::spawn(read_all(pending.growing().follow(0), 0, 64 * KIB));
    let (mut adrift, rest) = fail_midway(&store, pending, &body, 12 * MIB as u64).await;
    assert_eq!(still.read(0, 10).await.unwrap(), body[..10]);
    for piece in rest {
        adrift.append(piece).await.unwrap();
        adrift.reveal(adrift.received().saturating_sub(1000));
    }
    adrift.end();
    adrift.reveal_all();
    assert!(other.await.unwrap().unwrap() == body);
    // What is in the file is still to be had, then comes the gap.
    assert_eq!(still.read(MIB as u64, 10).await.unwrap(), body[MIB..MIB + 10]);
    assert!(matches!(read_all(still, 0, 64 * KIB).await, Err(Broken::Behind)));
}

#[tokio::test(start_paused = true)]
async fn an_object_adrift_that_nobody_reads_is_given_up() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let pending = store.begin(&key("a"), None).await.unwrap();
    let body = bytes(6, 30 * MIB);
    let reader = pending.growing().follow(0);
    let (mut adrift, rest) = fail_midway(&store, pending, &body, MIB as u64).await;
    drop(reader);
    let mut received = 0;
    let mut rest = rest.into_iter();
    let result: Result<(), Deserted> = loop {
        received = adrift.received().max(received);
        match adrift.append(rest.next().unwrap()).await {
            Ok(()) => adrift.reveal(u64::MAX),
            Err(deserted) => break Err(deserted),
        }
    };
    assert!(result.is_err() && received < 12 << 20, "{received}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_costs_no_reader_anything_and_stores_nothing() {
    for body in [bytes(7, 5 * MIB), bytes(7, 40 * MIB)] {
        let bench = Bench::new(64 * MIB);
        let store = bench.open().await;
        let mut pending = store.begin(&key("a"), Some(body.len() as u64)).await.unwrap();
        let reader = tokio::spawn(read_all(pending.growing().follow(0), 0, 64 * KIB));
        for piece in pieces(&body) {
            pending.append(piece).await.unwrap();
        }
        assert_eq!(pending.end().await.unwrap(), (digest(&body), body.len() as u64));
        pending.reveal_all();
        assert!(reader.await.unwrap().unwrap() == body, "all of it before the sync");
        store.0.faults.unsynced.store(1, Ordering::Relaxed);
        let growing = pending.growing();
        let error = pending.seal().await.unwrap_err();
        assert!(matches!(error, WriteError::Io { operation: "sync", .. }), "{error}");
        assert!(store.get(&key("a")).await.is_none());
        // The page cache has it still.
        assert_eq!(growing.read(5, 10).await.unwrap(), body[5..15]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_beside_the_fill_that_fails_is_seen_before_the_commit() {
    let bench = Bench::new(128 * MIB);
    let store = bench.open().await;
    let body = bytes(8, 40 * MIB);
    let mut pending = store.begin(&key("a"), Some(body.len() as u64)).await.unwrap();
    let follower = pending.growing().follow(0);
    store.0.faults.unwritten.store(1, Ordering::Relaxed);
    let mut failed = None;
    for piece in pieces(&body) {
        if let Err(error) = pending.append(piece).await {
            failed = Some(error);
            break;
        }
    }
    // It is met by the next write, or waited for by the seal.
    let error = match failed {
        Some(error) => error,
        None => {
            pending.seal().await.map(|sealed| sealed.commit(meta(&key("a")), None)).unwrap_err()
        }
    };
    assert!(matches!(error, WriteError::Io { operation: "sync", .. }), "{error}");
    assert!(store.get(&key("a")).await.is_none());
    drop(follower);
}
