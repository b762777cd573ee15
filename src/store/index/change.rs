//! A change of the index: what it writes, in which order, and how it is made. Lives within one call
//! on a blocking thread. Locks: that of the admission, then that of the claims, held while the
//! engine commits.

use crate::object::KeyHash;
use crate::store::error::IndexError;
use crate::store::eviction::order::EvictionEntry;
use crate::store::format::{self, BodyPlace, CHARGE_UNIT, RecordHead, Totals};
use crate::store::index::engine::Keyspace;
use crate::store::index::keyspaces::{Keyspaces, RowChange, SCRUB, TOTALS, chunk, insertion, pair};
use fjall::Slice;
use std::collections::BTreeMap;
#[cfg(test)]
use std::sync::atomic::Ordering;

/// Changes that happen together or not at all: after a crash all of them are there, or none.
///
/// The engine applies them one after the other under the eyes of readers. So what a record leads
/// to, which is its small body and its claim, is written before the record and dropped behind it,
/// in whatever order the caller names them: a reader that finds a record finds all of it, or finds
/// another record, or none, when it looks again.
pub(in crate::store) struct Change<'a> {
    pub(super) open: &'a Keyspaces,
    /// What records of this change lead to.
    before: Vec<RowChange<'a>>,
    rows: Vec<RowChange<'a>>,
    /// What records led to that this change drops.
    behind: Vec<RowChange<'a>>,
    claims: BTreeMap<KeyHash, ClaimChange>,
    /// Keys that it brings something of.
    comes: Vec<KeyHash>,
}

/// What becomes of the claim about a NAR.
enum ClaimChange {
    Set(Slice),
    /// It goes, if it is still this one.
    Drop(Slice),
}

impl Keyspaces {
    /// Begins changes that happen together.
    pub(in crate::store) fn change(&self) -> Change<'_> {
        Change {
            open: self,
            before: Vec::new(),
            rows: Vec::new(),
            behind: Vec::new(),
            claims: BTreeMap::new(),
            comes: Vec::new(),
        }
    }
}

impl<'a> Change<'a> {
    /// Sets the record of a new insertion, and its place in the eviction order.
    pub(in crate::store) fn set_record(&mut self, hash: KeyHash, head: &RecordHead, record: &[u8]) {
        self.rewrite_record(hash, record);
        self.set_order(hash, EvictionEntry::of(head));
    }

    /// Sets the record of a new insertion that has its body in the index, its body, and its place
    /// in the eviction order.
    pub(in crate::store) fn set_object(
        &mut self,
        hash: KeyHash,
        head: &RecordHead,
        record: &[u8],
        body: &[u8],
    ) {
        if head.place == BodyPlace::Inline {
            self.set_body(hash, head.sequence, body);
        }
        self.set_record(hash, head, &format::with_body(record.to_vec(), head.place, body));
    }

    /// Sets the place of an insertion in the eviction order.
    pub(in crate::store) fn set_order(&mut self, hash: KeyHash, entry: EvictionEntry) {
        let mut place = [0; 20];
        let (key, units) = place.split_at_mut(16);
        key.copy_from_slice(&hash.0);
        let charge = u32::try_from(entry.charge / CHARGE_UNIT).unwrap_or(u32::MAX);
        units.copy_from_slice(&charge.to_le_bytes());
        self.set(&self.open.order, entry.sequence.to_be_bytes(), place);
        self.comes.push(hash);
    }

    /// Sets the record of an insertion that is there, with the same head; and that it has its tags.
    pub(in crate::store) fn rewrite_record(&mut self, hash: KeyHash, record: &[u8]) {
        self.set(&self.open.objects, hash.0, record);
        self.set_tags(hash, record);
    }

    /// Drops an insertion from the eviction order.
    pub(in crate::store) fn drop_order(&mut self, sequence: u64) {
        self.drop(&self.open.order, sequence.to_be_bytes());
    }

    /// Sets the small body of an insertion that stands beside its record.
    pub(in crate::store) fn set_body(&mut self, hash: KeyHash, sequence: u64, body: &[u8]) {
        self.before.push(RowChange::set(&self.open.bodies, insertion(hash, sequence), body));
    }

    /// Sets the claim about a NAR.
    pub(in crate::store) fn set_claim(&mut self, nar: KeyHash, claim: &[u8]) {
        self.claims.insert(nar, ClaimChange::Set(claim.into()));
    }

    /// Drops the claim about a NAR, if it is still this one when the change is made, and the change
    /// sets no other.
    pub(in crate::store) fn drop_claim(&mut self, nar: KeyHash, claim: Slice) {
        self.claims.entry(nar).or_insert(ClaimChange::Drop(claim));
    }

    /// Drops the record of a key, which is this one, and that it has its tags.
    pub(in crate::store) fn drop_record(&mut self, hash: KeyHash, record: &[u8]) {
        self.drop(&self.open.objects, hash.0);
        self.drop_tags(hash, record, &[]);
    }

    /// Drops what of the body of an insertion is not gone with its record, or notes that its file
    /// is to be removed.
    pub(in crate::store) fn drop_body(&mut self, hash: KeyHash, sequence: u64, place: BodyPlace) {
        match place {
            BodyPlace::Within => {}
            BodyPlace::Inline => {
                self.behind.push(RowChange::gone(&self.open.bodies, insertion(hash, sequence)));
            }
            BodyPlace::File => self.set_link(hash, sequence),
        }
    }

    /// Sets the row of a variant.
    pub(in crate::store) fn set_variant(&mut self, primary: KeyHash, variant: KeyHash, row: &[u8]) {
        self.set(&self.open.variants, pair(primary, variant), row);
        self.comes.push(primary);
    }

    /// Drops the row of a variant.
    pub(in crate::store) fn drop_variant(&mut self, primary: KeyHash, variant: KeyHash) {
        self.drop(&self.open.variants, pair(primary, variant));
    }

    /// Drops the row of the variant that an object with this head is.
    pub(in crate::store) fn drop_variant_of(&mut self, hash: KeyHash, head: &RecordHead) {
        if let Some(primary) = head.variant_of {
            self.drop_variant(KeyHash(primary), hash);
        }
    }

    /// Drops the claim that an object with this head makes, if no other object makes it now.
    pub(in crate::store) fn drop_claim_of(
        &mut self,
        owner: KeyHash,
        head: &RecordHead,
    ) -> Result<(), IndexError> {
        let Some(nar) = head.claims.map(KeyHash) else { return Ok(()) };
        if let Some(claim) = self.open.claim(nar)?
            && format::decode_claim(&claim).is_ok_and(|(by, ..)| by == owner)
        {
            self.drop_claim(nar, claim);
        }
        Ok(())
    }

    /// Notes that the file of an insertion may be there without a record.
    pub(in crate::store) fn set_link(&mut self, hash: KeyHash, sequence: u64) {
        self.set(&self.open.links, insertion(hash, sequence), []);
    }

    /// Notes that the file of an insertion has a record, or is gone.
    pub(in crate::store) fn drop_link(&mut self, hash: KeyHash, sequence: u64) {
        self.drop(&self.open.links, insertion(hash, sequence));
    }

    /// Sets the record of an object that is here in part.
    pub(in crate::store) fn set_part(&mut self, hash: KeyHash, record: &[u8]) {
        self.set(&self.open.parts, hash.0, record);
    }

    /// Drops the record of an object that is here in part, and what is known of its chunks.
    pub(in crate::store) fn drop_part(
        &mut self,
        hash: KeyHash,
        sequence: u64,
    ) -> Result<(), IndexError> {
        self.drop(&self.open.parts, hash.0);
        for guard in self.open.chunks.prefix(insertion(hash, sequence)) {
            self.behind.push(RowChange::gone(&self.open.chunks, guard.key()?));
        }
        Ok(())
    }

    /// Notes that a chunk is here.
    pub(in crate::store) fn set_chunk(
        &mut self,
        hash: KeyHash,
        sequence: u64,
        number: u32,
        sum: u64,
    ) {
        let key = chunk(hash, sequence, number);
        self.set(&self.open.chunks, key, sum.to_le_bytes());
    }

    /// Notes that a chunk is not here.
    pub(in crate::store) fn drop_chunk(&mut self, hash: KeyHash, sequence: u64, number: u32) {
        self.drop(&self.open.chunks, chunk(hash, sequence, number));
    }

    /// Sets the totals.
    pub(in crate::store) fn set_totals(&mut self, totals: &Totals) {
        if let Ok(bytes) = format::encode_totals(totals) {
            self.set(&self.open.state, TOTALS, bytes);
        }
    }

    /// Notes how far the scrubber is.
    pub(in crate::store) fn set_scrubbed(&mut self, state: &[u8]) {
        self.set(&self.open.state, SCRUB, state);
    }

    pub(super) fn set(
        &mut self,
        keyspace: &'a Keyspace,
        key: impl Into<Slice>,
        value: impl Into<Slice>,
    ) {
        self.rows.push(RowChange::set(keyspace, key, value));
    }

    pub(super) fn drop(&mut self, keyspace: &'a Keyspace, key: impl Into<Slice>) {
        self.rows.push(RowChange::gone(keyspace, key));
    }

    /// Makes the changes: they survive a crash of the process, and a power cut after the next sync.
    /// Waits a few seconds at most for an engine that is behind.
    pub(in crate::store) fn commit(mut self) -> Result<(), IndexError> {
        let _pass = self.open.admission.enter(|| self.open.is_behind())?;
        #[cfg(test)]
        if self.open.refuses.load(Ordering::Acquire) {
            return Err(fjall::Error::Poisoned.into());
        }
        let claims = std::mem::take(&mut self.claims);
        let _claiming = (!claims.is_empty()).then(|| self.open.claiming.lock());
        for (nar, change) in claims {
            match change {
                ClaimChange::Set(claim) => {
                    self.before.push(RowChange::set(&self.open.claims, nar.0, claim));
                }
                ClaimChange::Drop(claim) if self.open.claim(nar)?.as_ref() == Some(&claim) => {
                    self.behind.push(RowChange::gone(&self.open.claims, nar.0));
                }
                ClaimChange::Drop(_) => {}
            }
        }
        let note = || self.comes.iter().for_each(|key| self.open.shared.key_filter.note(*key));
        note();
        let rows = self.before.into_iter().chain(self.rows).chain(self.behind);
        let committed = self.open.apply(rows);
        note();
        committed
    }
}
