//! By how much this machine's clock differs from an origin's, learnt when the origin refuses a
//! signature for its time. One per bucket, as long lived as it; one number, no lock.
//!
//! A clock that is set right later makes the origin refuse once more, which corrects this too.

use crate::clock::{Clock, Timestamp};
use http::{HeaderMap, header};
use std::sync::atomic::{AtomicI64, Ordering};

/// Below this nothing is learnt: S3 refuses a quarter of an hour, and `Date` counts seconds.
const MILLIS_MIN: u64 = 60_000;

/// The milliseconds that the origin's clock is ahead.
#[derive(Debug, Default)]
pub(super) struct Skew(AtomicI64);

/// Whether something new was learnt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SkewUpdate {
    /// The offset is another now.
    Offset {
        /// Milliseconds that the origin is ahead.
        millis: i64,
    },
    /// There is no usable `Date`, or it says what was known.
    Nothing,
}

impl Skew {
    /// The time as the origin has it.
    pub(super) fn now(&self, clock: &Clock) -> Timestamp {
        Timestamp::from_millis(clock.wall().millis().saturating_add(self.millis()))
    }

    /// The milliseconds that the origin's clock is ahead, as far as is known.
    pub(super) fn millis(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Hears what the origin's clock said at `at` by this machine's, in the fields of an answer
    /// that refuses a signature for its time.
    pub(super) fn hear(&self, fields: &HeaderMap, at: Timestamp) -> SkewUpdate {
        let date = fields.get(header::DATE).and_then(|value| value.to_str().ok());
        let Some(date) = date.and_then(|text| httpdate::parse_http_date(text.trim()).ok()) else {
            return SkewUpdate::Nothing;
        };
        let millis = Timestamp::from(date).millis().saturating_sub(at.millis());
        if self.millis().abs_diff(millis) < MILLIS_MIN {
            return SkewUpdate::Nothing;
        }
        self.0.store(millis, Ordering::Relaxed);
        SkewUpdate::Offset { millis }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use http::HeaderValue;

    #[test]
    fn the_offset_follows_the_origins_date_both_ways() {
        let clock = Clock::Manual(ManualClock::starting_at(Timestamp::from_secs(100_000)));
        let skew = Skew::default();
        let hear = |seconds: i64| {
            let date = httpdate::fmt_http_date(Timestamp::from_secs(seconds).to_system_time());
            let mut fields = HeaderMap::new();
            fields.insert(header::DATE, HeaderValue::try_from(date).unwrap());
            skew.hear(&fields, clock.wall())
        };
        assert_eq!(hear(100_030), SkewUpdate::Nothing);
        assert_eq!(skew.now(&clock), Timestamp::from_secs(100_000));
        assert_eq!(hear(103_600), SkewUpdate::Offset { millis: 3_600_000 });
        assert_eq!(skew.now(&clock), Timestamp::from_secs(103_600));
        assert_eq!(hear(103_601), SkewUpdate::Nothing);
        assert_eq!(hear(90_000), SkewUpdate::Offset { millis: -10_000_000 });
        assert_eq!(hear(100_000), SkewUpdate::Offset { millis: 0 });
        assert_eq!(skew.hear(&HeaderMap::new(), clock.wall()), SkewUpdate::Nothing);
    }
}
