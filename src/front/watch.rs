//! What a connection may still wait for, and until when. One per connection, shared by its
//! socket, its requests and its task; a mutex held for a few instructions, never across an await.

use crate::sync::Mutex;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::task::unconstrained;
use tokio::time::{Instant, Sleep};

/// Socket writes of fewer bytes are no sign of a reader: they are acknowledgements of HTTP/2
/// frames that a client may send without reading anything.
const PROGRESS_BYTES_MIN: usize = 128;
/// Requests of an HTTP/2 connection that its client may abandon, beyond those it lets finish.
const ABANDONED_MAX: u32 = 500;

/// The deadlines of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadlines {
    /// From the first byte of a request to the end of its head.
    pub(super) request_head: Duration,
    /// Without a request.
    pub(super) idle: Duration,
    /// Without a byte taken.
    pub(super) write_stall: Duration,
}

/// Why a connection ends before its client wants it to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// No request for too long.
    Idle,
    /// A request's head took too long.
    RequestHead,
    /// The client took no byte for too long.
    WriteStall,
    /// The client abandoned too many requests.
    Abandoned,
}

impl Fault {
    /// The reason in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::RequestHead => "request_head",
            Self::WriteStall => "write_stall",
            Self::Abandoned => "abandoned_requests",
        }
    }
}

/// How the socket ends when it is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// With a reset where an answer is unfinished, which the state tells.
    Undecided,
    /// As the protocol wants.
    Clean,
    /// With a reset.
    Reset,
}

/// Which protocol runs on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    /// HTTP/1.0 and HTTP/1.1; also while it is not known yet.
    Http1,
    /// HTTP/2.
    Http2,
}

/// The phases of a connection.
#[derive(Debug)]
pub(super) struct Watch {
    deadlines: Deadlines,
    /// Whether the connection takes no further request but one that has begun.
    is_winding_down: AtomicBool,
    /// Whether an answer is being written that the HTTP library does not know of.
    is_carrying: AtomicBool,
    state: Mutex<State>,
}

/// What the short way writes beside answers that are in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Carries {
    Nothing,
    Body,
}

/// How a connection stood when its poll ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Standing {
    /// As [`Watch::due`] has it.
    due: Option<(Instant, Fault)>,
    /// When the poll began.
    polled_at: Option<Instant>,
}

#[derive(Debug)]
struct State {
    version: Version,
    /// Requests whose answers are unfinished.
    requests: u32,
    /// Requests that began.
    begun: u64,
    /// Answers whose last piece the client has not made room for.
    waiting: u32,
    /// The last bytes read: a head ends with an empty line, so others belong to the next head.
    tail: [u8; 3],
    head_since: Option<Instant>,
    idle_since: Instant,
    blocked_since: Option<Instant>,
    progress_at: Instant,
    abandoned: u32,
    ending: Ending,
    /// When the connection's present poll began: all that happens within it happens then, since
    /// reading the clock for each step of a hit would cost more than the steps do.
    polled_at: Option<Instant>,
}

impl Watch {
    /// A connection that opened at `now`; the head of its first request counts from there.
    pub(super) fn new(deadlines: Deadlines, now: Instant) -> Self {
        let state = State {
            version: Version::Http1,
            requests: 0,
            begun: 0,
            waiting: 0,
            tail: *b"\n\r\n",
            head_since: Some(now),
            idle_since: now,
            blocked_since: None,
            progress_at: now,
            abandoned: 0,
            ending: Ending::Undecided,
            polled_at: None,
        };
        Self {
            deadlines,
            is_winding_down: AtomicBool::new(false),
            is_carrying: AtomicBool::new(false),
            state: Mutex::new(state),
        }
    }

    /// The connection is polled from now on.
    pub(super) fn poll_begins(&self) {
        self.state.lock().polled_at = Some(Instant::now());
    }

    /// The connection is not polled any more: how it stands.
    pub(super) fn poll_ends(&self) -> Standing {
        let mut state = self.state.lock();
        let polled_at = state.polled_at.take();
        Standing { due: state.due(&self.deadlines), polled_at }
    }

    /// The protocol is known.
    pub(super) fn speaks(&self, version: Version) {
        let mut state = self.state.lock();
        state.version = version;
        if version == Version::Http2 {
            state.head_since = None;
            state.idle_since = Instant::now();
        }
    }

    /// Bytes came from the client, TLS taken off.
    pub(super) fn read(&self, bytes: &[u8]) {
        let mut state = self.state.lock();
        if state.version == Version::Http2 {
            return;
        }
        for &byte in bytes.get(bytes.len().saturating_sub(3)..).unwrap_or_default() {
            let [_, second, third] = state.tail;
            state.tail = [second, third, byte];
        }
        if state.requests == 0 && state.head_since.is_none() {
            state.head_since = Some(state.now());
        }
    }

    /// The client took `bytes`.
    pub(super) fn wrote(&self, bytes: usize) {
        let mut state = self.state.lock();
        if state.blocked_since.is_none() && bytes < PROGRESS_BYTES_MIN {
            return;
        }
        let now = state.now();
        state.progress_at = now;
        if state.blocked_since.take().is_some() && state.requests == 0 {
            state.idle_since = now;
        }
    }

    /// The client takes nothing at present.
    pub(super) fn blocked(&self) {
        let mut state = self.state.lock();
        if state.blocked_since.is_none() {
            state.blocked_since = Some(state.now());
        }
    }

    /// A request's head is whole.
    fn request_began(&self) {
        let mut state = self.state.lock();
        state.requests += 1;
        state.begun += 1;
        state.head_since = None;
    }

    /// The connection takes no further request but one that has begun, which is the HTTP library's
    /// from here on.
    pub(super) fn wind_down(&self) {
        self.is_winding_down.store(true, Ordering::Relaxed);
    }

    /// Whether [`Watch::wind_down`] was called.
    pub(super) fn is_winding_down(&self) -> bool {
        self.is_winding_down.load(Ordering::Relaxed)
    }

    /// What the short way writes from now on.
    pub(super) fn carries(&self, what: Carries) {
        self.is_carrying.store(what == Carries::Body, Ordering::Relaxed);
    }

    /// Whether an answer is being written that the HTTP library does not know of: told to end, it
    /// would end the connection under it.
    pub(super) fn is_carrying(&self) -> bool {
        self.is_carrying.load(Ordering::Relaxed)
    }

    /// How many requests began so far.
    pub(super) fn begun(&self) -> u64 {
        self.state.lock().begun
    }

    /// Whether so many requests began, and all of them have ended.
    pub(super) fn has_ended(&self, begun: u64) -> bool {
        let state = self.state.lock();
        state.begun >= begun && state.requests == 0
    }

    /// Whole requests were read, and answered at once; what was read behind them, if anything,
    /// begins now.
    pub(super) fn answered(&self) {
        let mut state = self.state.lock();
        let now = state.now();
        state.idle_since = now;
        state.head_since = state.is_within_head().then_some(now);
    }

    /// A request's answer is finished or abandoned.
    fn request_ended(&self, end: RequestEnd) {
        let mut state = self.state.lock();
        state.requests = state.requests.saturating_sub(1);
        match end {
            RequestEnd::Finished => state.abandoned = state.abandoned.saturating_sub(1),
            RequestEnd::Abandoned => state.abandoned = state.abandoned.saturating_add(1),
        }
        if state.requests == 0 {
            let now = state.now();
            state.idle_since = now;
            state.head_since = state.is_within_head().then_some(now);
        }
    }

    /// Whether an answer is unfinished.
    pub(super) fn has_requests(&self) -> bool {
        self.state.lock().requests > 0
    }

    /// Whether an answer is unfinished, or its last bytes are still on their way to the socket.
    pub(super) fn is_answering(&self) -> bool {
        self.state.lock().is_answering()
    }

    /// The socket is to end as the protocol wants.
    pub(super) fn end_clean(&self) {
        self.state.lock().ending = Ending::Clean;
    }

    /// The socket is to end with a reset.
    pub(super) fn end_reset(&self) {
        self.state.lock().ending = Ending::Reset;
    }

    /// Whether the socket, now dropped, must end with a reset.
    pub(super) fn is_reset(&self) -> bool {
        let state = self.state.lock();
        match state.ending {
            Ending::Undecided => state.is_answering(),
            Ending::Clean => false,
            Ending::Reset => true,
        }
    }

    /// The moment at which the connection's present phase has lasted too long; `None` while it
    /// waits for Narthex and not for its client.
    fn due(&self) -> Option<(Instant, Fault)> {
        self.state.lock().due(&self.deadlines)
    }
}

impl State {
    fn now(&self) -> Instant {
        self.polled_at.unwrap_or_else(Instant::now)
    }

    /// Whether what was read ends within a head (RFC 9112 section 2.2 allows LF alone).
    fn is_within_head(&self) -> bool {
        !matches!(self.tail, [b'\n', b'\r', b'\n'] | [_, b'\n', b'\n'])
    }

    fn is_answering(&self) -> bool {
        self.requests > 0 || self.blocked_since.is_some()
    }

    fn due(&self, deadlines: &Deadlines) -> Option<(Instant, Fault)> {
        if self.version == Version::Http2 && self.abandoned > ABANDONED_MAX {
            return Some((self.progress_at, Fault::Abandoned));
        }
        if let Some(since) = self.blocked_since {
            return Some((since + deadlines.write_stall, Fault::WriteStall));
        }
        if self.requests > 0 {
            let stalled = (self.progress_at + deadlines.write_stall, Fault::WriteStall);
            return (self.waiting > 0).then_some(stalled);
        }
        Some(match self.head_since {
            Some(since) => (since + deadlines.request_head, Fault::RequestHead),
            None => (self.idle_since + deadlines.idle, Fault::Idle),
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestEnd {
    Finished,
    Abandoned,
}

/// A request under way; dropping it ends the request.
#[derive(Debug)]
pub(super) struct UnderWay {
    watch: Arc<Watch>,
    is_waiting: bool,
    end: RequestEnd,
}

impl UnderWay {
    /// A request whose head is whole.
    pub(super) fn begin(watch: &Arc<Watch>) -> Self {
        watch.request_began();
        Self { watch: Arc::clone(watch), is_waiting: false, end: RequestEnd::Abandoned }
    }

    /// The connection asks for the next piece of the answer: it has room.
    pub(super) fn asked(&mut self) {
        if std::mem::take(&mut self.is_waiting) {
            let mut state = self.watch.state.lock();
            state.waiting = state.waiting.saturating_sub(1);
        }
    }

    /// A piece was handed over; until the next is asked for, the client is waited for.
    pub(super) fn handed_over(&mut self) {
        if !std::mem::replace(&mut self.is_waiting, true) {
            let mut state = self.watch.state.lock();
            state.waiting += 1;
            state.progress_at = state.now();
        }
    }

    /// The whole answer was handed over.
    pub(super) fn finished(&mut self) {
        self.end = RequestEnd::Finished;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.asked();
        self.watch.request_ended(self.end);
    }
}

/// Waits for a [`Watch`] to come due. Polled after the connection by the connection's own task.
#[derive(Debug)]
pub(super) struct Watchdog {
    watch: Arc<Watch>,
    sleep: Pin<Box<Sleep>>,
    /// Whom the timer wakes, where it waits.
    wakes: Option<Waker>,
    armed: Instant,
    /// Nothing is due before.
    floor: Instant,
}

impl Watchdog {
    pub(super) fn new(watch: Arc<Watch>) -> Self {
        let floor = Instant::now();
        let armed = floor + watch.deadlines.idle;
        let sleep = Box::pin(tokio::time::sleep_until(armed));
        Self { watch, sleep, wakes: None, armed, floor }
    }

    /// Nothing comes due for `pause`.
    pub(super) fn snooze(&mut self, pause: Duration) {
        self.floor = Instant::now() + pause;
        self.arm(self.floor);
    }

    /// Ready when the connection, which stands so, has waited too long for its client.
    ///
    /// The timer is put off only when it fires, so a busy connection does not touch it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, stands: Standing) -> Poll<Fault> {
        let mut due = stands.due;
        loop {
            if let Some((at, _)) = self.not_before_floor(due)
                && at < self.armed
            {
                self.arm(at);
            }
            if self.has_not_fired(cx, stands) {
                return Poll::Pending;
            }
            // A connection that never waits would otherwise use up the timer's share of each poll.
            if pin!(unconstrained(self.sleep.as_mut())).poll(cx).is_pending() {
                self.wakes = Some(cx.waker().clone());
                return Poll::Pending;
            }
            let now = Instant::now();
            due = self.watch.due();
            match self.not_before_floor(due) {
                Some((at, fault)) if at <= now => return Poll::Ready(fault),
                Some((at, _)) => self.arm(at),
                None => self.arm(now + self.watch.deadlines.idle),
            }
        }
    }

    /// Whether the timer, which wakes this task, had not fired when the poll began: then it wakes
    /// the task again when it does, and need not be asked.
    fn has_not_fired(&self, cx: &Context<'_>, stands: Standing) -> bool {
        self.wakes.as_ref().is_some_and(|waker| waker.will_wake(cx.waker()))
            && stands.polled_at.is_some_and(|polled_at| polled_at < self.armed)
    }

    fn not_before_floor(&self, due: Option<(Instant, Fault)>) -> Option<(Instant, Fault)> {
        due.map(|(at, fault)| (at.max(self.floor), fault))
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
    use crate::front::tests::harness::take_all;

    const DEADLINES: Deadlines = Deadlines {
        request_head: Duration::from_secs(10),
        idle: Duration::from_mins(1),
        write_stall: Duration::from_secs(30),
    };

    fn watch() -> (Arc<Watch>, Instant) {
        let now = Instant::now();
        (Arc::new(Watch::new(DEADLINES, now)), now)
    }

    fn fault(watch: &Watch) -> Option<Fault> {
        watch.due().map(|(_, fault)| fault)
    }

    #[test]
    fn a_new_connection_owes_a_head_and_then_may_be_idle() {
        let (watch, now) = watch();
        assert_eq!(watch.due(), Some((now + DEADLINES.request_head, Fault::RequestHead)));
        let mut request = UnderWay::begin(&watch);
        assert_eq!(watch.due(), None);
        request.finished();
        drop(request);
        assert_eq!(fault(&watch), Some(Fault::Idle));
        watch.read(b"G");
        assert_eq!(fault(&watch), Some(Fault::RequestHead));
    }

    /// It is asked far more often than the timer is.
    #[tokio::test(start_paused = true)]
    async fn a_watchdog_of_a_busy_task_is_ready_in_time() {
        let (watch, now) = watch();
        let mut watchdog = Watchdog::new(Arc::clone(&watch));
        let mut often = tokio::time::interval(Duration::from_millis(300));
        let mut polls = 0;
        let fault = std::future::poll_fn(|cx| {
            while often.poll_tick(cx).is_ready() {}
            polls += 1;
            watch.poll_begins();
            let stands = watch.poll_ends();
            watchdog.poll(cx, stands)
        });
        assert_eq!(fault.await, Fault::RequestHead);
        let waited = now.elapsed();
        assert!(waited >= DEADLINES.request_head, "{waited:?}");
        assert!(waited < DEADLINES.request_head + Duration::from_secs(1), "{waited:?}");
        assert!(polls > 30, "{polls}");
    }

    /// As where a client abandons streams without end: what came due is seen all the same.
    #[tokio::test(start_paused = true)]
    async fn a_watchdog_of_a_task_that_never_waits_is_ready() {
        let (watch, _) = watch();
        let mut watchdog = Watchdog::new(Arc::clone(&watch));
        for expected in [Poll::Pending, Poll::Ready(Fault::RequestHead)] {
            let seen = std::future::poll_fn(|cx| {
                take_all(cx);
                watch.poll_begins();
                let stands = watch.poll_ends();
                Poll::Ready(watchdog.poll(cx, stands))
            });
            assert_eq!(seen.await, expected);
            tokio::time::advance(DEADLINES.request_head).await;
        }
    }

    #[test]
    fn further_bytes_of_a_head_do_not_prolong_it() {
        let (watch, _) = watch();
        let first = watch.due();
        watch.read(b"GET");
        assert_eq!(watch.due(), first);
    }

    #[test]
    fn half_a_request_sent_ahead_is_a_head_begun() {
        for (pieces, expected) in [
            (&["GET / HTTP/1.1\r\n\r\n"][..], Fault::Idle),
            (&["GET / HTTP/1.1\r\n\r", "\n"], Fault::Idle),
            (&["GET / HTTP/1.1\n\n"], Fault::Idle),
            (&["GET / HTTP/1.1\r\n\r\nG"], Fault::RequestHead),
            (&["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\n"], Fault::RequestHead),
        ] {
            let (watch, _) = watch();
            let (first, others) = pieces.split_first().unwrap();
            watch.read(first.as_bytes());
            let request = UnderWay::begin(&watch);
            for piece in others {
                watch.read(piece.as_bytes());
            }
            drop(request);
            assert_eq!(fault(&watch), Some(expected), "{pieces:?}");
        }
    }

    #[test]
    fn a_client_that_takes_nothing_stalls_and_one_that_takes_a_byte_does_not() {
        let (watch, _) = watch();
        let mut request = UnderWay::begin(&watch);
        request.handed_over();
        watch.blocked();
        let (at, fault) = watch.due().unwrap();
        assert_eq!(fault, Fault::WriteStall);
        watch.blocked();
        assert_eq!(watch.due(), Some((at, fault)));
        watch.wrote(1);
        watch.blocked();
        assert!(watch.due().unwrap().0 >= at);
        watch.wrote(1);
        request.asked();
        assert_eq!(watch.due(), None);
    }

    #[test]
    fn a_stream_whose_window_is_shut_stalls_although_the_socket_is_free() {
        let (watch, _) = watch();
        watch.speaks(Version::Http2);
        let mut request = UnderWay::begin(&watch);
        assert_eq!(fault(&watch), None);
        request.handed_over();
        assert_eq!(fault(&watch), Some(Fault::WriteStall));
        request.asked();
        assert_eq!(fault(&watch), None);
    }

    #[test]
    fn the_last_bytes_of_an_answer_are_waited_for_before_the_idle_time_begins() {
        let (watch, _) = watch();
        let mut request = UnderWay::begin(&watch);
        request.finished();
        watch.blocked();
        drop(request);
        assert_eq!(fault(&watch), Some(Fault::WriteStall));
        assert!(watch.is_answering());
        watch.wrote(100);
        assert_eq!(fault(&watch), Some(Fault::Idle));
    }

    #[test]
    fn http2_frames_are_no_heads() {
        let (watch, _) = watch();
        watch.speaks(Version::Http2);
        watch.read(b"\0");
        assert_eq!(fault(&watch), Some(Fault::Idle));
    }

    #[test]
    fn an_http2_client_that_only_abandons_comes_due() {
        let (watch, _) = watch();
        watch.speaks(Version::Http2);
        for _ in 0..=ABANDONED_MAX {
            assert_ne!(fault(&watch), Some(Fault::Abandoned));
            drop(UnderWay::begin(&watch));
        }
        assert_eq!(fault(&watch), Some(Fault::Abandoned));
        let mut request = UnderWay::begin(&watch);
        request.finished();
        drop(request);
        assert_eq!(fault(&watch), Some(Fault::Idle));
    }

    #[test]
    fn an_unfinished_answer_resets_unless_decided_otherwise() {
        let (watch, _) = watch();
        assert!(!watch.is_reset());
        let request = UnderWay::begin(&watch);
        assert!(watch.is_reset());
        watch.end_clean();
        assert!(!watch.is_reset());
        drop(request);
        watch.end_reset();
        assert!(watch.is_reset());
    }
}
