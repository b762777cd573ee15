//! Checking a whole store, at work or at rest. At work: one check at a time beside the service, at
//! the scrubber's rate; asked for and looked at through the admin interface. At rest: on a folder
//! that no process holds, as fast as the disk goes, and the only way back from an index that cannot
//! be opened. Blocking.

use crate::config::Disk;
use crate::metrics::Metrics;
use crate::store::catalog::Catalog;
use crate::store::check::audit::{Audit, AuditError, Traffic};
use crate::store::check::pace::ReadPacer;
use crate::store::check::rebuild::{self, NewIndex, RebuildError};
use crate::store::check::report::{CheckFault, CheckProblem, CheckReport, CheckStage, Mode};
use crate::store::disk_store::DiskStore;
use crate::store::error::OpenError;
use crate::store::folder::Folder;
use crate::store::index::Index;
use crate::store::tier_share::TierShare;
use crate::sync::Mutex;
use crate::tasks::Tasks;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Why a folder cannot be checked.
#[derive(Debug, thiserror::Error)]
pub enum FsckError {
    /// It cannot be opened, or is in use.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// There is no new index.
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
    /// The counters cannot be made.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
}

/// Whether a check began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckStart {
    /// It did.
    Now,
    /// Another goes on; there is one at a time.
    Already,
}

/// Checks the store in `folder`, which no process may hold. `report` can be looked at meanwhile.
/// In [`Mode::Report`] nothing is changed but what the index does to itself when it is opened.
pub fn fsck(folder: &Path, mode: Mode, report: &Mutex<CheckReport>) -> Result<(), FsckError> {
    report.lock().stage = CheckStage::Running;
    let checked = check_folder(folder, mode, report);
    let is_whole = matches!(checked, Ok(true));
    report.lock().stage = if is_whole { CheckStage::Ended } else { CheckStage::BrokenOff };
    checked.map(|_| ())
}

fn check_folder(path: &Path, mode: Mode, report: &Mutex<CheckReport>) -> Result<bool, FsckError> {
    let folder = Folder::open_existing(path)?;
    let opened = open_index(&folder);
    let index = match (opened, mode) {
        (Ok(index), _) => index,
        (Err(error), _) if !error.is_damaged_index() => return Err(error.into()),
        (Err(error), Mode::Report) => {
            report.lock().add(index_problem(error.to_string()));
            return Ok(false);
        }
        (Err(error), Mode::Repair) => rebuilt(&folder, report, &error.to_string())?,
    };
    let metrics = Metrics::new()?;
    let disk = Disk::unscrubbed(path.to_owned(), u64::MAX);
    let assemble = |folder, index| {
        // No fill fetches what is damaged.
        let tier = TierShare::alone(mpsc::channel(1).0);
        DiskStore::assemble(&disk, tier, folder, index, metrics.clone(), &Tasks::new())
    };
    let store = assemble(folder, index)?;
    let error = match audit(&store.catalog, mode, report) {
        Ok(()) => return Ok(true),
        Err(error) => error,
    };
    let is_damage = match &error {
        AuditError::Damaged(_) => true,
        AuditError::Index(error) => error.is_damage(),
        AuditError::Stopped | AuditError::Folder(_) => false,
    };
    let (true, Mode::Repair, Some(store)) = (is_damage, mode, Arc::into_inner(store)) else {
        report.lock().add(index_problem(error.to_string()));
        return Ok(false);
    };
    // It opens and cannot be read: a new one, and everything once more.
    let DiskStore { catalog: Catalog { folder, index, .. }, .. } = store;
    drop(index);
    let index = rebuilt(&folder, report, &error.to_string())?;
    let store = assemble(folder, index)?;
    let again = audit(&store.catalog, mode, report);
    if let Err(error) = &again {
        report.lock().add(index_problem(error.to_string()));
    }
    Ok(again.is_ok())
}

fn audit(catalog: &Catalog, mode: Mode, report: &Mutex<CheckReport>) -> Result<(), AuditError> {
    let pacer = ReadPacer::new(u64::MAX, CancellationToken::new());
    let traffic = Traffic::None;
    Audit { catalog, mode, traffic, pacer, report }.run()
}

fn open_index(folder: &Folder) -> Result<Index, OpenError> {
    if folder.is_index_lost()? {
        return Err(OpenError::IndexLost { path: folder.path().to_owned() });
    }
    Index::open(&folder.index_path())
}

fn rebuilt(folder: &Folder, report: &Mutex<CheckReport>, why: &str) -> Result<Index, FsckError> {
    let NewIndex { index, objects, aside } = rebuild::rebuild(folder)?;
    report.lock().rebuilt += objects;
    let aside = aside.map_or_else(String::new, |to| format!("; it is {} now", to.display()));
    let problem = index_problem(format!("{why}{aside}"));
    report.lock().add(CheckProblem { is_repaired: true, ..problem });
    Ok(index)
}

fn index_problem(detail: String) -> CheckProblem {
    CheckProblem { kind: CheckFault::Index, what: "index".to_owned(), detail, is_repaired: false }
}

/// Begins to check everything beside the service, at `rate` bytes a second or else at the
/// scrubber's; needs a runtime.
pub(in crate::store) fn begin_check(
    store: &Arc<DiskStore>,
    mode: Mode,
    rate: Option<u64>,
) -> CheckStart {
    let report = Arc::clone(&store.checks.report);
    {
        let mut report = report.lock();
        if report.stage == CheckStage::Running {
            return CheckStart::Already;
        }
        *report = CheckReport { stage: CheckStage::Running, ..CheckReport::default() };
    }
    let rate = rate.unwrap_or(store.checks.rate);
    let (weak, tasks) = (Arc::downgrade(store), store.lanes.background.clone());
    let stop = store.lanes.leaving.child_token();
    *store.checks.stop.lock() = stop.clone();
    store.lanes.background.spawn("store check", async move {
        let work = move || {
            let Some(store) = weak.upgrade() else { return };
            check_running(&store, mode, ReadPacer::new(rate, stop));
        };
        if tasks.blocking("store check", work).await.is_err() {
            let mut report = report.lock();
            report.stage = CheckStage::BrokenOff;
        }
    });
    CheckStart::Now
}

fn check_running(store: &DiskStore, mode: Mode, pacer: ReadPacer) {
    let (catalog, report) = (&store.catalog, &*store.checks.report);
    let traffic = Traffic::Open;
    let ended = Audit { catalog, mode, traffic, pacer, report }.run();
    let mut report = report.lock();
    match ended {
        Ok(()) => report.stage = CheckStage::Ended,
        Err(error) => {
            report.stage = CheckStage::BrokenOff;
            report.add(index_problem(error.to_string()));
        }
    }
}
