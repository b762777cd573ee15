//! A client connection as the engine knows it. One for each connection, shared by its requests;
//! only atomics.

use super::interim::Interims;
use super::sendfile_queue::SendfileQueue;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A client connection, as the engine and the access log see it.
#[derive(Debug)]
pub struct ClientConnection {
    /// The client's address.
    pub peer: SocketAddr,
    /// The listener's address.
    pub local: SocketAddr,
    /// Plain or TLS.
    pub transport: Transport,
    sendfile_queue: Option<SendfileQueue>,
    interims: Option<Arc<Interims>>,
    is_cut: AtomicBool,
    is_broken: AtomicBool,
    is_body_read: AtomicBool,
    order: AnswerOrder,
}

/// Provenance answers share a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerOrder {
    /// One after another, as HTTP/1 has it.
    OneByOne,
    /// A piece of each in turn, as HTTP/2 has it.
    Interleaved,
}

/// Provenance the bytes are protected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transport {
    /// In the clear.
    Plain,
    /// Under TLS.
    Tls {
        /// `TLSv1.2` or `TLSv1.3`.
        protocol: &'static str,
        /// The cipher suite's IANA name.
        cipher: &'static str,
    },
}

impl ClientConnection {
    /// A connection that has just opened.
    pub fn new(peer: SocketAddr, local: SocketAddr, transport: Transport) -> Self {
        Self {
            peer,
            local,
            transport,
            sendfile_queue: None,
            interims: None,
            is_cut: AtomicBool::new(false),
            is_broken: AtomicBool::new(false),
            is_body_read: AtomicBool::new(false),
            order: AnswerOrder::OneByOne,
        }
    }

    /// The same connection, if its socket sends the ranges of `sendfile_queue` in place of
    /// placeholders.
    pub fn with_sendfile_queue(self, sendfile_queue: SendfileQueue) -> Self {
        Self { sendfile_queue: Some(sendfile_queue), ..self }
    }

    /// The same connection, if its socket writes interim answers.
    pub fn with_interims(self) -> Self {
        Self { interims: Some(Arc::default()), ..self }
    }

    /// The interim answers that its socket writes, if it can.
    pub fn interims(&self) -> Option<&Arc<Interims>> {
        self.interims.as_ref()
    }

    /// The same connection, with this order of answers.
    pub fn with_order(self, order: AnswerOrder) -> Self {
        Self { order, ..self }
    }

    /// The order of its answers.
    pub(super) fn order(&self) -> AnswerOrder {
        self.order
    }

    /// The ranges of files that its socket sends, if it can.
    pub fn sendfile_queue(&self) -> Option<&SendfileQueue> {
        self.sendfile_queue.as_ref()
    }

    /// Marks that nothing more may be written. The socket fails instead.
    pub(super) fn break_off(&self) {
        self.is_broken.store(true, Ordering::Release);
    }

    /// Whether nothing may be written any more.
    pub fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Acquire)
    }

    /// Marks that a request with a body has begun, on a connection with one request at a time.
    pub fn awaits_body(&self) {
        self.is_body_read.store(false, Ordering::Release);
    }

    /// Marks that the body of the present request was read to its end.
    pub fn body_read(&self) {
        self.is_body_read.store(true, Ordering::Release);
    }

    /// Whether [`ClientConnection::body_read`] was called since [`ClientConnection::awaits_body`].
    pub fn is_body_read(&self) -> bool {
        self.is_body_read.load(Ordering::Acquire)
    }

    /// Marks that a body on this connection ended too early. An HTTP/1 connection must end with a
    /// reset then, so that the client never takes the body for whole.
    pub fn cut(&self) {
        self.is_cut.store(true, Ordering::Release);
    }

    /// Whether [`ClientConnection::cut`] was called.
    pub fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::Acquire)
    }
}
