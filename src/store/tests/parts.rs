//! Objects that are here in part: what survives, what does not, and what becomes of them.

use crate::object::{Key, Proof, Sha256};
use crate::store::check::report::{CheckReport, Mode};
use crate::store::handle::Store;
use crate::store::part::{self, At, CHUNK_BYTES, COUNTED_AT_ONCE, Part, Run};
use crate::store::tests::{Bench, MIB, bytes, digest, held, key, meta, put, read};
use crate::store::{CheckFault, KeepOutcome, WriteError, format, fsck};
use crate::sync::Mutex;
use bytes::Bytes;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(super) const LENGTH: usize = 6 * MIB + 777;

pub(super) fn body() -> Bytes {
    bytes(42, LENGTH)
}

async fn begin(store: &Store, key: &Key) -> Part {
    store.begin_part(meta(key), LENGTH as u64).await.unwrap()
}

/// A part of `a` of which one chunk is kept.
async fn begin_with(store: &Store, chunk: u64) -> Part {
    let part = begin(store, &key("a")).await;
    assert_eq!(keep(&part, at(chunk), at(chunk + 1)).await, KeepOutcome::Yes);
    part
}

/// Writes all of a run's bytes.
async fn bring(mut run: Run, body: &Bytes) {
    let end = usize::try_from(run.end()).unwrap();
    while run.received() < run.end() {
        let at = usize::try_from(run.received()).unwrap();
        run.append(body.slice(at..end.min(at + 50_000))).await.unwrap();
    }
    run.finish().await.unwrap();
}

/// Brings the chunks that hold a stretch, and keeps them.
pub(super) async fn keep(part: &Part, from: u64, until: u64) -> KeepOutcome {
    bring(part.claim(from, until).unwrap(), &body()).await;
    note(part)
}

fn note(part: &Part) -> KeepOutcome {
    part.note(&part.sync().unwrap().unwrap(), &|| true).unwrap()
}

pub(super) fn at(chunk: u64) -> u64 {
    chunk * CHUNK_BYTES
}

fn at_byte(chunk: u64) -> usize {
    usize::try_from(at(chunk)).unwrap()
}

/// The chunks that are here, each compared with the body.
pub(super) async fn chunks(part: &Part) -> Vec<u64> {
    let mut here = Vec::new();
    for number in 0..7 {
        let span = at(number)..at(number + 1).min(LENGTH as u64);
        if !matches!(part.at(span.start), At::Here) {
            continue;
        }
        let mut offset = span.start;
        while offset < span.end {
            let Some(piece) = part.read(offset, 300_000).await.unwrap() else { break };
            let from = usize::try_from(offset).unwrap();
            assert!(piece == body().slice(from..from + piece.len()), "other bytes");
            offset += piece.len() as u64;
        }
        if offset == span.end {
            here.push(number);
        }
    }
    here
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_kept_of_a_part_is_found_again() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let part = begin(&store, &key("a")).await;
    assert_eq!((chunks(&part).await, bench.files().len()), (vec![], 0));
    assert_eq!(keep(&part, at(1) + 5, at(2)).await, KeepOutcome::Yes);
    assert_eq!(keep(&part, at(6), LENGTH as u64).await, KeepOutcome::Yes);
    bring(part.claim(at(3), at(4)).unwrap(), &body()).await;
    assert_eq!(chunks(&part).await, [1, 3, 6]);
    assert!(store.get(&key("a")).await.is_none(), "a part is no object");
    let usage = store.usage();
    assert_eq!((usage.objects, usage.bytes), (1, format::charge(CHUNK_BYTES + 777)));
    assert_eq!(bench.metrics.part_objects.get(), 1);
    assert_eq!(u64::try_from(bench.metrics.part_bytes.get()).unwrap(), usage.bytes);
    assert!(usage.reserved_bytes >= CHUNK_BYTES, "a chunk that is not kept yet");
    drop(part);
    let usage = store.usage();
    assert_eq!(usage.reserved_bytes, 0);
    bench.close(store).await;

    let store = bench.open().await;
    assert_eq!(store.usage(), usage);
    assert_eq!(u64::try_from(bench.metrics.part_bytes.get()).unwrap(), usage.bytes);
    let part = store.part(&key("a")).await.unwrap();
    assert_eq!(part.length(), LENGTH as u64);
    assert_eq!(format!("{:?}", part.meta()), format!("{:?}", meta(&key("a"))));
    assert_eq!(chunks(&part).await, [1, 6], "the third was never kept");
    assert!(store.part(&key("b")).await.is_none());
    assert_eq!(bench.damaged(), 0);
}

/// FAULTS.md S11.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_is_open_is_found_and_not_opened_again() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let part = begin(&store, &key("a")).await;
    assert_eq!(keep(&part, at(1), at(2)).await, KeepOutcome::Yes);
    let other = store.part(&key("a")).await.unwrap();
    let run = part.claim(at(2), at(3)).unwrap();
    assert!(other.claim(at(2), at(3)).is_none(), "a chunk has one writer");
    assert!(matches!(other.at(at(2)), At::Arriving(_)));
    bring(run, &body()).await;
    assert_eq!(chunks(&other).await, [1, 2]);
    drop(part);
    assert_eq!(note(&other), KeepOutcome::Yes);
    // Nothing more of it is kept, and it has a user: what comes next has a file of its own.
    other.let_go();
    assert!(store.part(&key("a")).await.is_none());
    let next = begin(&store, &key("a")).await;
    assert_eq!(keep(&next, at(4), at(5)).await, KeepOutcome::Yes);
    assert_eq!(chunks(&store.part(&key("a")).await.unwrap()).await, [4]);
    drop((other, next));
    assert_eq!(chunks(&store.part(&key("a")).await.unwrap()).await, [4]);
    assert_eq!((store.usage().objects, bench.files().len(), bench.damaged()), (1, 1, 0));
}

/// FAULTS.md S11.
#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_changes_while_it_is_opened_is_opened_as_it_is_then() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let finding = || {
        let opening = store.disk.catalog.faults.hold("a part is to be opened");
        let (inner, open) = (Arc::clone(&store.disk), Arc::clone(&store.open_parts));
        let found = tokio::task::spawn_blocking(move || part::find_part(&inner, &open, &key("a")));
        (opening, found)
    };
    drop(begin_with(&store, 0).await);
    let (opening, found) = finding();
    opening.until_reached().await;
    // Others are not held.
    drop(store.disk.catalog.faults.hold("a part is to be opened"));
    let other = store.part(&key("a")).await.unwrap();
    assert_eq!(keep(&other, at(1), at(2)).await, KeepOutcome::Yes);
    drop(other);
    drop(opening);
    let part = found.await.unwrap().unwrap();
    assert_eq!(chunks(&part).await, [0, 1]);
    assert_eq!(keep(&part, at(2), at(3)).await, KeepOutcome::Yes);
    assert_eq!(store.usage().bytes, format::charge(3 * CHUNK_BYTES));
    drop(part);
    let (opening, found) = finding();
    opening.until_reached().await;
    assert!(store.remove_part(&key("a")));
    drop(opening);
    assert!(found.await.unwrap().is_none());
    assert_eq!((store.usage().objects, bench.damaged()), (0, 0));
}

/// FAULTS.md S11.
#[tokio::test(flavor = "multi_thread")]
async fn a_flight_that_may_keep_nothing_leaves_its_part_to_others() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let part = begin_with(&store, 0).await;
    let other = store.part(&key("a")).await.unwrap();
    bring(part.claim(at(1), at(2)).unwrap(), &body()).await;
    let synced = part.sync().unwrap().unwrap();
    assert_eq!(part.note(&synced, &|| false).unwrap(), KeepOutcome::Loose);
    assert!(other.is_live());
    assert_eq!(note(&other), KeepOutcome::Yes);
    drop((part, other));
    assert_eq!(chunks(&store.part(&key("a")).await.unwrap()).await, [0, 1]);
    // One that was never kept is not kept later either.
    let new = begin(&store, &key("b")).await;
    bring(new.claim(0, at(1)).unwrap(), &body()).await;
    let synced = new.sync().unwrap().unwrap();
    assert_eq!(new.note(&synced, &|| false).unwrap(), KeepOutcome::Loose);
    assert!(!new.is_live());
}

/// FAULTS.md S15c.
#[tokio::test(flavor = "multi_thread")]
async fn no_part_is_begun_that_the_order_cannot_count() {
    let bench = Bench::new(1 << 40);
    let store = bench.open().await;
    assert!(store.begin_part(meta(&key("a")), 100 << 30).await.is_ok());
    let refused = store.begin_part(meta(&key("a")), 128 << 30).await;
    assert!(matches!(refused, Err(WriteError::TooLarge { .. })), "{refused:?}");
}

/// FAULTS.md S12a.
/// A sync that is tried again after it failed succeeds, without what the first one was for.
#[tokio::test(flavor = "multi_thread")]
async fn a_sync_that_fails_loses_what_waited_for_it() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let part = begin(&store, &key("a")).await;
    keep(&part, 0, at(1)).await;
    // Two wait for the sync; of the third a part was written.
    let mut arriving = part.claim(at(3), at(5)).unwrap();
    bring(part.claim(at(1), at(3)).unwrap(), &body()).await;
    let third = |from, to| body().slice(at_byte(3) + from..at_byte(3) + to);
    arriving.append(third(0, 300_000)).await.unwrap();
    arriving.finish().await.unwrap();
    store.disk.catalog.faults.fail("a part is to be synced", 1);
    let error = part.sync().unwrap_err();
    assert!(matches!(&error, WriteError::Io { operation: "sync", .. }), "{error}");
    assert_eq!(chunks(&part).await, [0], "what a sync made safe before stays");
    assert!(part.is_live());
    assert!(part.sync().unwrap().is_none(), "nothing is left that a sync could be for");
    // A chunk that was begun before the sync failed is not taken for here, the next one is.
    arriving.append(third(300_000, 2 * MIB)).await.unwrap();
    arriving.finish().await.unwrap();
    drop(arriving);
    assert_eq!(chunks(&part).await, [0, 4]);
    assert_eq!(note(&part), KeepOutcome::Yes);
    assert_eq!(store.usage().reserved_bytes, 0, "the space of what was lost is given back");
    // Fetched and written again, it is kept.
    assert_eq!(keep(&part, at(1), at(4)).await, KeepOutcome::Yes);
    assert_eq!(chunks(&part).await, [0, 1, 2, 3, 4]);
    drop(part);
    let part = store.part(&key("a")).await.unwrap();
    assert_eq!(chunks(&part).await, [0, 1, 2, 3, 4]);
    assert_eq!(bench.damaged(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_which_all_is_here_becomes_a_whole() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let part = begin(&store, &key("a")).await;
    keep(&part, 0, at(3)).await;
    let stop = CancellationToken::new();
    assert_eq!(part.digest(&stop, |_| ()), None);
    let whole = crate::object::Meta { proof: Proof::Length, ..meta(&key("a")) };
    assert!(
        part.promote(whole.clone(), Sha256([0; 32]), &|| true).unwrap().is_none(),
        "not all is here"
    );
    bring(part.claim(at(3), u64::MAX).unwrap(), &body()).await;
    assert!(
        part.promote(whole.clone(), digest(&body()), &|| true).unwrap().is_none(),
        "not all is noted"
    );
    note(&part);
    let sha256 = part.digest(&stop, |_| ()).unwrap();
    assert_eq!(sha256, digest(&body()));
    let reader = part.clone();
    let stored = part.promote(whole.clone(), sha256, &|| true).unwrap().unwrap();
    assert_eq!(read(&stored).await, body());
    assert_eq!(held(&store, &key("a")).await.unwrap(), body());
    assert!(store.part(&key("a")).await.is_none() && !part.is_live());
    assert_eq!(chunks(&reader).await, [0, 1, 2, 3, 4, 5, 6], "a reader that has it open reads on");
    let usage = store.usage();
    assert_eq!((usage.objects, usage.bytes), (1, format::charge(LENGTH as u64)));
    assert_eq!((bench.metrics.part_objects.get(), bench.metrics.part_bytes.get()), (0, 0));
    drop((part, reader, stored));
    bench.close(store).await;
    let store = bench.open().await;
    assert_eq!(held(&store, &key("a")).await.unwrap(), body());
    assert_eq!((store.usage(), bench.files().len(), bench.damaged()), (usage, 1, 0));
    assert!(store.remove(&key("a")));
    assert_eq!(bench.files().len(), 0);
}

/// A part of `a` with all its chunks, noted.
async fn begin_with_all(store: &Store) -> Part {
    let part = begin(store, &key("a")).await;
    assert_eq!(keep(&part, 0, LENGTH as u64).await, KeepOutcome::Yes);
    part
}

/// Writes other bytes into the only file of a store, as a disk that fails does.
fn damage(bench: &Bench, offset: u64) {
    let file = std::fs::File::options().write(true).open(bench.files().remove(0)).unwrap();
    file.write_all_at(b"wrong", offset).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_of_a_part_that_became_a_whole_is_written_no_more() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let part = begin_with_all(&store).await;
    part.promote(meta(&key("a")), digest(&body()), &|| true).unwrap().unwrap();
    damage(&bench, at(2) + 9);
    part.doubt();
    let piece = part.read(at(2), 100).await;
    assert!(piece.is_err(), "its reader goes to the origin: {piece:?}");
    assert!(part.claim(at(2), at(3)).is_none(), "nothing of it is fetched into the file");
    assert!(store.get(&key("a")).await.is_none(), "the whole was dropped");
    assert_eq!((bench.files().len(), bench.damaged(), store.usage().objects), (0, 1, 0));
    assert!(part.read(at(1), 100).await.unwrap().is_some(), "its other chunks are read on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_is_found_damaged_while_a_whole_is_made_stays_and_the_whole_goes() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let part = begin_with_all(&store).await;
    let making = store.disk.catalog.faults.hold("a part is to be made whole");
    let own = part.clone();
    let promoting = tokio::task::spawn_blocking(move || {
        own.promote(meta(&key("a")), digest(&body()), &|| true).unwrap().is_some()
    });
    making.until_reached().await;
    damage(&bench, at(2) + 9);
    part.doubt();
    let comparing = store.disk.catalog.faults.hold("a part is to be read");
    let own = part.clone();
    let reading = tokio::spawn(async move { own.read(at(2), 100).await });
    comparing.until_reached().await;
    drop(comparing);
    assert!(part.claim(at(2), at(3)).is_none());
    drop(making);
    assert!(promoting.await.unwrap());
    assert!(reading.await.unwrap().is_err());
    assert!(store.get(&key("a")).await.is_none());
    assert_eq!((bench.files().len(), bench.damaged()), (0, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_did_not_become_a_whole_is_repaired_and_tried_again() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let part = begin_with_all(&store).await;
    let promote = || part.promote(meta(&key("a")), digest(&body()), &|| true);
    store.disk.catalog.faults.fail("the trailer of a part is to be written", 1);
    let error = promote().unwrap_err();
    assert!(matches!(&error, WriteError::Io { operation: "write", .. }), "{error}");
    damage(&bench, at(2) + 9);
    part.doubt();
    assert_eq!(part.read(at(2), 100).await.unwrap(), None);
    assert!(promote().unwrap().is_none(), "a chunk is missing, which is no error of the disk");
    assert_eq!(keep(&part, at(2), at(3)).await, KeepOutcome::Yes);
    assert!(promote().unwrap().is_some());
    assert_eq!(held(&store, &key("a")).await.unwrap(), body());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_began_before_its_chunk_was_fetched_anew_gives_nothing_of_it() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    for is_brought in [false, true] {
        let part = begin_with(&store, 0).await;
        let near_end = at(1) - 64 * 1024;
        damage(&bench, near_end + 5);
        part.doubt();
        let waiting = store.disk.catalog.faults.hold("a part is to be read");
        let own = part.clone();
        let late = tokio::spawn(async move { own.read(near_end, 100).await.unwrap() });
        waiting.until_reached().await;
        // Others are not held.
        drop(store.disk.catalog.faults.hold("a part is to be read"));
        let before = bench.damaged();
        assert_eq!(part.read(0, 100).await.unwrap(), None);
        assert_eq!(bench.damaged(), before + 1);
        let mut run = part.claim(0, at(1)).unwrap();
        if is_brought {
            bring(run, &body()).await;
            damage(&bench, near_end + 5);
            part.doubt();
            drop(waiting);
            assert_eq!(late.await.unwrap(), None);
            assert!(matches!(part.at(0), At::Here), "what is new is not cleared for what was old");
            assert_eq!(bench.damaged(), before + 1);
        } else {
            run.append(body().slice(..300_000)).await.unwrap();
            drop(waiting);
            assert_eq!(late.await.unwrap(), None, "the end of the chunk is as damaged as before");
        }
        part.discard();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_right_to_complete_a_part_is_given_back_with_its_holder() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let part = begin(&store, &key("a")).await;
    let completing = part.begin_completion().unwrap();
    assert!(part.begin_completion().is_none());
    let panicking = tokio::spawn(async move {
        let _completing = completing;
        assert!(tokio::task::try_id().is_none(), "on purpose");
    });
    assert!(panicking.await.is_err());
    assert!(part.begin_completion().is_some());
}

/// FAULTS.md S15b.
#[tokio::test(flavor = "multi_thread")]
async fn parts_change_while_others_are_counted() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let mut keys: Vec<Key> = (0..COUNTED_AT_ONCE + 5).map(|n| key(&n.to_string())).collect();
    keys.sort_unstable_by_key(Key::hash);
    let add = async |key: &Key, from| {
        let part = match store.part(key).await {
            Some(part) => part,
            None => store.begin_part(meta(key), LENGTH as u64).await.unwrap(),
        };
        assert_eq!(keep(&part, at(from), at(from + 1)).await, KeepOutcome::Yes);
    };
    let (new_early, new_late) = (keys.remove(0), keys.pop().unwrap());
    for key in &keys {
        add(key, 6).await;
    }
    let hold = store.disk.catalog.faults.hold("some parts are counted");
    store.disk.catalog.counted_parts.forget();
    let inner = Arc::clone(&store.disk);
    let counting = tokio::task::spawn_blocking(move || {
        part::count_parts(&inner.catalog, &inner.lanes.leaving).unwrap();
    });
    hold.until_reached().await;
    // Some are counted, and some are not.
    assert_eq!(bench.metrics.part_objects.get(), i64::try_from(COUNTED_AT_ONCE).unwrap());
    for key in [&new_early, &keys[1], &new_late, &keys[keys.len() - 1]] {
        add(key, 0).await;
    }
    for gone in [2, keys.len() - 2] {
        assert!(store.remove_part(&keys[gone]));
    }
    drop(hold);
    counting.await.unwrap();
    let usage = store.usage();
    let shown = (bench.metrics.part_objects.get(), bench.metrics.part_bytes.get());
    let (objects, bytes) = (usage.objects.try_into().unwrap(), usage.bytes.try_into().unwrap());
    assert_eq!(shown, (objects, bytes));
    assert_eq!(usage.objects, keys.len() as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_left_counts_no_further_parts() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    for number in 0..=COUNTED_AT_ONCE {
        let key = key(&number.to_string());
        let part = store.begin_part(meta(&key), LENGTH as u64).await.unwrap();
        assert_eq!(keep(&part, at(6), at(7)).await, KeepOutcome::Yes);
    }
    store.disk.catalog.counted_parts.forget();
    let hold = store.disk.catalog.faults.hold("some parts are counted");
    let inner = Arc::clone(&store.disk);
    let counting = tokio::task::spawn_blocking(move || {
        part::count_parts(&inner.catalog, &inner.lanes.leaving).unwrap();
    });
    hold.until_reached().await;
    store.disk.lanes.leaving.cancel();
    drop(hold);
    counting.await.unwrap();
    assert_eq!(bench.metrics.part_objects.get(), i64::try_from(COUNTED_AT_ONCE).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_way_out_takes_all_of_a_part() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let key = key("a");
    let ways: [fn(&Store, &Key, &Part); 5] = [
        |store, key, _| assert!(store.remove(key)),
        |store, key, _| assert!(store.remove_part(key)),
        |store, _, _| assert_eq!(store.remove_matching("main", "/nar/"), 1),
        |store, _, _| assert_eq!(store.clear(), 1),
        |_, _, part| part.discard(),
    ];
    for way in ways {
        let part = begin(&store, &key).await;
        keep(&part, 0, at(2)).await;
        way(&store, &key, &part);
        assert!(store.part(&key).await.is_none());
        assert_eq!((store.usage().bytes, store.usage().objects, bench.files().len()), (0, 0, 0));
        assert_eq!((bench.metrics.part_objects.get(), bench.metrics.part_bytes.get()), (0, 0));
        assert_eq!(chunks(&part).await, [0, 1], "a reader that has it open reads on");
        bring(part.claim(at(4), at(5)).unwrap(), &body()).await;
        let noted = part.sync().unwrap().map(|synced| part.note(&synced, &|| true).unwrap());
        assert_ne!(noted, Some(KeepOutcome::Yes), "nothing of it comes back");
        assert!(!part.is_live());
        assert_eq!(chunks(&part).await, [0, 1, 4]);
        assert!(store.part(&key).await.is_none());
        let access = store.disk.catalog.index.access();
        let index = access.open().unwrap();
        assert_eq!(index.insertion_of_chunks(key.hash()).unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_and_a_part_of_one_key_never_stand_beside_each_other() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let key = key("a");
    let (old, newer) = (begin(&store, &key).await, begin(&store, &key).await);
    keep(&old, 0, at(1)).await;
    keep(&newer, at(1), at(2)).await;
    assert_eq!(store.usage().objects, 1, "the newer part took the place of the old one");
    bring(old.claim(at(2), at(3)).unwrap(), &body()).await;
    assert_eq!(note(&old), KeepOutcome::Loose);
    assert_eq!((bench.files().len(), bench.metrics.part_objects.get()), (1, 1));
    put(&store, &key, &body()).await.unwrap();
    assert!(store.part(&key).await.is_none());
    assert_eq!((bench.files().len(), store.usage().objects), (1, 1));
    assert_eq!(store.usage().bytes, format::charge(LENGTH as u64));
    bring(newer.claim(at(2), at(3)).unwrap(), &body()).await;
    assert_eq!(note(&newer), KeepOutcome::Loose);
    let late = begin(&store, &key).await;
    bring(late.claim(0, at(1)).unwrap(), &body()).await;
    assert_eq!(note(&late), KeepOutcome::Loose, "the whole stays");
    assert_eq!(held(&store, &key).await.unwrap(), body());
    assert_eq!((bench.metrics.part_objects.get(), bench.metrics.part_bytes.get()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_head_never_takes_the_place_of_a_newer_one() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let part = begin(&store, &key("a")).await;
    keep(&part, 0, at(1)).await;
    let at_second = |seconds| {
        let response_time = meta(&key("a")).response_time.plus(Duration::from_secs(seconds));
        crate::object::Meta { response_time, ..meta(&key("a")) }
    };
    assert_eq!(part.touch_meta(at_second(20), &|| true), KeepOutcome::Yes);
    assert_eq!(part.touch_meta(at_second(10), &|| true), KeepOutcome::Yes);
    assert_eq!(part.meta().response_time, at_second(20).response_time);
    drop(part);
    let part = store.part(&key("a")).await.unwrap();
    assert_eq!(part.meta().response_time, at_second(20).response_time);
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_before_a_byte_of_it_is_read() {
    for damage in ["flip", "truncate", "gone", "record"] {
        let mut bench = Bench::new(64 * MIB);
        let store = bench.open().await;
        let part = begin(&store, &key("a")).await;
        keep(&part, 0, at(4)).await;
        drop(part);
        let path = bench.files().remove(0);
        if damage == "record" {
            let access = store.disk.catalog.index.access();
            let mut change = access.open().unwrap().change();
            change.set_part(key("a").hash(), b"\x01garbage");
            change.commit().unwrap();
        }
        bench.close(store).await;
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        match damage {
            "flip" => file.write_all_at(b"wrong", at(2) + 9).unwrap(),
            "truncate" => file.set_len(at(3) - 1).unwrap(),
            "gone" => std::fs::remove_file(&path).unwrap(),
            _ => {}
        }
        let store = bench.open().await;
        let Some(part) = store.part(&key("a")).await else {
            assert!(["gone", "record"].contains(&damage), "{damage}");
            assert_eq!((bench.damaged(), store.usage().objects, store.usage().bytes), (1, 0, 0));
            assert_eq!((bench.metrics.part_bytes.get(), bench.files().len()), (0, 0));
            continue;
        };
        let (left, lost) = if damage == "flip" { (vec![0, 1, 3], 1) } else { (vec![0, 1], 2) };
        assert_eq!(chunks(&part).await, left, "{damage}");
        assert_eq!(bench.damaged(), lost);
        assert_eq!(store.usage().bytes, format::charge(CHUNK_BYTES * left.len() as u64));
        keep(&part, at(2), at(3)).await;
        drop(part);
        bench.close(store).await;
        let store = bench.open().await;
        let part = store.part(&key("a")).await.unwrap();
        assert!(chunks(&part).await.contains(&2), "{damage}: fetched again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_never_pass_the_limit_and_are_evicted() {
    let bench = Bench::new(12 * MIB);
    let store = bench.open().await;
    for number in 0..20 {
        let part = begin(&store, &key(&number.to_string())).await;
        keep(&part, at(1), at(4)).await;
        let usage = store.usage();
        assert!(usage.bytes + usage.reserved_bytes <= usage.limit_bytes, "{usage:?}");
    }
    let objects = store.usage().objects;
    assert!((2..=3).contains(&objects), "{objects}");
    assert_eq!(bench.files().len() as u64, objects);
    let too_large = store.begin_part(meta(&key("b")), 13 * MIB as u64).await;
    assert!(too_large.is_err());
    let hostile = store.begin_part(meta(&key("b")), u64::MAX).await;
    assert!(hostile.is_err());
}

/// The process dies at any moment: what is found then is right, and what was kept before is found.
#[test]
fn a_sudden_end_at_any_moment_never_leaves_a_wrong_byte() {
    let mut bench = Bench::new(64 * MIB);
    let mut sure: Vec<u64> = Vec::new();
    for round in 0..24_u64 {
        let kept = Arc::new(Mutex::new(sure.clone()));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let told = Arc::clone(&kept);
        let mut damage = 0;
        runtime.block_on(async {
            let store = reopened(&bench).await;
            store.loaded().await;
            let part = match store.part(&key("a")).await {
                Some(part) => part,
                None => begin(&store, &key("a")).await,
            };
            let here = chunks(&part).await;
            assert!(sure.iter().all(|chunk| here.contains(chunk)), "{sure:?} of {here:?}");
            damage += bench.damaged();
            let work = tokio::spawn(async move {
                for number in (0..7).map(|step| (step * 3 + round) % 7) {
                    if let Some(run) = part.claim(at(number), at(number) + 1) {
                        bring(run, &body()).await;
                        if note(&part) == KeepOutcome::Yes {
                            told.lock().push(number);
                        }
                    }
                }
                if let Some(sha256) = part.digest(&CancellationToken::new(), |_| ()) {
                    assert_eq!(sha256, digest(&body()));
                    part.discard();
                    told.lock().clear();
                }
            });
            for _ in 0..round * round * 3 {
                tokio::task::yield_now().await;
            }
            work.abort();
        });
        // Nothing is drained or closed: what runs on a blocking thread ends, no more.
        runtime.shutdown_timeout(Duration::from_secs(30));
        bench.tasks = crate::tasks::Tasks::new();
        sure = kept.lock().clone();
        assert_eq!(damage, 0);
    }
}

async fn reopened(bench: &Bench) -> Store {
    loop {
        match bench.try_open() {
            Ok(store) => return store,
            Err(crate::store::OpenError::Locked { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fsck_knows_parts_and_finds_what_is_wrong_with_them() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    for name in ["a", "b"] {
        let part = begin(&store, &key(name)).await;
        assert_eq!(keep(&part, at(1), at(3)).await, KeepOutcome::Yes);
    }
    put(&store, &key("whole"), &bytes(1, 2 * MIB)).await.unwrap();
    bench.close(store).await;
    let check = |mode| {
        let report = Mutex::new(CheckReport::default());
        fsck(bench.place.path(), mode, &report).unwrap();
        report.into_inner()
    };
    assert_eq!(check(Mode::Repair).problems, []);
    assert_eq!(bench.files().len(), 3, "nothing of them was taken for an orphan");

    let hash = key("b").hash().to_string();
    let file = bench.files().into_iter().find(|file| file.to_string_lossy().contains(&hash));
    let file = std::fs::File::options().write(true).open(file.unwrap()).unwrap();
    file.write_all_at(b"rot", at(2) + 5).unwrap();
    let kinds = |report: &CheckReport| {
        report.problems.iter().map(|problem| (problem.kind, problem.is_repaired)).collect()
    };
    let found: Vec<_> = kinds(&check(Mode::Report));
    assert_eq!(found, [(CheckFault::Body, false)]);
    let found: Vec<_> = kinds(&check(Mode::Repair));
    assert_eq!(found, [(CheckFault::Body, true)]);
    assert_eq!(check(Mode::Report).problems, []);
    let store = bench.open().await;
    assert!(store.part(&key("b")).await.is_none());
    assert_eq!(chunks(&store.part(&key("a")).await.unwrap()).await, [1, 2]);
    assert_eq!(store.usage().objects, 2);
}
