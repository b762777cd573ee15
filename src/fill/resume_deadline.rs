//! How long a body that broke off is worth waiting for, and how often it is asked for meanwhile.
//! Owned by one body; no locks. Used by whatever is fetched, whole or in part.
//!
//! A body waits for its next byte until a time that begins anew with each byte. A request that
//! reached an origin must bring bytes: the wait before the next one grows threefold until
//! [`FORWARD_BYTES`] have come, so an origin that breaks off again and again gets eight requests or
//! nine in a minute. An origin that cannot be reached costs nothing by being tried: it is tried
//! every second at least, and at once when another request finds it usable again.

use crate::origin::FetchError;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Bytes that are progress: after a break that follows them, the next request does not wait; and
/// what has no reader must bring so many from time to time (see `places`).
pub(super) const FORWARD_BYTES: u64 = 256 << 10;

/// The wait before the second request that follows a break; the first does not wait.
const WAIT_FIRST: Duration = Duration::from_millis(100);

/// What each further wait is multiplied by.
const WAIT_GROWTH: u32 = 3;

/// The first pause after a round in which no origin was reached; doubled up to [`KNOCK_MAX`].
const KNOCK_FIRST: Duration = Duration::from_millis(50);

/// The longest pause between two rounds in which no origin was reached.
const KNOCK_MAX: Duration = Duration::from_secs(1);

/// How long one body that broke off is still waited for.
#[derive(Debug)]
pub(super) struct ResumeDeadline {
    whole: Duration,
    /// The longest wait before a request that follows one without enough bytes.
    wait_max: Duration,
    /// Until when a body that broke off waits for its next byte.
    until: Option<Instant>,
    /// Bytes that have come since a request was last made without a wait.
    forward: u64,
    /// The wait before the next request, unless enough bytes come.
    wait: Duration,
    /// The pause before the next round.
    pause: Pause,
}

/// What the next round of asking waits for.
#[derive(Debug, Clone, Copy)]
enum Pause {
    /// That an origin that was asked has had its rest.
    Rest(Duration),
    /// That an origin can be reached.
    Knock(Duration),
}

/// A round of asking in which no origin continued the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EmptyRound {
    /// No origin was reached.
    Unreached,
    /// An origin was reached, and did not continue the body.
    Answered,
}

impl EmptyRound {
    /// The round of an origin that failed with this error.
    pub(super) fn of(error: &FetchError) -> Self {
        if error.may_have_reached() { Self::Answered } else { Self::Unreached }
    }

    /// The round of two origins together.
    pub(super) fn and(self, other: Self) -> Self {
        if self == Self::Unreached { other } else { self }
    }
}

impl ResumeDeadline {
    /// Waits for up to `whole` without a byte.
    pub(super) fn new(whole: Duration) -> Self {
        Self {
            whole,
            wait_max: Duration::MAX,
            until: None,
            forward: 0,
            wait: Duration::ZERO,
            pause: Pause::Rest(Duration::ZERO),
        }
    }

    /// The same for a body that another request would bring as well: it is not asked for again and
    /// again.
    pub(super) fn short(self) -> Self {
        Self { wait_max: WAIT_FIRST, ..self }
    }

    /// From now on nothing else would bring the body.
    pub(super) fn lengthen(&mut self) {
        self.wait_max = Duration::MAX;
    }

    /// How long it waits without a byte.
    pub(super) fn whole(&self) -> Duration {
        self.whole
    }

    /// So many bytes have come.
    pub(super) fn came(&mut self, bytes: u64) {
        self.until = None;
        self.forward = self.forward.saturating_add(bytes);
    }

    /// Notes that the body broke off; true if it is the first time since a byte came.
    pub(super) fn broke(&mut self) -> bool {
        if self.forward >= FORWARD_BYTES {
            (self.forward, self.wait) = (0, Duration::ZERO);
        }
        self.rest();
        self.until.is_none()
    }

    /// A round of asking brought nothing.
    pub(super) fn got(&mut self, empty: EmptyRound) {
        match (empty, self.pause) {
            (EmptyRound::Answered, _) => self.rest(),
            (EmptyRound::Unreached, Pause::Rest(_)) => self.pause = Pause::Knock(KNOCK_FIRST),
            (EmptyRound::Unreached, Pause::Knock(pause)) => {
                self.pause = Pause::Knock(pause.saturating_mul(2).min(KNOCK_MAX));
            }
        }
    }

    fn rest(&mut self) {
        self.pause = Pause::Rest(self.wait);
        self.wait = self.wait.saturating_mul(WAIT_GROWTH).max(WAIT_FIRST);
    }

    /// Waits for the next round of asking; until when it may take, or `None` if the deadline has
    /// passed, or would pass before an origin has had its rest. `recovered` is when an origin is
    /// usable again.
    pub(super) async fn next_round(
        &mut self,
        recovered: impl Future<Output = ()>,
    ) -> Option<Instant> {
        let now = Instant::now();
        let until = *self.until.get_or_insert_with(|| now + self.whole);
        match self.pause {
            Pause::Rest(wait) => {
                let end = now.checked_add(jittered(wait)).filter(|end| *end < until)?;
                if wait > self.wait_max {
                    return None;
                }
                tokio::time::sleep_until(end).await;
            }
            Pause::Knock(pause) => {
                // Whichever comes first: both mean that it is time to ask.
                let _ = timeout_at((now + jittered(pause)).min(until), recovered).await;
            }
        }
        (Instant::now() < until).then_some(until)
    }
}

/// A wait of half to all of `pause`, so that bodies that broke off together do not come back
/// together.
fn jittered(pause: Duration) -> Duration {
    let half = pause / 2;
    let millis = u64::try_from(half.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return pause;
    }
    half + Duration::from_millis(crate::random::u64().map_or(0, |random| random % millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::pending;

    /// Rounds of asking that each end as `empty`, and how long they took.
    async fn rounds(deadline: &mut ResumeDeadline, empty: EmptyRound) -> (u32, Duration) {
        let (begun, mut rounds) = (Instant::now(), 0);
        while deadline.next_round(pending()).await.is_some() {
            rounds += 1;
            deadline.got(empty);
        }
        (rounds, begun.elapsed())
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_that_answers_with_nothing_is_asked_a_few_times_in_a_minute() {
        for _ in 0..50 {
            let mut deadline = ResumeDeadline::new(Duration::from_mins(1));
            assert!(deadline.broke());
            let (rounds, took) = rounds(&mut deadline, EmptyRound::Answered).await;
            assert!((7..=8).contains(&rounds), "{rounds}");
            assert!(took < Duration::from_mins(1), "{took:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_origin_that_cannot_be_reached_is_tried_until_the_patience_ends() {
        let mut deadline = ResumeDeadline::new(Duration::from_mins(1));
        deadline.broke();
        let (rounds, took) = rounds(&mut deadline, EmptyRound::Unreached).await;
        assert!((60..=130).contains(&rounds), "{rounds}");
        assert_eq!(took, Duration::from_mins(1));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_can_be_reached_again_is_asked_at_once_but_not_one_that_rests() {
        let mut deadline = ResumeDeadline::new(Duration::from_mins(1));
        deadline.broke();
        let begun = Instant::now();
        for _ in 0..10 {
            assert!(deadline.next_round(std::future::ready(())).await.is_some());
            deadline.got(EmptyRound::Unreached);
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
        deadline.got(EmptyRound::Answered);
        assert!(deadline.next_round(std::future::ready(())).await.is_some());
        assert!(begun.elapsed() >= WAIT_FIRST / 2);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_dribble_do_not_make_up_for_breaks() {
        let mut deadline = ResumeDeadline::new(Duration::from_mins(1));
        let mut requests = 0;
        loop {
            assert!(deadline.broke());
            if deadline.next_round(pending()).await.is_none() {
                break;
            }
            requests += 1;
            deadline.came(1);
        }
        assert!((7..=8).contains(&requests), "{requests}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_comes_forward_may_break_off_for_ever_without_a_wait() {
        let mut deadline = ResumeDeadline::new(Duration::from_mins(1));
        let begun = Instant::now();
        for _ in 0..10_000 {
            deadline.came(FORWARD_BYTES);
            assert!(deadline.broke());
            assert!(deadline.next_round(pending()).await.is_some());
        }
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_something_else_would_bring_too_is_given_up_soon() {
        let mut deadline = ResumeDeadline::new(Duration::from_mins(1)).short();
        deadline.broke();
        assert_eq!(rounds(&mut deadline, EmptyRound::Answered).await.0, 2);
        deadline.lengthen();
        assert!(deadline.next_round(pending()).await.is_some());
    }
}
