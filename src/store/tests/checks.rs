//! The scrubber and `fsck`: what is whole is left alone, what is not is found, and dropped if
//! that is wanted.

use crate::object::{Key, KeyHash, NarClaim, Sha256};
use crate::store::body::trailer;
use crate::store::check::report::{CheckProblem, CheckReport, CheckStage, Mode};
use crate::store::handle::Store;
use crate::store::tests::{Bench, KIB, MIB, bytes, held, key, meta, put, put_with, until};
use crate::store::{CheckFault, CheckStart, FsckError, OpenError, format, fsck};
use crate::sync::Mutex;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

fn write_at(path: &Path, offset: u64, byte: u8) {
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&[byte], offset).unwrap();
}

fn claim() -> NarClaim {
    NarClaim { file_hash: Some(Sha256([3; 32])), file_size: Some(1), source: None, contents: None }
}

/// A store with a narinfo and its claim, a small body and three large ones; closed again.
async fn filled(bench: &mut Bench) {
    let store = bench.open().await;
    put_with(&store, &key("n"), &bytes(1, 300), Some((key("nar"), claim()))).await.unwrap();
    put(&store, &key("s"), &bytes(2, 60 * KIB)).await.unwrap();
    for (name, size) in [("a", 64 * KIB), ("b", MIB), ("c", 3 * MIB + 7)] {
        put(&store, &key(name), &bytes(3, size)).await.unwrap();
    }
    bench.close(store).await;
}

fn check(bench: &Bench, mode: Mode) -> CheckReport {
    let report = Mutex::new(CheckReport::default());
    fsck(bench.place.path(), mode, &report).unwrap();
    report.into_inner()
}

fn kinds(report: &CheckReport) -> Vec<(CheckFault, bool)> {
    let mut kinds: Vec<_> = report.problems.iter().map(|p| (p.kind, p.is_repaired)).collect();
    kinds.sort_by_key(|(kind, _)| kind.as_str());
    kinds
}

/// Checks twice without and twice with repairing: what is found, and that it is gone afterwards.
fn repaired(bench: &Bench, expected: &[CheckFault]) -> Vec<CheckProblem> {
    for _ in 0..2 {
        let found = kinds(&check(bench, Mode::Report));
        assert_eq!(found, expected.iter().map(|kind| (*kind, false)).collect::<Vec<_>>());
    }
    let report = check(bench, Mode::Repair);
    assert_eq!(kinds(&report), expected.iter().map(|kind| (*kind, true)).collect::<Vec<_>>());
    assert_eq!(report.stage, CheckStage::Ended);
    assert_eq!(kinds(&check(bench, Mode::Report)), []);
    report.problems
}

fn file_of(bench: &Bench, name: &str) -> PathBuf {
    let hash = key(name).hash().to_string();
    let is_it = |path: &PathBuf| path.to_string_lossy().contains(&hash);
    bench.files().into_iter().find(is_it).unwrap()
}

async fn change(bench: &mut Bench, change: impl FnOnce(&Store)) {
    let store = bench.open().await;
    change(&store);
    bench.close(store).await;
}

/// When the scrubber ended its last pass.
fn last_pass(bench: &Bench) -> i64 {
    let path = bench.place.path().display().to_string();
    bench.metrics.scrub_last_pass.with_label_values(&[&*path]).get()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_whole_is_clean() {
    let mut bench = Bench::new(64 * MIB);
    filled(&mut bench).await;
    let report = check(&bench, Mode::Report);
    assert_eq!(kinds(&report), []);
    assert_eq!((report.objects, report.claims, report.files), (5, 1, 3));
    assert!(report.bytes > 4 * MIB as u64 && report.progress >= 1.0, "{report:?}");
    assert_eq!((report.stage, report.unfinished, report.rebuilt), (CheckStage::Ended, 0, 0));
    let store = bench.open().await;
    assert_eq!(store.usage().objects, 5);
    let error = fsck(bench.place.path(), Mode::Repair, &Mutex::default()).unwrap_err();
    assert!(matches!(error, FsckError::Open(OpenError::Locked { .. })), "{error}");
    assert_eq!(held(&store, &key("b")).await.unwrap(), bytes(3, MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damaged_byte_of_a_file_is_found() {
    let mut bench = Bench::new(64 * MIB);
    let length = 3 * MIB as u64 + 7;
    let tail = trailer::tail_offset(length);
    for (offset, fault) in [
        (0, CheckFault::Body),
        (2 * MIB as u64 + 1, CheckFault::Body),
        (length - 1, CheckFault::Body),
        (length, CheckFault::Trailer),
        (tail - 1, CheckFault::Trailer),
        (tail, CheckFault::Trailer),
        (tail + 60, CheckFault::Trailer),
    ] {
        filled(&mut bench).await;
        write_at(&file_of(&bench, "c"), offset, 0xa5);
        let problems = repaired(&bench, &[fault]);
        assert_eq!(problems[0].what, "/nar/c");
        let store = bench.open().await;
        assert!(store.get(&key("c")).await.is_none(), "{offset}");
        assert_eq!(held(&store, &key("b")).await.unwrap(), bytes(3, MIB));
        assert_eq!(bench.files().len(), 2);
        bench.close(store).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_and_records_that_do_not_go_together_are_found() {
    let mut bench = Bench::new(64 * MIB);
    filled(&mut bench).await;
    std::fs::remove_file(file_of(&bench, "a")).unwrap();
    let b = file_of(&bench, "b");
    File::options().write(true).open(&b).unwrap().set_len(1000).unwrap();
    std::fs::copy(file_of(&bench, "c"), b.with_file_name(format!("{}-77", key("b").hash())))
        .unwrap();
    let problems = repaired(&bench, &[CheckFault::Body, CheckFault::Body, CheckFault::Orphan]);
    assert!(problems.iter().any(|p| p.detail.contains("gone")), "{problems:?}");
    assert_eq!(bench.files().len(), 1);

    std::fs::write(b.with_file_name("notes.txt"), "a person's").unwrap();
    let report = check(&bench, Mode::Repair);
    assert_eq!(kinds(&report), [(CheckFault::Foreign, false)], "left alone");
    assert!(b.with_file_name("notes.txt").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_in_the_index_is_found() {
    let mut bench = Bench::new(64 * MIB);
    filled(&mut bench).await;
    change(&mut bench, |store| {
        let access = store.disk.catalog.index.access();
        let index = access.open().unwrap();
        let record = index.record(key("a").hash()).unwrap().unwrap();
        let mut change = index.change();
        change.rewrite_record(KeyHash([1; 16]), &record);
        change.rewrite_record(key("b").hash(), b"garbage");
        change.set_body(KeyHash([2; 16]), 5, b"stray");
        change.set_claim(KeyHash([3; 16]), b"garbage");
        let nobodys = format::encode_claim(KeyHash([4; 16]), &key("x"), &claim()).unwrap();
        change.set_claim(key("x").hash(), &nobodys);
        change.set_totals(&format::Totals { next_sequence: 1, bytes: 9, objects: 9 });
        change.commit().unwrap();
    })
    .await;
    let found = [
        CheckFault::Claim,
        CheckFault::Claim,
        CheckFault::Orphan,
        CheckFault::Record,
        // The one under another key took its place in the eviction order with it.
        CheckFault::Record,
        CheckFault::Record,
        CheckFault::Totals,
    ];
    let report = check(&bench, Mode::Repair);
    let mut expected: Vec<_> = found.iter().map(|fault| (*fault, true)).collect();
    expected.sort_by_key(|(kind, _)| kind.as_str());
    assert_eq!(kinds(&report), expected);
    assert_eq!(kinds(&check(&bench, Mode::Report)), []);
    let store = bench.try_open().unwrap();
    let usage = store.usage();
    assert_eq!(usage.objects, 4, "right before the order is loaded");
    store.loaded().await;
    assert_eq!(usage.bytes, store.usage().bytes);
    assert_eq!(store.claim(&key("nar")), Some(claim()));
    assert!(store.get(&key("b")).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_kill_cut_short_is_no_problem() {
    let mut bench = Bench::new(64 * MIB);
    filled(&mut bench).await;
    let (hash, sequence) = (KeyHash([7; 16]), 9);
    let mut orphan = None;
    change(&mut bench, |store| {
        let access = store.disk.catalog.index.access();
        let mut change = access.open().unwrap().change();
        change.set_link(hash, sequence);
        change.commit().unwrap();
        orphan = Some(store.disk.catalog.folder.body_path(hash, sequence));
    })
    .await;
    let orphan = orphan.unwrap();
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, "linked, then killed").unwrap();
    let report = check(&bench, Mode::Report);
    assert_eq!((kinds(&report), report.unfinished), (vec![], 1));
    assert!(orphan.exists());
    let report = check(&bench, Mode::Repair);
    assert_eq!((kinds(&report), report.unfinished), (vec![], 1));
    assert!(!orphan.exists());
    assert_eq!(check(&bench, Mode::Report).unfinished, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_or_broken_index_is_made_again_of_the_bodies() {
    let mut bench = Bench::new(64 * MIB);
    let ruin: [fn(&Path); 3] = [
        |index| std::fs::remove_dir_all(index).unwrap(),
        |index| std::fs::write(index.join("version"), "nonsense").unwrap(),
        |index| {
            for entry in std::fs::read_dir(index).unwrap() {
                let path = entry.unwrap().path();
                if path.extension().is_some_and(|extension| extension == "jnl") {
                    // Behind the marker of its first batch.
                    write_at(&path, 30, 0xa5);
                    write_at(&path, 60, 0xa5);
                }
            }
        },
    ];
    for (number, ruin) in (1_usize..).zip(ruin) {
        filled(&mut bench).await;
        write_at(&file_of(&bench, "a"), 5, 0xa5);
        ruin(&bench.place.path().join("index"));
        let refused = bench.try_open().unwrap_err();
        assert!(refused.to_string().contains("narthex fsck --repair"), "{number}: {refused}");
        let report = check(&bench, Mode::Report);
        assert_eq!(kinds(&report), [(CheckFault::Index, false)], "{number}");
        assert_eq!(report.stage, CheckStage::BrokenOff);
        assert_eq!(bench.files().len(), 3);

        let report = check(&bench, Mode::Repair);
        assert_eq!(
            kinds(&report),
            [(CheckFault::Body, true), (CheckFault::Index, true)],
            "{number}"
        );
        assert_eq!((report.rebuilt, report.stage), (3, CheckStage::Ended));
        let asides = std::fs::read_dir(bench.place.path()).unwrap();
        let asides =
            asides.filter(|e| e.as_ref().unwrap().file_name().to_string_lossy().contains("bad"));
        assert_eq!(asides.count(), number - 1, "what was there is never deleted");
        assert_eq!(kinds(&check(&bench, Mode::Report)), []);

        let store = bench.open().await;
        assert_eq!(store.usage().objects, 2);
        for (name, size) in [("b", MIB), ("c", 3 * MIB + 7)] {
            let found = store.get(&key(name)).await.unwrap();
            assert!(found.meta.is_invalidated, "purged or not, that is not known any more");
            assert_eq!(held(&store, &key(name)).await.unwrap(), bytes(3, size));
        }
        assert!(store.get(&key("s")).await.is_none());
        let newer = put(&store, &key("b"), &bytes(9, MIB)).await.unwrap();
        assert_eq!(newer.length, MIB as u64);
        assert_eq!(store.clear(), 2);
        bench.close(store).await;
    }
}

/// A table of the index's that holds more than a mebibyte, once it is written.
async fn table(bench: &Bench) -> PathBuf {
    let index = bench.place.path().join("index");
    let mut found = None;
    until("a table of small bodies", || {
        let mut files = Vec::new();
        super::list(&index, &mut files).unwrap();
        files.retain(|path| path.extension().is_none_or(|extension| extension != "jnl"));
        found = files.into_iter().find(|path| path.metadata().is_ok_and(|m| m.len() > 1 << 20));
        found.is_some()
    })
    .await;
    found.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_opens_and_cannot_be_read_is_made_again() {
    let mut bench = Bench::new(256 * MIB);
    let store = bench.open().await;
    put(&store, &key("large"), &bytes(1, MIB)).await.unwrap();
    for number in 0..200_u64 {
        put(&store, &key(&number.to_string()), &bytes(number, 60 * KIB)).await.unwrap();
    }
    let table = table(&bench).await;
    bench.close(store).await;
    let file = File::options().write(true).open(&table).unwrap();
    file.write_all_at(&[0xa5; 64], table.metadata().unwrap().len() / 2).unwrap();
    let report = check(&bench, Mode::Report);
    assert!(report.problem_count > 0, "{report:?}");
    assert!(report.problems.iter().all(|p| p.kind == CheckFault::Index), "{report:?}");
    let report = check(&bench, Mode::Repair);
    assert_eq!((kinds(&report), report.rebuilt), (vec![(CheckFault::Index, true)], 1));
    assert_eq!(kinds(&check(&bench, Mode::Report)), []);
    let store = bench.open().await;
    assert_eq!(held(&store, &key("large")).await.unwrap(), bytes(1, MIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_files_of_a_key_the_later_insertion_comes_back() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    put(&store, &key("a"), &bytes(1, MIB)).await.unwrap();
    let older = bench.files().first().unwrap().clone();
    let kept = std::fs::read(&older).unwrap();
    put(&store, &key("a"), &bytes(2, MIB)).await.unwrap();
    bench.close(store).await;
    std::fs::write(&older, kept).unwrap();
    std::fs::remove_dir_all(bench.place.path().join("index")).unwrap();
    let report = check(&bench, Mode::Repair);
    assert_eq!(kinds(&report), [(CheckFault::Index, true), (CheckFault::Orphan, true)]);
    assert!(!older.exists());
    assert_eq!(held(&bench.open().await, &key("a")).await.unwrap(), bytes(2, MIB));
}

fn faults(bench: &Bench, by: &str, kind: CheckFault) -> u64 {
    bench.metrics.check_faults.with_label_values(&[by, kind.as_str()]).get()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_store_is_checked_beside_its_work() {
    let mut bench = Bench::new(64 * MIB);
    filled(&mut bench).await;
    let store = bench.open().await;
    assert_eq!(store.checked(), CheckReport::default());
    write_at(&file_of(&bench, "c"), 70_000, 0xa5);
    let work = {
        let store = store.clone();
        tokio::spawn(async move {
            for number in 0..60_u64 {
                let key = key(&format!("w{}", number % 7));
                put(&store, &key, &bytes(number, 70 * KIB)).await.unwrap();
                if number % 3 == 0 {
                    store.remove(&key);
                }
            }
        })
    };
    for (mode, is_repaired) in [(Mode::Report, false), (Mode::Repair, true)] {
        assert_eq!(store.begin_check(mode, Some(1 << 40)), CheckStart::Now);
        until("the end of the check", || store.checked().stage != CheckStage::Running).await;
        let report = store.checked();
        assert_eq!(report.stage, CheckStage::Ended, "{report:?}");
        assert_eq!(kinds(&report), [(CheckFault::Body, is_repaired)], "{report:?}");
    }
    work.await.unwrap();
    assert_eq!(faults(&bench, "fsck", CheckFault::Body), 2);
    assert!(store.get(&key("c")).await.is_none());
    assert_eq!(store.begin_check(Mode::Report, Some(1)), CheckStart::Now);
    assert_eq!(store.begin_check(Mode::Report, None), CheckStart::Already);
    bench.close(store).await;
    assert_eq!(kinds(&check(&bench, Mode::Report)), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scrubber_finds_what_nobody_asks_for_and_names_what_was_in_use() {
    let mut bench = Bench::new(64 * MIB);
    filled(&mut bench).await;
    for name in ["a", "c"] {
        write_at(&file_of(&bench, name), 60_000, 0xa5);
    }
    // A reader keeps the wrong bytes of one in the page cache, as right ones would be.
    let cached = std::fs::read(file_of(&bench, "a")).unwrap();
    assert_eq!(cached.len() as u64, file_of(&bench, "a").metadata().unwrap().len());
    bench.scrub_pass = Duration::from_millis(100);
    let store = bench.open().await;
    until("both are found", || faults(&bench, "scrub", CheckFault::Body) == 2).await;
    assert_eq!(bench.damaged(), 2);
    until("a whole pass", || last_pass(&bench) > 0).await;
    assert!(bench.metrics.checked_bytes.with_label_values(&["scrub"]).get() > 4 << 20);
    assert_eq!(store.usage().objects, 3);
    // What is loaded from the index is on trial or has passed it: the newest is on trial.
    let named: Vec<Key> = std::iter::from_fn(|| bench.damaged_keys.try_recv().ok()).collect();
    assert!(named.iter().all(|key| ["/nar/a", "/nar/c"].contains(&key.path())), "{named:?}");
    let before = last_pass(&bench);
    bench.close(store).await;
    bench.scrub_pass = Duration::from_hours(1000);
    bench.metrics = crate::metrics::Metrics::new().unwrap();
    let store = bench.open().await;
    until("what is remembered", || last_pass(&bench) >= before).await;
    drop(store);
    assert_eq!(meta(&key("a")).key, key("a"));
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_was_used_is_fetched_again_at_once() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    // Both are on trial, behind much that has passed it.
    for name in ["used", "unused"] {
        put(&store, &key(name), &bytes(1, MIB)).await.unwrap();
    }
    assert!(store.get(&key("used")).await.is_some());
    for name in ["used", "unused"] {
        write_at(&file_of(&bench, name), 5, 0xa5);
    }
    assert_eq!(store.begin_check(Mode::Repair, Some(1 << 40)), CheckStart::Now);
    until("the end of the check", || store.checked().stage != CheckStage::Running).await;
    assert_eq!(store.checked().repaired_count, 2);
    assert_eq!(bench.damaged_keys.try_recv().unwrap(), key("used"));
    assert!(bench.damaged_keys.try_recv().is_err());
    bench.close(store).await;
}
