//! Continues a body after its stored file proved damaged, short or unreadable. The rest comes from
//! what is stored now, or from a fill, if that is provably the same object. Otherwise the body is
//! cut. Owned by the body of one answer and used once; no locks.
//!
//! The client has a part of the old object. Its bytes were proven when it was stored, or compared
//! with their checksums. A new object is the same if it must have the same SHA-256 and the client
//! gets its end, which is withheld until that is checked, or if it has the same strong entity tag
//! and no other length.

use super::body_source::BodySource;
use super::state::Engine;
use super::target::RoutedRequest;
use crate::cache::{CachedObject, Hit};
use crate::fill::{
    Asker, FillOutcome, FillRequest, FillRole, FlightReader, JoinError, PassThroughBody,
};
use crate::object::{Meta, Sha256};
use crate::rfc::conditional::Validators;
use crate::store::{Stored, StoredBody};
use bytes::Bytes;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

/// The fallback of one body. Every answer from a file has one, and few need it: it holds only what
/// is there already.
pub(super) struct FileFallback {
    engine: Arc<Engine>,
    request: FallbackRequest,
    /// Head, length and digest of the object that is being sent.
    meta: Arc<Meta>,
    length: u64,
    sha256: Sha256,
    /// The offset at which the answer ends, if that is not the end of the object.
    end: Option<u64>,
}

/// The object that is being sent, and how it is fetched again.
pub(super) enum FallbackRequest {
    /// An object of a binary cache.
    Object(RoutedRequest),
    /// A response of a generic site, by the request for it.
    Page(Box<FillRequest>),
}

/// A read of a piece, and the source of the next.
type SourceRead = Pin<Box<dyn Future<Output = (BodySource, io::Result<Bytes>)> + Send>>;

/// Why the body cannot continue.
#[derive(Debug, thiserror::Error)]
enum FallbackError {
    #[error("the present object is another one")]
    Changed,
    #[error("no copy of the object: {0}")]
    Failed(String),
}

impl FileFallback {
    /// The fallback of `stored`, which is being sent up to the offset `end`, or to its end.
    pub(super) fn of(
        engine: &Arc<Engine>,
        request: FallbackRequest,
        stored: &Stored,
        end: Option<u64>,
    ) -> Box<Self> {
        Box::new(Self {
            engine: Arc::clone(engine),
            request,
            meta: Arc::clone(&stored.meta),
            length: stored.length,
            sha256: stored.sha256,
            end: end.filter(|end| *end < stored.length),
        })
    }

    /// The next piece of the body, of at most `max` bytes from `offset`, from another source than
    /// `failed`, which failed with `error`.
    pub(super) fn go_on(
        self,
        failed: BodySource,
        offset: u64,
        max: usize,
        error: io::Error,
    ) -> SourceRead {
        Box::pin(async move {
            let (key, result) = (&self.meta.key, self.find(offset).await);
            let label = match &result {
                Ok(_) => "continued",
                Err(FallbackError::Changed) => "changed",
                Err(FallbackError::Failed(_)) => "failed",
            };
            self.engine.metrics.body_rescues.with_label_values(&[label]).inc();
            let (site, path) = (key.site(), key.path());
            match result {
                Ok(source) => {
                    tracing::info!(site, path, offset, %error, "stored file failed, continued");
                    source.read(max).await
                }
                Err(reason) => {
                    tracing::warn!(site, path, offset, %error, %reason, "stored file failed, cut");
                    (failed, Err(error))
                }
            }
        })
    }

    async fn find(&self, offset: u64) -> Result<BodySource, FallbackError> {
        let mark = self.engine.fills.mark();
        if let Some(source) = self.stored(offset).await? {
            return Ok(source);
        }
        let wanted = match &self.request {
            FallbackRequest::Object(routed) => {
                routed.wanted(&self.engine.instance, Asker::default())
            }
            FallbackRequest::Page(wanted) => FillRequest::clone(wanted),
        };
        let fills = &self.engine.fills;
        let (role, flight) = if wanted.forbids_storing() {
            let alone = fills.begin_alone(wanted.clone(), None);
            (FillRole::Lead, alone.map_err(not_joined)?)
        } else {
            match fills.join(wanted.clone(), None, Some(mark)) {
                Err(JoinError::Ended) => match self.stored(offset).await? {
                    Some(source) => return Ok(source),
                    None => fills.join(wanted.clone(), None, None),
                },
                joined => joined,
            }
            .map_err(not_joined)?
        };
        let landed = flight.outcome().await;
        // An answer that no cache may store is for the request that caused it.
        let may_take = role == FillRole::Lead || flight.is_shared() || !wanted.is_page();
        let passing = if may_take { flight.take_passing(wanted.asker) } else { None };
        if passing.is_none() && matches!(landed, FillOutcome::Passing) {
            drop(flight);
            if wanted.is_page() {
                let alone = fills.begin_alone(wanted.clone(), None).map_err(not_joined)?;
                let landed = alone.outcome().await;
                let passing = alone.take_passing(wanted.asker);
                return self.landed(&alone, landed, passing, offset);
            }
            let own = fills.pass(&wanted).await;
            return self.passing(own.take_passing(wanted.asker), offset);
        }
        self.landed(&flight, landed, passing, offset)
    }

    /// The result of a flight, or the body that passes through it, if it is the same object.
    fn landed(
        &self,
        flight: &FlightReader,
        landed: FillOutcome,
        passing: Option<PassThroughBody>,
        offset: u64,
    ) -> Result<BodySource, FallbackError> {
        match landed {
            FillOutcome::Streaming { meta, growing, must_be } => {
                self.expect_same(&meta, growing.length(), must_be)?;
                let sent = self.end.map(|end| end.saturating_sub(offset));
                Ok(BodySource::Growing(flight.follow(growing, offset, sent), offset))
            }
            FillOutcome::Whole { found, .. } => self.source(&found, offset),
            FillOutcome::Passing => self.passing(passing, offset),
            FillOutcome::Absent(_) | FillOutcome::Head { .. } => self.passing(None, offset),
            FillOutcome::Failed(error) => Err(FallbackError::Failed(error.to_string())),
        }
    }

    /// What is stored now: another reader may have met the damage before.
    async fn stored(&self, offset: u64) -> Result<Option<BodySource>, FallbackError> {
        match self.engine.cache.lookup(&self.meta.key).await {
            Some(Hit::Memory(found) | Hit::Disk(found)) => self.source(&found, offset).map(Some),
            Some(Hit::Absent(_)) | None => Ok(None),
        }
    }

    fn source(&self, found: &CachedObject, offset: u64) -> Result<BodySource, FallbackError> {
        let bytes = match found {
            CachedObject::Hot(hot) => hot.body(),
            CachedObject::Stored(stored) => match &stored.body {
                StoredBody::File(_) if stored.sha256 != self.sha256 => {
                    return Err(FallbackError::Changed);
                }
                StoredBody::File(file) => return Ok(BodySource::File(Arc::clone(file), offset)),
                StoredBody::Bytes(bytes) => bytes.clone(),
            },
        };
        if Sha256::of(&bytes) != self.sha256 {
            return Err(FallbackError::Changed);
        }
        let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        Ok(BodySource::Bytes(bytes.slice(offset..)))
    }

    fn passing(
        &self,
        passing: Option<PassThroughBody>,
        offset: u64,
    ) -> Result<BodySource, FallbackError> {
        let passing =
            passing.ok_or_else(|| FallbackError::Failed("no origin has the object".to_owned()))?;
        self.expect_same(&passing.meta, passing.length(), passing.must_be())?;
        let sent = self.end.map(|end| end.saturating_sub(offset));
        Ok(BodySource::Passing(Box::new(passing.for_range(offset, sent)), offset))
    }

    fn expect_same(
        &self,
        meta: &Meta,
        length: Option<u64>,
        must_be: Option<Sha256>,
    ) -> Result<(), FallbackError> {
        let is_tagged = || {
            // If the length is unknown, the body of the answer checks it.
            let may_be_so_long = length.is_none_or(|length| length == self.length);
            may_be_so_long && meta.status == self.meta.status && has_same_tag(&self.meta, meta)
        };
        let is_same = match (must_be, self.end) {
            (Some(sha256), None) => sha256 == self.sha256,
            (Some(sha256), Some(_)) => sha256 == self.sha256 && is_tagged(),
            (None, _) => is_tagged(),
        };
        if is_same { Ok(()) } else { Err(FallbackError::Changed) }
    }
}

fn not_joined(error: JoinError) -> FallbackError {
    FallbackError::Failed(error.to_string())
}

fn has_same_tag(one: &Meta, other: &Meta) -> bool {
    let (one, other) = (Validators::of(&one.headers).etag, Validators::of(&other.headers).etag);
    matches!((one, other), (Some(one), Some(other)) if one.matches_strongly(&other))
}
