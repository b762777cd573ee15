//! What a request for a generic site asks for: the path and query as they go to the origin, and
//! the key that answers to it stand under.

use crate::config::{Caching, QueryKept};
use crate::engine::site::Site;
use crate::object::Key;
use crate::rfc::path::{PathError, normalise};
use http::Uri;
use std::sync::Arc;

/// What a request asks for.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// The key of the object, without a variant.
    pub(super) key: Key,
    /// The path, with its percent encodings.
    pub(super) path: Arc<str>,
    /// The query, as far as it is kept.
    pub(super) query: Option<Arc<str>>,
}

impl Target {
    /// What `uri` asks for on `site`; its path and query may have so many bytes together.
    pub(super) fn of(
        uri: &Uri,
        site: &Site,
        caching: &Caching,
        bytes_max: usize,
    ) -> Result<Self, PathError> {
        let bytes = uri.path().len() + uri.query().map_or(0, str::len);
        if bytes > bytes_max {
            return Err(PathError::TooLong { bytes, bytes_max });
        }
        let path = normalise(uri.path());
        let query = uri.query().and_then(|query| kept(query, &caching.query));
        let key = Key::new(site.key_space(), &path, query.as_deref());
        Ok(Self { key, path: path.into(), query: query.map(Into::into) })
    }

    /// The key of a path with its query.
    pub(super) fn key_of(path_and_query: &str, space: &str, caching: &Caching) -> Option<Key> {
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        let query = query.and_then(|query| kept(query, &caching.query));
        path.starts_with('/').then(|| Key::new(space, &normalise(path), query.as_deref()))
    }
}

impl Site {
    /// The key of a path with its query, as a client writes them, where the site is a generic one
    /// and that is a path: what a purge names.
    pub fn generic_key(&self, path_and_query: &str) -> Option<Key> {
        let caching = self.upstream.site.caching.as_ref()?;
        Target::key_of(path_and_query, self.key_space(), caching)
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
        assert_eq!(Target::key_of("a", "s", &caching), None);
    }
}
