//! What a purge leaves behind while look-ups go on; disks that hang; what takes the place of what.

mod hung;
mod newer;
mod order;

use super::{Cache, Hit, Purging, Scope};
use crate::config::{Disk, MemorySettings};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::object::{Key, Meta};
use crate::store::{Disks, StoredBody, Withhold};
use crate::tasks::Tasks;
use bytes::Bytes;
use futures_util::FutureExt;
use std::sync::Arc;
use std::time::Duration;

fn key(number: usize) -> Key {
    Key::new("s", &format!("/{number}"), None)
}

pub(crate) fn meta(key: &Key) -> Meta {
    Meta::of_a_narinfo(key)
}

impl Cache {
    /// Forgets all that is in memory, as a restart does.
    fn drop_memory(&self) {
        self.memory.remove_matching(|_| true);
        self.memory.clear_claims();
        self.variants.forget_matching(|_| true);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_looked_up_while_it_is_purged_does_not_stay_in_memory() {
    let place = tempfile::tempdir().unwrap();
    let (metrics, tasks) = (Metrics::new().unwrap(), Tasks::new());
    let disk = Disk::unscrubbed(place.path().to_owned(), 64 << 20);
    let memory = Memory::new(&MemorySettings { size: 16 << 20, absent_size: 1 << 20 }, &metrics);
    let store = Disks::open(&[disk], metrics, tasks.clone()).unwrap();
    let cache = Cache::new(memory, Some(store), tasks);
    for number in 0..200 {
        let meta = meta(&key(number));
        cache.publish_small(cache.ticket(), meta, Bytes::from_static(b"x"), None).await.unwrap();
    }
    // The one that goes last.
    let last = (0..200).map(key).max_by_key(Key::hash).unwrap();
    let purging = tokio::spawn({
        let cache = cache.clone();
        async move { cache.purge(Scope::All, Purging::Hard).await }
    });
    let mut looks = Vec::new();
    while !purging.is_finished() {
        looks.push(cache.lookup(&last).await);
    }
    purging.await.unwrap();
    assert!(cache.peek(last.as_str()).is_none(), "after {} looks", looks.len());
}

/// A cache on a disk of this size, with a memory that holds all.
fn cache_on(place: &std::path::Path, size: u64) -> (Cache, Metrics) {
    let (metrics, tasks) = (Metrics::new().unwrap(), Tasks::new());
    let memory = Memory::new(&MemorySettings { size: 16 << 20, absent_size: 1 << 20 }, &metrics);
    let disk = Disk::unscrubbed(place.to_owned(), size);
    let store = Disks::open(&[disk], metrics.clone(), tasks.clone()).unwrap();
    (Cache::new(memory, Some(store), tasks), metrics)
}

async fn publish(cache: &Cache, number: usize) {
    let (meta, body) = (meta(&key(number)), Bytes::from(vec![7; 4000]));
    cache.publish_small(cache.ticket(), meta, body, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_served_from_memory_stays_on_disk() {
    let place = tempfile::tempdir().unwrap();
    let (cache, metrics) = cache_on(place.path(), 256 << 10);
    let store = cache.store().unwrap();
    store.loaded().await;
    for number in 0..40 {
        publish(&cache, number).await;
    }
    for number in 0..10 {
        assert!(matches!(cache.peek(key(number).as_str()), Some(Hit::Memory(_))));
    }
    for number in 40..150 {
        publish(&cache, number).await;
    }
    for number in 0..10 {
        assert!(store.get(&key(number)).await.is_some(), "{number} was asked for");
    }
    let mut kept = 0;
    for number in 10..40 {
        kept += usize::from(store.get(&key(number)).await.is_some());
    }
    assert_eq!(kept, 0, "no request asked for these");
    assert!(metrics.evictions.with_label_values(&["disk", "size"]).get() > 50);
    cache.report(&metrics);
    assert!(metrics.index_memory_bytes.with_label_values(&["order"]).get() > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_takes_no_thread() {
    let place = tempfile::tempdir().unwrap();
    let (cache, _metrics) = cache_on(place.path(), 64 << 20);
    let store = cache.store().unwrap();
    let (there, absent) = (meta(&key(1)), meta(&key(2)));
    for _ in 0..1_000 {
        if store.lack(&absent.key) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(cache.lookup(&absent.key).now_or_never().unwrap().is_none());
    assert!(store.part(&absent.key).now_or_never().unwrap().is_none());
    let remembering = cache.publish_absent(cache.ticket(), Arc::new(absent.clone()));
    assert!(remembering.now_or_never().unwrap().is_ok());
    assert!(matches!(cache.peek(absent.key.as_str()), Some(Hit::Absent(_))));

    // The first asks the file system how much room there is.
    let begun = (0..1_000).find_map(|_| {
        std::thread::sleep(Duration::from_millis(1));
        cache.begin(&there.key, Some(1), Withhold::End).now_or_never()
    });
    assert!(begun.unwrap().is_some());
    let body = Bytes::from_static(b"x");
    cache.publish_small(cache.ticket(), there.clone(), body, None).await.unwrap();
    assert!(!store.lack(&there.key) && store.get(&there.key).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_body_of_any_size_is_on_disk_when_it_is_published() {
    let place = tempfile::tempdir().unwrap();
    let (cache, _metrics) = cache_on(place.path(), 64 << 20);
    let store = cache.store().unwrap();
    for size in [0, 1, 4095, 4096, 65_535, 65_536, 65_537, 1 << 20] {
        let meta = meta(&Key::new("s", &format!("/{size}"), None));
        let body = Bytes::from(vec![7; size]);
        cache.publish_small(cache.ticket(), meta.clone(), body.clone(), None).await.unwrap();
        let stored = store.get(&meta.key).await.unwrap();
        assert_eq!(stored.length, size as u64);
        match stored.body {
            StoredBody::Bytes(bytes) => assert_eq!(bytes, body),
            StoredBody::File(file) => {
                assert_eq!(file.read(0, 100).await.unwrap(), body[..100]);
            }
        }
    }
}
