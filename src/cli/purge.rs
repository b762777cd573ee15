//! `narthex purge`: asks a running edge's admin listener.

use super::arguments::PurgeArgs;
use super::config::report;
use super::output::{EXIT_USAGE, complain, say};
use super::remote::{Remote, RemoteError};
use http::Method;
use serde_json::json;
use std::process::ExitCode;

/// `narthex purge`.
pub(super) fn run(arguments: &PurgeArgs) -> ExitCode {
    let purged = Remote::find(&arguments.remote, arguments.config.config.as_deref())
        .and_then(|edge| edge.ask(Method::POST, "/api/v1/purge", &wish(arguments)));
    match purged {
        Ok(reply) => {
            let is_lasting = is_lasting(&reply);
            say(reply);
            if is_lasting {
                return ExitCode::SUCCESS;
            }
            complain(
                "the purge is not yet safe on a disk: repeat it after a restart or a power cut",
            );
            ExitCode::FAILURE
        }
        Err(RemoteError::Config(error)) => report(&error),
        Err(error) => {
            complain(&error);
            if error.is_usage() { ExitCode::from(EXIT_USAGE) } else { ExitCode::FAILURE }
        }
    }
}

/// Whether the purge outlasts the edge's process, by the edge's answer.
fn is_lasting(reply: &str) -> bool {
    let reply: serde_json::Value = serde_json::from_str(reply).unwrap_or_default();
    reply.get("lasting") != Some(&json!(false))
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
        wish.insert("soft".to_owned(), json!(arguments.soft));
    } else if !arguments.key.is_empty() {
        wish.insert("keys".to_owned(), json!(arguments.key));
        wish.insert("soft".to_owned(), json!(arguments.soft));
    } else {
        wish.insert("paths".to_owned(), json!(arguments.paths));
        wish.insert("soft".to_owned(), json!(arguments.soft));
    }
    serde_json::Value::Object(wish)
}
