//! A flight: the one fetch of a key under way, and what its readers are told. Made by the first
//! reader, gone with the last; the leader's task writes it, readers wait on a watch channel, so
//! no reader holds up another and none can cancel it.

use super::passing::Passing;
use super::{Admitted, FillError};
use crate::cache::{Found, Ticket};
use crate::object::{Meta, Sha256};
use crate::store::Growing;
use crate::sync::{Mutex, watch};
use http::{HeaderMap, HeaderValue};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// What a fill came to, as far as a reader needs to know.
#[derive(Debug, Clone)]
pub enum Landed {
    /// The object is arriving: read along.
    Streaming {
        /// Its head.
        meta: Arc<Meta>,
        /// Its growing body.
        growing: Growing,
        /// The one SHA-256 that it must turn out to have, where that is known.
        must_be: Option<Sha256>,
    },
    /// The object is whole and verified.
    Whole {
        /// The object.
        found: Found,
        /// How it came about.
        how: How,
    },
    /// Its head, where only that was asked for.
    Head {
        /// What the origin said of it.
        admitted: Arc<Admitted>,
        /// Bytes of its body, where that was said.
        length: Option<u64>,
    },
    /// Every origin said that there is no such object.
    Absent(Arc<Meta>),
    /// The object cannot be kept; one reader may take the body with [`Flight::take_passing`].
    Passing,
    /// No usable answer.
    Failed(Arc<FillError>),
}

/// How a whole object came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
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
    pub(super) ticket: Ticket,
    begun: Instant,
    landed: watch::Sender<Option<Landed>>,
    passing: Mutex<Option<Passing>>,
    over: CancellationToken,
    upstream_status: OnceLock<Vec<HeaderValue>>,
    /// For the reader alone that caused the fetch.
    own: Mutex<HeaderMap>,
}

impl Flight {
    pub(super) fn new(ticket: Ticket) -> Self {
        Self {
            ticket,
            begun: Instant::now(),
            landed: watch::Sender::new(None),
            passing: Mutex::new(None),
            over: CancellationToken::new(),
            upstream_status: OnceLock::new(),
            own: Mutex::default(),
        }
    }

    /// Waits until there is something to tell. Bounded by the deadlines of the origins.
    pub async fn landed(&self) -> Landed {
        let mut receiver = self.landed.subscribe();
        match receiver.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone().unwrap_or_else(lost),
            Err(_) => lost(),
        }
    }

    /// As [`Flight::landed`], but `None` if nothing is to tell `wait` after the flight began. So a
    /// request that joins a flight whose origin has been silent for longer does not wait.
    pub async fn landed_within(&self, wait: Duration) -> Option<Landed> {
        timeout_at(self.begun + wait, self.landed()).await.ok()
    }

    /// The body that cannot be kept, for the one reader that comes first.
    pub fn take_passing(&self) -> Option<Passing> {
        self.passing.lock().take()
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

    /// Whether no reader may join any more: the object has left its disk.
    pub(super) fn is_closed(&self) -> bool {
        matches!(
            &*self.landed.borrow(),
            Some(Landed::Streaming { growing, .. }) if growing.is_memory_only()
        )
    }

    pub(super) fn land(&self, landed: Landed) {
        self.landed.send_replace(Some(landed));
    }

    pub(super) fn land_passing(&self, passing: Passing) {
        *self.passing.lock() = Some(passing);
        self.land(Landed::Passing);
    }

    /// Takes back what was said, so that readers wait for the next try.
    pub(super) fn silence(&self) {
        self.landed.send_replace(None);
    }

    /// The leader is done: where it said nothing, the fill is lost.
    pub(super) fn end(&self) {
        self.landed.send_if_modified(|landed| {
            let is_silent = landed.is_none();
            if is_silent {
                *landed = Some(lost());
            }
            is_silent
        });
        self.over.cancel();
    }
}

fn lost() -> Landed {
    Landed::Failed(Arc::new(FillError::Lost))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Fence;

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_a_flight_counts_from_its_beginning() {
        let flight = Flight::new(Fence::default().ticket(0));
        let (begun, wait) = (Instant::now(), Duration::from_secs(1));
        assert!(flight.landed_within(wait).await.is_none());
        assert_eq!(begun.elapsed(), wait);
        assert!(flight.landed_within(wait).await.is_none());
        assert_eq!(begun.elapsed(), wait);
        flight.land(lost());
        assert!(flight.landed_within(wait).await.is_some());
    }
}
