//! What happens at open: files that lost their record are removed, then the eviction order is
//! loaded beside the first look-ups. Never lists a folder of `objects/`.

use super::Inner;
use super::error::{IndexError, WriteError};
use super::eviction::Entry;
use super::format;
use crate::object::KeyHash;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Records loaded in one go, while no change is made.
const PAGE: usize = 1024;
/// Files without a record that are handled in one go at open.
const LINKS: usize = 4096;
/// How old a change gets before it is safe from a power cut.
const SYNC_INTERVAL: Duration = Duration::from_secs(5);

impl Inner {
    /// Removes the files of insertions that were begun or dropped and never finished.
    pub(super) fn finish_links(&self) -> Result<(), IndexError> {
        let access = self.index.access();
        let index = access.open()?;
        loop {
            let links = index.links(LINKS)?;
            if links.is_empty() {
                return Ok(());
            }
            let mut change = index.change();
            for (hash, sequence) in links {
                let record = index.record(hash)?;
                let is_held = record
                    .and_then(|bytes| format::decode_head(&bytes).ok())
                    .is_some_and(|head| head.sequence == sequence);
                if !is_held && let Err(error) = self.folder.remove_body(hash, sequence) {
                    tracing::warn!(object = %hash, %error, "orphaned body file cannot be removed");
                }
                change.drop_link(hash, sequence);
            }
            change.commit()?;
        }
    }

    /// Loads one page of the eviction order; the last hash of it, `None` after the last page.
    fn load_page(&self, after: Option<KeyHash>) -> Result<Option<KeyHash>, IndexError> {
        // No change between reading a record and counting it.
        let _changes = self.changes.write();
        let access = self.index.access();
        let page = access.open()?.page(after, PAGE)?;
        let entries = page.iter().filter_map(|(hash, bytes)| {
            let head = format::decode_head(bytes).ok()?;
            Some(Entry { hash: *hash, sequence: head.sequence, charge: head.charge() })
        });
        self.space.load(entries);
        let last = page.last().map(|(hash, _)| *hash);
        if last.is_none() {
            self.space.loaded();
        }
        Ok(last)
    }
}

/// Loads the eviction order; blocking. Ends early when the store or the process goes away.
pub(super) fn load(store: &Weak<Inner>, stop: &CancellationToken) {
    let mut after = None;
    while !stop.is_cancelled() {
        let Some(store) = store.upgrade() else { return };
        match store.load_page(after) {
            Ok(Some(last)) => after = Some(last),
            Ok(None) => {
                store.finished_loading();
                return;
            }
            Err(error) => {
                store.index_failed(&error);
                tracing::error!(
                    %error,
                    "the index of the disk tier cannot be read; eviction knows a part of it only"
                );
                store.space.loaded();
                store.space.is_not_whole();
                store.finished_loading();
                return;
            }
        }
    }
}

/// Makes changes safe from a power cut soon after they are made, until the store or the process
/// goes away.
pub(super) async fn sync_often(store: Weak<Inner>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(SYNC_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut is_last = false;
    while !is_last {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => is_last = true,
        }
        let Some(store) = store.upgrade() else { return };
        let tasks = store.tasks.clone();
        let work = move || store.sync_now();
        if tasks.blocking("store sync", work).await.is_err() {
            return;
        }
    }
}

impl Inner {
    /// Syncs what has changed: the trailers and names of body files, then the index.
    pub(super) fn sync_now(self: &Arc<Self>) {
        if !self.take_unsynced() {
            return;
        }
        if let Err(source) = self.folder.sync() {
            self.write_failed(&WriteError::Io { operation: "sync", source });
        }
        let synced = self.index.access().open().and_then(super::index::Open::sync);
        if let Err(error) = synced {
            self.index_failed(&error);
        }
    }
}
