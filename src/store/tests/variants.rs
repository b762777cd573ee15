//! Several variants of one object: kept beside each other, listed, bounded, purged together.

use crate::object::{Key, Meta, Variant};
use crate::store::handle::Store;
use crate::store::remove::VARIANTS_MAX;
use crate::store::tests::{Bench, KIB, MIB, bytes, held, key, meta};
use bytes::Bytes;
use http::{HeaderValue, header};

pub(super) fn by_language(language: &str) -> Variant {
    let value = HeaderValue::from_str(language).unwrap();
    Variant::new([(header::ACCEPT_LANGUAGE, Some(value)), (header::ACCEPT, None)])
}

pub(super) async fn put(store: &Store, key: &Key, variant: &Variant, body: &Bytes) -> Key {
    let key = key.variant(variant);
    let mut pending = store.begin(&key, Some(body.len() as u64)).await.unwrap();
    pending.append(body.clone()).await.unwrap();
    let meta = Meta { variant: variant.clone(), ..meta(&key) };
    pending.seal().await.unwrap().commit(meta, None).unwrap();
    key
}

fn listed(store: &Store, key: &Key) -> Vec<Key> {
    let mut keys: Vec<Key> = store.variants(key).into_iter().map(|(key, _)| key).collect();
    keys.sort();
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn variants_are_found_by_their_object_and_survive_a_restart() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let (page, other) = (key("page"), key("other"));
    let mut expected = Vec::new();
    for (number, language) in ["en", "de", "fr"].into_iter().enumerate() {
        let body = bytes(number as u64, [10, 64 * KIB, 100][number]);
        let variant = by_language(language);
        let key = put(&store, &page, &variant, &body).await;
        assert!(store.variants(&page).contains(&(key.clone(), variant)));
        expected.push((key, body));
    }
    put(&store, &other, &by_language("en"), &bytes(9, 5)).await;
    bench.close(store).await;

    let store = bench.open().await;
    let mut keys: Vec<Key> = expected.iter().map(|(key, _)| key.clone()).collect();
    keys.sort();
    assert_eq!(listed(&store, &page), keys);
    for (key, body) in &expected {
        assert_eq!(held(&store, key).await.as_ref(), Some(body));
        let found = store.get(key).await.unwrap();
        assert!(found.meta.variant.fields().iter().any(|(name, _)| name == header::ACCEPT));
    }
    assert!(store.get(&page).await.is_none(), "the object itself was never stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_of_an_object_takes_all_its_variants() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let (page, other) = (key("page"), key("other"));
    let kept = put(&store, &other, &by_language("en"), &bytes(1, 9)).await;
    let one = put(&store, &page, &by_language("en"), &bytes(2, 80 * KIB)).await;
    let two = put(&store, &page, &by_language("de"), &bytes(3, 9)).await;
    assert!(store.remove(&one), "one of them alone");
    assert_eq!(listed(&store, &page), std::slice::from_ref(&two));
    let one = put(&store, &page, &by_language("en"), &bytes(2, 80 * KIB)).await;
    assert!(store.remove(&page) && !store.remove(&page));
    assert!(held(&store, &one).await.is_none() && held(&store, &two).await.is_none());
    assert!(store.variants(&page).is_empty() && bench.files().is_empty());
    assert_eq!(listed(&store, &other), [kept]);
    assert_eq!(store.usage().objects, 1);
    assert_eq!(store.remove_matching("main", "/nar/oth"), 1);
    assert!(store.variants(&other).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_too_many_variants_the_oldest_go() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let page = key("page");
    let mut keys = Vec::new();
    for number in 0..VARIANTS_MAX + 3 {
        keys.push(put(&store, &page, &by_language(&number.to_string()), &bytes(1, 9)).await);
    }
    let mut newest = keys.split_off(3);
    newest.sort();
    assert_eq!(listed(&store, &page), newest);
    assert_eq!(store.usage().objects, VARIANTS_MAX as u64);
    // One that is stored again is no new one.
    put(&store, &page, &by_language("9"), &bytes(2, 9)).await;
    assert_eq!(listed(&store, &page), newest);
}
