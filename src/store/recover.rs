//! What happens at open: files that lost their record are removed, then the eviction order is
//! loaded beside the first look-ups. Never lists a folder of `objects/`.

use crate::object::KeyHash;
use crate::store::catalog::Catalog;
use crate::store::disk_store::DiskStore;
use crate::store::error::IndexError;
use crate::store::eviction::snapshot;
use crate::store::format;
use crate::store::index::Keyspaces;
use crate::store::part;
use std::io;
use std::sync::Weak;
use std::time::Duration;
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

/// Removes the files of insertions that were begun or dropped and never finished. The note of
/// a file that cannot be removed stays for the next start.
pub(super) fn finish_links(catalog: &Catalog) -> Result<(), IndexError> {
    let access = catalog.index.access();
    let index = access.open()?;
    let (mut after, mut failures) = (None, RemovalFailures::default());
    loop {
        let links = index.links_page(after, LINKS)?;
        let Some(last) = links.last() else { break };
        after = Some(*last);
        let mut change = index.change();
        for (hash, sequence) in links {
            match finish_link(catalog, index, hash, sequence)? {
                Ok(()) => change.drop_link(hash, sequence),
                Err(error) => failures.add(error),
            }
            #[cfg(test)]
            catalog.faults.reach("a removal is finished");
        }
        change.commit()?;
        #[cfg(test)]
        catalog.faults.reach("notes are cleared");
    }
    if let Some(error) = failures.first {
        let (disk, files) = (&*catalog.label, failures.files);
        catalog.metrics.store_errors.with_label_values(&[disk, "remove"]).inc_by(files);
        tracing::warn!(disk, files, %error, "disk tier: orphaned files stay until restart");
    }
    Ok(())
}

/// Removes the file of an insertion, unless a record leads to it.
fn finish_link(
    catalog: &Catalog,
    index: &Keyspaces,
    hash: KeyHash,
    sequence: u64,
) -> Result<io::Result<()>, IndexError> {
    let record = index.record(hash)?;
    let mut records = record.into_iter().chain(index.part(hash)?);
    let is_held = records
        .any(|bytes| format::decode_head(&bytes).is_ok_and(|head| head.sequence == sequence));
    Ok(if is_held { Ok(()) } else { catalog.folder.remove_body(hash, sequence) })
}

/// Loads one page of the eviction order; false after the last one. The account says how it
/// agrees with what changes meanwhile: no change waits for a page.
fn load_page(catalog: &Catalog) -> Result<bool, IndexError> {
    let frontier = catalog.accounting.begin_page();
    #[cfg(test)]
    catalog.faults.meet("the order is to be read").map_err(fjall::Error::from)?;
    let page = catalog.index.access().open()?.order_page(frontier.next, PAGE)?;
    let page: Vec<_> = page.into_iter().map(|(entry, _)| entry).collect();
    let old = page.partition_point(|entry| entry.sequence < frontier.first_new);
    let (old, new) = page.split_at_checked(old).unwrap_or((&page, &[]));
    for entries in old.chunks(STEP) {
        catalog.accounting.load(entries);
    }
    Ok(new.is_empty() && !old.is_empty())
}

/// The order was not read to its end; that is tried again after `pause`.
fn not_loaded(catalog: &Catalog, error: &IndexError, pause: Duration) {
    catalog.index_failed(error);
    let disk = &*catalog.label;
    if pause == LOAD_PAUSE_MIN {
        tracing::error!(disk, %error, "disk tier: the eviction order cannot be read; retrying");
    } else {
        tracing::debug!(disk, %error, "disk tier: the eviction order cannot be read yet");
    }
}

/// Loads the eviction order, and tries again after each error: what was not read is there all the
/// same, and only an order that is whole keeps the limit. Ends early when the disk goes out or the
/// process stops.
pub(super) async fn load(store: Weak<DiskStore>, stop: CancellationToken) {
    let Some(tasks) = store.upgrade().map(|store| store.lanes.background.clone()) else { return };
    let mut pause = LOAD_PAUSE_MIN;
    loop {
        let (weak, own) = (store.clone(), stop.clone());
        let loading = tasks.blocking("store load", move || load_on(&weak, &own));
        let loaded = loading.await;
        let Some(store) = store.upgrade() else { return };
        match store.catalog.unless_panicked(loaded) {
            Ok(Some(Ok(()))) | Err(_) => return,
            Ok(Some(Err(error))) => not_loaded(&store.catalog, &error, pause),
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
fn load_on(store: &Weak<DiskStore>, stop: &CancellationToken) -> Result<(), IndexError> {
    let counted = store.upgrade().map_or(Ok(()), |store| part::count_parts(&store.catalog, stop));
    while !stop.is_cancelled() {
        let Some(store) = store.upgrade() else { break };
        if store.catalog.accounting.usage().is_loaded {
            break;
        }
        if load_page(&store.catalog)? {
            continue;
        }
        snapshot::arrange(&store.catalog, stop);
        if !stop.is_cancelled() {
            store.catalog.accounting.loaded();
            store.reserve.refill(&store.catalog, 0);
            store.has_loaded.send_replace(true);
        }
    }
    counted
}
