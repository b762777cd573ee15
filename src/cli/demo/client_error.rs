//! Why a client of the demo did not get what it asked for.

use super::verify::VerifyError;
use crate::nix::narinfo::{NARINFO_BYTES_MAX, NarInfoError};
use crate::nix::signature::SignatureError;
use crate::nix::store_path::StorePath;
use crate::tasks::BlockingError;
use http::StatusCode;
use hyper_util::client::legacy;
use std::time::Duration;

/// Until the answer's head, and between two pieces of its body.
pub(super) const STALL_DEADLINE: Duration = Duration::from_mins(1);

/// Why a request did not bring what it asked for.
#[derive(Debug, thiserror::Error)]
pub enum DemoClientError {
    /// The path cannot be asked for.
    #[error("cannot be asked for: {source}")]
    Request {
        /// What is wrong with it.
        #[from]
        source: http::Error,
    },
    /// No connection, or it broke before the head.
    #[error("no answer: {source}")]
    Exchange {
        /// What the client said.
        #[from]
        source: legacy::Error,
    },
    /// Nothing came for a while.
    #[error("nothing came for {} s", STALL_DEADLINE.as_secs())]
    Stalled,
    /// Another status than 200.
    #[error("answered {status}")]
    Status {
        /// The status.
        status: StatusCode,
    },
    /// The body broke off.
    #[error("the body broke off: {source}")]
    Body {
        /// What hyper said.
        #[from]
        source: hyper::Error,
    },
    /// A small object that is too large.
    #[error("the body is larger than {NARINFO_BYTES_MAX} bytes")]
    TooLarge,
    /// Not a narinfo.
    #[error("not a narinfo: {source}")]
    NarInfo {
        /// What is wrong with it.
        #[from]
        source: NarInfoError,
    },
    /// The narinfo of another path.
    #[error("the narinfo is of another path, {found}")]
    OtherPath {
        /// The path it is of.
        found: StorePath,
    },
    /// The narinfo is not signed by the sample's key.
    #[error("signature: {source}")]
    Signature {
        /// What is wrong with it.
        #[from]
        source: SignatureError,
    },
    /// The NAR is somewhere else.
    #[error("its URL '{url}' leads out of the cache")]
    Location {
        /// What the narinfo says.
        url: String,
    },
    /// The NAR is not the one that the narinfo describes.
    #[error("{source}")]
    Verify {
        /// The difference.
        #[from]
        source: VerifyError,
    },
    /// The verifier ended without a verdict.
    #[error("{source}")]
    Verifier {
        /// Why.
        #[from]
        source: BlockingError,
    },
}
