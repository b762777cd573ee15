//! One object of which ranges are wanted, once its head is known. Shared by its readers and runs;
//! short locks, none across an await.

use super::confirming::ConfirmRequest;
use super::identity::PartIdentity;
use crate::fill::error::FillError;
use crate::fill::resumable_body::ResumableBody;
use crate::object::Meta;
use crate::store::Part;
use crate::sync::Mutex;
use http::HeaderValue;
use std::sync::{Arc, OnceLock};

/// An object with a known head.
#[derive(Debug)]
pub(super) struct PartObject {
    pub(super) identity: Arc<PartIdentity>,
    pub(super) kind: PartDelivery,
    pub(super) told: HeadSource,
    /// The request that was last to confirm it.
    pub(super) confirming: Mutex<Option<ConfirmRequest>>,
    broken: OnceLock<Arc<FillError>>,
    failure: Mutex<Option<Arc<FillError>>>,
}

/// The source of the head.
#[derive(Debug)]
pub(super) enum HeadSource {
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
pub(super) enum PartDelivery {
    /// Chunk by chunk, by way of the disk.
    Kept(Part),
    /// Each reader fetches for itself; the first may take the bytes that came with the head.
    Passing {
        /// The head.
        meta: Arc<Meta>,
        /// What is on its way.
        begun: Mutex<Option<Box<ResumableBody>>>,
    },
}

impl PartObject {
    pub(super) fn new(identity: Arc<PartIdentity>, kind: PartDelivery, told: HeadSource) -> Self {
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
            PartDelivery::Kept(part) => part.meta(),
            PartDelivery::Passing { meta, .. } => Arc::clone(meta),
        }
    }

    /// The chunks, if it is kept.
    pub(super) fn part(&self) -> Option<&Part> {
        match &self.kind {
            PartDelivery::Kept(part) => Some(part),
            PartDelivery::Passing { .. } => None,
        }
    }

    /// Whether a request that comes now may read it.
    pub(super) fn may_be_joined(&self) -> bool {
        self.broken().is_none() && self.part().is_some_and(Part::is_live)
    }

    /// Why nothing more of it may be read.
    pub(super) fn broken(&self) -> Option<Arc<FillError>> {
        self.broken.get().cloned()
    }

    /// Why the last run ended early, if nothing has come since.
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
