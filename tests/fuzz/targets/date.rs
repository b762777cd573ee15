//! Fuzzes `rfc::date`: whatever form a moment is read from, it prints as one IMF-fixdate that
//! reads back; every number is a moment that can be printed.
#![no_main]

use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use narthex::rfc::HttpDate;

fuzz_target!(|data: &[u8]| {
    let (number, _) = narthex_fuzz::number(data);
    let seconds = number.cast_signed();
    let date = HttpDate::from_secs(seconds);
    check(date);
    check(HttpDate::from_secs(seconds % 300_000_000_000));
    assert!(date.secs() == seconds || (date.secs() < seconds) == (seconds > 0));
    let Ok(value) = HeaderValue::from_bytes(data) else { return };
    if let Some(date) = HttpDate::parse(&value) {
        check(date);
        assert!(value.len() >= "Sun Nov  6 08:49:37 1994".len(), "{value:?}");
    }
});

fn check(date: HttpDate) {
    assert_eq!(HttpDate::from_secs(date.secs()), date);
    let printed = date.to_header_value();
    assert_eq!(printed.len(), "Sun, 06 Nov 1994 08:49:37 GMT".len());
    assert_eq!(HttpDate::parse(&printed), Some(date));
}
