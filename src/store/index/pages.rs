//! Walks over the index, a page at a time. Blocking; no lock.

use crate::object::KeyHash;
use crate::store::error::IndexError;
use crate::store::eviction::order::EvictionEntry;
use crate::store::format::CHARGE_UNIT;
use crate::store::index::engine::Keyspace;
use crate::store::index::keyspaces::{Keyspaces, insertion, of_insertion, pair};
use fjall::Slice;
use std::ops::Bound;

impl Keyspaces {
    /// At most `max` records in the order of their hashes, from the first one after `after`.
    pub(in crate::store) fn page(
        &self,
        after: Option<KeyHash>,
        max: usize,
    ) -> Result<Vec<(KeyHash, Slice)>, IndexError> {
        page(&self.objects, after, max)
    }

    /// At most `max` insertions from the sequence `from` on, in their order, each with its key.
    pub(in crate::store) fn order_page(
        &self,
        from: u64,
        max: usize,
    ) -> Result<Vec<(EvictionEntry, KeyHash)>, IndexError> {
        let mut entries = Vec::with_capacity(max.min(4096));
        for guard in self.order.range(from.to_be_bytes()..).take(max) {
            let (sequence, place) = guard.into_inner()?;
            if let Ok(sequence) = <[u8; 8]>::try_from(&*sequence)
                && let Some((key, units)) = place.split_first_chunk()
                && let Ok(units) = <[u8; 4]>::try_from(units)
            {
                let charge = u64::from(u32::from_le_bytes(units)) * CHARGE_UNIT;
                let entry = EvictionEntry { sequence: u64::from_be_bytes(sequence), charge };
                entries.push((entry, KeyHash(*key)));
            }
        }
        Ok(entries)
    }

    /// At most `max` claims in the order of their hashes, from the first one after `after`.
    pub(in crate::store) fn claims_page(
        &self,
        after: Option<KeyHash>,
        max: usize,
    ) -> Result<Vec<(KeyHash, Slice)>, IndexError> {
        page(&self.claims, after, max)
    }

    /// At most `max` records of partial objects in the order of their hashes, from the first one
    /// after `after`.
    pub(in crate::store) fn parts_page(
        &self,
        after: Option<KeyHash>,
        max: usize,
    ) -> Result<Vec<(KeyHash, Slice)>, IndexError> {
        page(&self.parts, after, max)
    }

    /// At most `max` variants after the one `after`: the hash of the key without and with it.
    pub(in crate::store) fn variants_page(
        &self,
        after: Option<(KeyHash, KeyHash)>,
        max: usize,
    ) -> Result<Vec<(KeyHash, KeyHash)>, IndexError> {
        pairs_page(&self.variants, after.map(|(primary, variant)| pair(primary, variant)), max)
    }

    /// At most `max` insertions with a small body beside their record, from the first one after
    /// `after`.
    pub(in crate::store) fn bodies_page(
        &self,
        after: Option<(KeyHash, u64)>,
        max: usize,
    ) -> Result<Vec<(KeyHash, u64)>, IndexError> {
        insertions_page(&self.bodies, after, max)
    }

    /// At most `max` files that may be there without a record, from the first one after `after`.
    pub(in crate::store) fn links_page(
        &self,
        after: Option<(KeyHash, u64)>,
        max: usize,
    ) -> Result<Vec<(KeyHash, u64)>, IndexError> {
        insertions_page(&self.links, after, max)
    }
}

fn insertions_page(
    keyspace: &Keyspace,
    after: Option<(KeyHash, u64)>,
    max: usize,
) -> Result<Vec<(KeyHash, u64)>, IndexError> {
    let from = after
        .map_or(Bound::Unbounded, |(hash, sequence)| Bound::Excluded(insertion(hash, sequence)));
    let mut found = Vec::new();
    for guard in keyspace.range::<[u8; 24], _>((from, Bound::Unbounded)).take(max) {
        found.extend(of_insertion(&guard.key()?));
    }
    Ok(found)
}

fn page(
    keyspace: &Keyspace,
    after: Option<KeyHash>,
    max: usize,
) -> Result<Vec<(KeyHash, Slice)>, IndexError> {
    let from = after.map_or(Bound::Unbounded, |hash| Bound::Excluded(hash.0));
    let mut entries = Vec::with_capacity(max.min(4096));
    for guard in keyspace.range::<[u8; 16], _>((from, Bound::Unbounded)).take(max) {
        let (key, value) = guard.into_inner()?;
        if let Ok(hash) = <[u8; 16]>::try_from(&*key) {
            entries.push((KeyHash(hash), value));
        }
    }
    Ok(entries)
}

/// At most `max` keys of two hashes, after the one `after`.
pub(super) fn pairs_page(
    keyspace: &Keyspace,
    after: Option<[u8; 32]>,
    max: usize,
) -> Result<Vec<(KeyHash, KeyHash)>, IndexError> {
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut pairs = Vec::new();
    for guard in keyspace.range::<[u8; 32], _>((from, Bound::Unbounded)).take(max) {
        let key = guard.key()?;
        if let (Some(one), Some(other)) = (key.first_chunk(), key.last_chunk()) {
            pairs.push((KeyHash(*one), KeyHash(*other)));
        }
    }
    Ok(pairs)
}
