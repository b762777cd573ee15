//! What a write makes stale (RFC 9111 section 4.4). Pure.

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, StatusCode, Uri, header};

/// Whether the answer to a write says that it was done: everything it may have changed is stale.
pub fn is_success(status: StatusCode) -> bool {
    status.is_success() || status.is_redirection()
}

/// Whether the answer to a write is that of a gateway that lost the write on its way, or its
/// answer: nothing says whether it was done.
pub fn is_of_unknown_fate(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT)
}

/// The URL that a request came in for, and the hosts of the origins that may answer it.
#[derive(Debug, Clone, Copy)]
pub struct RequestAuthority<'a> {
    /// The scheme by which the client asked.
    pub scheme: &'a str,
    /// The host, and perhaps the port, that it asked for.
    pub authority: &'a str,
    /// The hosts of the site's origins, which their applications may take for their own.
    pub origins: &'a [&'a str],
}

/// What else than the URL that was written to is stale: the path and query of `Location` and
/// `Content-Location`, if they are of the same host, or of an origin's. The scheme and the port
/// make no difference: they are others behind something that ends TLS.
pub fn also_stale(asked: &Uri, place: RequestAuthority<'_>, headers: &HeaderMap) -> Vec<String> {
    const NAMES: [HeaderName; 2] = [header::LOCATION, header::CONTENT_LOCATION];
    let RequestAuthority { scheme, authority, origins } = place;
    // With its authority, as HTTP/2 and the absolute form have it, the target is a URL itself.
    let target = asked.path_and_query().map_or("/", PathAndQuery::as_str);
    let base = url::Url::parse(&format!("{scheme}://{authority}{target}"));
    let Ok(base) = base else { return Vec::new() };
    let values = NAMES.iter().filter_map(|name| headers.get(name)?.to_str().ok());
    values
        .filter_map(|value| base.join(value).ok())
        .filter(|target| {
            let host = target.host_str();
            host == base.host_str() || host.is_some_and(|host| origins.contains(&host))
        })
        .map(|target| match target.query() {
            Some(query) => format!("{}?{query}", target.path()),
            None => target.path().to_owned(),
        })
        .collect()
}

/// Whether the answer to a POST is at the same time what GET of the same URL would bring: it says
/// so by its `Content-Location` (RFC 9110 section 9.3.3).
pub fn is_of_itself(asked: &Uri, place: RequestAuthority<'_>, headers: &HeaderMap) -> bool {
    let Some(location) = headers.get(header::CONTENT_LOCATION) else { return false };
    let mut alone = HeaderMap::new();
    alone.insert(header::CONTENT_LOCATION, location.clone());
    let own = asked.path_and_query().map(PathAndQuery::as_str);
    also_stale(asked, place, &alone).first().map(String::as_str) == own
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::fields;

    fn stale(lines: &[(&str, &str)]) -> Vec<String> {
        let place = RequestAuthority { scheme: "http", authority: "x.org:80", origins: &["o.org"] };
        also_stale(&"/a/b?c".parse().unwrap(), place, &fields(lines))
    }

    /// FAULTS.md G16e.
    #[test]
    fn only_what_is_of_the_same_host_goes() {
        assert_eq!(stale(&[("location", "d?e#f")]), ["/a/d?e"]);
        assert_eq!(stale(&[("content-location", "/d"), ("location", "../e")]), ["/e", "/d"]);
        assert_eq!(stale(&[("location", "http://x.org/g")]), ["/g"]);
        for same in ["https://x.org/g", "http://x.org:81/g", "http://o.org/g", "//x.org/g"] {
            assert_eq!(stale(&[("location", same)]), ["/g"], "{same}");
        }
        for other in ["http://y.org/g", "//y.org/g", ""] {
            let expected: &[&str] = if other.is_empty() { &["/a/b?c"] } else { &[] };
            assert_eq!(stale(&[("location", other)]), expected, "{other}");
        }
    }

    /// FAULTS.md G16e.
    #[test]
    fn a_target_with_its_authority_is_the_same_place() {
        let place = RequestAuthority { scheme: "https", authority: "x.org", origins: &[] };
        for target in ["/a/b?c", "https://x.org/a/b?c", "http://x.org/a/b?c"] {
            let asked: Uri = target.parse().unwrap();
            let stale = |value: &str| also_stale(&asked, place, &fields(&[("location", value)]));
            for (value, expected) in
                [("https://x.org/d?e", "/d?e"), ("d", "/a/d"), ("../d", "/d"), ("/d", "/d")]
            {
                assert_eq!(stale(value), [expected], "{target} {value}");
            }
            assert!(stale("https://y.org/d").is_empty(), "{target}");
            let own = fields(&[("content-location", "b?c")]);
            assert!(is_of_itself(&asked, place, &own), "{target}");
        }
    }

    #[test]
    fn an_answer_says_that_it_is_of_its_own_url() {
        let asked = "/a/b?c".parse().unwrap();
        let place = RequestAuthority { scheme: "http", authority: "x", origins: &[] };
        let is = |value: &str| is_of_itself(&asked, place, &fields(&[("content-location", value)]));
        assert!(is("/a/b?c") && is("b?c") && is("http://x/a/b?c"));
        assert!(!is("/a/b") && !is("http://y/a/b?c"));
        assert!(!is_of_itself(&asked, place, &fields(&[("location", "/a/b?c")])));
    }

    #[test]
    fn a_failure_changes_nothing() {
        for (status, is_done, is_unknown) in [
            (200, true, false),
            (204, true, false),
            (303, true, false),
            (404, false, false),
            (500, false, false),
            (502, false, true),
            (503, false, false),
            (504, false, true),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!((is_success(status), is_of_unknown_fate(status)), (is_done, is_unknown));
        }
    }
}
