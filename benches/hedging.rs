//! Measures what hedging does for narinfos that are not here: an origin on loopback answers in 80
//! to 120 ms, but a twentieth of its answers, drawn at random, take two seconds; 4,000 different
//! narinfos are asked for through an edge, 32 at a time, with hedges and without. Prints the time
//! to the answer and the requests that reached the origin. Run with `cargo bench --bench hedging`.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1 as client;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use narthex::app::{self, Surroundings};
use narthex::clock::Clock;
use narthex::config::{self, Sources};
use narthex::telemetry::AccessLogSink;
use std::convert::Infallible;
use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};

type Fault = Box<dyn Error + Send + Sync>;

/// Written by Nix.
const NARINFO: &str = include_str!("../src/nix/vectors/nix-store.narinfo");
const HASH: &str = "2qzg4zbq1mshms228hga5qxn1cf74q0a";
const NARINFOS: u64 = 4_000;
const CLIENTS: u64 = 32;

#[tokio::main]
async fn main() -> Result<(), Fault> {
    let mut out = std::io::stdout();
    writeln!(out, "hedges   p50 ms   p95 ms   p99 ms   requests to the origin")?;
    for percent in [0, 5] {
        let (mut times, asked) = measure(percent).await?;
        times.sort_unstable();
        let at =
            |percent: usize| times.get(times.len() * percent / 100).map_or(0, Duration::as_millis);
        let (half, most, nearly_all) = (at(50), at(95), at(99));
        writeln!(out, "{percent:>4} %{half:>9}{most:>9}{nearly_all:>9}{asked:>9}")?;
    }
    Ok(())
}

/// The times of all narinfos, and how many requests they were to the origin.
async fn measure(percent: u32) -> Result<(Vec<Duration>, u64), Fault> {
    let (origin, asked) = origin().await?;
    let folder = tempfile::tempdir()?;
    let text = format!(
        "[server]\nlisten = [\"127.0.0.1:0\"]\n[admin]\nlisten = \"off\"\n\
         [disk]\npath = \"{}\"\nsize = \"256MiB\"\n[log]\naccess = \"off\"\n\
         [[site]]\nsignatures = \"off\"\n[[site.origin]]\nurl = \"http://{origin}\"\n\
         [site.origin.budget]\nhedges = {percent}\n",
        folder.path().display()
    );
    let sources = Sources { file: Some((PathBuf::from("bench.toml"), text)), ..Sources::default() };
    let config = config::load(&sources).map_err(|problems| problems.to_string())?.config;
    let access_log = AccessLogSink::Writer(Box::new(std::io::sink()));
    let running = app::start(config, Surroundings { clock: Clock::System, access_log }).await?;
    let edge = running.addresses.first().ok_or("no listener")?.1;
    let clients = (0..CLIENTS).map(|first| tokio::spawn(ask(edge, first)));
    let mut times = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        times.extend(client.await??);
    }
    running.drain().await;
    Ok((times, asked.load(Ordering::Relaxed)))
}

/// Asks for every narinfo with a number that is `first` beyond a multiple of the clients.
async fn ask(edge: SocketAddr, first: u64) -> Result<Vec<Duration>, Fault> {
    let io = TokioIo::new(TcpStream::connect(edge).await?);
    let (mut sender, connection) = client::handshake(io).await?;
    tokio::spawn(connection);
    let mut times = Vec::new();
    for number in (first..NARINFOS).step_by(usize::try_from(CLIENTS)?) {
        let request = Request::get(format!("/{number:032}.narinfo")).header("host", "bench");
        let before = Instant::now();
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        if !response.status().is_success() {
            return Err(format!("the edge answered {}", response.status()).into());
        }
        response.into_body().collect().await?;
        times.push(before.elapsed());
    }
    Ok(times)
}

/// An origin, and how many narinfos it was asked for.
async fn origin() -> Result<(SocketAddr, Arc<AtomicU64>), Fault> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let asked = Arc::<AtomicU64>::default();
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let asked = Arc::clone(&counted);
            let service = service_fn(move |request| answer(request, Arc::clone(&asked)));
            let serving = server::Builder::new().serve_connection(TokioIo::new(stream), service);
            tokio::spawn(serving);
        }
    });
    Ok((address, asked))
}

async fn answer(
    request: Request<Incoming>,
    asked: Arc<AtomicU64>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path();
    let Some(hash) = path.strip_prefix('/').and_then(|path| path.strip_suffix(".narinfo")) else {
        return Ok(Response::new("StoreDir: /nix/store\n".into()));
    };
    asked.fetch_add(1, Ordering::Relaxed);
    let drawn = getrandom::u32().unwrap_or_default();
    let millis = if drawn.is_multiple_of(20) { 2_000 } else { 80 + drawn / 20 % 40 };
    tokio::time::sleep(Duration::from_millis(u64::from(millis))).await;
    Ok(Response::new(NARINFO.replace(HASH, hash).into()))
}
