//! How long an origin takes to answer for small objects: the last 512 times to the head, and
//! what nearly all of them stay below. One per origin, as long lived as it; the lock is held for
//! a sample, or a selection among 512 numbers. A reload begins anew.
//!
//! A window of the last samples forgets by itself, which a histogram for all time does not, and 2
//! KiB give the quantile exactly. The time of a dropped request is noted too, as far as it went:
//! else a hedge that wins would hide the slow answer from the window.

use crate::sync::Mutex;
use std::time::Duration;

/// Samples in the window.
const SAMPLES_MAX: usize = 512;
/// Samples without which nothing is said.
const SAMPLES_MIN: usize = 32;
/// The bound is drawn anew after so many samples.
const SAMPLES_PER_LOOK: usize = 16;
/// What is waited beyond the bound, so that answers that take a little longer than most are not
/// asked for twice: they would be there as soon as the second one, and take from the budget what
/// a slow answer needs. With 1.25 the budget was spent on a busy machine, and nothing gained.
const MARGIN: f64 = 2.0;
/// The shortest wait for a first answer, whatever the window says.
const WAIT_MIN: Duration = Duration::from_millis(5);

/// The window.
#[derive(Debug, Default)]
pub(super) struct FirstBytes {
    state: Mutex<SampleWindow>,
}

#[derive(Debug, Default)]
struct SampleWindow {
    /// In microseconds; a ring once it is full.
    samples: Vec<u32>,
    next: usize,
    until_look: usize,
    wait: Option<Duration>,
}

impl FirstBytes {
    /// An answer took so long, or was given up after so long.
    pub(super) fn note(&self, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let mut window = self.state.lock();
        let next = window.next;
        match window.samples.get_mut(next) {
            Some(oldest) => *oldest = micros,
            None => window.samples.push(micros),
        }
        window.next = (next + 1) % SAMPLES_MAX;
        window.until_look = window.until_look.saturating_sub(1);
        if window.until_look == 0 {
            window.until_look = SAMPLES_PER_LOOK;
            window.wait = wait(&window.samples);
        }
    }

    /// How long to wait for an answer before another is asked for; `None` before enough is known.
    pub(super) fn hedge_after(&self) -> Option<Duration> {
        self.state.lock().wait
    }
}

/// The observed 95th percentile as far as the samples are sure of it, and a margin.
///
/// If exactly a twentieth of the answers is slow, chance decides on which side of the edge the
/// sample's own 95th percentile falls. On the far side no slow answer would be hedged. So the rank
/// is that of the lower end of its confidence interval, two deviations (of a binomial count) below.
fn wait(samples: &[u32]) -> Option<Duration> {
    if samples.len() < SAMPLES_MIN {
        return None;
    }
    let count = samples.len();
    // 0.95 n - 2 sqrt(0.95 * 0.05 n), in whole numbers: sqrt(0.19 n) = sqrt(19 n / 100).
    let rank = (count * 95 / 100).saturating_sub((count * 19 / 100).isqrt() + 1);
    let mut sorted = samples.to_vec();
    let (_, bound, _) = sorted.select_nth_unstable(rank.min(count - 1));
    let bound = Duration::from_micros(u64::from(*bound));
    Some(bound.mul_f64(MARGIN).max(WAIT_MIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_said_before_enough_is_known_and_old_times_are_forgotten() {
        let window = FirstBytes::default();
        for _ in 0..SAMPLES_MIN - 1 {
            window.note(Duration::from_millis(100));
        }
        assert_eq!(window.hedge_after(), None);
        for _ in 0..SAMPLES_PER_LOOK {
            window.note(Duration::from_millis(100));
        }
        assert_eq!(window.hedge_after(), Some(Duration::from_millis(200)));
        for _ in 0..SAMPLES_MAX + SAMPLES_PER_LOOK {
            window.note(Duration::from_millis(20));
        }
        assert_eq!(window.hedge_after(), Some(Duration::from_millis(40)));
        for _ in 0..SAMPLES_MAX + SAMPLES_PER_LOOK {
            window.note(Duration::from_micros(20));
        }
        assert_eq!(window.hedge_after(), Some(WAIT_MIN));
    }

    #[test]
    fn a_slow_twentieth_does_not_become_the_measure() {
        for slow in [0, 20, 26, 33] {
            let samples: Vec<u32> =
                (0..512).map(|at| if at < slow { 2_000_000 } else { 100_000 + at }).collect();
            let wait = wait(&samples).unwrap();
            assert!(wait < Duration::from_millis(210), "{slow}: {wait:?}");
        }
        // A tenth is how this origin is.
        let samples: Vec<u32> =
            (0..512).map(|at| if at < 51 { 2_000_000 } else { 100_000 }).collect();
        assert!(wait(&samples).unwrap() > Duration::from_secs(1));
    }
}
