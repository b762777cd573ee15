//! Ranges of objects that are not here as a whole: fetched chunk by chunk, each once, kept, and
//! made whole when all of them are here. One registry per process; a [`PartFlight`] for each object
//! of which a range is wanted, as long as somebody reads or fetches it. Called by `engine`.
//!
//! # What is fetched
//!
//! `bytes=a-b` fetches the 1 MiB chunks that hold a to b, `bytes=N-` those from N's to the end or
//! to the next that is here or arriving, in one request. What is not known without the object's
//! length (suffixes, several ranges) begins with a HEAD. So a small range costs at most a chunk
//! more than it asks for. A run of chunks goes on while a reader wants its next byte: it waits for
//! a while where it is [`AHEAD_BYTES`] ahead of all of them, and ends at the next chunk where none
//! is left or none comes nearer, so that a client that leaves costs at most so much. Where little
//! is missing, the rest is fetched in the background ([`complete`]).
//!
//! # What holds it together
//!
//! The first answer tells length and entity tag. Every later request carries the tag, and its
//! answer must state both, or the part is dropped and its readers are reset; one who has got no
//! byte yet begins anew, once. Only what has a strong tag, or a FileHash that the whole is checked
//! against, is kept in parts; anything else passes through to its reader.
//!
//! What is said here holds for responses of generic sites too, but for how they begin and are
//! confirmed: see [`page`].
//!
//! # Purges
//!
//! A flight takes its ticket before it looks at the disk or asks an origin. Nothing of a flight
//! that a purge has overtaken is noted or published, and none joins it. Its readers go on, as
//! those of any object that is purged.
//!
//! Locks: the registry's, short; never while a flight is dropped, which takes it.

mod complete;
mod confirm;
mod cursors;
mod flight;
mod handle;
mod learn;
mod object;
pub(super) mod page;
mod reader;
mod stretch;
mod subject;

pub use confirm::Confirmed;
pub use handle::PartHandle;
pub use page::{Find, Paged};
pub use reader::{Came, PartReader};

use super::{Alone, FillError, Fills, FlightReader, Landed, NotJoined, Role, Running, Wanted};
use crate::config::Limits;
use crate::object::{Key, Meta};
use crate::rfc::range::{ByteRanges, ByteSpan, Resolved};
use crate::store::CHUNK_BYTES;
use crate::sync::Mutex;
use flight::{PartFlight, PartLanded};
use object::Told;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use subject::Subject;
use tokio::sync::Semaphore;

/// How far a run goes ahead of its foremost reader, in bytes.
const AHEAD_BYTES: u64 = 16 << 20;

/// How far behind what arrives a reader may begin and still wait for it, in bytes.
const NEAR_BYTES: u64 = 4 << 20;

/// The flights of parts, and what bounds their completion.
#[derive(Debug)]
pub(super) struct Parts {
    under_way: Mutex<HashMap<Key, Weak<PartFlight>>>,
    completions: Arc<Semaphore>,
    completion_size_max: u64,
    /// Responses of which ranges may not be kept: each is asked for alone.
    alone: Alone,
}

impl Parts {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            under_way: Mutex::default(),
            completions: Arc::new(Semaphore::new(limits.completions_max)),
            completion_size_max: limits.completion_size_max,
            alone: Alone::default(),
        }
    }
}

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

impl Fills {
    /// What `ranges` of an object come to that is not stored as a whole.
    pub async fn part(&self, wanted: &Wanted, ranges: &ByteRanges) -> Ranged {
        let stretch = ranges.stretch();
        if stretch.is_some_and(is_as_good_as_whole) {
            return self.whole(wanted);
        }
        if let Some(flight) = self.whole_under_way(&wanted.key)
            && is_near(&flight, ranges).await
        {
            return Ranged::Whole(Role::Follow, flight);
        }
        self.apart(wanted, stretch).await
    }

    fn whole(&self, wanted: &Wanted) -> Ranged {
        match self.join(wanted.clone(), None, None) {
            Ok((role, flight)) => Ranged::Whole(role, flight),
            Err(NotJoined::Ended) => Ranged::Again,
            Err(refused @ (NotJoined::NoRoom | NotJoined::Wrong { .. })) => {
                Ranged::NotJoined(refused)
            }
        }
    }

    async fn apart(&self, wanted: &Wanted, stretch: Option<ByteSpan>) -> Ranged {
        let subject = Subject::Object(wanted.clone());
        let (role, flight, is_known) = PartFlight::enter(&self.shared, &subject);
        let (first, end) = stretch.map_or((0, 0), |s| (s.first, s.last.saturating_add(1)));
        let Some(cursor) = flight.cursors.register(first, end) else { return Ranged::Again };
        if role == Role::Lead {
            let learning = learn::Learning::new(Arc::clone(&flight));
            let running = Running::begin(&self.shared.metrics);
            self.shared.tasks.spawn("part", async move {
                let _running = running;
                Box::pin(learning.run(stretch)).await;
            });
        }
        match flight.landed().await {
            PartLanded::Known(object) => Ranged::Known(PartHandle {
                is_learned_now: !is_known && matches!(object.told, Told::ByOrigin { .. }),
                object,
                cursor,
                role,
                flight,
            }),
            PartLanded::Whole(role, whole) => Ranged::Whole(role, whole),
            PartLanded::Stored | PartLanded::Unknown | PartLanded::Alone => Ranged::Again,
            PartLanded::Absent(meta) => Ranged::Absent(meta),
            PartLanded::Failed(error) => Ranged::Failed(error),
            PartLanded::NotJoined(refused) => Ranged::NotJoined(refused),
        }
    }
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
