//! One fetch per key, streamed to every reader while it is written, verified, committed. One
//! [`Fills`] per process, shared; the map of flights is behind a short lock that is never held
//! across an await. Called by `engine`; the only module that asks an origin and, with `purge`,
//! the only one that changes the cache.
//!
//! ```text
//! asked --> head admitted --> received --> ended --> proven --> published
//!   |            |              |            +--> wrong body: readers are reset, one more attempt
//!   |            |              +--> broken off: resumed from the same or the next origin
//!   |            |              +--> disk failed: goes on in memory, is checked, is not stored
//!   |            +--> no disk takes it: shared through a window in memory, checked
//!   |            +--> not to be stored: passed to one reader
//!   +--> absent: remembered for a short time; failed: 502 or 504, never remembered
//! ```
//!
//! A request ([`FillRequest`]) is for an object of a binary cache or for a page of a generic site.
//! `request` asks origins for either; `rules` holds what differs of their answers. All else is one
//! way for both: `registry` joins readers to the `leader` of a fill, a task of its own, so that a
//! client that leaves does not cancel it. Readers see what it does as a [`FillOutcome`]. A fill
//! without readers makes room for others (`places`).
//!
//! - The `FileHash` of a claim proves a body; so does the name of `.nar.xz` and `.nar.bz2`. The
//!   name of `.nar.zst` and `.nar` is the hash of the unpacked contents and proves nothing. A NAR
//!   without a length is stored only if a hash proves it. Anything else is stored if its end is
//!   certain: a length, chunks, or HTTP/2.
//! - Only a body with the same strong entity tag and length continues another one, or any body if
//!   a hash judges the whole (`resumable_body`).
//! - A large body that comes slowly is fetched in pieces (`parallel`). They are written ahead into
//!   the file and read back in turn, so nothing is shown or proven out of order.
//! - If no disk takes an object, its readers share one fetch through a window (`relay`).
//! - Ranges of what is not stored whole are fetched and kept chunk by chunk (`ranges`).
//! - A key with wrong bodies is refused for a second, then for twice as long each time
//!   (`proof::rejected_bodies`). A right body and a purge end that.
//! - A narinfo under a content coding, or with a `URL` that spells out its host, is stored and
//!   served plain, with a relative `URL` (`small_body`).
//! - A narinfo that names an absent NAR becomes stale (`doubt`).
//! - A narinfo is checked with the keys of its origin before it is stored, and keeps the mark of
//!   origin and key (`proof::site_keys`).

mod body_origins;
mod checked_body;
mod contents_check;
mod doubt;
mod error;
mod fetched_body;
mod fills;
mod flight;
mod heads;
mod hit_for_miss;
mod leader;
mod memory_window;
mod parallel;
mod pass_through;
mod places;
mod proof;
mod ranges;
mod readers;
mod registry;
mod relay;
mod request;
mod resources;
mod resumable_body;
mod resume_deadline;
mod rules;
mod site_origins;
mod small_body;

pub use crate::origin::Asker;
pub use error::{FillError, JoinError, Rejection};
pub use fills::Fills;
pub use flight::{FillOutcome, Flight, FlightReader, GrowingReader, Provenance};
pub use pass_through::PassThroughBody;
pub use proof::SiteKeys;
pub use ranges::{
    PartConfirmation, PartHandle, PartReader, PartSearch, RangeOutcome, RangeProvenance,
};
pub use registry::{FillEpoch, FillRole};
pub use request::{FillRequest, ObjectForm, PageForm, RequestForm};
pub use rules::{AdmittedAnswer, Keep};
pub use site_origins::SiteOrigins;
