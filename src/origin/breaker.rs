//! Whether an origin is asked at all. One per origin, as long lived as it; the lock is held for a
//! comparison. Asked and told by `upstream` around each request and each probe.
//!
//! ```text
//! closed --failures in a row--> doubted --its probe fails--> open --its time is over--> half open
//!   |                             |   |                       ^ ^                           |
//!   |                             |   +-----as many again-----+ +--the probe fails: twice---+
//!   +---the last one was slow-----|---------------------------+         the time            |
//!   ^                             |                           |                             |
//!   +--------any answer-----------+---------------------------+-----------------------------+
//! ```
//!
//! Failures of a few objects look like those of an origin. So it is doubted first: one probe asks
//! at once, and requests go to the origin meanwhile. There is no doubt if the last failure was
//! slow, since each request would pay for it then; nor if a probe alone was answered since the last
//! doubt, since the origin may have that object alone.
//!
//! While it is open, requests fail at once: the next origin, or what is stored, serves without
//! another deadline. An open breaker is a failure, never an absence, and it changes no readiness:
//! what opened it did. An answer of any kind that is no failure closes it, one that was asked for
//! before it opened too, since it shows that the origin is there. A probe that is dropped without
//! an outcome leaves it open for another second, so that it never stays half open. A refused
//! request makes the next probe come sooner, at most once a second: the longer waits are for an
//! origin without requests.
//!
//! A probe of a generic site asks for a path that may be the only one that fails. So once such a
//! breaker has been open for the longest wait, requests come before the prober: one at a time.
//! An upload is never the probe: it lasts as long as its client likes, and all others would wait.
//!
//! Purges and restarts do not meet it: it holds nothing of any object. A reload begins closed.

use super::jitter::jittered;
use super::meters::{BreakerState, OriginMeters};
use crate::config::BreakerSettings;
use crate::sync::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// How long it is open first.
const OPEN_FIRST: Duration = Duration::from_secs(1);
/// How long after its time the prober alone may probe: so no client pays for a probe, unless
/// there is no prober.
const GRACE: Duration = Duration::from_secs(1);
/// A failure that took so long costs more, since its client paid with a deadline.
pub(super) const SLOW: Duration = Duration::from_secs(1);

/// The breaker of one origin.
#[derive(Debug)]
pub(super) struct Breaker {
    settings: BreakerSettings,
    probes: Probes,
    meters: OriginMeters,
    state: Mutex<BreakerPhase>,
    /// Tells the prober that its turn comes sooner.
    sooner: Arc<Notify>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BreakerPhase {
    Closed {
        failures: u32,
        /// Whether a probe closed it, and no request was answered since.
        by_probe: bool,
    },
    Doubted {
        failures: u32,
        is_probed: bool,
    },
    Open {
        soonest: Instant,
        until: Instant,
        wait: Duration,
        since: Instant,
    },
    HalfOpen {
        wait: Duration,
        since: Instant,
    },
}

/// What the outcome of a probe tells of an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Probes {
    /// How it answers other requests.
    Tell,
    /// How it answers one path, which may be none that it has.
    MayMislead,
}

/// What asks for admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Caller {
    /// A request for an object.
    Request,
    /// A client that sends a body of its own.
    Upload,
    /// The prober.
    Prober,
}

/// The leave to ask once; dropped without an outcome it changes nothing, but for a probe's end.
#[derive(Debug)]
pub(super) struct BreakerPermit<'a> {
    breaker: &'a Breaker,
    probe: Option<Probe>,
}

#[derive(Debug, Clone, Copy)]
enum Probe {
    /// Whether an origin that is doubted is there.
    Doubted,
    /// Whether one is there again that was left alone for so long.
    After(Duration),
}

impl Breaker {
    /// Closed.
    pub(super) fn new(settings: BreakerSettings, probes: Probes, meters: OriginMeters) -> Self {
        meters.breaker(BreakerState::Closed);
        Self {
            settings,
            probes,
            meters,
            state: Mutex::new(BreakerPhase::Closed { failures: 0, by_probe: false }),
            sooner: Arc::default(),
        }
    }

    /// The leave to ask; none while it is open.
    pub(super) fn admit(&self, caller: Caller) -> Option<BreakerPermit<'_>> {
        let mut state = self.state.lock();
        let probe = match *state {
            BreakerPhase::Doubted { failures, is_probed: false } if caller == Caller::Prober => {
                *state = BreakerPhase::Doubted { failures, is_probed: true };
                Some(Probe::Doubted)
            }
            BreakerPhase::Closed { .. } | BreakerPhase::Doubted { .. } => None,
            BreakerPhase::Open { until, wait, since, .. }
                if self.is_due((until, since), caller) =>
            {
                self.change(&mut state, BreakerPhase::HalfOpen { wait, since });
                Some(Probe::After(wait))
            }
            BreakerPhase::Open { .. } | BreakerPhase::HalfOpen { .. } => return None,
        };
        Some(BreakerPermit { breaker: self, probe })
    }

    /// Whether this caller would be refused now.
    pub(super) fn refuses(&self, caller: Caller) -> bool {
        match *self.state.lock() {
            BreakerPhase::Closed { .. } | BreakerPhase::Doubted { .. } => false,
            BreakerPhase::Open { until, since, .. } => !self.is_due((until, since), caller),
            BreakerPhase::HalfOpen { .. } => true,
        }
    }

    /// Tells the prober, which waits, that the time of the next probe has come nearer.
    pub(super) fn sooner(&self) -> Arc<Notify> {
        Arc::clone(&self.sooner)
    }

    /// A request was refused: the next probe comes as soon as it may.
    pub(super) fn wanted(&self) {
        if let BreakerPhase::Open { soonest, until, .. } = &mut *self.state.lock()
            && *soonest < *until
        {
            // Not in the past: the next request would take the prober's place.
            *until = Instant::now().max(*soonest);
            *soonest = *until;
            self.sooner.notify_one();
        }
    }

    /// Whether it is closed, and nothing is doubted.
    pub(super) fn is_closed(&self) -> bool {
        matches!(*self.state.lock(), BreakerPhase::Closed { .. })
    }

    /// When the prober is to look next; `None` if it need not.
    pub(super) fn next_probe(&self) -> Option<Instant> {
        match *self.state.lock() {
            BreakerPhase::Closed { .. } => None,
            BreakerPhase::Doubted { is_probed: false, .. } => Some(Instant::now()),
            BreakerPhase::Open { until, since, .. } => {
                Some(until + self.grace(since, Caller::Prober))
            }
            // Another probe is under way.
            BreakerPhase::Doubted { .. } | BreakerPhase::HalfOpen { .. } => {
                Some(Instant::now() + OPEN_FIRST)
            }
        }
    }

    fn change(&self, state: &mut BreakerPhase, to: BreakerPhase) {
        let (from, shown) = (shown(*state), shown(to));
        *state = to;
        if from != shown {
            self.meters.breaker(shown);
            self.meters.breaker_turned(shown);
        }
    }

    fn open(&self, state: &mut BreakerPhase, wait: Duration) {
        let since = match *state {
            BreakerPhase::Open { since, .. } | BreakerPhase::HalfOpen { since, .. } => since,
            BreakerPhase::Closed { .. } | BreakerPhase::Doubted { .. } => Instant::now(),
        };
        let wait = wait.min(self.settings.open_max);
        let soonest = Instant::now() + jittered(wait.min(OPEN_FIRST));
        let until = soonest.max(Instant::now() + jittered(wait));
        self.change(state, BreakerPhase::Open { soonest, until, wait, since });
    }

    fn is_due(&self, (until, since): (Instant, Instant), caller: Caller) -> bool {
        caller != Caller::Upload && Instant::now() >= until + self.grace(since, caller)
    }

    /// How long after its time a probe is left to the other kind of caller, if the breaker is open
    /// since then.
    fn grace(&self, since: Instant, caller: Caller) -> Duration {
        let is_long = since.elapsed() >= self.settings.open_max;
        let first = match self.probes {
            Probes::MayMislead if is_long => Caller::Request,
            Probes::MayMislead | Probes::Tell => Caller::Prober,
        };
        if caller == first { Duration::ZERO } else { GRACE }
    }
}

impl BreakerPermit<'_> {
    /// The origin answered.
    pub(super) fn answered(mut self) {
        let by_probe = self.probe.take().is_some();
        let mut state = self.breaker.state.lock();
        // A request that was answered meanwhile has told more.
        let by_probe = by_probe && !matches!(*state, BreakerPhase::Closed { by_probe: false, .. });
        self.breaker.change(&mut state, BreakerPhase::Closed { failures: 0, by_probe });
    }

    /// It failed, which counts `cost` times, after `took`.
    pub(super) fn failed(mut self, cost: u32, took: Duration) {
        let breaker = self.breaker;
        let threshold = breaker.settings.failures;
        let mut state = breaker.state.lock();
        match (self.probe.take(), *state) {
            (Some(Probe::After(wait)), _) => breaker.open(&mut state, wait.saturating_mul(2)),
            (Some(Probe::Doubted), BreakerPhase::Doubted { .. }) => {
                breaker.open(&mut state, OPEN_FIRST);
            }
            (_, BreakerPhase::Closed { failures, by_probe }) => {
                let failures = failures.saturating_add(cost);
                let is_enough = threshold > 0 && failures >= threshold;
                if is_enough && (took >= SLOW || by_probe) {
                    breaker.open(&mut state, OPEN_FIRST);
                } else if is_enough {
                    breaker
                        .change(&mut state, BreakerPhase::Doubted { failures, is_probed: false });
                } else {
                    *state = BreakerPhase::Closed { failures, by_probe };
                }
            }
            (_, BreakerPhase::Doubted { failures, is_probed }) => {
                let failures = failures.saturating_add(cost);
                if took >= SLOW || failures >= threshold.saturating_mul(2) {
                    breaker.open(&mut state, OPEN_FIRST);
                } else {
                    *state = BreakerPhase::Doubted { failures, is_probed };
                }
            }
            // If it opened meanwhile, this answer is out of date.
            (_, BreakerPhase::Open { .. } | BreakerPhase::HalfOpen { .. }) => {}
        }
    }
}

impl Drop for BreakerPermit<'_> {
    fn drop(&mut self) {
        let Some(probe) = self.probe.take() else { return };
        let mut state = self.breaker.state.lock();
        let (wait, since) = match (probe, *state) {
            (Probe::Doubted, BreakerPhase::Doubted { .. }) => (OPEN_FIRST, Instant::now()),
            (Probe::After(wait), BreakerPhase::HalfOpen { since, .. }) => (wait, since),
            _ => return,
        };
        let until = Instant::now() + OPEN_FIRST;
        self.breaker.change(&mut state, BreakerPhase::Open { soonest: until, until, wait, since });
    }
}

fn shown(state: BreakerPhase) -> BreakerState {
    match state {
        BreakerPhase::Closed { .. } | BreakerPhase::Doubted { .. } => BreakerState::Closed,
        BreakerPhase::Open { .. } => BreakerState::Open,
        BreakerPhase::HalfOpen { .. } => BreakerState::HalfOpen,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn breaker(failures: u32) -> (Breaker, Metrics) {
        probed(failures, Probes::Tell)
    }

    fn probed(failures: u32, probes: Probes) -> (Breaker, Metrics) {
        let metrics = Metrics::new().unwrap();
        let meters =
            OriginMeters::new(metrics.clone(), "one".into(), crate::config::Prices::default());
        let open_max = Duration::from_secs(4);
        let settings = BreakerSettings { failures, open_max, probe_idle: Duration::ZERO };
        (Breaker::new(settings, probes, meters), metrics)
    }

    fn fail(breaker: &Breaker, caller: Caller) -> bool {
        breaker.admit(caller).map(|leave| leave.failed(1, SLOW)).is_some()
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_and_one_answer_between_them_does_not() {
        let (breaker, metrics) = breaker(3);
        for _ in 0..2 {
            assert!(fail(&breaker, Caller::Request) && fail(&breaker, Caller::Request));
            breaker.admit(Caller::Request).unwrap().answered();
        }
        breaker.admit(Caller::Request).unwrap().failed(2, Duration::ZERO);
        assert!(breaker.is_closed());
        assert!(fail(&breaker, Caller::Request));
        assert!(breaker.refuses(Caller::Request) && breaker.admit(Caller::Request).is_none());
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
            assert!(breaker.admit(Caller::Prober).is_none() && breaker.refuses(Caller::Request));
            probe.failed(1, Duration::ZERO);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(!breaker.refuses(Caller::Request));
        breaker.admit(Caller::Request).unwrap().answered();
        assert!(breaker.is_closed() && breaker.next_probe().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_brings_the_next_probe_nearer_but_for_a_second() {
        let (breaker, _) = breaker(1);
        assert!(fail(&breaker, Caller::Request));
        let sooner = breaker.sooner();
        for _ in 0..5 {
            tokio::time::sleep_until(breaker.next_probe().unwrap()).await;
            breaker.admit(Caller::Prober).unwrap().failed(1, SLOW);
            let (before, late) = (Instant::now(), breaker.next_probe().unwrap());
            assert!(breaker.admit(Caller::Request).is_none() && breaker.refuses(Caller::Request));
            breaker.wanted();
            let wait = breaker.next_probe().unwrap() - before;
            assert!((OPEN_FIRST / 2..=OPEN_FIRST).contains(&wait), "{wait:?}");
            if late > before + wait {
                sooner.notified().await;
            }
            assert!(breaker.admit(Caller::Prober).is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_late_leaves_the_next_probe_to_the_prober() {
        let (breaker, _) = breaker(1);
        assert!(fail(&breaker, Caller::Request));
        for _ in 0..2 {
            tokio::time::sleep_until(breaker.next_probe().unwrap()).await;
            breaker.admit(Caller::Prober).unwrap().failed(1, SLOW);
        }
        // The wait is two to four seconds, and a second of them need not be waited for.
        tokio::time::sleep(Duration::from_millis(1_900)).await;
        breaker.wanted();
        assert!(breaker.admit(Caller::Request).is_none() && breaker.refuses(Caller::Request));
        assert_eq!(breaker.next_probe(), Some(Instant::now()));
        assert!(breaker.admit(Caller::Prober).is_some());
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
        late.failed(1, SLOW);
        assert_eq!(breaker.next_probe(), until);
        later.answered();
        assert!(breaker.is_closed());
    }

    fn doubted() -> (Breaker, Metrics) {
        let (breaker, metrics) = breaker(3);
        for _ in 0..3 {
            assert_eq!(breaker.next_probe(), None);
            breaker.admit(Caller::Request).unwrap().failed(1, Duration::ZERO);
        }
        assert_eq!(breaker.next_probe(), Some(Instant::now()));
        (breaker, metrics)
    }

    #[tokio::test(start_paused = true)]
    async fn fast_failures_make_it_doubt_and_a_probe_that_is_answered_ends_that() {
        let (breaker, metrics) = doubted();
        let probe = breaker.admit(Caller::Prober).unwrap();
        assert!(!breaker.is_closed() && breaker.next_probe() > Some(Instant::now()));
        // Neither requests nor another prober delay it.
        breaker.admit(Caller::Request).unwrap().failed(1, Duration::ZERO);
        breaker.admit(Caller::Prober).unwrap().failed(1, Duration::ZERO);
        assert!(!breaker.refuses(Caller::Request));
        probe.answered();
        assert!(breaker.is_closed() && breaker.next_probe().is_none());
        let text = metrics.text().unwrap();
        assert!(!text.contains("narthex_origin_breaker_transitions_total{"), "{text}");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_answers_nothing_but_probes_is_not_doubted_again() {
        for is_answered in [false, true] {
            let (breaker, _) = doubted();
            breaker.admit(Caller::Prober).unwrap().answered();
            if is_answered {
                breaker.admit(Caller::Request).unwrap().answered();
            }
            for _ in 0..3 {
                assert!(!breaker.refuses(Caller::Request));
                breaker.admit(Caller::Request).unwrap().failed(1, Duration::ZERO);
            }
            assert_eq!(breaker.refuses(Caller::Request), !is_answered);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_is_doubted_opens_where_its_probe_or_as_many_again_fail_or_a_slow_one() {
        type Fails = fn(&Breaker);
        let ways: [Fails; 4] = [
            |breaker| breaker.admit(Caller::Prober).unwrap().failed(1, Duration::ZERO),
            |breaker| drop(breaker.admit(Caller::Prober).unwrap()),
            |breaker| {
                (0..3).for_each(|_| {
                    breaker.admit(Caller::Request).unwrap().failed(1, Duration::ZERO);
                });
            },
            |breaker| breaker.admit(Caller::Request).unwrap().failed(0, SLOW),
        ];
        for fails in ways {
            let (breaker, _) = doubted();
            assert!(!breaker.refuses(Caller::Request));
            fails(&breaker);
            assert!(breaker.refuses(Caller::Request));
            let wait = breaker.next_probe().unwrap() - Instant::now();
            assert!((OPEN_FIRST / 2..=OPEN_FIRST).contains(&wait), "{wait:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_doubt_that_an_answer_ended_is_not_renewed_by_its_probe() {
        let (breaker, _) = doubted();
        let probe = breaker.admit(Caller::Prober).unwrap();
        breaker.admit(Caller::Request).unwrap().answered();
        probe.failed(1, Duration::ZERO);
        assert!(breaker.is_closed());
    }

    /// FAULTS.md G1.
    #[tokio::test(start_paused = true)]
    async fn one_whose_probes_may_mislead_lets_requests_in_once_it_was_open_for_long() {
        let (breaker, _) = probed(1, Probes::MayMislead);
        assert!(fail(&breaker, Caller::Request));
        let opened = Instant::now();
        while opened.elapsed() < breaker.settings.open_max {
            tokio::time::sleep_until(breaker.next_probe().unwrap()).await;
            if let Some(probe) = breaker.admit(Caller::Prober) {
                probe.failed(1, Duration::ZERO);
            }
        }
        tokio::time::sleep(breaker.settings.open_max).await;
        let request = breaker.admit(Caller::Request).expect("one request");
        assert!(
            breaker.admit(Caller::Request).is_none() && breaker.admit(Caller::Prober).is_none()
        );
        request.answered();
        assert!(breaker.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_threshold_it_never_opens() {
        let (breaker, _) = breaker(0);
        assert!((0..1_000).all(|_| fail(&breaker, Caller::Request)));
    }
}
