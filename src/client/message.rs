//! What is sent to an origin: requests and their bodies.

use bytes::Bytes;
use http::{HeaderValue, Request, Uri};
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

/// The `Host` of a request over HTTP/1.1: the host and the port, unless that is the one of the
/// scheme. `None` without a host.
pub fn host_field(uri: &Uri) -> Option<HeaderValue> {
    let usual = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    let host = uri.host()?;
    let field = match uri.port_u16().filter(|port| *port != usual) {
        Some(port) => HeaderValue::try_from(format!("{host}:{port}")),
        None => HeaderValue::from_str(host),
    };
    field.ok()
}
