//! The loops beside the service of one store: syncs, freeing what was removed, and the filter of
//! its keys. Each is one task, as long as the store or the process; its work runs on blocking
//! threads, one job at a time. Started by the store's handle.

use crate::store::disk_store::DiskStore;
use crate::store::error::IndexError;
use crate::store::eviction::snapshot::Schedule;
use crate::store::syncs::Wake;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How old a change gets before it is safe from a power cut.
const SYNC_INTERVAL: Duration = Duration::from_secs(5);
/// How often a file system is told to free what was removed ahead of need.
const FREED_OFTEN: Duration = Duration::from_millis(250);
/// Keys that are read in one go.
const PAGE: usize = 4096;
/// How often to look whether a filter is to be made.
const FILTER_PACE: Duration = Duration::from_secs(5);

/// Makes changes safe from a power cut soon after they are made, and writes the eviction order down
/// now and then, until the store or the process goes away.
pub(super) async fn sync_often(store: Weak<DiskStore>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(SYNC_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut schedule = Schedule::starting(Instant::now());
    let wanted = store.upgrade().map(|store| Arc::clone(&store.syncs.wanted));
    let Some(wanted) = wanted else { return };
    let mut wake = Wake::Tick;
    while wake != Wake::Stop {
        wake = tokio::select! {
            biased;
            () = stop.cancelled() => Wake::Stop,
            _ = ticks.tick() => Wake::Tick,
            () = wanted.notified() => Wake::Wanted,
        };
        let Some(store) = store.upgrade() else { return };
        let asked = store.syncs.asked();
        let own = Arc::clone(&store);
        let sync = move || own.syncs.sync_for(&own.catalog, wake, asked, schedule);
        let synced = store.lanes.background.blocking("store sync", sync).await;
        schedule = match store.catalog.unless_panicked(synced) {
            Ok(Some(kept)) => kept,
            Ok(None) => {
                store.syncs.panicked(asked);
                Schedule::starting(Instant::now())
            }
            Err(_) => return,
        }
    }
}

/// Has the file system free what was removed ahead of need, a few times a second at most, until the
/// disk goes out or the process stops. That takes a sync, for which no answer waits.
pub(super) async fn free_often(store: Weak<DiskStore>, stop: CancellationToken) {
    let Some(removed) = store.upgrade().map(|store| Arc::clone(&store.reserve.removed)) else {
        return;
    };
    let freeing = async {
        loop {
            removed.notified().await;
            let Some(store) = store.upgrade() else { return };
            let own = Arc::clone(&store);
            let freed = store
                .lanes
                .background
                .blocking("store free", move || own.reserve.free_removed_files(&own.catalog))
                .await;
            if store.catalog.unless_panicked(freed).is_err() {
                return;
            }
            drop(store);
            tokio::time::sleep(FREED_OFTEN).await;
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = freeing => {}
    }
}

/// Keeps the filter of a store fit until it or the process goes away.
pub(super) async fn keep_key_filter(store: Weak<DiskStore>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(FILTER_PACE);
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let Some(store) = store.upgrade() else { return };
        if !store.catalog.index.key_filter().is_due() {
            continue;
        }
        let own = Arc::clone(&store);
        let work = move || {
            if let Err(error) = renew_key_filter(&own) {
                own.catalog.index_failed(&error);
            }
        };
        let renewed = store.lanes.background.blocking("store presence", work).await;
        if store.catalog.unless_panicked(renewed).is_err() {
            return;
        }
    }
}

/// Makes a filter out of all that the index has; blocking, for one at a time. Ends early if
/// the disk goes out or the process stops.
fn renew_key_filter(store: &DiskStore) -> Result<(), IndexError> {
    let (catalog, leaving) = (&store.catalog, &store.lanes.leaving);
    let filter = catalog.index.key_filter();
    filter.begin(catalog.accounting.usage().objects);
    let mut from = 0;
    while !leaving.is_cancelled() {
        // Anew for each page, so that opening the index again does not wait for this.
        let page = catalog.index.access().open()?.order_page(from, PAGE)?;
        let Some((last, _)) = page.last() else { break };
        from = last.sequence.saturating_add(1);
        filter.fill(page.iter().map(|(_, key)| *key));
    }
    let mut after = None;
    while !leaving.is_cancelled() {
        let page = catalog.index.access().open()?.variants_page(after, PAGE)?;
        after = page.last().copied();
        if after.is_none() {
            filter.complete();
            break;
        }
        filter.fill(page.iter().map(|(primary, _)| *primary));
    }
    Ok(())
}
