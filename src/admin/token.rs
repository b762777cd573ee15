//! The bearer token of purges and upload notices: read from its file for every request, so a
//! changed file counts at once; compared in constant time. A request without a token is no guess:
//! a page in a browser can send those. A mutex held for one look-up, never across an await.
//!
//! Wrong tokens are counted by address. Beyond the limit, tokens of that address are compared one
//! after another in the order of their arrival, [`TURN`] each. None is refused without a
//! comparison, so a program that guesses behind the same proxy locks no operator out. A turn is
//! short: a right token waits for as many as the listener has connections, which takes no
//! noticeable time. It is long enough to bound how many tokens are compared in a second, however
//! many connections guess.

use crate::sync::Mutex;
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq;
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex as AsyncMutex;

/// Bytes of a token file that are read.
const TOKEN_BYTES_MAX: u64 = 4096;
/// Wrong tokens that an address may send within [`WINDOW`].
const GUESSES_MAX: u32 = 10;
/// See [`GUESSES_MAX`].
const WINDOW: Duration = Duration::from_mins(1);
/// How long the comparison of a token takes after its address sent too many wrong ones.
const TURN: Duration = Duration::from_millis(1);
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
    /// Held while a token is compared after its address sent too many wrong ones; first come, first
    /// served.
    turn: AsyncMutex<()>,
}

impl Tokens {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self { file, guesses: Mutex::default(), turn: AsyncMutex::default() }
    }

    /// Whether a request from `address` with this `Authorization` may purge and tell of uploads.
    pub(super) async fn check(
        &self,
        address: IpAddr,
        authorization: Option<&[u8]>,
    ) -> Result<(), AuthError> {
        let Some(file) = &self.file else { return Err(AuthError::Off) };
        let token = read(file).await.map_err(|source| AuthError::File { source })?;
        let given = authorization.and_then(bearer).ok_or(AuthError::Wrong)?;
        let address = address.to_canonical();
        if self.guesses.lock().is_beyond(address, Instant::now()) {
            let _turn = self.turn.lock().await;
            tokio::time::sleep(TURN).await;
        }
        // Of unequal lengths only that they differ shows.
        if bool::from(given.ct_eq(token.trim_ascii())) {
            return Ok(());
        }
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
    /// Whether an address has sent as many wrong tokens as it may.
    fn is_beyond(&self, address: IpAddr, now: Instant) -> bool {
        self.by_address.get(&address).is_some_and(|&(count, since)| {
            count >= GUESSES_MAX && now.saturating_duration_since(since) < WINDOW
        })
    }

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

    fn tokens() -> (tempfile::NamedTempFile, Tokens) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "right\n").unwrap();
        let tokens = Tokens::new(Some(file.path().to_owned()));
        (file, tokens)
    }

    const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    /// FAULTS.md F7a.
    #[tokio::test]
    async fn a_request_without_a_token_is_no_guess() {
        let (_file, tokens) = tokens();
        for _ in 0..3 * GUESSES_MAX {
            let refused = tokens.check(PEER, None).await;
            assert!(matches!(refused, Err(AuthError::Wrong)), "{refused:?}");
        }
        assert!(!tokens.guesses.lock().is_beyond(PEER, Instant::now()));
        tokens.check(PEER, Some(b"Bearer right")).await.unwrap();
    }

    /// FAULTS.md F15c, HOSTILE.md 35: as many guesses at once as the listener has connections.
    #[tokio::test(start_paused = true)]
    async fn guesses_at_once_are_compared_in_turn_and_hold_up_no_right_token() {
        const CONNECTIONS: u32 = 64;
        let (_file, tokens) = tokens();
        for _ in 0..GUESSES_MAX {
            tokens.check(PEER, Some(b"Bearer wrong")).await.unwrap_err();
        }
        let began = tokio::time::Instant::now();
        let wrong = (1..CONNECTIONS).map(|_| tokens.check(PEER, Some(b"Bearer wrong")));
        let wrong = futures_util::future::join_all(wrong);
        let right = tokens.check(PEER, Some(b"Bearer right"));
        let (guessed, last) = tokio::join!(biased; wrong, right);
        last.unwrap();
        assert!(guessed.iter().all(|guess| matches!(guess, Err(AuthError::TooMany))));
        assert_eq!(tokens.guesses.lock().by_address[&PEER].0, GUESSES_MAX + CONNECTIONS - 1);
        let waited = began.elapsed();
        assert!(waited >= TURN * CONNECTIONS, "{waited:?}");
        assert!(waited < Duration::from_millis(500), "{waited:?}");
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
