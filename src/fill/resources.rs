//! What every fill uses: the cache, the metrics, the tasks, and what bounds all fills together.
//! One per process; each member has locks of its own.

use super::contents_check::Decoders;
use super::hit_for_miss::HitForMiss;
use super::memory_window::{Bounds, WindowMemory};
use super::parallel::ParallelLimits;
use super::places::FillPlaces;
use super::proof::{Advice, Basis, RejectedBodies};
use super::request::{FillRequest, OriginChoice};
use super::rules::Keep;
use crate::cache::{Cache, FenceEpoch};
use crate::clock::Clock;
use crate::config;
use crate::metrics::Metrics;
use crate::object::{Key, Meta};
use crate::sync::Mutex;
use crate::tasks::Tasks;
use std::collections::HashSet;
use std::sync::Arc;

/// What every fill uses.
#[derive(Debug)]
pub(super) struct Resources {
    pub(super) cache: Cache,
    pub(super) clock: Clock,
    pub(super) metrics: Metrics,
    pub(super) tasks: Tasks,
    pub(super) rejected_bodies: RejectedBodies,
    pub(super) places: Arc<FillPlaces>,
    /// Pieces of large objects under way.
    pub(super) limits: Arc<ParallelLimits>,
    /// The objects that each request asks for itself.
    pub(super) hit_for_miss: HitForMiss,
    /// For bodies that no disk takes.
    pub(super) window_memory: Arc<WindowMemory>,
    /// For NARs that only their contents prove.
    pub(super) decoders: Decoders,
    /// The keys of objects that are fetched or read in part.
    pub(super) keys_in_part: Mutex<HashSet<Key>>,
}

impl Resources {
    /// Nothing under way, and never more at once than `limits` allow.
    pub(super) fn new(
        cache: Cache,
        clock: Clock,
        metrics: Metrics,
        tasks: Tasks,
        limits: &config::Limits,
    ) -> Self {
        Self {
            cache,
            metrics,
            decoders: Decoders::new(tasks.clone()),
            tasks,
            rejected_bodies: RejectedBodies::new(clock.clone()),
            clock,
            places: FillPlaces::new(limits.fills_max),
            limits: ParallelLimits::new(limits.pieces.clone()),
            hit_for_miss: HitForMiss::default(),
            window_memory: WindowMemory::new(Bounds::usual()),
            keys_in_part: Mutex::default(),
        }
    }

    /// Remembers an absence with this head, if it may be kept, of a fetch with this ticket.
    pub(super) async fn absent(&self, ticket: FenceEpoch, meta: Meta, keep: Keep) -> Arc<Meta> {
        let meta = Arc::new(meta);
        if keep == Keep::IfVerified
            && let Err(error) = self.cache.publish_absent(ticket, Arc::clone(&meta)).await
        {
            tracing::debug!(path = meta.key.path(), %error, "absence not remembered");
        }
        meta
    }

    /// Which origins are asked for `request`, and in which order.
    pub(super) async fn choice(&self, request: &FillRequest) -> OriginChoice {
        let avoid = self.avoided(&request.key);
        OriginChoice { avoid, ..request.choice(&self.cache).await }
    }

    /// The origins that are asked for `key` after the others, since they gave wrong bodies. A
    /// refusal counts for nothing.
    pub(super) fn avoided(&self, key: &Key) -> Vec<usize> {
        match self.rejected_bodies.advice(key, &self.cache) {
            Advice::Ask { avoid } => avoid,
            Advice::Refuse { .. } => Vec::new(),
        }
    }

    /// Remembers `count` bodies of `key` from `sources` that were rejected for a lasting fault.
    pub(super) fn note_rejected(&self, key: &Key, basis: Basis, sources: Vec<usize>, count: u32) {
        if count == 0 {
            return;
        }
        if let Some(pause) = self.rejected_bodies.note(key, basis, sources, count) {
            let retry_after_s = pause.as_secs();
            let (site, path) = (key.site(), key.path());
            tracing::warn!(site, path, retry_after_s, "all origins returned invalid bodies");
        }
    }
}

/// Counts a fetch as under way until it is dropped.
#[derive(Debug)]
pub(super) struct RunningCount(Metrics);

impl RunningCount {
    pub(super) fn begin(metrics: &Metrics) -> Self {
        metrics.fills_running.inc();
        Self(metrics.clone())
    }
}

impl Drop for RunningCount {
    fn drop(&mut self) {
        self.0.fills_running.dec();
    }
}
