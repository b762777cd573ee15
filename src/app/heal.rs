//! Fetches again what checks of the disk found damaged, one object at a time, as long as the
//! process. What was not in use is not in the queue, and what does not fit into it is fetched
//! when it is asked for.

use crate::engine::Engine;
use crate::metrics::Metrics;
use crate::object::Key;
use std::sync::Arc;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;

/// Takes keys until the process stops.
pub(super) async fn run(
    engine: Arc<Engine>,
    mut damaged: Receiver<Key>,
    metrics: Metrics,
    stop: CancellationToken,
) {
    let heal = async {
        while let Some(key) = damaged.recv().await {
            let refetched = engine.refetch(&key).await;
            metrics.healed_objects.with_label_values(&[refetched.as_str()]).inc();
            tracing::info!(path = key.path(), ?refetched, "damaged object");
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = heal => {}
    }
}
