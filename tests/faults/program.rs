//! `fault-origin`: a folder, or another origin, served over HTTP/1.1 with random faults, to see
//! what a cache or a client makes of them. Prints its address, and a line for each fault; ends when
//! it is told to.

#[expect(dead_code, reason = "the scripts of the integration tests say more than a folder does")]
mod origin;

use clap::{ArgGroup, Parser};
use origin::fault::HELP;
use origin::plan::{Plan, parse_rules};
use origin::sources::{Folder, Host, Upstream};
use origin::wire::{Door, Server, Source, listen};
use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves a folder or another origin, with faults at random.
#[derive(Debug, Parser)]
#[command(
    name = "fault-origin",
    after_help = format!("Faults:\n{HELP}"),
    group(ArgGroup::new("what").required(true).args(["folder", "upstream"]))
)]
struct Options {
    /// Address to listen on; port 0 for a free one.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// A folder to serve, as `nix copy --to file://` writes it.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Another origin to stand before: http://HOST[:PORT][/PATH] or https://...
    #[arg(long)]
    upstream: Option<String>,
    /// Ask the other origin under the name that the client asked for: an S3 server needs it to
    /// verify signatures.
    #[arg(long, requires = "upstream")]
    keep_host: bool,
    /// What goes wrong: FAULT[@CHANCE] with commas between; at most one strikes a request.
    #[arg(long, value_name = "RULES")]
    fault: Option<String>,
    /// What the chances are drawn from; the same seed strikes the same requests.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[tokio::main]
#[expect(clippy::print_stderr, reason = "the program reports errors here")]
async fn main() -> ExitCode {
    match run(Options::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fault-origin: {error}");
            ExitCode::from(2)
        }
    }
}

async fn run(options: Options) -> Result<(), Box<dyn Error>> {
    let rules = options.fault.as_deref().map(parse_rules).transpose()?;
    let plan = Plan::new(options.seed, rules.unwrap_or_default())?;
    match (options.folder, options.upstream) {
        (Some(folder), _) => serve(options.listen, Folder(folder), plan).await,
        (None, base) => {
            let host = if options.keep_host { Host::AsAsked } else { Host::Own };
            let upstream = Upstream::new(&base.unwrap_or_default(), host)?;
            serve(options.listen, upstream, plan).await
        }
    }
}

#[expect(clippy::print_stdout, reason = "the program prints its address here")]
async fn serve<S: Source>(
    address: SocketAddr,
    source: S,
    plan: Plan,
) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(address).await?;
    println!("listening on http://{}", listener.local_addr()?);
    let server = Arc::new(Server { source, plan, clock: parking_lot::Mutex::default() });
    listen(listener, Door::Plain, server, CancellationToken::new()).await;
    Ok(())
}
