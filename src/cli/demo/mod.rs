//! `narthex demo`: a signed sample cache, a private S3 origin, the edge in front and two clients,
//! in one process. Runs once per command; everything it makes is gone when it ends. The edge is
//! started by the caller, so that the demo shows what `serve` runs and nothing else.

pub mod client;
pub mod client_error;
pub mod journey;
pub mod paced_body;
pub mod progress;
pub mod report;
pub mod s3_bucket;
pub mod s3_origin;
pub mod sample;
pub mod verify;

#[cfg(test)]
mod tests;

pub use sample::BUCKET;

use crate::nix::narinfo::NarInfo;
use crate::nix::signature::{KeyError, SecretKey, TrustedKeys};
use crate::tasks::{BlockingError, Tasks};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use client::DemoClient;
use client_error::DemoClientError;
use progress::{JourneyBars, Screen};
use report::{Addresses, JourneyReport, OriginRequests};
use s3_origin::{DemoS3Origin, S3OriginSettings};
use sample::{Sample, SampleError, SampleSize};
use std::error::Error;
use std::future::Future;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The region that signatures name.
const REGION: &str = "us-east-1";

const ACCESS_KEY_ID: &str = "NARTHEXDEMO";

/// The name in front of the sample's signing key.
const SIGNING_KEY_NAME: &str = "narthex-demo-1";

/// The sample's contents; the signing key is random instead, for this one may be trusted by hand.
const SAMPLE_SEED: u64 = 1;

/// A first byte from the next region takes about as long.
const ORIGIN_DELAY: Duration = Duration::from_millis(30);

/// One connection to a far-away bucket brings about as much.
const ORIGIN_BYTES_PER_SECOND: u64 = 24_000_000;

/// How long connections may take to end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// What the demo is run with.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// The edge's listener for clients.
    pub listen: SocketAddr,
    /// The edge's listener for operators.
    pub admin: SocketAddr,
    /// What happens after the two clients.
    pub afterwards: Afterwards,
    /// The destination of the output.
    pub screen: Screen,
    /// How much the clients fetch.
    pub size: SampleSize,
}

/// What happens after the two clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Afterwards {
    /// The edge and its origin stay until SIGINT or SIGTERM.
    KeepServing,
    /// The demo ends.
    End,
}

/// What the edge is to be started with.
#[derive(Debug, Clone)]
pub struct EdgeSettings {
    /// The listener for clients.
    pub listen: SocketAddr,
    /// The listener for operators.
    pub admin: SocketAddr,
    /// Folder of the disk tier; empty, and removed when the demo ends.
    pub disk: PathBuf,
    /// Bytes that the disk tier needs at least.
    pub disk_bytes: u64,
    /// The origin, in Nix's form: `s3://bucket?region=...&endpoint=...`.
    pub origin_url: String,
    /// File of the origin's access key id.
    pub access_key_id_file: PathBuf,
    /// File of the origin's secret.
    pub secret_access_key_file: PathBuf,
    /// The key, `name:base64`, that every narinfo is to be signed with.
    pub trusted_public_key: String,
}

/// An edge that listens.
pub struct DemoEdge {
    /// The address for clients.
    pub address: SocketAddr,
    /// The address for operators; `None` if that is switched off.
    pub admin: Option<SocketAddr>,
    /// Stops it: resolves when its connections have ended.
    pub drain: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Why the demo did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// Output could not be written.
    #[error("cannot write the output: {source}")]
    Output {
        /// What the system said.
        source: io::Error,
    },
    /// The temporary folder, the origin's listener or the signal handlers could not be had.
    #[error("cannot {purpose}: {source}")]
    System {
        /// What for.
        purpose: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// There is no randomness for the keys.
    #[error("cannot make keys: {source}")]
    Random {
        /// What the system said.
        #[from]
        source: getrandom::Error,
    },
    /// The random bytes made no key.
    #[error("cannot make keys: {source}")]
    Key {
        /// What is wrong with them.
        #[from]
        source: KeyError,
    },
    /// No sample.
    #[error("cannot make the sample cache: {source}")]
    Sample {
        /// Why.
        #[from]
        source: SampleError,
    },
    /// The sample's maker ended without one.
    #[error("cannot make the sample cache: {source}")]
    SampleTask {
        /// Why.
        #[from]
        source: BlockingError,
    },
    /// The sample is empty.
    #[error("the sample cache holds no store path")]
    EmptySample,
    /// The edge did not start.
    #[error("cannot start the edge: {source}")]
    Edge {
        /// Why.
        source: Box<dyn Error + Send + Sync>,
    },
    /// The clients did not get what they asked for; the output says what.
    #[error("{failures} of the clients' requests failed; see above")]
    Incomplete {
        /// How many requests.
        failures: usize,
    },
}

/// Runs the demo to its end, or until SIGINT or SIGTERM. Writes to `out`, which must not be a held
/// lock of standard output, for the progress bars draw there too.
///
/// `start_edge` starts an edge that asks [`EdgeSettings::origin_url`] and logs nothing to standard
/// output. Not cancel safe: a dropped call leaves the edge undrained.
pub async fn run<W, S, F>(options: DemoOptions, out: &mut W, start_edge: S) -> Result<(), DemoError>
where
    W: Write,
    S: FnOnce(EdgeSettings) -> F,
    F: Future<Output = Result<DemoEdge, Box<dyn Error + Send + Sync>>>,
{
    let tasks = Tasks::new();
    let stop = interruption(&tasks)?;
    let building = RunningDemo::build(&options, &tasks, start_edge);
    let Some(stage) = stop.run_until_cancelled(building).await else { return Ok(()) };
    let stage = stage?;
    let touring = stage.tour(&options, out);
    let toured = stop.run_until_cancelled(touring).await.unwrap_or(Ok(()));
    if toured.is_ok() && options.afterwards == Afterwards::KeepServing {
        stop.cancelled().await;
    }
    stage.close().await;
    toured
}

/// A token that SIGINT and SIGTERM cancel.
fn interruption(tasks: &Tasks) -> Result<CancellationToken, DemoError> {
    let handler = |kind| {
        signal(kind).map_err(|source| DemoError::System { purpose: "wait for signals", source })
    };
    let (mut interrupt, mut terminate) =
        (handler(SignalKind::interrupt())?, handler(SignalKind::terminate())?);
    let (token, draining) = (CancellationToken::new(), tasks.stopping());
    let cancelled = token.clone();
    tasks.spawn("demo signals", async move {
        tokio::select! {
            _ = interrupt.recv() => cancelled.cancel(),
            _ = terminate.recv() => cancelled.cancel(),
            () = draining.cancelled() => {}
        }
    });
    Ok(token)
}

/// Everything that runs while clients come.
struct RunningDemo {
    sample: Sample,
    root: NarInfo,
    origin: DemoS3Origin,
    edge: DemoEdge,
    folder: TempDir,
    tasks: Tasks,
}

impl RunningDemo {
    /// Makes the sample, starts the origin and the edge.
    async fn build<S, F>(
        options: &DemoOptions,
        tasks: &Tasks,
        start_edge: S,
    ) -> Result<Self, DemoError>
    where
        S: FnOnce(EdgeSettings) -> F,
        F: Future<Output = Result<DemoEdge, Box<dyn Error + Send + Sync>>>,
    {
        let (mut signing_seed, mut secret) = ([0; 32], [0; 30]);
        getrandom::fill(&mut signing_seed)?;
        getrandom::fill(&mut secret)?;
        let key = SecretKey::from_seed(SIGNING_KEY_NAME, signing_seed)?;
        let size = options.size;
        let spinner = progress::spinner(options.screen, "making a signed sample cache");
        let making =
            tasks.blocking("demo sample", move || Sample::generate(size, SAMPLE_SEED, &key));
        let sample = making.await??;
        spinner.finish_and_clear();
        let root = sample.root().cloned().ok_or(DemoError::EmptySample)?;

        let secret = URL_SAFE_NO_PAD.encode(secret);
        let origin = start_origin(&sample, &secret, tasks).await?;
        let folder = make_folder(&secret)?;
        let settings = EdgeSettings {
            listen: options.listen,
            admin: options.admin,
            disk: folder.path().join("disk"),
            disk_bytes: sample.object_bytes().saturating_mul(2),
            origin_url: format!("s3://{BUCKET}?region={REGION}&endpoint={}", origin.endpoint()),
            access_key_id_file: folder.path().join("access-key-id"),
            secret_access_key_file: folder.path().join("secret-access-key"),
            trusted_public_key: sample.public_key.to_string(),
        };
        let edge = start_edge(settings).await.map_err(|source| DemoError::Edge { source })?;
        Ok(Self { sample, root, origin, edge, folder, tasks: tasks.clone() })
    }

    /// Sends the two clients and tells what happened.
    async fn tour<W: Write>(&self, options: &DemoOptions, out: &mut W) -> Result<(), DemoError> {
        let screen = options.screen;
        let addresses = self.addresses();
        let unsigned = match self.ask_origin_unsigned().await {
            Err(DemoClientError::Status { status }) => Some(status),
            Ok(_) | Err(_) => None,
        };
        say(out, &report::scene(screen, &self.sample, addresses, unsigned))?;
        let title = format!(
            "Two clients, one after the other, fetch the {} store paths of {}",
            self.sample.paths.len(),
            self.root.store_path.name(),
        );
        say(out, &format!("\n{}\n", report::heading(screen, &title)))?;
        let mut legs = Vec::new();
        for title in ["cold", "warm"] {
            legs.push(self.travel(title, screen).await);
        }
        say(out, &format!("\n{}\n", report::costs(screen, &legs)))?;
        let tiers = report::tiers(&self.read_metrics().await);
        say(out, &format!("{}\n", report::verdict(&legs, &tiers)))?;
        let failures: usize = legs.iter().map(|leg| leg.journey.failures.len()).sum();
        if failures > 0 {
            return Err(DemoError::Incomplete { failures });
        }
        if options.afterwards == Afterwards::KeepServing {
            say(out, &report::try_next(screen, &self.sample, &self.root, addresses))?;
            let folder = self.folder.path().display();
            say(out, &format!("\nServing until Ctrl-C; then {folder} is removed.\n"))?;
        }
        Ok(())
    }

    /// One client with empty hands fetches the closure.
    async fn travel(&self, title: &'static str, screen: Screen) -> JourneyReport {
        let trusted = TrustedKeys::new(vec![self.sample.public_key.clone()]);
        let client = DemoClient::new(self.edge.address, trusted, self.tasks.clone());
        let before = OriginRequests::from_keys(&self.origin.requests_by_key());
        let bytes_before = self.origin.bytes_sent();
        let progress = JourneyBars::start(screen, title);
        let journey = client.fetch_closure(&self.root.store_path, &progress).await;
        progress.finish();
        JourneyReport {
            title,
            journey,
            origin: OriginRequests::from_keys(&self.origin.requests_by_key()).since(before),
            origin_bytes: self.origin.bytes_sent().saturating_sub(bytes_before),
        }
    }

    async fn ask_origin_unsigned(&self) -> Result<String, DemoClientError> {
        let no_keys = TrustedKeys::default();
        let client = DemoClient::new(self.origin.address(), no_keys, self.tasks.clone());
        client.fetch_text(&format!("/{BUCKET}/nix-cache-info")).await
    }

    /// The edge's metrics; empty if none can be read.
    async fn read_metrics(&self) -> String {
        let Some(admin) = self.edge.admin else { return String::new() };
        let client = DemoClient::new(admin, TrustedKeys::default(), self.tasks.clone());
        client.fetch_text("/metrics").await.unwrap_or_default()
    }

    fn addresses(&self) -> Addresses {
        Addresses { edge: self.edge.address, admin: self.edge.admin, origin: self.origin.address() }
    }

    /// Drains the edge first, then stops the origin; the folder goes last.
    async fn close(self) {
        self.edge.drain.await;
        drop(self.origin);
        self.tasks.drain(DRAIN_DEADLINE).await;
        drop(self.folder);
    }
}

async fn start_origin(
    sample: &Sample,
    secret: &str,
    tasks: &Tasks,
) -> Result<DemoS3Origin, DemoError> {
    let mut settings = S3OriginSettings::new(BUCKET, ACCESS_KEY_ID, secret);
    settings.first_byte_delay = ORIGIN_DELAY;
    settings.bytes_per_second = NonZeroU64::new(ORIGIN_BYTES_PER_SECOND);
    let origin = DemoS3Origin::start(settings, tasks)
        .await
        .map_err(|source| DemoError::System { purpose: "start the private origin", source })?;
    for object in &sample.objects {
        origin.put(&object.key, object.bytes.clone(), object.content_type);
    }
    Ok(origin)
}

/// A folder that only this user can read, with the origin's credentials and an empty `disk`.
fn make_folder(secret: &str) -> Result<TempDir, DemoError> {
    let make = || {
        let folder = tempfile::Builder::new().prefix("narthex-demo-").tempdir()?;
        std::fs::create_dir(folder.path().join("disk"))?;
        std::fs::write(folder.path().join("access-key-id"), ACCESS_KEY_ID)?;
        std::fs::write(folder.path().join("secret-access-key"), secret)?;
        Ok(folder)
    };
    make().map_err(|source| DemoError::System { purpose: "make a temporary folder", source })
}

fn say<W: Write>(out: &mut W, text: &str) -> Result<(), DemoError> {
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|source| DemoError::Output { source })
}
