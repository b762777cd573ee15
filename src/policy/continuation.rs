//! Whether a 206 continues a body that broke off (RFC 9110 section 15.3.7.3). Pure. `fill` asks
//! before it appends a byte of it.

use super::fields;
use crate::rfc::conditional::Validators;
use crate::rfc::content_length::content_length;
use crate::rfc::range::{ByteSpan, ContentRange};
use http::{HeaderMap, StatusCode, header};

/// What is known of the body that broke off.
#[derive(Debug, Clone, Copy)]
pub struct BrokenBody<'a> {
    /// The fields kept from its head.
    pub headers: &'a HeaderMap,
    /// Its length in bytes, if it was stated.
    pub length: Option<u64>,
    /// Bytes of it that arrived.
    pub offset: u64,
}

/// What ties the continuation to what came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tie {
    /// The same strong entity tag.
    EntityTag,
    /// The same `Last-Modified`, and no strong entity tag on either side.
    LastModified,
    /// Nothing: the whole may be used only if a hash proves it.
    None,
}

/// A continuation that fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Continuation {
    /// Bytes of the whole object.
    pub length: u64,
    /// What ties it to what came before.
    pub tie: Tie,
}

/// Why an answer does not continue the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContinuationError {
    /// Not 206.
    #[error("status {0} to a request to continue a body")]
    Status(StatusCode),
    /// No sound `Content-Range`, or one that contradicts `Content-Length`.
    #[error("the part does not say soundly which bytes it is")]
    Unsound,
    /// Not the bytes from the offset to the end.
    #[error("the part is bytes {first} to {last}, not from {offset} to the end")]
    OtherBytes {
        /// Its first byte.
        first: u64,
        /// Its last byte.
        last: u64,
        /// The byte asked for.
        offset: u64,
    },
    /// The whole has another length than before.
    #[error("the object has {now:?} bytes now; it had {before}")]
    OtherLength {
        /// The length that this answer states.
        now: Option<u64>,
        /// The length that was stated before.
        before: u64,
    },
    /// Another entity tag, date or content coding.
    #[error("the object has changed since its first part")]
    OtherObject,
}

/// Judges the answer to a request for the bytes from `begun.offset` on.
pub fn check(
    begun: &BrokenBody<'_>,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<Continuation, ContinuationError> {
    if status != StatusCode::PARTIAL_CONTENT {
        return Err(ContinuationError::Status(status));
    }
    let (span, stated) = part(headers).ok_or(ContinuationError::Unsound)?;
    let length = match (begun.length, stated) {
        (Some(before), now) if now.is_some_and(|now| now != before) => {
            return Err(ContinuationError::OtherLength { now, before });
        }
        (Some(length), _) | (None, Some(length)) => length,
        (None, None) => return Err(ContinuationError::Unsound),
    };
    if span.first != begun.offset || span.last.checked_add(1) != Some(length) {
        let ByteSpan { first, last } = span;
        return Err(ContinuationError::OtherBytes { first, last, offset: begun.offset });
    }
    Ok(Continuation { length, tie: tie(begun.headers, headers)? })
}

/// Judges the answer to a request for the bytes from `begun.offset` to `last`: it may end before
/// `last`, never begin elsewhere. Gives the offset behind its last byte too.
pub fn check_stretch(
    begun: &BrokenBody<'_>,
    last: u64,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<(Continuation, u64), ContinuationError> {
    if status != StatusCode::PARTIAL_CONTENT {
        return Err(ContinuationError::Status(status));
    }
    let (span, stated) = part(headers).ok_or(ContinuationError::Unsound)?;
    let length = begun.length.or(stated).ok_or(ContinuationError::Unsound)?;
    if stated.is_some_and(|now| now != length) {
        return Err(ContinuationError::OtherLength { now: stated, before: length });
    }
    let ByteSpan { first, last: ends } = span;
    if first != begun.offset || ends > last || ends >= length {
        return Err(ContinuationError::OtherBytes { first, last: ends, offset: begun.offset });
    }
    Ok((Continuation { length, tie: tie(begun.headers, headers)? }, ends.saturating_add(1)))
}

/// The bytes that a response says it is, and the length of the whole, if it says it soundly.
pub fn part(headers: &HeaderMap) -> Option<(ByteSpan, Option<u64>)> {
    let mut lines = headers.get_all(header::CONTENT_RANGE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return None;
    };
    let ContentRange::Part { span, length } = ContentRange::parse(line)? else {
        return None;
    };
    let body = content_length(headers).ok()?;
    body.is_none_or(|body| body == span.length()).then_some((span, length))
}

/// What ties a response with the fields `now` to one with the kept fields `before`.
pub fn tie(before: &HeaderMap, now: &HeaderMap) -> Result<Tie, ContinuationError> {
    let cleaned = fields::kept(now);
    let coding = |headers: &HeaderMap| headers.get(header::CONTENT_ENCODING).cloned();
    if coding(before) != coding(&cleaned) {
        return Err(ContinuationError::OtherObject);
    }
    let (before, now) = (Validators::of(before), Validators::of(now));
    let is_other = match (before.etag, now.etag) {
        (Some(one), Some(other)) => !one.matches_weakly(&other),
        _ => false,
    };
    if is_other {
        return Err(ContinuationError::OtherObject);
    }
    if let (Some(one), Some(other)) = (before.etag, now.etag)
        && one.matches_strongly(&other)
    {
        return Ok(Tie::EntityTag);
    }
    match (before.last_modified, now.last_modified) {
        (Some(one), Some(other)) if one != other => Err(ContinuationError::OtherObject),
        (Some(_), Some(_)) if before.etag.is_none() && now.etag.is_none() => Ok(Tie::LastModified),
        _ => Ok(Tie::None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::fields;

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const OTHER_DATE: &str = "Sun, 06 Nov 1994 08:49:38 GMT";

    fn judge(
        before: &[(&str, &str)],
        length: Option<u64>,
        now: &[(&str, &str)],
    ) -> Result<(u64, Tie), ContinuationError> {
        let headers = fields(before);
        let begun = BrokenBody { headers: &headers, length, offset: 4 };
        check(&begun, StatusCode::PARTIAL_CONTENT, &fields(now)).map(|c| (c.length, c.tie))
    }

    #[test]
    fn the_rest_of_the_same_object_fits() {
        let tag = ("etag", "\"a\"");
        let now = [tag, ("content-range", "bytes 4-9/10"), ("content-length", "6")];
        assert_eq!(judge(&[tag], Some(10), &now), Ok((10, Tie::EntityTag)));
        assert_eq!(judge(&[tag], None, &now), Ok((10, Tie::EntityTag)));
        let unknown = [tag, ("content-range", "bytes 4-9/*")];
        assert_eq!(judge(&[tag], Some(10), &unknown), Ok((10, Tie::EntityTag)));
        assert_eq!(judge(&[tag], None, &unknown), Err(ContinuationError::Unsound));
    }

    #[test]
    fn what_ties_the_parts_is_told() {
        let range = ("content-range", "bytes 4-9/10");
        let date = ("last-modified", DATE);
        let weak = ("etag", "W/\"a\"");
        assert_eq!(judge(&[date], Some(10), &[range, date]), Ok((10, Tie::LastModified)));
        assert_eq!(judge(&[weak, date], Some(10), &[range, weak, date]), Ok((10, Tie::None)));
        assert_eq!(judge(&[("etag", "\"a\"")], Some(10), &[range]), Ok((10, Tie::None)));
        assert_eq!(judge(&[], Some(10), &[range]), Ok((10, Tie::None)));
    }

    #[test]
    fn another_object_is_refused() {
        let range = ("content-range", "bytes 4-9/10");
        let other = Err(ContinuationError::OtherObject);
        assert_eq!(judge(&[("etag", "\"a\"")], Some(10), &[range, ("etag", "\"b\"")]), other);
        let (one, two) = (("last-modified", DATE), ("last-modified", OTHER_DATE));
        assert_eq!(judge(&[one], Some(10), &[range, two]), other);
        assert_eq!(judge(&[], Some(10), &[range, ("content-encoding", "gzip")]), other);
        assert_eq!(
            judge(&[], Some(10), &[range, ("content-encoding", "identity")]),
            Ok((10, Tie::None))
        );
        assert_eq!(
            judge(&[], Some(11), &[range]),
            Err(ContinuationError::OtherLength { now: Some(10), before: 11 })
        );
    }

    #[test]
    fn a_stretch_may_end_early_and_never_begins_elsewhere() {
        let tag = ("etag", "\"a\"");
        let headers = fields(&[tag]);
        let begun = BrokenBody { headers: &headers, length: Some(10), offset: 4 };
        let judge = |range: &str, etag: &str| {
            let now = fields(&[("etag", etag), ("content-range", range)]);
            check_stretch(&begun, 7, StatusCode::PARTIAL_CONTENT, &now)
        };
        let fits = Continuation { length: 10, tie: Tie::EntityTag };
        assert_eq!(judge("bytes 4-7/10", "\"a\""), Ok((fits, 8)));
        assert_eq!(judge("bytes 4-5/*", "\"a\""), Ok((fits, 6)));
        for range in ["bytes 4-8/10", "bytes 3-7/10", "bytes 5-7/10"] {
            let refused = judge(range, "\"a\"");
            assert!(matches!(refused, Err(ContinuationError::OtherBytes { .. })), "{range}");
        }
        let longer = Err(ContinuationError::OtherLength { now: Some(11), before: 10 });
        assert_eq!(judge("bytes 4-7/11", "\"a\""), longer);
        assert_eq!(judge("bytes 4-7/10", "\"b\""), Err(ContinuationError::OtherObject));
        assert_eq!(judge("lines 4-7/10", "\"a\""), Err(ContinuationError::Unsound));
    }

    #[test]
    fn other_bytes_are_refused() {
        for (range, first, last) in
            [("bytes 0-9/10", 0, 9), ("bytes 5-9/10", 5, 9), ("bytes 4-8/10", 4, 8)]
        {
            let expected = Err(ContinuationError::OtherBytes { first, last, offset: 4 });
            assert_eq!(judge(&[], Some(10), &[("content-range", range)]), expected);
        }
        let unsound = Err(ContinuationError::Unsound);
        assert_eq!(judge(&[], Some(10), &[]), unsound);
        assert_eq!(judge(&[], Some(10), &[("content-range", "bytes */10")]), unsound);
        let range = ("content-range", "bytes 4-9/10");
        assert_eq!(judge(&[], Some(10), &[range, range]), unsound);
        assert_eq!(judge(&[], Some(10), &[range, ("content-length", "5")]), unsound);
        let begun = BrokenBody { headers: &HeaderMap::new(), length: Some(10), offset: 4 };
        let whole = check(&begun, StatusCode::OK, &fields(&[range]));
        assert_eq!(whole, Err(ContinuationError::Status(StatusCode::OK)));
    }
}
