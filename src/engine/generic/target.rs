//! What a request for a generic site asks for, computed once. It gives the key of the answer, and
//! the path, query and fields that go to the origin, which select a variant.
//!
//! The origin is told the scheme that the client used, and the host if the site names it, with its
//! port if a listener has it. So all of them are part of the key. A host or port that the
//! configuration does not name is told to no origin. Otherwise clients could make any number of
//! keys for a path, and a purge could not name them all.

use crate::config::{Caching, QueryKept};
use crate::engine::connection::{ClientConnection, Transport};
use crate::engine::site::{Ports, ServedSite};
use crate::object::Key;
use crate::rfc::Authority;
use crate::rfc::path::{PathError, normalise};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use std::borrow::Cow;
use std::iter;
use std::sync::Arc;

/// The field with the scheme that the client used.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The field with the host that the client asked for, perhaps with a port.
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What separates the parts of a key space.
const SEPARATOR: char = '+';

/// What a request asks for.
#[derive(Debug, Clone)]
pub(super) struct GenericTarget {
    /// The key of the object, without a variant.
    pub(super) key: Key,
    /// The path, with its percent encodings.
    pub(super) path: Arc<str>,
    /// The query, as far as it is kept.
    pub(super) query: Option<Arc<str>>,
    /// The scheme and the host.
    pub(super) address: RequestAddress,
}

impl GenericTarget {
    /// What `uri` asks for on `site`, at `address`. The path may have at most `bytes_max` bytes.
    pub(super) fn of(
        uri: &Uri,
        site: &ServedSite,
        caching: &Caching,
        address: RequestAddress,
        bytes_max: usize,
    ) -> Result<Self, PathError> {
        let bytes = uri.path().len();
        if bytes > bytes_max {
            return Err(PathError::TooLong { bytes, bytes_max });
        }
        let path = normalise(uri.path())?;
        let query = uri.query().and_then(|query| kept(query, &caching.query));
        let key = Key::new(&address.space(site.key_space()), &path, query.as_deref());
        Ok(Self { key, path: path.into(), query: query.map(Into::into), address })
    }

    /// The key of a path with its query.
    fn key_of(path_and_query: &str, space: &str, caching: &Caching) -> Option<Key> {
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        let query = query.and_then(|query| kept(query, &caching.query));
        Some(Key::new(space, &normalise(path).ok()?, query.as_deref()))
    }
}

/// The scheme and host that a client asked for, as far as an origin is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) struct RequestAddress {
    scheme: &'static str,
    /// A host of the site's own, with the port of a listener if that is not the usual one.
    authority: Option<String>,
}

impl RequestAddress {
    /// The address of a request that names this host.
    pub(super) fn of(
        site: &ServedSite,
        named: Option<&Authority<'_>>,
        connection: &ClientConnection,
    ) -> Self {
        let scheme = match connection.transport {
            Transport::Plain => "http",
            Transport::Tls { .. } => "https",
        };
        let hosts = &site.upstream.site.hosts;
        let named = named.filter(|named| hosts.iter().any(|own| *own == named.host));
        let ports = site.ports();
        Self { scheme, authority: named.map(|named| authority(named, scheme, ports)) }
    }

    /// Every address of a site.
    fn all(site: &ServedSite) -> impl Iterator<Item = Self> {
        let hosts = &site.upstream.site.hosts;
        ["http", "https"].into_iter().flat_map(|scheme| {
            let authorities = authorities(hosts, scheme, site.ports()).map(Some);
            let authorities = authorities.chain(hosts.is_empty().then_some(None));
            authorities.map(move |authority| Self { scheme, authority })
        })
    }

    /// The address with the key space `space`, if it is one of `site`.
    pub(in crate::engine) fn of_space(site: &ServedSite, space: &str) -> Option<Self> {
        Self::all(site).find(|address| address.space(site.key_space()) == space)
    }

    /// The first part of the keys of its answers, if that of its site is `site`.
    fn space<'s>(&self, site: &'s str) -> Cow<'s, str> {
        match (self.scheme, &self.authority) {
            ("http", None) => Cow::Borrowed(site),
            (scheme, authority) => {
                let authority = authority.as_deref().unwrap_or_default();
                Cow::Owned(format!("{site}{SEPARATOR}{scheme}{SEPARATOR}{authority}"))
            }
        }
    }

    /// The scheme.
    pub(super) fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// Adds the fields that tell an origin.
    pub(in crate::engine) fn tell(&self, headers: &mut HeaderMap) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(self.scheme));
        let authority = self.authority.as_deref();
        if let Some(host) = authority.and_then(|host| HeaderValue::try_from(host).ok()) {
            headers.insert(FORWARDED_HOST, host);
        }
    }
}

/// The host that an origin is told, with the port if it is one of `ports`.
fn authority(named: &Authority<'_>, scheme: &str, ports: &Ports) -> String {
    let port = named.port.filter(|port| ports.by(scheme).any(|own| own == *port));
    port.map_or_else(|| named.host.to_string(), |port| format!("{}:{port}", named.host))
}

/// Everything that [`authority`] may tell of `hosts`.
fn authorities(hosts: &[String], scheme: &str, ports: &Ports) -> impl Iterator<Item = String> {
    hosts.iter().flat_map(move |host| {
        let with_ports = ports.by(scheme).map(move |port| format!("{host}:{port}"));
        iter::once(host.clone()).chain(with_ports)
    })
}

impl ServedSite {
    /// The keys of a path with its query, as a client writes them: one for each scheme, host and
    /// port that an origin may be told. None if the site is not generic or the path is invalid. A
    /// purge names them all.
    pub fn generic_keys(&self, path_and_query: &str) -> Option<Vec<Key>> {
        let caching = self.upstream.site.caching.as_ref()?;
        let keys = RequestAddress::all(self).map(|address| {
            GenericTarget::key_of(path_and_query, &address.space(self.key_space()), caching)
        });
        keys.collect()
    }
}

/// The part of a query that is kept; none if nothing is.
fn kept(query: &str, rule: &QueryKept) -> Option<String> {
    match rule {
        QueryKept::All => Some(query.to_owned()),
        QueryKept::Nothing => None,
        QueryKept::Only(names) => {
            let is_kept = |parameter: &&str| {
                let name = parameter.split('=').next().unwrap_or_default();
                names.iter().any(|kept| kept == name)
            };
            let kept: Vec<&str> = query.split('&').filter(is_kept).collect();
            (!kept.is_empty()).then(|| kept.join("&"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_query_only_what_is_allowed_counts() {
        let only = QueryKept::Only(vec!["a".to_owned(), "b".to_owned()]);
        for (query, expected) in [
            ("a=1&b=2", Some("a=1&b=2")),
            ("x=1&b=2&a", Some("b=2&a")),
            ("x=1", None),
            ("ab=1", None),
            ("", None),
        ] {
            assert_eq!(kept(query, &only).as_deref(), expected, "{query}");
        }
        assert_eq!(kept("a=1&&", &QueryKept::All).as_deref(), Some("a=1&&"));
        assert_eq!(kept("a=1", &QueryKept::Nothing), None);
    }

    /// FAULTS.md G5.
    #[test]
    fn an_origin_is_told_the_port_of_a_listener() {
        let listeners =
            [("http", 80), ("http", 8080), ("https", 443), ("https", 8443), ("https", 8443)];
        let (ports, hosts) = (Ports::of(listeners), ["a.example".to_owned(), "[::1]".to_owned()]);
        for (scheme, named, expected) in [
            ("https", "a.example:8443", "a.example:8443"),
            ("https", "A.example", "a.example"),
            ("https", "a.example:443", "a.example"),
            ("https", "a.example:8080", "a.example"),
            ("https", "a.example:1", "a.example"),
            ("https", "[0::1]:8443", "[::1]:8443"),
            ("http", "a.example:8080", "a.example:8080"),
            ("http", "a.example:80", "a.example"),
            ("http", "a.example:443", "a.example"),
        ] {
            let told = authority(&Authority::parse(named).unwrap(), scheme, &ports);
            assert_eq!(told, expected, "{scheme} {named}");
            assert_eq!(authorities(&hosts, scheme, &ports).filter(|one| *one == told).count(), 1);
            let mut headers = HeaderMap::new();
            RequestAddress { scheme, authority: Some(told) }.tell(&mut headers);
            assert_eq!(headers[FORWARDED_HOST], expected);
        }
        assert_eq!(authorities(&hosts, "http", &ports).count(), 4);
    }

    #[test]
    fn paths_that_mean_the_same_have_one_key() {
        let caching = Caching::default();
        let key = |path| GenericTarget::key_of(path, "s", &caching).unwrap();
        assert_eq!(key("/%7Ea%2f?b"), key("/~a%2F?b"));
        assert_ne!(key("/a%2Fb"), key("/a/b"));
        assert_ne!(key("/a?"), key("/a"));
        assert_eq!(key("/a/../b"), key("/b"));
        for no_path in ["a", "", "/.."] {
            assert_eq!(GenericTarget::key_of(no_path, "s", &caching), None);
        }
    }
}
