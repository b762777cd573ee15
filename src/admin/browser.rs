//! What a browser may not do here in the name of a page: send what changes anything from a page of
//! another site, or read anything under a name that a page's owner made point here (DNS rebinding).
//! Pure; asked before a request is routed.
//!
//! Browsers state the origin of a request (`Origin`, `Sec-Fetch-Site`) and always name languages
//! (`Accept-Language`); programs that scrape and purge do little of that, and reach this listener
//! by any name. A few of their libraries name languages too, so a request to `/api/` that brings
//! `Authorization` may come by any name: its token judges it, which no page knows.

use http::header::{ACCEPT_LANGUAGE, AUTHORIZATION, HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::net::IpAddr;

/// `Sec-Fetch-Site` (W3C Fetch Metadata section 2.3).
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why a request of a browser is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Suspicion {
    /// A page of another site sent it.
    #[error("a page of another site may not use this interface; use narthex or curl")]
    CrossSite,
    /// It came by a name that may belong to a page of another site.
    #[error("open this page by its address or as localhost; another name may be a trap of a page")]
    Name,
}

impl Suspicion {
    /// The reason in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::CrossSite => "admin_cross_site",
            Self::Name => "admin_host",
        }
    }
}

/// Why a request to `path` with `headers` may not be answered; none if it may.
pub(super) fn suspicion(path: &str, headers: &HeaderMap) -> Option<Suspicion> {
    let host = headers.get(HOST).map(HeaderValue::as_bytes).unwrap_or_default();
    let site = headers.get(SEC_FETCH_SITE).map(HeaderValue::as_bytes);
    let is_own_site = site.is_none_or(|site| site == b"same-origin" || site == b"none");
    let origin = headers.get(ORIGIN).map(HeaderValue::as_bytes);
    let is_own_origin = origin.is_none_or(|origin| authority_of(origin) == Some(host));
    let is_api = path.starts_with("/api/");
    if is_api && !(is_own_site && is_own_origin) {
        return Some(Suspicion::CrossSite);
    }
    let is_page = site.is_some() || origin.is_some();
    if is_api && !is_page && headers.contains_key(AUTHORIZATION) {
        return None;
    }
    let is_browser = is_page || headers.contains_key(ACCEPT_LANGUAGE);
    (is_browser && !is_local_name(host)).then_some(Suspicion::Name)
}

/// What follows the scheme of an origin; none of `null`.
fn authority_of(origin: &[u8]) -> Option<&[u8]> {
    origin.strip_prefix(b"http://").or_else(|| origin.strip_prefix(b"https://"))
}

/// Whether `host` is an address, or a name that no page's owner can have: `localhost`, or one
/// without a dot.
fn is_local_name(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return false };
    if authority.as_str().contains('@') {
        return false;
    }
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let name = name.to_ascii_lowercase();
    address.parse::<IpAddr>().is_ok() || name.ends_with(".localhost") || !name.contains('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &str, fields: &[(&'static str, &str)]) -> Option<Suspicion> {
        let field = |&(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
        };
        suspicion(path, &fields.iter().map(field).collect())
    }

    /// FAULTS.md F7a.
    #[test]
    fn a_page_of_another_site_changes_nothing() {
        let host = ("host", "127.0.0.1:9145");
        for (own, foreign) in [
            (("origin", "http://127.0.0.1:9145"), ("origin", "http://evil.example")),
            (("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")),
            (("sec-fetch-site", "none"), ("sec-fetch-site", "same-site")),
            (("origin", "http://127.0.0.1:9145"), ("origin", "null")),
        ] {
            for path in ["/api/v1/purge", "/api/v1/uploads", "/api/v1/fsck"] {
                assert_eq!(of(path, &[host, own]), None, "{own:?}");
                assert_eq!(of(path, &[host, foreign]), Some(Suspicion::CrossSite), "{foreign:?}");
            }
            // As from a link on a page of an operator's.
            assert_eq!(of("/metrics", &[host, foreign]), None);
        }
    }

    /// FAULTS.md F7b.
    #[test]
    fn a_name_that_a_page_s_owner_made_point_here_reads_nothing() {
        let language = ("accept-language", "en");
        for host in ["evil.example:9145", "evil.example", "", "a@b", "1.2.3.4.evil.example"] {
            for path in ["/metrics", "/readyz", "/api/v1/fsck"] {
                let seen = of(path, &[("host", host), language]);
                assert_eq!(seen, Some(Suspicion::Name), "{host}");
            }
        }
        for host in ["127.0.0.1:9145", "[::1]:9145", "localhost:9145", "edge1:9145", "a.localhost"]
        {
            assert_eq!(of("/metrics", &[("host", host), language]), None, "{host}");
        }
    }

    /// As `fetch` of Node and Deno sends it.
    #[test]
    fn a_program_that_names_languages_comes_by_any_name_with_a_token() {
        let host = ("host", "narthex.example.org:9145");
        let fetch = [host, ("accept-language", "*"), ("sec-fetch-mode", "cors")];
        let [host, language, mode] = fetch;
        let token = ("authorization", "Bearer token");
        for path in ["/api/v1/purge", "/api/v1/uploads", "/api/v1/fsck"] {
            assert_eq!(of(path, &[host, language, mode, token]), None, "{path}");
            assert_eq!(of(path, &fetch), Some(Suspicion::Name), "{path}");
        }
        let foreign = [host, language, token, ("sec-fetch-site", "cross-site")];
        assert_eq!(of("/api/v1/purge", &foreign), Some(Suspicion::CrossSite));
        // These ask for no token.
        for path in ["/metrics", "/readyz", "/", "/api"] {
            let seen = of(path, &[host, language, mode, token]);
            assert_eq!(seen, Some(Suspicion::Name), "{path}");
        }
    }

    #[test]
    fn a_program_comes_by_any_name() {
        let host = ("host", "narthex.monitoring.svc.cluster.local:9145");
        assert_eq!(of("/metrics", &[host, ("user-agent", "Prometheus/3.0")]), None);
        assert_eq!(of("/api/v1/purge", &[host]), None);
        assert_eq!(of("/healthz", &[]), None);
    }
}
