//! The origins that gave bytes of one body, and what is written down where the body turns out
//! wrong: one count and one log line, whatever was wrong with it. One per try of a fill, shared by
//! its parts; a lock held for a push only.

use super::Rejection;
use crate::metrics::Metrics;
use crate::object::Key;
use parking_lot::Mutex;
use std::sync::Arc;

/// The origins that gave bytes of one body, in the order in which they came to it.
#[derive(Debug, Clone, Default)]
pub(super) struct Trail(Arc<Mutex<Vec<Source>>>);

#[derive(Debug)]
struct Source {
    position: usize,
    name: Arc<str>,
}

impl Trail {
    /// The origin at `position` gives bytes from now on.
    pub(super) fn add(&self, position: usize, name: &Arc<str>) {
        let mut sources = self.0.lock();
        if sources.iter().all(|source| source.position != position) {
            sources.push(Source { position, name: Arc::clone(name) });
        }
    }

    /// Their positions.
    pub(super) fn positions(&self) -> Vec<usize> {
        self.0.lock().iter().map(|source| source.position).collect()
    }

    /// Their names, with commas between.
    fn names(&self) -> String {
        let sources = self.0.lock();
        let names: Vec<&str> = sources.iter().map(|source| &*source.name).collect();
        names.join(",")
    }

    /// Counts and logs that `origin` gave a body, or a part of one, that is not what was promised.
    pub(super) fn reject(&self, metrics: &Metrics, key: &Key, origin: &str, rejection: &Rejection) {
        let reason = rejection.reason();
        metrics.rejected_bodies.with_label_values(&[origin, reason]).inc();
        let (expected, actual) = rejection.expected_and_actual();
        tracing::warn!(
            origin,
            sources = self.names(),
            site = key.site(),
            path = key.path(),
            reason,
            expected,
            actual,
            "rejected body: not stored"
        );
    }
}
