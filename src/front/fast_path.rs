//! The fast path of a connection of HTTP/1.1. Requests that memory or an open file answers at once
//! are taken out of what is read, before hyper sees them. Their answers are written below hyper.
//! One for each connection, part of its socket; no locks.
//!
//! At any time either this fast path or hyper owns the input:
//!
//! - `FastPath`: hyper is idle, and holds no byte of a request or an answer. What is read is looked
//!   at here. The first head that this path cannot answer is given to hyper, alone and whole.
//! - `Library`: hyper has exactly one head, which has no body. What is read meanwhile is held. The
//!   fast path owns the input again after that request is answered and hyper flushes. hyper flushes
//!   only when it holds nothing unwritten.
//! - `Closed`: something came that has no certain end (a body, another version, a broken head).
//!   From then on hyper gets every byte of the connection, and the fast path is never used again.
//!   What may be a body is never parsed as a request.
//!
//! If the socket has no room for an answer, the answer is kept. It goes before anything else is
//! written or read, so a client that does not read has at most one batch of answers waiting. The
//! same holds for a body that is larger than a batch: nothing is read until it is sent.

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

/// Answers are written when they have so many bytes.
const BATCH_BYTES: usize = 32 * 1024;

/// A body that is being written.
pub(super) type FastBody = Pin<Box<dyn WriteBody>>;

/// Answers simple requests of one connection.
pub(super) trait FastResponder: Send + Sync {
    /// Writes the answer behind `out`, or its head and returns the body. Leaves `out` alone if it
    /// has no answer.
    fn answer(&self, request: &SimpleRequest<'_>, out: &mut Vec<u8>) -> FastAnswer<FastBody>;
}

/// Which side gets what is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InputOwner {
    /// The fast path.
    FastPath,
    /// hyper, until so many requests of the connection have begun and all have ended.
    Library { begun: u64 },
    /// hyper, until the connection ends.
    Closed,
}

/// What is to be done next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NextStep {
    /// Read more: nothing is held, or only the beginning of a head.
    Read,
    /// Continue after the answers are written: more is held.
    Again,
}

/// The fast path of one connection.
pub(super) struct FastPath {
    responder: Arc<dyn FastResponder>,
    limits: HeadLimits,
    owner: InputOwner,
    /// What was read, and neither given to hyper nor answered.
    held: BytesMut,
    /// How many of these bytes hyper gets.
    owed: usize,
    /// Answers that are not written yet.
    rest: BytesMut,
    /// The body behind them.
    body: Option<FastBody>,
    /// Whether the body has failed. Then it stays here, and nothing more is written.
    has_failed: bool,
}

impl fmt::Debug for FastPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FastPath").field("owner", &self.owner).finish_non_exhaustive()
    }
}

impl FastPath {
    /// A fast path that answers with `responder`. `held` is what was read of the connection so far.
    pub(super) fn new(
        responder: Arc<dyn FastResponder>,
        limits: HeadLimits,
        held: BytesMut,
    ) -> Self {
        let (owner, rest) = (InputOwner::FastPath, BytesMut::new());
        Self { responder, limits, owner, held, owed: 0, rest, body: None, has_failed: false }
    }

    /// Which side gets what is read.
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

    /// Of what hyper gets, at most `bytes_max` bytes.
    pub(super) fn owed(&mut self, bytes_max: usize) -> Option<BytesMut> {
        let bytes = self.owed.min(bytes_max);
        if bytes == 0 {
            return None;
        }
        self.owed -= bytes;
        Some(self.held.split_to(bytes))
    }

    /// Keeps what must be written before anything else.
    pub(super) fn keep(&mut self, answers: &[u8]) {
        self.rest.extend_from_slice(answers);
    }

    /// Writes what is kept, then the whole body behind it.
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
                return Poll::Ready(Err(io::Error::other("an earlier answer failed")));
            }
            let written = ready!(body.as_mut().poll_write_body(cx, &mut self.rest, socket));
            self.has_failed = written.is_err();
            written?;
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

    /// From now on hyper gets everything.
    pub(super) fn close(&mut self) {
        self.owner = InputOwner::Closed;
        self.owed = self.held.len();
    }

    /// hyper holds nothing unwritten. Returns whether hyper has just ended its request and
    /// something is held that waited for this.
    pub(super) fn flushed(&mut self, deadlines: &ConnectionDeadlines) -> bool {
        match self.owner {
            InputOwner::Library { begun } if deadlines.has_ended(begun) => {
                self.owner = InputOwner::FastPath;
                !self.held.is_empty()
            }
            InputOwner::Library { .. } | InputOwner::FastPath | InputOwner::Closed => false,
        }
    }

    /// Answers the requests that are held, if the fast path owns the input. Gives the answers to
    /// `write`, which keeps what it cannot write. If a body follows, the answers before it are
    /// kept.
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

    /// Makes answers. Returns how many of the held bytes they answer, and the next step.
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
