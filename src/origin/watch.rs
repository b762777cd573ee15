//! Looks after an origin while nobody's request does: probes one that is left alone until it
//! answers, and, where the configuration says so, one that nobody has asked for a while. Tasks that
//! live as long as there is something to look after: they hold the origin weakly, so that a reload
//! ends them, and hear the stop of the process. Started by `upstream` and `Origins`.

use super::upstream::Upstream;
use crate::tasks::Tasks;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Who looks after one origin.
#[derive(Debug)]
pub(super) struct Watch {
    tasks: Tasks,
    is_mending: AtomicBool,
    is_watching: AtomicBool,
}

impl Watch {
    /// Nobody yet.
    pub(super) fn new(tasks: Tasks) -> Self {
        Self { tasks, is_mending: AtomicBool::new(false), is_watching: AtomicBool::new(false) }
    }

    /// Sees to it that `upstream`, which is left alone, is probed until it is not.
    pub(super) fn mend(&self, upstream: &Arc<Upstream>) {
        if self.is_mending.swap(true, Ordering::AcqRel) {
            return;
        }
        let (upstream, stop) = (Arc::downgrade(upstream), self.tasks.stopping());
        self.tasks.spawn("origin probe", async move {
            let _ = stop.run_until_cancelled(mend(upstream)).await;
        });
    }

    /// Sees to it that `upstream` is probed when nobody asked it for long, if it is to be.
    pub(super) fn idle(&self, upstream: &Arc<Upstream>) {
        if upstream.breaker_settings.probe_idle.is_zero()
            || self.is_watching.swap(true, Ordering::AcqRel)
        {
            return;
        }
        let (upstream, stop) = (Arc::downgrade(upstream), self.tasks.stopping());
        self.tasks.spawn("idle origin probe", async move {
            let _ = stop.run_until_cancelled(watch(upstream)).await;
        });
    }
}

async fn mend(upstream: Weak<Upstream>) {
    while let Some((next, sooner)) = next_probe(&upstream) {
        tokio::select! {
            biased;
            () = sleep_until(next) => {}
            () = sooner.notified() => continue,
        }
        if let Some(upstream) = upstream.upgrade() {
            // Its outcome is in the breaker and in the log.
            let _ = upstream.probe().await;
        }
    }
}

/// When to probe next, and what tells that it is sooner; none where the origin is no longer left
/// alone, or is gone.
fn next_probe(upstream: &Weak<Upstream>) -> Option<(Instant, Arc<Notify>)> {
    let upstream = upstream.upgrade()?;
    let sooner = upstream.breaker.sooner();
    if let Some(next) = upstream.breaker.next_probe() {
        return Some((next, sooner));
    }
    upstream.watch.is_mending.store(false, Ordering::Release);
    // It may have opened again just before that, and found somebody who mends.
    let next = upstream.breaker.next_probe()?;
    (!upstream.watch.is_mending.swap(true, Ordering::AcqRel)).then_some((next, sooner))
}

async fn watch(upstream: Weak<Upstream>) {
    loop {
        let Some(due) = upstream.upgrade().map(|upstream| upstream.idle_until()) else { return };
        if due > Instant::now() {
            sleep_until(due).await;
            continue;
        }
        let Some(upstream) = upstream.upgrade() else { return };
        let _ = upstream.probe().await;
        // Asked or refused by its breaker, the next time is another wait away.
        upstream.note_asked();
    }
}
