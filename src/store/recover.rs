//! What happens at open: files that lost their record are removed, then the eviction order is
//! loaded beside the first look-ups. Never lists a folder of `objects/`.

use super::Inner;
use super::error::{IndexError, WriteError};
use super::format;
use super::snapshot::{Schedule, Turn};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// Insertions read in one go.
const PAGE: usize = 4096;
/// Insertions that are put in the order in one hold of the account's lock.
const STEP: usize = 256;
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
                let mut records = record.into_iter().chain(index.part(hash)?);
                let is_held = records.any(|bytes| {
                    format::decode_head(&bytes).is_ok_and(|head| head.sequence == sequence)
                });
                if !is_held && let Err(error) = self.folder.remove_body(hash, sequence) {
                    tracing::warn!(object = %hash, %error, "orphaned body file cannot be removed");
                }
                change.drop_link(hash, sequence);
                #[cfg(test)]
                self.faults.reach("a removal is finished");
            }
            change.commit()?;
            #[cfg(test)]
            self.faults.reach("notes are cleared");
        }
    }

    /// Loads one page of the eviction order; false after the last one. The account says how it
    /// agrees with what changes meanwhile: nobody waits for a page.
    fn load_page(&self) -> Result<bool, IndexError> {
        let frontier = self.space.begin_page();
        let page = self.index.access().open()?.order_page(frontier.next, PAGE)?;
        let page: Vec<_> = page.into_iter().map(|(entry, _)| entry).collect();
        let old = page.partition_point(|entry| entry.sequence < frontier.first_new);
        let (old, new) = page.split_at_checked(old).unwrap_or((&page, &[]));
        for entries in old.chunks(STEP) {
            self.space.load(entries);
        }
        Ok(new.is_empty() && !old.is_empty())
    }
}

/// Loads the eviction order; blocking. Ends early when the store or the process goes away.
pub(super) fn load(store: &Weak<Inner>, stop: &CancellationToken) {
    if let Some(store) = store.upgrade()
        && let Err(error) = store.count_parts()
    {
        store.index_failed(&error);
    }
    while !stop.is_cancelled() {
        let Some(store) = store.upgrade() else { return };
        match store.load_page() {
            Ok(true) => continue,
            Ok(false) => {}
            Err(error) => {
                store.index_failed(&error);
                tracing::error!(
                    %error,
                    "the index of the disk tier cannot be read; eviction knows a part of it only"
                );
            }
        }
        store.arrange(stop);
        if !stop.is_cancelled() {
            store.space.loaded();
            store.finished_loading();
        }
        return;
    }
}

/// Makes changes safe from a power cut soon after they are made, and writes the eviction order down
/// now and then, until the store or the process goes away.
pub(super) async fn sync_often(store: Weak<Inner>, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(SYNC_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut schedule = Schedule::starting(Instant::now());
    let mut turn = Turn::Regular;
    while turn == Turn::Regular {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => turn = Turn::Last,
        }
        let Some(store) = store.upgrade() else { return };
        let tasks = store.tasks.clone();
        let work = move || {
            store.sync_now(turn);
            store.keep_order(&mut schedule, Instant::now(), turn);
            schedule
        };
        match tasks.blocking("store sync", work).await {
            Ok(kept) => schedule = kept,
            Err(_) => return,
        }
    }
}

impl Inner {
    /// Syncs what has changed: the trailers and names of body files, then the index. Keeps short
    /// what the next start has to read.
    pub(super) fn sync_now(self: &Arc<Self>, turn: Turn) {
        // At the end, also what an earlier start left in the journal.
        if !self.take_unsynced() && turn == Turn::Regular {
            return;
        }
        match self.folder.sync() {
            Ok(()) => self.health.synced(),
            Err(source) => {
                self.mark_unsynced();
                self.health.not_synced();
                self.write_failed(&WriteError::Io { operation: "sync", source });
            }
        }
        let access = self.index.access();
        let synced = access.open().and_then(|index| {
            index.sync()?;
            match turn {
                Turn::Regular => index.tidy_journal(),
                Turn::Last => index.empty_journal(),
            }
        });
        if let Err(error) = synced {
            self.mark_unsynced();
            self.index_failed(&error);
        }
    }
}
