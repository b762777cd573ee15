//! Which objects have which tags, in the index: a row for each tag of each record, set and dropped
//! in the change that sets or drops the record. Blocking, as the rest of the index.
//!
//! A row may outlive its record if that cannot be read any more; a purge that follows one looks
//! into the record, which counts. A record never lacks a row: [`Change::rewrite_record`] is the one
//! way by which a record comes in, and sets them.

use crate::object::KeyHash;
use crate::object::tags::TagHash;
use crate::store::error::IndexError;
use crate::store::format;
use crate::store::index::change::Change;
use crate::store::index::keyspaces::{Keyspaces, pair};
use crate::store::index::pages::pairs_page;
use std::ops::Bound;

impl Keyspaces {
    /// At most `max` objects that may have a tag, in the order of their hashes, from the first one
    /// after `after`.
    pub(in crate::store) fn tagged(
        &self,
        tag: TagHash,
        after: Option<KeyHash>,
        max: usize,
    ) -> Result<Vec<KeyHash>, IndexError> {
        let from = after.map_or(Bound::Included(row(tag, KeyHash([0; 16]))), |hash| {
            Bound::Excluded(row(tag, hash))
        });
        let to = Bound::Included(row(tag, KeyHash([0xff; 16])));
        let mut objects = Vec::new();
        for guard in self.tags.range::<[u8; 32], _>((from, to)).take(max) {
            if let Some(hash) = guard.key()?.last_chunk() {
                objects.push(KeyHash(*hash));
            }
        }
        Ok(objects)
    }

    /// Whether there is the row of a tag of an object.
    pub(in crate::store) fn has_tag(
        &self,
        tag: TagHash,
        hash: KeyHash,
    ) -> Result<bool, IndexError> {
        Ok(self.tags.contains_key(row(tag, hash))?)
    }

    /// At most `max` rows after the one `after`.
    pub(in crate::store) fn tags_page(
        &self,
        after: Option<(TagHash, KeyHash)>,
        max: usize,
    ) -> Result<Vec<(TagHash, KeyHash)>, IndexError> {
        let after = after.map(|(tag, hash)| row(tag, hash));
        let rows = pairs_page(&self.tags, after, max)?.into_iter();
        Ok(rows.map(|(tag, hash)| (TagHash(tag.0), hash)).collect())
    }
}

impl Change<'_> {
    /// Sets the rows of the tags of a record.
    pub(super) fn set_tags(&mut self, hash: KeyHash, record: &[u8]) {
        for tag in format::tags_of(record) {
            self.set(&self.open.tags, row(tag, hash), []);
        }
    }

    /// Drops the rows of the tags of a record but for those that the record which takes its place
    /// has: within one change a row is either set or dropped.
    pub(in crate::store) fn drop_tags(&mut self, hash: KeyHash, record: &[u8], next: &[u8]) {
        let gone = format::tags_of(record);
        if gone.is_empty() {
            return;
        }
        let kept = format::tags_of(next);
        for tag in gone.into_iter().filter(|tag| !kept.contains(tag)) {
            self.drop_tag(tag, hash);
        }
    }

    /// Drops a row.
    pub(in crate::store) fn drop_tag(&mut self, tag: TagHash, hash: KeyHash) {
        self.drop(&self.open.tags, row(tag, hash));
    }
}

fn row(tag: TagHash, hash: KeyHash) -> [u8; 32] {
    pair(KeyHash(tag.0), hash)
}
