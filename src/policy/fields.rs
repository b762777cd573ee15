//! Which fields of an origin's response are kept, and which of one of any site are of one client
//! alone. Pure.

use crate::object;
use crate::rfc::{EntityTag, grammar, hop_by_hop};
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Fields of a response for the client that caused it alone. They are cookies, fields of one
/// exchange of credentials (RFC 7615, RFC 8053, RFC 9449), nonces (RFC 8555 section 6.5.1) and
/// fields about the client's login.
const OF_ONE_CLIENT: [&str; 17] = [
    "authentication-control",
    "authentication-info",
    "authorization",
    "dpop-nonce",
    "optional-www-authenticate",
    "persistent-auth",
    "proxy-authentication-info",
    "replay-nonce",
    "sec-session-challenge",
    "sec-session-registration",
    "secure-session-challenge",
    "secure-session-registration",
    "set-cookie",
    "set-login",
    "x-auth-token",
    "x-csrf-token",
    "x-xsrf-token",
];

/// The fields of a response that may never reach another client than the one that caused it.
pub(super) fn of_one_client() -> impl Iterator<Item = HeaderName> {
    OF_ONE_CLIENT.into_iter().map(HeaderName::from_static)
}

/// Takes out of a stored response what is for one client alone: earlier builds have stored it.
/// Tells what its challenge was. Without that, the response must be confirmed before its next use.
pub fn take_of_one_client(stored: &mut HeaderMap) -> Challenge {
    let is_own = |name: &&HeaderName| OF_ONE_CLIENT.contains(&name.as_str());
    let own: Vec<HeaderName> = stored.keys().filter(is_own).cloned().collect();
    for name in own {
        stored.remove(name);
    }
    let challenge = Challenge::of(stored);
    if challenge == Challenge::ForOne {
        stored.remove(header::WWW_AUTHENTICATE);
    }
    challenge
}

/// For which clients the challenge of a response is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// It may be sent to each, or there is none.
    ForAll,
    /// It has what serves one exchange, such as the nonce of `Digest` or the token of `Negotiate`.
    ForOne,
}

impl Challenge {
    /// Of a response with these fields. Of the schemes, `Basic` and `Bearer` alone are for all.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(header::WWW_AUTHENTICATE).iter();
        let mut members = lines.flat_map(|line| grammar::list_members(line.as_bytes()));
        let is_for_one = members.any(|member| {
            let name = member.split(|byte| b" \t=".contains(byte)).next().unwrap_or_default();
            let is_parameter = member.get(name.len()) == Some(&b'=');
            let is_for_all = [&b"basic"[..], b"bearer"];
            !is_parameter && !is_for_all.iter().any(|scheme| name.eq_ignore_ascii_case(scheme))
        });
        if is_for_one { Self::ForOne } else { Self::ForAll }
    }
}

/// The end-to-end fields of `origin`'s response that are stored and sent on.
///
/// Left out are:
///
/// - what this cache states itself: length, age, date, ranges, CORS and `Cache-Status`;
/// - what describes the origin's connection, host or storage;
/// - commands to a browser or to a server in front;
/// - what is for one client alone, such as cookies;
/// - what is for caches alone, but for the tags;
/// - `Vary`, since every request to an origin carries the same fields.
///
/// `Content-Encoding` loses the members that mean nothing: `identity` and `aws-chunked`.
pub(super) fn kept(origin: &HeaderMap) -> HeaderMap {
    let mut fields = origin.clone();
    hop_by_hop::remove(&mut fields);
    let dropped: Vec<HeaderName> =
        fields.keys().filter(|name| !is_kept(name.as_str())).cloned().collect();
    for name in dropped {
        fields.remove(name);
    }
    clean_coding(&mut fields);
    // Slices of the connection's read buffer until here, which would live as long.
    object::pack(&mut fields);
    fields
}

/// Makes the kept fields of a response describe its body after this cache has changed the body.
/// The coding and the digests of the bytes that came go. The entity tag becomes weak, since its
/// strong form names other bytes (RFC 9110 section 8.8.1).
pub fn describe_changed(kept: &mut HeaderMap) {
    kept.remove(header::CONTENT_ENCODING);
    for name in DIGESTS {
        kept.remove(name);
    }
    let Some(tag) = kept.remove(header::ETAG) else { return };
    let weak = match EntityTag::parse(&tag) {
        Some(parsed) if parsed.is_strong() => {
            HeaderValue::try_from([b"W/", tag.as_bytes()].concat()).ok()
        }
        Some(_) => Some(tag),
        None => None,
    };
    if let Some(weak) = weak {
        kept.insert(header::ETAG, weak);
    }
}

/// Fields with a digest of the bytes that were sent.
pub(super) const DIGESTS: [&str; 4] = ["content-digest", "content-md5", "digest", "repr-digest"];

fn is_kept(name: &str) -> bool {
    if let Some(rest) = name.strip_prefix("x-amz-") {
        return rest.starts_with("meta-");
    }
    let is_of_others = name.starts_with("access-control-") || name.starts_with("x-accel-");
    if is_of_others || OF_ONE_CLIENT.contains(&name) {
        return false;
    }
    !matches!(
        name,
        // Stated by this cache itself, or true of one message only.
        "accept-ranges" | "age" | "cache-status" | "content-length" | "content-range" | "date"
            | "vary"
            // Of the origin's connection and of the caches on the way.
            | "alt-svc" | "cdn-loop" | "expect-ct" | "proxy-status"
            | "public-key-pins" | "retry-after" | "server" | "server-timing"
            | "strict-transport-security" | "via" | "www-authenticate" | "x-cache"
            | "x-cache-hits" | "x-served-by" | "x-timer"
            // Commands to a browser, or to a server in front of this one.
            | "clear-site-data" | "nel" | "refresh" | "report-to" | "reporting-endpoints"
            | "x-sendfile"
            // To caches alone; the tags of `Surrogate-Key` are kept, and never sent.
            | "surrogate-control"
    )
}

fn clean_coding(fields: &mut HeaderMap) {
    let lines = fields.get_all(header::CONTENT_ENCODING).iter();
    let members: Vec<&[u8]> =
        lines.flat_map(|line| grammar::list_members(line.as_bytes())).collect();
    let meaningful: Vec<&[u8]> =
        members.iter().copied().filter(|coding| !is_empty(coding)).collect();
    if meaningful.len() == members.len() && !members.is_empty() {
        return;
    }
    match HeaderValue::try_from(meaningful.join(b", ".as_slice())) {
        Ok(value) if !value.is_empty() => {
            fields.insert(header::CONTENT_ENCODING, value);
        }
        _ => {
            fields.remove(header::CONTENT_ENCODING);
        }
    }
}

fn is_empty(coding: &[u8]) -> bool {
    coding.eq_ignore_ascii_case(b"identity") || coding.eq_ignore_ascii_case(b"aws-chunked")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(lines: &[(&'static str, &'static str)]) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let mut kept: Vec<_> = kept(&headers)
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        kept.sort();
        kept
    }

    #[test]
    fn an_s3_response_keeps_what_is_of_the_object() {
        let kept = names(&[
            ("x-amz-id-2", "a"),
            ("x-amz-request-id", "b"),
            ("x-amz-version-id", "c"),
            ("x-amz-meta-note", "d"),
            ("date", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
            ("etag", "\"e\""),
            ("accept-ranges", "bytes"),
            ("content-type", "application/x-nix-nar"),
            ("server", "AmazonS3"),
            ("content-length", "5"),
            ("cache-control", "max-age=5"),
        ]);
        let names: Vec<_> = kept.iter().map(|(name, _)| name.as_str()).collect();
        let expected =
            ["cache-control", "content-type", "etag", "last-modified", "x-amz-meta-note"];
        assert_eq!(names, expected);
    }

    #[test]
    fn nothing_of_the_way_and_no_command_is_kept() {
        let kept = names(&[
            ("connection", "x-secret"),
            ("x-secret", "1"),
            ("transfer-encoding", "chunked"),
            ("age", "5"),
            ("via", "1.1 x"),
            ("cache-status", "x; hit"),
            ("set-cookie", "a=b"),
            ("authentication-info", "nextnonce=\"1\""),
            ("dpop-nonce", "1"),
            ("x-auth-token", "1"),
            ("access-control-allow-origin", "https://x"),
            ("access-control-allow-credentials", "true"),
            ("alt-svc", "h3=\":443\""),
            ("strict-transport-security", "max-age=1"),
            ("x-accel-redirect", "/internal"),
            ("clear-site-data", "\"*\""),
            ("content-range", "bytes 0-1/2"),
            ("vary", "origin"),
        ]);
        assert_eq!(kept, []);
    }

    #[test]
    fn a_stored_response_loses_what_is_for_one_client() {
        let stored = |challenge| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ETAG, HeaderValue::from_static("\"1\""));
            headers.insert("x-auth-token", HeaderValue::from_static("1"));
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=a"));
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            let challenge = take_of_one_client(&mut headers);
            (challenge, headers.len(), headers.contains_key(header::ETAG))
        };
        assert_eq!(stored("Bearer"), (Challenge::ForAll, 3, true));
        assert_eq!(stored("Digest nonce=\"1\""), (Challenge::ForOne, 1, true));
    }

    /// A field as it comes is a slice of its connection's read buffer, of up to hundreds of KiB;
    /// kept for as long as a small object is hot, it would keep all of that.
    #[test]
    fn what_is_kept_does_not_hold_the_buffer_it_came_in() {
        let buffer = bytes::Bytes::from(vec![b'x'; 1 << 16]);
        let mut headers = HeaderMap::new();
        for name in ["etag", "content-encoding", "x-amz-meta-a"] {
            let value = HeaderValue::from_maybe_shared(buffer.slice(..10)).unwrap();
            headers.insert(HeaderName::from_static(name), value);
        }
        let kept = kept(&headers);
        assert_eq!(kept, headers);
        drop(headers);
        assert!(buffer.is_unique());
    }

    #[test]
    fn a_changed_body_has_neither_coding_nor_digest_and_a_weak_tag() {
        for (tag, expected) in
            [("\"a\"", Some("W/\"a\"")), ("W/\"a\"", Some("W/\"a\"")), ("a", None)]
        {
            let mut headers = HeaderMap::new();
            for (name, value) in [
                ("content-encoding", "gzip"),
                ("content-md5", "x"),
                ("repr-digest", "x"),
                ("content-type", "text/plain"),
                ("etag", tag),
            ] {
                headers.insert(name, HeaderValue::from_static(value));
            }
            describe_changed(&mut headers);
            assert_eq!(
                headers.remove(header::ETAG).as_ref().map(HeaderValue::as_bytes),
                expected.map(str::as_bytes)
            );
            assert_eq!(headers.keys().collect::<Vec<_>>(), [header::CONTENT_TYPE]);
        }
    }

    #[test]
    fn codings_that_mean_nothing_go() {
        assert_eq!(names(&[("content-encoding", "identity")]), []);
        assert_eq!(names(&[("content-encoding", "")]), []);
        let coding = |value: &str| vec![("content-encoding".to_owned(), value.to_owned())];
        assert_eq!(names(&[("content-encoding", "aws-chunked, br")]), coding("br"));
        assert_eq!(names(&[("content-encoding", "zstd")]), coding("zstd"));
        let two = [("content-encoding", "br"), ("content-encoding", "Identity, gzip")];
        assert_eq!(names(&two), coding("br, gzip"));
    }
}
