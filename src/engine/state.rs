//! The engine's state: sites, tiers, fills, clock and counters. One per process, shared by every
//! connection. Only the sites are ever replaced, without a lock.

use super::site::Sites;
use crate::cache::Cache;
use crate::clock::Clock;
use crate::config::Limits;
use crate::fill::Fills;
use crate::metrics::Metrics;
use crate::telemetry::AccessLog;
use arc_swap::ArcSwap;
use std::sync::Arc;

/// The parts of an engine.
#[derive(Debug)]
pub struct EngineParts {
    /// The sites at start.
    pub sites: Sites,
    /// The tiers.
    pub cache: Cache,
    /// The fills.
    pub fills: Fills,
    /// The time.
    pub clock: Clock,
    /// The counters.
    pub metrics: Metrics,
    /// The access log.
    pub log: Arc<AccessLog>,
    /// Limits on requests.
    pub limits: Limits,
    /// This instance's name in `CDN-Loop`.
    pub instance: Arc<str>,
}

/// Answers requests.
#[derive(Debug)]
pub struct Engine {
    pub(super) sites: ArcSwap<Sites>,
    pub(super) cache: Cache,
    pub(super) fills: Fills,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) log: Arc<AccessLog>,
    pub(super) limits: Limits,
    pub(super) instance: Arc<str>,
}

impl Engine {
    /// An engine of `parts`.
    pub fn new(parts: EngineParts) -> Self {
        Self {
            sites: ArcSwap::from_pointee(parts.sites),
            cache: parts.cache,
            fills: parts.fills,
            clock: parts.clock,
            metrics: parts.metrics,
            log: parts.log,
            limits: parts.limits,
            instance: parts.instance,
        }
    }

    /// The tiers that it serves from.
    #[cfg(test)]
    pub(crate) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The present sites.
    pub fn sites(&self) -> Arc<Sites> {
        self.sites.load_full()
    }

    /// Replaces the sites. Requests that have begun end with the old ones.
    pub fn replace_sites(&self, sites: Sites) {
        self.sites.store(Arc::new(sites));
    }
}
