//! Asks the endpoints that hand out keys: of containers, of EC2 instances, of AWS's token service.
//! One per bucket that needs it; no locks. Called by reqsign's providers, which know what to ask.
//!
//! What goes there and comes back are secrets: nothing of it is logged or in an error. Plain http
//! goes to this machine and its link alone. Redirects are not followed. Every wait has a deadline.

use crate::client::{Client, OutboundBody};
use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use reqsign_core::{Error, HttpSend, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Until a connection stands: if there is no such endpoint, nothing answers.
pub(super) const CONNECT: Duration = Duration::from_secs(2);
/// From a request to its answer's head, and from that to its end.
pub(super) const ANSWER: Duration = Duration::from_secs(5);
/// Requests under way at once.
pub(super) const REQUESTS_MAX: usize = 4;
/// The longest answer.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;

/// The endpoints that hand out keys.
#[derive(Debug)]
pub(super) struct KeyEndpoints {
    client: Client,
}

impl KeyEndpoints {
    /// By this client, which has the deadlines of this module.
    pub(super) fn new(client: Client) -> Self {
        Self { client }
    }
}

impl HttpSend for KeyEndpoints {
    async fn http_send(&self, request: Request<Bytes>) -> Result<Response<Bytes>> {
        let uri = request.uri();
        let place = place(uri);
        if uri.scheme_str() != Some("https") && !is_near(uri) {
            return Err(Error::config_invalid(format!(
                "{place} is asked for keys over plain http, which goes to this machine and its \
                 link only; write https"
            )));
        }
        let request = request.map(|body| -> OutboundBody {
            Full::new(body).map_err(|never| match never {}).boxed_unsync()
        });
        let broken = |what: &dyn std::fmt::Display| Error::unexpected(format!("{place}: {what}"));
        let inbound = self.client.send(request).await.map_err(|error| broken(&error))?;
        let body = Limited::new(inbound.body, ANSWER_BYTES_MAX).collect();
        let body = tokio::time::timeout(ANSWER, body).await;
        let body = body.map_err(|_| broken(&"the answer stalled"))?;
        let body = body.map_err(|_| broken(&"the answer broke off, or is too long"))?;
        Ok(Response::from_parts(inbound.head, body.to_bytes()))
    }
}

fn place(uri: &Uri) -> String {
    uri.authority().map_or_else(|| "no host".to_owned(), |authority| authority.host().to_owned())
}

/// Whether the host is this machine, or an address of its link that hosts of containers and
/// machines answer at.
fn is_near(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    match bare.parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => address.is_loopback() || is_link(address),
        Ok(IpAddr::V6(address)) => address.is_loopback() || is_metadata(address),
        Err(_) => host.eq_ignore_ascii_case("localhost"),
    }
}

fn is_link(address: Ipv4Addr) -> bool {
    address.is_link_local()
}

/// fd00:ec2::/32, at which AWS answers over IPv6.
fn is_metadata(address: Ipv6Addr) -> bool {
    matches!(address.segments(), [0xfd00, 0x0ec2, ..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_stays_near() {
        let is_near = |text: &str| is_near(&text.parse().unwrap());
        for near in [
            "http://127.0.0.1:1/x",
            "http://localhost/x",
            "http://169.254.169.254/",
            "http://169.254.170.23/v1/credentials",
            "http://[fd00:ec2::254]/",
            "http://[::1]:8080/",
        ] {
            assert!(is_near(near), "{near}");
        }
        for far in ["http://10.0.0.1/", "http://localhost.example.org/", "http://[fd00::1]/"] {
            assert!(!is_near(far), "{far}");
        }
    }
}
