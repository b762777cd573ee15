//! The policies of the table, by name. Called by `main`.

use super::admission::Doorkeeper;
use super::s3_fifo::{GhostSize, PAPER, Parameters, S3Fifo};
use super::sieve::Sieve;
use super::store::StoreOrder;
use super::tiny_lfu::TinyLfu;
use super::{Objects, OnHit, Plain, Policy};

/// Objects of this charge or more need a second request if there is admission.
const ADMISSION_BYTES: u64 = 64 * 1024;

/// The choice of the store, in the plain form: one use is enough for the main queue, where two are
/// counted.
const CHOSEN: Parameters = Parameters { uses_wanted: 1, uses_max: 2, ..PAPER };

/// A policy of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Choice {
    Lru,
    Fifo,
    Sieve,
    S3Fifo,
    S3FifoOneUse,
    S3FifoGhostBytes,
    TinyLfu,
    LruAdmission,
    SieveAdmission,
    Store,
}

impl Choice {
    /// All, in the order of the table; the first is what the others are compared with.
    pub(crate) const ALL: [Self; 10] = [
        Self::Lru,
        Self::Fifo,
        Self::Sieve,
        Self::S3Fifo,
        Self::S3FifoOneUse,
        Self::S3FifoGhostBytes,
        Self::TinyLfu,
        Self::LruAdmission,
        Self::SieveAdmission,
        Self::Store,
    ];

    /// Its name in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Lru => "LRU",
            Self::Fifo => "FIFO",
            Self::Sieve => "SIEVE",
            Self::S3Fifo => "S3-FIFO",
            Self::S3FifoOneUse => "S3-FIFO/1",
            Self::S3FifoGhostBytes => "S3-FIFO/1b",
            Self::TinyLfu => "W-TinyLFU",
            Self::LruAdmission => "LRU+adm",
            Self::SieveAdmission => "SIEVE+adm",
            Self::Store => "store",
        }
    }

    /// What the names stand for, one line each.
    pub(crate) fn about() -> [String; 5] {
        [
            "S3-FIFO: small queue 10 %, 2 uses promote, up to 3 counted, ghost as many objects as \
             the main queue"
                .to_owned(),
            "S3-FIFO/1: 1 use promotes, up to 2 counted; /1b: and a ghost of as many bytes as the \
             main queue"
                .to_owned(),
            "W-TinyLFU: window 1 %, protected 80 %, sketch 4 rows of 4 bits, halved after 10 \
             additions a counter"
                .to_owned(),
            format!(
                "+adm: objects of {ADMISSION_BYTES} B or more enter at their second request within \
                 as many bytes of such misses as the cache has"
            ),
            "store: the edge's own code: S3-FIFO/1 in two lanes, bodies below 64 KiB keep up to \
             10 %; its memory is measured, and allocated for 8,192 objects at a time"
                .to_owned(),
        ]
    }

    /// An empty cache of `limit` bytes.
    pub(crate) fn build(self, objects: &Objects, limit: u64) -> Box<dyn Policy + '_> {
        let ghost_bytes = Parameters { ghost: GhostSize::MainBytes, ..CHOSEN };
        let lru = || Plain::new(objects, limit, OnHit::Renew);
        match self {
            Self::Lru => Box::new(lru()),
            Self::Fifo => Box::new(Plain::new(objects, limit, OnHit::Ignore)),
            Self::Sieve => Box::new(Sieve::new(objects, limit)),
            Self::S3Fifo => Box::new(S3Fifo::new(objects, limit, PAPER)),
            Self::S3FifoOneUse => Box::new(S3Fifo::new(objects, limit, CHOSEN)),
            Self::S3FifoGhostBytes => Box::new(S3Fifo::new(objects, limit, ghost_bytes)),
            Self::TinyLfu => Box::new(TinyLfu::new(objects, limit)),
            Self::LruAdmission => Box::new(Doorkeeper::new(objects, limit, ADMISSION_BYTES, lru())),
            Self::SieveAdmission => {
                let sieve = Sieve::new(objects, limit);
                Box::new(Doorkeeper::new(objects, limit, ADMISSION_BYTES, sieve))
            }
            Self::Store => Box::new(StoreOrder::new(objects, limit)),
        }
    }
}
