//! fjall or redb for the index of the store: fills each with synthetic entries as the store's
//! commits do, kills it, opens it again, and measures look-ups, loading, deletes, memory, disk and
//! what is written. Every step is a process of its own, so that its figures are its own.
//!
//! Run with `cargo bench --bench index`, with `-- --help` for its options. Without `--bench`, as
//! `cargo test --benches` runs it, it fills a few entries and checks that they are found.

#![expect(clippy::cast_precision_loss, reason = "figures to look at: far below 2^52")]

mod engines;
mod entries;
mod process;

use clap::Parser;
use engines::{Engine, Outcome};
use entries::{Entry, hash, mix};
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How old a change gets before it is synced.
const SYNC_INTERVAL: Duration = Duration::from_secs(5);
/// Entries that are added after the fill, until the kill.
const KILLED_AFTER: u64 = 20_000;
/// One entry in so many is deleted.
const DELETED_PART: u64 = 20;

/// fjall or redb for the index of the store.
#[derive(Debug, Clone, Parser)]
#[command(name = "index")]
struct Options {
    /// Entries.
    #[arg(long, default_value_t = 200_000)]
    entries: u64,
    /// Entries in one atomic change.
    #[arg(long, default_value_t = 1)]
    batch: u64,
    /// Bytes of a small body beside each record.
    #[arg(long, default_value_t = 700)]
    body: usize,
    /// Look-ups of each kind.
    #[arg(long, default_value_t = 200_000)]
    look_ups: u64,
    /// Engines.
    #[arg(long, value_delimiter = ',', default_value = "fjall,redb")]
    engines: Vec<String>,
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

/// The steps, in their order, and how each row is called.
const ROWS: [(&str, &str, &str); 19] = [
    ("fill", "cpu_us", "fill: CPU us an entry"),
    ("fill", "wall_us", "fill: wall us an entry"),
    ("fill", "payload", "fill: payload, MB"),
    ("fill", "amplification", "fill: bytes written / payload"),
    ("fill", "resident_mb", "fill: RSS at its end, MB"),
    ("open", "wall_ms", "open after a kill: ms to the first answer"),
    ("open", "lost", "open after a kill: committed entries lost"),
    ("look-up", "present_us", "look-up, present: CPU us"),
    ("look-up", "absent_us", "look-up, absent: CPU us"),
    ("look-up", "present_wall_us", "look-up, present: wall us"),
    ("look-up", "absent_wall_us", "look-up, absent: wall us"),
    ("look-up", "resident_mb", "look-up: RSS at its end, MB"),
    ("load", "order_us", "scan of the order: CPU us an entry"),
    ("load", "records_us", "scan of the records: CPU us an entry"),
    ("load", "resident_mb", "scan: RSS at its end, MB"),
    ("remove", "cpu_us", "delete: CPU us an entry"),
    ("remove", "wall_us", "delete: wall us an entry"),
    ("remove", "amplification", "delete: bytes written / payload dropped"),
    ("disk", "mb", "disk at the end, MB"),
];

fn main() -> Outcome<()> {
    if !std::env::args().any(|argument| argument == "--bench" || argument == "--help") {
        return check();
    }
    let options = Options::parse();
    if let Some(step) = &options.step {
        return run(step, &options);
    }
    let mut figures = BTreeMap::new();
    for engine in &options.engines {
        let place = tempfile::tempdir_in(&options.folder)?;
        let one = Options {
            engines: vec![engine.clone()],
            folder: place.path().to_owned(),
            ..options.clone()
        };
        for step in ["fill", "kill", "open", "look-up", "load", "remove", "disk"] {
            let said = child(step, &one)?;
            for (name, figure) in said {
                figures.insert((engine.clone(), step, name), figure);
            }
        }
    }
    table(&options, &figures)
}

/// Runs one step as a process of its own and reads what it says.
fn child(step: &str, options: &Options) -> Outcome<Vec<(String, f64)>> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["--bench", "--step", step, "--engines", &options.engines.join(",")])
        .args(["--entries", &options.entries.to_string(), "--batch", &options.batch.to_string()])
        .args(["--body", &options.body.to_string()])
        .args(["--look-ups", &options.look_ups.to_string()])
        .arg("--folder")
        .arg(&options.folder)
        .stdout(Stdio::piped())
        .spawn()?;
    let mut figures = Vec::new();
    for line in BufReader::new(child.stdout.take().ok_or("no output")?).lines() {
        let line = line?;
        if line == "kill me" {
            child.kill()?;
            break;
        }
        let (name, figure) = line.split_once(' ').ok_or("a line without a figure")?;
        figures.push((name.to_owned(), figure.parse()?));
    }
    let status = child.wait()?;
    if step != "kill" && !status.success() {
        return Err(format!("the step {step} ended with {status}").into());
    }
    Ok(figures)
}

fn say(name: &str, figure: f64) -> Outcome<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{name} {figure}")?;
    Ok(out.flush()?)
}

fn run(step: &str, options: &Options) -> Outcome<()> {
    let started = Instant::now();
    let name = options.engines.first().ok_or("name an engine")?;
    if step == "disk" {
        return say("mb", process::disk_bytes(&options.folder)? as f64 / 1e6);
    }
    let engine = engines::open(name, &options.folder)?;
    let engine = engine.as_ref();
    match step {
        "fill" => fill(engine, options),
        "kill" => add_until_killed(engine, options),
        "open" => opened(engine, options, started),
        "look-up" => look_up(engine, options),
        "load" => load(engine),
        "remove" => remove(engine, options),
        other => Err(format!("no step is called {other:?}").into()),
    }
}

/// Calls `change` with all entries, a batch at a time, and syncs every five seconds.
fn in_batches(
    engine: &dyn Engine,
    options: &Options,
    numbers: impl Iterator<Item = u64>,
    change: impl Fn(&[Entry]) -> Outcome<()>,
) -> Outcome<u64> {
    let (mut synced, mut payload) = (Instant::now(), 0);
    let mut batch = Vec::new();
    let mut numbers = numbers.peekable();
    while let Some(number) = numbers.next() {
        let entry = Entry::new(number, options.body);
        payload += entry.payload();
        batch.push(entry);
        if batch.len() as u64 >= options.batch || numbers.peek().is_none() {
            change(&batch)?;
            batch.clear();
        }
        if synced.elapsed() > SYNC_INTERVAL {
            engine.sync()?;
            synced = Instant::now();
        }
    }
    engine.sync()?;
    Ok(payload)
}

fn fill(engine: &dyn Engine, options: &Options) -> Outcome<()> {
    let (started, written) = (Instant::now(), process::written_bytes()?);
    let cpu = process::processor_time()?;
    let payload = in_batches(engine, options, 0..options.entries, |batch| engine.add(batch))?;
    say("cpu_us", micros(process::processor_time_since(cpu)?, options.entries))?;
    say("wall_us", micros(started.elapsed(), options.entries))?;
    say("payload", payload as f64 / 1e6)?;
    let written = process::written_bytes()? - written;
    say("amplification", written as f64 / payload as f64)?;
    say("resident_mb", process::resident_bytes()? as f64 / 1e6)
}

/// Adds entries after those of the fill, and does not end by itself.
fn add_until_killed(engine: &dyn Engine, options: &Options) -> Outcome<()> {
    let mut synced = Instant::now();
    for number in options.entries..options.entries + KILLED_AFTER {
        engine.add(&[Entry::new(number, options.body)])?;
        if synced.elapsed() > SYNC_INTERVAL {
            engine.sync()?;
            synced = Instant::now();
        }
    }
    writeln!(io::stdout(), "kill me")?;
    io::stdout().flush()?;
    loop {
        std::thread::park();
    }
}

fn opened(engine: &dyn Engine, options: &Options, started: Instant) -> Outcome<()> {
    if !engine.find(hash(options.entries / 2))? {
        return Err("an entry of the fill is gone".into());
    }
    say("wall_ms", started.elapsed().as_secs_f64() * 1e3)?;
    let mut lost = 0;
    for number in options.entries..options.entries + KILLED_AFTER {
        lost += u64::from(!engine.find(hash(number))?);
    }
    say("lost", lost as f64)
}

fn look_up(engine: &dyn Engine, options: &Options) -> Outcome<()> {
    let kinds = [("present", 0, 1), ("absent", 1 << 40, 0)];
    for (name, offset, expected) in kinds {
        let measure = |round: u64| -> Outcome<()> {
            for at in 0..options.look_ups {
                let number = offset + mix(at ^ round << 32) % options.entries;
                if u64::from(engine.find(hash(number))?) != expected {
                    return Err(format!("entry {number}: not as it was left").into());
                }
            }
            Ok(())
        };
        // The first round warms the engine's own cache up.
        measure(0)?;
        let (cpu, started) = (process::processor_time()?, Instant::now());
        measure(1)?;
        let cpu = process::processor_time_since(cpu)?;
        say(&format!("{name}_us"), micros(cpu, options.look_ups))?;
        say(&format!("{name}_wall_us"), micros(started.elapsed(), options.look_ups))?;
    }
    say("resident_mb", process::resident_bytes()? as f64 / 1e6)
}

fn load(engine: &dyn Engine) -> Outcome<()> {
    let cpu = process::processor_time()?;
    let entries = engine.load_order()?;
    let order = process::processor_time()?;
    say("order_us", micros(order.saturating_sub(cpu), entries))?;
    let records = engine.load_records()?;
    say("records_us", micros(process::processor_time_since(order)?, records))?;
    say("resident_mb", process::resident_bytes()? as f64 / 1e6)
}

fn remove(engine: &dyn Engine, options: &Options) -> Outcome<()> {
    let (started, written) = (Instant::now(), process::written_bytes()?);
    let cpu = process::processor_time()?;
    let number = (options.entries / DELETED_PART).max(1);
    let chosen = (0..number).map(|at| at * DELETED_PART + mix(at) % DELETED_PART);
    let payload = in_batches(engine, options, chosen, |batch| engine.remove(batch))?;
    say("cpu_us", micros(process::processor_time_since(cpu)?, number))?;
    say("wall_us", micros(started.elapsed(), number))?;
    let written = process::written_bytes()? - written;
    say("amplification", written as f64 / payload as f64)
}

fn micros(time: Duration, among: u64) -> f64 {
    time.as_secs_f64() * 1e6 / among.max(1) as f64
}

fn table(options: &Options, figures: &BTreeMap<(String, &str, String), f64>) -> Outcome<()> {
    let mut out = io::stdout().lock();
    let Options { entries, batch, body, look_ups, .. } = options;
    writeln!(
        out,
        "{entries} entries, {batch} a change, records of 300 B, bodies of {body} B, {look_ups} \
         look-ups of each kind"
    )?;
    write!(out, "{:<44}", "")?;
    for engine in &options.engines {
        write!(out, " {engine:>10}")?;
    }
    writeln!(out)?;
    for (step, name, title) in ROWS {
        write!(out, "{title:<44}")?;
        for engine in &options.engines {
            match figures.get(&(engine.clone(), step, name.to_owned())) {
                Some(figure) => write!(out, " {figure:>10.2}")?,
                None => write!(out, " {:>10}", "-")?,
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

/// A few entries in either engine: found if they are there, gone if they were removed.
fn check() -> Outcome<()> {
    for name in ["fjall", "redb"] {
        let place = tempfile::tempdir()?;
        check_one(name, place.path())?;
    }
    Ok(())
}

fn check_one(name: &str, place: &Path) -> Outcome<()> {
    let entries: Vec<Entry> = (0..100).map(|number| Entry::new(number, 70)).collect();
    {
        let engine = engines::open(name, place)?;
        engine.add(&entries)?;
        engine.remove(entries.get(..10).unwrap_or_default())?;
        engine.sync()?;
    }
    let engine = engines::open(name, place)?;
    let found = (0..110).map(|number| engine.find(hash(number)));
    let found: Vec<bool> = found.collect::<Result<_, _>>()?;
    let counted = (engine.load_order()?, engine.load_records()?);
    let expected: Vec<bool> = (0..110).map(|number| (10..100).contains(&number)).collect();
    if found != expected || counted != (90, 90) {
        return Err(format!("{name}: {counted:?} entries, found {found:?}").into());
    }
    Ok(())
}
