//! The configuration: what an operator may set, read from TOML, environment and flags.
//!
//! `settings` defines each key once; `scope` and `overlay` gather values; `process`, `sites`,
//! `origins` and `trust` make the checked [`Config`] of them. Every mistake is told at once.
//! [`load`] is pure and may be called at any time; [`read_file`] blocks for one small file.

pub mod access;
pub mod caching;
pub mod lifetimes;
mod model;
pub mod settings;

mod caching_site;
mod filters;
mod origin_access;
mod origin_url;
mod origins;
mod overlay;
mod problem;
mod process;
mod reference;
mod scope;
mod sites;
mod trust;
mod value;

#[cfg(test)]
mod tests;

pub use access::{AskOrder, Exposure, Login, Objects, OriginProxy, OriginTurns, ProxyUrl};
pub use caching::{Caching, CachingRule, PathPattern, QueryKept, RequestControl, SetCookie};
pub use lifetimes::{LifetimeRule, LifetimeTerms, Lifetimes};
pub use model::*;
pub use overlay::FlagOverrides;
pub use problem::{ConfigProblem, Problems, SourcePlace};
pub use reference::reference;

use problem::ProblemReport;
use scope::{Syntax, TableValues};
use std::io::Read as _;
use std::path::{Path, PathBuf};

/// The sources of a configuration. Flags win over the environment, that over the file, that over
/// the defaults.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file's path, for messages, and its text.
    pub file: Option<(PathBuf, String)>,
    /// The whole environment of the process, handed in: it is never read here. Of it count the
    /// variables that begin with `NARTHEX_`, and those that name the default cache folder.
    pub environment: Vec<(String, String)>,
    /// The flags that were given.
    pub flags: FlagOverrides,
}

/// A configuration without a fault.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadedConfig {
    /// The configuration.
    pub config: Config,
    /// What is surely not meant, but hurts nothing.
    pub warnings: Vec<ConfigProblem>,
}

/// Why a configuration file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ConfigReadError {
    /// There is no such file.
    #[error(
        "{file}: there is no such file; write one (narthex config prints every setting), \
         or leave --config and NARTHEX_CONFIG out for the defaults"
    )]
    Missing {
        /// Its path.
        file: String,
    },
    /// The system did not let it be read.
    #[error("{file}: cannot be read: {source}; name a file that this user may read")]
    Unreadable {
        /// Its path.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is larger than any configuration.
    #[error("{file}: is larger than {max} bytes, so it is no configuration; name another file")]
    TooLarge {
        /// Its path.
        file: String,
        /// Bytes a configuration may have.
        max: u64,
    },
    /// It is not a text.
    #[error("{file}:{line}: is not UTF-8 from this line on; write it as UTF-8 text")]
    NotText {
        /// Its path.
        file: String,
        /// The line, from 1, of the first wrong byte.
        line: usize,
    },
}

/// Bytes that a configuration file may have.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Makes the configuration of what the sources say, or tells every mistake in them at once.
pub fn load(sources: &Sources) -> Result<LoadedConfig, Problems> {
    let mut report = ProblemReport::default();
    let (mut root, syntax) = match &sources.file {
        Some((path, text)) => scope::read(&path.display().to_string(), text, &mut report),
        None => (TableValues::empty(), Syntax::Good),
    };
    overlay::environment(&mut root, &sources.environment, &mut report);
    overlay::flags(&mut root, &sources.flags, &mut report);
    if syntax == Syntax::Bad {
        return Err(sorted(report.problems));
    }
    process::check_listeners(&root, &mut report);
    let config = Config {
        server: process::server(&root, &mut report),
        admin: process::admin(&root),
        memory: process::memory(&root),
        disks: process::disks(&root, &sources.environment, &mut report),
        log: process::log(&root, &mut report),
        sites: sites::sites(&root, &mut report),
    };
    if report.problems.is_empty() {
        Ok(LoadedConfig { config, warnings: sorted(report.warnings).0 })
    } else {
        Err(sorted(report.problems))
    }
}

/// Reads a configuration file for [`Sources`]. Blocks; at most 4 MiB.
pub fn read_file(path: &Path) -> Result<String, ConfigReadError> {
    let file = path.display().to_string();
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)
        .and_then(|open| open.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Err(ConfigReadError::Missing { file })
        }
        Err(source) => Err(ConfigReadError::Unreadable { file, source }),
        Ok(read) if read as u64 > FILE_BYTES_MAX => {
            Err(ConfigReadError::TooLarge { file, max: FILE_BYTES_MAX })
        }
        Ok(_) => String::from_utf8(bytes).map_err(|error| {
            let good = error.as_bytes().iter().take(error.utf8_error().valid_up_to());
            let line = good.filter(|byte| **byte == b'\n').count() + 1;
            ConfigReadError::NotText { file, line }
        }),
    }
}

fn sorted(mut problems: Vec<ConfigProblem>) -> Problems {
    problems.sort();
    problems.dedup();
    Problems(problems)
}
