//! The short way of a connection of HTTP/1.1: requests that memory answers at once are taken out of
//! what is read before the HTTP library sees them, and their answers are written below it. One per
//! connection, part of its socket; no locks.
//!
//! At any time one of two speaks, and whose turn it is decides who gets what is read:
//!
//! - `FastPath`: the library is idle. It holds no byte of a request, and none of an answer: then what is
//!   read is looked at here. The first head that is not for this way is given to the library, alone
//!   and whole.
//! - `Library`: it has exactly one head that has no body. What is read meanwhile is held. It is
//!   `FastPath` again once that one request is answered and the library flushes, which it does only
//!   when it holds nothing that is not written.
//! - `Closed`: something came whose end is not certain (a body, another version, a broken head).
//!   From there on the library gets every byte of the connection, and this way is never taken
//!   again: what may be a body must never be looked at as if it were a request.
//!
//! An answer for which the socket has no room is kept, and goes before anything else is written or
//! read; so a client that does not read has at most one batch of answers waiting. So does a body
//! that is more than memory has at once: until it has gone, nothing is read.

use super::body_writer::WriteBody;
use super::connection_deadlines::{ConnectionDeadlines, FastPathOutput};
use super::simple_request::{HeadLimits, RequestHead};
use crate::engine::{FastAnswer, SimpleRequest};
use bytes::{Buf, BytesMut};
use std::cell::RefCell;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;

/// Bytes of answers that are made before they are written.
const BATCH_BYTES: usize = 32 * 1024;

/// A body that is being written.
pub(super) type FastBody = Pin<Box<dyn WriteBody>>;

/// Answers plain requests of one connection.
pub(super) trait FastResponder: Send + Sync {
    /// Writes the answer behind `out`, but for a body that it gives; leaves `out` alone where it
    /// has none.
    fn answer(&self, request: &SimpleRequest<'_>, out: &mut Vec<u8>) -> FastAnswer<FastBody>;
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InputOwner {
    /// This way's.
    FastPath,
    /// The library's, until so many requests of the connection have begun and all have ended.
    Library { begun: u64 },
    /// The library's for good.
    Closed,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextStep {
    /// Nothing is held, or the beginning of a head: read more.
    Read,
    /// There is more to be answered or to be given, once the answers are written.
    Again,
}

/// The short way of one connection.
pub(super) struct FastPath {
    responder: Arc<dyn FastResponder>,
    limits: HeadLimits,
    owner: InputOwner,
    /// What was read and not given or answered yet.
    held: BytesMut,
    /// How many bytes of that are the library's.
    owed: usize,
    /// Answers that are not written yet.
    rest: BytesMut,
    /// What comes behind them.
    body: Option<FastBody>,
    /// Whether that has failed: it stays there, and nothing goes any more.
    has_failed: bool,
}

impl fmt::Debug for FastPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FastPath").field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl FastPath {
    /// That of a connection whose requests `responder` answers, and of which `held` was read.
    pub(super) fn new(
        responder: Arc<dyn FastResponder>,
        limits: HeadLimits,
        held: BytesMut,
    ) -> Self {
        let (owner, rest) = (InputOwner::FastPath, BytesMut::new());
        Self { responder, limits, owner, held, owed: 0, rest, body: None, has_failed: false }
    }

    /// Whose turn it is.
    pub(super) const fn owner(&self) -> InputOwner {
        self.owner
    }

    /// Holds what was read.
    pub(super) fn hold(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
    }

    /// Whether anything is held.
    pub(super) fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// What is held and the library's, `bytes_max` of it.
    pub(super) fn owed(&mut self, bytes_max: usize) -> Option<BytesMut> {
        let bytes = self.owed.min(bytes_max);
        if bytes == 0 {
            return None;
        }
        self.owed -= bytes;
        Some(self.held.split_to(bytes))
    }

    /// Keeps what is to be written before anything else is.
    pub(super) fn keep(&mut self, answers: &[u8]) {
        self.rest.extend_from_slice(answers);
    }

    /// Writes what is kept, and the body behind it, to the end.
    pub(super) fn poll_rest(
        &mut self,
        cx: &mut Context<'_>,
        deadlines: &ConnectionDeadlines,
        mut socket: Pin<&mut (impl AsyncWrite + Unpin)>,
    ) -> Poll<io::Result<()>> {
        if self.rest.is_empty() && self.body.is_none() {
            return Poll::Ready(Ok(()));
        }
        if let Some(body) = &mut self.body {
            if self.has_failed {
                return Poll::Ready(Err(io::Error::other("an answer has failed before")));
            }
            let carried = ready!(body.as_mut().poll_write_body(cx, &mut self.rest, socket));
            self.has_failed = carried.is_err();
            carried?;
            self.body = None;
            deadlines.fast_path_writes(FastPathOutput::Nothing);
        } else {
            while !self.rest.is_empty() {
                let written = ready!(socket.as_mut().poll_write(cx, &self.rest))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.rest.advance(written);
            }
        }
        self.rest = BytesMut::new();
        Poll::Ready(Ok(()))
    }

    /// From here on the library gets everything.
    pub(super) fn close(&mut self) {
        self.owner = InputOwner::Closed;
        self.owed = self.held.len();
    }

    /// The library holds nothing that is not written: whether it is now done, and there is
    /// something that was held for this moment.
    pub(super) fn flushed(&mut self, deadlines: &ConnectionDeadlines) -> bool {
        match self.owner {
            InputOwner::Library { begun } if deadlines.has_ended(begun) => {
                self.owner = InputOwner::FastPath;
                !self.held.is_empty()
            }
            InputOwner::Library { .. } | InputOwner::FastPath | InputOwner::Closed => false,
        }
    }

    /// Looks at what is held while it is this way's turn, answers what can be, and gives the
    /// answers to `write`, which keeps what it cannot write; those before a body are kept.
    pub(super) fn take(
        &mut self,
        deadlines: &ConnectionDeadlines,
        write: impl FnOnce(&mut Self, &[u8]),
    ) -> NextStep {
        thread_local! {
            static BATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        if self.held.is_empty() {
            return NextStep::Read;
        }
        BATCH.with_borrow_mut(|batch| {
            batch.clear();
            let (taken, next) = self.answer(deadlines, batch);
            if taken > 0 {
                self.held.advance(taken);
                deadlines.answered();
                if self.body.is_some() {
                    deadlines.fast_path_writes(FastPathOutput::Body);
                    self.keep(batch);
                } else {
                    write(self, batch);
                }
            }
            if self.held.is_empty() {
                self.held.clear();
            }
            next
        })
    }

    /// Makes answers; how many bytes of what is held they are to, and what comes next.
    fn answer(
        &mut self,
        deadlines: &ConnectionDeadlines,
        batch: &mut Vec<u8>,
    ) -> (usize, NextStep) {
        let mut taken = 0;
        loop {
            let rest = self.held.get(taken..).unwrap_or_default();
            if rest.is_empty() {
                return (taken, NextStep::Read);
            }
            if batch.len() >= BATCH_BYTES {
                return (taken, NextStep::Again);
            }
            let length = match RequestHead::of(rest, self.limits) {
                RequestHead::Partial => return (taken, NextStep::Read),
                RequestHead::Simple(request, length) => {
                    match self.responder.answer(&request, batch) {
                        FastAnswer::Complete => {
                            taken += length;
                            continue;
                        }
                        FastAnswer::HeadWritten(body) => {
                            self.body = Some(body);
                            return (taken + length, NextStep::Again);
                        }
                        FastAnswer::NotTaken => length,
                    }
                }
                RequestHead::Bodiless(length) => length,
                RequestHead::Other => {
                    (self.owner, self.owed) = (InputOwner::Closed, rest.len());
                    return (taken, NextStep::Again);
                }
            };
            (self.owner, self.owed) =
                (InputOwner::Library { begun: deadlines.begun() + 1 }, length);
            return (taken, NextStep::Again);
        }
    }
}
