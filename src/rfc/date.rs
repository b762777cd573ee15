//! HTTP dates (RFC 9110 section 5.6.7). Pure.

use http::HeaderValue;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// 9999-12-31T23:59:59Z, the last moment that has four digits for its year.
const SECONDS_MAX: i64 = 253_402_300_799;

/// A moment in whole seconds since the Unix epoch, between 1970 and 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HttpDate(i64);

impl HttpDate {
    /// A moment from seconds since the Unix epoch; what HTTP cannot print becomes the nearest
    /// that it can.
    pub const fn from_secs(seconds: i64) -> Self {
        match seconds {
            ..0 => Self(0),
            0..=SECONDS_MAX => Self(seconds),
            _ => Self(SECONDS_MAX),
        }
    }

    /// Seconds since the Unix epoch.
    pub const fn secs(self) -> i64 {
        self.0
    }

    /// Reads an IMF-fixdate or one of the two obsolete forms; `None` for anything else. Two
    /// digits of a year mean 1970 to 2069. As RFC 9111 section 4.2 asks of caches, case does not
    /// matter; nor does a day of the week that is not that of the date.
    pub fn parse(value: &HeaderValue) -> Option<Self> {
        let text = value.to_str().ok()?.trim();
        let time = httpdate::parse_http_date(text).ok().or_else(|| parse_leniently(text))?;
        let seconds = time.duration_since(UNIX_EPOCH).ok()?.as_secs();
        Some(Self::from_secs(i64::try_from(seconds).ok()?))
    }

    /// As an IMF-fixdate, ready to send.
    pub fn to_header_value(self) -> HeaderValue {
        HeaderValue::try_from(self.to_string())
            .unwrap_or_else(|_| HeaderValue::from_static("Thu, 01 Jan 1970 00:00:00 GMT"))
    }

    fn to_system_time(self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(u64::try_from(self.0).unwrap_or(0))
    }
}

/// The names of days: one of them is that of any date.
const DAYS: [(&str, &str); 7] = [
    ("Mon", "Monday"),
    ("Tue", "Tuesday"),
    ("Wed", "Wednesday"),
    ("Thu", "Thursday"),
    ("Fri", "Friday"),
    ("Sat", "Saturday"),
    ("Sun", "Sunday"),
];

/// Reads a date that is only wrong in its case, or in its day of the week.
fn parse_leniently(text: &str) -> Option<SystemTime> {
    let end = text.find([',', ' '])?;
    let (day, rest) = text.split_at_checked(end)?;
    let is_day = |name: &str| name.eq_ignore_ascii_case(day);
    let is_short = DAYS.iter().any(|(short, _)| is_day(short));
    if !is_short && !DAYS.iter().any(|(_, long)| is_day(long)) {
        return None;
    }
    let mut is_first = true;
    let mut rest: String = rest
        .chars()
        .map(|letter| {
            let cased =
                if is_first { letter.to_ascii_uppercase() } else { letter.to_ascii_lowercase() };
            is_first = !letter.is_ascii_alphabetic();
            cased
        })
        .collect();
    if let Some(before) = rest.strip_suffix("Gmt") {
        rest = format!("{before}GMT");
    }
    let names = DAYS.iter().map(|(short, long)| if is_short { short } else { long });
    names.into_iter().find_map(|name| httpdate::parse_http_date(&format!("{name}{rest}")).ok())
}

impl fmt::Display for HttpDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        httpdate::HttpDate::from(self.to_system_time()).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop};
    use proptest::proptest;

    fn parse(text: &str) -> Option<i64> {
        HttpDate::parse(&HeaderValue::from_str(text).unwrap()).map(HttpDate::secs)
    }

    #[test]
    fn the_three_forms_of_the_rfc_are_one_moment() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ] {
            assert_eq!(parse(text), Some(784_111_777), "{text}");
        }
        let printed = HttpDate::from_secs(784_111_777).to_header_value();
        assert_eq!(printed, "Sun, 06 Nov 1994 08:49:37 GMT");
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in ["", "0", "-1", "now", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 06 Nov 1994"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn moments_that_cannot_be_printed_become_the_nearest() {
        assert_eq!(HttpDate::from_secs(-5).to_string(), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(HttpDate::from_secs(i64::MAX).to_string(), "Fri, 31 Dec 9999 23:59:59 GMT");
    }

    #[test]
    fn neither_case_nor_the_day_of_the_week_matters() {
        let read = |text| HttpDate::parse(&HeaderValue::from_static(text));
        let expected = read("Thu, 18 Aug 2050 02:01:18 GMT");
        assert!(expected.is_some());
        for text in [
            "THU, 18 Aug 2050 02:01:18 GMT",
            "thu, 18 AUG 2050 02:01:18 gmt",
            "Mon, 18 Aug 2050 02:01:18 gMT",
            "SUNDAY, 18-AUG-50 02:01:18 GMT",
            "Sun Aug 18 02:01:18 2050",
        ] {
            assert_eq!(read(text), expected, "{text}");
        }
        for text in [
            "Thu, 18 Aug 2050 02:01:18 UTC",
            "Thu 18 Aug 2050 02:01:18 GMT",
            "Foo, 18 Aug 2050 02:01:18 GMT",
            "Thu, 32 Aug 2050 02:01:18 GMT",
            "Thu, 18 Foo 2050 02:01:18 GMT",
            "18 Aug 2050",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_moment_reads_back(seconds in 0..=SECONDS_MAX) {
            let date = HttpDate::from_secs(seconds);
            assert_eq!(HttpDate::parse(&date.to_header_value()), Some(date));
        }

        #[test]
        fn parsing_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = HttpDate::parse(&value);
            }
        }
    }
}
