//! The parts of one store that are open, by insertion. All writers of a file share one table, so
//! that each of its bytes has one writer at most. One per store; a short lock, under which no part
//! is dropped.

use super::{Part, State};
use crate::sync::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// The open parts.
#[derive(Debug, Default)]
pub(in crate::store) struct OpenParts(Mutex<HashMap<u64, Weak<State>>>);

impl OpenParts {
    /// The part of an insertion, if it is open.
    pub(super) fn get(&self, sequence: u64) -> Option<Part> {
        self.0.lock().get(&sequence).and_then(Weak::upgrade).map(Part)
    }

    /// Enters a part; the one of the same insertion, if that is open.
    pub(super) fn enter(&self, part: Part) -> Part {
        let mut open = self.0.lock();
        let other = open.get(&part.0.sequence).and_then(Weak::upgrade);
        if other.is_none() {
            open.insert(part.0.sequence, Arc::downgrade(&part.0));
        }
        drop(open);
        other.map_or(part, Part)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let own: *const Self = self;
        let mut open = self.store.open_parts.0.lock();
        if open.get(&self.sequence).is_some_and(|known| std::ptr::eq(known.as_ptr(), own)) {
            open.remove(&self.sequence);
        }
    }
}
