//! What is known of a body from its first answer on: the object, its origins, and what it will be
//! checked against. Values.

use super::body_origins::BodyOrigins;
use super::proof::ExpectedBody;
use super::request::{FillRequest, OriginChoice};
use crate::metrics::Metrics;

/// What the whole body will be checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyCheck {
    /// A FileHash, or the NAR in it.
    Hash,
    /// Only length and entity tag speak for it.
    Length,
    /// Only entity tag and framing speak for it.
    Framing,
}

impl BodyCheck {
    /// What of `expected` will be checked at the end.
    pub(super) fn of(expected: &ExpectedBody) -> Self {
        if expected.has_hash() {
            Self::Hash
        } else if expected.is_framed {
            Self::Framing
        } else {
            Self::Length
        }
    }
}

/// What a body is part of.
#[derive(Debug, Clone)]
pub(super) struct FetchedBody {
    /// The object.
    pub(super) request: FillRequest,
    /// The origins that were asked for it.
    pub(super) choice: OriginChoice,
    /// The counters.
    pub(super) metrics: Metrics,
    /// The origins that gave bytes of it.
    pub(super) body_origins: BodyOrigins,
}
