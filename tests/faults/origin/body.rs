//! A body on its way out, in the manner of its answer: what is sent next, and when. Owned by one
//! answer; the conversation frames and writes what it gives.

use super::pieces::{Gap, Next, Pacer};
use super::reply::{Content, Cut, Gate, Manner};
use bytes::Bytes;
use narthex::clock::Clock;
use std::io;
use std::time::Duration;

/// What is to be done next with a body.
#[derive(Debug)]
pub(super) enum Step {
    /// Send a block with one write, as pieces of these sizes.
    Send(Bytes, Vec<usize>),
    /// Break off.
    Break(Cut),
    End,
}

#[derive(Debug)]
pub(super) struct Outgoing {
    content: Content,
    manner: Manner,
    clock: Clock,
    /// What of the manner has not come yet.
    hold_at: Option<(u64, Gate)>,
    longer_by: u64,
    /// Bytes of all there are to send, if that is known.
    length: Option<u64>,
    sent: u64,
    pieces: u64,
    pacer: Pacer,
    /// Whether what was sent last was a piece, which has a gap behind it.
    is_piece: bool,
}

impl Outgoing {
    pub(super) fn new(content: Content, manner: Manner, clock: &Clock) -> Self {
        Self {
            hold_at: manner.hold_at.clone(),
            longer_by: manner.longer_by,
            length: content.length(),
            content,
            manner,
            clock: clock.clone(),
            sent: 0,
            pieces: 0,
            pacer: Pacer::default(),
            is_piece: false,
        }
    }

    /// The next step, as soon as it is due. Not cancel safe.
    pub(super) async fn next(&mut self) -> io::Result<Step> {
        if self.sent > 0 && self.sent <= self.manner.drip {
            pass_second(&self.clock).await;
        }
        if let Some(pieces) = self.manner.pieces.filter(|_| self.is_piece) {
            self.pacer.wait(pieces.gap).await;
        }
        if let Some((at, gate)) = &self.hold_at
            && (*at <= self.sent || self.content.length() == Some(0))
        {
            gate.opened().await;
            self.hold_at = None;
        }
        if let Some((at, cut)) = self.manner.cut_at
            && (at <= self.sent || self.content.length() == Some(0))
        {
            return Ok(Step::Break(cut));
        }
        let block = self.take().await?;
        if !block.is_empty() {
            let sizes = match self.manner.pieces.filter(|_| self.is_piece) {
                Some(pieces) => pieces.sizes(block.len(), self.pieces),
                None => vec![block.len()],
            };
            self.pieces += if self.is_piece { sizes.len() as u64 } else { 0 };
            return Ok(Step::Send(block, sizes));
        }
        match std::mem::take(&mut self.longer_by) {
            0 => Ok(Step::End),
            more => {
                let more = vec![b'x'; usize::try_from(more).unwrap_or(0)];
                let sizes = vec![more.len()];
                Ok(Step::Send(more.into(), sizes))
            }
        }
    }

    /// The next bytes of the content; none at its end.
    async fn take(&mut self) -> io::Result<Bytes> {
        let stop = self.until_next_stop();
        self.is_piece = false;
        let limit = match self.manner.pieces {
            None => stop,
            Some(pieces) => match pieces.next(self.sent, self.length, self.pieces) {
                Next::Block(bytes) => bytes.min(stop),
                Next::Piece { bytes, left } => {
                    self.is_piece = true;
                    let bytes = if pieces.gap == Gap::Joined { u64::MAX } else { bytes };
                    bytes.min(left).min(stop)
                }
            },
        };
        let block = self.content.next(limit).await?;
        let block = turn_bit(&self.manner, self.sent, block);
        self.sent += block.len() as u64;
        Ok(block)
    }

    /// Bytes that may be sent in one go.
    fn until_next_stop(&self) -> u64 {
        if self.sent < self.manner.drip {
            return 1;
        }
        let hold_at = self.hold_at.as_ref().map(|(at, _)| *at);
        let stops = [hold_at, self.manner.cut_at.map(|(at, _)| at)];
        stops.into_iter().flatten().map(|at| at - self.sent).min().unwrap_or(u64::MAX)
    }
}

fn turn_bit(manner: &Manner, sent: u64, piece: Bytes) -> Bytes {
    let at = manner.flip_at.and_then(|at| usize::try_from(at.checked_sub(sent)?).ok());
    let Some(at) = at.filter(|at| *at < piece.len()) else { return piece };
    let mut turned = piece.to_vec();
    if let Some(byte) = turned.get_mut(at) {
        *byte ^= 1;
    }
    turned.into()
}

/// A second; a clock that is turned by hand is turned by one.
async fn pass_second(clock: &Clock) {
    let second = Duration::from_secs(1);
    match clock {
        Clock::System => tokio::time::sleep(second).await,
        Clock::Manual(manual) => {
            manual.advance(second);
            tokio::task::yield_now().await;
        }
    }
}
