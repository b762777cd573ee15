//! Tags: the names that an origin gives its responses in `Surrogate-Key`, by which they are purged
//! together. Pure. The field is stored with the others and sent to no client; memory and the index
//! of the disk tier find objects by it, purges name one.
//!
//! An object is found by [`TAGS_MAX`] tags of at most [`TAG_BYTES_MAX`] bytes. One that has more of
//! them, or a longer one, goes with every tag of its site: what cannot be looked for is never left
//! behind by a purge that means it.

use super::KeyHash;
use crate::nix::hash::sha256;
use http::{HeaderMap, HeaderName};
use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// The field of a response that lists its tags, which white space or commas part.
pub const TAG_FIELD: HeaderName = HeaderName::from_static("surrogate-key");
/// Tags by which one object is found.
pub const TAGS_MAX: usize = 128;
/// Bytes of a tag.
pub const TAG_BYTES_MAX: usize = 1_024;

/// A tag as a purge names it: not empty, not too long, and with nothing in it that would part it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(Arc<str>);

/// Why a text is no tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// It is empty.
    #[error("is empty; write one name of a Surrogate-Key field")]
    Empty,
    /// It is longer than a tag may be.
    #[error("has {bytes} bytes; a surrogate key has at most {TAG_BYTES_MAX}")]
    TooLong {
        /// Its bytes.
        bytes: usize,
    },
    /// It would be several, or could stand in no field.
    #[error("has white space, a comma or a control character in it; name each key by itself")]
    Parted,
}

impl Tag {
    /// The tag that is written so.
    pub fn parse(text: &str) -> Result<Self, TagError> {
        if text.is_empty() {
            return Err(TagError::Empty);
        }
        if text.len() > TAG_BYTES_MAX {
            return Err(TagError::TooLong { bytes: text.len() });
        }
        if text.bytes().any(|byte| is_separator(byte) || byte.is_ascii_control()) {
            return Err(TagError::Parted);
        }
        Ok(Self(text.into()))
    }

    /// It, as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The tags that one purge names; one object may have several of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PurgeTags(Arc<[Tag]>);

impl PurgeTags {
    /// These.
    pub fn new(tags: impl IntoIterator<Item = Tag>) -> Self {
        Self(tags.into_iter().collect())
    }

    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = &Tag> {
        self.0.iter()
    }

    /// Whether a purge by them means an object with these lines of [`TAG_FIELD`].
    pub fn covers<'a>(&self, lines: impl Iterator<Item = &'a [u8]>) -> bool {
        let is_meant = |name: &[u8]| self.iter().any(|tag| tag.as_str().as_bytes() == name);
        names(lines).enumerate().any(|(at, name)| is_unfindable(at, name) || is_meant(name))
    }

    /// Whether a purge by them means an object with these fields.
    pub fn covers_fields(&self, fields: &HeaderMap) -> bool {
        self.covers(lines(fields))
    }

    /// What the index finds the objects of a site by that they mean.
    pub fn hashes(&self, site: &str) -> Vec<TagHash> {
        let own = self.iter().map(|tag| tag.as_str().as_bytes());
        own.chain([UNFINDABLE]).map(|tag| TagHash::of(site, tag)).collect()
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A tag of one site: the first 16 bytes of a SHA-256 of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TagHash(pub [u8; 16]);

/// The tag of what has more or longer tags than are looked for; no origin can say it.
const UNFINDABLE: &[u8] = b"";

impl TagHash {
    fn of(site: &str, tag: &[u8]) -> Self {
        // No name of a site has a NUL in it.
        let KeyHash(hash) = KeyHash::of_bytes(&[site.as_bytes(), b"\0", tag].concat());
        Self(hash)
    }
}

/// What the index is to find an object of `site` by that has these lines of [`TAG_FIELD`]: at most
/// one more than [`TAGS_MAX`].
pub fn hashes<'a>(
    site: &str,
    lines: impl Iterator<Item = &'a [u8]>,
) -> impl Iterator<Item = TagHash> {
    let mut found = BTreeSet::new();
    for (at, name) in names(lines).enumerate() {
        if at == TAGS_MAX {
            found.insert(UNFINDABLE);
            break;
        }
        found.insert(if is_unfindable(at, name) { UNFINDABLE } else { name });
    }
    found.into_iter().map(move |name| TagHash::of(site, name))
}

/// The lines of [`TAG_FIELD`] among these fields.
pub fn lines(fields: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    fields.get_all(TAG_FIELD).iter().map(http::HeaderValue::as_bytes)
}

fn names<'a>(lines: impl Iterator<Item = &'a [u8]>) -> impl Iterator<Item = &'a [u8]> {
    lines.flat_map(|line| line.split(|byte| is_separator(*byte))).filter(|name| !name.is_empty())
}

fn is_separator(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b',')
}

fn is_unfindable(at: usize, name: &[u8]) -> bool {
    at >= TAGS_MAX || name.len() > TAG_BYTES_MAX
}

impl KeyHash {
    fn of_bytes(bytes: &[u8]) -> Self {
        Self(sha256(bytes).first_chunk().copied().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::proptest;

    fn tag(text: &str) -> Tag {
        Tag::parse(text).unwrap()
    }

    fn covers(lines: &[&str], name: &str) -> bool {
        PurgeTags::new([tag(name)]).covers(lines.iter().map(|line| line.as_bytes()))
    }

    fn found(site: &str, lines: &[&str], name: &str) -> bool {
        let rows: Vec<_> = hashes(site, lines.iter().map(|line| line.as_bytes())).collect();
        PurgeTags::new([tag(name)]).hashes("main").iter().any(|hash| rows.contains(hash))
    }

    #[test]
    fn several_tags_stand_in_a_line_and_in_several() {
        for lines in [&["a b"][..], &["a", "b"], &["\ta ,b,"], &["c", "", "  b a"]] {
            for name in ["a", "b"] {
                assert!(covers(lines, name) && found("main", lines, name), "{lines:?} {name}");
                assert!(!found("other", lines, name), "of another site");
            }
            for name in ["A", "ab", "bb", "d"] {
                assert!(!covers(lines, name) && !found("main", lines, name), "{lines:?} {name}");
            }
        }
        assert!(!covers(&[], "a") && !covers(&[" , "], "a"));
        assert_eq!(hashes("main", std::iter::once(&b"a a,a"[..])).count(), 1);
    }

    #[test]
    fn what_cannot_be_looked_for_goes_with_every_tag() {
        let names: Vec<String> = (0..=TAGS_MAX).map(|number| format!("n{number}")).collect();
        let (most, too_many) = (names[..TAGS_MAX].join(" "), names.join(" "));
        assert!(covers(&[&most], "n127") && found("main", &[&most], "n127"));
        assert!(!covers(&[&most], "x") && !found("main", &[&most], "x"));
        assert!(covers(&[&too_many], "x") && found("main", &[&too_many], "x"));
        assert!(covers(&[&too_many], "n128") && found("main", &[&too_many], "n128"));
        assert_eq!(hashes("main", std::iter::once(too_many.as_bytes())).count(), TAGS_MAX + 1);
        let (longest, too_long) = ("l".repeat(TAG_BYTES_MAX), "l".repeat(TAG_BYTES_MAX + 1));
        assert!(covers(&[&longest], &longest) && !covers(&[&longest], "x"));
        assert!(covers(&["a", &too_long], "x") && found("main", &["a", &too_long], "x"));
    }

    #[test]
    fn what_is_no_tag_says_why() {
        for (text, error) in [
            ("", TagError::Empty),
            ("a b", TagError::Parted),
            ("a,b", TagError::Parted),
            ("a\tb", TagError::Parted),
            ("a\nb", TagError::Parted),
            (&"l".repeat(1_025), TagError::TooLong { bytes: 1_025 }),
        ] {
            assert_eq!(Tag::parse(text), Err(error), "{text:?}");
        }
        assert_eq!(tag("a/b:c").to_string(), "a/b:c");
    }

    proptest! {
        /// Memory compares, the index looks up by hashes: they mean the same objects.
        #[test]
        fn what_covers_is_found(
            lines in proptest::collection::vec("[ab, ]{0,8}", 0..3),
            name in "[ab]{1,3}",
        ) {
            let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
            assert_eq!(covers(&lines, &name), found("main", &lines, &name));
        }
    }
}
