//! Claims beside the objects that make them: a claim goes with its owner, and with nothing else.

use crate::object::{Key, NarClaim};
use crate::store::eviction::accounting::Displaces;
use crate::store::format;
use crate::store::handle::Store;
use crate::store::tests::{Bench, MIB, bytes, key, meta, put_with};
use std::sync::Arc;
use std::thread;

fn claim(size: u64) -> NarClaim {
    NarClaim { file_hash: None, file_size: Some(size), source: None, contents: None }
}

/// Two narinfos that share no stripe; the hash of the first comes first.
fn narinfos() -> [Key; 2] {
    let stripe = |key: &Key| key.hash().0[15] % 64;
    let first = key("0.narinfo");
    let is_behind = |other: &Key| other.hash() > first.hash() && stripe(other) != stripe(&first);
    let other = (1..1_000).map(|number| key(&format!("{number}.narinfo"))).find(is_behind);
    [first, other.unwrap()]
}

/// Stores a narinfo that makes a claim, whatever waits meanwhile.
fn put_beside(store: &Store, narinfo: &Key, nar: &Key, size: u64) {
    let body = bytes(size, 100);
    let reservation = store
        .disk
        .reserve
        .reserve(&store.disk.catalog, format::charge(100), Displaces::Anything)
        .unwrap();
    let inner = Arc::clone(&store.disk);
    let proven = super::super::ProvenObject::whole(inner, narinfo.clone(), body, reservation);
    let sealed = proven.unwrap().seal().unwrap();
    sealed.commit(meta(narinfo), Some((nar.clone(), claim(size)))).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_of_everything_leaves_the_claim_of_a_narinfo_that_came_since() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let ([first, last], nar, other) = (narinfos(), key("a.nar.zst"), key("b.nar.zst"));
    put_with(&store, &last, &bytes(1, 100), Some((other.clone(), claim(1)))).await.unwrap();
    let hold = store.disk.catalog.faults.hold("a record is to be dropped");
    let purging = thread::spawn({
        let store = store.clone();
        move || store.clear()
    });
    hold.until_reached().await;
    // The walk has passed it.
    put_beside(&store, &first, &nar, 2);
    drop(hold);
    assert_eq!(purging.join().unwrap(), 1);
    assert!(store.get(&first).await.is_some());
    assert_eq!(store.claim(&nar), Some(claim(2)));
    assert_eq!(store.claim(&other), None);
}

/// FAULTS.md S16c.
#[tokio::test(flavor = "multi_thread")]
async fn a_narinfo_that_goes_leaves_the_claim_that_another_has_just_made() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let ([first, last], nar) = (narinfos(), key("a.nar.zst"));
    put_with(&store, &first, &bytes(1, 100), Some((nar.clone(), claim(1)))).await.unwrap();
    let hold = store.disk.catalog.faults.hold("a record is to be dropped");
    let removing = thread::spawn({
        let (store, first) = (store.clone(), first.clone());
        move || store.remove(&first)
    });
    hold.until_reached().await;
    put_beside(&store, &last, &nar, 2);
    drop(hold);
    assert!(removing.join().unwrap());
    assert_eq!(store.claim(&nar), Some(claim(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_cannot_be_read_takes_no_newer_one_with_it() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let ([first, _], nar) = (narinfos(), key("a.nar.zst"));
    {
        let access = store.disk.catalog.index.access();
        let mut change = access.open().unwrap().change();
        change.set_claim(nar.hash(), b"garbage");
        change.commit().unwrap();
    }
    let hold = store.disk.catalog.faults.hold("a claim is to be dropped");
    let asking = thread::spawn({
        let (store, nar) = (store.clone(), nar.clone());
        move || store.claim(&nar)
    });
    hold.until_reached().await;
    put_beside(&store, &first, &nar, 2);
    drop(hold);
    assert_eq!(asking.join().unwrap(), None);
    assert_eq!(store.claim(&nar), Some(claim(2)));
}
