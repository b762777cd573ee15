//! How fast stored bytes are read back beside the service: a number of bytes a second, and for the
//! scrubber a place in its pass for every moment. The arithmetic is pure; [`ReadPacer`] waits, on a
//! blocking thread, and hears when to stop. Owned by one check; no locks.

use crate::object::KeyHash;
use crate::tasks;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long a wait goes on before it looks whether to stop.
const LOOK: Duration = Duration::from_millis(50);

/// The process stops, or the result is not wanted any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct Stopped;

/// Keeps reading below a number of bytes a second.
#[derive(Debug)]
pub(in crate::store) struct ReadPacer {
    rate: u64,
    /// Until when what was read is paid for.
    paid: Instant,
    stop: CancellationToken,
}

impl ReadPacer {
    /// At most `rate` bytes a second, until `stop`.
    pub(in crate::store) fn new(rate: u64, stop: CancellationToken) -> Self {
        Self { rate, paid: Instant::now(), stop }
    }

    /// What stops it.
    pub(in crate::store) fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Counts `bytes` that are about to be read, and waits until those before are paid for; time
    /// that was not used is not saved up. Blocking.
    pub(in crate::store) fn spend(&mut self, bytes: u64) -> Result<(), Stopped> {
        loop {
            if self.stop.is_cancelled() {
                return Err(Stopped);
            }
            let left = self.paid.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            tasks::sleep_blocking(left.min(LOOK));
        }
        let cost = duration_of(bytes, self.rate);
        self.paid = self.paid.max(Instant::now()).checked_add(cost).unwrap_or(self.paid);
        Ok(())
    }
}

/// How long `bytes` take at `rate` bytes a second; at most a day.
fn duration_of(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    let day = Duration::from_hours(24);
    u64::try_from(nanos).map_or(day, Duration::from_nanos).min(day)
}

/// How much of all objects stands before `hash` in the order of hashes, 0 to 1: hashes are uniform,
/// so no count is needed.
pub(in crate::store) fn fraction(hash: KeyHash) -> f64 {
    let [first, second, third, fourth, ..] = hash.0;
    f64::from(u32::from_be_bytes([first, second, third, fourth])) / f64::from(u32::MAX)
}

/// When in a pass of length `pass` the object `hash` is due, from the beginning of the pass.
pub(in crate::store) fn due(hash: KeyHash, pass: Duration) -> Duration {
    Duration::try_from_secs_f64(pass.as_secs_f64() * fraction(hash)).unwrap_or(pass)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    #[test]
    fn bytes_cost_what_the_rate_says() {
        assert_eq!(duration_of(32 << 20, 32 << 20), Duration::from_secs(1));
        assert_eq!(duration_of(1, 1 << 40), Duration::ZERO);
        assert_eq!(duration_of(u64::MAX, 0), Duration::from_hours(24));
    }

    #[test]
    fn a_stopped_pacer_does_not_wait() {
        let stop = CancellationToken::new();
        let mut pacer = ReadPacer::new(1, stop.clone());
        assert_eq!(pacer.spend(1 << 20), Ok(()));
        stop.cancel();
        assert_eq!(pacer.spend(1), Err(Stopped));
    }

    #[test]
    fn a_pass_begins_and_ends_in_time() {
        let pass = Duration::from_hours(24);
        assert_eq!(due(KeyHash([0; 16]), pass), Duration::ZERO);
        assert_eq!(due(KeyHash([0xff; 16]), pass), pass);
        assert_eq!(due(KeyHash([0xff; 16]), Duration::ZERO), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn what_comes_later_is_due_later(one: [u8; 16], other: [u8; 16], hours in 1..10_000_u64) {
            let pass = Duration::from_hours(hours);
            let (one, other) = (KeyHash(one.min(other)), KeyHash(one.max(other)));
            assert!(due(one, pass) <= due(other, pass));
            assert!((0.0..=1.0).contains(&fraction(one)));
        }

        #[test]
        fn no_rate_overflows(bytes in any::<u64>(), rate in any::<u64>()) {
            assert!(duration_of(bytes, rate) <= Duration::from_hours(24));
        }
    }
}
