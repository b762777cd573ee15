//! How fast the client of a connection takes what it is sent, and what may therefore wait for it in
//! the kernel, unsent. Part of one connection's socket, which tells it what went; no locks.

use socket2::SockRef;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Bytes that may wait in the kernel, not sent yet: bounds memory, and lets a slow reader's
/// progress show every few seconds instead of once in a whole send buffer. [`Pace`] exempts
/// fast clients.
pub(super) const UNSENT_BYTES_MAX: u32 = 256 * 1024;
/// Bytes by which the pace of a reader is told.
const PACE_BYTES: usize = 1 << 20;
/// A reader who takes [`PACE_BYTES`] in this time is fast.
const FAST: Duration = Duration::from_millis(250);
/// Connections of the process that may have copied bytes beyond [`UNSENT_BYTES_MAX`] waiting at one
/// time: whoever was fast may stop reading, so that what all of them can hold is bounded here.
const PLACES: usize = 64;

/// The places of the process.
pub(super) static ALL: Places = Places::new();

/// Places for fast clients; how many are taken.
#[derive(Debug)]
pub(super) struct Places(AtomicUsize);

/// One of [`PLACES`]; free again when it is dropped.
#[derive(Debug)]
struct Place(&'static Places);

impl Places {
    const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    fn take(&'static self) -> Option<Place> {
        let next = |taken: usize| (taken < PLACES).then_some(taken + 1);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        taken.ok().map(|_| Place(self))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

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
    places: &'static Places,
    /// That of a fast client whose bytes are copied.
    place: Option<Place>,
}

/// How fast it is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Fast,
    Slowly,
}

impl Pace {
    /// A client of which nothing is known. If it is fast, so many bytes may wait for it unsent
    /// while one of `places` is free; or as many as the system is set to where that is 0, for
    /// pages of files, which take no memory.
    pub(super) fn new(fast_unsent_max: u32, places: &'static Places) -> Self {
        let taken = Taken::Slowly;
        Self { since: Instant::now(), bytes: 0, taken, fast_unsent_max, places, place: None }
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
        let is_copied = self.fast_unsent_max > 0;
        let (unsent_max, place) = match taken {
            Taken::Slowly => (UNSENT_BYTES_MAX, None),
            Taken::Fast if !is_copied => (self.fast_unsent_max, None),
            Taken::Fast => match self.places.take() {
                Some(place) => (self.fast_unsent_max, Some(place)),
                None => return,
            },
        };
        (self.taken, self.place) = (taken, place);
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
        static OWN: Places = Places::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let unsent_max = || SockRef::from(&stream).tcp_notsent_lowat().unwrap();
        let hour = Duration::from_hours(1);
        for fast_unsent_max in [0, 3 * UNSENT_BYTES_MAX] {
            let mut pace = Pace::new(fast_unsent_max, &OWN);
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
    #[tokio::test]
    async fn only_so_many_have_copies_waiting() {
        static OWN: Places = Places::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let fast = || {
            let mut pace = Pace::new(3 * UNSENT_BYTES_MAX, &OWN);
            pace.set(Taken::Fast, &stream);
            pace
        };
        let mut places: Vec<_> = std::iter::from_fn(|| OWN.take()).collect();
        assert_eq!(places.len(), PLACES);
        assert_eq!(fast().taken, Taken::Slowly);
        places.pop();
        let (mut first, second) = (fast(), fast());
        assert_eq!((first.taken, second.taken), (Taken::Fast, Taken::Slowly));
        first.slow_down(&stream);
        assert_eq!(fast().taken, Taken::Fast);
    }
}
