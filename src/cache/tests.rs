//! What a purge leaves behind while look-ups go on.

use super::{Cache, Scope};
use crate::clock::Timestamp;
use crate::config::{Disk, Memory as MemorySettings};
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::nix::Class;
use crate::object::{Key, Lifetime, Meta, Proof};
use crate::store::Disks;
use crate::tasks::Tasks;
use bytes::Bytes;
use http::{HeaderMap, StatusCode};

fn key(number: usize) -> Key {
    Key::new("s", &format!("/{number}"), None)
}

fn meta(key: &Key) -> Meta {
    Meta {
        key: key.clone(),
        class: Class::Narinfo,
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        origin: "o".into(),
        request_time: Timestamp::from_secs(0),
        response_time: Timestamp::from_secs(0),
        age_at_response: 0,
        lifetime: Lifetime::Seconds(1),
        is_invalidated: false,
        proof: Proof::Parsed,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_looked_up_while_it_is_purged_does_not_stay_in_memory() {
    let place = tempfile::tempdir().unwrap();
    let (metrics, tasks) = (Metrics::new().unwrap(), Tasks::new());
    let disk = Disk { path: place.path().to_owned(), size: 64 << 20 };
    let store = Disks::open(&[disk], metrics, tasks.clone()).unwrap();
    let memory = Memory::new(&MemorySettings { size: 16 << 20, absent_size: 1 << 20 });
    let cache = Cache::new(memory, Some(store), tasks);
    for number in 0..200 {
        let meta = meta(&key(number));
        cache.publish_small(cache.ticket(), meta, Bytes::from_static(b"x"), None).await.unwrap();
    }
    // The one that goes last.
    let last = (0..200).map(key).max_by_key(Key::hash).unwrap();
    let purging = tokio::spawn({
        let cache = cache.clone();
        async move { cache.purge(Scope::All).await }
    });
    let mut looks = Vec::new();
    while !purging.is_finished() {
        looks.push(cache.lookup(&last).await);
    }
    purging.await.unwrap();
    assert!(cache.peek(&last).is_none(), "after {} looks", looks.len());
}
