//! Which variants of an object are stored (RFC 9111 section 4.1): what a request is compared with
//! before anything else is looked up. One map per cache, bounded; read from disk if it lacks the
//! object. Short locks of its own, never held across I/O or an await.
//!
//! A response that does not vary stands under the object's own key, and one that does under its
//! variant's. Either takes the place of the other kind when it is published, so the newest response
//! decides whether the object varies; which is newer, its number among the insertions tells. One
//! that is older than what it meets of the other kind is dropped again.
//!
//! # Why no variant is lost
//!
//! A publication changes the list of its object under one lock, after its record was written. If
//! there is no list, the publication leaves one that is not whole. A look-up counts the changes of
//! the object before it reads the disks. It makes the list whole under the same lock, if every disk
//! has answered and nothing was changed meanwhile; else it alone uses what it read. So of a
//! publication and a look-up at the same time one of three holds: the look-up sees the record, its
//! list is not kept, or the publication adds to the list.

use crate::object::{Key, Meta, Variant};
use crate::store::{Disks, Published, StoredVariants, VARIANTS_MAX};
use crate::sync::{Mutex, Striped};
use quick_cache::sync::Cache as Recent;
use std::sync::Arc;

/// Objects that have their variants remembered in memory.
const OBJECTS_MAX: usize = 16_384;

/// Locks that objects share.
const TURNS: usize = 64;

/// Whether a publication became visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Visibility {
    /// It is.
    Yes,
    /// A newer response is there.
    Superseded,
}

/// The variants of some objects.
#[derive(Debug)]
pub(super) struct Variants {
    known: Recent<Key, Arc<KnownVariants>>,
    /// Each with the number of changes of its objects.
    turns: Striped<u64>,
    /// Whether there is a disk, which may know of more than memory.
    has_disk: bool,
}

/// What is known of the variants of one object.
#[derive(Debug, Clone)]
pub(super) struct KnownVariants {
    /// Newest first; empty if the object does not vary.
    pub(super) list: Vec<(Key, Variant)>,
    /// Whether there are no more on disk.
    pub(super) is_whole: bool,
    /// The number of the newest publication.
    order: u64,
}

impl Variants {
    /// Those of a cache with this disk tier.
    pub(super) fn new(store: Option<&Disks>) -> Self {
        let (known, turns) = (Recent::new(OBJECTS_MAX), Striped::new(TURNS));
        Self { known, turns, has_disk: store.is_some() }
    }

    /// Those of one object, as far as memory tells.
    pub(super) fn of(&self, primary: &Key) -> Option<Arc<KnownVariants>> {
        self.known.get(primary)
    }

    /// The number of changes before a look-up on disk.
    pub(super) fn ticket(&self, primary: &Key) -> u64 {
        *self.turn(primary).lock()
    }

    fn turn(&self, primary: &Key) -> &Mutex<u64> {
        let [.., byte] = primary.hash().0;
        self.turns.of(byte.into())
    }

    /// Takes in what a look-up that began with `ticket` has found on disk.
    pub(super) fn learn(
        &self,
        primary: &Key,
        ticket: u64,
        found: StoredVariants,
    ) -> Arc<KnownVariants> {
        let changes = self.turn(primary).lock();
        let known = self.of(primary);
        if let Some(known) = known.as_ref().filter(|known| known.is_whole) {
            return Arc::clone(known);
        }
        let (mut list, order) = known.map_or((Vec::new(), 0), |k| (k.list.clone(), k.order));
        for (key, variant) in found.list {
            if !list.iter().any(|(listed, _)| *listed == key) {
                list.push((key, variant));
            }
        }
        list.truncate(VARIANTS_MAX);
        let learned = Arc::new(KnownVariants { list, is_whole: found.is_whole, order });
        if *changes == ticket && found.is_whole {
            self.known.insert(primary.clone(), Arc::clone(&learned));
        }
        learned
    }

    /// Makes a publication decide whether its object varies, unless a newer one of the other kind
    /// has. `show` makes it visible and drops the keys that it is given, unless it says no.
    pub(super) fn publish(
        &self,
        published: &Published,
        meta: &Meta,
        show: impl FnOnce(&[Key]) -> bool,
    ) -> Visibility {
        let Published { key, order, .. } = published;
        let primary = key.primary();
        let mut changes = self.turn(&primary).lock();
        *changes += 1;
        let known = self.of(&primary);
        let is_older = |known: &Arc<KnownVariants>| known.order > *order;
        let is_other_kind = |known: &Arc<KnownVariants>| known.list.is_empty() == key.is_variant();
        if known.as_ref().is_some_and(|known| is_older(known) && is_other_kind(known)) {
            return Visibility::Superseded;
        }
        let (before, was_whole, newest) = known
            .map_or((Vec::new(), !self.has_disk, 0), |k| (k.list.clone(), k.is_whole, k.order));
        let (list, is_whole) = if key.is_variant() {
            if !show(std::slice::from_ref(&primary)) {
                return Visibility::Superseded;
            }
            let others = before.into_iter().filter(|(listed, _)| listed != key);
            let own = (key.clone(), meta.variant.clone());
            (std::iter::once(own).chain(others).take(VARIANTS_MAX).collect(), was_whole)
        } else {
            let others: Vec<Key> = before.into_iter().map(|(listed, _)| listed).collect();
            if !show(&others) {
                return Visibility::Superseded;
            }
            (Vec::new(), true)
        };
        let known = KnownVariants { list, is_whole, order: newest.max(*order) };
        self.known.insert(primary.clone(), Arc::new(known));
        Visibility::Yes
    }

    /// Forgets the list of one object.
    pub(super) fn forget(&self, key: &Key) {
        let mut changes = self.turn(key).lock();
        *changes += 1;
        self.known.remove(key);
    }

    /// Forgets the lists of the objects that `matches`. What a look-up under way has read is not
    /// kept.
    pub(super) fn forget_matching(&self, matches: impl Fn(&Key) -> bool) {
        for turn in self.turns.iter() {
            *turn.lock() += 1;
        }
        self.known.retain(|key, _| !matches(key));
    }
}
