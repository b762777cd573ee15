//! `matrix`: runs any build of Narthex in front of an origin that sends bodies in pieces, and
//! compares every byte that a client receives and every byte that is stored.
//!
//! A cell is a value of each of: piece size, gap, body size, framing, kind of proof, reader (see
//! `cell`). All 36,000 would take days. A run has the cells that hold each combination of any three
//! values, the short form those that hold each of any two, and both have some cells that are always
//! there. A body has a bounded number of pieces (`Bounds`), at both ends and about five places
//! between; the rest of it comes in blocks of 64 KiB. Beside the cells there are wrong bodies
//! (`bad_body`), and bodies in very small pieces with their memory measured (`memory`). When all
//! have run, the edge is ended, `narthex fsck` must find nothing, each stored body is compared with
//! the right one, and after another start each of them must be a hit (`stored`).
//!
//! Everything follows from the seed and the name of a cell, but for time: a cell that failed is
//! played alone by `--only NAME`, in which `*` stands for any word, and `--times N`.
#![expect(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stdout,
    reason = "a test program, which says what it found"
)]

mod bad_body;
mod cell;
mod client;
mod covering;
mod edge;
#[path = "../faults/origin/mod.rs"]
#[expect(dead_code, reason = "the matrix scripts only a part of what an origin can do")]
mod faults;
mod memory;
mod object;
mod origin;
mod play;
mod stored;

use cell::{Bounds, is_meant};
use clap::Parser;
use covering::Draw;
use edge::Setup;
use object::Noise;
use origin::Origins;
use parking_lot::Mutex;
use play::{Finding, VERDICTS, Verdict, World};
use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

type Failure = Box<dyn Error + Send + Sync>;

/// Cells at work at the same time; a long body counts as several.
const ABREAST: u32 = 24;

/// How much is played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Full,
    Short,
}

impl Form {
    fn bounds(self) -> Bounds {
        match self {
            Self::Full => Bounds { apart: 8_000, back_to_back: 60_000 },
            Self::Short => Bounds { apart: 1_400, back_to_back: 5_000 },
        }
    }

    /// Dimensions of which each combination of values is in some cell.
    fn strength(self) -> usize {
        match self {
            Self::Full => 3,
            Self::Short => 2,
        }
    }
}

/// Plays bodies in pieces against a build of Narthex.
#[derive(Debug, Parser)]
#[command(name = "matrix")]
struct Options {
    /// The program.
    narthex: PathBuf,
    /// Only as many cells as hold each combination of two values, in less than a minute.
    #[arg(long)]
    short: bool,
    /// What the cells and their ranges are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Plays what has this name, in which `*` stands for any word.
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Plays everything so many times.
    #[arg(long, default_value_t = 1)]
    times: u64,
    /// Leaves the folder with the config, the log and the disk tier.
    #[arg(long)]
    keep: bool,
}

impl Options {
    fn form(&self) -> Form {
        if self.short { Form::Short } else { Form::Full }
    }
}

#[tokio::main(worker_threads = 2)]
#[expect(clippy::print_stderr, reason = "the program reports errors here")]
async fn main() -> ExitCode {
    match run_until_told(Options::parse()).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("matrix: {error}");
            ExitCode::from(2)
        }
    }
}

/// Plays everything, or ends at a signal; the edge ends in either case.
async fn run_until_told(options: Options) -> Result<u64, Failure> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = run(options) => done,
        _ = terminate.recv() => Err("ended by SIGTERM".into()),
        _ = tokio::signal::ctrl_c() => Err("ended by SIGINT".into()),
    }
}

/// What is played together with other things.
#[derive(Debug, Clone, Copy)]
enum Case {
    Cell(cell::Cell),
    BadBody(bad_body::BadBody),
}

impl Case {
    fn name(&self) -> String {
        match self {
            Self::Cell(cell) => cell.to_string(),
            Self::BadBody(bad) => bad.to_string(),
        }
    }

    /// Its share of what runs at the same time.
    fn weight(&self) -> u32 {
        match self {
            Self::BadBody(_) => 1,
            Self::Cell(cell) => match cell.body_bytes() >> 20 {
                0..=2 => 1,
                3..=16 => 2,
                _ => 6,
            },
        }
    }
}

/// What the cases came to.
#[derive(Debug, Default)]
struct Report {
    seed: u64,
    /// By the kind of proof, or the section, and the verdict.
    counts: BTreeMap<String, BTreeMap<Verdict, u64>>,
}

impl Report {
    fn add(&mut self, name: &str, finding: &Finding) {
        let words: Vec<&str> = name.split('/').collect();
        let group = match words.first() {
            Some(section @ (&"bad" | &"memory")) => (*section).to_owned(),
            _ => words[4].to_owned(),
        };
        *self.counts.entry(group).or_default().entry(finding.verdict).or_default() += 1;
        if finding.verdict != Verdict::Right {
            let Finding { verdict, detail } = finding;
            println!("{verdict}: --seed {} --only {name}: {detail}", self.seed);
        }
    }

    /// How many cases there were, and how many of them failed; a line for each group.
    fn close(&self) -> (u64, u64) {
        let (mut all, mut failed) = (0, 0);
        for (group, counts) in &self.counts {
            let total: u64 = counts.values().sum();
            let right = counts.get(&Verdict::Right).copied().unwrap_or(0);
            (all, failed) = (all + total, failed + total - right);
            let told = VERDICTS.iter().filter_map(|verdict| {
                counts.get(verdict).map(|count| format!("{count} {verdict}"))
            });
            println!("{group:>10}: {total}: {}", told.collect::<Vec<_>>().join(", "));
        }
        (all, failed)
    }
}

fn cases(options: &Options) -> (Vec<memory::MemoryCase>, Vec<Case>) {
    let (seed, strength) = (options.seed, options.form().strength());
    let (cells, bad) = match options.only {
        Some(_) => (cell::every().collect(), bad_body::every()),
        None => (cell::plan(strength, seed), bad_body::plan(strength, seed)),
    };
    let memory_cases = memory::plan(options.form());
    let is_meant = |name: &str| options.only.as_ref().is_none_or(|only| is_meant(only, name));
    let memory_cases = memory_cases.into_iter().filter(|case| is_meant(&case.to_string()));
    let cases = cells.into_iter().map(Case::Cell).chain(bad.into_iter().map(Case::BadBody));
    let cases: Vec<Case> = cases.filter(|case| is_meant(&case.name())).collect();
    let mut cases: Vec<Case> = (0..options.times).flat_map(|_| cases.clone()).collect();
    Draw::new(seed, "order").shuffle(&mut cases);
    (memory_cases.collect(), cases)
}

/// Plays everything; how much of it failed.
async fn run(options: Options) -> Result<u64, Failure> {
    let begun = Instant::now();
    let folder = TempDir::with_prefix("narthex-matrix-")?;
    let origins = Origins::start().await?;
    let setup = Setup::new(&options.narthex.canonicalize()?, folder.path(), &origins)?;
    let edge = setup.start()?;
    let world = Arc::new(World {
        edge: edge.address,
        origins,
        noise: Noise::new(options.seed)?,
        seed: options.seed,
        bounds: options.form().bounds(),
        number: 0.into(),
        objects: Mutex::default(),
    });
    let (memory_cases, cases) = cases(&options);
    let mut report = Report { seed: options.seed, ..Report::default() };
    let at_rest = edge.resident_bytes()?;
    let mut growth_max = 0;
    for case in memory_cases {
        let (finding, growth) =
            memory::play(&world, (&edge, at_rest), (case, options.form())).await?;
        report.add(&case.to_string(), &finding);
        growth_max = growth_max.max(growth);
    }
    play_all(&world, cases, &mut report).await?;
    let problems = stored::check(&setup, edge, &world).await?;
    let (all, failed) = report.close();
    println!(
        "matrix: seed {}, {all} cases, {failed} failed; {} objects at rest, {} problems; at most \
         {} MiB more memory than at rest; {} s",
        options.seed,
        world.objects.lock().iter().filter(|stored| stored.is_hit).count(),
        problems.len(),
        growth_max >> 20,
        begun.elapsed().as_secs()
    );
    if options.keep {
        println!("kept: {}", folder.keep().display());
    }
    Ok(failed + problems.len() as u64)
}

async fn play_all(
    world: &Arc<World>,
    cases: Vec<Case>,
    report: &mut Report,
) -> Result<(), Failure> {
    let room = Arc::new(Semaphore::new(ABREAST as usize));
    let mut playing = JoinSet::new();
    for case in cases {
        let place = Arc::clone(&room).acquire_many_owned(case.weight()).await?;
        let world = Arc::clone(world);
        playing.spawn(async move {
            let finding = match case {
                Case::Cell(cell) => Box::pin(play::play_cell(&world, cell)).await,
                Case::BadBody(bad) => Box::pin(bad_body::play(&world, bad)).await,
            };
            drop(place);
            (case.name(), finding)
        });
        while let Some(played) = playing.try_join_next() {
            let (name, finding) = played?;
            report.add(&name, &finding);
        }
    }
    while let Some(played) = playing.join_next().await {
        let (name, finding) = played?;
        report.add(&name, &finding);
    }
    Ok(())
}
