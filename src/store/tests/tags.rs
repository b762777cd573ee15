//! Purges by tag: what has the tag goes, or is stale, and nothing else, whatever became of it
//! since.

use crate::object::{Key, Meta, PurgeTags, Tag};
use crate::store::check::report::{CheckReport, Mode};
use crate::store::handle::Store;
use crate::store::tests::disks::put_as;
use crate::store::tests::parts::{LENGTH, at, keep};
use crate::store::tests::{Bench, KIB, MIB, bytes, held, key, meta};
use crate::store::{CheckFault, KeepOutcome, Purging, Scope, fsck};
use crate::sync::Mutex;
use bytes::Bytes;
use http::HeaderValue;

fn tags(names: &[&str]) -> PurgeTags {
    PurgeTags::new(names.iter().map(|name| Tag::parse(name).unwrap()))
}

fn scope(name: &str) -> Scope {
    Scope::Tags { site: "main".to_owned(), tags: tags(&[name]) }
}

pub(super) fn tagged(key: &Key, tags: &str) -> Meta {
    let mut meta = meta(key);
    meta.headers.insert("surrogate-key", HeaderValue::from_str(tags).unwrap());
    meta
}

async fn put(store: &Store, name: &str, tags: &str, size: usize) -> Bytes {
    let (key, body) = (key(name), bytes(size as u64, size));
    let mut pending = store.begin(&key, Some(size as u64)).await.unwrap();
    super::append(&mut pending, &body).await.unwrap();
    pending.seal().await.unwrap().commit(tagged(&key, tags), None).unwrap();
    body
}

async fn is_stale(store: &Store, name: &str) -> Option<bool> {
    store.get(&key(name)).await.map(|stored| stored.meta.is_invalidated)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_the_tag_goes_in_every_form_and_after_a_restart() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    for (name, tags, size) in
        [("a", "x y", 10), ("b", "y", 10 * KIB), ("c", "x,y z", 80 * KIB), ("d", "z", MIB)]
    {
        put(&store, name, tags, size).await;
    }
    let plain = bytes(9, 9);
    super::put(&store, &key("plain"), &plain).await.unwrap();
    for (name, tags) in [("part", "y"), ("other part", "z")] {
        let part = store.begin_part(tagged(&key(name), tags), LENGTH as u64).await.unwrap();
        assert_eq!(keep(&part, at(0), at(1)).await, KeepOutcome::Yes);
    }
    bench.close(store).await;

    let store = bench.open().await;
    let other_site = Scope::Tags { site: "other".to_owned(), tags: tags(&["y"]) };
    assert_eq!(store.purge(&other_site), 0);
    assert_eq!(store.purge(&scope("y")), 4);
    assert_eq!(store.purge(&scope("y")), 0);
    for name in ["a", "b", "c"] {
        assert!(held(&store, &key(name)).await.is_none(), "{name}");
    }
    assert!(store.part(&key("part")).await.is_none());
    assert!(store.part(&key("other part")).await.is_some());
    assert_eq!(held(&store, &key("d")).await.unwrap(), bytes(MIB as u64, MIB));
    assert_eq!(held(&store, &key("plain")).await.unwrap(), plain);
    bench.close(store).await;
    let store = bench.open().await;
    assert!(held(&store, &key("a")).await.is_none(), "it holds");
    assert_eq!(store.purge(&scope("z")), 2);
    assert_eq!(store.usage().objects, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_the_tag_becomes_stale_and_stays() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    for (name, tags, size) in
        [("a", "x", 10), ("b", "x", 10 * KIB), ("c", "x", MIB), ("d", "z", 10)]
    {
        put(&store, name, tags, size).await;
    }
    assert_eq!(store.disk.catalog.purge(&scope("x"), Purging::Soft).unwrap(), 3);
    for (name, size) in [("a", 10), ("b", 10 * KIB), ("c", MIB)] {
        assert_eq!(is_stale(&store, name).await, Some(true), "{name}");
        assert_eq!(held(&store, &key(name)).await.unwrap(), bytes(size as u64, size));
    }
    assert_eq!(is_stale(&store, "d").await, Some(false));
    bench.close(store).await;
    let store = bench.open().await;
    assert_eq!(is_stale(&store, "c").await, Some(true), "it holds");
    assert_eq!(store.purge(&scope("x")), 3, "it still has its tags");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tags_that_count_are_those_of_the_newest_head() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    put(&store, "a", "x y", 10).await;
    put(&store, "a", "y z", 20).await;
    assert_eq!(store.purge(&scope("x")), 0);
    let found = store.get(&key("a")).await.unwrap();
    assert!(store.touch_meta(&key("a"), found.sha256, &tagged(&key("a"), "w z")));
    assert_eq!(store.purge(&scope("y")), 0);
    assert!(held(&store, &key("a")).await.is_some());
    let both = Scope::Tags { site: "main".to_owned(), tags: tags(&["z", "w"]) };
    assert_eq!(store.purge(&both), 1, "it has both, and is one");
    assert_eq!(store.purge(&scope("w")), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_goes_takes_its_tags_with_it() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    put(&store, "a", "x y", 10).await;
    put(&store, "b", "x y", MIB).await;
    assert!(store.remove(&key("a")));
    assert_eq!(rows(&store), 2);
    store.clear();
    assert_eq!(rows(&store), 0);
    bench.close(store).await;
}

fn rows(store: &Store) -> usize {
    store.disk.catalog.index.access().open().unwrap().tags_page(None, 100).unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_finds_tags_without_objects_and_objects_without_tags() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    put(&store, "a", "x", 10).await;
    put(&store, "b", "y", 10).await;
    {
        let access = store.disk.catalog.index.access();
        let index = access.open().unwrap();
        let row = |name| tags(&[name]).hashes("main")[0];
        let (x, y) = (row("x"), row("y"));
        let mut change = index.change();
        change.drop_record(key("a").hash(), &[]);
        change.drop_tag(y, key("b").hash());
        change.commit().unwrap();
        assert!(index.has_tag(x, key("a").hash()).unwrap());
    }
    bench.close(store).await;
    let check = |mode| {
        let report = Mutex::new(CheckReport::default());
        fsck(bench.place.path(), mode, &report).unwrap();
        let problems = report.into_inner().problems;
        let told = |kind: CheckFault, what: &str| {
            problems.iter().any(|p| p.kind == kind && p.detail.contains(what))
        };
        (
            told(CheckFault::Orphan, "a tag without an object"),
            told(CheckFault::Record, "a purge by its tags would not find it"),
        )
    };
    for mode in [Mode::Report, Mode::Report, Mode::Repair] {
        assert_eq!(check(mode), (true, true));
    }
    assert_eq!(check(Mode::Report), (false, false));
    let store = bench.open().await;
    assert_eq!(store.purge(&scope("y")), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_by_tag_that_a_disk_cannot_carry_out_holds_all_the_same() {
    let mut bench = Bench::new(64 * MIB);
    let disks = bench.disks(&[0, 1]).await;
    for number in 0..20 {
        let key = super::disks::numbered(number);
        let tags = if number % 2 == 0 { "even" } else { "odd" };
        put_as(&disks, tagged(&key, tags), &bytes(1, 10)).await.unwrap();
    }
    let stores = disks.stores();
    stores[0].disk.catalog.index.access().open().unwrap().refuse();
    drop(stores);
    disks.purge(&scope("odd"), Purging::Soft).await;
    disks.purge(&scope("even"), Purging::Hard).await;
    for number in 0..20 {
        let found = disks.get(&super::disks::numbered(number)).await;
        match found {
            None => {}
            Some(object) => assert!(number % 2 == 1 && object.meta.is_invalidated, "{number}"),
        }
    }
    bench.end(disks).await;
    let disks = bench.disks(&[0, 1]).await;
    disks.look();
    for number in (0..20).step_by(2) {
        assert!(disks.get(&super::disks::numbered(number)).await.is_none(), "{number}");
    }
    let mut left = 0;
    for number in (1..20).step_by(2) {
        if let Some(object) = disks.get(&super::disks::numbered(number)).await {
            assert!(object.meta.is_invalidated, "{number}");
            left += 1;
        }
    }
    assert!(left > 0, "the disk that took the purge kept what became stale");
}
