//! The scrubber: reads every stored object back from the disk within a time that an operator
//! sets, evenly spread and below a number of bytes a second, and drops what is damaged before
//! a request asks for it. One task per store, as long as it; no lock from one object to the next.
//!
//! Objects are read in the order of their hashes. Hashes are uniform, so the place of a hash among
//! all hashes is the moment of the pass at which its object is due, whatever comes and goes
//! meanwhile, and no list of what was read is needed. Position and time spent are kept in the index
//! and survive a restart; time while the process was down does not count. At the end of a pass it
//! waits for the beginning of the next one.

use crate::clock::{Clock, Timestamp};
use crate::object::{Key, KeyHash};
use crate::store::catalog::Catalog;
use crate::store::check::object::{self, ObjectCheck};
use crate::store::check::pace::{self, ReadPacer, Stopped};
use crate::store::disk_store::DiskStore;
use crate::store::error::IndexError;
use crate::store::format::{self, FormatError};
use crate::store::index::Keyspaces;
use crate::tasks::{BlockingError, Tasks};
use serde::{Deserialize, Serialize};
use std::sync::Weak;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Records that are read in one go.
const PAGE: usize = 64;
/// How often the position is written down.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long to wait after the index did not answer.
const PAUSE: Duration = Duration::from_mins(1);

/// How far the scrubber is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct ScrubPosition {
    /// The last object that was read in this pass.
    after: Option<[u8; 16]>,
    /// Milliseconds that the pass has taken.
    elapsed_millis: u64,
    /// When the last pass ended.
    last_pass: Option<Timestamp>,
}

impl ScrubPosition {
    fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        postcard::from_bytes(format::versioned(bytes)?).map_err(|_| FormatError::Encoding)
    }

    /// Adds the time since `since` to that of the pass; the moment until which that is.
    fn count(&mut self, since: Instant) -> Instant {
        let now = Instant::now();
        let millis = now.saturating_duration_since(since).as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        self.elapsed_millis = self.elapsed_millis.saturating_add(millis);
        now
    }

    fn elapsed(&self, since: Instant) -> Duration {
        Duration::from_millis(self.elapsed_millis).saturating_add(since.elapsed())
    }
}

/// What the scrubber works by.
#[derive(Debug)]
pub(in crate::store) struct Scrubber {
    /// How long a pass takes.
    pub(in crate::store) pass: Duration,
    /// Bytes a second.
    pub(in crate::store) rate: u64,
    /// When to stop.
    pub(in crate::store) stop: CancellationToken,
}

/// Scrubs until the store or the process goes away.
pub(in crate::store) async fn run(store: Weak<DiskStore>, scrubber: Scrubber) {
    let Some(tasks) = store.upgrade().map(|store| store.lanes.background.clone()) else { return };
    let mut pacer = Some(ReadPacer::new(scrubber.rate, scrubber.stop.clone()));
    let weak = store.clone();
    let loaded = tasks.blocking("store scrub", move || load(&weak)).await;
    let Ok(loaded) = unless_panicked(&store, loaded) else { return };
    let Some(mut state) = loaded.unwrap_or_else(|| Some(ScrubPosition::default())) else { return };
    let mut since = Instant::now();
    loop {
        let (weak, after) = (store.clone(), state.after);
        let page = tasks.blocking("store scrub", move || page_after(&weak, after)).await;
        let Ok(page) = unless_panicked(&store, page) else { return };
        let Some(page) = page.unwrap_or(Some(Err(IndexError::Panic))) else { return };
        let Ok(page) = page else {
            if !scrubber.sleep(PAUSE).await {
                return;
            }
            continue;
        };
        let is_last = page.is_empty();
        for hash in page {
            let due = pace::due(hash, scrubber.pass);
            if !scrubber.sleep(due.saturating_sub(state.elapsed(since))).await {
                break;
            }
            let (weak, Some(mut own)) = (store.clone(), pacer.take()) else { return };
            let work = move || (scrub(&weak, hash, &mut own), own);
            let ended = tasks.blocking("store scrub", work).await;
            match unless_panicked(&store, ended) {
                Ok(Some((Ok(()), own))) => pacer = Some(own),
                Ok(Some((Err(Stopped), _))) => break,
                // Over this object: the next one is looked at.
                Ok(None) => pacer = Some(ReadPacer::new(scrubber.rate, scrubber.stop.clone())),
                Err(Stopped) => return,
            }
            state.after = Some(hash.0);
            if since.elapsed() > SAVE_INTERVAL {
                since = state.count(since);
                save(&store, &tasks, state).await;
            }
        }
        if is_last {
            if !scrubber.sleep(scrubber.pass.saturating_sub(state.elapsed(since))).await {
                return;
            }
            state =
                ScrubPosition { last_pass: Some(Clock::System.wall()), ..ScrubPosition::default() };
            since = Instant::now();
        } else {
            since = state.count(since);
        }
        save(&store, &tasks, state).await;
        if scrubber.stop.is_cancelled() {
            return;
        }
    }
}

/// What a job has brought; none if it panicked, which is noted. Stopped if the store or the runtime
/// goes away.
fn unless_panicked<T>(
    store: &Weak<DiskStore>,
    ended: Result<T, BlockingError>,
) -> Result<Option<T>, Stopped> {
    let store = store.upgrade().ok_or(Stopped)?;
    store.catalog.unless_panicked(ended).map_err(|_| Stopped)
}

impl Scrubber {
    /// Waits; false when it is time to stop.
    async fn sleep(&self, duration: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => false,
            () = tokio::time::sleep(duration) => true,
        }
    }
}

/// The position of the scrubber; `None` if the store is gone. Blocking.
fn load(store: &Weak<DiskStore>) -> Option<ScrubPosition> {
    let store = store.upgrade()?;
    let access = store.catalog.index.access();
    let bytes = access.open().and_then(Keyspaces::scrubbed).ok().flatten();
    let state: ScrubPosition =
        bytes.and_then(|bytes| ScrubPosition::decode(&bytes).ok()).unwrap_or_default();
    show_scrubbed(&store.catalog, &state);
    Some(state)
}

/// The next objects; `None` if the store is gone. Blocking.
fn page_after(
    store: &Weak<DiskStore>,
    after: Option<[u8; 16]>,
) -> Option<Result<Vec<KeyHash>, IndexError>> {
    let store = store.upgrade()?;
    let access = store.catalog.index.access();
    let page = access.open().and_then(|index| index.page(after.map(KeyHash), PAGE));
    Some(page.map(|page| page.into_iter().map(|(hash, _)| hash).collect()))
}

/// Notes the position of the scrubber. If that fails, it is noted with the next page.
async fn save(store: &Weak<DiskStore>, tasks: &Tasks, state: ScrubPosition) {
    let weak = store.clone();
    if let Err(error) = tasks.blocking("store scrub", move || write_down(&weak, &state)).await {
        tracing::debug!(%error, "the scrubber's place is noted with the next page");
    }
}

fn write_down(store: &Weak<DiskStore>, state: &ScrubPosition) {
    let Some(store) = store.upgrade() else { return };
    show_scrubbed(&store.catalog, state);
    let access = store.catalog.index.access();
    let Ok(index) = access.open() else { return };
    let Ok(bytes) = format::encode(state) else { return };
    let mut change = index.change();
    change.set_scrubbed(&bytes);
    if let Err(error) = change.commit() {
        store.catalog.index_failed(&error);
    }
}

/// Reads the object back that has this hash now, which is later than when it was listed.
fn scrub(store: &Weak<DiskStore>, hash: KeyHash, pacer: &mut ReadPacer) -> Result<(), Stopped> {
    let store = store.upgrade().ok_or(Stopped)?;
    let record = store.catalog.index.access().open().and_then(|index| index.record(hash));
    let Ok(Some(record)) = record else { return Ok(()) };
    let checked = object::check_object(&store.catalog, hash, &record, pacer)?;
    object::count_checked(&store.catalog, "scrub", &checked);
    drop_scrubbed(&store.catalog, hash, &checked);
    Ok(())
}

fn drop_scrubbed(catalog: &Catalog, hash: KeyHash, checked: &ObjectCheck) {
    if checked.is_unserved {
        catalog.drop_unserved(hash);
    }
    let Some((fault, why)) = &checked.wrong else { return };
    if !object::is_still(catalog, hash, checked) {
        return;
    }
    let file = checked.head.map(|head| catalog.folder.body_path(hash, head.sequence));
    let path = checked.key.as_ref().map(Key::path);
    let has_gone = fault.is_of_object() && object::drop_checked(catalog, hash, checked, why);
    if has_gone || !fault.is_of_object() {
        let kind = fault.as_str();
        catalog.metrics.check_faults.with_label_values(&["scrub", kind]).inc();
        tracing::warn!(kind, path, ?file, why, "the scrubber found a damaged object");
    }
}

fn show_scrubbed(catalog: &Catalog, state: &ScrubPosition) {
    let progress = state.after.map_or(0.0, |after| pace::fraction(KeyHash(after)));
    let disk = &[&*catalog.label];
    catalog.metrics.scrub_progress.with_label_values(disk).set(progress);
    let last_pass = state.last_pass.map_or(0, Timestamp::secs);
    catalog.metrics.scrub_last_pass.with_label_values(disk).set(last_pass);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_golden_state_stays_readable() {
        let state = ScrubPosition {
            after: Some([9; 16]),
            elapsed_millis: 300,
            last_pass: Some(Timestamp::from_secs(1)),
        };
        let bytes = format::encode(&state).unwrap();
        let golden = [&[3, 1][..], &[9; 16], &[0xac, 2], &[1, 0xd0, 0x0f]].concat();
        assert_eq!(bytes, golden);
        assert_eq!(ScrubPosition::decode(&golden), Ok(state));
        assert!(ScrubPosition::decode(&[1, 0]).is_err());
    }
}
