//! Purging: raise the fence first, then drop from memory, then from disk. One per process; takes
//! no lock of its own. Called by `admin` through the assembly.

use crate::cache::{Cache, Scope};
use crate::metrics::Metrics;
use crate::object::{Key, Tag};

/// Whether a purged object goes or is only asked for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It goes.
    Hard,
    /// It becomes stale: confirmed or replaced at the next request, and still there while no
    /// origin answers.
    Soft,
}

/// Carries out purges.
#[derive(Debug, Clone)]
pub struct Purger {
    cache: Cache,
    metrics: Metrics,
}

impl Purger {
    /// A purger of `cache`.
    pub fn new(cache: Cache, metrics: Metrics) -> Self {
        Self { cache, metrics }
    }

    /// Purges one object; how many there were: 0 or 1.
    pub async fn object(&self, key: Key, kind: Kind) -> u64 {
        let (scope, purged) = match kind {
            Kind::Hard => ("object", self.cache.purge(Scope::Key(key.clone())).await),
            Kind::Soft => ("object_soft", u64::from(self.cache.invalidate(&key).await)),
        };
        self.metrics.purges.with_label_values(&[scope]).inc();
        tracing::info!(site = key.site(), path = key.path(), scope, purged, "purge");
        purged
    }

    /// Purges every object of `site` whose path begins with `prefix`; how many there were.
    pub async fn prefix(&self, site: &str, prefix: &str) -> u64 {
        let scope = Scope::Prefix { site: site.to_owned(), prefix: prefix.to_owned() };
        let purged = self.cache.purge(scope).await;
        self.metrics.purges.with_label_values(&["prefix"]).inc();
        tracing::info!(site, prefix, purged, "purge");
        purged
    }

    /// Purges every object of `site` that has `tag`; how many there were.
    pub async fn tag(&self, site: &str, tag: Tag, kind: Kind) -> u64 {
        let text = tag.to_string();
        let (scope, purged) = match kind {
            Kind::Hard => {
                let scope = Scope::Tag { site: site.to_owned(), tag };
                ("key", self.cache.purge(scope).await)
            }
            Kind::Soft => ("key_soft", self.cache.invalidate_tagged(site, tag).await),
        };
        self.metrics.purges.with_label_values(&[scope]).inc();
        tracing::info!(site, key = text, scope, purged, "purge");
        purged
    }

    /// Purges every object of every site; how many there were.
    pub async fn all(&self) -> u64 {
        let purged = self.cache.purge(Scope::All).await;
        self.metrics.purges.with_label_values(&["all"]).inc();
        tracing::info!(purged, "purge of everything");
        purged
    }
}
