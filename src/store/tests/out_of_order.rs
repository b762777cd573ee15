//! Ranges that are written before their turn: they make the object that bytes in order make, or
//! nothing.

use crate::store::error::WriteError;
use crate::store::tests::{Bench, MIB, bytes, digest, key, meta, read};
use crate::store::{ObjectWriter, OutOfOrder, WrittenRange};
use bytes::Bytes;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;

/// Writes a range of `body` ahead, as an origin might send it.
async fn write(
    ahead: &OutOfOrder,
    body: &Bytes,
    range: Range<usize>,
) -> Result<WrittenRange, WriteError> {
    let mut early = ahead.range_from(range.start as u64);
    for at in range.clone().step_by(70_000) {
        early.append(body.slice(at..range.end.min(at + 70_000))).await?;
    }
    early.finish().await
}

async fn append(pending: &mut ObjectWriter, body: &Bytes, range: Range<usize>) {
    for at in range.clone().step_by(50_000) {
        pending.append(body.slice(at..range.end.min(at + 50_000))).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_in_any_order_make_the_same_object() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let body = bytes(1, 6 * MIB + 4321);
    let mut pending = store.begin(&key("a"), Some(body.len() as u64)).await.unwrap();
    let reader = pending.growing();
    let ahead = pending.out_of_order().await.unwrap().unwrap();
    let last = write(&ahead, &body, 5 * MIB..body.len()).await.unwrap();
    // Broken off within a chunk.
    let middle = write(&ahead, &body, 2 * MIB..3 * MIB + 500_001).await.unwrap();
    assert_eq!((reader.visible(), pending.received()), (0, 0), "no reader sees what is ahead");
    append(&mut pending, &body, 0..2 * MIB).await;
    pending.take_in(middle).await.unwrap();
    assert_eq!(pending.received(), 3 * MIB as u64 + 500_001);
    append(&mut pending, &body, 3 * MIB + 500_001..5 * MIB).await;
    pending.take_in(last).await.unwrap();
    let mut got = Vec::new();
    while got.len() < body.len() {
        got.extend_from_slice(&reader.read(got.len() as u64, 300_000).await.unwrap());
    }
    assert!(got == body, "what readers get while it comes");
    let sealed = pending.seal().await.unwrap();
    assert_eq!(sealed.sha256, digest(&body));
    sealed.commit(meta(&key("a")), None).unwrap();
    drop(ahead);
    bench.close(store).await;
    let store = bench.open().await;
    let stored = store.get(&key("a")).await.unwrap();
    assert!(read(&stored).await == body);
    assert_eq!((stored.sha256, bench.damaged()), (digest(&body), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_does_not_read_as_it_was_written_is_not_taken_in() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let body = bytes(2, 4 * MIB);
    let mut pending = store.begin(&key("a"), Some(body.len() as u64)).await.unwrap();
    let ahead = pending.out_of_order().await.unwrap().unwrap();
    let written = write(&ahead, &body, MIB..4 * MIB).await.unwrap();
    append(&mut pending, &body, 0..MIB).await;
    ahead.file().write_all_at(b"damage", 2 * MIB as u64 + 77).unwrap();
    pending.take_in(written).await.unwrap();
    assert_eq!(pending.received(), 2 * MIB as u64, "up to the damaged chunk");
    append(&mut pending, &body, 2 * MIB..4 * MIB).await;
    let ended = pending.end().await.unwrap();
    assert_eq!((ended.sha256, ended.length), (digest(&body), body.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_that_was_given_up_overwrites_nothing() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let (body, other) = (bytes(3, 3 * MIB), bytes(4, 3 * MIB));
    let mut pending = store.begin(&key("a"), Some(body.len() as u64)).await.unwrap();
    let ahead = pending.out_of_order().await.unwrap().unwrap();
    append(&mut pending, &body, 0..2 * MIB).await;
    let range = write(&ahead, &body, 2 * MIB..3 * MIB).await.unwrap();
    pending.take_in(range).await.unwrap();
    let late = write(&ahead, &other, 0..MIB).await;
    assert!(matches!(late, Err(WriteError::Interrupted)), "{late:?}");
    let sealed = pending.seal().await.unwrap();
    let late = write(&ahead, &other, 2 * MIB..3 * MIB).await;
    assert!(matches!(late, Err(WriteError::Interrupted)), "{late:?}");
    let stored = sealed.commit(meta(&key("a")), None).unwrap();
    assert!(read(&stored).await == body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_out_of_its_turn_is_refused_and_a_full_disk_spares_the_object() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let body = bytes(5, 3 * MIB);
    let mut pending = store.begin(&key("a"), Some(body.len() as u64)).await.unwrap();
    let ahead = pending.out_of_order().await.unwrap().unwrap();
    let early = write(&ahead, &body, MIB..2 * MIB).await.unwrap();
    assert!(pending.take_in(early).await.is_err(), "nothing came before it");
    assert_eq!(pending.received(), 0);
    // Nothing is there to be evicted.
    store.disk.catalog.faults.full.store(1, Ordering::Relaxed);
    let refused = write(&ahead, &body, 2 * MIB..3 * MIB).await;
    assert!(matches!(refused, Err(WriteError::NoSpace { .. })), "{refused:?}");
    append(&mut pending, &body, 0..3 * MIB).await;
    let ended = pending.end().await.unwrap();
    assert_eq!((ended.sha256, ended.length), (digest(&body), body.len() as u64));
}
