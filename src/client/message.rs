//! What is sent to an origin: requests and their bodies.

use bytes::Bytes;
use http::Request;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty};

/// A request to an origin.
pub type OutboundRequest = Request<OutboundBody>;

/// The body of a request to an origin.
pub type OutboundBody = UnsyncBoxBody<Bytes, BoxError>;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// No body; takes no memory.
pub fn no_body() -> OutboundBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}
