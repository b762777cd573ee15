//! A body that comes in pieces: its first connection, the front, feeds the readers, while pieces
//! are fetched ahead of it. See the module above. Owned by one fill; no locks.

use super::limits::{ClientShare, ParallelLimits, PiecePermit};
use super::piece::{BodyPiece, PieceHandover, PieceOrder, PieceRest, PieceStage};
use crate::config;
use crate::fill::error::FillError;
use crate::fill::resumable_body::{BodySeed, ResumableBody};
use crate::origin::{Asker, Response};
use crate::store::{CHUNK_BYTES, ObjectWriter, OutOfOrder};
use crate::tasks::Tasks;
use bytes::Bytes;
use http::header;
use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long a front is watched before its pace is judged, and between two judgements.
const LOOK: Duration = Duration::from_millis(250);

/// A body that may come in pieces.
#[derive(Debug)]
pub(in crate::fill) struct ParallelBody {
    front: ResumableBody,
    plan: Option<ParallelPlan>,
}

/// How it comes in pieces.
#[derive(Debug)]
struct ParallelPlan {
    total: u64,
    seed: BodySeed,
    position: usize,
    terms: PieceTerms,
    limits: Arc<ParallelLimits>,
    asker: Asker,
    tasks: Tasks,
    begun: Instant,
    next_look: Instant,
    wake: Arc<Notify>,
    way: ParallelState,
    /// In their order, without gaps between them.
    queue: VecDeque<BodyPiece>,
}

#[derive(Debug, Clone, Copy)]
struct PieceTerms {
    size: u64,
    per_fill_max: usize,
    after: Duration,
}

/// What becomes of further pieces.
#[derive(Debug)]
enum ParallelState {
    /// The front may be fast enough.
    Undecided,
    /// They are begun, the next at this offset.
    Apart(OutOfOrder, Arc<ClientShare>, u64),
    /// None is begun any more.
    Alone,
}

/// What a fill knows that begins to read a body.
#[derive(Debug)]
pub(in crate::fill) struct ParallelStart<'a> {
    pub(in crate::fill) limits: &'a Arc<ParallelLimits>,
    pub(in crate::fill) asker: Asker,
    pub(in crate::fill) tasks: &'a Tasks,
}

/// Whether an answer's origin says that it knows ranges of it, and where from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fill) enum RangeSupport {
    /// From the origin at this position.
    At(usize),
    /// It does not say so.
    Unknown,
}

impl RangeSupport {
    /// What `response` says, of an origin that is asked at `url`.
    pub(in crate::fill) fn of(response: &Response, url: Option<&config::OriginUrl>) -> Self {
        let says_so = || {
            let fields = response.headers.get_all(header::ACCEPT_RANGES);
            fields.iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"bytes"))
        };
        let knows = match url {
            Some(config::OriginUrl::S3(_)) => true,
            Some(config::OriginUrl::Http(_)) => says_so(),
            Some(config::OriginUrl::File(_)) | None => false,
        };
        if knows { Self::At(response.origin) } else { Self::Unknown }
    }
}

impl ParallelBody {
    /// A body that has just begun to come.
    pub(in crate::fill) fn new(
        front: ResumableBody,
        ranges: RangeSupport,
        begin: &ParallelStart<'_>,
    ) -> Self {
        let plan = ParallelPlan::of(&front, ranges, begin);
        Self { front, plan }
    }

    /// As [`ResumableBody::doubtful_from`].
    pub(in crate::fill) fn doubtful_from(&self) -> Option<u64> {
        self.front.doubtful_from()
    }

    /// The declared length.
    pub(in crate::fill) fn total(&self) -> Option<u64> {
        self.front.total()
    }

    /// The next bytes, to be appended to `writer`, which takes in those that came ahead itself;
    /// `None` at the end. Not cancel safe.
    pub(in crate::fill) async fn chunk(
        &mut self,
        writer: &mut ObjectWriter,
    ) -> Result<Option<Bytes>, FillError> {
        loop {
            let Some(plan) = &mut self.plan else { return self.front.chunk().await };
            plan.look(&mut self.front, writer).await?;
            tokio::select! {
                biased;
                () = self.front.wait() => {}
                () = plan.stirred() => continue,
            }
            if let Some(bytes) = self.front.chunk().await? {
                return Ok(Some(bytes));
            }
            if self.front.received() >= plan.total {
                return Ok(None);
            }
            Box::pin(plan.cross(&mut self.front, writer)).await?;
        }
    }
}

impl ParallelPlan {
    fn of(front: &ResumableBody, ranges: RangeSupport, begin: &ParallelStart<'_>) -> Option<Self> {
        let RangeSupport::At(position) = ranges else { return None };
        let config::PieceSettings { size, per_fill_max, after, .. } = *begin.limits.terms();
        let terms = PieceTerms { size: size / CHUNK_BYTES * CHUNK_BYTES, per_fill_max, after };
        let (total, seed) = (front.total()?, front.seed());
        let is_worth_it = per_fill_max > 0 && total > terms.size.saturating_mul(2);
        if !is_worth_it || !seed.ties_pieces() {
            return None;
        }
        let now = Instant::now();
        Some(Self {
            total,
            position,
            terms,
            seed,
            limits: Arc::clone(begin.limits),
            asker: begin.asker,
            tasks: begin.tasks.clone(),
            begun: now,
            next_look: now + LOOK,
            wake: Arc::default(),
            way: ParallelState::Undecided,
            queue: VecDeque::new(),
        })
    }

    /// Ends when there may be something to decide. Cancel safe.
    async fn stirred(&self) {
        match self.way {
            ParallelState::Undecided => tokio::time::sleep_until(self.next_look).await,
            ParallelState::Apart(..) | ParallelState::Alone => self.wake.notified().await,
        }
    }

    /// Sees to the pieces: begins what may be begun, and ends the front at the piece that continues
    /// it.
    async fn look(
        &mut self,
        front: &mut ResumableBody,
        writer: &mut ObjectWriter,
    ) -> Result<(), FillError> {
        if writer.is_memory_only() && !matches!(self.way, ParallelState::Alone) {
            // What comes ahead would be written to a disk that is not used any more.
            self.queue.clear();
            self.way = ParallelState::Alone;
            front.end_at(None);
        }
        if matches!(self.way, ParallelState::Undecided) && self.is_slow(front.received()) {
            self.way = match writer.out_of_order().await? {
                Some(ahead) => {
                    let next = front.received().saturating_add(self.terms.size);
                    ParallelState::Apart(ahead, self.share(), next.next_multiple_of(CHUNK_BYTES))
                }
                None => ParallelState::Alone,
            };
        }
        self.begin_more(front);
        while let Some(piece) = self.queue.front() {
            let start = piece.span().start;
            if front.end() == Some(start) {
                break;
            }
            let is_coming = matches!(piece.stage(), PieceStage::Coming | PieceStage::Here);
            if front.received() <= start {
                if is_coming {
                    front.end_at(Some(start));
                }
                break;
            }
            // It has come too late: a front as fast as that needs no relief.
            self.queue.pop_front();
            if let ParallelState::Apart(_, _, next) = self.way
                && next >= self.total
            {
                self.way = ParallelState::Alone;
            }
        }
        Ok(())
    }

    fn share(&self) -> Arc<ClientShare> {
        let source = self.seed.source();
        let origin = source.request.upstream.site.origins.get(self.position);
        let connections = origin.map_or(0, |origin| origin.connections_max);
        let place = (source.request.key.site().into(), self.position);
        self.limits.share(self.asker, place, connections)
    }

    /// Whether the rest would take too long at the pace so far.
    fn is_slow(&mut self, received: u64) -> bool {
        if self.total.saturating_sub(received) <= self.terms.size.saturating_mul(2) {
            self.way = ParallelState::Alone;
            return false;
        }
        if self.terms.after.is_zero() {
            return true;
        }
        let now = Instant::now();
        if now < self.next_look {
            return false;
        }
        self.next_look = now + LOOK;
        let spent = now.duration_since(self.begun).as_millis();
        let rest = u128::from(self.total.saturating_sub(received));
        rest.saturating_mul(spent) / u128::from(received.max(1)) > self.terms.after.as_millis()
    }

    /// Begins what there is room for.
    fn begin_more(&mut self, front: &ResumableBody) {
        let ParallelState::Apart(_, share, _) = &self.way else { return };
        if self.queue.iter().any(BodyPiece::has_failed) {
            self.way = ParallelState::Alone;
            return;
        }
        let share = Arc::clone(share);
        let is_under_way = |piece: &&BodyPiece| piece.stage() != PieceStage::Here;
        let mut under_way = self.queue.iter().filter(is_under_way).count();
        while under_way < self.terms.per_fill_max
            && let Some((span, place)) = self.next_span(front, under_way)
            && let Some(permit) = share.permit()
        {
            self.begin(span, place, permit);
            under_way += 1;
        }
    }

    /// What is fetched next, and its place in the queue: the first bytes that are not fetched yet;
    /// or, if only the front is missing, the latter half of what is left of it, so that one slow
    /// connection does not keep all the others waiting.
    fn next_span(&self, front: &ResumableBody, under_way: usize) -> Option<(Range<u64>, usize)> {
        let ParallelState::Apart(_, _, next) = self.way else { return None };
        let PieceTerms { size, .. } = self.terms;
        if next < self.total {
            let end = next.saturating_add(size).min(self.total);
            let is_little_left = self.total - end < size / 4;
            let end = if is_little_left { self.total } else { end };
            return Some((next..end, self.queue.len()));
        }
        let end = self.queue.front().map_or(self.total, |piece| piece.span().start);
        let left = end.saturating_sub(front.received());
        if under_way > 0 || left < (size / 2).max(2 * CHUNK_BYTES) {
            return None;
        }
        let middle = front.received().saturating_add(left / 2).next_multiple_of(CHUNK_BYTES);
        Some((middle..end, 0))
    }

    fn begin(&mut self, span: Range<u64>, place: usize, permit: PiecePermit) {
        let ParallelState::Apart(ahead, _, next) = &mut self.way else { return };
        *next = (*next).max(span.end);
        let order = PieceOrder {
            span,
            seed: self.seed.clone(),
            position: self.position,
            ahead: ahead.clone(),
            permit,
            wake: Arc::clone(&self.wake),
        };
        self.queue.insert(place, BodyPiece::begin(order, &self.tasks));
    }

    /// The front is at its end: the next piece begins there, if there is one.
    async fn cross(
        &mut self,
        front: &mut ResumableBody,
        writer: &mut ObjectWriter,
    ) -> Result<(), FillError> {
        let Some(piece) = self.queue.pop_front() else {
            // No piece could be begun: the rest is asked for as after a piece that broke off.
            self.way = ParallelState::Alone;
            front.end_at(None);
            return Ok(());
        };
        let end = piece.span().end;
        let PieceHandover { written, rest } = piece.hand_over().await;
        let came_to = front.received();
        if !self.seed.is_tagged() {
            writer.doubt_from(came_to);
        }
        if let Some(written) = written {
            let due = written.span().end;
            writer.take_in(written).await?;
            if writer.received() < due {
                // The disk has failed, or has not kept it: nothing ahead is to be had of it.
                self.queue.clear();
                self.way = ParallelState::Alone;
                front.go_on_at(writer.received(), None);
                return Ok(());
            }
        }
        match rest {
            PieceRest::Stream(mut stream) => {
                stream.comes_behind(front);
                *front = *stream;
            }
            PieceRest::Nothing => front.go_on_at(writer.received(), Some(end)),
            PieceRest::Failed => {
                self.way = ParallelState::Alone;
                let end = self.queue.front().map(|piece| piece.span().start);
                if writer.received() == came_to {
                    front.end_at(end);
                } else {
                    front.go_on_at(writer.received(), end);
                }
            }
        }
        Ok(())
    }
}
