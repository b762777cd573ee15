//! Interim answers (1xx) of origins for an HTTP/1.1 client. The handler of a request queues them
//! here. The socket of the connection writes them before the head of the answer, the only place for
//! them. One for each connection; the lock is short and never held across an await.

use crate::sync::Mutex;
use http::{HeaderMap, StatusCode};
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Notify;

/// Bytes of interim answers that may wait; more are dropped, as RFC 9110 section 15.2 allows.
const BYTES_MAX: usize = 16 << 10;

/// Interim answers that wait for their connection.
#[derive(Debug, Default)]
pub struct Interims {
    state: Mutex<InterimState>,
    /// Whether there are bytes. Read on every write of the connection.
    has_bytes: AtomicBool,
    has_come: Notify,
}

#[derive(Debug, Default)]
struct InterimState {
    bytes: Vec<u8>,
    /// Requests so far.
    requests: u64,
    /// Whether the last of them has no answer yet.
    is_open: bool,
}

/// The number of a request on its connection. A fetch may outlive the answer to its request. Its
/// later interim answers must not go to a later request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RequestNumber(u64);

impl Interims {
    /// The answer to a request is waited for from now on.
    pub(super) fn open(&self) {
        let mut state = self.state.lock();
        state.requests += 1;
        state.is_open = true;
    }

    /// The answer has come: later interim answers are dropped.
    pub(super) fn close(&self) {
        self.state.lock().is_open = false;
    }

    /// The request that is being answered.
    pub(super) fn turn(&self) -> RequestNumber {
        RequestNumber(self.state.lock().requests)
    }

    /// Adds an interim answer to the request with this number.
    pub(super) fn put(&self, turn: RequestNumber, status: StatusCode, headers: &HeaderMap) {
        let mut state = self.state.lock();
        let is_due = state.is_open && turn == RequestNumber(state.requests);
        if !is_due || status == StatusCode::SWITCHING_PROTOCOLS || !status.is_informational() {
            return;
        }
        let reason = status.canonical_reason().unwrap_or("Interim");
        let mut text = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
        let mut fields = headers.clone();
        crate::rfc::hop_by_hop::remove(&mut fields);
        for (name, value) in &fields {
            text.extend_from_slice(name.as_str().as_bytes());
            text.extend_from_slice(b": ");
            text.extend_from_slice(value.as_bytes());
            text.extend_from_slice(b"\r\n");
        }
        text.extend_from_slice(b"\r\n");
        if state.bytes.len() + text.len() <= BYTES_MAX {
            state.bytes.extend_from_slice(&text);
            self.has_bytes.store(true, Ordering::Release);
            self.has_come.notify_one();
        }
    }

    /// Waits until one has come. The connection is polled then, and writes it.
    pub(super) async fn come(&self) {
        self.has_come.notified().await;
    }

    /// The bytes to write now, perhaps none.
    pub fn take(&self) -> Vec<u8> {
        if !self.has_bytes.swap(false, Ordering::AcqRel) {
            return Vec::new();
        }
        std::mem::take(&mut self.state.lock().bytes)
    }

    /// Whether there is something to write.
    pub fn has_bytes(&self) -> bool {
        self.has_bytes.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn only_what_comes_before_the_answer_is_told() {
        let interims = Interims::default();
        let mut headers = HeaderMap::new();
        headers.insert("link", HeaderValue::from_static("</a>; rel=preload"));
        headers.insert("connection", HeaderValue::from_static("x"));
        let put = || interims.put(interims.turn(), StatusCode::EARLY_HINTS, &headers);
        put();
        assert!(!interims.has_bytes());
        interims.open();
        put();
        interims.put(interims.turn(), StatusCode::OK, &headers);
        interims.put(interims.turn(), StatusCode::SWITCHING_PROTOCOLS, &headers);
        assert!(interims.has_bytes());
        let expected = b"HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n";
        assert_eq!(interims.take(), expected);
        assert!(interims.take().is_empty());
        for _ in 0..1_000 {
            put();
        }
        assert!(interims.take().len() <= BYTES_MAX);
        interims.close();
        put();
        assert!(!interims.has_bytes());
    }

    #[test]
    fn what_comes_late_for_one_request_is_not_told_to_the_next() {
        let (interims, headers) = (Interims::default(), HeaderMap::new());
        interims.open();
        let first = interims.turn();
        interims.close();
        interims.open();
        interims.put(first, StatusCode::EARLY_HINTS, &headers);
        assert!(!interims.has_bytes());
        interims.put(interims.turn(), StatusCode::EARLY_HINTS, &headers);
        assert!(interims.has_bytes());
    }
}
