//! A trace from an access log of ours: JSON lines, of which `url`, `response_body_size`,
//! `response_state` and `class` are read. Called by `main`.

use crate::traces::Trace;
use serde::Deserialize;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

/// What made a log unusable.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// It could not be read.
    #[error("cannot read {path}: {source}; name a readable access log")]
    Read {
        /// The log.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not one of an access log.
    #[error("{path}, line {line}: {source}; name an access log written as JSON lines")]
    Line {
        /// The log.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Why.
        source: serde_json::Error,
    },
    /// No line asks for an object.
    #[error("{path} has no request for a stored object; log more requests")]
    Empty {
        /// The log.
        path: PathBuf,
    },
}

#[derive(Deserialize)]
struct Line {
    url: String,
    response_body_size: u64,
    response_state: String,
    class: Option<String>,
}

/// States of answers that the cache gave, or kept.
const STATES: [&str; 6] =
    ["hit_memory", "hit_disk", "hit_stale", "revalidated", "miss", "collapsed"];

/// Reads a log. An object is as large as the largest answer with its URL, since an answer may be
/// a range of it or none of its body; URLs without a seen body are left out.
pub(crate) fn read(path: &Path) -> Result<Trace, LogError> {
    let unread = |source| LogError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(unread)?;
    let mut numbers: HashMap<String, u32> = HashMap::new();
    let (mut bodies, mut requests, mut narinfos) = (Vec::new(), Vec::new(), 0_u64);
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let text = line.map_err(unread)?;
        let failed = |source| LogError::Line { path: path.to_owned(), line: number + 1, source };
        let line: Line = serde_json::from_str(&text).map_err(failed)?;
        if !STATES.contains(&line.response_state.as_str()) {
            continue;
        }
        let next = bodies.len() as u32;
        let object = *numbers.entry(line.url).or_insert(next);
        if object == next {
            bodies.push(0);
        }
        bodies[object as usize] = line.response_body_size.max(bodies[object as usize]);
        narinfos += u64::from(line.class.as_deref() == Some("narinfo"));
        requests.push(object);
    }
    requests.retain(|&object| bodies[object as usize] > 0);
    if requests.is_empty() {
        return Err(LogError::Empty { path: path.to_owned() });
    }
    let about = format!(
        "{}: {} requests, {narinfos} of them for narinfos, of {} objects",
        path.display(),
        requests.len(),
        bodies.len()
    );
    Ok(Trace { name: "log".to_owned(), about, bodies, requests })
}
