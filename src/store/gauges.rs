//! Gauges that several stores share: each adds what it has, and takes it away again when it closes.
//! One value per store and group of gauges; no lock: what sets them holds one that keeps others
//! from it, or only adds.

use prometheus::IntGauge;
use std::sync::atomic::{AtomicI64, Ordering};

/// What one store shows on some gauges.
#[derive(Debug)]
pub(super) struct SharedGauges<const COUNT: usize>([(IntGauge, AtomicI64); COUNT]);

impl<const COUNT: usize> SharedGauges<COUNT> {
    /// Nothing yet.
    pub(super) fn new(gauges: [IntGauge; COUNT]) -> Self {
        Self(gauges.map(|gauge| (gauge, AtomicI64::new(0))))
    }

    /// Shows these numbers in place of those before.
    pub(super) fn set(&self, now: [u64; COUNT]) {
        for ((gauge, shown), now) in self.0.iter().zip(now) {
            let now = i64::try_from(now).unwrap_or(i64::MAX);
            gauge.add(now - shown.swap(now, Ordering::Relaxed));
        }
    }

    /// Shows so much more or less.
    pub(super) fn add(&self, more: [i64; COUNT]) {
        for ((gauge, shown), more) in self.0.iter().zip(more) {
            shown.fetch_add(more, Ordering::Relaxed);
            gauge.add(more);
        }
    }
}

impl<const COUNT: usize> Drop for SharedGauges<COUNT> {
    /// What is closed is no longer stored by this process.
    fn drop(&mut self) {
        self.set([0; COUNT]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_store_shows_its_own_and_takes_it_away() {
        let gauge = IntGauge::new("a", "b").unwrap();
        let (one, other) = (SharedGauges::new([gauge.clone()]), SharedGauges::new([gauge.clone()]));
        one.set([5]);
        other.set([7]);
        one.set([3]);
        other.add([-1]);
        assert_eq!(gauge.get(), 9);
        drop(other);
        assert_eq!(gauge.get(), 3);
        drop(one);
        assert_eq!(gauge.get(), 0);
    }
}
