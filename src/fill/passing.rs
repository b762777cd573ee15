//! A body that goes straight from an origin to its readers, since it cannot be kept: the response
//! forbids it, or there is no disk that takes it. In the first case it has one reader; in the
//! second, readers share it (see `relay`). Owned by one response, or by the fill that relays it; no
//! locks.
//!
//! If the body can be proven, its last 16 KiB are withheld until it is, as with one that is kept;
//! else its end alone. So a client never receives a complete wrong body.

use super::relay::RelayReader;
use super::steady::{Seed, Source, Steady};
use super::verify::Expected;
use super::wrong::Basis;
use super::{Advice, FillError, Shared};
use crate::cache::FenceEpoch;
use crate::object::{Meta, Sha256};
use crate::origin::ResponseBody;
use crate::store::WITHHELD_BYTES;
use aws_lc_rs::digest;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use std::collections::VecDeque;
use std::sync::Arc;

/// A body that goes straight to a client.
pub struct Passing {
    /// The head.
    pub meta: Arc<Meta>,
    /// Its `Trailer` field: which fields may come behind the body.
    trailer: Option<HeaderValue>,
    way: Way,
}

/// How it is read.
enum Way {
    /// Checked, and gone on with where it breaks off.
    Checked(Box<Checked>),
    /// Checked for several readers, of which this is one.
    Relayed(Box<RelayReader>),
    /// As it comes, of so many bytes where that is known.
    Plain(Box<ResponseBody>, Option<u64>, Bytes),
    /// As it comes, and gone on with where it breaks off.
    Lasting(Box<Steady>, Bytes),
}

/// A body that is judged at its end.
pub(super) struct Checked {
    pub(super) meta: Arc<Meta>,
    body: Steady,
    expected: Expected,
    shared: Arc<Shared>,
    basis: Basis,
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

/// What a reader of such a body goes on with apart from the others.
pub(super) struct Original {
    seed: Seed,
    meta: Arc<Meta>,
    expected: Expected,
    shared: Arc<Shared>,
    basis: Basis,
}

impl Original {
    /// What is behind the first `received` bytes, which are hashed in `given`, as soon as an origin
    /// sends it.
    pub(super) async fn rest(
        &self,
        (received, given): (u64, digest::Context),
    ) -> Result<Box<Checked>, FillError> {
        let avoid = match self.shared.wrong.advice(&self.meta.key, &self.shared.cache) {
            Advice::Ask { avoid } => avoid,
            Advice::Refuse { .. } => Vec::new(),
        };
        let mut body = self.seed.clone().rest(received, &avoid);
        body.begin().await?;
        let (meta, shared) = (Arc::clone(&self.meta), Arc::clone(&self.shared));
        let checked = Checked::from_basis((meta, body, self.expected), shared, self.basis.clone());
        Ok(Box::new(Checked { given, received, ..*checked }))
    }
}

impl std::fmt::Debug for Passing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passing").field("meta", &self.meta).finish_non_exhaustive()
    }
}

impl Passing {
    /// A body that is judged at its end, for one reader.
    pub(super) fn checked(checked: Box<Checked>) -> Self {
        Self { meta: Arc::clone(&checked.meta), trailer: None, way: Way::Checked(checked) }
    }

    /// A body that is judged at its end, for one of several readers.
    pub(super) fn relayed(meta: Arc<Meta>, reader: Box<RelayReader>) -> Self {
        Self { meta, trailer: None, way: Way::Relayed(reader) }
    }

    /// Whether other readers may share it.
    pub fn is_shared(&self) -> bool {
        matches!(self.way, Way::Relayed(_))
    }

    /// An answer of any status, as it comes; nothing is known of its body but what its framing
    /// says.
    pub(super) fn plain(
        meta: Arc<Meta>,
        body: ResponseBody,
        length: Option<u64>,
        trailer: Option<HeaderValue>,
    ) -> Self {
        Self { meta, trailer, way: Way::Plain(Box::new(body), length, Bytes::new()) }
    }

    /// An answer that is gone on with where it breaks off, for its tag tells whether what goes on
    /// is the same.
    pub(super) fn lasting(meta: Arc<Meta>, body: Steady) -> Self {
        Self { meta, trailer: None, way: Way::Lasting(Box::new(body), Bytes::new()) }
    }

    /// The names of the fields that may come behind the body.
    pub fn trailer_names(&self) -> Option<&HeaderValue> {
        self.trailer.as_ref()
    }

    /// The declared length.
    pub fn length(&self) -> Option<u64> {
        match &self.way {
            Way::Checked(checked) => checked.length(),
            Way::Relayed(reader) => reader.length(),
            Way::Plain(_, length, _) => *length,
            Way::Lasting(body, _) => body.total(),
        }
    }

    /// The one SHA-256 that it must turn out to have, where that is known.
    pub fn must_be(&self) -> Option<Sha256> {
        match &self.way {
            Way::Checked(checked) => checked.must_be(),
            Way::Relayed(reader) => reader.must_be(),
            Way::Plain(..) | Way::Lasting(..) => None,
        }
    }

    /// The trailer fields behind the last piece.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        match &mut self.way {
            Way::Checked(_) | Way::Relayed(_) | Way::Lasting(..) => None,
            Way::Plain(body, ..) => body.take_trailers(),
        }
    }

    /// The next piece, of at most `max` bytes; `None` at the end, with the whole checked. After
    /// an error the body is over and must not be ended cleanly. Not cancel safe.
    pub async fn chunk(&mut self, max: usize) -> Result<Option<Bytes>, FillError> {
        match &mut self.way {
            Way::Checked(checked) => checked.chunk(max).await,
            Way::Relayed(reader) => reader.chunk(max).await,
            Way::Plain(body, _, ready) => {
                if ready.is_empty() {
                    let Some(piece) = body.chunk().await? else { return Ok(None) };
                    *ready = piece;
                }
                Ok(Some(ready.split_to(max.min(ready.len()))))
            }
            Way::Lasting(body, ready) => {
                if ready.is_empty() {
                    let Some(piece) = Box::pin(body.chunk()).await? else { return Ok(None) };
                    *ready = piece;
                }
                Ok(Some(ready.split_to(max.min(ready.len()))))
            }
        }
    }
}

impl Checked {
    /// The body of an answer with this head, of a fill with this ticket.
    pub(super) fn new(
        meta: Arc<Meta>,
        body: Steady,
        expected: Expected,
        shared: Arc<Shared>,
        ticket: FenceEpoch,
    ) -> Box<Self> {
        let basis = shared.wrong.basis(ticket, &meta.key, &shared.cache);
        Self::from_basis((meta, body, expected), shared, basis)
    }

    fn from_basis(
        (meta, body, expected): (Arc<Meta>, Steady, Expected),
        shared: Arc<Shared>,
        basis: Basis,
    ) -> Box<Self> {
        let withheld_max = match expected.file_hash {
            Some(_) => usize::try_from(WITHHELD_BYTES).unwrap_or(usize::MAX),
            None => 0,
        };
        Box::new(Self {
            meta,
            body,
            expected,
            shared,
            basis,
            given: digest::Context::new(&digest::SHA256),
            received: 0,
            withheld: BytesMut::new(),
            withheld_max,
            ready: VecDeque::new(),
            is_over: false,
            has_failed: false,
        })
    }

    /// Whether something tells what goes on with it.
    pub(super) fn is_identified(&self) -> bool {
        self.body.is_identified()
    }

    /// The fills that it is one of.
    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What a reader goes on with apart from the others.
    pub(super) fn original(&self) -> Original {
        Original {
            seed: self.body.seed(),
            meta: Arc::clone(&self.meta),
            expected: self.expected,
            shared: Arc::clone(&self.shared),
            basis: self.basis.clone(),
        }
    }

    /// The declared length.
    pub(super) fn length(&self) -> Option<u64> {
        self.body.total()
    }

    /// The one SHA-256 that it must turn out to have, where that is known.
    pub(super) fn must_be(&self) -> Option<Sha256> {
        self.expected.must_be()
    }

    /// SHA-256 of all bytes that [`Checked::chunk`] has given so far.
    pub(super) fn given(&self) -> &digest::Context {
        &self.given
    }

    /// As [`Passing::chunk`].
    pub(super) async fn chunk(&mut self, max: usize) -> Result<Option<Bytes>, FillError> {
        if self.has_failed {
            return Err(FillError::Lost);
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
        if let Err(rejection) = self.expected.check(actual, self.received) {
            let origin = Arc::clone(&self.meta.origin);
            return Err(self.fail(FillError::Rejected { origin, rejection }));
        }
        let Source { key, trail, .. } = self.body.source();
        self.shared.wrong.right(key, &trail.positions());
        Ok(())
    }

    /// Gives up: what is withheld is never sent.
    fn fail(&mut self, error: FillError) -> FillError {
        (self.is_over, self.has_failed) = (true, true);
        self.ready.clear();
        self.withheld.clear();
        if let Some((origin, rejection)) = error.rejected() {
            let Source { metrics, key, trail, .. } = self.body.source();
            trail.reject(metrics, key, origin, rejection);
            let count = u32::from(rejection.is_lasting());
            self.shared.note_wrong(key, self.basis.clone(), trail.positions(), count);
        }
        error
    }
}
