//! What the edge says of its own state: readiness for load balancers, the self test of the
//! origins at start. Read-only; asked by the admin listener.

use crate::admin::{Detail, Doors, PurgeError, PurgeReply, PurgeRequest, Readiness};
use crate::cache::Cache;
use crate::engine::{Engine, Sites};
use crate::metrics::Metrics;
use crate::object::Key;
use crate::purge::{Kind, Purger};
use futures_util::FutureExt;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What readiness is made of.
#[derive(Debug, Clone)]
pub(super) struct Ready {
    engine: Arc<Engine>,
    cache: Cache,
    stopping: CancellationToken,
}

impl Ready {
    pub(super) fn new(engine: Arc<Engine>, cache: Cache, stopping: CancellationToken) -> Self {
        Self { engine, cache, stopping }
    }

    /// Ready while not draining. An origin in trouble, or a disk that takes no writes, is said in
    /// the details and leaves the edge ready: it serves what it holds and passes on the rest.
    fn report(&self) -> Readiness {
        let is_draining = self.stopping.is_cancelled();
        let mut details = vec![Detail {
            name: "draining".to_owned(),
            is_ok: !is_draining,
            detail: if is_draining { "stopping" } else { "no" }.to_owned(),
        }];
        if let Some(store) = self.cache.store() {
            let health = store.health();
            details.push(Detail {
                name: "disk".to_owned(),
                is_ok: health.is_writable,
                detail: health.detail,
            });
        }
        for site in self.engine.sites().all() {
            for origin in site.upstream.origins.health() {
                details.push(Detail {
                    name: format!("origin {} of site {}", origin.name, site.name()),
                    is_ok: origin.is_up,
                    detail: origin.last_error.unwrap_or_else(|| "usable".to_owned()),
                });
            }
        }
        Readiness { is_ready: !is_draining, details }
    }
}

/// Asks every origin for `nix-cache-info`, so that wrong addresses and credentials are in the log
/// before a client meets them.
pub(super) async fn probe(sites: Arc<Sites>) {
    for site in sites.all() {
        for (origin, result) in site.upstream.origins.probe().await {
            match result {
                Ok(()) => tracing::info!(site = site.name(), %origin, "origin answers"),
                Err(error) => tracing::warn!(
                    site = site.name(),
                    %origin,
                    error = &error as &dyn std::error::Error,
                    "origin does not answer as it should; serving what is stored"
                ),
            }
        }
    }
}
