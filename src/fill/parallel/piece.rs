//! One piece of an object: a task of its own that asks for it, writes it ahead of its turn, and
//! hands over what it has, answer included, when its turn has come. Its handle is the object's;
//! dropped, the task ends and what it wrote counts for nothing. No locks.

use super::limits::PiecePermit;
use crate::fill::resumable_body::{BodySeed, ResumableBody};
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
pub(super) enum PieceStage {
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
pub(super) struct PieceHandover {
    /// What is in the file.
    pub(super) written: Option<WrittenRange>,
    /// What comes behind that.
    pub(super) rest: PieceRest,
}

/// What comes of a piece behind the bytes that are in the file.
#[derive(Debug)]
pub(super) enum PieceRest {
    /// It is all here.
    Nothing,
    /// With this.
    Stream(Box<ResumableBody>),
    /// It has to be asked for.
    Failed,
}

/// What a piece is made of.
#[derive(Debug)]
pub(super) struct PieceOrder {
    pub(super) span: Range<u64>,
    pub(super) seed: BodySeed,
    pub(super) position: usize,
    pub(super) ahead: OutOfOrder,
    pub(super) permit: PiecePermit,
    /// Told of every stage.
    pub(super) wake: Arc<Notify>,
}

/// A piece that is under way or here.
#[derive(Debug)]
pub(super) struct BodyPiece {
    span: Range<u64>,
    stage: watch::Receiver<PieceStage>,
    turn: CancellationToken,
    handed_over: oneshot::Receiver<PieceHandover>,
    metrics: Metrics,
    is_used: bool,
    _stop: DropGuard,
}

impl BodyPiece {
    /// Begins to fetch it.
    pub(super) fn begin(order: PieceOrder, tasks: &Tasks) -> Self {
        let (stages, stage) = watch::channel(PieceStage::Asked);
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
                let is_failed = matches!(result.rest, PieceRest::Failed);
                stages.send_replace(if is_failed { PieceStage::Failed } else { PieceStage::Here });
                // Nothing waits for the result if the object has ended.
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
        self.stage() == PieceStage::Failed
    }

    /// How far it has come.
    pub(super) fn stage(&self) -> PieceStage {
        *self.stage.borrow()
    }

    /// Its turn has come: what there is of it, as soon as its answer is here. Not cancel safe.
    pub(super) async fn hand_over(mut self) -> PieceHandover {
        self.is_used = true;
        self.turn.cancel();
        let empty = PieceHandover { written: None, rest: PieceRest::Failed };
        let handed_over = (&mut self.handed_over).await.unwrap_or(empty);
        let result =
            if matches!(handed_over.rest, PieceRest::Failed) { "failed" } else { "joined" };
        self.metrics.fill_pieces.with_label_values(&[result]).inc();
        handed_over
    }
}

impl Drop for BodyPiece {
    fn drop(&mut self) {
        if !self.is_used {
            let result = if self.has_failed() { "failed" } else { "unused" };
            self.metrics.fill_pieces.with_label_values(&[result]).inc();
        }
    }
}

async fn fetch(
    order: PieceOrder,
    stages: &watch::Sender<PieceStage>,
    turn: &CancellationToken,
) -> PieceHandover {
    let PieceOrder { span, seed, position, ahead, permit, wake } = order;
    let _permit = permit;
    let path = Arc::clone(&seed.source().request.path);
    let mut body = match seed.piece(span.clone(), position).await {
        Ok(body) => body,
        Err(why) => {
            tracing::info!(%path, first = span.start, why, "piece refused");
            return PieceHandover { written: None, rest: PieceRest::Failed };
        }
    };
    stages.send_replace(PieceStage::Coming);
    wake.notify_one();
    let mut early = ahead.range_from(span.start);
    let rest = loop {
        tokio::select! {
            biased;
            () = turn.cancelled() => break PieceRest::Stream(Box::new(body)),
            () = body.wait() => {}
        }
        match body.chunk().await {
            Ok(Some(bytes)) => {
                if let Err(error) = early.append(bytes).await {
                    tracing::debug!(%path, %error, "piece not written");
                    return PieceHandover { written: None, rest: PieceRest::Failed };
                }
            }
            Ok(None) => break PieceRest::Nothing,
            Err(error) => {
                tracing::info!(%path, first = span.start, %error, "piece broke off");
                break PieceRest::Failed;
            }
        }
    };
    match early.finish().await {
        Ok(written) => PieceHandover { written: Some(written), rest },
        Err(error) => {
            tracing::debug!(%path, %error, "piece not written");
            PieceHandover { written: None, rest: PieceRest::Failed }
        }
    }
}
