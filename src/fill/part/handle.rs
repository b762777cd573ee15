//! What a request for ranges holds while it is decided what it gets: the object's head, and its
//! reader's place, so that what is fetched for it goes on. Owned by one request.

use super::cursors::Cursor;
use super::flight::PartFlight;
use super::object::{Object, Told};
use super::reader::{Came, PartReader};
use super::subject::Subject;
use crate::fill::{FillError, Fills, Role};
use crate::object::Meta;
use crate::origin::Answer;
use crate::rfc::range::ByteSpan;
use http::HeaderValue;
use std::sync::Arc;

/// An object of which ranges are wanted, its head known.
#[derive(Debug)]
pub struct PartHandle {
    pub(super) flight: Arc<PartFlight>,
    pub(super) object: Arc<Object>,
    pub(super) cursor: Cursor,
    pub(super) role: Role,
    pub(super) is_learned_now: bool,
}

/// What an origin says to what is here in part.
#[derive(Debug)]
pub enum Confirmed {
    /// It is the same: its head is as fresh as can be.
    Same,
    /// It is another, or gone: begin anew.
    Other,
    /// No usable answer.
    Failed(Arc<FillError>),
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
            Told::ByOrigin { upstream_status } if self.is_learned_now => upstream_status,
            Told::ByOrigin { .. } | Told::ByDisk => &[],
        }
    }

    /// Asks an origin whether the object is still the one that is here in part, by its head.
    pub async fn confirm(&self) -> Confirmed {
        let flight = &self.flight;
        let fills = Fills { shared: Arc::clone(&flight.shared) };
        let Subject::Object(wanted) = &flight.subject else { return Confirmed::Other };
        let response = match fills.head(wanted).await {
            Ok(Answer::Found(response)) => response,
            Ok(Answer::Absent { .. } | Answer::NotModified { .. } | Answer::Changed) => {
                self.object.break_off(flight, Arc::new(FillError::Changed)).await;
                return Confirmed::Other;
            }
            Err(error) => return Confirmed::Failed(Arc::new(error.into())),
        };
        let length = response.content_length;
        let admitted = match wanted.admit(&response) {
            Ok(admitted) => admitted,
            Err(error) => return Confirmed::Failed(Arc::new(error)),
        };
        if !self.object.identity.is_of(&admitted.meta, length) {
            self.object.break_off(flight, Arc::new(FillError::Changed)).await;
            return Confirmed::Other;
        }
        if let Some(part) = self.object.part() {
            flight.shared.cache.touch_part(flight.ticket, part, admitted.meta).await;
        }
        Confirmed::Same
    }

    /// A reader of `span`, once its first bytes are here: what goes wrong before is told in time
    /// for a status.
    pub async fn open(self, span: ByteSpan) -> Result<PartReader, Arc<FillError>> {
        let Self { flight, object, cursor, role, is_learned_now } = self;
        let end = span.last.saturating_add(1);
        cursor.set(span.first, end);
        // What the question for the head has brought may be here by now: fetched for this.
        let brought = is_learned_now.then_some(match role {
            Role::Lead => Came::Began,
            Role::Follow => Came::Joined,
        });
        PartReader::open(flight, object, cursor, (span.first..end, brought)).await
    }
}
