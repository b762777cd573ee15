//! The vocabulary for a stored object: its key, its metadata, what is claimed of a NAR.
//! Pure values; never awaits, never reads a clock, never does I/O.

pub mod tags;

pub use tags::{PurgeTags, Tag, TagError};

use crate::clock::Timestamp;
use crate::nix::Class;
use crate::nix::hash::{base16, sha256};
use crate::nix::nar_file::NarContents;
use bytes::BytesMut;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use std::borrow::Borrow;
use std::cell::RefCell;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The identity of an object: site, canonical decoded path, the query if it counts, and the variant
/// if there are several.
///
/// One string: the key space, a NUL, the path with its leading `/`, and, if the query is kept, a
/// NUL and the query. The key space is the site's name and, behind a `#`, its set of origins. A NUL
/// occurs in none of them, so two keys are equal only when all their parts are (a `?` may be part
/// of a decoded path). A variant adds a NUL, `q` or `n` for a key with a query or without one (its
/// part is then empty), and the variant's name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(Arc<str>);

/// The first 16 bytes of SHA-256 of a key: its name on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub [u8; 16]);

/// One insertion of an object into the disk tier. Each disk counts its own: two of them may give
/// different objects the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Insertion {
    /// The position of the disk among those that are configured.
    pub disk: u16,
    /// The number that the disk gave it, which it gives once.
    pub sequence: u64,
}

impl Key {
    /// The key of `path` (canonical, with a leading `/`, never a NUL) in the key space `space`.
    pub fn new(space: &str, path: &str, query: Option<&str>) -> Self {
        match query {
            None => Self(format!("{space}\0{path}").into()),
            Some(query) => Self(format!("{space}\0{path}\0{query}").into()),
        }
    }

    /// Calls `with` with the text of the key of `path` without a query, as [`Key::new`] makes it,
    /// in memory that the thread uses again. `with` never makes another key's text.
    pub fn with_text<T>(space: &str, path: &str, with: impl FnOnce(&str) -> T) -> T {
        thread_local! {
            static TEXT: RefCell<String> = const { RefCell::new(String::new()) };
        }
        TEXT.with_borrow_mut(|text| {
            text.clear();
            text.push_str(space);
            text.push('\0');
            text.push_str(path);
            with(text)
        })
    }

    /// The key of one variant of the object that this is the key of.
    pub fn variant(&self, variant: &Variant) -> Self {
        let (path, name) = (self.path(), variant.name());
        match self.query() {
            Some(query) => Self(format!("{}\0{path}\0{query}\0q{name}", self.space()).into()),
            None => Self(format!("{}\0{path}\0\0n{name}", self.space()).into()),
        }
    }

    /// The key without its variant: what a purge names.
    pub fn primary(&self) -> Self {
        if !self.is_variant() {
            return self.clone();
        }
        Self::new(self.space(), self.path(), self.query())
    }

    /// Whether this is the key of one variant.
    pub fn is_variant(&self) -> bool {
        self.0.split('\0').nth(3).is_some()
    }

    /// A key read back from disk; `None` if it has no NUL and so was never a key.
    pub fn from_stored(text: &str) -> Option<Self> {
        text.contains('\0').then(|| Self(text.into()))
    }

    /// The whole key, as stored.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key space.
    pub fn space(&self) -> &str {
        self.0.split('\0').next().unwrap_or("")
    }

    /// The site's name.
    pub fn site(&self) -> &str {
        self.space().split('#').next().unwrap_or("")
    }

    /// The path, without the query.
    pub fn path(&self) -> &str {
        self.0.split('\0').nth(1).unwrap_or("")
    }

    /// The query, if it counts.
    pub fn query(&self) -> Option<&str> {
        let mut parts = self.0.split('\0').skip(2);
        let query = parts.next();
        query.filter(|_| parts.next().is_none_or(|variant| variant.starts_with('q')))
    }

    /// The key's name on disk.
    pub fn hash(&self) -> KeyHash {
        KeyHash(sha256(self.0.as_bytes()).first_chunk().copied().unwrap_or_default())
    }
}

/// A key is found by its text: it hashes and compares as that does.
impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base16(&self.0))
    }
}

/// What a response was selected by (RFC 9111 section 4.1): the request fields that its `Vary`
/// names, each with the value that the request had, `None` if it had none. In the order of the
/// names, each once; empty if a response does not vary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Variant(Vec<(HeaderName, Option<HeaderValue>)>);

impl Variant {
    /// A variant by these fields; of several values of a name the first counts.
    pub fn new(fields: impl IntoIterator<Item = (HeaderName, Option<HeaderValue>)>) -> Self {
        let mut fields: Vec<_> = fields.into_iter().collect();
        fields.sort_by(|(one, _), (other, _)| one.as_str().cmp(other.as_str()));
        fields.dedup_by(|(later, _), (first, _)| later == first);
        Self(fields)
    }

    /// The fields and the values that the request had.
    pub fn fields(&self) -> &[(HeaderName, Option<HeaderValue>)] {
        &self.0
    }

    /// Whether the response does not vary.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The variant's name in a key: the head of a SHA-256 of its fields, in base 16.
    pub fn name(&self) -> String {
        let mut text = Vec::new();
        for (name, value) in &self.0 {
            // A value has no control bytes, so no two lists of fields give the same text.
            text.extend_from_slice(name.as_str().as_bytes());
            text.push(u8::from(value.is_some()));
            text.extend_from_slice(value.as_ref().map_or(&[][..], HeaderValue::as_bytes));
            text.push(2);
        }
        base16(sha256(&text).first_chunk::<16>().unwrap_or(&[0; 16]))
    }
}

/// A SHA-256 digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha256(bytes))
    }

    /// The digest that `context` has come to; it must be one of SHA-256.
    pub fn finish(context: aws_lc_rs::digest::Context) -> Self {
        Self(context.finish().as_ref().first_chunk().copied().unwrap_or_default())
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&base16(&self.0))
    }
}

/// How long a response stays fresh, counted from its age zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Lifetime {
    /// Fresh while its age in seconds is below this.
    Seconds(u32),
    /// Never stale: its content is proven by its name or by a verified FileHash.
    Forever,
}

/// What proves that the body is the right one, beyond its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Proof {
    /// Only that it arrived whole.
    Length,
    /// SHA-256 equals the FileHash of the narinfo that names it, or its own name; or the NAR in it
    /// has the NarHash of the narinfo.
    FileHash,
    /// A narinfo that parses; signatures were not required, and it is not known of which origin, as
    /// an older version stored it.
    Parsed,
    /// A narinfo with a signature by a trusted key; it is not known which, as an older version
    /// stored it.
    Signature,
    /// A narinfo with a signature by a key that was trusted for the origin it came from; the mark
    /// tells both.
    SignedBy(u32),
    /// A narinfo that parses, from the origin with this mark, which was not required to sign.
    ParsedFrom(u32),
    /// A narinfo with a store path that follows from its content address.
    ContentAddress,
}

/// A stored response head, and what is known of its body.
#[derive(Debug, Clone)]
pub struct Meta {
    /// What it answers.
    pub key: Key,
    /// The class of the path.
    pub class: Class,
    /// Status of the response: 200, or 404 for a remembered absence.
    pub status: StatusCode,
    /// End-to-end fields as they are sent again; never `Content-Length`, `Age`, `Date`,
    /// `Cache-Status` or a hop-by-hop field.
    pub headers: HeaderMap,
    /// The origin's name.
    pub origin: Arc<str>,
    /// When the request that brought (or last confirmed) it left.
    pub request_time: Timestamp,
    /// When its head arrived, in edge time.
    pub response_time: Timestamp,
    /// Age in seconds at `response_time` (RFC 9111 section 4.2.3, corrected_initial_age).
    pub age_at_response: u32,
    /// How long it stays fresh.
    pub lifetime: Lifetime,
    /// Whether a soft purge has made it stale before its time.
    pub is_invalidated: bool,
    /// What proves the body.
    pub proof: Proof,
    /// What the response was selected by, if its origin says that it varies; then the key is that
    /// of the variant.
    pub variant: Variant,
}

/// How much later than now a response may have come and still count as new: a request judges what
/// it finds by the moment at which it began to look.
const FUTURE_MAX: Duration = Duration::from_secs(5);

/// Whether a response came at a time that is still to come, so that its age is unknown: it was
/// stored by a process with a clock that was ahead.
fn is_from_the_future(response_time: Timestamp, now: Timestamp) -> bool {
    response_time > now.plus(FUTURE_MAX)
}

/// Whether `one` of two responses under one key came later than the `other`, as far as is known at
/// `now`. One from the future came earlier than one that is not: a clock that was ahead once does
/// not make it win for good.
pub fn came_later(one: Timestamp, other: Timestamp, now: Timestamp) -> bool {
    match (is_from_the_future(one, now), is_from_the_future(other, now)) {
        (true, false) => false,
        (false, true) => true,
        (false, false) | (true, true) => one > other,
    }
}

/// What is known of a stored response beside its key, its fields and its body: see [`Meta`].
#[derive(Debug, Clone, Copy)]
pub struct Facts {
    /// The class of the path.
    pub class: Class,
    /// Status of the response.
    pub status: StatusCode,
    /// When the request that brought (or last confirmed) it left.
    pub request_time: Timestamp,
    /// When its head arrived.
    pub response_time: Timestamp,
    /// Age in seconds at `response_time`.
    pub age_at_response: u32,
    /// How long it stays fresh.
    pub lifetime: Lifetime,
    /// Whether a soft purge has made it stale before its time.
    pub is_invalidated: bool,
    /// What proves the body.
    pub proof: Proof,
}

impl Facts {
    /// Age in whole seconds at `now` (RFC 9111 section 4.2.3).
    pub fn age_at(&self, now: Timestamp) -> u64 {
        u64::from(self.age_at_response) + now.since(self.response_time).as_secs()
    }

    /// Whether its age is more than [`Facts::age_at`] tells, and unknown: it is stale then, unless
    /// it is fresh for good.
    pub fn has_unknown_age(&self, now: Timestamp) -> bool {
        self.lifetime != Lifetime::Forever && is_from_the_future(self.response_time, now)
    }
}

impl Meta {
    /// What is known beside key, fields and body.
    pub fn facts(&self) -> Facts {
        Facts {
            class: self.class,
            status: self.status,
            request_time: self.request_time,
            response_time: self.response_time,
            age_at_response: self.age_at_response,
            lifetime: self.lifetime,
            is_invalidated: self.is_invalidated,
            proof: self.proof,
        }
    }

    /// The entity tag, as sent.
    pub fn etag(&self) -> Option<&HeaderValue> {
        self.headers.get(http::header::ETAG)
    }

    /// Age in whole seconds at `now` (RFC 9111 section 4.2.3).
    pub fn age_at(&self, now: Timestamp) -> u64 {
        self.facts().age_at(now)
    }
}

/// Puts the values of `headers` in one piece of memory, which they share from then on; those that
/// Narthex itself would send take none. A stored head lives long and is copied for every answer:
/// this way that touches one count instead of one for each field.
pub fn pack(headers: &mut HeaderMap) {
    let own = |value: &HeaderValue| {
        let kinds = Class::ALL.into_iter().map(Class::content_type);
        kinds.into_iter().find(|kind| *kind == value).map(HeaderValue::from_static)
    };
    let length = headers.values().map(HeaderValue::len).sum();
    let mut packed = BytesMut::with_capacity(length);
    let mut ends = Vec::with_capacity(headers.len());
    for value in headers.values() {
        packed.extend_from_slice(value.as_bytes());
        ends.push(packed.len());
    }
    let packed = packed.freeze();
    let mut start = 0;
    for (value, end) in headers.values_mut().zip(ends) {
        if let Some(own) = own(value) {
            *value = own;
        } else if let Ok(shared) = HeaderValue::from_maybe_shared(packed.slice(start..end)) {
            *value = shared;
        }
        start = end;
    }
}

/// What a narinfo says of the file at its `URL`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NarClaim {
    /// `FileHash`, if it is a SHA-256.
    pub file_hash: Option<Sha256>,
    /// `FileSize` in bytes.
    pub file_size: Option<u64>,
    /// The identity of the origin that the narinfo came from: the first to be asked for the file,
    /// and the only one if nothing proves the file. None in what an older version stored; not in
    /// the form that this derives.
    #[serde(skip)]
    pub source: Option<u32>,
    /// What the file holds. As `source`, none in what an older version stored.
    #[serde(skip)]
    pub contents: Option<NarContents>,
}

impl NarClaim {
    /// Whether both say the same of the file, wherever they came from.
    pub fn says_the_same(&self, other: &Self) -> bool {
        let file = |claim: &Self| (claim.file_hash, claim.file_size);
        let is_other_nar = match (self.contents, other.contents) {
            (Some(one), Some(other)) => one != other,
            (Some(_) | None, _) => false,
        };
        file(self) == file(other) && !is_other_nar
    }
}

#[cfg(test)]
impl Meta {
    /// The head of a small narinfo, for tests.
    pub(crate) fn of_a_narinfo(key: &Key) -> Self {
        Self {
            key: key.clone(),
            class: Class::Narinfo,
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            origin: "o".into(),
            request_time: Timestamp::from_secs(0),
            response_time: Timestamp::from_secs(0),
            age_at_response: 0,
            lifetime: Lifetime::Seconds(1),
            is_invalidated: false,
            proof: Proof::Parsed,
            variant: Variant::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FAULTS.md S6.
    #[test]
    fn of_two_copies_one_from_the_future_is_the_older() {
        let (now, at) = (Timestamp::from_secs(10_000), Timestamp::from_secs);
        let is_later = |one, other| came_later(at(one), at(other), now);
        assert!(is_later(9_000, 8_000) && !is_later(8_000, 9_000) && !is_later(9_000, 9_000));
        assert!(is_later(10_005, 9_000), "the clock was looked at before");
        assert!(!is_later(17_200, 9_000) && is_later(9_000, 17_200), "its clock was set back");
        assert!(is_later(17_200, 17_100) && !is_later(17_100, 17_200));
    }

    #[test]
    fn a_key_keeps_its_parts_apart() {
        let key = Key::new("main#12ab", "/nar/a.nar", Some("hash=b"));
        assert_eq!(key.space(), "main#12ab");
        assert_eq!((key.site(), key.path()), ("main", "/nar/a.nar"));
        assert_eq!(key.query(), Some("hash=b"));
        assert_ne!(key, Key::new("main#12ab", "/nar/a.nar?hash=b", None));
        assert_ne!(key, Key::new("mai", "n/nar/a.nar", Some("hash=b")));
        assert_eq!(Key::from_stored(key.as_str()), Some(key));
        assert_eq!(Key::from_stored("no separator"), None);
    }

    #[test]
    fn a_variant_has_a_key_of_its_own_that_leads_back() {
        let field = |name: &'static str, value: Option<&'static str>| {
            (HeaderName::from_static(name), value.map(HeaderValue::from_static))
        };
        let gzip = Variant::new([field("accept-encoding", Some("gzip")), field("accept", None)]);
        let again = Variant::new([field("accept", None), field("accept-encoding", Some("gzip"))]);
        let none = Variant::new([field("accept-encoding", None), field("accept", None)]);
        let empty = Variant::new([field("accept-encoding", Some("")), field("accept", None)]);
        assert_eq!((&gzip, gzip.name()), (&again, again.name()));
        let mut keys = Vec::new();
        for query in [None, Some(""), Some("a=b")] {
            let primary = Key::new("main#1", "/p", query);
            assert!(!primary.is_variant() && primary.primary() == primary);
            for variant in [&gzip, &none, &empty] {
                let key = primary.variant(variant);
                assert!(key.is_variant());
                assert_eq!((key.primary(), key.query()), (primary.clone(), query));
                assert_eq!((key.site(), key.path()), ("main", "/p"));
                assert_eq!(Key::from_stored(key.as_str()).as_ref(), Some(&key));
                keys.push(key);
            }
        }
        keys.sort();
        keys.dedup();
        assert_eq!(keys.len(), 9);
    }

    #[test]
    fn packed_fields_are_the_same_fields() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("content-type", "text/x-nix-narinfo"),
            ("link", "<a>"),
            ("etag", "\"a\""),
            ("link", "<b>"),
            ("x-empty", ""),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let before = headers.clone();
        pack(&mut headers);
        assert_eq!(headers, before);
        pack(&mut HeaderMap::new());
    }

    #[test]
    fn a_key_is_found_by_its_text() {
        let key = Key::new("main#12ab", "/a.narinfo", None);
        assert!(Key::with_text("main#12ab", "/a.narinfo", |text| text == key.as_str()));
        let known = std::collections::HashSet::from([key]);
        assert!(Key::with_text("main#12ab", "/a.narinfo", |text| known.contains(text)));
        assert!(!Key::with_text("main#12ab", "/b.narinfo", |text| known.contains(text)));
    }

    #[test]
    fn a_key_hash_is_the_head_of_sha256() {
        // printf 's\0/p' | sha256sum
        let hash = Key::new("s", "/p", None).hash();
        assert_eq!(hash.to_string(), "1e8fe137a7b092ac700758f7dce0756f");
    }
}
