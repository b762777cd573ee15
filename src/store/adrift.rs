//! An object whose disk failed under it while it was received. It is not stored any more, but its
//! readers go on: what is in the file is read from there, the rest passes through a window of
//! memory that moves with the slowest of them. Owned by the fill's task; dropped before its end,
//! it fails the readers that need more. Holds no lock across an await.
//!
//! The window is full when the slowest reader has not yet had its oldest bytes: then the fill
//! waits for it, and with it the origin. A reader that does not move within [`PATIENCE`] is left
//! behind, and fails when it comes to what is gone. Nothing is ever let go that may not be seen
//! yet, so the end that is held back until the whole is checked stays held back.

use super::Inner;
use super::growing::Shared;
use super::pending::Guard;
use super::space::Reservation;
use crate::object::Sha256;
use aws_lc_rs::digest;
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// What one object keeps in memory: the bandwidth-delay product of 1 Gbit/s and 60 ms, so that a
/// reader that pauses for a moment holds up nobody.
const WINDOW_BYTES_MAX: u64 = 8 << 20;
/// What one object keeps at least, however many are adrift: twice a batch of writes, which is in
/// memory already when the disk fails.
const WINDOW_BYTES_MIN: u64 = 512 << 10;
/// What all of them keep together, as long as the least of each allows it.
const WINDOWS_BYTES: u64 = 256 << 20;
/// How long a full window waits for its slowest reader.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a full window that nobody reads waits for somebody: who was told of the object is
/// about to begin, and nobody else will.
const PATIENCE_ALONE: Duration = Duration::from_secs(1);

/// Objects that are adrift at present.
#[derive(Debug, Default)]
pub(super) struct Fleet(AtomicU64);

/// An object that is being received and will not be stored.
pub struct Adrift {
    shared: Arc<Shared>,
    store: Arc<Inner>,
    hash: digest::Context,
    guard: Guard,
    /// The file takes its space until the end.
    _reservation: Reservation,
}

/// Nobody reads the object any more, and nobody will.
#[derive(Debug, thiserror::Error)]
#[error("the disk failed under the object and nobody reads it any more")]
pub struct Deserted;

impl std::fmt::Debug for Adrift {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Adrift").field("shared", &self.shared).finish_non_exhaustive()
    }
}

impl Adrift {
    /// Takes over an object of which `hash` knows every byte received so far.
    pub(super) fn new(
        store: Arc<Inner>,
        shared: Arc<Shared>,
        hash: digest::Context,
        guard: Guard,
        reservation: Reservation,
    ) -> Self {
        store.fleet.0.fetch_add(1, Ordering::Relaxed);
        Self { shared, store, hash, guard, _reservation: reservation }
    }

    /// Adds the next bytes; waits for the slowest reader where the window is full, at most
    /// 10 s. Not cancel safe: given up half way, the bytes are lost.
    pub async fn append(&mut self, chunk: Bytes) -> Result<(), Deserted> {
        self.hash.update(&chunk);
        self.make_room(chunk.len() as u64).await?;
        self.shared.push(chunk);
        Ok(())
    }

    /// Lets readers see everything before offset `upto`.
    pub fn reveal(&self, upto: u64) {
        self.shared.reveal(upto);
    }

    /// Bytes received so far.
    pub fn received(&self) -> u64 {
        self.shared.received()
    }

    /// Bytes of it in memory.
    pub fn in_memory(&self) -> u64 {
        self.shared.in_memory()
    }

    /// Ends the body: its SHA-256 and its bytes. Reveals nothing.
    pub fn end(&mut self) -> (Sha256, u64) {
        self.shared.seal();
        (Sha256::finish(self.hash.clone()), self.shared.received())
    }

    /// Lets readers see all of it: it is proven to be right. They read on when this is gone.
    pub fn reveal_all(self) {
        self.guard.reveal_all();
    }

    async fn make_room(&self, bytes: u64) -> Result<(), Deserted> {
        let began = Instant::now();
        loop {
            let window = self.window();
            if self.shared.in_memory().saturating_add(bytes) <= window {
                return Ok(());
            }
            let is_followed = self.shared.forget_what_all_had();
            if self.shared.in_memory().saturating_add(bytes) <= window {
                return Ok(());
            }
            let patience = if is_followed { PATIENCE } else { PATIENCE_ALONE };
            if tokio::time::timeout_at(began + patience, self.shared.moved()).await.is_err() {
                if !is_followed {
                    return Err(Deserted);
                }
                // Half of it, so that the next of many slow readers is not waited for at once.
                self.shared.forget_oldest((window / 2).max(bytes));
                return Ok(());
            }
        }
    }

    fn window(&self) -> u64 {
        let count = self.store.fleet.0.load(Ordering::Relaxed).max(1);
        (WINDOWS_BYTES / count).clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX)
    }
}

impl Drop for Adrift {
    fn drop(&mut self) {
        self.store.fleet.0.fetch_sub(1, Ordering::Relaxed);
    }
}
