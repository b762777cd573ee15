//! A disk that hangs: what waits for it, for how long, and what is visible afterwards. Time is
//! turned by hand, and a disk hangs at the step that a test says.

use super::{cache_on, key, meta, publish};
use crate::cache::{
    Cache, CachedObject, ClaimUnknown, Hit, PublishError, PurgeHold, PurgeOutcome, Purging, Scope,
};
use crate::object::NarClaim;
use crate::store::{Disks, Withhold};
use crate::tasks::Tasks;
use bytes::Bytes;
use futures_util::FutureExt;
use std::path::Path;
use std::time::Duration;
use tokio::task::JoinHandle;

const RECORD: &str = "a record is to be written";
const LOOK: &str = "the index is to be read";
/// Longer than anything waits for a disk.
const LONG: Duration = Duration::from_mins(1);

/// A cache on a disk that has told what is not there.
async fn cache_at(place: &Path) -> Cache {
    let (cache, _metrics) = cache_on(place, 64 << 20);
    cache.store().unwrap().loaded().await;
    cache
}

fn spawn_small(cache: &Cache, number: usize) -> JoinHandle<Result<CachedObject, PublishError>> {
    let (cache, ticket) = (cache.clone(), cache.ticket());
    let body = Bytes::from(vec![7; 5_000]);
    tokio::spawn(async move { cache.publish_small(ticket, meta(&key(number)), body, None).await })
}

fn spawn_purge(cache: &Cache, scope: Scope) -> JoinHandle<PurgeOutcome> {
    let cache = cache.clone();
    tokio::spawn(async move { cache.purge(scope, Purging::Hard).await })
}

/// Lets time pass, a little at a time, until something holds. Threads that do not hang get true
/// time meanwhile: else more would pass than what waits for them allows.
pub(super) async fn pass_until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..10_000 {
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_millis(5) {
            if holds() {
                return;
            }
            tokio::task::yield_now().await;
        }
        tokio::time::advance(Duration::from_millis(20)).await;
    }
    panic!("never: {what}");
}

/// Waits until something holds, and lets no time pass meanwhile.
pub(super) async fn until(what: &str, holds: impl Fn() -> bool) {
    let began = std::time::Instant::now();
    while !holds() {
        assert!(began.elapsed() < LONG, "never: {what}");
        tokio::task::yield_now().await;
    }
}

/// Waits until the disk answers, and has made up for what it owes.
async fn until_well(store: &Disks) {
    until("the disk answers", || {
        store.look();
        store.is_writable()
    })
    .await;
}

/// So that a range goes on by way of its origin.
#[tokio::test(start_paused = true)]
async fn a_read_of_a_part_ends_although_the_disk_hangs() {
    const CHUNK: usize = 1 << 20;
    let place = tempfile::tempdir().unwrap();
    let cache = cache_at(place.path()).await;
    let part = cache.begin_part(meta(&key(1)), 3 << 20).await.unwrap();
    let mut run = part.claim(0, 1).unwrap();
    run.append(Bytes::from(vec![7; CHUNK])).await.unwrap();
    run.finish().await.unwrap();
    drop(run);
    part.doubt();
    let hold = cache.store().unwrap().hold(0, "a part is to be read");
    let reading = {
        let part = part.clone();
        tokio::spawn(async move { part.read(0, 100).await })
    };
    hold.until_reached().await;
    pass_until("the read ends", || reading.is_finished()).await;
    assert!(reading.await.unwrap().is_err());
    drop(hold);
    assert_eq!(part.read(0, 100).await.unwrap().unwrap(), vec![7; 100]);
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_hangs_while_it_commits_holds_up_no_purge_no_hit_and_no_other_disk() {
    let place = tempfile::tempdir().unwrap();
    let cache = cache_at(place.path()).await;
    let store = cache.store().unwrap().clone();
    publish(&cache, 1).await;
    let hold = store.hold(0, RECORD);
    let publishing = spawn_small(&cache, 2);
    hold.until_reached().await;

    // Whether or not it is what is being written, a purge ends, and is owed by the disk.
    for number in [2, 3] {
        let purging = spawn_purge(&cache, Scope::Key(key(number)));
        pass_until("the purge ends", || purging.is_finished()).await;
        assert!(matches!(cache.peek(key(1).as_str()), Some(Hit::Memory(_))));
        assert!(!store.is_writable(), "it owes the purge");
        assert_eq!(purging.await.unwrap().holds, PurgeHold::UntilRestart, "it notes nothing");
    }
    let newer = cache.ticket();
    drop(hold);
    assert!(publishing.await.unwrap().is_err(), "it is older than the purge");
    assert!(cache.lookup(&key(2)).await.is_none());
    until_well(&store).await;
    assert!(cache.lookup(&key(2)).await.is_none() && !store.has_record(&key(2)));
    let body = Bytes::from_static(b"new");
    cache.publish_small(newer, meta(&key(2)), body, None).await.unwrap();
    assert!(cache.lookup(&key(2)).await.is_some());
    assert!(store.has_record(&key(2)), "what began after the purge is kept");
}

#[tokio::test(start_paused = true)]
async fn an_orderly_stop_notes_the_purges_that_a_disk_owes_although_it_was_not_seen_to_answer() {
    let place = tempfile::tempdir().unwrap();
    let cache = cache_at(place.path()).await;
    let store = cache.store().unwrap().clone();
    publish(&cache, 1).await;
    assert!(store.has_record(&key(1)));
    let hold = store.hold(0, RECORD);
    let publishing = spawn_small(&cache, 2);
    hold.until_reached().await;
    // The disk is asked for the first purge, and for no other while that hangs.
    for number in [2, 1] {
        let purging = spawn_purge(&cache, Scope::Key(key(number)));
        pass_until("the purge ends", || purging.is_finished()).await;
        assert_eq!(purging.await.unwrap().holds, PurgeHold::UntilRestart);
    }
    drop(hold);
    assert!(cache.tasks.drain(Duration::from_mins(1)).await);
    assert!(publishing.await.unwrap().is_err());
    drop((store, cache));
    let cache = cache_at(place.path()).await;
    assert!(cache.lookup(&key(1)).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_purge_waits_for_what_is_being_written_and_takes_it() {
    for scope in [
        Scope::Key(key(2)),
        Scope::Prefix { site: "s".to_owned(), prefix: "/".to_owned() },
        Scope::All,
    ] {
        let place = tempfile::tempdir().unwrap();
        let cache = cache_at(place.path()).await;
        let store = cache.store().unwrap().clone();
        let hold = store.hold(0, RECORD);
        let publishing = spawn_small(&cache, 2);
        hold.until_reached().await;
        let purging = spawn_purge(&cache, scope.clone());
        until("the purge is raised", || cache.fence.purges() == 1).await;
        drop(hold);
        assert_eq!(purging.await.unwrap().objects, 1, "it was written first: {scope:?}");
        assert!(!store.has_record(&key(2)), "no crash brings it back");
        assert!(store.is_writable(), "nothing is owed");
        assert!(matches!(publishing.await.unwrap(), Err(PublishError::Purged)));
        assert!(cache.lookup(&key(2)).await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_written_in_time_is_kept_in_memory_and_leaves_no_trace_on_the_disk() {
    let place = tempfile::tempdir().unwrap();
    let cache = cache_at(place.path()).await;
    let store = cache.store().unwrap().clone();
    let hold = store.hold(0, RECORD);
    let publishing = spawn_small(&cache, 2);
    hold.until_reached().await;
    pass_until("it is given up", || publishing.is_finished()).await;
    assert!(publishing.await.unwrap().is_ok());
    assert!(matches!(cache.peek(key(2).as_str()), Some(Hit::Memory(_))));
    assert!(
        cache.begin(&key(3), Some(1), Withhold::End).now_or_never().unwrap().is_none(),
        "it is passed over"
    );
    drop(hold);
    until("the disk answers", || store.is_writable()).await;
    until("it is dropped again", || !store.has_record(&key(2))).await;
    assert!(matches!(cache.peek(key(2).as_str()), Some(Hit::Memory(_))));
}

#[tokio::test(start_paused = true)]
async fn a_hung_disk_is_waited_for_once_and_takes_no_thread_from_anything_else() {
    let place = tempfile::tempdir().unwrap();
    let cache = cache_at(place.path()).await;
    let store = cache.store().unwrap().clone();
    publish(&cache, 1).await;
    let claim = NarClaim { file_hash: None, file_size: Some(1), source: None, contents: None };
    let (narinfo, body) = (meta(&key(7)), Bytes::from_static(b"x"));
    cache.publish_small(cache.ticket(), narinfo, body, Some((key(8), claim))).await.unwrap();
    // Nothing of it is in memory.
    cache.drop_memory();

    let hold = store.hold(0, LOOK);
    let asking = (0..600).map(|number| {
        let cache = cache.clone();
        tokio::spawn(async move {
            match number % 2 {
                0 => cache.claim(&key(8)).await.is_ok(),
                _ => cache.lookup(&key(1)).await.is_some(),
            }
        })
    });
    let asking: Vec<_> = asking.collect();
    hold.until_reached().await;
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
    }
    assert!(hold.reached() <= 64, "{} threads", hold.reached());
    assert_eq!(Tasks::new().blocking("elsewhere", || 7).await.unwrap(), 7);
    tokio::time::advance(Duration::from_secs(4)).await;
    for asked in asking {
        assert!(!asked.await.unwrap(), "a miss, or a claim that is not known");
    }

    // From now on nothing waits: what is asked is answered when it is first looked at.
    assert!(cache.lookup(&key(1)).now_or_never().unwrap().is_none());
    assert_eq!(cache.claim(&key(8)).now_or_never().unwrap(), Err(ClaimUnknown));
    assert!(cache.begin(&key(3), Some(1), Withhold::End).now_or_never().unwrap().is_none());
    let report = &store.reports()[0].health;
    assert!(!report.is_writable && report.detail.contains("does not answer"), "{report:?}");
    let purging = spawn_purge(&cache, Scope::Key(key(1)));
    until("the purge ends, and no time passes", || purging.is_finished()).await;
    for _ in 0..3 {
        tokio::time::advance(LONG).await;
        assert!(cache.lookup(&key(7)).now_or_never().unwrap().is_none(), "it hangs still");
    }
    drop(hold);
    until_well(&store).await;
    assert!(cache.lookup(&key(1)).await.is_none(), "it was purged meanwhile");
    assert!(cache.lookup(&key(7)).await.is_some(), "the disk answers again");
}

#[tokio::test(start_paused = true)]
async fn a_list_of_variants_that_a_disk_did_not_tell_is_not_whole() {
    let place = tempfile::tempdir().unwrap();
    let cache = cache_at(place.path()).await;
    let store = cache.store().unwrap().clone();
    let page = |language| super::order::page(Some(language));
    for language in ["de", "en"] {
        let body = Bytes::from_static(b"page");
        cache.publish_small(cache.ticket(), page(language), body, None).await.unwrap();
    }
    cache.drop_memory();
    let hold = store.hold(0, LOOK);
    let looking = tokio::spawn({
        let cache = cache.clone();
        async move { cache.has_variants(&key(1)).await }
    });
    hold.until_reached().await;
    pass_until("the disk is given up", || looking.is_finished()).await;
    assert!(!looking.await.unwrap());
    drop(hold);
    until_well(&store).await;
    for language in ["de", "en"] {
        assert!(super::order::selects(&cache, language).await.is_some(), "{language}");
    }
}

/// FAULTS.md S4.
#[tokio::test(start_paused = true)]
async fn a_purge_is_synced_before_it_is_answered_and_waits_once_for_a_sync_that_hangs() {
    let place = tempfile::tempdir().unwrap();
    let cache = cache_at(place.path()).await;
    let store = cache.store().unwrap().clone();
    let hold = store.hold(0, "the index is to be synced");
    for number in 0..4 {
        publish(&cache, number).await;
    }
    let purging: Vec<_> = (0..2).map(|n| spawn_purge(&cache, Scope::Key(key(n)))).collect();
    hold.until_reached().await;
    until("both wait for it", || store.syncs_asked() == 2).await;
    assert!(purging.iter().all(|purging| !purging.is_finished()));
    pass_until("the purges end", || purging.iter().all(JoinHandle::is_finished)).await;
    let third = spawn_purge(&cache, Scope::Key(key(2)));
    until("the next waits for it no more", || third.is_finished()).await;
    let late = PurgeOutcome { objects: 1, holds: PurgeHold::UntilRestart };
    assert_eq!(third.await.unwrap(), late);
    assert!(store.is_writable(), "it was carried out, and nothing is owed: {:?}", store.reports());
    drop(hold);
    assert_eq!(spawn_purge(&cache, Scope::Key(key(3))).await.unwrap().objects, 1);
}

/// FAULTS.md S15b.
#[tokio::test(start_paused = true)]
async fn parts_that_are_being_counted_hold_up_nothing_but_parts() {
    let place = tempfile::tempdir().unwrap();
    let cache = cache_at(place.path()).await;
    let store = cache.store().unwrap().clone();
    publish(&cache, 2).await;
    let ticket = cache.ticket();
    let part = cache.begin_part(meta(&key(1)), 3 << 20).await.unwrap();
    let mut run = part.claim(0, 1).unwrap();
    run.append(Bytes::from(vec![7; 1 << 20])).await.unwrap();
    run.finish().await.unwrap();
    let hold = store.hold(0, "the parts are to be counted");
    let counting = store.count_parts_again(0);
    hold.until_reached().await;
    let keeping = tokio::spawn({
        let (cache, part) = (cache.clone(), part.clone());
        async move { cache.keep_part(ticket, &part).await }
    });
    let purging = spawn_purge(&cache, Scope::Key(key(2)));
    until("the purge ends", || purging.is_finished()).await;
    assert_eq!(purging.await.unwrap(), PurgeOutcome::of(1));
    let publishing = spawn_small(&cache, 3);
    until("what comes is published", || publishing.is_finished()).await;
    assert!(publishing.await.unwrap().is_ok());
    assert!(!keeping.is_finished());
    drop(hold);
    until("the part is kept", || keeping.is_finished()).await;
    assert!(keeping.await.unwrap().is_ok() && part.is_live());
    counting.join().unwrap();
    assert!(store.is_writable());
}
