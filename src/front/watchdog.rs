//! The timer of a connection: tells its task when a deadline has passed. One for each connection,
//! polled by its task after the connection; no locks.

use super::connection_deadlines::{ConnectionDeadlines, ConnectionFault, PollSummary};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep};

/// Waits for the next of the [`ConnectionDeadlines`].
#[derive(Debug)]
pub(super) struct Watchdog {
    deadlines: Arc<ConnectionDeadlines>,
    sleep: Pin<Box<Sleep>>,
    /// The task that the timer wakes, if it waits.
    wakes: Option<Waker>,
    armed: Instant,
    /// No deadline passes before this.
    floor: Instant,
}

impl Watchdog {
    pub(super) fn new(deadlines: Arc<ConnectionDeadlines>) -> Self {
        let floor = Instant::now();
        let armed = deadlines.due().0;
        let sleep = Box::pin(tokio::time::sleep_until(armed));
        Self { deadlines, sleep, wakes: None, armed, floor }
    }

    /// No deadline passes for `pause`.
    pub(super) fn snooze(&mut self, pause: Duration) {
        self.floor = Instant::now() + pause;
        self.arm(self.floor);
    }

    /// Ready when a deadline of the connection has passed; `stands` is its state after the poll.
    ///
    /// The timer is moved only when it fires, so a busy connection does not touch it.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        stands: PollSummary,
    ) -> Poll<ConnectionFault> {
        let mut due = stands.due.max(self.floor);
        loop {
            if due < self.armed {
                self.arm(due);
            }
            if self.has_not_fired(cx, stands) {
                return Poll::Pending;
            }
            // Unconstrained, since a connection that never waits would use up the budget of each
            // poll.
            if pin!(unconstrained(self.sleep.as_mut())).poll(cx).is_pending() {
                self.wakes = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let now = Instant::now();
            if now >= self.floor
                && let Some(fault) = self.deadlines.overdue(now)
            {
                return Poll::Ready(fault);
            }
            due = self.deadlines.due().0.max(self.floor);
            self.arm(due);
        }
    }

    /// Whether the timer had not fired when the poll began. It wakes this task when it fires, so it
    /// need not be polled.
    fn has_not_fired(&self, cx: &Context<'_>, stands: PollSummary) -> bool {
        self.wakes.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
            && stands.polled_at.is_some_and(|polled_at| polled_at < self.armed)
    }

    fn arm(&mut self, at: Instant) {
        self.wakes = None;
        self.armed = at;
        self.sleep.as_mut().reset(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::connection_deadlines::tests::{DEADLINES, deadlines};
    use crate::front::tests::harness::take_all;

    /// It is polled far more often than the timer fires.
    #[tokio::test(start_paused = true)]
    async fn a_watchdog_of_a_busy_task_is_ready_in_time() {
        let (deadlines, now) = deadlines();
        let mut watchdog = Watchdog::new(Arc::clone(&deadlines));
        let mut often = tokio::time::interval(Duration::from_millis(300));
        let mut polls = 0;
        let fault = std::future::poll_fn(|cx| {
            while often.poll_tick(cx).is_ready() {}
            polls += 1;
            deadlines.poll_begins();
            let stands = deadlines.poll_ends();
            watchdog.poll(cx, stands)
        });
        assert_eq!(fault.await, ConnectionFault::RequestHead);
        let waited = now.elapsed();
        assert!(waited >= DEADLINES.request_head, "{waited:?}");
        assert!(waited < DEADLINES.request_head + Duration::from_secs(1), "{waited:?}");
        assert!(polls > 30, "{polls}");
    }

    /// For example if a client abandons streams without end: a deadline is still noticed.
    #[tokio::test(start_paused = true)]
    async fn a_watchdog_of_a_task_that_never_waits_is_ready() {
        let (deadlines, _) = deadlines();
        let mut watchdog = Watchdog::new(Arc::clone(&deadlines));
        for expected in [Poll::Pending, Poll::Ready(ConnectionFault::RequestHead)] {
            let seen = std::future::poll_fn(|cx| {
                take_all(cx);
                deadlines.poll_begins();
                let stands = deadlines.poll_ends();
                Poll::Ready(watchdog.poll(cx, stands))
            });
            assert_eq!(seen.await, expected);
            tokio::time::advance(DEADLINES.request_head).await;
        }
    }
}
