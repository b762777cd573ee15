//! Files that hold secrets: read whole and bounded, told apart by a stamp, so that a change is seen
//! without reading. No state; reads block, on threads made for that. Nothing here puts contents in
//! an error or a log.

use crate::tasks::Tasks;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

/// The longest file of keys, profiles or passwords that is read.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// What tells one state of a file from the next: which file it is, its length, and when it changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &std::fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// The stamp of the file at `path` now; links are followed, as a rotation moves them.
pub(super) async fn stamp(path: Arc<Path>, tasks: &Tasks) -> Result<Stamp, String> {
    let shown = path.display().to_string();
    let read = move || std::fs::metadata(&path).map(|metadata| Stamp::of(&metadata));
    flat(tasks.blocking("origin secret file", read).await)
        .map_err(|error| format!("cannot look at {shown}: {error}"))
}

/// The text of the file at `path`, with the stamp that it had.
pub(super) async fn read_text(path: Arc<Path>, tasks: &Tasks) -> Result<(String, Stamp), String> {
    let shown = path.display().to_string();
    let read = move || {
        let file = std::fs::File::open(&path)?;
        let stamp = Stamp::of(&file.metadata()?);
        Ok((bounded(file)?, stamp))
    };
    let (bytes, stamp) = flat(tasks.blocking("origin secret file", read).await)
        .map_err(|error| format!("cannot read {shown}: {error}"))?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown} is not UTF-8 text"))?;
    Ok((text, stamp))
}

/// The bytes of the file at `path`, as far as the longest that is read.
pub(super) fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    bounded(std::fs::File::open(path)?)
}

fn bounded(file: std::fs::File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn flat<T, E: std::fmt::Display>(result: Result<io::Result<T>, E>) -> Result<T, String> {
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// The one word that a file of a key or token holds: visible ASCII, nothing else but white space
/// around it.
pub(super) fn one_word<'t>(text: &'t str, path: &Path) -> Result<&'t str, String> {
    let value = text.trim();
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!(
            "{} must hold one value of visible ASCII characters and nothing else",
            path.display()
        ));
    }
    Ok(value)
}

/// The one line that a file of a password holds, spaces and all.
pub(super) fn one_line<'t>(text: &'t str, path: &Path) -> Result<&'t str, String> {
    let line = text.strip_suffix('\n').unwrap_or(text);
    let line = line.strip_suffix('\r').unwrap_or(line);
    if line.is_empty() || line.chars().any(char::is_control) {
        return Err(format!("{} must hold one line and nothing else", path.display()));
    }
    Ok(line)
}
