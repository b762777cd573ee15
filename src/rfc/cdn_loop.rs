//! `CDN-Loop` (RFC 8586): the caches that have forwarded this request already. Pure. The engine
//! reads it before it asks an origin; the origin's request carries it on with the own name added.

use super::grammar;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The field's name.
pub const CDN_LOOP: HeaderName = HeaderName::from_static("cdn-loop");

/// Bytes of all lines together; a request with more is refused.
pub const BYTES_MAX: usize = 2048;

/// Caches that a request may have passed; one with more is refused.
pub const MEMBERS_MAX: usize = 32;

/// Why a `CDN-Loop` is refused with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CdnLoopError {
    /// Not a list of `cdn-info`.
    #[error("CDN-Loop is malformed; send names with parameters, separated by commas")]
    Malformed,
    /// More bytes than [`BYTES_MAX`].
    #[error("CDN-Loop has {bytes} bytes; the limit is {BYTES_MAX}")]
    TooLong {
        /// Bytes of all lines.
        bytes: usize,
    },
    /// More members than [`MEMBERS_MAX`].
    #[error("CDN-Loop names more than {MEMBERS_MAX} caches")]
    TooMany,
}

/// The caches that a request has passed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CdnLoop {
    /// The members, checked and joined; only visible ASCII, spaces and tabs.
    joined: String,
}

impl CdnLoop {
    /// Reads all `CDN-Loop` lines of a request; none is an empty list.
    pub fn of(headers: &HeaderMap) -> Result<Self, CdnLoopError> {
        // Looked for in passing, since few requests have it: cheaper than by its hash.
        if !headers.keys().any(|name| *name == CDN_LOOP) {
            return Ok(Self::default());
        }
        let lines = headers.get_all(CDN_LOOP);
        let bytes = lines.iter().map(HeaderValue::len).sum();
        if bytes > BYTES_MAX {
            return Err(CdnLoopError::TooLong { bytes });
        }
        let mut joined = String::with_capacity(bytes);
        let mut members = 0;
        for member in lines.iter().flat_map(|line| grammar::list_members(line.as_bytes())) {
            members += 1;
            if members > MEMBERS_MAX {
                return Err(CdnLoopError::TooMany);
            }
            if !joined.is_empty() {
                joined.push_str(", ");
            }
            joined.push_str(checked(member).ok_or(CdnLoopError::Malformed)?);
        }
        Ok(Self { joined })
    }

    /// Whether the request has passed the cache `name`; case does not count.
    pub fn contains(&self, name: &str) -> bool {
        if self.joined.is_empty() {
            return false;
        }
        let name = sendable(name);
        grammar::list_members(self.joined.as_bytes())
            .filter_map(|member| grammar::parameters(member).next())
            .any(|id| id.eq_ignore_ascii_case(name.as_bytes()))
    }

    /// The value to send onwards: all members, then `own_name`. Bytes that a name cannot hold
    /// are sent as `-`.
    pub fn extended(&self, own_name: &str) -> HeaderValue {
        let own = sendable(own_name);
        let text = match self.joined.as_str() {
            "" => own,
            joined => format!("{joined}, {own}"),
        };
        HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("narthex"))
    }
}

/// Whether `name` can stand in `CDN-Loop` as it is: a token, or a host with or without a port.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(is_id_byte)
}

const fn is_id_byte(byte: u8) -> bool {
    grammar::is_token_byte(byte) || matches!(byte, b':' | b'[' | b']')
}

fn sendable(name: &str) -> String {
    let sent: String =
        name.bytes().map(|b| if is_id_byte(b) { char::from(b) } else { '-' }).collect();
    if sent.is_empty() { "narthex".to_owned() } else { sent }
}

/// `member` as text, if it is a well-formed `cdn-info`.
fn checked(member: &[u8]) -> Option<&str> {
    let mut parts = grammar::parameters(member);
    let id = parts.next()?;
    let is_sound =
        !member.starts_with(b";") && id.iter().copied().all(is_id_byte) && parts.all(is_parameter);
    let text = str::from_utf8(member).ok()?;
    (is_sound && text.bytes().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e))).then_some(text)
}

fn is_parameter(part: &[u8]) -> bool {
    let mut halves = part.splitn(2, |byte| *byte == b'=');
    let (Some(name), Some(value)) = (halves.next(), halves.next()) else {
        return false;
    };
    let is_value = grammar::is_token(value) || grammar::quoted_length(value) == Some(value.len());
    grammar::is_token(name) && is_value
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, prop};
    use proptest::proptest;

    fn parse(lines: &[&str]) -> Result<CdnLoop, CdnLoopError> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(CDN_LOOP, HeaderValue::from_str(line).unwrap());
        }
        CdnLoop::of(&headers)
    }

    #[test]
    fn the_example_of_the_rfc() {
        let passed = parse(&[
            "foo123.foocdn.example, barcdn.example; trace=\"abcdef\"",
            "AnotherCDN; abc=123; def=\"456\"",
        ])
        .unwrap();
        assert!(passed.contains("foo123.foocdn.example"));
        assert!(passed.contains("BARCDN.example"));
        assert!(passed.contains("anothercdn"));
        assert!(!passed.contains("abcdef"));
        assert_eq!(
            passed.extended("edge-1"),
            "foo123.foocdn.example, barcdn.example; trace=\"abcdef\", \
             AnotherCDN; abc=123; def=\"456\", edge-1"
        );
    }

    #[test]
    fn no_field_is_an_empty_list() {
        let none = parse(&[]).unwrap();
        assert!(!none.contains("edge"));
        assert_eq!(none.extended("edge"), "edge");
        assert_eq!(parse(&["", " , "]).unwrap(), none);
    }

    #[test]
    fn a_name_inside_a_parameter_is_not_a_member() {
        let passed = parse(&["a; x=\"b, edge, c\"; y=edge"]).unwrap();
        assert!(!passed.contains("edge"));
        assert!(passed.contains("a"));
    }

    #[test]
    fn malformed_lists_are_refused() {
        for line in [
            "a b",
            "a; x",
            "a; x=",
            "a; =y",
            "a; x=\"y",
            "a; x=\"y\"z",
            "\"a\"",
            ";x=y",
            "a/b",
            "a; x=y z",
        ] {
            assert_eq!(parse(&[line]), Err(CdnLoopError::Malformed), "{line}");
        }
        let mut headers = HeaderMap::new();
        headers.insert(CDN_LOOP, HeaderValue::from_bytes(b"a; x=\"\xff\"").unwrap());
        assert_eq!(CdnLoop::of(&headers), Err(CdnLoopError::Malformed));
        assert_eq!(parse(&["a,".repeat(33).as_str()]), Err(CdnLoopError::TooMany));
        assert_eq!(parse(&["a".repeat(2049).as_str()]), Err(CdnLoopError::TooLong { bytes: 2049 }));
        assert!(parse(&["[::1]:8080; v=1"]).unwrap().contains("[::1]:8080"));
    }

    #[test]
    fn a_name_that_cannot_be_sent_is_still_recognised() {
        let name = "edge one\u{e4}";
        assert!(!is_name(name) && is_name("edge-1.example:8080") && !is_name(""));
        let sent = CdnLoop::default().extended(name);
        assert!(parse(&[sent.to_str().unwrap()]).unwrap().contains(name));
    }

    proptest! {
        #[test]
        fn whoever_extends_is_contained(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            name in r"\PC{0,12}",
        ) {
            let Ok(value) = HeaderValue::from_bytes(&bytes) else { return Ok(()) };
            let mut headers = HeaderMap::new();
            headers.insert(CDN_LOOP, value);
            if let Ok(passed) = CdnLoop::of(&headers) {
                let extended = passed.extended(&name);
                headers.insert(CDN_LOOP, extended);
                assert!(CdnLoop::of(&headers).unwrap().contains(&name));
            }
        }
    }
}
