//! A stretch of an object as it comes from an origin, continued from its last good byte when that
//! breaks off, by the rules of `resumable_body`. Owned by one run or one reader; no
//! locks.
//!
//! Every answer must be a part of the same object: see `identity`.

use super::ask::fetch_range;
use super::identity::PartIdentity;
use super::page_head::LaterHead;
use crate::cache::Cache;
use crate::fill::error::{FillError, Rejection};
use crate::fill::request::FillRequest;
use crate::fill::resources::Resources;
use crate::fill::resume_deadline::{EmptyRound, ResumeDeadline};
use crate::origin::{FetchReason, OriginAnswer, Response, ResponseBody};
use crate::policy::response::Times;
use bytes::Bytes;
use http::StatusCode;
use std::ops::Range;
use std::sync::Arc;
use tokio::time::timeout_at;

/// Whether a stretch that breaks off is continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResumeMode {
    /// It is.
    Yes,
    /// The next byte may come another way.
    No,
}

/// A stretch of an object that is arriving.
#[derive(Debug)]
pub(super) struct OriginStretch {
    resources: Arc<Resources>,
    request: FillRequest,
    identity: Arc<PartIdentity>,
    body: ResponseBody,
    origin: Arc<str>,
    next: u64,
    end: u64,
    deadline: ResumeDeadline,
    /// The head of its answer, if that was not the first of the object.
    told: Option<LaterHead>,
}

impl OriginStretch {
    /// The bytes `asked`, of which `response` brings the first.
    pub(super) fn of(
        (resources, request): (&Arc<Resources>, &FillRequest),
        identity: &Arc<PartIdentity>,
        response: Response,
        asked: Range<u64>,
    ) -> Self {
        let origins = &request.upstream().site.origins;
        let deadline = origins.get(response.origin).map(|origin| origin.timeouts.resume);
        Self {
            resources: Arc::clone(resources),
            request: request.clone(),
            identity: Arc::clone(identity),
            origin: response.origin_name,
            body: response.body,
            next: asked.start,
            end: asked.end,
            deadline: ResumeDeadline::new(deadline.unwrap_or_default()),
            told: None,
        }
    }

    /// Asks for the bytes `asked`; fails if the answer is of another object.
    pub(super) async fn open(
        (resources, request): (&Arc<Resources>, &FillRequest),
        identity: &Arc<PartIdentity>,
        asked: Range<u64>,
        why: Option<FetchReason>,
    ) -> Result<Self, FillError> {
        let response = ask_for(&resources.cache, request, (identity, &asked), why).await?;
        let times = Times { request: response.request_time, response: response.response_time };
        let told = Some(LaterHead { headers: response.headers.clone(), times });
        Ok(Self { told, ..Self::of((resources, request), identity, response, asked) })
    }

    /// What the head of its answer says anew, once.
    pub(super) fn take_told(&mut self) -> Option<LaterHead> {
        self.told.take()
    }

    /// Offset of the next byte.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Offset behind the last byte that was asked for.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The next piece; `None` at the end, with every byte delivered. Not cancel safe.
    pub(super) async fn chunk(&mut self, resuming: ResumeMode) -> Result<Option<Bytes>, FillError> {
        loop {
            if self.next >= self.end {
                return Ok(None);
            }
            let fault = match self.body.chunk().await {
                Ok(Some(mut bytes)) => {
                    let left = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
                    bytes.truncate(left);
                    self.next += bytes.len() as u64;
                    self.deadline.came(bytes.len() as u64);
                    return Ok(Some(bytes));
                }
                Ok(None) => FillError::Rejected {
                    origin: Arc::clone(&self.origin),
                    rejection: Rejection::Short { expected: self.end, actual: self.next },
                },
                Err(error) => FillError::Body(error),
            };
            match resuming {
                ResumeMode::Yes => Box::pin(self.resume(fault)).await?,
                ResumeMode::No => return Err(fault),
            }
        }
    }

    /// Asks for the rest; fails with `fault` if no origin continues it.
    pub(super) async fn resume(&mut self, fault: FillError) -> Result<(), FillError> {
        if !self.identity.ties_parts() {
            return Err(fault);
        }
        if self.deadline.broke() {
            let (path, at) = (self.request.path(), self.next);
            tracing::info!(%path, at, error = %fault, "resuming a partial object");
        }
        let upstream = Arc::clone(self.request.upstream());
        while let Some(until) = self.deadline.next_round(upstream.origins.recovered()).await {
            let (rest, why) = (self.next..self.end, Some(FetchReason::Resume));
            let asking =
                ask_for(&self.resources.cache, &self.request, (&self.identity, &rest), why);
            let Ok(asked) = timeout_at(until, asking).await else { break };
            let error = match asked {
                Ok(response) => {
                    self.count("continued");
                    self.origin = response.origin_name;
                    self.body = response.body;
                    return Ok(());
                }
                Err(error @ (FillError::Changed | FillError::Unranged)) => {
                    self.count("changed");
                    return Err(error);
                }
                Err(error) => error,
            };
            self.count("failed");
            tracing::debug!(path = %self.request.path(), %error, "resume failed");
            let is_unreached =
                matches!(&error, FillError::Fetch(error) if !error.may_have_reached());
            let empty = if is_unreached { EmptyRound::Unreached } else { EmptyRound::Answered };
            self.deadline.got(empty);
        }
        Err(FillError::GivenUp(Box::new(fault)))
    }

    fn count(&self, result: &str) {
        self.resources.metrics.fill_resumes.with_label_values(&[result]).inc();
    }
}

async fn ask_for(
    cache: &Cache,
    request: &FillRequest,
    (identity, asked): (&PartIdentity, &Range<u64>),
    why: Option<FetchReason>,
) -> Result<Response, FillError> {
    match fetch_range(request, cache, (asked, identity), why).await? {
        OriginAnswer::Found(response) if response.status == StatusCode::PARTIAL_CONTENT => {
            identity.check(asked, &response)?;
            Ok(response)
        }
        OriginAnswer::Found(_) => Err(FillError::Unranged),
        OriginAnswer::Changed | OriginAnswer::Absent { .. } | OriginAnswer::NotModified { .. } => {
            Err(FillError::Changed)
        }
    }
}
