//! Fuzzes `rfc::range`: what a `Range` resolves to lies within the object, never overlaps, and
//! is what a naive model says; a `Content-Range` prints as it was read. The first eight bytes are
//! the object's length.
#![no_main]

use http::HeaderValue;
use libfuzzer_sys::fuzz_target;
use narthex::rfc::range::{ByteRanges, ByteSpan, ContentRange, RANGES_MAX, Resolved};

fuzz_target!(|data: &[u8]| {
    let (length, line) = narthex_fuzz::number(data);
    let Ok(value) = HeaderValue::from_bytes(line) else { return };
    check_content_range(&value);
    let Some(ranges) = ByteRanges::parse(&value) else { return };
    for length in [length, length % 64, 0, 1, u64::MAX] {
        let spans = match ranges.resolve(length) {
            Resolved::Whole => {
                assert_eq!(length, 0);
                continue;
            }
            Resolved::Unsatisfiable => Vec::new(),
            Resolved::Single(span) => vec![span],
            Resolved::Multiple(spans) => {
                assert!(spans.len() > 1);
                spans
            }
        };
        check_spans(&spans, length);
        if length < 64 {
            let text = narthex_fuzz::text(line).expect("a range is ASCII");
            let is_asked =
                |at: &u64| spans.iter().any(|span| (span.first..=span.last).contains(at));
            let asked: Vec<u64> = (0..length).filter(is_asked).collect();
            assert_eq!(asked, model(text, length), "{text} of {length}");
        }
    }
});

fn check_spans(spans: &[ByteSpan], length: u64) {
    assert!(spans.len() <= RANGES_MAX);
    let mut sorted = spans.to_vec();
    sorted.sort_by_key(|span| span.first);
    assert!(sorted.iter().all(|span| span.first <= span.last && span.last < length));
    assert!(sorted.is_sorted_by(|one, next| one.last + 1 < next.first), "{spans:?}");
    assert!(spans.iter().map(|span| u128::from(span.length())).sum::<u128>() <= length.into());
}

/// The bytes of an object of `length` that a well-formed `Range` asks for.
fn model(text: &str, length: u64) -> Vec<u64> {
    let (_, set) = text.split_once('=').expect("a unit");
    // More digits than a u64 has are as good as infinity here.
    let number = |digits: &str| digits.parse::<u64>().unwrap_or(u64::MAX);
    let parts = set.split(',').map(|part| part.trim_matches([' ', '\t'])).filter(|p| !p.is_empty());
    let asked: Vec<(u64, u64)> = parts
        .map(|part| match part.split_once('-').expect("a hyphen") {
            ("", suffix) => (length.saturating_sub(number(suffix)), u64::MAX),
            (first, "") => (number(first), u64::MAX),
            (first, last) => (number(first), number(last)),
        })
        .collect();
    let is_asked = |at: &u64| asked.iter().any(|(first, last)| first <= at && at <= last);
    (0..length).filter(is_asked).collect()
}

fn check_content_range(value: &HeaderValue) {
    let Some(read) = ContentRange::parse(value) else { return };
    if let ContentRange::Part { span, length } = read {
        assert!(span.first <= span.last && length.is_none_or(|length| span.last < length));
    }
    let printed = read.to_header_value();
    assert_eq!(ContentRange::parse(&printed), Some(read));
    assert!(printed.len() <= value.len(), "{printed:?}");
}
