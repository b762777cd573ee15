//! What each path of the admin interface answers.

use super::browser;
use super::fsck::{self, FsckRefusal, FsckRequest};
use super::parts::AdminState;
use super::purge::{self, PurgeError, PurgeReply};
use super::token::AuthError;
use super::uploads::{UploadsError, UploadsRequest, site_of};
use crate::filter::{self, NoticeError};
use crate::policy::request::RequestRefusal;
use crate::rfc::authority::Authority;
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, RETRY_AFTER, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Serialize;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::time::timeout;

/// Bytes of a purge request's body.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// Bytes of a request's body that brings notices of uploads: a batch of SQS has 1 MiB.
const NOTICES_BYTES_MAX: usize = 4 << 20;
/// Until a purge request's body is whole.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

const INDEX: &str = "<!doctype html>
<html lang=\"en\"><meta charset=\"utf-8\"><title>Narthex</title>
<h1>Narthex</h1>
<ul>
<li><a href=\"/healthz\">/healthz</a>: 200 while the process lives
<li><a href=\"/readyz\">/readyz</a>: 200 while it can serve, with what each part says
<li><a href=\"/metrics\">/metrics</a>: Prometheus text
<li>POST /api/v1/purge: {\"path\": \"/x.narinfo\"}, or
{\"key\": \"one of Surrogate-Key\"}, with a bearer token
<li>POST /api/v1/uploads: notices of uploads, as S3 or EventBridge sends them, with a bearer token
<li>POST /api/v1/fsck: {\"repair\": false}, with a bearer token; GET shows what it
found, DELETE ends it
</ul>
";

/// Answers a request. A panic in a part's own code is its request's fault alone.
pub(super) async fn answer(
    shared: &AdminState,
    peer: IpAddr,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    // A panic drops everything that the request held, so no half changed value stays.
    let routed = AssertUnwindSafe(route(shared, peer, request)).catch_unwind().await;
    let mut response = routed.unwrap_or_else(|_| {
        shared.parts.metrics.request_panics.inc();
        tracing::error!("admin request panicked");
        error(StatusCode::INTERNAL_SERVER_ERROR, "a fault of Narthex; see its log")
    });
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn route(
    shared: &AdminState,
    peer: IpAddr,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let is_read = *request.method() == Method::GET || *request.method() == Method::HEAD;
    // Probes of load balancers name no host, or an empty one; a browser always names one.
    let names_none = request.headers().get_all(HOST).iter().all(HeaderValue::is_empty);
    let host = Authority::of_request(request.version(), request.uri(), request.headers());
    if let Err(problem) = host
        && !(is_read && names_none)
    {
        let reason = RequestRefusal::from(problem).reason();
        shared.parts.metrics.requests_refused.with_label_values(&[reason]).inc();
        return error(StatusCode::BAD_REQUEST, &problem.to_string());
    }
    if let Some(suspicion) = browser::suspicion(request.uri().path(), request.headers()) {
        shared.parts.metrics.requests_refused.with_label_values(&[suspicion.as_str()]).inc();
        tracing::warn!(%peer, problem = %suspicion, "admin request refused");
        return error(StatusCode::FORBIDDEN, &suspicion.to_string());
    }
    match request.uri().path() {
        "/api/v1/purge" if *request.method() == Method::POST => purge(shared, peer, request).await,
        "/api/v1/uploads" if *request.method() == Method::POST => {
            uploads(shared, peer, request).await
        }
        "/api/v1/purge" | "/api/v1/uploads" => not_allowed("POST"),
        "/api/v1/fsck" => match *request.method() {
            Method::POST | Method::GET | Method::DELETE => fsck(shared, peer, request).await,
            _ => not_allowed("DELETE, GET, POST"),
        },
        "/" | "/healthz" | "/readyz" | "/metrics" if !is_read => not_allowed("GET, HEAD"),
        "/" => respond(StatusCode::OK, "text/html; charset=utf-8", INDEX),
        "/healthz" => respond(StatusCode::OK, "text/plain; charset=utf-8", "ok\n"),
        "/readyz" => readiness(shared),
        "/metrics" => metrics(shared),
        _ => error(StatusCode::NOT_FOUND, "no such page; / lists them"),
    }
}

fn readiness(shared: &AdminState) -> Response<Full<Bytes>> {
    let readiness = (shared.parts.readiness)();
    let status = if readiness.is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json(status, &readiness)
}

fn metrics(shared: &AdminState) -> Response<Full<Bytes>> {
    (shared.parts.before_metrics)();
    match shared.parts.metrics.text() {
        Ok(text) => respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
        Err(problem) => {
            tracing::error!(error = %problem, "cannot print metrics");
            error(StatusCode::INTERNAL_SERVER_ERROR, "metrics cannot be printed; see the log")
        }
    }
}

async fn purge(
    shared: &AdminState,
    peer: IpAddr,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let authorization = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
    if let Err(problem) = shared.tokens.check(peer, authorization).await {
        return unauthorized(shared, peer, &problem);
    }
    let body = match body_of(request, BODY_BYTES_MAX).await {
        Ok(body) => body,
        Err(refused) => return *refused,
    };
    let purge = match purge::parse(&body) {
        Ok(purge) => purge,
        Err(problem) => return error(StatusCode::BAD_REQUEST, &problem.to_string()),
    };
    tracing::info!(%peer, ?purge, "purge");
    match (shared.parts.purge)(purge).await {
        Ok(PurgeReply { purged, is_lasting }) => {
            json(StatusCode::OK, &serde_json::json!({ "purged": purged, "lasting": is_lasting }))
        }
        Err(problem) => {
            let status = match problem {
                PurgeError::UnknownSite { .. } => StatusCode::NOT_FOUND,
                PurgeError::Invalid { .. } => StatusCode::BAD_REQUEST,
                PurgeError::Failed { .. } => StatusCode::INTERNAL_SERVER_ERROR,
            };
            error(status, &problem.to_string())
        }
    }
}

async fn uploads(
    shared: &AdminState,
    peer: IpAddr,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let authorization = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
    if let Err(problem) = shared.tokens.check(peer, authorization).await {
        return unauthorized(shared, peer, &problem);
    }
    let site = site_of(request.uri().query());
    let notices = match body_of(request, NOTICES_BYTES_MAX).await {
        Ok(body) => filter::parse(&body),
        Err(refused) if refused.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            Err(NoticeError::TooLarge { max: NOTICES_BYTES_MAX })
        }
        Err(refused) => return *refused,
    };
    match (shared.parts.uploads)(UploadsRequest { site, notices }).await {
        Ok(reply) => {
            let reply = serde_json::json!({ "uploads": reply.uploads, "others": reply.others });
            json(StatusCode::OK, &reply)
        }
        Err(problem) => {
            let status = match problem {
                UploadsError::UnknownSite { .. } => StatusCode::NOT_FOUND,
                UploadsError::Unreadable(NoticeError::TooLarge { .. }) => {
                    StatusCode::PAYLOAD_TOO_LARGE
                }
                UploadsError::WhichSite | UploadsError::Unreadable(_) => StatusCode::BAD_REQUEST,
                UploadsError::Refused { .. } => StatusCode::SERVICE_UNAVAILABLE,
            };
            error(status, &problem.to_string())
        }
    }
}

async fn fsck(
    shared: &AdminState,
    peer: IpAddr,
    request: Request<Incoming>,
) -> Response<Full<Bytes>> {
    let authorization = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
    if let Err(problem) = shared.tokens.check(peer, authorization).await {
        return unauthorized(shared, peer, &problem);
    }
    let (wish, status) = if *request.method() == Method::GET {
        (FsckRequest::Look, StatusCode::OK)
    } else if *request.method() == Method::DELETE {
        (FsckRequest::End, StatusCode::OK)
    } else {
        let body = match body_of(request, BODY_BYTES_MAX).await {
            Ok(body) => body,
            Err(refused) => return *refused,
        };
        match fsck::parse(&body) {
            Ok(wish) => (wish, StatusCode::ACCEPTED),
            Err(problem) => {
                let text = format!("not a request for a check: {problem}");
                return error(StatusCode::BAD_REQUEST, &text);
            }
        }
    };
    match (shared.parts.fsck)(wish) {
        Ok(report) => json(status, &report),
        Err(refusal) => {
            let status = match refusal {
                FsckRefusal::Busy => StatusCode::CONFLICT,
                FsckRefusal::NoDisk => StatusCode::NOT_FOUND,
            };
            error(status, &refusal.to_string())
        }
    }
}

/// The whole body of a request, or what to answer instead.
async fn body_of(
    request: Request<Incoming>,
    bytes_max: usize,
) -> Result<Bytes, Box<Response<Full<Bytes>>>> {
    let body = Limited::new(request.into_body(), bytes_max).collect();
    let refused = match timeout(BODY_DEADLINE, body).await {
        Ok(Ok(body)) => return Ok(body.to_bytes()),
        Ok(Err(problem)) if problem.is::<LengthLimitError>() => {
            let text = format!("at most {} KiB; send several requests", bytes_max >> 10);
            error(StatusCode::PAYLOAD_TOO_LARGE, &text)
        }
        Ok(Err(_)) => error(StatusCode::BAD_REQUEST, "the body broke off"),
        Err(_) => error(StatusCode::REQUEST_TIMEOUT, "the body took more than 10 s"),
    };
    Err(Box::new(refused))
}

fn unauthorized(shared: &AdminState, peer: IpAddr, problem: &AuthError) -> Response<Full<Bytes>> {
    let (reason, status) = match problem {
        AuthError::Off => ("admin_off", StatusCode::FORBIDDEN),
        AuthError::File { .. } => ("admin_token_file", StatusCode::INTERNAL_SERVER_ERROR),
        AuthError::Wrong => ("admin_token", StatusCode::UNAUTHORIZED),
        AuthError::TooMany => ("admin_token_guesses", StatusCode::TOO_MANY_REQUESTS),
    };
    shared.parts.metrics.requests_refused.with_label_values(&[reason]).inc();
    tracing::warn!(%peer, %problem, "admin request refused");
    let mut response = error(status, &problem.to_string());
    let headers = response.headers_mut();
    match problem {
        AuthError::Wrong => {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        AuthError::TooMany => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("60"));
        }
        AuthError::Off | AuthError::File { .. } => {}
    }
    response
}

fn not_allowed(methods: &'static str) -> Response<Full<Bytes>> {
    let mut response = error(StatusCode::METHOD_NOT_ALLOWED, &format!("this page takes {methods}"));
    response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
    response
}

fn error(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    json(status, &serde_json::json!({ "error": text }))
}

fn json(status: StatusCode, value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_string(value) {
        Ok(text) => respond(status, "application/json", text + "\n"),
        Err(problem) => {
            tracing::error!(error = %problem, "cannot write answer as JSON");
            respond(StatusCode::INTERNAL_SERVER_ERROR, "application/json", "{}\n")
        }
    }
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
