//! Parts in the index: found, noted chunk by chunk, made whole, dropped, loaded. Blocking. Locks as
//! the module says; what adds something asks its permit under them, as `commit` does.

use crate::object::{Key, KeyHash, Meta, Sha256};
use crate::store::body::read::{Stored, StoredBody};
use crate::store::body::trailer;
use crate::store::catalog::Catalog;
use crate::store::disk_store::DiskStore;
use crate::store::erasure::Erasure;
use crate::store::error::{IndexError, WriteError};
use crate::store::eviction::accounting::{Displaces, Reservation};
use crate::store::eviction::order::EvictionEntry;
use crate::store::files;
use crate::store::format::{self, BodyPlace, Record, RecordHead, Totals};
use crate::store::index::{Change, Keyspaces};
use crate::store::part::open::{Life, OpenParts, Part};
use crate::store::part::records::{
    charge_of, drop_part, is_ours, part_damaged, part_went, replace_part,
};
use crate::store::part::table::{ChunkTable, IndexNote, PresentChunk};
use crate::store::part::{KeepOutcome, Synced};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How a part came to hold what it holds.
#[derive(Debug, Clone, Copy)]
enum NoteEffect {
    /// It was not in the index; there may have been an older one.
    New { older: Option<EvictionEntry> },
    /// It counted less before.
    Grown { before: u64 },
}

impl Part {
    /// Notes synced chunks in the index, and the part itself with the first of them, if `permit`
    /// says yes.
    pub fn note(
        &self,
        synced: &Synced,
        permit: &dyn Fn() -> bool,
    ) -> Result<KeepOutcome, WriteError> {
        let noted = self.try_note(&synced.0, permit);
        let result = match &noted {
            Ok(KeepOutcome::Yes) => IndexNote::Yes,
            Ok(KeepOutcome::Loose) | Err(_) => IndexNote::Not,
        };
        self.0.table.lock().set_noted(&synced.0, result);
        match &noted {
            Ok(_) => {
                self.0.store.catalog.health.succeeded();
            }
            Err(error) => self.0.store.catalog.write_failed(error),
        }
        noted
    }

    fn try_note(
        &self,
        chunks: &[(u32, u64)],
        permit: &dyn Fn() -> bool,
    ) -> Result<KeepOutcome, WriteError> {
        let state = &self.0;
        let (catalog, hash, sequence) = (&state.store.catalog, state.hash, state.sequence);
        let _parts = catalog.counted_parts.changing.read();
        let stripe = catalog.stripe(hash).lock();
        let access = catalog.index.access();
        let index = access.open()?;
        let mut life = state.life.lock();
        if !permit() {
            self.refused(index, &mut life)?;
            return Ok(KeepOutcome::Loose);
        }
        let (chunks, before, bytes) = self.being_noted(chunks);
        if chunks.is_empty() {
            return Ok(if self.is_live() { KeepOutcome::Yes } else { KeepOutcome::Loose });
        }
        let mut change = index.change();
        for (number, sum) in chunks {
            change.set_chunk(hash, sequence, number, sum);
        }
        let entry = EvictionEntry { sequence, charge: charge_of(bytes) };
        change.set_order(hash, entry);
        let came = match &mut *life {
            Life::Loose => return Ok(KeepOutcome::Loose),
            Life::Recorded => {
                if !is_ours(index, hash, sequence)? {
                    self.loosen(&mut life);
                    return Ok(KeepOutcome::Loose);
                }
                commit(catalog, change)?;
                NoteEffect::Grown { before: charge_of(before) }
            }
            Life::New(new) => {
                if index.record(hash)?.is_some() {
                    self.loosen(&mut life);
                    return Ok(KeepOutcome::Loose);
                }
                let mut note = index.change();
                note.set_link(hash, sequence);
                note.commit()?;
                new.link(&catalog.folder.body_path(hash, sequence))?;
                let older = replace_part(index, &mut change, hash)?;
                let record = self.record(&state.meta.read());
                let record = record.map_err(store_format)?;
                change.set_part(hash, &record);
                change.drop_link(hash, sequence);
                if let Err(error) = commit(catalog, change) {
                    self.loosen(&mut life);
                    catalog.unlink(index, hash, sequence);
                    return Err(error);
                }
                *life = Life::Recorded;
                NoteEffect::New { older }
            }
        };
        self.count(entry, came);
        drop(life);
        drop(stripe);
        if let NoteEffect::New { older: Some(older) } = came {
            catalog.unlink(index, hash, older.sequence);
        }
        Ok(KeepOutcome::Yes)
    }

    /// A permit says no. Nothing more is kept of a part that has no record, or not any more; other
    /// flights share one that has.
    fn refused(&self, index: &Keyspaces, life: &mut Life) -> Result<(), IndexError> {
        let state = &self.0;
        if !matches!(life, Life::Recorded) || !is_ours(index, state.hash, state.sequence)? {
            self.loosen(life);
        }
        Ok(())
    }

    /// Which of these chunks, given with their ids, are still to be noted, with their sums; how
    /// many bytes the index knows of, and of how many it will.
    fn being_noted(&self, chunks: &[(u32, u64)]) -> (Vec<(u32, u64)>, u64, u64) {
        let table = self.0.table.lock();
        let sum_of = |(number, id): &(u32, u64)| Some((*number, table.being_noted(*number, *id)?));
        let chunks: Vec<_> = chunks.iter().filter_map(sum_of).collect();
        let more: u64 = chunks.iter().map(|(number, _)| table.bytes(*number)).sum();
        let before = table.noted_bytes();
        (chunks, before, before.saturating_add(more))
    }

    /// Counts what it holds now, out of what was promised.
    fn count(&self, entry: EvictionEntry, came: NoteEffect) {
        let state = &self.0;
        let catalog = &state.store.catalog;
        let before = match came {
            NoteEffect::New { older } => older.map_or(0, |older| older.charge),
            NoteEffect::Grown { before } => before,
        };
        let mut promised = state.promised.lock();
        let promise = promised.split(entry.charge.saturating_sub(before));
        if !state.table.lock().has_unnoted() {
            // What is left over was for rounding.
            *promised = Reservation::nothing(&catalog.accounting, Displaces::Untried);
        }
        drop(promised);
        match came {
            NoteEffect::New { older } => catalog.accounting.add(promise, entry, state.hash, older),
            NoteEffect::Grown { before } => catalog.accounting.recharge(promise, before, entry),
        }
        let objects = i64::from(matches!(came, NoteEffect::New { older: None }));
        state.store.catalog.show_part(state.hash, objects, entry.charge, before);
    }

    /// The record of the whole that this is a part of; its digest is not known yet.
    fn record(&self, meta: &Meta) -> Result<Vec<u8>, format::FormatError> {
        format::encode_record(&self.head(Sha256([0; 32])), meta)
    }

    fn head(&self, sha256: Sha256) -> RecordHead {
        RecordHead {
            sequence: self.0.sequence,
            length: self.0.length,
            sha256,
            place: BodyPlace::File,
            claims: None,
            variant_of: self.0.key.is_variant().then(|| self.0.key.primary().hash().0),
        }
    }

    /// Replaces the metadata, if the part is still kept and `permit` says yes; a newer head stays.
    pub fn touch_meta(&self, meta: Meta, permit: &dyn Fn() -> bool) -> KeepOutcome {
        if !permit() {
            return KeepOutcome::Loose;
        }
        let state = &self.0;
        let _parts = state.store.catalog.counted_parts.changing.read();
        let _stripe = state.store.catalog.stripe(state.hash).lock();
        if meta.response_time < state.meta.read().response_time {
            return if self.is_live() { KeepOutcome::Yes } else { KeepOutcome::Loose };
        }
        let rewrite = || -> Result<KeepOutcome, WriteError> {
            let access = state.store.catalog.index.access();
            let index = access.open()?;
            if !permit() || !is_ours(index, state.hash, state.sequence)? {
                return Ok(KeepOutcome::Loose);
            }
            let mut rewriting = index.change();
            rewriting.set_part(state.hash, &self.record(&meta).map_err(store_format)?);
            rewriting.commit()?;
            Ok(KeepOutcome::Yes)
        };
        let rewritten = rewrite();
        *state.meta.write() = Arc::new(meta);
        rewritten.unwrap_or_else(|error| {
            state.store.catalog.write_failed(&error);
            KeepOutcome::Loose
        })
    }

    /// Makes it a whole object, with `meta` as its head and `sha256` as [`Part::digest`] found it;
    /// none if it is not kept any more, or `permit` says no. Every chunk must be noted.
    pub fn promote(
        &self,
        meta: Meta,
        sha256: Sha256,
        permit: &dyn Fn() -> bool,
    ) -> Result<Option<Stored>, WriteError> {
        let promoted = self.try_promote(meta, sha256, permit);
        self.0.store.catalog.recent.forget(self.0.hash);
        promoted.inspect_err(|error| self.0.store.catalog.write_failed(error))
    }

    fn try_promote(
        &self,
        meta: Meta,
        sha256: Sha256,
        permit: &dyn Fn() -> bool,
    ) -> Result<Option<Stored>, WriteError> {
        let state = &self.0;
        let (store, hash, length) = (&state.store, state.hash, state.length);
        let catalog = &store.catalog;
        let head = self.head(sha256);
        let record = format::encode_record(&head, &meta).map_err(store_format)?;
        let _parts = catalog.counted_parts.changing.read();
        let _stripe = catalog.stripe(hash).lock();
        let access = catalog.index.access();
        let index = access.open()?;
        let mut life = state.life.lock();
        if !permit() {
            self.refused(index, &mut life)?;
            return Ok(None);
        }
        if !is_ours(index, hash, state.sequence)? {
            return Ok(None);
        }
        let Some(sums) = state.table.lock().seal() else { return Ok(None) };
        let change = self.change_to_whole(index, &head, &record, &sums);
        let change = change.inspect_err(|_| state.table.lock().unseal())?;
        // Sealed even if this fails: the index may have taken it.
        commit(catalog, change)?;
        self.loosen(&mut life);
        let replaced = charge_of(length);
        catalog.accounting.recharge(
            Reservation::nothing(&catalog.accounting, Displaces::Untried),
            replaced,
            EvictionEntry::of(&head),
        );
        catalog.show_part(hash, -1, 0, replaced);
        let body = store.reads.body_file(Arc::clone(&state.file), hash, &head);
        let (meta, body) = (Arc::new(meta), StoredBody::File(body));
        let insertion = catalog.insertion(state.sequence);
        Ok(Some(Stored { meta, body, length, sha256, insertion }))
    }

    /// Writes the trailer; the change that makes the part whole.
    fn change_to_whole<'i>(
        &self,
        index: &'i Keyspaces,
        head: &RecordHead,
        record: &[u8],
        sums: &[u8],
    ) -> Result<Change<'i>, WriteError> {
        let state = &self.0;
        let length = state.length;
        let trailer = trailer::encode(state.hash, head, sums, record).map_err(store_format)?;
        let write = || {
            #[cfg(test)]
            state.store.catalog.faults.meet("the trailer of a part is to be written")?;
            state.file.set_len(length)?;
            let write = || state.file.write_all_at(&trailer, length);
            files::write(&state.file, length, trailer.len(), write)
        };
        write().map_err(|source| WriteError::Io { operation: "write", source })?;
        #[cfg(test)]
        state.store.catalog.faults.reach("a part is to be made whole");
        let mut change = index.change();
        // In this order: a look-up asks for parts last.
        change.set_record(state.hash, head, record);
        change.drop_part(state.hash, state.sequence)?;
        Ok(change)
    }

    /// Drops it from the index; readers go on. Blocking.
    pub fn discard(&self) {
        self.let_go();
        let dropped =
            drop_part(&self.0.store.catalog, self.0.hash, Erasure::Insertion(self.0.sequence));
        part_went(&self.0.store.catalog, dropped);
    }

    /// A chunk is damaged: it is missing from now on, unless it has been fetched anew since `seen`.
    /// If the part is sealed, the chunk stays and the whole object is dropped.
    pub(super) fn clear(&self, number: u32, seen: &PresentChunk, why: &str) {
        let state = &self.0;
        let (before, chunk, bytes) = {
            let mut table = state.table.lock();
            if !table.holds(number, seen.id) {
                return;
            }
            if table.is_sealed() {
                drop(table);
                state.store.catalog.drop_damaged(state.hash, state.sequence, why);
                return;
            }
            let before = table.noted_bytes();
            (before, table.remove(number), table.noted_bytes())
        };
        let Some(chunk) = chunk else { return };
        state.store.catalog.metrics.chunks.with_label_values(&["damaged"]).inc();
        state.store.catalog.count_damaged(state.key.path(), why);
        if chunk.noted == IndexNote::Yes
            && let Err(error) = self.unnote(number, charge_of(before), charge_of(bytes))
        {
            state.store.catalog.index_failed(&error);
        }
    }

    fn unnote(&self, number: u32, before: u64, after: u64) -> Result<(), IndexError> {
        let state = &self.0;
        let (catalog, hash, sequence) = (&state.store.catalog, state.hash, state.sequence);
        let _parts = catalog.counted_parts.changing.read();
        let _stripe = catalog.stripe(hash).lock();
        let access = catalog.index.access();
        let index = access.open()?;
        if !is_ours(index, hash, sequence)? {
            return Ok(());
        }
        let mut change = index.change();
        let entry = EvictionEntry { sequence, charge: after };
        change.drop_chunk(hash, sequence, number);
        change.set_order(hash, entry);
        change.commit()?;
        catalog.accounting.recharge(
            Reservation::nothing(&catalog.accounting, Displaces::Untried),
            before,
            entry,
        );
        catalog.show_part(hash, 0, after, before);
        Ok(())
    }
}

/// The part that is kept of an object, as it is open, or with what the index says of its
/// chunks. None if one is open of which nothing more is kept: its file may still be written.
pub(in crate::store) fn find_part(
    store: &Arc<DiskStore>,
    open: &Arc<OpenParts>,
    key: &Key,
) -> Option<Part> {
    let (catalog, hash) = (&store.catalog, key.hash());
    let record = look_up(catalog, |index| index.part(hash))??;
    let Ok(Record { head, meta }) = format::decode_record(&record) else {
        part_damaged(catalog, hash, Erasure::Undecodable, "its record cannot be read");
        return None;
    };
    if meta.key != *key {
        return None;
    }
    let sequence = head.sequence;
    if let Some(open) = open.get(sequence) {
        catalog.accounting.touch(sequence);
        return open.is_live().then_some(open);
    }
    let file = match catalog.folder.open_part(hash, sequence) {
        Ok(file) => Arc::new(file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            part_damaged(catalog, hash, Erasure::Insertion(sequence), "its file is gone");
            return None;
        }
        Err(error) => {
            catalog.count("read");
            tracing::warn!(path = key.path(), %error, "disk tier: part cannot be opened");
            return None;
        }
    };
    #[cfg(test)]
    catalog.faults.reach("a part is to be opened");
    let part = open_part(store, open, hash, sequence, file)?;
    catalog.accounting.touch(sequence);
    part.is_live().then_some(part)
}

/// Opens the part of an insertion with what the index has of it at this moment, unless another
/// has been opened, or took its place, since it was found.
fn open_part(
    store: &Arc<DiskStore>,
    open: &Arc<OpenParts>,
    hash: KeyHash,
    sequence: u64,
    file: Arc<File>,
) -> Option<Part> {
    let catalog = &store.catalog;
    let _stripe = catalog.stripe(hash).lock();
    let record = look_up(catalog, |index| index.part(hash))??;
    let Record { head, meta } = format::decode_record(&record).ok()?;
    if head.sequence != sequence {
        return None;
    }
    let chunks = look_up(catalog, |index| index.chunks(hash, sequence))?;
    let mut table = ChunkTable::new(head.length);
    for (number, sum) in chunks {
        if table.bytes(number) > 0 {
            table.add(number, sum, IndexNote::Yes);
        }
    }
    Some(Part::new(store, open, meta, (sequence, head.length), file, (Life::Recorded, table)))
}

/// What the index says; none if it does not answer, which is counted.
fn look_up<T>(
    catalog: &Catalog,
    look: impl FnOnce(&Keyspaces) -> Result<T, IndexError>,
) -> Option<T> {
    let access = catalog.index.access();
    access.open().and_then(look).inspect_err(|_| catalog.count("index")).ok()
}

/// Makes a change that adds a chunk or makes a part whole. A part may be much older than the newest
/// insertion, so the totals get the store's own next one.
fn commit(catalog: &Catalog, mut change: Change<'_>) -> Result<(), WriteError> {
    let usage = catalog.accounting.usage();
    change.set_totals(&Totals {
        next_sequence: catalog.tier.insertions.load(Ordering::Acquire),
        bytes: usage.bytes,
        objects: usage.objects,
    });
    change.commit()?;
    Ok(())
}

fn store_format(error: format::FormatError) -> WriteError {
    WriteError::Io { operation: "encode", source: io::Error::other(error) }
}
