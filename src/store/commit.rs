//! The one way into the store: a sealed body gets its name and its record. Blocking. Locks: the
//! read side of `changes`, the key's stripe; called by [`super::pending`] under its caller's fence.

use super::Inner;
use super::error::{IndexError, WriteError};
use super::eviction::Entry;
use super::format::{self, Head, Place, Totals};
use super::index::Open;
use super::pending::SealedBody;
use super::read::{BodyFile, Stored, StoredBody};
use super::space::Reservation;
use crate::object::{Key, KeyHash, Meta, NarClaim, Sha256};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

/// Everything that makes an object.
pub(super) struct Placing {
    pub(super) length: u64,
    pub(super) sha256: Sha256,
    pub(super) meta: Meta,
    pub(super) claim: Option<(Key, NarClaim)>,
    pub(super) body: SealedBody,
    pub(super) reservation: Reservation,
}

impl Inner {
    /// Places an object; see the module's crash argument for the order of the steps.
    pub(super) fn place(self: &Arc<Self>, placing: Placing) -> Result<Stored, WriteError> {
        let Placing { length, sha256, meta, claim, mut body, reservation } = placing;
        let hash = meta.key.hash();
        let head = Head {
            sequence: self.next_sequence(),
            length,
            sha256,
            place: match &body {
                SealedBody::Inline(_) => Place::Inline,
                SealedBody::File(_) => Place::File,
            },
            claims: claim.as_ref().map(|(nar, _)| nar.hash().0),
        };
        let record = format::encode_record(&head, &meta).map_err(unencodable)?;
        let claim = claim
            .map(|(nar, claim)| Ok((nar.hash(), format::encode_claim(hash, &nar, &claim)?)))
            .transpose()
            .map_err(unencodable)?;

        let changes = self.changes.read();
        let stripe = self.stripe(hash).lock();
        let access = self.index.access();
        let index = access.open()?;
        if let SealedBody::File(new) = &mut body {
            let trailer = format::encode_trailer(hash, &head, &record).map_err(unencodable)?;
            // Nothing is evicted here, under the locks: the trailer's space was promised.
            new.file()
                .write_all_at(&trailer, length)
                .map_err(|source| WriteError::Io { operation: "write", source })?;
            let mut change = index.change();
            change.set_link(hash, head.sequence);
            change.commit()?;
            new.link(&self.folder.body_path(hash, head.sequence))?;
        }
        let replaced = match self.record(index, hash, &head, &record, &body, claim) {
            Ok(replaced) => replaced,
            Err(error) => {
                if head.place == Place::File {
                    self.unlink(index, hash, head.sequence);
                }
                return Err(error.into());
            }
        };
        let entry = Entry { hash, sequence: head.sequence, charge: head.charge() };
        self.space.add(reservation, entry, replaced.map(|head| head.charge()));
        drop(stripe);
        if let Some(replaced) = replaced.filter(|head| head.place == Place::File) {
            self.unlink(index, hash, replaced.sequence);
        }
        drop(access);
        drop(changes);
        let body = match body {
            SealedBody::Inline(bytes) => StoredBody::Bytes(bytes),
            SealedBody::File(new) => {
                StoredBody::File(BodyFile::new(self, Arc::clone(new.file()), hash, &head))
            }
        };
        Ok(Stored { meta: Arc::new(meta), body, length, sha256 })
    }

    /// The commit point: one atomic change of the index. Returns the head of what was replaced.
    fn record(
        &self,
        index: &Open,
        hash: KeyHash,
        head: &Head,
        record: &[u8],
        body: &SealedBody,
        claim: Option<(KeyHash, Vec<u8>)>,
    ) -> Result<Option<Head>, IndexError> {
        let replaced = index.record(hash)?.and_then(|bytes| format::decode_head(&bytes).ok());
        let mut change = index.change();
        if let Some(replaced) = &replaced {
            change.drop_body(hash, replaced.sequence, replaced.place);
            change.drop_claim_of(hash, replaced)?;
        }
        change.set_record(hash, record);
        match body {
            SealedBody::Inline(bytes) => change.set_body(hash, head.sequence, bytes),
            SealedBody::File(_) => change.drop_link(hash, head.sequence),
        }
        if let Some((nar, claim)) = claim {
            change.set_claim(nar, &claim);
        }
        let usage = self.space.usage();
        change.set_totals(&Totals {
            next_sequence: head.sequence + 1,
            bytes: usage.bytes.saturating_add(head.charge()),
            objects: usage.objects.saturating_add(1),
        });
        change.commit()?;
        self.mark_unsynced();
        Ok(replaced)
    }

    /// Removes the file of an insertion that has no record any more, and the note about it. What
    /// fails here is done again at the next open.
    pub(super) fn unlink(&self, index: &Open, hash: KeyHash, sequence: u64) {
        if let Err(error) = self.folder.remove_body(hash, sequence) {
            self.count("remove");
            tracing::warn!(object = %hash, %error, "body file stays until restart");
            return;
        }
        let mut change = index.change();
        change.drop_link(hash, sequence);
        if change.commit().is_err() {
            self.index.mark_failed();
        }
    }

    /// Writes new metadata of an object that is still the one with this digest; false where it is
    /// another or gone.
    pub(super) fn rewrite_meta(
        &self,
        hash: KeyHash,
        sha256: Sha256,
        meta: &Meta,
    ) -> Result<bool, WriteError> {
        let rewrite = || -> Result<bool, WriteError> {
            let _changes = self.changes.read();
            let _stripe = self.stripe(hash).lock();
            let access = self.index.access();
            let index = access.open()?;
            let head = index.record(hash)?.and_then(|bytes| format::decode_head(&bytes).ok());
            let Some(head) = head.filter(|head| head.sha256 == sha256) else { return Ok(false) };
            let record = format::encode_record(&head, meta).map_err(unencodable)?;
            let mut change = index.change();
            change.set_record(hash, &record);
            change.commit()?;
            self.mark_unsynced();
            Ok(true)
        };
        rewrite().inspect_err(|error| self.write_failed(error))
    }
}

fn unencodable(error: format::FormatError) -> WriteError {
    WriteError::Io { operation: "encode", source: io::Error::other(error) }
}
