//! A body that survives its connection: when the origin breaks off, it is continued from the last
//! good byte on the same or the next origin, as soon as one is there. Owned by one fill; no locks.
//!
//! A response of a generic site is continued like a body without a FileHash; what asks for the rest
//! of it says everything that the client said, with `If-Range`.
//!
//! Only what is certain to be the same object continues a body: an answer with the same strong
//! entity tag and length, or any answer of that length if the whole is checked against a FileHash
//! at the end. Without that tag, the rest is doubtful until then: a reader of a part, which would
//! end before, gets none of it. An origin that shows another object is not asked again for this
//! body. The others are asked in turn until one continues it or the deadline has passed: see
//! `resume_deadline`.
//!
//! A reader that fell behind those that it shared a body with goes on by the same rules (see
//! `relay`): what it has is the part that came.
//!
//! A body may be a piece of an object (see `parallel`): it begins and ends at given offsets, and is
//! continued like any other.

use super::error::{FillError, Rejection};
use super::fetched_body::{BodyCheck, FetchedBody};
use super::request::{OriginChoice, OriginQuestion};
use super::resume_deadline::{EmptyRound, ResumeDeadline};
use crate::config::AskOrder;
use crate::origin::{
    BodyError, FetchError, OriginAnswer, RangeAsked, Response, ResponseBody, Retries,
};
use crate::policy::continuation::{self, BrokenBody, ContinuationError, Tie};
use crate::rfc::EntityTag;
use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Times that one body is read again from its start, at origins that know no ranges.
const RESTARTS_MAX: u32 = 8;

/// A body that survives its connection.
#[derive(Debug)]
pub(super) struct ResumableBody {
    source: FetchedBody,
    body: ResponseBody,
    origin: Arc<str>,
    headers: HeaderMap,
    etag: Option<HeaderValue>,
    checked: BodyCheck,
    total: Option<u64>,
    /// The offset at which it is to end before the object does.
    end: Option<u64>,
    /// Offset of its next byte in the object.
    received: u64,
    skip: u64,
    /// What came and was not taken yet.
    next: Option<Result<Option<Bytes>, BodyError>>,
    /// Origins that may still have the same object, in the order in which they are asked.
    candidates: Vec<usize>,
    deadline: ResumeDeadline,
    restarts: u32,
    extent: BodyExtent,
    /// Whether an origin that has the object did not send a stretch of it.
    is_unranged: bool,
    /// The candidate that continued it last, until that brings bytes.
    last: Option<usize>,
    /// Bytes from this offset on may be of another representation than those before.
    doubtful_from: Option<u64>,
}

/// What of an object a body brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyExtent {
    /// All of it.
    Whole,
    /// A stretch that is asked for by itself. If all origins have another object, it has changed.
    Stretch,
}

/// How a body ended before its time.
#[derive(Debug, thiserror::Error)]
enum BodyFault {
    /// Cleanly, but short.
    #[error("ended early")]
    Short,
    /// With an error.
    #[error(transparent)]
    Broken(#[from] BodyError),
    /// It is yet to be asked for, for a reader that fell behind those that it shared with.
    #[error("a reader fell behind")]
    Behind,
}

/// Why an answer does not continue a body.
enum Misfit {
    /// It tells that the origin has another object, or none that may go on.
    Object(String),
    /// It is the whole, although a stretch was asked for.
    Unranged(String),
    /// It cannot be used; the next one may.
    Answer(String),
}

impl Misfit {
    fn into_text(self) -> String {
        match self {
            Self::Object(text) | Self::Unranged(text) | Self::Answer(text) => text,
        }
    }
}

/// How one origin answered the request for the rest.
enum ResumeResult {
    Yes,
    /// It has another object.
    Never,
    NotNow(EmptyRound),
}

impl ResumableBody {
    pub(super) fn new(
        source: FetchedBody,
        response: Response,
        headers: HeaderMap,
        checked: BodyCheck,
    ) -> Self {
        let etag = headers.get(header::ETAG);
        let is_strong = |etag: &&HeaderValue| EntityTag::parse(etag).is_some_and(|e| e.is_strong());
        let etag = etag.filter(is_strong).cloned();
        source.body_origins.add(response.origin, &response.origin_name);
        let origins = &source.request.upstream.site.origins;
        let deadline = origins.get(response.origin).map(|origin| origin.timeouts.resume);
        let is_asked = |position: &usize| {
            let turns = origins.get(*position).map(|origin| &origin.turns);
            turns.is_some_and(|turns| source.request.turn(turns) != AskOrder::Never)
        };
        let OriginChoice { prefer, avoid, .. } = &source.choice;
        let mut candidates: Vec<usize> = (0..origins.len()).filter(is_asked).collect();
        candidates.sort_by_key(|at| (avoid.contains(at), *prefer != Some(*at)));
        Self {
            origin: response.origin_name,
            headers,
            etag,
            checked,
            total: response.content_length,
            end: None,
            received: 0,
            skip: 0,
            next: None,
            candidates,
            deadline: ResumeDeadline::new(deadline.unwrap_or_default()),
            restarts: 0,
            extent: BodyExtent::Whole,
            is_unranged: false,
            last: None,
            doubtful_from: None,
            body: response.body,
            source,
        }
    }

    /// The declared length.
    pub(super) fn total(&self) -> Option<u64> {
        self.total
    }

    /// What the body is part of.
    pub(super) fn source(&self) -> &FetchedBody {
        &self.source
    }

    /// Offset of the next byte in the object.
    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// The offset at which it is to end before the object does.
    pub(super) fn end(&self) -> Option<u64> {
        self.end
    }

    /// The first offset from which on bytes may be of another representation than those before, so
    /// that only the hash of the whole tells.
    pub(super) fn doubtful_from(&self) -> Option<u64> {
        self.doubtful_from
    }

    /// Has it end at an offset, or with the object; never before what has come.
    pub(super) fn end_at(&mut self, end: Option<u64>) {
        self.end = end;
    }

    /// It is what readers wait for from now on, not fetched ahead of its turn any more: it goes on
    /// like `before`, the body up to its first byte.
    pub(super) fn comes_behind(&mut self, before: &Self) {
        self.deadline.lengthen();
        (self.checked, self.doubtful_from) = (before.checked, before.doubtful_from);
    }

    /// Goes on at another offset, with an answer that is yet to be asked for.
    pub(super) fn go_on_at(&mut self, offset: u64, end: Option<u64>) {
        self.body = ResponseBody::nothing(Arc::clone(&self.origin));
        (self.next, self.skip) = (None, 0);
        (self.received, self.end) = (offset, end);
    }

    /// The same as a stretch of an object of `total` bytes: it brings the bytes `asked`.
    pub(super) fn into_stretch(self, total: u64, asked: Range<u64>) -> Self {
        let Range { start, end } = asked;
        let (extent, only) = (BodyExtent::Stretch, self.source.choice.only);
        // Its readers have no hash to go by, and tags of two origins may be the same by chance.
        let mut body = Self { total: Some(total), received: start, end: Some(end), extent, ..self };
        body.candidates.retain(|position| only.is_none_or(|only| only == *position));
        body
    }

    /// What pieces of the same object are made from.
    pub(super) fn seed(&self) -> BodySeed {
        BodySeed {
            source: self.source.clone(),
            origin: Arc::clone(&self.origin),
            headers: self.headers.clone(),
            etag: self.etag.clone(),
            checked: self.checked,
            total: self.total,
            candidates: self.candidates.clone(),
            deadline: self.deadline.whole(),
        }
    }

    /// Waits until something has come: a piece, the end, or a fault. Cancel safe.
    pub(super) async fn wait(&mut self) {
        if self.next.is_none() && !self.is_at_its_end() {
            self.next = Some(self.body.chunk().await);
        }
    }

    fn is_at_its_end(&self) -> bool {
        self.end.is_some_and(|end| self.received >= end)
    }

    /// The next piece; `None` at the end, with every declared byte delivered. Waits for an origin
    /// that continues it until the deadline. Not cancel safe.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, FillError> {
        self.chunk_if(|| true).await
    }

    /// As [`ResumableBody::chunk`], but if it breaks off it goes on only if `may_resume`: its next
    /// byte may come another way.
    pub(super) async fn chunk_if(
        &mut self,
        may_resume: impl Fn() -> bool,
    ) -> Result<Option<Bytes>, FillError> {
        loop {
            if self.is_at_its_end() {
                return Ok(None);
            }
            let came = match self.next.take() {
                Some(came) => came,
                None => self.body.chunk().await,
            };
            let fault = match came {
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
                    if self.skip > 0 {
                        // Read again from the start, it is shorter than what came before.
                        return Err(self.give_up(BodyFault::Short));
                    }
                    BodyFault::Short
                }
                Err(error) => BodyFault::Broken(error),
            };
            if !may_resume() {
                return Err(self.give_up(fault));
            }
            Box::pin(self.resume(fault)).await?;
        }
    }

    fn accept(&mut self, mut bytes: Bytes) -> Result<Bytes, FillError> {
        if let Some(end) = self.end {
            // The rest belongs to an answer for the whole. It is used if no piece takes its place.
            let left = usize::try_from(end.saturating_sub(self.received)).unwrap_or(usize::MAX);
            let rest = bytes.split_off(left.min(bytes.len()));
            self.next = (!rest.is_empty()).then_some(Ok(Some(rest)));
        }
        self.received += bytes.len() as u64;
        self.last = None;
        self.deadline.came(bytes.len() as u64);
        match self.total {
            Some(total) if self.received > total => {
                let rejection = Rejection::Long { expected: total, actual: self.received };
                Err(FillError::Rejected { origin: Arc::clone(&self.origin), rejection })
            }
            Some(_) | None => Ok(bytes),
        }
    }

    /// Whether an entity tag or a hash tells what may continue it.
    pub(super) fn is_identified(&self) -> bool {
        match self.checked {
            BodyCheck::Hash => true,
            BodyCheck::Length => self.etag.is_some() && self.total.is_some(),
            BodyCheck::Framing => self.etag.is_some(),
        }
    }

    /// Goes on with the body; fails with `fault` if nothing tells what may continue it, or if no
    /// origin continues it in time.
    async fn resume(&mut self, fault: BodyFault) -> Result<(), FillError> {
        if let Some(position) = self.last.take() {
            // It continued the body and brought nothing: the others are asked before it.
            self.candidates.sort_by_key(|candidate| *candidate == position);
        }
        if !self.is_identified() {
            return Err(self.give_up(fault));
        }
        if self.deadline.broke() {
            let (path, origin, at) = (&self.source.request.path, &self.origin, self.received);
            tracing::info!(%origin, %path, at, total = self.total, %fault, "resuming a body");
        }
        self.ask_until_one_goes_on(fault).await
    }

    async fn ask_until_one_goes_on(&mut self, fault: BodyFault) -> Result<(), FillError> {
        let upstream = Arc::clone(&self.source.request.upstream);
        while !self.candidates.is_empty() {
            let recovered = upstream.origins.recovered();
            let Some(until) = self.deadline.next_round(recovered).await else {
                return Err(FillError::GivenUp(Box::new(self.give_up(fault))));
            };
            match self.ask_around(Some(until)).await {
                ResumeResult::Yes => return Ok(()),
                ResumeResult::NotNow(empty) => self.deadline.got(empty),
                ResumeResult::Never => {}
            }
        }
        match self.extent {
            BodyExtent::Whole => Err(self.give_up(fault)),
            BodyExtent::Stretch if self.is_unranged => Err(FillError::Unranged),
            BodyExtent::Stretch => Err(FillError::Changed),
        }
    }

    /// Asks for the rest of [`BodySeed::rest`], until an origin sends it or the deadline passes:
    /// each origin once for as long as its own deadlines let it, then as for a body that broke off.
    pub(super) async fn begin(&mut self) -> Result<(), FillError> {
        if !self.is_identified() {
            return Err(self.give_up(BodyFault::Behind));
        }
        self.deadline.broke();
        match self.ask_around(None).await {
            ResumeResult::Yes => return Ok(()),
            ResumeResult::NotNow(empty) => self.deadline.got(empty),
            ResumeResult::Never => {}
        }
        self.ask_until_one_goes_on(BodyFault::Behind).await
    }

    fn give_up(&self, fault: BodyFault) -> FillError {
        let end = self.end.filter(|_| self.extent == BodyExtent::Stretch);
        let short = |expected| FillError::Rejected {
            origin: Arc::clone(&self.origin),
            rejection: Rejection::Short { expected, actual: self.received },
        };
        match (fault, end.or(self.total)) {
            (BodyFault::Short, total) => short(total.unwrap_or(0)),
            (BodyFault::Broken(BodyError::Broken { .. }), Some(total)) => short(total),
            (BodyFault::Broken(error), _) => FillError::Body(error),
            (BodyFault::Behind, _) => FillError::Behind,
        }
    }

    /// Asks every candidate in turn until one continues the body; each has its share of the time
    /// `until`, if that is told, so that one that says nothing does not keep the next from being
    /// asked.
    async fn ask_around(&mut self, until: Option<Instant>) -> ResumeResult {
        let candidates = self.candidates.clone();
        let mut all = EmptyRound::Unreached;
        for (position, left) in candidates.iter().zip((1..=candidates.len()).rev()) {
            let left = u32::try_from(left).unwrap_or(u32::MAX);
            let asking = self.ask_one(*position);
            let asked = match until {
                Some(until) => {
                    let share = until.saturating_duration_since(Instant::now()) / left;
                    let asked = timeout_at(Instant::now() + share, asking).await;
                    asked.unwrap_or(ResumeResult::NotNow(EmptyRound::Answered))
                }
                None => asking.await,
            };
            match asked {
                ResumeResult::Yes => return ResumeResult::Yes,
                ResumeResult::Never => self.candidates.retain(|candidate| candidate != position),
                ResumeResult::NotNow(empty) => all = all.and(empty),
            }
        }
        ResumeResult::NotNow(all)
    }

    async fn ask_one(&mut self, position: usize) -> ResumeResult {
        let misfit = match self.ask_for_the_rest(position).await {
            Ok(OriginAnswer::Found(response)) => match self.take_over(response) {
                Ok(()) => {
                    self.last = Some(position);
                    return ResumeResult::Yes;
                }
                Err(misfit) => misfit,
            },
            Ok(OriginAnswer::Changed) => {
                Misfit::Object("412 or 416: it has another object".to_owned())
            }
            Ok(OriginAnswer::NotModified { .. }) => {
                Misfit::Answer("304 to a request without conditions".to_owned())
            }
            Err(FetchError::Protocol { detail, .. }) => Misfit::Answer(detail),
            Ok(OriginAnswer::Absent { .. }) => match self.extent {
                // A gateway may answer 404 while the object cannot be reached behind it.
                BodyExtent::Whole => {
                    return self.not_now(position, EmptyRound::Answered, "no such object");
                }
                BodyExtent::Stretch => Misfit::Object("no such object".to_owned()),
            },
            Err(error) => {
                return self.not_now(position, EmptyRound::of(&error), &error.to_string());
            }
        };
        match (self.extent, &misfit) {
            (BodyExtent::Stretch, Misfit::Answer(why)) => {
                return self.not_now(position, EmptyRound::Answered, why);
            }
            (BodyExtent::Stretch, Misfit::Unranged(_)) => self.is_unranged = true,
            (BodyExtent::Whole, _) | (BodyExtent::Stretch, Misfit::Object(_)) => {}
        }
        self.count("changed");
        let origin = self.source.request.upstream.origins.name(position);
        let rejection =
            Rejection::Continuation { expected: self.identity(), actual: misfit.into_text() };
        let FetchedBody { metrics, request, body_origins, .. } = &self.source;
        body_origins.reject(metrics, &request.key, &origin, &rejection);
        ResumeResult::Never
    }

    async fn ask_for_the_rest(
        &self,
        position: usize,
    ) -> Result<OriginAnswer<Response>, FetchError> {
        let end = self.end.filter(|end| Some(*end) != self.total);
        let last = end.map(|end| end.saturating_sub(1));
        let same = self.etag.clone().filter(|_| self.checked != BodyCheck::Hash);
        let question = OriginQuestion {
            range: Some(RangeAsked { first: self.received, last }),
            same,
            retries: Retries::None,
            reason: None,
            ..self.source.request.question(OriginChoice::of(position))
        };
        self.source.request.fetch(&question).await
    }

    fn not_now(&self, position: usize, empty: EmptyRound, why: &str) -> ResumeResult {
        self.count("failed");
        tracing::debug!(path = %self.source.request.path, position, why, "resume failed");
        ResumeResult::NotNow(empty)
    }

    /// What a continuation must be, for the log.
    fn identity(&self) -> String {
        let length = self.total.map_or_else(|| "unknown".to_owned(), |total| total.to_string());
        match (&self.etag, self.checked) {
            (Some(etag), BodyCheck::Length | BodyCheck::Framing) => {
                format!("bytes {}- of {length}, ETag {:?}", self.received, etag)
            }
            (_, BodyCheck::Hash) | (None, BodyCheck::Length | BodyCheck::Framing) => {
                format!("bytes {}- of {length}", self.received)
            }
        }
    }

    /// Goes on with `response`; or why it is no continuation.
    fn take_over(&mut self, response: Response) -> Result<(), Misfit> {
        self.skip = match (response.status, self.extent) {
            (StatusCode::PARTIAL_CONTENT, _) => self.part(&response)?,
            (_, BodyExtent::Whole) => {
                self.again_from_the_start(&response).map_err(Misfit::Object)?
            }
            (status, BodyExtent::Stretch) => {
                let text = format!("status {status} to a request for a range");
                let is_same = response.headers.get(header::ETAG) == self.etag.as_ref();
                return Err(if is_same { Misfit::Unranged(text) } else { Misfit::Object(text) });
            }
        };
        let is_tied = continuation::tie(&self.headers, &response.headers) == Ok(Tie::EntityTag);
        if !is_tied {
            self.doubtful_from.get_or_insert(self.received);
        }
        self.count("continued");
        self.source.body_origins.add(response.origin, &response.origin_name);
        self.origin = response.origin_name;
        self.body = response.body;
        Ok(())
    }

    /// The bytes to skip of a 206: none, if it continues this body.
    fn part(&mut self, response: &Response) -> Result<u64, Misfit> {
        let none = HeaderMap::new();
        let headers = if self.checked == BodyCheck::Hash { &none } else { &self.headers };
        let begun = BrokenBody { headers, length: self.total, offset: self.received };
        let (status, headers) = (response.status, &response.headers);
        let checked = match self.end {
            Some(end) => {
                let last = end.saturating_sub(1);
                continuation::check_stretch(&begun, last, status, headers).map(|(fits, _)| fits)
            }
            None => continuation::check(&begun, status, headers),
        };
        let continuation = checked.map_err(|error| match error {
            ContinuationError::OtherLength { .. } | ContinuationError::OtherObject => {
                Misfit::Object(error.to_string())
            }
            ContinuationError::Status(_)
            | ContinuationError::Unsound
            | ContinuationError::OtherBytes { .. } => Misfit::Answer(error.to_string()),
        })?;
        if continuation.tie != Tie::EntityTag && self.checked != BodyCheck::Hash {
            let text = "the part has not the same strong entity tag";
            return Err(Misfit::Object(text.to_owned()));
        }
        if self.extent == BodyExtent::Stretch && !self.source.request.permits_part(response) {
            return Err(Misfit::Object("the part may not be stored any more".to_owned()));
        }
        // If the first part did not tell the length of the whole, this one does.
        self.total = Some(continuation.length);
        Ok(0)
    }

    /// The bytes to skip of a 200 from an origin that knows no ranges: those that came already,
    /// if it is the same object. If no length is known, its framing must show its end, unless a
    /// hash does.
    fn again_from_the_start(&mut self, response: &Response) -> Result<u64, String> {
        if self.restarts == RESTARTS_MAX {
            return Err(format!("200, the whole for the {RESTARTS_MAX}th time"));
        }
        self.restarts += 1;
        let length = response.content_length;
        let is_of_known_end = self.total.is_some() || response.is_framed;
        if self.checked != BodyCheck::Hash && !is_of_known_end {
            return Err("200 that ends with its connection".to_owned());
        }
        if let (Some(length), Some(total)) = (length, self.total)
            && length != total
        {
            return Err(format!("200 with {length} bytes"));
        }
        let (none, now) = (HeaderMap::new(), &response.headers);
        let before = if self.checked == BodyCheck::Hash { &none } else { &self.headers };
        continuation::tie(before, now).map_err(|error| error.to_string())?;
        let etag = now.get(header::ETAG);
        if self.checked != BodyCheck::Hash && etag != self.etag.as_ref() {
            return Err(format!("200 with the ETag {etag:?}"));
        }
        if self.checked != BodyCheck::Hash {
            // It may tell a length that the first response did not tell.
            self.total = self.total.or(length);
        }
        Ok(self.received)
    }

    fn count(&self, result: &str) {
        self.source.metrics.fill_resumes.with_label_values(&[result]).inc();
    }
}

/// What pieces of an object are made from: all that is known of it.
#[derive(Debug, Clone)]
pub(super) struct BodySeed {
    source: FetchedBody,
    origin: Arc<str>,
    headers: HeaderMap,
    etag: Option<HeaderValue>,
    checked: BodyCheck,
    total: Option<u64>,
    candidates: Vec<usize>,
    deadline: Duration,
}

impl BodySeed {
    /// What is behind the first `received` bytes of the body, which [`ResumableBody::begin`] asks
    /// for. The origins that gave the body come first, those to `avoid` last.
    pub(super) fn rest(self, received: u64, avoid: &[usize]) -> ResumableBody {
        let gave = self.source.body_origins.positions();
        let mut body = self.body_at(received);
        body.candidates.sort_by_key(|at| (avoid.contains(at), !gave.contains(at)));
        body.source.body_origins = body.source.body_origins.fork();
        body
    }

    /// The same body at an offset, with an answer that is yet to be asked for.
    fn body_at(self, received: u64) -> ResumableBody {
        ResumableBody {
            body: ResponseBody::nothing(Arc::clone(&self.origin)),
            origin: self.origin,
            headers: self.headers,
            etag: self.etag,
            checked: self.checked,
            total: self.total,
            end: None,
            received,
            skip: 0,
            next: None,
            candidates: self.candidates,
            deadline: ResumeDeadline::new(self.deadline),
            restarts: 0,
            extent: BodyExtent::Whole,
            is_unranged: false,
            last: None,
            doubtful_from: None,
            source: self.source,
        }
    }

    /// Whether pieces that come at different times can be told to be of one object.
    pub(super) fn ties_pieces(&self) -> bool {
        self.is_tagged() || self.checked == BodyCheck::Hash
    }

    /// Whether a strong entity tag ties them, also before the whole is proven.
    pub(super) fn is_tagged(&self) -> bool {
        self.etag.is_some()
    }

    /// The declared length.
    pub(super) fn total(&self) -> Option<u64> {
        self.total
    }

    /// What the object is part of.
    pub(super) fn source(&self) -> &FetchedBody {
        &self.source
    }

    /// Asks the origin at `position` for a piece; the reason, if it gives none.
    pub(super) async fn piece(
        self,
        span: Range<u64>,
        position: usize,
    ) -> Result<ResumableBody, String> {
        let request = &self.source.request;
        let question = OriginQuestion {
            range: Some(RangeAsked { first: span.start, last: Some(span.end.saturating_sub(1)) }),
            same: self.etag.clone(),
            ..request.question(OriginChoice::of(position))
        };
        let response = match request.fetch(&question).await {
            Ok(OriginAnswer::Found(response)) => response,
            Ok(OriginAnswer::Changed) => return Err("412 or 416: it is another object".to_owned()),
            Ok(OriginAnswer::NotModified { .. }) => return Err("304 without conditions".to_owned()),
            Ok(OriginAnswer::Absent { .. }) => return Err("no such object".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        if response.status != StatusCode::PARTIAL_CONTENT {
            return Err(format!("status {} to a request for a range", response.status));
        }
        let deadline = ResumeDeadline::new(self.deadline).short();
        let mut piece = self.body_at(span.start);
        if piece.etag.is_some() {
            // Readers of parts see it before the whole is proven.
            piece.checked = BodyCheck::Length;
        }
        (piece.end, piece.deadline) = (Some(span.end), deadline);
        piece.origin = Arc::clone(&response.origin_name);
        piece.part(&response).map_err(Misfit::into_text)?;
        piece.source.body_origins.add(response.origin, &response.origin_name);
        piece.body = response.body;
        Ok(piece)
    }
}
