//! HTTP clients towards origins: pooled keep-alive connections, proxies, TLS, HTTP/1.1 and HTTP/2,
//! and the deadlines of connecting and of the first byte. One client per origin, made once, as long
//! lived as the configuration; cloning shares the pool; no lock across an await. Called by
//! `origin` alone.
//!
//! A request that the server did not process is sent again at once on another connection, a few
//! times (`RESENDS_MAX`): the caller does not notice, and neither its budget nor its breaker does.
//! Such a request has a stream above the last one of GOAWAY, was refused, or was not sent before
//! its connection closed. The same holds for an idempotent request without a body if a kept
//! HTTP/1.1 connection ends in place of its answer.
//!
//! An HTTP/2 connection carries up to 64 requests, or as few as the server permits. A connection
//! that ends with GOAWAY teaches the pool how many requests such a connection takes; later ones get
//! no more.

mod body;
mod connector;
mod error;
mod failure;
mod gather;
mod http1;
mod http2;
mod limits;
mod message;
mod pool;
mod proxy;
pub mod trust;
mod upload;
mod verifier;

pub use body::InboundBody;
pub use error::{ClientError, ErrorChain, FailureShare, UploadError};
pub use message::{BoxError, OutboundBody, OutboundRequest, host_field, no_body};
pub use proxy::{ProxyRule, ProxyUse, ProxyVariables};
pub use trust::{TlsTrust, TrustError, Trusts};

use crate::config::HttpVersion;
use connector::{ConnectionWay, DeadlineConnector};
use failure::{FailedRequest, RequestFate};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Request, Response, response};
use http2::Http2;
use limits::{HEAD_BYTES_MAX, HEADERS_MAX};
use pool::{Choice, Pool};
use std::sync::Arc;
use std::time::Duration;
use upload::{CountedBody, UploadProgress, UploadTimeout, Wait};

/// How often a request that was not processed is sent again before that is a failure: a server that
/// closes connections after a number of requests does it once or twice to one request, since the
/// pool then learns the number.
const RESENDS_MAX: u32 = 8;

/// What is asked of the allocator once and given back; see [`keep_buffers`].
const KEPT_BYTES: usize = 4 * 1024 * 1024;

/// Deadlines and sizes of a client.
#[derive(Debug, Clone, Copy)]
pub struct ClientSettings {
    /// Until a connection stands: name resolution, TCP and TLS together.
    pub connect: Duration,
    /// From a standing connection to the response's head.
    pub first_byte: Duration,
    /// Requests that its user will have under way at once.
    pub requests_max: usize,
    /// The versions of HTTP that it speaks.
    pub version: HttpVersion,
}

/// A pooled client.
#[derive(Debug, Clone)]
pub struct Client {
    pool: Arc<Pool>,
    first_byte: Duration,
}

/// A response after its head has arrived.
#[derive(Debug)]
pub struct Inbound {
    /// Status and fields.
    pub head: response::Parts,
    /// The body, not yet read.
    pub body: InboundBody,
    /// How often the request was sent again, since it was not processed before.
    pub resends: u32,
}

impl Client {
    /// A client without connections yet; it connects when first used.
    pub fn new(trust: &TlsTrust, settings: ClientSettings, proxies: ProxyRule) -> Self {
        keep_buffers();
        let ClientSettings { connect, version, .. } = settings;
        let way = ConnectionWay { deadline: connect, version, proxies };
        let connector = DeadlineConnector::new(&trust.speaking(version), way);
        let pool = Pool::new(connector, settings.version, settings.requests_max);
        Self { pool, first_byte: settings.first_byte }
    }

    /// Sends a request and waits for the response's head.
    ///
    /// Cancel safe: a dropped future closes its HTTP/1 connection or resets its stream.
    ///
    /// The deadline of the first byte begins with the first connection, and anew with each progress
    /// of the request's own body, which must keep a least mean rate. A request without a body is
    /// sent again if the server did not process it, and one that may be repeated also if a kept
    /// connection ended in place of the answer (RFC 9110 section 9.2.2); one with a body only if
    /// none of it was sent.
    pub async fn send(&self, request: OutboundRequest) -> Result<Inbound, ClientError> {
        let progress = UploadProgress::default();
        let (head, body) = request.into_parts();
        let endpoint = head.uri.scheme().cloned().zip(head.uri.authority().cloned());
        let endpoint =
            Arc::new(endpoint.ok_or(ClientError::Protocol("the request names no host"))?);
        let is_bodiless = http_body::Body::is_end_stream(&body);
        let mut body = CountedBody::new(body, progress.clone());
        let (mut choice, mut wait, mut resends) = (Choice::Any, None, 0);
        loop {
            let lease = self.pool.lease(&endpoint, choice).await;
            let lease = lease.map_err(|error| {
                let share = error.tell();
                ClientError::Connect(error.source, share)
            })?;
            let shared = lease.shared();
            let sending = Box::pin(lease.send(Request::from_parts(head.clone(), body)));
            let wait = wait.get_or_insert_with(|| Wait::new(progress.clone(), self.first_byte));
            let failure = match wait.within(sending).await {
                Ok(Ok(response)) => return inbound(response, resends),
                Ok(Err(failure)) => match progress.error() {
                    Some(error) => return Err(ClientError::Upload(error)),
                    None => failure,
                },
                Err(UploadTimeout::Client) => return Err(ClientError::Upload(UploadError::Slow)),
                Err(UploadTimeout::Server) => {
                    // Nothing tells a slow server from a dead connection: others take no risk.
                    shared.inspect(Http2::retire);
                    return Err(ClientError::FirstByte(self.first_byte));
                }
            };
            let FailedRequest { fate, source, loss } = failure;
            body = match fate {
                RequestFate::Unsent(unsent) if resends < RESENDS_MAX => unsent,
                RequestFate::Unprocessed if is_bodiless && resends < RESENDS_MAX => {
                    CountedBody::new(no_body(), progress.clone())
                }
                RequestFate::ClosedIdle if is_bodiless && head.method.is_idempotent() => {
                    CountedBody::new(no_body(), progress.clone())
                }
                RequestFate::Unsent(_)
                | RequestFate::Unprocessed
                | RequestFate::ClosedIdle
                | RequestFate::Unknown => {
                    return Err(ClientError::Broken(source, loss.tell()));
                }
            };
            resends += 1;
            tracing::debug!(error = %source, resends, "request not processed, sent again");
            choice = Choice::Other(shared);
        }
    }
}

/// The response, once its head is fit for use.
fn inbound(response: Response<InboundBody>, resends: u32) -> Result<Inbound, ClientError> {
    let (mut head, mut body) = response.into_parts();
    match settle_head(&mut head) {
        Ok(framing) => {
            if framing == ResponseFraming::Settled {
                body.ends_its_connection();
            }
            Ok(Inbound { head, body, resends })
        }
        Err(detail) => {
            body.discard();
            Err(ClientError::Protocol(detail))
        }
    }
}

/// Makes glibc keep up to twice [`KEPT_BYTES`] of freed memory for each of its arenas, as it does
/// after the first block of that size. Otherwise the buffers of bodies go back to the kernel each
/// time, by hundreds of KiB, and return as fresh pages. That takes an eighth of a fill's CPU.
fn keep_buffers() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(KEPT_BYTES)));
}

/// How a head says what frames its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ResponseFraming {
    /// In one way.
    Plain,
    /// In several, of which one is left: nothing else may be read from such a connection.
    Settled,
}

/// Leaves one way to frame a response (RFC 9112 section 6.3), or refuses it; also heads beyond the
/// limit. A repeated length is one length, and beside chunks none counts. hyper itself refuses
/// differing or malformed lengths, and a transfer coding in HTTP/1.0.
fn settle_head(head: &mut response::Parts) -> Result<ResponseFraming, &'static str> {
    let headers = &mut head.headers;
    if headers.len() > HEADERS_MAX || head_bytes(headers) > HEAD_BYTES_MAX {
        return Err("the head of the response is too large");
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    if !codings.all(|coding| coding.as_bytes().eq_ignore_ascii_case(b"chunked")) {
        return Err("the response has another transfer coding than `chunked`");
    }
    let lines = |name| headers.get_all(name).iter().count();
    if lines(TRANSFER_ENCODING) + lines(CONTENT_LENGTH) < 2 {
        return Ok(ResponseFraming::Plain);
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    } else if let Some(length) = headers.get(CONTENT_LENGTH).cloned()
        && headers.get_all(CONTENT_LENGTH).iter().all(|other| *other == length)
    {
        headers.insert(CONTENT_LENGTH, length);
    }
    Ok(ResponseFraming::Settled)
}

fn head_bytes(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}

#[cfg(test)]
mod tests;
