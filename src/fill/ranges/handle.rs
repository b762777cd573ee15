//! What a request for ranges holds while it is decided what it gets: the object's head, and its
//! reader's place, so that what is fetched for it goes on. Owned by one request.

use super::cursors::Cursor;
use super::flight::PartFlight;
use super::object::{HeadSource, PartObject};
use super::reader::{PartReader, RangeProvenance};
use crate::fill::error::FillError;
use crate::fill::registry::FillRole;
use crate::object::Meta;
use crate::rfc::range::ByteSpan;
use http::HeaderValue;
use std::ops::Range;
use std::sync::Arc;

/// An object of which ranges are wanted, its head known.
#[derive(Debug)]
pub struct PartHandle {
    pub(super) flight: Arc<PartFlight>,
    pub(super) object: Arc<PartObject>,
    pub(super) cursor: Cursor,
    pub(super) role: FillRole,
    pub(super) is_learned_now: bool,
}

impl PartHandle {
    /// The object's head.
    pub fn meta(&self) -> Arc<Meta> {
        self.object.meta()
    }

    /// Bytes of the whole object.
    pub fn length(&self) -> u64 {
        self.object.identity.length
    }

    /// Whether an origin has told the head since this request came.
    pub fn is_learned_now(&self) -> bool {
        self.is_learned_now
    }

    /// `Cache-Status` of the caches on the way, where an origin was asked for the head.
    pub fn upstream_status(&self) -> &[HeaderValue] {
        match &self.object.told {
            HeadSource::ByOrigin { upstream_status } if self.is_learned_now => upstream_status,
            HeadSource::ByOrigin { .. } | HeadSource::ByDisk => &[],
        }
    }

    /// Whether all of `asked` is here.
    pub fn holds(&self, asked: &Range<u64>) -> bool {
        self.object.part().is_some_and(|part| part.first_gap(asked).is_none())
    }

    /// A reader of `span`, once its first bytes are here: what goes wrong before is told in time
    /// for a status.
    pub async fn open(self, span: ByteSpan) -> Result<PartReader, Arc<FillError>> {
        let Self { flight, object, cursor, role, is_learned_now } = self;
        let asked = span.bytes();
        cursor.set(asked.start, asked.end);
        // The bytes that came with the head may be here by now: they were fetched for this request.
        let brought = is_learned_now.then_some(match role {
            FillRole::Lead => RangeProvenance::Began,
            FillRole::Follow => RangeProvenance::Joined,
        });
        PartReader::open(flight, object, cursor, asked, brought).await
    }
}
