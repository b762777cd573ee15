//! The ways out of the store: purge, eviction, damage; and what makes objects stale together.
//! Blocking. Locks: the key's stripe, the index's read side, in this order; files are unlinked
//! after the stripe is free.

use super::Inner;
use super::error::IndexError;
use super::eviction::{Entry, Evicted};
use super::format::{self, Place};
use super::index::Open;
use super::part::WhichPart;
use super::scope::Scope;
use crate::object::tags::TagHash;
use crate::object::{KeyHash, Meta, Tags};
use fjall::Slice;

/// Records that are looked at in one go.
const PAGE: usize = 1024;

/// Variants of one object that are kept; of more, those inserted first go.
pub(super) const VARIANTS_MAX: usize = 32;

/// Reads a page of records.
type PageOf = fn(&Open, Option<KeyHash>, usize) -> Result<Vec<(KeyHash, Slice)>, IndexError>;

/// Why objects are evicted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reason {
    /// The limit of the tier.
    Size,
    /// The file system is full before the limit is reached.
    Space,
}

/// Which state of a key is to go.
#[derive(Debug, Clone, Copy)]
enum Which<'a> {
    /// Whatever is there.
    Any,
    /// Only this insertion.
    Insertion(u64),
    /// Only a record that cannot be read.
    Undecodable,
    /// Only a whole object of this site that has one of these tags.
    Tagged(&'a str, &'a Tags),
}

impl Which<'_> {
    fn part(self) -> WhichPart {
        match self {
            Self::Any => WhichPart::Any,
            Self::Insertion(sequence) => WhichPart::Insertion(sequence),
            Self::Undecodable | Self::Tagged(..) => WhichPart::Never,
        }
    }
}

impl Inner {
    /// Drops everything in `scope`, whole or in part, with its variants and the claims it makes,
    /// with `All` claims without an object too; returns the number of objects. On an error some may
    /// be gone: what is left of the scope must not be served, and the purge be tried again.
    pub(super) fn purge(&self, scope: &Scope) -> Result<u64, IndexError> {
        let purged = match scope {
            Scope::Key(key) => self.purge_key(key.hash()),
            Scope::Prefix { .. } => self.purge_where(scope),
            Scope::Tags { site, tags } => self.purge_tagged(site, tags),
            Scope::All => self.purge_where(scope).and_then(|purged| {
                self.drop_claims()?;
                Ok(purged)
            }),
        };
        purged.inspect_err(|error| self.index_failed(error))
    }

    fn purge_key(&self, hash: KeyHash) -> Result<u64, IndexError> {
        let mut purged = u64::from(self.erase(hash, Which::Any)?);
        for (variant, _) in self.variant_rows(hash, usize::MAX)? {
            purged += u64::from(self.erase(variant, Which::Any)?);
        }
        Ok(purged)
    }

    /// The variants of an object: the hash of each one's key, and its row.
    pub(super) fn variant_rows(
        &self,
        primary: KeyHash,
        max: usize,
    ) -> Result<Vec<(KeyHash, Slice)>, IndexError> {
        self.index.access().open()?.variants(primary, max)
    }

    /// Drops the variants of an object that came first, until it has no more than it may have.
    pub(super) fn trim_variants(&self, primary: KeyHash) {
        let rows = self.variant_rows(primary, usize::MAX);
        let rows = rows.inspect_err(|error| self.index_failed(error)).unwrap_or_default();
        let Some(surplus) = rows.len().checked_sub(VARIANTS_MAX + 1) else { return };
        let sequence = |row: &[u8]| format::decode_variant(row).map_or(0, |(first, ..)| first);
        let mut variants: Vec<(u64, KeyHash)> =
            rows.iter().map(|(variant, row)| (sequence(row), *variant)).collect();
        variants.sort_unstable_by_key(|(sequence, _)| *sequence);
        for (sequence, variant) in variants.into_iter().take(surplus + 1) {
            let removed = self.erase(variant, Which::Insertion(sequence));
            self.went(removed);
        }
    }

    /// Drops an insertion that is not to be served, unless another replaced it.
    pub(super) fn drop_insertion(&self, hash: KeyHash, sequence: u64) {
        let removed = self.erase(hash, Which::Insertion(sequence));
        self.went(removed);
    }

    /// Removes objects from disk that were chosen to go, for `reason`. Where that fails, it and the
    /// rest of them count again, and no more is tried: whoever needs the room goes without.
    pub(super) fn evict(&self, chosen: Vec<Evicted>, reason: Reason) -> Result<(), IndexError> {
        let mut chosen = chosen.into_iter();
        while let Some(evicted) = chosen.next() {
            match self.evict_one(evicted) {
                Ok(true) => self.evictions(reason).inc(),
                Ok(false) => {}
                Err(error) => {
                    self.space.restore(evicted.entry);
                    chosen.for_each(|evicted| self.space.restore(evicted.entry));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Removes one object; false where it went or was replaced meanwhile.
    fn evict_one(&self, evicted: Evicted) -> Result<bool, IndexError> {
        let Evicted { entry, was_on_trial } = evicted;
        let hash = self.index.access().open().and_then(|index| index.ordered(entry.sequence))?;
        let Some(hash) = hash else { return Ok(false) };
        if self.erase(hash, Which::Insertion(entry.sequence))? {
            if was_on_trial {
                self.space.remember(hash, entry.charge);
            }
            return Ok(true);
        }
        // No record leads to it any more: what is left of it is its place in the order.
        let access = self.index.access();
        let mut change = access.open()?.change();
        change.drop_order(entry.sequence);
        change.commit()?;
        Ok(false)
    }

    /// Drops an insertion that turned out damaged, and counts it, unless another replaced it; true
    /// where it went.
    pub(super) fn drop_damaged(&self, hash: KeyHash, sequence: u64, why: &str) -> bool {
        let has_gone = self.went(self.erase(hash, Which::Insertion(sequence)));
        if has_gone {
            self.count_damaged(&hash.to_string(), why);
        }
        has_gone
    }

    /// Drops a record that cannot be read, and counts it, unless another replaced it; true where it
    /// went.
    pub(super) fn drop_undecodable(&self, hash: KeyHash, why: &str) -> bool {
        let has_gone = self.went(self.erase(hash, Which::Undecodable));
        if has_gone {
            self.count_damaged(&hash.to_string(), why);
        }
        has_gone
    }

    fn purge_where(&self, scope: &Scope) -> Result<u64, IndexError> {
        Ok(self.purge_pages(scope, Open::page)? + self.purge_pages(scope, Open::parts_page)?)
    }

    fn purge_pages(&self, scope: &Scope, page_of: PageOf) -> Result<u64, IndexError> {
        let (mut after, mut purged) = (None, 0);
        loop {
            let page = page_of(self.index.access().open()?, after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(purged) };
            after = Some(*last);
            for (hash, record) in page {
                // One that cannot be read might be meant, and serves nobody.
                if format::decode_key(&record).map_or(true, |key| scope.may_cover(&key)) {
                    purged += u64::from(self.erase(hash, Which::Any)?);
                }
            }
        }
    }

    fn purge_tagged(&self, site: &str, tags: &Tags) -> Result<u64, IndexError> {
        let whole =
            self.each_tagged(site, tags, |hash| self.erase(hash, Which::Tagged(site, tags)))?;
        Ok(whole + self.purge_tagged_parts(site, tags)?)
    }

    /// Makes every whole object of `site` that has one of `tags` stale, and drops those that are
    /// here in part; how many there were. On an error some may not be stale: what has the tags must
    /// not be served, and be purged.
    pub(super) fn invalidate_tagged(&self, site: &str, tags: &Tags) -> Result<u64, IndexError> {
        let invalidate = || {
            let whole = self.each_tagged(site, tags, |hash| self.mark_stale(hash, site, tags))?;
            Ok(whole + self.purge_tagged_parts(site, tags)?)
        };
        let invalidated: Result<u64, IndexError> = invalidate();
        invalidated.inspect_err(|error| self.index_failed(error))
    }

    /// Does `purge` with each object that has one of the tags; with how many that was done. A row
    /// that leads to no such object goes.
    fn each_tagged(
        &self,
        site: &str,
        tags: &Tags,
        purge: impl Fn(KeyHash) -> Result<bool, IndexError>,
    ) -> Result<u64, IndexError> {
        let mut purged = 0;
        for row in tags.hashes(site) {
            let mut after = None;
            loop {
                let page = self.index.access().open()?.tagged(row, after, PAGE)?;
                let Some(last) = page.last() else { break };
                after = Some(*last);
                for hash in page {
                    if purge(hash)? {
                        purged += 1;
                    } else {
                        self.drop_stray_tag(row, hash)?;
                    }
                }
            }
        }
        Ok(purged)
    }

    /// Drops the row of a tag, if there is no object that has it; true where it went.
    pub(super) fn drop_stray_tag(&self, row: TagHash, hash: KeyHash) -> Result<bool, IndexError> {
        let _stripe = self.stripe(hash).lock();
        let access = self.index.access();
        let index = access.open()?;
        if !is_stray(index, row, hash)? {
            return Ok(false);
        }
        let mut change = index.change();
        change.drop_tag(row, hash);
        change.commit()?;
        Ok(true)
    }

    /// Whether there is the row of a tag, and no object that has it.
    pub(super) fn is_stray_tag(&self, row: TagHash, hash: KeyHash) -> Result<bool, IndexError> {
        let _stripe = self.stripe(hash).lock();
        is_stray(self.index.access().open()?, row, hash)
    }

    /// Makes an object stale, if it has the tag; false where it has not, or cannot be read.
    fn mark_stale(&self, hash: KeyHash, site: &str, tags: &Tags) -> Result<bool, IndexError> {
        let marked = self.try_mark_stale(hash, site, tags);
        self.recent.forget(hash);
        marked
    }

    fn try_mark_stale(&self, hash: KeyHash, site: &str, tags: &Tags) -> Result<bool, IndexError> {
        let _stripe = self.stripe(hash).lock();
        let access = self.index.access();
        let index = access.open()?;
        let Some(row) = index.record(hash)? else { return Ok(false) };
        // One that cannot be read serves nobody.
        let Ok((record, body)) = format::decode_row(&row) else { return Ok(false) };
        if !format::is_tagged(&row, site, tags) {
            return Ok(false);
        }
        let meta = Meta { is_invalidated: true, ..record.meta };
        let Ok(stale) = format::encode_record(&record.head, &meta) else { return Ok(false) };
        let mut change = index.change();
        change.rewrite_record(hash, &format::with_body(stale, record.head.place, body));
        #[cfg(test)]
        self.faults.reach("an object is to be made stale");
        change.commit()?;
        self.mark_unsynced();
        Ok(true)
    }

    fn purge_tagged_parts(&self, site: &str, tags: &Tags) -> Result<u64, IndexError> {
        let (mut after, mut purged) = (None, 0);
        loop {
            let page = self.index.access().open()?.parts_page(after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(purged) };
            after = Some(*last);
            for (hash, record) in page {
                if format::is_tagged(&record, site, tags) {
                    let head = format::decode_head(&record);
                    let which = head.map_or(WhichPart::Any, |h| WhichPart::Insertion(h.sequence));
                    purged += u64::from(self.drop_part(hash, which)?);
                }
            }
        }
    }

    fn drop_claims(&self) -> Result<(), IndexError> {
        let mut after = None;
        loop {
            let page = self.index.access().open()?.claims_page(after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (hash, _) in page {
                self.drop_claim(hash)?;
            }
        }
    }

    /// Drops the claim about a NAR, whoever makes it.
    pub(super) fn drop_claim(&self, nar: KeyHash) -> Result<(), IndexError> {
        let access = self.index.access();
        let index = access.open()?;
        if index.claim(nar)?.is_none() {
            return Ok(());
        }
        let mut change = index.change();
        change.drop_claim(nar);
        #[cfg(test)]
        self.faults.reach("a claim is to be dropped");
        change.commit()
    }

    /// Takes the record of a key away, then its body; false where there is none such.
    fn erase(&self, hash: KeyHash, which: Which<'_>) -> Result<bool, IndexError> {
        let erased = self.try_erase(hash, which);
        self.recent.forget(hash);
        erased
    }

    fn try_erase(&self, hash: KeyHash, which: Which<'_>) -> Result<bool, IndexError> {
        let stripe = self.stripe(hash).lock();
        let access = self.index.access();
        let index = access.open()?;
        let Some(record) = index.record(hash)? else {
            let part = self.erase_part(index, hash, which.part())?;
            drop(stripe);
            if let Some(sequence) = part {
                self.unlink(index, hash, sequence);
            }
            return Ok(part.is_some());
        };
        let head = format::decode_head(&record).ok();
        let is_another = match which {
            Which::Any => false,
            Which::Insertion(sequence) => head.is_some_and(|head| head.sequence != sequence),
            Which::Undecodable => format::decode_record(&record).is_ok(),
            Which::Tagged(site, tags) => !format::is_tagged(&record, site, tags),
        };
        if is_another {
            return Ok(false);
        }
        let mut change = index.change();
        change.drop_record(hash, &record);
        let gone = match head {
            Some(head) => {
                change.drop_claim_of(hash, &head)?;
                change.drop_variant_of(hash, &head);
                vec![(Entry::of(&head), head.place)]
            }
            None => self.insertions_of(index, hash)?,
        };
        for (entry, place) in &gone {
            change.drop_order(entry.sequence);
            change.drop_body(hash, entry.sequence, *place);
        }
        #[cfg(test)]
        self.faults.reach("a record is to be dropped");
        change.commit()?;
        #[cfg(test)]
        self.faults.reach("a record is dropped");
        for (entry, _) in &gone {
            self.space.remove(*entry);
        }
        self.mark_unsynced();
        drop(stripe);
        for (entry, _) in gone.iter().filter(|(_, place)| place.is_file()) {
            self.unlink(index, hash, entry.sequence);
        }
        Ok(true)
    }

    /// The insertions of a key whose record cannot be read: their bodies are there. What they count
    /// is not known here. One whose body stood behind its record is known to the order alone, where
    /// it counts until its turn comes, or a check.
    fn insertions_of(
        &self,
        index: &Open,
        hash: KeyHash,
    ) -> Result<Vec<(Entry, Place)>, IndexError> {
        let inline = index.bodies_of(hash)?.into_iter().map(|sequence| (sequence, Place::Inline));
        let files = self.folder.insertions_of(hash).unwrap_or_else(|error| {
            self.count("read");
            tracing::warn!(object = %hash, %error, "files of a damaged object cannot be listed");
            Vec::new()
        });
        let files = files.into_iter().map(|sequence| (sequence, Place::File));
        let entry = |(sequence, place)| (Entry { sequence, charge: 0 }, place);
        Ok(inline.chain(files).map(entry).collect())
    }

    /// Whether something was removed; an error of the index is noted.
    fn went(&self, removed: Result<bool, IndexError>) -> bool {
        removed.unwrap_or_else(|error| {
            self.index_failed(&error);
            false
        })
    }
}

fn is_stray(index: &Open, row: TagHash, hash: KeyHash) -> Result<bool, IndexError> {
    let record = index.record(hash)?;
    let has_tag = record.is_some_and(|record| format::tags_of(&record).contains(&row));
    Ok(!has_tag && index.has_tag(row, hash)?)
}
