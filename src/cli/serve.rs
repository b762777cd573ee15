//! `narthex serve`: starts the edge, reloads it on SIGHUP, drains it on SIGTERM and SIGINT.

use super::arguments::ConfigArgs;
use super::config::{ConfigError, load, report};
use super::output::complain;
use crate::app::{self, RunningEdge, StartError, Surroundings};
use crate::config::{FlagOverrides, LoadedConfig};
use crate::telemetry;
use rustix::process::Resource;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};

#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("{0}")]
    Start(#[from] StartError),
    #[error("signals: {0}")]
    Signals(#[from] io::Error),
}

/// `narthex serve`.
pub(super) fn run(arguments: &ConfigArgs, flags: &FlagOverrides) -> ExitCode {
    let loaded = match load(arguments.config.as_deref(), flags.clone()) {
        Ok(loaded) => loaded,
        Err(error) => return report(&error),
    };
    let diagnostics = match telemetry::diagnostics(&loaded.config.log.level) {
        Ok(diagnostics) => diagnostics,
        Err(error) => {
            complain(error);
            return ExitCode::FAILURE;
        }
    };
    warn_of(&loaded);
    raise_open_files();
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(format_args!("cannot start the runtime: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let served = runtime.block_on(serve(loaded, arguments.config.as_deref(), flags));
    runtime.shutdown_background();
    drop(diagnostics);
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}

async fn serve(
    loaded: LoadedConfig,
    file: Option<&Path>,
    flags: &FlagOverrides,
) -> Result<(), ServeError> {
    let mut signals = Signals::new()?;
    let running = tokio::select! {
        running = app::start(loaded.config, Surroundings::default()) => running?,
        () = signals.stop() => {
            tracing::info!("stopped before the start was over");
            return Ok(());
        }
    };
    while let ServeSignal::Reload = signals.next().await {
        tokio::select! {
            () = reload(&running, file, flags) => {}
            () = signals.stop() => break,
        }
    }
    tracing::info!("stopping");
    tokio::select! {
        has_ended = running.drain() => {
            if !has_ended {
                tracing::warn!("some answers were cut at the end of [server.timeouts] drain");
            }
        }
        () = signals.stop() => tracing::warn!("second signal, stopping at once"),
    }
    tracing::info!("stopped");
    Ok(())
}

/// Lets the process open as many files as it may: connections and the files of objects count. The
/// usual soft limit of 1024 is for programs that do not know better.
fn raise_open_files() {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return;
    }
    limit.current = limit.maximum;
    if let Err(error) = rustix::process::setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "cannot raise the limit of open files; raise it by `ulimit -n`");
    }
}

/// A bad new config changes nothing and is reported.
async fn reload(running: &RunningEdge, file: Option<&Path>, flags: &FlagOverrides) {
    let loaded = match load(file, flags.clone()) {
        Ok(loaded) => loaded,
        Err(error @ (ConfigError::Read(_) | ConfigError::Problems(_))) => {
            for line in error.to_string().lines() {
                tracing::error!(problem = line, "reload refused, old config stays");
            }
            return;
        }
    };
    warn_of(&loaded);
    match running.reload(loaded.config).await {
        Ok(needs_restart) if needs_restart.is_empty() => tracing::info!("reloaded"),
        Ok(needs_restart) => {
            tracing::warn!(
                sections = needs_restart.join(", "),
                "reloaded; these sections need a restart"
            );
        }
        Err(error) => tracing::error!(%error, "reload refused, old config stays"),
    }
}

fn warn_of(loaded: &LoadedConfig) {
    for warning in &loaded.warnings {
        tracing::warn!(%warning, "config");
    }
}

enum ServeSignal {
    Reload,
    Stop,
}

struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> ServeSignal {
        tokio::select! {
            _ = self.hangup.recv() => ServeSignal::Reload,
            _ = self.terminate.recv() => ServeSignal::Stop,
            _ = self.interrupt.recv() => ServeSignal::Stop,
        }
    }

    /// Ready when the process is told to stop; a SIGHUP meanwhile is kept for later. Cancel safe.
    async fn stop(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
