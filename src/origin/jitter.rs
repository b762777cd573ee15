//! Random numbers of the origins: waits that differ, so that what failed together does not come
//! back together. Stateless; no locks. Called by `upstream` and `breaker`.

use crate::random;
use std::time::Duration;

/// A wait of half to all of `longest`, drawn anew each time.
pub(super) fn jittered(longest: Duration) -> Duration {
    // Without randomness the wait is the longest: never shorter than meant.
    longest / 2 + (longest / 2).mul_f64(random::share())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_lies_between_half_and_all() {
        let longest = Duration::from_millis(200);
        let waits: Vec<_> = (0..1_000).map(|_| jittered(longest)).collect();
        assert!(waits.iter().all(|wait| (longest / 2..=longest).contains(wait)));
        assert!(waits.iter().any(|wait| *wait < longest.mul_f64(0.6)));
        assert!(waits.iter().any(|wait| *wait > longest.mul_f64(0.9)));
    }
}
