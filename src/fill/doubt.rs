//! A narinfo that names a NAR which its origins lack, or have with other bytes. The narinfo becomes
//! stale, and the origin that sent it is asked after the others. So the next request for the
//! narinfo finds what exists now: a newer narinfo, or the path at another origin. Called by what
//! finds the NAR absent or wrong. Holds no lock.

use super::resources::Resources;
use super::site_origins::SiteOrigins;
use crate::cache::{CachedObject, Hit, Purging, Scope};
use crate::nix::Class;
use crate::nix::narinfo::NarInfo;
use crate::object::Key;

/// Makes the stored narinfo stale that claims the object `nar`, if there is one and the object is a
/// NAR.
pub(super) async fn doubt_narinfo(
    resources: &Resources,
    upstream: &SiteOrigins,
    nar: &Key,
    class: Class,
) {
    let cache = &resources.cache;
    if class != Class::Nar {
        return;
    }
    let Some((narinfo, claim)) = cache.claimant(nar).await else { return };
    let Some(Hit::Memory(found) | Hit::Disk(found)) = cache.lookup(&narinfo).await else {
        return;
    };
    if found.facts().is_invalidated || !names(&found, nar) {
        return;
    }
    let (site, path, nar) = (narinfo.site(), narinfo.path(), nar.path());
    tracing::info!(site, path, nar, "narinfo names a NAR that is absent or wrong");
    cache.purge(Scope::Key(narinfo.clone()), Purging::Soft).await;
    let source = claim.source.and_then(|source| upstream.trusted.position(source));
    if let Some(position) = source {
        let basis = resources.rejected_bodies.basis(cache.ticket(), &narinfo, cache);
        resources.rejected_bodies.avoid(&narinfo, basis, position);
    }
}

/// Whether the narinfo that is stored now names `nar`; an older one may have made the claim.
fn names(narinfo: &CachedObject, nar: &Key) -> bool {
    // One that is too large for memory is taken at its claim.
    let CachedObject::Hot(hot) = narinfo else { return true };
    let Ok(narinfo) = NarInfo::parse(hot.body_bytes()) else { return false };
    narinfo.nar_location().is_some_and(|location| {
        location.path == nar.path() && location.query.as_deref() == nar.query()
    })
}
