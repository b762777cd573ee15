//! A stretch of an object as it comes from an origin: how it is asked for, and what continues it
//! when it breaks off (see `resumable_body`). Values; the body is owned by one run or one reader.
//!
//! Every answer must be a part of the same object: see `identity`.

use super::flight::PartFlight;
use super::identity::PartIdentity;
use crate::cache::{Cache, FenceEpoch};
use crate::fill::error::FillError;
use crate::fill::fetched_body::{BodyCheck, FetchedBody};
use crate::fill::request::{OriginChoice, OriginQuestion, times_of};
use crate::fill::resumable_body::ResumableBody;
use crate::origin::{FetchReason, OriginAnswer, RangeAsked, Response};
use crate::policy::response::Times;
use crate::policy::rules::{AnswerHead, ConfirmationVerdict};
use crate::store::Part;
use http::{HeaderMap, StatusCode, header};
use std::ops::Range;

/// A stretch that has begun to come.
#[derive(Debug)]
pub(super) struct BegunStretch {
    pub(super) body: ResumableBody,
    /// The head of its answer, if that was not the first of the object.
    pub(super) later: Option<LaterHead>,
}

/// What the head of a later answer about an object said.
#[derive(Debug)]
pub(super) struct LaterHead {
    headers: HeaderMap,
    times: Times,
}

impl PartFlight {
    /// The question for the bytes `asked`, of an object of this length, if that is known.
    pub(super) async fn question(&self, asked: &Range<u64>, length: Option<u64>) -> OriginQuestion {
        let is_to_end = asked.end == u64::MAX || length == Some(asked.end);
        let last = (!is_to_end).then(|| asked.end.saturating_sub(1));
        let choice = self.resources().choice(&self.request).await;
        let range = Some(RangeAsked { first: asked.start, last });
        OriginQuestion { range, ..self.request.question(choice) }
    }

    /// The bytes `asked`, of which `response` brings the first, asked of the origins of `choice`.
    pub(super) fn begun(
        &self,
        identity: &PartIdentity,
        response: Response,
        asked: Range<u64>,
        choice: OriginChoice,
    ) -> ResumableBody {
        let source = FetchedBody {
            request: self.request.clone(),
            choice,
            metrics: self.resources().metrics.clone(),
            body_origins: self.body_origins.clone(),
        };
        let headers = identity.headers.clone();
        let body = ResumableBody::new(source, response, headers, BodyCheck::Length);
        body.into_stretch(identity.length, asked)
    }

    /// Asks for the bytes `asked`; fails if the answer is of another object. `why` is the reason,
    /// if it is not that a reader wants them.
    pub(super) async fn open(
        &self,
        identity: &PartIdentity,
        asked: Range<u64>,
        why: Option<FetchReason>,
    ) -> Result<BegunStretch, FillError> {
        let question = self.question(&asked, Some(identity.length)).await;
        let question = OriginQuestion { same: identity.etag.clone(), reason: why, ..question };
        let response = match self.request.fetch(&question).await? {
            OriginAnswer::Found(response) => response,
            OriginAnswer::Changed
            | OriginAnswer::Absent { .. }
            | OriginAnswer::NotModified { .. } => return Err(FillError::Changed),
        };
        let later = LaterHead { headers: response.headers.clone(), times: times_of(&response) };
        if response.status == StatusCode::PARTIAL_CONTENT {
            identity.check(&asked, &response)?;
            if !self.request.permits_part(&response) {
                return Err(FillError::Changed);
            }
        } else if self.request.is_page()
            && response.headers.get(header::ETAG) != identity.etag.as_ref()
        {
            return Err(FillError::Changed);
        } else {
            return Err(FillError::Unranged);
        }
        let later = self.request.is_page().then_some(later);
        Ok(BegunStretch { body: self.begun(identity, response, asked, question.choice), later })
    }
}

impl LaterHead {
    /// What a 304 with these fields said.
    pub(super) fn of(headers: HeaderMap, times: Times) -> Self {
        Self { headers, times }
    }

    fn head(&self) -> AnswerHead<'_> {
        let (headers, times) = (&self.headers, self.times);
        AnswerHead { status: StatusCode::OK, headers, times, is_framed: true }
    }

    /// Gives a part the fields that it states (RFC 9111 sections 3.2 and 3.4); false if it forbids
    /// to store the part.
    pub(super) async fn renew(&self, flight: &PartFlight, part: &Part) -> bool {
        let (cache, ticket): (&Cache, FenceEpoch) = (&flight.resources().cache, flight.ticket);
        match flight.request.rules().confirm(&part.meta(), &self.head()) {
            ConfirmationVerdict::Renewed(confirmed) => {
                cache.touch_part(ticket, part, confirmed.meta).await;
                true
            }
            ConfirmationVerdict::ForOne(_)
            | ConfirmationVerdict::Withdrawn(_)
            | ConfirmationVerdict::OtherObject => false,
        }
    }
}
