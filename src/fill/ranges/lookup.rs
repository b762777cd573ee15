//! What a request for ranges comes to: it joins the flight of its object, or begins one, and learns
//! what is known of the object. Called by `Fills`.

use super::cursors::{Cursor, NEAR_BYTES};
use super::flight::{PartFlight, PartOutcome, PartRegistry};
use super::handle::PartHandle;
use super::learn::HeadLearner;
use super::object::{HeadSource, PartObject};
use crate::clock::Timestamp;
use crate::fill::error::{FillError, NotJoined};
use crate::fill::flight::{FlightReader, Landed};
use crate::fill::leader;
use crate::fill::object_request::Wanted;
use crate::fill::page_request::Sought;
use crate::fill::registry::{Registry, Role};
use crate::fill::request::{FillRequest, FillStart};
use crate::fill::resources::RunningCount;
use crate::object::{Key, Meta};
use crate::origin::Response;
use crate::rfc::range::{ByteRanges, ByteSpan, Resolved};
use crate::store::CHUNK_BYTES;
use std::sync::Arc;

/// What a request for ranges comes to.
#[derive(Debug)]
pub enum Ranged {
    /// The whole is being fetched: read along.
    Whole(Role, FlightReader),
    /// Its head is known.
    Known(PartHandle),
    /// It may be stored as a whole by now: look again.
    Again,
    /// Every origin said that there is no such object.
    Absent(Arc<Meta>),
    /// No usable answer.
    Failed(Arc<FillError>),
    /// Nothing may be fetched for it now.
    NotJoined(NotJoined),
}

/// What is to be found out.
#[derive(Debug, Clone, Copy)]
pub enum Find<'r> {
    /// What is here in part; no origin is asked.
    Known,
    /// That, or else what an origin says to a request for these ranges.
    Asked(&'r ByteRanges),
}

/// What a request comes to for a response that is not stored as a whole.
#[derive(Debug)]
pub enum Paged {
    /// It is here in part.
    Known(PartHandle),
    /// The whole is being fetched: read along.
    Whole(Role, FlightReader),
    /// It may be stored as a whole by now: look again.
    Again,
    /// Nothing is known of it: ask as if there were no parts.
    Unknown,
    /// The answer to the request for a stretch, for this request alone.
    Alone(Box<Response>),
    /// No usable answer.
    Failed(Arc<FillError>),
    /// Nothing may be fetched for it now.
    NotJoined(NotJoined),
}

/// A request for ranges that has joined a flight.
struct JoinedFlight {
    role: Role,
    flight: Arc<PartFlight>,
    cursor: Cursor,
    /// Whether the object was known before.
    is_known: bool,
}

impl JoinedFlight {
    fn handle(self, object: Arc<PartObject>) -> PartHandle {
        let Self { role, flight, cursor, is_known } = self;
        let is_learned_now = !is_known && matches!(object.told, HeadSource::ByOrigin { .. });
        PartHandle { is_learned_now, object, cursor, role, flight }
    }
}

/// What `ranges` of an object come to that is not stored as a whole.
pub(in crate::fill) async fn of_object(
    registry: &Arc<Registry>,
    parts: &Arc<PartRegistry>,
    request: &Wanted,
    ranges: &ByteRanges,
) -> Ranged {
    let stretch = ranges.stretch();
    if stretch.is_some_and(is_as_good_as_whole) {
        return match leader::join(registry, request.clone(), None, FillStart::Stale(None)) {
            Ok((role, flight)) => Ranged::Whole(role, flight),
            Err(NotJoined::Ended) => Ranged::Again,
            Err(refused @ (NotJoined::NoRoom | NotJoined::Wrong { .. })) => {
                Ranged::NotJoined(refused)
            }
        };
    }
    if let Some(flight) = registry.whole_under_way(&request.key)
        && is_near(&flight, ranges).await
    {
        return Ranged::Whole(Role::Follow, flight);
    }
    let Some(joined) = join(registry, parts, &FillRequest::Object(request.clone()), stretch) else {
        return Ranged::Again;
    };
    match joined.flight.landed().await {
        PartOutcome::Known(object) => Ranged::Known(joined.handle(object)),
        PartOutcome::Whole(role, whole) => Ranged::Whole(role, whole),
        PartOutcome::Stored | PartOutcome::Unknown | PartOutcome::Alone => Ranged::Again,
        PartOutcome::Absent(meta) => Ranged::Absent(meta),
        PartOutcome::Failed(error) => Ranged::Failed(error),
        PartOutcome::NotJoined(refused) => Ranged::NotJoined(refused),
    }
}

/// What is here of a response that is not stored as a whole, or comes to be.
pub(in crate::fill) async fn of_page(
    registry: &Arc<Registry>,
    parts: &Arc<PartRegistry>,
    (request, now): (&Sought, Timestamp),
    find: Find<'_>,
) -> Paged {
    let (key, cache) = (&request.key, &registry.resources.cache);
    let find = if parts.hit_for_miss.holds(key, now, cache) { Find::Known } else { find };
    if let Find::Asked(ranges) = find
        && let Some(flight) = registry.whole_under_way(key)
        && is_near(&flight, ranges).await
    {
        return Paged::Whole(Role::Follow, flight);
    }
    let stretch = match find {
        Find::Known => None,
        Find::Asked(ranges) => ranges.stretch(),
    };
    if stretch.is_none() && !knows(registry, parts, key).await {
        return Paged::Unknown;
    }
    let Some(joined) = join(registry, parts, &FillRequest::Page(request.clone()), stretch) else {
        return Paged::Again;
    };
    let role = joined.role;
    match joined.flight.landed().await {
        PartOutcome::Known(object) => Paged::Known(joined.handle(object)),
        PartOutcome::Whole(began, whole) => {
            let is_own = role == Role::Lead && began == Role::Lead;
            Paged::Whole(if is_own { Role::Lead } else { Role::Follow }, whole)
        }
        PartOutcome::Stored => Paged::Again,
        PartOutcome::Alone => {
            let taken =
                (role == Role::Lead).then(|| joined.flight.own_answer.lock().take()).flatten();
            taken.map_or(Paged::Unknown, Paged::Alone)
        }
        PartOutcome::Unknown | PartOutcome::Absent(_) => Paged::Unknown,
        PartOutcome::Failed(error) => Paged::Failed(error),
        PartOutcome::NotJoined(refused) => Paged::NotJoined(refused),
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
    let (first, end) = stretch.map_or((0, 0), |s| (s.first, s.last.saturating_add(1)));
    let cursor = flight.cursors.register(first, end)?;
    if role == Role::Lead {
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

/// A stretch to the end whose first chunk is the object's: all of it is fetched either way, and a
/// whole is checked before its last byte is sent.
fn is_as_good_as_whole(stretch: ByteSpan) -> bool {
    stretch.last == u64::MAX && stretch.first < CHUNK_BYTES
}

/// Whether what `ranges` begin with has come, or comes soon, by way of a fill of the whole.
async fn is_near(flight: &FlightReader, ranges: &ByteRanges) -> bool {
    let progress = match flight.landed().await {
        Landed::Streaming { growing, .. } => Some((growing.length(), growing.visible())),
        Landed::Passing => flight.shared_progress(),
        Landed::Whole { .. } | Landed::Head { .. } | Landed::Absent(_) | Landed::Failed(_) => None,
    };
    let Some((Some(length), visible)) = progress else { return true };
    match ranges.resolve(length) {
        Resolved::Single(span) => span.first <= visible.saturating_add(NEAR_BYTES),
        Resolved::Whole | Resolved::Multiple(_) | Resolved::Unsatisfiable => true,
    }
}
