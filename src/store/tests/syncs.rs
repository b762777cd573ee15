//! When a purge is safe from a power cut, and what holds up or ends the syncs.

use super::{Bench, KIB, MIB, bytes, key, put, until};
use crate::object::NarClaim;
use crate::store::format;
use crate::store::recover::Unsynced;
use crate::store::snapshot::Turn;
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_a_sync_under_way_has_taken_is_still_waited_for() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    put(&store, &key("a"), &bytes(1, 70 * KIB)).await.unwrap();
    let hold = store.0.faults.hold("the files are to be synced");
    assert!(store.remove(&key("a")));
    let syncing = tokio::task::spawn_blocking({
        let store = Arc::clone(&store.0);
        move || store.sync_now(Turn::Regular)
    });
    hold.until_reached().await;
    assert!(store.0.sync_soon().await.is_ok());
    assert_eq!(store.0.syncs.asked(), 1, "the sync under way has not ended");
    drop(hold);
    assert!(syncing.await.unwrap());
    assert!(store.0.sync_soon().await.is_ok());
    assert_eq!(store.0.syncs.asked(), 1, "all is safe");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_finds_claims_alone_is_synced_too() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let claim = NarClaim { file_hash: None, file_size: Some(7), source: None };
    {
        let access = store.0.index.access();
        let mut change = access.open().unwrap().change();
        let claim = format::encode_claim(key("gone").hash(), &key("nar"), &claim).unwrap();
        change.set_claim(key("nar").hash(), &claim);
        change.commit().unwrap();
    }
    assert!(store.0.sync_now(Turn::Regular));
    assert!(store.0.sync_soon().await.is_ok());
    assert_eq!(store.0.syncs.asked(), 0);
    assert_eq!((store.clear(), store.claim(&key("nar"))), (0, None));
    assert!(store.0.sync_soon().await.is_ok());
    assert_eq!(store.0.syncs.asked(), 1);
}

/// A process that is killed leaves removals that a power cut undoes: a purge that finds nothing
/// left of them makes them safe.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_after_a_start_syncs_what_was_changed_before() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    assert_eq!(store.clear(), 0);
    assert!(store.0.sync_soon().await.is_ok());
    assert_eq!(store.0.syncs.asked(), 1);
    assert!(store.0.sync_soon().await.is_ok());
    assert_eq!(store.0.syncs.asked(), 1, "all is safe");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_panics_has_failed_and_the_next_one_works() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    put(&store, &key("a"), &bytes(1, 100)).await.unwrap();
    store.0.faults.panic_once("the index is to be synced");
    assert!(store.remove(&key("a")));
    assert!(matches!(store.0.sync_soon().await, Err(Unsynced)));
    // The engine is opened again: it may not get over a panic.
    until("the index works", || store.health().is_writable && !store.0.index.has_failed()).await;
    put(&store, &key("b"), &bytes(2, 100)).await.unwrap();
    assert!(store.0.sync_soon().await.is_ok());
    assert_eq!(store.0.syncs.ended(), (2, false), "it was synced, and not given up");
}
