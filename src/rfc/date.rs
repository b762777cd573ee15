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
    /// digits of a year mean 1970 to 2069.
    pub fn parse(value: &HeaderValue) -> Option<Self> {
        let time = httpdate::parse_http_date(value.to_str().ok()?.trim()).ok()?;
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
