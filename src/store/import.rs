//! Many small objects in one change of the index: the same bytes on disk as a commit of each, for
//! the price of one. Blocking. Locks: every stripe, in their order, so all changes wait meanwhile;
//! called to fill a store in bulk.

use crate::object::{KeyHash, Meta, Sha256};
use crate::store::commit::unencodable;
use crate::store::disk_store::DiskStore;
use crate::store::error::WriteError;
use crate::store::eviction::accounting::Displaces;
use crate::store::eviction::order::EvictionEntry;
use crate::store::format::{self, BodyPlace, INLINE_BYTES_MAX, RecordHead};
use bytes::Bytes;
use std::collections::HashSet;

/// Puts objects below 64 KiB in the store, all of them or none, without claims; how many. One
/// with a key that is stored already, or comes twice, is left out. Evicts others until they fit;
/// refuses all if they never do. Blocking, and holds up every other change: a thousand at a
/// time are enough.
pub(super) fn import(store: &DiskStore, objects: Vec<(Meta, Bytes)>) -> Result<usize, WriteError> {
    try_import(store, objects).inspect_err(|error| store.catalog.write_failed(error))
}

fn try_import(store: &DiskStore, objects: Vec<(Meta, Bytes)>) -> Result<usize, WriteError> {
    let catalog = &store.catalog;
    let length = |(_, body): &(Meta, Bytes)| body.len() as u64;
    let large = objects.iter().map(length).find(|length| BodyPlace::of(*length).is_file());
    if let Some(bytes) = large {
        return Err(WriteError::TooLarge { bytes, limit: INLINE_BYTES_MAX - 1 });
    }
    // Evicting takes a stripe, so space is made before any is held.
    let bytes = objects.iter().map(|o| format::charge(length(o))).sum();
    let reservation = store.reserve.reserve(catalog, bytes, Displaces::Anything)?;
    let _stripes: Vec<_> = catalog.stripes.iter().map(crate::sync::Mutex::lock).collect();
    let access = catalog.index.access();
    let index = access.open()?;
    let (mut change, mut seen) = (index.change(), HashSet::new());
    let mut placed: Vec<(KeyHash, RecordHead)> = Vec::with_capacity(objects.len());
    for (meta, body) in objects {
        let hash = meta.key.hash();
        if !seen.insert(hash) || index.record(hash)?.is_some() {
            continue;
        }
        let head = RecordHead {
            sequence: catalog.next_sequence(),
            length: body.len() as u64,
            sha256: Sha256::of(&body),
            place: BodyPlace::of(body.len() as u64),
            claims: None,
            variant_of: None,
        };
        let record = format::encode_record(&head, &meta).map_err(unencodable)?;
        change.set_object(hash, &head, &record, &body);
        placed.push((hash, head));
    }
    let Some((_, last)) = placed.last() else { return Ok(0) };
    let bytes = placed.iter().map(|(_, head)| head.charge()).sum();
    catalog.set_totals(&mut change, last.sequence, bytes, placed.len() as u64);
    change.commit()?;
    for (_, head) in &placed {
        catalog.count_payload(head);
    }
    catalog
        .accounting
        .add_all(reservation, placed.iter().map(|(hash, head)| (*hash, EvictionEntry::of(head))));
    Ok(placed.len())
}
