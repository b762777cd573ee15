//! A large body that comes in pieces, joined in order. Owned by one fill; no locks but those of
//! [`Lots`].
//!
//! # How it comes
//!
//! It begins as an ordinary answer to an ordinary request: the *front*, whose bytes go to the
//! readers as they come. Where its head tells its length and that its origin knows ranges, there is
//! a strong entity tag or a FileHash, and the rest would take too long at the front's pace,
//! further connections fetch the pieces behind it, each a task that writes ahead into the
//! object's file ([`piece`]). When the front has come to a piece, what is in the file is read back,
//! compared and hashed in its turn, and that piece's answer is the front from there on. Where the
//! front is all that is missing, the latter half of it becomes a piece.
//!
//! # What holds
//!
//! - Bytes are appended, hashed and shown in their order alone: whatever comes ahead changes
//!   nothing about the end, which nobody sees before the whole is proven.
//! - A front that would go on by itself is ended at a piece only once that piece's answer has said
//!   that it is of the same object: an origin that knows no ranges after all, has another object by
//!   now, or is too busy, costs a request, and the object comes over one connection as ever.
//! - A piece that breaks off is continued as every body is (`steady`), but after two requests that
//!   brought little it is left: it is asked for in its turn, from any origin that has it, and no
//!   further piece is begun. So an origin that breaks off again and again is not asked more often
//!   because there are pieces.
//! - Memory: a batch of each piece that is under way. The disk: what was promised to the object
//!   from the start. Origins and clients: see [`lots`].
//! - A purge, a disk that fails, the end of the process: the fill's, as without pieces. They live
//!   and go with it.

mod lots;
mod piece;

pub use crate::origin::Asker;
pub(super) use lots::Lots;

use super::FillError;
use super::steady::{Seed, Steady};
use crate::config;
use crate::origin::Response;
use crate::store::{CHUNK_BYTES, ObjectWriter, OutOfOrder};
use crate::tasks::Tasks;
use bytes::Bytes;
use http::header;
use lots::{Lot, Seat};
use piece::{HandedOver, Order, Piece, Rest, Stage};
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
pub(super) struct Pieces {
    front: Steady,
    plan: Option<Plan>,
}

/// How it comes in pieces.
#[derive(Debug)]
struct Plan {
    total: u64,
    seed: Seed,
    position: usize,
    terms: Terms,
    lots: Arc<Lots>,
    asker: Asker,
    tasks: Tasks,
    begun: Instant,
    next_look: Instant,
    wake: Arc<Notify>,
    way: Way,
    /// In their order, without gaps between them.
    queue: VecDeque<Piece>,
}

#[derive(Debug, Clone, Copy)]
struct Terms {
    size: u64,
    per_fill_max: usize,
    after: Duration,
}

/// What becomes of further pieces.
#[derive(Debug)]
enum Way {
    /// The front may be fast enough.
    Undecided,
    /// They are begun, the next at this offset.
    Apart(OutOfOrder, Arc<Seat>, u64),
    /// None is begun any more.
    Alone,
}

/// What a fill knows that begins to read a body.
#[derive(Debug)]
pub(super) struct Begin<'a> {
    pub(super) lots: &'a Arc<Lots>,
    pub(super) asker: Asker,
    pub(super) tasks: &'a Tasks,
}

/// Whether an answer's origin says that it knows ranges of it, and where from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ranges {
    /// From the origin at this position.
    At(usize),
    /// It does not say so.
    Unknown,
}

impl Ranges {
    /// What `response` says, of an origin that is asked at `url`.
    pub(super) fn of(response: &Response, url: Option<&config::OriginUrl>) -> Self {
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

impl Pieces {
    /// A body that has just begun to come.
    pub(super) fn new(front: Steady, ranges: Ranges, begin: &Begin<'_>) -> Self {
        let plan = Plan::of(&front, ranges, begin);
        Self { front, plan }
    }

    /// The next bytes, to be appended to `writer`, which takes in those that came ahead itself;
    /// `None` at the end. Not cancel safe.
    pub(super) async fn chunk(
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

impl Plan {
    fn of(front: &Steady, ranges: Ranges, begin: &Begin<'_>) -> Option<Self> {
        let Ranges::At(position) = ranges else { return None };
        let config::PieceSettings { size, per_fill_max, after, .. } = *begin.lots.terms();
        let terms = Terms { size: size / CHUNK_BYTES * CHUNK_BYTES, per_fill_max, after };
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
            lots: Arc::clone(begin.lots),
            asker: begin.asker,
            tasks: begin.tasks.clone(),
            begun: now,
            next_look: now + LOOK,
            wake: Arc::default(),
            way: Way::Undecided,
            queue: VecDeque::new(),
        })
    }

    /// Ends when there may be something to decide. Cancel safe.
    async fn stirred(&self) {
        match self.way {
            Way::Undecided => tokio::time::sleep_until(self.next_look).await,
            Way::Apart(..) | Way::Alone => self.wake.notified().await,
        }
    }

    /// Sees to the pieces: begins what there is room for, and ends the front where one goes on.
    async fn look(
        &mut self,
        front: &mut Steady,
        writer: &mut ObjectWriter,
    ) -> Result<(), FillError> {
        if writer.is_memory_only() && !matches!(self.way, Way::Alone) {
            // What comes ahead would be written to a disk that is not used any more.
            self.queue.clear();
            self.way = Way::Alone;
            front.end_at(None);
        }
        if matches!(self.way, Way::Undecided) && self.is_slow(front.received()) {
            self.way = match writer.out_of_order().await? {
                Some(ahead) => {
                    let next = front.received().saturating_add(self.terms.size);
                    Way::Apart(ahead, self.seat(), next.next_multiple_of(CHUNK_BYTES))
                }
                None => Way::Alone,
            };
        }
        self.begin_more(front);
        while let Some(piece) = self.queue.front() {
            let start = piece.span().start;
            if front.end() == Some(start) {
                break;
            }
            let is_coming = matches!(piece.stage(), Stage::Coming | Stage::Here);
            if front.received() <= start {
                if is_coming {
                    front.end_at(Some(start));
                }
                break;
            }
            // It has come too late: a front as fast as that needs no relief.
            self.queue.pop_front();
            if let Way::Apart(_, _, next) = self.way
                && next >= self.total
            {
                self.way = Way::Alone;
            }
        }
        Ok(())
    }

    fn seat(&self) -> Arc<Seat> {
        let source = self.seed.source();
        let origin = source.upstream.site.origins.get(self.position);
        let connections = origin.map_or(0, |origin| origin.connections_max);
        let place = (source.key.site().into(), self.position);
        self.lots.seat(self.asker, place, connections)
    }

    /// Whether the rest would take too long at the pace so far.
    fn is_slow(&mut self, received: u64) -> bool {
        if self.total.saturating_sub(received) <= self.terms.size.saturating_mul(2) {
            self.way = Way::Alone;
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
    fn begin_more(&mut self, front: &Steady) {
        let Way::Apart(_, seat, _) = &self.way else { return };
        if self.queue.iter().any(Piece::has_failed) {
            self.way = Way::Alone;
            return;
        }
        let seat = Arc::clone(seat);
        let is_under_way = |piece: &&Piece| piece.stage() != Stage::Here;
        let mut under_way = self.queue.iter().filter(is_under_way).count();
        while under_way < self.terms.per_fill_max
            && let Some((span, place)) = self.next_span(front, under_way)
            && let Some(lot) = seat.lot()
        {
            self.begin(span, place, lot);
            under_way += 1;
        }
    }

    /// What is fetched next, and its place in the queue: what nobody fetches yet; else, where only
    /// the front is not here, the latter half of what is left of it, so that no slow connection
    /// keeps all the others waiting.
    fn next_span(&self, front: &Steady, under_way: usize) -> Option<(Range<u64>, usize)> {
        let Way::Apart(_, _, next) = self.way else { return None };
        let Terms { size, .. } = self.terms;
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

    fn begin(&mut self, span: Range<u64>, place: usize, lot: Lot) {
        let Way::Apart(ahead, _, next) = &mut self.way else { return };
        *next = (*next).max(span.end);
        let order = Order {
            span,
            seed: self.seed.clone(),
            position: self.position,
            ahead: ahead.clone(),
            lot,
            wake: Arc::clone(&self.wake),
        };
        self.queue.insert(place, Piece::begin(order, &self.tasks));
    }

    /// The front has come to its end, where the next piece begins, if there is one.
    async fn cross(
        &mut self,
        front: &mut Steady,
        writer: &mut ObjectWriter,
    ) -> Result<(), FillError> {
        let Some(piece) = self.queue.pop_front() else {
            // Where no piece could be begun, the rest is asked for as it is where one breaks off.
            self.way = Way::Alone;
            front.end_at(None);
            return Ok(());
        };
        let end = piece.span().end;
        let HandedOver { written, rest } = piece.hand_over().await;
        let came_to = front.received();
        if let Some(written) = written {
            let due = written.span().end;
            writer.take_in(written).await?;
            if writer.received() < due {
                // The disk has failed, or has not kept it: nothing ahead is to be had of it.
                self.queue.clear();
                self.way = Way::Alone;
                front.go_on_at(writer.received(), None);
                return Ok(());
            }
        }
        match rest {
            Rest::Stream(stream) => {
                *front = *stream;
                front.comes_to_front();
            }
            Rest::Nothing => front.go_on_at(writer.received(), Some(end)),
            Rest::Failed => {
                self.way = Way::Alone;
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
