//! The way back after trouble: while a disk is in doubt, it is written to every now and then, and
//! opened for writes again as soon as that succeeds, whether or not a request asks for it. One task
//! per store, as long as it; blocking work on blocking threads; takes no lock of its own.
//!
//! A probe writes and syncs a file without a name, asks the index (which is opened again if it
//! has failed), and makes room for an object, which evicts if the file system is full. Only a
//! disk that takes all of that is trusted. A failed index still answers reads, so it is opened
//! again only after the file was written: on a read-only file system reads go on.

use crate::store::disk_store::DiskStore;
use crate::store::error::WriteError;
use crate::store::eviction::accounting::Displaces;
use crate::store::eviction::reserve;
use crate::store::files;
use crate::store::format::{INLINE_BYTES_MAX, charge};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How soon a disk in doubt is probed, and how often it is looked at.
const PACE_MIN: Duration = Duration::from_secs(1);
/// How seldom a disk is probed that does not come back.
const PACE_MAX: Duration = Duration::from_secs(4);
/// Bytes that are written.
const PROBE: [u8; 4096] = [0x6e; 4096];

/// Probes while the store is in doubt, until it or the process goes away.
pub(super) async fn probe_when_in_doubt(store: Weak<DiskStore>, stop: CancellationToken) {
    let mut pace = PACE_MIN;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pace) => {}
        }
        let Some(store) = store.upgrade() else { return };
        if !store.catalog.is_in_doubt() {
            pace = PACE_MIN;
            continue;
        }
        let own = Arc::clone(&store);
        let probed = store.lanes.background.blocking("store probe", move || probe(&own)).await;
        let Ok(is_back) = store.catalog.unless_panicked(probed) else { return };
        pace = if is_back == Some(true) { PACE_MIN } else { (pace * 2).min(PACE_MAX) };
    }
}

/// Tries what writing an object needs; true where all of it works, and writes are taken again.
pub(super) fn probe(store: &DiskStore) -> bool {
    let catalog = &store.catalog;
    let disk = &*catalog.label;
    match try_everything(store) {
        Ok(()) => {
            if catalog.health.succeeded() {
                tracing::info!(disk, "disk tier: takes writes again");
            }
            true
        }
        Err(error) => {
            catalog.count("probe");
            if catalog.health.refuse(&error, Instant::now()) {
                tracing::warn!(disk, %error, "disk tier: takes no writes for now");
            }
            false
        }
    }
}

fn try_everything(store: &DiskStore) -> Result<(), WriteError> {
    let catalog = &store.catalog;
    let failed = |source| WriteError::Io { operation: "probe", source };
    #[cfg(test)]
    catalog.faults.probe().map_err(failed)?;
    let new =
        reserve::evicting_once(catalog, PROBE.len() as u64, "probe", || catalog.folder.new_file())?;
    let write = || new.file().write_all_at(&PROBE, 0);
    files::write(new.file(), 0, PROBE.len(), write).map_err(failed)?;
    files::sync(new.file()).map_err(failed)?;
    drop(new);
    // Its answer is in the flag that says whether it is to be opened again.
    let _ = catalog.index.check();
    catalog.index.revive()?;
    store.reserve.reserve(catalog, charge(INLINE_BYTES_MAX), Displaces::Anything).map(drop)
}
