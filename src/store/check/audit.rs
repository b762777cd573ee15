//! The check of a whole store: every record with its body, every part, every place in the eviction
//! order (see `entries`), every claim, every small body without a record, every file that no record
//! names, the totals. One runs at a time over an open store, or
//! over a folder that no process holds. Blocking; holds no lock from one object to the next.
//!
//! On a running store everything may change under it. So whatever looks wrong is looked at again
//! under the stripe of its key before it is said or touched, or is dropped as the insertion that it
//! was, which never comes back.

use crate::object::KeyHash;
use crate::store::catalog::{Catalog, SEQUENCE_GAP};
use crate::store::check::object::{self, ObjectCheck};
use crate::store::check::pace::{self, ReadPacer, Stopped};
use crate::store::check::report::{CheckFault, CheckProblem, CheckReport, Mode};
use crate::store::error::IndexError;
use crate::store::format::{self, BodyPlace, Totals};
use crate::store::index::Keyspaces;
use crate::store::part;
use crate::store::recover;
use crate::sync::Mutex;
use std::io;
use std::path::Path;

/// Records that are read in one go.
const PAGE: usize = 256;
/// What of the progress the objects are; the rest is for claims and files.
const OBJECTS_PART: f64 = 0.95;

/// Whether other threads change the store meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) enum Traffic {
    /// They may.
    Open,
    /// No other thread has it.
    None,
}

/// Why a check broke off.
#[derive(Debug, thiserror::Error)]
pub(in crate::store) enum AuditError {
    /// It was stopped.
    #[error("it was stopped")]
    Stopped,
    /// The index cannot be read on.
    #[error("the index cannot be read: {0}")]
    Index(#[from] IndexError),
    /// The index opens, and a part of it cannot be read: only a new one helps.
    #[error("a part of the index cannot be read: {0}")]
    Damaged(String),
    /// The folder cannot be listed.
    #[error("the folder of bodies cannot be listed: {0}")]
    Folder(#[from] io::Error),
}

impl From<Stopped> for AuditError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

/// A check under way.
#[derive(Debug)]
pub(in crate::store) struct Audit<'a> {
    pub(in crate::store) catalog: &'a Catalog,
    pub(in crate::store) mode: Mode,
    pub(in crate::store) traffic: Traffic,
    pub(in crate::store) pacer: ReadPacer,
    pub(in crate::store) report: &'a Mutex<CheckReport>,
}

impl Audit<'_> {
    /// Looks at everything.
    pub(in crate::store) fn run(&mut self) -> Result<(), AuditError> {
        let mut totals = self.objects()?;
        self.parts(&mut totals)?;
        self.order()?;
        self.variants()?;
        self.tags()?;
        self.claims()?;
        self.small_bodies()?;
        self.links()?;
        self.files()?;
        if self.traffic == Traffic::None {
            self.totals(totals)?;
        }
        self.report.lock().progress = 1.0;
        Ok(())
    }

    fn objects(&mut self) -> Result<Totals, AuditError> {
        let (mut after, mut totals) = (None, Totals::default());
        loop {
            let page = self.catalog.index.access().open()?.page(after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(totals) };
            after = Some(*last);
            for (hash, record) in page {
                let checked = object::check_object(self.catalog, hash, &record, &mut self.pacer)?;
                let progress = pace::fraction(hash) * OBJECTS_PART;
                object::count_checked(self.catalog, "fsck", &checked);
                {
                    let mut report = self.report.lock();
                    (report.objects, report.progress) = (report.objects + 1, progress);
                    report.bytes += checked.bytes;
                }
                if let Some((CheckFault::Index, detail)) = &checked.wrong
                    && (self.mode, self.traffic) == (Mode::Repair, Traffic::None)
                {
                    return Err(AuditError::Damaged(detail.clone()));
                }
                let has_gone = self.judge(hash, &checked);
                if let Some(head) = checked.head.filter(|_| !has_gone) {
                    totals.objects += 1;
                    totals.bytes = totals.bytes.saturating_add(head.charge());
                }
                let sequence = checked.head.map_or(0, |head| head.sequence);
                totals.next_sequence = totals.next_sequence.max(sequence.saturating_add(1));
            }
        }
    }

    /// Says what is wrong with an object; true if it was dropped.
    fn judge(&self, hash: KeyHash, checked: &ObjectCheck) -> bool {
        if checked.is_unserved {
            return self.mode == Mode::Repair && self.catalog.drop_unserved(hash);
        }
        let Some((fault, detail)) = &checked.wrong else { return false };
        if self.traffic == Traffic::Open && !object::is_still(self.catalog, hash, checked) {
            return true;
        }
        let may_drop = self.mode == Mode::Repair && fault.is_of_object();
        let is_repaired = may_drop && object::drop_checked(self.catalog, hash, checked, detail);
        let what = checked.key.as_ref().map_or_else(|| hash.to_string(), |key| key.path().into());
        self.say(CheckProblem { kind: *fault, what, detail: detail.clone(), is_repaired });
        is_repaired
    }

    fn claims(&self) -> Result<(), AuditError> {
        let mut after = None;
        loop {
            let page = self.catalog.index.access().open()?.claims_page(after, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (nar, claim) in page {
                self.report.lock().claims += 1;
                let (what, detail) = match format::decode_claim(&claim) {
                    Ok((_, key, _)) if key.hash() == nar => {
                        (key.path().to_owned(), "no stored object makes it")
                    }
                    Ok((_, key, _)) => (key.path().to_owned(), "it stands under another key"),
                    Err(_) => (nar.to_string(), "it cannot be read"),
                };
                let is_repaired = match self.mode {
                    Mode::Repair if self.catalog.drop_stray_claim(nar, &claim)? => true,
                    Mode::Report if self.catalog.is_stray_claim(nar, &claim)? => false,
                    Mode::Repair | Mode::Report => continue,
                };
                let detail = detail.to_owned();
                self.say(CheckProblem { kind: CheckFault::Claim, what, detail, is_repaired });
            }
        }
    }

    fn small_bodies(&self) -> Result<(), AuditError> {
        let mut after = None;
        loop {
            let page = self.catalog.index.access().open()?.bodies_page(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(*last);
            for (hash, sequence) in page {
                let _stripe = self.catalog.stripe(hash).lock();
                let access = self.catalog.index.access();
                let index = access.open()?;
                let is_there = index.body(hash, sequence)?.is_some();
                if !is_there || is_recorded(index, hash, sequence, BodyPlace::Inline)? {
                    continue;
                }
                let is_repaired = self.mode == Mode::Repair;
                if is_repaired {
                    let mut change = index.change();
                    change.drop_body(hash, sequence, BodyPlace::Inline);
                    change.commit()?;
                }
                let what = format!("{hash}-{sequence:x}");
                let detail = "a small body without a record".to_owned();
                self.say(CheckProblem { kind: CheckFault::Orphan, what, detail, is_repaired });
            }
        }
    }

    /// What a kill cut short: nothing is wrong with it, and the next start finishes it.
    fn links(&self) -> Result<(), AuditError> {
        if self.traffic == Traffic::Open {
            return Ok(());
        }
        self.report.lock().unfinished =
            self.catalog.index.access().open()?.links_page(None, usize::MAX)?.len() as u64;
        if self.mode == Mode::Repair {
            recover::finish_links(self.catalog)?;
        }
        Ok(())
    }

    fn files(&mut self) -> Result<(), AuditError> {
        let (catalog, report) = (self.catalog, self.report);
        let mut pacer = ReadPacer::new(u64::MAX, self.pacer.stop());
        catalog.folder.walk(|path, insertion| {
            pacer.spend(0)?;
            report.lock().files += 1;
            match insertion {
                None => {
                    let (kind, what) = (CheckFault::Foreign, path.display().to_string());
                    let detail = "no store put it here; it is left alone, move it away".to_owned();
                    self.say(CheckProblem { kind, what, detail, is_repaired: false });
                    Ok(())
                }
                Some((hash, sequence)) => self.file(path, hash, sequence),
            }
        })
    }

    fn file(&self, path: &Path, hash: KeyHash, sequence: u64) -> Result<(), AuditError> {
        {
            // A commit links and records, and a removal notes and forgets, under this lock.
            let _stripe = self.catalog.stripe(hash).lock();
            let access = self.catalog.index.access();
            let index = access.open()?;
            if is_recorded(index, hash, sequence, BodyPlace::File)?
                || part::is_part(index, hash, sequence)?
                || index.has_link(hash, sequence)?
            {
                return Ok(());
            }
        }
        // An unlink that was under way took its note away after the file.
        if !path.try_exists()? {
            return Ok(());
        }
        let is_repaired =
            self.mode == Mode::Repair && self.catalog.folder.remove_body(hash, sequence).is_ok();
        let what = path.display().to_string();
        let detail = "a body file without a record".to_owned();
        self.say(CheckProblem { kind: CheckFault::Orphan, what, detail, is_repaired });
        Ok(())
    }

    fn totals(&self, found: Totals) -> Result<(), AuditError> {
        let access = self.catalog.index.access();
        let index = access.open()?;
        let noted = index.totals()?;
        // Commits that run beside each other may note the lower number last; a start leaves a gap.
        let next = noted.next_sequence.saturating_add(SEQUENCE_GAP);
        let is_wrong = next < found.next_sequence;
        let is_repaired = self.mode == Mode::Repair;
        if is_repaired && noted != found {
            let next_sequence = noted.next_sequence.max(found.next_sequence);
            let mut change = index.change();
            change.set_totals(&Totals { next_sequence, ..found });
            change.commit()?;
            index.sync()?;
        }
        if is_wrong {
            let detail = "numbers that name body files would be used again".to_owned();
            let what = "the index".to_owned();
            self.say(CheckProblem { kind: CheckFault::Totals, what, detail, is_repaired });
        }
        Ok(())
    }

    /// Puts a problem on record.
    pub(in crate::store) fn say(&self, problem: CheckProblem) {
        let CheckProblem { kind, what, detail, is_repaired } = &problem;
        let kind = kind.as_str();
        self.catalog.metrics.check_faults.with_label_values(&["fsck", kind]).inc();
        tracing::warn!(kind, what, detail, is_repaired, "fsck found a problem");
        self.report.lock().add(problem);
    }
}

fn is_recorded(
    index: &Keyspaces,
    hash: KeyHash,
    sequence: u64,
    place: BodyPlace,
) -> Result<bool, IndexError> {
    let head = index.record(hash)?.and_then(|record| format::decode_head(&record).ok());
    Ok(head.is_some_and(|head| head.sequence == sequence && head.place == place))
}
