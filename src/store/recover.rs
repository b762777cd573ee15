//! What happens at open: files that lost their record are removed, then the eviction order is
//! loaded beside the first look-ups. Never lists a folder of `objects/`. And the syncs of the
//! index: every few seconds, and at once for a purge that waits for it; purges that come together
//! wait for one sync ([`Syncs`]). The system takes what a failed sync of the files could not write
//! for written, so the bodies that it was for are read back after the next one that succeeds.

use super::Inner;
use super::error::{IndexError, WriteError};
use super::format;
use super::index::Open;
use super::pace::{Pacer, Stopped};
use super::snapshot::{Schedule, Turn};
use crate::object::KeyHash;
use crate::sync::{Mutex, watch};
use fjall::Slice;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Insertions read in one go.
const PAGE: usize = 4096;
/// Insertions that are put in the order in one hold of the account's lock.
const STEP: usize = 256;
/// Files without a record that are handled in one go at open.
const LINKS: usize = 4096;
/// How long to wait after the index could not be read on, at first and at most.
const LOAD_PAUSE_MIN: Duration = Duration::from_secs(1);
const LOAD_PAUSE_MAX: Duration = Duration::from_mins(1);
/// How old a change gets before it is safe from a power cut.
const SYNC_INTERVAL: Duration = Duration::from_secs(5);
/// How long a purge waits until what it changed is safe from a power cut. A disk that takes longer
/// has carried it out all the same.
const SYNC_PATIENCE: Duration = Duration::from_secs(2);

/// What is safe from a power cut, and the syncs that are waited for. As long as the store; a short
/// lock. Changes are counted by the index: a sync makes safe those that were made when it began,
/// and says so when it has succeeded.
#[derive(Debug)]
pub(super) struct Syncs {
    /// How many changes of the index are safe.
    indexed: AtomicU64,
    /// How many are safe with the files that they name.
    whole: AtomicU64,
    /// How many syncs were asked for.
    asked: AtomicU64,
    wanted: Arc<Notify>,
    /// The last of them that was given up.
    late: AtomicU64,
    /// The last of them that is done, and whether that failed.
    ended: watch::Sender<(u64, bool)>,
    bodies: Mutex<Bodies>,
}

/// Which body files are safe from a power cut.
#[derive(Debug)]
struct Bodies {
    /// The insertion that was next when the last sync that succeeded began. Bodies before it were
    /// written by then, but perhaps not their trailers.
    begun: u64,
    /// Bodies of insertions before this one are safe.
    safe: u64,
    /// From this one on a sync failed, which says nothing of what it was for.
    doubted: Option<u64>,
}

impl Bodies {
    /// A sync succeeded that began when the insertion `next` was next.
    fn synced(&mut self, next: u64) {
        self.safe = std::mem::replace(&mut self.begun, next);
    }

    fn sync_failed(&mut self) {
        self.doubted = Some(self.doubted.unwrap_or(u64::MAX).min(self.safe));
    }
}

impl Syncs {
    /// Of a store whose first insertion is this one. What an earlier process has left is as good as
    /// its files say, but its removals may not be safe.
    pub(super) fn from_insertion(first: u64) -> Self {
        Self {
            indexed: AtomicU64::new(0),
            whole: AtomicU64::new(1),
            asked: AtomicU64::default(),
            wanted: Arc::default(),
            late: AtomicU64::default(),
            ended: watch::Sender::default(),
            bodies: Mutex::new(Bodies { begun: first, safe: first, doubted: None }),
        }
    }
}

#[cfg(test)]
impl Syncs {
    /// How many were asked for.
    pub(super) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Acquire)
    }

    /// The last of them that is done, and whether that failed.
    pub(super) fn ended(&self) -> (u64, bool) {
        *self.ended.borrow()
    }
}

/// What was changed may be undone by a power cut: the sync failed.
#[derive(Debug)]
pub(super) struct Unsynced;

/// Files that could not be removed.
#[derive(Debug, Default)]
struct RemovalFailures {
    files: u64,
    /// Why the first of them could not.
    first: Option<io::Error>,
}

impl RemovalFailures {
    fn add(&mut self, error: io::Error) {
        self.files += 1;
        self.first.get_or_insert(error);
    }
}

impl Inner {
    /// Whether all that was changed in the index is safe from a power cut.
    pub(super) fn is_synced(&self) -> bool {
        self.syncs.indexed.load(Ordering::Acquire) >= self.index.changes()
    }

    /// Waits, for a while, until all that was changed in the index is safe from a power cut. Cancel
    /// safe.
    pub(super) async fn sync_soon(&self) -> Result<(), Unsynced> {
        if self.is_synced() {
            return Ok(());
        }
        let number = self.syncs.asked.fetch_add(1, Ordering::AcqRel) + 1;
        self.syncs.wanted.notify_one();
        let mut ended = self.syncs.ended.subscribe();
        if ended.borrow().0 < self.syncs.late.load(Ordering::Acquire) {
            // It hangs: one purge that waits for it is enough.
            return Ok(());
        }
        let waiting = ended.wait_for(|(last, _)| *last >= number);
        if let Ok(Ok(ended)) = tokio::time::timeout(SYNC_PATIENCE, waiting).await {
            let (_, has_failed) = *ended;
            return if has_failed { Err(Unsynced) } else { Ok(()) };
        }
        self.syncs.late.fetch_max(number, Ordering::AcqRel);
        let disk = &*self.label;
        tracing::warn!(disk, "disk tier: purges do not wait for a slow sync");
        Ok(())
    }

    /// Removes the files of insertions that were begun or dropped and never finished. The note of
    /// a file that cannot be removed stays for the next start.
    pub(super) fn finish_links(&self) -> Result<(), IndexError> {
        let access = self.index.access();
        let index = access.open()?;
        let (mut after, mut failures) = (None, RemovalFailures::default());
        loop {
            let links = index.links_page(after, LINKS)?;
            let Some(last) = links.last() else { break };
            after = Some(*last);
            let mut change = index.change();
            for (hash, sequence) in links {
                match self.finish_link(index, hash, sequence)? {
                    Ok(()) => change.drop_link(hash, sequence),
                    Err(error) => failures.add(error),
                }
                #[cfg(test)]
                self.faults.reach("a removal is finished");
            }
            change.commit()?;
            #[cfg(test)]
            self.faults.reach("notes are cleared");
        }
        if let Some(error) = failures.first {
            let (disk, files) = (&*self.label, failures.files);
            self.metrics.store_errors.with_label_values(&[disk, "remove"]).inc_by(files);
            tracing::warn!(disk, files, %error, "disk tier: orphaned files stay until restart");
        }
        Ok(())
    }

    /// Removes the file of an insertion, unless a record leads to it.
    fn finish_link(
        &self,
        index: &Open,
        hash: KeyHash,
        sequence: u64,
    ) -> Result<io::Result<()>, IndexError> {
        let record = index.record(hash)?;
        let mut records = record.into_iter().chain(index.part(hash)?);
        let is_held = records
            .any(|bytes| format::decode_head(&bytes).is_ok_and(|head| head.sequence == sequence));
        Ok(if is_held { Ok(()) } else { self.folder.remove_body(hash, sequence) })
    }

    /// Loads one page of the eviction order; false after the last one. The account says how it
    /// agrees with what changes meanwhile: nobody waits for a page.
    fn load_page(&self) -> Result<bool, IndexError> {
        let frontier = self.space.begin_page();
        #[cfg(test)]
        self.faults.meet("the order is to be read").map_err(fjall::Error::from)?;
        let page = self.index.access().open()?.order_page(frontier.next, PAGE)?;
        let page: Vec<_> = page.into_iter().map(|(entry, _)| entry).collect();
        let old = page.partition_point(|entry| entry.sequence < frontier.first_new);
        let (old, new) = page.split_at_checked(old).unwrap_or((&page, &[]));
        for entries in old.chunks(STEP) {
            self.space.load(entries);
        }
        Ok(new.is_empty() && !old.is_empty())
    }

    /// The order was not read to its end; that is tried again after `pause`.
    fn not_loaded(&self, error: &IndexError, pause: Duration) {
        self.index_failed(error);
        let disk = &*self.label;
        if pause == LOAD_PAUSE_MIN {
            tracing::error!(disk, %error, "disk tier: the eviction order cannot be read; retrying");
        } else {
            tracing::debug!(disk, %error, "disk tier: the eviction order cannot be read yet");
        }
    }
}

/// Loads the eviction order, and tries again after each error: what was not read is there all the
/// same, and only an order that is whole keeps the limit. Ends early when the disk goes out or the
/// process stops.
pub(super) async fn load(store: Weak<Inner>, stop: CancellationToken) {
    let Some(tasks) = store.upgrade().map(|store| store.background.clone()) else { return };
    let mut pause = LOAD_PAUSE_MIN;
    loop {
        let (weak, own) = (store.clone(), stop.clone());
        let loading = tasks.blocking("store load", move || load_on(&weak, &own));
        let loaded = loading.await;
        let Some(store) = store.upgrade() else { return };
        match store.unless_panicked(loaded) {
            Ok(Some(Ok(()))) | Err(_) => return,
            Ok(Some(Err(error))) => store.not_loaded(&error, pause),
            Ok(None) => {}
        }
        drop(store);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LOAD_PAUSE_MAX);
    }
}

/// Loads what is not loaded yet. Blocking. An order that is whole counts, whether or not the parts
/// could be counted, which is for a gauge.
fn load_on(store: &Weak<Inner>, stop: &CancellationToken) -> Result<(), IndexError> {
    let counted = store.upgrade().map_or(Ok(()), |store| store.count_parts());
    while !stop.is_cancelled() {
        let Some(store) = store.upgrade() else { break };
        if store.space.usage().is_loaded {
            break;
        }
        if store.load_page()? {
            continue;
        }
        store.arrange(stop);
        if !stop.is_cancelled() {
            store.space.loaded();
            store.keep_ahead(0);
            store.finished_loading();
        }
    }
    counted
}

/// Why the index is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    /// It is time again.
    Tick,
    /// A purge waits for it.
    Wanted,
    /// The process stops.
    Stop,
}

/// Makes changes safe from a power cut soon after they are made, and writes the eviction order down
/// now and then, until the store or the process goes away.
pub(super) async fn sync_often(store: Weak<Inner>, stop: CancellationToken) {
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
        let asked = store.syncs.asked.load(Ordering::Acquire);
        let own = Arc::clone(&store);
        let sync = move || own.sync_for(wake, asked, schedule);
        let synced = store.background.blocking("store sync", sync).await;
        schedule = match store.unless_panicked(synced) {
            Ok(Some(kept)) => kept,
            Ok(None) => {
                store.syncs.ended.send_replace((asked, true));
                Schedule::starting(Instant::now())
            }
            Err(_) => return,
        }
    }
}

impl Inner {
    /// Syncs; so many syncs had been asked for before.
    fn sync_for(self: &Arc<Self>, wake: Wake, asked: u64, mut schedule: Schedule) -> Schedule {
        let is_synced = self.synced_for(wake, asked);
        self.syncs.ended.send_replace((asked, !is_synced));
        match wake {
            Wake::Tick => self.keep_order(&mut schedule, Instant::now(), Turn::Regular),
            Wake::Stop => self.keep_order(&mut schedule, Instant::now(), Turn::Last),
            Wake::Wanted => {}
        }
        schedule
    }

    /// Syncs; whether that was done of what the purges need that asked, so many by now: the index
    /// alone, whatever woke it.
    pub(super) fn synced_for(self: &Arc<Self>, wake: Wake, asked: u64) -> bool {
        let made = self.index.changes();
        let is_all_synced = match wake {
            Wake::Tick => self.sync_now(Turn::Regular),
            Wake::Stop => self.sync_now(Turn::Last),
            Wake::Wanted => return self.sync_index().is_ok(),
        };
        if self.syncs.ended.borrow().0 >= asked {
            return is_all_synced;
        }
        // Without a change since the start nothing was synced, and what was removed before it may
        // not be safe.
        let is_index_synced = self.syncs.indexed.load(Ordering::Acquire) >= made;
        (is_all_synced && is_index_synced) || self.sync_index().is_ok()
    }

    /// Syncs what has changed: the trailers and names of body files, then the index. Keeps short
    /// what the next start has to read. Whether that was done; an error is noted.
    pub(super) fn sync_now(self: &Arc<Self>, turn: Turn) -> bool {
        let made = self.index.changes();
        // At the end, also what an earlier start left in the journal.
        if self.syncs.whole.load(Ordering::Acquire) >= made && turn == Turn::Regular {
            return true;
        }
        #[cfg(test)]
        self.faults.reach("the files are to be synced");
        let synced = match self.sync_files(turn) {
            Ok(()) => self.sync_whole_index(turn),
            Err(error) => {
                self.health.not_synced();
                self.write_failed(&error);
                Err(())
            }
        };
        if synced.is_ok() {
            self.health.synced();
            self.syncs.indexed.fetch_max(made, Ordering::AcqRel);
            self.syncs.whole.fetch_max(made, Ordering::AcqRel);
        }
        synced.is_ok()
    }

    /// Syncs the trailers and names of body files. Blocking.
    fn sync_files(&self, turn: Turn) -> Result<(), WriteError> {
        let failed = |source| WriteError::Io { operation: "sync", source };
        let next = self.seat.insertions.load(Ordering::Acquire);
        let sync = || {
            #[cfg(test)]
            self.faults.meet("the file system is to sync")?;
            self.folder.sync()
        };
        sync().inspect_err(|_| self.syncs.bodies.lock().sync_failed()).map_err(failed)?;
        self.syncs.bodies.lock().synced(next);
        let doubted = self.syncs.bodies.lock().doubted;
        // A process that stops does not wait for it: readers compare what comes from the disk.
        let Some(from) = doubted.filter(|_| turn == Turn::Regular) else { return Ok(()) };
        self.read_back(from)?;
        self.syncs.bodies.lock().doubted = None;
        Ok(())
    }

    /// Reads the bodies of all insertions from this one on back from the disk, and drops those that
    /// it does not have: a sync failed, and the one that succeeded since was not for them.
    /// Blocking.
    fn read_back(&self, mut from: u64) -> Result<(), WriteError> {
        let failed =
            |why: String| WriteError::Io { operation: "sync", source: io::Error::other(why) };
        let mut pacer = Pacer::new(u64::MAX, self.leaving.clone());
        loop {
            let page = self.index.access().open()?.order_page(from, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            let next = last.sequence.saturating_add(1);
            for (entry, hash) in page {
                let record = self.index.access().open()?.record(hash)?;
                let is_meant = |record: &Slice| {
                    let head = format::decode_head(record);
                    head.is_ok_and(|h| h.sequence == entry.sequence && h.place.is_file())
                };
                let Some(record) = record.filter(is_meant) else { continue };
                let checked = self.check_object(hash, &record, &mut pacer);
                let checked = checked.map_err(|Stopped| failed("it was stopped".to_owned()))?;
                match &checked.wrong {
                    None => {}
                    Some((fault, why)) if fault.is_of_object() => {
                        self.drop_checked(hash, &checked, why);
                    }
                    Some((_, why)) => return Err(failed(why.clone())),
                }
            }
            from = next;
            self.syncs.bodies.lock().doubted = Some(from);
        }
    }

    /// Syncs the index, and keeps its journal short. Blocking; an error is noted.
    fn sync_whole_index(&self, turn: Turn) -> Result<(), ()> {
        let access = self.index.access();
        let synced = access.open().and_then(|index| {
            self.sync_engine(index)?;
            match turn {
                Turn::Regular => index.tidy_journal(),
                Turn::Last => index.empty_journal(),
            }
        });
        synced.map_err(|error| self.index_failed(&error))
    }

    /// Syncs the index alone. Blocking.
    pub(super) fn sync_index(&self) -> Result<(), IndexError> {
        let made = self.index.changes();
        #[cfg(test)]
        self.faults.reach("the index is to be synced");
        let access = self.index.access();
        let synced = access.open().and_then(|index| self.sync_engine(index));
        synced.inspect_err(|error| self.index_failed(error))?;
        self.syncs.indexed.fetch_max(made, Ordering::AcqRel);
        Ok(())
    }

    #[cfg_attr(not(test), expect(clippy::unused_self, reason = "tests let it fail"))]
    fn sync_engine(&self, index: &Open) -> Result<(), IndexError> {
        #[cfg(test)]
        self.faults.meet("the engine is to sync").map_err(fjall::Error::from)?;
        index.sync()
    }
}
