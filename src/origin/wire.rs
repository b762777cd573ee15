//! What S3 and plain HTTP origins share: sending a request, timing and counting it, and turning
//! the answer into a [`OriginReply`]. One per origin, as long lived as it; no locks.

use super::drain::{DrainedBody, Drains};
use super::exchange::{Ask, FetchError, Method, RangeAsked, RequestPurpose};
use super::fault::S3ErrorDocument;
use super::meters::OriginMeters;
use super::response::{Response, ResponseBody, ResponseSource};
use super::verdict::{Absence, AnswerVerdict, Dialect, by_fault, by_status, check_part};
use crate::client::{Client, ClientError, FailureShare, Inbound, OutboundRequest};
use crate::clock::{Clock, Moment, Timestamp};
use crate::config::OriginTimeouts;
use crate::nix::Class;
use http::{HeaderMap, StatusCode, Version, header};
use hyper::body::Body;
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// The longest error document that is read.
const FAULT_BYTES_MAX: usize = 64 * 1024;
/// What this program calls itself to origins.
pub(super) const USER_AGENT: &str = concat!("narthex/", env!("CARGO_PKG_VERSION"));

/// The answer of one origin.
#[derive(Debug)]
pub(super) enum OriginReply {
    /// An object.
    Found(Box<Response>),
    /// 304.
    NotModified(ResponseHead),
    /// No such object.
    Absent(ResponseHead, Absence),
    /// Another object.
    Changed,
}

/// The head of an answer, and when it was.
#[derive(Debug)]
pub(super) struct ResponseHead {
    pub headers: HeaderMap,
    pub request_time: Timestamp,
    pub response_time: Moment,
}

/// An answer to one request.
#[derive(Debug)]
pub(super) struct Exchange {
    pub status: StatusCode,
    pub version: Version,
    pub heard: ResponseHead,
    body: Option<DrainedBody>,
}

/// The connection to one HTTP origin.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    pub name: Arc<str>,
    pub position: usize,
    pub client: Client,
    pub clock: Clock,
    pub meters: OriginMeters,
    pub timeouts: OriginTimeouts,
    pub drains: Drains,
}

impl Wire {
    /// Sends one request, which is counted whatever becomes of it.
    pub(super) async fn send(
        &self,
        purpose: RequestPurpose,
        request: OutboundRequest,
    ) -> Result<Exchange, FetchError> {
        let request_time = self.clock.now();
        let counted = self.meters.request(purpose, request.method());
        let inbound = self.client.send(request).await;
        let Inbound { head, body, resends } = match inbound {
            Ok(inbound) => inbound,
            // Counted as dropped, as if its client had left before.
            Err(error @ ClientError::Upload(_)) => return Err(self.failure(error)),
            Err(error) => {
                counted.failed();
                return Err(self.failure(error));
            }
        };
        counted.answered(head.status);
        self.meters.resent(resends);
        let is_shared = head.version == Version::HTTP_2;
        let is_framed = body.size_hint().exact().is_some()
            || head.headers.contains_key(header::TRANSFER_ENCODING);
        let drains = (is_framed && !is_shared).then(|| self.drains.clone());
        let body = DrainedBody::new(body, drains);
        let heard = ResponseHead {
            headers: head.headers,
            request_time,
            response_time: self.clock.moment(),
        };
        let (status, version) = (head.status, head.version);
        Ok(Exchange { status, version, heard, body: Some(body) })
    }

    /// The error document of an answer; `None` if it has none that can be read.
    ///
    /// One that breaks off, or does not come within the first-byte deadline, is a failure, unless
    /// what came of it tells its code: a 404 of S3 may mean that the bucket is gone, so that it is
    /// not believed without its document.
    pub(super) async fn fault(
        &self,
        exchange: &mut Exchange,
    ) -> Result<Option<S3ErrorDocument>, FetchError> {
        let Some(mut body) = exchange.body.take() else { return Ok(None) };
        let deadline = Instant::now() + self.timeouts.first_byte;
        let mut document = Vec::new();
        let failure = loop {
            if document.len() >= FAULT_BYTES_MAX {
                break None;
            }
            let end = deadline.min(Instant::now() + self.timeouts.between_bytes);
            match timeout_at(end, body.frame()).await {
                Ok(None) => break None,
                Ok(Some(Ok(frame))) => {
                    document.extend_from_slice(&frame.into_data().unwrap_or_default());
                }
                Ok(Some(Err(error))) => {
                    break Some(ClientError::Broken(error, FailureShare::First));
                }
                Err(_) => break Some(ClientError::FirstByte(self.timeouts.first_byte)),
            }
        };
        drop(body);
        let fault = S3ErrorDocument::parse(&document);
        match failure.filter(|_| fault.is_none()) {
            Some(failure) => Err(self.failure(failure)),
            None => Ok(fault),
        }
    }

    /// Decides what an answer to `ask` means. If only the error document tells, it is read;
    /// if there is none, since the method was HEAD, `learn` is sent to get one.
    pub(super) async fn judge<L>(
        &self,
        dialect: Dialect,
        ask: &Ask,
        exchange: &mut Exchange,
        learn: L,
    ) -> Result<AnswerVerdict, FetchError>
    where
        L: FnOnce() -> Result<OutboundRequest, FetchError>,
    {
        let verdict = by_status(dialect, exchange.status, ask);
        if verdict != AnswerVerdict::Unclear {
            return Ok(verdict);
        }
        if ask.method == Method::Get {
            let fault = self.fault(exchange).await?;
            return Ok(by_fault(dialect, exchange.status, fault.as_ref()));
        }
        let mut learnt = self.send(ask.purpose(), learn()?).await?;
        if learnt.status.is_success() {
            return Ok(AnswerVerdict::Status);
        }
        let fault = self.fault(&mut learnt).await?;
        Ok(by_fault(dialect, learnt.status, fault.as_ref()))
    }

    /// Turns an answer that means `verdict` into the reply, or into the error that it is.
    pub(super) fn settle(
        &self,
        ask: &Ask,
        exchange: Exchange,
        verdict: AnswerVerdict,
    ) -> Result<OriginReply, FetchError> {
        match verdict {
            AnswerVerdict::Found => self.found(ask, exchange),
            AnswerVerdict::NotModified => Ok(OriginReply::NotModified(exchange.heard)),
            AnswerVerdict::Absent(absence) => Ok(OriginReply::Absent(exchange.heard, absence)),
            AnswerVerdict::Changed => Ok(OriginReply::Changed),
            AnswerVerdict::Refused { code, detail, region: _ } => {
                Err(FetchError::Credentials { origin: Arc::clone(&self.name), code, detail })
            }
            AnswerVerdict::Protocol(detail) => Err(self.protocol(detail)),
            AnswerVerdict::Redirect | AnswerVerdict::Unclear | AnswerVerdict::Status => {
                Err(FetchError::Status {
                    origin: Arc::clone(&self.name),
                    status: exchange.status,
                    retry_after_seconds: retry_after(
                        &exchange.heard.headers,
                        exchange.heard.response_time.wall,
                    ),
                })
            }
        }
    }

    /// An unusable answer of this origin.
    pub(super) fn protocol(&self, detail: impl Into<String>) -> FetchError {
        FetchError::Protocol { origin: Arc::clone(&self.name), detail: detail.into() }
    }

    fn found(&self, ask: &Ask, exchange: Exchange) -> Result<OriginReply, FetchError> {
        let response = self.response(ask.class, ask.method, exchange)?;
        if response.status == StatusCode::PARTIAL_CONTENT {
            check_part(ask, &response.headers, response.content_length)
                .map_err(|detail| self.protocol(detail))?;
        }
        Ok(OriginReply::Found(Box::new(response)))
    }

    /// The answer to a request of this method, whatever its status.
    pub(super) fn response(
        &self,
        class: Class,
        method: Method,
        exchange: Exchange,
    ) -> Result<Response, FetchError> {
        let Exchange { status, version, heard, body } = exchange;
        let Some(body) = body else {
            return Err(self.protocol("an object without a body"));
        };
        let content_length = match method {
            Method::Get => body.bytes_left(),
            Method::Head => content_length(&heard.headers),
        };
        let is_framed = content_length.is_some()
            || version == Version::HTTP_2
            || heard.headers.contains_key(header::TRANSFER_ENCODING);
        let source = match method {
            Method::Get => ResponseSource::Http(body),
            Method::Head => ResponseSource::Ended,
        };
        let received = self.meters.bytes(class);
        let between_bytes = self.timeouts.between_bytes;
        let body = ResponseBody::new(source, Arc::clone(&self.name), between_bytes, received);
        Ok(Response {
            status,
            headers: heard.headers,
            body,
            origin: self.position,
            origin_name: Arc::clone(&self.name),
            request_time: heard.request_time,
            response_time: heard.response_time,
            content_length,
            is_framed,
        })
    }

    fn failure(&self, error: ClientError) -> FetchError {
        let origin = Arc::clone(&self.name);
        match error {
            ClientError::Connect(source, share) => FetchError::Connect { origin, source, share },
            ClientError::Broken(source, share) => FetchError::Broken { origin, source, share },
            ClientError::FirstByte(deadline) => {
                FetchError::FirstByte { origin, seconds: deadline.as_secs() }
            }
            ClientError::Upload(source) => FetchError::Upload { origin, source },
            ClientError::Protocol(detail) => {
                FetchError::Protocol { origin, detail: detail.to_owned() }
            }
        }
    }
}

/// The request that finds out why HEAD was refused: the same object's first byte by GET.
pub(super) fn learning(ask: &Ask) -> Ask {
    Ask {
        method: Method::Get,
        range: Some(RangeAsked { first: 0, last: Some(0) }),
        if_none_match: None,
        if_modified_since: None,
        if_match: None,
        ..ask.clone()
    }
}

/// The fields of a request that come from the question: range and preconditions.
pub(super) fn ask_fields(ask: &Ask) -> HeaderMap {
    let mut fields = HeaderMap::new();
    if let Some(range) = ask.range.and_then(|range| range.field()) {
        fields.insert(header::RANGE, range);
    }
    let conditions = [
        (header::IF_NONE_MATCH, &ask.if_none_match),
        (header::IF_MODIFIED_SINCE, &ask.if_modified_since),
        (header::IF_MATCH, &ask.if_match),
    ];
    for (name, value) in conditions {
        if let Some(value) = value {
            fields.insert(name, value.clone());
        }
    }
    fields
}

/// `Content-Length`; of a list of equal values, which the client has let through, the first.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    let value = headers.get(header::CONTENT_LENGTH)?.to_str().ok()?;
    value.split(',').next()?.trim().parse().ok()
}

/// `Retry-After` in seconds from `now` (RFC 9110 section 10.2.3).
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<u64> {
    let value = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(seconds);
    }
    let at = httpdate::parse_http_date(value).ok()?;
    Some(Timestamp::from(at).since(now).as_secs())
}
