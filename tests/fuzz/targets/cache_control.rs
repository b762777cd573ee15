//! Fuzzes `rfc::cache_control` and `rfc::age`: another line never means more caching, nothing
//! hides a directive, and every number of seconds is bounded. One field `Cache-Control` a line.
#![no_main]

use http::header::{AGE, CACHE_CONTROL, DATE, EXPIRES};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use narthex::rfc::age::{ExchangeTimes, initial_age, stated_age};
use narthex::rfc::cache_control::{
    CacheControl, DELTA_SECONDS_MAX, Delta, Flag, delta_seconds, explicit_lifetime,
};

const DELTAS: [Delta; 4] =
    [Delta::MaxAge, Delta::SharedMaxAge, Delta::StaleWhileRevalidate, Delta::StaleIfError];
const FLAGS: [Flag; 8] = [
    Flag::NoStore,
    Flag::NoCache,
    Flag::Private,
    Flag::Public,
    Flag::MustRevalidate,
    Flag::ProxyRevalidate,
    Flag::Immutable,
    Flag::OnlyIfCached,
];

fuzz_target!(|data: &[u8]| {
    let headers = narthex_fuzz::fields(&CACHE_CONTROL, data);
    let found = CacheControl::of(&headers);
    assert!(DELTAS.iter().all(|delta| found.seconds(*delta) <= Some(DELTA_SECONDS_MAX)));
    let shouted = narthex_fuzz::fields(&CACHE_CONTROL, &data.to_ascii_uppercase());
    assert_eq!(CacheControl::of(&shouted), found);
    let reversed = headers.get_all(CACHE_CONTROL).iter().rev().cloned();
    assert_eq!(CacheControl::of(&control(reversed)), found);
    check_one_more_line(&headers, found);
    check_hiding(&headers);
    check_numbers(data);
});

fn control(lines: impl Iterator<Item = HeaderValue>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(CACHE_CONTROL, line);
    }
    headers
}

fn check_one_more_line(headers: &HeaderMap, found: CacheControl) {
    let mut more = headers.clone();
    more.append(CACHE_CONTROL, HeaderValue::from_static("no-store, max-age=7, s-maxage=x"));
    let more = CacheControl::of(&more);
    assert!(more.has(Flag::NoStore));
    assert!(FLAGS.iter().all(|flag| !found.has(*flag) || more.has(*flag)));
    assert!(more.seconds(Delta::MaxAge) <= Some(7) && more.seconds(Delta::MaxAge).is_some());
    assert_eq!(more.seconds(Delta::SharedMaxAge), Some(0));
    let stale = [Delta::StaleIfError, Delta::StaleWhileRevalidate];
    assert!(stale.iter().all(|delta| more.seconds(*delta) == found.seconds(*delta)));
}

/// A directive behind any line without a quote, and before any line, is seen.
fn check_hiding(headers: &HeaderMap) {
    for line in headers.get_all(CACHE_CONTROL) {
        let before = [b"private, ", line.as_bytes()].concat();
        let behind = [line.as_bytes(), b", private"].concat();
        let has_quote = line.as_bytes().contains(&b'"');
        for joined in [Some(before), (!has_quote).then_some(behind)].into_iter().flatten() {
            let joined = HeaderValue::from_bytes(&joined).expect("both are values");
            assert!(CacheControl::of(&control([joined].into_iter())).has(Flag::Private));
        }
    }
}

fn check_numbers(data: &[u8]) {
    assert!(delta_seconds(data) <= Some(DELTA_SECONDS_MAX));
    let (number, rest) = narthex_fuzz::number(data);
    let mut lines = narthex_fuzz::lines(rest).filter_map(|line| HeaderValue::from_bytes(line).ok());
    let mut headers = HeaderMap::new();
    for name in [AGE, DATE, EXPIRES] {
        headers.extend(lines.next().map(|line| (name, line)));
    }
    assert!(explicit_lifetime(&headers) <= Some(DELTA_SECONDS_MAX));
    let exchanged = ExchangeTimes {
        delay_millis: number,
        arrived_millis: number.cast_signed().rotate_left(32),
    };
    let age = initial_age(&headers, exchanged);
    assert!(age <= DELTA_SECONDS_MAX && Some(age) >= stated_age(&headers));
}
