//! A stretch of an object as it comes from an origin, continued from its last good byte when that
//! breaks off, by the rules of `resumable_body`. Owned by one run or one reader; no
//! locks.
//!
//! Every answer must be a part of the same object: its strong entity tag where there is one, its
//! length always.

use super::ask::fetch_range;
use super::identity::Identity;
use super::page_head::Told;
use crate::cache::Cache;
use crate::fill::error::{FillError, Rejection};
use crate::fill::request::Subject;
use crate::fill::resources::Resources;
use crate::fill::resume_deadline::{Nothing, Patience};
use crate::origin::{Answer, Reason, Response, ResponseBody};
use crate::policy::response::Times;
use bytes::Bytes;
use http::StatusCode;
use std::ops::Range;
use std::sync::Arc;
use tokio::time::timeout_at;

/// Whether a stretch that breaks off is continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resuming {
    /// It is.
    Yes,
    /// The next byte may come another way.
    No,
}

/// A stretch of an object that is arriving.
#[derive(Debug)]
pub(super) struct Stretch {
    resources: Arc<Resources>,
    subject: Subject,
    identity: Arc<Identity>,
    body: ResponseBody,
    origin: Arc<str>,
    next: u64,
    end: u64,
    patience: Patience,
    /// The head of its answer, where that was not the first of the object.
    told: Option<Told>,
}

impl Stretch {
    /// The bytes `asked`, of which `response` brings the first.
    pub(super) fn of(
        (resources, subject): (&Arc<Resources>, &Subject),
        identity: &Arc<Identity>,
        response: Response,
        asked: Range<u64>,
    ) -> Self {
        let origins = &subject.upstream().site.origins;
        let patience = origins.get(response.origin).map(|origin| origin.timeouts.resume);
        Self {
            resources: Arc::clone(resources),
            subject: subject.clone(),
            identity: Arc::clone(identity),
            origin: response.origin_name,
            body: response.body,
            next: asked.start,
            end: asked.end,
            patience: Patience::new(patience.unwrap_or_default()),
            told: None,
        }
    }

    /// Asks for the bytes `asked`; fails where the answer is of another object.
    pub(super) async fn open(
        (resources, subject): (&Arc<Resources>, &Subject),
        identity: &Arc<Identity>,
        asked: Range<u64>,
        why: Option<Reason>,
    ) -> Result<Self, FillError> {
        let response = ask_for(&resources.cache, subject, (identity, &asked), why).await?;
        let times = Times { request: response.request_time, response: response.response_time };
        let told = Some(Told { headers: response.headers.clone(), times });
        Ok(Self { told, ..Self::of((resources, subject), identity, response, asked) })
    }

    /// What the head of its answer says anew, once.
    pub(super) fn take_told(&mut self) -> Option<Told> {
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
    pub(super) async fn chunk(&mut self, resuming: Resuming) -> Result<Option<Bytes>, FillError> {
        loop {
            if self.next >= self.end {
                return Ok(None);
            }
            let fault = match self.body.chunk().await {
                Ok(Some(mut bytes)) => {
                    let left = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
                    bytes.truncate(left);
                    self.next += bytes.len() as u64;
                    self.patience.came(bytes.len() as u64);
                    return Ok(Some(bytes));
                }
                Ok(None) => FillError::Rejected {
                    origin: Arc::clone(&self.origin),
                    rejection: Rejection::Short { expected: self.end, actual: self.next },
                },
                Err(error) => FillError::Body(error),
            };
            match resuming {
                Resuming::Yes => Box::pin(self.resume(fault)).await?,
                Resuming::No => return Err(fault),
            }
        }
    }

    /// Asks for the rest; fails with `fault` where no origin continues it.
    pub(super) async fn resume(&mut self, fault: FillError) -> Result<(), FillError> {
        if !self.identity.ties_parts() {
            return Err(fault);
        }
        if self.patience.broke() {
            let (path, at) = (self.subject.path(), self.next);
            tracing::info!(%path, at, error = %fault, "resuming a part");
        }
        let upstream = Arc::clone(self.subject.upstream());
        while let Some(until) = self.patience.next_round(upstream.origins.recovered()).await {
            let (rest, why) = (self.next..self.end, Some(Reason::Resume));
            let asking =
                ask_for(&self.resources.cache, &self.subject, (&self.identity, &rest), why);
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
            tracing::debug!(path = %self.subject.path(), %error, "resume failed");
            let is_unreached =
                matches!(&error, FillError::Fetch(error) if !error.may_have_reached());
            let nothing = if is_unreached { Nothing::Unreached } else { Nothing::Answered };
            self.patience.got(nothing);
        }
        Err(FillError::GivenUp(Box::new(fault)))
    }

    fn count(&self, result: &str) {
        self.resources.metrics.fill_resumes.with_label_values(&[result]).inc();
    }
}

async fn ask_for(
    cache: &Cache,
    subject: &Subject,
    (identity, asked): (&Identity, &Range<u64>),
    why: Option<Reason>,
) -> Result<Response, FillError> {
    match fetch_range(subject, cache, (asked, identity), why).await? {
        Answer::Found(response) if response.status == StatusCode::PARTIAL_CONTENT => {
            identity.check(asked, &response)?;
            Ok(response)
        }
        Answer::Found(_) => Err(FillError::Unranged),
        Answer::Changed | Answer::Absent { .. } | Answer::NotModified { .. } => {
            Err(FillError::Changed)
        }
    }
}
