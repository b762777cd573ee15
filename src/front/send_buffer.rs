//! Bounds how many bytes may wait in the kernel, not sent yet, by how fast the client of the
//! connection reads. Part of one connection's socket, which tells it what was sent; no locks.

use socket2::SockRef;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Bytes that may wait in the kernel, not sent yet. They bound memory, and let the progress of a
/// slow reader show every few seconds instead of once in a whole send buffer. [`SendBuffer`]
/// exempts fast clients.
pub(super) const UNSENT_BYTES_MAX: u32 = 256 * 1024;
/// The speed of a reader is measured over so many bytes.
const MEASURED_BYTES: usize = 1 << 20;
/// A reader that takes [`MEASURED_BYTES`] in this time is fast.
const FAST: Duration = Duration::from_millis(250);
/// Connections of the process that may have copied bytes beyond [`UNSENT_BYTES_MAX`] waiting at one
/// time. A client that was fast may stop reading; this bounds what all of them can hold.
const FAST_CLIENTS_MAX: usize = 64;

/// The slots of the process.
pub(super) static ALL: FastClientSlots = FastClientSlots::new();

/// Slots for fast clients; the number that is taken.
#[derive(Debug)]
pub(super) struct FastClientSlots(AtomicUsize);

/// One of [`FAST_CLIENTS_MAX`] slots. It is free again when this is dropped.
#[derive(Debug)]
struct FastClientSlot(&'static FastClientSlots);

impl FastClientSlots {
    const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    fn take(&'static self) -> Option<FastClientSlot> {
        let next = |taken: usize| (taken < FAST_CLIENTS_MAX).then_some(taken + 1);
        let taken = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        taken.ok().map(|_| FastClientSlot(self))
    }
}

impl Drop for FastClientSlot {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The send buffer of one connection. What waits unsent for a slow client is bounded, so that its
/// progress shows. For a fast client that bound would cost a wake-up for each few packets, and
/// double the CPU time. A client that was fast and becomes slow shows no progress until it has
/// taken a third of what the kernel holds for it: at most 1.4 MiB with the defaults of Linux.
#[derive(Debug)]
pub(super) struct SendBuffer {
    since: Instant,
    bytes: usize,
    speed: ReaderSpeed,
    fast_unsent_max: u32,
    slots: &'static FastClientSlots,
    /// The slot of a fast client, if its bytes are copied.
    slot: Option<FastClientSlot>,
}

/// How fast the client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReaderSpeed {
    Fast,
    Slow,
}

impl SendBuffer {
    /// The send buffer of a client of unknown speed. If the client is fast, `fast_unsent_max` bytes
    /// may wait for it while one of `slots` is free. If that is 0, the default of the system holds:
    /// for pages of files, which take no memory.
    pub(super) fn new(fast_unsent_max: u32, slots: &'static FastClientSlots) -> Self {
        let speed = ReaderSpeed::Slow;
        Self { since: Instant::now(), bytes: 0, speed, fast_unsent_max, slots, slot: None }
    }

    /// Notes that bytes were sent that count for the speed.
    pub(super) fn sent(&mut self, bytes: usize, stream: &TcpStream) {
        self.bytes = self.bytes.saturating_add(bytes);
        if self.bytes < MEASURED_BYTES {
            return;
        }
        let now = Instant::now();
        let is_fast = now.saturating_duration_since(self.since) <= FAST;
        (self.since, self.bytes) = (now, 0);
        self.set(if is_fast { ReaderSpeed::Fast } else { ReaderSpeed::Slow }, stream);
    }

    /// Bounds what waits as for a slow client.
    pub(super) fn slow_down(&mut self, stream: &TcpStream) {
        self.set(ReaderSpeed::Slow, stream);
    }

    fn set(&mut self, speed: ReaderSpeed, stream: &TcpStream) {
        if speed == self.speed {
            return;
        }
        let is_copied = self.fast_unsent_max > 0;
        let (unsent_max, slot) = match speed {
            ReaderSpeed::Slow => (UNSENT_BYTES_MAX, None),
            ReaderSpeed::Fast if !is_copied => (self.fast_unsent_max, None),
            ReaderSpeed::Fast => match self.slots.take() {
                Some(slot) => (self.fast_unsent_max, Some(slot)),
                None => return,
            },
        };
        (self.speed, self.slot) = (speed, slot);
        if let Err(error) = SockRef::from(stream).set_tcp_notsent_lowat(unsent_max) {
            tracing::debug!(%error, "cannot set a socket option");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    /// The progress of a slow client must show, and copied bytes take memory.
    #[tokio::test]
    async fn what_waits_unsent_is_bounded_except_for_fast_clients() {
        static OWN: FastClientSlots = FastClientSlots::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let unsent_max = || SockRef::from(&stream).tcp_notsent_lowat().unwrap();
        let hour = Duration::from_hours(1);
        for fast_unsent_max in [0, 3 * UNSENT_BYTES_MAX] {
            let mut buffer = SendBuffer::new(fast_unsent_max, &OWN);
            buffer.set(ReaderSpeed::Fast, &stream);
            buffer.slow_down(&stream);
            assert_eq!(unsent_max(), UNSENT_BYTES_MAX);
            buffer.since = Instant::now() + hour;
            buffer.sent(MEASURED_BYTES - 1, &stream);
            assert_eq!(unsent_max(), UNSENT_BYTES_MAX, "too little to tell");
            buffer.sent(1, &stream);
            assert_eq!(unsent_max(), fast_unsent_max);
            buffer.since = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
            buffer.sent(MEASURED_BYTES, &stream);
            assert_eq!(unsent_max(), UNSENT_BYTES_MAX, "it is slow now");
        }
    }
    #[tokio::test]
    async fn only_so_many_have_copies_waiting() {
        static OWN: FastClientSlots = FastClientSlots::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let fast = || {
            let mut buffer = SendBuffer::new(3 * UNSENT_BYTES_MAX, &OWN);
            buffer.set(ReaderSpeed::Fast, &stream);
            buffer
        };
        let mut slots: Vec<_> = std::iter::from_fn(|| OWN.take()).collect();
        assert_eq!(slots.len(), FAST_CLIENTS_MAX);
        assert_eq!(fast().speed, ReaderSpeed::Slow);
        slots.pop();
        let (mut first, second) = (fast(), fast());
        assert_eq!((first.speed, second.speed), (ReaderSpeed::Fast, ReaderSpeed::Slow));
        first.slow_down(&stream);
        assert_eq!(fast().speed, ReaderSpeed::Fast);
    }
}
