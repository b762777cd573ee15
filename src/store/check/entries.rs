//! The check of what the index holds beside objects, claims and small bodies: parts with their
//! chunks, places in the eviction order, rows of variants and of tags. A part of a check of the
//! whole store (see `audit`), with the same rules: on a running store, what looks wrong is looked
//! at again under the stripe of its key.

use crate::object::KeyHash;
use crate::store::body::sums::{CHUNK_BYTES, ChunkSum};
use crate::store::check::audit::{Audit, AuditError};
use crate::store::check::object::of_disk;
use crate::store::check::report::{CheckFault, CheckProblem, Mode};
use crate::store::erasure::Erasure;
use crate::store::error::IndexError;
use crate::store::format::{self, Record, Totals};
use crate::store::index::Keyspaces;
use crate::store::part::{self, PAGE, part_of};
use std::io;

/// Places in the eviction order that are read in one go.
const PLACES: usize = 4096;

impl Audit<'_> {
    /// Looks at every part, and adds what stays to `totals`.
    pub(in crate::store) fn parts(&mut self, totals: &mut Totals) -> Result<(), AuditError> {
        let mut after = None;
        loop {
            let page = self.catalog.index.access().open()?.parts_page(after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (hash, record) in page {
                let wrong = self.fault_of_part(hash, &record)?;
                let has_gone = match wrong {
                    Some((kind, what, detail)) => self.drop_wrong_part(hash, kind, what, detail)?,
                    None => false,
                };
                let access = self.catalog.index.access();
                if let Some(part) = part_of(access.open()?, hash)?.filter(|_| !has_gone) {
                    totals.objects += 1;
                    totals.bytes = totals.bytes.saturating_add(part.charge);
                    let next = part.sequence.saturating_add(1);
                    totals.next_sequence = totals.next_sequence.max(next);
                }
            }
        }
    }

    /// What is wrong with a part: how that is called, with which object, and how it shows.
    fn fault_of_part(
        &mut self,
        hash: KeyHash,
        record: &[u8],
    ) -> Result<Option<(CheckFault, String, String)>, AuditError> {
        let Record { head, meta } = match format::decode_record(record) {
            Ok(record) if record.meta.key.hash() == hash => record,
            Ok(_) | Err(_) => {
                let detail = "the record of a part cannot be read".to_owned();
                return Ok(Some((CheckFault::Record, hash.to_string(), detail)));
            }
        };
        let what = meta.key.path().to_owned();
        let chunks = self.catalog.index.access().open()?.chunks(hash, head.sequence)?;
        let wrong_of = |error: &io::Error, what: String| {
            let (fault, detail) = of_disk(error);
            Ok::<_, AuditError>(Some((fault, what, detail)))
        };
        let mut file = match self.catalog.folder.open_direct(hash, head.sequence) {
            Ok(file) => file,
            Err(error) => return wrong_of(&error, what),
        };
        for (number, expected) in chunks {
            let start = u64::from(number) * CHUNK_BYTES;
            let end = head.length.min(start + CHUNK_BYTES);
            self.pacer.spend(end.saturating_sub(start))?;
            let mut sum = ChunkSum::new(hash, u64::from(number));
            let read = file.read::<io::Error>(start, end, |piece| {
                sum.update(piece);
                Ok(())
            });
            self.report.lock().bytes += end.saturating_sub(start);
            if let Err(error) = read {
                return wrong_of(&error, what);
            }
            if sum.value() != expected {
                let detail = format!("chunk {number} of a part is not what was written");
                return Ok(Some((CheckFault::Body, what, detail)));
            }
        }
        Ok(None)
    }

    /// Says what is wrong with a part, if it is still there; true if it was dropped.
    fn drop_wrong_part(
        &self,
        hash: KeyHash,
        kind: CheckFault,
        what: String,
        detail: String,
    ) -> Result<bool, AuditError> {
        let is_there = {
            let access = self.catalog.index.access();
            part_of(access.open()?, hash)?.is_some()
        };
        if !is_there {
            return Ok(true);
        }
        let may_drop = self.mode == Mode::Repair && kind.is_of_object();
        let is_repaired = may_drop && part::drop_part(self.catalog, hash, Erasure::Any)?;
        self.say(CheckProblem { kind, what, detail, is_repaired });
        Ok(is_repaired)
    }

    /// Looks at every place in the eviction order: an object must have one, or it never goes.
    pub(in crate::store) fn order(&self) -> Result<(), AuditError> {
        let mut next = 0;
        loop {
            let page = self.catalog.index.access().open()?.order_page(next, PLACES)?;
            let Some((last, _)) = page.last() else { break };
            next = last.sequence.saturating_add(1);
            for (entry, _) in page {
                self.place(entry.sequence)?;
            }
        }
        let mut after = None;
        loop {
            let page = self.catalog.index.access().open()?.page(after, PLACES)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (hash, _) in page {
                self.unplaced(hash)?;
                self.untagged(hash)?;
            }
        }
    }

    fn place(&self, sequence: u64) -> Result<(), AuditError> {
        let Some(hash) = self.catalog.index.access().open()?.ordered(sequence)? else {
            return Ok(());
        };
        let _stripe = self.catalog.stripe(hash).lock();
        let access = self.catalog.index.access();
        let index = access.open()?;
        if index.ordered(sequence)?.is_none() || is_held(index, hash, sequence)? {
            return Ok(());
        }
        let is_repaired = self.mode == Mode::Repair;
        if is_repaired {
            let mut change = index.change();
            change.drop_order(sequence);
            change.commit()?;
        }
        let what = format!("{hash}-{sequence:x}");
        let detail = "a place in the eviction order without an object".to_owned();
        self.say(CheckProblem { kind: CheckFault::Orphan, what, detail, is_repaired });
        Ok(())
    }

    fn unplaced(&self, hash: KeyHash) -> Result<(), AuditError> {
        let _stripe = self.catalog.stripe(hash).lock();
        let access = self.catalog.index.access();
        let index = access.open()?;
        let Some(record) = index.record(hash)? else { return Ok(()) };
        let Ok(head) = format::decode_head(&record) else { return Ok(()) };
        if index.ordered(head.sequence)? == Some(hash) {
            return Ok(());
        }
        let is_repaired = self.mode == Mode::Repair;
        if is_repaired {
            let mut change = index.change();
            change.set_record(hash, &head, &record);
            change.commit()?;
        }
        let detail = "it has no place in the eviction order, so it would never go".to_owned();
        self.say(CheckProblem {
            kind: CheckFault::Record,
            what: hash.to_string(),
            detail,
            is_repaired,
        });
        Ok(())
    }

    /// A record without the row of one of its tags: a purge would miss it.
    fn untagged(&self, hash: KeyHash) -> Result<(), AuditError> {
        let _stripe = self.catalog.stripe(hash).lock();
        let access = self.catalog.index.access();
        let index = access.open()?;
        let Some(record) = index.record(hash)? else { return Ok(()) };
        let mut is_whole = true;
        for tag in format::tags_of(&record) {
            is_whole &= index.has_tag(tag, hash)?;
        }
        if is_whole {
            return Ok(());
        }
        let is_repaired = self.mode == Mode::Repair;
        if is_repaired {
            let mut change = index.change();
            change.rewrite_record(hash, &record);
            change.commit()?;
        }
        let detail = "a purge by its tags would not find it".to_owned();
        self.say(CheckProblem {
            kind: CheckFault::Record,
            what: hash.to_string(),
            detail,
            is_repaired,
        });
        Ok(())
    }

    /// Looks at every row of a tag.
    pub(in crate::store) fn tags(&self) -> Result<(), AuditError> {
        let mut after = None;
        loop {
            let page = self.catalog.index.access().open()?.tags_page(after, PLACES)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (tag, hash) in page {
                let is_repaired = match self.mode {
                    Mode::Repair if self.catalog.drop_stray_tag(tag, hash)? => true,
                    Mode::Report if self.catalog.is_stray_tag(tag, hash)? => false,
                    Mode::Repair | Mode::Report => continue,
                };
                let detail = "a tag without an object that has it".to_owned();
                let what = hash.to_string();
                self.say(CheckProblem { kind: CheckFault::Orphan, what, detail, is_repaired });
            }
        }
    }

    /// Looks at every row of a variant.
    pub(in crate::store) fn variants(&self) -> Result<(), AuditError> {
        let mut after = None;
        loop {
            let page = self.catalog.index.access().open()?.variants_page(after, PLACES)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (primary, variant) in page {
                let _stripe = self.catalog.stripe(variant).lock();
                let access = self.catalog.index.access();
                let index = access.open()?;
                let record = index.record(variant)?;
                let head = record.and_then(|record| format::decode_head(&record).ok());
                if head.is_some_and(|head| head.variant_of == Some(primary.0)) {
                    continue;
                }
                let is_repaired = self.mode == Mode::Repair;
                if is_repaired {
                    let mut change = index.change();
                    change.drop_variant(primary, variant);
                    change.commit()?;
                }
                let detail = "a variant without an object".to_owned();
                let what = variant.to_string();
                self.say(CheckProblem { kind: CheckFault::Orphan, what, detail, is_repaired });
            }
        }
    }
}

/// Whether an insertion is that of the object or the part under a key.
pub(in crate::store) fn is_held(
    index: &Keyspaces,
    hash: KeyHash,
    sequence: u64,
) -> Result<bool, IndexError> {
    let mut records = index.record(hash)?.into_iter().chain(index.part(hash)?);
    Ok(records
        .any(|record| format::decode_head(&record).map_or(true, |head| head.sequence == sequence)))
}
