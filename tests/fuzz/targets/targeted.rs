//! Fuzzes `rfc::targeted`: of the fields that speak to some caches alone, the first that is a
//! dictionary with members counts, by itself, and no number in it is beyond what can be waited.
//! Lines: fields by name, `cdn-cache-control` and `surrogate-control` among them.
#![no_main]

use http::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use narthex::rfc::cache_control::{DELTA_SECONDS_MAX, Delta};
use narthex::rfc::targeted::directives;

const FIRST: HeaderName = HeaderName::from_static("cdn-cache-control");
const SECOND: HeaderName = HeaderName::from_static("surrogate-control");

const DELTAS: [Delta; 4] =
    [Delta::MaxAge, Delta::SharedMaxAge, Delta::StaleWhileRevalidate, Delta::StaleIfError];

fuzz_target!(|data: &[u8]| {
    let headers = narthex_fuzz::named_fields(data);
    let both = directives(&headers, &[FIRST, SECOND]);
    let (first, second) = (directives(&headers, &[FIRST]), directives(&headers, &[SECOND]));
    assert_eq!(both, first.clone().or(second));
    assert_eq!(directives(&headers, &[]), None);
    if let Some(found) = &both {
        for delta in DELTAS {
            assert!(found.seconds(delta).is_none_or(|seconds| seconds <= DELTA_SECONDS_MAX));
        }
    }
    // One line is as good as several, and what is no dictionary anywhere spoils all of a field.
    if let Some(found) = first {
        assert_eq!(directives(&joined(&headers), &[FIRST]).as_ref(), Some(&found));
        let mut spoiled = headers.clone();
        spoiled.append(FIRST, HeaderValue::from_static("&"));
        assert_eq!(directives(&spoiled, &[FIRST]), None);
    }
});

/// The lines of the first field in one.
fn joined(headers: &HeaderMap) -> HeaderMap {
    let lines: Vec<&[u8]> = headers.get_all(FIRST).iter().map(HeaderValue::as_bytes).collect();
    let value = HeaderValue::from_bytes(&lines.join(&b", "[..])).expect("made of values");
    HeaderMap::from_iter([(FIRST, value)])
}
