//! Paths of request targets (RFC 3986): raw to canonical, and canonical to what origins are
//! sent. Pure. The engine calls [`canonicalise`] once a request, before anything else looks at
//! the path; origins call [`encode_path`].
//!
//! The canonical path is the decoded one, so that `+` and `%2B`, or `!` and `%21`, are one key.
//! Decoding happens once: a `%` in the result is a literal percent sign.
//!
//! What is refused, and why: `%2F`, since origins disagree on whether it separates segments;
//! `.` and `..`, raw or encoded, since a path that needs resolving is an attack; `//`,
//! since it may turn a relative path into an absolute one further on; control characters and
//! what is not UTF-8, since neither names an object in S3 and both corrupt logs.

use http::StatusCode;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::borrow::Cow;
use std::fmt::Write as _;

/// All but RFC 3986's unreserved characters and `/`.
const OUTSIDE_PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// Why a path is refused. Positions are byte offsets in the raw path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// Nothing there.
    #[error("the path is empty; it must begin with /")]
    Empty,
    /// It does not begin with `/` (`*`, or an authority).
    #[error("the path does not begin with /")]
    NotAbsolute,
    /// Longer than the limit.
    #[error("the path has {bytes} bytes; the limit is {bytes_max}")]
    TooLong {
        /// Bytes of the raw path.
        bytes: usize,
        /// The limit.
        bytes_max: usize,
    },
    /// A `%` without two hexadecimal digits.
    #[error("the % at byte {at} of the path is not followed by two hexadecimal digits")]
    BadEscape {
        /// The offset of the `%`.
        at: usize,
    },
    /// A raw byte that RFC 3986 wants encoded in any case: a space, or one beyond ASCII.
    #[error("byte {at} of the path must be percent-encoded")]
    Unencoded {
        /// The offset of it.
        at: usize,
    },
    /// An encoded `/`.
    #[error("%2F at byte {at} of the path is ambiguous; write / or leave it out")]
    EncodedSlash {
        /// The offset of the `%`.
        at: usize,
    },
    /// A NUL, encoded or not.
    #[error("the path holds a NUL")]
    Nul,
    /// A control character, encoded or not.
    #[error("the path holds a control character")]
    Control,
    /// The decoded bytes are not UTF-8.
    #[error("the decoded path is not UTF-8")]
    NotUtf8,
    /// A segment `.` or `..`.
    #[error("the path has a . or .. segment; resolve it before asking")]
    DotSegment,
    /// Two slashes in a row.
    #[error("the path has an empty segment (//)")]
    EmptySegment,
}

impl PathError {
    /// 414 for a path that is too long, else 400.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::TooLong { .. } => StatusCode::URI_TOO_LONG,
            Self::Empty
            | Self::NotAbsolute
            | Self::BadEscape { .. }
            | Self::Unencoded { .. }
            | Self::EncodedSlash { .. }
            | Self::Nul
            | Self::Control
            | Self::NotUtf8
            | Self::DotSegment
            | Self::EmptySegment => StatusCode::BAD_REQUEST,
        }
    }
}

/// The canonical form of a request target's raw path (without its query): decoded, with its
/// leading `/`, without NUL, control characters, dot segments and empty segments.
///
/// `bytes_max` limits the raw form. Borrows if there was nothing to decode. A trailing `/`
/// stays.
pub fn canonicalise(raw: &str, bytes_max: usize) -> Result<Cow<'_, str>, PathError> {
    if raw.is_empty() {
        return Err(PathError::Empty);
    }
    if raw.len() > bytes_max {
        return Err(PathError::TooLong { bytes: raw.len(), bytes_max });
    }
    if !raw.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    if is_plain(raw) {
        return Ok(Cow::Borrowed(raw));
    }
    check_raw(raw)?;
    let path = decode(raw)?;
    check_characters(&path)?;
    check_segments(&path)?;
    Ok(path)
}

/// `path`, canonical and decoded, as origins are sent it: everything but RFC 3986's unreserved
/// characters and `/` percent-encoded in upper case, the form that a SigV4 canonical URI needs.
pub fn encode_path(path: &str) -> String {
    utf8_percent_encode(path, OUTSIDE_PATH).to_string()
}

/// A raw path in the form in which paths that RFC 3986 section 6.2.2 calls the same are the same:
/// percent encodings in upper case, none of unreserved characters, and no dot segments. Characters
/// that no path has as they are (`{`, `|`, a `%` that encodes nothing) are encoded. Decodes nothing
/// else, so that `%2F` stays another thing than `/`, and what is decoded never makes an encoding.
///
/// These paths are refused: one without a leading `/`, one that leads above the root, and one with
/// a hidden `..`. An origin would see such a `..` after it decodes a `%2F` or takes a backslash for
/// a slash. Refused is also a `..` or `.` with parameters behind a `;`: some origins drop the
/// parameters.
pub fn normalise(raw: &str) -> Result<Cow<'_, str>, PathError> {
    if !raw.starts_with('/') {
        return Err(PathError::NotAbsolute);
    }
    without_dot_segments(normal_encodings(raw))
}

fn normal_encodings(raw: &str) -> Cow<'_, str> {
    let is_odd = |byte: u8| byte == b'%' || is_unsafe(byte);
    if !raw.bytes().any(is_odd) {
        return Cow::Borrowed(raw);
    }
    let mut normal = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(character) = rest.chars().next() {
        rest = rest.get(character.len_utf8()..).unwrap_or_default();
        let digits = rest.get(..2).filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()));
        match (character, digits) {
            ('%', Some(digits)) => {
                rest = rest.get(2..).unwrap_or_default();
                match u8::from_str_radix(digits, 16) {
                    Ok(byte) if is_unreserved(byte) => normal.push(char::from(byte)),
                    Ok(_) | Err(_) => {
                        normal.push('%');
                        normal.push_str(&digits.to_ascii_uppercase());
                    }
                }
            }
            ('%', None) => normal.push_str("%25"),
            _ => match u8::try_from(character) {
                Ok(byte) if is_unsafe(byte) => drop(write!(normal, "%{byte:02X}")),
                Ok(_) | Err(_) => normal.push(character),
            },
        }
    }
    Cow::Owned(normal)
}

/// Resolves the dot segments of a path (RFC 3986 section 5.2.4).
fn without_dot_segments(path: Cow<'_, str>) -> Result<Cow<'_, str>, PathError> {
    if !path.contains("..") && !path.contains("/.") {
        return Ok(path);
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." && kept.pop().is_none() {
                    return Err(PathError::DotSegment);
                }
                if is_last {
                    kept.push("");
                }
            }
            _ if hides_dots(segment) => return Err(PathError::DotSegment),
            _ => kept.push(segment),
        }
    }
    Ok(Cow::Owned(format!("/{}", kept.join("/"))))
}

/// Whether a segment is a dot segment to an origin that leaves out parameters, or several to one
/// that decodes it, one of them `..`.
fn hides_dots(segment: &str) -> bool {
    let decoded = segment.replace("%2F", "/").replace("%5C", "/").replace("%3B", ";");
    let is = |part: &str, dots| part.split(';').next() == Some(dots);
    is(&decoded, ".") || decoded.split('/').any(|part| is(part, ".."))
}

/// Characters that RFC 3986 permits nowhere in a path.
fn is_unsafe(byte: u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// A path that is canonical as it is, without a query behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PlainPath<'a>(&'a str);

impl<'a> PlainPath<'a> {
    /// The request target `raw`, if it is one: what [`canonicalise`] would leave alone at a glance.
    pub fn of(raw: &'a str) -> Option<Self> {
        (raw.starts_with('/') && is_plain(raw)).then_some(Self(raw))
    }

    /// The path.
    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

/// Whether `raw` is canonical at a glance, as the paths of narinfos and NARs are: nothing to
/// decode, nothing to refuse, and no segment that begins with a dot.
fn is_plain(raw: &str) -> bool {
    const PLAIN: [bool; 256] = plain_bytes();
    let bytes = raw.as_bytes();
    let begins_plain = |slash: usize| !matches!(bytes.get(slash + 1), Some(b'/' | b'.'));
    bytes.iter().all(|byte| PLAIN.get(usize::from(*byte)) == Some(&true))
        && memchr::memchr_iter(b'/', bytes).all(begins_plain)
}

/// Bytes that stand for themselves in every path.
#[expect(clippy::indexing_slicing, reason = "at compile time, each index a byte")]
const fn plain_bytes() -> [bool; 256] {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < u8::MAX {
        plain[byte as usize] =
            byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'+' | b'=' | b'.' | b'/');
        byte += 1;
    }
    plain
}

fn check_raw(raw: &str) -> Result<(), PathError> {
    for (at, byte) in raw.bytes().enumerate() {
        match byte {
            0 => return Err(PathError::Nul),
            b' ' | 0x80.. => return Err(PathError::Unencoded { at }),
            0x01..0x20 | 0x7f => return Err(PathError::Control),
            _ => {}
        }
    }
    Ok(())
}

fn decode(raw: &str) -> Result<Cow<'_, str>, PathError> {
    if !raw.contains('%') {
        return Ok(Cow::Borrowed(raw));
    }
    let mut decoded = Vec::with_capacity(raw.len());
    let mut bytes = raw.bytes().enumerate();
    while let Some((at, byte)) = bytes.next() {
        if byte != b'%' {
            decoded.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|(_, byte)| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            return Err(PathError::BadEscape { at });
        };
        match u8::try_from(high * 16 + low) {
            Ok(b'/') => return Err(PathError::EncodedSlash { at }),
            Ok(byte) => decoded.push(byte),
            Err(_) => return Err(PathError::BadEscape { at }),
        }
    }
    String::from_utf8(decoded).map(Cow::Owned).map_err(|_| PathError::NotUtf8)
}

fn check_characters(path: &str) -> Result<(), PathError> {
    match path.chars().find(|character| character.is_control()) {
        None => Ok(()),
        Some('\0') => Err(PathError::Nul),
        Some(_) => Err(PathError::Control),
    }
}

fn check_segments(path: &str) -> Result<(), PathError> {
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            "." | ".." => return Err(PathError::DotSegment),
            "" if segments.peek().is_some() => return Err(PathError::EmptySegment),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::proptest;

    fn canonical(raw: &str) -> Result<String, PathError> {
        canonicalise(raw, 2048).map(Cow::into_owned)
    }

    #[test]
    fn one_object_has_one_path() {
        assert_eq!(canonical("/"), Ok("/".into()));
        assert_eq!(canonical("/nar/a.nar.xz"), Ok("/nar/a.nar.xz".into()));
        assert_eq!(canonical("/%6ear/a%2Bb"), canonical("/nar/a+b"));
        assert_eq!(
            canonical("/realisations/sha256:ab%21out.doi"),
            canonical("/realisations/sha256:ab!out.doi")
        );
        assert_eq!(canonical("/log/"), Ok("/log/".into()));
        assert_eq!(canonical("/%C3%A4"), Ok("/\u{e4}".into()));
        assert_eq!(canonical("/..."), Ok("/...".into()));
    }

    #[test]
    fn decoding_happens_once() {
        assert_eq!(canonical("/%252e%252e/x"), Ok("/%2e%2e/x".into()));
        assert_eq!(encode_path("/%2e"), "/%252e");
    }

    #[test]
    fn whatever_is_in_doubt_is_refused() {
        for (raw, error) in [
            ("", PathError::Empty),
            ("*", PathError::NotAbsolute),
            ("nar/x", PathError::NotAbsolute),
            ("/%", PathError::BadEscape { at: 1 }),
            ("/a%2", PathError::BadEscape { at: 2 }),
            ("/%zz", PathError::BadEscape { at: 1 }),
            ("/%+1", PathError::BadEscape { at: 1 }),
            ("/%00", PathError::Nul),
            ("/a\0", PathError::Nul),
            ("/a%0d%0aHost:x", PathError::Control),
            ("/%7f", PathError::Control),
            ("/%C2%85", PathError::Control),
            ("/a b", PathError::Unencoded { at: 2 }),
            ("/\u{e4}", PathError::Unencoded { at: 1 }),
            ("/%ff", PathError::NotUtf8),
            ("/a%2fb", PathError::EncodedSlash { at: 2 }),
            ("/a%2Fb", PathError::EncodedSlash { at: 2 }),
            ("/.", PathError::DotSegment),
            ("/a/../b", PathError::DotSegment),
            ("/%2e%2E/b", PathError::DotSegment),
            ("/a/.%2e", PathError::DotSegment),
            ("//etc/passwd", PathError::EmptySegment),
            ("/a//", PathError::EmptySegment),
        ] {
            assert_eq!(canonical(raw), Err(error), "{raw:?}");
            assert_eq!(error.status(), StatusCode::BAD_REQUEST);
        }
        let error = PathError::TooLong { bytes: 5, bytes_max: 4 };
        assert_eq!(canonicalise("/abcd", 4), Err(error));
        assert_eq!(canonicalise("/abc", 4), Ok("/abc".into()));
        assert_eq!(error.status(), StatusCode::URI_TOO_LONG);
    }

    /// FAULTS.md G8.
    #[test]
    fn a_path_that_means_the_same_is_the_same() {
        for (raw, expected) in [
            ("/a", "/a"),
            ("/%7Ea%2f", "/~a%2F"),
            ("/%zz%", "/%25zz%25"),
            ("/%+1", "/%25+1"),
            ("/%%32e%%32e/a", "/%252e%252e/a"),
            ("/{a}|b", "/%7Ba%7D%7Cb"),
            ("/a/./b/../c", "/a/c"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/..", "/"),
            ("/a/b/.", "/a/b/"),
            ("/a//../b", "/a/b"),
            ("/.a/..b/c..", "/.a/..b/c.."),
            ("/a%2Fb..c", "/a%2Fb..c"),
            ("/a;v=1/../b;x=..", "/b;x=.."),
            ("/...;/.a;/;/a%3b..;b", "/...;/.a;/;/a%3B..;b"),
        ] {
            assert_eq!(normalise(raw).as_deref(), Ok(expected), "{raw}");
        }
        for raw in ["/..", "/a/../..", "/%2e%2e/a", "/..%2fa", "/a%5C..", "/a\\..\\b"] {
            assert_eq!(normalise(raw), Err(PathError::DotSegment), "{raw}");
        }
        for raw in ["/..;/a", "/a/..;x=1/b", "/a/%2e%2E;", "/a/..%3b/b", "/.;/a", "/a%2f..;b"] {
            assert_eq!(normalise(raw), Err(PathError::DotSegment), "{raw}");
        }
        for raw in ["*", "", "a"] {
            assert_eq!(normalise(raw), Err(PathError::NotAbsolute), "{raw}");
        }
    }

    #[test]
    fn origins_get_the_strict_form() {
        assert_eq!(encode_path("/a+b!c:d~e_f-g.h"), "/a%2Bb%21c%3Ad~e_f-g.h");
        assert_eq!(encode_path("/\u{e4}?x#y%z*"), "/%C3%A4%3Fx%23y%25z%2A");
    }

    proptest! {
        #[test]
        fn a_canonical_path_survives_the_strict_form(raw in "/[ -~]{0,40}") {
            if let Ok(path) = canonical(&raw) {
                assert_eq!(canonical(&encode_path(&path)), Ok(path));
            }
        }

        #[test]
        fn what_passes_is_safe(raw in r"/?([a-z%.\\/]|%2[eEfF0]|%[0-9a-f]{2}|\PC){0,20}") {
            if let Ok(path) = canonical(&raw) {
                assert!(path.starts_with('/'));
                assert!(!path.contains("//"));
                assert!(!path.chars().any(char::is_control));
                assert!(!path.split('/').any(|segment| segment == "." || segment == ".."));
            }
        }

        #[test]
        fn what_is_canonical_at_a_glance_is_canonical(raw in "[a-z/.%=+ -]{0,12}") {
            if raw.starts_with('/') && is_plain(&raw) {
                assert_eq!((check_raw(&raw), check_segments(&raw)), (Ok(()), Ok(())));
                assert_eq!(decode(&raw), Ok(Cow::Borrowed(&*raw)));
            }
        }

        /// FAULTS.md G8.
        #[test]
        fn what_is_normal_stays_so(raw in r"/([a-z%./{;]|%2[eEfF0]|%5c|%3b|\PC){0,20}") {
            if let Ok(path) = normalise(&raw) {
                assert_eq!(normalise(&path), Ok(path.clone()));
                let names = path.split('/').map(|segment| segment.split(';').next());
                assert!(names.flatten().all(|name| name != "." && name != ".."));
            }
        }

        #[test]
        fn a_name_of_any_characters_round_trips(name in r"[^/\p{Cc}]{3,20}") {
            let path = format!("/{name}");
            assert_eq!(canonical(&encode_path(&path)), Ok(path));
        }
    }
}
