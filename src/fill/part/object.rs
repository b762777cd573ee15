//! One object of which ranges are wanted, once its head is known, and the runs that bring its
//! chunks. Shared by its readers and runs; a run is a task of its own, so a client that leaves
//! cancels none. Short locks, none across an await.

use super::complete;
use super::confirm::Confirming;
use super::flight::PartFlight;
use super::page;
use super::stretch::{Identity, Resuming, Stretch};
use crate::cache::PublishError;
use crate::fill::{FillError, Running};
use crate::object::Meta;
use crate::origin::FetchReason;
use crate::store::{CHUNK_BYTES, Part, Run};
use crate::sync::Mutex;
use http::HeaderValue;
use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::Instant;

/// Chunks of a run that have come before the first of them is kept for a restart.
const KEEP_CHUNKS: u64 = 8;

/// How long a run in the middle of an answer waits for its turn among the fills.
const TURN: Duration = Duration::from_secs(10);

/// An object whose head is known.
#[derive(Debug)]
pub(super) struct Object {
    pub(super) identity: Arc<Identity>,
    pub(super) kind: Kind,
    pub(super) told: Told,
    /// The request that was last to confirm it.
    pub(super) confirming: Mutex<Option<Confirming>>,
    broken: OnceLock<Arc<FillError>>,
    failure: Mutex<Option<Arc<FillError>>>,
}

/// Who told the head.
#[derive(Debug)]
pub(super) enum Told {
    /// An origin.
    ByOrigin {
        /// `Cache-Status` of the caches on the way.
        upstream_status: Vec<HeaderValue>,
    },
    /// The part on disk.
    ByDisk,
}

/// How its bytes reach readers.
#[derive(Debug)]
pub(super) enum Kind {
    /// Chunk by chunk, by way of the disk.
    Kept(Part),
    /// Each reader for itself; the first may take what the question for the head has brought.
    Passing {
        /// The head.
        meta: Arc<Meta>,
        /// What is on its way.
        begun: Mutex<Option<Box<Stretch>>>,
    },
}

/// What a run is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Readers; without one that wants more it ends.
    Readers,
    /// All of the object.
    Completion,
}

/// Whether a run waits for its turn where as many fills are under way as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// It does not.
    None,
    /// It does, for a while.
    Some,
}

impl Object {
    pub(super) fn new(identity: Arc<Identity>, kind: Kind, told: Told) -> Self {
        Self {
            identity,
            kind,
            told,
            confirming: Mutex::new(None),
            broken: OnceLock::new(),
            failure: Mutex::new(None),
        }
    }

    /// Its head.
    pub(super) fn meta(&self) -> Arc<Meta> {
        match &self.kind {
            Kind::Kept(part) => part.meta(),
            Kind::Passing { meta, .. } => Arc::clone(meta),
        }
    }

    /// The chunks, where it is kept.
    pub(super) fn part(&self) -> Option<&Part> {
        match &self.kind {
            Kind::Kept(part) => Some(part),
            Kind::Passing { .. } => None,
        }
    }

    /// Whether who comes now may read it.
    pub(super) fn may_be_joined(&self) -> bool {
        self.broken().is_none() && self.part().is_some_and(Part::is_live)
    }

    /// Why nothing more of it may be read.
    pub(super) fn broken(&self) -> Option<Arc<FillError>> {
        self.broken.get().cloned()
    }

    /// Why the last run ended early, where nothing has come since.
    pub(super) fn failure(&self) -> Option<Arc<FillError>> {
        self.failure.lock().clone()
    }

    /// It is not what it was taken for: its readers are reset, nothing of it stays.
    pub(super) async fn break_off(&self, flight: &PartFlight, error: Arc<FillError>) {
        let reason = if matches!(*error, FillError::Changed) { "changed" } else { "rejected" };
        if self.broken.set(Arc::clone(&error)).is_err() {
            return;
        }
        flight.shared.metrics.parts_dropped.with_label_values(&[reason]).inc();
        tracing::warn!(
            site = flight.subject.key().site(),
            path = flight.subject.key().path(),
            error = &*error as &dyn std::error::Error,
            "a part is dropped"
        );
        if let Some(part) = self.part() {
            flight.shared.cache.drop_part(part).await;
        }
    }

    /// Begins to fetch the chunks from the one at `from` on, up to the one that ends at or after
    /// `until`, where nobody has or fetches the first of them.
    pub(super) fn fetch(
        self: &Arc<Self>,
        flight: &Arc<PartFlight>,
        (from, until): (u64, u64),
        patience: Patience,
    ) {
        let Some(run) = self.part().and_then(|part| part.claim(from, until)) else { return };
        let (object, flight) = (Arc::clone(self), Arc::clone(flight));
        let running = Running::begin(&flight.shared.metrics);
        let tasks = flight.shared.tasks.clone();
        tasks.spawn("part run", async move {
            let _running = running;
            Box::pin(object.turn(&flight, run, patience)).await;
        });
    }

    /// Waits for its turn, fetches, and sees to what is missing then.
    async fn turn(self: &Arc<Self>, flight: &Arc<PartFlight>, run: Run, patience: Patience) {
        let (demand, readers) = (flight.subject.demand(), &flight.cursors.readers);
        let room = &flight.shared.room;
        let place = match patience {
            Patience::None => room.admit(&demand, readers),
            Patience::Some => room.wait(&demand, readers, Instant::now() + TURN).await,
        };
        let Some(place) = place else {
            *self.failure.lock() = Some(Arc::new(FillError::NoRoom));
            return;
        };
        let fetching = async {
            let opened = self.open(flight, run.start()..run.end(), None).await;
            if self.bring(flight, run, opened, Purpose::Readers).await.is_ok() {
                complete::see_to(flight, self).await;
            }
        };
        Box::pin(place.hold(&demand, readers, fetching)).await;
    }

    /// A stretch of it, unless it is ended for want of readers.
    pub(super) async fn open(
        &self,
        flight: &PartFlight,
        span: Range<u64>,
        why: Option<FetchReason>,
    ) -> Result<Stretch, FillError> {
        let opening = Stretch::open(flight, &self.identity, span, why);
        flight.cursors.readers.while_open(opening).await?
    }

    /// Fetches a run to its end, tells how it ended, and keeps what has come.
    pub(super) async fn bring(
        &self,
        flight: &PartFlight,
        mut run: Run,
        opened: Result<Stretch, FillError>,
        purpose: Purpose,
    ) -> Result<(), Arc<FillError>> {
        let pumped = match opened {
            Ok(mut stretch) => {
                if let (Some(part), Some(told)) = (self.part(), stretch.take_told()) {
                    page::renew(flight, part, &told).await;
                }
                Box::pin(self.pump(flight, &mut run, stretch, purpose)).await
            }
            Err(error) => Err(error),
        };
        let ended = match pumped {
            Ok(()) => run.finish().await.map_err(FillError::from),
            Err(error) => Err(error),
        };
        let ended = match ended {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failed(flight, error).await),
        };
        // Who waits for the run looks for the reason as soon as it is gone.
        drop(run);
        self.keep(flight).await;
        ended
    }

    async fn failed(&self, flight: &PartFlight, error: FillError) -> Arc<FillError> {
        let error = Arc::new(error);
        let key = flight.subject.key();
        if matches!(*error, FillError::Changed) {
            self.break_off(flight, Arc::clone(&error)).await;
        } else if matches!(*error, FillError::Unread) {
            error.log(key);
        } else {
            tracing::warn!(
                site = key.site(),
                path = key.path(),
                error = &*error as &dyn std::error::Error,
                "a part's chunks were not fetched"
            );
        }
        *self.failure.lock() = Some(Arc::clone(&error));
        error
    }

    async fn pump(
        &self,
        flight: &PartFlight,
        run: &mut Run,
        mut stretch: Stretch,
        purpose: Purpose,
    ) -> Result<(), FillError> {
        let what = match purpose {
            Purpose::Readers => "fetched",
            Purpose::Completion => "completed",
        };
        let readers = &flight.cursors.readers;
        let bytes = flight.shared.metrics.range_bytes.with_label_values(&[what]);
        while run.received() < run.end()
            && let Some(mut piece) = readers.while_open(stretch.chunk(Resuming::Yes)).await??
        {
            bytes.inc_by(piece.len() as u64);
            readers.came(piece.len() as u64);
            *self.failure.lock() = None;
            while !piece.is_empty() && run.received() < run.end() {
                let left = CHUNK_BYTES - run.received() % CHUNK_BYTES;
                let left = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                run.append(piece.split_to(left)).await?;
                if run.received().is_multiple_of(CHUNK_BYTES)
                    && !self.goes_on(flight, run, purpose).await
                {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Whether a run that has come to the end of a chunk goes on to the next.
    async fn goes_on(&self, flight: &PartFlight, run: &Run, purpose: Purpose) -> bool {
        let chunks = (run.received() - run.start()) / CHUNK_BYTES;
        if chunks.is_multiple_of(KEEP_CHUNKS) {
            self.keep(flight).await;
        }
        match purpose {
            Purpose::Readers => flight.cursors.wants(run.received()).await,
            Purpose::Completion => {
                !flight.shared.tasks.stopping().is_cancelled() && !flight.is_purged()
            }
        }
    }

    /// Makes what has come survive a restart.
    pub(super) async fn keep(&self, flight: &PartFlight) {
        let Some(part) = self.part() else { return };
        match flight.shared.cache.keep_part(flight.ticket, part).await {
            Ok(()) => {}
            Err(PublishError::Purged) => {
                tracing::debug!(path = flight.subject.key().path(), "purged while it was fetched");
            }
            Err(error) => {
                tracing::info!(path = flight.subject.key().path(), %error, "chunks are not kept");
            }
        }
    }
}
