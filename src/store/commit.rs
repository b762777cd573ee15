//! The one way into the store: a sealed body gets its name and its record. Blocking. Lock: the
//! key's stripe; called by [`super::body`].
//!
//! Whether the object may be stored is asked once, under the stripe, before anything has a name.
//! From then on the stripe is held until the record is written. So a purge that is raised later
//! waits for the stripe and finds the record; one that was raised earlier makes the permit say no.

use crate::clock::Timestamp;
use crate::object::{Key, KeyHash, Meta, NarClaim, Sha256};
use crate::store::body::SealedBody;
use crate::store::body::read::{Stored, StoredBody};
use crate::store::body::trailer;
use crate::store::catalog::Catalog;
use crate::store::disk_store::DiskStore;
use crate::store::error::{IndexError, WriteError};
use crate::store::eviction::accounting::Reservation;
use crate::store::eviction::order::EvictionEntry;
use crate::store::files;
use crate::store::format::{self, BodyPlace, Record, RecordHead};
use crate::store::index::Keyspaces;
use crate::store::part;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Says whether what is about to be written may still be stored. Asked under the lock of its key,
/// any number of times; never waits. Once it has said no, it never says yes again.
pub type ChangePermit = Arc<dyn Fn() -> bool + Send + Sync>;

/// Everything that makes an object.
pub(super) struct ObjectCommit {
    pub(super) length: u64,
    pub(super) sha256: Sha256,
    pub(super) meta: Meta,
    pub(super) claim: Option<(Key, NarClaim)>,
    /// The insertion that came next when its fetch began.
    pub(super) since: u64,
    pub(super) body: SealedBody,
    pub(super) reservation: Reservation,
}

/// What a commit writes into the index beside the body.
struct Rows<'a> {
    record: &'a [u8],
    claim: Option<(KeyHash, Vec<u8>)>,
    variant: Option<Vec<u8>>,
}

/// What an object took the place of.
struct Replacement {
    /// Whole objects: more than one if the record could not be read.
    whole: Vec<(EvictionEntry, BodyPlace)>,
    part: Option<EvictionEntry>,
}

impl<'a> Rows<'a> {
    fn of(
        record: &'a [u8],
        head: &RecordHead,
        meta: &Meta,
        claim: Option<(Key, NarClaim)>,
    ) -> Result<Self, format::FormatError> {
        let hash = meta.key.hash();
        let claim = claim
            .map(|(nar, claim)| Ok((nar.hash(), format::encode_claim(hash, &nar, &claim)?)))
            .transpose()?;
        let variant = head
            .variant_of
            .map(|_| format::encode_variant(head.sequence, &meta.key, &meta.variant))
            .transpose()?;
        Ok(Self { record, claim, variant })
    }
}

/// Places an object, unless `permit` says no, or a response is there that came later and was
/// inserted while this one was fetched; see the module's crash argument for the order of
/// the steps.
pub(super) fn place(
    store: &DiskStore,
    placing: ObjectCommit,
    permit: &dyn Fn() -> bool,
) -> Result<Option<Stored>, WriteError> {
    let ObjectCommit { length, sha256, meta, claim, since, mut body, reservation } = placing;
    let (catalog, hash) = (&store.catalog, meta.key.hash());
    let stripe = catalog.stripe(hash).lock();
    if !permit() {
        return Ok(None);
    }
    let access = catalog.index.access();
    let index = access.open()?;
    if is_outdated(index, hash, meta.response_time, since)? {
        return Ok(None);
    }
    // Numbered under the stripe: of two insertions of a key the later one has the higher
    // number.
    let head = new_head(catalog, length, sha256, &body, &meta, claim.as_ref());
    let record = format::encode_record(&head, &meta).map_err(unencodable)?;
    let rows = Rows::of(&record, &head, &meta, claim).map_err(unencodable)?;
    name_file(store, index, hash, &head, &record, &mut body)?;
    #[cfg(test)]
    catalog.faults.reach("a record is to be written");
    let recorded = write_rows(catalog, index, hash, &head, &rows, &body);
    catalog.recent.forget(hash);
    let Replacement { whole: replaced, part } = match recorded {
        Ok(replaced) => replaced,
        Err(error) => {
            if head.place.is_file() {
                catalog.unlink(index, hash, head.sequence);
            }
            return Err(error.into());
        }
    };
    #[cfg(test)]
    catalog.faults.reach("a record is written");
    let mut gone = replaced.iter().map(|(entry, _)| *entry).chain(part);
    catalog.accounting.add(reservation, EvictionEntry::of(&head), hash, gone.next());
    gone.for_each(|entry| catalog.accounting.remove(entry));
    catalog.count_payload(&head);
    drop(stripe);
    unlink_replaced(catalog, index, hash, &Replacement { whole: replaced, part });
    drop(access);
    if let Some(primary) = head.variant_of {
        catalog.trim_variants(KeyHash(primary));
    }
    store.reserve.refill(catalog, head.charge());
    let body = match body {
        SealedBody::Inline(bytes) => StoredBody::Bytes(bytes),
        SealedBody::File { new, .. } => {
            StoredBody::File(store.reads.body_file(Arc::clone(new.file()), hash, &head))
        }
    };
    Ok(Some(Stored {
        meta: Arc::new(meta),
        body,
        length,
        sha256,
        insertion: catalog.insertion(head.sequence),
    }))
}

/// The head of a new insertion.
fn new_head(
    catalog: &Catalog,
    length: u64,
    sha256: Sha256,
    body: &SealedBody,
    meta: &Meta,
    claim: Option<&(Key, NarClaim)>,
) -> RecordHead {
    RecordHead {
        sequence: catalog.next_sequence(),
        length,
        sha256,
        place: match body {
            SealedBody::Inline(_) => BodyPlace::of(length),
            SealedBody::File { .. } => BodyPlace::File,
        },
        claims: claim.map(|(nar, _)| nar.hash().0),
        variant_of: meta.key.is_variant().then(|| meta.key.primary().hash().0),
    }
}

/// Unlinks the files of what an object took the place of.
fn unlink_replaced(catalog: &Catalog, index: &Keyspaces, hash: KeyHash, gone: &Replacement) {
    if let Some(part) = gone.part {
        catalog.show_part(hash, -1, 0, part.charge);
        catalog.unlink(index, hash, part.sequence);
    }
    for (entry, _) in gone.whole.iter().filter(|(_, place)| place.is_file()) {
        catalog.unlink(index, hash, entry.sequence);
    }
}

/// Gives a body that is a file its trailer and its name.
fn name_file(
    store: &DiskStore,
    index: &Keyspaces,
    hash: KeyHash,
    head: &RecordHead,
    record: &[u8],
    body: &mut SealedBody,
) -> Result<(), WriteError> {
    let SealedBody::File { new, sums, chunks } = body else { return Ok(()) };
    let catalog = &store.catalog;
    let trailer = trailer::encode(hash, head, sums, record).map_err(unencodable)?;
    #[cfg(test)]
    catalog.faults.reach("a trailer is to be written");
    // Nothing is evicted here, under the locks: the trailer's space was promised.
    let file = new.file();
    files::write(file, head.length, trailer.len(), || file.write_all_at(&trailer, head.length))
        .map_err(|source| WriteError::Io { operation: "write", source })?;
    #[cfg(test)]
    catalog.faults.reach("a file is to be noted");
    let mut change = index.change();
    change.set_link(hash, head.sequence);
    change.commit()?;
    #[cfg(test)]
    catalog.faults.reach("a file is noted");
    new.link(&catalog.folder.body_path(hash, head.sequence))?;
    store.reads.bodies.written(head.sequence, chunks);
    Ok(())
}

/// The commit point: one change of the index. Returns what was replaced.
fn write_rows(
    catalog: &Catalog,
    index: &Keyspaces,
    hash: KeyHash,
    head: &RecordHead,
    rows: &Rows<'_>,
    body: &SealedBody,
) -> Result<Replacement, IndexError> {
    let older = index.record(hash)?;
    let mut change = index.change();
    let mut replaced = Vec::new();
    if let Some(older) = &older {
        change.drop_tags(hash, older, rows.record);
        let known = format::decode_head(older).ok();
        if let Some(known) = &known {
            change.drop_claim_of(hash, known)?;
        }
        replaced = catalog.insertions_of(index, hash, known.as_ref())?;
        // The file of the new one has its name already.
        replaced.retain(|(entry, _)| entry.sequence != head.sequence);
    }
    for (entry, place) in &replaced {
        change.drop_body(hash, entry.sequence, *place);
        change.drop_order(entry.sequence);
    }
    match body {
        SealedBody::Inline(bytes) => change.set_object(hash, head, rows.record, bytes),
        SealedBody::File { .. } => {
            change.set_record(hash, head, rows.record);
            change.drop_link(hash, head.sequence);
        }
    }
    // Behind the record: a look-up asks for parts last.
    let part = part::replace_part(index, &mut change, hash)?;
    if let Some((nar, claim)) = &rows.claim {
        change.set_claim(*nar, claim);
    }
    if let (Some(primary), Some(row)) = (head.variant_of, &rows.variant) {
        change.set_variant(KeyHash(primary), hash, row);
    }
    catalog.set_totals(&mut change, head.sequence, head.charge(), 1);
    change.commit()?;
    Ok(Replacement { whole: replaced, part })
}

/// Writes new metadata of an object with the body that was confirmed; false if it
/// is another or gone, if the head of a later response is there, or if `permit` says no.
pub(super) fn rewrite_meta(
    catalog: &Catalog,
    hash: KeyHash,
    confirmed: ConfirmedBody,
    meta: &Meta,
    permit: &dyn Fn() -> bool,
) -> Result<bool, WriteError> {
    let rewrite = || -> Result<bool, WriteError> {
        let _stripe = catalog.stripe(hash).lock();
        if !permit() {
            return Ok(false);
        }
        let access = catalog.index.access();
        let index = access.open()?;
        let Some(row) = index.record(hash)? else { return Ok(false) };
        let Ok((Record { head, meta: there }, body)) = format::decode_row(&row) else {
            return Ok(false);
        };
        let is_later = there.response_time > meta.response_time
            && there.response_time != confirmed.response_time;
        if head.sha256 != confirmed.sha256 || is_later {
            return Ok(false);
        }
        let record = format::encode_record(&head, meta).map_err(unencodable)?;
        let record = format::with_body(record, head.place, body);
        let mut change = index.change();
        change.drop_tags(hash, &row, &record);
        change.rewrite_record(hash, &record);
        #[cfg(test)]
        catalog.faults.reach("metadata is to be written");
        change.commit()?;
        #[cfg(test)]
        catalog.faults.reach("metadata is written");
        Ok(true)
    };
    let rewritten = rewrite();
    catalog.recent.forget(hash);
    rewritten.inspect_err(|error| catalog.write_failed(error))
}

/// What an origin has confirmed by a 304.
#[derive(Debug, Clone, Copy)]
pub struct ConfirmedBody {
    /// The digest of the body.
    pub sha256: Sha256,
    /// When the response came that the origin was asked about.
    pub response_time: Timestamp,
}

/// Whether a response is stored that came later than this moment, and is not older than the
/// insertion `since`.
fn is_outdated(
    index: &Keyspaces,
    hash: KeyHash,
    response_time: Timestamp,
    since: u64,
) -> Result<bool, IndexError> {
    let Some(row) = index.record(hash)? else { return Ok(false) };
    if format::decode_head(&row).is_ok_and(|head| head.sequence < since) {
        return Ok(false);
    }
    let record = format::decode_row(&row);
    Ok(record.is_ok_and(|(record, _)| record.meta.response_time > response_time))
}

pub(super) fn unencodable(error: format::FormatError) -> WriteError {
    WriteError::Io { operation: "encode", source: io::Error::other(error) }
}
