//! The eviction order: loaded beside everything else, counted once, kept over a restart.

use crate::metrics::Metrics;
use crate::object::{Key, Sha256};
use crate::store::disk_store::DiskStore;
use crate::store::eviction::order::EvictionEntry;
use crate::store::folder::Folder;
use crate::store::handle::Store;
use crate::store::index::Index;
use crate::store::tests::{Bench, KIB, MIB, bytes, held, key, meta, put};
use crate::store::tier_share::TierShare;
use crate::store::{DiskUsage, WriteError, format, recover};
use bytes::Bytes;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

fn numbered(number: u64) -> Key {
    key(&number.to_string())
}

/// Small objects that were never used.
fn small(numbers: std::ops::Range<u64>) -> Vec<(crate::object::Meta, Bytes)> {
    numbers.map(|number| (meta(&numbered(number)), bytes(number, 100))).collect()
}

fn snapshot(bench: &Bench) -> PathBuf {
    bench.place.path().join("ORDER")
}

/// Which of the objects are there. Does not use them.
fn there(store: &Store, numbers: std::ops::Range<u64>) -> Vec<u64> {
    let access = store.disk.catalog.index.access();
    let index = access.open().unwrap();
    let is_there = |number: &u64| index.record(numbered(*number).hash()).unwrap().is_some();
    numbers.filter(is_there).collect()
}

/// Everything that the index holds of the order, and what the records say: they must be the same.
fn on_disk(store: &Store) -> Vec<EvictionEntry> {
    let access = store.disk.catalog.index.access();
    let index = access.open().unwrap();
    let order = index.order_page(0, usize::MAX).unwrap();
    let records = index.page(None, usize::MAX).unwrap();
    let heads = records.iter().map(|(key, record)| (format::decode_head(record).unwrap(), *key));
    let mut of_records: Vec<_> = heads.map(|(head, key)| (EvictionEntry::of(&head), key)).collect();
    of_records.sort_by_key(|(entry, _)| entry.sequence);
    assert_eq!(order, of_records);
    order.into_iter().map(|(entry, _)| entry).collect()
}

/// What the account says is what lies on disk.
fn assert_counted(store: &Store) {
    let entries = on_disk(store);
    let bytes: u64 = entries.iter().map(|entry| entry.charge).sum();
    let usage = store.usage();
    assert_eq!((usage.bytes, usage.objects), (bytes, entries.len() as u64));
}

#[tokio::test(flavor = "multi_thread")]
async fn uses_outlive_a_restart_and_are_lost_without_harm() {
    // With the snapshot of the stop, without one, and with one of no use.
    let spoil: [fn(&Bench); 5] = [
        |_| {},
        |bench| std::fs::remove_file(snapshot(bench)).unwrap(),
        |bench| std::fs::write(snapshot(bench), b"NARTHEXO\x09\0\0\0").unwrap(),
        |bench| {
            let whole = std::fs::read(snapshot(bench)).unwrap();
            std::fs::write(snapshot(bench), &whole[..20]).unwrap();
        },
        |bench| {
            let mut whole = std::fs::read(snapshot(bench)).unwrap();
            whole[25] ^= 1;
            std::fs::write(snapshot(bench), whole).unwrap();
        },
    ];
    for (round, spoil) in spoil.into_iter().enumerate() {
        let mut bench = Bench::new(4 * MIB);
        let store = bench.open().await;
        for number in 0..30 {
            put(&store, &numbered(number), &bytes(number, 100 * KIB)).await.unwrap();
        }
        for number in 20..30 {
            assert!(held(&store, &numbered(number)).await.is_some());
        }
        let before = store.usage();
        bench.close(store).await;
        spoil(&bench);
        let store = bench.open().await;
        assert_eq!(store.usage(), before, "round {round}");
        for number in 100..118 {
            put(&store, &numbered(number), &bytes(number, 100 * KIB)).await.unwrap();
        }
        let used = there(&store, 20..30).len();
        let is_kept = round == 0;
        assert_eq!(used == 10, is_kept, "round {round}: {used} of those used are there");
        assert_counted(&store);
        for number in there(&store, 0..30) {
            assert_eq!(held(&store, &numbered(number)).await.unwrap(), bytes(number, 100 * KIB));
        }
        assert_eq!((bench.damaged(), store.health().is_writable), (0, true));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_snapshot_names_what_is_gone_and_nothing_comes_back() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    store.import(small(0..100)).unwrap();
    bench.close(store).await;
    let old = std::fs::read(snapshot(&bench)).unwrap();
    let store = bench.open().await;
    assert_eq!(store.clear(), 100);
    store.import(small(50..60)).unwrap();
    bench.close(store).await;
    std::fs::write(snapshot(&bench), old).unwrap();
    let store = bench.open().await;
    assert_eq!(there(&store, 0..100), (50..60).collect::<Vec<_>>());
    assert_counted(&store);
}

/// Changes of every kind while the order is loading: at the end it is what the disk says.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_changes_while_the_order_is_loading_is_counted_once() {
    const OBJECTS: u64 = 10_000;
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    for first in (0..OBJECTS).step_by(1000) {
        store.import(small(first..first + 1000)).unwrap();
    }
    let full = store.usage().bytes;
    bench.close(store).await;
    for round in 0..3 {
        // As full as it is: whatever comes makes others go.
        bench.size = full;
        let store = bench.try_open().unwrap();
        let changing = (0..4_u64).map(|worker| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut state = worker + 10 * round + 1;
                for _ in 0..40 {
                    state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let number = (state >> 33) % OBJECTS;
                    match state >> 20 & 3 {
                        0 => drop(store.remove(&numbered(number))),
                        1 => drop(store.get(&numbered(number)).await),
                        _ => match put(&store, &numbered(number), &bytes(number, 3000)).await {
                            Ok(_) | Err(WriteError::Busy { .. }) => {}
                            Err(error) => panic!("{error}"),
                        },
                    }
                    let usage = store.usage();
                    assert!(usage.bytes <= full, "{usage:?}");
                }
            })
        });
        for changing in changing.collect::<Vec<_>>() {
            changing.await.unwrap();
        }
        store.loaded().await;
        assert_counted(&store);
        assert_eq!(bench.damaged(), 0);
        bench.close(store).await;
    }
}

/// FAULTS.md S10.
#[tokio::test(start_paused = true)]
async fn a_page_of_the_order_that_cannot_be_read_is_read_again() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    for first in (0..10_000).step_by(1000) {
        store.import(small(first..first + 1000)).unwrap();
    }
    let full = store.usage();
    bench.close(store).await;
    let folder = Folder::open(bench.place.path()).unwrap();
    let index = Index::open(&folder.index_path()).unwrap();
    let (tier, metrics) = (TierShare::alone(bench.damaged.clone()), bench.metrics.clone());
    let inner = DiskStore::assemble(&bench.disk(), tier, folder, index, metrics, &bench.tasks);
    let store = Store { disk: inner.unwrap(), open_parts: Arc::default() };
    store.disk.catalog.faults.fail("the order is to be read", 3);
    let loading = recover::load(Arc::downgrade(&store.disk), bench.tasks.stopping());
    let loading = tokio::spawn(loading);
    let path = bench.place.path().display().to_string();
    let errors = || bench.metrics.store_errors.with_label_values(&[&*path, "index"]).get();
    // In the midst of the pauses between the attempts.
    for (seconds, failed) in [(0.5, 1), (1.5, 2), (3.0, 3)] {
        tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
        assert_eq!(errors(), failed);
        assert_eq!(
            store.usage(),
            DiskUsage { is_loaded: false, ..full },
            "what was not read counts"
        );
        assert_eq!(store.disk.catalog.accounting.changes(), None, "no order is written down");
    }
    store.loaded().await;
    loading.await.unwrap();
    assert_eq!((store.usage(), errors()), (full, 3));
    assert_counted(&store);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_in_the_order_without_a_record_goes_when_its_turn_comes() {
    let mut bench = Bench::new(2 * MIB);
    let store = bench.open().await;
    let stored = put(&store, &key("a"), &bytes(1, 100 * KIB)).await.unwrap();
    {
        let access = store.disk.catalog.index.access();
        let mut change = access.open().unwrap().change();
        let head = format::RecordHead {
            sequence: stored.insertion.sequence + 7,
            length: 500 * KIB as u64,
            sha256: Sha256([0; 32]),
            place: format::BodyPlace::File,
            claims: None,
            variant_of: None,
        };
        change.set_record(key("gone").hash(), &head, b"garbage");
        change.drop_record(key("gone").hash(), &[]);
        change.commit().unwrap();
    }
    drop(stored);
    bench.close(store).await;
    let store = bench.open().await;
    assert_eq!(store.usage().objects, 2, "the order still has it");
    for number in 0..40 {
        put(&store, &numbered(number), &bytes(number, 100 * KIB)).await.unwrap();
    }
    assert_counted(&store);
    assert_eq!((bench.damaged(), store.health().is_writable), (0, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_small_objects_come_in_one_change() {
    let mut bench = Bench::new(MIB);
    let store = bench.open().await;
    put(&store, &numbered(3), &bytes(77, 10)).await.unwrap();
    let twice = small(0..5).into_iter().chain(small(4..6)).collect();
    assert_eq!(store.import(twice).unwrap(), 5, "one was there, one came twice");
    assert_eq!(held(&store, &numbered(3)).await.unwrap(), bytes(77, 10));
    let large = vec![(meta(&key("large")), bytes(1, 64 * KIB))];
    assert!(matches!(store.import(large), Err(WriteError::TooLarge { .. })));
    let never = small(0..2000);
    assert!(matches!(store.import(never), Err(WriteError::TooLarge { .. })));
    for first in (1000..3000).step_by(200) {
        assert_eq!(store.import(small(first..first + 200)).unwrap(), 200);
        let usage = store.usage();
        assert!(usage.bytes + usage.reserved_bytes <= usage.limit_bytes, "{usage:?}");
    }
    assert_counted(&store);
    bench.close(store).await;
    let store = bench.open().await;
    for number in there(&store, 0..3000) {
        let body = if number == 3 { bytes(77, 10) } else { bytes(number, 100) };
        assert_eq!(held(&store, &numbered(number)).await.unwrap(), body);
    }
    assert_counted(&store);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_takes_few_bytes_and_says_so() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    for first in (0..20_000).step_by(1000) {
        store.import(small(first..first + 1000)).unwrap();
    }
    let memory = store.memory();
    let each = memory.order_bytes / 20_000;
    assert!((16..=24).contains(&each), "{memory:?}");
    assert!(memory.unwritten_bytes > 0, "{memory:?}");
    assert_eq!(bench.metrics.ordered_objects.get(), 20_000);
    let payload = bench.metrics.stored_payload_bytes.with_label_values(&["index"]).get();
    assert_eq!(payload, 20_000 * 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_order_is_not_written_down_before_it_is_loaded_nor_for_nothing() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    store.import(small(0..10)).unwrap();
    bench.close(store).await;
    let first = std::fs::metadata(snapshot(&bench)).unwrap().modified().unwrap();
    let store = bench.open().await;
    bench.close(store).await;
    let again = std::fs::metadata(snapshot(&bench)).unwrap().modified().unwrap();
    assert!(again >= first);
    // A store that stops before it knows its order leaves the snapshot alone.
    let before = std::fs::read(snapshot(&bench)).unwrap();
    bench.metrics = Metrics::new().unwrap();
    bench.tasks.stopping().cancel();
    let store = bench.try_open().unwrap();
    bench.close(store).await;
    assert_eq!(std::fs::read(snapshot(&bench)).unwrap(), before);
    assert!(!bench.place.path().join("ORDER.new").exists());
}
