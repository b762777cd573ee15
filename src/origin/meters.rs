//! The metrics of one origin, and what its requests cost. Counters only; shared by all its
//! requests.

use super::exchange::{FetchReason, RequestPurpose};
use crate::config::Prices;
use crate::metrics::Metrics;
use crate::nix::Class;
use http::{Method, StatusCode};
use prometheus::{Counter, IntCounter};
use std::sync::Arc;
use tokio::time::Instant;

/// Prices are in billionths.
const NANOS: f64 = 1e9;
const GIB: f64 = 1_073_741_824.0;

/// The metrics of one origin.
#[derive(Debug, Clone)]
pub(super) struct OriginMeters {
    metrics: Metrics,
    origin: Arc<str>,
    prices: Prices,
}

/// Whether an origin's last answer was usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usability {
    Yes,
    No,
}

/// What became of a wish to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RetryFate {
    /// It was asked again.
    Spent,
    /// The budget had nothing left.
    Refused,
}

/// What became of a hedge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HedgeFate {
    /// A second request left.
    Begun,
    /// Its answer was the one.
    Won,
    /// The budget had nothing left.
    Refused,
}

/// What the gauge of the breaker shows.
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

/// Why a request did not leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HoldReason {
    /// The origin is left alone.
    Open,
    /// It asked for fewer.
    Throttled,
    /// As many as it may have are under way.
    Busy,
}

/// Whether looking for keys found any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeysFound {
    Yes,
    No,
}

/// A request under way; counted as dropped if it is dropped before its answer.
#[derive(Debug)]
pub(super) struct RequestMeter<'a> {
    meters: &'a OriginMeters,
    purpose: RequestPurpose,
    started: Instant,
    price: f64,
    ended: ExchangeEnd,
}

#[derive(Debug, Clone, Copy)]
enum ExchangeEnd {
    Answered(StatusCode),
    Failed,
    Dropped,
}

/// Counts the bytes of a body, and what they cost.
#[derive(Debug, Clone)]
pub(super) struct ByteMeter {
    bytes: IntCounter,
    cost: Counter,
    price: f64,
}

impl ByteMeter {
    /// So many more bytes.
    pub(super) fn add(&self, bytes: usize) {
        self.bytes.inc_by(bytes as u64);
        if self.price > 0.0 {
            self.cost.inc_by(self.price * in_float(bytes as u64));
        }
    }
}

impl OriginMeters {
    pub(super) fn new(metrics: Metrics, origin: Arc<str>, prices: Prices) -> Self {
        Self { metrics, origin, prices }
    }

    /// A request is about to leave.
    pub(super) fn request(&self, purpose: RequestPurpose, method: &Method) -> RequestMeter<'_> {
        let thousand = if *method == Method::HEAD {
            self.prices.thousand_heads
        } else {
            self.prices.thousand_gets
        };
        let RequestPurpose { class, reason } = purpose;
        let labels = [&*self.origin, class.as_str(), method_label(method), reason.as_str()];
        self.metrics.origin_reasons.with_label_values(&labels).inc();
        RequestMeter {
            meters: self,
            purpose,
            started: Instant::now(),
            price: in_float(thousand) / NANOS / 1_000.0,
            ended: ExchangeEnd::Dropped,
        }
    }

    /// The counter of body bytes received for `class`.
    pub(super) fn bytes(&self, class: Class) -> ByteMeter {
        ByteMeter {
            bytes: self.metrics.origin_bytes.with_label_values(&[&*self.origin, class.as_str()]),
            cost: self.metrics.origin_cost.with_label_values(&[&*self.origin, "bytes"]),
            price: in_float(self.prices.gib) / NANOS / GIB,
        }
    }

    /// Looking for keys has ended: with others than were known, or with none.
    pub(super) fn keys(&self, found: KeysFound) {
        let result = match found {
            KeysFound::Yes => "found",
            KeysFound::No => "failed",
        };
        self.metrics.origin_keys.with_label_values(&[&*self.origin, result]).inc();
    }

    /// The origin refused a signature for its time, and the clock was corrected.
    pub(super) fn clock_corrected(&self) {
        self.metrics.origin_clock_corrections.with_label_values(&[&*self.origin]).inc();
    }

    /// Sets the gauge of health.
    pub(super) fn up(&self, usable: Usability) {
        let gauge = self.metrics.origin_up.with_label_values(&[&*self.origin]);
        gauge.set(i64::from(usable == Usability::Yes));
    }

    /// Sets the gauge of the breaker.
    pub(super) fn breaker(&self, state: BreakerState) {
        let value = match state {
            BreakerState::Closed => 0,
            BreakerState::HalfOpen => 1,
            BreakerState::Open => 2,
        };
        self.metrics.origin_breaker_state.with_label_values(&[&*self.origin]).set(value);
    }

    /// The breaker has changed.
    pub(super) fn breaker_turned(&self, to: BreakerState) {
        let labels = [&*self.origin, to.as_str()];
        self.metrics.origin_breaker_transitions.with_label_values(&labels).inc();
    }

    /// The origin asked for fewer requests.
    pub(super) fn throttled(&self) {
        self.metrics.origin_throttled.with_label_values(&[&*self.origin]).inc();
    }

    /// Requests a second that it gets; 0 for no limit.
    pub(super) fn rate_limit(&self, rate: f64) {
        self.metrics.origin_rate_limit.with_label_values(&[&*self.origin]).set(rate);
    }

    /// A request did not leave.
    pub(super) fn held(&self, why: HoldReason) {
        let why = match why {
            HoldReason::Open => "open",
            HoldReason::Throttled => "throttled",
            HoldReason::Busy => "busy",
        };
        self.metrics.origin_held.with_label_values(&[&*self.origin, why]).inc();
    }

    /// A request was to be made again.
    pub(super) fn retried(&self, result: RetryFate) {
        let result = match result {
            RetryFate::Spent => "spent",
            RetryFate::Refused => "refused",
        };
        self.metrics.origin_retries.with_label_values(&[&*self.origin, result]).inc();
    }

    /// A request was sent so many times again at once, since it was not processed before.
    pub(super) fn resent(&self, times: u32) {
        if times > 0 {
            let counter = self.metrics.origin_resends.with_label_values(&[&*self.origin]);
            counter.inc_by(u64::from(times));
        }
    }

    /// A request was slow.
    pub(super) fn hedged(&self, result: HedgeFate) {
        let result = match result {
            HedgeFate::Begun => "begun",
            HedgeFate::Won => "won",
            HedgeFate::Refused => "refused",
        };
        self.metrics.origin_hedges.with_label_values(&[&*self.origin, result]).inc();
    }
}

impl RequestMeter<'_> {
    /// The head of an answer arrived.
    pub(super) fn answered(mut self, status: StatusCode) {
        self.ended = ExchangeEnd::Answered(status);
        let seconds = self.started.elapsed().as_secs_f64();
        let meters = self.meters;
        meters
            .metrics
            .origin_first_byte_seconds
            .with_label_values(&[&*meters.origin])
            .observe(seconds);
    }

    /// None will.
    pub(super) fn failed(mut self) {
        self.ended = ExchangeEnd::Failed;
    }
}

impl Drop for RequestMeter<'_> {
    fn drop(&mut self) {
        let OriginMeters { metrics, origin, .. } = self.meters;
        let status = match &self.ended {
            ExchangeEnd::Answered(status) => status.as_str(),
            ExchangeEnd::Failed => "error",
            ExchangeEnd::Dropped => "dropped",
        };
        let labels = [&**origin, self.purpose.class.as_str(), status];
        metrics.origin_requests.with_label_values(&labels).inc();
        // A request that had no answer costs nothing; a dropped one may cost.
        if self.price > 0.0 && !matches!(self.ended, ExchangeEnd::Failed) {
            metrics.origin_cost.with_label_values(&[&**origin, "requests"]).inc_by(self.price);
        }
    }
}

/// Origins are asked with few methods, but generic sites send on what clients send.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        _ => "other",
    }
}

/// Exact below 2^53, which no count or price reaches.
#[expect(clippy::cast_precision_loss, reason = "a bill is an estimate")]
fn in_float(number: u64) -> f64 {
    number as f64
}

impl FetchReason {
    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Miss => "miss",
            Self::Revalidation => "revalidation",
            Self::Part => "part",
            Self::Resume => "resume",
            Self::Completion => "completion",
            Self::Heal => "heal",
            Self::Retry => "retry",
            Self::Hedge => "hedge",
            Self::Probe => "probe",
            Self::Write => "write",
        }
    }
}
