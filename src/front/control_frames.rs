//! Which frames a client sends over HTTP/2 beside requests and bodies, and how many of them it may
//! send. h2 answers PING and SETTINGS without end, and each answer costs more than the frame. One
//! for each connection, owned by its deadlines; no locks, no clock.
//!
//! A frame of control takes one from an allowance that time, requests and sent bytes refill. What a
//! real client sends stays far below it: some frames for each request and for each window of a
//! body. h2 and the deadlines limit requests, resets and continuations.

use tokio::time::Instant;

/// Bytes before the first frame (RFC 9113 section 3.4).
const PREFACE_BYTES: usize = 24;
/// Bytes of the head of a frame (RFC 9113 section 4.1).
const HEAD_BYTES: usize = 9;
/// The flag of the last DATA frame of a stream.
const END_STREAM: u8 = 0x1;
/// Frames that a request permits of each kind.
const FRAMES_FOR_REQUEST: u64 = 4;

/// PING, SETTINGS, PRIORITY, empty DATA, and what is not known: such frames need no answer of a
/// body.
const CONTROL: Terms = Terms { burst: 1_000, per_second: 100, bytes_for_frame: 64 << 10 };
/// WINDOW_UPDATE: a client may send one for each piece of a body that it reads.
const UPDATES: Terms = Terms { burst: 10_000, per_second: 1_000, bytes_for_frame: 256 };

/// The frames of a connection so far.
#[derive(Debug)]
pub(super) struct ControlFrames {
    /// Bytes before the next head of a frame.
    skipped: usize,
    head: [u8; HEAD_BYTES],
    /// Bytes of `head` that are known.
    head_bytes: usize,
    control: Allowance,
    updates: Allowance,
    is_flood: bool,
}

impl ControlFrames {
    /// None, of a connection that opened at `now`.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            skipped: PREFACE_BYTES,
            head: [0; HEAD_BYTES],
            head_bytes: 0,
            control: Allowance::new(CONTROL, now),
            updates: Allowance::new(UPDATES, now),
            is_flood: false,
        }
    }

    /// Whether the client has sent more frames of control than it may.
    pub(super) const fn is_flood(&self) -> bool {
        self.is_flood
    }

    /// Takes the next bytes that came, at `now`.
    pub(super) fn read(&mut self, mut bytes: &[u8], now: Instant) {
        self.control.refill(now);
        self.updates.refill(now);
        while !bytes.is_empty() && !self.is_flood {
            if self.skipped > 0 {
                let skipped = self.skipped.min(bytes.len());
                self.skipped -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let missing = self.head.get_mut(self.head_bytes..).unwrap_or_default();
            let taken = missing.len().min(bytes.len());
            let (head, rest) = bytes.split_at(taken);
            for (to, from) in missing.iter_mut().zip(head) {
                *to = *from;
            }
            self.head_bytes += taken;
            bytes = rest;
            if self.head_bytes == HEAD_BYTES {
                self.head_bytes = 0;
                self.begin_frame();
            }
        }
    }

    /// Notes that so many bytes were sent to the client.
    pub(super) fn sent(&mut self, bytes: usize) {
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        self.control.earn(bytes, CONTROL.bytes_for_frame);
        self.updates.earn(bytes, UPDATES.bytes_for_frame);
    }

    fn begin_frame(&mut self) {
        let [high, middle, low, kind, flags, ..] = self.head;
        let length = u32::from_be_bytes([0, high, middle, low]);
        self.skipped = usize::try_from(length).unwrap_or(usize::MAX);
        let is_within = match kind {
            DATA if length > 0 || flags & END_STREAM != 0 => true,
            HEADERS => {
                self.control.earn(FRAMES_FOR_REQUEST, 1);
                self.updates.earn(FRAMES_FOR_REQUEST, 1);
                true
            }
            RST_STREAM | CONTINUATION => true,
            WINDOW_UPDATE => self.updates.take(),
            _ => self.control.take(),
        };
        self.is_flood |= !is_within;
    }
}

/// Types of frames (RFC 9113 section 6).
const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RST_STREAM: u8 = 0x3;
const WINDOW_UPDATE: u8 = 0x8;
const CONTINUATION: u8 = 0x9;

/// How many frames of a kind are permitted.
#[derive(Debug, Clone, Copy)]
struct Terms {
    /// At once.
    burst: u64,
    per_second: u64,
    /// Sent bytes that permit one more.
    bytes_for_frame: u64,
}

/// Frames that may still come, in thousandths.
#[derive(Debug)]
struct Allowance {
    terms: Terms,
    left: u64,
    refilled_at: Instant,
}

impl Allowance {
    fn new(terms: Terms, now: Instant) -> Self {
        Self { terms, left: terms.burst * 1_000, refilled_at: now }
    }

    fn refill(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.refilled_at);
        let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        if millis > 0 {
            self.refilled_at = now;
            self.add(millis.saturating_mul(self.terms.per_second));
        }
    }

    /// Permits one more for each `price` of `amount`.
    fn earn(&mut self, amount: u64, price: u64) {
        self.add(amount.saturating_mul(1_000) / price);
    }

    fn add(&mut self, thousandths: u64) {
        self.left = self.left.saturating_add(thousandths).min(self.terms.burst * 1_000);
    }

    /// Takes one; false if none is left.
    fn take(&mut self) -> bool {
        match self.left.checked_sub(1_000) {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};
    use std::time::Duration;

    fn frame(kind: u8, flags: u8, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], &vec![0xff; payload]].concat()
    }

    fn opened(now: Instant) -> ControlFrames {
        let mut frames = ControlFrames::new(now);
        frames.read(&[b'P'; PREFACE_BYTES], now);
        frames
    }

    /// How many of these frames may come at once.
    fn permitted(one: &[u8], mut frames: ControlFrames, now: Instant) -> u64 {
        let mut count = 0;
        loop {
            frames.read(one, now);
            if frames.is_flood() {
                return count;
            }
            count += 1;
        }
    }

    #[test]
    fn a_burst_is_permitted_and_a_flood_is_not() {
        let now = Instant::now();
        for (one, expected) in [
            (frame(6, 0, 8), CONTROL.burst),
            (frame(4, 0, 6), CONTROL.burst),
            (frame(4, 1, 0), CONTROL.burst),
            (frame(2, 0, 5), CONTROL.burst),
            (frame(0, 0, 0), CONTROL.burst),
            (frame(0xfa, 0, 100), CONTROL.burst),
            (frame(8, 0, 4), UPDATES.burst),
        ] {
            assert_eq!(permitted(&one, opened(now), now), expected, "{one:?}");
        }
    }

    #[test]
    fn requests_and_bodies_are_no_control_and_permit_more() {
        let now = Instant::now();
        let mut frames = opened(now);
        for _ in 0..20_000 {
            for one in [frame(1, 4, 20), frame(6, 0, 8), frame(2, 0, 5), frame(8, 0, 4)] {
                frames.read(&one, now);
            }
            for one in [frame(0, 0, 100), frame(0, 1, 0), frame(3, 0, 4), frame(9, 0, 10)] {
                frames.read(&one, now);
            }
        }
        assert!(!frames.is_flood());
    }

    #[test]
    fn time_and_sent_bytes_permit_more() {
        let start = Instant::now();
        let (mut frames, mut now) = (opened(start), start);
        for _ in 0..CONTROL.per_second * 60 {
            now += Duration::from_millis(10);
            frames.read(&frame(6, 0, 8), now);
        }
        assert!(!frames.is_flood());
        // A client that updates its windows for each KiB that it reads, twice.
        for _ in 0..100_000 {
            frames.sent(1024);
            frames.read(&[frame(8, 0, 4), frame(8, 0, 4)].concat(), now);
        }
        assert!(!frames.is_flood());
    }

    /// An answer to a PING has 17 bytes.
    #[test]
    fn the_answers_to_a_flood_do_not_permit_it() {
        let now = Instant::now();
        let mut frames = opened(now);
        let mut count = 0;
        while !frames.is_flood() {
            frames.read(&frame(6, 0, 8), now);
            frames.sent(17);
            count += 1;
        }
        assert!(count < CONTROL.burst + 10, "{count}");
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_are_the_same_frames(
            pieces in proptest::collection::vec(1_usize..40, 1..200),
        ) {
            let now = Instant::now();
            let bytes = [frame(6, 0, 8), frame(1, 4, 20), frame(0, 0, 0), frame(0, 1, 30)].concat();
            let bytes = [&[b'P'; PREFACE_BYTES][..], &bytes.repeat(5)].concat();
            let (mut whole, mut pieced) = (ControlFrames::new(now), ControlFrames::new(now));
            let mut rest = &bytes[..];
            for piece in pieces {
                let (now_read, later) = rest.split_at(piece.min(rest.len()));
                pieced.read(now_read, now);
                rest = later;
            }
            pieced.read(rest, now);
            whole.read(&bytes, now);
            assert_eq!(whole.control.left, pieced.control.left);
            assert_eq!((whole.skipped, whole.head_bytes), (pieced.skipped, pieced.head_bytes));
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in any::<Vec<u8>>()) {
            opened(Instant::now()).read(&bytes, Instant::now());
        }
    }
}
