//! Requests that go to an origin unchanged, with answers that pass through. Part of the table of
//! `generic`; holds no lock.

use super::request::GenericRequest;
use super::{deliver, write};
use crate::client::OutboundBody;
use crate::engine::answer::{self, ClientAnswer};
use crate::fill::Asker;
use crate::origin::{ClientBody, ForwardRequest, Retries};
use crate::outcome::Outcome;
use crate::policy::generic::fields;
use crate::policy::generic::request::{RequestHandling, way};
use http::{HeaderValue, Method, header};
use std::sync::Arc;

/// Sends the request to an origin unchanged. If it is a write, what it may have changed is dropped.
pub(super) async fn forward_request(
    request: &GenericRequest<'_>,
    body: Option<OutboundBody>,
) -> ClientAnswer {
    let mut headers = request.fields().clone();
    for name in fields::CONDITIONS {
        for value in request.parts.headers.get_all(&name) {
            headers.append(&name, value.clone());
        }
    }
    if let Some(length) = content_length(request, body.as_ref()) {
        headers.insert(header::CONTENT_LENGTH, length);
    }
    let client = Asker::at(request.connection.peer.ip());
    let body = body.map(|content| ClientBody { client, content });
    let forward = ForwardRequest {
        method: request.parts.method.clone(),
        path: Arc::clone(&request.target.path),
        query: request.target.query.clone(),
        headers,
        body,
        interim: request.interim(),
        only: None,
        retries: Retries::Usual,
    };
    if way(&request.parts.method) == RequestHandling::Write {
        return write::write(request, forward).await;
    }
    match request.engine.fills.through(&request.site.upstream, forward).await {
        Ok(response) => {
            let passing = request.engine.fills.passing(&request.target.key, response);
            deliver::passing(request, passing, Outcome::Pass)
        }
        Err(error) => answer::failed(&error),
    }
}

/// The `Content-Length` for the origin, as far as the length is known. An empty body is stated too,
/// for methods that usually have one (RFC 9110 section 8.6).
fn content_length<T>(request: &GenericRequest<'_>, body: Option<&T>) -> Option<HeaderValue> {
    let stated = request.parts.headers.get(header::CONTENT_LENGTH);
    let has_meaning = matches!(request.parts.method, Method::POST | Method::PUT | Method::PATCH);
    match (stated, body) {
        (stated, Some(_)) => stated.cloned(),
        (Some(stated), None) if stated == "0" => Some(HeaderValue::from(0)),
        (_, None) => has_meaning.then(|| HeaderValue::from(0)),
    }
}
