//! `narthex check` and `narthex config`, and how every command reads its config.

use super::arguments::{ConfigArgs, ReferenceArgs};
use super::output::{EXIT_USAGE, complain, say};
use crate::config::{self, ConfigReadError, FlagOverrides, LoadedConfig, Problems, Sources};
use crate::metrics::Metrics;
use std::path::Path;
use std::process::ExitCode;

/// Why there is no config.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConfigError {
    #[error(transparent)]
    Read(#[from] ConfigReadError),
    #[error("{0}")]
    Problems(#[from] Problems),
}

/// Reads the config from its file, the environment and the flags.
pub(super) fn load(file: Option<&Path>, flags: FlagOverrides) -> Result<LoadedConfig, ConfigError> {
    let file = match file {
        Some(path) => Some((path.to_owned(), config::read_file(path)?)),
        None => None,
    };
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    Ok(config::load(&Sources { file, environment, flags })?)
}

/// Says what is wrong, a line each.
pub(super) fn report(error: &ConfigError) -> ExitCode {
    for line in error.to_string().lines() {
        complain(line);
    }
    ExitCode::from(EXIT_USAGE)
}

/// `narthex check`.
pub(super) fn check(arguments: &ConfigArgs) -> ExitCode {
    match load(arguments.config.as_deref(), FlagOverrides::default()) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                complain(format_args!("warning: {warning}"));
            }
            let sites = loaded.config.sites.len();
            say(format_args!("the config is good: {sites} site(s)\n"));
            ExitCode::SUCCESS
        }
        Err(error) => report(&error),
    }
}

/// `narthex config`.
pub(super) fn print_reference(arguments: &ReferenceArgs) -> ExitCode {
    if !arguments.metrics {
        say(config::reference());
        return ExitCode::SUCCESS;
    }
    match Metrics::new() {
        Ok(metrics) => {
            say(metrics.reference());
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}
