//! A body that survives its connection: when the origin breaks off, it is continued from the last
//! good byte on the same or the next origin. Owned by one fill; no locks.
//!
//! Only what is certain to be the same object continues a body: the same strong entity tag, or a
//! FileHash that the whole is checked against at the end.

use super::{FillError, Rejection, Upstream};
use crate::metrics::Metrics;
use crate::origin::{Answer, Ask, RangeAsked, Response, ResponseBody};
use crate::policy::continuation::{self, Begun, Tie};
use crate::rfc::EntityTag;
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::sync::Arc;
use std::time::Duration;

/// Breaks that one body survives.
pub(super) const RESUMES_MAX: u32 = 8;

/// The pause before the first resume; doubled up to [`PAUSE_MAX`] while no byte comes.
pub(super) const PAUSE_FIRST: Duration = Duration::from_millis(50);

/// The longest pause before a resume.
pub(super) const PAUSE_MAX: Duration = Duration::from_secs(2);

/// Whether a FileHash is known that the whole body will be checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checked {
    /// It is.
    ByHash,
    /// Only length and entity tag speak for it.
    ByLength,
}

/// A body that survives its connection.
#[derive(Debug)]
pub(super) struct Steady {
    upstream: Arc<Upstream>,
    metrics: Metrics,
    ask: Ask,
    body: ResponseBody,
    origin: Arc<str>,
    headers: HeaderMap,
    etag: Option<HeaderValue>,
    checked: Checked,
    total: Option<u64>,
    received: u64,
    skip: u64,
    resumes_left: u32,
    pause: Duration,
}

impl Steady {
    pub(super) fn new(
        upstream: Arc<Upstream>,
        metrics: Metrics,
        ask: Ask,
        response: Response,
        headers: HeaderMap,
        checked: Checked,
    ) -> Self {
        let etag = headers.get(header::ETAG);
        let is_strong = |etag: &&HeaderValue| EntityTag::parse(etag).is_some_and(|e| e.is_strong());
        let etag = etag.filter(is_strong).cloned();
        Self {
            upstream,
            metrics,
            ask,
            origin: response.origin_name,
            headers,
            etag,
            checked,
            total: response.content_length,
            received: 0,
            skip: 0,
            resumes_left: RESUMES_MAX,
            pause: PAUSE_FIRST,
            body: response.body,
        }
    }

    /// The declared length.
    pub(super) fn total(&self) -> Option<u64> {
        self.total
    }

    /// The next piece; `None` at the end, with every declared byte delivered.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, FillError> {
        loop {
            let fault = match self.body.chunk().await {
                Ok(Some(mut bytes)) => {
                    if self.skip > 0 {
                        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX);
                        let skipped = skipped.min(bytes.len());
                        bytes.advance(skipped);
                        self.skip -= skipped as u64;
                    }
                    if bytes.is_empty() {
                        continue;
                    }
                    return self.accept(bytes).map(Some);
                }
                Ok(None) => {
                    if self.skip == 0 && self.total.is_none_or(|total| total == self.received) {
                        return Ok(None);
                    }
                    FillError::Rejected {
                        origin: Arc::clone(&self.origin),
                        rejection: Rejection::Short {
                            expected: self.total.unwrap_or(0),
                            actual: self.received,
                        },
                    }
                }
                Err(error) => FillError::Body(error),
            };
            self.resume(fault).await?;
        }
    }

    fn accept(&mut self, bytes: Bytes) -> Result<Bytes, FillError> {
        self.received += bytes.len() as u64;
        self.pause = PAUSE_FIRST;
        match self.total {
            Some(total) if self.received > total => Err(FillError::Rejected {
                origin: Arc::clone(&self.origin),
                rejection: Rejection::Long { expected: total },
            }),
            Some(_) | None => Ok(bytes),
        }
    }

    /// Asks for the rest; fails with `fault` where nobody can be trusted to continue.
    async fn resume(&mut self, fault: FillError) -> Result<(), FillError> {
        let may_continue = self.etag.is_some() || self.checked == Checked::ByHash;
        if !may_continue || self.resumes_left == 0 {
            return Err(fault);
        }
        let (path, at) = (&self.ask.path, self.received);
        tracing::info!(%path, at, error = %fault, "resuming a body");
        while self.resumes_left > 0 {
            self.resumes_left -= 1;
            let ask = Ask {
                range: Some(RangeAsked { first: self.received, last: None }),
                if_match: self.etag.clone(),
                if_none_match: None,
                if_modified_since: None,
                ..self.ask.clone()
            };
            match self.upstream.origins.fetch(&ask).await {
                Ok(Answer::Found(response)) => return self.take_over(response, fault),
                Ok(Answer::Changed | Answer::Absent { .. } | Answer::NotModified { .. }) => {
                    self.count("changed");
                    return Err(fault);
                }
                Err(error) => {
                    self.count("failed");
                    tracing::debug!(path = %self.ask.path, %error, "resume failed");
                    tokio::time::sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(PAUSE_MAX);
                }
            }
        }
        Err(fault)
    }

    fn take_over(&mut self, response: Response, fault: FillError) -> Result<(), FillError> {
        let skip = match response.status {
            StatusCode::PARTIAL_CONTENT => self.part(&response),
            _ => self.again_from_the_start(&response),
        };
        let Some(skip) = skip else {
            self.count("changed");
            return Err(fault);
        };
        self.count("continued");
        self.skip = skip;
        self.origin = response.origin_name;
        self.body = response.body;
        Ok(())
    }

    /// The bytes to skip of a 206: none, if it continues this body.
    fn part(&mut self, response: &Response) -> Option<u64> {
        let begun = Begun { headers: &self.headers, length: self.total, offset: self.received };
        let continuation = continuation::check(&begun, response.status, &response.headers).ok()?;
        if continuation.tie != Tie::EntityTag && self.checked != Checked::ByHash {
            return None;
        }
        // Where the first part did not say how long the whole is, this one does.
        self.total = Some(continuation.length);
        Some(0)
    }

    /// The bytes to skip of a 200 from an origin that knows no ranges: those that came already,
    /// if it is the same object.
    fn again_from_the_start(&self, response: &Response) -> Option<u64> {
        let etag = response.headers.get(header::ETAG);
        let is_same = self.etag.is_some() && etag == self.etag.as_ref();
        let is_as_long = match (response.content_length, self.total) {
            (Some(now), Some(before)) => now == before,
            (None, _) | (_, None) => true,
        };
        let is_trusted = is_same || self.checked == Checked::ByHash;
        (is_trusted && is_as_long).then_some(self.received)
    }

    fn count(&self, result: &str) {
        self.metrics.fill_resumes.with_label_values(&[result]).inc();
    }
}
