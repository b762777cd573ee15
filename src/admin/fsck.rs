//! What a request for a check of the disk tier says. Pure; the assembly gives the handler.

use super::json;
use crate::store::{CheckReport, Mode};
use serde::Deserialize;
use serde::de::Error as _;
use std::sync::Arc;

/// Begins a check, or says what the one that goes on has found; must not block.
pub type FsckHandler = Arc<dyn Fn(FsckRequest) -> Result<CheckReport, FsckRefusal> + Send + Sync>;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FsckRequest {
    /// To begin.
    Begin {
        /// Whether it repairs.
        mode: Mode,
        /// Bytes a second, [`RATE_MIN`] or more; by default the scrubber's.
        rate: Option<u64>,
    },
    /// What was found so far, or the last time.
    Look,
    /// To end the one that goes on, and what it found.
    End,
}

/// Why no check begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FsckRefusal {
    /// One goes on.
    #[error("a check goes on; GET /api/v1/fsck shows how far it is")]
    Busy,
    /// There is nothing to check.
    #[error("there is no disk tier")]
    NoDisk,
}

/// The least rate: a check that never ends is in the way of every later one.
const RATE_MIN: u64 = 64 << 10;

/// The JSON body.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FsckBody {
    repair: bool,
    rate: Option<u64>,
}

/// Reads a JSON body; none is a check without repair.
pub(super) fn parse(body: &[u8]) -> Result<FsckRequest, serde_json::Error> {
    let body: FsckBody = if body.is_empty() { FsckBody::default() } else { json::object(body)? };
    if body.rate.is_some_and(|rate| rate < RATE_MIN) {
        let text =
            format!("\"rate\" is at least {RATE_MIN} bytes a second; leave it out, or DELETE");
        return Err(serde_json::Error::custom(text));
    }
    let mode = if body.repair { Mode::Repair } else { Mode::Report };
    Ok(FsckRequest::Begin { mode, rate: body.rate })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_says_whether_to_repair() {
        let begin = |mode, rate| FsckRequest::Begin { mode, rate };
        assert_eq!(parse(b"").unwrap(), begin(Mode::Report, None));
        assert_eq!(parse(b"{}").unwrap(), begin(Mode::Report, None));
        let body = br#"{"repair": true, "rate": 65536}"#;
        assert_eq!(parse(body).unwrap(), begin(Mode::Repair, Some(65_536)));
        for wrong in [&b"nonsense"[..], br#"{"repari": true}"#, br#"{"rate": -1}"#, b"[true]"] {
            assert!(parse(wrong).is_err());
        }
    }

    /// FAULTS.md F12a: such a check ran for ever, and no other could begin.
    #[test]
    fn a_check_that_never_ends_is_refused() {
        for rate in [0, 1, RATE_MIN - 1] {
            let error = parse(format!("{{\"rate\": {rate}}}").as_bytes()).unwrap_err().to_string();
            assert!(error.contains("at least 65536"), "{error}");
        }
    }
}
