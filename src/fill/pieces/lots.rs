//! How many pieces may be under way, and for which clients. One per process; its lock is short and
//! never held across an await.
//!
//! A piece never waits in a queue: it is requested if there is room, and otherwise the object comes
//! over the connections that it has. A client with a large object under way has a seat. No client
//! has more pieces than an equal share of all for each seat, and all together use at most half of
//! the connections of an origin. The rest is for narinfos, and for the first connection of every
//! object.

use crate::config;
use crate::origin::Asker;
use crate::sync::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// An origin, by its site and position.
type OriginOf = (Arc<str>, usize);

/// What may be fetched in pieces, and what is.
#[derive(Debug)]
pub(in crate::fill) struct Lots {
    terms: config::PieceSettings,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    by_origin: HashMap<OriginOf, usize>,
    /// Seats and pieces of each client that has a seat.
    by_asker: HashMap<Asker, (usize, usize)>,
}

impl Lots {
    /// Nothing under way.
    pub(in crate::fill) fn new(terms: config::PieceSettings) -> Arc<Self> {
        Arc::new(Self { terms, taken: Mutex::default() })
    }

    /// The settings.
    pub(super) fn terms(&self) -> &config::PieceSettings {
        &self.terms
    }

    /// A seat for an object that `asker` wants from an origin of so many connections.
    pub(super) fn seat(
        self: &Arc<Self>,
        asker: Asker,
        origin: OriginOf,
        connections: usize,
    ) -> Arc<Seat> {
        self.taken.lock().by_asker.entry(asker).or_default().0 += 1;
        Arc::new(Seat { lots: Arc::clone(self), asker, origin, connections })
    }
}

/// An object that may be fetched in pieces. Dropped, its client's share goes to the others.
#[derive(Debug)]
pub(super) struct Seat {
    lots: Arc<Lots>,
    asker: Asker,
    origin: OriginOf,
    connections: usize,
}

impl Seat {
    /// Leave for one piece more; none where there is no room for it.
    pub(super) fn lot(self: &Arc<Self>) -> Option<Lot> {
        let mut taken = self.lots.taken.lock();
        let max = self.lots.terms.max;
        let share = max.div_ceil(taken.by_asker.len().max(1));
        let of_origin = taken.by_origin.get(&self.origin).copied().unwrap_or_default();
        let (_, own) = taken.by_asker.get(&self.asker).copied().unwrap_or_default();
        if taken.all >= max || own >= share || of_origin >= self.connections / 2 {
            return None;
        }
        taken.all += 1;
        *taken.by_origin.entry(self.origin.clone()).or_default() += 1;
        taken.by_asker.entry(self.asker).or_default().1 += 1;
        Some(Lot(Arc::clone(self)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut taken = self.lots.taken.lock();
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
pub(super) struct Lot(Arc<Seat>);

impl Drop for Lot {
    fn drop(&mut self) {
        let Seat { lots, asker, origin, .. } = &*self.0;
        let mut taken = lots.taken.lock();
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

    fn lots(max: usize) -> Arc<Lots> {
        Lots::new(config::PieceSettings {
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

    fn as_many(seat: &Arc<Seat>) -> Vec<Lot> {
        std::iter::from_fn(|| seat.lot()).collect()
    }

    #[test]
    fn one_client_has_all_of_it_and_two_have_half_each() {
        let lots = lots(8);
        let first = lots.seat(asker(1), origin(), 100);
        let mut of_first = as_many(&first);
        assert_eq!(of_first.len(), 8);
        let second = lots.seat(asker(2), origin(), 100);
        assert_eq!(as_many(&second).len(), 0, "until one is done");
        of_first.truncate(5);
        assert!(first.lot().is_none(), "it has more than its share");
        let of_second = as_many(&second);
        assert_eq!(of_second.len(), 3);
        of_first.truncate(2);
        assert_eq!((as_many(&first).len(), of_first.len()), (2, 2));
        drop((of_first, of_second, first));
        assert_eq!(as_many(&second).len(), 8);
    }

    #[test]
    fn many_objects_of_one_client_are_one_share() {
        let lots = lots(8);
        let seats: Vec<_> = (0..5).map(|_| lots.seat(asker(1), origin(), 100)).collect();
        let other = lots.seat(asker(2), origin(), 100);
        let of_one: Vec<_> = seats.iter().flat_map(as_many).collect();
        assert_eq!(of_one.len(), 4);
        assert_eq!(as_many(&other).len(), 4);
    }

    #[test]
    fn half_of_an_origin_s_connections_are_left() {
        let lots = lots(8);
        let seat = lots.seat(asker(1), origin(), 6);
        let taken = as_many(&seat);
        assert_eq!(taken.len(), 3);
        let elsewhere = lots.seat(asker(1), ("site".into(), 1), 100);
        assert_eq!(as_many(&elsewhere).len(), 5);
    }

    #[test]
    fn all_is_given_back() {
        let lots = lots(4);
        for last in 0..20 {
            let seat = lots.seat(asker(last), origin(), 100);
            let taken = as_many(&seat);
            drop(seat);
            assert_eq!(taken.len(), 4, "a piece outlives its object's seat");
        }
        let taken = lots.taken.lock();
        assert_eq!(taken.all, 0);
        assert!(taken.by_asker.is_empty() && taken.by_origin.is_empty());
    }
}
