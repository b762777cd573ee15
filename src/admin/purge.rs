//! What a purge request says. Pure; the assembly gives the handler that carries it out.

use super::json;
use crate::object::{Tag, TagError};
use futures_util::future::BoxFuture;
use serde::Deserialize;
use std::sync::Arc;

/// Carries out a purge. If its client leaves, the future is dropped: a handler that spawns the work
/// completes the purge all the same.
pub type PurgeHandler =
    Arc<dyn Fn(PurgeRequest) -> BoxFuture<'static, Result<PurgeReply, PurgeError>> + Send + Sync>;

/// What to purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeRequest {
    /// The site's name; `None` for every site.
    pub site: Option<String>,
    /// Which of its objects.
    pub scope: PurgeScope,
    /// How.
    pub mode: PurgeMode,
}

/// Which objects to purge. Paths are as the client wrote them, with a leading `/`, not decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PurgeScope {
    /// These; never empty.
    Paths(Vec<String>),
    /// All objects with a path that begins with this text.
    Prefix(String),
    /// All that have one of these tags in `Surrogate-Key`; never empty.
    Keys(Vec<Tag>),
    /// All.
    All,
}

/// How to purge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PurgeMode {
    /// Remove the objects.
    Hard,
    /// Make them stale: they are confirmed before they are served again.
    Soft,
}

/// What a purge did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PurgeReply {
    /// Objects that were stored and are no more, or are stale now.
    pub purged: u64,
    /// Whether it outlasts the process and a power cut. If not, no disk has taken or noted it yet.
    pub is_lasting: bool,
}

/// Why a purge was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// No site has that name.
    #[error("no site is named {name:?}; the names are in the config")]
    UnknownSite {
        /// The name.
        name: String,
    },
    /// What was asked makes no sense to the handler.
    #[error("{detail}")]
    Invalid {
        /// What was wrong, and what to write instead.
        detail: String,
    },
    /// Not all tiers could be purged.
    #[error("the purge failed: {detail}")]
    Failed {
        /// What went wrong.
        detail: String,
    },
}

/// The JSON body.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct PurgeBody {
    site: Option<String>,
    path: Option<String>,
    paths: Option<Vec<String>>,
    prefix: Option<String>,
    key: Option<String>,
    keys: Option<Vec<String>>,
    all: Option<bool>,
    soft: bool,
}

/// Why a body is no purge request.
#[derive(Debug, thiserror::Error)]
pub(super) enum PurgeBodyError {
    /// Not JSON, or with unknown fields.
    #[error("not a purge request: {0}")]
    Json(#[from] serde_json::Error),
    /// No scope, or several.
    #[error(
        "give exactly one of \"path\", \"paths\", \"prefix\", \"key\", \"keys\" and \"all\": true"
    )]
    Scope,
    /// A path that cannot be one.
    #[error("{path:?} is no path: it must begin with /")]
    Path {
        /// The path.
        path: String,
    },
    /// A surrogate key that cannot be one.
    #[error("the key {key:?} {error}")]
    Key {
        /// The key, or its beginning.
        key: String,
        /// What is wrong.
        error: TagError,
    },
    /// More surrogate keys than one request may name.
    #[error("names {number} keys; at most {KEYS_MAX} in one request: send several")]
    TooManyKeys {
        /// How many.
        number: usize,
    },
}

/// Surrogate keys that one request may name.
const KEYS_MAX: usize = 256;
/// Characters of a wrong key that are told.
const TOLD_MAX: usize = 100;

/// Reads a JSON body.
pub(super) fn parse(body: &[u8]) -> Result<PurgeRequest, PurgeBodyError> {
    let PurgeBody { site, path, paths, prefix, key, keys, all, soft } = json::object(body)?;
    let paths = one_or_more(path, paths)?;
    let keys = one_or_more(key, keys)?;
    let scope = match (paths, prefix, keys, all) {
        (Some(paths), None, None, None) => PurgeScope::Paths(paths),
        (None, Some(prefix), None, None) => PurgeScope::Prefix(prefix),
        (None, None, Some(keys), None) => PurgeScope::Keys(tags(&keys)?),
        (None, None, None, Some(true)) => PurgeScope::All,
        _ => return Err(PurgeBodyError::Scope),
    };
    let wrong = match &scope {
        PurgeScope::Paths(paths) => paths.iter().find(|path| !path.starts_with('/')),
        PurgeScope::Prefix(prefix) => Some(prefix).filter(|prefix| !prefix.starts_with('/')),
        PurgeScope::Keys(_) | PurgeScope::All => None,
    };
    if let Some(path) = wrong {
        return Err(PurgeBodyError::Path { path: path.clone() });
    }
    let mode = if soft { PurgeMode::Soft } else { PurgeMode::Hard };
    Ok(PurgeRequest { site, scope, mode })
}

/// What was named by itself or in a list; none if neither was.
fn one_or_more(
    one: Option<String>,
    list: Option<Vec<String>>,
) -> Result<Option<Vec<String>>, PurgeBodyError> {
    match (one, list) {
        (Some(one), None) => Ok(Some(vec![one])),
        (None, Some(list)) if !list.is_empty() => Ok(Some(list)),
        (None, None) => Ok(None),
        (Some(_) | None, Some(_)) => Err(PurgeBodyError::Scope),
    }
}

fn tags(keys: &[String]) -> Result<Vec<Tag>, PurgeBodyError> {
    if keys.len() > KEYS_MAX {
        return Err(PurgeBodyError::TooManyKeys { number: keys.len() });
    }
    let wrong =
        |key: &str, error| PurgeBodyError::Key { key: key.chars().take(TOLD_MAX).collect(), error };
    keys.iter().map(|key| Tag::parse(key).map_err(|error| wrong(key, error))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{ProptestConfig, any, proptest};

    fn request(scope: PurgeScope) -> PurgeRequest {
        PurgeRequest { site: None, scope, mode: PurgeMode::Hard }
    }

    #[test]
    fn every_scope_parses() {
        let paths = |paths: &[&str]| {
            request(PurgeScope::Paths(paths.iter().map(|&path| path.to_owned()).collect()))
        };
        let keys = |keys: &[&str]| {
            let keys = keys.iter().map(|key| Tag::parse(key).unwrap());
            request(PurgeScope::Keys(keys.collect()))
        };
        for (body, expected) in [
            (r#"{"path":"/a"}"#, paths(&["/a"])),
            (r#"{"paths":["/a","/b"]}"#, paths(&["/a", "/b"])),
            (r#"{"prefix":"/nar/"}"#, request(PurgeScope::Prefix("/nar/".to_owned()))),
            (r#"{"key":"a"}"#, keys(&["a"])),
            (r#"{"keys":["a","b/c"]}"#, keys(&["a", "b/c"])),
            (r#"{"all":true}"#, request(PurgeScope::All)),
            (
                r#"{"all":true,"soft":true,"site":"main"}"#,
                PurgeRequest {
                    site: Some("main".to_owned()),
                    scope: PurgeScope::All,
                    mode: PurgeMode::Soft,
                },
            ),
        ] {
            assert_eq!(parse(body.as_bytes()).unwrap(), expected, "{body}");
        }
    }

    #[test]
    fn everything_else_says_what_is_wrong() {
        for (body, word) in [
            ("", "JSON object"),
            ("{}", "exactly one"),
            (r#"{"paths":[]}"#, "exactly one"),
            (r#"{"all":false}"#, "exactly one"),
            (r#"{"path":"/a","all":true}"#, "exactly one"),
            (r#"{"path":"a"}"#, "\"a\""),
            (r#"{"prefix":"nar/"}"#, "\"nar/\""),
            (r#"{"path":"/a","sofft":true}"#, "`sofft`"),
            (r#"{"path":1}"#, "string"),
            (r#"{"path":"/a","paths":["/b"]}"#, "exactly one"),
            (r#"{"path":"/a","key":"b"}"#, "exactly one"),
            (r#"{"keys":[]}"#, "exactly one"),
            (r#"{"key":""}"#, "is empty"),
            (r#"{"key":"a b"}"#, "each key by itself"),
            (&format!(r#"{{"key":"{}"}}"#, "l".repeat(1_025)), "at most 1024"),
            (&format!(r#"{{"keys":["a"{}]}}"#, r#","a""#.repeat(256)), "at most 256"),
        ] {
            let text = parse(body.as_bytes()).unwrap_err().to_string();
            assert!(text.contains(word), "{body}: {text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        #[test]
        fn no_body_panics(body in any::<Vec<u8>>()) {
            let _ = parse(&body);
        }
    }
}
