//! What is newer stays: publications, confirmations, look-ups and absences that end in another
//! order than they began, and purges that come between.

use super::hung::{pass_until, until};
use super::{cache_on, key, meta};
use crate::cache::{Cache, CachedObject, FenceEpoch, Hit, PublishError, Purging, Scope, Stale};
use crate::clock::Timestamp;
use crate::config::MemorySettings;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::object::{Key, Meta, NarClaim};
use crate::tasks::Tasks;
use bytes::Bytes;
use std::sync::Arc;
use tokio::task::JoinHandle;

const FILE_REMOVAL: &str = "a file is to be removed";
/// Bytes of an object that is not kept in memory.
const LARGE_BYTES: usize = 128 << 10;

/// A cache without a disk.
fn cache_in_memory() -> Cache {
    let settings = MemorySettings { size: 16 << 20, absent_size: 1 << 20 };
    Cache::new(Memory::new(&settings, &Metrics::new().unwrap()), None, Tasks::new())
}

/// A cache without a disk, and one on a disk that is at `place`.
fn caches(place: &std::path::Path) -> [Cache; 2] {
    [cache_in_memory(), cache_on(place, 64 << 20).0]
}

fn body(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

fn large() -> Bytes {
    Bytes::from(vec![7; LARGE_BYTES])
}

/// The head of an object that came so many seconds after the epoch.
fn meta_at(number: usize, seconds: i64) -> Meta {
    Meta { response_time: Timestamp::from_secs(seconds), ..meta(&key(number)) }
}

async fn put(cache: &Cache, number: usize, body: Bytes) {
    cache.publish_small(cache.ticket(), meta(&key(number)), body, None).await.unwrap();
}

fn spawn_put(
    cache: &Cache,
    meta: Meta,
    body: Bytes,
) -> JoinHandle<Result<CachedObject, PublishError>> {
    let (cache, ticket) = (cache.clone(), cache.ticket());
    tokio::spawn(async move { cache.publish_small(ticket, meta, body, None).await })
}

async fn found(cache: &Cache, number: usize) -> Option<CachedObject> {
    match cache.lookup(&key(number)).await {
        Some(Hit::Memory(found) | Hit::Disk(found)) => Some(found),
        Some(Hit::Absent(_)) | None => None,
    }
}

/// The body in memory.
fn hot(cache: &Cache, number: usize) -> Option<Bytes> {
    match cache.peek(key(number).as_str()) {
        Some(Hit::Memory(CachedObject::Hot(hot))) => Some(hot.body()),
        Some(_) | None => None,
    }
}

/// FAULTS.md S14b.
#[tokio::test]
async fn a_confirmation_does_not_bring_back_what_was_purged_since_it_was_looked_up() {
    let place = tempfile::tempdir().unwrap();
    for cache in caches(place.path()) {
        put(&cache, 1, body("one")).await;
        let stale = found(&cache, 1).await.unwrap();
        cache.purge(Scope::Key(key(1)), Purging::Hard).await;
        cache.touch(cache.ticket(), stale, meta_at(1, 9)).await;
        assert!(cache.lookup(&key(1)).await.is_none());
    }
}

#[tokio::test]
async fn a_fill_does_not_confirm_what_was_purged_since_it_was_looked_up() {
    let place = tempfile::tempdir().unwrap();
    let (cache, _metrics) = cache_on(place.path(), 64 << 20);
    for body in [body("one"), large()] {
        put(&cache, 1, body).await;
        let looked = cache.ticket();
        let found = found(&cache, 1).await.unwrap();
        let unpurged = || cache.unpurged(Some(Stale { found: found.clone(), looked })).is_some();
        cache.purge(Scope::Key(key(2)), Purging::Hard).await;
        assert!(unpurged());
        cache.purge(Scope::Key(key(1)), Purging::Hard).await;
        assert!(!unpurged());
    }
}

#[tokio::test]
async fn a_confirmation_renews_what_is_there_still() {
    let place = tempfile::tempdir().unwrap();
    for cache in caches(place.path()) {
        put(&cache, 1, body("one")).await;
        let stale = found(&cache, 1).await.unwrap();
        cache.touch(cache.ticket(), stale, meta_at(1, 9)).await;
        let renewed = found(&cache, 1).await.unwrap();
        assert_eq!(renewed.meta().response_time, Timestamp::from_secs(9));
        if cache.store().is_some() {
            let stale = found(&cache, 1).await.unwrap();
            cache.drop_memory();
            cache.touch(cache.ticket(), stale, meta_at(1, 10)).await;
            assert_eq!(hot(&cache, 1), Some(body("one")), "the disk has it, so it is hot again");
            cache.drop_memory();
            let renewed = found(&cache, 1).await.unwrap();
            assert_eq!(renewed.meta().response_time, Timestamp::from_secs(10));
        }
    }
}

/// FAULTS.md S14b.
#[tokio::test]
async fn a_confirmation_of_an_older_object_does_not_take_the_place_of_a_newer_one() {
    let place = tempfile::tempdir().unwrap();
    for cache in caches(place.path()) {
        put(&cache, 1, body("one")).await;
        let stale = found(&cache, 1).await.unwrap();
        let ticket = cache.ticket();
        put(&cache, 1, body("two")).await;
        cache.touch(ticket, stale, meta_at(1, 9)).await;
        assert_eq!(hot(&cache, 1), Some(body("two")));
    }
}

/// FAULTS.md S14b.
#[tokio::test]
async fn a_confirmation_of_an_older_object_does_not_hide_a_newer_large_one() {
    let place = tempfile::tempdir().unwrap();
    let (cache, _metrics) = cache_on(place.path(), 64 << 20);
    put(&cache, 1, body("one")).await;
    let stale = found(&cache, 1).await.unwrap();
    let ticket = cache.ticket();
    put(&cache, 1, large()).await;
    cache.touch(ticket, stale, meta_at(1, 9)).await;
    assert!(cache.peek(key(1).as_str()).is_none());
    assert_eq!(found(&cache, 1).await.unwrap().length(), LARGE_BYTES as u64);
}

/// Publishes one object, and another one of the same key after the first is written and before it
/// is visible.
async fn published_across(newer: Bytes) -> Cache {
    let place = tempfile::tempdir().unwrap();
    let (cache, _metrics) = cache_on(place.path(), 64 << 20);
    let store = cache.store().unwrap().clone();
    store.loaded().await;
    let nar = Key::new("s", "/nar/x.nar.xz", None);
    let claim =
        |size| NarClaim { file_hash: None, file_size: Some(size), source: None, contents: None };
    put(&cache, 1, large()).await;
    let hold = store.hold(0, FILE_REMOVAL);
    let ticket = cache.ticket();
    let older = tokio::spawn({
        let (cache, claims) = (cache.clone(), Some((nar.clone(), claim(1))));
        async move { cache.publish_small(ticket, meta(&key(1)), body("one"), claims).await }
    });
    hold.until_reached().await;
    let claims = Some((nar.clone(), claim(2)));
    cache.publish_small(cache.ticket(), meta(&key(1)), newer, claims).await.unwrap();
    drop(hold);
    older.await.unwrap().unwrap();
    assert_eq!(cache.claim(&nar).await, Ok(Some(claim(2))));
    cache
}

/// FAULTS.md S14a.
#[tokio::test(start_paused = true)]
async fn a_publication_that_is_shown_late_does_not_take_the_place_of_a_newer_one() {
    let cache = published_across(body("two")).await;
    assert_eq!(hot(&cache, 1), Some(body("two")));
    let cache = published_across(large()).await;
    assert!(cache.peek(key(1).as_str()).is_none());
}

/// FAULTS.md S14a.
#[tokio::test]
async fn a_response_that_came_earlier_and_ends_later_does_not_take_the_place_of_a_newer_one() {
    for (older, newer) in
        [(body("one"), body("two")), (body("one"), large()), (large(), body("two"))]
    {
        let place = tempfile::tempdir().unwrap();
        for cache in caches(place.path()) {
            if cache.store().is_none() && newer.len() == LARGE_BYTES {
                continue;
            }
            let early = cache.ticket();
            let publish = async |ticket: FenceEpoch, seconds, body: &Bytes| {
                cache.publish_small(ticket, meta_at(1, seconds), body.clone(), None).await
            };
            publish(cache.ticket(), 2, &newer).await.unwrap();
            publish(early, 1, &older).await.unwrap_err();
            for _ in 0..2 {
                let length = found(&cache, 1).await.unwrap().length();
                assert_eq!(length, newer.len() as u64);
                if cache.store().is_some() {
                    cache.drop_memory();
                }
            }
            // What began when that was there takes its place, whatever the clock says.
            publish(cache.ticket(), 0, &older).await.unwrap();
            assert_eq!(found(&cache, 1).await.unwrap().length(), older.len() as u64);
        }
    }
}

#[tokio::test]
async fn a_late_absence_hides_nothing_that_was_published_since_it_was_asked_for() {
    let place = tempfile::tempdir().unwrap();
    for cache in caches(place.path()) {
        let newer = if cache.store().is_some() { large() } else { body("two") };
        let before = cache.ticket();
        put(&cache, 1, newer.clone()).await;
        let _ = cache.publish_absent(before, Arc::new(meta(&key(1)))).await;
        assert_eq!(found(&cache, 1).await.unwrap().length(), newer.len() as u64);
        cache.publish_absent(cache.ticket(), Arc::new(meta(&key(1)))).await.unwrap();
        assert!(matches!(cache.peek(key(1).as_str()), Some(Hit::Absent(_))));
        assert!(found(&cache, 1).await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_shown_late_does_not_take_the_place_of_a_newer_absence() {
    let place = tempfile::tempdir().unwrap();
    let (cache, _metrics) = cache_on(place.path(), 64 << 20);
    let store = cache.store().unwrap().clone();
    put(&cache, 1, large()).await;
    let hold = store.hold(0, FILE_REMOVAL);
    let older = spawn_put(&cache, meta(&key(1)), body("one"));
    hold.until_reached().await;
    cache.publish_absent(cache.ticket(), Arc::new(meta(&key(1)))).await.unwrap();
    drop(hold);
    older.await.unwrap().unwrap();
    assert!(matches!(cache.peek(key(1).as_str()), Some(Hit::Absent(_))));
    cache.drop_memory();
    assert!(found(&cache, 1).await.is_none());
}

/// FAULTS.md S14a.
#[tokio::test(start_paused = true)]
async fn a_slow_look_up_does_not_make_hot_what_a_large_object_has_replaced() {
    let place = tempfile::tempdir().unwrap();
    let (cache, _metrics) = cache_on(place.path(), 64 << 20);
    let store = cache.store().unwrap().clone();
    put(&cache, 1, body("one")).await;
    cache.drop_memory();
    let hold = store.hold(0, "an object is found");
    let looking = tokio::spawn({
        let cache = cache.clone();
        async move { cache.lookup(&key(1)).await.is_some() }
    });
    hold.until_reached().await;
    put(&cache, 1, large()).await;
    drop(hold);
    assert!(looking.await.unwrap());
    assert!(cache.peek(key(1).as_str()).is_none());
    assert_eq!(found(&cache, 1).await.unwrap().length(), LARGE_BYTES as u64);
}

#[tokio::test]
async fn the_answer_to_a_write_is_not_kept_if_the_object_was_purged_once_more() {
    let cache = cache_in_memory();
    let began = cache.ticket();
    let ticket = cache.purge_written(key(1), began).await.unwrap();
    cache.publish_small(ticket, meta(&key(1)), body("one"), None).await.unwrap();

    let (early, late) = (cache.ticket(), cache.ticket());
    let ticket = cache.purge_written(key(1), late).await.unwrap();
    assert!(hot(&cache, 1).is_none());
    cache.publish_small(ticket, meta(&key(1)), body("two"), None).await.unwrap();
    assert!(cache.purge_written(key(1), early).await.is_none(), "another write came between");
    let ticket = cache.purge_written(key(1), cache.ticket()).await.unwrap();
    cache.purge(Scope::Key(key(1)), Purging::Hard).await;
    cache.publish_small(ticket, meta(&key(1)), body("three"), None).await.unwrap_err();
}

#[tokio::test]
async fn without_a_disk_a_claim_stays_as_long_as_its_narinfo() {
    let cache = cache_in_memory();
    let nar = Key::new("s", "/nar/x.nar.xz", None);
    let claim = NarClaim { file_hash: None, file_size: Some(1), source: None, contents: None };
    let claims = Some((nar.clone(), claim.clone()));
    cache.publish_small(cache.ticket(), meta(&key(1)), body("one"), claims).await.unwrap();
    let prefix = |prefix: &str| Scope::Prefix { site: "s".to_owned(), prefix: prefix.to_owned() };
    cache.purge(prefix("/2"), Purging::Hard).await;
    assert_eq!(cache.claim(&nar).await, Ok(Some(claim.clone())), "another was purged");
    cache.purge(prefix("/1"), Purging::Soft).await;
    assert_eq!(cache.claim(&nar).await, Ok(Some(claim)), "its narinfo is there, if stale");
    cache.purge(prefix("/1"), Purging::Hard).await;
    assert_eq!(cache.claim(&nar).await, Ok(None));
}

#[tokio::test(start_paused = true)]
async fn what_is_visible_already_is_not_waited_for() {
    let place = tempfile::tempdir().unwrap();
    let (cache, _metrics) = cache_on(place.path(), 64 << 20);
    let store = cache.store().unwrap().clone();
    store.loaded().await;
    let page = |language| super::order::page(language);
    put_page(&cache, page(Some("de"))).await;
    let hold = store.hold(0, "a record is to be dropped");
    let publishing = spawn_put(&cache, page(None), body("page"));
    hold.until_reached().await;
    pass_until("the publication ends", || publishing.is_finished()).await;
    assert!(publishing.await.unwrap().is_ok());
    assert_eq!(hot(&cache, 1), Some(body("page")));
    drop(hold);
    until("the variant is dropped", || !store.has_record(&page(Some("de")).key)).await;
}

async fn put_page(cache: &Cache, meta: Meta) {
    cache.publish_small(cache.ticket(), meta, body("page"), None).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_part_that_is_made_whole_too_late_does_not_become_visible() {
    let place = tempfile::tempdir().unwrap();
    let (cache, _metrics) = cache_on(place.path(), 64 << 20);
    let store = cache.store().unwrap().clone();
    store.loaded().await;
    let (ticket, length) = (cache.ticket(), LARGE_BYTES as u64);
    let part = cache.begin_part(meta(&key(1)), length).await.unwrap();
    let mut run = part.claim(0, length).unwrap();
    run.append(large()).await.unwrap();
    run.finish().await.unwrap();
    cache.keep_part(ticket, &part).await.unwrap();
    let sha256 = crate::object::Sha256::of(&large());
    let hold = store.hold(0, "a part is to be made whole");
    let publishing = tokio::spawn({
        let (cache, part) = (cache.clone(), part.clone());
        async move { cache.publish_part(ticket, &part, meta(&key(1)), sha256).await }
    });
    hold.until_reached().await;
    pass_until("it is given up", || publishing.is_finished()).await;
    publishing.await.unwrap().unwrap_err();
    drop(hold);
    until("the disk answers", || store.is_writable()).await;
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    assert!(found(&cache, 1).await.is_none());
}
