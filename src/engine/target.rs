//! What a request asks for: from the raw target to a canonical path, a class and a key.

use super::site::Site;
use crate::cache::{Cache, ClaimUnknown};
use crate::nix::Class;
use crate::nix::class::classify;
use crate::object::Key;
use crate::policy::request::RequestRefusal;
use crate::rfc::path::{PlainPath, canonicalise};
use http::Uri;
use std::borrow::Cow;
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

/// The path of a request, and what it tells by itself.
#[derive(Debug)]
pub(super) struct Path<'a> {
    canonical: Cow<'a, str>,
    class: Option<Class>,
    has_query: bool,
}

impl<'a> Path<'a> {
    /// That of `uri`, whose raw form may have so many bytes.
    pub(super) fn of(uri: &'a Uri, path_bytes_max: usize) -> Result<Self, RequestRefusal> {
        let canonical = canonicalise(uri.path(), path_bytes_max)?;
        Ok(Self { has_query: uri.query().is_some(), ..Self::named(canonical) })
    }

    /// That of a request target that is plain.
    pub(super) fn plain(path: PlainPath<'a>) -> Self {
        Self::named(Cow::Borrowed(path.as_str()))
    }

    fn named(canonical: Cow<'a, str>) -> Self {
        let canonical = if canonical == "/" { Cow::Borrowed("/index.html") } else { canonical };
        let class = classify(&canonical);
        Self { canonical, class, has_query: false }
    }

    /// The canonical path.
    pub(super) fn as_str(&self) -> &str {
        &self.canonical
    }

    /// Its class, where no narinfo has a say in what the request asks for.
    pub(super) fn class_without_claim(&self) -> Option<Class> {
        self.class.filter(|class| !self.has_query || *class != Class::Nar)
    }

    /// The same, borrowing nothing.
    pub(super) fn kept(self) -> Path<'static> {
        Path { canonical: Cow::Owned(self.canonical.into_owned()), ..self }
    }
}

/// Makes out the target of `uri`, whose path is `path`, on `site`.
///
/// A query is dropped, and a path outside the grammar of a binary cache refused, unless a narinfo
/// that is known here names that very URL: NAR URLs are opaque. If a disk that may hold that
/// narinfo does not answer, neither is decided.
pub(super) async fn of(
    uri: &Uri,
    site: &Site,
    path: Path<'_>,
    cache: &Cache,
) -> Result<Target, RequestRefusal> {
    let Path { canonical, class, has_query: _ } = path;
    let key = Key::new(site.key_space(), &canonical, None);
    let path: Arc<str> = canonical.into();
    if let Some(query) = uri.query()
        && matches!(class, None | Some(Class::Nar))
    {
        let key = Key::new(site.key_space(), &path, Some(query));
        if is_named(&key, cache).await? {
            return Ok(Target { key, path, query: Some(query.into()), class: Class::Nar });
        }
    }
    match class {
        Some(class) => Ok(Target { key, path, query: None, class }),
        None if is_named(&key, cache).await? => {
            Ok(Target { key, path, query: None, class: Class::Nar })
        }
        None => Err(RequestRefusal::OutsideCache),
    }
}

/// Whether a narinfo is known to name the NAR `key`.
async fn is_named(key: &Key, cache: &Cache) -> Result<bool, RequestRefusal> {
    let claim = cache.claim(key).await;
    claim.map(|claim| claim.is_some()).map_err(|_: ClaimUnknown| RequestRefusal::ClaimUnknown)
}
