//! A stored file that turns out damaged, short or unreadable while it is sent: the body goes on
//! from its offset out of what is stored by now, or out of a fill, if that is provably the same
//! object; else it is cut. Owned by the body of one answer and used once; no locks.
//!
//! The client has a part of the old object, whose bytes were proven when it was stored, or read
//! back as they were written. The new one is the same where it must have the same SHA-256 (then its
//! end is held back until that is checked), or where it has the same strong entity tag and no other
//! length.

use super::body::{Reading, Source};
use super::{Engine, Routed};
use crate::cache::{CachedObject, Hit};
use crate::fill::{Asker, FlightReader, Landed, Mark, NotJoined, Passing, Role, Sought, Wanted};
use crate::object::{Meta, Sha256};
use crate::rfc::conditional::Validators;
use crate::store::{Stored, StoredBody};
use std::io;
use std::sync::Arc;

/// What a body goes on with when its file fails it. Every answer from a file has one, and hardly
/// any needs it: it holds what is there already, and the rest is made when it is needed.
pub(super) struct Rescue {
    engine: Arc<Engine>,
    lost: Lost,
    /// Head, length and digest of what is being sent.
    meta: Arc<Meta>,
    length: u64,
    sha256: Sha256,
}

/// What is being sent, and how it is fetched again.
pub(super) enum Lost {
    /// An object of a binary cache.
    Object(Routed),
    /// A response of a generic site, as it was asked for.
    Page(Box<Sought>),
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
    /// That of `stored`, which is sent.
    pub(super) fn of(engine: &Arc<Engine>, lost: Lost, stored: &Stored) -> Box<Self> {
        Box::new(Self {
            engine: Arc::clone(engine),
            lost,
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
            let (key, result) = (&self.meta.key, self.find(offset).await);
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
        if let Some(source) = self.stored(offset).await? {
            return Ok(source);
        }
        let routed = match &self.lost {
            Lost::Object(routed) => routed,
            Lost::Page(sought) => return self.find_page(sought, offset, mark).await,
        };
        let wanted = self.engine.wanted(routed, Asker::default());
        let (_, flight) = match self.join(&wanted, Some(mark)) {
            Err(NotJoined::Ended) => match self.stored(offset).await? {
                Some(source) => return Ok(source),
                None => self.join(&wanted, None),
            },
            joined => joined,
        }
        .map_err(not_joined)?;
        let landed = flight.landed().await;
        let passing = flight.take_passing(wanted.asker);
        if passing.is_none() && matches!(landed, Landed::Passing) {
            drop(flight);
            let own = self.engine.fills.pass(&wanted).await;
            return self.passing(own.take_passing(wanted.asker), offset);
        }
        self.landed((&flight, landed), passing, offset)
    }

    /// As for an object of a binary cache; but of an answer that may not be shared, only that to a
    /// request of one's own.
    async fn find_page(
        &self,
        sought: &Sought,
        offset: u64,
        mark: Mark,
    ) -> Result<Source, NotRescued> {
        let (fills, now) = (&self.engine.fills, self.engine.clock.now());
        let (role, flight) = if sought.wishes.forbids_storing() {
            let alone = fills.seek_alone(sought.clone(), None, now);
            (Role::Lead, alone.map_err(not_joined)?)
        } else {
            match fills.seek_since(sought.clone(), None, now, Some(mark)) {
                Err(NotJoined::Ended) => match self.stored(offset).await? {
                    Some(source) => return Ok(source),
                    None => fills.seek(sought.clone(), None, now),
                },
                joined => joined,
            }
            .map_err(not_joined)?
        };
        let (flight, landed) = match (role, flight.landed().await) {
            (Role::Follow, Landed::Passing) => {
                drop(flight);
                let alone = fills.seek_alone(sought.clone(), None, now).map_err(not_joined)?;
                let landed = alone.landed().await;
                (alone, landed)
            }
            (Role::Lead | Role::Follow, landed) => (flight, landed),
        };
        let passing = flight.take_passing(sought.asker);
        self.landed((&flight, landed), passing, offset)
    }

    /// What a flight brought, or the body that passes in its place, where it is the same object.
    fn landed(
        &self,
        (flight, landed): (&FlightReader, Landed),
        passing: Option<Passing>,
        offset: u64,
    ) -> Result<Source, NotRescued> {
        match landed {
            Landed::Streaming { meta, growing, must_be } => {
                self.expect_same(&meta, growing.length(), must_be)?;
                Ok(Source::Growing(flight.follow(growing, offset), offset))
            }
            Landed::Whole { found, .. } => self.source(&found, offset),
            Landed::Passing => self.passing(passing, offset),
            Landed::Absent(_) | Landed::Head { .. } => self.passing(None, offset),
            Landed::Failed(error) => Err(NotRescued::Failed(error.to_string())),
        }
    }

    fn join(
        &self,
        wanted: &Wanted,
        looked: Option<Mark>,
    ) -> Result<(Role, FlightReader), NotJoined> {
        self.engine.fills.join(wanted.clone(), None, looked)
    }

    /// What is stored by now: another reader may have met the damage before.
    async fn stored(&self, offset: u64) -> Result<Option<Source>, NotRescued> {
        match self.engine.cache.lookup(&self.meta.key).await {
            Some(Hit::Memory(found) | Hit::Disk(found)) => self.source(&found, offset).map(Some),
            Some(Hit::Absent(_)) | None => Ok(None),
        }
    }

    fn source(&self, found: &CachedObject, offset: u64) -> Result<Source, NotRescued> {
        let bytes = match found {
            CachedObject::Hot(hot) => hot.body(),
            CachedObject::Stored(stored) => match &stored.body {
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

    fn passing(&self, passing: Option<Passing>, offset: u64) -> Result<Source, NotRescued> {
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
        let is_same = if let Some(sha256) = must_be {
            sha256 == self.sha256
        } else {
            // If its length is not told, the body of the answer sees that it comes out.
            let may_be_so_long = length.is_none_or(|length| length == self.length);
            may_be_so_long && meta.status == self.meta.status && has_same_tag(&self.meta, meta)
        };
        if is_same { Ok(()) } else { Err(NotRescued::Changed) }
    }
}

fn not_joined(error: NotJoined) -> NotRescued {
    NotRescued::Failed(error.to_string())
}

fn has_same_tag(one: &Meta, other: &Meta) -> bool {
    let (one, other) = (Validators::of(&one.headers).etag, Validators::of(&other.headers).etag);
    matches!((one, other), (Some(one), Some(other)) if one.matches_strongly(&other))
}
