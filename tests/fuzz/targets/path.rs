//! Fuzzes `rfc::path`: compared with a plain model; what is canonical survives being sent.
#![no_main]

use http::StatusCode;
use libfuzzer_sys::fuzz_target;
use narthex::rfc::path::{PathError, canonicalise, encode_path};
use std::borrow::Cow;

const BYTES_MAX: usize = 2048;

fuzz_target!(|data: &[u8]| {
    let Some(raw) = narthex_fuzz::text(data) else { return };
    let found = canonicalise(raw, BYTES_MAX);
    assert_eq!(found.as_deref().ok(), model(raw).as_deref(), "{found:?}");
    match found {
        Ok(path) => {
            assert_eq!(matches!(path, Cow::Owned(_)), raw.contains('%'));
            let sent = encode_path(&path);
            assert!(sent.len() <= 3 * path.len() && is_sendable(&sent), "{sent}");
            let again = canonicalise(&sent, usize::MAX).expect("what is sent is a path");
            assert_eq!(again, path);
            assert_eq!(encode_path(&again), sent);
        }
        Err(error @ PathError::TooLong { bytes, .. }) => {
            assert_eq!((bytes, error.status()), (raw.len(), StatusCode::URI_TOO_LONG));
        }
        Err(error) => {
            assert_eq!(error.status(), StatusCode::BAD_REQUEST);
            let at = match error {
                PathError::BadEscape { at } | PathError::EncodedSlash { at } => Some((at, b'%')),
                _ => None,
            };
            assert!(at.is_none_or(|(at, byte)| raw.as_bytes()[at] == byte));
        }
    }
});

/// What a canonical URI of SigV4 may hold.
fn is_sendable(sent: &str) -> bool {
    sent.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~/%".contains(&byte))
}

/// The rules at the head of `rfc::path`, one after the other.
fn model(raw: &str) -> Option<String> {
    let is_plain = raw.bytes().all(|byte| byte.is_ascii_graphic());
    if !raw.starts_with('/') || raw.len() > BYTES_MAX || !is_plain {
        return None;
    }
    let mut parts = raw.split('%');
    let mut decoded = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at_checked(2)?;
        if !digits.bytes().all(|digit| digit.is_ascii_hexdigit())
            || digits.eq_ignore_ascii_case("2f")
        {
            return None;
        }
        decoded.push(u8::from_str_radix(digits, 16).ok()?);
        decoded.extend_from_slice(rest.as_bytes());
    }
    let path = String::from_utf8(decoded).ok()?;
    let has_dots = path.split('/').any(|segment| segment == "." || segment == "..");
    let is_canonical = !has_dots && !path.contains("//") && !path.contains(char::is_control);
    is_canonical.then_some(path)
}
