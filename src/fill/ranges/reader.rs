//! A reader of a stretch of an object that is here in part. Bytes that are here come from the file,
//! those that arrive come along with their run, and for others it begins a run. They come straight
//! from the origin if the object is not kept or the disk gives up. Owned by one answer; no locks
//! across an await.

use super::cursors::{Cursor, NEAR_BYTES};
use super::flight::PartFlight;
use super::object::{PartDelivery, PartObject};
use super::reader_run::{self, PlaceWait};
use crate::fill::error::FillError;
use crate::fill::resumable_body::ResumableBody;
use crate::object::Meta;
use crate::store::{At, CHUNK_BYTES, Part, ReadError};
use bytes::{Buf, Bytes};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Failed runs that a reader survives in the middle of its answer.
const FAILURES_MAX: u32 = 3;

/// Turns without a byte and without a failure that a reader waits for.
const IDLE_MAX: u32 = 32;

/// How long the disk is asked again and again for a chunk that is here while neither it nor an
/// origin gives a byte.
const LATE_MAX: Duration = Duration::from_mins(1);

/// The first pause before both are asked again; each is as long as those before it together.
const AGAIN_MIN: Duration = Duration::from_millis(100);

/// The longest of these pauses.
const AGAIN_MAX: Duration = Duration::from_secs(4);

/// How often the stretch that passes becomes twice as long while the disk gives nothing.
const DOUBLED_MAX: u32 = 24;

/// Bytes of the first piece.
const FIRST_BYTES: usize = 64 << 10;

/// How what a reader was asked for came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RangeProvenance {
    /// All of it was here.
    Here,
    /// It began to fetch what was not.
    Began,
    /// Another had begun.
    Joined,
    /// It passes through.
    Passed,
}

/// A reader of a stretch of an object that is here in part.
#[derive(Debug)]
pub struct PartReader {
    flight: Arc<PartFlight>,
    object: Arc<PartObject>,
    cursor: Cursor,
    passing: Option<PassThroughStretch>,
    primed: Option<GapStart>,
    ready: Bytes,
    next: u64,
    end: u64,
    provenance: RangeProvenance,
    failures_left: u32,
    idle: u32,
    /// Stretches that passed because the disk was late, since it gave a byte.
    late: u32,
    waiting: DiskWait,
}

/// What comes straight from an origin. It is continued if the disk does not give it.
#[derive(Debug)]
struct PassThroughStretch {
    body: Box<ResumableBody>,
    resuming: ResumeMode,
}

/// Whether a stretch that breaks off is continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResumeMode {
    /// It is.
    Yes,
    /// Only if the disk does not have the next byte.
    IfNotHere,
}

/// Since when neither disk nor origin has given a byte of a chunk that is here.
#[derive(Debug, Default)]
struct DiskWait(Option<Instant>);

impl DiskWait {
    /// The pause before both are asked again; none if that has lasted too long.
    fn pause(&mut self) -> Option<Duration> {
        let waited = self.0.get_or_insert_with(Instant::now).elapsed();
        (waited < LATE_MAX).then(|| waited.clamp(AGAIN_MIN, AGAIN_MAX))
    }
}

/// What the origin has begun to send of a gap while the disk takes nothing.
#[derive(Debug)]
struct GapStart {
    at: u64,
    bytes: Bytes,
    rest: PassThroughStretch,
}

impl PartReader {
    /// A reader of `asked` with its first bytes at hand. `brought` if an origin has told the head
    /// since it was asked for: then nothing of it was here before.
    pub(super) async fn open(
        flight: Arc<PartFlight>,
        object: Arc<PartObject>,
        cursor: Cursor,
        asked: Range<u64>,
        brought: Option<RangeProvenance>,
    ) -> Result<Self, Arc<FillError>> {
        let mut reader = Self {
            provenance: brought.unwrap_or(RangeProvenance::Joined),
            flight,
            object: Arc::clone(&object),
            cursor,
            passing: None,
            primed: None,
            ready: Bytes::new(),
            next: asked.start,
            end: asked.end,
            failures_left: 1,
            idle: 0,
            late: 0,
            waiting: DiskWait::default(),
        };
        reader.count("asked", asked.end - asked.start);
        match &object.kind {
            PartDelivery::Kept(part) if brought.is_none() => reader.count_held(part, &asked),
            PartDelivery::Kept(_) => {}
            PartDelivery::Passing { begun, .. } => {
                let begun = begun.lock().take();
                let begun = begun.filter(|begun| {
                    let end = begun.end().unwrap_or(u64::MAX);
                    (begun.received()..end).contains(&asked.start) && asked.end <= end
                });
                match begun {
                    Some(body) => {
                        let resuming = ResumeMode::Yes;
                        reader.pass_on(PassThroughStretch { body, resuming });
                    }
                    None => reader.pass(asked.end, ResumeMode::Yes).await?,
                }
            }
        }
        reader.prime().await?;
        reader.failures_left = FAILURES_MAX;
        Ok(reader)
    }

    /// Gets the first bytes of what was asked for. Before that it gets the first that are not here,
    /// and the first that no run brings: an origin that sends them has the same object still.
    async fn prime(&mut self) -> Result<(), Arc<FillError>> {
        let asked = self.next..self.end;
        if let Some(part) = self.object.part().cloned() {
            let is_later = |gap: &u64| *gap > asked.start;
            let gap = part.first_gap(&asked);
            let missing = part.first_missing(&asked).filter(|missing| Some(*missing) != gap);
            if let Some(gap) = gap.filter(is_later) {
                self.prime_at(gap).await?;
            }
            if let Some(missing) = missing.filter(is_later)
                && self.primed.is_none()
            {
                match self.prime_at(missing).await {
                    // It may find room when its turn has come.
                    Err(error) if matches!(*error, FillError::NoRoom) => {}
                    primed => primed?,
                }
            }
            self.next = asked.start;
            self.failures_left = 1;
            self.cursor.set(self.next, self.end);
        }
        self.ready = self.piece(FIRST_BYTES).await?;
        Ok(())
    }

    /// Gets the first bytes at `offset`. What passes from there on waits until its turn has come.
    async fn prime_at(&mut self, offset: u64) -> Result<(), Arc<FillError>> {
        (self.next, self.failures_left) = (offset, 1);
        self.cursor.set(offset, self.end);
        let bytes = self.piece(1).await?;
        self.primed = self.passing.take().map(|rest| GapStart { at: offset, bytes, rest });
        Ok(())
    }

    /// The object's head, as the answers up to the first of the bytes asked for have renewed it.
    pub fn meta(&self) -> Arc<Meta> {
        self.object.meta()
    }

    /// How what was asked for came about.
    pub fn provenance(&self) -> RangeProvenance {
        self.provenance
    }

    /// The next piece, of at most `max` bytes; empty at the end of the stretch. After an error the
    /// body is over and must not be ended cleanly. Not cancel safe.
    pub async fn chunk(&mut self, max: usize) -> Result<Bytes, Arc<FillError>> {
        if self.ready.is_empty() {
            self.ready = self.piece(max).await?;
        }
        Ok(self.ready.split_to(max.min(self.ready.len())))
    }

    fn count_held(&mut self, part: &Part, asked: &Range<u64>) {
        part.touch();
        let holding = part.holding(asked);
        self.count("held", holding.bytes);
        let chunks = &self.flight.resources().metrics.chunks;
        chunks.with_label_values(&["hit"]).inc_by(holding.chunks);
        if holding.chunks == holding.of_chunks {
            self.provenance = RangeProvenance::Here;
        }
    }

    fn count(&self, what: &str, bytes: u64) {
        self.flight.resources().metrics.range_bytes.with_label_values(&[what]).inc_by(bytes);
    }

    /// The next bytes, wherever they come from; empty at the end.
    async fn piece(&mut self, max: usize) -> Result<Bytes, Arc<FillError>> {
        while self.next < self.end {
            if let Some(error) = self.object.broken() {
                return Err(error);
            }
            let left = usize::try_from(self.end - self.next).unwrap_or(usize::MAX);
            let object = Arc::clone(&self.object);
            let bytes = match (&mut self.passing, object.part()) {
                (Some(_), _) | (None, None) => self.passed().await?,
                (None, Some(part)) => match self.take_primed() {
                    None => self.kept(part, max.min(left)).await?,
                    primed => primed,
                },
            };
            if let Some(mut bytes) = bytes.filter(|bytes| !bytes.is_empty()) {
                bytes.truncate(left);
                self.next += bytes.len() as u64;
                self.cursor.set(self.next, self.end);
                self.failures_left = FAILURES_MAX;
                (self.idle, self.waiting) = (0, DiskWait::default());
                if self.passing.is_none() {
                    self.late = 0;
                }
                return Ok(bytes);
            }
        }
        Ok(Bytes::new())
    }

    /// What was primed, if its turn has come; from then on its rest passes.
    fn take_primed(&mut self) -> Option<Bytes> {
        let next = self.next;
        let primed = self.primed.take_if(|primed| primed.at <= next)?;
        if primed.at < next {
            return None;
        }
        self.pass_on(primed.rest);
        Some(primed.bytes)
    }

    /// Bytes by way of the disk; none if the next turn may have some.
    async fn kept(&mut self, part: &Part, max: usize) -> Result<Option<Bytes>, Arc<FillError>> {
        part.cut(self.next, NEAR_BYTES);
        match part.at(self.next) {
            At::Here => match part.read(self.next, max).await {
                Ok(bytes) => Ok(bytes),
                Err(ReadError::Blocking(_)) => {
                    if let Err(error) = self.pass_late(ResumeMode::IfNotHere).await {
                        self.ask_the_disk_again(error).await?;
                    }
                    Ok(None)
                }
                Err(ReadError::Damaged) => self.pass_late(ResumeMode::Yes).await.map(|()| None),
            },
            At::Arriving(growing) => match growing.read(self.next, max).await {
                Ok(bytes) if !bytes.is_empty() => Ok(Some(bytes)),
                Ok(_) | Err(_) => self.lapsed().await.map(|()| None),
            },
            At::Missing => {
                if self.provenance != RangeProvenance::Here {
                    self.provenance = RangeProvenance::Began;
                }
                let place_wait = if self.ready_once() { PlaceWait::Some } else { PlaceWait::None };
                reader_run::fetch(&self.flight, &self.object, self.next, self.end, place_wait);
                self.idle += 1;
                self.give_up_idle()?;
                Ok(None)
            }
        }
    }

    fn ready_once(&self) -> bool {
        self.failures_left > 1
    }

    /// A run ended before it brought the next byte.
    async fn lapsed(&mut self) -> Result<(), Arc<FillError>> {
        let Some(failure) = self.object.failure() else {
            self.idle += 1;
            // A thread that hangs in a write keeps the chunk from any other.
            return if self.idle < IDLE_MAX {
                Ok(())
            } else {
                self.pass_late(ResumeMode::Yes).await
            };
        };
        if matches!(*failure, FillError::Write(_)) {
            return self.pass(self.end, ResumeMode::Yes).await;
        }
        // What was asked for in vain for as long as that was worth it is not asked for again.
        let left = self.failures_left.saturating_sub(1);
        self.failures_left = if matches!(*failure, FillError::GivenUp(_)) { 0 } else { left };
        if self.failures_left == 0 { Err(failure) } else { Ok(()) }
    }

    fn give_up_idle(&self) -> Result<(), Arc<FillError>> {
        if self.idle < IDLE_MAX { Ok(()) } else { Err(Arc::new(FillError::NoResult)) }
    }

    /// The disk does not give the next byte. The rest of its chunk comes straight from the origin,
    /// and twice as much each time until the disk gives a byte.
    async fn pass_late(&mut self, resuming: ResumeMode) -> Result<(), Arc<FillError>> {
        let chunk = self.next - self.next % CHUNK_BYTES;
        let end = chunk.saturating_add(CHUNK_BYTES << self.late.min(DOUBLED_MAX));
        self.pass(end.min(self.end), resuming).await?;
        self.late += 1;
        Ok(())
    }

    /// The origin does not give the next byte. If the disk has it, the disk is asked again for a
    /// while, unless the object has changed.
    async fn ask_the_disk_again(&mut self, error: Arc<FillError>) -> Result<(), Arc<FillError>> {
        if !is_here(&self.object, self.next) || matches!(*error, FillError::Changed) {
            return Err(error);
        }
        let Some(pause) = self.waiting.pause() else { return Err(error) };
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Bytes up to `end` come straight from the origin.
    async fn pass(&mut self, end: u64, resuming: ResumeMode) -> Result<(), Arc<FillError>> {
        let opening = self.flight.open(&self.object.identity, self.next..end, None);
        let opened = Box::pin(opening).await.map_err(Arc::new)?;
        self.pass_on(PassThroughStretch { body: Box::new(opened.body), resuming });
        Ok(())
    }

    fn pass_on(&mut self, passing: PassThroughStretch) {
        self.passing = Some(passing);
        self.provenance = RangeProvenance::Passed;
    }

    /// Bytes straight from the origin, without those before the next one; none at the end of what
    /// passes and if the disk has them, so that the disk is asked.
    async fn passed(&mut self) -> Result<Option<Bytes>, Arc<FillError>> {
        let Some(PassThroughStretch { body, resuming }) = &mut self.passing else {
            return Err(Arc::new(FillError::NoResult));
        };
        // Nothing that comes is behind what is to come next.
        let Some(ahead) = self.next.checked_sub(body.received()) else {
            return Err(Arc::new(FillError::NoResult));
        };
        let (resuming, object, next) = (*resuming, &self.object, self.next);
        let may_resume = || resuming == ResumeMode::Yes || !is_here(object, next);
        let mut bytes = match body.chunk_if(may_resume).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => {
                self.passing = None;
                return Ok(None);
            }
            Err(error) => {
                self.ask_the_disk_again(Arc::new(error)).await?;
                self.passing = None;
                return Ok(None);
            }
        };
        let skipped = usize::try_from(ahead).unwrap_or(usize::MAX);
        bytes.advance(skipped.min(bytes.len()));
        self.count("passed", bytes.len() as u64);
        Ok(Some(bytes))
    }
}

/// Whether the disk has the byte at `offset`.
fn is_here(object: &PartObject, offset: u64) -> bool {
    object.part().is_some_and(|part| matches!(part.at(offset), At::Here))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn disk_and_origin_are_asked_again_for_as_long_as_that_is_worth_it_and_not_in_haste() {
        let (mut waiting, began, mut rounds) = (DiskWait::default(), Instant::now(), 0);
        while let Some(pause) = waiting.pause() {
            tokio::time::advance(pause).await;
            rounds += 1;
        }
        assert!((LATE_MAX..LATE_MAX + AGAIN_MAX).contains(&began.elapsed()));
        assert!((10..=30).contains(&rounds), "{rounds}");
    }
}
