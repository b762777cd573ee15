//! The store at ten thousand to ten million objects: how long a start takes until its first hit and
//! until the eviction order is loaded, memory, and what a look-up costs. Every step is a process of
//! its own, so that its figures are its own.
//!
//! Run with `cargo bench --bench store`, with `-- --help` for its options. Without `--bench`, as
//! `cargo test --benches` runs it, it fills a small store and checks that all is found again.
//!
//! The objects come in by `Disks::import`, a thousand in one change: the bytes on disk are those of
//! a commit each. Memory counts all of the process: the engine's caches and filters, the order,
//! and, since every start evicts some objects, what is remembered of those that left.

#![expect(clippy::cast_precision_loss, reason = "figures to look at: far below 2^52")]

mod objects;
#[path = "../index/process.rs"]
mod process;

use clap::Parser;
use narthex::config::Disk;
use narthex::metrics::Metrics;
use narthex::store::{Disks, StoredBody};
use narthex::tasks::Tasks;
use objects::{body, key, mix, object};
use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// Objects in one change of the index.
const BATCH: u64 = 1000;
/// Objects that are put in a full store, so that as many go.
const EVICTED: u64 = 2000;
/// How long a process may take to end in good order.
const PATIENCE: Duration = Duration::from_mins(10);
/// More bytes than any store here counts.
const LIMIT: u64 = 1 << 50;

/// Starts, memory and look-ups of the store.
#[derive(Debug, Clone, Parser)]
#[command(name = "store")]
struct Options {
    /// Sizes of the store, in objects.
    #[arg(long, value_delimiter = ',', default_value = "10000,100000")]
    objects: Vec<u64>,
    /// Look-ups of each kind.
    #[arg(long, default_value_t = 100_000)]
    look_ups: u64,
    /// The folder for the files; a new one is made in it and removed at the end.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    folder: PathBuf,
    /// Used by this program for its own processes.
    #[arg(long, hide = true)]
    step: Option<String>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
    /// Given by `cargo test --benches`.
    #[arg(long, hide = true)]
    test: bool,
}

/// How each row is called: the step and the figure that it shows.
const ROWS: [(&str, &str, &str); 19] = [
    ("fill", "cpu_us", "fill: CPU us an object"),
    ("fill", "amplification", "fill: bytes written / stored"),
    ("fill", "disk_mb", "disk, MB"),
    ("start", "hit_ms", "start: ms from exec to the first hit"),
    ("start", "hit_cpu_ms", "start: CPU ms to the first hit"),
    ("start", "loaded_ms", "start: ms until the order is loaded"),
    ("start", "loaded_cpu_ms", "start: CPU ms until then"),
    ("start", "loaded_mb", "RSS once loaded, MB"),
    ("start", "order_bytes", "the order alone, bytes an object"),
    ("start", "snapshot_mb", "snapshot of the order, MB"),
    ("bare", "loaded_cpu_ms", "start without a snapshot: CPU ms until loaded"),
    ("killed", "hit_ms", "start after a kill: ms to the first hit"),
    ("start", "present_us", "look-up, present: CPU us"),
    ("start", "absent_us", "look-up, absent: CPU us"),
    ("start", "present_wall_us", "look-up, present: wall us"),
    ("start", "absent_wall_us", "look-up, absent: wall us"),
    ("start", "full_mb", "RSS after look-ups and evictions, MB"),
    ("start", "loaded_bytes", "RSS over an empty store, once loaded, bytes an object"),
    ("start", "full_bytes", "RSS over an empty store, at the end, bytes an object"),
];

fn main() -> Outcome<()> {
    if !std::env::args().any(|argument| argument == "--bench" || argument == "--help") {
        return check();
    }
    let options = Options::parse();
    if let Some(step) = &options.step {
        let objects = options.objects.first().copied().unwrap_or(0);
        return run(step, &options, objects);
    }
    let mut figures = BTreeMap::new();
    let sizes: Vec<u64> = std::iter::once(0).chain(options.objects.iter().copied()).collect();
    for objects in &sizes {
        let place = tempfile::tempdir_in(&options.folder)?;
        let one =
            Options { objects: vec![*objects], folder: place.path().to_owned(), ..options.clone() };
        for step in ["fill", "start", "bare", "kill", "killed"] {
            for (name, figure) in child(step, &one)? {
                figures.insert((*objects, step, name), figure);
            }
        }
        over_empty(&mut figures, *objects);
    }
    table(&options, &figures)
}

type Figures = BTreeMap<(u64, &'static str, String), f64>;

/// What each object takes beside what an empty store takes.
fn over_empty(figures: &mut Figures, objects: u64) {
    for (megabytes, bytes) in [("loaded_mb", "loaded_bytes"), ("full_mb", "full_bytes")] {
        let figure = |objects| figures.get(&(objects, "start", megabytes.to_owned())).copied();
        if let (Some(full), Some(empty)) = (figure(objects), figure(0))
            && objects > 0
        {
            let each = (full - empty) * 1e6 / objects as f64;
            figures.insert((objects, "start", bytes.to_owned()), each);
        }
    }
}

/// Runs one step as a process of its own and reads what it says; a figure without a value is the
/// time since that process was started, in milliseconds.
fn child(step: &str, options: &Options) -> Outcome<Vec<(String, f64)>> {
    let objects = options.objects.first().copied().unwrap_or(0);
    let started = Instant::now();
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--bench", "--step", step, "--objects", &objects.to_string()])
        .args(["--look-ups", &options.look_ups.to_string()])
        .arg("--folder")
        .arg(&options.folder)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut figures = Vec::new();
    for line in BufReader::new(child.stdout.take().ok_or("no output")?).lines() {
        let line = line?;
        match line.split_once(' ') {
            None if line == "kill" => {
                child.kill()?;
                break;
            }
            None => figures.push((line, started.elapsed().as_secs_f64() * 1e3)),
            Some((name, figure)) => figures.push((name.to_owned(), figure.parse()?)),
        }
    }
    let status = child.wait()?;
    if step != "kill" && !status.success() {
        return Err(format!("the step {step} ended with {status}").into());
    }
    Ok(figures)
}

fn say(name: &str, figure: f64) -> Outcome<()> {
    tell(&format!("{name} {figure}"))
}

fn tell(line: &str) -> Outcome<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn run(step: &str, options: &Options, objects: u64) -> Outcome<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        match step {
            "fill" => fill(options, objects).await,
            "start" => start(options, objects).await,
            "bare" => bare(options, objects).await,
            "kill" => kill(options, objects).await,
            "killed" => first_hit(&opened(&options.folder, LIMIT)?.0, objects).await,
            other => Err(format!("no step is called {other:?}").into()),
        }
    })
}

fn opened(folder: &Path, size: u64) -> Outcome<(Disks, Tasks)> {
    let tasks = Tasks::new();
    let disk = Disk::unscrubbed(folder.join("store"), size);
    Ok((Disks::open(&[disk], Metrics::new()?, tasks.clone())?, tasks))
}

async fn closed(store: Disks, tasks: Tasks) -> Outcome<()> {
    let has_ended = tasks.drain(PATIENCE).await;
    drop(store);
    if has_ended { Ok(()) } else { Err("the store did not close".into()) }
}

/// Puts objects in the store, `BATCH` in a change.
fn import(store: &Disks, numbers: std::ops::Range<u64>) -> Outcome<u64> {
    let (mut first, mut stored) = (numbers.start, 0);
    while first < numbers.end {
        let batch: Vec<_> = (first..numbers.end.min(first + BATCH)).map(object).collect();
        stored += batch
            .iter()
            .map(|(meta, body)| (meta.key.as_str().len() + body.len()) as u64 + 200)
            .sum::<u64>();
        store.import(batch)?;
        first += BATCH;
    }
    Ok(stored)
}

async fn fill(options: &Options, objects: u64) -> Outcome<()> {
    let (store, tasks) = opened(&options.folder, LIMIT)?;
    store.loaded().await;
    let (cpu, written) = (process::processor_time()?, process::written_bytes()?);
    let stored = import(&store, 0..objects)?;
    std::fs::write(usage_path(options), store.usage().bytes.max(1 << 20).to_string())?;
    closed(store, tasks).await?;
    say("cpu_us", micros(process::processor_time_since(cpu)?, objects))?;
    let written = process::written_bytes()? - written;
    say("amplification", written as f64 / stored.max(1) as f64)?;
    say("disk_mb", process::disk_bytes(&options.folder)? as f64 / 1e6)
}

/// A hit, or a miss in an empty store, as soon as the store is open.
async fn first_hit(store: &Disks, objects: u64) -> Outcome<()> {
    let found = store.get(&key(objects / 2)).await;
    tell("hit_ms")?;
    if found.is_none() && objects > 0 {
        return Err("an object is gone".into());
    }
    Ok(())
}

async fn start(options: &Options, objects: u64) -> Outcome<()> {
    // As full as it is: what is put in later makes others go.
    let size = std::fs::read_to_string(usage_path(options))?.parse()?;
    let (store, tasks) = opened(&options.folder, size)?;
    first_hit(&store, objects).await?;
    say("hit_cpu_ms", process::processor_time()?.as_secs_f64() * 1e3)?;
    store.loaded().await;
    tell("loaded_ms")?;
    say("loaded_cpu_ms", process::processor_time()?.as_secs_f64() * 1e3)?;
    say("loaded_mb", process::resident_bytes()? as f64 / 1e6)?;
    say("order_bytes", store.memory().order_bytes as f64 / objects.max(1) as f64)?;
    let order = options.folder.join("store/ORDER").metadata().map_or(0, |order| order.len());
    say("snapshot_mb", order as f64 / 1e6)?;
    if objects > 0 {
        look_up(&store, options, objects).await?;
        import(&store, objects..objects + EVICTED.min(objects / 2))?;
        if store.usage().bytes > size {
            return Err("nothing was evicted".into());
        }
    }
    say("full_mb", process::resident_bytes()? as f64 / 1e6)?;
    closed(store, tasks).await
}

/// The file in which a fill notes how many bytes the store counts.
fn usage_path(options: &Options) -> PathBuf {
    options.folder.join("usage")
}

async fn look_up(store: &Disks, options: &Options, objects: u64) -> Outcome<()> {
    for (name, offset) in [("present", 0), ("absent", 1 << 40)] {
        // The first round warms caches up.
        looked_up(store, options.look_ups, objects, offset, 0).await?;
        let (cpu, started) = (process::processor_time()?, Instant::now());
        looked_up(store, options.look_ups, objects, offset, 1).await?;
        let cpu = process::processor_time_since(cpu)?;
        say(&format!("{name}_us"), micros(cpu, options.look_ups))?;
        say(&format!("{name}_wall_us"), micros(started.elapsed(), options.look_ups))?;
    }
    Ok(())
}

async fn looked_up(
    store: &Disks,
    look_ups: u64,
    objects: u64,
    offset: u64,
    round: u64,
) -> Outcome<()> {
    for at in 0..look_ups {
        let number = offset + mix(at ^ round << 40) % objects;
        let found = store.get(&key(number)).await;
        if found.is_some() != (offset == 0) {
            return Err(format!("object {number}: not as it was left").into());
        }
    }
    Ok(())
}

/// A start as after a crash before any snapshot.
async fn bare(options: &Options, objects: u64) -> Outcome<()> {
    let order = options.folder.join("store/ORDER");
    if objects > 0 {
        std::fs::remove_file(order)?;
    }
    let (store, tasks) = opened(&options.folder, LIMIT)?;
    store.loaded().await;
    say("loaded_cpu_ms", process::processor_time()?.as_secs_f64() * 1e3)?;
    closed(store, tasks).await
}

/// Fills the journal and ends in no order.
async fn kill(options: &Options, objects: u64) -> Outcome<()> {
    let (store, _tasks) = opened(&options.folder, LIMIT)?;
    store.loaded().await;
    let first = objects.saturating_mul(2) + EVICTED;
    import(&store, first..first + objects.min(100_000))?;
    tell("kill")?;
    loop {
        std::thread::park();
    }
}

fn micros(time: Duration, among: u64) -> f64 {
    time.as_secs_f64() * 1e6 / among.max(1) as f64
}

fn table(options: &Options, figures: &Figures) -> Outcome<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{} look-ups of each kind; small objects, one body in ten", options.look_ups)?;
    let sizes: Vec<u64> = std::iter::once(0).chain(options.objects.iter().copied()).collect();
    write!(out, "{:<54}", "objects")?;
    for size in &sizes {
        write!(out, " {size:>10}")?;
    }
    writeln!(out)?;
    for (step, name, title) in ROWS {
        write!(out, "{title:<54}")?;
        for size in &sizes {
            match figures.get(&(*size, step, name.to_owned())) {
                Some(figure) => write!(out, " {figure:>10.1}")?,
                None => write!(out, " {:>10}", "-")?,
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

/// A small store, filled in bulk, is found again whole, and its order with it.
fn check() -> Outcome<()> {
    let place = tempfile::tempdir()?;
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        let (store, tasks) = opened(place.path(), LIMIT)?;
        store.loaded().await;
        import(&store, 0..2500)?;
        closed(store, tasks).await?;
        let (store, tasks) = opened(place.path(), LIMIT)?;
        for number in 0..2500 {
            let found = store.get(&key(number)).await.ok_or("an object is gone")?;
            let StoredBody::Bytes(found) = found.body else { return Err("a file".into()) };
            if found != body(number) {
                return Err(format!("object {number} has another body").into());
            }
        }
        store.loaded().await;
        let usage = store.usage();
        closed(store, tasks).await?;
        if usage.objects == 2500 { Ok(()) } else { Err(format!("{usage:?}").into()) }
    })
}
