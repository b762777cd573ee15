//! How long a body that broke off is worth waiting for: until a time that begins anew with each
//! byte, in rounds that are jittered, and not where it breaks off again and again without coming
//! forward. Owned by one body; no locks. Used by whatever is fetched, whole or in part.

use crate::origin::Origins;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// Breaks that one body survives without coming forward by [`FORWARD_BYTES`] for each.
const BREAKS_MAX: u64 = 32;

/// Bytes that make up for a break.
const FORWARD_BYTES: u64 = 1 << 20;

/// The pause before the second round of asking; doubled up to [`PAUSE_MAX`] while no byte comes.
const PAUSE_FIRST: Duration = Duration::from_millis(50);

/// The longest pause between two rounds.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// What is left of the patience with one body.
#[derive(Debug)]
pub(super) struct Patience {
    whole: Duration,
    /// Until when a body that broke off waits for its next byte.
    until: Option<Instant>,
    breaks: u64,
    /// Bytes that had come when it broke off last.
    broke_at: u64,
    pause: Duration,
}

/// What a break comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    /// The first since a byte came: worth a line in the log.
    First,
    /// Another one.
    Again,
    /// One too many.
    TooMany,
}

impl Patience {
    /// Waits for up to `whole` without a byte.
    pub(super) fn new(whole: Duration) -> Self {
        Self { whole, until: None, breaks: 0, broke_at: 0, pause: Duration::ZERO }
    }

    /// How long it waits without a byte.
    pub(super) fn whole(&self) -> Duration {
        self.whole
    }

    /// A byte has come.
    pub(super) fn begin_anew(&mut self) {
        self.until = None;
        self.pause = Duration::ZERO;
    }

    /// The body broke off after `received` bytes.
    pub(super) fn broke(&mut self, received: u64) -> Break {
        self.breaks += u64::from(received > self.broke_at);
        self.broke_at = received;
        if self.breaks > BREAKS_MAX + received / FORWARD_BYTES {
            return Break::TooMany;
        }
        if self.until.is_some() { Break::Again } else { Break::First }
    }

    /// Waits for the next round of asking, the first time not at all; until when it may take, or
    /// `None` where the patience is at its end. Ends early when an origin is usable again.
    pub(super) async fn next_round(&mut self, origins: &Origins) -> Option<Instant> {
        let until = *self.until.get_or_insert_with(|| Instant::now() + self.whole);
        if Instant::now() >= until {
            return None;
        }
        let recovered = origins.recovered();
        if self.pause > Duration::ZERO {
            let end = (Instant::now() + jittered(self.pause)).min(until);
            // Whichever comes first: both mean that it is time to ask.
            let _ = timeout_at(end, recovered).await;
        }
        self.pause = (self.pause * 2).clamp(PAUSE_FIRST, PAUSE_MAX);
        Some(until)
    }
}

/// A wait of half to all of `pause`, so that bodies that broke off together do not come back
/// together.
fn jittered(pause: Duration) -> Duration {
    let millis = u64::try_from(pause.as_millis() / 2).unwrap_or(u64::MAX).max(1);
    pause / 2 + Duration::from_millis(getrandom::u64().map_or(0, |random| random % millis))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_that_comes_forward_may_break_off_for_ever() {
        let mut patience = Patience::new(Duration::from_mins(1));
        for at in 1..10_000 {
            assert_eq!(patience.broke(at * FORWARD_BYTES), Break::First);
        }
    }

    #[test]
    fn a_body_that_does_not_come_forward_is_given_up() {
        let mut patience = Patience::new(Duration::from_mins(1));
        let breaks = (1..=BREAKS_MAX + 1).map(|byte| patience.broke(byte));
        let given_up: Vec<bool> = breaks.map(|a_break| a_break == Break::TooMany).collect();
        assert_eq!(given_up.iter().filter(|is_over| **is_over).count(), 1);
        assert_eq!(given_up.last(), Some(&true));
    }

    #[test]
    fn breaks_without_a_byte_between_them_cost_time_alone() {
        let mut patience = Patience::new(Duration::from_mins(1));
        for _ in 0..1_000 {
            assert_eq!(patience.broke(5), Break::First);
        }
    }
}
