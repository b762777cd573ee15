//! Why a request has no response, and what that says of its fate: whether the server may have
//! processed it. Values only, but for the mark that a connection's loss was told.

use super::error::{ErrorChain, FailureShare};
use super::upload::CountedBody;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A request without a response.
#[derive(Debug)]
pub(super) struct FailedRequest {
    pub fate: RequestFate,
    pub source: ErrorChain,
    pub loss: Loss,
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum RequestFate {
    /// No byte of it was sent, since the connection was closing; here is its body.
    Unsent(CountedBody),
    /// The server says that it did not process it: the stream is above the last one of its GOAWAY,
    /// or was reset with REFUSED_STREAM (RFC 9113 section 8.7).
    Unprocessed,
    /// A kept HTTP/1.1 connection ended in place of an answer: usually the server had closed it
    /// before the request came (RFC 9112 section 9.3.1).
    ClosedIdle,
    /// The server may have processed it.
    Unknown,
}

/// The loss of a connection, which all its requests share.
#[derive(Debug, Clone, Default)]
pub(super) struct Loss(Arc<AtomicBool>);

impl Loss {
    /// Tells it.
    pub(super) fn tell(&self) -> FailureShare {
        if self.0.swap(true, Ordering::Relaxed) {
            FailureShare::Further
        } else {
            FailureShare::First
        }
    }
}

impl FailedRequest {
    /// One that no other request shares.
    pub(super) fn of_one_request(fate: RequestFate, source: ErrorChain) -> Self {
        Self { fate, source, loss: Loss::default() }
    }
}
