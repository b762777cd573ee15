//! One piece of an object: a task of its own that asks for it, writes it ahead of its turn, and
//! hands over what it has, answer included, when its turn has come. Its handle is the object's;
//! dropped, the task ends and what it wrote counts for nothing. No locks.

use super::limits::Lot;
use crate::fill::resumable_body::{Seed, Steady};
use crate::metrics::Metrics;
use crate::store::{OutOfOrder, WrittenRange};
use crate::sync::watch;
use crate::tasks::Tasks;
use std::ops::Range;
use std::sync::Arc;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How far a piece has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// It is asked for.
    Asked,
    /// Its answer is of the same object, and is being written.
    Coming,
    /// All of it is here.
    Here,
    /// No more of it will come.
    Failed,
}

/// What is handed over.
#[derive(Debug)]
pub(super) struct HandedOver {
    /// What is in the file.
    pub(super) written: Option<WrittenRange>,
    /// How it goes on.
    pub(super) rest: Rest,
}

/// How a piece goes on after what is in the file.
#[derive(Debug)]
pub(super) enum Rest {
    /// It is all here.
    Nothing,
    /// With this.
    Stream(Box<Steady>),
    /// It has to be asked for.
    Failed,
}

/// What a piece is made of.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) span: Range<u64>,
    pub(super) seed: Seed,
    pub(super) position: usize,
    pub(super) ahead: OutOfOrder,
    pub(super) lot: Lot,
    /// Told of every stage.
    pub(super) wake: Arc<Notify>,
}

/// A piece that is under way or here.
#[derive(Debug)]
pub(super) struct Piece {
    span: Range<u64>,
    stage: watch::Receiver<Stage>,
    turn: CancellationToken,
    handed_over: oneshot::Receiver<HandedOver>,
    metrics: Metrics,
    is_used: bool,
    _stop: DropGuard,
}

impl Piece {
    /// Begins to fetch it.
    pub(super) fn begin(order: Order, tasks: &Tasks) -> Self {
        let (stages, stage) = watch::channel(Stage::Asked);
        let (done, handed_over) = oneshot::channel();
        let (turn, stop) = (CancellationToken::new(), CancellationToken::new());
        let metrics = order.seed.source().metrics.clone();
        let piece = Self {
            span: order.span.clone(),
            stage,
            turn: turn.clone(),
            handed_over,
            metrics,
            is_used: false,
            _stop: stop.clone().drop_guard(),
        };
        tasks.spawn("fill piece", async move {
            let wake = Arc::clone(&order.wake);
            let fetching = Box::pin(fetch(order, &stages, &turn));
            if let Some(result) = stop.run_until_cancelled(fetching).await {
                let is_failed = matches!(result.rest, Rest::Failed);
                stages.send_replace(if is_failed { Stage::Failed } else { Stage::Here });
                // Where nobody waits for it any more, nobody needs it.
                let _ = done.send(result);
                wake.notify_one();
            }
        });
        piece
    }

    /// Which bytes of the object it is.
    pub(super) fn span(&self) -> &Range<u64> {
        &self.span
    }

    /// Whether it will not be had as it was asked for.
    pub(super) fn has_failed(&self) -> bool {
        self.stage() == Stage::Failed
    }

    /// How far it has come.
    pub(super) fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Its turn has come: what there is of it, as soon as its answer is here. Not cancel safe.
    pub(super) async fn hand_over(mut self) -> HandedOver {
        self.is_used = true;
        self.turn.cancel();
        let nothing = HandedOver { written: None, rest: Rest::Failed };
        let handed_over = (&mut self.handed_over).await.unwrap_or(nothing);
        let result = if matches!(handed_over.rest, Rest::Failed) { "failed" } else { "joined" };
        self.metrics.fill_pieces.with_label_values(&[result]).inc();
        handed_over
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        if !self.is_used {
            let result = if self.has_failed() { "failed" } else { "unused" };
            self.metrics.fill_pieces.with_label_values(&[result]).inc();
        }
    }
}

async fn fetch(
    order: Order,
    stages: &watch::Sender<Stage>,
    turn: &CancellationToken,
) -> HandedOver {
    let Order { span, seed, position, ahead, lot, wake } = order;
    let _lot = lot;
    let path = Arc::clone(seed.source().question.path());
    let mut body = match seed.piece(span.clone(), position).await {
        Ok(body) => body,
        Err(why) => {
            tracing::info!(%path, first = span.start, why, "a piece was not to be had");
            return HandedOver { written: None, rest: Rest::Failed };
        }
    };
    stages.send_replace(Stage::Coming);
    wake.notify_one();
    let mut early = ahead.range_from(span.start);
    let rest = loop {
        tokio::select! {
            biased;
            () = turn.cancelled() => break Rest::Stream(Box::new(body)),
            () = body.wait() => {}
        }
        match body.chunk().await {
            Ok(Some(bytes)) => {
                if let Err(error) = early.append(bytes).await {
                    tracing::debug!(%path, %error, "a piece was not written");
                    return HandedOver { written: None, rest: Rest::Failed };
                }
            }
            Ok(None) => break Rest::Nothing,
            Err(error) => {
                tracing::info!(%path, first = span.start, %error, "a piece broke off");
                break Rest::Failed;
            }
        }
    };
    match early.finish().await {
        Ok(written) => HandedOver { written: Some(written), rest },
        Err(error) => {
            tracing::debug!(%path, %error, "a piece was not written");
            HandedOver { written: None, rest: Rest::Failed }
        }
    }
}
