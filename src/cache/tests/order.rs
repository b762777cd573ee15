//! What takes the place of what: absences, responses that vary and that do not, claims.

use super::{cache_on, key, meta};
use crate::cache::{Cache, FenceEpoch, Hit, PurgeOutcome, Purging, Scope};
use crate::config::MemorySettings;
use crate::memory::Memory;
use crate::metrics::Metrics;
use crate::nix::Class;
use crate::object::{Key, Meta, NarClaim, PurgeTags, Sha256, Tag, Variant};
use crate::tasks::Tasks;
use bytes::Bytes;
use http::{HeaderValue, header};
use std::sync::Arc;

const BODY: Bytes = Bytes::from_static(b"body");

/// What a page has, or one variant of it.
pub(super) fn page(language: Option<&str>) -> Meta {
    let primary = key(1);
    let value = |language| HeaderValue::from_str(language).unwrap();
    let by = |language| Variant::new([(header::ACCEPT_LANGUAGE, Some(value(language)))]);
    let variant = language.map(by).unwrap_or_default();
    let key = if variant.is_empty() { primary } else { primary.variant(&variant) };
    Meta { class: Class::Other, variant, ..meta(&key) }
}

async fn put(cache: &Cache, ticket: FenceEpoch, meta: Meta) {
    cache.publish_small(ticket, meta, BODY, None).await.unwrap();
}

pub(super) async fn selects(cache: &Cache, language: &str) -> Option<Hit> {
    let wanted = page(Some(language)).variant;
    cache.lookup_selected(&key(1), |variant| *variant == wanted).await
}

async fn is_there(cache: &Cache, key: &Key) -> bool {
    matches!(cache.lookup(key).await, Some(Hit::Memory(_) | Hit::Disk(_)))
}

#[tokio::test]
async fn an_absence_removes_what_is_older_than_its_fetch_and_nothing_newer() {
    let place = tempfile::tempdir().unwrap();
    let (cache, _metrics) = cache_on(place.path(), 64 << 20);
    put(&cache, cache.ticket(), meta(&key(1))).await;
    let before = cache.ticket();
    put(&cache, cache.ticket(), meta(&key(2))).await;
    for number in [1, 2] {
        cache.publish_absent(before, Arc::new(meta(&key(number)))).await.unwrap();
    }
    assert!(matches!(cache.peek(key(1).as_str()), Some(Hit::Absent(_))));
    assert!(matches!(cache.peek(key(2).as_str()), Some(Hit::Memory(_))), "it came later");
    cache.drop_memory();
    assert!(!is_there(&cache, &key(1)).await);
    assert!(is_there(&cache, &key(2)).await, "on the disk too");
    cache.publish_absent(cache.ticket(), Arc::new(meta(&key(2)))).await.unwrap();
    cache.drop_memory();
    assert!(!is_there(&cache, &key(2)).await);
}

#[tokio::test]
async fn a_soft_purge_makes_every_variant_stale_wherever_it_is() {
    let place = tempfile::tempdir().unwrap();
    let (cache, _metrics) = cache_on(place.path(), 64 << 20);
    for is_cold in [false, true] {
        for language in ["de", "en"] {
            put(&cache, cache.ticket(), page(Some(language))).await;
        }
        if is_cold {
            cache.drop_memory();
        }
        assert_eq!(cache.purge(Scope::Key(key(1)), Purging::Soft).await, PurgeOutcome::of(2));
        for _ in 0..2 {
            for language in ["de", "en"] {
                let Some(Hit::Memory(found) | Hit::Disk(found)) = selects(&cache, language).await
                else {
                    panic!("a soft purge drops nothing");
                };
                assert!(found.meta().is_invalidated, "{language}");
            }
            cache.drop_memory();
        }
    }
}

#[tokio::test]
async fn a_soft_purge_of_a_prefix_makes_all_below_it_stale() {
    let place = tempfile::tempdir().unwrap();
    let (cache, _metrics) = cache_on(place.path(), 64 << 20);
    for number in [1, 11, 2] {
        put(&cache, cache.ticket(), meta(&key(number))).await;
    }
    let prefix = Scope::Prefix { site: "s".to_owned(), prefix: "/1".to_owned() };
    assert_eq!(cache.purge(prefix, Purging::Soft).await, PurgeOutcome::of(2));
    for _ in 0..2 {
        for (number, is_stale) in [(1, true), (11, true), (2, false)] {
            let Some(Hit::Memory(found) | Hit::Disk(found)) = cache.lookup(&key(number)).await
            else {
                panic!("{number} is there");
            };
            assert_eq!(found.meta().is_invalidated, is_stale, "{number}");
        }
        cache.drop_memory();
    }
}

/// Without a disk a list is all that leads to variants.
#[tokio::test]
async fn a_purge_of_a_prefix_leaves_the_variants_of_all_else() {
    let settings = MemorySettings { size: 16 << 20, absent_size: 1 << 20 };
    let memory = Memory::new(&settings, &Metrics::new().unwrap());
    let cache = Cache::new(memory, None, Tasks::new());
    for (site, prefix, is_left) in [("t", "/", true), ("s", "/2", true), ("s", "/1", false)] {
        put(&cache, cache.ticket(), page(Some("de"))).await;
        let scope = Scope::Prefix { site: site.to_owned(), prefix: prefix.to_owned() };
        cache.purge(scope, Purging::Hard).await;
        assert_eq!(selects(&cache, "de").await.is_some(), is_left, "{site} {prefix}");
    }
}

#[tokio::test]
async fn the_newest_response_decides_whether_an_object_varies() {
    let place = tempfile::tempdir().unwrap();
    let (cache, _metrics) = cache_on(place.path(), 64 << 20);
    put(&cache, cache.ticket(), page(None)).await;
    put(&cache, cache.ticket(), page(Some("de"))).await;
    for _ in 0..2 {
        assert!(selects(&cache, "en").await.is_none(), "the one that did not vary has gone");
        assert!(selects(&cache, "de").await.is_some());
        cache.drop_memory();
    }
    put(&cache, cache.ticket(), page(None)).await;
    for _ in 0..2 {
        assert!(selects(&cache, "en").await.is_some());
        assert!(!is_there(&cache, &page(Some("de")).key).await);
        cache.drop_memory();
    }
}

/// FAULTS.md S9.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn variants_that_are_published_at_once_are_all_found() {
    let place = tempfile::tempdir().unwrap();
    let (cache, _metrics) = cache_on(place.path(), 64 << 20);
    for round in 0..20 {
        // A look-up reads the list from the disk meanwhile.
        cache.drop_memory();
        let languages: Vec<String> = (0..6).map(|number| format!("{round}-{number}")).collect();
        let publishing = languages.iter().map(|language| {
            let (cache, meta) = (cache.clone(), page(Some(language)));
            tokio::spawn(async move {
                let primary = key(1);
                let looking = cache.has_variants(&primary);
                let (_, ()) = tokio::join!(looking, put(&cache, cache.ticket(), meta));
            })
        });
        for published in publishing.collect::<Vec<_>>() {
            published.await.unwrap();
        }
        for language in &languages {
            assert!(selects(&cache, language).await.is_some(), "{language}");
        }
    }
}

/// FAULTS.md S8.
#[tokio::test]
async fn a_claim_goes_with_its_narinfo_however_that_is_purged() {
    let claim = |byte| {
        let file_hash = Some(Sha256([byte; 32]));
        NarClaim { file_hash, file_size: Some(1), source: None, contents: None }
    };
    let (narinfo, nar) = (key(1), Key::new("s", "/nar/x.nar.xz", None));
    let tags = PurgeTags::new([Tag::parse("t").unwrap()]);
    for scope in [
        Scope::Key(narinfo.clone()),
        Scope::Prefix { site: "s".to_owned(), prefix: "/1".to_owned() },
        Scope::Tags { site: "s".to_owned(), tags },
        Scope::All,
    ] {
        let place = tempfile::tempdir().unwrap();
        let (cache, _metrics) = cache_on(place.path(), 64 << 20);
        let mut head = meta(&narinfo);
        head.headers.insert("surrogate-key", HeaderValue::from_static("t"));
        let says = async |byte| {
            let claims = Some((nar.clone(), claim(byte)));
            cache.publish_small(cache.ticket(), head.clone(), BODY, claims).await.unwrap();
        };
        says(1).await;
        assert_eq!(cache.claim(&nar).await.unwrap(), Some(claim(1)));
        cache.purge(Scope::Key(key(2)), Purging::Hard).await;
        assert_eq!(cache.claim(&nar).await.unwrap(), Some(claim(1)), "another was purged");
        cache.purge(scope.clone(), Purging::Hard).await;
        assert_eq!(cache.claim(&nar).await.unwrap(), None, "{scope:?}");

        says(1).await;
        let before = cache.ticket();
        says(1).await;
        assert!(!cache.is_purged_since(before, &nar), "it says the same");
        says(2).await;
        assert!(cache.is_purged_since(before, &nar), "what was found by the old claim is over");
        assert_eq!(cache.claim(&nar).await.unwrap(), Some(claim(2)));
    }
}
