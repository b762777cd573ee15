//! Which host a request is for (RFC 9110 section 7.2, RFC 9112 section 3.2). Pure. Called once
//! a request, before its site is looked up.

use http::{HeaderMap, HeaderValue, Uri, Version, header};
use std::borrow::Cow;
use std::net::Ipv6Addr;

/// Bytes of a host name (RFC 1035 section 2.3.4).
const HOST_BYTES_MAX: usize = 255;

/// Why the host of a request is refused with 400.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Neither `Host` nor an authority in the request target.
    #[error("the request names no host; send one Host field")]
    Missing,
    /// Several `Host` fields.
    #[error("the request has several Host fields; send one")]
    Repeated,
    /// Not a host name or address with an optional port; user information counts as such.
    #[error("the request's host is malformed; send a name or an address, and at most a port")]
    Malformed,
    /// `Host` and the request target (`:authority` in HTTP/2) differ.
    #[error("the request's Host field differs from its target")]
    Disagrees,
}

/// A host and the port that was named with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority<'a> {
    /// Lower case, without a final dot; an IPv6 address keeps its brackets.
    pub host: Cow<'a, str>,
    /// The port, if one was named.
    pub port: Option<u16>,
}

impl<'a> Authority<'a> {
    /// The host that a request of this version is for, as [`Authority::of`] tells; none if a
    /// request of HTTP/1.0 names none, as it may.
    pub fn of_request(
        version: Version,
        target: &'a Uri,
        headers: &'a HeaderMap,
    ) -> Result<Option<Self>, HostError> {
        match Self::of(target, headers) {
            Err(HostError::Missing) if version <= Version::HTTP_10 => Ok(None),
            named => named.map(Some),
        }
    }

    /// The host that a request is for. If both the target and `Host` name one, both must be
    /// sound and say the same (a port that only one of them names is no difference).
    pub fn of(target: &'a Uri, headers: &'a HeaderMap) -> Result<Self, HostError> {
        let named = match target.authority() {
            Some(authority) => Some(Self::parse(authority.as_str())?),
            None => None,
        };
        let mut lines = headers.get_all(header::HOST).iter();
        let field = match (lines.next(), lines.next()) {
            (Some(_), Some(_)) => return Err(HostError::Repeated),
            (line, _) => line.map(Self::parse_field).transpose()?,
        };
        match (named, field) {
            (Some(named), Some(field)) if !named.agrees_with(&field) => Err(HostError::Disagrees),
            (Some(named), _) => Ok(named),
            (None, Some(field)) => Ok(field),
            (None, None) => Err(HostError::Missing),
        }
    }

    fn parse_field(line: &'a HeaderValue) -> Result<Self, HostError> {
        Self::parse(line.to_str().map_err(|_| HostError::Malformed)?)
    }

    /// Reads `host[:port]`.
    pub fn parse(text: &'a str) -> Result<Self, HostError> {
        let (host, port) = split_port(text).ok_or(HostError::Malformed)?;
        let port = match port {
            None | Some("") => None,
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                Some(digits.parse().map_err(|_| HostError::Malformed)?)
            }
            Some(_) => return Err(HostError::Malformed),
        };
        if !is_host(host) {
            return Err(HostError::Malformed);
        }
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Cow::Owned(canonical_host(&host.to_ascii_lowercase()).into_owned())
        } else {
            canonical_host(host)
        };
        Ok(Self { host, port })
    }

    fn agrees_with(&self, other: &Authority<'_>) -> bool {
        self.host == other.host
            && match (self.port, other.port) {
                (Some(one), Some(other)) => one == other,
                _ => true,
            }
    }
}

/// A host in lower case, in the one form that it has: an IPv6 address has many (RFC 5952).
pub fn canonical_host(host: &str) -> Cow<'_, str> {
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match address.and_then(|address| address.parse::<Ipv6Addr>().ok()) {
        Some(address) => Cow::Owned(format!("[{address}]")),
        None => Cow::Borrowed(host),
    }
}

/// The host, without a final dot, and what follows the colon after it.
fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    if text.starts_with('[') {
        let (_, after) = text.split_once(']')?;
        let host = text.strip_suffix(after)?;
        return match after {
            "" => Some((host, None)),
            _ => Some((host, Some(after.strip_prefix(':')?))),
        };
    }
    let colon = text.bytes().position(|byte| byte == b':');
    let (host, port) = match colon.and_then(|at| text.split_at_checked(at)) {
        None => (text, None),
        Some((host, port)) => (host, port.strip_prefix(':')),
    };
    Some((host.strip_suffix('.').unwrap_or(host), port))
}

fn is_host(host: &str) -> bool {
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().is_ok();
    }
    host.len() <= HOST_BYTES_MAX && are_labels(host)
}

/// Whether `host` is made of labels with dots between them, none of them empty.
fn are_labels(host: &str) -> bool {
    let mut last = b'.';
    let are_sound = host.bytes().all(|byte| {
        let before = std::mem::replace(&mut last, byte);
        match byte {
            b'.' => before != b'.',
            _ => byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'),
        }
    });
    are_sound && last != b'.'
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::proptest;

    fn parse(text: &str) -> Result<(String, Option<u16>), HostError> {
        Authority::parse(text).map(|authority| (authority.host.into_owned(), authority.port))
    }

    fn of(target: &str, hosts: &[&str]) -> Result<String, HostError> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(header::HOST, HeaderValue::from_str(host).unwrap());
        }
        let target = target.parse().unwrap();
        Authority::of(&target, &headers).map(|authority| authority.host.into_owned())
    }

    /// FAULTS.md G18b.
    #[test]
    fn a_host_loses_its_case_port_and_final_dot() {
        assert_eq!(parse("Cache.Example.ORG:8080"), Ok(("cache.example.org".into(), Some(8080))));
        assert_eq!(parse("cache.example.org."), Ok(("cache.example.org".into(), None)));
        assert_eq!(parse("cache:"), Ok(("cache".into(), None)));
        assert_eq!(parse("127.0.0.1:1"), Ok(("127.0.0.1".into(), Some(1))));
        assert_eq!(parse("[2001:DB8::1]:443"), Ok(("[2001:db8::1]".into(), Some(443))));
        let long = "[2001:0db8:0:0::0001]";
        assert_eq!(parse(long), Ok(("[2001:db8::1]".into(), None)));
        assert_eq!(parse("[::1]"), Ok(("[::1]".into(), None)));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            ".",
            "a..b",
            "user@host",
            "user:password@host",
            "a b",
            "a/b",
            "a:b",
            "a:+1",
            "a:65536",
            "a:1:2",
            "[::1",
            "::1",
            "[::1]x",
            "[x]",
            "[]",
            "a,b",
            "a%41",
            "a\\b",
            &"a".repeat(256),
        ] {
            assert_eq!(parse(text), Err(HostError::Malformed), "{text}");
        }
    }

    #[test]
    fn one_host_and_no_doubt() {
        assert_eq!(of("/x", &["A.example"]), Ok("a.example".into()));
        assert_eq!(of("/x", &[]), Err(HostError::Missing));
        assert_eq!(of("/x", &[""]), Err(HostError::Malformed));
        assert_eq!(of("/x", &["a", "a"]), Err(HostError::Repeated));
        assert_eq!(of("http://a.example/x", &[]), Ok("a.example".into()));
        assert_eq!(of("http://a.example:80/x", &["A.example"]), Ok("a.example".into()));
        assert_eq!(of("http://a.example/x", &["b.example"]), Err(HostError::Disagrees));
        assert_eq!(of("http://a:1/x", &["a:2"]), Err(HostError::Disagrees));
        assert_eq!(of("http://u@a/x", &["a"]), Err(HostError::Malformed));
        assert_eq!(of("http://a/x", &["u@a"]), Err(HostError::Malformed));
    }

    #[test]
    fn a_request_of_http_1_0_may_name_no_host() {
        let (target, mut headers) = (Uri::from_static("/x"), HeaderMap::new());
        let of = |version, headers: &HeaderMap| {
            let named = Authority::of_request(version, &target, headers);
            named.map(|named| named.map(|authority| authority.host.into_owned()))
        };
        assert_eq!(of(Version::HTTP_10, &headers), Ok(None));
        assert_eq!(of(Version::HTTP_11, &headers), Err(HostError::Missing));
        headers.append(header::HOST, HeaderValue::from_static("a"));
        assert_eq!(of(Version::HTTP_10, &headers), Ok(Some("a".to_owned())));
        headers.append(header::HOST, HeaderValue::from_static("a"));
        assert_eq!(of(Version::HTTP_10, &headers), Err(HostError::Repeated));
    }

    proptest! {
        #[test]
        fn whatever_is_read_reads_the_same_again(text in r"[\[\]a-zA-Z0-9.:@_-]{0,20}|\PC{0,12}") {
            if let Ok(one) = Authority::parse(&text) {
                let again = Authority::parse(&one.host).unwrap();
                assert_eq!(again.host, one.host);
                assert!(!one.host.contains(|c: char| c.is_uppercase() || c == '@'));
            }
        }
    }
}
