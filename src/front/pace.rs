//! How fast the client of a connection takes what it is sent, and what may therefore wait for it in
//! the kernel, unsent. Part of one connection's socket, which tells it what went; no locks.

use super::socket::UNSENT_BYTES_MAX;
use socket2::SockRef;
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Bytes by which the pace of a reader is told.
const PACE_BYTES: usize = 1 << 20;
/// A reader who takes [`PACE_BYTES`] in this time is fast.
const FAST: Duration = Duration::from_millis(250);

/// How fast the client takes what it is sent. What waits unsent for a slow one is bounded, so that
/// its progress shows. For a fast one that would cost a wake-up for each few packets, and as much
/// CPU again as the rest. One that was fast and is not any more has shown no progress until it has
/// taken a third of what the kernel holds for it: 1.4 MiB at most, as Linux is set up.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    bytes: usize,
    taken: Taken,
    fast_unsent_max: u32,
}

/// How fast it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Fast,
    Slowly,
}

impl Pace {
    /// A client of which nothing is known; if it is fast, so many bytes may wait for it unsent, or
    /// as many as the system is set to where that is 0.
    pub(super) fn new(fast_unsent_max: u32) -> Self {
        Self { since: Instant::now(), bytes: 0, taken: Taken::Slowly, fast_unsent_max }
    }

    /// Notes that bytes went that tell the pace.
    pub(super) fn sent(&mut self, bytes: usize, stream: &TcpStream) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes < PACE_BYTES {
            return;
        }
        let now = Instant::now();
        let is_fast = now.saturating_duration_since(self.since) <= FAST;
        (self.since, self.bytes) = (now, 0);
        self.set(if is_fast { Taken::Fast } else { Taken::Slowly }, stream);
    }

    /// Bounds what waits as for a slow client.
    pub(super) fn slow_down(&mut self, stream: &TcpStream) {
        self.set(Taken::Slowly, stream);
    }

    fn set(&mut self, taken: Taken, stream: &TcpStream) {
        if taken == self.taken {
            return;
        }
        self.taken = taken;
        let unsent_max = match taken {
            Taken::Fast => self.fast_unsent_max,
            Taken::Slowly => UNSENT_BYTES_MAX,
        };
        if let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(unsent_max) {
            tracing::debug!(%error, "cannot set a socket option");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// A slow client's progress must show, and what is copied for any takes memory.
    #[tokio::test]
    async fn what_waits_unsent_is_bounded_but_for_who_takes_it_fast() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let unsent_max = || SockRef::from(&stream).tcp_notsent_lowat().unwrap();
        let hour = Duration::from_hours(1);
        for fast_unsent_max in [0, 3 * UNSENT_BYTES_MAX] {
            let mut pace = Pace::new(fast_unsent_max);
            pace.set(Taken::Fast, &stream);
            pace.slow_down(&stream);
            assert_eq!(unsent_max(), UNSENT_BYTES_MAX);
            pace.since = Instant::now() + hour;
            pace.sent(PACE_BYTES - 1, &stream);
            assert_eq!(unsent_max(), UNSENT_BYTES_MAX, "too little to tell");
            pace.sent(1, &stream);
            assert_eq!(unsent_max(), fast_unsent_max);
            pace.since = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
            pace.sent(PACE_BYTES, &stream);
            assert_eq!(unsent_max(), UNSENT_BYTES_MAX, "it is slow now");
        }
    }
}
