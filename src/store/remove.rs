//! The ways out of the store: purge, eviction, damage. Blocking. Locks: the read side of
//! `changes`, the key's stripe, the index's read side, in this order; files are unlinked after the
//! stripe is free.

use super::Inner;
use super::error::IndexError;
use super::eviction::Entry;
use super::format::{self, Place};
use crate::object::{Key, KeyHash};

/// Records that are looked at in one go.
const PAGE: usize = 1024;

/// Which state of a key is to go.
#[derive(Debug, Clone, Copy)]
enum Which {
    /// Whatever is there.
    Any,
    /// Only this insertion.
    Insertion(u64),
    /// Only a record that cannot be read.
    Undecodable,
}

impl Inner {
    /// Drops an object and the claim it makes; true where there was one.
    pub(super) fn purge(&self, key: &Key) -> bool {
        let removed = self.erase(key.hash(), Which::Any);
        self.went(removed)
    }

    /// Drops every object of a site whose path begins with `prefix`, and the claims they make;
    /// returns the number of objects.
    pub(super) fn purge_matching(&self, site: &str, prefix: &str) -> u64 {
        let is_meant = |key: &Key| key.site() == site && key.path().starts_with(prefix);
        self.purge_where(&is_meant)
    }

    /// Drops everything, claims without an object too; returns the number of objects.
    pub(super) fn purge_all(&self) -> u64 {
        let purged = self.purge_where(&|_: &Key| true);
        self.drop_claims();
        purged
    }

    /// Removes an evicted object from disk; where that fails it counts again.
    pub(super) fn evict(&self, entries: Vec<Entry>) {
        for entry in entries {
            match self.erase(entry.hash, Which::Insertion(entry.sequence)) {
                Ok(true) => self.evictions.inc(),
                Ok(false) => {}
                Err(error) => {
                    self.index_failed(&error);
                    self.space.restore(entry);
                }
            }
        }
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

    fn purge_where(&self, is_meant: &dyn Fn(&Key) -> bool) -> u64 {
        let (mut after, mut purged) = (None, 0);
        loop {
            let page = self.index.access().open().and_then(|index| index.page(after, PAGE));
            let page = page.inspect_err(|error| self.index_failed(error)).unwrap_or_default();
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (hash, record) in page {
                // One that cannot be read might be meant, and serves nobody.
                if format::decode_key(&record).map_or(true, |key| is_meant(&key)) {
                    purged += u64::from(self.went(self.erase(hash, Which::Any)));
                }
            }
        }
        purged
    }

    fn drop_claims(&self) {
        let mut after = None;
        loop {
            let page = self.index.access().open().and_then(|index| index.claims_page(after, PAGE));
            let page = page.inspect_err(|error| self.index_failed(error)).unwrap_or_default();
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (hash, _) in page {
                self.drop_claim(hash);
            }
        }
    }

    /// Drops the claim about a NAR, whoever makes it.
    pub(super) fn drop_claim(&self, nar: KeyHash) {
        let access = self.index.access();
        let dropped = access.open().and_then(|index| {
            if index.claim(nar)?.is_none() {
                return Ok(());
            }
            let mut change = index.change();
            change.drop_claim(nar);
            #[cfg(test)]
            self.faults.reach("a claim is to be dropped");
            change.commit()
        });
        if let Err(error) = dropped {
            self.index_failed(&error);
        }
    }

    /// Takes the record of a key away, then its body; false where there is none such.
    fn erase(&self, hash: KeyHash, which: Which) -> Result<bool, IndexError> {
        let _changes = self.changes.read();
        let stripe = self.stripe(hash).lock();
        let access = self.index.access();
        let index = access.open()?;
        let Some(record) = index.record(hash)? else { return Ok(false) };
        let head = format::decode_head(&record).ok();
        let is_another = match which {
            Which::Any => false,
            Which::Insertion(sequence) => head.is_some_and(|head| head.sequence != sequence),
            Which::Undecodable => format::decode_record(&record).is_ok(),
        };
        if is_another {
            return Ok(false);
        }
        let mut change = index.change();
        change.drop_record(hash);
        let mut file = None;
        if let Some(head) = head {
            change.drop_body(hash, head.sequence, head.place);
            change.drop_claim_of(hash, &head)?;
            file = (head.place == Place::File).then_some(head.sequence);
        } else if let Some(sequence) = self.space.sequence(hash) {
            // Nothing says where the body is: it goes from both places.
            change.drop_body(hash, sequence, Place::Inline);
            change.drop_body(hash, sequence, Place::File);
            file = Some(sequence);
        }
        #[cfg(test)]
        self.faults.reach("a record is to be dropped");
        change.commit()?;
        #[cfg(test)]
        self.faults.reach("a record is dropped");
        self.space.remove(hash, head.map(|head| head.charge()));
        self.mark_unsynced();
        drop(stripe);
        if let Some(sequence) = file {
            self.unlink(index, hash, sequence);
        }
        Ok(true)
    }

    /// Whether something was removed; an error of the index is noted.
    fn went(&self, removed: Result<bool, IndexError>) -> bool {
        removed.unwrap_or_else(|error| {
            self.index_failed(&error);
            false
        })
    }
}
