//! Parts in the index: found, noted chunk by chunk, made whole, dropped, loaded. Blocking. Locks as
//! the module says; what adds something asks its permit under them, as `commit` does.

use super::table::{Chunk, Noted, Table};
use super::{Kept, Life, Part, Synced};
use crate::object::{Key, KeyHash, Meta, Sha256};
use crate::store::Inner;
use crate::store::error::{IndexError, WriteError};
use crate::store::eviction::Entry;
use crate::store::files;
use crate::store::format::{self, Head, INLINE_BYTES_MAX, Place, Record, Totals};
use crate::store::index::{Change, Open};
use crate::store::read::{BodyFile, Stored, StoredBody};
use crate::store::space::{Displaces, Reservation};
use crate::store::trailer;
use crate::store::which::Which;
use fjall::Slice;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Records of parts that are looked at in one go.
pub(in crate::store) const PAGE: usize = 1024;
/// Parts that are counted in one go, while no part may change.
pub(in crate::store) const COUNTED_AT_ONCE: usize = 32;

/// Bytes that a part with so many bytes in the index counts against the limit. With all of them it
/// is what the whole object counts.
fn charge_of(bytes: u64) -> u64 {
    format::charge(bytes.max(INLINE_BYTES_MAX))
}

/// How a part came to hold what it holds.
#[derive(Debug, Clone, Copy)]
enum Came {
    /// It was not in the index; there may have been an older one.
    New { older: Option<Entry> },
    /// It counted less before.
    Grown { before: u64 },
}

impl Part {
    /// Notes synced chunks in the index, and the part itself with the first of them, if `permit`
    /// says yes.
    pub fn note(&self, synced: &Synced, permit: &dyn Fn() -> bool) -> Result<Kept, WriteError> {
        let noted = self.try_note(&synced.0, permit);
        let result = match &noted {
            Ok(Kept::Yes) => Noted::Yes,
            Ok(Kept::Loose) | Err(_) => Noted::Not,
        };
        self.0.table.lock().set_noted(&synced.0, result);
        match &noted {
            Ok(_) => {
                self.0.store.health.succeeded();
            }
            Err(error) => self.0.store.write_failed(error),
        }
        noted
    }

    fn try_note(
        &self,
        chunks: &[(u32, u64)],
        permit: &dyn Fn() -> bool,
    ) -> Result<Kept, WriteError> {
        let state = &self.0;
        let (store, hash, sequence) = (&state.store, state.hash, state.sequence);
        let _parts = store.parts.read();
        let stripe = store.stripe(hash).lock();
        let access = store.index.access();
        let index = access.open()?;
        let mut life = state.life.lock();
        if !permit() {
            self.refused(index, &mut life)?;
            return Ok(Kept::Loose);
        }
        let (chunks, before, bytes) = self.being_noted(chunks);
        if chunks.is_empty() {
            return Ok(if self.is_live() { Kept::Yes } else { Kept::Loose });
        }
        let mut change = index.change();
        for (number, sum) in chunks {
            change.set_chunk(hash, sequence, number, sum);
        }
        let entry = Entry { sequence, charge: charge_of(bytes) };
        change.set_order(hash, entry);
        let came = match &mut *life {
            Life::Loose => return Ok(Kept::Loose),
            Life::Kept => {
                if !is_ours(index, hash, sequence)? {
                    self.loosen(&mut life);
                    return Ok(Kept::Loose);
                }
                commit(store, change)?;
                Came::Grown { before: charge_of(before) }
            }
            Life::New(new) => {
                if index.record(hash)?.is_some() {
                    self.loosen(&mut life);
                    return Ok(Kept::Loose);
                }
                let mut note = index.change();
                note.set_link(hash, sequence);
                note.commit()?;
                new.link(&store.folder.body_path(hash, sequence))?;
                let older = Inner::replace_part(index, &mut change, hash)?;
                let record = self.record(&state.meta.read());
                let record = record.map_err(store_format)?;
                change.set_part(hash, &record);
                change.drop_link(hash, sequence);
                if let Err(error) = commit(store, change) {
                    self.loosen(&mut life);
                    store.unlink(index, hash, sequence);
                    return Err(error);
                }
                *life = Life::Kept;
                Came::New { older }
            }
        };
        self.count(entry, came);
        drop(life);
        drop(stripe);
        if let Came::New { older: Some(older) } = came {
            store.unlink(index, hash, older.sequence);
        }
        Ok(Kept::Yes)
    }

    /// A permit says no. Nothing more is kept of a part that has no record, or not any more; other
    /// flights share one that has.
    fn refused(&self, index: &Open, life: &mut Life) -> Result<(), IndexError> {
        let state = &self.0;
        if !matches!(life, Life::Kept) || !is_ours(index, state.hash, state.sequence)? {
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
    fn count(&self, entry: Entry, came: Came) {
        let (state, space) = (&self.0, &self.0.store.space);
        let before = match came {
            Came::New { older } => older.map_or(0, |older| older.charge),
            Came::Grown { before } => before,
        };
        let mut promised = state.promised.lock();
        let promise = promised.split(entry.charge.saturating_sub(before));
        if !state.table.lock().has_unnoted() {
            // What is left over was for rounding.
            *promised = Reservation::nothing(space, Displaces::Untried);
        }
        drop(promised);
        match came {
            Came::New { older } => space.add(promise, entry, state.hash, older),
            Came::Grown { before } => space.recharge(promise, before, entry),
        }
        let objects = i64::from(matches!(came, Came::New { older: None }));
        state.store.show_part(state.hash, objects, (entry.charge, before));
    }

    /// The record of the whole that this is a part of; its digest is not known yet.
    fn record(&self, meta: &Meta) -> Result<Vec<u8>, format::FormatError> {
        format::encode_record(&self.head(Sha256([0; 32])), meta)
    }

    fn head(&self, sha256: Sha256) -> Head {
        Head {
            sequence: self.0.sequence,
            length: self.0.length,
            sha256,
            place: Place::File,
            claims: None,
            variant_of: self.0.key.is_variant().then(|| self.0.key.primary().hash().0),
        }
    }

    /// Replaces the metadata, if the part is still kept and `permit` says yes; a newer head stays.
    pub fn touch_meta(&self, meta: Meta, permit: &dyn Fn() -> bool) -> Kept {
        if !permit() {
            return Kept::Loose;
        }
        let state = &self.0;
        let _parts = state.store.parts.read();
        let _stripe = state.store.stripe(state.hash).lock();
        if meta.response_time < state.meta.read().response_time {
            return if self.is_live() { Kept::Yes } else { Kept::Loose };
        }
        let rewrite = || -> Result<Kept, WriteError> {
            let access = state.store.index.access();
            let index = access.open()?;
            if !permit() || !is_ours(index, state.hash, state.sequence)? {
                return Ok(Kept::Loose);
            }
            let mut rewriting = index.change();
            rewriting.set_part(state.hash, &self.record(&meta).map_err(store_format)?);
            rewriting.commit()?;
            Ok(Kept::Yes)
        };
        let rewritten = rewrite();
        *state.meta.write() = Arc::new(meta);
        rewritten.unwrap_or_else(|error| {
            state.store.write_failed(&error);
            Kept::Loose
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
        self.0.store.recent.forget(self.0.hash);
        promoted.inspect_err(|error| self.0.store.write_failed(error))
    }

    fn try_promote(
        &self,
        meta: Meta,
        sha256: Sha256,
        permit: &dyn Fn() -> bool,
    ) -> Result<Option<Stored>, WriteError> {
        let state = &self.0;
        let (store, hash, length) = (&state.store, state.hash, state.length);
        let head = self.head(sha256);
        let record = format::encode_record(&head, &meta).map_err(store_format)?;
        let _parts = store.parts.read();
        let _stripe = store.stripe(hash).lock();
        let access = store.index.access();
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
        commit(store, change)?;
        self.loosen(&mut life);
        let replaced = charge_of(length);
        store.space.recharge(
            Reservation::nothing(&store.space, Displaces::Untried),
            replaced,
            Entry::of(&head),
        );
        store.show_part(hash, -1, (0, replaced));
        let body = BodyFile::new(store, Arc::clone(&state.file), hash, &head);
        let (meta, body) = (Arc::new(meta), StoredBody::File(body));
        let insertion = store.insertion(state.sequence);
        Ok(Some(Stored { meta, body, length, sha256, insertion }))
    }

    /// Writes the trailer; the change that makes the part whole.
    fn change_to_whole<'i>(
        &self,
        index: &'i Open,
        head: &Head,
        record: &[u8],
        sums: &[u8],
    ) -> Result<Change<'i>, WriteError> {
        let state = &self.0;
        let length = state.length;
        let trailer = trailer::encode(state.hash, head, sums, record).map_err(store_format)?;
        let write = || {
            #[cfg(test)]
            state.store.faults.meet("the trailer of a part is to be written")?;
            state.file.set_len(length)?;
            let write = || state.file.write_all_at(&trailer, length);
            files::write(&state.file, (length, trailer.len()), write)
        };
        write().map_err(|source| WriteError::Io { operation: "write", source })?;
        #[cfg(test)]
        state.store.faults.reach("a part is to be made whole");
        let mut change = index.change();
        // In this order: a look-up asks for parts last.
        change.set_record(state.hash, head, record);
        change.drop_part(state.hash, state.sequence)?;
        Ok(change)
    }

    /// Drops it from the index; readers go on. Blocking.
    pub fn discard(&self) {
        self.let_go();
        let dropped = self.0.store.drop_part(self.0.hash, Which::Insertion(self.0.sequence));
        self.0.store.part_went(dropped);
    }

    /// A chunk is damaged: it is missing from now on, unless it has been fetched anew since `seen`.
    /// If the part is sealed, the chunk stays and the whole object is dropped.
    pub(super) fn clear(&self, number: u32, seen: &Chunk, why: &str) {
        let state = &self.0;
        let (before, chunk, bytes) = {
            let mut table = state.table.lock();
            if !table.holds(number, seen.id) {
                return;
            }
            if table.is_sealed() {
                drop(table);
                state.store.drop_damaged(state.hash, state.sequence, why);
                return;
            }
            let before = table.noted_bytes();
            (before, table.remove(number), table.noted_bytes())
        };
        let Some(chunk) = chunk else { return };
        state.store.metrics.chunks.with_label_values(&["damaged"]).inc();
        state.store.count_damaged(state.key.path(), why);
        if chunk.noted == Noted::Yes
            && let Err(error) = self.unnote(number, charge_of(before), charge_of(bytes))
        {
            state.store.index_failed(&error);
        }
    }

    fn unnote(&self, number: u32, before: u64, after: u64) -> Result<(), IndexError> {
        let state = &self.0;
        let (store, hash, sequence) = (&state.store, state.hash, state.sequence);
        let _parts = store.parts.read();
        let _stripe = store.stripe(hash).lock();
        let access = store.index.access();
        let index = access.open()?;
        if !is_ours(index, hash, sequence)? {
            return Ok(());
        }
        let mut change = index.change();
        let entry = Entry { sequence, charge: after };
        change.drop_chunk(hash, sequence, number);
        change.set_order(hash, entry);
        change.commit()?;
        store.space.recharge(Reservation::nothing(&store.space, Displaces::Untried), before, entry);
        store.show_part(hash, 0, (after, before));
        Ok(())
    }
}

impl Inner {
    /// The part that is kept of an object, as it is open, or with what the index says of its
    /// chunks. None if one is open of which nothing more is kept: its file may still be written.
    pub(in crate::store) fn find_part(self: &Arc<Self>, key: &Key) -> Option<Part> {
        let hash = key.hash();
        let record = self.look_up(|index| index.part(hash))??;
        let Ok(Record { head, meta }) = format::decode_record(&record) else {
            self.part_damaged(hash, Which::Undecodable, "its record cannot be read");
            return None;
        };
        if meta.key != *key {
            return None;
        }
        let sequence = head.sequence;
        if let Some(open) = self.open_parts.get(sequence) {
            self.space.touch(sequence);
            return open.is_live().then_some(open);
        }
        let file = match self.folder.open_part(hash, sequence) {
            Ok(file) => Arc::new(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.part_damaged(hash, Which::Insertion(sequence), "its file is gone");
                return None;
            }
            Err(error) => {
                self.count("read");
                tracing::warn!(path = key.path(), %error, "disk tier: part cannot be opened");
                return None;
            }
        };
        #[cfg(test)]
        self.faults.reach("a part is to be opened");
        let part = self.open_part(hash, sequence, file)?;
        self.space.touch(sequence);
        part.is_live().then_some(part)
    }

    /// Opens the part of an insertion with what the index has of it at this moment, unless another
    /// has been opened, or took its place, since it was found.
    fn open_part(self: &Arc<Self>, hash: KeyHash, sequence: u64, file: Arc<File>) -> Option<Part> {
        let _stripe = self.stripe(hash).lock();
        let record = self.look_up(|index| index.part(hash))??;
        let Record { head, meta } = format::decode_record(&record).ok()?;
        if head.sequence != sequence {
            return None;
        }
        let chunks = self.look_up(|index| index.chunks(hash, sequence))?;
        let mut table = Table::new(head.length);
        for (number, sum) in chunks {
            if table.bytes(number) > 0 {
                table.add(number, sum, Noted::Yes);
            }
        }
        Some(Part::new(self, meta, (sequence, head.length), file, (Life::Kept, table)))
    }

    /// What the index says; none if it does not answer, which is counted.
    fn look_up<T>(&self, look: impl FnOnce(&Open) -> Result<T, IndexError>) -> Option<T> {
        let access = self.index.access();
        access.open().and_then(look).inspect_err(|_| self.count("index")).ok()
    }

    fn part_damaged(&self, hash: KeyHash, which: Which<'_>, why: &str) {
        if self.part_went(self.drop_part(hash, which)) {
            self.count_damaged(&hash.to_string(), why);
        }
    }

    fn part_went(&self, dropped: Result<bool, IndexError>) -> bool {
        dropped.unwrap_or_else(|error| {
            self.index_failed(&error);
            false
        })
    }

    pub(in crate::store) fn drop_part(
        &self,
        hash: KeyHash,
        which: Which<'_>,
    ) -> Result<bool, IndexError> {
        let _parts = self.parts.read();
        let stripe = self.stripe(hash).lock();
        let access = self.index.access();
        let index = access.open()?;
        let dropped = self.erase_part(index, hash, which)?;
        drop(stripe);
        if let Some(sequence) = dropped {
            self.unlink(index, hash, sequence);
        }
        Ok(dropped.is_some())
    }

    /// Takes the record of a part away, under its caller's locks; the insertion whose file is to be
    /// unlinked, where there was one.
    pub(in crate::store) fn erase_part(
        &self,
        index: &Open,
        hash: KeyHash,
        which: Which<'_>,
    ) -> Result<Option<u64>, IndexError> {
        let is_meant = |record: Slice| which.means(&record);
        if !index.part(hash)?.is_some_and(is_meant) {
            return Ok(None);
        }
        let Some(part) = part_of(index, hash)? else { return Ok(None) };
        let Entry { sequence, charge } = part;
        let mut change = index.change();
        change.drop_part(hash, sequence)?;
        change.drop_order(sequence);
        change.set_link(hash, sequence);
        change.commit()?;
        self.space.remove(part);
        self.show_part(hash, -1, (0, charge));
        Ok(Some(sequence))
    }

    /// Lets a whole object take the place of a part, in the change that places it; the part.
    pub(in crate::store) fn replace_part(
        index: &Open,
        change: &mut Change<'_>,
        hash: KeyHash,
    ) -> Result<Option<Entry>, IndexError> {
        let Some(part) = part_of(index, hash)? else { return Ok(None) };
        change.drop_part(hash, part.sequence)?;
        change.drop_order(part.sequence);
        change.set_link(hash, part.sequence);
        Ok(Some(part))
    }

    /// Counts the parts that are not counted yet, a few at a time, which do not change meanwhile.
    /// After an error it goes on where that came. Ends early when the store is left.
    pub(in crate::store) fn count_parts(&self) -> Result<(), IndexError> {
        while !self.counted_parts.are_all() && !self.leaving.is_cancelled() {
            self.count_some_parts()?;
            #[cfg(test)]
            self.faults.reach("some parts are counted");
        }
        Ok(())
    }

    fn count_some_parts(&self) -> Result<(), IndexError> {
        let _parts = self.parts.write();
        #[cfg(test)]
        self.faults.reach("the parts are to be counted");
        let access = self.index.access();
        let index = access.open()?;
        let page = index.parts_page(self.counted_parts.last(), COUNTED_AT_ONCE)?;
        let last = page.last().map(|(last, _)| *last);
        let (mut objects, mut bytes) = (0, 0);
        for (hash, _) in page {
            let Some(part) = part_of(index, hash)? else { continue };
            objects += 1;
            bytes += signed(part.charge);
        }
        self.counted_parts.add_up_to(last, [objects, bytes]);
        Ok(())
    }

    /// Shows what has become of a part; if it is not counted yet, the count itself will.
    pub(in crate::store) fn show_part(
        &self,
        hash: KeyHash,
        objects: i64,
        (charge, before): (u64, u64),
    ) {
        self.counted_parts.change(hash, [objects, signed(charge) - signed(before)]);
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn is_ours(index: &Open, hash: KeyHash, sequence: u64) -> Result<bool, IndexError> {
    let record = index.part(hash)?;
    let head = record.and_then(|record| format::decode_head(&record).ok());
    Ok(head.is_some_and(|head| head.sequence == sequence))
}

/// The insertion of the part of a key, and what it counts. Where its record cannot be read, its
/// chunks name the insertion.
pub(in crate::store) fn part_of(index: &Open, hash: KeyHash) -> Result<Option<Entry>, IndexError> {
    let Some(record) = index.part(hash)? else { return Ok(None) };
    let Ok(head) = format::decode_head(&record) else {
        let sequence = index.insertion_of_chunks(hash)?.unwrap_or_default();
        return Ok(Some(Entry { sequence, charge: charge_of(0) }));
    };
    let chunks = index.chunks(hash, head.sequence)?;
    let table = Table::new(head.length);
    let bytes = chunks.iter().map(|(number, _)| table.bytes(*number)).sum();
    Ok(Some(Entry { sequence: head.sequence, charge: charge_of(bytes) }))
}

/// Makes a change that adds a chunk or makes a part whole. A part may be much older than the newest
/// insertion, so the totals get the store's own next one.
fn commit(store: &Inner, mut change: Change<'_>) -> Result<(), WriteError> {
    let usage = store.space.usage();
    change.set_totals(&Totals {
        next_sequence: store.seat.insertions.load(Ordering::Acquire),
        bytes: usage.bytes,
        objects: usage.objects,
    });
    change.commit()?;
    Ok(())
}

fn store_format(error: format::FormatError) -> WriteError {
    WriteError::Io { operation: "encode", source: io::Error::other(error) }
}
