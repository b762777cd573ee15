//! Several disks as one tier: where objects go, what happens to each while another is gone, and
//! that what was purged meanwhile never comes back.

use crate::clock::{Clock, Timestamp};
use crate::config::Disk;
use crate::object::{Key, Meta, NarClaim};
use crate::store::error::{OpenError, WriteError};
use crate::store::handle::Store;
use crate::store::probe;
use crate::store::tests::{Bench, KIB, MIB, append, bytes, key, meta, read, until};
use crate::store::{ClaimUnknown, Disks, Published, Purging, Scope, Stored, Withhold};
use bytes::Bytes;
use std::path::PathBuf;
use std::time::Duration;

impl Bench {
    pub(super) fn folder(&self, number: usize) -> PathBuf {
        self.place.path().join(number.to_string())
    }

    fn try_disks(&self, numbers: &[usize]) -> Result<Disks, OpenError> {
        let disk = |number: &usize| Disk::unscrubbed(self.folder(*number), self.size);
        let settings: Vec<_> = numbers.iter().map(disk).collect();
        Disks::open(&settings, self.metrics.clone(), self.tasks.clone())
    }

    pub(super) async fn disks(&self, numbers: &[usize]) -> Disks {
        let disks = self.try_disks(numbers).unwrap();
        disks.loaded().await;
        disks
    }

    /// Closes everything, so that it can be opened again.
    pub(super) async fn end(&mut self, disks: Disks) {
        drop(disks);
        assert!(self.tasks.drain(Duration::from_secs(30)).await);
        self.tasks = crate::tasks::Tasks::new();
    }

    pub(super) fn lose(&self, number: usize) {
        std::fs::rename(self.folder(number), self.place.path().join("lost")).unwrap();
    }

    fn find_again(&self, number: usize) {
        // A new one may have been made there, and another may be made meanwhile.
        for turn in 0.. {
            let rubbish = self.place.path().join(format!("rubbish{turn}"));
            let _ = std::fs::rename(self.folder(number), rubbish);
            if std::fs::rename(self.place.path().join("lost"), self.folder(number)).is_ok() {
                return;
            }
            assert!(turn < 100, "cannot be put back");
        }
    }
}

async fn put_at(disks: &Disks, key: &Key, body: &Bytes, time: i64) -> Result<Stored, WriteError> {
    let meta = Meta { response_time: Timestamp::from_secs(time), ..meta(key) };
    put_as(disks, meta, body).await
}

/// Stores an object with this head.
pub(super) async fn put_as(disks: &Disks, meta: Meta, body: &Bytes) -> Result<Stored, WriteError> {
    let length = Some(body.len() as u64);
    let mut pending = disks.begin(&meta.key, length, Withhold::End).await?;
    append(&mut pending, body).await?;
    let sealed = pending.seal().await?;
    let stored = sealed.commit(meta, None)?;
    let published = Published {
        key: stored.meta.key.clone(),
        disk: Some(stored.insertion.disk),
        order: stored.insertion.sequence,
        may_vary: false,
    };
    disks.supersede(&published).await;
    Ok(stored)
}

/// Makes everything in `scope` go.
pub(super) async fn purge(disks: &Disks, scope: Scope) -> u64 {
    disks.purge(&scope, Purging::Hard).await.objects
}

pub(super) async fn put(disks: &Disks, key: &Key, body: &Bytes) -> Result<Stored, WriteError> {
    put_at(disks, key, body, 1_700_000_000).await
}

pub(super) async fn held(disks: &Disks, key: &Key) -> Option<Bytes> {
    Some(read(&disks.get(key).await?).await)
}

pub(super) fn numbered(number: usize) -> Key {
    key(&number.to_string())
}

pub(super) fn objects(stores: &[Store]) -> Vec<u64> {
    stores.iter().map(|store| store.usage().objects).collect()
}

/// Looks after the disks until all are in.
async fn until_in(disks: &Disks) {
    until("every disk is in", || disks.look().into_iter().all(|is_in| is_in)).await;
    disks.loaded().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_spread_and_found_whatever_the_order_of_the_folders() {
    let mut bench = Bench::new(64 * MIB);
    let disks = bench.disks(&[0, 1, 2]).await;
    for number in 0..60 {
        let size = if number % 2 == 0 { 100 } else { 70 * KIB };
        put(&disks, &numbered(number), &bytes(number as u64, size)).await.unwrap();
    }
    let counts = objects(&disks.stores());
    assert!(counts.iter().all(|count| *count > 5), "{counts:?}");
    assert_eq!((disks.usage().objects, disks.usage().limit_bytes), (60, 192 << 20));
    assert_eq!(bench.gauges().1, 60);
    bench.end(disks).await;
    let disks = bench.disks(&[2, 3, 0, 1]).await;
    for number in 0..60 {
        assert!(held(&disks, &numbered(number)).await.is_some(), "{number}");
    }
    assert_eq!(bench.gauges().1, 60);
    bench.end(disks).await;
    let disks = bench.disks(&[3, 1]).await;
    let mut found = 0;
    for number in 0..60 {
        found += u64::from(held(&disks, &numbered(number)).await.is_some());
    }
    assert_eq!(found, counts[1], "what is on the disk that stayed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_goes_and_comes_back_costs_nothing_else() {
    let bench = Bench::new(64 * MIB);
    let disks = bench.disks(&[0, 1]).await;
    for number in 0..20 {
        put(&disks, &numbered(number), &bytes(number as u64, 70 * KIB)).await.unwrap();
    }
    let counts = objects(&disks.stores());
    bench.lose(0);
    assert_eq!(disks.look(), [false, true]);
    let report = &disks.reports()[0];
    assert!(!report.health.is_writable && report.health.detail.contains("folder is gone"));
    assert_eq!(bench.gauges().1, i64::try_from(counts[1]).unwrap());
    let mut found = 0;
    for number in 0..20 {
        found += u64::from(held(&disks, &numbered(number)).await.is_some());
        put(&disks, &numbered(100 + number), &bytes(1, 70 * KIB)).await.unwrap();
    }
    assert_eq!(found, counts[1]);
    bench.find_again(0);
    until_in(&disks).await;
    for number in 0..20 {
        assert_eq!(held(&disks, &numbered(number)).await.unwrap(), bytes(number as u64, 70 * KIB));
        assert!(held(&disks, &numbered(100 + number)).await.is_some());
    }
    assert!(disks.reports().iter().all(|report| report.health.is_writable), "{disks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_folder_is_made_where_one_was_removed() {
    let bench = Bench::new(64 * MIB);
    let disks = bench.disks(&[0]).await;
    put(&disks, &key("a"), &bytes(1, 70 * KIB)).await.unwrap();
    std::fs::remove_dir_all(bench.folder(0)).unwrap();
    assert!(put(&disks, &key("b"), &bytes(1, 70 * KIB)).await.is_err());
    assert!(!bench.folder(0).exists(), "nothing is made beside the store");
    until_in(&disks).await;
    assert!(held(&disks, &key("a")).await.is_none());
    put(&disks, &key("a"), &bytes(2, 70 * KIB)).await.unwrap();
    assert_eq!(held(&disks, &key("a")).await.unwrap(), bytes(2, 70 * KIB));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_disk_that_cannot_be_opened_does_not_keep_the_others_from_it() {
    let bench = Bench::new(64 * MIB);
    std::fs::write(bench.folder(1), "no folder").unwrap();
    let disks = bench.disks(&[0, 1]).await;
    put(&disks, &key("a"), &bytes(1, 100)).await.unwrap();
    let reports = disks.reports();
    assert!(reports[0].health.is_writable && !reports[1].health.is_writable);
    assert!(reports[1].health.detail.contains("cannot make it"), "{reports:?}");
    let path = bench.folder(1).display().to_string();
    assert!(bench.metrics.store_errors.with_label_values(&[&*path, "open"]).get() > 0);
    disks.show(&bench.metrics);
    assert_eq!(bench.metrics.disk_readable.with_label_values(&[&*path]).get(), 0);
    std::fs::remove_file(bench.folder(1)).unwrap();
    until_in(&disks).await;
    disks.show(&bench.metrics);
    assert_eq!(bench.metrics.disk_writable.with_label_values(&[&*path]).get(), 1);
    let two = Bench::new(64 * MIB);
    for number in [0, 1] {
        std::fs::write(two.folder(number), "no folder").unwrap();
    }
    assert!(matches!(two.try_disks(&[0, 1]).unwrap_err(), OpenError::Folder { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_purged_while_a_disk_was_away_is_never_served_from_it() {
    for scope in [
        Scope::Key(numbered(3)),
        Scope::Prefix { site: "main".into(), prefix: "/nar/3".into() },
        Scope::All,
    ] {
        let mut bench = Bench::new(64 * MIB);
        let disks = bench.disks(&[0, 1]).await;
        for number in 0..20 {
            put(&disks, &numbered(number), &bytes(1, 100)).await.unwrap();
        }
        let away = usize::from(disks.stores()[1].get(&numbered(3)).await.is_some());
        let kept = |number: &usize| !scope.may_cover(&numbered(*number));
        bench.lose(away);
        assert!(!disks.look()[away]);
        purge(&disks, scope.clone()).await;
        // Over a restart, too, at which it is not there.
        bench.end(disks).await;
        std::fs::write(bench.folder(away), "no folder").unwrap();
        let disks = bench.disks(&[0, 1]).await;
        std::fs::remove_file(bench.folder(away)).unwrap();
        bench.find_again(away);
        for _ in 0..3_000 {
            assert!(held(&disks, &numbered(3)).await.is_none(), "{scope:?}");
            if disks.look() == [true, true] && disks.reports().iter().all(|r| r.health.is_writable)
            {
                break;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        for number in 0..20 {
            let is_held = held(&disks, &numbered(number)).await.is_some();
            assert_eq!(is_held, kept(&number), "{number} after {scope:?}");
        }
        put(&disks, &numbered(3), &bytes(2, 100)).await.unwrap();
        assert!(held(&disks, &numbered(3)).await.is_some());
        bench.end(disks).await;
        let disks = bench.disks(&[0, 1]).await;
        assert!(held(&disks, &numbered(3)).await.is_some(), "made up for once");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_holds_on_a_disk_that_takes_no_writes() {
    for numbers in [vec![0], vec![0, 1]] {
        let bench = Bench::new(64 * MIB);
        let disks = bench.disks(&numbers).await;
        for number in 0..10 {
            put(&disks, &numbered(number), &bytes(1, 70 * KIB)).await.unwrap();
        }
        for store in disks.stores() {
            store.disk.catalog.faults.is_out.store(true, std::sync::atomic::Ordering::Relaxed);
            store.disk.catalog.index.access().open().unwrap().refuse();
        }
        purge(&disks, Scope::Key(numbered(3))).await;
        assert!(held(&disks, &numbered(3)).await.is_none());
        assert!(held(&disks, &numbered(4)).await.is_some(), "reads go on");
        let begun = disks.begin(&numbered(3), Some(1), Withhold::End).await;
        assert!(begun.is_err() || numbers.len() > 1);
        assert!(!disks.remove(&numbered(5), u64::MAX).await);
        assert!(held(&disks, &numbered(5)).await.is_some(), "that is no purge");
        assert_eq!(disks.purge(&Scope::Key(numbered(6)), Purging::Soft).await.objects, 0);
        for number in [3, 6] {
            assert!(held(&disks, &numbered(number)).await.is_none(), "{number}");
        }
        disks.show(&bench.metrics);
        for store in disks.stores() {
            store.disk.catalog.faults.is_out.store(false, std::sync::atomic::Ordering::Relaxed);
            assert!(probe::probe(&store.disk));
        }
        disks.look();
        assert!(disks.reports().iter().all(|report| report.health.is_writable), "{disks:?}");
        for number in 0..10 {
            let is_held = held(&disks, &numbered(number)).await.is_some();
            assert_eq!(is_held, ![3, 6].contains(&number), "{number}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_absence_that_a_disk_does_not_carry_out_costs_nothing_newer() {
    let bench = Bench::new(64 * MIB);
    let disks = bench.disks(&[0]).await;
    put(&disks, &numbered(1), &bytes(1, 100)).await.unwrap();
    let before = disks.next_insertion();
    disks.stores()[0].disk.catalog.index.access().open().unwrap().refuse();
    assert!(!disks.remove(&numbered(1), before).await);
    assert!(probe::probe(&disks.stores()[0].disk));
    assert!(disks.is_writable(), "nothing is owed: {:?}", disks.reports());
    put(&disks, &numbered(1), &bytes(2, 100)).await.unwrap();
    disks.look();
    assert_eq!(held(&disks, &numbered(1)).await.unwrap(), bytes(2, 100));
}

/// Puts an object of the second `at` on one disk and, while that is out, another of second 2 on
/// the other: the latter is found.
async fn put_on_both(bench: &Bench, disks: &Disks, key: &Key, at: i64) {
    put_at(disks, key, &bytes(1, 100), at).await.unwrap();
    let first = usize::from(disks.stores()[1].get(key).await.is_some());
    bench.lose(first);
    disks.look();
    put_at(disks, key, &bytes(2, 100), 2).await.unwrap();
    bench.find_again(first);
    until_in(disks).await;
    assert_eq!(disks.usage().objects, 2);
    assert_eq!(held(disks, key).await.unwrap(), bytes(2, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_copy_wins_and_the_earlier_one_goes() {
    let bench = Bench::new(64 * MIB);
    let disks = bench.disks(&[0, 1]).await;
    let key = key("a");
    put_on_both(&bench, &disks, &key, 1).await;
    until("the earlier one is dropped", || disks.usage().objects == 1).await;
    put_at(&disks, &key, &bytes(3, 100), 3).await.unwrap();
    assert_eq!(disks.usage().objects, 1, "a newer one replaces it wherever it was");
    assert_eq!(held(&disks, &key).await.unwrap(), bytes(3, 100));
}

/// FAULTS.md S6.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_when_the_clock_was_ahead_does_not_win_over_a_later_one() {
    let bench = Bench::new(64 * MIB);
    let disks = bench.disks(&[0, 1]).await;
    let key = key("a");
    let ahead = Clock::System.now().plus(Duration::from_hours(2)).secs();
    put_on_both(&bench, &disks, &key, ahead).await;
    until("the copy from the future is dropped", || disks.usage().objects == 1).await;
    assert_eq!(held(&disks, &key).await.unwrap(), bytes(2, 100));
}

/// FAULTS.md S15a.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_is_unknown_while_a_disk_that_may_have_it_does_not_tell() {
    let bench = Bench::new(64 * MIB);
    let disks = bench.disks(&[0, 1]).await;
    let (narinfo, nar, none) = (key("info"), key("nar"), key("no nar"));
    let claim = NarClaim { file_hash: None, file_size: Some(7), source: None, contents: None };
    let mut pending = disks.begin(&narinfo, Some(3), Withhold::End).await.unwrap();
    append(&mut pending, &bytes(1, 3)).await.unwrap();
    let sealed = pending.seal().await.unwrap();
    let stored = sealed.commit(meta(&narinfo), Some((nar.clone(), claim.clone()))).unwrap();
    let known = Ok(Some((narinfo.hash(), claim)));
    assert_eq!((disks.claim(&nar).await, disks.claim(&none).await), (known.clone(), Ok(None)));

    let other = 1 - usize::from(stored.insertion.disk);
    bench.lose(other);
    disks.look();
    assert_eq!(disks.claim(&nar).await, known, "the other has it");
    assert_eq!(disks.claim(&none).await, Err(ClaimUnknown));
    bench.find_again(other);
    until_in(&disks).await;
    assert_eq!(disks.claim(&none).await, Ok(None));

    for store in disks.stores() {
        store.disk.catalog.faults.is_out.store(true, std::sync::atomic::Ordering::Relaxed);
        store.disk.catalog.index.access().open().unwrap().refuse();
    }
    let elsewhere = Scope::Prefix { site: "other".to_owned(), prefix: "/".to_owned() };
    for owed in [elsewhere, Scope::Key(key("another"))] {
        purge(&disks, owed).await;
        assert_eq!(disks.claim(&nar).await, known, "what is owed is not of its narinfo");
        assert_eq!(disks.claim(&none).await, Ok(None));
    }
    purge(&disks, Scope::Key(narinfo)).await;
    assert_eq!(disks.claim(&nar).await, Err(ClaimUnknown));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_never_in_with_the_others_is_cleared() {
    let mut bench = Bench::new(64 * MIB);
    for number in [0, 1] {
        let disks = bench.disks(&[number]).await;
        put(&disks, &numbered(number), &bytes(1, 100)).await.unwrap();
        if number == 0 {
            purge(&disks, Scope::Key(numbered(7))).await;
        }
        bench.end(disks).await;
    }
    let disks = bench.disks(&[0, 1]).await;
    assert!(held(&disks, &numbered(0)).await.is_some());
    assert!(held(&disks, &numbered(1)).await.is_none());
    disks.look();
    assert_eq!(objects(&disks.stores()), [1, 0]);
    assert!(disks.reports().iter().all(|report| report.health.is_writable));
}

/// FAULTS.md S15a.
#[tokio::test(flavor = "multi_thread")]
async fn of_claims_on_several_disks_the_newest_counts() {
    let bench = Bench::new(64 * MIB);
    let disks = bench.disks(&[0, 1]).await;
    let nar = key("nar");
    for size in 1..=20 {
        let narinfo = key(&format!("{size}.narinfo"));
        let claim =
            NarClaim { file_hash: None, file_size: Some(size), source: None, contents: None };
        let mut pending = disks.begin(&narinfo, Some(3), Withhold::End).await.unwrap();
        append(&mut pending, &bytes(size, 3)).await.unwrap();
        let sealed = pending.seal().await.unwrap();
        sealed.commit(meta(&narinfo), Some((nar.clone(), claim.clone()))).unwrap();
        assert_eq!(disks.claim(&nar).await, Ok(Some((narinfo.hash(), claim))));
    }
    assert!(disks.stores().iter().all(|store| store.usage().objects > 0), "both have some");
}
