//! Which variants of an object are stored (RFC 9111 section 4.1): what a request is compared with
//! before anything else is looked up. One map per cache, bounded; read from disk where it says
//! nothing. Short locks of its own, never held across an await.
//!
//! A response that does not vary stands under the object's own key, and one that does under its
//! variant's. Either takes the place of the other kind when it is published, so the newest response
//! decides whether the object varies.

use super::Cache;
use crate::cache::Hit;
use crate::object::{Key, Meta, Variant};
use quick_cache::sync::Cache as Recent;
use std::sync::Arc;

/// Objects whose variants are remembered in memory.
const OBJECTS_MAX: usize = 16_384;
/// Variants of one object that are compared.
const VARIANTS_MAX: usize = 64;

/// Variants whose responses are looked at for one request.
const SIMILAR_MAX: usize = 8;

/// The variants of some objects, newest first.
type List = Arc<[(Key, Variant)]>;

/// What is known of variants.
#[derive(Debug)]
pub(super) struct Variants(Recent<Key, List>);

impl Default for Variants {
    fn default() -> Self {
        Self(Recent::new(OBJECTS_MAX))
    }
}

impl Variants {
    fn of(&self, primary: &Key) -> Option<List> {
        self.0.get(primary)
    }

    fn put(&self, primary: &Key, list: List) {
        self.0.insert(primary.clone(), list);
    }

    /// Forgets the list of one object, or of all.
    pub(super) fn forget(&self, key: Option<&Key>) {
        match key {
            Some(key) => {
                self.0.remove(key);
            }
            None => self.0.clear(),
        }
    }
}

impl Cache {
    /// As [`Cache::peek`] for the object of `primary`, or the variant of it that `selects` takes,
    /// as far as memory tells without doubt.
    pub fn peek_selected(&self, primary: &Key, selects: impl Fn(&Variant) -> bool) -> Option<Hit> {
        match self.variants.of(primary).filter(|list| !list.is_empty()) {
            None => self.peek(primary.as_str()),
            Some(list) => {
                let (key, _) = list.iter().find(|(_, variant)| selects(variant))?;
                self.peek(key.as_str())
            }
        }
    }

    /// Looks for the object of `primary`, or for the variant of it that `selects` takes, in memory
    /// and on disk.
    pub async fn lookup_selected(
        &self,
        primary: &Key,
        selects: impl Fn(&Variant) -> bool,
    ) -> Option<Hit> {
        let known = self.variants.of(primary);
        if known.as_ref().is_none_or(|list| list.is_empty())
            && let Some(hit) = self.lookup(primary).await
        {
            return Some(hit);
        }
        let list = match known {
            Some(list) => list,
            None => self.variants_on_disk(primary).await,
        };
        for (key, variant) in list.iter() {
            if selects(variant)
                && let Some(hit) = self.lookup(key).await
            {
                return Some(hit);
            }
        }
        None
    }

    /// The response stored for a variant of `primary` of which `selects` says, head in hand, that
    /// it serves; at most a few are looked at. For a request that selects none outright.
    pub async fn lookup_similar(
        &self,
        primary: &Key,
        selects: impl Fn(&Variant, &Meta) -> bool,
    ) -> Option<Hit> {
        let list = self.variants.of(primary)?;
        for (key, variant) in list.iter().take(SIMILAR_MAX) {
            let hit = self.lookup(key).await;
            if let Some(Hit::Memory(found) | Hit::Disk(found)) = &hit
                && selects(variant, &found.meta())
            {
                return hit;
            }
        }
        None
    }

    /// Whether any variant of the object of `primary` is stored.
    pub async fn has_variants(&self, primary: &Key) -> bool {
        let known = self.variants.of(primary);
        let list = match known {
            Some(list) => list,
            None => self.variants_on_disk(primary).await,
        };
        !list.is_empty()
    }

    async fn variants_on_disk(&self, primary: &Key) -> List {
        let (own, ticket) = (primary.clone(), self.heating.ticket());
        let found = self.on_disk(move |store| store.variants(&own)).await.unwrap_or_default();
        let list: List = found.into();
        if let Some(_leave) = self.heating.leave_unseen(ticket, primary) {
            self.variants.put(primary, Arc::clone(&list));
        }
        list
    }

    /// What was just published under `meta.key` decides whether its object varies: responses of the
    /// other kind go. Blocking.
    pub(super) fn settle_variants(&self, meta: &Meta) {
        let primary = meta.key.primary();
        let known = self.variants.of(&primary);
        if meta.key.is_variant() {
            let on_disk = || self.store.as_ref().map(|store| store.variants(&primary));
            let mut list: Vec<_> = match known {
                Some(list) => list.to_vec(),
                None => on_disk().unwrap_or_default(),
            };
            list.retain(|(key, _)| *key != meta.key);
            list.insert(0, (meta.key.clone(), meta.variant.clone()));
            list.truncate(VARIANTS_MAX);
            self.variants.put(&primary, list.into());
            self.drop_one(&primary);
            if let Some(store) = &self.store {
                store.remove_part(&primary);
            }
            return;
        }
        let list = match known {
            Some(list) => list,
            None => self.store.as_ref().map(|s| s.variants(&primary)).unwrap_or_default().into(),
        };
        for (key, _) in list.iter() {
            self.drop_one(key);
        }
        self.variants.put(&primary, List::default());
    }

    fn drop_one(&self, key: &Key) {
        self.memory.remove_one(key);
        if let Some(store) = &self.store {
            store.drop_one(key);
        }
    }
}
