//! Which part of a stored or arriving response of a generic site answers a request: conditions
//! first, then ranges, of which several may be asked for at once (RFC 9110 sections 13, 14 and
//! 15.3.7). Pure. `engine` asks once an answer with status 200.

use crate::policy::request::ReadMethod;
use crate::rfc::conditional::{Condition, Validators, evaluate, range_applies};
use crate::rfc::date::HttpDate;
use crate::rfc::range::{ByteRanges, ByteSpan, Resolved};
use http::{HeaderMap, Method, header};

/// Bytes that one part of a `multipart/byteranges` body adds to the bytes asked for, at least:
/// ranges with a smaller gap between them are sent as one (RFC 9110 section 15.3.7.2).
const PART_BYTES: u64 = 128;

/// Seconds from its last change to its `Date` from which on a `Last-Modified` counts as a strong
/// validator (RFC 9110 section 8.8.2.2): within them, and between clocks that do not agree, the
/// response may have changed once more.
const STRONG_SECONDS: i64 = 60;

/// What of a response a request gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GenericSelection {
    /// 200 with all of it.
    Whole,
    /// 206 with one stretch.
    Part(ByteSpan),
    /// 206 with several stretches, as `multipart/byteranges`; fewer bytes than the whole.
    Parts(Vec<ByteSpan>),
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
    /// 416, with the length in bytes for `Content-Range: bytes */length`.
    Unsatisfiable {
        /// The length.
        length: u64,
    },
}

/// Whether several stretches of a body can be sent in one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Several {
    /// They can: all of it is here.
    Sent,
    /// It is sent as a whole instead (RFC 9110 section 14.2).
    AsWhole,
}

/// What of a response with the fields `stored` a request gets; `length` is that of its body in
/// bytes, `None` while it is not known: then there are no ranges of it.
pub fn select(
    method: ReadMethod,
    request: &HeaderMap,
    stored: &HeaderMap,
    length: Option<u64>,
    several: Several,
) -> GenericSelection {
    let own = Validators::of(stored);
    match evaluate(&Method::GET, request, &own) {
        Condition::NotModified => return GenericSelection::NotModified,
        Condition::PreconditionFailed => return GenericSelection::PreconditionFailed,
        Condition::Proceed => {}
    }
    let (ReadMethod::Get, Some(length)) = (method, length) else {
        return GenericSelection::Whole;
    };
    match ByteRanges::of(request) {
        Some(ranges) if applies(request, stored) => resolve(&ranges, length, several),
        _ => GenericSelection::Whole,
    }
}

/// Whether the ranges of a request are to be looked at (RFC 9110 section 13.1.5): an `If-Range`
/// with a date counts only if that is a strong validator.
pub fn applies(request: &HeaderMap, stored: &HeaderMap) -> bool {
    let own = Validators::of(stored);
    let own =
        Validators { last_modified: own.last_modified.filter(|at| is_strong(*at, stored)), ..own };
    range_applies(request, &own)
}

fn is_strong(changed: HttpDate, stored: &HeaderMap) -> bool {
    let date = stored.get(header::DATE).and_then(HttpDate::parse);
    date.is_some_and(|date| date.secs().saturating_sub(changed.secs()) >= STRONG_SECONDS)
}

fn resolve(ranges: &ByteRanges, length: u64, several: Several) -> GenericSelection {
    match ranges.resolve_over_gaps(length, PART_BYTES) {
        Resolved::Whole => GenericSelection::Whole,
        Resolved::Single(span) => GenericSelection::Part(span),
        Resolved::Multiple(spans) => {
            let bytes = spans.iter().map(|span| span.length().saturating_add(PART_BYTES));
            let is_less = bytes.fold(0, u64::saturating_add) < length;
            if is_less && several == Several::Sent {
                GenericSelection::Parts(spans)
            } else {
                GenericSelection::Whole
            }
        }
        Resolved::Unsatisfiable => GenericSelection::Unsatisfiable { length },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::fields;

    const CHANGED: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const SOON: &str = "Sun, 06 Nov 1994 08:50:36 GMT";
    const LATER: &str = "Sun, 06 Nov 1994 08:50:37 GMT";

    fn get(request: &[(&str, &str)], stored: &[(&str, &str)], length: u64) -> GenericSelection {
        let (request, stored) = (fields(request), fields(stored));
        select(ReadMethod::Get, &request, &stored, Some(length), Several::Sent)
    }

    fn span(first: u64, last: u64) -> ByteSpan {
        ByteSpan { first, last }
    }

    #[test]
    fn several_ranges_are_sent_where_they_are_less_than_the_whole() {
        let asked = |ranges: &str, length| get(&[("range", ranges)], &[], length);
        let parts = |spans: &[ByteSpan]| GenericSelection::Parts(spans.to_vec());
        assert_eq!(asked("bytes=0-1,500-501", 1_000), parts(&[span(0, 1), span(500, 501)]));
        assert_eq!(asked("bytes=-1,0-1", 1_000), parts(&[span(999, 999), span(0, 1)]));
        // What lies close together is one stretch.
        assert_eq!(asked("bytes=0-1,129-130", 1_000), GenericSelection::Part(span(0, 130)));
        assert_eq!(asked("bytes=0-1,130-131", 1_000), parts(&[span(0, 1), span(130, 131)]));
        // Nearly all of it, or more than it.
        assert_eq!(asked("bytes=0-700,850-", 1_000), GenericSelection::Whole);
        assert_eq!(asked("bytes=0-0,150-150", 256), GenericSelection::Whole);
        assert_eq!(
            asked("bytes=1000-,2000-", 1_000),
            GenericSelection::Unsatisfiable { length: 1_000 }
        );
        assert_eq!(asked("bytes=0-0,2000-", 1_000), GenericSelection::Part(span(0, 0)));
        let many: Vec<String> = (0..17).map(|at| format!("{0}-{0}", at * 1_000)).collect();
        assert_eq!(asked(&format!("bytes={}", many.join(",")), 1 << 20), GenericSelection::Whole);
        let request = fields(&[("range", "bytes=0-1,500-501")]);
        let stored = fields(&[]);
        let whole = select(ReadMethod::Get, &request, &stored, Some(1_000), Several::AsWhole);
        assert_eq!(whole, GenericSelection::Whole);
    }

    #[test]
    fn a_date_permits_a_range_where_it_is_a_strong_validator() {
        let range = ("range", "bytes=0-0");
        let part = GenericSelection::Part(span(0, 0));
        for (asked, stored, expected) in [
            (CHANGED, &[("last-modified", CHANGED), ("date", LATER)][..], &part),
            (CHANGED, &[("last-modified", CHANGED), ("date", SOON)], &GenericSelection::Whole),
            (CHANGED, &[("last-modified", CHANGED)], &GenericSelection::Whole),
            (LATER, &[("last-modified", CHANGED), ("date", LATER)], &GenericSelection::Whole),
            ("\"a\"", &[("etag", "\"a\"")], &part),
            ("\"a\"", &[("etag", "W/\"a\"")], &GenericSelection::Whole),
            ("W/\"a\"", &[("etag", "W/\"a\"")], &GenericSelection::Whole),
            ("junk", &[("etag", "\"a\"")], &GenericSelection::Whole),
        ] {
            assert_eq!(get(&[range, ("if-range", asked)], stored, 10), *expected, "{stored:?}");
        }
    }

    #[test]
    fn conditions_come_first_and_a_head_has_no_parts() {
        let stored = [("etag", "\"a\"")];
        let range = ("range", "bytes=99-");
        let asked = |condition| get(&[range, condition], &stored, 10);
        assert_eq!(asked(("if-none-match", "\"a\"")), GenericSelection::NotModified);
        assert_eq!(asked(("if-match", "\"b\"")), GenericSelection::PreconditionFailed);
        let (request, stored) = (fields(&[range]), fields(&stored));
        let head = select(ReadMethod::Head, &request, &stored, Some(10), Several::Sent);
        assert_eq!(head, GenericSelection::Whole);
    }
}
