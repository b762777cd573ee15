//! What is known in memory of which keys there are, and what is promised without asking the disk.

use crate::object::Key;
use crate::store::eviction::accounting::Displaces;
use crate::store::eviction::reserve;
use crate::store::handle::Store;
use crate::store::tests::parts::LENGTH;
use crate::store::tests::variants::by_language;
use crate::store::tests::{Bench, KIB, MIB, bytes, held, key, meta, put, until};

/// Waits until the filter is whole.
async fn known(store: &Store) {
    until("a filter", || store.disk.catalog.lacks(key("never").hash())).await;
}

fn lacks(store: &Store, keys: &[Key]) -> Vec<bool> {
    keys.iter().map(|key| store.disk.catalog.lacks(key.hash())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_is_never_said_to_be_lacking() {
    let mut bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    let (page, partial) = (key("page"), key("partial"));
    let variant = page.variant(&by_language("en"));
    let keys = [key("small"), key("large"), page.clone(), variant.clone(), partial.clone()];
    put(&store, &keys[0], &bytes(1, 10)).await.unwrap();
    known(&store).await;
    put(&store, &keys[1], &bytes(2, 64 * KIB)).await.unwrap();
    assert_eq!(lacks(&store, &keys), [false, false, true, true, true]);
    super::variants::put(&store, &page, &by_language("en"), &bytes(3, 9)).await;
    let part = store.begin_part(meta(&partial), LENGTH as u64).await.unwrap();
    super::parts::keep(&part, 0, 1).await;
    drop(part);
    assert_eq!(lacks(&store, &keys), [false; 5]);
    assert!(store.disk.catalog.index.key_filter().memory_bytes() > 0);
    bench.close(store).await;

    let store = bench.open().await;
    assert_eq!(held(&store, &keys[0]).await.unwrap(), bytes(1, 10));
    known(&store).await;
    assert_eq!(lacks(&store, &keys), [false; 5]);
    assert!(store.remove(&keys[0]));
    assert_eq!(lacks(&store, &keys), [false; 5], "nothing is taken out");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_is_opened_again_may_have_anything() {
    let bench = Bench::new(64 * MIB);
    let store = bench.open().await;
    known(&store).await;
    store.disk.catalog.index.mark_failed();
    store.disk.catalog.index.revive().unwrap();
    assert!(!store.disk.catalog.lacks(key("never").hash()));
}

#[tokio::test(flavor = "multi_thread")]
async fn room_is_promised_at_once_only_where_there_is_plenty() {
    let bench = Bench::new(2 * MIB);
    let store = bench.open().await;
    let (catalog, space) = (&store.disk.catalog, &store.disk.catalog.accounting);
    catalog.free_space.forget();
    assert!(
        reserve::reserve_at_once(catalog, 1000, Displaces::Anything).is_none(),
        "the file system was not asked"
    );
    // What it said counts for a moment, which a busy machine may let pass.
    let both = (0..1_000).find_map(|_| {
        let asked = store.disk.reserve.reserve(catalog, 1000, Displaces::Anything).unwrap();
        Some((asked, reserve::reserve_at_once(catalog, 1_900_000, Displaces::Anything)?))
    });
    assert!(both.is_some() && store.usage().reserved_bytes == 1_901_000);
    assert!(
        space.reserve_free(300_000, Displaces::Anything).is_none(),
        "an object would have to go"
    );
    drop(both);
    assert_eq!(store.usage().reserved_bytes, 0);
    for name in ["a", "b"] {
        put(&store, &key(name), &bytes(1, 900 * KIB)).await.unwrap();
    }
    assert!(space.reserve_free(100_000, Displaces::Anything).is_some(), "there is so much left");
    assert!(
        space.reserve_free(300_000, Displaces::Anything).is_none(),
        "what is stored counts too"
    );
    put(&store, &key("c"), &bytes(1, 900 * KIB)).await.unwrap();
    assert!(held(&store, &key("a")).await.is_none(), "it made room");
}
