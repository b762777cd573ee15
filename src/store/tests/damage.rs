//! Torn, damaged and killed states: each is a miss and a count, or the state before or after.

use crate::object::{Key, KeyHash};
use crate::store::body::read::StoredBody;
use crate::store::check::object;
use crate::store::check::pace::ReadPacer;
use crate::store::check::report::{CheckReport, Mode};
use crate::store::error::OpenError;
use crate::store::handle::Store;
use crate::store::tests::{Bench, KIB, MIB, append, bytes, held, key, meta, put, until};
use crate::store::{CheckFault, FsckError, format, fsck};
use crate::sync::Mutex;
use http::{HeaderValue, StatusCode};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_to_a_file_is_a_miss_and_a_count() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let (key, body) = (key("a"), bytes(1, 100 * KIB));
    let damages: [fn(&Path); 5] = [
        |path| std::fs::remove_file(path).unwrap(),
        |path| std::fs::File::options().write(true).open(path).unwrap().set_len(5).unwrap(),
        |path| {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.set_len(100 * 1024).unwrap();
        },
        |path| {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            let end = file.metadata().unwrap().len();
            file.write_all_at(&[0xff], end - 40).unwrap();
        },
        |path| std::fs::write(path, bytes(9, 100 * 1024 + 400)).unwrap(),
    ];
    for (count, damage) in (1..).zip(damages) {
        put(&store, &key, &body).await.unwrap();
        damage(bench.files().first().unwrap());
        assert!(store.get(&key).await.is_none(), "damage {count}");
        assert_eq!(bench.damaged(), count);
        assert!(store.get(&key).await.is_none());
        assert_eq!((bench.damaged(), store.usage().bytes), (count, 0), "counted once");
        assert_eq!(bench.files(), [] as [PathBuf; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_to_the_index_is_a_miss_and_a_count() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let key = key("a");
    let hash = key.hash();
    for (count, size) in (1_u64..).zip([5000, MIB]) {
        put(&store, &key, &bytes(1, size)).await.unwrap();
        let change_of = |record: &[u8]| {
            let access = store.disk.catalog.index.access();
            let mut change = access.open().unwrap().change();
            change.rewrite_record(hash, record);
            change.commit().unwrap();
        };
        change_of(if size == 5000 { b"garbage" } else { &[2, 0xff, 0xff] });
        assert!(store.get(&key).await.is_none());
        assert!(store.get(&key).await.is_none());
        assert_eq!((bench.damaged(), store.usage().bytes), (count, 0));
        assert_eq!(bench.files(), [] as [PathBuf; 0]);
    }

    put(&store, &key, &bytes(1, 5000)).await.unwrap();
    {
        let access = store.disk.catalog.index.access();
        let open = access.open().unwrap();
        let head = format::decode_head(&open.record(hash).unwrap().unwrap()).unwrap();
        let mut change = open.change();
        change.set_body(hash, head.sequence, &bytes(2, 5000));
        change.commit().unwrap();
    }
    assert!(store.get(&key).await.is_none(), "a small body with another digest");
    assert_eq!(bench.damaged(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_the_place_of_a_record_that_cannot_be_read_leaves_nothing_of_it() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let (key, hash) = (key("a"), key("a").hash());
    for (old, new) in [(MIB, 2 * MIB), (5000, 6000), (MIB, 100), (5000, MIB)] {
        put(&store, &key, &bytes(1, old)).await.unwrap();
        let access = store.disk.catalog.index.access();
        let index = access.open().unwrap();
        let mut change = index.change();
        change.rewrite_record(hash, b"garbage");
        change.commit().unwrap();
        put(&store, &key, &bytes(2, new)).await.unwrap();
        assert_eq!(held(&store, &key).await.unwrap(), bytes(2, new));
        assert_eq!(bench.files().len(), usize::from(new == MIB || new == 2 * MIB));
        assert_eq!(index.order_page(0, 10).unwrap().len(), 1);
        assert_eq!(index.bodies_page(None, 10).unwrap().len(), usize::from(new == 6000));
        let usage = store.usage();
        assert_eq!((usage.bytes, usage.objects), (format::charge(new as u64), 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_damage_to_a_body_behind_its_record_is_a_miss_and_a_count() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let key = key("a");
    let hash = key.hash();
    let damages: [fn(&mut Vec<u8>); 4] = [
        |row| *row.last_mut().unwrap() ^= 1,
        |row| row.truncate(row.len() - 1),
        |row| row.push(0),
        |row| row.truncate(row.len() - 120),
    ];
    let put_damaged = |damage: fn(&mut Vec<u8>)| {
        let access = store.disk.catalog.index.access();
        let open = access.open().unwrap();
        let mut row = open.record(hash).unwrap().unwrap().to_vec();
        damage(&mut row);
        let mut change = open.change();
        change.rewrite_record(hash, &row);
        change.commit().unwrap();
    };
    for (count, damage) in (1..).zip(damages) {
        put(&store, &key, &bytes(1, 100)).await.unwrap();
        put_damaged(damage);
        assert!(store.get(&key).await.is_none(), "damage {count}");
        assert!(store.get(&key).await.is_none());
        assert_eq!((bench.damaged(), store.usage().bytes), (count, 0));
    }

    // Nothing says any more which insertion it was: its place in the order goes in its turn, or
    // with the next check.
    put(&store, &key, &bytes(1, 100)).await.unwrap();
    put_damaged(|row| *row = b"garbage".to_vec());
    assert!(store.get(&key).await.is_none());
    assert_eq!((bench.damaged(), store.usage().bytes), (5, 1024));
    bench.close(store).await;
    fsck(bench.place.path(), Mode::Repair, &Mutex::default()).unwrap();
    let store = bench.open().await;
    assert_eq!(store.usage().bytes, 0);
}

/// FAULTS.md S13.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_stays_while_the_files_that_it_leads_to_cannot_be_listed() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let key = key("a");
    put(&store, &key, &bytes(1, MIB)).await.unwrap();
    {
        let access = store.disk.catalog.index.access();
        let mut change = access.open().unwrap().change();
        change.rewrite_record(key.hash(), b"garbage");
        change.commit().unwrap();
    }
    let bodies = bench.files().first().unwrap().parent().unwrap().to_owned();
    let away = bodies.with_extension("away");
    std::fs::rename(&bodies, &away).unwrap();
    std::fs::write(&bodies, "no folder").unwrap();
    assert!(store.get(&key).await.is_none());
    let record = store.disk.catalog.index.access().open().unwrap().record(key.hash()).unwrap();
    assert!(record.is_some() && bench.damaged() == 0);
    std::fs::remove_file(&bodies).unwrap();
    std::fs::rename(&away, &bodies).unwrap();
    assert!(store.get(&key).await.is_none());
    let record = store.disk.catalog.index.access().open().unwrap().record(key.hash()).unwrap();
    assert!(record.is_none() && bench.damaged() == 1);
    assert_eq!(bench.files(), [] as [PathBuf; 0], "its file went with it");
}

/// FAULTS.md S13.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_cannot_be_listed_is_not_taken_for_lost() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    put(&store, &key("a"), &bytes(1, MIB)).await.unwrap();
    bench.close(store).await;
    let [index, away] = ["index", "index.away"].map(|name| bench.place.path().join(name));
    std::fs::rename(&index, &away).unwrap();
    std::fs::write(&index, "no folder").unwrap();
    assert!(matches!(bench.try_open(), Err(OpenError::Folder { .. })));
    let error = fsck(bench.place.path(), Mode::Repair, &Mutex::default()).unwrap_err();
    assert!(matches!(&error, FsckError::Open(OpenError::Folder { .. })), "{error}");
    std::fs::remove_file(&index).unwrap();
    std::fs::rename(&away, &index).unwrap();
    let store = bench.open().await;
    assert_eq!(held(&store, &key("a")).await.unwrap(), bytes(1, MIB));
}

/// FAULTS.md Held: truncation under sendfile.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_truncated_under_its_reader_is_an_error_and_dropped() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let key = key("a");
    put(&store, &key, &bytes(1, MIB)).await.unwrap();
    let StoredBody::File(file) = store.get(&key).await.unwrap().body else { panic!("no file") };
    let path = bench.files().first().unwrap().clone();
    std::fs::File::options().write(true).open(path).unwrap().set_len(10).unwrap();
    assert_eq!(file.read_now(10, 100), None);
    assert_eq!(file.read(10, 100).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    assert_eq!(bench.damaged(), 1);
    assert!(store.get(&key).await.is_none());
}

/// FAULTS.md S2.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_found_while_its_folder_is_away_is_not_gone() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    put(&store, &key("a"), &bytes(1, MIB)).await.unwrap();
    put(&store, &key("b"), &bytes(2, 100)).await.unwrap();
    let (here, away) = (bench.place.path(), bench.place.path().with_extension("away"));
    for is_another_there in [false, true] {
        // As `umount -l` leaves it: what is open works, paths lead elsewhere.
        std::fs::rename(here, &away).unwrap();
        if is_another_there {
            std::fs::create_dir_all(here.join("tmp")).unwrap();
        }
        let record =
            store.disk.catalog.index.access().open().unwrap().record(key("a").hash()).unwrap();
        let record = record.unwrap();
        let head = format::decode_head(&record).unwrap();
        let mut pacer = ReadPacer::new(u64::MAX, CancellationToken::new());
        let checked =
            object::check_object(&store.disk.catalog, key("a").hash(), &record, &mut pacer)
                .unwrap();
        assert_eq!(checked.wrong.unwrap().0, CheckFault::Unreadable, "a check does not drop it");
        assert!(store.get(&key("a")).await.is_none(), "its disk does not tell");
        let error =
            store.disk.catalog.folder.remove_body(key("a").hash(), head.sequence).unwrap_err();
        assert_ne!(error.kind(), io::ErrorKind::NotFound);
        if !is_another_there {
            assert!(put(&store, &key("c"), &bytes(3, MIB)).await.is_err());
        }
        if is_another_there {
            std::fs::remove_dir_all(here).unwrap();
        }
        std::fs::rename(&away, here).unwrap();
        assert_eq!((store.usage().objects, bench.damaged()), (2, 0));
        assert_eq!(held(&store, &key("a")).await.unwrap(), bytes(1, MIB));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_without_a_record_is_gone_after_a_restart() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    put(&store, &key("kept"), &bytes(1, MIB)).await.unwrap();
    let (hash, orphan) =
        (KeyHash([7; 16]), store.disk.catalog.folder.body_path(KeyHash([7; 16]), 9));
    {
        let access = store.disk.catalog.index.access();
        let mut change = access.open().unwrap().change();
        change.set_link(hash, 9);
        change.commit().unwrap();
    }
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, "linked, then killed").unwrap();
    bench.close(store).await;
    let store = bench.open().await;
    assert!(!orphan.exists());
    assert_eq!(held(&store, &key("kept")).await.unwrap(), bytes(1, MIB));
    assert_eq!(store.disk.catalog.index.access().open().unwrap().links_page(None, 10).unwrap(), []);
}

/// FAULTS.md S13.
#[tokio::test(flavor = "multi_thread")]
async fn the_note_of_a_file_that_cannot_be_removed_stays_for_the_next_start() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let hashes = [KeyHash([7; 16]), KeyHash([8; 16])];
    let [stuck, orphan] = hashes.map(|hash| store.disk.catalog.folder.body_path(hash, 9));
    {
        let access = store.disk.catalog.index.access();
        let mut change = access.open().unwrap().change();
        for hash in &hashes {
            change.set_link(*hash, 9);
        }
        change.commit().unwrap();
    }
    // No file: the system refuses to remove it as one.
    std::fs::create_dir_all(&stuck).unwrap();
    std::fs::create_dir_all(orphan.parent().unwrap()).unwrap();
    std::fs::write(&orphan, "linked, then killed").unwrap();
    bench.close(store).await;
    let store = bench.open().await;
    let links = |store: &Store| {
        let access = store.disk.catalog.index.access();
        access.open().unwrap().links_page(None, 10).unwrap()
    };
    assert_eq!(links(&store), [(hashes[0], 9)]);
    assert!(stuck.exists() && !orphan.exists());
    let path = bench.place.path().display().to_string();
    assert_eq!(bench.metrics.store_errors.with_label_values(&[&*path, "remove"]).get(), 1);
    bench.close(store).await;
    std::fs::remove_dir(&stuck).unwrap();
    std::fs::write(&stuck, "linked, then killed").unwrap();
    let store = bench.open().await;
    assert!(!stuck.exists());
    assert_eq!(links(&store), []);
}

/// The folder as a kill at this moment leaves it, opened again.
async fn killed(bench: &Bench) -> (Bench, Store) {
    let image = Bench::new(64 * MIB);
    let copied = std::process::Command::new("cp")
        .args(["-a", "--sparse=always", "-T"])
        .args([bench.place.path(), image.place.path()])
        .status();
    assert!(copied.unwrap().success());
    let store = image.open().await;
    (image, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_step_leaves_the_old_object_or_the_new_one() {
    for size in [5 * KIB, MIB] {
        let bench = Bench::new(64 * MIB);
        let store = bench.open().await;
        let (key, old, new) = (key("a"), bytes(1, size), bytes(2, size));
        put(&store, &key, &old).await.unwrap();
        let large = usize::from(size == MIB);
        let holds_old = |(image, store): (Bench, Store)| {
            let (key, old) = (key.clone(), old.clone());
            async move {
                assert_eq!(held(&store, &key).await.unwrap(), old);
                assert_eq!((image.files().len(), image.damaged()), (large, 0));
                assert_eq!(store.usage().bytes, format::charge(size as u64));
            }
        };
        let mut pending = store.begin(&key, None).await.unwrap();
        append(&mut pending, &new).await.unwrap();
        holds_old(killed(&bench).await).await;
        let sealed = pending.seal().await.unwrap();
        holds_old(killed(&bench).await).await;

        // Linked, its record not yet written.
        let (hash, sequence) = (key.hash(), store.disk.catalog.next_sequence());
        let path = store.disk.catalog.folder.body_path(hash, sequence);
        {
            let access = store.disk.catalog.index.access();
            let mut change = access.open().unwrap().change();
            change.set_link(hash, sequence);
            change.commit().unwrap();
        }
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &new).unwrap();
        holds_old(killed(&bench).await).await;
        std::fs::remove_file(&path).unwrap();

        sealed.commit(meta(&key), None).unwrap();
        let (image, after) = killed(&bench).await;
        assert_eq!(held(&after, &key).await.unwrap(), new);
        assert_eq!((image.files().len(), image.damaged()), (large, 0));

        // Removed, its file not yet.
        let sequence = after.get(&key).await.unwrap().insertion.sequence;
        let file = bench.files().first().map(|path| (path.clone(), std::fs::read(path).unwrap()));
        store.remove(&key);
        if let Some((path, body)) = file {
            std::fs::write(path, body).unwrap();
            let access = store.disk.catalog.index.access();
            let mut change = access.open().unwrap().change();
            change.set_link(hash, sequence);
            change.commit().unwrap();
        }
        let (image, after) = killed(&bench).await;
        assert!(after.get(&key).await.is_none());
        assert_eq!((image.files().len(), after.usage().bytes, image.damaged()), (0, 0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_cannot_be_opened_is_one_clear_error_and_nothing_is_wiped() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    put(&store, &key("a"), &bytes(1, MIB)).await.unwrap();
    bench.close(store).await;
    std::fs::write(bench.place.path().join("index/version"), "nonsense").unwrap();
    let error = bench.try_open().unwrap_err();
    assert!(matches!(error, OpenError::Index { .. }));
    assert!(error.to_string().contains("narthex fsck --repair"), "{error}");
    assert_eq!(bench.files().len(), 1);
}

/// An earlier build has stored it. Its challenge is not sent, and a 401 needs one.
#[tokio::test(flavor = "multi_thread")]
async fn a_401_with_a_challenge_for_one_client_is_not_found_and_not_damaged() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    for (challenge, is_found) in [("Basic realm=a", true), (FOR_ONE_CLIENT, false)] {
        put_challenge(&store, &key("a"), challenge).await;
        let body = is_found.then(|| bytes(1, 100));
        assert_eq!(held(&store, &key("a")).await, body, "{challenge}");
    }
    assert_eq!((store.usage().objects, bench.damaged()), (0, 0));
}

const FOR_ONE_CLIENT: &str = "Digest nonce=\"1\"";

async fn put_challenge(store: &Store, key: &Key, challenge: &'static str) {
    let mut meta = meta(key);
    meta.status = StatusCode::UNAUTHORIZED;
    meta.headers.insert("www-authenticate", HeaderValue::from_static(challenge));
    let mut pending = store.begin(key, Some(100)).await.unwrap();
    append(&mut pending, &bytes(1, 100)).await.unwrap();
    pending.seal().await.unwrap().commit(meta, None).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_drops_a_401_with_a_challenge_for_one_client_and_reports_nothing() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    put_challenge(&store, &key("a"), FOR_ONE_CLIENT).await;
    bench.close(store).await;
    for (mode, objects) in
        [(Mode::Report, 1), (Mode::Report, 1), (Mode::Repair, 1), (Mode::Repair, 0)]
    {
        let report = Mutex::default();
        fsck(bench.place.path(), mode, &report).unwrap();
        let report: CheckReport = report.into_inner();
        assert_eq!((report.objects, report.problems.len()), (objects, 0), "{:?}", report.problems);
    }

    bench.scrub_pass = Duration::from_millis(100);
    let store = bench.open().await;
    put_challenge(&store, &key("b"), FOR_ONE_CLIENT).await;
    until("the scrubber drops it", || store.usage().objects == 0).await;
    let faults = bench.metrics.check_faults.with_label_values(&["scrub", "record"]).get();
    assert_eq!((faults, bench.damaged()), (0, 0));
}
