//! What is left of the body of an answer that nothing reads to its end. An HTTP/1.1 connection
//! serves no other request before that: so a little is read and thrown away by a task of its own,
//! and of more the connection is closed. One [`Drains`] per origin, as long lived as it; no locks.

use crate::client::{ErrorChain, InboundBody};
use crate::tasks::Tasks;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// The most that is read of one body.
const BYTES_MAX: u64 = 256 * 1024;
/// The longest time that this takes.
const TIME_MAX: Duration = Duration::from_secs(5);
/// Bodies of one origin at once. Their requests hold no slots any more.
const BODIES_MAX: usize = 16;

/// Reads what is left of bodies.
#[derive(Debug, Clone)]
pub(super) struct Drains(Arc<DrainState>);

#[derive(Debug)]
struct DrainState {
    tasks: Tasks,
    room: Arc<Semaphore>,
}

impl Drains {
    /// Nothing to read yet.
    pub(super) fn new(tasks: Tasks) -> Self {
        Self(Arc::new(DrainState { tasks, room: Arc::new(Semaphore::new(BODIES_MAX)) }))
    }

    /// Reads `body` to its end, if there is room for that.
    fn begin(&self, body: InboundBody) {
        let Ok(place) = Arc::clone(&self.0.room).try_acquire_owned() else { return };
        let stop = self.0.tasks.stopping();
        self.0.tasks.spawn("origin body drain", async move {
            // A body that does not end in time is dropped, which closes its connection.
            let _ = stop.run_until_cancelled(timeout(TIME_MAX, drain(body))).await;
            drop(place);
        });
    }
}

/// The body of an answer, as it arrives.
#[derive(Debug)]
pub(super) struct DrainedBody {
    /// None behind its end, or an error.
    body: Option<InboundBody>,
    /// None if its connection is not worth it.
    drains: Option<Drains>,
}

impl DrainedBody {
    /// What is left of `body` when it is dropped is for `drains`.
    pub(super) fn new(body: InboundBody, drains: Option<Drains>) -> Self {
        Self { body: Some(body), drains }
    }

    /// The next frame; `None` behind the last. Cancel safe.
    pub(super) async fn frame(&mut self) -> Option<Result<Frame<Bytes>, ErrorChain>> {
        let frame = self.body.as_mut()?.frame().await;
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        if self.bytes_left().is_none() {
            // A body that was begun may be without an end: its reader has left.
            self.drains = None;
        }
        frame
    }

    /// Bytes to come, if that is known.
    pub(super) fn bytes_left(&self) -> Option<u64> {
        self.body.as_ref().map_or(Some(0), |body| body.size_hint().exact())
    }
}

impl Drop for DrainedBody {
    fn drop(&mut self) {
        let is_little = self.bytes_left().is_none_or(|left| left <= BYTES_MAX);
        let (Some(body), Some(drains)) = (self.body.take(), self.drains.take()) else { return };
        // If the runtime is gone, so is every connection.
        if is_little && !body.is_end_stream() && Handle::try_current().is_ok() {
            drains.begin(body);
        }
    }
}

/// Reads a body to its end, unless that is too far away.
async fn drain(mut body: InboundBody) {
    let mut read = 0;
    while read <= BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        read += frame.data_ref().map_or(0, Bytes::len) as u64;
    }
}
