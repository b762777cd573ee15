//! What a request for a generic site asks for, computed once: the key of its answer, the path,
//! query and fields that go to the origin, and what selects a variant all come from it.
//!
//! An origin is told the scheme by which the client asked, and the host if the site names it, so
//! both are part of the key. A host that the configuration does not name is told to no origin.

use super::super::connection::{Connection, Transport};
use crate::config::{Caching, QueryKept};
use crate::engine::site::Site;
use crate::object::Key;
use crate::rfc::path::{PathError, normalise};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use std::borrow::Cow;
use std::sync::Arc;

/// The scheme by which the client asked.
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// The host that the client asked for.
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// What separates the parts of a key space.
const SEPARATOR: char = '+';

/// What a request asks for.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// The key of the object, without a variant.
    pub(super) key: Key,
    /// The path, with its percent encodings.
    pub(super) path: Arc<str>,
    /// The query, as far as it is kept.
    pub(super) query: Option<Arc<str>>,
    /// By which scheme and host.
    pub(super) place: Place,
}

impl Target {
    /// What `uri` asks for on `site`, at `place`; its path may have so many bytes.
    pub(super) fn of(
        uri: &Uri,
        (site, caching): (&Site, &Caching),
        place: Place,
        bytes_max: usize,
    ) -> Result<Self, PathError> {
        let bytes = uri.path().len();
        if bytes > bytes_max {
            return Err(PathError::TooLong { bytes, bytes_max });
        }
        let path = normalise(uri.path())?;
        let query = uri.query().and_then(|query| kept(query, &caching.query));
        let key = Key::new(&place.space(site.key_space()), &path, query.as_deref());
        Ok(Self { key, path: path.into(), query: query.map(Into::into), place })
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

/// By which scheme and host a client asked, as far as an origin is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::engine) struct Place {
    scheme: &'static str,
    /// One of the site's own.
    host: Option<String>,
}

impl Place {
    /// Where a request for `host` came in.
    pub(super) fn of(site: &Site, host: Option<&str>, connection: &Connection) -> Self {
        let scheme = match connection.transport {
            Transport::Plain => "http",
            Transport::Tls { .. } => "https",
        };
        let hosts = &site.upstream.site.hosts;
        let host = host.filter(|host| hosts.iter().any(|own| own == host)).map(str::to_owned);
        Self { scheme, host }
    }

    /// Every place of a site.
    fn all(site: &Site) -> impl Iterator<Item = Self> {
        let hosts = &site.upstream.site.hosts;
        let hosts = hosts.iter().cloned().map(Some).chain(hosts.is_empty().then_some(None));
        hosts.flat_map(|host| ["http", "https"].map(|scheme| Self { scheme, host: host.clone() }))
    }

    /// The place whose key space is `space`, if it is one of `site`.
    pub(in crate::engine) fn of_space(site: &Site, space: &str) -> Option<Self> {
        Self::all(site).find(|place| place.space(site.key_space()) == space)
    }

    /// The first part of the keys of its answers, of a site with this one.
    fn space<'s>(&self, site: &'s str) -> Cow<'s, str> {
        match (self.scheme, &self.host) {
            ("http", None) => Cow::Borrowed(site),
            (scheme, host) => {
                let host = host.as_deref().unwrap_or_default();
                Cow::Owned(format!("{site}{SEPARATOR}{scheme}{SEPARATOR}{host}"))
            }
        }
    }

    /// The scheme.
    pub(super) fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// Tells an origin.
    pub(in crate::engine) fn tell(&self, headers: &mut HeaderMap) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(self.scheme));
        let host = self.host.as_deref().and_then(|host| HeaderValue::try_from(host).ok());
        if let Some(host) = host {
            headers.insert(FORWARDED_HOST, host);
        }
    }
}

impl Site {
    /// The keys of a path with its query, as a client writes them, one for each scheme and host;
    /// none if the site is no generic one, or that is no path. A purge names them all.
    pub fn generic_keys(&self, path_and_query: &str) -> Option<Vec<Key>> {
        let caching = self.upstream.site.caching.as_ref()?;
        let keys = Place::all(self)
            .map(|place| Target::key_of(path_and_query, &place.space(self.key_space()), caching));
        keys.collect()
    }
}

/// What of a query is kept; none where nothing is.
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

    #[test]
    fn paths_that_mean_the_same_have_one_key() {
        let caching = Caching::default();
        let key = |path| Target::key_of(path, "s", &caching).unwrap();
        assert_eq!(key("/%7Ea%2f?b"), key("/~a%2F?b"));
        assert_ne!(key("/a%2Fb"), key("/a/b"));
        assert_ne!(key("/a?"), key("/a"));
        assert_eq!(key("/a/../b"), key("/b"));
        for no_path in ["a", "", "/.."] {
            assert_eq!(Target::key_of(no_path, "s", &caching), None);
        }
    }
}
