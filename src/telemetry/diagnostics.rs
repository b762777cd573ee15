//! The diagnostic log: `tracing` events to stderr, filtered by `[log] level`. Started once, by the
//! entry, and lives as long as the process.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// The names a filter's level may have.
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Why the diagnostic log did not start.
#[derive(Debug, thiserror::Error)]
pub enum LevelError {
    /// A word that names no level.
    #[error(
        "log.level: {word:?} is no level; write one of off, error, warn, info, debug, trace, \
         or directives such as \"info,narthex::fill=debug\""
    )]
    Unknown {
        /// The word.
        word: String,
    },
    /// A directive that does not parse.
    #[error("log.level: {level:?} is no filter: {source}")]
    Directive {
        /// The whole setting.
        level: String,
        /// What the parser said.
        #[source]
        source: ParseError,
    },
    /// Something in this process already receives the events.
    #[error("the diagnostic log was already started")]
    Started,
}

/// Modules of the index, whose everyday lines say nothing to an operator: warnings only, unless
/// they are asked for by name.
const STORAGE: [&str; 2] = ["fjall", "lsm_tree"];

/// A word alone must be a level: the filter's own parser would take a misspelt one for a module.
fn filter(level: &str) -> Result<EnvFilter, LevelError> {
    let words = level.split(',').map(str::trim).collect::<Vec<_>>();
    for &word in words.iter().filter(|word| !word.contains(['=', '['])) {
        if !LEVELS.iter().any(|known| known.eq_ignore_ascii_case(word)) {
            return Err(LevelError::Unknown { word: word.to_owned() });
        }
    }
    let mut directives = words.join(",");
    let is_loud = |word: &&str| !["off", "error", "warn"].contains(&word.to_lowercase().as_str());
    if words.iter().any(is_loud) && !STORAGE.iter().any(|module| level.contains(module)) {
        directives = format!("{}=warn,{directives}", STORAGE.join("=warn,"));
    }
    EnvFilter::try_new(directives)
        .map_err(|source| LevelError::Directive { level: level.to_owned(), source })
}

/// Starts the diagnostic log on stderr; `level` is the `[log] level` setting.
pub fn diagnostics(level: &str) -> Result<(), LevelError> {
    tracing_subscriber::fmt()
        .with_env_filter(filter(level)?)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .try_init()
        .map_err(|_| LevelError::Started)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_and_directives_pass() {
        for level in ["info", "WARN", "off", "info,narthex::fill=debug", "info, hyper=error"] {
            assert!(filter(level).is_ok(), "{level}");
        }
    }

    #[test]
    fn the_index_is_quiet_unless_it_is_asked_for() {
        assert!(filter("info").unwrap().to_string().contains("lsm_tree=warn"));
        let asked = filter("info,lsm_tree=debug").unwrap().to_string();
        assert!(asked.contains("lsm_tree=debug") && !asked.contains("fjall"), "{asked}");
        assert!(!filter("off").unwrap().to_string().contains("fjall"));
    }

    #[test]
    fn a_misspelt_level_is_named() {
        let error = filter("inof").unwrap_err().to_string();
        assert!(error.contains("\"inof\"") && error.contains("info"), "{error}");
        assert!(matches!(filter(""), Err(LevelError::Unknown { .. })));
        assert!(matches!(filter("narthex=lots"), Err(LevelError::Directive { .. })));
    }
}
