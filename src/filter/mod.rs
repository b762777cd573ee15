//! The absence filter of a site: which keys its bucket may have, so that the origin is not asked
//! for what it cannot. One per site that configures one, as long lived as the site's settings;
//! shared. Asked by `engine` before a fill begins; told of uploads by `admin` through the assembly,
//! which also loads it. Two locks, the journal's before the state's, none held across an await;
//! whatever takes the journal's lock is blocking.
//!
//! # Why nothing that is there is answered as absent
//!
//! - What is in the file or was noted since is always found (`set`). Only classes that the file
//!   holds are looked up: narinfos.
//! - The file knows every upload up to its own moment, and notices tell of those since; while it is
//!   not certain that all have come, the filter steps aside (`coverage`), and the origin is asked
//!   as without it. It begins aside: nothing is known before the file is loaded and the feed heard.
//! - A notice is noted on disk, then in memory, and then answered (`journal`). One that cannot be
//!   noted is refused, so that it is sent again, and is a gap until it was.
//! - A key that was removed stays in: that costs the origin one request, and no removal that
//!   overtakes an upload can hide it.
//! - A newer file takes the old one's place together with the uploads that it does not know, under
//!   one lock. One that is damaged, of another bucket or older changes nothing.
//! - An answer of the filter is stored nowhere, neither in the memory of absences nor on disk.

mod build;
mod coverage;
mod file;
mod journal;
mod notice;
mod set;
mod source;
#[cfg(test)]
mod tests;

pub use build::{BuildError, BuildSummary, Builder, FilterFacts};
pub use file::{FileError, FilterDescription};
pub use journal::JournalError;
pub use notice::{Event, NoticeError, parse, parse_moment, print_moment};
pub use set::FilterHash;
pub use source::{Inventory, SourceError, read_keys};

use crate::clock::{Clock, Moment, Timestamp};
use crate::config::AbsenceFilter;
use crate::metrics::Metrics;
use crate::nix::Class;
use crate::nix::class::classify;
use crate::sync::{Mutex, RwLock};
use coverage::{AbsenceCertainty, Coverage, NoticeSpan};
use file::{FileIdentity, FilterFile};
use hashbrown::HashSet;
use journal::{Journal, NotedUpload};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The one class that filters hold.
const CLASS: Class = Class::Narinfo;
/// How often at most the journal is told that the feed still lives.
const SPANS_EVERY: Duration = Duration::from_secs(10);
/// How far this machine's clock may be behind that of what builds the files. What is noted a little
/// longer than needed does no harm.
const BEHIND: Duration = Duration::from_mins(1);
/// Bytes of journal for each upload in it, beyond which it is rewritten.
const BYTES_PER_UPLOAD: u64 = 64;
/// Bytes of journal that are never worth a rewrite.
const JOURNAL_BYTES_MIN: u64 = 4 << 20;

/// What a filter says of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilterVerdict {
    /// The bucket does not have it.
    Absent,
    /// The bucket may have it.
    Maybe,
    /// Nothing: no file is loaded, or the feed is late, or may have left something out.
    Aside,
}

impl FilterVerdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Maybe => "maybe",
            Self::Aside => "aside",
        }
    }
}

/// Why a file was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// It cannot be read, or is no filter.
    #[error(transparent)]
    File(#[from] FileError),
    /// The journal beside it cannot be used.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// It is of another bucket.
    #[error("{path}: the filter is of the bucket {bucket:?}, the site's is {expected:?}")]
    Bucket {
        /// The file.
        path: PathBuf,
        /// The bucket that it is of.
        bucket: String,
        /// The site's.
        expected: String,
    },
    /// It does not hold narinfos.
    #[error("{path}: the filter does not hold the class narinfo; build it anew")]
    Classes {
        /// The file.
        path: PathBuf,
    },
    /// It says that it is complete up to a moment that has not come.
    #[error("{path}: the filter is complete up to {moment}, which has not come; check the clocks")]
    Future {
        /// The file.
        path: PathBuf,
        /// The moment.
        moment: String,
    },
    /// Uploads that it does not know were left out of the journal for a newer one.
    #[error(
        "{path}: the filter is complete up to {moment}, one up to {floor} was loaded before; \
         build a newer one"
    )]
    Older {
        /// The file.
        path: PathBuf,
        /// Up to when it is complete.
        moment: String,
        /// Up to when the journal holds nothing.
        floor: String,
    },
}

impl LoadError {
    /// Whether there is just no file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::File(FileError::Read { source, .. })
            if source.kind() == io::ErrorKind::NotFound)
    }
}

/// Why notices were not taken. They have to be sent again.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The journal is not open.
    #[error("the journal of uploads is not open: {detail}; send it again later")]
    NoJournal {
        /// Why.
        detail: String,
    },
    /// There are too many.
    #[error(
        "as many uploads are noted as absence_filter.uploads_max allows ({max}); build a newer \
         filter, reload, and send it again"
    )]
    Full {
        /// How many there may be.
        max: u64,
    },
    /// The journal cannot be written.
    #[error("the journal of uploads cannot be written: {source}; send it again later")]
    Write {
        /// What the system said.
        source: io::Error,
    },
}

/// What a filter does, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilterReport {
    /// Whether it answers.
    pub is_answering: bool,
    /// What it does, or what is wrong and what to do.
    pub detail: String,
}

/// The filter of one site.
#[derive(Debug)]
pub struct Filter {
    site: Arc<str>,
    clock: Clock,
    metrics: Metrics,
    /// Held while anything but the state's answers changes.
    journal: Mutex<Option<Journal>>,
    state: RwLock<FilterState>,
    /// What was last told in the log.
    told: Mutex<Option<FilterPosture>>,
}

#[derive(Debug)]
struct FilterState {
    settings: AbsenceFilter,
    base: Option<FilterFile>,
    uploads: HashSet<FilterHash>,
    coverage: Coverage,
    /// What stands in the journal of it, and since when.
    written: (Vec<NoticeSpan>, Timestamp),
    trouble: Option<String>,
}

/// What a filter does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FilterPosture {
    Answering,
    NoFile,
    Late,
    Gap { since: Timestamp },
}

/// A file that may take the place of the one that is loaded.
#[derive(Debug)]
pub struct FilterUpdate(Option<FilterFile>);

impl Filter {
    /// The filter of the site called `site`, which steps aside until it is loaded.
    pub fn new(site: &str, settings: AbsenceFilter, clock: Clock, metrics: Metrics) -> Self {
        let coverage = Coverage::new(settings.feed_timeout, settings.feed_retention, Vec::new());
        let state = FilterState {
            settings,
            base: None,
            uploads: HashSet::new(),
            coverage,
            written: (Vec::new(), clock.wall()),
            trouble: None,
        };
        Self {
            site: site.into(),
            clock,
            metrics,
            journal: Mutex::default(),
            state: RwLock::new(state),
            told: Mutex::default(),
        }
    }

    /// Whether this filter goes on under the site's new `settings`: they name the same bucket and
    /// journal.
    pub fn serves(&self, settings: &AbsenceFilter) -> bool {
        let own = &self.state.read().settings;
        own.bucket == settings.bucket && own.journal == settings.journal
    }

    /// The bucket of the keys that it knows.
    pub fn bucket(&self) -> String {
        self.state.read().settings.bucket.clone()
    }

    /// Opens its journal and loads its file, and says in the log what is wrong with them: the edge
    /// works without. Blocking.
    pub fn start(&self) {
        let loaded = self.open().and_then(|()| {
            let settings = self.state.read().settings.clone();
            self.look(&settings)
        });
        match loaded {
            Ok(newer) => self.adopt(None, newer),
            Err(error) => {
                tracing::error!(site = %self.site, %error, "absence filter not loaded");
                self.state.write().trouble = Some(error.to_string());
            }
        }
        self.tell();
    }

    /// Opens its journal, unless that is done. Blocking.
    pub fn open(&self) -> Result<(), LoadError> {
        let mut journal = self.journal.lock();
        if journal.is_some() {
            return Ok(());
        }
        let (path, bucket) = {
            let settings = &self.state.read().settings;
            (settings.journal.clone(), settings.bucket.clone())
        };
        let (opened, kept) = Journal::open(&path, &bucket)?;
        if let Some(fault) = kept.fault {
            let path = path.display();
            tracing::error!(site = %self.site, %path, fault, "journal of uploads is damaged");
        }
        let mut state = self.state.write();
        state.uploads = kept.uploads.iter().map(|noted| noted.key).collect();
        let AbsenceFilter { feed_timeout, feed_retention, .. } = state.settings;
        state.coverage = Coverage::new(feed_timeout, feed_retention, kept.spans);
        *journal = Some(opened);
        Ok(())
    }

    /// Reads the file that `settings` name, unless it is the one that is loaded, and says whether
    /// it may be taken. Changes nothing. A file that is not there is a warning. Blocking.
    pub fn look(&self, settings: &AbsenceFilter) -> Result<FilterUpdate, LoadError> {
        let path = &settings.file;
        let loaded = self.state.read().base.as_ref().map(|base| base.identity);
        if loaded.is_some() && FileIdentity::at(path).ok() == loaded {
            return Ok(FilterUpdate(None));
        }
        let base = match FilterFile::read(path).map_err(LoadError::from) {
            Ok(base) => base,
            Err(error) if error.is_missing() => {
                let path = path.display();
                tracing::warn!(site = %self.site, %path, "no absence filter yet");
                return Ok(FilterUpdate(None));
            }
            Err(error) => return Err(error),
        };
        let account = &base.account;
        if account.bucket != settings.bucket {
            let (bucket, expected) = (account.bucket.clone(), settings.bucket.clone());
            return Err(LoadError::Bucket { path: path.clone(), bucket, expected });
        }
        if !account.classes.iter().any(|class| class == CLASS.as_str()) {
            return Err(LoadError::Classes { path: path.clone() });
        }
        let moment = print_moment(account.complete_up_to);
        if account.complete_up_to > self.clock.wall() {
            return Err(LoadError::Future { path: path.clone(), moment });
        }
        match self.journal.lock().as_ref().map(|journal| journal.floor) {
            Some(floor) if account.complete_up_to < floor => {
                let floor = print_moment(floor);
                Err(LoadError::Older { path: path.clone(), moment, floor })
            }
            Some(_) | None => Ok(FilterUpdate(Some(base))),
        }
    }

    /// Takes over new settings and a newer file, and leaves uploads that it knows out of the
    /// journal. Blocking.
    pub fn adopt(&self, settings: Option<AbsenceFilter>, FilterUpdate(base): FilterUpdate) {
        let mut journal = self.journal.lock();
        // Without a journal nothing that is uploaded is known.
        let base = base.filter(|_| journal.is_some());
        let kept = match (journal.as_mut(), &base) {
            (Some(journal), Some(base)) => self.leave_out(journal, base.account.complete_up_to),
            (_, None) | (None, _) => None,
        };
        let mut state = self.state.write();
        if let Some(settings) = settings {
            state.coverage.set(settings.feed_timeout, settings.feed_retention);
            state.settings = settings;
        }
        if let Some(base) = base {
            let FilterDescription { keys, source, complete_up_to, .. } = &base.account;
            let complete_up_to = print_moment(*complete_up_to);
            let site = &*self.site;
            tracing::info!(site, keys, source, complete_up_to, "absence filter loaded");
            state.base = Some(base);
        }
        if let Some(kept) = kept {
            state.uploads = kept;
        }
        if journal.is_some() {
            state.trouble = None;
        }
        drop(state);
        drop(journal);
        self.tell();
    }

    /// Rewrites the journal without what a file knows that is complete up to `floor`; returns what
    /// is left. If that fails the journal stays as it is: surplus records do no harm.
    fn leave_out(&self, journal: &mut Journal, floor: Timestamp) -> Option<HashSet<FilterHash>> {
        let spans = self.state.read().coverage.spans();
        let rewritten = journal.uploads().and_then(|mut uploads| {
            uploads.retain(|noted| noted.at.plus(BEHIND) > floor);
            journal.rewrite(floor.max(journal.floor), &uploads, &spans)?;
            Ok(uploads.into_iter().map(|noted| noted.key).collect())
        });
        match rewritten {
            Ok(uploads) => Some(uploads),
            Err(error) => {
                let site = &*self.site;
                tracing::warn!(site, %error, "journal of uploads not rewritten");
                None
            }
        }
    }

    /// What it says of the object at `path`, canonical, of `class`; none if filters know nothing of
    /// the class.
    pub fn check(&self, path: &str, class: Class) -> Option<FilterVerdict> {
        let key = path.strip_prefix('/').filter(|_| class == CLASS)?;
        let (posture, verdict) = {
            let state = self.state.read();
            let posture = state.posture(self.clock.moment());
            let hash = FilterHash::of(key);
            let verdict = match (&state.base, posture) {
                (Some(base), FilterPosture::Answering) => {
                    let may_be = base.may_contain(hash) || state.uploads.contains(&hash);
                    if may_be { FilterVerdict::Maybe } else { FilterVerdict::Absent }
                }
                (_, _) => FilterVerdict::Aside,
            };
            (posture, verdict)
        };
        self.tell_of(posture);
        let labels = [&*self.site, verdict.as_str()];
        self.metrics.absence_filter_checks.with_label_values(&labels).inc();
        Some(verdict)
    }

    /// Takes what the feed tells of this filter's bucket: notes uploads, and that the feed lives.
    /// Durable when it returns; after an error all of it has to be sent again. Blocking.
    pub fn take(&self, events: &[Event]) -> Result<(), TakeError> {
        let mut journal = self.journal.lock();
        // A wall clock that was set back dates an upload before a file that does not know it.
        let moment = self.clock.moment();
        let uploads = events.iter().filter_map(|event| noted(event, moment.edge));
        let uploads: Vec<NotedUpload> = uploads.collect();
        let taken = self.write_down(journal.as_mut(), &uploads, events, moment);
        let mut state = self.state.write();
        let result = match taken {
            Ok((coverage, written)) => {
                state.uploads.extend(uploads.iter().map(|noted| noted.key));
                state.coverage = coverage;
                if let Some(spans) = written {
                    state.written = (spans, moment.wall);
                }
                Ok(())
            }
            Err(error) => {
                state.coverage.interrupt();
                Err(error)
            }
        };
        drop(state);
        drop(journal);
        self.tell();
        result
    }

    /// Writes down what is new; returns the coverage that comes of it, and its spans if they were
    /// written.
    fn write_down(
        &self,
        journal: Option<&mut Journal>,
        uploads: &[NotedUpload],
        events: &[Event],
        now: Moment,
    ) -> Result<(Coverage, Option<Vec<NoticeSpan>>), TakeError> {
        let state = self.state.read();
        let Some(journal) = journal else {
            let detail = state.trouble.clone().unwrap_or_else(|| "it is being read".to_owned());
            return Err(TakeError::NoJournal { detail });
        };
        let max = state.settings.uploads_max;
        if journal.count.saturating_add(uploads.len() as u64) > max && !uploads.is_empty() {
            return Err(TakeError::Full { max });
        }
        let mut coverage = state.coverage.clone();
        for event in events {
            match event {
                Event::Uploaded { at, .. } | Event::Other { at, .. } | Event::KeepAlive { at } => {
                    coverage.hear(at.unwrap_or(now.wall), now);
                }
                Event::Delivered { since, up_to } => {
                    coverage.state(NoticeSpan { since: *since, up_to: *up_to }, now);
                }
            }
        }
        let spans = coverage.spans();
        let (written, at) = &state.written;
        let begins = |spans: &[NoticeSpan]| spans.iter().map(|span| span.since).collect::<Vec<_>>();
        let is_due = begins(&spans) != begins(written) || now.wall.since(*at) >= SPANS_EVERY;
        let spans = Some(spans).filter(|_| is_due);
        drop(state);
        let written = journal.append(uploads, spans.as_deref()).and_then(|()| {
            let bytes_max = JOURNAL_BYTES_MIN + journal.count * BYTES_PER_UPLOAD;
            if journal.bytes() <= bytes_max {
                return Ok(());
            }
            journal.rewrite(journal.floor, &journal.uploads()?, &coverage.spans())
        });
        written.map_err(|source| TakeError::Write { source })?;
        Ok((coverage, spans))
    }

    /// A notice came that could not be read, and will not come again: whatever it told of is
    /// unknown for good. Blocking.
    pub fn lose(&self) {
        let mut journal = self.journal.lock();
        let mut state = self.state.write();
        state.coverage.forget();
        state.written = (Vec::new(), self.clock.wall());
        drop(state);
        if let Some(journal) = journal.as_mut()
            && let Err(error) = journal.append(&[], Some(&[]))
        {
            tracing::error!(site = %self.site, %error, "cannot write journal of uploads");
        }
        drop(journal);
        self.tell();
    }

    /// What it does, and why.
    pub fn report(&self) -> FilterReport {
        let state = self.state.read();
        let (now, bucket) = (self.clock.moment(), &state.settings.bucket);
        let posture = state.posture(now);
        let age = state.coverage.age(now.wall).map_or_else(
            || "nothing was heard of the feed".to_owned(),
            |age| format!("the feed was heard {} s ago", age.as_secs()),
        );
        let detail = match posture {
            FilterPosture::Answering => format!("answers for {bucket}; {age}"),
            FilterPosture::NoFile => match &state.trouble {
                Some(trouble) => format!("aside: {trouble}"),
                None => format!("aside: no filter is loaded; {age}"),
            },
            FilterPosture::Late => format!(
                "aside: the feed of uploads to {bucket} is late ({age}); check what sends it, and \
                 that it is sent while there are no uploads"
            ),
            FilterPosture::Gap { since } => format!(
                "aside: uploads before {} may be unknown; build a newer filter and reload, or let \
                 the feed state what it has delivered",
                print_moment(since)
            ),
        };
        FilterReport { is_answering: posture == FilterPosture::Answering, detail }
    }

    /// Sets its gauges; called before metrics are read.
    pub fn show(&self) {
        let bytes_of_journal =
            self.journal.try_lock().map(|journal| journal.as_ref().map_or(0, Journal::bytes));
        let state = self.state.read();
        let now = self.clock.moment();
        let is_answering = state.posture(now) == FilterPosture::Answering;
        let age = state.coverage.age(now.wall).map_or(-1, |age| gauge(age.as_secs()));
        let (keys, bytes) =
            state.base.as_ref().map_or((0, 0), |base| (base.account.keys, base.bytes()));
        let uploads = state.uploads.len() as u64;
        let uploads_bytes = state.uploads.allocation_size() as u64;
        drop(state);
        let metrics = &self.metrics;
        let site = &*self.site;
        for (part, keys, bytes) in [("file", keys, bytes), ("noted", uploads, uploads_bytes)] {
            metrics.absence_filter_keys.with_label_values(&[site, part]).set(gauge(keys));
            metrics.absence_filter_bytes.with_label_values(&[site, part]).set(gauge(bytes));
        }
        if let Some(bytes) = bytes_of_journal {
            metrics.absence_filter_bytes.with_label_values(&[site, "journal"]).set(gauge(bytes));
        }
        metrics.absence_filter_feed_age.with_label_values(&[site]).set(age);
        metrics.absence_filter_answering.with_label_values(&[site]).set(i64::from(is_answering));
        self.tell();
    }

    /// Logs what it does, once for each time that this changes.
    fn tell(&self) {
        let posture = self.state.read().posture(self.clock.moment());
        self.tell_of(posture);
    }

    fn tell_of(&self, posture: FilterPosture) {
        let is_same = |before: FilterPosture| {
            std::mem::discriminant(&before) == std::mem::discriminant(&posture)
        };
        // A call that does not get the lock leaves it to the next call.
        let Some(mut told) = self.told.try_lock() else { return };
        let before = told.replace(posture);
        drop(told);
        if before.is_some_and(is_same) || before.is_none() && posture == FilterPosture::NoFile {
            return;
        }
        let FilterReport { is_answering, detail } = self.report();
        if is_answering {
            tracing::info!(site = %self.site, detail, "absence filter");
        } else {
            tracing::warn!(site = %self.site, detail, "absence filter");
        }
    }
}

impl FilterState {
    fn posture(&self, now: Moment) -> FilterPosture {
        let Some(base) = &self.base else { return FilterPosture::NoFile };
        match self.coverage.standing(base.account.complete_up_to, now) {
            AbsenceCertainty::Certain => FilterPosture::Answering,
            AbsenceCertainty::Late => FilterPosture::Late,
            AbsenceCertainty::Gap { since } => FilterPosture::Gap { since },
        }
    }
}

/// The upload that an event tells of, if a filter would be asked for its key. It counts as of
/// `now`, in edge time, when its notice came: the date of a bucket with a slow clock may lie before
/// the moment up to which a file is complete, although the file lacks the upload.
fn noted(event: &Event, now: Timestamp) -> Option<NotedUpload> {
    let Event::Uploaded { key, .. } = event else { return None };
    is_held(key).then(|| NotedUpload { at: now, key: FilterHash::of(key) })
}

/// Whether filters hold keys like this one.
fn is_held(key: &str) -> bool {
    classify(&format!("/{key}")) == Some(CLASS)
}

fn gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
