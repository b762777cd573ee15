//! The fills of whole objects that are under way: which one a request joins, and which have ended.
//! One per process; a short lock, never held across an await. Called by the leaders of both kinds
//! of site and by the requests for heads.

use super::error::JoinError;
use super::flight::{Flight, FlightReader};
use super::resources::Resources;
use super::site_origins::Demand;
use crate::cache::FenceEpoch;
use crate::object::Key;
use crate::origin::Method;
use crate::sync::Mutex;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Keys of ended fills that are remembered.
const ENDED_MAX: usize = 1_024;

/// A moment, counted in fills that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillEpoch(u64);

/// Whether a reader began a fill or joined one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FillRole {
    /// It began the fill.
    Lead,
    /// Another had begun it.
    Follow,
}

/// The fills of whole objects under way.
#[derive(Debug)]
pub(super) struct Registry {
    pub(super) resources: Arc<Resources>,
    flights: Mutex<Flights>,
    /// Fills that have ended; changed under the lock of `flights` alone.
    ended_count: AtomicU64,
}

#[derive(Debug, Default)]
struct Flights {
    under_way: HashMap<Key, Arc<Flight>>,
    /// Of which the head alone is asked for.
    heads: HashMap<Key, Arc<Flight>>,
    /// What ended last, newest last.
    ended: VecDeque<Key>,
}

impl Flights {
    /// Those of this method, and what ended last of both.
    fn of(&mut self, method: Method) -> (&mut HashMap<Key, Arc<Flight>>, &mut VecDeque<Key>) {
        match method {
            Method::Get => (&mut self.under_way, &mut self.ended),
            Method::Head => (&mut self.heads, &mut self.ended),
        }
    }
}

/// The flight that is joined or begun.
#[derive(Debug)]
pub(super) struct JoinRequest<'k> {
    /// Of which object.
    pub(super) key: &'k Key,
    /// What its fill is for; none for the head alone, which has no body that would take a place.
    pub(super) demand: Option<Demand>,
    /// When the cache was looked at: see `Fills::join`.
    pub(super) looked: Option<FillEpoch>,
    /// The ticket of what is here already; without one a flight begins with one of this moment.
    pub(super) ticket: Option<FenceEpoch>,
}

impl Registry {
    /// Nothing under way.
    pub(super) fn new(resources: Arc<Resources>) -> Arc<Self> {
        Arc::new(Self { resources, flights: Mutex::default(), ended_count: AtomicU64::new(0) })
    }

    /// This moment; to be taken before the cache is looked at. Never waits.
    pub(super) fn mark(&self) -> FillEpoch {
        FillEpoch(self.ended_count.load(Ordering::Acquire))
    }

    /// Joins the flight of a key, or begins one: `advised` says with what, or why not, and `lead`
    /// leads it.
    pub(super) fn join_or_begin<A, F>(
        self: &Arc<Self>,
        JoinRequest { key, demand, looked, ticket }: JoinRequest<'_>,
        advised: impl FnOnce() -> Result<A, JoinError>,
        lead: impl FnOnce(A, LeadGuard) -> F,
    ) -> Result<(FillRole, FlightReader), JoinError>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let method = if demand.is_some() { Method::Get } else { Method::Head };
        let mut flights = self.flights.lock();
        let (under_way, ended) = flights.of(method);
        let Resources { cache, places, metrics, tasks, .. } = &*self.resources;
        let entry = match under_way.entry(key.clone()) {
            Entry::Occupied(entry) => {
                if !cache.is_purged_since(entry.get().ticket, key)
                    && let Some(reader) = entry.get().join()
                {
                    return Ok((FillRole::Follow, reader));
                }
                entry.remove();
                under_way.entry(key.clone())
            }
            entry @ Entry::Vacant(_) => entry,
        };
        let missed = looked.map_or(0, |looked| self.mark().0.saturating_sub(looked.0));
        let missed = usize::try_from(missed).unwrap_or(usize::MAX);
        if ended.iter().rev().take(missed).any(|ended| ended == key) {
            return Err(JoinError::Ended);
        }
        let advice = advised()?;
        let reader = FlightReader::first(ticket.unwrap_or_else(|| cache.ticket()));
        let flight = Arc::clone(&reader.flight);
        let admit = |demand| {
            let place = places.admit(&demand, &flight.readers);
            place.map(|place| (place, demand)).ok_or(JoinError::NoRoom)
        };
        let admitted = demand.map(admit).transpose()?;
        entry.insert_entry(Arc::clone(&flight));
        drop(flights);
        let landing = LeadGuard {
            registry: Arc::clone(self),
            key: key.clone(),
            method,
            flight: Arc::clone(&flight),
        };
        metrics.fills_running.inc();
        let leading = Box::pin(lead(advice, landing));
        tasks.spawn("fill", async move {
            match admitted {
                Some((place, demand)) => place.hold(&demand, &flight.readers, leading).await,
                None => leading.await,
            }
        });
        Ok((FillRole::Lead, reader))
    }

    /// The fill of the whole of `key` that is under way and may be joined.
    pub(super) fn whole_under_way(&self, key: &Key) -> Option<FlightReader> {
        let flight = self.flights.lock().under_way.get(key).map(Arc::clone)?;
        let is_purged = self.resources.cache.is_purged_since(flight.ticket, key);
        if is_purged { None } else { flight.join() }
    }

    /// Whether a fill of the whole of `key` is under way, be it one that may not be joined.
    pub(super) fn is_whole_under_way(&self, key: &Key) -> bool {
        self.flights.lock().under_way.contains_key(key)
    }
}

/// A flight in its leader's hands: dropped, it lands as lost if nothing was said, and leaves the
/// map.
#[derive(Debug)]
pub(super) struct LeadGuard {
    registry: Arc<Registry>,
    key: Key,
    method: Method,
    pub(super) flight: Arc<Flight>,
}

impl LeadGuard {
    /// What the leader uses.
    pub(super) fn resources(&self) -> &Arc<Resources> {
        &self.registry.resources
    }
}

impl Drop for LeadGuard {
    fn drop(&mut self) {
        self.flight.end();
        self.registry.resources.metrics.fills_running.dec();
        let mut flights = self.registry.flights.lock();
        let (under_way, ended) = flights.of(self.method);
        if let Entry::Occupied(entry) = under_way.entry(self.key.clone())
            && Arc::ptr_eq(entry.get(), &self.flight)
        {
            entry.remove();
            if ended.len() == ENDED_MAX {
                ended.pop_front();
            }
            ended.push_back(self.key.clone());
            self.registry.ended_count.fetch_add(1, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests;
