//! A connection that speaks HTTP/1.1: one request at a time. Lives until either side closes it;
//! held by the pool while it is idle, and by one request otherwise. No locks.

use super::error::ErrorChain;
use super::failure::{FailedRequest, RequestFate};
use super::limits::{AGE_MAX, HEADERS_MAX, READ_BUFFER_BYTES_MAX};
use super::message::host_field;
use super::proxy::TargetForm;
use super::upload::CountedBody;
use http::header::{HOST, PROXY_AUTHORIZATION};
use http::uri::PathAndQuery;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper::rt::{Executor, Read, Write};
use hyper_util::rt::TokioExecutor;
use tokio::time::Instant;

/// A connection.
#[derive(Debug)]
pub(super) struct Http1 {
    sender: SendRequest<CountedBody>,
    /// Whether it has answered a request: then the server may close it at any time.
    has_answered: bool,
    /// How requests name their target.
    form: TargetForm,
    made: Instant,
}

impl Http1 {
    /// Takes `stream` into use.
    pub(super) async fn new<S>(stream: S, form: TargetForm) -> Result<Self, ErrorChain>
    where
        S: Read + Write + Unpin + Send + 'static,
    {
        let mut builder = Builder::new();
        builder.max_headers(HEADERS_MAX).max_buf_size(READ_BUFFER_BYTES_MAX);
        let handshake = builder.handshake(stream).await;
        let (sender, connection) = handshake.map_err(|error| ErrorChain::of(&error))?;
        TokioExecutor::new().execute(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = %ErrorChain::of(&error), "connection to an origin ended");
            }
        });
        Ok(Self { sender, has_answered: false, form, made: Instant::now() })
    }

    /// Whether it is to take no further request.
    pub(super) fn is_old(&self) -> bool {
        self.made.elapsed() >= AGE_MAX
    }

    /// Whether it can take no further request.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether it can take a request now.
    pub(super) fn is_ready(&self) -> bool {
        self.sender.is_ready()
    }

    /// Waits until it can take a request; false if it never will.
    pub(super) async fn ready(&mut self) -> bool {
        self.sender.ready().await.is_ok()
    }

    /// Sends a request and waits for the head of its response.
    pub(super) async fn send(
        &mut self,
        mut request: Request<CountedBody>,
    ) -> Result<Response<Incoming>, FailedRequest> {
        address(&mut request, &self.form);
        let mut failed = match self.sender.try_send_request(request).await {
            Ok(response) => {
                self.has_answered = true;
                return Ok(response);
            }
            Err(failed) => failed,
        };
        let unsent = failed.take_message().filter(|_| self.has_answered);
        let error = failed.into_error();
        let is_answer = error.is_parse() || error.is_parse_too_large() || error.is_user();
        let fate = match unsent {
            Some(request) => RequestFate::Unsent(request.into_body()),
            None if self.has_answered && !is_answer => RequestFate::ClosedIdle,
            None => RequestFate::Unknown,
        };
        Err(FailedRequest::of_one_request(fate, ErrorChain::of(&error)))
    }
}

/// Puts the target into the form of HTTP/1.1: the host as a field, the path or, for a proxy, the
/// whole URL in the request line.
fn address(request: &mut Request<CountedBody>, form: &TargetForm) {
    if let Some(host) = host_field(request.uri()) {
        request.headers_mut().entry(HOST).or_insert(host);
    }
    match form {
        TargetForm::Path => {
            let path = request.uri().path_and_query().cloned();
            *request.uri_mut() = path.unwrap_or(PathAndQuery::from_static("/")).into();
        }
        TargetForm::Whole { authorization } => {
            if let Some(authorization) = authorization {
                request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
            }
        }
    }
}
