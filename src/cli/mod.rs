//! The commands, and the only place that prints. Each command gives an exit code: 0 for done, 1
//! for a failure while working, 2 for a wrong call or a wrong config.

mod config;
pub mod demo;
mod filter;
mod fsck;
mod purge;
mod remote;
mod serve;
mod tour;

use crate::config::Overrides;
use clap::{Args, Parser, Subcommand};
use filter::FilterArgs;
use remote::RemoteArgs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

/// A wrong call or a wrong config.
const EXIT_USAGE: u8 = 2;

/// An edge cache for Nix binary caches.
#[derive(Debug, Parser)]
#[command(name = "narthex", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve; without any argument as the cache of an office in front of cache.nixos.org
    Serve(ServeArgs),
    /// Say everything that is wrong with a config; exit 0 or 2
    Check(ConfigArgs),
    /// Show the whole journey: a signed sample cache, a private S3 origin, the edge in front
    Demo(DemoArgs),
    /// Make objects go from a running edge, or be asked for again
    Purge(PurgeArgs),
    /// Check every stored byte, of a folder at rest or of a running edge; exit 0, 1 or 2
    Fsck(FsckArgs),
    /// Make the file of a site's absence filter
    Filter(FilterArgs),
    /// Print the reference config: every setting, its default, what it does
    Config,
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// The config file
    #[arg(long, env = "NARTHEX_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct ServeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Address to listen on; may be repeated
    #[arg(long, value_name = "ADDR")]
    listen: Vec<String>,
    /// Address of the admin listener, or "off"
    #[arg(long, value_name = "ADDR")]
    admin: Option<String>,
    /// The one origin: s3://BUCKET?region=..., https://HOST, http://HOST:PORT, file:///FOLDER
    #[arg(long, value_name = "URL")]
    origin: Option<String>,
    /// Folder of the disk tier; may be repeated, for several disks
    #[arg(long, value_name = "DIR")]
    disk: Vec<String>,
    /// Bytes the disk tier may take in each folder, such as 50GiB; may be repeated, one for each
    #[arg(long, value_name = "SIZE")]
    disk_size: Vec<String>,
    /// Bytes the memory tier may take, such as 512MiB
    #[arg(long, value_name = "SIZE")]
    memory_size: Option<String>,
}

#[derive(Debug, Args)]
struct DemoArgs {
    /// Address the edge listens on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Address of its admin listener
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9145")]
    admin: SocketAddr,
    /// End after the two journeys instead of serving on
    #[arg(long)]
    once: bool,
    /// 1/64 of the bytes: for the tests
    #[arg(long, hide = true)]
    small: bool,
}

#[derive(Debug, Args)]
struct PurgeArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    remote: RemoteArgs,
    /// The site; needed where there are several
    #[arg(long, value_name = "NAME")]
    site: Option<String>,
    /// Only make the objects stale: they are confirmed with the origin before they serve again
    #[arg(long)]
    soft: bool,
    /// Every object whose path begins so
    #[arg(long, value_name = "P", conflicts_with_all = ["all", "key", "paths"])]
    prefix: Option<String>,
    /// Every object whose origin named this key in Surrogate-Key; may be repeated
    #[arg(long, value_name = "K", conflicts_with_all = ["all", "paths"])]
    key: Vec<String>,
    /// Every object of every site
    #[arg(long, conflicts_with_all = ["paths", "soft"])]
    all: bool,
    /// Paths, such as /nix-cache-info
    #[arg(value_name = "PATH", required_unless_present_any = ["prefix", "key", "all"])]
    paths: Vec<String>,
}

#[derive(Debug, Args)]
struct FsckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    remote: RemoteArgs,
    /// Folder of the disk tier; by default the config's
    #[arg(long, value_name = "DIR")]
    disk: Option<PathBuf>,
    /// Drop what is damaged, remove what nobody knows, make a lost index again
    #[arg(long)]
    repair: bool,
    /// Bytes a second that a running edge may read, such as 200MiB; by default its scrub_rate; a
    /// folder at rest is read at full speed
    #[arg(long, value_name = "SIZE")]
    rate: Option<String>,
}

/// Runs the command that the arguments of the process name.
pub fn run() -> ExitCode {
    match Cli::parse().command {
        Command::Serve(arguments) => serve::run(&arguments.config, &overrides(&arguments)),
        Command::Check(arguments) => config::check(&arguments),
        Command::Demo(arguments) => tour::run(&arguments),
        Command::Purge(arguments) => purge::run(&arguments),
        Command::Fsck(arguments) => fsck::run(&arguments),
        Command::Filter(arguments) => filter::run(&arguments),
        Command::Config => config::print_reference(),
    }
}

fn overrides(arguments: &ServeArgs) -> Overrides {
    Overrides {
        listen: arguments.listen.clone(),
        admin: arguments.admin.clone(),
        origin: arguments.origin.clone(),
        disk: arguments.disk.clone(),
        disk_size: arguments.disk_size.clone(),
        memory_size: arguments.memory_size.clone(),
    }
}

/// Prints one line for people to the standard error, as far as anybody reads it.
#[expect(clippy::print_stderr, reason = "the commands are the one place that prints")]
fn complain(line: impl std::fmt::Display) {
    eprintln!("narthex: {line}");
}

/// Prints text to the standard output.
#[expect(clippy::print_stdout, reason = "the commands are the one place that prints")]
fn say(text: impl std::fmt::Display) {
    print!("{text}");
}
