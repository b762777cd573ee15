//! Purging by what an operator writes: a site's name and paths, keys or a prefix of it. Called by
//! the admin listener.

use crate::admin::{PurgeError, PurgeMode, PurgeReply, PurgeRequest, PurgeScope};
use crate::engine::{Engine, ServedSite};
use crate::object::{Key, PurgeTags};
use crate::purge::{PurgeHold, PurgeOutcome, Purger, Purging};
use crate::rfc::path::canonicalise;
use futures_util::{StreamExt, stream};
use std::sync::Arc;

/// Purges of one request that are under way at once.
const PURGES_AT_ONCE: usize = 64;

/// Carries out a purge.
pub(super) async fn purge(
    engine: &Engine,
    purger: &Purger,
    request: PurgeRequest,
) -> Result<PurgeReply, PurgeError> {
    let purging = match request.mode {
        PurgeMode::Hard => Purging::Hard,
        PurgeMode::Soft => Purging::Soft,
    };
    let outcome = match (request.scope, purging) {
        (PurgeScope::Paths(paths), purging) => {
            let site = site_of(engine, request.site)?;
            let keys = paths.iter().map(|path| keys(&site, path));
            let keys = keys.collect::<Result<Vec<_>, _>>()?;
            // Many at once: purges that come together wait for one sync.
            let purging = keys.into_iter().map(|keys| purger.object(keys, purging));
            let outcomes = stream::iter(purging).buffer_unordered(PURGES_AT_ONCE);
            outcomes.fold(PurgeOutcome::of(0), async |both, one| both.and(one)).await
        }
        (PurgeScope::Keys(tags), purging) => {
            purger.tags(site_of(engine, request.site)?.name(), PurgeTags::new(tags), purging).await
        }
        (PurgeScope::Prefix(prefix), purging) => {
            purger.prefix(site_of(engine, request.site)?.name(), &prefix, purging).await
        }
        (PurgeScope::All, Purging::Soft) => {
            let detail = "a soft purge takes paths, a prefix or keys; leave out \"soft\", or name \
                          those";
            return Err(PurgeError::Invalid { detail: detail.to_owned() });
        }
        (PurgeScope::All, Purging::Hard) => purger.all().await,
    };
    let is_lasting = match outcome.holds {
        PurgeHold::Always => true,
        PurgeHold::UntilRestart => false,
        PurgeHold::InPart => {
            return Err(PurgeError::Failed { detail: "see the log; purge again".to_owned() });
        }
    };
    Ok(PurgeReply { purged: outcome.objects, is_lasting })
}

/// The site that was named, or the only one there is.
fn site_of(engine: &Engine, name: Option<String>) -> Result<Arc<ServedSite>, PurgeError> {
    let sites = engine.sites();
    match (name, sites.all()) {
        (Some(name), _) => {
            let site = sites.named(&name).map(Arc::clone);
            site.ok_or(PurgeError::UnknownSite { name })
        }
        (None, [only]) => Ok(Arc::clone(only)),
        (None, _) => {
            let detail = "there are several sites; say which with \"site\"".to_owned();
            Err(PurgeError::Invalid { detail })
        }
    }
}

/// The keys of a path as a client writes it: several if the site is a generic one.
fn keys(site: &ServedSite, target: &str) -> Result<Vec<Key>, PurgeError> {
    match site.generic_keys(target) {
        Some(keys) => Ok(keys),
        None => Ok(vec![key(site, target)?]),
    }
}

/// The key of a path as a client writes it, a query included if a narinfo names one.
pub(super) fn key(site: &ServedSite, target: &str) -> Result<Key, PurgeError> {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    let invalid = |error: crate::rfc::PathError| PurgeError::Invalid {
        detail: format!("{target:?}: {error}"),
    };
    let path = canonicalise(path, path.len()).map_err(invalid)?;
    let path = if path == "/" { "/index.html" } else { &*path };
    Ok(Key::new(site.key_space(), path, query))
}
