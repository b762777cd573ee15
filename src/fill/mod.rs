//! One fetch per key, streamed to every reader while it is written, verified, committed. One
//! `Fills` per process, shared; the map of flights is behind a short lock that is never held
//! across an await. Called by `engine`; the only module that asks an origin and, with `purge`,
//! the only one that changes the cache.
//!
//! A fill's leader is a task of its own: a client that leaves does not cancel it, though a fill
//! without readers makes room for others (`room`). Its states are asking, streaming (or checking
//! whole), sealed, published; a reader sees them as [`Landed`].

mod alone;
mod flight;
mod generic;
mod heads;
mod leader;
mod memory_window;
mod part;
mod passing;
mod patience;
mod pieces;
mod readers;
mod relay;
mod room;
mod steady;
mod trail;
mod trusted;
mod verify;
mod wanted;
mod wrong;

use alone::Alone;
pub use flight::{Flight, FlightReader, GrowingReader, How, Landed};
pub use generic::Sought;
use memory_window::{Bounds, WindowMemory};
pub use part::{Came, Confirmed, Find, Paged, PartHandle, PartReader, Ranged};
pub use passing::Passing;
pub use pieces::Asker;
use room::{Demand, Room};
pub use trusted::Trusted;
pub use wanted::{Admitted, Keep, Wanted};
use wrong::{Advice, Basis, WrongBodies};

use crate::cache::{Cache, FenceEpoch, Stale};
use crate::client::UploadError;
use crate::clock::Clock;
use crate::config;
use crate::metrics::Metrics;
use crate::object::{Key, Meta, Sha256};
use crate::origin::{BodyError, FetchError, Method, Origins, Response};
use crate::store::WriteError;
use crate::sync::Mutex;
use crate::tasks::Tasks;
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where the objects of one site come from, and what they must prove.
#[derive(Debug)]
pub struct Upstream {
    /// The site's settings.
    pub site: config::Site,
    /// Its origins.
    pub origins: Origins,
    /// The trusted keys of each origin.
    pub trusted: Trusted,
}

/// Whether a reader began a fill or joined one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It began the fill.
    Lead,
    /// Another had begun it.
    Follow,
}

/// Why there is no fill to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotJoined {
    /// As many are under way as allowed.
    #[error("as many fills are under way as [server.limits] fills_max allows")]
    NoRoom,
    /// One has ended since the cache was looked at: look again before you begin another.
    #[error("a fill has ended meanwhile")]
    Ended,
    /// Every body of late was wrong, so no origin is asked for a while.
    #[error("every body of late was wrong; no origin is asked for {seconds} s")]
    Wrong {
        /// How long.
        seconds: u64,
    },
}

/// A moment, counted in fills that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark(u64);

/// Keys of ended fills that are remembered.
const ENDED_MAX: usize = 1_024;

/// Why a body is not what was promised.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// It ended early.
    #[error("ended after {actual} of {expected} bytes")]
    Short {
        /// Bytes declared.
        expected: u64,
        /// Bytes received.
        actual: u64,
    },
    /// It went on past its declared length.
    #[error("goes on past its {expected} bytes")]
    Long {
        /// Bytes declared.
        expected: u64,
        /// Bytes received.
        actual: u64,
    },
    /// What was to go on with it after it broke off is of another object. This part is given up,
    /// the body may be continued by another origin.
    #[error("was to go on with {expected}, but: {actual}")]
    Continuation {
        /// What was asked for.
        expected: String,
        /// What came.
        actual: String,
    },
    /// Its head contradicts itself.
    #[error("has an unusable head: {detail}")]
    Head {
        /// What is wrong.
        detail: String,
    },
    /// It is longer than objects of its class may be.
    #[error("is longer than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
        /// Bytes received.
        actual: u64,
    },
    /// Its length is not the narinfo's FileSize.
    #[error("is {actual} bytes long, its narinfo says {expected}")]
    FileSize {
        /// Bytes the narinfo says.
        expected: u64,
        /// Bytes declared or received.
        actual: u64,
    },
    /// Its SHA-256 is not the FileHash.
    #[error("has SHA-256 {actual}, expected {expected}")]
    FileHash {
        /// What the name or the narinfo says.
        expected: Sha256,
        /// What came.
        actual: Sha256,
    },
    /// It is not a narinfo, or another path's.
    #[error("is not the narinfo that was asked for: {detail}")]
    Narinfo {
        /// What is wrong.
        detail: String,
    },
    /// It is not a `nix-cache-info`.
    #[error("is not a nix-cache-info: {detail}")]
    CacheInfo {
        /// What is wrong.
        detail: String,
    },
    /// No trusted key has signed it.
    #[error("carries no good signature by a trusted key: {detail}")]
    Signature {
        /// What is wrong.
        detail: String,
    },
}

impl Rejection {
    /// The metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Short { .. } => "short",
            Self::Long { .. } => "long",
            Self::Continuation { .. } => "continuation",
            Self::Head { .. } => "head",
            Self::TooLarge { .. } => "too_large",
            Self::FileSize { .. } => "file_size",
            Self::FileHash { .. } => "file_hash",
            Self::Narinfo { .. } => "narinfo",
            Self::CacheInfo { .. } => "cache_info",
            Self::Signature { .. } => "signature",
        }
    }

    /// What was promised and what came, for the log.
    fn expected_and_actual(&self) -> (String, String) {
        match self {
            Self::Short { expected, actual }
            | Self::Long { expected, actual }
            | Self::TooLarge { limit: expected, actual }
            | Self::FileSize { expected, actual } => (expected.to_string(), actual.to_string()),
            Self::FileHash { expected, actual } => (expected.to_string(), actual.to_string()),
            Self::Continuation { expected, actual } => (expected.clone(), actual.clone()),
            Self::Head { detail } => ("a usable head".to_owned(), detail.clone()),
            Self::Narinfo { detail } => ("the narinfo asked for".to_owned(), detail.clone()),
            Self::CacheInfo { detail } => ("a nix-cache-info".to_owned(), detail.clone()),
            Self::Signature { detail } => ("a trusted signature".to_owned(), detail.clone()),
        }
    }

    /// Whether the origin is likely to send the same again: a body that is cut may be whole the
    /// next time, and a page in place of a narinfo tells of a gateway in trouble; an object with
    /// another content stays what it is for a while.
    fn is_lasting(&self) -> bool {
        match self {
            Self::Short { .. }
            | Self::Continuation { .. }
            | Self::Head { .. }
            | Self::Narinfo { .. }
            | Self::CacheInfo { .. } => false,
            Self::Long { .. }
            | Self::TooLarge { .. }
            | Self::FileSize { .. }
            | Self::FileHash { .. }
            | Self::Signature { .. } => true,
        }
    }
}

/// Why a fill brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum FillError {
    /// No origin gave a usable answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// The body could not be read to its end.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// The body is not what was promised.
    #[error("origin {origin}: the body {rejection}")]
    Rejected {
        /// The origin's name.
        origin: Arc<str>,
        /// Why.
        rejection: Rejection,
    },
    /// It broke off, and no origin went on with it as long as that was worth asking for.
    #[error("{0}; no origin went on with it")]
    GivenUp(Box<FillError>),
    /// The object is another than the one whose part is here.
    #[error("the object has changed at its origin since its first part was fetched")]
    Changed,
    /// The origin sends the whole where a part is asked for.
    #[error("the origin does not send parts of this object")]
    Unranged,
    /// As many fetches are under way as allowed.
    #[error("as many fills are under way as [server.limits] fills_max allows")]
    NoRoom,
    /// The disk gave up under it.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Why the fetch ended that a reader shares with others.
    #[error(transparent)]
    Relayed(Arc<FillError>),
    /// A reader has left a shared fetch, and no origin has sent the same body once more.
    #[error("its reader fell behind a shared fetch, and no origin has sent the same body again")]
    Behind,
    /// It has no reader, and its place was given to another fill, or its origin is too slow.
    #[error("it has no reader, and is too slow or makes room for another")]
    Unread,
    /// The fill ended without a word: a fault inside Narthex.
    #[error("the fill ended without a result")]
    Lost,
}

impl FillError {
    /// Whether the fault is one of time: 504 rather than 502.
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Fetch(error) => error.is_timeout(),
            Self::GivenUp(error) => error.is_timeout(),
            Self::Relayed(error) => error.is_timeout(),
            Self::Body(BodyError::Stalled { .. }) => true,
            Self::Body(BodyError::Broken { .. })
            | Self::Rejected { .. }
            | Self::Changed
            | Self::Unranged
            | Self::NoRoom
            | Self::Write(_)
            | Self::Behind
            | Self::Unread
            | Self::Lost => false,
        }
    }

    /// Why no origin gave a usable answer, if it is that.
    fn fetch(&self) -> Option<&FetchError> {
        if let Self::Relayed(error) = self {
            return error.fetch();
        }
        if let Self::Fetch(error) = self { Some(error) } else { None }
    }

    /// Whether the client has as many uploads under way as its share of the origin allows: 503.
    pub fn is_over_share(&self) -> bool {
        self.fetch().is_some_and(FetchError::is_over_share)
    }

    /// What is wrong with the body of the request itself, if it was for that.
    pub fn upload(&self) -> Option<UploadError> {
        self.fetch().and_then(FetchError::upload)
    }

    /// Whether a request that writes may have been done although this came of it.
    pub fn may_have_been_done(&self) -> bool {
        self.fetch().is_none_or(FetchError::may_have_reached)
    }

    /// Which origin gave a body that is not what was promised, and why it is not.
    fn rejected(&self) -> Option<(&str, &Rejection)> {
        match self {
            Self::Rejected { origin, rejection } => Some((origin, rejection)),
            Self::GivenUp(error) => error.rejected(),
            Self::Relayed(error) => error.rejected(),
            Self::Fetch(_)
            | Self::Body(_)
            | Self::Changed
            | Self::Unranged
            | Self::NoRoom
            | Self::Write(_)
            | Self::Behind
            | Self::Unread
            | Self::Lost => None,
        }
    }

    /// Logs that it ended the fill of `key`; the metric label of its result. That an origin is left
    /// alone was logged when it began to fail: it would be said once more of each request, which
    /// the access log does.
    fn log(&self, key: &Key) -> &'static str {
        let (site, path, error) = (key.site(), key.path(), self as &dyn std::error::Error);
        if matches!(self, Self::Unread) {
            tracing::info!(site, path, "fill without readers ended");
            return "unread";
        }
        if matches!(self, Self::Fetch(FetchError::Open { .. })) {
            tracing::debug!(site, path, error, "fill failed");
        } else {
            tracing::warn!(site, path, error, "fill failed");
        }
        "failed"
    }
}

/// Begins fills and joins readers to them.
#[derive(Debug, Clone)]
pub struct Fills {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    cache: Cache,
    metrics: Metrics,
    tasks: Tasks,
    flights: Mutex<Flights>,
    wrong: WrongBodies,
    /// Fills that have ended; changed under the lock of `flights` alone.
    ended_count: AtomicU64,
    room: Arc<Room>,
    parts: part::Parts,
    /// Pieces of large objects under way.
    lots: Arc<pieces::Lots>,
    /// The objects of generic sites that are asked for alone.
    alone: Alone,
    /// For bodies that no disk takes.
    window_memory: Arc<WindowMemory>,
}

impl Shared {
    /// Remembers an absence with this head, if it may be kept, of a fetch with this ticket.
    async fn absent(&self, ticket: FenceEpoch, meta: Meta, keep: Keep) -> Arc<Meta> {
        let meta = Arc::new(meta);
        if keep == Keep::IfVerified
            && let Err(error) = self.cache.publish_absent(ticket, Arc::clone(&meta)).await
        {
            tracing::debug!(path = meta.key.path(), %error, "absence not remembered");
        }
        meta
    }

    /// Remembers `count` bodies of `key` from `sources` that were wrong in a way that lasts.
    fn note_wrong(&self, key: &Key, basis: Basis, sources: Vec<usize>, count: u32) {
        if count == 0 {
            return;
        }
        if let Some(pause) = self.wrong.note(key, basis, sources, count) {
            let seconds = pause.as_secs();
            let (site, path) = (key.site(), key.path());
            tracing::warn!(site, path, seconds, "only wrong bodies: answered 502 for a while");
        }
    }
}

#[derive(Debug, Default)]
struct Flights {
    under_way: HashMap<Key, Arc<Flight>>,
    /// Of which the head alone is asked for.
    heads: HashMap<Key, Arc<Flight>>,
    /// What ended last, newest last.
    ended: VecDeque<Key>,
}

impl Flights {
    /// Those of this method, and what ended last of both.
    fn of(&mut self, method: Method) -> (&mut HashMap<Key, Arc<Flight>>, &mut VecDeque<Key>) {
        match method {
            Method::Get => (&mut self.under_way, &mut self.ended),
            Method::Head => (&mut self.heads, &mut self.ended),
        }
    }
}

impl Fills {
    /// Does `work` in a task of its own, so that it goes on if its caller does not wait.
    pub async fn in_own_task<T>(
        &self,
        name: &'static str,
        work: impl Future<Output = Result<T, FillError>> + Send + 'static,
    ) -> Result<T, FillError>
    where
        T: Send + 'static,
    {
        let (tell, told) = tokio::sync::oneshot::channel();
        let work = Box::pin(work);
        self.shared.tasks.spawn(name, async move {
            // The receiver is there, or waits no more.
            drop(tell.send(work.await));
        });
        told.await.unwrap_or(Err(FillError::Lost))
    }

    /// Nothing under way, and never more at once than `limits` allow.
    pub fn new(
        cache: Cache,
        clock: Clock,
        metrics: Metrics,
        tasks: Tasks,
        limits: &config::Limits,
    ) -> Self {
        let room = Room::new(limits.fills_max);
        let parts = part::Parts::new(limits);
        let flights = Mutex::default();
        let wrong = WrongBodies::new(clock);
        let ended_count = AtomicU64::new(0);
        let alone = Alone::default();
        let lots = pieces::Lots::new(limits.pieces.clone());
        let window_memory = WindowMemory::new(Bounds::usual());
        let shared = Shared {
            cache,
            metrics,
            tasks,
            flights,
            wrong,
            ended_count,
            room,
            parts,
            lots,
            alone,
            window_memory,
        };
        Self { shared: Arc::new(shared) }
    }

    /// This moment; to be taken before the cache is looked at. Never waits.
    pub fn mark(&self) -> Mark {
        Mark(self.shared.ended_count.load(Ordering::Acquire))
    }

    /// Joins the fill of `wanted`, or begins one. `stale` is what is stored, to be revalidated,
    /// unless it was purged since it was looked up.
    ///
    /// With `looked`, begins none where one of the same object has ended since then: what it
    /// brought is in the cache, and was not when the cache was looked at. A fill that a
    /// purge has overtaken is not joined: a request after the purge asks anew. Nor is one whose
    /// disk failed under it: what it still has is for its own readers. Nor one that is ended since
    /// it had no reader.
    pub fn join(
        &self,
        wanted: Wanted,
        stale: Option<Stale>,
        looked: Option<Mark>,
    ) -> Result<(Role, FlightReader), NotJoined> {
        self.join_with(wanted, looked, Before::Stale(stale))
    }

    /// As [`Fills::join`], with what is here before.
    fn join_with(
        &self,
        wanted: Wanted,
        looked: Option<Mark>,
        before: Before,
    ) -> Result<(Role, FlightReader), NotJoined> {
        let (key, demand) = (wanted.key.clone(), wanted.demand());
        let advised = || match self.shared.wrong.advice(&key, &self.shared.cache) {
            Advice::Ask { avoid } => Ok(avoid),
            Advice::Refuse { seconds } => {
                self.shared.metrics.fills_spared.inc();
                Err(NotJoined::Wrong { seconds })
            }
        };
        let ticket = before.ticket();
        self.begin_or_join(
            (&key, Some(demand)),
            (looked, ticket),
            advised,
            |avoid, landing| async move { leader::lead(&landing, wanted, before, avoid).await },
        )
    }

    /// Joins the flight of `key`, or begins one, with `ticket` or with one of this moment:
    /// `advised` says with what, or why not, and `lead` leads it. Without a `demand` it is one for
    /// the head alone, which has no body that would take room.
    fn begin_or_join<A, F>(
        &self,
        (key, demand): (&Key, Option<Demand>),
        (looked, ticket): (Option<Mark>, Option<FenceEpoch>),
        advised: impl FnOnce() -> Result<A, NotJoined>,
        lead: impl FnOnce(A, Landing) -> F,
    ) -> Result<(Role, FlightReader), NotJoined>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let method = if demand.is_some() { Method::Get } else { Method::Head };
        let mut flights = self.shared.flights.lock();
        let (under_way, ended) = flights.of(method);
        let cache = &self.shared.cache;
        let entry = match under_way.entry(key.clone()) {
            Entry::Occupied(entry) => {
                if !cache.is_purged_since(entry.get().ticket, key)
                    && let Some(reader) = entry.get().join()
                {
                    return Ok((Role::Follow, reader));
                }
                entry.remove();
                under_way.entry(key.clone())
            }
            entry @ Entry::Vacant(_) => entry,
        };
        let missed = looked.map_or(0, |looked| self.mark().0.saturating_sub(looked.0));
        let missed = usize::try_from(missed).unwrap_or(usize::MAX);
        if ended.iter().rev().take(missed).any(|ended| ended == key) {
            return Err(NotJoined::Ended);
        }
        let advice = advised()?;
        let reader = FlightReader::first(ticket.unwrap_or_else(|| cache.ticket()));
        let flight = Arc::clone(&reader.flight);
        let admit = |demand| {
            let place = self.shared.room.admit(&demand, &flight.readers);
            place.map(|place| (place, demand)).ok_or(NotJoined::NoRoom)
        };
        let admitted = demand.map(admit).transpose()?;
        entry.insert_entry(Arc::clone(&flight));
        drop(flights);
        let landing = Landing {
            shared: Arc::clone(&self.shared),
            key: key.clone(),
            method,
            flight: Arc::clone(&flight),
        };
        self.shared.metrics.fills_running.inc();
        let leading = Box::pin(lead(advice, landing));
        self.shared.tasks.spawn("fill", async move {
            match admitted {
                Some((place, demand)) => place.hold(&demand, &flight.readers, leading).await,
                None => leading.await,
            }
        });
        Ok((Role::Lead, reader))
    }

    /// The fill of the whole of `key` that is under way and may be joined.
    fn whole_under_way(&self, key: &Key) -> Option<FlightReader> {
        let flight = self.shared.flights.lock().under_way.get(key).map(Arc::clone)?;
        let is_purged = self.shared.cache.is_purged_since(flight.ticket, key);
        if is_purged { None } else { flight.join() }
    }

    /// Fetches an object for one reader alone, keeping nothing: for the readers of a fill whose
    /// object may not be kept, beyond the first, and for those that come too late to share it.
    pub async fn pass(&self, wanted: &Wanted) -> Flight {
        let flight = Flight::new(self.shared.cache.ticket());
        let avoid = match self.shared.wrong.advice(&wanted.key, &self.shared.cache) {
            Advice::Ask { avoid } => avoid,
            Advice::Refuse { .. } => Vec::new(),
        };
        Box::pin(leader::pass(&self.shared, &flight, wanted, avoid)).await;
        flight
    }
}

/// What is here before anything is fetched.
#[derive(Debug)]
enum Before {
    /// What is stored, to be confirmed.
    Stale(Option<Stale>),
    /// An answer to GET, and a ticket of the moment before it was asked for.
    Given(Box<Response>, FenceEpoch),
}

impl Before {
    /// The ticket that a fill has from what is here.
    fn ticket(&self) -> Option<FenceEpoch> {
        match self {
            Self::Stale(_) => None,
            Self::Given(_, ticket) => Some(*ticket),
        }
    }
}

/// Counts a fetch as under way until it is dropped.
#[derive(Debug)]
struct Running(Metrics);

impl Running {
    fn begin(metrics: &Metrics) -> Self {
        metrics.fills_running.inc();
        Self(metrics.clone())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fills_running.dec();
    }
}

/// A flight in its leader's hands: dropped, it lands as lost where nothing was said, and leaves
/// the map.
#[derive(Debug)]
struct Landing {
    shared: Arc<Shared>,
    key: Key,
    method: Method,
    flight: Arc<Flight>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        self.flight.end();
        self.shared.metrics.fills_running.dec();
        let mut flights = self.shared.flights.lock();
        let (under_way, ended) = flights.of(self.method);
        if let Entry::Occupied(entry) = under_way.entry(self.key.clone())
            && Arc::ptr_eq(entry.get(), &self.flight)
        {
            entry.remove();
            if ended.len() == ENDED_MAX {
                ended.pop_front();
            }
            ended.push_back(self.key.clone());
            self.shared.ended_count.fetch_add(1, Ordering::Release);
        }
    }
}
