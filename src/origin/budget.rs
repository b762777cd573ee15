//! What may be asked of an origin beyond what is wanted: a bucket that each request fills by a
//! share and each retry or hedge empties by one. One per origin and purpose, as long lived as the
//! origin; the lock is held for a sum. A reload begins with new ones.

use crate::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// Retries that are possible at once, without any other request before them.
const RETRIES_IN_RESERVE: f64 = 10.0;
/// The reserve of retries comes back within this time, so that an edge that is asked little can
/// retry nevertheless.
const RESERVE_BACK: Duration = Duration::from_mins(1);
/// Hedges that quiet times may save up. At the start there are none: never more than the share.
const HEDGES_SAVED_MAX: f64 = 50.0;

/// A budget.
#[derive(Debug)]
pub(super) struct Budget {
    share: f64,
    capacity: f64,
    per_second: f64,
    state: Mutex<BudgetState>,
}

#[derive(Debug)]
struct BudgetState {
    left: f64,
    at: Instant,
}

impl Budget {
    /// Of retries, `percent` of the requests beside a small reserve; 0: none at all.
    pub(super) fn of_retries(percent: u32) -> Self {
        let capacity = if percent == 0 { 0.0 } else { RETRIES_IN_RESERVE };
        let per_second = capacity / RESERVE_BACK.as_secs_f64();
        Self::new(percent, capacity, per_second, capacity)
    }

    /// Of hedges, at most `percent` of the requests.
    pub(super) fn of_hedges(percent: u32) -> Self {
        let capacity = if percent == 0 { 0.0 } else { HEDGES_SAVED_MAX };
        Self::new(percent, capacity, 0.0, 0.0)
    }

    fn new(percent: u32, capacity: f64, per_second: f64, left: f64) -> Self {
        let state = Mutex::new(BudgetState { left, at: Instant::now() });
        Self { share: f64::from(percent) / 100.0, capacity, per_second, state }
    }

    /// A request is made.
    pub(super) fn earn(&self) {
        let mut state = self.state.lock();
        state.left = (state.left + self.share).min(self.capacity);
    }

    /// Takes one out; false if none is left.
    pub(super) fn spend(&self) -> bool {
        let mut state = self.state.lock();
        let now = Instant::now();
        let back = now.duration_since(state.at).as_secs_f64() * self.per_second;
        state.left = (state.left + back).min(self.capacity);
        state.at = now;
        // Shares such as a twentieth do not add up to one exactly.
        let has_one = state.left >= 1.0 - 1e-9;
        if has_one {
            state.left -= 1.0;
        }
        has_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spent(budget: &Budget, requests: usize) -> usize {
        let each = |_| {
            budget.earn();
            budget.spend()
        };
        (0..requests).map(each).filter(|is_spent| *is_spent).count()
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_retried_by_a_fifth_beside_the_reserve() {
        let budget = Budget::of_retries(20);
        assert_eq!(spent(&budget, 1_000), 209);
        tokio::time::advance(Duration::from_mins(1)).await;
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 10);
        assert_eq!(spent(&Budget::of_retries(0), 1_000), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn hedges_never_exceed_their_share() {
        let budget = Budget::of_hedges(5);
        (0..2_000).for_each(|_| budget.earn());
        assert_eq!((0..1_000).filter(|_| budget.spend()).count(), 50);
        assert_eq!(spent(&Budget::of_hedges(5), 1_000), 50);
        assert_eq!(spent(&Budget::of_hedges(0), 1_000), 0);
    }
}
