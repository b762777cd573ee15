//! The ways out of the store: purge, eviction, damage. Blocking. Locks: the read side of
//! `changes`, the key's stripe, the index's read side, in this order; files are unlinked after the
//! stripe is free.

use super::Inner;
use super::error::IndexError;
use super::eviction::Entry;
use super::format::{self, Place};
use super::scope::Scope;
use crate::object::KeyHash;

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
    /// Drops every object in `scope` and the claims they make, with `All` claims without an object
    /// too; returns the number of objects. On an error some may be gone: what is left of the scope
    /// must not be served, and the purge be tried again.
    pub(super) fn purge(&self, scope: &Scope) -> Result<u64, IndexError> {
        let purged = match scope {
            Scope::Key(key) => self.erase(key.hash(), Which::Any).map(u64::from),
            Scope::Prefix { .. } => self.purge_where(scope),
            Scope::All => self.purge_where(scope).and_then(|purged| {
                self.drop_claims()?;
                Ok(purged)
            }),
        };
        purged.inspect_err(|error| self.index_failed(error))
    }

    /// Drops an insertion that is not to be served, unless another replaced it.
    pub(super) fn drop_insertion(&self, hash: KeyHash, sequence: u64) {
        let removed = self.erase(hash, Which::Insertion(sequence));
        self.went(removed);
    }

    /// Removes evicted objects from disk. Where that fails, it and the rest of them count again,
    /// and no more is tried: whoever needs the room goes without.
    pub(super) fn evict(&self, entries: Vec<Entry>) -> Result<(), IndexError> {
        let mut entries = entries.into_iter();
        while let Some(entry) = entries.next() {
            match self.erase(entry.hash, Which::Insertion(entry.sequence)) {
                Ok(true) => self.evictions.inc(),
                Ok(false) => {}
                Err(error) => {
                    self.space.restore(entry);
                    entries.for_each(|entry| self.space.restore(entry));
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Drops an insertion that turned out damaged, and counts it, unless another replaced it.
    pub(super) fn drop_damaged(&self, hash: KeyHash, sequence: u64, why: &str) {
        let removed = self.erase(hash, Which::Insertion(sequence));
        if self.went(removed) {
            self.count_damaged(&hash.to_string(), why);
        }
    }

    /// Drops a record that cannot be read, and counts it, unless another replaced it.
    pub(super) fn drop_undecodable(&self, hash: KeyHash, why: &str) {
        let removed = self.erase(hash, Which::Undecodable);
        if self.went(removed) {
            self.count_damaged(&hash.to_string(), why);
        }
    }

    fn purge_where(&self, scope: &Scope) -> Result<u64, IndexError> {
        let (mut after, mut purged) = (None, 0);
        loop {
            let page = self.index.access().open()?.page(after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(purged) };
            after = Some(*last);
            for (hash, record) in page {
                // One that cannot be read might be meant, and serves nobody.
                if format::decode_key(&record).map_or(true, |key| scope.covers(&key)) {
                    purged += u64::from(self.erase(hash, Which::Any)?);
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

    fn drop_claim(&self, nar: KeyHash) -> Result<(), IndexError> {
        let access = self.index.access();
        let index = access.open()?;
        if index.claim(nar)?.is_none() {
            return Ok(());
        }
        let mut change = index.change();
        change.drop_claim(nar);
        change.commit()
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
        change.commit()?;
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
