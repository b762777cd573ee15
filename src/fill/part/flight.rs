//! A flight of parts: what is known of one object of which ranges are wanted. Held by its readers
//! and by what is fetched for them; the registry knows it as long as one of them does.

use super::cursors::Cursors;
use super::object::Object;
use super::subject::Subject;
use crate::cache::FenceEpoch;
use crate::fill::{FillError, FlightReader, NotJoined, Role, Shared};
use crate::object::Meta;
use crate::origin::Response;
use crate::sync::Mutex;
use crate::sync::watch;
use std::sync::{Arc, Weak};

/// What a flight has come to.
#[derive(Debug, Clone)]
pub(super) enum PartLanded {
    /// The object's head is known.
    Known(Arc<Object>),
    /// The whole is being fetched.
    Whole(Role, FlightReader),
    /// The whole is stored.
    Stored,
    /// There is none.
    Absent(Arc<Meta>),
    /// No usable answer.
    Failed(Arc<FillError>),
    /// No origin may be asked now.
    NotJoined(NotJoined),
    /// Nothing is here in part.
    Unknown,
    /// An answer that may not be kept: for who caused the question.
    Alone,
}

/// What is known of one object of which ranges are wanted.
#[derive(Debug)]
pub(super) struct PartFlight {
    pub(super) shared: Arc<Shared>,
    pub(super) subject: Subject,
    /// An answer that is for the one who caused the question alone.
    pub(super) alone: Mutex<Option<Box<Response>>>,
    pub(super) ticket: FenceEpoch,
    pub(super) cursors: Arc<Cursors>,
    landed: watch::Sender<Option<PartLanded>>,
}

impl PartFlight {
    /// Joins the flight of an object, or begins one: then its caller must make it land. True where
    /// it had landed already.
    pub(super) fn enter(shared: &Arc<Shared>, subject: &Subject) -> (Role, Arc<Self>, bool) {
        // A flight that is dropped takes the lock itself.
        let _stale;
        let mut under_way = shared.parts.under_way.lock();
        match under_way.get(subject.key()).and_then(Weak::upgrade) {
            Some(flight) if flight.may_be_joined() => {
                let has_landed = flight.landed.borrow().is_some();
                return (Role::Follow, flight, has_landed);
            }
            other => _stale = other,
        }
        let flight = Arc::new(Self {
            shared: Arc::clone(shared),
            subject: subject.clone(),
            alone: Mutex::default(),
            ticket: shared.cache.ticket(),
            cursors: Arc::default(),
            landed: watch::Sender::new(None),
        });
        under_way.insert(subject.key().clone(), Arc::downgrade(&flight));
        drop(under_way);
        (Role::Lead, flight, false)
    }

    /// Whether its object is known, so that who comes now has something of it.
    pub(super) fn is_of_use(&self) -> bool {
        matches!(&*self.landed.borrow(), Some(PartLanded::Known(object)) if object.may_be_joined())
            && !self.is_purged()
    }

    fn may_be_joined(&self) -> bool {
        let is_open = match &*self.landed.borrow() {
            None => true,
            Some(PartLanded::Known(object)) => object.may_be_joined(),
            Some(_) => false,
        };
        is_open && !self.is_purged() && !self.cursors.readers.is_closed()
    }

    /// Whether a purge has overtaken it.
    pub(super) fn is_purged(&self) -> bool {
        self.shared.cache.is_purged_since(self.ticket, self.subject.key())
    }

    /// Waits until there is something to tell. Bounded by the deadlines of the origins.
    pub(super) async fn landed(&self) -> PartLanded {
        let lost = || PartLanded::Failed(Arc::new(FillError::Lost));
        let mut receiver = self.landed.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone().unwrap_or_else(lost),
            Err(_) => lost(),
        }
    }

    /// Tells the readers; the first word counts.
    pub(super) fn land(&self, landed: PartLanded) {
        self.landed.send_if_modified(|told| {
            let is_first = told.is_none();
            if is_first {
                *told = Some(landed);
            }
            is_first
        });
    }
}

impl Drop for PartFlight {
    fn drop(&mut self) {
        let mut under_way = self.shared.parts.under_way.lock();
        let own: *const Self = self;
        if under_way.get(self.subject.key()).is_some_and(|known| std::ptr::eq(known.as_ptr(), own))
        {
            under_way.remove(self.subject.key());
        }
    }
}
