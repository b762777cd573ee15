//! What is known of an origin that accepts requests and says nothing: while another origin answers
//! in its place, it is asked after that one, but for one request a second, which finds out whether
//! it answers again. One per origin, as long lived as it; a short lock, never across an await.

use crate::sync::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// How long an origin may say nothing before the next one is asked beside it, if it is not known
/// how fast it usually is.
pub(super) const SILENCE_MAX: Duration = Duration::from_millis(750);
/// A silent origin is asked first again after so long.
const TRIAL_EVERY: Duration = Duration::from_secs(1);

/// Whether an origin is silent.
#[derive(Debug, Default)]
pub(super) struct Silence {
    /// If it is: when it is asked first again.
    next_trial: Mutex<Option<Instant>>,
}

/// When a request asks an origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SilenceTurn {
    /// It is not known to be silent.
    Usual,
    /// It is silent, and this request finds out whether it still is, beside the next origin.
    Trial,
    /// It is silent: after the others.
    Last,
}

impl Silence {
    /// The next origin has answered a request that this one said nothing to.
    pub(super) fn begin(&self) {
        *self.next_trial.lock() = Some(Instant::now() + TRIAL_EVERY);
    }

    /// It has answered.
    pub(super) fn end(&self) {
        *self.next_trial.lock() = None;
    }

    /// When it is asked now.
    pub(super) fn turn(&self) -> SilenceTurn {
        let mut next_trial = self.next_trial.lock();
        let now = Instant::now();
        match *next_trial {
            None => SilenceTurn::Usual,
            Some(at) if at <= now => {
                *next_trial = Some(now + TRIAL_EVERY);
                SilenceTurn::Trial
            }
            Some(_) => SilenceTurn::Last,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_request_a_second_asks_a_silent_origin_first() {
        let silence = Silence::default();
        assert_eq!(silence.turn(), SilenceTurn::Usual);
        silence.begin();
        for _ in 0..2 {
            assert_eq!(silence.turn(), SilenceTurn::Last);
            tokio::time::advance(TRIAL_EVERY).await;
            assert_eq!(silence.turn(), SilenceTurn::Trial);
        }
        silence.end();
        assert_eq!(silence.turn(), SilenceTurn::Usual);
    }
}
