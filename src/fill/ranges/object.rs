//! One object of which ranges are wanted, once its head is known. Shared by its readers and runs;
//! short locks, none across an await.

use super::confirming::Confirming;
use super::identity::Identity;
use super::stretch::Stretch;
use crate::fill::error::FillError;
use crate::object::Meta;
use crate::store::Part;
use crate::sync::Mutex;
use http::HeaderValue;
use std::sync::{Arc, OnceLock};

/// An object whose head is known.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) identity: Arc<Identity>,
    pub(super) kind: Kind,
    pub(super) told: Told,
    /// The request that was last to confirm it.
    pub(super) confirming: Mutex<Option<Confirming>>,
    broken: OnceLock<Arc<FillError>>,
    failure: Mutex<Option<Arc<FillError>>>,
}

/// Who told the head.
#[derive(Debug)]
pub(super) enum Told {
    /// An origin.
    ByOrigin {
        /// `Cache-Status` of the caches on the way.
        upstream_status: Vec<HeaderValue>,
    },
    /// The part on disk.
    ByDisk,
}

/// How its bytes reach readers.
#[derive(Debug)]
pub(super) enum Kind {
    /// Chunk by chunk, by way of the disk.
    Kept(Part),
    /// Each reader for itself; the first may take what the question for the head has brought.
    Passing {
        /// The head.
        meta: Arc<Meta>,
        /// What is on its way.
        begun: Mutex<Option<Box<Stretch>>>,
    },
}

impl Object {
    pub(super) fn new(identity: Arc<Identity>, kind: Kind, told: Told) -> Self {
        Self {
            identity,
            kind,
            told,
            confirming: Mutex::new(None),
            broken: OnceLock::new(),
            failure: Mutex::new(None),
        }
    }

    /// Its head.
    pub(super) fn meta(&self) -> Arc<Meta> {
        match &self.kind {
            Kind::Kept(part) => part.meta(),
            Kind::Passing { meta, .. } => Arc::clone(meta),
        }
    }

    /// The chunks, where it is kept.
    pub(super) fn part(&self) -> Option<&Part> {
        match &self.kind {
            Kind::Kept(part) => Some(part),
            Kind::Passing { .. } => None,
        }
    }

    /// Whether who comes now may read it.
    pub(super) fn may_be_joined(&self) -> bool {
        self.broken().is_none() && self.part().is_some_and(Part::is_live)
    }

    /// Why nothing more of it may be read.
    pub(super) fn broken(&self) -> Option<Arc<FillError>> {
        self.broken.get().cloned()
    }

    /// Why the last run ended early, where nothing has come since.
    pub(super) fn failure(&self) -> Option<Arc<FillError>> {
        self.failure.lock().clone()
    }

    /// Nothing more of it may be read, for this reason; false if that was so before.
    pub(super) fn set_broken(&self, error: &Arc<FillError>) -> bool {
        self.broken.set(Arc::clone(error)).is_ok()
    }

    /// Why the last run ended early; none if something has come since.
    pub(super) fn set_failure(&self, failure: Option<Arc<FillError>>) {
        *self.failure.lock() = failure;
    }
}
