//! Connects to origins: TCP with both address families raced, TLS where the URL says so, all
//! within one deadline. Stateless; shared by the lanes of a client.

use super::{BoxError, Trust};
use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tower_service::Service;

/// The other address family is tried after this long (RFC 8305 section 8).
const HAPPY_EYEBALLS: Duration = Duration::from_millis(250);

/// A connector whose connections stand within the deadline or not at all.
#[derive(Debug, Clone)]
pub(super) struct DeadlineConnector {
    inner: HttpsConnector<HttpConnector>,
    deadline: Duration,
}

impl DeadlineConnector {
    pub(super) fn new(trust: &Trust, deadline: Duration) -> Self {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(Duration::from_secs(30)));
        tcp.set_keepalive_interval(Some(Duration::from_secs(10)));
        tcp.set_keepalive_retries(Some(3));
        tcp.set_connect_timeout(Some(deadline));
        tcp.set_happy_eyeballs_timeout(Some(HAPPY_EYEBALLS));
        Self { inner: HttpsConnector::from((tcp, trust.tls())), deadline }
    }
}

impl Service<Uri> for DeadlineConnector {
    type Response = MaybeHttpsStream<TokioIo<TcpStream>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let connecting = self.inner.call(target);
        let deadline = self.deadline;
        Box::pin(async move {
            tokio::time::timeout(deadline, connecting).await.unwrap_or_else(|_| {
                let text = format!("no connection within {} s", deadline.as_secs());
                Err(io::Error::new(io::ErrorKind::TimedOut, text).into())
            })
        })
    }
}
