//! Which part of a stored or arriving object answers a request: conditions first, then ranges.
//! Pure. The engine asks once an answer with status 200.

use super::request::ReadMethod;
use crate::rfc::conditional::{Condition, Validators, evaluate, range_applies};
use crate::rfc::range::{ByteRanges, ByteSpan, Resolved};
use http::{HeaderMap, Method};
use std::borrow::Cow;

/// What of an object a request gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// 200 with all of it.
    Whole,
    /// 206 with one stretch.
    Part(ByteSpan),
    /// 304.
    NotModified,
    /// 412.
    PreconditionFailed,
    /// 416, with the object's length in bytes for `Content-Range: bytes */length`.
    Unsatisfiable {
        /// The length.
        length: u64,
    },
}

/// What of an object with the fields `stored`, which few requests ask for, a request gets. `length`
/// is the object's in bytes, `None` while it is not known.
///
/// Several ranges that do not coalesce into one are answered with the whole object, as RFC 9110
/// section 14.2 allows, and so is any range while the length is not known.
pub fn select<'s>(
    method: ReadMethod,
    request: &HeaderMap,
    stored: impl FnOnce() -> Cow<'s, HeaderMap>,
    length: Option<u64>,
) -> Selection {
    if !is_selective(request) {
        return Selection::Whole;
    }
    let stored = stored();
    let own = Validators::of(&stored);
    match evaluate(&Method::GET, request, &own) {
        Condition::NotModified => return Selection::NotModified,
        Condition::PreconditionFailed => return Selection::PreconditionFailed,
        Condition::Proceed => {}
    }
    let (ReadMethod::Get, Some(length)) = (method, length) else {
        return Selection::Whole;
    };
    match ByteRanges::of(request) {
        Some(ranges) if range_applies(request, &own) => resolve(&ranges, length),
        _ => Selection::Whole,
    }
}

fn resolve(ranges: &ByteRanges, length: u64) -> Selection {
    match ranges.resolve(length) {
        Resolved::Whole | Resolved::Multiple(_) => Selection::Whole,
        Resolved::Single(span) => Selection::Part(span),
        Resolved::Unsatisfiable => Selection::Unsatisfiable { length },
    }
}

/// Whether a request has any field that could select less than the whole.
fn is_selective(request: &HeaderMap) -> bool {
    request.keys().any(|name| {
        matches!(
            name.as_str(),
            "range" | "if-none-match" | "if-modified-since" | "if-match" | "if-unmodified-since"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::fields;

    fn get(request: &[(&str, &str)]) -> Selection {
        select(
            ReadMethod::Get,
            &fields(request),
            || Cow::Owned(fields(&[("etag", "\"a\"")])),
            Some(10),
        )
    }

    fn part(first: u64, last: u64) -> Selection {
        Selection::Part(ByteSpan { first, last })
    }

    #[test]
    fn ranges_select_parts() {
        assert_eq!(get(&[]), Selection::Whole);
        assert_eq!(get(&[("range", "bytes=4-")]), part(4, 9));
        assert_eq!(get(&[("range", "bytes=0-1,2-3")]), part(0, 3));
        assert_eq!(get(&[("range", "bytes=0-1,5-6")]), Selection::Whole);
        assert_eq!(get(&[("range", "bytes=10-")]), Selection::Unsatisfiable { length: 10 });
        assert_eq!(get(&[("range", "junk")]), Selection::Whole);
    }

    #[test]
    fn if_range_gives_the_whole_of_another_object() {
        assert_eq!(get(&[("range", "bytes=4-"), ("if-range", "\"a\"")]), part(4, 9));
        assert_eq!(get(&[("range", "bytes=4-"), ("if-range", "\"b\"")]), Selection::Whole);
        assert_eq!(get(&[("if-range", "\"b\"")]), Selection::Whole);
        let beyond = [("range", "bytes=99-"), ("if-range", "\"b\"")];
        assert_eq!(get(&beyond), Selection::Whole);
    }

    #[test]
    fn conditions_come_before_ranges() {
        let range = ("range", "bytes=99-");
        assert_eq!(get(&[range, ("if-none-match", "\"a\"")]), Selection::NotModified);
        assert_eq!(get(&[range, ("if-match", "\"b\"")]), Selection::PreconditionFailed);
    }

    #[test]
    fn a_head_and_an_unknown_length_have_no_parts() {
        let range = fields(&[("range", "bytes=4-")]);
        let stored = || Cow::Owned(HeaderMap::new());
        assert_eq!(select(ReadMethod::Head, &range, stored, Some(10)), Selection::Whole);
        assert_eq!(select(ReadMethod::Get, &range, stored, None), Selection::Whole);
        let known = fields(&[("if-none-match", "*")]);
        assert_eq!(select(ReadMethod::Head, &known, stored, None), Selection::NotModified);
    }
}
