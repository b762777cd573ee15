//! A body that is judged at its end, and withheld so far that no reader gets a complete wrong one:
//! if it can be proven, its last 16 KiB until it is, as with one that is kept; else its end alone.
//! Owned by one response, or by the fill that relays it; no locks.

use super::contents_check::PassingCheck;
use super::error::FillError;
use super::fetched_body::FetchedBody;
use super::proof::{Basis, ExpectedBody};
use super::resources::Resources;
use super::resumable_body::{BodySeed, ResumableBody};
use crate::cache::FenceEpoch;
use crate::object::{Meta, Sha256};
use crate::store::WITHHELD_BYTES;
use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::sync::Arc;

/// A body that is judged at its end.
pub(super) struct CheckedBody {
    pub(super) meta: Arc<Meta>,
    body: ResumableBody,
    expected: ExpectedBody,
    resources: Arc<Resources>,
    basis: Basis,
    contents: Option<PassingCheck>,
    /// SHA-256 of all bytes that were given so far.
    given: digest::Context,
    received: u64,
    /// The last bytes that have come.
    withheld: BytesMut,
    /// How many of them there are before the body is proven.
    withheld_max: usize,
    ready: VecDeque<Bytes>,
    is_over: bool,
    has_failed: bool,
}

/// What another fetch of such a body begins with, for a reader that leaves a shared fetch.
pub(super) struct CheckedBodySeed {
    seed: BodySeed,
    meta: Arc<Meta>,
    expected: ExpectedBody,
    resources: Arc<Resources>,
    basis: Basis,
}

impl CheckedBodySeed {
    /// The head.
    pub(super) fn meta(&self) -> &Arc<Meta> {
        &self.meta
    }

    /// What the fill uses.
    pub(super) fn resources(&self) -> &Arc<Resources> {
        &self.resources
    }

    /// The length that the body declared when it began.
    pub(super) fn length(&self) -> Option<u64> {
        self.seed.total()
    }

    /// The one SHA-256 that the body must turn out to have, if that is known.
    pub(super) fn must_be(&self) -> Option<Sha256> {
        self.expected.must_be()
    }

    /// What is behind the first `received` bytes, which are hashed in `given`, as soon as an origin
    /// sends it.
    pub(super) async fn rest(
        &self,
        received: u64,
        given: digest::Context,
    ) -> Result<Box<CheckedBody>, FillError> {
        let avoid = self.resources.avoided(&self.meta.key);
        let mut body = self.seed.clone().rest(received, &avoid);
        body.begin().await?;
        let (meta, resources) = (Arc::clone(&self.meta), Arc::clone(&self.resources));
        let checked =
            CheckedBody::from_basis(meta, body, self.expected, resources, self.basis.clone());
        Ok(Box::new(CheckedBody { given, received, ..*checked }))
    }
}

impl CheckedBody {
    /// The body of an answer with this head, of a fill with this ticket.
    pub(super) fn new(
        meta: Arc<Meta>,
        body: ResumableBody,
        expected: ExpectedBody,
        resources: Arc<Resources>,
        ticket: FenceEpoch,
    ) -> Box<Self> {
        let basis = resources.rejected_bodies.basis(ticket, &meta.key, &resources.cache);
        Self::from_basis(meta, body, expected, resources, basis)
    }

    fn from_basis(
        meta: Arc<Meta>,
        body: ResumableBody,
        expected: ExpectedBody,
        resources: Arc<Resources>,
        basis: Basis,
    ) -> Box<Self> {
        let withheld_max = if expected.has_hash() {
            usize::try_from(WITHHELD_BYTES).unwrap_or(usize::MAX)
        } else {
            0
        };
        Box::new(Self {
            meta,
            body,
            expected,
            resources,
            basis,
            contents: expected.needs_contents().map(PassingCheck::new),
            given: digest::Context::new(&digest::SHA256),
            received: 0,
            withheld: BytesMut::new(),
            withheld_max,
            ready: VecDeque::new(),
            is_over: false,
            has_failed: false,
        })
    }

    /// Whether an entity tag or a hash tells what may continue it.
    pub(super) fn is_identified(&self) -> bool {
        self.body.is_identified()
    }

    /// As [`ResumableBody::doubtful_from`].
    pub(super) fn doubtful_from(&self) -> Option<u64> {
        self.body.doubtful_from()
    }

    /// What another fetch of it begins with.
    pub(super) fn seed(&self) -> CheckedBodySeed {
        CheckedBodySeed {
            seed: self.body.seed(),
            meta: Arc::clone(&self.meta),
            expected: self.expected,
            resources: Arc::clone(&self.resources),
            basis: self.basis.clone(),
        }
    }

    /// The declared length.
    pub(super) fn length(&self) -> Option<u64> {
        self.body.total()
    }

    /// The one SHA-256 that it must turn out to have, if that is known.
    pub(super) fn must_be(&self) -> Option<Sha256> {
        self.expected.must_be()
    }

    /// SHA-256 of all bytes that [`CheckedBody::chunk`] has given so far.
    pub(super) fn given(&self) -> &digest::Context {
        &self.given
    }

    /// As `PassThroughBody::chunk`.
    pub(super) async fn chunk(&mut self, max: usize) -> Result<Option<Bytes>, FillError> {
        if self.has_failed {
            return Err(FillError::NoResult);
        }
        loop {
            if let Some(mut ready) = self.ready.pop_front() {
                let piece = ready.split_to(max.min(ready.len()));
                if !ready.is_empty() {
                    self.ready.push_front(ready);
                }
                self.given.update(&piece);
                return Ok(Some(piece));
            }
            if self.is_over {
                return Ok(None);
            }
            match self.body.chunk().await {
                Ok(Some(piece)) => {
                    self.received += piece.len() as u64;
                    if let Some(contents) = &mut self.contents
                        && let Err(error) =
                            contents.push(&self.resources.decoders, piece.clone()).await
                    {
                        return Err(self.fail(error));
                    }
                    self.take(piece);
                }
                Ok(None) => {
                    self.is_over = true;
                    self.check()?;
                    self.make_ready(usize::MAX);
                }
                Err(error) => return Err(self.fail(error)),
            }
        }
    }

    /// Takes the next bytes, and makes ready what need not be withheld for them any more.
    fn take(&mut self, mut piece: Bytes) {
        let bytes = self.withheld.len() + piece.len();
        let surplus = bytes.saturating_sub(self.withheld_max);
        let from_piece = surplus.saturating_sub(self.withheld.len());
        self.make_ready(surplus);
        if from_piece > 0 {
            self.ready.push_back(piece.split_to(from_piece));
        }
        self.withheld.extend_from_slice(&piece);
    }

    /// Makes ready up to `max` of the bytes that are withheld.
    fn make_ready(&mut self, max: usize) {
        let bytes = max.min(self.withheld.len());
        if bytes > 0 {
            self.ready.push_back(self.withheld.split_to(bytes).freeze());
        }
    }

    /// Judges the whole, of which all is given but what is withheld.
    fn check(&mut self) -> Result<(), FillError> {
        let mut whole = self.given.clone();
        whole.update(&self.withheld);
        let actual = Sha256::finish(whole);
        let contents = match self.contents.take().map(PassingCheck::finish).transpose() {
            Ok(contents) => contents,
            Err(error) => return Err(self.fail(error)),
        };
        let contents = contents.map(|it| it.of_parts(self.body.doubtful_from()));
        if let Err(rejection) = self.expected.check(actual, self.received, contents) {
            let origin = Arc::clone(&self.meta.origin);
            return Err(self.fail(FillError::Rejected { origin, rejection }));
        }
        let FetchedBody { request, body_origins, .. } = self.body.source();
        self.resources.rejected_bodies.right(&request.key, &body_origins.positions());
        Ok(())
    }

    /// Gives up: what is withheld is never sent.
    fn fail(&mut self, error: FillError) -> FillError {
        (self.is_over, self.has_failed) = (true, true);
        self.ready.clear();
        self.withheld.clear();
        if let Some((origin, rejection)) = error.rejected() {
            let FetchedBody { metrics, request, body_origins, .. } = self.body.source();
            let key = &request.key;
            body_origins.reject(metrics, key, origin, rejection);
            let count = u32::from(rejection.is_lasting());
            self.resources.note_rejected(key, self.basis.clone(), body_origins.positions(), count);
        }
        error
    }
}
