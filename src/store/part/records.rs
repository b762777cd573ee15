//! The records of parts in the index: which part a key has and what it counts, dropped, replaced
//! and counted. Knows no part that is open. Blocking. Locks as the module says.

use crate::object::KeyHash;
use crate::store::catalog::Catalog;
use crate::store::erasure::Erasure;
use crate::store::error::IndexError;
use crate::store::eviction::order::EvictionEntry;
use crate::store::format::{self, INLINE_BYTES_MAX};
use crate::store::index::{Change, Keyspaces};
use crate::store::part::table::ChunkTable;
use fjall::Slice;
use tokio_util::sync::CancellationToken;

/// Records of parts that are looked at in one go.
pub(in crate::store) const PAGE: usize = 1024;
/// Parts that are counted in one go, while no part may change.
pub(in crate::store) const COUNTED_AT_ONCE: usize = 32;

/// Bytes that a part with so many bytes in the index counts against the limit. With all of them it
/// is what the whole object counts.
pub(super) fn charge_of(bytes: u64) -> u64 {
    format::charge(bytes.max(INLINE_BYTES_MAX))
}

pub(super) fn is_ours(index: &Keyspaces, hash: KeyHash, sequence: u64) -> Result<bool, IndexError> {
    let record = index.part(hash)?;
    let head = record.and_then(|record| format::decode_head(&record).ok());
    Ok(head.is_some_and(|head| head.sequence == sequence))
}

/// The insertion of the part of a key, and what it counts. If its record cannot be read, its
/// chunks name the insertion.
pub(in crate::store) fn part_of(
    index: &Keyspaces,
    hash: KeyHash,
) -> Result<Option<EvictionEntry>, IndexError> {
    let Some(record) = index.part(hash)? else { return Ok(None) };
    let Ok(head) = format::decode_head(&record) else {
        let sequence = index.insertion_of_chunks(hash)?.unwrap_or_default();
        return Ok(Some(EvictionEntry { sequence, charge: charge_of(0) }));
    };
    let chunks = index.chunks(hash, head.sequence)?;
    let table = ChunkTable::new(head.length);
    let bytes = chunks.iter().map(|(number, _)| table.bytes(*number)).sum();
    Ok(Some(EvictionEntry { sequence: head.sequence, charge: charge_of(bytes) }))
}

/// Whether an insertion is that of a part.
pub(in crate::store) fn is_part(
    index: &Keyspaces,
    hash: KeyHash,
    sequence: u64,
) -> Result<bool, IndexError> {
    Ok(part_of(index, hash)?.is_some_and(|part| part.sequence == sequence))
}

pub(in crate::store) fn part_damaged(
    catalog: &Catalog,
    hash: KeyHash,
    which: Erasure<'_>,
    why: &str,
) {
    if part_went(catalog, drop_part(catalog, hash, which)) {
        catalog.count_damaged(&hash.to_string(), why);
    }
}

pub(in crate::store) fn part_went(catalog: &Catalog, dropped: Result<bool, IndexError>) -> bool {
    dropped.unwrap_or_else(|error| {
        catalog.index_failed(&error);
        false
    })
}

pub(in crate::store) fn drop_part(
    catalog: &Catalog,
    hash: KeyHash,
    which: Erasure<'_>,
) -> Result<bool, IndexError> {
    let _parts = catalog.counted_parts.changing.read();
    let stripe = catalog.stripe(hash).lock();
    let access = catalog.index.access();
    let index = access.open()?;
    let dropped = erase_part(catalog, index, hash, which)?;
    drop(stripe);
    if let Some(sequence) = dropped {
        catalog.unlink(index, hash, sequence);
    }
    Ok(dropped.is_some())
}

/// Takes the record of a part away, under its caller's locks; the insertion of the file that is to
/// be unlinked, if there was one.
pub(in crate::store) fn erase_part(
    catalog: &Catalog,
    index: &Keyspaces,
    hash: KeyHash,
    which: Erasure<'_>,
) -> Result<Option<u64>, IndexError> {
    let is_meant = |record: Slice| which.means(&record);
    if !index.part(hash)?.is_some_and(is_meant) {
        return Ok(None);
    }
    let Some(part) = part_of(index, hash)? else { return Ok(None) };
    let EvictionEntry { sequence, charge } = part;
    let mut change = index.change();
    change.drop_part(hash, sequence)?;
    change.drop_order(sequence);
    change.set_link(hash, sequence);
    change.commit()?;
    catalog.accounting.remove(part);
    catalog.show_part(hash, -1, 0, charge);
    Ok(Some(sequence))
}

/// Lets a whole object take the place of a part, in the change that places it; the part.
pub(in crate::store) fn replace_part(
    index: &Keyspaces,
    change: &mut Change<'_>,
    hash: KeyHash,
) -> Result<Option<EvictionEntry>, IndexError> {
    let Some(part) = part_of(index, hash)? else { return Ok(None) };
    change.drop_part(hash, part.sequence)?;
    change.drop_order(part.sequence);
    change.set_link(hash, part.sequence);
    Ok(Some(part))
}

/// Counts the parts that are not counted yet, a few at a time, which do not change meanwhile.
/// After an error it goes on at the same part. Ends early when the store is left.
pub(in crate::store) fn count_parts(
    catalog: &Catalog,
    leaving: &CancellationToken,
) -> Result<(), IndexError> {
    while !catalog.counted_parts.are_all() && !leaving.is_cancelled() {
        count_some_parts(catalog)?;
        #[cfg(test)]
        catalog.faults.reach("some parts are counted");
    }
    Ok(())
}

fn count_some_parts(catalog: &Catalog) -> Result<(), IndexError> {
    let _parts = catalog.counted_parts.changing.write();
    #[cfg(test)]
    catalog.faults.reach("the parts are to be counted");
    let access = catalog.index.access();
    let index = access.open()?;
    let page = index.parts_page(catalog.counted_parts.last(), COUNTED_AT_ONCE)?;
    let last = page.last().map(|(last, _)| *last);
    let (mut objects, mut bytes) = (0, 0);
    for (hash, _) in page {
        let Some(part) = part_of(index, hash)? else { continue };
        objects += 1;
        bytes += signed(part.charge);
    }
    catalog.counted_parts.add_up_to(last, [objects, bytes]);
    Ok(())
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
