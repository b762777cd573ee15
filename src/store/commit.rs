//! The one way into the store: a sealed body gets its name and its record. Blocking. Lock: the
//! key's stripe; called by [`super::body`].
//!
//! Whether the object may be stored is asked once, under the stripe, before anything has a name.
//! From then on the stripe is held until the record is written. So a purge that is raised later
//! waits for the stripe and finds the record; one that was raised earlier makes the permit say no.

use super::Inner;
use super::body::SealedBody;
use super::error::{IndexError, WriteError};
use super::eviction::Entry;
use super::files;
use super::format::{self, Head, Place, Record, Totals};
use super::index::{Change, Open};
use super::read::{BodyFile, Stored, StoredBody};
use super::space::Reservation;
use super::trailer;
use crate::clock::Timestamp;
use crate::object::{Key, KeyHash, Meta, NarClaim, Sha256};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Says whether what is about to be written may still be stored. Asked under the lock of its key,
/// any number of times; never waits. Once it has said no, it never says yes again.
pub type Permit = Arc<dyn Fn() -> bool + Send + Sync>;

/// Everything that makes an object.
pub(super) struct Placing {
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
struct Replaced {
    /// Whole objects: more than one where the record could not be read.
    whole: Vec<(Entry, Place)>,
    part: Option<Entry>,
}

impl<'a> Rows<'a> {
    fn of(
        record: &'a [u8],
        head: &Head,
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

impl Inner {
    /// Places an object, unless `permit` says no, or a response is there that came later and was
    /// inserted while this one was fetched; see the module's crash argument for the order of
    /// the steps.
    pub(super) fn place(
        self: &Arc<Self>,
        placing: Placing,
        permit: &dyn Fn() -> bool,
    ) -> Result<Option<Stored>, WriteError> {
        let Placing { length, sha256, meta, claim, since, mut body, reservation } = placing;
        let hash = meta.key.hash();
        let stripe = self.stripe(hash).lock();
        if !permit() {
            return Ok(None);
        }
        let access = self.index.access();
        let index = access.open()?;
        if is_outdated(index, hash, (meta.response_time, since))? {
            return Ok(None);
        }
        // Numbered under the stripe: of two insertions of a key the later one has the higher
        // number.
        let head = Head {
            sequence: self.next_sequence(),
            length,
            sha256,
            place: match &body {
                SealedBody::Inline(_) => Place::of(length),
                SealedBody::File { .. } => Place::File,
            },
            claims: claim.as_ref().map(|(nar, _)| nar.hash().0),
            variant_of: meta.key.is_variant().then(|| meta.key.primary().hash().0),
        };
        let record = format::encode_record(&head, &meta).map_err(unencodable)?;
        let rows = Rows::of(&record, &head, &meta, claim).map_err(unencodable)?;
        self.name(index, hash, &head, &record, &mut body)?;
        #[cfg(test)]
        self.faults.reach("a record is to be written");
        let recorded = self.record(index, hash, &head, &rows, &body);
        self.recent.forget(hash);
        let Replaced { whole: replaced, part } = match recorded {
            Ok(replaced) => replaced,
            Err(error) => {
                if head.place.is_file() {
                    self.unlink(index, hash, head.sequence);
                }
                return Err(error.into());
            }
        };
        #[cfg(test)]
        self.faults.reach("a record is written");
        let mut gone = replaced.iter().map(|(entry, _)| *entry).chain(part);
        self.space.add(reservation, Entry::of(&head), hash, gone.next());
        gone.for_each(|entry| self.space.remove(entry));
        self.count_payload(&head);
        drop(stripe);
        if let Some(part) = part {
            self.show_part(hash, -1, (0, part.charge));
            self.unlink(index, hash, part.sequence);
        }
        for (entry, _) in replaced.iter().filter(|(_, place)| place.is_file()) {
            self.unlink(index, hash, entry.sequence);
        }
        drop(access);
        if let Some(primary) = head.variant_of {
            self.trim_variants(KeyHash(primary));
        }
        self.keep_ahead(head.charge());
        let body = match body {
            SealedBody::Inline(bytes) => StoredBody::Bytes(bytes),
            SealedBody::File { new, .. } => {
                StoredBody::File(BodyFile::new(self, Arc::clone(new.file()), hash, &head))
            }
        };
        Ok(Some(Stored {
            meta: Arc::new(meta),
            body,
            length,
            sha256,
            insertion: self.insertion(head.sequence),
        }))
    }

    /// Gives a body that is a file its trailer and its name.
    fn name(
        &self,
        index: &Open,
        hash: KeyHash,
        head: &Head,
        record: &[u8],
        body: &mut SealedBody,
    ) -> Result<(), WriteError> {
        let SealedBody::File { new, sums, chunks } = body else { return Ok(()) };
        let trailer = trailer::encode(hash, head, sums, record).map_err(unencodable)?;
        #[cfg(test)]
        self.faults.reach("a trailer is to be written");
        // Nothing is evicted here, under the locks: the trailer's space was promised.
        let file = new.file();
        files::write(file, (head.length, trailer.len()), || {
            file.write_all_at(&trailer, head.length)
        })
        .map_err(|source| WriteError::Io { operation: "write", source })?;
        #[cfg(test)]
        self.faults.reach("a file is to be noted");
        let mut change = index.change();
        change.set_link(hash, head.sequence);
        change.commit()?;
        #[cfg(test)]
        self.faults.reach("a file is noted");
        new.link(&self.folder.body_path(hash, head.sequence))?;
        self.bodies.written(head.sequence, chunks);
        Ok(())
    }

    /// The commit point: one change of the index. Returns what was replaced.
    fn record(
        &self,
        index: &Open,
        hash: KeyHash,
        head: &Head,
        rows: &Rows<'_>,
        body: &SealedBody,
    ) -> Result<Replaced, IndexError> {
        let older = index.record(hash)?;
        let mut change = index.change();
        let mut replaced = Vec::new();
        if let Some(older) = &older {
            change.drop_tags(hash, older, rows.record);
            let known = format::decode_head(older).ok();
            if let Some(known) = &known {
                change.drop_claim_of(hash, known)?;
            }
            replaced = self.insertions_of(index, hash, known.as_ref())?;
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
        let part = Self::replace_part(index, &mut change, hash)?;
        if let Some((nar, claim)) = &rows.claim {
            change.set_claim(*nar, claim);
        }
        if let (Some(primary), Some(row)) = (head.variant_of, &rows.variant) {
            change.set_variant(KeyHash(primary), hash, row);
        }
        self.set_totals(&mut change, head.sequence, head.charge(), 1);
        change.commit()?;
        Ok(Replaced { whole: replaced, part })
    }

    /// Says what the store is like once `objects` more are in it, the last with `sequence`.
    pub(super) fn set_totals(
        &self,
        change: &mut Change<'_>,
        sequence: u64,
        bytes: u64,
        objects: u64,
    ) {
        let usage = self.space.usage();
        change.set_totals(&Totals {
            next_sequence: sequence + 1,
            bytes: usage.bytes.saturating_add(bytes),
            objects: usage.objects.saturating_add(objects),
        });
    }

    /// Counts what was asked to be stored.
    pub(super) fn count_payload(&self, head: &Head) {
        let place = match head.place {
            Place::Within | Place::Inline => "index",
            Place::File => "file",
        };
        self.metrics.stored_payload_bytes.with_label_values(&[place]).inc_by(head.length);
    }

    /// Removes the file of an insertion that has no record any more, and the note about it. What
    /// fails here is done again at the next open.
    pub(super) fn unlink(&self, index: &Open, hash: KeyHash, sequence: u64) {
        #[cfg(test)]
        self.faults.reach("a file is to be removed");
        if let Err(error) = self.folder.remove_body(hash, sequence) {
            self.count("remove");
            tracing::warn!(object = %hash, %error, "body file stays until restart");
            return;
        }
        #[cfg(test)]
        self.faults.reach("a file is removed");
        let mut change = index.change();
        change.drop_link(hash, sequence);
        if change.commit().is_err() {
            self.index.mark_failed();
        }
        #[cfg(test)]
        self.faults.reach("a note is cleared");
    }

    /// Writes new metadata of an object whose body is still the one that was confirmed; false if it
    /// is another or gone, if the head of a later response is there, or if `permit` says no.
    pub(super) fn rewrite_meta(
        &self,
        hash: KeyHash,
        confirmed: Confirmed,
        meta: &Meta,
        permit: &dyn Fn() -> bool,
    ) -> Result<bool, WriteError> {
        let rewrite = || -> Result<bool, WriteError> {
            let _stripe = self.stripe(hash).lock();
            if !permit() {
                return Ok(false);
            }
            let access = self.index.access();
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
            self.faults.reach("metadata is to be written");
            change.commit()?;
            #[cfg(test)]
            self.faults.reach("metadata is written");
            Ok(true)
        };
        let rewritten = rewrite();
        self.recent.forget(hash);
        rewritten.inspect_err(|error| self.write_failed(error))
    }
}

/// What an origin has confirmed by a 304.
#[derive(Debug, Clone, Copy)]
pub struct Confirmed {
    /// The digest of the body.
    pub sha256: Sha256,
    /// When the response came that the origin was asked about.
    pub response_time: Timestamp,
}

/// Whether a response is stored that came later than this moment, and is not older than the
/// insertion `since`.
fn is_outdated(
    index: &Open,
    hash: KeyHash,
    (response_time, since): (Timestamp, u64),
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
