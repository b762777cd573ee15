//! Byte ranges (RFC 9110 section 14): what a client asks for, what that means for an object of
//! known length, and `Content-Range` both ways. Pure; all arithmetic is checked or saturating.
//!
//! A `Range` that is malformed, of another unit, sent twice, or of more than [`RANGES_MAX`]
//! ranges is ignored, as section 14.2 allows. Ranges that overlap or touch become one, so what
//! [`ByteRanges::resolve`] returns never adds up to more than the object.

use super::grammar;
use http::{HeaderMap, HeaderValue, header};
use std::ops::Range;

/// Ranges of one request that are looked at; a request with more gets the whole object.
pub const RANGES_MAX: usize = 16;

/// The ranges of a request, in its order; one to [`RANGES_MAX`] of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ByteRanges(Vec<RangeSpec>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RangeSpec {
    /// `first-last`, both included; `first-` ends at `u64::MAX`.
    FromTo { first: u64, last: u64 },
    /// `-length`: the last `length` bytes.
    Suffix { length: u64 },
}

/// A stretch of an object; both ends are included, and `first` is never after `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteSpan {
    /// Offset of the first byte.
    pub first: u64,
    /// Offset of the last byte.
    pub last: u64,
}

/// What the ranges of a request mean for one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Resolved {
    /// The object as a whole, with status 200: a non-empty suffix of an empty object, which
    /// `Content-Range` cannot express.
    Whole,
    /// One stretch, with status 206.
    Single(ByteSpan),
    /// At least two stretches that neither overlap nor touch, in the order asked for.
    Multiple(Vec<ByteSpan>),
    /// None of the ranges lies within the object: 416.
    Unsatisfiable,
}

impl ByteRanges {
    /// The ranges that a request asks for; `None` if it asks for none, or in a way that is
    /// to be ignored. Only GET may be given ranges (RFC 9110 section 14.2).
    pub fn of(request: &HeaderMap) -> Option<Self> {
        let mut lines = request.get_all(header::RANGE).iter();
        match (lines.next(), lines.next()) {
            (Some(line), None) => Self::parse(line),
            _ => None,
        }
    }

    /// Reads a `Range` value; `None` if it is to be ignored.
    pub fn parse(value: &HeaderValue) -> Option<Self> {
        let text = grammar::trim(value.as_bytes());
        let at = text.iter().position(|byte| *byte == b'=')?;
        let (unit, set) = text.split_at_checked(at)?;
        if !unit.eq_ignore_ascii_case(b"bytes") {
            return None;
        }
        let mut specs = Vec::new();
        for member in set.strip_prefix(b"=")?.split(|byte| *byte == b',') {
            let member = grammar::trim(member);
            if member.is_empty() {
                continue;
            }
            if specs.len() == RANGES_MAX {
                return None;
            }
            specs.push(RangeSpec::parse(member)?);
        }
        (!specs.is_empty()).then_some(Self(specs))
    }

    /// The one stretch that the ranges ask for, if that does not depend on the object's length;
    /// `last` is `u64::MAX` if it ends with the object.
    pub fn stretch(&self) -> Option<ByteSpan> {
        let mut spans = Vec::with_capacity(self.0.len());
        for spec in &self.0 {
            match *spec {
                RangeSpec::FromTo { first, last } => {
                    coalesce(&mut spans, ByteSpan { first, last }, 0);
                }
                RangeSpec::Suffix { .. } => return None,
            }
        }
        match spans.as_slice() {
            [span] => Some(*span),
            _ => None,
        }
    }

    /// What the ranges mean for an object of `length` bytes.
    pub fn resolve(&self, length: u64) -> Resolved {
        self.resolve_over_gaps(length, 0)
    }

    /// As [`ByteRanges::resolve`]; ranges with less than `gap` bytes between them become one too.
    pub fn resolve_over_gaps(&self, length: u64, gap: u64) -> Resolved {
        if length == 0 {
            let has_suffix = self.0.iter().any(RangeSpec::is_nonempty_suffix);
            return if has_suffix { Resolved::Whole } else { Resolved::Unsatisfiable };
        }
        let mut spans = Vec::with_capacity(self.0.len());
        for spec in &self.0 {
            if let Some(span) = spec.within(length) {
                coalesce(&mut spans, span, gap);
            }
        }
        match spans.as_slice() {
            [] => Resolved::Unsatisfiable,
            [span] => Resolved::Single(*span),
            _ => Resolved::Multiple(spans),
        }
    }
}

impl RangeSpec {
    fn parse(member: &[u8]) -> Option<Self> {
        let at = member.iter().position(|byte| *byte == b'-')?;
        let (before, after) = member.split_at_checked(at)?;
        let after = after.strip_prefix(b"-")?;
        if before.is_empty() {
            return Some(Self::Suffix { length: grammar::saturating_number(after)? });
        }
        let first = grammar::saturating_number(before)?;
        let last = match after {
            [] => u64::MAX,
            digits => grammar::saturating_number(digits)?,
        };
        (first <= last).then_some(Self::FromTo { first, last })
    }

    fn is_nonempty_suffix(&self) -> bool {
        matches!(self, Self::Suffix { length: 1.. })
    }

    /// The part that lies within an object of `length` bytes.
    fn within(&self, length: u64) -> Option<ByteSpan> {
        let end = length.checked_sub(1)?;
        match *self {
            Self::FromTo { first, last } => {
                (first <= end).then(|| ByteSpan { first, last: last.min(end) })
            }
            Self::Suffix { length: 0 } => None,
            Self::Suffix { length: suffix } => {
                Some(ByteSpan { first: length.saturating_sub(suffix), last: end })
            }
        }
    }
}

impl ByteSpan {
    /// Its bytes, as offsets from the first to the one behind the last.
    pub const fn bytes(self) -> Range<u64> {
        self.first..self.last.saturating_add(1)
    }

    /// Bytes of the stretch; saturates for the one that no object has.
    pub const fn length(self) -> u64 {
        self.last.saturating_sub(self.first).saturating_add(1)
    }

    /// Whether less than `gap` bytes are between the two, or none at all.
    const fn touches(self, other: Self, gap: u64) -> bool {
        let reach = if gap == 0 { 1 } else { gap };
        self.first <= other.last.saturating_add(reach)
            && other.first <= self.last.saturating_add(reach)
    }
}

/// Adds `span`, merged with all that it overlaps or touches, or has less than `gap` bytes to, in
/// the place of the first of them.
fn coalesce(spans: &mut Vec<ByteSpan>, span: ByteSpan, gap: u64) {
    let (mut merged, mut place) = (span, spans.len());
    while let Some(at) = spans.iter().position(|other| other.touches(merged, gap)) {
        let other = spans.remove(at);
        merged.first = merged.first.min(other.first);
        merged.last = merged.last.max(other.last);
        place = place.min(at);
    }
    spans.insert(place.min(spans.len()), merged);
}

/// A `Content-Range` of unit `bytes`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentRange {
    /// `bytes first-last/length`, or `/*` if the length is not known.
    Part {
        /// The stretch that the body is.
        span: ByteSpan,
        /// Bytes of the whole object.
        length: Option<u64>,
    },
    /// `bytes */length`, with a 416.
    Unsatisfied {
        /// Bytes of the whole object.
        length: u64,
    },
}

impl ContentRange {
    /// Reads a `Content-Range`; `None` if it is malformed, contradicts itself, or is of
    /// another unit.
    pub fn parse(value: &HeaderValue) -> Option<Self> {
        let (unit, rest) = value.as_bytes().split_at_checked(6)?;
        if !unit.eq_ignore_ascii_case(b"bytes ") {
            return None;
        }
        let slash = rest.iter().position(|byte| *byte == b'/')?;
        let (range, length) = rest.split_at_checked(slash)?;
        let length = length.strip_prefix(b"/")?;
        if range == b"*" {
            return Some(Self::Unsatisfied { length: grammar::strict_number(length)? });
        }
        let dash = range.iter().position(|byte| *byte == b'-')?;
        let (first, last) = range.split_at_checked(dash)?;
        let span = ByteSpan {
            first: grammar::strict_number(first)?,
            last: grammar::strict_number(last.strip_prefix(b"-")?)?,
        };
        let length = match length {
            b"*" => None,
            digits => Some(grammar::strict_number(digits)?),
        };
        let is_sound = span.first <= span.last && length.is_none_or(|length| span.last < length);
        is_sound.then_some(Self::Part { span, length })
    }

    /// Ready to send.
    pub fn to_header_value(self) -> HeaderValue {
        let text = match self {
            Self::Part { span, length: Some(length) } => {
                format!("bytes {}-{}/{length}", span.first, span.last)
            }
            Self::Part { span, length: None } => format!("bytes {}-{}/*", span.first, span.last),
            Self::Unsatisfied { length } => format!("bytes */{length}"),
        };
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("bytes */0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{Just, Strategy, any, prop, prop_oneof};
    use proptest::proptest;

    fn ranges(text: &str) -> Option<ByteRanges> {
        ByteRanges::parse(&HeaderValue::from_str(text).unwrap())
    }

    fn resolve(text: &str, length: u64) -> Resolved {
        ranges(text).expect(text).resolve(length)
    }

    fn single(first: u64, last: u64) -> Resolved {
        Resolved::Single(ByteSpan { first, last })
    }

    #[test]
    fn single_ranges_are_cut_to_the_object() {
        assert_eq!(resolve("bytes=0-", 10), single(0, 9));
        assert_eq!(resolve("bytes=0-0", 10), single(0, 0));
        assert_eq!(resolve("Bytes=9-", 10), single(9, 9));
        assert_eq!(resolve("bytes=5-99", 10), single(5, 9));
        assert_eq!(resolve("bytes=-3", 10), single(7, 9));
        assert_eq!(resolve("bytes=-30", 10), single(0, 9));
        assert_eq!(resolve("bytes= 1-2 ,", 10), single(1, 2));
    }

    #[test]
    fn a_stretch_is_told_without_the_length() {
        let stretch = |text: &str| ranges(text).unwrap().stretch();
        assert_eq!(stretch("bytes=5-9"), Some(ByteSpan { first: 5, last: 9 }));
        assert_eq!(stretch("bytes=5-"), Some(ByteSpan { first: 5, last: u64::MAX }));
        assert_eq!(stretch("bytes=5-9,0-4"), Some(ByteSpan { first: 0, last: 9 }));
        assert_eq!(stretch("bytes=5-9,3-"), Some(ByteSpan { first: 3, last: u64::MAX }));
        for other in ["bytes=-5", "bytes=0-1,-5", "bytes=0-1,3-4"] {
            assert_eq!(stretch(other), None, "{other}");
        }
    }

    #[test]
    fn beyond_the_end_is_unsatisfiable() {
        assert_eq!(resolve("bytes=10-", 10), Resolved::Unsatisfiable);
        assert_eq!(resolve("bytes=-0", 10), Resolved::Unsatisfiable);
        assert_eq!(resolve("bytes=10-,-0,99-100", 10), Resolved::Unsatisfiable);
        assert_eq!(resolve("bytes=99-,0-1", 10), single(0, 1));
    }

    #[test]
    fn an_empty_object_has_no_range() {
        assert_eq!(resolve("bytes=0-", 0), Resolved::Unsatisfiable);
        assert_eq!(resolve("bytes=-0", 0), Resolved::Unsatisfiable);
        assert_eq!(resolve("bytes=-5", 0), Resolved::Whole);
    }

    #[test]
    fn numbers_beyond_64_bits_do_not_wrap() {
        assert_eq!(resolve("bytes=0-99999999999999999999999", 10), single(0, 9));
        assert_eq!(resolve("bytes=-18446744073709551616", 10), single(0, 9));
        assert_eq!(resolve("bytes=18446744073709551617-", 10), Resolved::Unsatisfiable);
        assert_eq!(resolve("bytes=0-", u64::MAX), single(0, u64::MAX - 1));
        assert_eq!(
            resolve("bytes=0-1,18446744073709551613-", u64::MAX),
            Resolved::Multiple(vec![
                ByteSpan { first: 0, last: 1 },
                ByteSpan { first: u64::MAX - 2, last: u64::MAX - 1 },
            ])
        );
    }

    #[test]
    fn ranges_that_touch_become_one_and_keep_their_place() {
        assert_eq!(resolve("bytes=0-3,4-5", 10), single(0, 5));
        assert_eq!(resolve("bytes=0-1,4-5,2-3", 10), single(0, 5));
        assert_eq!(
            resolve("bytes=6-7,0-1,8-9,4-4,1-2", 10),
            Resolved::Multiple(vec![
                ByteSpan { first: 6, last: 9 },
                ByteSpan { first: 0, last: 2 },
                ByteSpan { first: 4, last: 4 },
            ])
        );
    }

    #[test]
    fn what_is_malformed_or_too_much_is_ignored() {
        for text in [
            "",
            "bytes",
            "bytes=",
            "bytes=,",
            "bytes=-",
            "bytes=a-",
            "bytes=1",
            "bytes=2-1",
            "bytes=0-1,2-1",
            "bytes=+1-2",
            "bytes=1--2",
            "bytes=1 -2",
            "bytes =1-2",
            "lines=1-2",
            "bytes=0-1;2-3",
            "bytes=0x0-1",
        ] {
            assert_eq!(ranges(text), None, "{text}");
        }
        assert!(ranges(&format!("bytes={}", ["0-0"; RANGES_MAX].join(","))).is_some());
        assert!(ranges(&format!("bytes={}", ["0-0"; RANGES_MAX + 1].join(","))).is_none());
        let mut twice = HeaderMap::new();
        twice.append(header::RANGE, HeaderValue::from_static("bytes=0-1"));
        assert!(ByteRanges::of(&twice).is_some());
        twice.append(header::RANGE, HeaderValue::from_static("bytes=0-1"));
        assert!(ByteRanges::of(&twice).is_none());
    }

    #[test]
    fn content_ranges_that_contradict_themselves_are_refused() {
        for text in [
            "bytes 0-9/9",
            "bytes 2-1/9",
            "bytes */*",
            "bytes 0-1",
            "bytes=0-1/2",
            "bytes 0-/2",
            "bytes -1/2",
            "bytes 0-1/ 2",
            "lines 0-1/2",
            "bytes 0-1/18446744073709551616",
            "",
        ] {
            assert_eq!(ContentRange::parse(&HeaderValue::from_str(text).unwrap()), None, "{text}");
        }
        let part = ContentRange::parse(&HeaderValue::from_static("bytes 2-3/*"));
        let span = ByteSpan { first: 2, last: 3 };
        assert_eq!(part, Some(ContentRange::Part { span, length: None }));
    }

    /// One range as text, and which bytes of a short object it selects.
    #[derive(Debug, Clone, Copy)]
    enum Naive {
        FromTo(u64, u64),
        From(u64),
        Suffix(u64),
    }

    impl Naive {
        fn text(self) -> String {
            match self {
                Self::FromTo(first, last) => format!("{first}-{last}"),
                Self::From(first) => format!("{first}-"),
                Self::Suffix(length) => format!("-{length}"),
            }
        }

        fn selects(self, offset: u64, length: u64) -> bool {
            match self {
                Self::FromTo(first, last) => (first..=last).contains(&offset),
                Self::From(first) => offset >= first,
                Self::Suffix(suffix) => offset + suffix >= length,
            }
        }
    }

    fn naive() -> impl Strategy<Value = Naive> {
        prop_oneof![
            (0..40_u64, 0..40_u64).prop_map(|(first, more)| Naive::FromTo(first, first + more)),
            (0..40_u64).prop_map(Naive::From),
            (0..40_u64).prop_map(Naive::Suffix),
        ]
    }

    proptest! {
        #[test]
        fn ranges_agree_with_a_byte_by_byte_model(
            specs in prop::collection::vec(naive(), 1..=RANGES_MAX),
            length in prop_oneof![Just(1_u64), 1..40_u64],
        ) {
            let text = specs.iter().map(|s| s.text()).collect::<Vec<_>>().join(",");
            let expected: Vec<bool> =
                (0..length).map(|at| specs.iter().any(|s| s.selects(at, length))).collect();
            let spans = match resolve(&format!("bytes={text}"), length) {
                Resolved::Whole => panic!("{text} of {length}"),
                Resolved::Unsatisfiable => vec![],
                Resolved::Single(span) => vec![span],
                Resolved::Multiple(spans) => {
                    assert!(spans.len() > 1);
                    spans
                }
            };
            let mut got = vec![0_u32; expected.len()];
            for span in &spans {
                for offset in span.first..=span.last {
                    got[usize::try_from(offset).unwrap()] += 1;
                }
            }
            // Every byte asked for once, no other byte, and no two stretches that touch.
            assert_eq!(got, expected.iter().map(|is_in| u32::from(*is_in)).collect::<Vec<_>>());
            let runs = expected.iter().zip(std::iter::once(&false).chain(&expected));
            assert_eq!(spans.len(), runs.filter(|(now, before)| **now && !**before).count());
        }

        #[test]
        fn any_value_resolves_within_any_object(
            text in "(bytes=)?[-0-9, ]{0,60}",
            length: u64,
        ) {
            let Some(ranges) = ranges(&text) else { return Ok(()) };
            let spans = match ranges.resolve(length) {
                Resolved::Whole | Resolved::Unsatisfiable => vec![],
                Resolved::Single(span) => vec![span],
                Resolved::Multiple(spans) => spans,
            };
            let sum = spans.iter().map(|span| u128::from(span.length())).sum::<u128>();
            assert!(sum <= u128::from(length));
            assert!(spans.iter().all(|span| span.first <= span.last && span.last < length));
        }

        #[test]
        fn content_ranges_read_back(first: u64, more: u64, rest in prop::option::of(any::<u64>())) {
            let last = first.saturating_add(more);
            let length = rest.and_then(|rest| last.checked_add(1)?.checked_add(rest));
            let part = ContentRange::Part { span: ByteSpan { first, last }, length };
            assert_eq!(ContentRange::parse(&part.to_header_value()), Some(part));
            let none = ContentRange::Unsatisfied { length: first };
            assert_eq!(ContentRange::parse(&none.to_header_value()), Some(none));
        }

        #[test]
        fn junk_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let _ = ByteRanges::parse(&value);
                let _ = ContentRange::parse(&value);
            }
        }
    }
}
