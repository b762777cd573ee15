//! What a process costs, as the kernel counts it. Linux only. Of two benchmarks.

use std::error::Error;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The kernel's clock ticks in a second, as `/proc` uses them.
const TICKS: u64 = 100;

/// Processor time that this process has used since it had used `before`.
pub(crate) fn processor_time_since(before: Duration) -> Outcome<Duration> {
    Ok(processor_time()?.saturating_sub(before))
}

/// Processor time that this process has used.
pub(crate) fn processor_time() -> Outcome<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // The second field is the program's name in parentheses; user and system time are the 14th
    // and the 15th.
    let (_, fields) = stat.rsplit_once(')').ok_or("no name in /proc/self/stat")?;
    let ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let ticks: u64 = ticks.sum::<Result<_, _>>()?;
    Ok(Duration::from_millis(ticks * 1000 / TICKS))
}

/// Bytes of memory that this process has in use.
pub(crate) fn resident_bytes() -> Outcome<u64> {
    Ok(figure("/proc/self/status", "VmRSS:")? * 1024)
}

/// Bytes that this process has made the kernel write to disk, or will have.
pub(crate) fn written_bytes() -> Outcome<u64> {
    figure("/proc/self/io", "write_bytes:")
}

fn figure(path: &str, name: &str) -> Outcome<u64> {
    let text = std::fs::read_to_string(path)?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let figure = line.and_then(|line| line.split_whitespace().next());
    Ok(figure.ok_or_else(|| format!("no {name} in {path}"))?.parse()?)
}

/// Bytes that a folder takes on disk.
pub(crate) fn disk_bytes(folder: &Path) -> Outcome<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let metadata: Metadata = entry.metadata()?;
        bytes +=
            if metadata.is_dir() { disk_bytes(&entry.path())? } else { metadata.blocks() * 512 };
    }
    Ok(bytes)
}
