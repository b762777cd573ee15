//! Plays a Nix client against the edge: nix-cache-info, the narinfos of a closure, the NARs, in
//! the order and with the parallelism of Nix, over HTTP/1.1. Every body is verified, none is kept.
//! One per journey, with connections of its own; no locks.

use super::client_error::{DemoClientError, STALL_DEADLINE};
use super::journey::{Journey, JourneyFailure, RequestCost, outcome_label};
use super::progress::JourneyBars;
use super::verify::verify;
use crate::nix::narinfo::{NARINFO_BYTES_MAX, NarInfo};
use crate::nix::signature::TrustedKeys;
use crate::nix::store_path::StorePath;
use crate::tasks::Tasks;
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http::StatusCode;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::time::Instant;
use tokio::sync::mpsc;

/// Narinfos in flight at once; as many as Nix opens connections.
const NARINFOS_AT_ONCE: usize = 25;

/// NARs in flight at once; as many as Nix substitutes.
const NARS_AT_ONCE: usize = 16;

/// Pieces of a body that may wait for the verifier.
const PIECES_WAITING_MAX: usize = 16;

/// The cache that the demo looks for in `Cache-Status`.
const CACHE_NAME: &str = "narthex";

/// A client with empty hands: it has no connection and no object yet.
#[derive(Debug)]
pub struct DemoClient {
    pool: Pool<HttpConnector, Empty<Bytes>>,
    edge: SocketAddr,
    trusted: TrustedKeys,
    tasks: Tasks,
}

/// A request that is over: what it cost and what it brought.
struct RequestResult<T> {
    path: String,
    spent: RequestCost,
    brought: Result<T, DemoClientError>,
}

impl DemoClient {
    /// A client of the edge at `edge` that trusts `trusted` and no other keys.
    pub fn new(edge: SocketAddr, trusted: TrustedKeys, tasks: Tasks) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_max_idle_per_host(NARINFOS_AT_ONCE)
            .build(connector);
        Self { pool, edge, trusted, tasks }
    }

    /// Fetches and verifies the closure of `root`. What fails is in the journey's failures; the
    /// rest goes on.
    pub async fn fetch_closure(&self, root: &StorePath, progress: &JourneyBars) -> Journey {
        let begun = Instant::now();
        let mut journey = Journey::default();
        let ended = self.fetch_small("/nix-cache-info".to_owned()).await;
        journey.cache_info.add(ended.spent);
        if let Err(error) = ended.brought {
            journey.failures.push(JourneyFailure { path: ended.path, error });
        }
        let narinfos = self.fetch_narinfos(root, &mut journey, progress).await;
        self.fetch_nars(narinfos, &mut journey, progress).await;
        journey.elapsed = begun.elapsed();
        journey
    }

    /// The text at `path`, at most 1 MiB of it.
    pub async fn fetch_text(&self, path: &str) -> Result<String, DemoClientError> {
        let bytes = self.read_small(path, &mut RequestCost::default()).await?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The narinfos of the closure of `root`, each asked for once, as soon as it is known of.
    async fn fetch_narinfos(
        &self,
        root: &StorePath,
        journey: &mut Journey,
        progress: &JourneyBars,
    ) -> Vec<NarInfo> {
        let mut known = HashSet::from([root.clone()]);
        let mut waiting = VecDeque::from([root.clone()]);
        let mut in_flight = FuturesUnordered::new();
        let mut narinfos = Vec::new();
        progress.narinfo_wanted();
        loop {
            while in_flight.len() < NARINFOS_AT_ONCE
                && let Some(path) = waiting.pop_front()
            {
                in_flight.push(self.fetch_narinfo(path));
            }
            let Some(ended) = in_flight.next().await else { return narinfos };
            journey.narinfo.add(ended.spent);
            match ended.brought {
                Err(error) => journey.failures.push(JourneyFailure { path: ended.path, error }),
                Ok(info) => {
                    progress.narinfo_came(info.file_size.unwrap_or(0));
                    for reference in &info.references {
                        if known.insert(reference.clone()) {
                            progress.narinfo_wanted();
                            waiting.push_back(reference.clone());
                        }
                    }
                    narinfos.push(info);
                }
            }
        }
    }

    async fn fetch_nars(
        &self,
        narinfos: Vec<NarInfo>,
        journey: &mut Journey,
        progress: &JourneyBars,
    ) {
        let mut waiting = narinfos.into_iter();
        let mut in_flight = FuturesUnordered::new();
        loop {
            while in_flight.len() < NARS_AT_ONCE
                && let Some(info) = waiting.next()
            {
                in_flight.push(self.fetch_nar(info, progress));
            }
            let Some(ended) = in_flight.next().await else { return };
            journey.nar.add(ended.spent);
            if let Err(error) = ended.brought {
                journey.failures.push(JourneyFailure { path: ended.path, error });
            }
        }
    }

    async fn fetch_narinfo(&self, store_path: StorePath) -> RequestResult<NarInfo> {
        let ended = self.fetch_small(format!("/{}.narinfo", store_path.hash_part())).await;
        let brought = ended.brought.and_then(|bytes| {
            let info = NarInfo::parse(&bytes)?;
            if info.store_path != store_path {
                return Err(DemoClientError::OtherPath { found: info.store_path });
            }
            self.trusted.verify(&info)?;
            Ok(info)
        });
        RequestResult { path: ended.path, spent: ended.spent, brought }
    }

    /// A small object, whole.
    async fn fetch_small(&self, path: String) -> RequestResult<Bytes> {
        let mut spent = RequestCost::default();
        let begun = Instant::now();
        let brought = self.read_small(&path, &mut spent).await;
        spent.time = begun.elapsed();
        RequestResult { path, spent, brought }
    }

    async fn read_small(
        &self,
        path: &str,
        spent: &mut RequestCost,
    ) -> Result<Bytes, DemoClientError> {
        let mut body = self.ask(path, spent).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = next_piece(&mut body).await? {
            spent.bytes += piece.len() as u64;
            bytes.extend_from_slice(&piece);
            if bytes.len() > NARINFO_BYTES_MAX {
                return Err(DemoClientError::TooLarge);
            }
        }
        Ok(bytes.into())
    }

    async fn fetch_nar(&self, info: NarInfo, progress: &JourneyBars) -> RequestResult<()> {
        let mut spent = RequestCost::default();
        let begun = Instant::now();
        let path = format!("/{}", info.url);
        let brought = match info.nar_location() {
            Some(_) => self.read_nar(&path, info, &mut spent, progress).await,
            None => Err(DemoClientError::Location { url: info.url }),
        };
        if spent.time.is_zero() {
            spent.time = begun.elapsed();
        }
        RequestResult { path, spent, brought }
    }

    /// Feeds the body to a verifier on a blocking thread. The time spent ends with the last byte,
    /// not with the verdict.
    async fn read_nar(
        &self,
        path: &str,
        info: NarInfo,
        spent: &mut RequestCost,
        progress: &JourneyBars,
    ) -> Result<(), DemoClientError> {
        let begun = Instant::now();
        let mut body = self.ask(path, spent).await?;
        let bar = progress.nar_begins(info.store_path.name(), info.file_size.unwrap_or(0));
        let (sender, receiver) = mpsc::channel(PIECES_WAITING_MAX);
        let feed = async {
            while let Some(piece) = next_piece(&mut body).await? {
                let bytes = piece.len() as u64;
                spent.bytes += bytes;
                progress.nar_came(&bar, bytes);
                if sender.send(piece).await.is_err() {
                    // The verifier has its verdict already.
                    break;
                }
            }
            spent.time = begun.elapsed();
            // Tells the verifier that this was all.
            drop(sender);
            Ok::<(), DemoClientError>(())
        };
        let judge = self.tasks.blocking("verify a nar", move || verify(&info, receiver));
        let (feeding, verdict) = tokio::join!(feed, judge);
        progress.nar_ends(&bar);
        feeding?;
        Ok(verdict??)
    }

    /// Sends a GET and takes note of how it was answered; the body of a 200.
    async fn ask(&self, path: &str, spent: &mut RequestCost) -> Result<Incoming, DemoClientError> {
        let uri = format!("http://{}{path}", self.edge);
        let request = http::Request::get(uri).body(Empty::new())?;
        let answer = tokio::time::timeout(STALL_DEADLINE, self.pool.request(request))
            .await
            .map_err(|_| DemoClientError::Stalled)??;
        let status = answer.status();
        let cache_status = answer.headers().get("cache-status").and_then(|v| v.to_str().ok());
        let label = cache_status.and_then(|text| outcome_label(text, CACHE_NAME));
        spent.outcome = Some(label.unwrap_or_else(|| "no Cache-Status".to_owned()));
        if status != StatusCode::OK {
            return Err(DemoClientError::Status { status });
        }
        Ok(answer.into_body())
    }
}

/// The next bytes of a body; `None` at its end.
async fn next_piece(body: &mut Incoming) -> Result<Option<Bytes>, DemoClientError> {
    loop {
        let frame = tokio::time::timeout(STALL_DEADLINE, body.frame())
            .await
            .map_err(|_| DemoClientError::Stalled)?;
        match frame {
            None => return Ok(None),
            Some(frame) => {
                // Trailers are no bytes.
                if let Ok(piece) = frame?.into_data() {
                    return Ok(Some(piece));
                }
            }
        }
    }
}
