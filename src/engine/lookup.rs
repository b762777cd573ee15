//! Looks for stored objects that may be used as they are, for requests to a binary cache: in
//! memory, in open files, or on disk. Decides whether they are fresh, and trusted by the keys of
//! their site. Holds no lock.

use super::answer::ClientAnswer;
use super::deliver::{self, ReadRequest};
use super::request_record::PendingRecord;
use super::site::ServedSite;
use super::site_pages;
use super::target::{ObjectTarget, Path, RoutedRequest};
use crate::cache::{Cache, CachedObject, Hit, Stale};
use crate::clock::Timestamp;
use crate::config::Signatures;
use crate::memory::Hot;
use crate::nix::Class;
use crate::object::{Facts, Key, Proof};
use crate::outcome::Outcome;
use crate::policy;
use crate::policy::request::{OriginUse, ReadMethod};
use crate::rfc::CdnLoop;
use crate::store::Stored;
use http::HeaderMap;
use std::sync::Arc;

/// What is known of a request for an object of a binary cache.
#[derive(Debug)]
pub(super) struct ObjectRoute<'s, 'p> {
    pub(super) site: &'s Arc<ServedSite>,
    pub(super) passed: CdnLoop,
    pub(super) path: Path<'p>,
    pub(super) method: ReadMethod,
    pub(super) upstream: OriginUse,
}

impl ObjectRoute<'_, '_> {
    /// The same without borrows, to be kept while the answer is waited for.
    pub(super) fn kept(self) -> OwnedRoute {
        let Self { site, passed, path, method, upstream } = self;
        OwnedRoute { site: Arc::clone(site), passed, path: path.kept(), method, upstream }
    }
}

/// An [`ObjectRoute`] that borrows nothing.
#[derive(Debug)]
pub(super) struct OwnedRoute {
    pub(super) site: Arc<ServedSite>,
    pub(super) passed: CdnLoop,
    pub(super) path: Path<'static>,
    pub(super) method: ReadMethod,
    pub(super) upstream: OriginUse,
}

/// What is stored and may be used as it is.
enum StoredUse {
    Object(CachedObject, Outcome),
    Absence(Arc<Hot>),
}

/// What may be used as it is and is in memory.
pub(super) enum MemoryHit {
    Object(Arc<Hot>, Outcome),
    Absence(Arc<Hot>),
}

/// What memory holds for a request and may be used as it is, and its class.
pub(super) fn in_memory(
    cache: &Cache,
    site: &ServedSite,
    path: &Path<'_>,
    now: Timestamp,
) -> Option<(MemoryHit, Class)> {
    let class = path.class_without_claim()?;
    if site_pages::is_own(site, class) {
        return None;
    }
    let hit = Key::with_text(site.key_space(), path.as_str(), |key| cache.peek(key));
    match usable(site, hit, now) {
        Ok(StoredUse::Object(CachedObject::Hot(hot), outcome)) => {
            Some((MemoryHit::Object(hot, outcome), class))
        }
        Ok(StoredUse::Absence(absence)) => Some((MemoryHit::Absence(absence), class)),
        Ok(StoredUse::Object(CachedObject::Stored(_), _)) | Err(_) => None,
    }
}

/// An object with an open file that may be used as it is, and the request for it. Files stay open
/// for a short time after a request.
pub(super) fn open_file(
    cache: &Cache,
    route: &ObjectRoute<'_, '_>,
    now: Timestamp,
) -> Option<(Stored, Outcome, RoutedRequest)> {
    let class = route.path.class_without_claim()?;
    if site_pages::is_own(route.site, class) {
        return None;
    }
    let key = Key::new(route.site.key_space(), route.path.as_str(), None);
    let hit = Hit::Disk(CachedObject::Stored(cache.recent(&key)?));
    let Ok(StoredUse::Object(CachedObject::Stored(stored), outcome)) =
        usable(route.site, Some(hit), now)
    else {
        return None;
    };
    let target = ObjectTarget { key, path: route.path.as_str().into(), query: None, class };
    let (site, passed, method) = (Arc::clone(route.site), route.passed.clone(), route.method);
    Some((
        stored,
        outcome,
        RoutedRequest { site, passed, target, method, upstream: route.upstream },
    ))
}

/// The answer from what is stored, if that may be used as it is; else the stale object, if any.
pub(super) async fn stored(request: &ReadRequest<'_>) -> Result<ClientAnswer, Option<Stale>> {
    let (cache, routed) = (&request.engine.cache, request.routed);
    let looked = cache.ticket();
    let hit = cache.lookup(&routed.target.key).await;
    let usable = usable(&routed.site, hit, request.now);
    Ok(match usable.map_err(|found| found.map(|found| Stale { found, looked }))? {
        StoredUse::Object(found, outcome) => deliver::found(request, &found, outcome.into()),
        StoredUse::Absence(absence) => {
            deliver::absent(request, &absence.meta(), Outcome::HitAbsent.into())
        }
    })
}

/// What may be used as it is of the result of a look-up; else the stale object, if any.
fn usable(
    site: &ServedSite,
    hit: Option<Hit>,
    now: Timestamp,
) -> Result<StoredUse, Option<CachedObject>> {
    let (found, outcome) = match hit {
        Some(Hit::Absent(absence)) => {
            let is_fresh = policy::freshness::judge(&absence.facts, now).is_fresh();
            return if is_fresh { Ok(StoredUse::Absence(absence)) } else { Err(None) };
        }
        Some(Hit::Memory(found)) => (found, Outcome::HitMemory),
        Some(Hit::Disk(found)) => (found, Outcome::HitDisk),
        None => return Err(None),
    };
    let facts = found.facts();
    if !is_trusted(site, &facts) {
        return Err(None);
    }
    let is_fresh = policy::freshness::judge(&facts, now).is_fresh();
    if is_fresh { Ok(StoredUse::Object(found, outcome)) } else { Err(Some(found)) }
}

impl MemoryHit {
    /// The answer. Its fields replace those of the request, `headers`, to reuse their allocation.
    /// The origin is only for the log.
    pub(super) fn answer(
        self,
        method: ReadMethod,
        headers: HeaderMap,
        now: Timestamp,
        record: &PendingRecord,
    ) -> ClientAnswer {
        let (mut answer, hot) = match &self {
            Self::Object(hot, outcome) => (deliver::hot(method, headers, now, hot, *outcome), hot),
            Self::Absence(hot) => {
                (deliver::hot_absence(headers, now, hot, Outcome::HitAbsent), hot)
            }
        };
        answer.origin = record.is_logged().then(|| Arc::clone(&hot.origin));
        answer
    }
}

/// Whether what is stored proves as much as the site asks for now. A narinfo without a signature
/// does not serve if signatures are required. Nor does one with a signature of a key that is no
/// longer trusted for its origin.
fn is_trusted(site: &ServedSite, facts: &Facts) -> bool {
    if facts.class != Class::Narinfo || site.upstream.site.signatures != Signatures::Require {
        return true;
    }
    match facts.proof {
        Proof::ContentAddress => true,
        Proof::SignedBy(mark) => site.upstream.trusted.accepts(mark),
        Proof::Length | Proof::FileHash | Proof::Parsed | Proof::Signature => false,
    }
}
