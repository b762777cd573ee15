//! What goes for an object that is being written, and what does not.

use crate::store::error::WriteError;
use crate::store::eviction::reserve::FREE_BYTES_MIN;
use crate::store::handle::Store;
use crate::store::tests::{Bench, KIB, MIB, bytes, held, key, meta, put};
use crate::store::{ObjectWriter, format};
use bytes::Bytes;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;

/// A tier of 64 MiB, nearly full of objects of 1 MiB that were all asked for again.
async fn full(bench: &Bench) -> Store {
    let store = bench.open().await;
    for number in 0..61 {
        let stored = put(&store, &key(&number.to_string()), &bytes(number, MIB)).await.unwrap();
        assert!(store.touch(stored.insertion.sequence));
    }
    store
}

fn objects(store: &Store) -> u64 {
    store.usage().objects
}

/// Appends pieces of 1 MiB, `count` at most, until the object is not stored any more; how many.
async fn trickle(writer: &mut ObjectWriter, count: usize) -> usize {
    let _reader = writer.growing().follow(0, None);
    for number in 0..count {
        if writer.is_memory_only() {
            return number;
        }
        writer.append(Bytes::from(vec![7; MIB])).await.unwrap();
        // What waits for its reader would wait for long.
        if writer.growth().in_memory() > 6 * MIB as u64 {
            return number;
        }
    }
    count
}

/// FAULTS.md S1.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_again_stays_until_what_comes_is_proven_or_asked_for_again() {
    for length in [Some(30 * MIB as u64), None] {
        let bench = Bench::new(64 * MIB);
        let store = full(&bench).await;
        let before = objects(&store);
        match store.begin(&key("large"), length).await {
            Ok(mut writer) => {
                trickle(&mut writer, 30).await;
                assert!(writer.is_memory_only(), "{length:?}");
            }
            Err(error) => assert!(matches!(error, WriteError::Busy { .. }), "{error}"),
        }
        assert_eq!(objects(&store), before, "{length:?}");
        assert_eq!(store.usage().reserved_bytes, 0);

        let body = bytes(99, 20 * MIB);
        let length = length.map(|_| body.len() as u64);
        let mut writer = store.begin(&key("large"), length).await.unwrap();
        writer.append(body.clone()).await.unwrap();
        let sealed = writer.seal().await.unwrap();
        sealed.commit(meta(&key("large")), None).unwrap();
        assert_eq!(held(&store, &key("large")).await.unwrap(), body, "it was asked for again");
        assert!(store.usage().bytes <= 62 * MIB as u64, "what is kept free is free");
        assert!(store.health().is_writable);
    }
}

/// FAULTS.md S1, C2b.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_of_unknown_length_takes_what_is_free_alone() {
    let bench = Bench::new(24 * MIB);
    let store = bench.open().await;
    for number in 0..20 {
        put(&store, &key(&number.to_string()), &bytes(number, MIB)).await.unwrap();
    }
    let mut writer = store.begin(&key("endless"), None).await.unwrap();
    trickle(&mut writer, 30).await;
    assert!(writer.is_memory_only());
    drop(writer);
    assert_eq!(objects(&store), 20);
    let declared = Some(11 * MIB as u64);
    let mut writer = store.begin(&key("declared"), declared).await.unwrap();
    assert_eq!(trickle(&mut writer, 8).await, 8);
    assert!(objects(&store) < 20, "what was asked for once goes for what says how long it is");
}

/// FAULTS.md S1, C2a.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_larger_than_one_object_may_be_takes_the_place_of_nothing() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    put(&store, &key("a"), &bytes(1, 40 * KIB)).await.unwrap();
    let too_large = Some(33 * MIB as u64);
    let refused = store.begin(&key("b"), too_large).await.unwrap_err();
    assert!(matches!(refused, WriteError::TooLarge { limit, .. } if limit == 32 * MIB as u64));
    // The file system is smaller than the tier may be.
    store.disk.catalog.accounting.set_capacity(10 * MIB as u64);
    assert_eq!(store.disk.catalog.accounting.object_max(), 5 * MIB as u64);
    assert!(store.disk.catalog.fits(format::charge(5 * MIB as u64)).is_err());
    assert_eq!(objects(&store), 1);
}

/// A file system may free what was removed only when it writes its journal, which takes a sync.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_published_does_not_wait_until_what_goes_for_it_is_free() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    put(&store, &key("a"), &bytes(1, MIB)).await.unwrap();
    let body = bytes(2, 100 * KIB);
    let mut writer = store.begin(&key("b"), Some(body.len() as u64)).await.unwrap();
    writer.append(body).await.unwrap();
    let sealed = writer.seal().await.unwrap();
    let freeing = store.disk.catalog.faults.hold("what was removed is to be freed");
    store.disk.catalog.faults.others.store(u64::MAX, Ordering::Relaxed);
    store.disk.catalog.free_space.forget();
    let committing = tokio::task::spawn_blocking(move || sealed.commit(meta(&key("b")), None));
    let committed = timeout(Duration::from_secs(30), committing).await;
    committed.unwrap().unwrap().unwrap();
    assert!(store.get(&key("a")).await.is_none(), "it went for what is kept free");
    freeing.until_reached().await;
}

/// FAULTS.md S3.
#[tokio::test(flavor = "multi_thread")]
async fn while_the_file_system_frees_slowly_no_more_goes_than_comes() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    for number in 0..40 {
        put(&store, &key(&number.to_string()), &bytes(number, MIB)).await.unwrap();
    }
    let mut coming = Vec::new();
    for number in 100..104 {
        let (name, body) = (number.to_string(), bytes(number, MIB));
        let mut writer = store.begin(&key(&name), Some(MIB as u64)).await.unwrap();
        writer.append(body).await.unwrap();
        coming.push((writer.seal().await.unwrap(), name));
    }
    let freeing = store.disk.catalog.faults.hold("what was removed is to be freed");
    store.disk.catalog.faults.others.store(u64::MAX, Ordering::Relaxed);
    store.disk.catalog.free_space.forget();
    let mut left = objects(&store);
    for (number, (sealed, name)) in coming.into_iter().enumerate() {
        // The last time that something was freed is long ago.
        *store.disk.reserve.freed.lock() = None;
        let committing = move || sealed.commit(meta(&key(&name)), None);
        tokio::task::spawn_blocking(committing).await.unwrap().unwrap();
        let before = std::mem::replace(&mut left, objects(&store));
        // One came; what goes for it may count a little less than it.
        assert!(number == 0 || left + 1 >= before, "{number}: {left} of {before} are left");
    }
    drop(freeing);
}

/// FAULTS.md S16b.
#[tokio::test(flavor = "multi_thread")]
async fn many_objects_at_once_displace_no_more_than_they_are() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    for number in 0..70 {
        put(&store, &key(&number.to_string()), &bytes(number, MIB)).await.unwrap();
    }
    let before = objects(&store);
    let coming = (100..108).map(|number| {
        let store = store.clone();
        tokio::spawn(async move {
            put(&store, &key(&number.to_string()), &bytes(number, MIB)).await.unwrap();
        })
    });
    for one in coming.collect::<Vec<_>>() {
        one.await.unwrap();
    }
    // As much goes as comes, and what one of them asks for ahead.
    assert!(objects(&store) + 8 >= before, "{} of {before} are left", objects(&store));
    for number in 100..108 {
        assert!(store.get(&key(&number.to_string())).await.is_some(), "{number}");
    }
}

/// FAULTS.md C6a.
#[test]
fn the_reference_says_what_is_left_free() {
    let reference = include_str!("../../../config/reference.toml").replace("\n# ", " ");
    let bytes = FREE_BYTES_MIN >> 20;
    let said = format!("of the file system {bytes}MiB, at most a 16th of the size");
    assert!(reference.contains(&said), "{said}");
}
