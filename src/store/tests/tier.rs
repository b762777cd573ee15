//! Several disks as one tier, for what is more than a whole object: parts, variants, uses noted
//! from memory, checks.

use crate::object::{Key, Meta};
use crate::store::handle::Store;
use crate::store::tests::disks::{held, numbered, objects, purge, put};
use crate::store::tests::parts::{LENGTH, at, body, chunks, keep};
use crate::store::tests::variants::by_language;
use crate::store::tests::{Bench, KIB, MIB, bytes, key, meta, until};
use crate::store::{
    ChangePermit, CheckStage, CheckStart, ConfirmedBody, Disks, KeepOutcome, Mode, Scope, Withhold,
};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The store that is the first choice for a key, and the other one.
async fn choices(disks: &Disks, key: &Key) -> [Store; 2] {
    let [one, other] = disks.stores().try_into().unwrap();
    put(disks, key, &bytes(1, 10)).await.unwrap();
    let is_first = one.get(key).await.is_some();
    purge(disks, Scope::Key(key.clone())).await;
    if is_first { [one, other] } else { [other, one] }
}

async fn begin_on(store: &Store, key: &Key, chunk: u64) {
    let part = store.begin_part(meta(key), LENGTH as u64).await.unwrap();
    assert_eq!(keep(&part, at(chunk), at(chunk + 1)).await, KeepOutcome::Yes);
}

async fn until_checked(disks: &Disks) {
    until("the check ends", || disks.checked().stage != CheckStage::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_spread_and_found_whatever_the_order_of_the_folders() {
    let mut bench = Bench::new(64 * MIB);
    let disks = bench.disks(&[0, 1]).await;
    for number in 0..10 {
        let part = disks.begin_part(meta(&numbered(number)), LENGTH as u64).await.unwrap();
        assert_eq!(keep(&part, at(2), at(3)).await, KeepOutcome::Yes);
    }
    assert!(objects(&disks.stores()).iter().all(|count| *count > 0), "{:?}", disks.usage());
    assert_eq!(bench.metrics.part_objects.get(), 10);
    bench.end(disks).await;
    assert_eq!(bench.metrics.part_objects.get(), 0, "closed");
    let disks = bench.disks(&[1, 0]).await;
    for number in 0..10 {
        assert_eq!(chunks(&disks.part(&numbered(number)).await.unwrap()).await, [2], "{number}");
    }
    assert!(disks.part(&numbered(10)).await.is_none());
    assert_eq!(bench.metrics.part_objects.get(), 10);
    assert_eq!(bench.metrics.ordered_objects.get(), 10);
    for number in 0..5 {
        assert_eq!(purge(&disks, Scope::Key(numbered(number))).await, 1);
        assert_eq!(purge(&disks, Scope::Key(numbered(number))).await, 0);
    }
    purge(&disks, Scope::All).await;
    assert_eq!((disks.usage().objects, bench.metrics.part_objects.get()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_object_takes_the_place_of_its_parts_on_every_disk() {
    let bench = Bench::new(64 * MIB);
    let disks = bench.disks(&[0, 1]).await;
    let key = key("a");
    let [first, other] = choices(&disks, &key).await;
    begin_on(&other, &key, 1).await;
    assert_eq!(chunks(&disks.part(&key).await.unwrap()).await, [1], "found on its disk");
    assert!(held(&disks, &key).await.is_none(), "a part is no whole");
    put(&disks, &key, &body()).await.unwrap();
    assert_eq!(held(&disks, &key).await.unwrap(), body());
    assert!(disks.part(&key).await.is_none());
    assert_eq!(objects(&[first, other]), [1, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_takes_parts_and_variants_from_every_disk() {
    let bench = Bench::new(64 * MIB);
    let disks = bench.disks(&[0, 1]).await;
    let page = key("page");
    let mut variants = Vec::new();
    for number in 0..20 {
        let variant = by_language(&format!("l{number}"));
        let own = page.variant(&variant);
        let mut pending = disks.begin(&own, Some(3), Withhold::End).await.unwrap();
        pending.append(bytes(1, 3)).await.unwrap();
        let meta = Meta { variant: variant.clone(), ..meta(&own) };
        pending.seal().await.unwrap().commit(meta, None).unwrap();
        variants.push((own, variant));
    }
    assert!(objects(&disks.stores()).iter().all(|count| *count > 0));
    let mut found = disks.variants(&page).await.list;
    found.sort_by(|one, other| one.0.cmp(&other.0));
    variants.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(found, variants);
    for store in disks.stores() {
        begin_on(&store, &page, 0).await;
    }
    put(&disks, &key("other"), &bytes(2, 3)).await.unwrap();
    assert_eq!(purge(&disks, Scope::Key(page.clone())).await, 22);
    assert!(disks.variants(&page).await.list.is_empty() && disks.part(&page).await.is_none());
    assert_eq!(disks.usage().objects, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_disk_owes_of_an_object_it_owes_of_its_variants_and_parts() {
    let bench = Bench::new(64 * MIB);
    let disks = bench.disks(&[0]).await;
    let page = key("page");
    let variant = by_language("en");
    let own = page.variant(&variant);
    put(&disks, &own, &bytes(1, 3)).await.unwrap();
    begin_on(&disks.stores()[0], &page, 0).await;
    for store in disks.stores() {
        store.disk.catalog.faults.is_out.store(true, Ordering::Relaxed);
        store.disk.catalog.index.access().open().unwrap().refuse();
    }
    purge(&disks, Scope::Key(page.clone())).await;
    assert!(disks.part(&page).await.is_none() && held(&disks, &own).await.is_none());
    assert!(disks.variants(&page).await.list.is_empty());
    assert!(!disks.is_writable());
    assert!(disks.begin_part(meta(&key("b")), LENGTH as u64).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_is_noted_on_the_disk_that_has_the_object() {
    let bench = Bench::new(64 * MIB);
    let disks = bench.disks(&[0, 1]).await;
    let mut found = Vec::new();
    // Which disk takes an object depends on the names the disks drew, but of forty each takes some.
    for number in 0..40 {
        let stored = put(&disks, &numbered(number), &bytes(1, 10)).await.unwrap();
        found.push(stored.insertion);
    }
    assert!(found.is_sorted_by_key(|one| one.sequence), "all disks count together");
    let stores = disks.stores();
    let is_used = |disk: usize, sequence| stores[disk].disk.catalog.accounting.is_used(sequence);
    let on = |disk| *found.iter().find(|one| one.disk == disk).expect("each took some");
    let (one, other) = (on(0), on(1));
    assert!(!is_used(usize::from(one.disk), one.sequence));
    assert!(disks.touch(one));
    assert!(is_used(usize::from(one.disk), one.sequence));
    assert!(!is_used(usize::from(other.disk), other.sequence));
    bench.lose(usize::from(one.disk));
    disks.look();
    assert!(!disks.touch(one) && disks.touch(other));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_is_of_all_disks_and_tells_of_what_is_out() {
    let bench = Bench::new(64 * MIB);
    let disks = bench.disks(&[0, 1]).await;
    for number in 0..12 {
        put(&disks, &numbered(number), &bytes(number as u64, 70 * KIB)).await.unwrap();
    }
    assert_eq!(disks.begin_check(Mode::Report, Some(1)), CheckStart::Now);
    assert_eq!(disks.begin_check(Mode::Report, None), CheckStart::Already);
    let stopped = disks.stores();
    for store in &stopped {
        store.disk.lanes.leaving.cancel();
    }
    until_checked(&disks).await;
    assert_eq!(disks.checked().stage, CheckStage::BrokenOff);
    drop(stopped);
    bench.lose(0);
    disks.look();
    assert_eq!(disks.begin_check(Mode::Report, Some(1 << 40)), CheckStart::Now);
    until_checked(&disks).await;
    let report = disks.checked();
    assert_eq!(report.stage, CheckStage::BrokenOff, "not all was checked");
    let named = bench.folder(0).display().to_string();
    assert!(report.problems.iter().any(|problem| problem.what.starts_with(&named)), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_damaged_on_any_disk_is_named_to_one_receiver() {
    let bench = Bench::new(64 * MIB);
    let disks = bench.disks(&[0, 1]).await;
    let mut damaged = disks.damaged_keys().unwrap();
    assert!(disks.damaged_keys().is_none());
    for number in 0..12 {
        put(&disks, &numbered(number), &bytes(number as u64, 70 * KIB)).await.unwrap();
        assert!(held(&disks, &numbered(number)).await.is_some(), "in use from now on");
    }
    let counts = objects(&disks.stores());
    assert!(counts.iter().all(|count| *count > 0), "{counts:?}");
    for number in [0, 1] {
        let mut files = Vec::new();
        super::list(&bench.folder(number).join("objects"), &mut files).unwrap();
        let file = std::fs::File::options().write(true).open(&files[0]).unwrap();
        file.write_all_at(b"damage", 60_000).unwrap();
    }
    assert_eq!(disks.begin_check(Mode::Repair, Some(1 << 40)), CheckStart::Now);
    until_checked(&disks).await;
    let report = disks.checked();
    assert_eq!((report.stage, report.objects), (CheckStage::Ended, 12));
    assert_eq!((report.problem_count, report.repaired_count), (2, 2), "{report:?}");
    for problem in &report.problems {
        assert!(problem.what.contains(": /nar/"), "{problem:?}");
    }
    let named = [damaged.try_recv().unwrap(), damaged.try_recv().unwrap()];
    assert_ne!(named[0], named[1]);
    assert_eq!(disks.usage().objects, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_file_is_found_again_without_the_disk_and_goes_with_its_record() {
    for folders in [&[0][..], &[0, 1]] {
        let bench = Bench::new(64 * MIB);
        let disks = bench.disks(folders).await;
        let key = key("a");
        let body = bytes(1, MIB);
        let stored = put(&disks, &key, &body).await.unwrap();
        let find_open =
            || disks.stores().iter().find_map(|store| store.disk.catalog.recent.get(&key));
        assert!(find_open().is_none(), "it was not looked for yet");
        disks.get(&key).await.unwrap();
        assert!(find_open().is_some());
        assert_eq!(held(&disks, &key).await.unwrap(), body);

        let changed = Arc::new(Meta { is_invalidated: true, ..meta(&key) });
        let confirmed =
            ConfirmedBody { sha256: stored.sha256, response_time: stored.meta.response_time };
        let refused: ChangePermit = Arc::new(|| false);
        assert!(!disks.touch_meta(&changed, confirmed, &refused).await);
        assert!(!disks.get(&key).await.unwrap().meta.is_invalidated);
        let permit: ChangePermit = Arc::new(|| true);
        assert!(disks.touch_meta(&changed, confirmed, &permit).await);
        assert!(disks.get(&key).await.unwrap().meta.is_invalidated, "a new head is seen");

        put(&disks, &key, &bytes(2, MIB)).await.unwrap();
        assert_eq!(held(&disks, &key).await.unwrap(), bytes(2, MIB), "a replacement is seen");

        assert!(find_open().is_some());
        for store in disks.stores() {
            store.disk.catalog.index.access().open().unwrap().refuse();
        }
        purge(&disks, Scope::Key(key.clone())).await;
        assert!(disks.get(&key).await.is_none(), "a purge holds if the disk refuses it");
    }
}
