//! The deadlines of a connection: what it waits for at present, and until when. One for each
//! connection, shared by its socket, its requests and its task. The mutex is held for a few
//! instructions, never across an await.
//!
//! A client that has closed its side may still wait for its answer, or may be gone; both look the
//! same. It counts as gone after [`HALF_CLOSED_MAX`] in which it was sent nothing, acknowledged
//! nothing, and nothing that it had sent before was read. The kernel knows that a side is closed.
//! TLS makes no difference: a client that has sent only `close_notify` is still there. Over HTTP/2,
//! the end of a client's side ends the connection as soon as it is read.

use super::control_frames::ControlFrames;
use super::progress::{ClientProgress, look_after};
use crate::sync::Mutex;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Writes of fewer bytes over HTTP/2 do not show that a client reads: they acknowledge frames,
/// which a client may send without reading.
const PROGRESS_BYTES_MIN: usize = 128;
/// Stands for the descriptor of a socket that is not open.
const NO_SOCKET: RawFd = -1;
/// How often the kernel is asked whether a client that waits for its answer is still there. The
/// socket is not read for that, since a client that has closed its own side still waits. A look is
/// one system call, and only an answer that takes so long causes one.
const GONE_LOOK: Duration = Duration::from_secs(2);
/// How long a client that has closed its own side may be sent no byte, and acknowledge none.
const HALF_CLOSED_MAX: Duration = Duration::from_secs(30);
/// The longest pause between two looks for the last acknowledgement.
const LOOK_PAUSE_MAX: Duration = Duration::from_millis(100);
/// How a head ends.
const BETWEEN_HEADS: [u8; 3] = *b"\n\r\n";
/// Requests that a client may abandon on an HTTP/2 connection, beyond the number that it lets
/// finish.
const ABANDONED_MAX: u32 = 500;

/// The deadlines of a connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct DeadlineSettings {
    /// From the first byte of a request to the end of its head.
    pub(super) request_head: Duration,
    /// Without a request.
    pub(super) idle: Duration,
    /// Without an acknowledged byte; see [`progress`](super::progress).
    pub(super) write_stall: Duration,
}

/// Which deadline or limit ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionFault {
    /// No request for too long.
    Idle,
    /// A request's head took too long.
    RequestHead,
    /// The client took no byte for too long.
    WriteStall,
    /// The client abandoned too many requests.
    Abandoned,
    /// The client sent too many frames of control.
    ControlFrames,
    /// The client left while its answer was waited for.
    Gone,
}

impl ConnectionFault {
    /// The reason in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::RequestHead => "request_head",
            Self::WriteStall => "write_stall",
            Self::Abandoned => "abandoned_requests",
            Self::ControlFrames => "control_frames",
            Self::Gone => "gone",
        }
    }
}

/// How the socket ends when it is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SocketEnd {
    /// With a reset if an answer is unfinished.
    Undecided,
    /// As the protocol wants.
    Clean,
    /// With a reset.
    Reset,
}

/// Which protocol runs on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ConnectionProtocol {
    /// HTTP/1.0 or HTTP/1.1; also while the protocol is unknown.
    Http1,
    /// HTTP/2.
    Http2,
}

/// The deadlines of one connection, and what they depend on.
#[derive(Debug)]
pub(super) struct ConnectionDeadlines {
    settings: DeadlineSettings,
    /// Whether the connection takes no further request except one that has begun.
    is_winding_down: AtomicBool,
    /// Whether the fast path is writing a body, which hyper does not know of.
    is_fast_path_writing: AtomicBool,
    /// Whether hyper may hold bytes that it has not written.
    is_unflushed: AtomicBool,
    /// The socket's descriptor while it is open.
    socket: AtomicI32,
    state: Mutex<ConnectionPhase>,
}

/// What the fast path writes beside answers from memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FastPathOutput {
    Nothing,
    Body,
}

/// The state of a connection at the end of its poll.
#[derive(Debug, Clone, Copy)]
pub(super) struct PollSummary {
    /// The moment of [`ConnectionDeadlines::due`].
    pub(super) due: Instant,
    /// When the poll began.
    pub(super) polled_at: Option<Instant>,
}

#[derive(Debug)]
struct ConnectionPhase {
    version: ConnectionProtocol,
    /// Requests with an unfinished answer.
    requests: u32,
    /// Requests that began.
    begun: u64,
    /// Answers with a last piece that the socket has no room for yet.
    waiting: u32,
    /// The last bytes read. A head ends with an empty line; anything else is part of the next head.
    tail: [u8; 3],
    head_since: Option<Instant>,
    idle_since: Instant,
    /// What keeps the socket from writing.
    write_wait: WriteWait,
    /// When the client last acknowledged something, or when waiting for it began.
    progress_at: Instant,
    /// When the kernel was last asked what the client acknowledged.
    looked_at: Instant,
    /// What the client had acknowledged then, minus `small_bytes`.
    acknowledged_bytes: u64,
    /// When a look first showed that the client closed its side, or when more of its earlier bytes
    /// was read.
    half_closed_at: Option<Instant>,
    /// Bytes that were written and do not show that the client reads.
    small_bytes: u64,
    abandoned: u32,
    /// What the client sends over HTTP/2.
    frames: Option<Box<ControlFrames>>,
    ending: SocketEnd,
    /// When the present poll began. Everything within it has this time, since reading the clock for
    /// each step of a hit would cost more than the steps.
    polled_at: Option<Instant>,
}

/// What a write waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteWait {
    /// Nothing.
    Nothing,
    /// The client: the socket is full.
    Client,
    /// The edge's own disk.
    Disk,
}

impl ConnectionDeadlines {
    /// The deadlines of a connection that opened at `now`, when its first head begins to count.
    pub(super) fn new(settings: DeadlineSettings, now: Instant) -> Self {
        let state = ConnectionPhase {
            version: ConnectionProtocol::Http1,
            requests: 0,
            begun: 0,
            waiting: 0,
            tail: BETWEEN_HEADS,
            head_since: Some(now),
            idle_since: now,
            write_wait: WriteWait::Nothing,
            progress_at: now,
            looked_at: now,
            acknowledged_bytes: 0,
            half_closed_at: None,
            small_bytes: 0,
            abandoned: 0,
            frames: None,
            ending: SocketEnd::Undecided,
            polled_at: None,
        };
        Self {
            settings,
            is_winding_down: AtomicBool::new(false),
            is_fast_path_writing: AtomicBool::new(false),
            is_unflushed: AtomicBool::new(false),
            socket: AtomicI32::new(NO_SOCKET),
            state: Mutex::new(state),
        }
    }

    /// The connection's socket, which is open until [`ConnectionDeadlines::socket_closes`].
    pub(super) fn socket_opened(&self, socket: RawFd) {
        self.socket.store(socket, Ordering::Release);
    }

    /// The socket is about to be closed.
    pub(super) fn socket_closes(&self) {
        self.socket.store(NO_SOCKET, Ordering::Release);
    }

    /// The progress of the client; `None` without an open socket. Called by the task that owns the
    /// socket, so the socket is not closed meanwhile.
    fn progress(&self) -> Option<ClientProgress> {
        match self.socket.load(Ordering::Acquire) {
            NO_SOCKET => None,
            socket => ClientProgress::of(socket),
        }
    }

    /// The connection is polled from now on.
    pub(super) fn poll_begins(&self) {
        self.state.lock().polled_at = Some(Instant::now());
    }

    /// The poll of the connection ends.
    pub(super) fn poll_ends(&self) -> PollSummary {
        let mut state = self.state.lock();
        let polled_at = state.polled_at.take();
        PollSummary { due: state.due(&self.settings).0, polled_at }
    }

    /// The protocol is known.
    pub(super) fn speaks(&self, version: ConnectionProtocol) {
        let mut state = self.state.lock();
        state.version = version;
        if version == ConnectionProtocol::Http2 {
            let now = Instant::now();
            state.head_since = None;
            state.idle_since = now;
            state.frames = Some(Box::new(ControlFrames::new(now)));
        }
    }

    /// Bytes were read from the client, after TLS.
    pub(super) fn read(&self, bytes: &[u8]) {
        let mut state = self.state.lock();
        if state.version == ConnectionProtocol::Http2 {
            let now = state.now();
            if let Some(frames) = &mut state.frames {
                frames.read(bytes, now);
            }
            return;
        }
        for &byte in bytes.get(bytes.len().saturating_sub(3)..).unwrap_or_default() {
            let [_, second, third] = state.tail;
            state.tail = [second, third, byte];
        }
        if state.requests == 0 && state.head_since.is_none() {
            state.head_since = Some(state.now());
        }
        if state.half_closed_at.is_some() {
            state.half_closed_at = Some(state.now());
        }
    }

    /// The bytes so far end with a whole request, for example with a body that does not end like a
    /// head.
    pub(super) fn is_between_requests(&self) {
        self.state.lock().tail = BETWEEN_HEADS;
    }

    /// The socket accepted `bytes`.
    pub(super) fn wrote(&self, bytes: usize) {
        let mut state = self.state.lock();
        if let Some(frames) = &mut state.frames {
            frames.sent(bytes);
        }
        if state.version == ConnectionProtocol::Http2 && bytes < PROGRESS_BYTES_MIN {
            state.small_bytes = state.small_bytes.saturating_add(bytes as u64);
            if state.write_wait == WriteWait::Nothing {
                return;
            }
        }
        let now = state.now();
        state.progress_at = now;
        if std::mem::replace(&mut state.write_wait, WriteWait::Nothing) != WriteWait::Nothing
            && state.requests == 0
        {
            state.idle_since = now;
        }
    }

    /// The socket accepts nothing at present.
    pub(super) fn blocked(&self) {
        let mut state = self.state.lock();
        if state.write_wait != WriteWait::Client {
            state.write_wait = WriteWait::Client;
            state.progress_at = state.now();
        }
    }

    /// The next bytes are still read from the edge's own disk, so the client waits.
    pub(super) fn reads_disk(&self) {
        self.state.lock().write_wait = WriteWait::Disk;
    }

    /// hyper writes, and may hold unwritten bytes.
    pub(super) fn library_writes(&self) {
        self.is_unflushed.store(true, Ordering::Relaxed);
    }

    /// hyper has written everything that it holds.
    pub(super) fn library_flushed(&self) {
        self.is_unflushed.store(false, Ordering::Relaxed);
    }

    /// A request's head is whole.
    fn request_began(&self) {
        let mut state = self.state.lock();
        state.requests += 1;
        state.begun += 1;
        state.head_since = None;
    }

    /// The connection takes no further request except one that has begun, which hyper gets.
    pub(super) fn wind_down(&self) {
        self.is_winding_down.store(true, Ordering::Relaxed);
    }

    /// Whether [`ConnectionDeadlines::wind_down`] was called.
    pub(super) fn is_winding_down(&self) -> bool {
        self.is_winding_down.load(Ordering::Relaxed)
    }

    /// What the fast path writes from now on.
    pub(super) fn fast_path_writes(&self, what: FastPathOutput) {
        self.is_fast_path_writing.store(what == FastPathOutput::Body, Ordering::Relaxed);
    }

    /// Whether the fast path is writing a body, which hyper does not know of.
    pub(super) fn is_fast_path_writing(&self) -> bool {
        self.is_fast_path_writing.load(Ordering::Relaxed)
    }

    /// Whether hyper may be told to end. It would end the connection at once, even during an answer
    /// of the fast path, or with the rest of its own last answer in its buffer.
    pub(super) fn may_wind_down(&self) -> bool {
        let holds_rest = || self.is_unflushed.load(Ordering::Relaxed) && !self.has_requests();
        !self.is_fast_path_writing() && !holds_rest()
    }

    /// How many requests began so far.
    pub(super) fn begun(&self) -> u64 {
        self.state.lock().begun
    }

    /// Whether so many requests have begun and all have ended.
    pub(super) fn has_ended(&self, begun: u64) -> bool {
        let state = self.state.lock();
        state.begun >= begun && state.requests == 0
    }

    /// Whole requests were read and answered at once. If something was read behind them, it begins
    /// now.
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

    /// Whether an answer is unfinished, or its last bytes are not in the socket yet.
    pub(super) fn is_answering(&self) -> bool {
        self.state.lock().is_answering()
    }

    /// The socket is to end as the protocol wants.
    pub(super) fn end_clean(&self) {
        self.state.lock().ending = SocketEnd::Clean;
    }

    /// The socket is to end with a reset.
    pub(super) fn end_reset(&self) {
        self.state.lock().ending = SocketEnd::Reset;
    }

    /// Whether the socket, now dropped, must end with a reset.
    pub(super) fn is_reset(&self) -> bool {
        let state = self.state.lock();
        match state.ending {
            SocketEnd::Undecided => state.is_answering(),
            SocketEnd::Clean => false,
            SocketEnd::Reset => true,
        }
    }

    /// When the present deadline passes, and which it is. It may have been renewed by the client:
    /// see [`ConnectionDeadlines::overdue`].
    pub(super) fn due(&self) -> (Instant, ConnectionFault) {
        self.state.lock().due(&self.settings)
    }

    /// The deadline that has passed at `now`, if any, given what the client has acknowledged.
    pub(super) fn overdue(&self, now: Instant) -> Option<ConnectionFault> {
        let (at, fault) = self.due();
        if at > now {
            return None;
        }
        let progress = match fault {
            ConnectionFault::WriteStall | ConnectionFault::Idle | ConnectionFault::Gone => {
                self.progress()
            }
            ConnectionFault::RequestHead
            | ConnectionFault::Abandoned
            | ConnectionFault::ControlFrames => None,
        };
        self.state.lock().overdue(now, &self.settings, progress)
    }

    /// Ready when the client has acknowledged everything written, or its socket is closed. Cancel
    /// safe.
    pub(super) async fn acknowledged(&self) {
        let mut pause = Duration::from_millis(1);
        while self.progress().is_some_and(|progress| progress.is_owed) {
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LOOK_PAUSE_MAX);
        }
    }

    /// Ready when the client has acknowledged nothing for `write_stall`. Cancel safe.
    pub(super) async fn stalled(&self) {
        let acknowledged = || self.progress().map(|progress| progress.acknowledged_bytes);
        let (mut seen, mut since) = (acknowledged(), Instant::now());
        while since.elapsed() < self.settings.write_stall {
            tokio::time::sleep(look_after(self.settings.write_stall)).await;
            let now = acknowledged();
            if now != seen {
                (seen, since) = (now, Instant::now());
            }
        }
    }
}

impl ConnectionPhase {
    fn now(&self) -> Instant {
        self.polled_at.unwrap_or_else(Instant::now)
    }

    /// Whether what was read ends within a head (RFC 9112 section 2.2 allows LF alone).
    fn is_within_head(&self) -> bool {
        !matches!(self.tail, [b'\n', b'\r', b'\n'] | [_, b'\n', b'\n'])
    }

    fn is_answering(&self) -> bool {
        self.requests > 0 || self.write_wait != WriteWait::Nothing
    }

    fn due(&self, settings: &DeadlineSettings) -> (Instant, ConnectionFault) {
        if self.version == ConnectionProtocol::Http2 && self.abandoned > ABANDONED_MAX {
            return (self.progress_at, ConnectionFault::Abandoned);
        }
        if self.frames.as_ref().is_some_and(|frames| frames.is_flood()) {
            return (self.progress_at, ConnectionFault::ControlFrames);
        }
        let is_waited_for = match self.write_wait {
            WriteWait::Disk => false,
            WriteWait::Client => true,
            WriteWait::Nothing => self.waiting > 0,
        };
        let looked_at = self.progress_at.max(self.looked_at);
        if is_waited_for {
            return (looked_at + look_after(settings.write_stall), ConnectionFault::WriteStall);
        }
        if self.is_answering() {
            return (looked_at + GONE_LOOK, ConnectionFault::Gone);
        }
        match self.head_since {
            Some(since) => (since + settings.request_head, ConnectionFault::RequestHead),
            None => (self.idle_since + settings.idle, ConnectionFault::Idle),
        }
    }

    /// See [`ConnectionDeadlines::overdue`]. Any progress renews the deadline of a client that is
    /// waited for, and that of an idle client that still receives its last answer.
    fn overdue(
        &mut self,
        now: Instant,
        settings: &DeadlineSettings,
        progress: Option<ClientProgress>,
    ) -> Option<ConnectionFault> {
        let (at, fault) = self.due(settings);
        if at > now {
            return None;
        }
        let acknowledged = progress.map_or(0, |progress| progress.acknowledged_bytes);
        let acknowledged = acknowledged.saturating_sub(self.small_bytes);
        let has_taken = acknowledged > self.acknowledged_bytes;
        (self.acknowledged_bytes, self.looked_at) = (acknowledged, now);
        let is_over = progress.is_some_and(|progress| progress.is_over);
        if progress.is_some_and(|progress| progress.is_half_closed) {
            self.half_closed_at.get_or_insert(now);
        }
        match fault {
            ConnectionFault::WriteStall if has_taken => self.progress_at = now,
            ConnectionFault::WriteStall if now < self.progress_at + settings.write_stall => {}
            ConnectionFault::Idle
                if has_taken && progress.is_some_and(|progress| progress.is_owed) =>
            {
                self.idle_since = now;
            }
            ConnectionFault::Gone if !is_over && has_taken => self.progress_at = now,
            ConnectionFault::Gone if !is_over && !self.is_given_up(now) => {}
            ConnectionFault::WriteStall
            | ConnectionFault::Idle
            | ConnectionFault::RequestHead
            | ConnectionFault::Abandoned
            | ConnectionFault::ControlFrames
            | ConnectionFault::Gone => return Some(fault),
        }
        None
    }

    /// Whether a client that has closed its own side counts as gone.
    fn is_given_up(&self, now: Instant) -> bool {
        let waited_since = self.half_closed_at.map(|at| at.max(self.progress_at));
        waited_since.is_some_and(|since| now >= since + HALF_CLOSED_MAX)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RequestEnd {
    Finished,
    Abandoned,
}

/// A request until its answer is sent or abandoned. Dropping it ends the request.
#[derive(Debug)]
pub(super) struct ActiveRequest {
    deadlines: Arc<ConnectionDeadlines>,
    is_waiting: bool,
    end: RequestEnd,
}

impl ActiveRequest {
    /// A request with a whole head.
    pub(super) fn begin(deadlines: &Arc<ConnectionDeadlines>) -> Self {
        deadlines.request_began();
        Self { deadlines: Arc::clone(deadlines), is_waiting: false, end: RequestEnd::Abandoned }
    }

    /// The connection asks for the next piece of the answer, so it has room.
    pub(super) fn asked(&mut self) {
        if std::mem::take(&mut self.is_waiting) {
            let mut state = self.deadlines.state.lock();
            state.waiting = state.waiting.saturating_sub(1);
        }
    }

    /// A piece was handed over. Until the next one is asked for, the connection waits for the
    /// client.
    pub(super) fn handed_over(&mut self) {
        if !std::mem::replace(&mut self.is_waiting, true) {
            let mut state = self.deadlines.state.lock();
            state.waiting += 1;
            state.progress_at = state.now();
        }
    }

    /// The whole answer was handed over.
    pub(super) fn finished(&mut self) {
        self.end = RequestEnd::Finished;
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.asked();
        self.deadlines.request_ended(self.end);
    }
}

#[cfg(test)]
pub(super) mod tests;
