//! The result of a request for an object that is stored in part, of either kind of site. Values.

use super::answer::{self, ClientAnswer};
use crate::fill::{FillError, RangeProvenance};
use crate::outcome::Outcome;
use std::sync::Arc;

/// The result of a request for what is not stored whole.
pub(super) enum PartResult {
    /// The answer.
    Answer(Box<ClientAnswer>),
    /// Look again: the part is out of date, or the whole may be stored now.
    Again,
    /// No part of it is of use: go on as for a request without ranges.
    Nothing,
}

impl From<ClientAnswer> for PartResult {
    fn from(answer: ClientAnswer) -> Self {
        Self::Answer(Box::new(answer))
    }
}

impl PartResult {
    /// The result for a reader that failed before its first byte.
    pub(super) fn of_open_error(error: &Arc<FillError>) -> Self {
        match &**error {
            FillError::Changed | FillError::Unread => Self::Again,
            FillError::Unranged => Self::Nothing,
            FillError::NoRoom => answer::shed().into(),
            FillError::Fetch(_)
            | FillError::Body(_)
            | FillError::GivenUp(_)
            | FillError::Rejected { .. }
            | FillError::Write(_)
            | FillError::Relayed(_)
            | FillError::Behind
            | FillError::Doubtful
            | FillError::Unjudged(_)
            | FillError::NoResult => answer::failed(error).into(),
        }
    }
}

/// The outcome for bytes that came about so; `hit` if all of them were here.
pub(super) fn outcome(provenance: RangeProvenance, hit: Outcome) -> Outcome {
    match provenance {
        RangeProvenance::Here => hit,
        RangeProvenance::Began => Outcome::Miss,
        RangeProvenance::Joined => Outcome::Collapsed,
        RangeProvenance::Passed => Outcome::Pass,
    }
}
