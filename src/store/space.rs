//! The account of the disk tier: what is used, what is promised to objects being written, and who
//! goes next. One per store; one short lock, never across I/O or an await. Never touches the disk:
//! it says who must go, its caller removes them.
//!
//! Until the index is loaded, `used` begins with the totals of the last commit and the eviction
//! order holds what has been loaded; when all is loaded, the sum over the order replaces it.

use super::eviction::{Entry, EvictionOrder};
use crate::metrics::Metrics;
use crate::object::KeyHash;
use parking_lot::{Condvar, Mutex};
use prometheus::IntGauge;
use std::sync::Arc;
use std::time::Duration;

/// What the disk tier holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
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

/// Space promised to one object; gives it back when dropped.
#[derive(Debug)]
pub(super) struct Reservation {
    space: Arc<Space>,
    bytes: u64,
}

/// What came of asking for space. The entries must be removed from disk before it is written to.
#[derive(Debug)]
pub(super) enum Room {
    /// It is promised, once these are gone.
    Promised(Reservation, Vec<Entry>),
    /// Not yet: these must go, then ask again; with none, no more is known of to evict.
    Short(Vec<Entry>),
    /// More than the limit, whatever goes.
    Never,
}

/// The account.
#[derive(Debug)]
pub(super) struct Space {
    limit: u64,
    account: Mutex<Account>,
    progress: Condvar,
    bytes_gauge: IntGauge,
    objects_gauge: IntGauge,
}

#[derive(Debug)]
struct Account {
    order: EvictionOrder,
    used: u64,
    objects: u64,
    reserved: u64,
    is_loaded: bool,
    /// Whether the order knows every object.
    is_whole: bool,
    /// What the gauges were last given by this account: other stores give them theirs.
    shown: [i64; 2],
}

impl Space {
    /// An account that knows only totals yet.
    pub(super) fn new(limit: u64, used: u64, objects: u64, metrics: &Metrics) -> Arc<Self> {
        let account = Account {
            order: EvictionOrder::new(),
            used,
            objects,
            reserved: 0,
            is_loaded: false,
            is_whole: false,
            shown: [0; 2],
        };
        let space = Self {
            limit,
            account: Mutex::new(account),
            progress: Condvar::new(),
            bytes_gauge: metrics.stored_bytes.with_label_values(&["disk"]),
            objects_gauge: metrics.stored_objects.with_label_values(&["disk"]),
        };
        space.show(&mut space.account.lock());
        Arc::new(space)
    }

    /// The limit in bytes.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    /// Promises `bytes`, naming who must go for it.
    pub(super) fn reserve(self: &Arc<Self>, bytes: u64) -> Room {
        let mut account = self.account.lock();
        let promised = account.reserved.saturating_add(bytes);
        if bytes > self.limit {
            return Room::Never;
        }
        if promised > self.limit {
            // Other promises stand in the way: nothing would be gained by evicting.
            return Room::Short(Vec::new());
        }
        let mut evicted = Vec::new();
        while account.used.saturating_add(promised) > self.limit {
            let Some(entry) = account.order.evict() else {
                self.show(&mut account);
                return Room::Short(evicted);
            };
            account.forgot(entry.charge);
            evicted.push(entry);
        }
        account.reserved = promised;
        self.show(&mut account);
        Room::Promised(Reservation { space: Arc::clone(self), bytes }, evicted)
    }

    /// Names objects of `bytes` or more together that must go, whatever the limit says.
    pub(super) fn shed(&self, bytes: u64) -> Vec<Entry> {
        let mut account = self.account.lock();
        let (mut evicted, mut freed) = (Vec::new(), 0_u64);
        while freed < bytes {
            let Some(entry) = account.order.evict() else { break };
            freed = freed.saturating_add(entry.charge);
            account.forgot(entry.charge);
            evicted.push(entry);
        }
        self.show(&mut account);
        evicted
    }

    /// Names `count` objects with files of their own that must go, whatever the limit says.
    pub(super) fn shed_files(&self, count: u64) -> Vec<Entry> {
        let mut account = self.account.lock();
        let mut evicted = Vec::new();
        while (evicted.len() as u64) < count {
            let Some(entry) = account.order.evict_file() else { break };
            account.forgot(entry.charge);
            evicted.push(entry);
        }
        self.show(&mut account);
        evicted
    }

    /// Whether there may be an object with this hash: there is, or not all are loaded.
    pub(super) fn may_hold(&self, hash: KeyHash) -> bool {
        let account = self.account.lock();
        !account.is_whole || account.order.get(hash).is_some()
    }

    /// Not everything could be loaded: objects may be there that the order does not know.
    pub(super) fn is_not_whole(&self) {
        self.account.lock().is_whole = false;
    }

    /// Counts an object whose space was promised; `replaced` is the charge of the one it replaces,
    /// which counts as gone.
    pub(super) fn add(&self, mut reservation: Reservation, entry: Entry, replaced: Option<u64>) {
        let mut account = self.account.lock();
        account.reserved = account.reserved.saturating_sub(reservation.take());
        let known = account.order.insert(entry);
        account.went(known, replaced);
        account.used = account.used.saturating_add(entry.charge);
        account.objects = account.objects.saturating_add(1);
        self.show(&mut account);
    }

    /// Counts an object again that could not be evicted.
    pub(super) fn restore(&self, entry: Entry) {
        let mut account = self.account.lock();
        if account.order.get(entry.hash).is_none() {
            account.order.insert(entry);
            account.used = account.used.saturating_add(entry.charge);
            account.objects = account.objects.saturating_add(1);
        }
        self.show(&mut account);
    }

    /// Counts an object as gone; `charge` is what its record says.
    pub(super) fn remove(&self, hash: KeyHash, charge: Option<u64>) {
        let mut account = self.account.lock();
        let known = account.order.remove(hash);
        account.went(known, charge);
        self.show(&mut account);
    }

    /// Notes that an object was read; does nothing while the account is busy.
    pub(super) fn touch(&self, hash: KeyHash) {
        if let Some(mut account) = self.account.try_lock() {
            account.order.touch(hash);
        }
    }

    /// The insertion sequence of an object, where it is loaded.
    pub(super) fn sequence(&self, hash: KeyHash) -> Option<u64> {
        self.account.lock().order.get(hash).map(|entry| entry.sequence)
    }

    /// Takes loaded objects into the order; those it has already stay as they are.
    pub(super) fn load(&self, entries: impl Iterator<Item = Entry>) {
        let mut account = self.account.lock();
        for entry in entries {
            if account.order.get(entry.hash).is_none() {
                account.order.insert(entry);
            }
        }
        drop(account);
        self.progress.notify_all();
    }

    /// Everything is loaded: the order's own sums count from now on.
    pub(super) fn loaded(&self) {
        let mut account = self.account.lock();
        account.order.sort_by_sequence();
        account.used = account.order.bytes();
        account.objects = account.order.len();
        account.is_loaded = true;
        account.is_whole = true;
        self.show(&mut account);
        drop(account);
        self.progress.notify_all();
    }

    /// Waits, at most `patience`, until more is loaded; false when none came.
    pub(super) fn wait_for_more(&self, patience: Duration) -> bool {
        let mut account = self.account.lock();
        account.is_loaded || !self.progress.wait_for(&mut account, patience).timed_out()
    }

    /// What is used and promised now.
    pub(super) fn usage(&self) -> Usage {
        let account = self.account.lock();
        Usage {
            bytes: account.used,
            reserved_bytes: account.reserved,
            limit_bytes: self.limit,
            objects: account.objects,
            is_loaded: account.is_loaded,
        }
    }

    fn show(&self, account: &mut Account) {
        let now = [account.used, account.objects];
        self.give(account, now.map(|count| i64::try_from(count).unwrap_or(i64::MAX)));
    }

    fn give(&self, account: &mut Account, [bytes, objects]: [i64; 2]) {
        let [old_bytes, old_objects] = std::mem::replace(&mut account.shown, [bytes, objects]);
        self.bytes_gauge.add(bytes - old_bytes);
        self.objects_gauge.add(objects - old_objects);
    }
}

impl Drop for Space {
    /// What is closed is no longer stored by this process.
    fn drop(&mut self) {
        let mut account = self.account.lock();
        self.give(&mut account, [0; 2]);
    }
}

impl Account {
    fn forgot(&mut self, charge: u64) {
        self.used = self.used.saturating_sub(charge);
        self.objects = self.objects.saturating_sub(1);
    }

    /// An object is gone. What the order knew counts; before all is loaded, what its record says.
    /// One that was evicted meanwhile is in neither and was counted then.
    fn went(&mut self, known: Option<Entry>, recorded: Option<u64>) {
        match (known, recorded) {
            (Some(entry), _) => self.forgot(entry.charge),
            (None, Some(charge)) if !self.is_loaded => self.forgot(charge),
            (None, _) => {}
        }
    }
}

impl Reservation {
    /// Bytes promised.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the promise of another reservation into this one.
    pub(super) fn join(&mut self, mut other: Self) {
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
mod tests {
    use super::*;
    use crate::store::eviction::Entry;

    fn space(limit: u64, used: u64) -> Arc<Space> {
        Space::new(limit, used, u64::from(used > 0), &Metrics::new().unwrap())
    }

    fn entry(number: u8, charge: u64) -> Entry {
        Entry { hash: KeyHash([number; 16]), sequence: u64::from(number), charge }
    }

    fn promised(room: Room) -> (Reservation, Vec<Entry>) {
        let Room::Promised(reservation, evicted) = room else { panic!("{room:?}") };
        (reservation, evicted)
    }

    #[test]
    fn a_dropped_promise_is_given_back() {
        let space = space(4096, 0);
        space.loaded();
        let (reservation, _) = promised(space.reserve(4096));
        assert!(matches!(space.reserve(512), Room::Short(evicted) if evicted.is_empty()));
        drop(reservation);
        promised(space.reserve(4096));
        assert!(matches!(space.reserve(4608), Room::Never));
    }

    #[test]
    fn promises_and_objects_never_pass_the_limit() {
        let space = space(4096, 0);
        space.loaded();
        for number in 0..40_u8 {
            let (reservation, _) = promised(space.reserve(1024));
            let usage = space.usage();
            assert!(usage.bytes + usage.reserved_bytes <= 4096, "{usage:?}");
            space.add(reservation, entry(number, 1024), None);
        }
        assert_eq!((space.usage().bytes, space.usage().objects), (4096, 4));
        let (_, evicted) = promised(space.reserve(2048));
        assert_eq!(evicted, [entry(36, 1024), entry(37, 1024)]);
    }

    #[test]
    fn nothing_goes_for_a_promise_that_others_stand_in_the_way_of() {
        let space = space(4096, 0);
        space.loaded();
        let (reservation, _) = promised(space.reserve(1024));
        space.add(reservation, entry(1, 1024), None);
        let (_held, _) = promised(space.reserve(2048));
        assert!(matches!(space.reserve(2560), Room::Short(evicted) if evicted.is_empty()));
        assert_eq!(space.usage().objects, 1);
    }

    #[test]
    fn objects_without_a_file_free_no_inode() {
        let space = space(1 << 30, 0);
        assert!(space.may_hold(entry(9, 0).hash), "not loaded yet");
        space.loaded();
        let file = crate::store::charge(64 << 10);
        for number in 0..40 {
            let entry = entry(number, if number % 2 == 0 { 512 } else { file });
            let (reservation, _) = promised(space.reserve(entry.charge));
            space.add(reservation, entry, None);
        }
        let shed = space.shed_files(15);
        assert!(shed.len() == 15 && shed.iter().all(|entry| entry.charge == file));
        assert!(shed.iter().all(|entry| !space.may_hold(entry.hash)));
        assert_eq!(space.shed_files(15).len(), 5);
        assert_eq!((space.usage().objects, space.usage().bytes), (20, 20 * 512));
        space.is_not_whole();
        assert!(space.may_hold(shed[0].hash), "it may be one that was never loaded");
    }

    #[test]
    fn a_replaced_object_counts_once() {
        let space = space(8192, 0);
        space.loaded();
        for charge in [1024, 2048] {
            let (reservation, _) = promised(space.reserve(charge));
            space.add(reservation, entry(1, charge), Some(1024));
        }
        assert_eq!((space.usage().bytes, space.usage().objects), (2048, 1));
        space.remove(entry(1, 0).hash, Some(2048));
        assert_eq!((space.usage().bytes, space.usage().objects), (0, 0));
    }

    #[test]
    fn totals_hold_until_the_order_is_loaded() {
        let space = space(4096, 4096);
        assert!(matches!(space.reserve(512), Room::Short(evicted) if evicted.is_empty()));
        space.load([entry(1, 1024)].into_iter());
        let (reservation, evicted) = promised(space.reserve(512));
        assert_eq!(evicted, [entry(1, 1024)]);
        space.load([entry(2, 1024), entry(3, 512)].into_iter());
        space.loaded();
        assert_eq!((space.usage().bytes, space.usage().objects), (1536, 2));
        drop(reservation);
        assert_eq!(space.usage().reserved_bytes, 0);
    }
}
