//! A flight of parts: what is known of one object of which ranges are wanted. Held by its readers
//! and by what is fetched for them; the registry knows it as long as one of them does.

use super::cursors::Cursors;
use super::object::PartObject;
use crate::cache::FenceEpoch;
use crate::config::Limits;
use crate::fill::body_origins::BodyOrigins;
use crate::fill::error::{FillError, JoinError};
use crate::fill::flight::FlightReader;
use crate::fill::hit_for_miss::HitForMiss;
use crate::fill::registry::{FillRole, Registry};
use crate::fill::request::FillRequest;
use crate::fill::resources::Resources;
use crate::object::{Key, Meta};
use crate::origin::Response;
use crate::sync::{Mutex, watch};
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use tokio::sync::Semaphore;

/// The flights of parts, and what bounds their completion. One per process; a short lock, never
/// while a flight is dropped, which takes it.
#[derive(Debug)]
pub(in crate::fill) struct PartRegistry {
    under_way: Mutex<HashMap<Key, Weak<PartFlight>>>,
    pub(super) completions: Arc<Semaphore>,
    pub(super) completion_size_max: u64,
    /// Responses of which ranges may not be kept: each is asked for alone.
    pub(super) hit_for_miss: HitForMiss,
}

/// The outcome of a flight.
#[derive(Debug, Clone)]
pub(super) enum PartOutcome {
    /// The object's head is known.
    Known(Arc<PartObject>),
    /// The whole is being fetched.
    Whole(FillRole, FlightReader),
    /// The whole is stored.
    Stored,
    /// There is none.
    Absent(Arc<Meta>),
    /// No usable answer.
    Failed(Arc<FillError>),
    /// No origin may be asked now.
    NotJoined(JoinError),
    /// Nothing is here in part.
    Unknown,
    /// An answer that may not be kept: for the request that caused it.
    Alone,
}

/// What is known of one object of which ranges are wanted.
#[derive(Debug)]
pub(super) struct PartFlight {
    pub(super) registry: Arc<Registry>,
    pub(super) parts: Arc<PartRegistry>,
    /// Of a response that varies nothing is kept in part; so it is asked for as the first request
    /// for it did.
    pub(super) request: FillRequest,
    /// The origins that gave bytes of it.
    pub(super) body_origins: BodyOrigins,
    /// An answer for the request that caused it alone.
    pub(super) own_answer: Mutex<Option<Box<Response>>>,
    pub(super) ticket: FenceEpoch,
    pub(super) cursors: Arc<Cursors>,
    outcome: watch::Sender<Option<PartOutcome>>,
}

impl PartRegistry {
    /// Nothing under way.
    pub(in crate::fill) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            under_way: Mutex::default(),
            completions: Arc::new(Semaphore::new(limits.completions_max)),
            completion_size_max: limits.completion_size_max,
            hit_for_miss: HitForMiss::default(),
        })
    }

    /// The flight of this key, if there is one.
    pub(super) fn flight(&self, key: &Key) -> Option<Arc<PartFlight>> {
        // Not upgraded under the lock, which a flight that is dropped takes.
        let flight = self.under_way.lock().get(key).cloned();
        flight.and_then(|flight| flight.upgrade())
    }

    /// Joins the flight of an object, or begins one: then its caller must make it land. True if
    /// it had landed already.
    pub(super) fn enter(
        self: &Arc<Self>,
        registry: &Arc<Registry>,
        request: &FillRequest,
    ) -> (FillRole, Arc<PartFlight>, bool) {
        // A flight that is dropped takes the lock itself.
        let _stale;
        let mut under_way = self.under_way.lock();
        match under_way.get(&request.key).and_then(Weak::upgrade) {
            Some(flight) if flight.may_be_joined() => {
                let has_landed = flight.outcome.borrow().is_some();
                return (FillRole::Follow, flight, has_landed);
            }
            other => _stale = other,
        }
        let flight = Arc::new(PartFlight {
            registry: Arc::clone(registry),
            parts: Arc::clone(self),
            request: request.clone(),
            body_origins: BodyOrigins::default(),
            own_answer: Mutex::default(),
            ticket: registry.resources.cache.ticket(),
            cursors: Arc::default(),
            outcome: watch::Sender::new(None),
        });
        under_way.insert(request.key.clone(), Arc::downgrade(&flight));
        registry.resources.keys_in_part.lock().insert(request.key.clone());
        drop(under_way);
        (FillRole::Lead, flight, false)
    }
}

impl PartFlight {
    /// What its fetches use.
    pub(super) fn resources(&self) -> &Arc<Resources> {
        &self.registry.resources
    }

    /// Whether its object is known and may be joined.
    pub(super) fn is_of_use(&self) -> bool {
        let is_joinable = matches!(
            &*self.outcome.borrow(),
            Some(PartOutcome::Known(object)) if object.may_be_joined()
        );
        is_joinable && !self.is_purged()
    }

    fn may_be_joined(&self) -> bool {
        let is_open = match &*self.outcome.borrow() {
            None => true,
            Some(PartOutcome::Known(object)) => object.may_be_joined(),
            Some(_) => false,
        };
        is_open && !self.is_purged() && !self.cursors.readers.is_closed()
    }

    /// Whether a purge has overtaken it.
    pub(super) fn is_purged(&self) -> bool {
        self.resources().cache.is_purged_since(self.ticket, &self.request.key)
    }

    /// Waits for the outcome. Bounded by the deadlines of the origins.
    pub(super) async fn outcome(&self) -> PartOutcome {
        let lost = || PartOutcome::Failed(Arc::new(FillError::NoResult));
        let mut receiver = self.outcome.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(lost),
            Err(_) => lost(),
        }
    }

    /// Announces the outcome; only the first one counts.
    pub(super) fn announce(&self, outcome: PartOutcome) {
        self.outcome.send_if_modified(|told| {
            let is_first = told.is_none();
            if is_first {
                *told = Some(outcome);
            }
            is_first
        });
    }
}

impl Drop for PartFlight {
    fn drop(&mut self) {
        let mut under_way = self.parts.under_way.lock();
        let own: *const Self = self;
        if under_way.get(&self.request.key).is_some_and(|known| std::ptr::eq(known.as_ptr(), own)) {
            under_way.remove(&self.request.key);
            self.resources().keys_in_part.lock().remove(&self.request.key);
        }
    }
}
