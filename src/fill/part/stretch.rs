//! A stretch of an object as it comes from an origin, continued from its last good byte when that
//! breaks off, by the rules of [`steady`](crate::fill::steady). Owned by one run or one reader; no
//! locks.
//!
//! Every answer must be a part of the same object: its strong entity tag where there is one, its
//! length always.

use super::flight::PartFlight;
use crate::fill::steady::{BREAKS_MAX, Checked, FORWARD_BYTES, PAUSE_FIRST, PAUSE_MAX};
use crate::fill::{FillError, Rejection, Shared, Wanted};
use crate::object::Meta;
use crate::origin::{Answer, Ask, FetchError, Method, RangeAsked, Response, ResponseBody};
use crate::policy::continuation::{self, Begun, ContinuationError, Tie};
use crate::rfc::EntityTag;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What every part of one object must agree with.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    headers: HeaderMap,
    /// The entity tag, where it is a strong one.
    etag: Option<HeaderValue>,
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
    fn check(&self, asked: &Range<u64>, response: &Response) -> Result<u64, FillError> {
        let begun =
            Begun { headers: &self.headers, length: Some(self.length), offset: asked.start };
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

/// A stretch of an object that is arriving.
#[derive(Debug)]
pub(super) struct Stretch {
    shared: Arc<Shared>,
    wanted: Wanted,
    identity: Arc<Identity>,
    body: ResponseBody,
    origin: Arc<str>,
    next: u64,
    end: u64,
    /// How long it waits for the next byte after a break.
    patience: Duration,
    breaks: u64,
    /// Offset at which it broke off last.
    broke_at: u64,
    pause: Duration,
}

impl Stretch {
    /// The bytes `asked`, of which `response` brings the first.
    pub(super) fn of(
        flight: &PartFlight,
        identity: &Arc<Identity>,
        response: Response,
        asked: Range<u64>,
    ) -> Self {
        let origins = &flight.wanted.upstream.site.origins;
        let patience = origins.get(response.origin).map(|origin| origin.timeouts.resume);
        Self {
            shared: Arc::clone(&flight.shared),
            wanted: flight.wanted.clone(),
            identity: Arc::clone(identity),
            origin: response.origin_name,
            body: response.body,
            next: asked.start,
            end: asked.end,
            patience: patience.unwrap_or_default(),
            breaks: 0,
            broke_at: asked.start,
            pause: PAUSE_FIRST,
        }
    }

    /// Asks for the bytes `asked`; fails where the answer is of another object.
    pub(super) async fn open(
        flight: &PartFlight,
        identity: &Arc<Identity>,
        asked: Range<u64>,
    ) -> Result<Self, FillError> {
        let response = ask_for(&flight.wanted, identity, &asked).await?;
        Ok(Self::of(flight, identity, response, asked))
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
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, FillError> {
        loop {
            if self.next >= self.end {
                return Ok(None);
            }
            let fault = match self.body.chunk().await {
                Ok(Some(mut bytes)) => {
                    let left = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
                    bytes.truncate(left);
                    self.next += bytes.len() as u64;
                    self.pause = PAUSE_FIRST;
                    return Ok(Some(bytes));
                }
                Ok(None) => FillError::Rejected {
                    origin: Arc::clone(&self.origin),
                    rejection: Rejection::Short { expected: self.end, actual: self.next },
                },
                Err(error) => FillError::Body(error),
            };
            self.resume(fault).await?;
        }
    }

    /// Asks for the rest; fails with `fault` where nobody continues it.
    async fn resume(&mut self, fault: FillError) -> Result<(), FillError> {
        if !self.identity.ties_parts() {
            return Err(fault);
        }
        let (path, at) = (&self.wanted.path, self.next);
        tracing::info!(%path, at, error = %fault, "resuming a part");
        let forward = self.next.saturating_sub(self.broke_at) / FORWARD_BYTES;
        self.breaks = self.breaks.saturating_sub(forward) + 1;
        self.broke_at = self.next;
        if self.breaks > BREAKS_MAX {
            return Err(fault);
        }
        let until = Instant::now() + self.patience;
        while Instant::now() < until {
            match ask_for(&self.wanted, &self.identity, &(self.next..self.end)).await {
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
                Err(error) => {
                    self.count("failed");
                    tracing::debug!(path = %self.wanted.path, %error, "resume failed");
                    tokio::time::sleep(self.pause).await;
                    self.pause = (self.pause * 2).min(PAUSE_MAX);
                }
            }
        }
        Err(fault)
    }

    fn count(&self, result: &str) {
        self.shared.metrics.fill_resumes.with_label_values(&[result]).inc();
    }
}

/// The question for the bytes `asked` of an object.
pub(super) fn question(wanted: &Wanted, asked: &Range<u64>, length: Option<u64>) -> Ask {
    let is_to_end = asked.end == u64::MAX || length == Some(asked.end);
    let last = (!is_to_end).then(|| asked.end.saturating_sub(1));
    Ask { range: Some(RangeAsked { first: asked.start, last }), ..wanted.ask(Method::Get) }
}

async fn ask_for(
    wanted: &Wanted,
    identity: &Identity,
    asked: &Range<u64>,
) -> Result<Response, FillError> {
    let mut ask = question(wanted, asked, Some(identity.length));
    ask.if_match.clone_from(&identity.etag);
    match wanted.upstream.origins.fetch(&ask).await? {
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
