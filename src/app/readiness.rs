//! What the edge says of its own state: readiness for load balancers, the self test of the
//! origins at start. Read-only; asked by the admin listener.

use crate::admin::{Readiness, ReadinessCheck};
use crate::cache::Cache;
use crate::engine::{Engine, Sites};
use crate::store::DiskReport;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// What readiness is made of.
#[derive(Debug, Clone)]
pub(super) struct ReadinessSources {
    pub(super) engine: Arc<Engine>,
    pub(super) cache: Cache,
    pub(super) leaving: CancellationToken,
}

impl ReadinessSources {
    /// Ready while not draining. An origin in trouble, or a disk that takes no writes, is said in
    /// the checks and leaves the edge ready: it serves what it holds and passes on the rest.
    pub(super) fn report(&self) -> Readiness {
        let is_draining = self.leaving.is_cancelled();
        let draining = if is_draining { "draining" } else { "not draining" };
        let mut checks = vec![ReadinessCheck {
            name: "process".to_owned(),
            is_ok: !is_draining,
            detail: draining.to_owned(),
        }];
        if let Some(store) = self.cache.store() {
            let reports = store.reports();
            let is_only = reports.len() == 1;
            checks.extend(reports.into_iter().map(|DiskReport { path, health }| ReadinessCheck {
                name: if is_only { "disk".to_owned() } else { format!("disk {path}") },
                is_ok: health.is_writable,
                detail: health.detail,
            }));
        }
        for site in self.engine.sites().all() {
            for origin in site.upstream.origins.health() {
                let name = format!("origin {} of site {}", origin.name, site.name());
                let detail = origin.last_error.unwrap_or_else(|| "usable".to_owned());
                checks.push(ReadinessCheck { name, is_ok: origin.is_up, detail });
            }
            if let Some(filter) = &site.filter {
                let name = format!("absence filter of site {}", site.name());
                let report = filter.report();
                checks.push(ReadinessCheck {
                    name,
                    is_ok: report.is_answering,
                    detail: report.detail,
                });
            }
        }
        Readiness { is_ready: !is_draining, checks }
    }
}

/// Probes every origin, so that wrong addresses and credentials are in the log before a client
/// meets them.
pub(super) async fn probe(sites: Arc<Sites>) {
    for site in sites.all() {
        for (origin, result) in site.upstream.origins.probe().await {
            match result {
                Ok(()) => tracing::info!(site = site.name(), %origin, "origin answers"),
                // The origin's own record has told of it already, once.
                Err(error) => tracing::debug!(site = site.name(), %origin, %error, "self test"),
            }
        }
    }
}
