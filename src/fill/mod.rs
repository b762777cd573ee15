//! One fetch per key, streamed to every reader while it is written, verified, committed. One
//! [`Fills`] per process, shared; the map of flights is behind a short lock that is never held
//! across an await. Called by `engine`; the only module that asks an origin and, with `purge`,
//! the only one that changes the cache.
//!
//! A fill's leader is a task of its own: a client that leaves does not cancel it, though a fill
//! without readers makes room for others (`places`). Its states are asking, streaming (or checking
//! whole), sealed, published; a reader sees them as [`FillOutcome`].

mod body_origins;
mod checked_body;
mod error;
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
