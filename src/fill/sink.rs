//! Where a body goes that readers follow while it comes: into the store, or, where the disk fails
//! under it, through a window of memory to its readers alone. Owned by the fill's leader.

use super::{FillError, Flight};
use crate::metrics::Metrics;
use crate::object::Sha256;
use crate::store::{Adrift, Ahead, Pending, WriteError, Written};
use bytes::Bytes;

/// Where a body goes.
#[derive(Debug)]
pub(super) struct Sink<'a> {
    place: Place,
    flight: &'a Flight,
    metrics: &'a Metrics,
}

#[derive(Debug)]
enum Place {
    Store(Pending),
    Nowhere(Adrift),
    /// Between the two, and after what neither survives.
    Lost,
}

impl<'a> Sink<'a> {
    pub(super) fn new(pending: Pending, flight: &'a Flight, metrics: &'a Metrics) -> Self {
        Self { place: Place::Store(pending), flight, metrics }
    }

    /// Adds the next bytes; waits for the disk, or for the slowest reader.
    pub(super) async fn append(&mut self, piece: Bytes) -> Result<(), FillError> {
        match &mut self.place {
            Place::Store(pending) => match pending.append(piece).await {
                Err(error) => self.leave_the_disk(error),
                Ok(()) => Ok(()),
            },
            Place::Nowhere(adrift) => Ok(adrift.append(piece).await?),
            Place::Lost => Err(FillError::Lost),
        }
    }

    /// Lets readers see everything before offset `upto`.
    pub(super) fn reveal(&self, upto: u64) {
        match &self.place {
            Place::Store(pending) => pending.reveal(upto),
            Place::Nowhere(adrift) => adrift.reveal(upto),
            Place::Lost => {}
        }
    }

    /// Bytes received so far.
    pub(super) fn received(&self) -> u64 {
        match &self.place {
            Place::Store(pending) => pending.received(),
            Place::Nowhere(adrift) => adrift.received(),
            Place::Lost => 0,
        }
    }

    /// Where bytes may be written before their turn; none where there is no disk any more.
    pub(super) async fn ahead(&mut self) -> Result<Option<Ahead>, FillError> {
        let Place::Store(pending) = &mut self.place else { return Ok(None) };
        match pending.ahead().await {
            Ok(ahead) => Ok(Some(ahead)),
            Err(error) => self.leave_the_disk(error).map(|()| None),
        }
    }

    /// Takes in what was written ahead, as far as that is to be had: [`Sink::received`] tells.
    pub(super) async fn take_in(&mut self, written: Written) -> Result<(), FillError> {
        let Place::Store(pending) = &mut self.place else { return Ok(()) };
        match pending.take_in(written).await {
            Ok(()) => Ok(()),
            Err(error) => self.leave_the_disk(error),
        }
    }

    /// The body has ended: its SHA-256 and its bytes. Reveals nothing.
    pub(super) async fn end(&mut self) -> Result<(Sha256, u64), FillError> {
        if let Place::Store(pending) = &mut self.place {
            match pending.end().await {
                Ok(ended) => return Ok(ended),
                Err(error) => self.leave_the_disk(error)?,
            }
        }
        match &mut self.place {
            Place::Nowhere(adrift) => Ok(adrift.end()),
            Place::Store(_) | Place::Lost => Err(FillError::Lost),
        }
    }

    /// Lets readers see all of it, and gives back what may still be stored.
    pub(super) fn proven(self) -> Option<Pending> {
        match self.place {
            Place::Store(pending) => {
                pending.reveal_all();
                Some(pending)
            }
            Place::Nowhere(adrift) => {
                adrift.reveal_all();
                None
            }
            Place::Lost => None,
        }
    }

    /// Goes on in memory alone where `error` is the disk's; nobody joins the flight from now on.
    fn leave_the_disk(&mut self, error: WriteError) -> Result<(), FillError> {
        let Place::Store(pending) = std::mem::replace(&mut self.place, Place::Lost) else {
            return Err(error.into());
        };
        if !error.spares_the_body() {
            return Err(error.into());
        }
        self.flight.close();
        let received = pending.received();
        tracing::warn!(
            site = pending.key().site(),
            path = pending.key().path(),
            received,
            error = &error as &dyn std::error::Error,
            "the disk failed under a fill, which goes on without it"
        );
        self.metrics.fills_adrift.inc();
        self.place = Place::Nowhere(pending.adrift()?);
        Ok(())
    }
}
