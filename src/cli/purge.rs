//! `narthex purge`: asks a running edge's admin listener.

use super::config::{load, report};
use super::{EXIT_USAGE, PurgeArgs, complain, say};
use crate::config::Overrides;
use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// How long the edge may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// Bytes of its reply that are read.
const REPLY_BYTES_MAX: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
enum PurgeFailure {
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

/// `narthex purge`.
pub(super) fn run(arguments: &PurgeArgs) -> ExitCode {
    let needs_config = arguments.admin.is_none() || arguments.token_file.is_none();
    let admin = if needs_config {
        match load(arguments.config.config.as_deref(), Overrides::default()) {
            Ok(loaded) => Some(loaded.config.admin),
            Err(error) => return report(&error),
        }
    } else {
        None
    };
    let address = arguments.admin.or(admin.as_ref().and_then(|admin| admin.listen));
    let token_file = arguments.token_file.clone().or(admin.and_then(|admin| admin.token_file));
    match purge(arguments, address, token_file) {
        Ok(reply) => {
            say(reply);
            ExitCode::SUCCESS
        }
        Err(error @ (PurgeFailure::NoToken | PurgeFailure::NoAddress)) => {
            complain(error);
            ExitCode::from(EXIT_USAGE)
        }
        Err(error) => {
            complain(error);
            ExitCode::FAILURE
        }
    }
}

fn purge(
    arguments: &PurgeArgs,
    address: Option<SocketAddr>,
    token_file: Option<PathBuf>,
) -> Result<String, PurgeFailure> {
    let address = address.ok_or(PurgeFailure::NoAddress)?;
    let path = token_file.ok_or(PurgeFailure::NoToken)?;
    let token =
        std::fs::read_to_string(&path).map_err(|source| PurgeFailure::Token { path, source })?;
    let wish = wish(arguments).to_string();
    let unreachable = |detail: String| PurgeFailure::Unreachable { address, detail };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| unreachable(error.to_string()))?;
    // A timer is made inside the runtime that drives it.
    let asking = async { tokio::time::timeout(DEADLINE, ask(address, &token, wish)).await };
    let asked = runtime.block_on(asking);
    let (status, text) = asked
        .map_err(|_| unreachable(format!("none within {} s", DEADLINE.as_secs())))?
        .map_err(unreachable)?;
    if status.is_success() {
        return Ok(text);
    }
    Err(PurgeFailure::Refused { address, status, text: text.trim().to_owned() })
}

fn wish(arguments: &PurgeArgs) -> serde_json::Value {
    let mut wish = serde_json::Map::new();
    if let Some(site) = &arguments.site {
        wish.insert("site".to_owned(), json!(site));
    }
    if arguments.all {
        wish.insert("all".to_owned(), json!(true));
    } else if let Some(prefix) = &arguments.prefix {
        wish.insert("prefix".to_owned(), json!(prefix));
    } else {
        wish.insert("paths".to_owned(), json!(arguments.paths));
        wish.insert("soft".to_owned(), json!(arguments.soft));
    }
    serde_json::Value::Object(wish)
}

async fn ask(
    address: SocketAddr,
    token: &str,
    wish: String,
) -> Result<(StatusCode, String), String> {
    let request = Request::post(format!("http://{address}/api/v1/purge"))
        .header(header::AUTHORIZATION, format!("Bearer {}", token.trim()))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(wish)))
        .map_err(|error| error.to_string())?;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    let body = Limited::new(response.into_body(), REPLY_BYTES_MAX).collect().await;
    let body = body.map_err(|error| error.to_string())?.to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}
