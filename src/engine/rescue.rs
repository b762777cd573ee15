//! A stored file that turns out damaged, short or unreadable while it is sent: the body goes on
//! from its offset out of what is stored by now, or out of a fill, if that is provably the same
//! object; else it is cut. Owned by the body of one answer and used once; no locks.
//!
//! The client has a part of the old object, whose bytes were proven when it was stored, or read
//! back as they were written. The new one is the same where it must have the same SHA-256 (then its
//! end is held back until that is checked), or where it has the same strong entity tag and length.

use super::body::{Reading, Source};
use super::{Engine, Routed};
use crate::cache::{Found, Hit};
use crate::fill::{Flight, Landed, Mark, NotJoined, Role, Wanted};
use crate::object::{Meta, Sha256};
use crate::rfc::conditional::Validators;
use crate::store::{Stored, StoredBody};
use std::io;
use std::sync::Arc;

/// What a body goes on with when its file fails it. Every answer from a file has one, and hardly
/// any needs it: it holds what is there already, and the rest is made when it is needed.
pub(super) struct Rescue {
    engine: Arc<Engine>,
    routed: Routed,
    /// Head, length and digest of what is being sent.
    meta: Arc<Meta>,
    length: u64,
    sha256: Sha256,
}

/// Why there is nothing to go on with.
#[derive(Debug, thiserror::Error)]
enum NotRescued {
    #[error("what is there now is another object")]
    Changed,
    #[error("there is nothing now: {0}")]
    Failed(String),
}

impl Rescue {
    /// That of `stored`, which is sent to the request `routed`.
    pub(super) fn of(engine: &Arc<Engine>, routed: &Routed, stored: &Stored) -> Box<Self> {
        Box::new(Self {
            engine: Arc::clone(engine),
            routed: routed.clone(),
            meta: Arc::clone(&stored.meta),
            length: stored.length,
            sha256: stored.sha256,
        })
    }

    /// The next piece of the body, of at most `max` bytes from `offset`, out of another source
    /// than `failed`, which failed with `error`.
    pub(super) fn go_on(
        self,
        failed: Source,
        offset: u64,
        max: usize,
        error: io::Error,
    ) -> Reading {
        Box::pin(async move {
            let (key, result) = (&self.routed.target.key, self.find(offset).await);
            let label = match &result {
                Ok(_) => "continued",
                Err(NotRescued::Changed) => "changed",
                Err(NotRescued::Failed(_)) => "failed",
            };
            self.engine.metrics.body_rescues.with_label_values(&[label]).inc();
            let (site, path) = (key.site(), key.path());
            match result {
                Ok(source) => {
                    tracing::info!(site, path, offset, %error, "a stored file failed; going on");
                    source.read(max).await
                }
                Err(not) => {
                    tracing::warn!(site, path, offset, %error, %not, "a stored file failed; cut");
                    (failed, Err(error))
                }
            }
        })
    }

    async fn find(&self, offset: u64) -> Result<Source, NotRescued> {
        let mark = self.engine.fills.mark();
        let wanted = self.engine.wanted(&self.routed);
        if let Some(source) = self.stored(offset).await? {
            return Ok(source);
        }
        let (_, flight) = match self.join(&wanted, Some(mark)) {
            Err(NotJoined::Ended) => match self.stored(offset).await? {
                Some(source) => return Ok(source),
                None => self.join(&wanted, None),
            },
            joined => joined,
        }
        .map_err(|error| NotRescued::Failed(error.to_string()))?;
        match flight.landed().await {
            Landed::Streaming { meta, growing, must_be } => {
                self.expect_same(&meta, growing.length(), must_be)?;
                Ok(Source::Growing(growing.follow(offset), offset))
            }
            Landed::Whole { found, .. } => self.source(&found, offset),
            Landed::Passing => self.passing(&wanted, &flight, offset).await,
            Landed::Absent(_) => Err(NotRescued::Failed("no origin has it".to_owned())),
            Landed::Failed(error) => Err(NotRescued::Failed(error.to_string())),
        }
    }

    fn join(
        &self,
        wanted: &Wanted,
        looked: Option<Mark>,
    ) -> Result<(Role, Arc<Flight>), NotJoined> {
        self.engine.fills.join(wanted.clone(), None, looked)
    }

    /// What is stored by now: another reader may have met the damage before.
    async fn stored(&self, offset: u64) -> Result<Option<Source>, NotRescued> {
        match self.engine.cache.lookup(&self.routed.target.key).await {
            Some(Hit::Memory(found) | Hit::Disk(found)) => self.source(&found, offset).map(Some),
            Some(Hit::Absent(_)) | None => Ok(None),
        }
    }

    fn source(&self, found: &Found, offset: u64) -> Result<Source, NotRescued> {
        let bytes = match found {
            Found::Hot(hot) => hot.body(),
            Found::Stored(stored) => match &stored.body {
                StoredBody::File(_) if stored.sha256 != self.sha256 => {
                    return Err(NotRescued::Changed);
                }
                StoredBody::File(file) => return Ok(Source::File(Arc::clone(file), offset)),
                StoredBody::Bytes(bytes) => bytes.clone(),
            },
        };
        if Sha256::of(&bytes) != self.sha256 {
            return Err(NotRescued::Changed);
        }
        let offset = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        Ok(Source::Bytes(bytes.slice(offset..)))
    }

    async fn passing(
        &self,
        wanted: &Wanted,
        flight: &Flight,
        offset: u64,
    ) -> Result<Source, NotRescued> {
        let passing = match flight.take_passing() {
            Some(passing) => Some(passing),
            None => self.engine.fills.pass(wanted).await.take_passing(),
        };
        let passing = passing.ok_or_else(|| NotRescued::Failed("no origin has it".to_owned()))?;
        self.expect_same(&passing.meta, passing.length(), passing.must_be())?;
        Ok(Source::Passing(Box::new(passing), offset))
    }

    fn expect_same(
        &self,
        meta: &Meta,
        length: Option<u64>,
        must_be: Option<Sha256>,
    ) -> Result<(), NotRescued> {
        let is_same = match must_be {
            Some(sha256) => sha256 == self.sha256,
            None => length == Some(self.length) && has_same_tag(&self.meta, meta),
        };
        if is_same { Ok(()) } else { Err(NotRescued::Changed) }
    }
}

fn has_same_tag(one: &Meta, other: &Meta) -> bool {
    let (one, other) = (Validators::of(&one.headers).etag, Validators::of(&other.headers).etag);
    matches!((one, other), (Some(one), Some(other)) if one.matches_strongly(&other))
}
