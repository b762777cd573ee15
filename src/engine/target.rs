//! What a request asks for: from the raw target to a canonical path, a class and a key.

use super::site::Site;
use crate::cache::Cache;
use crate::nix::Class;
use crate::nix::class::classify;
use crate::object::Key;
use crate::policy::request::Refusal;
use crate::rfc::path::canonicalise;
use http::Uri;
use std::sync::Arc;

/// What a request asks for.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Its identity.
    pub(super) key: Key,
    /// The path to ask an origin for.
    pub(super) path: Arc<str>,
    /// The query to ask an origin for.
    pub(super) query: Option<Arc<str>>,
    /// Its class.
    pub(super) class: Class,
}

/// Makes out the target of `uri` on `site`.
///
/// A query is dropped, and a path outside the grammar of a binary cache refused, unless a narinfo
/// that is known here names that very URL: NAR URLs are opaque.
pub(super) async fn of(
    uri: &Uri,
    site: &Site,
    cache: &Cache,
    path_bytes_max: usize,
) -> Result<Target, Refusal> {
    let path = canonicalise(uri.path(), path_bytes_max)?;
    let path = if path == "/" { "/index.html" } else { &*path };
    let class = classify(path);
    let key = Key::new(site.key_space(), path, None);
    let path: Arc<str> = path.into();
    if let Some(query) = uri.query()
        && matches!(class, None | Some(Class::Nar))
    {
        let key = Key::new(site.key_space(), &path, Some(query));
        if cache.claim(&key).await.is_some() {
            return Ok(Target { key, path, query: Some(query.into()), class: Class::Nar });
        }
    }
    match class {
        Some(class) => Ok(Target { key, path, query: None, class }),
        None if cache.claim(&key).await.is_some() => {
            Ok(Target { key, path, query: None, class: Class::Nar })
        }
        None => Err(Refusal::OutsideCache),
    }
}
