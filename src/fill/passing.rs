//! A body that goes straight from an origin to one client, since it cannot be kept: the response
//! forbids it, or there is no disk that takes it. Owned by that client's response; no locks.
//!
//! One piece is held back until the next has come, and the last until the whole is checked, so
//! that a client never receives a complete wrong body.

use super::steady::{Source, Steady};
use super::verify::Expected;
use super::{FillError, Shared};
use crate::cache::Ticket;
use crate::object::{Meta, Sha256};
use aws_lc_rs::digest;
use bytes::Bytes;
use std::sync::Arc;

/// A body that goes straight to one client.
pub struct Passing {
    /// The head.
    pub meta: Arc<Meta>,
    body: Steady,
    expected: Expected,
    shared: Arc<Shared>,
    ticket: Ticket,
    hash: digest::Context,
    received: u64,
    held: Option<Bytes>,
    ready: Bytes,
    is_over: bool,
}

impl std::fmt::Debug for Passing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passing").field("meta", &self.meta).finish_non_exhaustive()
    }
}

impl Passing {
    pub(super) fn new(
        meta: Arc<Meta>,
        body: Steady,
        expected: Expected,
        shared: Arc<Shared>,
        ticket: Ticket,
    ) -> Self {
        Self {
            meta,
            body,
            expected,
            shared,
            ticket,
            hash: digest::Context::new(&digest::SHA256),
            received: 0,
            held: None,
            ready: Bytes::new(),
            is_over: false,
        }
    }

    /// The declared length.
    pub fn length(&self) -> Option<u64> {
        self.body.total()
    }

    /// The one SHA-256 that it must turn out to have, where that is known.
    pub fn must_be(&self) -> Option<Sha256> {
        self.expected.must_be()
    }

    /// The next piece, of at most `max` bytes; `None` at the end, with the whole checked. After
    /// an error the body is over and must not be ended cleanly. Not cancel safe.
    pub async fn chunk(&mut self, max: usize) -> Result<Option<Bytes>, FillError> {
        while self.ready.is_empty() {
            if self.is_over {
                match self.held.take() {
                    Some(last) => self.ready = last,
                    None => return Ok(None),
                }
                continue;
            }
            match self.body.chunk().await {
                Ok(Some(piece)) => {
                    self.received += piece.len() as u64;
                    if self.expected.file_hash.is_some() {
                        self.hash.update(&piece);
                    }
                    self.ready = self.held.replace(piece).unwrap_or_default();
                }
                Ok(None) => {
                    self.is_over = true;
                    self.check()?;
                }
                Err(error) => return Err(self.fail(error)),
            }
        }
        Ok(Some(self.ready.split_to(max.min(self.ready.len()))))
    }

    fn check(&mut self) -> Result<(), FillError> {
        let actual = Sha256::finish(self.hash.clone());
        let checked = self.expected.check(actual, self.received);
        checked.map(drop).map_err(|rejection| {
            let origin = Arc::clone(&self.meta.origin);
            self.fail(FillError::Rejected { origin, rejection })
        })
    }

    /// Gives up: what is held back is never sent.
    fn fail(&mut self, error: FillError) -> FillError {
        self.is_over = true;
        self.held = None;
        if let FillError::Rejected { origin, rejection } = &error {
            let Source { metrics, key, trail, .. } = self.body.source();
            trail.reject(metrics, key, origin, rejection);
            let count = u32::from(rejection.is_lasting());
            self.shared.note_wrong(key, self.ticket, trail.positions(), count);
        }
        error
    }
}
