//! Why the origins of a site cannot be set up.

use crate::client::TrustError;
use std::sync::Arc;

/// Why a site's origins cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum OriginSetupError {
    /// The certificate authorities cannot be used.
    #[error("origin {origin}: {source}")]
    Trust {
        /// The origin's name.
        origin: Arc<str>,
        /// What is wrong with them.
        source: TrustError,
    },
    /// The endpoint, with the bucket's name, is no address.
    #[error("origin {origin}: endpoint {endpoint:?} must be http[s]://host[:port], nothing more")]
    Endpoint {
        /// The origin's name.
        origin: Arc<str>,
        /// The configured endpoint; empty for Amazon's own.
        endpoint: String,
    },
}
