//! How many pieces may be under way, and for which clients. One per process; its lock is short and
//! never held across an await.
//!
//! A piece never waits in a queue: it is requested if the limits allow it. Otherwise the object
//! comes over the connections that it has. Clients with a large object under way have equal shares
//! of all pieces, and all pieces together use at most half of the connections of an origin. The
//! other half is for narinfos, and for the first connection of every object.

use crate::config;
use crate::origin::Asker;
use crate::sync::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// An origin, by its site and position.
type OriginOf = (Arc<str>, usize);

/// What may be fetched in pieces, and what is.
#[derive(Debug)]
pub(in crate::fill) struct ParallelLimits {
    terms: config::PieceSettings,
    taken: Mutex<LimitCounts>,
}

#[derive(Debug, Default)]
struct LimitCounts {
    all: usize,
    by_origin: HashMap<OriginOf, usize>,
    /// Seats and pieces of each client that has a seat.
    by_asker: HashMap<Asker, (usize, usize)>,
}

impl ParallelLimits {
    /// Nothing under way.
    pub(in crate::fill) fn new(terms: config::PieceSettings) -> Arc<Self> {
        Arc::new(Self { terms, taken: Mutex::default() })
    }

    /// The settings.
    pub(super) fn terms(&self) -> &config::PieceSettings {
        &self.terms
    }

    /// A seat for an object that `asker` wants from an origin of so many connections.
    pub(super) fn share(
        self: &Arc<Self>,
        asker: Asker,
        origin: OriginOf,
        connections: usize,
    ) -> Arc<ClientShare> {
        self.taken.lock().by_asker.entry(asker).or_default().0 += 1;
        Arc::new(ClientShare { limits: Arc::clone(self), asker, origin, connections })
    }
}

/// An object that may be fetched in pieces. Dropped, its client's share goes to the others.
#[derive(Debug)]
pub(super) struct ClientShare {
    limits: Arc<ParallelLimits>,
    asker: Asker,
    origin: OriginOf,
    connections: usize,
}

impl ClientShare {
    /// Leave for one piece more; none if a limit is reached.
    pub(super) fn permit(self: &Arc<Self>) -> Option<PiecePermit> {
        let mut taken = self.limits.taken.lock();
        let max = self.limits.terms.max;
        let share = max.div_ceil(taken.by_asker.len().max(1));
        let of_origin = taken.by_origin.get(&self.origin).copied().unwrap_or_default();
        let (_, own) = taken.by_asker.get(&self.asker).copied().unwrap_or_default();
        if taken.all >= max || own >= share || of_origin >= self.connections / 2 {
            return None;
        }
        taken.all += 1;
        *taken.by_origin.entry(self.origin.clone()).or_default() += 1;
        taken.by_asker.entry(self.asker).or_default().1 += 1;
        Some(PiecePermit(Arc::clone(self)))
    }
}

impl Drop for ClientShare {
    fn drop(&mut self) {
        let mut taken = self.limits.taken.lock();
        if let Some((seats, _)) = taken.by_asker.get_mut(&self.asker) {
            *seats = seats.saturating_sub(1);
            if *seats == 0 {
                // Its pieces hold its seats: there are none any more.
                taken.by_asker.remove(&self.asker);
            }
        }
    }
}

/// Leave for one piece, until it is dropped.
#[derive(Debug)]
pub(super) struct PiecePermit(Arc<ClientShare>);

impl Drop for PiecePermit {
    fn drop(&mut self) {
        let ClientShare { limits, asker, origin, .. } = &*self.0;
        let mut taken = limits.taken.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Some(count) = taken.by_origin.get_mut(origin) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.by_origin.remove(origin);
            }
        }
        if let Some((_, count)) = taken.by_asker.get_mut(asker) {
            *count = count.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn limits(max: usize) -> Arc<ParallelLimits> {
        ParallelLimits::new(config::PieceSettings {
            size: 1 << 20,
            per_fill_max: 8,
            max,
            after: Duration::ZERO,
        })
    }

    fn asker(last: u8) -> Asker {
        Asker::at([192, 0, 2, last].into())
    }

    fn origin() -> OriginOf {
        ("site".into(), 0)
    }

    fn as_many(share: &Arc<ClientShare>) -> Vec<PiecePermit> {
        std::iter::from_fn(|| share.permit()).collect()
    }

    #[test]
    fn one_client_has_all_of_it_and_two_have_half_each() {
        let limits = limits(8);
        let first = limits.share(asker(1), origin(), 100);
        let mut of_first = as_many(&first);
        assert_eq!(of_first.len(), 8);
        let second = limits.share(asker(2), origin(), 100);
        assert_eq!(as_many(&second).len(), 0, "until one is done");
        of_first.truncate(5);
        assert!(first.permit().is_none(), "it has more than its share");
        let of_second = as_many(&second);
        assert_eq!(of_second.len(), 3);
        of_first.truncate(2);
        assert_eq!((as_many(&first).len(), of_first.len()), (2, 2));
        drop((of_first, of_second, first));
        assert_eq!(as_many(&second).len(), 8);
    }

    #[test]
    fn many_objects_of_one_client_are_one_share() {
        let limits = limits(8);
        let seats: Vec<_> = (0..5).map(|_| limits.share(asker(1), origin(), 100)).collect();
        let other = limits.share(asker(2), origin(), 100);
        let of_one: Vec<_> = seats.iter().flat_map(as_many).collect();
        assert_eq!(of_one.len(), 4);
        assert_eq!(as_many(&other).len(), 4);
    }

    #[test]
    fn half_of_an_origin_s_connections_are_left() {
        let limits = limits(8);
        let share = limits.share(asker(1), origin(), 6);
        let taken = as_many(&share);
        assert_eq!(taken.len(), 3);
        let elsewhere = limits.share(asker(1), ("site".into(), 1), 100);
        assert_eq!(as_many(&elsewhere).len(), 5);
    }

    #[test]
    fn all_is_given_back() {
        let limits = limits(4);
        for last in 0..20 {
            let share = limits.share(asker(last), origin(), 100);
            let taken = as_many(&share);
            drop(share);
            assert_eq!(taken.len(), 4, "a piece outlives its object's seat");
        }
        let taken = limits.taken.lock();
        assert_eq!(taken.all, 0);
        assert!(taken.by_asker.is_empty() && taken.by_origin.is_empty());
    }
}
