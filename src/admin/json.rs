//! JSON bodies of requests. Pure.

use serde::de::{DeserializeOwned, Error as _};

/// Reads a JSON object. serde takes an array too, by the position of its fields, which this
/// interface promises nothing of.
pub(super) fn object<T: DeserializeOwned>(body: &[u8]) -> Result<T, serde_json::Error> {
    if !body.trim_ascii_start().starts_with(b"{") {
        return Err(serde_json::Error::custom("the body is no JSON object"));
    }
    serde_json::from_slice(body)
}
