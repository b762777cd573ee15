//! The bearer token of purges and upload notices: read from its file for every request, so a
//! changed file counts at once; compared in constant time. A right token is taken whatever came
//! from its address before, so a program that guesses behind the same proxy locks no operator out.
//! Wrong tokens are counted by address; beyond the limit the answer says so. A mutex held for one
//! look-up, never across an await.

use crate::sync::Mutex;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;
use tokio::io::AsyncReadExt;

/// Bytes of a token file that are read.
const TOKEN_BYTES_MAX: u64 = 4096;
/// Wrong tokens that an address may send within [`WINDOW`].
const GUESSES_MAX: u32 = 10;
/// See [`GUESSES_MAX`].
const WINDOW: Duration = Duration::from_mins(1);
/// Addresses remembered for their guesses; beyond, the oldest are forgotten with all others.
const ADDRESSES_MAX: usize = 1024;

/// Why a request may not purge, nor tell of uploads.
#[derive(Debug, thiserror::Error)]
pub(super) enum AuthError {
    /// No token file is configured.
    #[error(
        "purges and upload notices are off; set admin.token_file to a file with a token, and reload"
    )]
    Off,
    /// The token file cannot be read, or is empty.
    #[error("the token file cannot be used: {source}; write one line with a token into it")]
    File {
        /// What the system said.
        source: io::Error,
    },
    /// No token, or a wrong one.
    #[error("send the token of admin.token_file as \"Authorization: Bearer TOKEN\"")]
    Wrong,
    /// Too many wrong tokens from this address.
    #[error("too many wrong tokens from this address; wait a minute")]
    TooMany,
}

/// The token and the guesses.
#[derive(Debug)]
pub(super) struct Tokens {
    file: Option<PathBuf>,
    guesses: Mutex<Guesses>,
}

impl Tokens {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self { file, guesses: Mutex::default() }
    }

    /// Whether a request from `address` with this `Authorization` may purge and tell of uploads.
    pub(super) async fn check(
        &self,
        address: IpAddr,
        authorization: Option<&[u8]>,
    ) -> Result<(), AuthError> {
        let Some(file) = &self.file else { return Err(AuthError::Off) };
        let token = read(file).await.map_err(|source| AuthError::File { source })?;
        let given = authorization.and_then(bearer).unwrap_or_default();
        // Of unequal lengths only that they differ shows.
        if bool::from(given.ct_eq(token.trim_ascii())) {
            return Ok(());
        }
        let address = address.to_canonical();
        let is_within = self.guesses.lock().count(address, Instant::now());
        Err(if is_within { AuthError::Wrong } else { AuthError::TooMany })
    }
}

async fn read(file: &PathBuf) -> io::Result<Vec<u8>> {
    let mut token = Vec::new();
    let opened = tokio::fs::File::open(file).await?;
    opened.take(TOKEN_BYTES_MAX).read_to_end(&mut token).await?;
    if token.trim_ascii().is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty"));
    }
    Ok(token)
}

/// The token of `Bearer TOKEN` (RFC 6750 section 2.1); the scheme in any case.
fn bearer(authorization: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = authorization.split_at_checked(6)?;
    let is_bearer = scheme.eq_ignore_ascii_case(b"bearer") && token.starts_with(b" ");
    is_bearer.then(|| token.trim_ascii())
}

/// Wrong tokens by address, in windows that begin with the first.
#[derive(Debug, Default)]
struct Guesses {
    by_address: HashMap<IpAddr, (u32, Instant)>,
}

impl Guesses {
    /// Counts a wrong token; whether the address is still within its limit.
    fn count(&mut self, address: IpAddr, now: Instant) -> bool {
        let is_old = |since: Instant| now.saturating_duration_since(since) >= WINDOW;
        if self.by_address.len() >= ADDRESSES_MAX {
            self.by_address.retain(|_, &mut (_, since)| !is_old(since));
            if self.by_address.len() >= ADDRESSES_MAX {
                self.by_address.clear();
            }
        }
        let (count, since) = self.by_address.entry(address).or_insert((0, now));
        if is_old(*since) {
            (*count, *since) = (0, now);
        }
        *count = count.saturating_add(1);
        *count <= GUESSES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bearer_takes_the_scheme_in_any_case() {
        assert_eq!(bearer(b"Bearer abc"), Some(&b"abc"[..]));
        assert_eq!(bearer(b"bearer  abc "), Some(&b"abc"[..]));
        for other in [&b"Basic abc"[..], b"Bearerabc", b"Bear", b""] {
            assert_eq!(bearer(other), None);
        }
    }

    #[test]
    fn guesses_are_limited_by_address_for_a_minute() {
        let (one, two) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let now = Instant::now();
        let mut guesses = Guesses::default();
        for _ in 0..GUESSES_MAX {
            assert!(guesses.count(one, now));
        }
        assert!(!guesses.count(one, now));
        assert!(guesses.count(two, now));
        assert!(guesses.count(one, now + WINDOW));
    }

    #[test]
    fn the_memory_of_guesses_is_bounded() {
        let now = Instant::now();
        let mut guesses = Guesses::default();
        for number in 0..10_000_u32 {
            guesses.count(IpAddr::from(number.to_be_bytes()), now);
            assert!(guesses.by_address.len() <= ADDRESSES_MAX);
        }
    }
}
