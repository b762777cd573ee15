//! Many small objects in one change of the index: the same bytes on disk as a commit of each, for
//! the price of one. Blocking. Locks: every stripe, in their order, so all changes wait meanwhile;
//! called by whoever fills a store in bulk.

use super::commit::unencodable;
use super::error::WriteError;
use super::eviction::Entry;
use super::format::{self, Head, INLINE_BYTES_MAX, Place};
use super::space::Displaces;
use super::{Inner, Store};
use crate::object::{KeyHash, Meta, Sha256};
use bytes::Bytes;
use std::collections::HashSet;

impl Store {
    /// Puts objects below 64 KiB in the store, all of them or none, without claims; how many. One
    /// whose key is stored already, or comes twice, is left out. Evicts others until they fit;
    /// refuses all where they never do. Blocking, and holds up every other change: a thousand at a
    /// time are enough.
    pub(super) fn import(&self, objects: Vec<(Meta, Bytes)>) -> Result<usize, WriteError> {
        let imported = self.0.import(objects);
        imported.inspect_err(|error| self.0.write_failed(error))
    }
}

impl Inner {
    fn import(&self, objects: Vec<(Meta, Bytes)>) -> Result<usize, WriteError> {
        let length = |(_, body): &(Meta, Bytes)| body.len() as u64;
        let large = objects.iter().map(length).find(|length| Place::of(*length).is_file());
        if let Some(bytes) = large {
            return Err(WriteError::TooLarge { bytes, limit: INLINE_BYTES_MAX - 1 });
        }
        // Evicting takes a stripe, so space is made before any is held.
        let bytes = objects.iter().map(|o| format::charge(length(o))).sum();
        let reservation = self.reserve(bytes, Displaces::Anything)?;
        let _stripes: Vec<_> = self.stripes.iter().map(crate::sync::Mutex::lock).collect();
        let access = self.index.access();
        let index = access.open()?;
        let (mut change, mut seen) = (index.change(), HashSet::new());
        let mut placed: Vec<(KeyHash, Head)> = Vec::with_capacity(objects.len());
        for (meta, body) in objects {
            let hash = meta.key.hash();
            if !seen.insert(hash) || index.record(hash)?.is_some() {
                continue;
            }
            let head = Head {
                sequence: self.next_sequence(),
                length: body.len() as u64,
                sha256: Sha256::of(&body),
                place: Place::of(body.len() as u64),
                claims: None,
                variant_of: None,
            };
            let record = format::encode_record(&head, &meta).map_err(unencodable)?;
            change.set_object(hash, &head, &record, &body);
            placed.push((hash, head));
        }
        let Some((_, last)) = placed.last() else { return Ok(0) };
        let bytes = placed.iter().map(|(_, head)| head.charge()).sum();
        self.set_totals(&mut change, last.sequence, bytes, placed.len() as u64);
        change.commit()?;
        for (_, head) in &placed {
            self.count_payload(head);
        }
        self.space.add_all(reservation, placed.iter().map(|(hash, head)| (*hash, Entry::of(head))));
        Ok(placed.len())
    }
}
