//! How many requests an origin may have under way at once, and that NARs never take all of the
//! room: an eighth is kept for what is small, so that narinfos do not wait behind downloads. One
//! per origin, as long lived as it; no lock across an await. Who waits is served in turn.

use super::exchange::FetchError;
use crate::nix::Class;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// One part in so many is kept from NARs.
const KEPT_FROM_NARS: usize = 8;

/// The slots of one origin.
#[derive(Debug)]
pub(super) struct Slots {
    origin: Arc<str>,
    all: Arc<Semaphore>,
    nars: Arc<Semaphore>,
    /// How long a request waits.
    deadline: Duration,
}

/// A place among the requests under way; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    _one: OwnedSemaphorePermit,
    _nar: Option<OwnedSemaphorePermit>,
}

impl Slots {
    /// Room for `max` requests, for which others wait up to `deadline`.
    pub(super) fn new(origin: Arc<str>, max: usize, deadline: Duration) -> Self {
        let max = max.clamp(1, Semaphore::MAX_PERMITS);
        let nars = max - max / KEPT_FROM_NARS;
        let (all, nars) = (Arc::new(Semaphore::new(max)), Arc::new(Semaphore::new(nars)));
        Self { origin, all, nars, deadline }
    }

    /// A slot, as soon as there is one.
    pub(super) async fn wait(&self, class: Class) -> Result<Slot, FetchError> {
        match tokio::time::timeout(self.deadline, self.next(class)).await {
            Ok(Ok(slot)) => Ok(slot),
            Ok(Err(_)) | Err(_) => Err(FetchError::Busy { origin: Arc::clone(&self.origin) }),
        }
    }

    /// A slot, if there is one now.
    pub(super) fn now(&self, class: Class) -> Option<Slot> {
        let nar = if class == Class::Nar {
            Some(Arc::clone(&self.nars).try_acquire_owned().ok()?)
        } else {
            None
        };
        Some(Slot { _one: Arc::clone(&self.all).try_acquire_owned().ok()?, _nar: nar })
    }

    async fn next(&self, class: Class) -> Result<Slot, AcquireError> {
        let nar = if class == Class::Nar {
            Some(Arc::clone(&self.nars).acquire_owned().await?)
        } else {
            None
        };
        Ok(Slot { _one: Arc::clone(&self.all).acquire_owned().await?, _nar: nar })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nars_leave_an_eighth_to_others() {
        let slots = Slots::new("one".into(), 16, Duration::from_secs(5));
        let nars: Vec<_> = std::iter::from_fn(|| slots.now(Class::Nar)).collect();
        assert_eq!(nars.len(), 14);
        assert!(matches!(slots.wait(Class::Nar).await, Err(FetchError::Busy { .. })));
        let small: Vec<_> = std::iter::from_fn(|| slots.now(Class::Narinfo)).collect();
        assert_eq!(small.len(), 2);
        drop(nars);
        assert!(slots.wait(Class::Nar).await.is_ok());
        let few = Slots::new("one".into(), 1, Duration::from_secs(5));
        assert!(few.wait(Class::Nar).await.is_ok());
    }
}
