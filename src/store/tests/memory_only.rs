//! The disk fails under an object in mid-write: its readers go on, nothing of it is stored.

use crate::store::error::{Broken, WriteError};
use crate::store::handle::Store;
use crate::store::tests::{Bench, KIB, MIB, OBSERVER, bytes, digest, key, meta, read};
use crate::store::{EndedObject, Follower, ObjectWriter, WITHHELD_BYTES, Withhold};
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
    let follower = pending.growing().follow(0, None);
    for piece in pieces(&body) {
        pending.append(piece).await.unwrap();
    }
    at.recv().unwrap();
    assert_eq!(pending.growth().in_memory(), body.len() as u64, "nothing of it is in the file");
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

/// Writes `body` to a disk that fails as soon as `failing_at` bytes have come.
async fn write_failing(
    store: &Store,
    writer: &mut ObjectWriter,
    body: &Bytes,
    failing_at: u64,
) -> Result<(), WriteError> {
    for piece in pieces(body) {
        if writer.received() >= failing_at {
            store.disk.catalog.faults.full.store(u32::MAX, Ordering::Relaxed);
        }
        writer.append(piece).await?;
        if writer.is_memory_only() {
            assert!(writer.growth().in_memory() <= 8 << 20, "{}", writer.growth().in_memory());
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_go_on_when_the_disk_fails_under_an_object() {
    for failing_at in [0, 100, 6 * MIB as u64] {
        let bench = Bench::new(64 * MIB);
        let store = bench.open().await;
        let body = bytes(3, 30 * MIB + 17);
        let length = Some(body.len() as u64);
        let key = key("a");
        let begun = store.begin_withholding(&key, length, Withhold::LastBytes);
        let mut writer = begun.await.unwrap();
        let readers: Vec<_> = (0..20)
            .map(|number| {
                let from = number * 100_000;
                let follower = writer.growing().follow(from as u64, None);
                (from, tokio::spawn(read_all(follower, from, 10_000 + number * 3_000)))
            })
            .collect();
        write_failing(&store, &mut writer, &body, failing_at).await.unwrap();
        let growing = writer.growing();
        let ended = writer.end().await.unwrap();
        assert_eq!((ended.sha256, ended.length), (digest(&body), body.len() as u64));
        assert_eq!(growing.visible(), body.len() as u64 - WITHHELD_BYTES);
        assert!(readers.iter().all(|(_, reader)| !reader.is_finished()), "the end is withheld");
        assert!(ended.prove().is_err(), "an object without a disk is not stored");
        for (from, reader) in readers {
            assert!(reader.await.unwrap().unwrap() == body[from..], "other bytes from {from}");
        }
        assert!(store.get(&key).await.is_none());
        assert_eq!((store.usage().bytes, store.usage().reserved_bytes), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_object_without_a_disk_breaks_its_readers_before_its_end() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let body = bytes(4, 2 * MIB);
    let mut writer = store.begin(&key("a"), None).await.unwrap();
    let reader = tokio::spawn(read_all(writer.growing().follow(0, None), 0, 64 * KIB));
    write_failing(&store, &mut writer, &body, MIB as u64).await.unwrap();
    drop(writer.end().await.unwrap());
    assert!(matches!(reader.await.unwrap(), Err(Broken::Abandoned)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_object_has_no_end_before_it_is_proven() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    for is_right in [true, false] {
        let writer = store.begin(&key("a"), None).await.unwrap();
        let reader = tokio::spawn(read_all(writer.growing().follow(0, None), 0, 64 * KIB));
        let ended = writer.end().await.unwrap();
        assert!(!reader.is_finished());
        let proven = is_right.then_some(ended).map(EndedObject::prove);
        assert_eq!((proven.is_some(), reader.await.unwrap().is_ok()), (is_right, is_right));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stands_still_is_left_behind_and_holds_up_no_other_for_long() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let body = bytes(5, 30 * MIB);
    let mut writer = store.begin(&key("a"), None).await.unwrap();
    let still = writer.growing().follow(0, None);
    let other = tokio::spawn(read_all(writer.growing().follow(0, None), 0, 64 * KIB));
    write_failing(&store, &mut writer, &body, 12 * MIB as u64).await.unwrap();
    assert!(writer.end().await.unwrap().prove().is_err());
    assert!(other.await.unwrap().unwrap() == body);
    // What is in the file is still to be had, then comes the gap.
    assert_eq!(still.read(MIB as u64, 10).await.unwrap(), body[MIB..MIB + 10]);
    assert!(matches!(read_all(still, 0, 64 * KIB).await, Err(Broken::Behind)));
}

#[tokio::test(start_paused = true)]
async fn an_object_without_disk_and_readers_is_given_up() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let mut writer = store.begin(&key("a"), None).await.unwrap();
    let result = write_failing(&store, &mut writer, &bytes(6, 30 * MIB), MIB as u64).await;
    assert!(matches!(result, Err(WriteError::NoReaders)), "{result:?}");
    assert!(writer.received() < 12 << 20, "{}", writer.received());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_last_write_that_fails_costs_no_reader_anything_and_stores_nothing() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    // The first 21 pieces make a batch, the others wait for the end.
    let body = bytes(7, 23 * 50_000);
    let mut writer = store.begin(&key("a"), Some(body.len() as u64)).await.unwrap();
    let reader = tokio::spawn(read_all(writer.growing().follow(0, None), 0, 64 * KIB));
    for piece in pieces(&body) {
        writer.append(piece).await.unwrap();
    }
    let growing = writer.growing();
    let proven = writer.end().await.unwrap().prove().unwrap();
    assert!(reader.await.unwrap().unwrap() == body, "all of it before the last write");
    store.disk.catalog.faults.full.store(u32::MAX, Ordering::Relaxed);
    assert!(proven.seal().unwrap_err().is_full());
    assert!(store.get(&key("a")).await.is_none());
    for at in [5, body.len() - 10] {
        assert_eq!(growing.read(at as u64, 10).await.unwrap(), body[at..at + 10]);
    }
}

/// A disk that takes nothing from the first batch on, until the sender is dropped.
fn hang_in_the_first_batch() -> std::sync::mpsc::Sender<()> {
    let (go_on, gate) = std::sync::mpsc::channel::<()>();
    let gate = crate::sync::Mutex::new(gate);
    OBSERVER.set(Some(Arc::new(move |step| {
        if step == "a batch is to be written" {
            let _ = gate.lock().recv();
        }
    })));
    go_on
}

#[tokio::test]
async fn readers_go_on_when_the_disk_hangs_under_an_object() {
    let go_on = hang_in_the_first_batch();
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    OBSERVER.set(None);
    let body = bytes(8, 20 * MIB + 5);
    let length = Some(body.len() as u64);
    let key = key("a");
    let begun = store.begin_withholding(&key, length, Withhold::LastBytes);
    let mut writer = begun.await.unwrap();
    let reader = tokio::spawn(read_all(writer.growing().follow(0, None), 0, 64 * KIB));
    tokio::time::pause();
    for piece in pieces(&body) {
        let mut appending = std::pin::pin!(writer.append(piece));
        loop {
            tokio::select! {
                biased;
                result = &mut appending => break result.unwrap(),
                // A thread that hangs keeps the clock from going on by itself.
                () = tokio::task::yield_now() => tokio::time::advance(STEP).await,
            }
        }
    }
    assert!(writer.is_memory_only());
    let ended = writer.end().await.unwrap();
    assert_eq!((ended.sha256, ended.length), (digest(&body), body.len() as u64));
    // The thread comes back: its batch changes nothing any more.
    drop(go_on);
    assert!(matches!(ended.prove(), Err(WriteError::Stalled)));
    assert!(reader.await.unwrap().unwrap() == body);
}

/// By how much a test turns the clock while it waits.
const STEP: std::time::Duration = std::time::Duration::from_millis(500);

#[tokio::test(start_paused = true)]
async fn the_only_reader_is_waited_for_however_slow_it_is() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let body = bytes(9, 20 * MIB);
    let mut writer = store.begin(&key("a"), None).await.unwrap();
    let follower = writer.growing().follow(0, None);
    let reader = tokio::spawn(async move {
        let mut got = Vec::new();
        loop {
            let piece = follower.read(got.len() as u64, 256 * KIB).await.unwrap();
            if piece.is_empty() {
                return got;
            }
            got.extend_from_slice(&piece);
            tokio::time::sleep(std::time::Duration::from_secs(20)).await;
        }
    });
    write_failing(&store, &mut writer, &body, 0).await.unwrap();
    assert!(writer.end().await.unwrap().prove().is_err());
    assert!(reader.await.unwrap() == body);
}
