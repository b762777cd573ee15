//! `Cache-Status` (RFC 9211): what this cache did with a request, in one list member. Pure.
//! Made once an answer; the own member is always a valid structured field (RFC 8941), and nothing
//! that comes from upstream can hide it.

use super::grammar;
use http::{HeaderName, HeaderValue, StatusCode};
use std::cell::RefCell;
use std::fmt::Write;

/// The field's name.
pub const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

/// What this cache calls itself.
const NAME: &str = "narthex";

/// Bytes of upstream members, with their commas, that are passed on; more are dropped.
const UPSTREAM_BYTES_MAX: usize = 1024;

/// Bytes of a key or detail that are sent; what is longer is cut.
const STRING_BYTES_MAX: usize = 512;

/// Why the request went forward (RFC 9211 section 2.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardReason {
    /// `bypass`: this cache does not handle such requests.
    Bypass,
    /// `method`: the method requires it.
    Method,
    /// `uri-miss`: nothing was stored.
    UriMiss,
    /// `miss`: what was stored could not be used, for several reasons or an unknown one.
    Miss,
    /// `request`: the request's own fields required it.
    Request,
    /// `stale`: what was stored was stale.
    Stale,
    /// `partial`: only other parts were stored.
    Partial,
}

impl ForwardReason {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Method => "method",
            Self::UriMiss => "uri-miss",
            Self::Miss => "miss",
            Self::Request => "request",
            Self::Stale => "stale",
            Self::Partial => "partial",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Handling {
    Hit,
    Forwarded(ForwardReason),
    Own,
}

/// What this cache did with a request. Start with [`CacheStatus::hit`],
/// [`CacheStatus::forwarded`] or [`CacheStatus::own`], and add what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheStatus<'a> {
    handling: Handling,
    forward_status: Option<StatusCode>,
    ttl_seconds: Option<i64>,
    is_stored: bool,
    is_collapsed: bool,
    key: Option<&'a str>,
    detail: Option<&'a str>,
}

impl<'a> CacheStatus<'a> {
    const fn new(handling: Handling) -> Self {
        Self {
            handling,
            forward_status: None,
            ttl_seconds: None,
            is_stored: false,
            is_collapsed: false,
            key: None,
            detail: None,
        }
    }

    /// Answered from what was stored, without going forward.
    pub const fn hit() -> Self {
        Self::new(Handling::Hit)
    }

    /// Sent forward.
    pub const fn forwarded(why: ForwardReason) -> Self {
        Self::new(Handling::Forwarded(why))
    }

    /// Sent forward for this reason, if it was sent forward at all.
    #[must_use]
    pub const fn with_forward(mut self, why: ForwardReason) -> Self {
        if let Handling::Forwarded(_) = self.handling {
            self.handling = Handling::Forwarded(why);
        }
        self
    }

    /// Answered by this cache itself: neither a hit nor forwarded.
    pub const fn own() -> Self {
        Self::new(Handling::Own)
    }

    /// The status that the next hop answered.
    pub const fn with_forward_status(mut self, status: StatusCode) -> Self {
        self.forward_status = Some(status);
        self
    }

    /// Seconds of freshness left; negative for what is stale.
    pub const fn with_ttl(mut self, seconds: i64) -> Self {
        self.ttl_seconds = Some(seconds);
        self
    }

    /// The answer was stored.
    pub const fn stored(mut self) -> Self {
        self.is_stored = true;
        self
    }

    /// The request shared the forwarding of another one.
    pub const fn collapsed(mut self) -> Self {
        self.is_collapsed = true;
        self
    }

    /// The cache key.
    pub const fn with_key(mut self, key: &'a str) -> Self {
        self.key = Some(key);
        self
    }

    /// What else there is to say, for people.
    pub const fn with_detail(mut self, detail: &'a str) -> Self {
        self.detail = Some(detail);
        self
    }

    /// The member as a field value.
    pub fn to_header_value(&self) -> HeaderValue {
        // Only the value itself is allocated.
        self.with_text(|text| {
            HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(NAME))
        })
    }

    /// Calls `take` with the member as a text, in memory that is used again.
    pub fn with_text<T>(&self, take: impl FnOnce(&str) -> T) -> T {
        thread_local! {
            static TEXT: RefCell<String> = const { RefCell::new(String::new()) };
        }
        TEXT.with_borrow_mut(|text| {
            text.clear();
            self.write(text);
            take(text)
        })
    }

    /// The whole field value: the members of the caches nearer to the origin, then the own one. Of
    /// those, lines that are no text or in which a string is left open are left out, and all if
    /// they are more than 1 KiB together.
    pub fn to_header_value_after(&self, upstream: &[HeaderValue]) -> HeaderValue {
        if upstream.is_empty() {
            return self.to_header_value();
        }
        let mut joined = Vec::new();
        for line in upstream.iter().map(HeaderValue::as_bytes).filter(|line| is_joinable(line)) {
            joined.extend_from_slice(line);
            joined.extend_from_slice(b", ");
        }
        if joined.is_empty() || joined.len() > UPSTREAM_BYTES_MAX {
            return self.to_header_value();
        }
        let mut text = String::new();
        self.write(&mut text);
        joined.extend_from_slice(text.as_bytes());
        HeaderValue::try_from(joined).unwrap_or_else(|_| self.to_header_value())
    }

    fn write(self, text: &mut String) {
        text.push_str(NAME);
        match self.handling {
            Handling::Hit => text.push_str("; hit"),
            Handling::Forwarded(why) => {
                text.push_str("; fwd=");
                text.push_str(why.as_str());
            }
            Handling::Own => {}
        }
        if let Some(status) = self.forward_status {
            text.push_str("; fwd-status=");
            text.push_str(status.as_str());
        }
        if let Some(seconds) = self.ttl_seconds {
            text.push_str("; ttl=");
            // Structured integers have at most 15 digits.
            let seconds = seconds.clamp(-999_999_999_999_999, 999_999_999_999_999);
            text.push_str(itoa::Buffer::new().format(seconds));
        }
        if self.is_stored {
            text.push_str("; stored");
        }
        if self.is_collapsed {
            text.push_str("; collapsed");
        }
        push_string(text, "; key=", self.key);
        push_string(text, "; detail=", self.detail);
    }
}

/// Whether another member can stand behind `line`: it is ASCII text, holds something, and every
/// string in it ends.
fn is_joinable(line: &[u8]) -> bool {
    let mut rest = line;
    while let Some((byte, after)) = rest.split_first() {
        rest = match byte {
            b'"' => match grammar::quoted_length(rest).and_then(|length| rest.get(length..)) {
                Some(after) => after,
                None => return false,
            },
            _ => after,
        };
    }
    !grammar::trim(line).is_empty() && line.iter().all(|byte| matches!(byte, b'\t' | 0x20..=0x7e))
}

/// Adds a structured string; what it cannot hold (controls, non-ASCII) is percent-encoded.
fn push_string(text: &mut String, name: &str, value: Option<&str>) {
    let Some(value) = value else {
        return;
    };
    text.push_str(name);
    text.push('"');
    let is_plain = |byte: u8| matches!(byte, 0x20..=0x7e) && !matches!(byte, b'"' | b'\\');
    if value.len() <= STRING_BYTES_MAX && value.bytes().all(is_plain) {
        text.push_str(value);
        text.push('"');
        return;
    }
    for byte in value.bytes().take(STRING_BYTES_MAX) {
        match byte {
            b'"' | b'\\' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            0x20..=0x7e => text.push(char::from(byte)),
            // Writing to a string cannot fail.
            _ => write!(text, "%{byte:02X}").unwrap_or_default(),
        }
    }
    text.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rfc::grammar;
    use proptest::proptest;

    #[test]
    fn the_usual_answers() {
        let text = |status: CacheStatus<'_>| status.to_header_value().to_str().unwrap().to_owned();
        assert_eq!(text(CacheStatus::hit().with_ttl(376)), "narthex; hit; ttl=376");
        assert_eq!(text(CacheStatus::hit().with_ttl(-5)), "narthex; hit; ttl=-5");
        assert_eq!(
            text(
                CacheStatus::forwarded(ForwardReason::UriMiss)
                    .with_forward_status(StatusCode::OK)
                    .stored()
                    .collapsed()
            ),
            "narthex; fwd=uri-miss; fwd-status=200; stored; collapsed"
        );
        assert_eq!(
            text(CacheStatus::own().with_detail("landing page")),
            "narthex; detail=\"landing page\""
        );
        assert_eq!(
            text(CacheStatus::hit().with_ttl(i64::MAX)),
            "narthex; hit; ttl=999999999999999"
        );
        assert_eq!(
            text(CacheStatus::hit().with_key("/a\"\\\r\n\u{e4}")),
            "narthex; hit; key=\"/a\\\"\\\\%0D%0A%C3%A4\""
        );
    }

    #[test]
    fn the_cache_closest_to_the_client_is_the_last_member() {
        let miss = CacheStatus::forwarded(ForwardReason::UriMiss);
        let shield = HeaderValue::from_static("shield; hit");
        assert_eq!(
            miss.to_header_value_after(&[shield.clone(), shield.clone()]),
            "shield; hit, shield; hit, narthex; fwd=uri-miss"
        );
        assert_eq!(miss.to_header_value_after(&[]), "narthex; fwd=uri-miss");
        let long = HeaderValue::from_str(&"x".repeat(1024)).unwrap();
        assert_eq!(miss.to_header_value_after(&[shield, long]), "narthex; fwd=uri-miss");
    }

    #[test]
    fn nothing_from_upstream_hides_the_own_member() {
        let own = CacheStatus::hit().with_detail("d");
        let good = HeaderValue::from_static("origin; detail=\"a, \\\" b\"; hit");
        for bad in ["a; detail=\"never closed", "\"", "\"a\\\"", "", " \t"] {
            let upstream = [HeaderValue::from_static(bad), good.clone()];
            let whole = own.to_header_value_after(&upstream);
            let expected = "origin; detail=\"a, \\\" b\"; hit, narthex; hit; detail=\"d\"";
            assert_eq!(whole, expected, "{bad:?}");
            assert_eq!(own.to_header_value_after(&upstream[..1]), own.to_header_value());
        }
        let beyond = HeaderValue::from_bytes(b"a; b=\"\xe4\"").unwrap();
        assert_eq!(own.to_header_value_after(&[beyond]), own.to_header_value());
    }

    proptest! {
        #[test]
        fn any_string_stays_one_member(key in r"\PC{0,30}", detail in r"[\x00-\xff]{0,30}") {
            let value = CacheStatus::hit().with_key(&key).with_detail(&detail).to_header_value();
            assert!(value.as_bytes().iter().all(|byte| (0x20..0x7f).contains(byte)));
            assert_eq!(grammar::list_members(value.as_bytes()).count(), 1);
            let parts: Vec<_> = grammar::parameters(value.as_bytes()).collect();
            assert_eq!(parts.len(), 4);
            for part in parts.iter().skip(2) {
                let quoted = part.splitn(2, |byte| *byte == b'=').nth(1).unwrap();
                assert_eq!(grammar::quoted_length(quoted), Some(quoted.len()));
            }
        }
    }
}
