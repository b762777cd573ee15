//! The ways out of the store: purge, eviction, damage, what is newer; and what makes objects stale
//! together. Blocking. Locks: the key's stripe, the index's read side, in this order; files are
//! unlinked after the stripe is free.
//!
//! A purge first takes every stripe once. A change that was permitted before the purge was raised
//! holds the stripe of its key until its record is written, so the walk that follows finds it.

use crate::object::tags::TagHash;
use crate::object::{Key, KeyHash, Meta, PurgeTags};
use crate::store::catalog::{Catalog, EvictionReason};
use crate::store::erasure::Erasure;
use crate::store::error::IndexError;
use crate::store::eviction::order::{Evicted, EvictionEntry};
use crate::store::format::{self, BodyPlace, RecordHead};
use crate::store::index::Keyspaces;
use crate::store::part;
use crate::store::scope::{Purging, Scope};
use crate::tasks;
use fjall::Slice;

/// Records that are looked at in one go.
const PAGE: usize = 1024;

/// Variants of one object that are kept and compared; of more, those inserted first go.
pub const VARIANTS_MAX: usize = 32;

/// Reads a page of records.
type PageOf = fn(&Keyspaces, Option<KeyHash>, usize) -> Result<Vec<(KeyHash, Slice)>, IndexError>;

/// What was just published, in place of what is older.
#[derive(Debug, Clone)]
pub struct Published {
    /// The key it is stored under.
    pub key: Key,
    /// The position of the disk that it is on; none if it is in memory alone.
    pub disk: Option<u16>,
    /// Its number among the insertions.
    pub order: u64,
    /// Whether responses of the other kind are older too: if it is a variant, one under the key of
    /// its object; else all variants.
    pub may_vary: bool,
}

impl Catalog {
    /// Drops everything in `scope`, whole or in part, with its variants and the claims it makes,
    /// with `All` claims without an object too; or makes whole objects stale and drops parts, as
    /// `purging` says. Returns the number of objects. On an error some may be as they were: what is
    /// left of the scope must not be served, and the purge be tried again.
    pub(super) fn purge(&self, scope: &Scope, purging: Purging) -> Result<u64, IndexError> {
        let purge = || {
            self.pass_stripes();
            let purge = Purge { catalog: self, scope, purging };
            let purged = match scope {
                Scope::Key(key) => purge.key(key.hash()),
                Scope::Tags { site, tags } => purge.tagged(site, tags),
                Scope::Prefix { .. } | Scope::All => purge.walk(),
            }?;
            if *scope == Scope::All && purging == Purging::Hard {
                self.drop_stray_claims()?;
            }
            Ok(purged)
        };
        let purged: Result<u64, IndexError> = purge();
        purged.inspect_err(|error| self.index_failed(error))
    }

    /// Waits until every change that is under way has ended.
    fn pass_stripes(&self) {
        for stripe in self.stripes.iter() {
            drop(stripe.lock());
            tasks::step();
        }
    }

    /// Drops what is stored of an object, with its variants, as far as it was inserted before
    /// `before`; how many there were.
    pub(super) fn remove_before(&self, hash: KeyHash, before: u64) -> Result<u64, IndexError> {
        let remove = || {
            let mut removed = u64::from(self.erase(hash, Erasure::Before(before))?);
            for (variant, _) in self.variant_rows(hash, usize::MAX)? {
                removed += u64::from(self.erase(variant, Erasure::Before(before))?);
            }
            Ok(removed)
        };
        let removed: Result<u64, IndexError> = remove();
        removed.inspect_err(|error| self.index_failed(error))
    }

    /// Drops what is older than what was just published: a copy of it, if it is not on this disk;
    /// parts of it; and if it may vary, responses of the other kind. An error is noted.
    pub(super) fn supersede(&self, published: &Published) {
        let Published { key, disk, order, may_vary } = published;
        let older = Erasure::Before(*order);
        let supersede = || -> Result<(), IndexError> {
            if *disk != Some(self.tier.disk) {
                self.erase(key.hash(), older)?;
            }
            if !may_vary {
                return Ok(());
            }
            if key.is_variant() {
                self.erase(key.primary().hash(), older)?;
                return Ok(());
            }
            for (variant, _) in self.variant_rows(key.hash(), usize::MAX)? {
                self.erase(variant, older)?;
            }
            Ok(())
        };
        if let Err(error) = supersede() {
            self.index_failed(&error);
        }
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
            let removed = self.erase(variant, Erasure::Insertion(sequence));
            self.went(removed);
        }
    }

    /// Drops an insertion that is not to be served, unless another replaced it.
    pub(super) fn drop_insertion(&self, hash: KeyHash, sequence: u64) {
        let removed = self.erase(hash, Erasure::Insertion(sequence));
        self.went(removed);
    }

    /// Removes objects from disk that were chosen to go, for `reason`. If that fails, it and the
    /// rest of them count again, and no more is tried: the object that needs the space is not
    /// stored.
    pub(super) fn evict(
        &self,
        chosen: Vec<Evicted>,
        reason: EvictionReason,
    ) -> Result<(), IndexError> {
        let mut chosen = chosen.into_iter();
        while let Some(evicted) = chosen.next() {
            tasks::step();
            match self.evict_one(evicted) {
                Ok(true) => self.evictions_for(reason).inc(),
                Ok(false) => {}
                Err(error) => {
                    self.accounting.restore(evicted.entry);
                    chosen.for_each(|evicted| self.accounting.restore(evicted.entry));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Removes one object; false if it went or was replaced meanwhile.
    fn evict_one(&self, evicted: Evicted) -> Result<bool, IndexError> {
        let Evicted { entry, was_on_trial } = evicted;
        let hash = self.index.access().open().and_then(|index| index.ordered(entry.sequence))?;
        let Some(hash) = hash else { return Ok(false) };
        if self.erase(hash, Erasure::Insertion(entry.sequence))? {
            if was_on_trial {
                self.accounting.remember(hash, entry.charge);
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
    /// if it went.
    pub(super) fn drop_damaged(&self, hash: KeyHash, sequence: u64, why: &str) -> bool {
        let has_gone = self.went(self.erase(hash, Erasure::Insertion(sequence)));
        if has_gone {
            self.count_damaged(&hash.to_string(), why);
        }
        has_gone
    }

    /// Drops a record of an earlier build that is not served, unless another replaced it: nothing
    /// is damaged. True if it went.
    pub(super) fn drop_unserved(&self, hash: KeyHash) -> bool {
        self.went(self.erase(hash, Erasure::Undecodable))
    }

    /// Drops a record that cannot be read, and counts it, unless another replaced it; true if it
    /// went.
    pub(super) fn drop_undecodable(&self, hash: KeyHash, why: &str) -> bool {
        let has_gone = self.drop_unserved(hash);
        if has_gone {
            self.count_damaged(&hash.to_string(), why);
        }
        has_gone
    }

    /// Drops the row of a tag, if there is no object that has it; true if it went.
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

    /// Makes an object stale, if `scope` covers it; false if not, or if it cannot be read.
    fn mark_stale(&self, hash: KeyHash, scope: &Scope) -> Result<bool, IndexError> {
        let marked = self.try_mark_stale(hash, scope);
        self.recent.forget(hash);
        marked
    }

    fn try_mark_stale(&self, hash: KeyHash, scope: &Scope) -> Result<bool, IndexError> {
        let _stripe = self.stripe(hash).lock();
        let access = self.index.access();
        let index = access.open()?;
        let Some(row) = index.record(hash)? else { return Ok(false) };
        // One that cannot be read is never served.
        let Ok((record, body)) = format::decode_row(&row) else { return Ok(false) };
        if !scope.covers(&record.meta) {
            return Ok(false);
        }
        let meta = Meta { is_invalidated: true, ..record.meta };
        let Ok(stale) = format::encode_record(&record.head, &meta) else { return Ok(false) };
        let mut change = index.change();
        change.rewrite_record(hash, &format::with_body(stale, record.head.place, body));
        #[cfg(test)]
        self.faults.reach("an object is to be made stale");
        change.commit()?;
        Ok(true)
    }

    /// Drops every claim that no stored object makes: the objects that went took theirs along, and
    /// an object that came since keeps its own.
    fn drop_stray_claims(&self) -> Result<(), IndexError> {
        let mut after = None;
        loop {
            let page = self.index.access().open()?.claims_page(after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (nar, claim) in page {
                self.drop_stray_claim(nar, &claim)?;
                tasks::step();
            }
        }
    }

    /// Drops a claim about a NAR, if it is still this one and no stored object makes it; true if
    /// it went.
    pub(super) fn drop_stray_claim(&self, nar: KeyHash, claim: &Slice) -> Result<bool, IndexError> {
        let owner = owner_of(nar, claim);
        // An object and its claim change together, under the stripe of the object.
        let _stripe = owner.map(|owner| self.stripe(owner).lock());
        let access = self.index.access();
        let index = access.open()?;
        if !is_stray_claim(index, nar, claim, owner)? {
            return Ok(false);
        }
        let mut change = index.change();
        change.drop_claim(nar, claim.clone());
        #[cfg(test)]
        self.faults.reach("a claim is to be dropped");
        change.commit()?;
        Ok(true)
    }

    /// Whether a claim about a NAR is still this one, and no stored object makes it.
    pub(super) fn is_stray_claim(&self, nar: KeyHash, claim: &Slice) -> Result<bool, IndexError> {
        let owner = owner_of(nar, claim);
        let _stripe = owner.map(|owner| self.stripe(owner).lock());
        is_stray_claim(self.index.access().open()?, nar, claim, owner)
    }

    /// Takes the record of a key away, then its body; false if there is none such.
    pub(super) fn erase(&self, hash: KeyHash, which: Erasure<'_>) -> Result<bool, IndexError> {
        let erased = self.try_erase(hash, which);
        self.recent.forget(hash);
        erased
    }

    fn try_erase(&self, hash: KeyHash, which: Erasure<'_>) -> Result<bool, IndexError> {
        let stripe = self.stripe(hash).lock();
        let access = self.index.access();
        let index = access.open()?;
        let Some(record) = index.record(hash)? else {
            let part = part::erase_part(self, index, hash, which)?;
            drop(stripe);
            if let Some(sequence) = part {
                self.unlink(index, hash, sequence);
            }
            return Ok(part.is_some());
        };
        if !which.means(&record) {
            return Ok(false);
        }
        let head = format::decode_head(&record).ok();
        let mut change = index.change();
        change.drop_record(hash, &record);
        if let Some(head) = &head {
            change.drop_claim_of(hash, head)?;
            change.drop_variant_of(hash, head);
        }
        let gone = self.insertions_of(index, hash, head.as_ref())?;
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
            self.accounting.remove(*entry);
        }
        drop(stripe);
        for (entry, _) in gone.iter().filter(|(_, place)| place.is_file()) {
            self.unlink(index, hash, entry.sequence);
        }
        Ok(true)
    }

    /// The insertion of a record with this head. If the head cannot be read, every insertion that
    /// has a body; what these count is not known here. One with its body behind its record is known
    /// to the order alone, and counts there until its turn comes, or a check.
    pub(super) fn insertions_of(
        &self,
        index: &Keyspaces,
        hash: KeyHash,
        head: Option<&RecordHead>,
    ) -> Result<Vec<(EvictionEntry, BodyPlace)>, IndexError> {
        if let Some(head) = head {
            return Ok(vec![(EvictionEntry::of(head), head.place)]);
        }
        let inline =
            index.bodies_of(hash)?.into_iter().map(|sequence| (sequence, BodyPlace::Inline));
        // Those that are not listed are there all the same, and nothing else would lead to them.
        let files = self.folder.insertions_of(hash).map_err(IndexError::Listing)?;
        let files = files.into_iter().map(|sequence| (sequence, BodyPlace::File));
        let entry = |(sequence, place)| (EvictionEntry { sequence, charge: 0 }, place);
        Ok(inline.chain(files).map(entry).collect())
    }

    /// Whether something was removed; an error of the index is noted.
    pub(super) fn went(&self, removed: Result<bool, IndexError>) -> bool {
        removed.unwrap_or_else(|error| {
            self.index_failed(&error);
            false
        })
    }
}

/// One purge on one disk.
struct Purge<'a> {
    catalog: &'a Catalog,
    scope: &'a Scope,
    purging: Purging,
}

impl Purge<'_> {
    /// An object with its variants, and what is here of it in part.
    fn key(&self, hash: KeyHash) -> Result<u64, IndexError> {
        let mut purged = self.object(hash)?;
        for (variant, _) in self.catalog.variant_rows(hash, usize::MAX)? {
            purged += self.object(variant)?;
        }
        Ok(purged)
    }

    /// What is stored under a key, whole or in part; how many objects that was.
    fn object(&self, hash: KeyHash) -> Result<u64, IndexError> {
        let purged = match self.purging {
            Purging::Hard => self.catalog.erase(hash, Erasure::Any)?,
            Purging::Soft => {
                self.catalog.mark_stale(hash, self.scope)?
                    || part::drop_part(self.catalog, hash, Erasure::Any)?
            }
        };
        tasks::step();
        Ok(u64::from(purged))
    }

    /// Everything that is covered by its key.
    fn walk(&self) -> Result<u64, IndexError> {
        Ok(self.pages(Keyspaces::page)? + self.pages(Keyspaces::parts_page)?)
    }

    fn pages(&self, page_of: PageOf) -> Result<u64, IndexError> {
        let (mut after, mut purged) = (None, 0);
        loop {
            let page = page_of(self.catalog.index.access().open()?, after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(purged) };
            after = Some(*last);
            tasks::step();
            for (hash, record) in page {
                // One that cannot be read might be meant, and is never served.
                if format::decode_key(&record).map_or(true, |key| self.scope.may_cover(&key)) {
                    purged += self.object(hash)?;
                }
            }
        }
    }

    /// Each whole object that has one of the tags, and parts that have. A row that leads to no such
    /// object goes.
    fn tagged(&self, site: &str, tags: &PurgeTags) -> Result<u64, IndexError> {
        let mut purged = self.tagged_parts(site, tags)?;
        for row in tags.hashes(site) {
            let mut after = None;
            loop {
                let page = self.catalog.index.access().open()?.tagged(row, after, PAGE)?;
                let Some(last) = page.last() else { break };
                after = Some(*last);
                for hash in page {
                    let is_purged = match self.purging {
                        Purging::Hard => self.catalog.erase(hash, Erasure::Covered(self.scope))?,
                        Purging::Soft => self.catalog.mark_stale(hash, self.scope)?,
                    };
                    tasks::step();
                    if is_purged {
                        purged += 1;
                    } else {
                        self.catalog.drop_stray_tag(row, hash)?;
                    }
                }
            }
        }
        Ok(purged)
    }

    fn tagged_parts(&self, site: &str, tags: &PurgeTags) -> Result<u64, IndexError> {
        let (mut after, mut purged) = (None, 0);
        loop {
            let page = self.catalog.index.access().open()?.parts_page(after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(purged) };
            after = Some(*last);
            tasks::step();
            for (hash, record) in page {
                if format::is_tagged(&record, site, tags) {
                    let head = format::decode_head(&record);
                    let which = head.map_or(Erasure::Any, |h| Erasure::Insertion(h.sequence));
                    purged += u64::from(part::drop_part(self.catalog, hash, which)?);
                }
            }
        }
    }
}

fn is_stray(index: &Keyspaces, row: TagHash, hash: KeyHash) -> Result<bool, IndexError> {
    let record = index.record(hash)?;
    let has_tag = record.is_some_and(|record| format::tags_of(&record).contains(&row));
    Ok(!has_tag && index.has_tag(row, hash)?)
}

/// The key of the object that makes a claim about a NAR; none if it cannot be read, or is about
/// another.
fn owner_of(nar: KeyHash, claim: &[u8]) -> Option<KeyHash> {
    let (owner, key, _) = format::decode_claim(claim).ok()?;
    (key.hash() == nar).then_some(owner)
}

/// Whether a claim about a NAR is still this one, and its owner, if it tells one, does not make it.
fn is_stray_claim(
    index: &Keyspaces,
    nar: KeyHash,
    claim: &Slice,
    owner: Option<KeyHash>,
) -> Result<bool, IndexError> {
    if index.claim(nar)?.as_ref() != Some(claim) {
        return Ok(false);
    }
    let Some(owner) = owner else { return Ok(true) };
    let head = index.record(owner)?.and_then(|record| format::decode_head(&record).ok());
    Ok(head.is_none_or(|head| head.claims != Some(nar.0)))
}
