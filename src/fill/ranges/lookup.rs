//! A request for ranges joins the flight of its object, or begins one, and learns what is known of
//! the object. Called by `Fills`.

use super::cursors::{Cursor, NEAR_BYTES};
use super::flight::{PartFlight, PartOutcome, PartRegistry};
use super::handle::PartHandle;
use super::learn::HeadLearner;
use super::object::{HeadSource, PartObject};
use crate::fill::error::{FillError, JoinError};
use crate::fill::flight::{FillOutcome, FlightReader};
use crate::fill::leader;
use crate::fill::registry::{FillRole, Registry};
use crate::fill::request::{FillRequest, FillStart};
use crate::fill::resources::{Resources, RunningCount};
use crate::object::{Key, Meta};
use crate::origin::Response;
use crate::rfc::range::{ByteRanges, ByteSpan, Resolved};
use crate::store::CHUNK_BYTES;
use std::sync::Arc;

/// The outcome of a request for what is not stored as a whole.
#[derive(Debug)]
pub enum RangeOutcome {
    /// The whole is being fetched: read along.
    Whole(FillRole, FlightReader),
    /// Its head is known.
    Known(PartHandle),
    /// It may be stored as a whole by now: look again.
    Again,
    /// Nothing is known of it: ask as if there were no parts.
    Unknown,
    /// The answer to the request for a range, for this request alone.
    Alone(Box<Response>),
    /// Every origin said that there is no such object.
    Absent(Arc<Meta>),
    /// No usable answer.
    Failed(Arc<FillError>),
    /// Nothing may be fetched for it now.
    NotJoined(JoinError),
}

/// What is to be found out.
#[derive(Debug, Clone, Copy)]
pub enum PartSearch<'r> {
    /// What is here in part; no origin is asked.
    Known,
    /// That, or else what an origin says to a request for these ranges.
    Asked(&'r ByteRanges),
}

/// A request for ranges that has joined a flight.
struct JoinedFlight {
    role: FillRole,
    flight: Arc<PartFlight>,
    cursor: Cursor,
    /// Whether the object was known before.
    is_known: bool,
}

impl JoinedFlight {
    fn handle(self, object: Arc<PartObject>) -> PartHandle {
        let Self { role, flight, cursor, is_known } = self;
        let is_learned_now = !is_known && matches!(object.told, HeadSource::ByOrigin { .. });
        PartHandle { flight, object, cursor, role, is_learned_now }
    }
}

/// What is here of an object that is not stored as a whole, or what an origin says of it.
pub(in crate::fill) async fn find(
    registry: &Arc<Registry>,
    parts: &Arc<PartRegistry>,
    request: &FillRequest,
    search: PartSearch<'_>,
) -> RangeOutcome {
    let (key, Resources { cache, clock, .. }) = (&request.key, &*registry.resources);
    let is_alone = parts.hit_for_miss.holds(key, clock.now(), cache);
    let ranges = match search {
        PartSearch::Asked(ranges) if !is_alone => Some(ranges),
        PartSearch::Asked(_) | PartSearch::Known => None,
    };
    let stretch = ranges.and_then(ByteRanges::stretch);
    let is_page = request.is_page();
    if !is_page && stretch.is_some_and(is_as_good_as_whole) {
        let start = FillStart::Stale(None);
        return match leader::join(registry, request.clone(), None, start) {
            Ok((role, flight)) => RangeOutcome::Whole(role, flight),
            Err(JoinError::Ended) => RangeOutcome::Again,
            Err(refused @ (JoinError::NoRoom | JoinError::Wrong { .. })) => {
                RangeOutcome::NotJoined(refused)
            }
        };
    }
    if let Some(ranges) = ranges
        && let Some(flight) = registry.whole_under_way(key)
        && is_near(&flight, ranges).await
    {
        return RangeOutcome::Whole(FillRole::Follow, flight);
    }
    if is_page && stretch.is_none() && !knows(registry, parts, key).await {
        return RangeOutcome::Unknown;
    }
    let Some(joined) = join(registry, parts, request, stretch) else {
        return RangeOutcome::Again;
    };
    let role = joined.role;
    match joined.flight.outcome().await {
        PartOutcome::Known(object) => RangeOutcome::Known(joined.handle(object)),
        PartOutcome::Whole(began, whole) => {
            let is_own = role == FillRole::Lead && began == FillRole::Lead;
            RangeOutcome::Whole(if is_own { FillRole::Lead } else { FillRole::Follow }, whole)
        }
        PartOutcome::Stored => RangeOutcome::Again,
        PartOutcome::Alone => {
            let taken = match role {
                FillRole::Lead => joined.flight.own_answer.lock().take(),
                FillRole::Follow => None,
            };
            taken.map_or(RangeOutcome::Unknown, RangeOutcome::Alone)
        }
        PartOutcome::Unknown => RangeOutcome::Unknown,
        PartOutcome::Absent(meta) => RangeOutcome::Absent(meta),
        PartOutcome::Failed(error) => RangeOutcome::Failed(error),
        PartOutcome::NotJoined(refused) => RangeOutcome::NotJoined(refused),
    }
}

/// Joins the flight of an object of which a stretch is wanted, or begins one; none if what is
/// fetched for it is ended for want of readers.
fn join(
    registry: &Arc<Registry>,
    parts: &Arc<PartRegistry>,
    request: &FillRequest,
    stretch: Option<ByteSpan>,
) -> Option<JoinedFlight> {
    let (role, flight, is_known) = parts.enter(registry, request);
    let wanted = stretch.map_or(0..0, ByteSpan::bytes);
    let cursor = flight.cursors.register(wanted.start, wanted.end)?;
    if role == FillRole::Lead {
        let learning = HeadLearner::new(Arc::clone(&flight));
        let running = RunningCount::begin(&registry.resources.metrics);
        registry.resources.tasks.spawn("part", async move {
            let _running = running;
            Box::pin(learning.run(stretch)).await;
        });
    }
    Some(JoinedFlight { role, flight, cursor, is_known })
}

/// Whether anything of `key` is here in part.
async fn knows(registry: &Registry, parts: &PartRegistry, key: &Key) -> bool {
    let is_of_use = parts.flight(key).is_some_and(|flight| flight.is_of_use());
    is_of_use || registry.resources.cache.part(key).await.is_some()
}

/// Whether a stretch goes from the first chunk to the end. Then all of the object is fetched either
/// way, and a whole is checked before its last byte is sent.
fn is_as_good_as_whole(stretch: ByteSpan) -> bool {
    stretch.last == u64::MAX && stretch.first < CHUNK_BYTES
}

/// Whether what `ranges` begin with has come, or comes soon, by way of a fill of the whole.
async fn is_near(flight: &FlightReader, ranges: &ByteRanges) -> bool {
    let mut doubtful_from = None;
    let progress = match flight.outcome().await {
        FillOutcome::Streaming { growing, .. } => {
            doubtful_from = growing.doubtful_from();
            Some((growing.length(), growing.visible()))
        }
        FillOutcome::Passing => flight.shared_progress(),
        FillOutcome::Whole { .. }
        | FillOutcome::Head { .. }
        | FillOutcome::Absent(_)
        | FillOutcome::Failed(_) => None,
    };
    let Some((Some(length), visible)) = progress else { return true };
    match ranges.resolve(length) {
        Resolved::Single(span) => {
            let is_part = span.last.saturating_add(1) < length;
            let is_held = is_part && doubtful_from.is_some_and(|from| span.last >= from);
            !is_held && span.first <= visible.saturating_add(NEAR_BYTES)
        }
        Resolved::Whole | Resolved::Multiple(_) | Resolved::Unsatisfiable => true,
    }
}
