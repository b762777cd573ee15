//! Asking a running edge's admin listener, for the commands that do so.

use super::arguments::RemoteArgs;
use super::config::{ConfigError, load};
use crate::config::FlagOverrides;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// How long the edge may take.
const DEADLINE: Duration = Duration::from_mins(1);
/// Bytes of its reply that are read.
const REPLY_BYTES_MAX: usize = 4 << 20;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum RemoteError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("{path}: cannot read the admin token: {source}")]
    Token { path: PathBuf, source: std::io::Error },
    #[error("no admin token; name its file with --token-file or [admin] token_file")]
    NoToken,
    #[error("no admin address; name it with --admin or [admin] listen")]
    NoAddress,
    #[error("{address}: no answer from the admin listener; is the edge running? ({detail})")]
    Unreachable { address: SocketAddr, detail: String },
    #[error("{address}: the edge answered {status}: {text}")]
    Refused { address: SocketAddr, status: StatusCode, text: String },
}

impl RemoteError {
    /// Whether the call is wrong, rather than the edge.
    pub(super) fn is_usage(&self) -> bool {
        matches!(self, Self::Config(_) | Self::NoToken | Self::NoAddress)
    }
}

/// A running edge.
#[derive(Debug)]
pub(super) struct Remote {
    address: SocketAddr,
    token: String,
}

impl Remote {
    /// The edge that the flags name, or else the config.
    pub(super) fn find(
        arguments: &RemoteArgs,
        config: Option<&std::path::Path>,
    ) -> Result<Self, RemoteError> {
        let needs_config = arguments.admin.is_none() || arguments.token_file.is_none();
        let admin = if needs_config {
            Some(load(config, FlagOverrides::default())?.config.admin)
        } else {
            None
        };
        let address = arguments.admin.or(admin.as_ref().and_then(|admin| admin.listen));
        let address = address.ok_or(RemoteError::NoAddress)?;
        let path = arguments.token_file.clone().or(admin.and_then(|admin| admin.token_file));
        let path = path.ok_or(RemoteError::NoToken)?;
        let token =
            std::fs::read_to_string(&path).map_err(|source| RemoteError::Token { path, source })?;
        Ok(Self { address, token: token.trim().to_owned() })
    }

    /// The answer of the edge, if that is a success. Blocking.
    pub(super) fn ask(
        &self,
        method: Method,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<String, RemoteError> {
        let address = self.address;
        let unreachable = |detail: String| RemoteError::Unreachable { address, detail };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| unreachable(error.to_string()))?;
        let text = if body.is_null() { String::new() } else { body.to_string() };
        // A timer is made inside the runtime that drives it.
        let asking =
            async { tokio::time::timeout(DEADLINE, self.exchange(method, path, text)).await };
        let asked = runtime.block_on(asking);
        let (status, text) = asked
            .map_err(|_| unreachable(format!("none within {} s", DEADLINE.as_secs())))?
            .map_err(unreachable)?;
        if status.is_success() {
            return Ok(text);
        }
        Err(RemoteError::Refused { address, status, text: text.trim().to_owned() })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<(StatusCode, String), String> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| error.to_string())?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), REPLY_BYTES_MAX).collect().await;
        let body = body.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}
