//! What every fill uses: the cache, the metrics, the tasks, and what bounds all fills together.
//! One per process; each member has locks of its own.

use super::alone::Alone;
use super::memory_window::{Bounds, WindowMemory};
use super::object_request::Keep;
use super::parallel::Lots;
use super::places::Room;
use super::proof::{Advice, Basis, WrongBodies};
use crate::cache::{Cache, Ticket};
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
    pub(super) metrics: Metrics,
    pub(super) tasks: Tasks,
    pub(super) wrong: WrongBodies,
    pub(super) room: Arc<Room>,
    /// Pieces of large objects under way.
    pub(super) lots: Arc<Lots>,
    /// The objects of generic sites that are asked for alone.
    pub(super) alone: Alone,
    /// For bodies that no disk takes.
    pub(super) window_memory: Arc<WindowMemory>,
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
            tasks,
            wrong: WrongBodies::new(clock),
            room: Room::new(limits.fills_max),
            lots: Lots::new(limits.pieces.clone()),
            alone: Alone::default(),
            window_memory: WindowMemory::new(Bounds::usual()),
            keys_in_part: Mutex::default(),
        }
    }

    /// Remembers an absence with this head, if it may be kept, of a fetch with this ticket.
    pub(super) async fn absent(&self, ticket: Ticket, meta: Meta, keep: Keep) -> Arc<Meta> {
        let meta = Arc::new(meta);
        if keep == Keep::IfVerified
            && let Err(error) = self.cache.publish_absent(ticket, Arc::clone(&meta)).await
        {
            tracing::debug!(path = meta.key.path(), %error, "absence not remembered");
        }
        meta
    }

    /// The origins that are asked for `key` after the others, since they gave wrong bodies. A
    /// refusal counts for nothing.
    pub(super) fn avoided(&self, key: &Key) -> Vec<usize> {
        match self.wrong.advice(key, &self.cache) {
            Advice::Ask { avoid } => avoid,
            Advice::Refuse { .. } => Vec::new(),
        }
    }

    /// Remembers `count` bodies of `key` from `sources` that were wrong in a way that lasts.
    pub(super) fn note_wrong(&self, key: &Key, basis: Basis, sources: Vec<usize>, count: u32) {
        if count == 0 {
            return;
        }
        if let Some(pause) = self.wrong.note(key, basis, sources, count) {
            let seconds = pause.as_secs();
            let (site, path) = (key.site(), key.path());
            tracing::warn!(site, path, seconds, "only wrong bodies: answered 502 for a while");
        }
    }
}

/// Counts a fetch as under way until it is dropped.
#[derive(Debug)]
pub(super) struct Running(Metrics);

impl Running {
    pub(super) fn begin(metrics: &Metrics) -> Self {
        metrics.fills_running.inc();
        Self(metrics.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fills_running.dec();
    }
}
