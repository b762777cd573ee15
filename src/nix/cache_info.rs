//! `nix-cache-info`: what a cache says of itself (Nix: `src/libstore/binary-cache-store.cc`). Pure.
//! Unknown lines pass unchanged; a site may answer some fields in its own way.

use super::store_path::{StoreDir, StorePathError};
use std::fmt;

/// Bytes that a `nix-cache-info` may have.
pub const CACHE_INFO_BYTES_MAX: usize = 64 * 1024;

const STORE_DIR: &str = "StoreDir";
const WANT_MASS_QUERY: &str = "WantMassQuery";
const PRIORITY: &str = "Priority";

/// What a cache says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheInfo {
    /// `StoreDir`: the store of the paths that it holds.
    pub store_dir: StoreDir,
    /// `WantMassQuery`: whether clients may ask for many paths that they do not need yet.
    pub wants_mass_query: bool,
    /// `Priority`; the cache with the lowest is asked first.
    pub priority: Option<u32>,
}

/// Fields that a site answers in its own way; `None` leaves them as they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CacheInfoFields {
    /// `StoreDir`.
    pub store_dir: Option<StoreDir>,
    /// `WantMassQuery`.
    pub wants_mass_query: Option<bool>,
    /// `Priority`.
    pub priority: Option<u32>,
}

/// Why bytes are not a `nix-cache-info`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CacheInfoError {
    /// Too large.
    #[error("a nix-cache-info of {found} bytes; at most {CACHE_INFO_BYTES_MAX} are read")]
    TooLarge {
        /// Bytes of the text.
        found: usize,
    },
    /// Not UTF-8.
    #[error("the nix-cache-info is not UTF-8")]
    Utf8,
    /// No line says `StoreDir`: most likely a web page with status 200.
    #[error("no StoreDir line; this is no nix-cache-info")]
    NoStoreDir,
    /// `StoreDir` is no folder.
    #[error("StoreDir: {source}")]
    StoreDir {
        /// What is wrong with it.
        source: StorePathError,
    },
    /// `Priority` is no number.
    #[error("Priority is not a number from 0 to {}", u32::MAX)]
    Priority,
}

impl CacheInfo {
    /// Reads a `nix-cache-info`. The last of several equal keys counts, as in Nix.
    pub fn parse(bytes: &[u8]) -> Result<Self, CacheInfoError> {
        let text = check_text(bytes)?;
        let mut store_dir = None;
        let mut wants_mass_query = false;
        let mut priority = None;
        for (key, value) in text.lines().filter_map(field) {
            match key {
                STORE_DIR => store_dir = Some(value),
                WANT_MASS_QUERY => wants_mass_query = value == "1",
                PRIORITY => {
                    priority = Some(value.parse().map_err(|_| CacheInfoError::Priority)?);
                }
                _ => {}
            }
        }
        let store_dir = StoreDir::new(store_dir.ok_or(CacheInfoError::NoStoreDir)?)
            .map_err(|source| CacheInfoError::StoreDir { source })?;
        Ok(Self { store_dir, wants_mass_query, priority })
    }
}

/// The text, in the order in which Nix writes it.
impl fmt::Display for CacheInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{STORE_DIR}: {}", self.store_dir)?;
        writeln!(f, "{WANT_MASS_QUERY}: {}", u8::from(self.wants_mass_query))?;
        match self.priority {
            Some(priority) => writeln!(f, "{PRIORITY}: {priority}"),
            None => Ok(()),
        }
    }
}

impl CacheInfoFields {
    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// `original` with the overridden fields in place of its own, or at its end if it has none.
    /// Every other line stays byte for byte. `original` must be a `nix-cache-info`.
    pub fn apply(&self, original: &[u8]) -> Result<String, CacheInfoError> {
        CacheInfo::parse(original)?;
        let text = check_text(original)?;
        let mut fields = [
            (STORE_DIR, self.store_dir.as_ref().map(StoreDir::to_string)),
            (WANT_MASS_QUERY, self.wants_mass_query.map(|wants| u8::from(wants).to_string())),
            (PRIORITY, self.priority.map(|priority| priority.to_string())),
        ]
        .map(|(key, value)| value.map(|value| (key, value, FieldPresence::No)));
        let mut changed = String::with_capacity(text.len() + 64);
        for line in text.split_inclusive('\n') {
            let key = field(line).map(|(key, _)| key);
            match fields.iter_mut().flatten().find(|(own, _, _)| Some(*own) == key) {
                None => changed.push_str(line),
                Some((_, _, FieldPresence::Yes)) => {}
                Some((key, value, written)) => {
                    push_field(&mut changed, key, value);
                    *written = FieldPresence::Yes;
                }
            }
        }
        for (key, value, written) in fields.iter().flatten() {
            if *written == FieldPresence::No {
                push_field(&mut changed, key, value);
            }
        }
        Ok(changed)
    }
}

/// Whether an overridden field stands in the text already.
#[derive(Clone, Copy, PartialEq, Eq)]
enum FieldPresence {
    Yes,
    No,
}

fn push_field(text: &mut String, key: &str, value: &str) {
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    for part in [key, ": ", value, "\n"] {
        text.push_str(part);
    }
}

/// Key and trimmed value; `None` for a line without a colon, which Nix passes over.
fn field(line: &str) -> Option<(&str, &str)> {
    line.split_once(':').map(|(key, value)| (key, value.trim()))
}

fn check_text(bytes: &[u8]) -> Result<&str, CacheInfoError> {
    if bytes.len() > CACHE_INFO_BYTES_MAX {
        return Err(CacheInfoError::TooLarge { found: bytes.len() });
    }
    std::str::from_utf8(bytes).map_err(|_| CacheInfoError::Utf8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    /// What cache.nixos.org says.
    const PUBLIC: &str = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n";

    fn priority(priority: u32) -> CacheInfoFields {
        CacheInfoFields { priority: Some(priority), ..CacheInfoFields::default() }
    }

    #[test]
    fn what_caches_write_is_read_and_printed_the_same() {
        let public = CacheInfo::parse(PUBLIC.as_bytes()).unwrap();
        assert_eq!(public.store_dir, StoreDir::default());
        assert!(public.wants_mass_query);
        assert_eq!(public.priority, Some(40));
        assert_eq!(public.to_string(), PUBLIC);
        // Nix writes no more than this into a new cache.
        let new = CacheInfo::parse(b"StoreDir: /srv/store\n").unwrap();
        assert_eq!((new.wants_mass_query, new.priority), (false, None));
    }

    #[test]
    fn unknown_lines_are_no_fault() {
        let text = "# hello\nStoreDir:/nix/store \n\nUpload: yes: 1\nWantMassQuery: true\r\n";
        let info = CacheInfo::parse(text.as_bytes()).unwrap();
        assert_eq!(info.store_dir, StoreDir::default());
        assert!(!info.wants_mass_query);
    }

    #[test]
    fn what_is_no_cache_info_is_named() {
        let parse = |text: &str| CacheInfo::parse(text.as_bytes());
        assert_eq!(parse(""), Err(CacheInfoError::NoStoreDir));
        assert_eq!(parse("<html>\n</html>\n"), Err(CacheInfoError::NoStoreDir));
        assert_eq!(parse(&format!("{PUBLIC}Priority: high\n")), Err(CacheInfoError::Priority));
        assert!(matches!(parse("StoreDir: store\n"), Err(CacheInfoError::StoreDir { .. })));
        assert_eq!(CacheInfo::parse(b"\xff"), Err(CacheInfoError::Utf8));
        let found = CACHE_INFO_BYTES_MAX + 1;
        assert_eq!(parse(&"x".repeat(found)), Err(CacheInfoError::TooLarge { found }));
        assert!(priority(1).apply(b"<html>").is_err());
    }

    #[test]
    fn only_the_overridden_lines_change() {
        let changed = priority(30).apply(PUBLIC.as_bytes()).unwrap();
        assert_eq!(changed, PUBLIC.replace("40", "30"));
        let odd = "X:1\r\nPriority: 5\nStoreDir: /nix/store\nPriority: 6\n odd";
        let changed = priority(30).apply(odd.as_bytes()).unwrap();
        assert_eq!(changed, "X:1\r\nPriority: 30\nStoreDir: /nix/store\n odd");
        let all = CacheInfoFields {
            store_dir: StoreDir::new("/srv/store").ok(),
            wants_mass_query: Some(true),
            priority: Some(1),
        };
        let changed = all.apply(b"StoreDir: /nix/store").unwrap();
        assert_eq!(changed, "StoreDir: /srv/store\nWantMassQuery: 1\nPriority: 1\n");
        assert!(CacheInfoFields::default().is_empty() && !all.is_empty());
        assert_eq!(CacheInfoFields::default().apply(odd.as_bytes()).unwrap(), odd);
        let unended = priority(9).apply(b"StoreDir: /nix/store").unwrap();
        assert_eq!(unended, "StoreDir: /nix/store\nPriority: 9\n");
    }

    proptest! {
        #[test]
        fn overrides_hold_whatever_was_there(
            lines in "((StoreDir|Priority|X|): ?[/a-z0-9]{0,8}\n?){0,6}",
            wanted in any::<u32>(),
        ) {
            let text = format!("StoreDir: /nix/store\n{lines}");
            if CacheInfo::parse(text.as_bytes()).is_ok() {
                let changed = priority(wanted).apply(text.as_bytes()).unwrap();
                let info = CacheInfo::parse(changed.as_bytes()).unwrap();
                assert_eq!(info.priority, Some(wanted));
                let again = priority(wanted).apply(changed.as_bytes()).unwrap();
                assert_eq!(again, changed);
            }
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in any::<Vec<u8>>()) {
            let _ = CacheInfo::parse(&bytes);
            let _ = priority(1).apply(&bytes);
        }

        #[test]
        fn what_is_printed_is_read(wants in any::<bool>(), priority in any::<Option<u32>>()) {
            let store_dir = StoreDir::default();
            let info = CacheInfo { store_dir, wants_mass_query: wants, priority };
            assert_eq!(CacheInfo::parse(info.to_string().as_bytes()), Ok(info));
        }
    }
}
