//! Why there is no response, as the caller gets it.

use std::time::Duration;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection: refused, unresolved, TLS refused, or too slow.
    #[error("cannot connect: {0}")]
    Connect(#[source] ErrorChain, FailureShare),
    /// The connection broke before the response's head was whole.
    #[error("broke off: {0}")]
    Broken(#[source] ErrorChain, FailureShare),
    /// The connection stood, and no head came within this long.
    #[error("no answer within {} s", .0.as_secs())]
    FirstByte(Duration),
    /// The body of the request did not come to its end: that is no fault of the server.
    #[error("{0}")]
    Upload(#[source] UploadError),
    /// The response's framing is ambiguous, or its head too large.
    #[error("{0}")]
    Protocol(&'static str),
}

/// What is wrong with the body of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UploadError {
    /// It ended in an error.
    #[error("the body of the request broke off")]
    Broken,
    /// Nothing came for too long, or less than the least mean rate permits; or so little that it
    /// makes room for others.
    #[error("the body of the request comes too slowly")]
    Slow,
}

/// Which failure of its connection a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureShare {
    /// The first that is told.
    First,
    /// Another request has told of the same loss.
    Further,
}

/// An error and everything behind it as one line: hyper's own text stops at the first link.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ErrorChain(String);

impl ErrorChain {
    /// An error that has no other behind it.
    pub(crate) fn text(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The texts of `error` and its sources, joined by `: `, without repetitions.
    pub fn of(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            let link = error.to_string();
            if !text.ends_with(&link) {
                text.push_str(": ");
                text.push_str(&link);
            }
            source = error.source();
        }
        Self(text)
    }
}
