//! `Content-Length` and whether a request announces a body (RFC 9110 section 8.6, RFC 9112
//! section 6). Pure.

use super::grammar;
use http::{HeaderMap, header};

/// Why a length cannot be relied on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContentLengthError {
    /// Not digits only, or more than 64 bits.
    #[error("Content-Length is not a number of bytes")]
    Malformed,
    /// Several lines; equal ones too, since a peer that sends them is not to be trusted.
    #[error("Content-Length is sent {lines} times")]
    Repeated {
        /// How many lines there are.
        lines: usize,
    },
}

/// The length that a message states; `None` if it states none.
pub fn content_length(headers: &HeaderMap) -> Result<Option<u64>, ContentLengthError> {
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(line) = lines.next() else {
        return Ok(None);
    };
    match lines.count() {
        0 => grammar::strict_number(line.as_bytes()).map(Some).ok_or(ContentLengthError::Malformed),
        more => Err(ContentLengthError::Repeated { lines: more.saturating_add(1) }),
    }
}

/// Whether a request's fields announce a body, or leave in doubt whether one follows: any
/// `Transfer-Encoding`, or a `Content-Length` that is not plainly zero.
pub fn announces_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
        || !matches!(content_length(headers), Ok(None | Some(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            map.append(*name, HeaderValue::from_str(value).unwrap());
        }
        map
    }

    fn length(lines: &[&str]) -> Result<Option<u64>, ContentLengthError> {
        content_length(&headers(
            &lines.iter().map(|line| ("content-length", *line)).collect::<Vec<_>>(),
        ))
    }

    #[test]
    fn only_digits_are_a_length() {
        assert_eq!(length(&[]), Ok(None));
        assert_eq!(length(&["0"]), Ok(Some(0)));
        assert_eq!(length(&["18446744073709551615"]), Ok(Some(u64::MAX)));
        for bad in ["", "+1", "-1", "1 ", "0x1", "1, 1", "18446744073709551616"] {
            assert_eq!(length(&[bad]), Err(ContentLengthError::Malformed), "{bad}");
        }
        assert_eq!(length(&["1", "1"]), Err(ContentLengthError::Repeated { lines: 2 }));
    }

    proptest::proptest! {
        #[test]
        fn a_length_is_what_prints_back(text in "[0-9]{0,21}|[ -~]{0,6}") {
            let stated = length(&[&text]);
            assert_eq!(stated.is_ok(), !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())
                && text.parse::<u64>().is_ok());
            if let Ok(Some(number)) = stated {
                assert_eq!(text.parse(), Ok(number));
            }
        }
    }

    #[test]
    fn doubt_counts_as_a_body() {
        assert!(!announces_body(&headers(&[])));
        assert!(!announces_body(&headers(&[("content-length", "0")])));
        for lines in [
            [("content-length", "1")].as_slice(),
            &[("content-length", "x")],
            &[("content-length", "0"), ("content-length", "0")],
            &[("transfer-encoding", "identity")],
            &[("transfer-encoding", ""), ("content-length", "0")],
        ] {
            assert!(announces_body(&headers(lines)), "{lines:?}");
        }
    }
}
