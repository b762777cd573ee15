//! `Age` (RFC 9111 sections 4.2.3 and 5.1). Pure.

use super::cache_control::{DELTA_SECONDS_MAX, delta_seconds};
use super::date::HttpDate;
use super::grammar;
use http::{HeaderMap, header};

/// How long the head of an answer took, and when it arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExchangeTimes {
    /// Milliseconds from the request to the head, by a clock that never goes back.
    pub delay_millis: u64,
    /// When the head arrived, in milliseconds since the Unix epoch, by the clock that `Date` of the
    /// answer is compared with.
    pub arrived_millis: i64,
}

/// The `Age` of a response in seconds: the first member of the first line (section 5.1), capped
/// at 2^31; `None` if there is none or it is no number.
pub fn stated_age(headers: &HeaderMap) -> Option<u32> {
    let line = headers.get(header::AGE)?;
    let first = line.as_bytes().split(|byte| *byte == b',').next()?;
    delta_seconds(grammar::trim(first))
}

/// How old, in seconds, a response was when it arrived: `corrected_initial_age` of section
/// 4.2.3, the larger of what `Date` implies and what `Age` and the time on the way add up to.
pub fn corrected_initial_age(
    age_value: Option<u32>,
    date_value: Option<HttpDate>,
    exchanged: ExchangeTimes,
) -> u32 {
    let arrived = exchanged.arrived_millis.div_euclid(1000);
    let apparent = date_value.map_or(0, |date| arrived.saturating_sub(date.secs()));
    let delay = i64::try_from(exchanged.delay_millis / 1000).unwrap_or(i64::MAX);
    let corrected = i64::from(age_value.unwrap_or(0)).saturating_add(delay);
    let seconds = apparent.max(corrected).min(i64::from(DELTA_SECONDS_MAX));
    u32::try_from(seconds).unwrap_or(0)
}

/// As [`corrected_initial_age`], from the fields of a response.
pub fn initial_age(headers: &HeaderMap, exchanged: ExchangeTimes) -> u32 {
    let date = headers.get(header::DATE).and_then(HttpDate::parse);
    corrected_initial_age(stated_age(headers), date, exchanged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::{any, prop};
    use proptest::proptest;

    fn stated(line: &[u8]) -> Option<u32> {
        let mut headers = HeaderMap::new();
        headers.insert(header::AGE, HeaderValue::from_bytes(line).unwrap());
        stated_age(&headers)
    }

    #[test]
    fn the_first_member_counts_where_it_is_a_number() {
        assert_eq!(stated(b"12"), Some(12));
        assert_eq!(stated(b"12, 99"), Some(12));
        assert_eq!(stated(b"99999999999999999999"), Some(DELTA_SECONDS_MAX));
        for bad in ["", "-1", "x, 5", "1.5", "1 2"] {
            assert_eq!(stated(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(stated_age(&HeaderMap::new()), None);
    }

    #[test]
    fn the_larger_of_both_reckonings_counts() {
        let exchanged = ExchangeTimes { delay_millis: 3_499, arrived_millis: 100_999 };
        let date = |seconds| Some(HttpDate::from_secs(seconds));
        assert_eq!(corrected_initial_age(None, None, exchanged), 3);
        assert_eq!(corrected_initial_age(Some(10), None, exchanged), 13);
        assert_eq!(corrected_initial_age(Some(10), date(80), exchanged), 20);
        assert_eq!(corrected_initial_age(Some(30), date(80), exchanged), 33);
        assert_eq!(corrected_initial_age(None, date(500), exchanged), 3);
    }

    proptest! {
        #[test]
        fn the_age_is_bounded_and_never_below_what_is_stated(
            age in prop::option::of(0..=DELTA_SECONDS_MAX),
            date in prop::option::of(any::<i64>()),
            delay_millis: u64,
            arrived_millis: i64,
        ) {
            let exchanged = ExchangeTimes { delay_millis, arrived_millis };
            let seconds = corrected_initial_age(age, date.map(HttpDate::from_secs), exchanged);
            assert!(seconds <= DELTA_SECONDS_MAX);
            assert!(seconds >= age.unwrap_or(0));
        }

        #[test]
        fn junk_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
            if HeaderValue::from_bytes(&bytes).is_ok() {
                let _ = stated(&bytes);
            }
        }
    }
}
