//! A flight: the one fetch of a key under way, and what its readers are told. Made by the first
//! reader, gone with the last; the leader's task writes it, readers wait on a watch channel, so no
//! reader holds up another and none can cancel it. What has no reader may be ended: see `places`.

use super::checked_body::CheckedBody;
use super::error::FillError;
use super::memory_window::WindowExtent;
use super::pass_through::PassThroughBody;
use super::readers::{FillReader, FillReaders};
use super::relay::{Relay, RelayEntrance};
use super::rules::AdmittedAnswer;
use super::site_origins::Demand;
use crate::cache::{CachedObject, FenceEpoch};
use crate::object::{Meta, Sha256};
use crate::origin::Asker;
use crate::store::{Broken, Follower, Growing};
use crate::sync::{Mutex, watch};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// The outcome of a fill, as far as a reader needs to know it.
#[derive(Debug, Clone)]
pub enum FillOutcome {
    /// The object is arriving: read along.
    Streaming {
        /// Its head.
        meta: Arc<Meta>,
        /// Its growing body.
        growing: Growing,
        /// The one SHA-256 that it must turn out to have, if that is known.
        must_be: Option<Sha256>,
    },
    /// The object is whole and verified.
    Whole {
        /// The object.
        found: CachedObject,
        /// How it came about.
        provenance: Provenance,
    },
    /// Its head, if only that was asked for.
    Head {
        /// What the origin said of it.
        admitted: Arc<AdmittedAnswer>,
        /// Bytes of its body, if the origin told.
        length: Option<u64>,
    },
    /// Every origin said that there is no such object.
    Absent(Arc<Meta>),
    /// The object cannot be stored; [`Flight::take_passing`] gives its body.
    Passing,
    /// No usable answer.
    Failed(Arc<FillError>),
}

/// How a whole object came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provenance {
    /// Fetched and kept.
    Stored,
    /// Fetched, verified, and not kept: the response forbids it, or it was purged meanwhile.
    NotStored,
    /// What was stored is confirmed by a 304.
    Confirmed,
    /// The same, for the reader alone that caused the fetch: with fields that no other one gets.
    ConfirmedForOne,
    /// What was stored takes the place of an origin's 500, 502, 503 or 504.
    Bridged,
}

/// The one fetch of a key under way.
#[derive(Debug)]
pub struct Flight {
    pub(super) ticket: FenceEpoch,
    pub(super) readers: FillReaders,
    begun: Instant,
    outcome: watch::Sender<Option<FillOutcome>>,
    passing: Mutex<Option<PassThroughBody>>,
    relay: OnceLock<RelayEntrance>,
    over: CancellationToken,
    upstream_status: OnceLock<Vec<HeaderValue>>,
    /// For the reader alone that caused the fetch.
    own: Mutex<HeaderMap>,
}

impl Flight {
    pub(super) fn new(ticket: FenceEpoch) -> Self {
        Self {
            ticket,
            readers: FillReaders::default(),
            begun: Instant::now(),
            outcome: watch::Sender::new(None),
            passing: Mutex::new(None),
            relay: OnceLock::new(),
            over: CancellationToken::new(),
            upstream_status: OnceLock::new(),
            own: Mutex::default(),
        }
    }

    /// Waits for the outcome. Bounded by the deadlines of the origins.
    pub async fn outcome(&self) -> FillOutcome {
        let mut receiver = self.outcome.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(lost),
            Err(_) => lost(),
        }
    }

    /// As [`Flight::outcome`], but `None` if there is nothing to tell `wait` after the flight
    /// began. So a request does not wait if it joins a flight with an origin that was silent for
    /// longer.
    pub async fn outcome_within(&self, wait: Duration) -> Option<FillOutcome> {
        timeout_at(self.begun + wait, self.outcome()).await.ok()
    }

    /// The body that cannot be kept, for a reader of this client: for each that comes in time if it
    /// may be shared, else for the one that comes first.
    pub fn take_passing(&self, asker: Asker) -> Option<PassThroughBody> {
        match self.relay.get() {
            Some(entrance) => entrance.join(&self.readers, asker).map(PassThroughBody::relayed),
            None => self.passing.lock().take(),
        }
    }

    /// Whether its body cannot be kept, and readers share it.
    pub fn is_shared(&self) -> bool {
        self.relay.get().is_some()
    }

    /// Whether readers share its body, and no further one may join.
    pub fn is_too_late(&self) -> bool {
        self.relay.get().is_some_and(|relay| !relay.is_open())
    }

    /// Of a body that cannot be kept, and that readers share: its length, if that is known, and
    /// how many bytes have come.
    pub(super) fn shared_progress(&self) -> Option<(Option<u64>, u64)> {
        self.relay.get().map(RelayEntrance::progress)
    }

    /// The fields of the answer that are not shared, for the one reader that caused the fetch.
    pub fn take_own(&self) -> HeaderMap {
        std::mem::take(&mut *self.own.lock())
    }

    pub(super) fn set_own(&self, fields: HeaderMap) {
        *self.own.lock() = fields;
    }

    /// `Cache-Status` of the caches on the way to the origin.
    pub fn upstream_status(&self) -> &[HeaderValue] {
        self.upstream_status.get().map_or(&[], Vec::as_slice)
    }

    pub(super) fn set_upstream_status(&self, values: Vec<HeaderValue>) {
        self.upstream_status.get_or_init(|| values);
    }

    /// Waits until the leader is done, with the object published or given up.
    pub async fn ended(&self) {
        self.over.cancelled().await;
    }

    /// A reader of it; none if no reader may join any more, since it is being ended, its object has
    /// left its disk, or the first byte of what is not kept is gone.
    pub(super) fn join(self: &Arc<Self>) -> Option<FlightReader> {
        let is_memory_only = matches!(
            &*self.outcome.borrow(),
            Some(FillOutcome::Streaming { growing, .. }) if growing.is_memory_only()
        );
        let is_gone = is_memory_only || self.is_too_late();
        let reader = self.readers.enter().filter(|_| !is_gone)?;
        Some(FlightReader { flight: Arc::clone(self), reader })
    }

    pub(super) fn announce(&self, outcome: FillOutcome) {
        self.outcome.send_replace(Some(outcome));
    }

    pub(super) fn announce_pass_through(&self, passing: PassThroughBody) {
        *self.passing.lock() = Some(passing);
        self.announce(FillOutcome::Passing);
    }

    /// Has its readers share `body`, of which nothing was read, to its end; the result for the
    /// metrics. It passes to one reader if there is no memory for what is `kept` of it.
    pub(super) async fn share(
        &self,
        body: Box<CheckedBody>,
        demand: Demand,
        kept: WindowExtent,
    ) -> &'static str {
        let Some(relay) = Relay::new(&body, demand, kept) else {
            self.announce_pass_through(PassThroughBody::checked(body));
            return "passed";
        };
        let entrance = RelayEntrance::new(&relay);
        self.relay.get_or_init(|| entrance);
        self.readers.give_place_back();
        self.announce(FillOutcome::Passing);
        match relay.run(body, &self.readers).await {
            Ok(()) => "passed",
            // That is logged with all that is known of it.
            Err(error) if error.rejected().is_some() => "rejected",
            Err(error) => error.log(&relay.meta().key),
        }
    }

    /// Takes the outcome back, so that readers wait for the next try.
    pub(super) fn retract(&self) {
        self.outcome.send_replace(None);
    }

    /// The leader is done: if it told nothing, the fill has no result.
    pub(super) fn end(&self) {
        self.outcome.send_if_modified(|outcome| {
            let is_silent = outcome.is_none();
            if is_silent {
                *outcome = Some(lost());
            }
            is_silent
        });
        self.over.cancel();
    }
}

/// Ends a flight when it is dropped, although what leads it panics.
#[derive(Debug)]
pub(super) struct EndOnDrop(pub(super) Arc<Flight>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// A reader of a flight: until the last of them is dropped, the flight is not ended for the sake of
/// others.
#[derive(Debug, Clone)]
pub struct FlightReader {
    pub(super) flight: Arc<Flight>,
    reader: FillReader,
}

impl FlightReader {
    /// The first reader of a new flight.
    pub(super) fn first(ticket: FenceEpoch) -> Self {
        let flight = Flight::new(ticket);
        let reader = FillReader::first(&flight.readers);
        Self { flight: Arc::new(flight), reader }
    }

    /// A reader of the object that the flight brings, from `offset` on.
    pub fn follow(&self, growing: Growing, offset: u64, sent: Option<u64>) -> GrowingReader {
        GrowingReader { follower: growing.follow(offset, sent), _reader: self.reader.clone() }
    }
}

impl Deref for FlightReader {
    type Target = Flight;

    fn deref(&self) -> &Flight {
        &self.flight
    }
}

/// A reader of an object that a flight brings.
#[derive(Debug)]
pub struct GrowingReader {
    follower: Follower,
    _reader: FillReader,
}

impl GrowingReader {
    /// As [`Follower::read_now`].
    pub fn read_now(&self, offset: u64, max: usize) -> Option<Bytes> {
        self.follower.read_now(offset, max)
    }

    /// As [`Follower::read`].
    pub async fn read(&self, offset: u64, max: usize) -> Result<Bytes, Broken> {
        self.follower.read(offset, max).await
    }
}

fn lost() -> FillOutcome {
    FillOutcome::Failed(Arc::new(FillError::NoResult))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Fence;
    use crate::tasks::Tasks;

    /// FAULTS.md S15d.
    #[tokio::test]
    async fn a_leader_that_panics_leaves_no_reader_waiting() {
        let reader = FlightReader::first(Fence::default().ticket(0));
        let ending = EndOnDrop(Arc::clone(&reader.flight));
        let leading = Tasks::new().spawn("fill", async move {
            let _ending = ending;
            panic!("on purpose");
        });
        leading.await.unwrap();
        assert!(matches!(reader.outcome().await, FillOutcome::Failed(_)));
        reader.flight.over.cancelled().await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_flight_counts_from_its_beginning() {
        let flight = Flight::new(Fence::default().ticket(0));
        let (begun, wait) = (Instant::now(), Duration::from_secs(1));
        assert!(flight.outcome_within(wait).await.is_none());
        assert_eq!(begun.elapsed(), wait);
        assert!(flight.outcome_within(wait).await.is_none());
        assert_eq!(begun.elapsed(), wait);
        flight.announce(lost());
        assert!(flight.outcome_within(wait).await.is_some());
    }
}
