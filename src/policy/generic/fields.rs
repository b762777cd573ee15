//! Which fields of a generic site's messages are stored, sent on, and put in place of stored ones
//! (RFC 9111 sections 3.1 and 3.2). Pure.

use super::Directives;
use crate::config::Caching;
use crate::object;
use crate::object::tags::TAG_FIELD;
use crate::policy::fields::of_one_client;
use crate::policy::response::Times;
use crate::rfc::cache_control::QualifiedFields;
use crate::rfc::date::HttpDate;
use crate::rfc::grammar;
use crate::rfc::hop_by_hop;
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// `Surrogate-Control`: for this cache alone.
pub const SURROGATE_CONTROL: HeaderName = HeaderName::from_static("surrogate-control");

/// Puts in the `Date` of its arrival if a response has none, or one that cannot be read (RFC
/// 9110 section 6.6.1).
pub fn dated(headers: &mut HeaderMap, times: Times) {
    let has_date = headers.get(header::DATE).is_some_and(|date| HttpDate::parse(date).is_some());
    if !has_date {
        let arrived = HttpDate::from_secs(times.response.wall.millis().div_euclid(1_000));
        headers.insert(header::DATE, arrived.to_header_value());
    }
}

/// The fields of an answer, divided by which clients may get them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Divided {
    /// Those of the stored response.
    pub shared: HeaderMap,
    /// Those of the client alone that caused the answer: cookies, what belongs to its credentials,
    /// and what `private` and `no-cache` name.
    pub own: HeaderMap,
}

impl Divided {
    /// Divides the fields of an answer. Those of its connection, and those that this cache states
    /// itself, are in neither part.
    pub fn of(answer: &HeaderMap, directives: &Directives) -> Self {
        let mut shared = answer.clone();
        hop_by_hop::remove(&mut shared);
        for name in [header::AGE, header::CONTENT_LENGTH] {
            shared.remove(name);
        }
        shared.remove("cache-status");
        let mut own = HeaderMap::new();
        let mut take = |name: &HeaderName| {
            for value in shared.get_all(name) {
                own.append(name, value.clone());
            }
            shared.remove(name);
        };
        of_one_client().for_each(|name| take(&name));
        for qualified in [&directives.no_cache, &directives.private] {
            if let QualifiedFields::Fields(names) = qualified {
                names.iter().for_each(&mut take);
            }
        }
        object::pack(&mut shared);
        Self { shared, own }
    }
}

/// The stored fields, each that the 304 has replaced by what it says there (RFC 9111 section 3.2);
/// not divided yet.
///
/// Those that describe the stored bytes stay: a 304 has none of its own.
pub fn merged(stored: &HeaderMap, confirming: &HeaderMap) -> HeaderMap {
    let mut fresh = confirming.clone();
    hop_by_hop::remove(&mut fresh);
    let mut merged = stored.clone();
    for name in fresh.keys() {
        if !describes_bytes(name) {
            merged.remove(name);
        }
    }
    for (name, value) in &fresh {
        if !describes_bytes(name) {
            merged.append(name, value.clone());
        }
    }
    merged
}

fn describes_bytes(name: &HeaderName) -> bool {
    *name == header::CONTENT_ENCODING
        || *name == header::CONTENT_TYPE
        || *name == header::CONTENT_LENGTH
        || *name == header::CONTENT_RANGE
        || *name == header::ETAG
}

/// Takes out what is for this cache alone, before a response goes to a client.
pub fn strip_for_client(headers: &mut HeaderMap) {
    headers.remove(SURROGATE_CONTROL);
    headers.remove(TAG_FIELD);
}

/// Takes out of an answer what the site says no answer has, and gives it what each has.
pub fn dress(answer: &mut HeaderMap, caching: &Caching) {
    for name in &caching.remove_headers {
        answer.remove(name);
    }
    for (name, value) in &caching.set_headers {
        answer.insert(name, value.clone());
    }
}

/// Fields of a request by which applications behind caches let themselves be told another host,
/// scheme, path or method than the one that was asked for, or another client. They go to no
/// origin: a client can forge them.
const OVERRIDING: [&str; 23] = [
    "cf-connecting-ip",
    "fastly-client-ip",
    "forwarded",
    "front-end-https",
    "true-client-ip",
    "x-client-ip",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-host",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
    "x-original-host",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
    "x-url-scheme",
];

/// Fields of a request that go to the origin although its answer may be stored and no key has them:
/// what RFCs and browsers define, by which no application is known to answer without `Vary`.
const HARMLESS: [&str; 48] = [
    "a-im",
    "authorization",
    "available-dictionary",
    "baggage",
    "cache-control",
    "content-encoding",
    "content-language",
    "content-type",
    "cookie",
    "date",
    "depth",
    "device-memory",
    "dictionary-id",
    "dnt",
    "downlink",
    "dpr",
    "ect",
    "from",
    "git-protocol",
    "if",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-event-id",
    "max-forwards",
    "origin",
    "pragma",
    "prefer",
    "priority",
    "purpose",
    "range",
    "referer",
    "rtt",
    "save-data",
    "service-worker",
    "traceparent",
    "tracestate",
    "upgrade-insecure-requests",
    "user-agent",
    "via",
    "viewport-width",
    "want-content-digest",
    "want-digest",
    "want-repr-digest",
    "width",
    "x-request-id",
];

/// Families of such fields.
const HARMLESS_FAMILIES: [&str; 3] = ["accept", "access-control-request-", "sec-"];

/// What becomes of the answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerUse {
    /// It may be stored.
    MayBeStored,
    /// It goes to its client alone.
    PassedOn,
}

/// The fields of a client's request that go to the origin: not those of its connection. If the
/// answer may be stored, only those that cannot make it another one for other clients, and the
/// `further` ones; else all but those that tell of another request than this one.
pub fn forwarded(client: &HeaderMap, fate: AnswerUse, further: &[HeaderName]) -> HeaderMap {
    let mut fields = client.clone();
    hop_by_hop::remove(&mut fields);
    for name in [header::HOST, header::CONTENT_LENGTH, header::EXPECT] {
        fields.remove(name);
    }
    fields.remove("cdn-loop");
    for name in OVERRIDING {
        fields.remove(name);
    }
    if fate == AnswerUse::MayBeStored {
        let goes = |name: &HeaderName| is_harmless(name.as_str()) || further.contains(name);
        let others: Vec<HeaderName> = fields.keys().filter(|name| !goes(name)).cloned().collect();
        for name in others {
            fields.remove(name);
        }
    }
    join_cookies(&mut fields);
    fields
}

/// Whether a request that is passed on tells the origin more than one with a storable answer.
pub fn has_unkeyed(client: &HeaderMap, further: &[HeaderName]) -> bool {
    forwarded(client, AnswerUse::PassedOn, further)
        != forwarded(client, AnswerUse::MayBeStored, further)
}

fn is_harmless(name: &str) -> bool {
    HARMLESS.contains(&name) || HARMLESS_FAMILIES.iter().any(|family| name.starts_with(family))
}

/// Whether a request's body is coded for its transfer beyond its chunks: that is taken off nowhere.
pub fn has_further_coding(request: &HeaderMap) -> bool {
    let mut codings = request.get_all(header::TRANSFER_ENCODING).iter();
    codings.any(|line| {
        let mut members = grammar::list_members(line.as_bytes());
        members.any(|coding| !coding.eq_ignore_ascii_case(b"chunked"))
    })
}

/// Makes one field of the lines that HTTP/2 splits cookies into (RFC 9113 section 8.2.3).
fn join_cookies(fields: &mut HeaderMap) {
    let lines: Vec<&[u8]> =
        fields.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if lines.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&lines.join(&b"; "[..]))
    {
        fields.insert(header::COOKIE, joined);
    }
}

/// The conditions and ranges of a request, which ask for a part of what is stored.
pub const CONDITIONS: [HeaderName; 6] = [
    header::IF_MATCH,
    header::IF_NONE_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_UNMODIFIED_SINCE,
    header::IF_RANGE,
    header::RANGE,
];

/// Takes out the conditions and ranges of a request, if the cache wants the whole of what it
/// stores.
pub fn unconditional(request: &mut HeaderMap) {
    for name in CONDITIONS {
        request.remove(name);
    }
}

/// Adds this cache to the `Via` of a message (RFC 9110 section 7.6.3).
pub fn add_via(headers: &mut HeaderMap, received: http::Version) {
    let protocol = match received {
        http::Version::HTTP_2 => "2.0",
        http::Version::HTTP_10 => "1.0",
        _ => "1.1",
    };
    if let Ok(value) = HeaderValue::try_from(format!("{protocol} narthex")) {
        headers.append(header::VIA, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Moment, Timestamp};
    use crate::policy::testing::fields;

    fn directives(lines: &[(&str, &str)]) -> Directives {
        Directives::of(&fields(lines), &[])
    }

    #[test]
    fn what_is_of_one_connection_or_one_client_is_not_stored() {
        let origin = fields(&[
            ("connection", "a, b"),
            ("a", "1"),
            ("b", "2"),
            ("c", "3"),
            ("keep-alive", "x"),
            ("proxy-authenticate", "x"),
            ("proxy-authentication-info", "x"),
            ("proxy-authorization", "x"),
            ("proxy-connection", "x"),
            ("te", "x"),
            ("trailer", "x"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "x"),
            ("set-cookie", "a=b"),
            ("age", "5"),
            ("date", "x"),
        ]);
        let divided = Divided::of(&origin, &directives(&[]));
        assert_eq!(divided.shared, fields(&[("c", "3"), ("date", "x")]));
        assert_eq!(divided.own, fields(&[("set-cookie", "a=b")]));
    }

    #[test]
    fn what_belongs_to_the_credentials_of_one_client_is_not_stored() {
        let own = [
            ("authentication-info", "nextnonce=\"1\""),
            ("authentication-control", "Basic"),
            ("optional-www-authenticate", "Digest nonce=\"1\""),
            ("authorization", "Bearer 1"),
            ("dpop-nonce", "1"),
            ("replay-nonce", "1"),
            ("set-cookie", "a=b"),
            ("set-cookie", "c=d"),
            ("set-login", "logged-in"),
            ("x-auth-token", "1"),
            ("x-csrf-token", "1"),
        ];
        let shared = [("etag", "\"1\""), ("x-content-type-options", "nosniff")];
        let origin = fields(&[&own[..], &shared, &[("proxy-authentication-info", "x")]].concat());
        let divided = Divided::of(&origin, &directives(&[]));
        assert_eq!((divided.shared, divided.own), (fields(&shared), fields(&own)));
    }

    #[test]
    fn a_field_that_a_directive_names_is_not_stored() {
        let lines = [("cache-control", "private=\"a\", no-cache=\"B\""), ("a", "1"), ("b", "2")];
        let divided = Divided::of(&fields(&lines), &directives(&lines));
        assert_eq!(divided.shared, fields(&lines[..1]));
        assert_eq!(divided.own, fields(&lines[1..]));
    }

    #[test]
    fn a_304_replaces_what_it_has_and_leaves_what_describes_the_bytes() {
        let old = fields(&[
            ("a", "1"),
            ("b", "1"),
            ("content-type", "x"),
            ("etag", "\"1\""),
            ("link", "<1>"),
        ]);
        let new = fields(&[
            ("a", "2"),
            ("content-type", "y"),
            ("etag", "\"2\""),
            ("link", "<2>"),
            ("link", "<3>"),
            ("content-length", "5"),
            ("connection", "x-y"),
            ("x-y", "1"),
        ]);
        let expected = fields(&[
            ("b", "1"),
            ("content-type", "x"),
            ("etag", "\"1\""),
            ("a", "2"),
            ("link", "<2>"),
            ("link", "<3>"),
        ]);
        assert_eq!(merged(&old, &new), expected);
    }

    #[test]
    fn what_has_no_date_gets_that_of_its_arrival() {
        let at = Timestamp::from_secs(784_111_777);
        let times = Times { request: at, response: Moment::at(at) };
        for lines in [&[][..], &[("date", "yesterday")]] {
            let mut headers = fields(lines);
            dated(&mut headers, times);
            assert_eq!(headers, fields(&[("date", "Sun, 06 Nov 1994 08:49:37 GMT")]));
        }
        let own = fields(&[("date", "Mon, 07 Nov 1994 08:49:37 GMT")]);
        let mut headers = own.clone();
        dated(&mut headers, times);
        assert_eq!(headers, own);
    }

    /// FAULTS.md G16g.
    #[test]
    fn nothing_that_no_key_has_reaches_the_origin() {
        let client = fields(&[
            ("host", "x"),
            ("connection", "close, x-secret"),
            ("x-secret", "1"),
            ("x-forwarded-host", "evil"),
            ("x-original-url", "/admin"),
            ("te", "trailers"),
            ("accept", "*/*"),
            ("cookie", "a=b"),
            ("cookie", "c=d"),
            ("content-length", "5"),
            ("x-own", "1"),
            ("x-requested-with", "XMLHttpRequest"),
            ("x-xsrf-token", "1"),
            ("x-further", "1"),
        ]);
        let further = [HeaderName::from_static("x-further")];
        let usual = [("accept", "*/*"), ("cookie", "a=b; c=d"), ("x-further", "1")];
        let sent = forwarded(&client, AnswerUse::MayBeStored, &further);
        assert_eq!(sent, fields(&usual));
        let sent = forwarded(&client, AnswerUse::PassedOn, &[]);
        let own = [("x-own", "1"), ("x-requested-with", "XMLHttpRequest"), ("x-xsrf-token", "1")];
        assert_eq!(sent, fields(&[&usual[..], &own].concat()));
        let mut request = fields(&[("range", "bytes=0-"), ("if-range", "\"a\""), ("a", "1")]);
        unconditional(&mut request);
        assert_eq!(request, fields(&[("a", "1")]));
    }

    /// FAULTS.md G16g.
    #[test]
    fn a_request_tells_more_if_its_answer_is_not_to_be_stored() {
        let further = [HeaderName::from_static("x-further")];
        let has = |name, value| has_unkeyed(&fields(&[("accept", "*/*"), (name, value)]), &further);
        for (name, value) in [("x-own", "1"), ("x-requested-with", "XMLHttpRequest")] {
            assert!(has(name, value), "{name}");
        }
        for (name, value) in
            [("x-further", "1"), ("x-forwarded-host", "evil"), ("te", "trailers"), ("cookie", "a")]
        {
            assert!(!has(name, value), "{name}");
        }
    }

    #[test]
    fn surrogate_fields_are_never_sent() {
        let mut headers = fields(&[
            ("surrogate-key", "a  b"),
            ("surrogate-key", "c"),
            ("surrogate-control", "max-age=5"),
            ("x", "1"),
        ]);
        strip_for_client(&mut headers);
        assert_eq!(headers, fields(&[("x", "1")]));
    }
}
