//! The commands, and the only place that prints. Each command gives an exit code: 0 for done, 1
//! for a failure while working, 2 for a wrong call or a wrong config.

mod arguments;
mod config;
#[cfg(feature = "demo")]
pub mod demo;
mod filter;
mod fsck;
mod output;
mod purge;
mod remote;
mod serve;
#[cfg(feature = "demo")]
mod tour;

use crate::config::FlagOverrides;
use arguments::{Cli, Command, ServeArgs};
use clap::Parser;
use std::process::ExitCode;

/// Runs the command that the arguments of the process name.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(arguments) => serve::run(&arguments.config, &overrides(&arguments)),
        Command::Check(arguments) => config::check(&arguments),
        #[cfg(feature = "demo")]
        Command::Demo(arguments) => tour::run(&arguments),
        Command::Purge(arguments) => purge::run(&arguments),
        Command::Fsck(arguments) => fsck::run(&arguments),
        Command::Filter(arguments) => filter::run(&arguments),
        Command::Config(arguments) => config::print_reference(&arguments),
    }
}

fn overrides(arguments: &ServeArgs) -> FlagOverrides {
    FlagOverrides {
        listen: arguments.listen.clone(),
        admin: arguments.admin.clone(),
        origin: arguments.origin.clone(),
        disk: arguments.disk.clone(),
        disk_size: arguments.disk_size.clone(),
        memory_size: arguments.memory_size.clone(),
    }
}
