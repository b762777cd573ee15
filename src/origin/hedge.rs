//! A second request if the first is slow: the race of the two. Pure but for the wait; nothing
//! outlives the call, and dropping it drops both. Called by `Origins` for small objects.
//!
//! The first good answer wins and the other request is dropped. What is not good from one of them
//! (a failure, or another origin's absence) is never the answer while the other is under way.

use std::future::Future;
use std::time::Duration;
use tokio::pin;
use tokio::time::sleep;

/// What came of a race.
#[derive(Debug)]
pub(super) struct RaceResult<T> {
    /// What the first said; none if the second was good before it.
    pub first: Option<T>,
    /// What the second said; none if there was none, or the first was good before it.
    pub second: Option<T>,
}

/// Runs `first`, and beside it what `begin` gives, once `wait` is over without an answer.
/// `is_good` tells which answer ends the race.
pub(super) async fn race<T, F, S>(
    first: F,
    wait: Duration,
    begin: impl FnOnce() -> Option<S>,
    is_good: impl Fn(&T) -> bool,
) -> RaceResult<T>
where
    F: Future<Output = T>,
    S: Future<Output = T>,
{
    pin!(first);
    tokio::select! {
        biased;
        said = &mut first => return RaceResult { first: Some(said), second: None },
        () = sleep(wait) => {}
    }
    let Some(second) = begin() else {
        return RaceResult { first: Some(first.await), second: None };
    };
    pin!(second);
    tokio::select! {
        biased;
        said = &mut first => {
            let second = if is_good(&said) { None } else { Some(second.await) };
            RaceResult { first: Some(said), second }
        }
        said = &mut second => {
            let first = if is_good(&said) { None } else { Some(first.await) };
            RaceResult { first, second: Some(said) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::Budget;
    use super::super::first_bytes::FirstBytes;
    use super::*;
    use std::cell::Cell;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::time::Instant;

    async fn says(word: &'static str, after: u64) -> &'static str {
        sleep(Duration::from_millis(after)).await;
        word
    }

    async fn raced(
        first: (&'static str, u64),
        second: (&'static str, u64),
    ) -> (Option<&'static str>, Option<&'static str>, u128) {
        let before = Instant::now();
        let wait = Duration::from_millis(100);
        let begin = || Some(says(second.0, second.1));
        let raced = race(says(first.0, first.1), wait, begin, |said| *said != "bad").await;
        (raced.first, raced.second, before.elapsed().as_millis())
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_good_answer_wins_and_a_bad_one_waits_for_the_other() {
        let good = |after| ("good", after);
        let bad = |after| ("bad", after);
        for (first, second, expected) in [
            (good(50), good(0), (Some("good"), None, 50)),
            (bad(50), good(0), (Some("bad"), None, 50)),
            (good(500), good(50), (None, Some("good"), 150)),
            (good(120), good(50), (Some("good"), None, 120)),
            (good(500), bad(50), (Some("good"), Some("bad"), 500)),
            (bad(120), good(50), (Some("bad"), Some("good"), 150)),
            (bad(120), bad(50), (Some("bad"), Some("bad"), 150)),
        ] {
            let case = format!("{first:?} {second:?}");
            assert_eq!(raced(first, second).await, expected, "{case}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_begun_for_an_answer_in_time_or_without_leave() {
        let count = Cell::new(0);
        for after in [0, 50, 99] {
            let begin = || {
                count.set(count.get() + 1);
                Some(says("second", 0))
            };
            race(says("first", after), Duration::from_millis(100), begin, |_| true).await;
        }
        assert_eq!(count.get(), 0);
        let none = || None::<std::future::Ready<&str>>;
        let raced = race(says("first", 500), Duration::from_millis(100), none, |_| true).await;
        assert_eq!((raced.first, raced.second), (Some("first"), None));
    }

    /// An origin that answers in 80 to 120 ms, and for a twentieth of the requests, at random, in
    /// two seconds.
    struct Slow(AtomicU64);

    impl Slow {
        fn draw(&self) -> u64 {
            // xorshift64*: the same numbers each time.
            let mut x = self.0.load(Ordering::Relaxed);
            x ^= x >> 12;
            x ^= x << 25;
            x ^= x >> 27;
            self.0.store(x, Ordering::Relaxed);
            x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33
        }

        async fn ask(&self) {
            let millis = if self.draw().is_multiple_of(20) { 2_000 } else { 80 + self.draw() % 40 };
            sleep(Duration::from_millis(millis)).await;
        }
    }

    /// Asks `count` times, one after the other; the times in ms, sorted, and the requests.
    async fn times(seed: u64, count: u64, percent: u32) -> (Vec<u128>, u64) {
        let origin = Slow(AtomicU64::new(seed));
        let (window, budget) = (FirstBytes::default(), Budget::of_hedges(percent));
        let (mut times, mut requests) = (Vec::new(), 0);
        for _ in 0..count {
            let before = Instant::now();
            budget.earn();
            requests += 1;
            let hedged = Cell::new(false);
            let begin = || {
                hedged.set(budget.spend());
                hedged.get().then(|| origin.ask())
            };
            let wait = window.hedge_after().unwrap_or(Duration::MAX);
            race(origin.ask(), wait, begin, |()| true).await;
            requests += u64::from(hedged.get());
            window.note(before.elapsed());
            times.push(before.elapsed().as_millis());
        }
        times.sort_unstable();
        (times, requests)
    }

    #[tokio::test(start_paused = true)]
    async fn hedging_halves_the_99th_percentile_by_a_twentieth_of_requests() {
        const COUNT: u64 = 10_000;
        for seed in [1, 2, 3, 4, 5] {
            let (without, alone) = times(seed, COUNT, 0).await;
            let (with, hedged) = times(seed, COUNT, 5).await;
            let p99 = |times: &[u128]| times[times.len() * 99 / 100];
            assert_eq!((alone, p99(&without)), (COUNT, 2_000));
            assert!(hedged <= COUNT + COUNT / 20, "seed {seed}: {hedged} requests");
            let p99 = p99(&with);
            assert!(p99 <= 1_000, "seed {seed}: {p99} ms by {hedged} requests");
        }
    }
}
