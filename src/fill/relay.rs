//! A body that may be stored and that no disk takes, shared by all readers that ask for it while
//! its first byte is in memory: one fetch feeds a window ([`MemoryWindow`]), in which each reader
//! has a position of its own. Lives as long as its fill, and its readers after that; a short lock,
//! never held across an await. Without memory for a window, the body passes to one reader alone.
//! Called by the leaders of both kinds of site.
//!
//! - The fetch follows the foremost reader, half a window ahead of it at most. If the foremost
//!   takes nothing, the deadlines of its connection end it.
//! - The fetch waits for readers that are about as fast as the foremost: each may hold it up for
//!   [`GRACE`] in all, and for an eighth of the time that it takes.
//! - Bytes that all readers have had are let go as soon as no reader may join any more. A reader
//!   may join while the first byte of the body is here. If the window is full, its oldest bytes are
//!   let go, whether or not a slow reader has had them.
//! - If the next bytes of a reader are gone, it leaves the shared fetch and goes on with one of its
//!   own, as a body does that broke off (see `resumable_body`). Only a strong entity tag, or a hash
//!   that proves the whole, tells what may continue it. So a body without either is never shared.
//! - A page of a generic site may change at any time. So it is shared only if its window has room
//!   for all of it, which is about 6 MiB at most. It stays there until it has no reader.
//! - Without readers the fetch is ended.
//!
//! # Bounds
//!
//! A shared fetch gives its place among the fills back when its head is here. Then the memory of
//! windows bounds it: 512 windows of the least size. A reader that fell behind waits a while for a
//! place, goes on without one if there is none, and gives it back when a head is here. So such
//! fetches, and those without a window, are no more than readers: the connections and streams of
//! clients bound them. The connections to an origin bound all.

use super::checked_body::{CheckedBody, CheckedBodySeed};
use super::error::FillError;
use super::memory_window::{MemoryWindow, WindowBytes, WindowExtent};
use super::readers::{FillReader, FillReaders};
use super::resources::RunningCount;
use super::site_origins::Demand;
use crate::object::{Meta, Sha256};
use crate::origin::Asker;
use crate::sync::Mutex;
use aws_lc_rs::digest;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// For how long a reader may hold up a shared fetch, at its beginning.
const GRACE: Duration = Duration::from_millis(500);
/// A reader may hold it up for one part in so many of its time beside that.
const GRACE_PART: u32 = 8;
/// How long a reader that goes on alone waits for a place among the fills.
const PLACE_WAIT: Duration = Duration::from_secs(10);

/// A body on its way to several readers.
pub(super) struct Relay {
    source: Arc<RelaySource>,
    state: Mutex<RelayState>,
    /// Notified when bytes or the end have come.
    grown: Notify,
    /// Notified when a reader has moved or left.
    moved: Notify,
}

/// What readers need of the body, also after they have left.
struct RelaySource {
    seed: CheckedBodySeed,
    demand: Demand,
}

struct RelayState {
    window: MemoryWindow,
    kept: WindowExtent,
    begun: Instant,
    places: HashMap<u64, ReaderPosition>,
    readers_so_far: u64,
    /// No reader joins any more.
    is_shut: bool,
    /// As [`CheckedBody::doubtful_from`].
    doubtful_from: Option<u64>,
    over: Option<Result<(), Arc<FillError>>>,
}

/// The position of a reader.
struct ReaderPosition {
    /// What it wants next.
    position: u64,
    /// For how long it has held up the fetch.
    held: Duration,
}

/// What became of the next bytes.
enum PushResult {
    Added,
    /// The foremost reader must move first.
    Ahead,
    /// The reader at `kept` must move first, or hold the fetch up for as long as is `left`.
    Held {
        left: Duration,
        kept: u64,
    },
}

/// Where readers join; when it is dropped, no reader joins any more.
#[derive(Debug)]
pub(super) struct RelayEntrance(Arc<Relay>);

/// Tells readers of the end when it is dropped, although what runs the relay panics.
struct RelayEnd<'a>(&'a Relay);

/// A reader of such a body.
pub(super) struct RelayReader {
    source: Arc<RelaySource>,
    /// Its client.
    asker: Asker,
    way: RelayPath,
    /// Taken, and not given yet.
    ready: Bytes,
    /// Offset behind what was taken.
    position: u64,
    /// SHA-256 of all bytes before that.
    had: digest::Context,
}

enum RelayPath {
    Joined(RelaySeat),
    Alone(Box<SoloFetch>),
    /// It has left, and has no other fetch yet.
    Left,
}

/// The place of a reader in the shared fetch, given up when it is dropped.
struct RelaySeat {
    relay: Arc<Relay>,
    number: u64,
    _reader: FillReader,
}

/// A fetch for one reader, which is counted as under way.
struct SoloFetch {
    body: Box<CheckedBody>,
    _running: RunningCount,
}

/// What a reader finds at its position.
enum NextBytes {
    Bytes(WindowBytes),
    End,
    Failed(Arc<FillError>),
    /// It is gone.
    Behind,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("meta", self.meta()).finish_non_exhaustive()
    }
}

impl Relay {
    /// For `body`, of which nothing was read; none if there is no memory for a window.
    pub(super) fn new(body: &CheckedBody, demand: Demand, kept: WindowExtent) -> Option<Arc<Self>> {
        let seed = body.seed();
        let memory = &seed.resources().window_memory;
        let window = match kept {
            WindowExtent::Stretch => memory.open()?,
            WindowExtent::Whole => memory.open_for_all(seed.length()?)?,
        };
        Some(Arc::new(Self {
            source: Arc::new(RelaySource { seed, demand }),
            state: Mutex::new(RelayState::new(window, kept)),
            grown: Notify::new(),
            moved: Notify::new(),
        }))
    }

    /// The head of the body.
    pub(super) fn meta(&self) -> &Arc<Meta> {
        self.source.seed.meta()
    }

    /// Brings `body` to the readers, until it ends, or has no reader.
    pub(super) async fn run(
        &self,
        mut body: Box<CheckedBody>,
        readers: &FillReaders,
    ) -> Result<(), Arc<FillError>> {
        let _end = RelayEnd(self);
        let max = self.state.lock().window.bounds().piece_bytes;
        let brought = async {
            while let Some(bytes) = body.chunk(max).await? {
                readers.came(bytes.len() as u64);
                if let Some(from) = body.doubtful_from() {
                    self.state.lock().doubtful_from = Some(from);
                }
                self.push(&bytes, body.given()).await;
            }
            Ok(())
        };
        let ended = tokio::select! {
            biased;
            ended = brought => ended,
            () = readers.closed_without_any() => Err(FillError::Unread),
        };
        let ended = ended.map_err(Arc::new);
        self.state.lock().over = Some(ended.clone());
        ended
    }

    /// Adds the next bytes, once the readers that are waited for are near enough.
    async fn push(&self, bytes: &Bytes, digest: &digest::Context) {
        loop {
            let pushed = self.state.lock().push(bytes, digest, Instant::now());
            match pushed {
                PushResult::Added => break,
                PushResult::Ahead => self.moved.notified().await,
                PushResult::Held { left, kept } => {
                    let waited = Instant::now();
                    // Either way it is looked at again.
                    let _ = timeout(left, self.moved.notified()).await;
                    self.state.lock().charge(waited.elapsed(), kept);
                }
            }
        }
        self.grown.notify_waiters();
    }

    fn seat(self: &Arc<Self>, readers: &FillReaders) -> Option<RelaySeat> {
        let reader = readers.enter()?;
        let number = self.state.lock().enter()?;
        Some(RelaySeat { relay: Arc::clone(self), number, _reader: reader })
    }
}

impl RelayEntrance {
    /// Where readers of `relay` join.
    pub(super) fn new(relay: &Arc<Relay>) -> Self {
        Self(Arc::clone(relay))
    }

    /// One reader more, of this client; none if the first byte of the body is gone.
    pub(super) fn join(&self, readers: &FillReaders, asker: Asker) -> Option<RelayReader> {
        let relay = &self.0;
        Some(RelayReader {
            way: RelayPath::Joined(relay.seat(readers)?),
            source: Arc::clone(&relay.source),
            asker,
            ready: Bytes::new(),
            position: 0,
            had: digest::Context::new(&digest::SHA256),
        })
    }

    /// Whether a request that comes now may join: not if all of the body has come, since its
    /// readers may have its end already, and what they ask for next is asked for anew.
    pub(super) fn is_open(&self) -> bool {
        let (state, length) = (self.0.state.lock(), self.0.source.seed.length());
        state.is_open() && state.over.is_none() && length != Some(state.window.end())
    }

    /// The declared length, and how many bytes have come.
    pub(super) fn progress(&self) -> (Option<u64>, u64) {
        (self.0.source.seed.length(), self.0.state.lock().window.end())
    }
}

impl Drop for RelayEntrance {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.is_shut = true;
        state.let_go();
    }
}

impl Drop for RelayEnd<'_> {
    fn drop(&mut self) {
        let lost = || Err(Arc::new(FillError::NoResult));
        self.0.state.lock().over.get_or_insert_with(lost);
        self.0.grown.notify_waiters();
    }
}

impl RelayState {
    fn new(window: MemoryWindow, kept: WindowExtent) -> Self {
        Self {
            window,
            kept,
            begun: Instant::now(),
            places: HashMap::new(),
            readers_so_far: 0,
            is_shut: false,
            doubtful_from: None,
            over: None,
        }
    }

    /// Whether a reader may join that waits for the body already.
    fn is_open(&self) -> bool {
        !self.is_shut && self.window.start() == 0 && !matches!(self.over, Some(Err(_)))
    }

    fn enter(&mut self) -> Option<u64> {
        if !self.is_open() {
            return None;
        }
        self.readers_so_far += 1;
        let place = ReaderPosition { position: 0, held: Duration::ZERO };
        self.places.insert(self.readers_so_far, place);
        Some(self.readers_so_far)
    }

    fn leave(&mut self, number: u64) {
        self.places.remove(&number);
        self.let_go();
    }

    fn push(&mut self, bytes: &Bytes, digest: &digest::Context, now: Instant) -> PushResult {
        let foremost = self.positions().max().unwrap_or_default();
        let ahead = self.window.end().saturating_sub(foremost);
        if ahead > 0 && ahead + bytes.len() as u64 > self.window.bounds().most_bytes / 2 {
            return PushResult::Ahead;
        }
        let (start, grace) = (self.window.start(), GRACE + (now - self.begun) / GRACE_PART);
        let is_waited_for = |place: &&ReaderPosition| place.position >= start && place.held < grace;
        let hindmost = self.places.values().filter(is_waited_for).min_by_key(|p| p.position);
        let (kept, left) = match hindmost {
            Some(place) => (place.position, grace.saturating_sub(place.held)),
            None => (foremost, grace),
        };
        let has_come = self.window.push(bytes, digest, kept);
        self.let_go();
        if has_come {
            PushResult::Added
        } else if kept < foremost {
            PushResult::Held { left, kept }
        } else {
            PushResult::Ahead
        }
    }

    /// The fetch was held up for so long, by the reader at `kept` and those in the last quarter of
    /// the window.
    fn charge(&mut self, held: Duration, kept: u64) {
        let (start, end) = (self.window.start(), self.window.end());
        let last = kept.max(start + (end - start) / 4);
        for place in self.places.values_mut() {
            if place.position <= last {
                place.held += held;
            }
        }
    }

    fn positions(&self) -> impl Iterator<Item = u64> {
        self.places.values().map(|place| place.position)
    }

    /// What the reader of this number finds at `position`; none if it must wait.
    fn take(&mut self, number: u64, position: u64) -> Option<NextBytes> {
        if position < self.window.start() {
            return Some(NextBytes::Behind);
        }
        if let Some(taken) = self.window.take(position) {
            if let Some(place) = self.places.get_mut(&number) {
                place.position = position + taken.bytes.len() as u64;
            }
            self.let_go();
            return Some(NextBytes::Bytes(taken));
        }
        match &self.over {
            Some(Ok(())) => Some(NextBytes::End),
            Some(Err(error)) => Some(NextBytes::Failed(Arc::clone(error))),
            None => None,
        }
    }

    /// Lets go of what all readers have had, if no reader may join any more and not all is kept.
    fn let_go(&mut self) {
        if self.kept == WindowExtent::Stretch && !self.is_open() {
            let slowest = self.positions().min();
            self.window.forget_before(slowest.unwrap_or(u64::MAX));
        }
    }
}

impl RelaySeat {
    /// What comes at `position`, as soon as it is there. Cancel safe.
    async fn next(&self, position: u64) -> NextBytes {
        loop {
            let mut grown = std::pin::pin!(self.relay.grown.notified());
            grown.as_mut().enable();
            let found = self.relay.state.lock().take(self.number, position);
            if let Some(found) = found {
                self.relay.moved.notify_one();
                return found;
            }
            grown.await;
        }
    }
}

impl Drop for RelaySeat {
    fn drop(&mut self) {
        self.relay.state.lock().leave(self.number);
        self.relay.moved.notify_one();
    }
}

impl RelayReader {
    /// The head of the body.
    pub(super) fn meta(&self) -> &Arc<Meta> {
        self.source.seed.meta()
    }

    /// The declared length.
    pub(super) fn length(&self) -> Option<u64> {
        self.source.seed.length()
    }

    /// The one SHA-256 that the body must turn out to have, if that is known.
    pub(super) fn must_be(&self) -> Option<Sha256> {
        self.source.seed.must_be()
    }

    /// As [`CheckedBody::doubtful_from`].
    pub(super) fn doubtful_from(&self) -> Option<u64> {
        match &self.way {
            RelayPath::Joined(seat) => seat.relay.state.lock().doubtful_from,
            RelayPath::Alone(alone) => alone.body.doubtful_from(),
            RelayPath::Left => None,
        }
    }

    /// As `PassThroughBody::chunk`.
    pub(super) async fn chunk(&mut self, max: usize) -> Result<Option<Bytes>, FillError> {
        while self.ready.is_empty() {
            let next = match &mut self.way {
                RelayPath::Joined(seat) => seat.next(self.position).await,
                RelayPath::Alone(alone) => return alone.body.chunk(max).await,
                RelayPath::Left => return Err(FillError::NoResult),
            };
            match next {
                NextBytes::Bytes(WindowBytes { bytes, digest }) => {
                    self.position += bytes.len() as u64;
                    (self.ready, self.had) = (bytes, digest);
                }
                NextBytes::End => return Ok(None),
                NextBytes::Failed(error) => return Err(FillError::Relayed(error)),
                NextBytes::Behind => {
                    // The seat is given up first: the shared fetch is not kept for this reader.
                    self.way = RelayPath::Left;
                    self.way = RelayPath::Alone(Box::pin(self.alone()).await?);
                }
            }
        }
        Ok(Some(self.ready.split_to(max.min(self.ready.len()))))
    }

    /// The same body out of another fetch, behind what this reader has.
    async fn alone(&self) -> Result<Box<SoloFetch>, FillError> {
        let RelaySource { seed, demand } = &*self.source;
        let (path, position) = (seed.meta().key.path(), self.position);
        tracing::debug!(path, position, "reader fell behind; fetching alone");
        let demand = Demand { asker: self.asker, ..demand.clone() };
        // A reader in mid-body is not refused. As of any body that passes, the place is given back
        // when the head is here.
        let deadline = Instant::now() + PLACE_WAIT;
        let resources = seed.resources();
        let place = resources.places.wait(&demand, &FillReaders::default(), deadline).await;
        let running = RunningCount::begin(&resources.metrics);
        let body = seed.rest(position, self.had.clone()).await?;
        drop(place);
        Ok(Box::new(SoloFetch { body, _running: running }))
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory_window::{Bounds, WindowMemory};
    use super::*;

    const BOUNDS: Bounds = Bounds {
        all_bytes: 4 << 20,
        least_bytes: 256 << 10,
        most_bytes: 1 << 20,
        piece_bytes: 64 << 10,
    };

    /// A body that comes in pieces, and what its readers are given.
    struct RelayBench {
        memory: Arc<WindowMemory>,
        state: RelayState,
        came: u64,
        digest: digest::Context,
        /// The SHA-256 of all bytes up to the end of each piece that came.
        digests: HashMap<u64, Sha256>,
    }

    fn bytes(span: std::ops::Range<u64>) -> Bytes {
        span.map(|at| u8::try_from(at * 31 % 251).unwrap()).collect()
    }

    impl RelayBench {
        fn new() -> Self {
            let memory = WindowMemory::new(BOUNDS);
            let state = RelayState::new(memory.open().unwrap(), WindowExtent::Stretch);
            let digest = digest::Context::new(&digest::SHA256);
            Self { memory, state, came: 0, digest, digests: HashMap::new() }
        }

        /// Whether the next piece, of so many bytes, finds room if no reader is waited for.
        fn push(&mut self, length: u64) -> bool {
            for place in self.state.places.values_mut() {
                place.held = Duration::MAX;
            }
            matches!(self.push_waiting(length), PushResult::Added)
        }

        /// What becomes of the next piece, of so many bytes.
        fn push_waiting(&mut self, length: u64) -> PushResult {
            let end = self.came + length;
            let (piece, mut digest) = (bytes(self.came..end), self.digest.clone());
            digest.update(&piece);
            let pushed = self.state.push(&piece, &digest, self.state.begun);
            if matches!(pushed, PushResult::Added) {
                self.digests.insert(end, Sha256::finish(digest.clone()));
                (self.came, self.digest) = (end, digest);
            }
            pushed
        }

        /// Reads all that is there, and compares it and its digest.
        fn read(&mut self, number: u64, position: u64) -> u64 {
            let mut position = position;
            while let Some(next) = self.state.take(number, position) {
                let NextBytes::Bytes(taken) = next else { panic!("no bytes at {position}") };
                let end = position + taken.bytes.len() as u64;
                assert_eq!(taken.bytes, bytes(position..end));
                assert_eq!(Some(&Sha256::finish(taken.digest)), self.digests.get(&end));
                position = end;
            }
            position
        }
    }

    #[test]
    fn the_fetch_follows_the_foremost_reader_and_no_other() {
        let mut bench = RelayBench::new();
        let (slow, fast) = (bench.state.enter().unwrap(), bench.state.enter().unwrap());
        let mut position = 0;
        for _ in 0..10 {
            while bench.push(50_000) {}
            assert!(bench.came - position <= BOUNDS.most_bytes / 2, "{} ahead", bench.came);
            position = bench.read(fast, position);
            assert_eq!(position, bench.came);
            assert!(bench.memory.taken() <= BOUNDS.most_bytes);
        }
        assert!(matches!(bench.state.take(slow, 0), Some(NextBytes::Behind)));
        assert!(bench.state.enter().is_none(), "the first byte is gone");
        // Nothing is kept for a reader that has left.
        bench.state.leave(slow);
        assert_eq!(bench.memory.taken(), BOUNDS.least_bytes);
        bench.state.leave(fast);
        drop(bench.state);
        assert_eq!(bench.memory.taken(), 0);
    }

    #[test]
    fn what_all_have_had_is_let_go_once_no_reader_may_join() {
        let mut bench = RelayBench::new();
        let (one, other) = (bench.state.enter().unwrap(), bench.state.enter().unwrap());
        while bench.push(60_000) {}
        bench.read(one, 0);
        bench.read(other, 0);
        assert_eq!(bench.state.window.start(), 0, "another may join");
        let before = bench.memory.taken();
        bench.state.is_shut = true;
        bench.state.let_go();
        assert_eq!(bench.state.window.start(), bench.came);
        assert!(bench.memory.taken() < before);
        assert!(bench.state.enter().is_none());
    }

    #[test]
    fn readers_of_every_pace_get_every_byte_of_pieces_of_every_size() {
        let sizes = [1, 7, 4096, 4097, 1, 1, 65_536, 300, 20_000];
        let mut bench = RelayBench::new();
        let numbers: Vec<_> = (0..3).map(|_| bench.state.enter().unwrap()).collect();
        let mut positions = [0; 3];
        for step in 0..2_000 {
            bench.push(sizes[step % sizes.len()]);
            for (at, every) in [1, 3, 5].into_iter().enumerate() {
                if step % every == 0 {
                    positions[at] = bench.read(numbers[at], positions[at]);
                }
            }
            assert!(bench.memory.taken() <= BOUNDS.most_bytes);
            if bench.came > 3 << 20 {
                break;
            }
        }
        assert!(bench.came > 3 << 20);
    }

    #[test]
    fn readers_that_leave_hold_nothing() {
        let mut bench = RelayBench::new();
        let first = bench.state.enter().unwrap();
        while bench.push(64 << 10) {}
        bench.read(first, 0);
        let second = bench.state.enter().unwrap();
        bench.state.leave(first);
        assert!(!bench.push(64 << 10), "the second has had nothing yet");
        let position = bench.read(second, 0);
        assert!(bench.push(64 << 10));
        bench.read(second, position);
    }

    #[test]
    fn a_reader_that_is_little_behind_is_waited_for_and_one_that_stays_behind_is_not() {
        let mut bench = RelayBench::new();
        let (fast, slow) = (bench.state.enter().unwrap(), bench.state.enter().unwrap());
        let (mut had, mut slow_had) = (0, 0);
        let mut until_held = |bench: &mut RelayBench| {
            loop {
                match bench.push_waiting(64 << 10) {
                    PushResult::Added => had = bench.read(fast, had),
                    PushResult::Held { left, kept } => return (left, kept),
                    PushResult::Ahead => panic!("the foremost has had all"),
                }
            }
        };
        for _ in 0..10 {
            assert_eq!(until_held(&mut bench), (GRACE, slow_had));
            slow_had = bench.read(slow, slow_had);
        }
        assert_eq!(until_held(&mut bench), (GRACE, slow_had));
        bench.state.charge(GRACE / 5, slow_had);
        assert_eq!(until_held(&mut bench), (GRACE / 5 * 4, slow_had));
        bench.state.charge(GRACE, slow_had);
        assert!(matches!(bench.push_waiting(64 << 10), PushResult::Added));
        assert!(matches!(bench.state.take(slow, slow_had), Some(NextBytes::Behind)));
        assert!(bench.state.places[&fast].held.is_zero());
    }
}
