//! `narthex fsck`: checks every stored byte, of each folder in turn that no process holds, or of a
//! running edge through its admin listener. The exit code is the worst of all. 0: nothing is wrong;
//! 1: something is, or was and is repaired; 2: it could not be checked.

use super::arguments::FsckArgs;
use super::config::{load, report as report_config};
use super::output::{EXIT_USAGE, complain, say};
use super::remote::{Remote, RemoteError};
use crate::config::FlagOverrides;
use crate::store::{self, CheckProblem, CheckReport, CheckStage, FsckError, Mode, OpenError};
use crate::sync::Mutex;
use crate::units::{parse_size, print_size};
use http::Method;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How often the bar is drawn, and the edge asked.
const LOOK: Duration = Duration::from_millis(200);
const TEMPLATE: &str = "  checking {bar:32.cyan/dim} {percent:>3} %, {msg}";
const EXIT_CLEAN: u8 = 0;
const EXIT_FAULTS: u8 = 1;
/// Steps of the bar.
const STEPS: u64 = 10_000;

/// What a report is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReportSubject {
    /// One folder.
    Folder,
    /// All folders of a running edge.
    Edge,
}

/// Why nothing was checked.
#[derive(Debug, thiserror::Error)]
enum FsckCommandError {
    #[error(transparent)]
    Fsck(#[from] FsckError),
    #[error("{0}")]
    Remote(#[from] RemoteError),
    #[error("--rate {text}: {source}")]
    Rate { text: String, source: crate::units::SizeError },
    #[error("the edge's answer is none: {0}; is it of the same version?")]
    Answer(#[from] serde_json::Error),
    #[error("the check could not be begun: {0}")]
    Thread(#[from] io::Error),
    #[error("the check ended by a fault of Narthex; say what it printed")]
    Panic,
}

/// `narthex fsck`.
pub(super) fn run(arguments: &FsckArgs) -> ExitCode {
    let folders = match folders(arguments) {
        Ok(folders) => folders,
        Err(code) => return code,
    };
    let is_only = folders.len() == 1;
    let mut worst = EXIT_CLEAN;
    for folder in folders {
        let name = folder.display().to_string();
        let (whole, code) = match check(arguments, folder) {
            Ok((whole, report)) => {
                let heading = match whole {
                    ReportSubject::Folder if !is_only => format!("{name}:\n"),
                    ReportSubject::Folder | ReportSubject::Edge => String::new(),
                };
                say(heading + &summary(&report));
                (whole, code(&report))
            }
            Err(FsckCommandError::Remote(RemoteError::Config(error))) => {
                return report_config(&error);
            }
            Err(error) => {
                complain(error);
                (ReportSubject::Folder, EXIT_USAGE)
            }
        };
        worst = worst.max(code);
        if whole == ReportSubject::Edge {
            break;
        }
    }
    ExitCode::from(worst)
}

/// The folders, from the flag or the config.
fn folders(arguments: &FsckArgs) -> Result<Vec<PathBuf>, ExitCode> {
    if let Some(folder) = &arguments.disk {
        return Ok(vec![folder.clone()]);
    }
    let loaded = load(arguments.config.config.as_deref(), FlagOverrides::default());
    let loaded = loaded.map_err(|error| report_config(&error))?;
    if loaded.config.disks.is_empty() {
        complain("the config has no disk tier; name a folder with --disk");
        return Err(ExitCode::from(EXIT_USAGE));
    }
    Ok(loaded.config.disks.into_iter().map(|disk| disk.path).collect())
}

/// Checks a folder, or the edge that holds it, with all the folders that the edge has.
fn check(
    arguments: &FsckArgs,
    folder: PathBuf,
) -> Result<(ReportSubject, CheckReport), FsckCommandError> {
    let mode = if arguments.repair { Mode::Repair } else { Mode::Report };
    let rate = match &arguments.rate {
        Some(text) => {
            let failed = |source| FsckCommandError::Rate { text: text.clone(), source };
            Some(parse_size(text).map_err(failed)?)
        }
        None => None,
    };
    match at_rest(folder, mode) {
        Err(FsckCommandError::Fsck(FsckError::Open(OpenError::Locked { .. }))) => {
            Ok((ReportSubject::Edge, at_work(arguments, mode, rate)?))
        }
        checked => Ok((ReportSubject::Folder, checked?)),
    }
}

/// Checks a folder that no process holds.
fn at_rest(folder: PathBuf, mode: Mode) -> Result<CheckReport, FsckCommandError> {
    let report = Arc::new(Mutex::new(CheckReport::default()));
    let own = Arc::clone(&report);
    let work = std::thread::Builder::new().spawn(move || store::fsck(&folder, mode, &own))?;
    let bar = bar();
    while !work.is_finished() {
        show(&bar, &report.lock());
        std::thread::sleep(LOOK);
    }
    bar.finish_and_clear();
    work.join().map_err(|_| FsckCommandError::Panic)??;
    let report = report.lock().clone();
    Ok(report)
}

/// Has a running edge check itself.
fn at_work(
    arguments: &FsckArgs,
    mode: Mode,
    rate: Option<u64>,
) -> Result<CheckReport, FsckCommandError> {
    let edge = Remote::find(&arguments.remote, arguments.config.config.as_deref())?;
    let wish = serde_json::json!({ "repair": mode == Mode::Repair, "rate": rate });
    edge.ask(Method::POST, "/api/v1/fsck", &wish)?;
    let bar = bar();
    loop {
        let text = edge.ask(Method::GET, "/api/v1/fsck", &serde_json::Value::Null)?;
        let report: CheckReport = serde_json::from_str(&text)?;
        if report.stage != CheckStage::Running {
            bar.finish_and_clear();
            return Ok(report);
        }
        show(&bar, &report);
        std::thread::sleep(LOOK);
    }
}

/// A bar on standard error, if that is a terminal.
fn bar() -> ProgressBar {
    let target = if io::stderr().is_terminal() {
        ProgressDrawTarget::stderr()
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(Some(STEPS), target);
    bar.with_style(ProgressStyle::with_template(TEMPLATE).unwrap_or_else(|_| {
        // A test holds the template against this.
        ProgressStyle::default_bar()
    }))
}

fn show(bar: &ProgressBar, report: &CheckReport) {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a place between 0 and 10,000"
    )]
    bar.set_position((report.progress.clamp(0.0, 1.0) * STEPS as f64) as u64);
    let bytes = print_size(report.bytes >> 20 << 20);
    bar.set_message(format!(
        "{} objects, {bytes}, {} problems",
        report.objects, report.problem_count
    ));
}

/// Every problem on a line, then what was looked at.
fn summary(report: &CheckReport) -> String {
    let mut lines: Vec<String> = report.problems.iter().map(line).collect();
    let unnamed = report.problem_count - report.problems.len() as u64;
    if unnamed > 0 {
        lines.push(format!("and {unnamed} more"));
    }
    if report.unfinished > 0 {
        let unfinished = report.unfinished;
        lines.push(format!("{unfinished} change(s) were cut short; the next start finishes them"));
    }
    if report.rebuilt > 0 {
        lines.push(format!("a new index was made of {} bodies", report.rebuilt));
    }
    let CheckReport { objects, bytes, claims, files, .. } = report;
    let ended = match (report.stage, report.problem_count, report.repaired_count) {
        (CheckStage::BrokenOff, ..) => "broken off".to_owned(),
        (_, 0, _) => "clean".to_owned(),
        (_, count, 0) => format!("{count} problem(s); --repair drops what is damaged"),
        (_, count, repaired) => format!("{count} problem(s), {repaired} repaired"),
    };
    lines.push(format!(
        "checked {objects} objects, {bytes} bytes, {claims} claims, {files} files: {ended}"
    ));
    lines.join("\n") + "\n"
}

fn line(problem: &CheckProblem) -> String {
    let done = if problem.is_repaired { " (repaired)" } else { "" };
    let (kind, what, detail) = (problem.kind.as_str(), &problem.what, &problem.detail);
    format!("{kind} {}: {detail}{done}", what.escape_debug())
}

fn code(report: &CheckReport) -> u8 {
    let is_clean = report.problem_count == 0 && report.stage == CheckStage::Ended;
    if is_clean { EXIT_CLEAN } else { EXIT_FAULTS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_template_is_one() {
        ProgressStyle::with_template(TEMPLATE).unwrap();
    }

    #[test]
    fn a_summary_says_everything_on_lines() {
        let mut report =
            CheckReport { stage: CheckStage::Ended, objects: 3, ..CheckReport::default() };
        assert!(summary(&report).ends_with("clean\n"));
        report.problems.push(CheckProblem {
            kind: store::CheckFault::Body,
            what: "/nar/a\n".to_owned(),
            detail: "its file is gone".to_owned(),
            is_repaired: true,
        });
        (report.problem_count, report.repaired_count) = (5, 5);
        let text = summary(&report);
        assert!(text.starts_with("body /nar/a\\n: its file is gone (repaired)\nand 4 more\n"));
        assert!(text.ends_with("5 problem(s), 5 repaired\n"), "{text}");
        report.stage = CheckStage::BrokenOff;
        assert!(summary(&report).ends_with("broken off\n"));
    }
}
