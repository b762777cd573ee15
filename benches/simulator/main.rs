//! Replays traces through eviction policies and prints how much each saves: the hit ratios that
//! the store's choice rests on. All on bytes, deterministic from a seed.
//!
//! Run with `cargo bench --bench simulator`, with `-- --help` for its options. Without `--bench`,
//! as `cargo test --benches` runs it, it replays small traces only and checks that the store's own
//! order is no worse than the plain form of its policy.

#![expect(clippy::indexing_slicing, reason = "objects are numbers below the tables' length")]
#![expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes and shares of a simulation: far below 2^52, never negative"
)]

mod log;
mod policy;
mod random;
mod replay;
mod traces;

use clap::Parser;
use policy::choice::Choice;
use replay::Ratios;
use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use traces::{Shape, Trace};

/// A log of the edge itself, so that the table has a row of a real one.
const SAMPLE_LOG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/simulator/sample.jsonl");

/// Percentage points of byte hits by which the store may be below the plain form of its policy:
/// what it gives to small objects, and what its fingerprints mistake.
const STORE_LOSS_MAX: f64 = 1.0;

/// Hit ratios of eviction policies, on bytes.
#[derive(Debug, Parser)]
#[command(name = "simulator")]
struct Options {
    /// Paths that the Zipf part asks for.
    #[arg(long, default_value_t = 100_000)]
    paths: u32,
    /// Paths fetched in each trace; each is a narinfo and a NAR.
    #[arg(long, default_value_t = 1_000_000)]
    fetches: u32,
    /// Seeds, from 1; the table shows the mean, and the least gain over LRU.
    #[arg(long, default_value_t = 3)]
    seeds: u64,
    /// Sizes of the cache, in percent of what all objects asked for take.
    #[arg(long, value_delimiter = ',', default_value = "1,5,10,20")]
    sizes: Vec<u64>,
    /// Replays only the traces with names that begin so.
    #[arg(long, default_value = "")]
    trace: String,
    /// An access log of the edge, as JSON lines.
    #[arg(long, default_value = SAMPLE_LOG)]
    log: PathBuf,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
    /// Given by `cargo test --benches`.
    #[arg(long, hide = true)]
    test: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    if !std::env::args().any(|argument| argument == "--bench" || argument == "--help") {
        return check();
    }
    let options = Options::parse();
    let mut out = io::stdout().lock();
    head(&mut out)?;
    for name in ["zipf 0.8", "zipf 0.9", "zipf 1", "scan", "burst"] {
        if !name.starts_with(&options.trace) {
            continue;
        }
        let made = (1..=options.seeds).map(|seed| {
            let shape = Shape { paths: options.paths, fetches: options.fetches, seed };
            trace(name, shape)
        });
        table(&mut out, made, &options.sizes)?;
    }
    if "log".starts_with(&options.trace) {
        table(&mut out, std::iter::once(log::read(&options.log)?), &options.sizes)?;
    }
    Ok(())
}

fn trace(name: &str, shape: Shape) -> Trace {
    match name {
        "zipf 0.8" => traces::zipf(shape, 0.8),
        "zipf 0.9" => traces::zipf(shape, 0.9),
        "zipf 1" => traces::zipf(shape, 1.0),
        "scan" => traces::scan(shape),
        _ => traces::burst(shape),
    }
}

fn head(out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{}", traces::sizes_about())?;
    writeln!(out, "the first {} % of a trace fill the cache", replay::WARM_UP_PERCENT)?;
    for line in Choice::about() {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

/// Replays traces that differ in their seeds, and prints the means.
fn table(
    out: &mut impl Write,
    traces: impl Iterator<Item = Trace>,
    sizes: &[u64],
) -> io::Result<()> {
    let mut runs: Vec<Vec<Ratios>> = vec![Vec::new(); sizes.len() * Choice::ALL.len()];
    let (mut name, mut about, mut footprints) = (String::new(), String::new(), Vec::new());
    for trace in traces {
        let objects = replay::objects(&trace);
        let footprint = replay::footprint(&trace, &objects);
        footprints.push(format!("{:.3}", footprint as f64 / 1e9));
        for (row, (size, choice)) in rows(sizes).enumerate() {
            let limit = (footprint / 100).saturating_mul(size);
            let mut policy = choice.build(&objects, limit);
            runs[row].push(replay::replay(&trace, &objects, limit, policy.as_mut()));
        }
        if about.is_empty() {
            (name, about) = (trace.name, trace.about);
        }
    }
    writeln!(out, "\n{name}: {about}; footprint {} GB (each seed)", footprints.join(", "))?;
    writeln!(
        out,
        "{:<9} {:>6} {:<11} {:>9} {:>8} {:>8} {:>8} {:>9}",
        "trace", "cache", "policy", "objects %", "bytes %", "over LRU", "least", "B/object"
    )?;
    for (row, (size, choice)) in rows(sizes).enumerate() {
        let base = &runs[row / Choice::ALL.len() * Choice::ALL.len()];
        let gains = runs[row].iter().zip(base).map(|(run, base)| run.byte_hits - base.byte_hits);
        let gains: Vec<f64> = gains.collect();
        writeln!(
            out,
            "{name:<9} {size:>4} % {:<11} {:>9.1} {:>8.1} {:>+8.1} {:>+8.1} {:>9.0}",
            choice.name(),
            mean(runs[row].iter().map(|run| run.object_hits)),
            mean(runs[row].iter().map(|run| run.byte_hits)),
            mean(gains.iter().copied()),
            gains.iter().copied().fold(f64::INFINITY, f64::min),
            mean(runs[row].iter().map(|run| run.index_bytes)),
        )?;
    }
    Ok(())
}

fn rows(sizes: &[u64]) -> impl Iterator<Item = (u64, Choice)> + '_ {
    sizes.iter().flat_map(|&size| Choice::ALL.map(|choice| (size, choice)))
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len().max(1);
    values.sum::<f64>() / count as f64
}

/// Small traces, the sample among them: fails if the store is worse than it should be.
fn check() -> Result<(), Box<dyn Error>> {
    let shape = Shape { paths: 4000, fetches: 40_000, seed: 1 };
    let made = ["zipf 0.9", "scan", "burst"].map(|name| trace(name, shape));
    for trace in made.into_iter().chain([log::read(SAMPLE_LOG.as_ref())?]) {
        let objects = replay::objects(&trace);
        let limit = replay::footprint(&trace, &objects) / 20;
        let byte_hits = |choice: Choice| {
            let mut policy = choice.build(&objects, limit);
            replay::replay(&trace, &objects, limit, policy.as_mut()).byte_hits
        };
        let (store, plain) = (byte_hits(Choice::Store), byte_hits(Choice::S3FifoOneUse));
        if store < plain - STORE_LOSS_MAX {
            let name = &trace.name;
            return Err(format!("{name}: store {store:.1} % of bytes, plain {plain:.1} %").into());
        }
    }
    Ok(())
}
