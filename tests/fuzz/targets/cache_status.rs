//! Fuzzes `rfc::cache_status`: whatever is said of a request, the value is a structured list
//! (RFC 8941) whose last member is the own one. Lines: numbers, key, detail, then upstream's.
#![no_main]

use http::{HeaderValue, StatusCode};
use libfuzzer_sys::fuzz_target;
use narthex::rfc::cache_status::{CacheStatus, ForwardReason};
use narthex::rfc::grammar;

const FORWARDS: [ForwardReason; 7] = [
    ForwardReason::Bypass,
    ForwardReason::Method,
    ForwardReason::UriMiss,
    ForwardReason::Miss,
    ForwardReason::Request,
    ForwardReason::Stale,
    ForwardReason::Partial,
];
/// The two strings of 512 bytes, each byte as `%XX`, and the rest.
const OWN_BYTES_MAX: usize = 2 * 3 * 512 + 160;

fuzz_target!(|data: &[u8]| {
    let (number, rest) = narthex_fuzz::number(data);
    let mut lines = narthex_fuzz::lines(rest);
    let mut string = || narthex_fuzz::text(lines.next()?);
    let (key, detail) = (string(), string());
    let forward = usize::try_from(number >> 4 & 7).unwrap_or_default();
    let mut status = match FORWARDS.get(forward) {
        Some(forward) => CacheStatus::forwarded(*forward),
        None if number & 1 == 0 => CacheStatus::hit(),
        None => CacheStatus::own(),
    };
    if let Ok(code) = StatusCode::from_u16((number >> 8 & 0x3ff) as u16) {
        status = status.with_forward_status(code);
    }
    if number & 2 == 0 {
        status = status.with_ttl((number << 3).cast_signed()).stored().collapsed();
    }
    status = key.map_or(status, |key| status.with_key(key));
    status = detail.map_or(status, |detail| status.with_detail(detail));
    let own = status.to_header_value();
    check_own(own.as_bytes());
    let upstream: Vec<HeaderValue> =
        lines.filter_map(|line| HeaderValue::from_bytes(line).ok()).collect();
    let whole = status.to_header_value_after(&upstream);
    let last = grammar::list_members(whole.as_bytes()).last();
    assert_eq!(last, Some(own.as_bytes()), "hidden by what is upstream: {whole:?}");
    assert!(whole.len() <= own.len() + 1024);
    assert!(whole.as_bytes().iter().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e)));
});

/// `narthex`, then parameters that are bare, tokens, integers or strings.
fn check_own(own: &[u8]) {
    assert!(own.len() <= OWN_BYTES_MAX);
    let mut rest = own.strip_prefix(b"narthex").expect("the name");
    while !rest.is_empty() {
        rest = rest.strip_prefix(b"; ").expect("a parameter");
        rest = &rest[span(rest, |byte| byte.is_ascii_lowercase() || byte == b'-')..];
        let Some(value) = rest.strip_prefix(b"=") else { continue };
        rest = match value {
            [b'"', ..] => &value[string_length(value)..],
            [b'a'..=b'z', ..] => {
                &value[span(value, |byte| byte.is_ascii_lowercase() || byte == b'-')..]
            }
            _ => {
                let digits = value.strip_prefix(b"-").unwrap_or(value);
                let length = span(digits, |byte| byte.is_ascii_digit());
                assert!(length <= 15, "an integer of {length} digits");
                &digits[length..]
            }
        };
    }
}

/// Bytes at the start of `bytes` for which `is_part` holds; at least one.
fn span(bytes: &[u8], is_part: impl Fn(u8) -> bool) -> usize {
    let length = bytes.iter().take_while(|byte| is_part(**byte)).count();
    assert!(length > 0, "nothing where a key or a value should be");
    length
}

/// Bytes of the string at the start of `bytes`, with its quotes (RFC 8941 section 4.2.5).
fn string_length(bytes: &[u8]) -> usize {
    let mut at = 1;
    loop {
        match bytes[at] {
            b'"' => return at + 1,
            b'\\' => {
                assert!(matches!(bytes[at + 1], b'"' | b'\\'));
                at += 2;
            }
            byte => {
                assert!(matches!(byte, 0x20..=0x7e));
                at += 1;
            }
        }
    }
}
