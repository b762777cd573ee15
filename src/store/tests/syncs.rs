//! When a purge is safe from a power cut, and what holds up or ends the syncs.

use crate::object::NarClaim;
use crate::store::eviction::snapshot::SnapshotOccasion;
use crate::store::format;
use crate::store::syncs::{Unsynced, Wake};
use crate::store::tests::kills::copy;
use crate::store::tests::{Bench, KIB, MIB, bytes, held, key, put, until};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// FAULTS.md S4.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_a_sync_under_way_has_taken_is_still_waited_for() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    put(&store, &key("a"), &bytes(1, 70 * KIB)).await.unwrap();
    let hold = store.disk.catalog.faults.hold("the files are to be synced");
    assert!(store.remove(&key("a")));
    let syncing = tokio::task::spawn_blocking({
        let store = Arc::clone(&store.disk);
        move || store.syncs.sync_now(&store.catalog, SnapshotOccasion::Regular)
    });
    hold.until_reached().await;
    assert!(store.disk.syncs.sync_soon(&store.disk.catalog).await.is_ok());
    assert_eq!(store.disk.syncs.asked(), 1, "the sync under way has not ended");
    drop(hold);
    assert!(syncing.await.unwrap());
    assert!(store.disk.syncs.sync_soon(&store.disk.catalog).await.is_ok());
    assert_eq!(store.disk.syncs.asked(), 1, "all is safe");
}

/// FAULTS.md S4.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_that_finds_claims_alone_is_synced_too() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let claim = NarClaim { file_hash: None, file_size: Some(7), source: None, contents: None };
    {
        let access = store.disk.catalog.index.access();
        let mut change = access.open().unwrap().change();
        let claim = format::encode_claim(key("gone").hash(), &key("nar"), &claim).unwrap();
        change.set_claim(key("nar").hash(), &claim);
        change.commit().unwrap();
    }
    assert!(store.disk.syncs.sync_now(&store.disk.catalog, SnapshotOccasion::Regular));
    assert!(store.disk.syncs.sync_soon(&store.disk.catalog).await.is_ok());
    assert_eq!(store.disk.syncs.asked(), 0);
    let before = store.disk.catalog.index.changes();
    assert_eq!((store.clear(), store.claim(&key("nar"))), (0, None));
    assert!(store.disk.catalog.index.changes() > before);
    assert!(store.disk.syncs.sync_soon(&store.disk.catalog).await.is_ok());
    assert!(store.disk.syncs.is_synced(&store.disk.catalog));
}

/// FAULTS.md S4.
/// A process that is killed leaves removals that a power cut undoes: a purge that finds nothing
/// left of them makes them safe.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_after_a_start_syncs_what_was_changed_before() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    assert_eq!(store.clear(), 0);
    assert!(!store.disk.syncs.is_synced(&store.disk.catalog));
    assert!(store.disk.syncs.sync_soon(&store.disk.catalog).await.is_ok());
    assert!(store.disk.syncs.is_synced(&store.disk.catalog));
}

/// FAULTS.md S4.
/// The sync of every few seconds may come when a purge has just asked for one.
#[tokio::test(flavor = "multi_thread")]
async fn a_regular_sync_serves_no_purge_if_it_synced_nothing() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    assert!(store.disk.syncs.synced_for(&store.disk.catalog, Wake::Tick, 0));
    assert!(
        !store.disk.syncs.is_synced(&store.disk.catalog),
        "nothing was changed, and no purge waits"
    );
    assert!(store.disk.syncs.synced_for(&store.disk.catalog, Wake::Tick, 1));
    assert!(store.disk.syncs.is_synced(&store.disk.catalog));
}

/// FAULTS.md S4.
#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_panics_has_failed_and_the_next_one_works() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    // The one that comes every few seconds may come first, and leave nothing to sync.
    let mut tries = 0;
    loop {
        put(&store, &key("a"), &bytes(1, 100)).await.unwrap();
        store.disk.catalog.faults.panic_once("the index is to be synced");
        assert!(store.remove(&key("a")));
        if matches!(store.disk.syncs.sync_soon(&store.disk.catalog).await, Err(Unsynced)) {
            break;
        }
        tries += 1;
        assert!(tries < 10, "no sync fails");
    }
    // The engine is opened again: it may not get over a panic.
    until("the index works", || {
        store.health().is_writable && !store.disk.catalog.index.has_failed()
    })
    .await;
    put(&store, &key("b"), &bytes(2, 100)).await.unwrap();
    assert!(store.disk.syncs.sync_soon(&store.disk.catalog).await.is_ok());
    let asked = store.disk.syncs.asked();
    assert_eq!(store.disk.syncs.ended(), (asked, false), "it was synced, and not given up");
}

fn journals(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder.join("index")).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.filter(|path| path.extension().is_some_and(|suffix| suffix == "jnl")).collect()
}

/// FAULTS.md S12b.
/// What a failed sync was for is not on the disk, and the next sync succeeds without it: here the
/// bytes are taken from the files that were open when it failed.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_failed_sync_of_the_index_was_for_is_written_again() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    store.disk.catalog.faults.is_out.store(true, Ordering::Relaxed);
    store.disk.catalog.faults.fail("the engine is to sync", u32::MAX);
    put(&store, &key("a"), &bytes(1, 100)).await.unwrap();
    let open = |path: &PathBuf| std::fs::File::options().write(true).open(path).unwrap();
    let failed: Vec<_> = journals(bench.place.path()).iter().map(open).collect();
    assert!(matches!(store.disk.syncs.sync_soon(&store.disk.catalog).await, Err(Unsynced)));
    assert!(store.disk.catalog.index.has_failed() && !store.health().is_writable);
    store.disk.catalog.faults.fail("the engine is to sync", 0);
    store.disk.catalog.faults.is_out.store(false, Ordering::Relaxed);
    until("the index is opened again", || store.health().is_writable).await;
    put(&store, &key("b"), &bytes(2, 100)).await.unwrap();
    store.disk.syncs.sync_soon(&store.disk.catalog).await.unwrap();
    for file in failed {
        let length = usize::try_from(file.metadata().unwrap().len()).unwrap();
        file.write_all_at(&vec![0; length], 0).unwrap();
    }
    let image = Bench::new(64 * MIB);
    copy(bench.place.path(), image.place.path());
    let store = image.open().await;
    for (name, seed) in [("a", 1), ("b", 2)] {
        assert_eq!(held(&store, &key(name)).await.unwrap(), bytes(seed, 100), "{name}");
    }
}

/// FAULTS.md S12b.
#[tokio::test(flavor = "multi_thread")]
async fn no_sync_succeeds_before_the_journal_is_written_again() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    store.disk.catalog.faults.is_out.store(true, Ordering::Relaxed);
    store.disk.catalog.faults.fail("the engine is to sync", u32::MAX);
    put(&store, &key("a"), &bytes(1, 100)).await.unwrap();
    assert!(!store.disk.syncs.sync_now(&store.disk.catalog, SnapshotOccasion::Regular));
    // A folder has the name of the copy.
    let blocked: Vec<_> = journals(bench.place.path())
        .into_iter()
        .map(|journal| journal.with_extension("jnl-new"))
        .inspect(|path| std::fs::create_dir(path).unwrap())
        .collect();
    assert!(!blocked.is_empty());
    store.disk.catalog.index.revive().unwrap();
    // Not earlier: a sync of the background would still find the engine that has failed.
    store.disk.catalog.faults.fail("the engine is to sync", 0);
    assert!(store.disk.catalog.index.access().open().is_ok(), "it answers");
    assert!(
        !store.disk.syncs.sync_now(&store.disk.catalog, SnapshotOccasion::Regular),
        "what is in the journal is not safe"
    );
    assert!(store.disk.catalog.index.has_failed(), "it is tried again");
    for path in &blocked {
        std::fs::remove_dir(path).unwrap();
    }
    store.disk.catalog.index.revive().unwrap();
    assert!(store.disk.syncs.sync_now(&store.disk.catalog, SnapshotOccasion::Regular));
    assert_eq!(held(&store, &key("a")).await.unwrap(), bytes(1, 100));
}

/// FAULTS.md S12a.
/// The same for bodies: they are read back from the disk once a sync succeeds again.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_a_failed_sync_has_not_written_is_dropped() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    put(&store, &key("before"), &bytes(1, 70 * KIB)).await.unwrap();
    let before = bench.files();
    // The second one also tells that what was written within the first is safe.
    for name in ["small", "other"] {
        put(&store, &key(name), &bytes(2, 100)).await.unwrap();
        assert!(store.disk.syncs.sync_now(&store.disk.catalog, SnapshotOccasion::Regular));
    }
    store.disk.catalog.faults.is_out.store(true, Ordering::Relaxed);
    store.disk.catalog.faults.fail("the file system is to sync", u32::MAX);
    put(&store, &key("a"), &bytes(3, 70 * KIB)).await.unwrap();
    let of_a: Vec<_> = bench.files().into_iter().filter(|path| !before.contains(path)).collect();
    put(&store, &key("b"), &bytes(4, 70 * KIB)).await.unwrap();
    assert!(!store.disk.syncs.sync_now(&store.disk.catalog, SnapshotOccasion::Regular));
    for path in before.iter().chain(&of_a) {
        let file = std::fs::File::options().write(true).open(path).unwrap();
        file.write_all_at(b"stale", 5000).unwrap();
    }
    store.disk.catalog.faults.fail("the file system is to sync", 0);
    assert!(store.disk.syncs.sync_now(&store.disk.catalog, SnapshotOccasion::Regular));
    assert_eq!(bench.damaged(), 1, "what was safe before is not read");
    assert!(store.get(&key("a")).await.is_none());
    assert_eq!(held(&store, &key("b")).await.unwrap(), bytes(4, 70 * KIB));
    assert_eq!(held(&store, &key("small")).await.unwrap(), bytes(2, 100));
}

/// It may be told what came of a sync that was due anyway.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_is_not_told_that_the_files_were_not_synced() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    store.disk.catalog.faults.is_out.store(true, Ordering::Relaxed);
    store.disk.catalog.faults.fail("the file system is to sync", u32::MAX);
    put(&store, &key("a"), &bytes(1, 70 * KIB)).await.unwrap();
    for wake in [Wake::Tick, Wake::Stop] {
        assert!(!store.disk.syncs.synced_for(&store.disk.catalog, wake, 0), "{wake:?}");
        assert!(store.disk.syncs.synced_for(&store.disk.catalog, wake, u64::MAX), "{wake:?}");
    }
    store.disk.catalog.faults.fail("the engine is to sync", u32::MAX);
    assert!(!store.disk.syncs.synced_for(&store.disk.catalog, Wake::Tick, u64::MAX));
}
