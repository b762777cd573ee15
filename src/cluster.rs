//! The name of this instance among the points of presence that ask each other. Made once at start;
//! never changes; no locks. Its name goes into `CDN-Loop` (RFC 8586) and the logs.

use std::fmt;
use std::sync::Arc;

/// The longest name that is kept.
const NAME_BYTES_MAX: usize = 64;

/// The name of this instance: a token (RFC 9110 section 5.6.2), never empty.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InstanceName(Arc<str>);

/// The system gave no random bytes for an instance's name.
#[derive(Debug, thiserror::Error)]
#[error("no random bytes for the instance's name (set `server.name`): {0}")]
pub struct NameError(#[from] getrandom::Error);

impl InstanceName {
    /// The configured name (`server.name`). If that is empty: the host's name with a random suffix,
    /// so that two cloned machines have different names.
    ///
    /// Characters that a token may not hold become `-`; names are cut at 64 bytes.
    pub fn new(configured: &str) -> Result<Self, NameError> {
        if !configured.is_empty() {
            return Ok(Self(token(configured).into()));
        }
        let host = rustix::system::uname();
        let host = host.nodename().to_string_lossy();
        let host = if host.is_empty() { "narthex".into() } else { host };
        let mut name = token(&host);
        name.truncate(NAME_BYTES_MAX - "-01234567".len());
        Ok(Self(format!("{name}-{:08x}", getrandom::u32()?).into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// ASCII only, so that it may be cut at any byte.
fn token(name: &str) -> String {
    let fit =
        |c: char| if c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c) { c } else { '-' };
    name.chars().take(NAME_BYTES_MAX).map(fit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_name_stays_and_is_made_a_token() {
        assert_eq!(InstanceName::new("fra-1.example").unwrap().as_str(), "fra-1.example");
        assert_eq!(InstanceName::new("a b,c;\u{e4}\"").unwrap().as_str(), "a-b-c---");
        assert_eq!(InstanceName::new(&"x".repeat(900)).unwrap().as_str().len(), NAME_BYTES_MAX);
    }

    #[test]
    fn two_unnamed_instances_on_one_host_differ() {
        let one = InstanceName::new("").unwrap();
        let other = InstanceName::new("").unwrap();
        assert_ne!(one, other);
        assert!(one.as_str().len() <= NAME_BYTES_MAX);
    }
}
