//! Readers in the middle of a change: the engine applies it row by row.

use crate::clock::Timestamp;
use crate::object::{Meta, NarClaim};
use crate::store::format::{self, BodyPlace, Record};
use crate::store::index::Keyspaces;
use crate::store::tests::{Bench, KIB, MIB, bytes, key, meta, put, put_with};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Whether what the record of "a" leads to is there.
fn assert_whole(index: &Keyspaces) {
    let (key, nar) = (key("a"), key("nar"));
    let Some(row) = index.record(key.hash()).unwrap() else { return };
    let Record { head, .. } = format::decode_record(&row).unwrap();
    if head.place == BodyPlace::Inline {
        let body = index.body(key.hash(), head.sequence).unwrap();
        assert!(body.is_some_and(|body| head.is_of(&body)), "a record without its body");
    }
    if head.claims.is_some() {
        let claim = index.claim(nar.hash()).unwrap();
        assert!(claim.is_some(), "a record without its claim");
    }
}

/// FAULTS.md S7.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_never_stands_without_what_it_leads_to() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let looks = Arc::new(AtomicUsize::new(0));
    {
        let looks = Arc::clone(&looks);
        store.disk.catalog.index.access().open().unwrap().tear(move |index| {
            assert_whole(index);
            looks.fetch_add(1, Ordering::Relaxed);
        });
    }
    let claim = |size| {
        Some((
            key("nar"),
            NarClaim { file_hash: None, file_size: Some(size), source: None, contents: None },
        ))
    };
    for (size, claim) in [
        (5 * KIB, claim(1)),
        (6 * KIB, claim(2)),
        (100, claim(2)),
        (7 * KIB, None),
        (70 * KIB, claim(3)),
        (8 * KIB, claim(3)),
    ] {
        put_with(&store, &key("a"), &bytes(size as u64, size), claim).await.unwrap();
        let found = store.get(&key("a")).await.unwrap();
        let newer = Meta { response_time: Timestamp::from_secs(1_800_000_000), ..meta(&key("a")) };
        assert!(store.touch_meta(&key("a"), found.sha256, &newer));
    }
    assert!(store.remove(&key("a")));
    put(&store, &key("a"), &bytes(9, 5 * KIB)).await.unwrap();
    assert_eq!((store.clear(), bench.damaged()), (1, 0));
    assert!(looks.load(Ordering::Relaxed) > 40);
}
