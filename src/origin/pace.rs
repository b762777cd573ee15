//! How many requests a second an origin gets, once it has said that it wants fewer (429, 503 with
//! `Retry-After`, S3's 503 SlowDown). One per origin, as long lived as it; the lock is held for a
//! sum, never across an await. Passed by `upstream` before each request.
//!
//! No limit until the first such answer. Then half of what was asked in the last second, halved
//! again at most once a second; up again by a twentieth of the peak each second, and gone when
//! twice the peak would be allowed. `Retry-After`, of at most a minute, holds every request until
//! then. A request that would wait beyond its deadline fails at once, so that another origin, or
//! what is stored, serves.
//!
//! Narinfos go before anything else, but if others wait, one turn in four is theirs. Within each of
//! the two lines the order is that of arrival. A request that leaves its line leaves no trace.

use super::meters::OriginMeters;
use crate::nix::Class;
use crate::sync::Mutex;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout_at};

/// The first limit is at least this: an origin that was asked twice in a second is no flood.
const FIRST_RATE_MIN: f64 = 10.0;
/// The least limit.
const RATE_MIN: f64 = 1.0;
/// A limit is halved at most once in this time: many answers tell of the same flood.
const HALVED_EVERY: Duration = Duration::from_secs(1);
/// The peak is asked for again after so many seconds.
const SECONDS_TO_PEAK: f64 = 20.0;
/// The longest `Retry-After` that is heeded.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);
/// After so many of the first line in a row the second has its turn.
const URGENT_IN_A_ROW: u32 = 3;

/// The pace of one origin.
#[derive(Debug)]
pub(super) struct OriginPacer {
    meters: OriginMeters,
    state: Mutex<PacerState>,
    /// The first request of a line holds the line's only permit.
    urgent: Semaphore,
    patient: Semaphore,
}

/// A request that had to wait longer than it may: so long until it could have gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PaceExceeded(pub Duration);

#[derive(Debug)]
struct PacerState {
    asked: RequestRate,
    limit: Option<Limit>,
    paused_until: Option<Instant>,
    urgent_waiting: u32,
    patient_waiting: u32,
    urgent_in_a_row: u32,
}

/// Requests in this second and in the one before.
#[derive(Debug)]
struct RequestRate {
    since: Instant,
    now: u32,
    before: u32,
}

#[derive(Debug)]
struct Limit {
    rate: f64,
    /// What is added each second, and the rate at which the limit ends.
    step: f64,
    ceiling: f64,
    /// Requests that may go at once.
    ready: f64,
    at: Instant,
    halved_at: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Urgent,
    Patient,
}

impl Line {
    fn of(class: Class) -> Self {
        let is_urgent = class.is_small();
        if is_urgent { Self::Urgent } else { Self::Patient }
    }
}

impl OriginPacer {
    /// Without a limit.
    pub(super) fn new(meters: OriginMeters) -> Self {
        let asked = RequestRate { since: Instant::now(), now: 0, before: 0 };
        let state = PacerState {
            asked,
            limit: None,
            paused_until: None,
            urgent_waiting: 0,
            patient_waiting: 0,
            urgent_in_a_row: 0,
        };
        let (urgent, patient) = (Semaphore::new(1), Semaphore::new(1));
        Self { meters, state: Mutex::new(state), urgent, patient }
    }

    /// Whether requests go as they come.
    pub(super) fn is_free(&self) -> bool {
        let state = self.state.lock();
        state.limit.is_none() && state.paused_until.is_none_or(|until| Instant::now() >= until)
    }

    /// Waits until a request may go, up to `deadline`. Cancel safe.
    pub(super) async fn pass(&self, class: Class, deadline: Instant) -> Result<(), PaceExceeded> {
        let line = Line::of(class);
        // No request goes past those that wait.
        if self.state.lock().has_no_line() {
            match self.take(line) {
                None => return Ok(()),
                Some(next) if next > deadline => return Err(too_fast(next)),
                Some(_) => {}
            }
        }
        let _waiting = LinePlace::begin(self, line);
        let gate = match line {
            Line::Urgent => &self.urgent,
            Line::Patient => &self.patient,
        };
        let Ok(Ok(_first)) = timeout_at(deadline, gate.acquire()).await else {
            return Err(too_fast(deadline));
        };
        loop {
            match self.take(line) {
                None => return Ok(()),
                Some(next) if next > deadline => return Err(too_fast(next)),
                Some(next) => sleep_until(next).await,
            }
        }
    }

    /// The origin wants fewer requests, and none before `retry_after`.
    pub(super) fn throttled(&self, retry_after: Option<Duration>) {
        let now = Instant::now();
        let mut state = self.state.lock();
        state.throttled(now, retry_after.map(|wait| wait.min(RETRY_AFTER_MAX)));
        self.meters.throttled();
        self.meters.rate_limit(state.rate());
    }

    /// Takes leave to go now; else when to ask again.
    fn take(&self, line: Line) -> Option<Instant> {
        let mut state = self.state.lock();
        let had_limit = state.limit.is_some();
        let next = state.take(line, Instant::now());
        if had_limit {
            self.meters.rate_limit(state.rate());
        }
        next
    }
}

fn too_fast(next: Instant) -> PaceExceeded {
    PaceExceeded(next.saturating_duration_since(Instant::now()))
}

/// A place in a line.
struct LinePlace<'a> {
    pacer: &'a OriginPacer,
    line: Line,
}

impl<'a> LinePlace<'a> {
    fn begin(pacer: &'a OriginPacer, line: Line) -> Self {
        *pacer.state.lock().waiting(line) += 1;
        Self { pacer, line }
    }
}

impl Drop for LinePlace<'_> {
    fn drop(&mut self) {
        let mut state = self.pacer.state.lock();
        let waiting = state.waiting(self.line);
        *waiting = waiting.saturating_sub(1);
    }
}

impl PacerState {
    fn waiting(&mut self, line: Line) -> &mut u32 {
        match line {
            Line::Urgent => &mut self.urgent_waiting,
            Line::Patient => &mut self.patient_waiting,
        }
    }

    fn has_no_line(&self) -> bool {
        self.urgent_waiting + self.patient_waiting == 0
    }

    fn rate(&self) -> f64 {
        self.limit.as_ref().map_or(0.0, |limit| limit.rate)
    }

    fn take(&mut self, line: Line, now: Instant) -> Option<Instant> {
        if let Some(until) = self.paused_until {
            if now < until {
                return Some(until);
            }
            self.paused_until = None;
        }
        if self.limit.as_mut().is_some_and(|limit| limit.advance(now)) {
            self.limit = None;
        }
        if let Some(limit) = &mut self.limit {
            let is_its_turn = match line {
                Line::Urgent => self.patient_waiting == 0 || self.urgent_in_a_row < URGENT_IN_A_ROW,
                Line::Patient => {
                    self.urgent_waiting == 0 || self.urgent_in_a_row >= URGENT_IN_A_ROW
                }
            };
            if !is_its_turn || limit.ready < 1.0 {
                let missing = (1.0 - limit.ready).max(0.1);
                // A millisecond more: a timer may be early by the fraction of one.
                let wait = Duration::from_secs_f64(missing / limit.rate);
                return Some(now + wait + Duration::from_millis(1));
            }
            limit.ready -= 1.0;
            self.urgent_in_a_row = match line {
                Line::Urgent => self.urgent_in_a_row.saturating_add(1),
                Line::Patient => 0,
            };
        }
        self.asked.note(now);
        None
    }

    fn throttled(&mut self, now: Instant, retry_after: Option<Duration>) {
        if let Some(wait) = retry_after {
            self.paused_until = self.paused_until.max(Some(now + wait));
        }
        let peak = self.asked.rate(now).max(2.0 * FIRST_RATE_MIN);
        match &mut self.limit {
            Some(limit) if now - limit.halved_at < HALVED_EVERY => {}
            Some(limit) => {
                limit.advance(now);
                limit.rate = (limit.rate / 2.0).max(RATE_MIN);
                limit.ready = 0.0;
                limit.halved_at = now;
            }
            None => {
                self.limit = Some(Limit {
                    rate: peak / 2.0,
                    step: peak / SECONDS_TO_PEAK,
                    ceiling: peak * 2.0,
                    ready: 0.0,
                    at: now,
                    halved_at: now,
                });
            }
        }
    }
}

impl Limit {
    /// What time adds; true if nothing is left of the limit.
    fn advance(&mut self, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        let burst = (self.rate / 10.0).max(1.0);
        self.ready = (self.ready + seconds * self.rate).min(burst);
        self.rate += seconds * self.step;
        self.rate >= self.ceiling
    }
}

impl RequestRate {
    fn note(&mut self, now: Instant) {
        self.roll(now);
        self.now = self.now.saturating_add(1);
    }

    fn rate(&mut self, now: Instant) -> f64 {
        self.roll(now);
        f64::from(self.now.max(self.before))
    }

    fn roll(&mut self, now: Instant) {
        let seconds = now.saturating_duration_since(self.since).as_secs();
        if seconds > 0 {
            self.before = if seconds == 1 { self.now } else { 0 };
            self.now = 0;
            self.since = now;
        }
    }
}

#[cfg(test)]
mod tests;
