//! The account of the disk tier: what is used, what is promised to objects being written, and which
//! goes next. One per store; one short lock, never across I/O or an await. Never touches the disk:
//! it says which objects must go, its caller removes them.
//!
//! Until the order is loaded, `used` begins with the totals of the last commit and the order holds
//! what has been loaded; when all is loaded, the sum over the order replaces it.
//!
//! # Loading beside changes
//!
//! Insertions are loaded in the order of their sequences, a page at a time, and new ones have
//! higher sequences than any from before the start. So `frontier` says of an insertion whether it
//! has been loaded: one below it that the order does not hold has gone, and was counted then; one
//! from it on that goes is still in `used`, by what its record says. A page is read without the
//! lock: what goes between reading and loading it is noted in `gone`, and is not loaded. One that
//! goes from the index before its page is read, and is counted as gone after, stays in `used` until
//! all is loaded: too much for a moment, never too little.

use crate::metrics::Metrics;
use crate::object::KeyHash;
use crate::store::eviction::order::{
    ENTRY_BYTES_MAX, Evicted, EvictionEntry, EvictionOrder, OrderedObject, QueueStage, Unplaced,
};
use crate::store::format::{Totals, charge};
use crate::store::gauges::SharedGauges;
use crate::sync::{Condvar, Mutex};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What the disk tier holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskUsage {
    /// Bytes counted against the limit, small objects and overhead included.
    pub bytes: u64,
    /// Bytes promised to objects being written.
    pub reserved_bytes: u64,
    /// The limit in bytes.
    pub limit_bytes: u64,
    /// Objects.
    pub objects: u64,
    /// Whether the eviction order is loaded; before, the figures are those of the last commit.
    pub is_loaded: bool,
}

/// What an object that is being written may take the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Displaces {
    /// Of nothing: it has not been said how long it becomes.
    Nothing,
    /// Of what was never asked for again: it is not proven.
    Untried,
    /// Of anything: it is proven, or was asked for before.
    Anything,
}

/// Accounting promised to one object; gives it back when dropped.
#[derive(Debug)]
pub(in crate::store) struct Reservation {
    space: Arc<Accounting>,
    bytes: u64,
    displaces: Displaces,
}

/// What came of asking for space. The entries must be removed from disk before it is written to.
#[derive(Debug)]
pub(in crate::store) enum ReserveOutcome {
    /// It is promised, once these are gone.
    Promised(Reservation, Vec<Evicted>),
    /// Not yet: these must go, then ask again; with none, no more is known of to evict.
    Short(Vec<Evicted>),
    /// More than one object may have, whatever goes.
    Never,
}

/// What is still to be loaded.
#[derive(Debug, Clone, Copy)]
pub(in crate::store) struct Frontier {
    /// Every insertion below has been loaded.
    pub(in crate::store) next: u64,
    /// Insertions from here on are new, and need not be loaded.
    pub(in crate::store) first_new: u64,
}

/// The part of the tier that one object may have.
const OBJECT_PART: u64 = 2;
/// The part of the tier that stays free for bytes that are not proven, and its most bytes.
const RESERVE_PART: u64 = 32;
const RESERVE_BYTES_MAX: u64 = 4 << 30;
/// How many objects that are received find their next space in what is kept free, and the bounds of
/// that space.
const STEPS_IN_RESERVE: u64 = 16;
const STEP_BYTES_MIN: u64 = 256 << 10;
const STEP_BYTES_MAX: u64 = 4 << 20;

/// The account.
#[derive(Debug)]
pub(in crate::store) struct Accounting {
    limit: u64,
    /// Bytes of the file system, for this and all else that is on it.
    capacity: AtomicU64,
    account: Mutex<SpaceAccount>,
    progress: Condvar,
    /// Bytes, objects, objects in the order.
    shown: SharedGauges<3>,
}

#[derive(Debug)]
struct SpaceAccount {
    order: EvictionOrder,
    used: u64,
    objects: u64,
    reserved: u64,
    is_loaded: bool,
    /// Insertions below it have been loaded.
    frontier: u64,
    /// The first insertion since the start.
    first_new: u64,
    /// Insertions that went while a page that may hold them was read.
    gone: HashSet<u64>,
    /// Changes of the order, uses included.
    changes: u64,
}

impl Accounting {
    /// An account that knows only totals yet: `totals.next_sequence` is the first insertion that
    /// is new.
    pub(in crate::store) fn new(limit: u64, totals: Totals, metrics: &Metrics) -> Arc<Self> {
        let account = SpaceAccount {
            order: EvictionOrder::new(),
            used: totals.bytes,
            objects: totals.objects,
            reserved: 0,
            is_loaded: false,
            frontier: 0,
            first_new: totals.next_sequence,
            gone: HashSet::new(),
            changes: 0,
        };
        let space = Self {
            limit,
            capacity: AtomicU64::new(u64::MAX),
            account: Mutex::new(account),
            progress: Condvar::new(),
            shown: SharedGauges::new([
                metrics.stored_bytes.with_label_values(&["disk"]),
                metrics.stored_objects.with_label_values(&["disk"]),
                metrics.ordered_objects.clone(),
            ]),
        };
        space.show(&space.account.lock());
        Arc::new(space)
    }

    /// The first insertion since the start.
    pub(in crate::store) fn first_new(&self) -> u64 {
        self.account.lock().first_new
    }

    /// The limit in bytes.
    pub(in crate::store) fn limit(&self) -> u64 {
        self.limit
    }

    /// The file system has so many bytes.
    pub(in crate::store) fn set_capacity(&self, bytes: u64) {
        self.capacity.store(bytes, Ordering::Relaxed);
    }

    /// Bytes that one object may count at most.
    pub(in crate::store) fn object_max(&self) -> u64 {
        self.size() / OBJECT_PART
    }

    /// Bytes that are kept free for objects that are not proven.
    pub(in crate::store) fn reserve_bytes(&self) -> u64 {
        (self.size() / RESERVE_PART).min(RESERVE_BYTES_MAX)
    }

    /// Bytes that an object asks for at a time while it is received.
    pub(in crate::store) fn step(&self) -> u64 {
        (self.reserve_bytes() / STEPS_IN_RESERVE).clamp(STEP_BYTES_MIN, STEP_BYTES_MAX)
    }

    fn size(&self) -> u64 {
        self.limit.min(self.capacity.load(Ordering::Relaxed))
    }

    /// What an object that becomes `length` bytes, if that is known, may take the place of before
    /// it is proven.
    pub(in crate::store) fn displaces(&self, hash: KeyHash, length: Option<u64>) -> Displaces {
        let account = self.account.lock();
        let charges = length.map_or([0, u64::MAX], |length| [charge(length); 2]);
        if charges.iter().any(|charge| account.order.remembers(hash, *charge)) {
            Displaces::Anything
        } else if length.is_some() {
            Displaces::Untried
        } else {
            Displaces::Nothing
        }
    }

    /// Promises `bytes` to an object that displaces so much; names the objects that must go for it.
    pub(in crate::store) fn reserve(
        self: &Arc<Self>,
        bytes: u64,
        displaces: Displaces,
    ) -> ReserveOutcome {
        let mut account = self.account.lock();
        let promised = account.reserved.saturating_add(bytes);
        if bytes > self.limit.min(ENTRY_BYTES_MAX) {
            return ReserveOutcome::Never;
        }
        if promised > self.limit {
            // Other promises stand in the way: nothing would be gained by evicting.
            return ReserveOutcome::Short(Vec::new());
        }
        let mut evicted = Vec::new();
        while account.used.saturating_add(promised) > self.limit {
            let Some(chosen) = account.next_for(displaces) else {
                self.show(&account);
                return ReserveOutcome::Short(evicted);
            };
            account.forgot(chosen.entry.charge);
            evicted.push(chosen);
        }
        account.reserved = promised;
        self.show(&account);
        ReserveOutcome::Promised(Reservation { space: Arc::clone(self), bytes, displaces }, evicted)
    }

    /// Promises `bytes` if no object must go for it.
    pub(in crate::store) fn reserve_free(
        self: &Arc<Self>,
        bytes: u64,
        displaces: Displaces,
    ) -> Option<Reservation> {
        let mut account = self.account.lock();
        let promised = account.reserved.saturating_add(bytes);
        if bytes > ENTRY_BYTES_MAX || account.used.saturating_add(promised) > self.limit {
            return None;
        }
        account.reserved = promised;
        self.show(&account);
        Some(Reservation { space: Arc::clone(self), bytes, displaces })
    }

    /// Names the objects that must go so that what is kept free is free again.
    pub(in crate::store) fn overfull(&self) -> Vec<Evicted> {
        let mut account = self.account.lock();
        let mut evicted = Vec::new();
        while account.used.saturating_add(self.reserve_bytes()) > self.limit {
            let Some(chosen) = account.order.evict() else { break };
            account.forgot(chosen.entry.charge);
            evicted.push(chosen);
        }
        self.show(&account);
        evicted
    }

    /// Names objects of `bytes` or more together that go for one that displaces so much, whatever
    /// the limit says.
    pub(in crate::store) fn shed(&self, bytes: u64, displaces: Displaces) -> Vec<Evicted> {
        let mut account = self.account.lock();
        let (mut evicted, mut freed) = (Vec::new(), 0_u64);
        while freed < bytes {
            let Some(chosen) = account.next_for(displaces) else { break };
            freed = freed.saturating_add(chosen.entry.charge);
            account.forgot(chosen.entry.charge);
            evicted.push(chosen);
        }
        self.show(&account);
        evicted
    }

    /// Names `count` objects with files of their own that go for one that displaces so much,
    /// whatever the limit says.
    pub(in crate::store) fn shed_files(&self, count: u64, displaces: Displaces) -> Vec<Evicted> {
        let mut account = self.account.lock();
        let mut evicted = Vec::new();
        while (evicted.len() as u64) < count {
            let chosen = match displaces {
                Displaces::Anything => account.order.evict_file(),
                Displaces::Untried | Displaces::Nothing => account.next_for(displaces),
            };
            let Some(chosen) = chosen else { break };
            account.forgot(chosen.entry.charge);
            evicted.push(chosen);
        }
        self.show(&account);
        evicted
    }

    /// Counts an object with space that was promised, under the key `hash`; `replaced` is the one
    /// it replaces, which counts as gone.
    pub(in crate::store) fn add(
        &self,
        mut reservation: Reservation,
        entry: EvictionEntry,
        hash: KeyHash,
        replaced: Option<EvictionEntry>,
    ) {
        let mut account = self.account.lock();
        account.reserved = account.reserved.saturating_sub(reservation.take());
        let known = account.order.insert(entry, hash, replaced.map(|entry| entry.sequence));
        account.went(known, replaced);
        account.used = account.used.saturating_add(entry.charge);
        account.objects = account.objects.saturating_add(1);
        self.show(&account);
    }

    /// Counts new objects with space that was promised together.
    pub(in crate::store) fn add_all(
        &self,
        mut reservation: Reservation,
        objects: impl Iterator<Item = (KeyHash, EvictionEntry)>,
    ) {
        let mut account = self.account.lock();
        account.reserved = account.reserved.saturating_sub(reservation.take());
        for (hash, entry) in objects {
            account.order.insert(entry, hash, None);
            account.used = account.used.saturating_add(entry.charge);
            account.objects = account.objects.saturating_add(1);
        }
        account.changes = account.changes.wrapping_add(1);
        self.show(&account);
    }

    /// Counts an object again that could not be evicted.
    pub(in crate::store) fn restore(&self, entry: EvictionEntry) {
        let mut account = self.account.lock();
        if account.order.restore(entry) {
            account.used = account.used.saturating_add(entry.charge);
            account.objects = account.objects.saturating_add(1);
        }
        self.show(&account);
    }

    /// Remembers the key of an object that was evicted while it was on trial.
    pub(in crate::store) fn remember(&self, hash: KeyHash, charge: u64) {
        self.account.lock().order.remember(hash, charge);
    }

    /// Counts an object as gone, with what its record says.
    pub(in crate::store) fn remove(&self, entry: EvictionEntry) {
        let mut account = self.account.lock();
        let known = account.order.remove(entry.sequence);
        account.went(known, Some(entry));
        self.show(&account);
    }

    /// Notes that an object was read; false if the account is busy, and nothing is noted.
    pub(in crate::store) fn touch(&self, sequence: u64) -> bool {
        let Some(mut account) = self.account.try_lock() else { return false };
        account.order.touch(sequence);
        account.changes = account.changes.wrapping_add(1);
        true
    }

    /// Whether an object was asked for since it was stored, as far as the order remembers.
    pub(in crate::store) fn is_used(&self, sequence: u64) -> bool {
        self.account.lock().order.is_used(sequence)
    }

    /// Counts a part, of which more or less is here now, with space that was promised; nothing
    /// if it has been chosen to go. Its kind never changes: no part is as small as a body in
    /// the index.
    pub(in crate::store) fn recharge(
        &self,
        mut reservation: Reservation,
        before: u64,
        now: EvictionEntry,
    ) {
        let mut account = self.account.lock();
        account.reserved = account.reserved.saturating_sub(reservation.take());
        let is_to_come =
            account.is_to_be_loaded(now.sequence) && !account.gone.contains(&now.sequence);
        let known = account.order.recharge(now);
        if let Some(known) = known {
            account.used = account.used.saturating_sub(known.charge).saturating_add(now.charge);
        } else if is_to_come {
            // Loading passes over what is in the order already.
            account.order.load(now);
            account.used = account.used.saturating_sub(before).saturating_add(now.charge);
        }
        account.changes = account.changes.wrapping_add(1);
        self.show(&account);
    }

    /// Bytes of memory that the order takes.
    pub(in crate::store) fn memory_bytes(&self) -> usize {
        self.account.lock().order.memory_bytes()
    }

    /// Where to load from: call before a page is read.
    pub(in crate::store) fn begin_page(&self) -> Frontier {
        let mut account = self.account.lock();
        account.gone.clear();
        Frontier { next: account.frontier, first_new: account.first_new }
    }

    /// Loads entries of a page that was read from the frontier on, in their order.
    pub(in crate::store) fn load(&self, entries: &[EvictionEntry]) {
        let mut account = self.account.lock();
        for entry in entries {
            if !account.gone.contains(&entry.sequence) {
                account.order.load(*entry);
            }
            account.frontier = entry.sequence.saturating_add(1);
        }
        self.show(&account);
        drop(account);
        self.progress.notify_all();
    }

    /// Puts loaded objects in the places that a snapshot names.
    pub(in crate::store) fn arrange(&self, stage: QueueStage, objects: &[(u64, u8)]) {
        let mut account = self.account.lock();
        for (sequence, uses) in objects {
            account.order.place(*sequence, stage, *uses);
        }
    }

    /// Puts at most `max` loaded objects of each kind in the places that they have without a
    /// snapshot; false when all have a place.
    pub(in crate::store) fn settle(&self, max: usize, unplaced: Unplaced) -> bool {
        self.account.lock().order.settle(max, unplaced)
    }

    /// Everything is loaded: the order's own sums count from now on.
    pub(in crate::store) fn loaded(&self) {
        let mut account = self.account.lock();
        account.used = account.order.bytes();
        account.objects = account.order.len();
        account.is_loaded = true;
        account.gone = HashSet::new();
        self.show(&account);
        drop(account);
        self.progress.notify_all();
    }

    /// A number that differs when the order has changed; `None` until it is loaded.
    pub(in crate::store) fn changes(&self) -> Option<u64> {
        let account = self.account.lock();
        account.is_loaded.then_some(account.changes)
    }

    /// Begins a walk over the order.
    pub(in crate::store) fn begin_walk(&self) {
        self.account.lock().order.begin_walk();
    }

    /// At most `max` objects of a walk, all in one queue; none at its end.
    pub(in crate::store) fn walk(&self, max: usize) -> Vec<OrderedObject> {
        self.account.lock().order.walk(max)
    }

    /// Waits, at most `patience`, until more is loaded; false when none came.
    pub(in crate::store) fn wait_for_more(&self, patience: Duration) -> bool {
        let mut account = self.account.lock();
        account.is_loaded || !self.progress.wait_for(&mut account, patience).timed_out()
    }

    /// What is used and promised now.
    pub(in crate::store) fn usage(&self) -> DiskUsage {
        let account = self.account.lock();
        DiskUsage {
            bytes: account.used,
            reserved_bytes: account.reserved,
            limit_bytes: self.limit,
            objects: account.objects,
            is_loaded: account.is_loaded,
        }
    }

    fn show(&self, account: &SpaceAccount) {
        self.shown.set([account.used, account.objects, account.order.len()]);
    }
}

impl SpaceAccount {
    /// The next object that goes for one that displaces so much.
    fn next_for(&mut self, displaces: Displaces) -> Option<Evicted> {
        match displaces {
            Displaces::Nothing => None,
            Displaces::Untried => self.order.evict_untried(),
            Displaces::Anything => self.order.evict(),
        }
    }

    fn forgot(&mut self, charge: u64) {
        self.used = self.used.saturating_sub(charge);
        self.objects = self.objects.saturating_sub(1);
    }

    /// An object is gone: counted if the order knew it, or was still to load it. One that was
    /// evicted was counted then.
    fn went(&mut self, known: Option<EvictionEntry>, recorded: Option<EvictionEntry>) {
        self.changes = self.changes.wrapping_add(1);
        match (known, recorded) {
            (Some(entry), _) => self.forgot(entry.charge),
            (None, Some(entry)) if self.is_to_be_loaded(entry.sequence) => {
                // Noted once: a second time says nothing new.
                if self.gone.insert(entry.sequence) {
                    self.forgot(entry.charge);
                }
            }
            (None, _) => {}
        }
    }

    fn is_to_be_loaded(&self, sequence: u64) -> bool {
        !self.is_loaded && (self.frontier..self.first_new).contains(&sequence)
    }
}

impl Reservation {
    /// Bytes promised.
    pub(in crate::store) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What the object may take the place of.
    pub(in crate::store) fn displaces(&self) -> Displaces {
        self.displaces
    }

    /// The object is proven: it displaces anything from now on.
    pub(in crate::store) fn prove(&mut self) {
        self.displaces = Displaces::Anything;
    }

    /// A promise of nothing.
    pub(in crate::store) fn nothing(space: &Arc<Accounting>, displaces: Displaces) -> Self {
        Self { space: Arc::clone(space), bytes: 0, displaces }
    }

    /// Takes up to `bytes` of this promise into one of its own.
    pub(in crate::store) fn split(&mut self, bytes: u64) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { space: Arc::clone(&self.space), bytes, displaces: self.displaces }
    }

    /// Takes the promise of another reservation into this one.
    pub(in crate::store) fn join(&mut self, mut other: Self) {
        self.bytes = self.bytes.saturating_add(other.take());
    }

    fn take(&mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let bytes = self.take();
        if bytes > 0 {
            let mut account = self.space.account.lock();
            account.reserved = account.reserved.saturating_sub(bytes);
        }
    }
}

#[cfg(test)]
mod tests;
