//! A reader of a stretch of an object that is here in part: from the file what is there, along with
//! a run what arrives, by a run of its own what nobody fetches; and straight from the origin where
//! the object is not kept or the disk gives up. Owned by one answer; no locks across an await.

use super::NEAR_BYTES;
use super::cursors::Cursor;
use super::flight::PartFlight;
use super::object::{Kind, Object, Patience};
use super::stretch::Stretch;
use crate::fill::FillError;
use crate::object::Meta;
use crate::store::{At, Part};
use bytes::{Buf, Bytes};
use std::ops::Range;
use std::sync::Arc;

/// Failed runs that a reader survives in the middle of its answer.
const FAILURES_MAX: u32 = 3;

/// Turns without a byte and without a failure that a reader waits for.
const IDLE_MAX: u32 = 32;

/// Bytes of the first piece.
const FIRST_BYTES: usize = 64 << 10;

/// How what a reader was asked for came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
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
    object: Arc<Object>,
    cursor: Cursor,
    passing: Option<Box<Stretch>>,
    ready: Bytes,
    next: u64,
    end: u64,
    came: Came,
    failures_left: u32,
    idle: u32,
}

impl PartReader {
    /// A reader of `asked` with its first bytes at hand. `brought` where an origin has told the
    /// head since it was asked for: then nothing of it was here before.
    pub(super) async fn open(
        flight: Arc<PartFlight>,
        object: Arc<Object>,
        cursor: Cursor,
        (asked, brought): (Range<u64>, Option<Came>),
    ) -> Result<Self, Arc<FillError>> {
        let mut reader = Self {
            came: brought.unwrap_or(Came::Joined),
            flight,
            object: Arc::clone(&object),
            cursor,
            passing: None,
            ready: Bytes::new(),
            next: asked.start,
            end: asked.end,
            failures_left: 1,
            idle: 0,
        };
        reader.count("asked", asked.end - asked.start);
        match &object.kind {
            Kind::Kept(part) if brought.is_none() => reader.count_held(part, &asked),
            Kind::Kept(_) => {}
            Kind::Passing { begun, .. } => {
                let begun = begun.lock().take();
                let fits = |begun: &Stretch| (begun.next()..begun.end()).contains(&asked.start);
                let begun = begun.filter(|begun| fits(begun) && asked.end <= begun.end());
                reader.pass(begun).await?;
            }
        }
        reader.prime().await?;
        reader.failures_left = FAILURES_MAX;
        Ok(reader)
    }

    /// Gets the first bytes, and the first of those that are not here, arriving or not: once an
    /// origin has begun to send them, it is the same object still.
    async fn prime(&mut self) -> Result<(), Arc<FillError>> {
        let asked = self.next..self.end;
        if let Some(part) = self.object.part().cloned() {
            let gaps = [part.first_gap(&asked), part.first_missing(&asked)];
            for gap in gaps.into_iter().flatten().filter(|gap| *gap > asked.start) {
                self.next = gap;
                self.piece(1).await?;
                self.failures_left = 1;
                // What passes from there on is asked for again when its turn has come.
                if self.passing.take().is_some() {
                    break;
                }
            }
            self.next = asked.start;
            self.cursor.set(self.next, self.end);
        }
        self.ready = self.piece(FIRST_BYTES).await?;
        Ok(())
    }

    /// The object's head, as the answers up to the first of the bytes asked for have renewed it.
    pub fn meta(&self) -> Arc<Meta> {
        self.object.meta()
    }

    /// How what was asked for came about.
    pub fn came(&self) -> Came {
        self.came
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
        let chunks = &self.flight.shared.metrics.chunks;
        chunks.with_label_values(&["hit"]).inc_by(holding.chunks);
        if holding.chunks == holding.of_chunks {
            self.came = Came::Here;
        }
    }

    fn count(&self, what: &str, bytes: u64) {
        self.flight.shared.metrics.range_bytes.with_label_values(&[what]).inc_by(bytes);
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
                (None, Some(part)) => self.kept(part, max.min(left)).await?,
            };
            if let Some(mut bytes) = bytes.filter(|bytes| !bytes.is_empty()) {
                bytes.truncate(left);
                self.next += bytes.len() as u64;
                self.cursor.set(self.next, self.end);
                self.failures_left = FAILURES_MAX;
                self.idle = 0;
                return Ok(bytes);
            }
        }
        Ok(Bytes::new())
    }

    /// Bytes by way of the disk; none where the next turn may have some.
    async fn kept(&mut self, part: &Part, max: usize) -> Result<Option<Bytes>, Arc<FillError>> {
        part.cut(self.next, NEAR_BYTES);
        match part.at(self.next) {
            At::Here => match part.read(self.next, max).await {
                Ok(bytes) => Ok(bytes),
                // The disk does not answer.
                Err(_) => self.pass(None).await.map(|()| None),
            },
            At::Arriving(growing) => match growing.read(self.next, max).await {
                Ok(bytes) if !bytes.is_empty() => Ok(Some(bytes)),
                Ok(_) | Err(_) => self.lapsed().await.map(|()| None),
            },
            At::Missing => {
                if self.came != Came::Here {
                    self.came = Came::Began;
                }
                let patience = if self.ready_once() { Patience::Some } else { Patience::None };
                self.object.fetch(&self.flight, (self.next, self.end), patience);
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
            return if self.idle < IDLE_MAX { Ok(()) } else { self.pass(None).await };
        };
        if matches!(*failure, FillError::Write(_)) {
            return self.pass(None).await;
        }
        // What was asked for in vain for as long as that was worth it is not asked for again.
        let left = self.failures_left.saturating_sub(1);
        self.failures_left = if matches!(*failure, FillError::GivenUp(_)) { 0 } else { left };
        if self.failures_left == 0 { Err(failure) } else { Ok(()) }
    }

    fn give_up_idle(&self) -> Result<(), Arc<FillError>> {
        if self.idle < IDLE_MAX { Ok(()) } else { Err(Arc::new(FillError::Lost)) }
    }

    /// From now on straight from the origin, with what is on its way if there is any.
    async fn pass(&mut self, begun: Option<Box<Stretch>>) -> Result<(), Arc<FillError>> {
        let stretch = if let Some(begun) = begun {
            begun
        } else {
            let asked = self.next..self.end;
            let opened = Stretch::open(&self.flight, &self.object.identity, asked, None).await;
            Box::new(opened.map_err(Arc::new)?)
        };
        self.passing = Some(stretch);
        self.came = Came::Passed;
        Ok(())
    }

    /// Bytes straight from the origin, without those before the next one.
    async fn passed(&mut self) -> Result<Option<Bytes>, Arc<FillError>> {
        let Some(stretch) = &mut self.passing else { return Err(Arc::new(FillError::Lost)) };
        // Nothing that comes is behind what is to come next.
        let Some(ahead) = self.next.checked_sub(stretch.next()) else {
            return Err(Arc::new(FillError::Lost));
        };
        let Some(mut bytes) = stretch.chunk().await.map_err(Arc::new)? else {
            return Err(Arc::new(FillError::Lost));
        };
        let skipped = usize::try_from(ahead).unwrap_or(usize::MAX);
        bytes.advance(skipped.min(bytes.len()));
        self.count("passed", bytes.len() as u64);
        Ok(Some(bytes))
    }
}
