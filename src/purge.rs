//! Purging: what an operator asks for, named, counted and logged. One per process; takes no lock of
//! its own. Called by `admin` through the assembly. `cache` says why a purge holds, `store::disks`
//! why it does on a disk.
//!
//! # Why a purge by tag holds
//!
//! An object has the tags that its head says, and its head is what every step looks into.
//! - A fill, a part or a confirmation that began before: the fence compares the head that is to be
//!   published, and the one that was confirmed, with each tag that was purged since. A request
//!   after the purge joins no older fill of the site, whatever that will bring.
//! - What is on disk: a record and the rows of its tags come and go in one change of the index, so
//!   after any crash what is found by its key is found by its tags. A purge that a crash cuts short
//!   was not answered; each object is gone, stale, or as it was.
//! - What is made stale in memory is taken out and put back, unless something newer is there; only
//!   one purge at a time goes through memory, so none is missed while it is out.
//! - A disk that is out, or fails, owes it, and serves nothing of the site before it has made up.

use crate::cache::{Cache, Scope};
pub use crate::cache::{PurgeHold, PurgeOutcome, Purging};
use crate::metrics::Metrics;
use crate::object::{Key, PurgeTags};
use futures_util::future::join_all;

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

    /// Purges one object with its variants, under each of its `keys`.
    pub async fn object(&self, keys: Vec<Key>, purging: Purging) -> PurgeOutcome {
        let scope = label(purging, "object", "object_soft");
        let first = keys.first().cloned();
        let each = keys.into_iter().map(|key| self.cache.purge(Scope::Key(key), purging));
        let each = join_all(each).await.into_iter();
        let outcome = each.fold(PurgeOutcome::of(0), PurgeOutcome::and);
        self.metrics.purges.with_label_values(&[scope]).inc();
        let (site, path) = first.as_ref().map_or(("", ""), |key| (key.site(), key.path()));
        tracing::info!(site, path, scope, purged = outcome.objects, "purge");
        outcome
    }

    /// Forgets that these objects were absent, since they were uploaded. Durable nowhere: what is
    /// remembered of absences does not outlast the process.
    pub async fn uploaded(&self, keys: Vec<Key>) {
        if let Err(error) = self.cache.forget_absences(keys).await {
            tracing::error!(%error, "uploads not noted; absences last up to a minute");
        }
    }

    /// Purges every object of `site` with a path that begins with `prefix`.
    pub async fn prefix(&self, site: &str, prefix: &str, purging: Purging) -> PurgeOutcome {
        let scope = Scope::Prefix { site: site.to_owned(), prefix: prefix.to_owned() };
        let outcome = self.cache.purge(scope, purging).await;
        let scope = label(purging, "prefix", "prefix_soft");
        self.metrics.purges.with_label_values(&[scope]).inc();
        tracing::info!(site, prefix, scope, purged = outcome.objects, "purge");
        outcome
    }

    /// Purges every object of `site` that has one of `tags`.
    pub async fn tags(&self, site: &str, tags: PurgeTags, purging: Purging) -> PurgeOutcome {
        let keys: Vec<String> = tags.iter().map(ToString::to_string).collect();
        let scope = Scope::Tags { site: site.to_owned(), tags };
        let outcome = self.cache.purge(scope, purging).await;
        let scope = label(purging, "key", "key_soft");
        self.metrics.purges.with_label_values(&[scope]).inc();
        tracing::info!(site, ?keys, scope, purged = outcome.objects, "purge");
        outcome
    }

    /// Purges every object of every site.
    pub async fn all(&self) -> PurgeOutcome {
        let outcome = self.cache.purge(Scope::All, Purging::Hard).await;
        self.metrics.purges.with_label_values(&["all"]).inc();
        tracing::info!(purged = outcome.objects, "purge of everything");
        outcome
    }
}

fn label(purging: Purging, hard: &'static str, soft: &'static str) -> &'static str {
    match purging {
        Purging::Hard => hard,
        Purging::Soft => soft,
    }
}
