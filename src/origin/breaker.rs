//! Whether an origin is asked at all. One per origin, as long lived as it; the lock is held for a
//! comparison. Asked and told by `upstream` around each request, and by `watch`, its prober.
//!
//! ```text
//! closed --failures in a row--> open --its time is over--> half open: one probe
//!   ^  ^                         ^  |                        |      |
//!   |  +---- any answer ---------|--+                        |      |
//!   |                            +------- fails: twice the time ----+
//!   +------------------------- answers -------------------------+
//! ```
//!
//! While it is open, requests fail at once: the next origin, or what is stored, serves without
//! another deadline. An open breaker is a failure, never an absence, and it tells nobody's
//! readiness: what opened it did. An answer of any kind that is no failure closes it, one that was
//! asked for before it opened too, since it shows that the origin is there. A probe that is dropped
//! without an outcome leaves it open for another second, so that it never stays half open.
//!
//! Purges and restarts do not meet it: it holds nothing of any object. A reload begins closed.

use super::jitter::jittered;
use super::meters::Meters;
use crate::config::BreakerSettings;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// How long it is open first.
const OPEN_FIRST: Duration = Duration::from_secs(1);
/// How long after its time the prober alone may probe: so no client pays for a probe, unless
/// there is no prober.
const GRACE: Duration = Duration::from_secs(1);

/// The breaker of one origin.
#[derive(Debug)]
pub(super) struct Breaker {
    settings: BreakerSettings,
    meters: Meters,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant, wait: Duration },
    HalfOpen { wait: Duration },
}

/// What the gauge shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BreakerState {
    Closed,
    HalfOpen,
    Open,
}

impl BreakerState {
    /// The label of a transition to it.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half_open",
            Self::Open => "open",
        }
    }
}

/// Who wants to ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// Somebody who wants an object.
    Request,
    /// The prober.
    Prober,
}

/// The leave to ask once; dropped without an outcome it changes nothing, but for a probe's end.
#[derive(Debug)]
pub(super) struct Leave<'a> {
    breaker: &'a Breaker,
    /// The wait that a failed probe doubles; none where this is no probe.
    probing: Option<Duration>,
}

impl Breaker {
    /// Closed.
    pub(super) fn new(settings: BreakerSettings, meters: Meters) -> Self {
        meters.breaker(BreakerState::Closed);
        Self { settings, meters, state: Mutex::new(State::Closed { failures: 0 }) }
    }

    /// The leave to ask; none while it is open.
    pub(super) fn admit(&self, caller: Caller) -> Option<Leave<'_>> {
        let mut state = self.state.lock();
        match *state {
            State::Closed { .. } => Some(Leave { breaker: self, probing: None }),
            State::Open { until, wait } if is_due(until, caller) => {
                self.change(&mut state, State::HalfOpen { wait });
                Some(Leave { breaker: self, probing: Some(wait) })
            }
            State::Open { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// Whether a request would be refused now.
    pub(super) fn refuses(&self) -> bool {
        match *self.state.lock() {
            State::Closed { .. } => false,
            State::Open { until, .. } => !is_due(until, Caller::Request),
            State::HalfOpen { .. } => true,
        }
    }

    /// Whether it is closed.
    pub(super) fn is_closed(&self) -> bool {
        matches!(*self.state.lock(), State::Closed { .. })
    }

    /// When the prober is to look next; `None` where it is closed.
    pub(super) fn next_probe(&self) -> Option<Instant> {
        match *self.state.lock() {
            State::Closed { .. } => None,
            State::Open { until, .. } => Some(until),
            // Somebody else's probe is under way.
            State::HalfOpen { .. } => Some(Instant::now() + OPEN_FIRST),
        }
    }

    fn change(&self, state: &mut State, to: State) {
        let (from, shown) = (shown(*state), shown(to));
        *state = to;
        if from != shown {
            self.meters.breaker(shown);
            self.meters.breaker_turned(shown);
        }
    }

    fn open(&self, state: &mut State, wait: Duration) {
        let wait = wait.min(self.settings.open_max);
        let until = Instant::now() + jittered(wait);
        self.change(state, State::Open { until, wait });
    }
}

impl Leave<'_> {
    /// The origin answered.
    pub(super) fn answered(mut self) {
        self.probing = None;
        let mut state = self.breaker.state.lock();
        self.breaker.change(&mut state, State::Closed { failures: 0 });
    }

    /// It failed, which counts `cost` times.
    pub(super) fn failed(mut self, cost: u32) {
        let breaker = self.breaker;
        let mut state = breaker.state.lock();
        if let Some(wait) = self.probing.take() {
            breaker.open(&mut state, wait.saturating_mul(2));
            return;
        }
        // Where it opened meanwhile, this is news of yesterday.
        if let State::Closed { failures } = *state {
            let failures = failures.saturating_add(cost);
            *state = State::Closed { failures };
            if breaker.settings.failures > 0 && failures >= breaker.settings.failures {
                breaker.open(&mut state, OPEN_FIRST);
            }
        }
    }
}

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        if let Some(wait) = self.probing.take() {
            let mut state = self.breaker.state.lock();
            if matches!(*state, State::HalfOpen { .. }) {
                let until = Instant::now() + OPEN_FIRST;
                self.breaker.change(&mut state, State::Open { until, wait });
            }
        }
    }
}

fn is_due(until: Instant, caller: Caller) -> bool {
    let grace = match caller {
        Caller::Prober => Duration::ZERO,
        Caller::Request => GRACE,
    };
    Instant::now() >= until + grace
}

fn shown(state: State) -> BreakerState {
    match state {
        State::Closed { .. } => BreakerState::Closed,
        State::Open { .. } => BreakerState::Open,
        State::HalfOpen { .. } => BreakerState::HalfOpen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn breaker(failures: u32) -> (Breaker, Metrics) {
        let metrics = Metrics::new().unwrap();
        let meters = Meters::new(metrics.clone(), "one".into(), crate::config::Prices::default());
        let open_max = Duration::from_secs(4);
        let settings = BreakerSettings { failures, open_max, probe_idle: Duration::ZERO };
        (Breaker::new(settings, meters), metrics)
    }

    fn fail(breaker: &Breaker, caller: Caller) -> bool {
        breaker.admit(caller).map(|leave| leave.failed(1)).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_one_answer_between_them_does_not() {
        let (breaker, metrics) = breaker(3);
        for _ in 0..2 {
            assert!(fail(&breaker, Caller::Request) && fail(&breaker, Caller::Request));
            breaker.admit(Caller::Request).unwrap().answered();
        }
        breaker.admit(Caller::Request).unwrap().failed(2);
        assert!(breaker.is_closed());
        assert!(fail(&breaker, Caller::Request));
        assert!(breaker.refuses() && breaker.admit(Caller::Request).is_none());
        let text = metrics.text().unwrap();
        assert!(text.contains("narthex_origin_breaker_state{origin=\"one\"} 2"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_at_a_time_and_the_waits_double_up_to_the_longest() {
        let (breaker, _) = breaker(1);
        assert!(fail(&breaker, Caller::Request));
        for longest in [1, 2, 4, 4] {
            let until = breaker.next_probe().unwrap();
            let wait = until - Instant::now();
            let longest = Duration::from_secs(longest);
            assert!((longest / 2..=longest).contains(&wait), "{wait:?}");
            tokio::time::sleep_until(until).await;
            assert!(breaker.admit(Caller::Request).is_none());
            let probe = breaker.admit(Caller::Prober).unwrap();
            assert!(breaker.admit(Caller::Prober).is_none() && breaker.refuses());
            probe.failed(1);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!breaker.refuses());
        breaker.admit(Caller::Request).unwrap().answered();
        assert!(breaker.is_closed() && breaker.next_probe().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_dropped_does_not_leave_it_half_open() {
        let (breaker, _) = breaker(1);
        assert!(fail(&breaker, Caller::Request));
        tokio::time::sleep(Duration::from_secs(2)).await;
        drop(breaker.admit(Caller::Prober).unwrap());
        assert!(breaker.admit(Caller::Prober).is_none());
        tokio::time::sleep(OPEN_FIRST).await;
        assert!(breaker.admit(Caller::Prober).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_asked_before_it_opened_closes_it_by_an_answer_and_opens_nothing_more() {
        let (breaker, _) = breaker(1);
        let (late, later) =
            (breaker.admit(Caller::Request).unwrap(), breaker.admit(Caller::Request).unwrap());
        assert!(fail(&breaker, Caller::Request));
        let until = breaker.next_probe();
        late.failed(1);
        assert_eq!(breaker.next_probe(), until);
        later.answered();
        assert!(breaker.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_threshold_it_never_opens() {
        let (breaker, _) = breaker(0);
        assert!((0..1_000).all(|_| fail(&breaker, Caller::Request)));
    }
}
