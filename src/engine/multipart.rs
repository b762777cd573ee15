//! Several ranges of one stored body in one answer, as `multipart/byteranges` (RFC 9110 section
//! 14.6). Owned by one answer; no locks.
//!
//! Each range is read from a source of its own, in the order of the request, so that the fallback
//! of one never goes back. If a source ends too early, that is an error, never the end of the body.

use super::file_source::FileSource;
use crate::random;
use crate::rfc::ContentRange;
use crate::rfc::range::ByteSpan;
use bytes::Bytes;
use http::HeaderValue;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// The delimiter between the parts. It is random for each answer, so a stored body contains it only
/// with a probability of 2^-128.
#[derive(Debug)]
struct Boundary(String);

impl Boundary {
    fn draw() -> Option<Self> {
        let (one, other) = (random::u64().ok()?, random::u64().ok()?);
        Some(Self(format!("{one:016x}{other:016x}")))
    }
}

/// The segments that are sent one after another, and the bytes of each.
pub(super) struct MultipartBody(VecDeque<(MultipartSegment, u64)>);

/// The source of one segment.
pub(super) enum MultipartSegment {
    /// A stored file or its fallback, from this offset on.
    Stored(Arc<FileSource>, u64),
    /// Bytes in memory.
    Bytes(Bytes),
}

/// An answer of several ranges.
pub(super) struct Multipart {
    /// Its `Content-Type`.
    pub(super) content_type: HeaderValue,
    /// Its length in bytes, with the delimiters.
    pub(super) length: u64,
    /// Its body.
    pub(super) body: MultipartBody,
}

impl Multipart {
    /// The ranges `spans` of a body of `length` bytes with this content type. `source` makes the
    /// source of each range. None if the system has no random numbers.
    pub(super) fn of(
        spans: &[ByteSpan],
        length: u64,
        content_type: Option<&HeaderValue>,
        source: impl Fn(ByteSpan) -> MultipartSegment,
    ) -> Option<Self> {
        let Boundary(boundary) = Boundary::draw()?;
        let mut body = MultipartBody(VecDeque::with_capacity(spans.len() * 2 + 1));
        let mut before = "";
        for span in spans {
            let mut head = format!("{before}--{boundary}\r\n").into_bytes();
            if let Some(content_type) = content_type {
                head.extend_from_slice(b"Content-Type: ");
                head.extend_from_slice(content_type.as_bytes());
                head.extend_from_slice(b"\r\n");
            }
            let range = ContentRange::Part { span: *span, length: Some(length) }.to_header_value();
            head.extend_from_slice(b"Content-Range: ");
            head.extend_from_slice(range.as_bytes());
            head.extend_from_slice(b"\r\n\r\n");
            body.text(head);
            body.0.push_back((source(*span), span.length()));
            before = "\r\n";
        }
        body.text(format!("\r\n--{boundary}--\r\n").into_bytes());
        let bytes = body.0.iter().map(|(_, bytes)| *bytes).fold(0, u64::saturating_add);
        let kind = format!("multipart/byteranges; boundary={boundary}");
        Some(Self { content_type: HeaderValue::try_from(kind).ok()?, length: bytes, body })
    }
}

impl MultipartBody {
    fn text(&mut self, text: Vec<u8>) {
        let bytes = text.len() as u64;
        self.0.push_back((MultipartSegment::Bytes(text.into()), bytes));
    }

    /// The next piece, of at most `max` bytes; empty at the end. Not cancel safe.
    pub(super) async fn read(mut self, max: usize) -> (Self, io::Result<Bytes>) {
        let Some((segment, left)) = self.0.pop_front() else { return (self, Ok(Bytes::new())) };
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(max);
        let (segment, result) = segment.read(wanted).await;
        let result = match result {
            Ok(bytes) if bytes.is_empty() => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(mut bytes) => {
                bytes.truncate(wanted);
                let left = left.saturating_sub(bytes.len() as u64);
                if left > 0 {
                    self.0.push_front((segment, left));
                }
                Ok(bytes)
            }
            Err(error) => Err(error),
        };
        (self, result)
    }
}

impl MultipartSegment {
    async fn read(self, max: usize) -> (Self, io::Result<Bytes>) {
        match self {
            Self::Stored(file_source, offset) => {
                let result = file_source.read(offset, max).await;
                let next = offset + result.as_ref().map_or(0, |bytes| bytes.len() as u64);
                (Self::Stored(file_source, next), result)
            }
            Self::Bytes(mut bytes) => {
                let piece = bytes.split_to(max.min(bytes.len()));
                (Self::Bytes(bytes), Ok(piece))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stretches_stand_between_delimiters_in_the_order_asked_for() {
        let body = Bytes::from_static(b"0123456789");
        let spans = [ByteSpan { first: 8, last: 9 }, ByteSpan { first: 0, last: 2 }];
        let kind = HeaderValue::from_static("text/plain");
        let source = |span: ByteSpan| {
            let at = |offset| usize::try_from(offset).unwrap();
            let (first, last) = (at(span.first), at(span.last));
            MultipartSegment::Bytes(body.slice(first..=last))
        };
        let made = Multipart::of(&spans, 10, Some(&kind), source).unwrap();
        let boundary = made.content_type.to_str().unwrap().split_once('=').unwrap().1.to_owned();
        let (mut body, mut all) = (made.body, Vec::new());
        loop {
            let (rest, piece) = body.read(7).await;
            let piece = piece.unwrap();
            if piece.is_empty() {
                break;
            }
            all.extend_from_slice(&piece);
            body = rest;
        }
        let part = |range: &str, bytes: &str| {
            format!(
                "--{boundary}\r\nContent-Type: text/plain\r\nContent-Range: bytes {range}/10\r\n\
                 \r\n{bytes}\r\n"
            )
        };
        let expected = format!("{}{}--{boundary}--\r\n", part("8-9", "89"), part("0-2", "012"));
        assert_eq!(String::from_utf8(all).unwrap(), expected);
        assert_eq!(made.length, expected.len() as u64);
    }

    #[tokio::test]
    async fn a_stretch_that_ends_early_is_an_error() {
        let spans = [ByteSpan { first: 0, last: 4 }, ByteSpan { first: 6, last: 7 }];
        let source = |_| MultipartSegment::Bytes(Bytes::from_static(b"01"));
        let made = Multipart::of(&spans, 10, None, source).unwrap();
        let mut body = made.body;
        let failed = loop {
            let (rest, piece) = body.read(1 << 10).await;
            match piece {
                Ok(bytes) => assert!(!bytes.is_empty()),
                Err(error) => break error,
            }
            body = rest;
        };
        assert_eq!(failed.kind(), io::ErrorKind::UnexpectedEof);
    }
}
