//! Finds out what a request asks for: a canonical path, a class and a key.

use super::site::ServedSite;
use crate::cache::{Cache, ClaimUnknown, Hit};
use crate::config::{Origin, OriginUrl};
use crate::fill::{Asker, FillRequest, ObjectForm, RequestForm};
use crate::filter::FilterVerdict;
use crate::nix::Class;
use crate::nix::class::{classify, file_hash_of};
use crate::object::Key;
use crate::policy::request::{OriginUse, ReadMethod, RequestRefusal};
use crate::rfc::CdnLoop;
use crate::rfc::path::{PlainPath, canonicalise};
use http::Uri;
use std::borrow::Cow;
use std::sync::Arc;

/// The longest query that is sent to an origin although no known narinfo names it.
const QUERY_BYTES_MAX: usize = 1_024;

/// What a request asks for.
#[derive(Debug, Clone)]
pub(super) struct ObjectTarget {
    /// Its identity.
    pub(super) key: Key,
    /// The path to ask an origin for.
    pub(super) path: Arc<str>,
    /// The query to ask an origin for.
    pub(super) query: Option<Arc<str>>,
    /// Its class.
    pub(super) class: Class,
}

/// The path of a request, and what it tells alone.
#[derive(Debug)]
pub(super) struct Path<'a> {
    canonical: Cow<'a, str>,
    class: Option<Class>,
    has_query: bool,
}

impl<'a> Path<'a> {
    /// The path of `uri` below `base`, if its raw form has at most so many bytes.
    pub(super) fn of(
        uri: &'a Uri,
        base: &str,
        path_bytes_max: usize,
    ) -> Result<Self, RequestRefusal> {
        let canonical = match canonicalise(uri.path(), path_bytes_max)? {
            canonical if base.is_empty() => canonical,
            Cow::Borrowed(path) => Cow::Borrowed(below(path, base)?),
            Cow::Owned(path) => Cow::Owned(below(&path, base)?.to_owned()),
        };
        Ok(Self { has_query: uri.query().is_some(), ..Self::named(canonical) })
    }

    /// The path of a simple request below `base`; none if it lies outside.
    pub(super) fn plain(path: PlainPath<'a>, base: &str) -> Option<Self> {
        let path = if base.is_empty() { path.as_str() } else { below(path.as_str(), base).ok()? };
        Some(Self::named(Cow::Borrowed(path)))
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

    /// Its class, if no narinfo can change it.
    pub(super) fn class_without_claim(&self) -> Option<Class> {
        self.class.filter(|class| !self.has_query || *class != Class::Nar)
    }

    /// The same without borrows.
    pub(super) fn kept(self) -> Path<'static> {
        Path { canonical: Cow::Owned(self.canonical.into_owned()), ..self }
    }
}

/// The rest of `path` behind the base path of a site, which has no trailing slash. The base path
/// alone is the root.
fn below<'p>(path: &'p str, base: &str) -> Result<&'p str, RequestRefusal> {
    match path.strip_prefix(base) {
        Some("") => Ok("/"),
        Some(rest) if rest.starts_with('/') => Ok(rest),
        Some(_) | None => Err(RequestRefusal::OutsideBase),
    }
}

/// A request after its site, path, class and key are known.
#[derive(Debug, Clone)]
pub(super) struct RoutedRequest {
    pub(super) site: Arc<ServedSite>,
    pub(super) passed: CdnLoop,
    pub(super) target: ObjectTarget,
    pub(super) method: ReadMethod,
    pub(super) upstream: OriginUse,
}

impl RoutedRequest {
    /// Whether the site's absence filter knows that there is no such object.
    pub(super) fn is_absent_by_filter(&self) -> bool {
        let Some(filter) = &self.site.filter else { return false };
        filter.check(&self.target.path, self.target.class) == Some(FilterVerdict::Absent)
    }

    /// What this instance asks of a fill, for `asker`.
    pub(super) fn wanted(&self, instance: &str, asker: Asker) -> FillRequest {
        let cdn_loop = self.passed.extended(instance);
        FillRequest {
            upstream: Arc::clone(&self.site.upstream),
            key: self.target.key.clone(),
            path: Arc::clone(&self.target.path),
            query: self.target.query.clone(),
            asker,
            form: RequestForm::Object(ObjectForm {
                class: self.target.class,
                cdn_loop,
                reason: None,
            }),
        }
    }
}

/// The target of `uri` with the path `path` on `site`.
///
/// A query is dropped, and a path outside the grammar of a binary cache is refused, unless a known
/// narinfo names exactly that URL: URLs of NARs are opaque. If a disk that may hold that narinfo
/// does not answer, the request is refused as undecided. A client may know a narinfo that is not
/// stored here: see [`may_need_query`].
pub(super) async fn of(
    uri: &Uri,
    site: &ServedSite,
    path: Path<'_>,
    cache: &Cache,
) -> Result<ObjectTarget, RequestRefusal> {
    let Path { canonical, class, has_query: _ } = path;
    let key = Key::new(site.key_space(), &canonical, None);
    let path: Arc<str> = canonical.into();
    if let Some(query) = uri.query()
        && matches!(class, None | Some(Class::Nar))
    {
        let key = Key::new(site.key_space(), &path, Some(query));
        if is_named(&key, cache).await? {
            return Ok(ObjectTarget { key, path, query: Some(query.into()), class: Class::Nar });
        }
        let bare = Key::new(site.key_space(), &path, None);
        if may_need_query(site, &path, query, class)
            && !is_named(&bare, cache).await?
            && !is_stored(&bare, cache).await
        {
            return Ok(ObjectTarget { key, path, query: Some(query.into()), class: Class::Nar });
        }
    }
    match class {
        Some(class) => Ok(ObjectTarget { key, path, query: None, class }),
        None if is_named(&key, cache).await? => {
            Ok(ObjectTarget { key, path, query: None, class: Class::Nar })
        }
        None => Err(RequestRefusal::OutsideCache),
    }
}

/// Whether the origins may need the query of a NAR although no known narinfo names it.
///
/// A NAR with a name that proves it is the same under every query, so the query is dropped. A
/// bucket takes a query for a command. What is stored or named without a query is served without
/// it, so no query leads past it.
fn may_need_query(site: &ServedSite, path: &str, query: &str, class: Option<Class>) -> bool {
    let is_plain = query.bytes().all(|byte| byte.is_ascii_graphic());
    let is_http = |origin: &Origin| matches!(origin.url, OriginUrl::Http(_));
    class == Some(Class::Nar)
        && is_plain
        && (1..=QUERY_BYTES_MAX).contains(&query.len())
        && file_hash_of(path).is_none()
        && site.upstream.site.origins.iter().all(is_http)
}

/// Whether the object itself is stored.
async fn is_stored(key: &Key, cache: &Cache) -> bool {
    match cache.lookup(key).await {
        Some(Hit::Memory(_) | Hit::Disk(_)) => true,
        Some(Hit::Absent(_)) | None => false,
    }
}

/// Whether a narinfo is known to name the NAR `key`.
async fn is_named(key: &Key, cache: &Cache) -> Result<bool, RequestRefusal> {
    let claim = cache.claim(key).await;
    claim.map(|claim| claim.is_some()).map_err(|_: ClaimUnknown| RequestRefusal::ClaimUnknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_path_is_taken_off_and_nothing_outside_of_it_is_served() {
        let of = |path: &str| {
            let uri: Uri = path.parse().unwrap();
            Path::of(&uri, "/nix/store", 4_096).map(|path| path.as_str().to_owned())
        };
        assert_eq!(of("/nix/store/nar/a%62c.nar").as_deref(), Ok("/nar/abc.nar"));
        assert_eq!(of("/nix/%73tore/nix-cache-info").as_deref(), Ok("/nix-cache-info"));
        for root in ["/nix/store", "/nix/store/"] {
            assert_eq!(of(root).as_deref(), Ok("/index.html"), "{root}");
        }
        for outside in ["/", "/nix-cache-info", "/nix", "/nix/stored/x", "/x/nix/store/y"] {
            assert_eq!(of(outside), Err(RequestRefusal::OutsideBase), "{outside}");
        }
        assert!(matches!(of("/nix/store/../x"), Err(RequestRefusal::Path(_))));
        let plain = |path| Path::plain(PlainPath::of(path).unwrap(), "/nix/store");
        assert_eq!(plain("/nix/store/x.narinfo").unwrap().as_str(), "/x.narinfo");
        assert!(plain("/x.narinfo").is_none());
    }
}
