//! What a check of a whole store came to. Values only; shared between the check that writes it and
//! what shows it, here or on the other side of the admin interface.

use serde::{Deserialize, Serialize};

/// Problems that are kept word for word; the others are counted.
pub const PROBLEMS_MAX: usize = 1000;

/// What can be wrong with what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckFault {
    /// A record that cannot be read, or stands under another key.
    Record,
    /// A body that is not there, or not the one that was recorded.
    Body,
    /// What follows a body in its file.
    Trailer,
    /// A claim that cannot be read, or that no object makes.
    Claim,
    /// A body without a record.
    Orphan,
    /// Something that no store puts there.
    Foreign,
    /// Totals that would let a file's name be used again.
    Totals,
    /// The index as a whole.
    Index,
    /// The disk does not answer.
    Unreadable,
}

impl CheckFault {
    /// Whether the object itself is wrong, so that it helps to drop it.
    pub(in crate::store) fn is_of_object(self) -> bool {
        !matches!(self, Self::Index | Self::Unreadable)
    }

    /// Its name in metrics, logs and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Body => "body",
            Self::Trailer => "trailer",
            Self::Claim => "claim",
            Self::Orphan => "orphan",
            Self::Foreign => "foreign",
            Self::Totals => "totals",
            Self::Index => "index",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Whether a check changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It only looks.
    Report,
    /// It drops what is damaged, removes what is unknown, corrects what is wrong.
    Repair,
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckStage {
    /// There was none.
    #[default]
    None,
    /// It goes on.
    Running,
    /// It looked at everything.
    Ended,
    /// It was stopped, or could not go on: `problems` says why.
    BrokenOff,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckProblem {
    /// What kind of.
    pub kind: CheckFault,
    /// The object's path, or else the file or the hash of a key.
    pub what: String,
    /// What is wrong with it.
    pub detail: String,
    /// Whether it was dropped, removed or corrected.
    #[serde(rename = "repaired")]
    pub is_repaired: bool,
}

/// What a check found so far.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CheckReport {
    /// How far it is.
    pub stage: CheckStage,
    /// The same as a part of the whole, 0 to 1.
    pub progress: f64,
    /// Objects with record, body and trailer compared.
    pub objects: u64,
    /// Bytes that were read and compared.
    pub bytes: u64,
    /// Claims that were looked at.
    pub claims: u64,
    /// Body files that were looked for in the index.
    pub files: u64,
    /// Changes that a kill cut short: the next start finishes them, and so does a repair.
    pub unfinished: u64,
    /// Objects that a new index was given from what stands behind their bodies.
    pub rebuilt: u64,
    /// The first [`PROBLEMS_MAX`] problems.
    pub problems: Vec<CheckProblem>,
    /// All problems.
    pub problem_count: u64,
    /// How many of them were repaired.
    pub repaired_count: u64,
}

impl CheckReport {
    /// What the checks of several disks, each with its name, came to together.
    pub(in crate::store) fn of_all(reports: Vec<(String, Self)>) -> Self {
        let mut reports = reports;
        if let [(_, only)] = reports.as_mut_slice() {
            return std::mem::take(only);
        }
        let has = |stage| reports.iter().any(|(_, report)| report.stage == stage);
        let stages = [CheckStage::Running, CheckStage::BrokenOff, CheckStage::Ended];
        let stage = stages.into_iter().find(|stage| has(*stage)).unwrap_or_default();
        let mut all = Self { stage, ..Self::default() };
        let part = 1.0 / f64::from(u32::try_from(reports.len()).unwrap_or(u32::MAX).max(1));
        for (disk, report) in reports {
            // A disk that could not be checked to its end counts as done.
            let progress =
                if report.stage == CheckStage::BrokenOff { 1.0 } else { report.progress };
            all.progress += progress * part;
            all.objects += report.objects;
            all.bytes += report.bytes;
            all.claims += report.claims;
            all.files += report.files;
            all.unfinished += report.unfinished;
            all.rebuilt += report.rebuilt;
            all.problem_count += report.problem_count;
            all.repaired_count += report.repaired_count;
            let left = PROBLEMS_MAX.saturating_sub(all.problems.len());
            let named = |problem: CheckProblem| CheckProblem {
                what: format!("{disk}: {}", problem.what),
                ..problem
            };
            all.problems.extend(report.problems.into_iter().take(left).map(named));
        }
        all
    }

    /// Adds a problem.
    pub(in crate::store) fn add(&mut self, problem: CheckProblem) {
        self.problem_count += 1;
        self.repaired_count += u64::from(problem.is_repaired);
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        }
    }
}
