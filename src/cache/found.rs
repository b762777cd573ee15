//! What is found in the cache: whole objects, absences, what is to be confirmed.

use super::fence::FenceEpoch;
use crate::memory::Hot;
use crate::object::{Facts, Key, Meta, NarClaim};
use crate::store::Stored;
use bytes::Bytes;
use std::sync::Arc;

/// Bodies up to this many bytes are kept in memory.
pub const SMALL_BYTES_MAX: u64 = 64 << 10;

/// A whole object that was found.
#[derive(Debug, Clone)]
pub enum CachedObject {
    /// In memory.
    Hot(Arc<Hot>),
    /// On disk.
    Stored(Stored),
}

impl CachedObject {
    /// Its head; that of an object in memory is made anew.
    pub fn meta(&self) -> Arc<Meta> {
        match self {
            Self::Hot(hot) => Arc::new(hot.meta()),
            Self::Stored(stored) => Arc::clone(&stored.meta),
        }
    }

    /// What is known of it beside its key, its fields and its body.
    pub fn facts(&self) -> Facts {
        match self {
            Self::Hot(hot) => hot.facts,
            Self::Stored(stored) => stored.meta.facts(),
        }
    }

    /// The same body with another head.
    #[must_use]
    pub fn with_meta(&self, meta: Arc<Meta>) -> Self {
        match self {
            Self::Hot(hot) => Self::Hot(Arc::new(hot.with_meta(&meta))),
            Self::Stored(stored) => Self::Stored(Stored { meta, ..stored.clone() }),
        }
    }

    /// Bytes of its body.
    pub fn length(&self) -> u64 {
        match self {
            Self::Hot(hot) => hot.length(),
            Self::Stored(stored) => stored.length,
        }
    }
}

/// An object that was found and is to be confirmed.
#[derive(Debug, Clone)]
pub struct Stale {
    /// The object.
    pub found: CachedObject,
    /// A ticket of the moment before it was looked up.
    pub looked: FenceEpoch,
}

/// What a look-up found.
#[derive(Debug, Clone)]
pub enum Hit {
    /// The object, in memory.
    Memory(CachedObject),
    /// The object, on disk.
    Disk(CachedObject),
    /// That there was none when it was last asked for.
    Absent(Arc<Hot>),
}

/// A claim that a narinfo makes, and the NAR it makes it of.
pub type ClaimOf = (Key, NarClaim);

/// A copy of a small stored object.
pub(super) fn hot_of(stored: &Stored, body: &Bytes) -> Hot {
    Hot::copy_of(&stored.meta, body, stored.insertion)
}
