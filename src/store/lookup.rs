//! Finding an object: its record, then its body, which must be the one the record names. Anything
//! else is damaged: dropped, counted, a miss. Blocking. Takes no lock but the index's read side.
//!
//! A look-up may come in the middle of a change. Then it finds the record from before or from after
//! it, and a record never stands without its body, in the index (`index::change`) or in a file,
//! which is linked before its record and unlinked behind it. So a body that is missing was dropped
//! with its record since that was read, or is damaged: the record, read once more, tells which.

use crate::clock::{Clock, Timestamp};
use crate::object::{Key, KeyHash, Meta, NarClaim, Variant, came_later};
use crate::store::body::read::{self, Stored, StoredBody};
use crate::store::catalog::Catalog;
use crate::store::disk_store::DiskStore;
use crate::store::error::IndexError;
use crate::store::format::{self, BodyPlace, FormatError, Record, RecordHead};
use bytes::Bytes;
use std::io;
use std::sync::Arc;

/// Replacements of one object that a look-up follows before it calls it a miss.
const TRIES: usize = 3;

/// What one try to read a body came to.
enum Attempt {
    Found(StoredBody),
    /// The record was replaced or dropped meanwhile, or the body is damaged: the record tells.
    Missing(&'static str),
}

/// Which copy of an object is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StoredVersion {
    /// When its head came.
    pub(super) response_time: Timestamp,
    /// Its insertion.
    pub(super) sequence: u64,
}

/// A claim that is stored of a NAR.
#[derive(Debug)]
pub(super) struct StoredClaim {
    /// The hash of its narinfo's key.
    pub(super) by: KeyHash,
    /// The insertion of its narinfo, if that is there still: of several claims the newest counts.
    pub(super) sequence: Option<u64>,
    /// What it says.
    pub(super) claim: NarClaim,
}

/// The object under a key.
pub(super) fn find(store: &DiskStore, key: &Key) -> Option<Stored> {
    let (catalog, hash) = (&store.catalog, key.hash());
    let mut missing = None;
    for _ in 0..TRIES {
        let (record, within) = read_row(catalog, hash)?;
        if record.meta.key != *key {
            return None;
        }
        let head = record.head;
        if let Some((sequence, why)) = missing
            && sequence == head.sequence
        {
            catalog.drop_damaged(hash, head.sequence, why);
            return None;
        }
        match attempt(store, hash, &head, within)? {
            Attempt::Found(body) => {
                #[cfg(test)]
                catalog.faults.reach("an object is found");
                catalog.accounting.touch(head.sequence);
                return Some(Stored {
                    meta: Arc::new(record.meta),
                    body,
                    length: head.length,
                    sha256: head.sha256,
                    insertion: catalog.insertion(head.sequence),
                });
            }
            Attempt::Missing(why) => missing = Some((head.sequence, why)),
        }
    }
    None
}

/// What a narinfo said about the NAR `key`. An error says nothing about whether there is such a
/// claim.
pub(super) fn find_claim(catalog: &Catalog, key: &Key) -> Result<Option<StoredClaim>, IndexError> {
    #[cfg(test)]
    catalog.faults.reach("the index is to be read");
    let access = catalog.index.access();
    let claim = access.open().and_then(|index| index.claim(key.hash()));
    let Some(claim) = claim.inspect_err(|_| catalog.count("index"))? else { return Ok(None) };
    match format::decode_claim(&claim) {
        Ok((by, about, claim)) if about == *key => {
            let owner = access.open().and_then(|index| index.record(by));
            let owner = owner.inspect_err(|_| catalog.count("index"))?;
            let head = owner.and_then(|record| format::decode_head(&record).ok());
            Ok(Some(StoredClaim { by, sequence: head.map(|head| head.sequence), claim }))
        }
        Ok(_) => Ok(None),
        Err(error) => {
            if catalog.went(catalog.drop_stray_claim(key.hash(), &claim)) {
                catalog.count_damaged(key.path(), &error.to_string());
            }
            Ok(None)
        }
    }
}

/// The variants that are stored of the object under `key`, each with its own key. An error is
/// noted.
pub(super) fn find_variants(
    catalog: &Catalog,
    key: &Key,
) -> Result<Vec<(Key, Variant)>, IndexError> {
    #[cfg(test)]
    catalog.faults.reach("the index is to be read");
    let rows = catalog.variant_rows(key.hash(), super::remove::VARIANTS_MAX);
    let rows = rows.inspect_err(|error| catalog.index_failed(error))?;
    let decoded = rows.iter().filter_map(|(_, row)| format::decode_variant(row).ok());
    let own = decoded.filter(|(_, variant, _)| variant.primary() == *key);
    Ok(own.map(|(_, key, variant)| (key, variant)).collect())
}

/// What tells one copy of an object from another.
pub(super) fn version(catalog: &Catalog, key: &Key) -> Option<StoredVersion> {
    let (record, _) = read_row(catalog, key.hash()).filter(|(row, _)| row.meta.key == *key)?;
    Some(StoredVersion { response_time: record.meta.response_time, sequence: record.head.sequence })
}

/// The key of the object under `hash`.
pub(super) fn key_of(catalog: &Catalog, hash: KeyHash) -> Option<Key> {
    read_row(catalog, hash).map(|(record, _)| record.meta.key)
}

/// Whether nothing is there.
pub(super) fn is_empty(catalog: &Catalog) -> Result<bool, IndexError> {
    catalog.index.access().open()?.is_empty()
}

/// A record, and the body that stands behind it.
fn read_row(catalog: &Catalog, hash: KeyHash) -> Option<(Record, Bytes)> {
    #[cfg(test)]
    catalog.faults.reach("the index is to be read");
    let bytes = {
        let access = catalog.index.access();
        let read = access.open().and_then(|index| index.record(hash));
        read.inspect_err(|_| catalog.count("index")).ok()??
    };
    match format::decode_row(&bytes) {
        Ok((record, body)) => Some((record, Bytes::copy_from_slice(body))),
        Err(FormatError::Challenge) => {
            catalog.drop_unserved(hash);
            None
        }
        Err(error) => {
            catalog.drop_undecodable(hash, &error.to_string());
            None
        }
    }
}

/// `None` if the disk gives no answer, which says nothing about the object.
fn attempt(store: &DiskStore, hash: KeyHash, head: &RecordHead, within: Bytes) -> Option<Attempt> {
    let catalog = &store.catalog;
    match head.place {
        BodyPlace::Within if head.is_of(&within) => Some(Attempt::Found(StoredBody::Bytes(within))),
        BodyPlace::Within => Some(Attempt::Missing("its body is another")),
        BodyPlace::Inline => {
            let access = catalog.index.access();
            let body = access.open().and_then(|index| index.body(hash, head.sequence));
            let Some(body) = body.inspect_err(|_| catalog.count("index")).ok()? else {
                return Some(Attempt::Missing("its body is gone"));
            };
            if !head.is_of(&body) {
                return Some(Attempt::Missing("its body is another"));
            }
            Some(Attempt::Found(StoredBody::Bytes(Bytes::copy_from_slice(&body))))
        }
        BodyPlace::File => {
            let file = catalog.folder.open_body(hash, head.sequence);
            let checked = file.and_then(|file| Ok((read::check_file(&file, hash, head)?, file)));
            match checked {
                Ok((Ok(_), file)) => {
                    let body = store.reads.body_file(Arc::new(file), hash, head);
                    Some(Attempt::Found(StoredBody::File(body)))
                }
                Ok((Err(why), _)) => Some(Attempt::Missing(why)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    Some(Attempt::Missing("its file is gone"))
                }
                Err(error) => {
                    catalog.count("read");
                    tracing::warn!(object = %hash, %error, "disk tier: body cannot be opened");
                    None
                }
            }
        }
    }
}

/// Drops the copy of an object that has an earlier head than this one. An error is noted.
pub(super) fn drop_older(catalog: &Catalog, meta: &Meta) {
    if let Some(version) = version(catalog, &meta.key)
        && came_later(meta.response_time, version.response_time, Clock::System.now())
    {
        catalog.drop_insertion(meta.key.hash(), version.sequence);
    }
}
