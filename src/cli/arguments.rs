//! The arguments of the commands, as clap reads them and `--help` shows them.

use clap::{Args, Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

/// An edge cache for Nix binary caches.
#[derive(Debug, Parser)]
#[command(name = "narthex", version, arg_required_else_help = true)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Serve; without any argument as the cache of an office in front of cache.nixos.org
    Serve(ServeArgs),
    /// Say everything that is wrong with a config; exit 0 or 2
    Check(ConfigArgs),
    /// Show the whole journey: a signed sample cache, a private S3 origin, the edge in front
    #[cfg(feature = "demo")]
    Demo(DemoArgs),
    /// Make objects go from a running edge, or be asked for again
    Purge(PurgeArgs),
    /// Check every stored byte, of a folder at rest or of a running edge; exit 0, 1 or 2
    Fsck(FsckArgs),
    /// Make the file of a site's absence filter
    Filter(FilterArgs),
    /// Print the reference config: every setting, its default, what it does
    Config(ReferenceArgs),
}

#[derive(Debug, Args)]
pub(super) struct ConfigArgs {
    /// The config file
    #[arg(long, env = "NARTHEX_CONFIG", value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct ReferenceArgs {
    /// Print the reference of the metrics instead: names, types, labels, meanings
    #[arg(long)]
    pub(super) metrics: bool,
}

#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// Address to listen on; may be repeated
    #[arg(long, value_name = "ADDR")]
    pub(super) listen: Vec<String>,
    /// Address of the admin listener, or "off"
    #[arg(long, value_name = "ADDR")]
    pub(super) admin: Option<String>,
    /// The one origin: s3://BUCKET?region=..., https://HOST, http://HOST:PORT, file:///FOLDER
    #[arg(long, value_name = "URL")]
    pub(super) origin: Option<String>,
    /// Folder of the disk tier; may be repeated, for several disks
    #[arg(long, value_name = "DIR")]
    pub(super) disk: Vec<String>,
    /// Bytes the disk tier may take in each folder, such as 50GiB; may be repeated, one for each
    #[arg(long, value_name = "SIZE")]
    pub(super) disk_size: Vec<String>,
    /// Bytes the memory tier may take, such as 512MiB
    #[arg(long, value_name = "SIZE")]
    pub(super) memory_size: Option<String>,
}

#[cfg(feature = "demo")]
#[derive(Debug, Args)]
pub(super) struct DemoArgs {
    /// Address the edge listens on
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    pub(super) listen: SocketAddr,
    /// Address of its admin listener
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9145")]
    pub(super) admin: SocketAddr,
    /// End after the two journeys instead of serving on
    #[arg(long)]
    pub(super) once: bool,
    /// 1/64 of the bytes: for the tests
    #[arg(long, hide = true)]
    pub(super) small: bool,
}

#[derive(Debug, Args)]
pub(super) struct PurgeArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    #[command(flatten)]
    pub(super) remote: RemoteArgs,
    /// The site; needed if there are several
    #[arg(long, value_name = "NAME")]
    pub(super) site: Option<String>,
    /// Only make the objects stale: they are confirmed with the origin before they serve again
    #[arg(long)]
    pub(super) soft: bool,
    /// Every object with a path that begins with P
    #[arg(long, value_name = "P", conflicts_with_all = ["all", "key", "paths"])]
    pub(super) prefix: Option<String>,
    /// Every object with this key in the Surrogate-Key of its response; may be repeated
    #[arg(long, value_name = "K", conflicts_with_all = ["all", "paths"])]
    pub(super) key: Vec<String>,
    /// Every object of every site
    #[arg(long, conflicts_with_all = ["paths", "soft"])]
    pub(super) all: bool,
    /// Paths, such as /nix-cache-info
    #[arg(value_name = "PATH", required_unless_present_any = ["prefix", "key", "all"])]
    pub(super) paths: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct FsckArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    #[command(flatten)]
    pub(super) remote: RemoteArgs,
    /// Folder of the disk tier; by default the config's
    #[arg(long, value_name = "DIR")]
    pub(super) disk: Option<PathBuf>,
    /// Drop damaged objects, remove files without a record, rebuild a lost index
    #[arg(long)]
    pub(super) repair: bool,
    /// Bytes a second that a running edge may read, such as 200MiB; by default its scrub_rate; a
    /// folder at rest is read at full speed
    #[arg(long, value_name = "SIZE")]
    pub(super) rate: Option<String>,
}

/// Which edge is asked.
#[derive(Debug, Args)]
pub(super) struct RemoteArgs {
    /// Address of the edge's admin listener; by default the config's
    #[arg(long, value_name = "ADDR")]
    pub(super) admin: Option<SocketAddr>,
    /// File with the admin token; by default the config's
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
}

/// `narthex filter`.
#[derive(Debug, Args)]
pub(super) struct FilterArgs {
    #[command(subcommand)]
    pub(super) command: FilterCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum FilterCommand {
    /// Make the file of an absence filter of all keys of a bucket
    Build(BuildArgs),
}

#[derive(Debug, Args)]
pub(super) struct BuildArgs {
    #[command(flatten)]
    pub(super) config: ConfigArgs,
    /// The site of the bucket; needed if several sites have an absence filter
    #[arg(long, value_name = "NAME")]
    pub(super) site: Option<String>,
    /// An S3 inventory in CSV: its manifest.json, with its files beside it or in ../data
    #[arg(long, value_name = "MANIFEST", conflicts_with_all = ["keys", "list"])]
    pub(super) inventory: Option<PathBuf>,
    /// A list of all keys, one a line, plain or packed by gzip or xz
    #[arg(long, value_name = "FILE", conflicts_with = "list", requires = "complete_up_to")]
    pub(super) keys: Option<PathBuf>,
    /// Ask the site's s3:// origin for its keys (ListObjectsV2), with its credentials
    #[arg(long, required_unless_present_any = ["inventory", "keys"])]
    pub(super) list: bool,
    /// When the list of keys was begun, such as 2026-05-28T20:00:00Z
    #[arg(long, value_name = "TIME", conflicts_with_all = ["inventory", "list"])]
    pub(super) complete_up_to: Option<String>,
    /// How long before that every upload is sure to be known; by default 1m, of an inventory 1d
    #[arg(long, value_name = "DURATION")]
    pub(super) margin: Option<String>,
    /// Listings of parts of the bucket at once
    #[arg(long, value_name = "NUMBER", default_value_t = 16)]
    pub(super) parallel: usize,
    /// Folder of temporary files, 8 bytes a key; by default the result's
    #[arg(long, value_name = "DIR")]
    pub(super) temporary: Option<PathBuf>,
    /// The file to make; by default the site's
    #[arg(long, short, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
}
