//! A small object as a hit needs it: one piece of memory with its key, the values of its fields and
//! its body, and beside it the few numbers that decide whether it may be used. Shared by the
//! requests that send it; no locks but the one of the lists of names, taken when an object becomes
//! hot.

use crate::object::tags::{self, TAG_FIELD};
use crate::object::{Facts, Insertion, Key, Meta, PurgeTags, Variant};
use crate::policy;
use crate::sync::StaticMutex;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// Lists of names that are kept to be shared: an origin gives most of its objects the same fields.
const LISTS_MAX: usize = 64;

/// Bytes that a count and a pointer take beside what the allocator adds to a piece of memory.
const PIECE_OVERHEAD: usize = 32;

static LISTS: StaticMutex<Vec<Arc<[HeaderName]>>> = StaticMutex::new(Vec::new());

/// A small object, whole, or a remembered absence with an empty body.
#[derive(Debug)]
pub struct Hot {
    /// What is known of it.
    pub facts: Facts,
    /// The origin's name.
    pub origin: Arc<str>,
    /// The key, the fields as lines of HTTP/1.1 and the body, one behind the other.
    text: Bytes,
    key_end: u32,
    body_start: u32,
    has_date: bool,
    names: Arc<[HeaderName]>,
    /// Slices of the text, but for what Narthex itself would send.
    values: Box<[HeaderValue]>,
    rare: Option<Box<RareFields>>,
    /// Its number among the publications.
    order: u64,
    copy_of: Option<DiskCopy>,
}

/// What few objects have.
#[derive(Debug)]
struct RareFields {
    variant: Variant,
    /// The lines of the field of tags, which no client is sent: so they are not among the fields.
    tags: Vec<HeaderValue>,
}

impl RareFields {
    fn of(meta: &Meta) -> Option<Box<Self>> {
        let tags: Vec<_> = tags::lines(&meta.headers).collect();
        if tags.is_empty() && meta.variant.is_empty() {
            return None;
        }
        let owned = |line: &[u8]| HeaderValue::from_bytes(line).ok();
        let tags = tags.into_iter().filter_map(owned).collect();
        Some(Box::new(Self { variant: meta.variant.clone(), tags }))
    }

    fn bytes(&self) -> usize {
        let fields = self.variant.fields().iter();
        let varies: usize = fields
            .map(|(name, value)| {
                size_of::<(HeaderName, Option<HeaderValue>)>()
                    + name.as_str().len()
                    + value.as_ref().map_or(0, HeaderValue::len)
            })
            .sum();
        let tags: usize = self
            .tags
            .iter()
            .map(|line| size_of::<HeaderValue>() + PIECE_OVERHEAD + line.len())
            .sum();
        size_of::<Self>() + PIECE_OVERHEAD + varies + tags
    }
}

/// The disk that a hot object is a copy from, and when its use was last noted there.
#[derive(Debug)]
struct DiskCopy {
    disk: u16,
    noted: AtomicU32,
}

impl Hot {
    /// An object that is not published.
    pub fn new(meta: &Meta, body: &[u8]) -> Self {
        Self::published(meta, body, 0)
    }

    /// An object that is nowhere else, with its number among the publications. That of an absence
    /// is the one that the next publication had when the fetch began that says so.
    pub fn published(meta: &Meta, body: &[u8], order: u64) -> Self {
        Self::of(meta, body, order, None)
    }

    /// A copy of an insertion on disk.
    pub fn copy_of(meta: &Meta, body: &[u8], insertion: Insertion) -> Self {
        Self::of(meta, body, insertion.sequence, Some(insertion.disk))
    }

    /// The same publication with another head.
    #[must_use]
    pub fn with_meta(&self, meta: &Meta) -> Self {
        let disk = self.copy_of.as_ref().map(|copy_of| copy_of.disk);
        Self::of(meta, self.body_bytes(), self.order, disk)
    }

    fn of(meta: &Meta, body: &[u8], order: u64, disk: Option<u16>) -> Self {
        let key = meta.key.as_str().as_bytes();
        let own = meta.class.content_type();
        let mut text = Vec::with_capacity(key.len() + lines_bytes(&meta.headers, own) + body.len());
        text.extend_from_slice(key);
        let mut places = Vec::with_capacity(meta.headers.len());
        for (name, value) in sent(&meta.headers) {
            if !policy::head::is_objects(name) {
                places.push(None);
                continue;
            }
            policy::head::write_field(&mut text, name.as_str(), value.as_bytes());
            let end = text.len() - policy::head::LINE_END.len();
            places.push((value != own).then(|| end - value.len()..end));
        }
        if !meta.headers.contains_key(header::CONTENT_TYPE) {
            policy::head::write_field(&mut text, header::CONTENT_TYPE.as_str(), own.as_bytes());
        }
        let body_start = text.len();
        text.extend_from_slice(body);
        let text = Bytes::from(text);
        let values = sent(&meta.headers).zip(places).map(|((_, value), place)| {
            let slice = place.map(|place| HeaderValue::from_maybe_shared(text.slice(place)));
            match slice {
                Some(Ok(shared)) => shared,
                Some(Err(_)) | None if value == own => HeaderValue::from_static(own),
                Some(Err(_)) | None => value.clone(),
            }
        });
        let values = values.collect();
        debug_assert!(key.len() <= body_start && body_start <= text.len(), "the parts of the text");
        let noted = AtomicU32::new(u32::MAX);
        Self {
            facts: meta.facts(),
            origin: Arc::clone(&meta.origin),
            text,
            key_end: place(key.len()),
            body_start: place(body_start),
            has_date: meta.headers.contains_key(header::DATE),
            names: names_of(&meta.headers),
            values,
            rare: RareFields::of(meta),
            order,
            copy_of: disk.map(|disk| DiskCopy { disk, noted }),
        }
    }

    /// Whether `key` is the text of its key.
    pub fn is(&self, key: &str) -> bool {
        self.key_text() == key.as_bytes()
    }

    /// Its key; `None` never, since it was made of one.
    pub fn key(&self) -> Option<Key> {
        Key::from_stored(self.key_str())
    }

    /// The text of its key.
    pub(super) fn key_str(&self) -> &str {
        std::str::from_utf8(self.key_text()).unwrap_or_default()
    }

    fn key_text(&self) -> &[u8] {
        self.text.get(..self.key_end as usize).unwrap_or_default()
    }

    /// Its fields but for its tags. The values share the object's memory.
    pub fn fields(&self) -> impl Iterator<Item = (&HeaderName, HeaderValue)> {
        self.names.iter().zip(self.values.iter().cloned())
    }

    /// Its fields as lines of HTTP/1.1, those of them that an answer has from the object, and a
    /// `Content-Type` in any case.
    pub fn lines(&self) -> &[u8] {
        self.text.get(self.key_end as usize..self.body_start as usize).unwrap_or_default()
    }

    /// Whether it has a `Date`.
    pub const fn has_date(&self) -> bool {
        self.has_date
    }

    /// Its fields but for its tags, as a map.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(self.names.len());
        for (name, value) in self.fields() {
            headers.append(name, value);
        }
        headers
    }

    /// Its body.
    pub fn body(&self) -> Bytes {
        self.text.slice((self.body_start as usize).min(self.text.len())..)
    }

    /// Its body, to be looked at.
    pub fn body_bytes(&self) -> &[u8] {
        self.text.get(self.body_start as usize..).unwrap_or_default()
    }

    /// Bytes of its body.
    pub fn length(&self) -> u64 {
        self.text.len().saturating_sub(self.body_start as usize) as u64
    }

    /// Its head, made anew.
    pub fn meta(&self) -> Meta {
        let Facts {
            class,
            status,
            request_time,
            response_time,
            age_at_response,
            lifetime,
            is_invalidated,
            proof,
        } = self.facts;
        let mut headers = self.headers();
        for line in self.rare.iter().flat_map(|rare| &rare.tags) {
            headers.append(TAG_FIELD, line.clone());
        }
        Meta {
            key: self.key().unwrap_or_else(|| Key::new("", "", None)),
            class,
            status,
            headers,
            origin: Arc::clone(&self.origin),
            request_time,
            response_time,
            age_at_response,
            lifetime,
            is_invalidated,
            proof,
            variant: self.rare.as_ref().map(|rare| rare.variant.clone()).unwrap_or_default(),
        }
    }

    /// Whether a purge of `site` by `tags` means it.
    pub fn is_tagged(&self, site: &str, tags: &PurgeTags) -> bool {
        let Some(rare) = &self.rare else { return false };
        tags.covers(rare.tags.iter().map(HeaderValue::as_bytes))
            && self.key().is_some_and(|key| key.site() == site)
    }

    /// Whether it is one variant of an object.
    pub fn is_variant(&self) -> bool {
        let varies = self.rare.as_ref().is_some_and(|rare| !rare.variant.is_empty());
        varies || self.key().is_some_and(|key| key.is_variant())
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> usize {
        let rare = self.rare.as_ref().map_or(0, |rare| rare.bytes());
        let values = size_of_val::<[HeaderValue]>(&self.values);
        size_of::<Self>() + 3 * PIECE_OVERHEAD + self.text.len() + values + rare
    }

    /// Its number among the publications.
    pub const fn order(&self) -> u64 {
        self.order
    }

    /// Calls `note` with the insertion on disk, if its use has not been noted in this epoch; once
    /// `note` says that it has noted it, not again in this epoch. Otherwise reads one atomic
    /// number.
    pub fn note_use(&self, epoch: u32, note: impl FnOnce(Insertion) -> bool) {
        let Some(copy_of) = &self.copy_of else { return };
        let insertion = Insertion { disk: copy_of.disk, sequence: self.order };
        // Two at once may both note it: no harm.
        if copy_of.noted.load(Ordering::Relaxed) != epoch && note(insertion) {
            copy_of.noted.store(epoch, Ordering::Relaxed);
        }
    }
}

/// A place in the text of an object, which is far below 4 GiB long.
fn place(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

/// Bytes that the lines of an object with `fields` take, which [`Hot::copy_of`] writes.
fn lines_bytes(fields: &HeaderMap, content_type: &str) -> usize {
    let line = |name: &HeaderName, bytes: usize| {
        name.as_str().len() + policy::head::NAME_END.len() + bytes + policy::head::LINE_END.len()
    };
    let own = sent(fields).filter(|(name, _)| policy::head::is_objects(name));
    let own: usize = own.map(|(name, value)| line(name, value.len())).sum();
    let has_content_type = fields.contains_key(header::CONTENT_TYPE);
    own + if has_content_type { 0 } else { line(&header::CONTENT_TYPE, content_type.len()) }
}

/// The fields that clients are sent.
fn sent(fields: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
    fields.iter().filter(|(name, _)| **name != TAG_FIELD)
}

/// The names of those of `fields` that are sent, one for each value, shared by all heads that have
/// the same ones.
fn names_of(fields: &HeaderMap) -> Arc<[HeaderName]> {
    let mut lists = LISTS.lock();
    let names = || sent(fields).map(|(name, _)| name);
    let is_same = |list: &&Arc<[HeaderName]>| list.iter().eq(names());
    if let Some(list) = lists.iter().find(is_same) {
        return Arc::clone(list);
    }
    let list: Arc<[HeaderName]> = names().map(owned).collect();
    if lists.len() >= LISTS_MAX {
        lists.retain(|list| Arc::strong_count(list) > 1);
    }
    if lists.len() < LISTS_MAX {
        lists.push(Arc::clone(&list));
    }
    list
}

/// The same name in memory of its own: that of an origin's answer is a slice of what was read.
fn owned(name: &HeaderName) -> HeaderName {
    HeaderName::from_bytes(name.as_str().as_bytes()).unwrap_or_else(|_| name.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tests::meta;
    use crate::nix::Class;
    use crate::object::{Tag, Variant};
    use crate::policy::head::AnswerSource;
    use crate::rfc::CacheStatus;
    use std::time::Duration;

    fn fields(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for &(name, value) in lines {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn what_went_in_comes_out() {
        let lists = [
            &[("content-type", "text/x-nix-narinfo"), ("etag", "\"a\""), ("x-empty", "")][..],
            &[("link", "<a>"), ("etag", "\"a\""), ("link", "<b>"), ("content-type", "x")],
            &[],
        ];
        for (lines, body) in lists.into_iter().zip([&b"body"[..], b"", b"other"]) {
            let mut meta = Meta::clone(&meta("/a"));
            meta.headers = fields(lines);
            meta.variant = Variant::new([(header::ACCEPT, Some(HeaderValue::from_static("x")))]);
            let hot = Hot::new(&meta, body);
            assert_eq!(format!("{:?}", hot.meta()), format!("{meta:?}"));
            assert_eq!((hot.body().as_ref(), hot.length()), (body, body.len() as u64));
            assert!(hot.is(meta.key.as_str()) && !hot.is("s\0/b"));
            assert!(hot.bytes() > body.len());
        }
    }

    /// Field by field what the answer of a hit has elsewhere, whatever an object was stored with.
    #[test]
    fn the_lines_say_what_the_fields_say() {
        let status = CacheStatus::hit().with_ttl(7);
        for stored in [
            &[("etag", "\"a\""), ("link", "<a>"), ("link", "<b>"), ("x-empty", "")][..],
            &[("content-type", "text/x-own"), ("date", "Sun, 06 Nov 1994 08:49:37 GMT")],
            &[("content-type", Class::Narinfo.content_type()), ("content-length", "4")],
            &[("age", "5"), ("accept-ranges", "none"), ("cache-status", "origin; hit")],
            &[("access-control-allow-origin", "x"), ("access-control-expose-headers", "y")],
            &[],
        ] {
            let meta = Meta { headers: fields(stored), ..Meta::clone(&meta("/a")) };
            let hot = Hot::new(&meta, b"body");
            assert_eq!(hot.has_date(), meta.headers.contains_key("date"));
            assert_eq!(hot.headers(), meta.headers);
            assert_eq!(hot.body_bytes(), b"body");
            let length = hot.key_end as usize + hot.lines().len() + 4;
            assert_eq!(hot.text.len(), length);
            let now = meta.response_time.plus(Duration::from_secs(12_345));
            let mut lines = hot.lines().to_vec();
            policy::head::write_added(&mut lines, &hot.facts, now, &status);
            let mut written = HeaderMap::new();
            let text = String::from_utf8(lines).unwrap();
            for line in text.strip_suffix("\r\n").unwrap().split("\r\n") {
                let (name, value) = line.split_once(": ").unwrap();
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                written.append(name, HeaderValue::from_str(value).unwrap());
            }
            let (none, value) = (HeaderMap::new(), status.to_header_value());
            let source = AnswerSource::Stored;
            let mut head =
                policy::head::client_head(none, hot.fields(), &hot.facts, now, source, value);
            // The sender of the body states its length.
            head.remove(header::CONTENT_LENGTH);
            assert_eq!(written, head, "{stored:?}");
        }
    }

    #[test]
    fn tags_are_kept_apart_from_what_is_sent() {
        let lines = [("etag", "\"a\""), ("surrogate-key", "x y"), ("surrogate-key", "z")];
        let meta = Meta { headers: fields(&lines), ..Meta::clone(&meta("/a")) };
        let tags = |name| PurgeTags::new([Tag::parse(name).unwrap()]);
        let hot = Hot::new(&meta, b"body");
        assert_eq!(hot.headers(), fields(&lines[..1]));
        assert_eq!(hot.meta().headers, fields(&lines));
        assert_eq!(hot.body(), "body");
        for (site, name, expected) in [("s", "x", true), ("s", "z", true), ("t", "x", false)] {
            assert_eq!(hot.is_tagged(site, &tags(name)), expected, "{site} {name}");
        }
        let plain = Hot::new(&Meta { headers: fields(&lines[..1]), ..meta }, b"body");
        assert!(!plain.is_tagged("s", &tags("x")));
        assert!(hot.bytes() > plain.bytes() + 4);
    }

    #[test]
    fn objects_with_the_same_fields_share_their_names() {
        let with =
            |lines| Hot::new(&Meta { headers: fields(lines), ..Meta::clone(&meta("/a")) }, b"");
        let (one, other) = (with(&[("x-shared", "1")]), with(&[("x-shared", "2")]));
        assert!(Arc::ptr_eq(&one.names, &other.names));
        assert!(!Arc::ptr_eq(&one.names, &with(&[("x-other", "1")]).names));
    }

    #[test]
    fn a_use_is_noted_once_in_an_epoch() {
        let alone = Hot::new(&meta("/a"), b"");
        alone.note_use(0, |_| panic!("it is nowhere else"));
        let copy = Hot::copy_of(&meta("/a"), b"", Insertion { disk: 1, sequence: 7 });
        let mut noted = Vec::new();
        for (epoch, is_noted) in [(0, false), (0, true), (0, true), (1, true), (1, true)] {
            copy.note_use(epoch, |insertion| {
                noted.push((epoch, insertion.sequence, is_noted));
                is_noted
            });
        }
        assert_eq!(noted, [(0, 7, false), (0, 7, true), (1, 7, true)]);
    }
}
