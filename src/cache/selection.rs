//! Looking for the variant of an object that a request selects (RFC 9111 section 4.1). Called by
//! `engine` and `fill`.

use super::found::Hit;
use super::tiers::Cache;
use super::variants::KnownVariants;
use crate::object::{Key, Meta, Variant};
use crate::store::StoredVariants;
use std::sync::Arc;

/// Variants of an object that are examined for one request.
const SIMILAR_MAX: usize = 8;

impl Cache {
    /// As [`Cache::peek`] for the object of `primary`, or the variant of it that `selects` takes,
    /// as far as memory tells without doubt.
    pub fn peek_selected(&self, primary: &Key, selects: impl Fn(&Variant) -> bool) -> Option<Hit> {
        match self.variants.of(primary).filter(|known| !known.list.is_empty()) {
            None => self.peek(primary.as_str()),
            Some(known) => {
                let (key, _) = known.list.iter().find(|(_, variant)| selects(variant))?;
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
        if known.as_ref().is_none_or(|known| known.list.is_empty())
            && let Some(hit) = self.lookup(primary).await
        {
            return Some(hit);
        }
        for (key, variant) in &self.all_variants(primary, known).await.list {
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
        let known = self.variants.of(primary)?;
        for (key, variant) in known.list.iter().take(SIMILAR_MAX) {
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
        !self.all_variants(primary, known).await.list.is_empty()
    }

    /// All variants of an object of which memory knows so much.
    async fn all_variants(
        &self,
        primary: &Key,
        known: Option<Arc<KnownVariants>>,
    ) -> Arc<KnownVariants> {
        if let Some(known) = known.filter(|known| known.is_whole) {
            return known;
        }
        let ticket = self.variants.ticket(primary);
        let found = match &self.store {
            Some(store) => store.variants(primary).await,
            None => StoredVariants { list: Vec::new(), is_whole: true },
        };
        self.variants.learn(primary, ticket, found)
    }
}
