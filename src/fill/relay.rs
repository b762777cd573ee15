//! A body that is not kept since no disk takes it, shared by all who ask for it while it comes: its
//! last bytes are in memory, and each reader has a cursor of its own. Lives as long as its leader
//! or its last reader; a short lock, never held across an await.
//!
//! The foremost reader sets the pace: the leader waits for it, and for no other. Bytes that leave
//! the window are gone. A reader that has not had them yet goes on by a fetch of its own, if that
//! brings provably the same object. No reader joins once the first byte is gone.

use super::flight::{Flight, Landed};
use super::passing::Passing;
use super::readers::{Reader, Readers};
use super::{FillError, Shared, Wanted, leader};
use crate::object::{Meta, Sha256};
use crate::rfc::Validators;
use crate::sync::Mutex;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// Bytes of all windows together, unless there are very many.
const ALL_BYTES: u64 = 128 << 20;
/// Bytes of one window.
const LEAST_BYTES: u64 = 128 << 10;
const MOST_BYTES: u64 = 8 << 20;
/// Bytes of a piece that a leader takes at once.
const PIECE_BYTES: usize = 64 << 10;
/// Bytes that are left out at a time by a reader that goes on alone.
const SKIPPED_BYTES: usize = 1 << 20;

/// How many bodies share the memory for windows.
#[derive(Debug, Default)]
pub(super) struct Windows(AtomicU64);

/// A body on its way to several readers.
pub(super) struct Relay {
    meta: Arc<Meta>,
    length: Option<u64>,
    must_be: Option<Sha256>,
    shared: Arc<Shared>,
    wanted: Wanted,
    state: Mutex<State>,
    /// Notified when a byte or the end has come.
    grown: Notify,
    /// Notified when a reader has moved.
    moved: Notify,
}

#[derive(Default)]
struct State {
    window: VecDeque<Bytes>,
    /// Offset of the first byte in the window, and offset behind its last.
    start: u64,
    end: u64,
    /// What each reader wants next.
    next: HashMap<u64, u64>,
    readers_so_far: u64,
    over: Option<Result<(), Arc<FillError>>>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("meta", &self.meta).finish_non_exhaustive()
    }
}

/// A reader of such a body.
pub(super) struct RelayReader {
    relay: Arc<Relay>,
    number: u64,
    next: u64,
    alone: Option<Box<Passing>>,
    _reader: Reader,
}

/// What a reader finds.
enum Next {
    Bytes(Bytes),
    End,
    Failed(Arc<FillError>),
    Nothing,
    /// What it wants is gone.
    Behind,
}

impl Relay {
    /// For `passing`, of which nothing has been read.
    pub(super) fn new(passing: &Passing, shared: &Arc<Shared>, wanted: &Wanted) -> Arc<Self> {
        shared.windows.0.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            meta: Arc::clone(&passing.meta),
            length: passing.length(),
            must_be: passing.must_be(),
            shared: Arc::clone(shared),
            wanted: wanted.clone(),
            state: Mutex::default(),
            grown: Notify::new(),
            moved: Notify::new(),
        })
    }

    /// A body for one reader more; none if its first byte is gone.
    pub(super) fn join(self: &Arc<Self>, readers: &Readers) -> Option<Passing> {
        let reader = readers.enter()?;
        let mut state = self.state.lock();
        if state.start > 0 || matches!(state.over, Some(Err(_))) {
            return None;
        }
        state.readers_so_far += 1;
        let number = state.readers_so_far;
        state.next.insert(number, 0);
        drop(state);
        let relay = Arc::clone(self);
        let reader = RelayReader { relay, number, next: 0, alone: None, _reader: reader };
        Some(Passing::relayed(Arc::clone(&self.meta), reader))
    }

    /// Whether a reader may still join.
    pub(super) fn is_open(&self) -> bool {
        let state = self.state.lock();
        state.start == 0 && !matches!(state.over, Some(Err(_)))
    }

    /// Brings `passing` to the readers, until it ends, or has no reader.
    pub(super) async fn run(&self, mut passing: Passing, readers: &Readers) {
        let brought = async {
            while let Some(piece) = passing.chunk(PIECE_BYTES).await? {
                readers.came(piece.len() as u64);
                self.push(piece).await;
            }
            Ok(())
        };
        let ended = tokio::select! {
            biased;
            ended = readers.while_open(brought) => ended.flatten(),
            never = readers.close_with_last() => match never {},
        };
        self.state.lock().over = Some(ended.map_err(Arc::new));
        self.grown.notify_waiters();
    }

    /// Adds the next bytes, once the foremost reader is near enough.
    async fn push(&self, bytes: Bytes) {
        let max = self.shared.windows.bytes();
        while self.state.lock().ahead() > max / 2 {
            self.moved.notified().await;
        }
        self.state.lock().push(bytes, max);
        self.grown.notify_waiters();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.windows.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Windows {
    /// Bytes of one window at present.
    fn bytes(&self) -> u64 {
        let count = self.0.load(Ordering::Relaxed).max(1);
        (ALL_BYTES / count).clamp(LEAST_BYTES, MOST_BYTES)
    }
}

impl State {
    /// Bytes that have come and that no reader has had.
    fn ahead(&self) -> u64 {
        self.end - self.next.values().copied().max().unwrap_or_default().min(self.end)
    }

    fn push(&mut self, bytes: Bytes, max: u64) {
        self.end += bytes.len() as u64;
        self.window.push_back(bytes);
        while self.end - self.start > max
            && let Some(oldest) = self.window.pop_front()
        {
            self.start += oldest.len() as u64;
        }
    }

    /// What the reader of this number finds, which wants the bytes from `next` on.
    fn take(&mut self, (number, next): (u64, &mut u64), max: usize) -> Next {
        let found = self.find(*next, max);
        if let Next::Bytes(bytes) = &found {
            *next += bytes.len() as u64;
            self.next.insert(number, *next);
        }
        found
    }

    fn find(&self, next: u64, max: usize) -> Next {
        if next < self.start {
            return Next::Behind;
        }
        let mut end = self.end;
        for bytes in self.window.iter().rev() {
            let start = end - bytes.len() as u64;
            if (start..end).contains(&next) {
                let skipped = usize::try_from(next - start).unwrap_or(bytes.len());
                let found = bytes.slice(skipped..);
                return Next::Bytes(found.slice(..max.min(found.len())));
            }
            end = start;
        }
        match &self.over {
            Some(Ok(())) => Next::End,
            Some(Err(error)) => Next::Failed(Arc::clone(error)),
            None => Next::Nothing,
        }
    }
}

impl RelayReader {
    /// The declared length.
    pub(super) fn length(&self) -> Option<u64> {
        self.relay.length
    }

    /// The one SHA-256 that the body must turn out to have, where that is known.
    pub(super) fn must_be(&self) -> Option<Sha256> {
        self.relay.must_be
    }

    /// As [`Passing::chunk`].
    pub(super) fn chunk(&mut self, max: usize) -> BoxFuture<'_, Result<Option<Bytes>, FillError>> {
        Box::pin(async move {
            if self.alone.is_none() {
                match self.relayed(max).await {
                    Next::Bytes(bytes) => return Ok(Some(bytes)),
                    Next::End => return Ok(None),
                    Next::Failed(error) => return Err(FillError::Relayed(error)),
                    Next::Nothing | Next::Behind => self.alone = Some(self.go_alone().await?),
                }
            }
            match &mut self.alone {
                Some(passing) => passing.chunk(max).await,
                None => Err(FillError::Lost),
            }
        })
    }

    async fn relayed(&mut self, max: usize) -> Next {
        let relay = Arc::clone(&self.relay);
        loop {
            let mut grown = std::pin::pin!(relay.grown.notified());
            grown.as_mut().enable();
            let found = relay.state.lock().take((self.number, &mut self.next), max);
            if !matches!(found, Next::Nothing) {
                relay.moved.notify_one();
                return found;
            }
            grown.await;
        }
    }

    /// The same body from an origin, up to where this reader has come.
    async fn go_alone(&self) -> Result<Box<Passing>, FillError> {
        let Relay { shared, wanted, meta, .. } = &*self.relay;
        self.relay.state.lock().next.remove(&self.number);
        tracing::debug!(path = meta.key.path(), at = self.next, "a slow reader goes on alone");
        let flight = Flight::new(shared.cache.ticket());
        leader::pass(shared, &flight, wanted, Vec::new()).await;
        let mut passing = match flight.landed().await {
            Landed::Passing => flight.take_passing().ok_or(FillError::Lost)?,
            Landed::Failed(error) => return Err(FillError::Relayed(error)),
            Landed::Streaming { .. }
            | Landed::Whole { .. }
            | Landed::Head { .. }
            | Landed::Absent(_) => return Err(FillError::Changed),
        };
        let is_same = match self.relay.must_be {
            Some(sha256) => passing.must_be() == Some(sha256),
            None => passing.length() == self.relay.length && has_same_tag(meta, &passing.meta),
        };
        if !is_same {
            return Err(FillError::Changed);
        }
        let mut left = self.next;
        while left > 0 {
            let max = usize::try_from(left).unwrap_or(usize::MAX).min(SKIPPED_BYTES);
            let skipped = passing.chunk(max).await?.ok_or(FillError::Changed)?;
            left -= skipped.len() as u64;
        }
        Ok(Box::new(passing))
    }
}

impl Drop for RelayReader {
    fn drop(&mut self) {
        self.relay.state.lock().next.remove(&self.number);
        self.relay.moved.notify_one();
    }
}

fn has_same_tag(one: &Meta, other: &Meta) -> bool {
    let (one, other) = (Validators::of(&one.headers).etag, Validators::of(&other.headers).etag);
    matches!((one, other), (Some(one), Some(other)) if one.matches_strongly(&other))
}
