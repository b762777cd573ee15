//! The fields that clients are sent. Pure. The engine asks once an answer.

use super::request::ALLOWED_METHODS;
use crate::clock::Timestamp;
use crate::object::Facts;
use crate::rfc::cache_status::{CACHE_STATUS, CacheStatus};
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Fields that every answer gets beside those of the object.
const ADDED: usize = 5;

/// The source of the answer to a request, which decides on `Age`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerSource {
    /// It was stored before the request came, or fetched for another one: `Age` is always sent.
    Stored,
    /// It was fetched for this request: `Age` is sent only if it is above zero: a cache on the way
    /// had the response, or it was seconds on its way.
    Fetched,
}

/// Makes `head` the fields of an answer at `now`: those of the object, given in `fields`, `Age`,
/// `Accept-Ranges: bytes`, CORS for all sites, and the given `Cache-Status`. If its origin said no
/// `Content-Type` (a folder never does), the class's own.
///
/// The length, and `Content-Range` for a part, are the caller's to add; so is the status. What was
/// in `head` goes and only its memory is used again: a hit takes the request's fields for it.
pub fn client_head<'a>(
    mut head: HeaderMap,
    fields: impl Iterator<Item = (&'a HeaderName, HeaderValue)>,
    facts: &Facts,
    now: Timestamp,
    source: AnswerSource,
    cache_status: HeaderValue,
) -> HeaderMap {
    head.clear();
    head.reserve(fields.size_hint().1.unwrap_or_default() + ADDED + 2);
    for (name, value) in fields {
        head.append(name, value);
    }
    if !head.contains_key(header::CONTENT_TYPE) {
        let own = HeaderValue::from_static(facts.class.content_type());
        head.insert(header::CONTENT_TYPE, own);
    }
    if source == AnswerSource::Stored || facts.age_at_response > 0 {
        head.insert(header::AGE, age(facts.age_at(now)));
    }
    add_own(&mut head, cache_status);
    head
}

/// Whether [`client_head`] takes a stored field as it is: what Narthex says itself takes the place
/// of what an origin said.
pub fn is_objects(name: &HeaderName) -> bool {
    const REPLACED: [HeaderName; 6] = [
        header::CONTENT_LENGTH,
        header::AGE,
        header::ACCEPT_RANGES,
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        CACHE_STATUS,
    ];
    !REPLACED.contains(name)
}

/// Writes what [`client_head`] adds to the fields of an object that was [`AnswerSource::Stored`],
/// as lines of HTTP/1.1 behind `lines`: its own fields are those that [`is_objects`] names, and a
/// `Content-Type`.
pub fn write_added(
    lines: &mut Vec<u8>,
    facts: &Facts,
    now: Timestamp,
    cache_status: &CacheStatus<'_>,
) {
    write_field(lines, "age", itoa::Buffer::new().format(facts.age_at(now)).as_bytes());
    lines.extend_from_slice(OWN_LINES);
    cache_status.with_text(|text| write_field(lines, "cache-status", text.as_bytes()));
}

/// What [`add_own`] adds but for `Cache-Status`, as lines.
const OWN_LINES: &[u8] = b"accept-ranges: bytes\r\naccess-control-allow-origin: *\r\n\
    access-control-expose-headers: *\r\n";

/// What stands between a name and its value in a line of HTTP/1.1.
pub const NAME_END: &[u8] = b": ";

/// What ends a line of HTTP/1.1.
pub const LINE_END: &[u8] = b"\r\n";

/// Writes one field as a line of HTTP/1.1.
pub fn write_field(lines: &mut Vec<u8>, name: &str, value: &[u8]) {
    lines.extend_from_slice(name.as_bytes());
    lines.extend_from_slice(NAME_END);
    lines.extend_from_slice(value);
    lines.extend_from_slice(LINE_END);
}

/// `HeaderValue::from` would allocate room for the largest number, and a count beside it.
fn age(seconds: u64) -> HeaderValue {
    HeaderValue::from_str(itoa::Buffer::new().format(seconds))
        .unwrap_or_else(|_| HeaderValue::from(seconds))
}

/// The fields of an answer that Narthex gives itself: a refusal, a fault, a landing page.
pub fn own_head(cache_status: HeaderValue) -> HeaderMap {
    let mut head = HeaderMap::with_capacity(ADDED + 3);
    add_own(&mut head, cache_status);
    head
}

/// The fields of the 204 that answers OPTIONS: reads are allowed from any site, for a day.
pub fn preflight(cache_status: HeaderValue) -> HeaderMap {
    let mut head = own_head(cache_status);
    head.insert(header::ALLOW, HeaderValue::from_static(ALLOWED_METHODS));
    let allowed = HeaderValue::from_static(ALLOWED_METHODS);
    head.insert(header::ACCESS_CONTROL_ALLOW_METHODS, allowed);
    head.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*"));
    head.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    head
}

/// Leaves out of `head` what a 304 does not carry (RFC 9110 section 15.4.5): the fields that
/// describe a body.
pub fn trim_for_not_modified(head: &mut HeaderMap) {
    for name in [
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_LANGUAGE,
        header::CONTENT_LENGTH,
        header::CONTENT_DISPOSITION,
    ] {
        head.remove(name);
    }
}

fn add_own(head: &mut HeaderMap, cache_status: HeaderValue) {
    const ANY: HeaderValue = HeaderValue::from_static("*");
    head.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    head.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, ANY);
    head.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, ANY);
    head.insert(CACHE_STATUS, cache_status);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::object::Meta;
    use crate::policy::testing::{fields, meta};
    use std::time::Duration;

    fn head(meta: &Meta, now: Timestamp, source: AnswerSource) -> HeaderMap {
        let fields = meta.headers.iter().map(|(name, value)| (name, value.clone()));
        client_head(HeaderMap::new(), fields, &meta.facts(), now, source, HIT)
    }

    const HIT: HeaderValue = HeaderValue::from_static("narthex; hit");

    #[test]
    fn an_answer_has_the_objects_fields_and_ours() {
        let mut meta = meta(&[("etag", "\"a\""), ("link", "<a>"), ("link", "<b>")]);
        meta.age_at_response = 7;
        let now = meta.response_time.plus(Duration::from_millis(3_900));
        let expected = fields(&[
            ("etag", "\"a\""),
            ("link", "<a>"),
            ("link", "<b>"),
            ("content-type", meta.class.content_type()),
            ("age", "10"),
            ("accept-ranges", "bytes"),
            ("access-control-allow-origin", "*"),
            ("access-control-expose-headers", "*"),
            ("cache-status", "narthex; hit"),
        ]);
        assert_eq!(head(&meta, now, AnswerSource::Stored), expected);
        assert_eq!(head(&meta, now, AnswerSource::Fetched), expected);
    }

    #[test]
    fn a_content_type_that_the_origin_says_stays() {
        let meta = meta(&[("content-type", "text/x-own")]);
        let head = head(&meta, meta.response_time, AnswerSource::Stored);
        assert_eq!(head.get(header::CONTENT_TYPE).unwrap(), "text/x-own");
    }

    #[test]
    fn what_was_just_fetched_has_no_age() {
        let meta = meta(&[]);
        let head = |source| head(&meta, meta.response_time, source);
        assert_eq!(head(AnswerSource::Stored).get(header::AGE).unwrap(), "0");
        assert_eq!(head(AnswerSource::Fetched).get(header::AGE), None);
    }

    #[test]
    fn a_304_describes_no_body() {
        let mut head =
            fields(&[("etag", "\"a\""), ("content-type", "x"), ("content-encoding", "br")]);
        trim_for_not_modified(&mut head);
        assert_eq!(head, fields(&[("etag", "\"a\"")]));
    }

    #[test]
    fn a_preflight_allows_reads_to_everybody() {
        let head = preflight(HIT);
        assert_eq!(head.get("access-control-allow-origin").unwrap(), "*");
        assert_eq!(head.get("access-control-allow-methods").unwrap(), "GET, HEAD, OPTIONS");
        assert_eq!(head.get("cache-status").unwrap(), "narthex; hit");
    }
}
