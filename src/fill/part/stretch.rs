//! A stretch of an object as it comes from an origin, continued from its last good byte when that
//! breaks off, by the rules of [`steady`](crate::fill::steady). Owned by one run or one reader; no
//! locks.
//!
//! Every answer must be a part of the same object: its strong entity tag where there is one, its
//! length always.

use super::flight::PartFlight;
use super::subject::Subject;
use crate::cache::Cache;
use crate::fill::patience::{Nothing, Patience};
use crate::fill::steady::Checked;
use crate::fill::{FillError, Rejection, Shared};
use crate::object::Meta;
use crate::origin::{FetchError, FetchReason, OriginAnswer, Response, ResponseBody};
use crate::policy::continuation::{self, BrokenBody, ContinuationError, Tie};
use crate::policy::response::Times;
use crate::rfc::EntityTag;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::ops::Range;
use std::sync::Arc;
use tokio::time::timeout_at;

/// What every part of one object must agree with.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    headers: HeaderMap,
    /// The entity tag, where it is a strong one.
    pub(super) etag: Option<HeaderValue>,
    pub(super) length: u64,
    checked: Checked,
}

impl Identity {
    /// That of an object with this head and length.
    pub(super) fn new(meta: &Meta, length: u64, checked: Checked) -> Self {
        let is_strong = |etag: &&HeaderValue| EntityTag::parse(etag).is_some_and(|e| e.is_strong());
        Self {
            etag: meta.etag().filter(is_strong).cloned(),
            headers: meta.headers.clone(),
            length,
            checked,
        }
    }

    /// Whether pieces that come at different times can be told to be of one object.
    pub(super) fn ties_parts(&self) -> bool {
        self.etag.is_some() || self.checked == Checked::ByHash
    }

    /// Whether a head is of the same object.
    pub(super) fn is_of(&self, meta: &Meta, length: Option<u64>) -> bool {
        let is_same = match &self.etag {
            Some(own) => meta.etag() == Some(own),
            None => meta.etag() == self.headers.get(header::ETAG),
        };
        is_same && length == Some(self.length)
    }

    /// The offset behind the last byte of an answer to a request for `asked`, where it fits.
    pub(super) fn check(&self, asked: &Range<u64>, response: &Response) -> Result<u64, FillError> {
        let begun =
            BrokenBody { headers: &self.headers, length: Some(self.length), offset: asked.start };
        let last = asked.end.saturating_sub(1);
        let checked = continuation::check_stretch(&begun, last, response.status, &response.headers);
        match checked {
            Ok((continuation, end))
                if continuation.tie == Tie::EntityTag || self.checked == Checked::ByHash =>
            {
                Ok(end)
            }
            Ok(_) | Err(ContinuationError::OtherLength { .. } | ContinuationError::OtherObject) => {
                Err(FillError::Changed)
            }
            Err(error) => Err(FillError::Fetch(FetchError::Protocol {
                origin: Arc::clone(&response.origin_name),
                detail: error.to_string(),
            })),
        }
    }
}

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
    shared: Arc<Shared>,
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

/// What the head of a later answer said.
#[derive(Debug)]
pub(super) struct Told {
    pub(super) headers: HeaderMap,
    pub(super) times: Times,
}

impl Stretch {
    /// The bytes `asked`, of which `response` brings the first.
    pub(super) fn of(
        flight: &PartFlight,
        identity: &Arc<Identity>,
        response: Response,
        asked: Range<u64>,
    ) -> Self {
        let origins = &flight.subject.upstream().site.origins;
        let patience = origins.get(response.origin).map(|origin| origin.timeouts.resume);
        Self {
            shared: Arc::clone(&flight.shared),
            subject: flight.subject.clone(),
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
        flight: &PartFlight,
        identity: &Arc<Identity>,
        asked: Range<u64>,
        why: Option<FetchReason>,
    ) -> Result<Self, FillError> {
        let cache = &flight.shared.cache;
        let response = ask_for(cache, &flight.subject, (identity, &asked), why).await?;
        let times = Times { request: response.request_time, response: response.response_time };
        let told = Some(Told { headers: response.headers.clone(), times });
        Ok(Self { told, ..Self::of(flight, identity, response, asked) })
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
            let (rest, why) = (self.next..self.end, Some(FetchReason::Resume));
            let asking = ask_for(&self.shared.cache, &self.subject, (&self.identity, &rest), why);
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
        self.shared.metrics.fill_resumes.with_label_values(&[result]).inc();
    }
}

async fn ask_for(
    cache: &Cache,
    subject: &Subject,
    (identity, asked): (&Identity, &Range<u64>),
    why: Option<FetchReason>,
) -> Result<Response, FillError> {
    match subject.fetch(cache, asked, identity, why).await? {
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
