//! What an origin's answer is worth: whether it may be stored, for how long, and with which
//! fields. Pure. `fill` asks once an answer.
//!
//! How long a 200 stays fresh is the site's setting for its class or path: uploads to binary caches
//! carry no `Cache-Control`. What an origin states can only shorten that, and not below the site's
//! least: `no-store` and `private` mean that nothing is stored, `no-cache` that every use is
//! confirmed first, `s-maxage`, `max-age` and `Expires` cap the lifetime. A NAR with bytes proven
//! by hash is exempt, since no later answer can be another: it stays fresh for good.

use super::fields;
use crate::clock::{Moment, Timestamp};
use crate::config::LifetimeTerms;
use crate::nix::Class;
use crate::object::tags::TAG_FIELD;
use crate::object::{self, Lifetime, Proof, Variant};
use crate::rfc::age::{ExchangeTimes, initial_age};
use crate::rfc::cache_control::{CacheControl, DELTA_SECONDS_MAX, Flag, explicit_lifetime};
use crate::rfc::cache_status::CACHE_STATUS;
use crate::rfc::content_length::{ContentLengthError, content_length};
use crate::rfc::grammar;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Bytes of names and values that are stored with an object; a response with more is passed on.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// When a request left for an origin and when the head of the answer arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// When the request left, in edge time.
    pub request: Timestamp,
    /// When the head arrived.
    pub response: Moment,
}

impl From<Times> for ExchangeTimes {
    fn from(times: Times) -> Self {
        let delay = times.response.edge.since(times.request);
        Self {
            delay_millis: u64::try_from(delay.as_millis()).unwrap_or(u64::MAX),
            arrived_millis: times.response.wall.millis(),
        }
    }
}

/// The head of an origin's answer to a request for a whole object.
#[derive(Debug, Clone, Copy)]
pub struct ObjectReply<'a> {
    /// The status.
    pub status: StatusCode,
    /// The fields, as they came.
    pub headers: &'a HeaderMap,
    /// When.
    pub times: Times,
}

/// What an answer is worth.
#[derive(Debug)]
pub enum ObjectVerdict {
    /// It is sent to the client and stored.
    Store(AdmittedHead),
    /// It is sent to the client and not stored.
    Pass(PassReason, AdmittedHead),
    /// It is a fault of the origin: neither sent nor stored.
    Unusable(UnusableAnswer),
}

/// What is known of a response from its head.
#[derive(Debug, Clone)]
pub struct AdmittedHead {
    /// The fields to keep, as [`Meta::headers`](crate::object::Meta) wants them.
    pub headers: HeaderMap,
    /// Fields for the client alone that caused the answer.
    pub own: HeaderMap,
    /// What of a request selects it.
    pub variant: Variant,
    /// How long it stays fresh; [`lifetime_when_proven`] may better it.
    pub lifetime: Lifetime,
    /// Age in seconds when its head arrived.
    pub age_at_response: u32,
    /// Whether the bytes are the file itself.
    pub coding: Coding,
    /// `Cache-Status` lines of the caches on the way, for the answers to the requests that waited
    /// for this fetch.
    pub upstream_cache_status: Vec<HeaderValue>,
}

/// Whether a body's bytes are the file itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// They are: FileHash and FileSize, or a narinfo's grammar, apply to them.
    Identity,
    /// They are the file under a `Content-Encoding`, which is passed through untouched: neither
    /// a hash nor a grammar can be checked on them.
    Encoded,
}

impl Coding {
    /// That of a body with these fields, which are kept.
    pub fn of(headers: &HeaderMap) -> Self {
        if headers.contains_key(header::CONTENT_ENCODING) { Self::Encoded } else { Self::Identity }
    }
}

/// Why a response is passed on and not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PassReason {
    /// `Cache-Control: no-store`.
    NoStore,
    /// `Cache-Control: private`.
    Private,
    /// `Vary: *`.
    VaryAny,
    /// More than [`HEAD_BYTES_MAX`] bytes of fields.
    HeadTooLarge,
}

impl PassReason {
    /// The reason, for logs and `Cache-Status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::VaryAny => "vary-any",
            Self::HeadTooLarge => "head-too-large",
        }
    }
}

/// Why an answer to a request for a whole object is unusable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UnusableAnswer {
    /// Not 200: a part that was not asked for, or what the origin layer should have dealt with.
    #[error("status {0} to a request for a whole object")]
    Status(StatusCode),
    /// The length cannot be relied on.
    #[error(transparent)]
    Length(#[from] ContentLengthError),
}

/// Judges the answer to a request for a whole object.
///
/// Only a 200 is stored. A 206 continues a body and is judged by
/// [`continuation`](super::continuation); an absence by [`admit_absence`].
pub fn admit(reply: &ObjectReply<'_>, terms: &LifetimeTerms) -> ObjectVerdict {
    if reply.status != StatusCode::OK {
        return ObjectVerdict::Unusable(UnusableAnswer::Status(reply.status));
    }
    if let Err(error) = content_length(reply.headers) {
        return ObjectVerdict::Unusable(error.into());
    }
    let headers = fields::kept(reply.headers);
    let admission = AdmittedHead {
        lifetime: lifetime(terms.bounds(), reply.headers),
        age_at_response: initial_age(reply.headers, reply.times.into()),
        coding: Coding::of(&headers),
        own: HeaderMap::new(),
        variant: Variant::default(),
        upstream_cache_status: reply.headers.get_all(CACHE_STATUS).iter().cloned().collect(),
        headers,
    };
    match pass_reason(reply.headers, &admission.headers) {
        None => ObjectVerdict::Store(admission),
        Some(reason) => ObjectVerdict::Pass(reason, admission),
    }
}

/// How an absence that every origin agreed on is remembered: with the fields of a plain-text
/// 404 and its tags, for the site's short lifetime or less. `headers` are those of the last 404.
/// `None` if it is not to be remembered.
pub fn admit_absence(
    headers: &HeaderMap,
    times: Times,
    terms: &LifetimeTerms,
) -> Option<AdmittedHead> {
    let control = CacheControl::of(headers);
    if control.has(Flag::NoStore) || control.has(Flag::Private) {
        return None;
    }
    let lifetime = lifetime(Duration::ZERO..=terms.absent, headers);
    if lifetime == Lifetime::Seconds(0) {
        return None;
    }
    let mut kept = HeaderMap::with_capacity(1);
    kept.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    for line in headers.get_all(TAG_FIELD) {
        kept.append(TAG_FIELD, line.clone());
    }
    object::pack(&mut kept);
    Some(AdmittedHead {
        headers: kept,
        lifetime,
        age_at_response: initial_age(headers, times.into()),
        own: HeaderMap::new(),
        variant: Variant::default(),
        coding: Coding::Identity,
        upstream_cache_status: headers.get_all(CACHE_STATUS).iter().cloned().collect(),
    })
}

/// The lifetime that a proof of the body gives, whatever the origin or the site says: a NAR with
/// the right hash can never become another. `None` if the admitted lifetime holds.
pub const fn lifetime_when_proven(class: Class, proof: Proof) -> Option<Lifetime> {
    match (class, proof) {
        (Class::Nar, Proof::FileHash) => Some(Lifetime::Forever),
        _ => None,
    }
}

/// How long a response with these fields (its `Date` included) stays fresh: the configured maximum,
/// or less if the origin says so, but not below the configured minimum. Zero if the origin wants it
/// confirmed each time, or not stored.
pub(super) fn lifetime(configured: RangeInclusive<Duration>, headers: &HeaderMap) -> Lifetime {
    let control = CacheControl::of(headers);
    if control.has(Flag::NoCache) || control.has(Flag::NoStore) || control.has(Flag::Private) {
        return Lifetime::Seconds(0);
    }
    let seconds = |time: &Duration| u32::try_from(time.as_secs()).unwrap_or(u32::MAX);
    let (least, most) = (seconds(configured.start()), seconds(configured.end()));
    let stated = explicit_lifetime(headers).unwrap_or(u32::MAX);
    Lifetime::Seconds(stated.max(least).min(most).min(DELTA_SECONDS_MAX))
}

fn pass_reason(origin: &HeaderMap, kept: &HeaderMap) -> Option<PassReason> {
    let control = CacheControl::of(origin);
    let varies = origin.get_all(header::VARY);
    let bytes: usize = kept.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if control.has(Flag::NoStore) {
        Some(PassReason::NoStore)
    } else if control.has(Flag::Private) {
        Some(PassReason::Private)
    } else if varies.iter().flat_map(|v| grammar::list_members(v.as_bytes())).any(|v| v == b"*") {
        Some(PassReason::VaryAny)
    } else if bytes > HEAD_BYTES_MAX {
        Some(PassReason::HeadTooLarge)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{fields, terms};

    const DATE: &str = "Thu, 01 Jan 1970 00:16:40 GMT"; // second 1000

    fn times() -> Times {
        let response = Moment::at(Timestamp::from_secs(1002));
        Times { request: Timestamp::from_secs(1000), response }
    }

    fn judge(status: u16, lines: &[(&str, &str)]) -> ObjectVerdict {
        let headers = fields(lines);
        let status = StatusCode::from_u16(status).unwrap();
        admit(&ObjectReply { status, headers: &headers, times: times() }, &terms())
    }

    fn stored(lines: &[(&str, &str)]) -> AdmittedHead {
        match judge(200, lines) {
            ObjectVerdict::Store(admission) => admission,
            other @ (ObjectVerdict::Pass(..) | ObjectVerdict::Unusable(_)) => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_silent_origin_leaves_the_lifetime_to_the_site() {
        let admission =
            stored(&[("content-length", "7"), ("etag", "\"a\""), ("server", "x"), ("date", DATE)]);
        assert_eq!(admission.lifetime, Lifetime::Seconds(86_400));
        assert_eq!(admission.age_at_response, 2);
        assert_eq!(admission.coding, Coding::Identity);
        assert_eq!(admission.headers.keys().collect::<Vec<_>>(), [header::ETAG]);
    }

    #[test]
    fn an_origin_shortens_the_lifetime_and_never_lengthens_it() {
        for (value, seconds) in [
            ("max-age=60", 60),
            ("public, max-age=60, s-maxage=5", 5),
            ("max-age=31536000, immutable", 86_400),
            ("no-cache", 0),
            ("max-age=nonsense", 0),
            ("must-revalidate", 86_400),
        ] {
            let admission = stored(&[("cache-control", value)]);
            assert_eq!(admission.lifetime, Lifetime::Seconds(seconds), "{value}");
        }
        let expires = [("date", DATE), ("expires", "Thu, 01 Jan 1970 00:17:40 GMT")];
        assert_eq!(stored(&expires).lifetime, Lifetime::Seconds(60));
    }

    #[test]
    fn a_parents_age_counts() {
        let admission = stored(&[("age", "50"), ("cache-status", "narthex; hit")]);
        assert_eq!(admission.age_at_response, 52);
        assert_eq!(admission.upstream_cache_status, ["narthex; hit"]);
        assert!(admission.headers.is_empty());
    }

    /// FAULTS.md S6.
    #[test]
    fn a_date_is_compared_with_the_wall_clock() {
        let headers = fields(&[("date", DATE)]);
        let (request, edge) = (Timestamp::from_secs(8_200), Timestamp::from_secs(8_202));
        // The wall clock was two hours ahead until it was set right.
        let response = Moment { edge, wall: Timestamp::from_secs(1_002) };
        assert_eq!(initial_age(&headers, Times { request, response }.into()), 2);
    }

    #[test]
    fn what_must_not_be_stored_is_passed() {
        for (line, expected) in [
            (("cache-control", "no-store"), PassReason::NoStore),
            (("cache-control", "private, max-age=5"), PassReason::Private),
            (("vary", "accept, *"), PassReason::VaryAny),
        ] {
            match judge(200, &[line, ("etag", "\"a\"")]) {
                ObjectVerdict::Pass(reason, admission) => {
                    assert_eq!(reason, expected);
                    assert!(admission.headers.contains_key(header::ETAG));
                }
                other @ (ObjectVerdict::Store(_) | ObjectVerdict::Unusable(_)) => {
                    panic!("{other:?}")
                }
            }
        }
        let long = "x".repeat(HEAD_BYTES_MAX);
        let verdict = judge(200, &[("x-amz-meta-a", &long)]);
        assert!(matches!(verdict, ObjectVerdict::Pass(PassReason::HeadTooLarge, _)));
        stored(&[("vary", "accept-encoding"), ("set-cookie", "a=b")]);
    }

    #[test]
    fn only_a_whole_object_with_a_sound_length_is_usable() {
        for status in [206, 204, 301, 403, 404, 500] {
            let verdict = judge(status, &[]);
            assert!(
                matches!(verdict, ObjectVerdict::Unusable(UnusableAnswer::Status(_))),
                "{status}"
            );
        }
        for lines in [
            [("content-length", "x")].as_slice(),
            &[("content-length", "1"), ("content-length", "1")],
        ] {
            let verdict = judge(200, lines);
            assert!(
                matches!(verdict, ObjectVerdict::Unusable(UnusableAnswer::Length(_))),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn a_coding_passes_through_and_is_told() {
        let admission = stored(&[("content-encoding", "br")]);
        assert_eq!(admission.coding, Coding::Encoded);
        assert_eq!(admission.headers.get(header::CONTENT_ENCODING).unwrap(), "br");
        let identity = stored(&[("content-encoding", "identity")]);
        assert_eq!(identity.coding, Coding::Identity);
        assert!(identity.headers.is_empty());
    }

    #[test]
    fn absence_is_remembered_briefly_or_not_at_all() {
        let absence = |lines: &[(&str, &str)], absent: u64| {
            let mut terms = terms();
            terms.absent = Duration::from_secs(absent);
            admit_absence(&fields(lines), times(), &terms)
                .map(|admission| (admission.lifetime, admission.age_at_response))
        };
        assert_eq!(absence(&[], 10), Some((Lifetime::Seconds(10), 2)));
        assert_eq!(absence(&[("age", "4")], 10), Some((Lifetime::Seconds(10), 6)));
        assert_eq!(absence(&[("cache-control", "max-age=3")], 10), Some((Lifetime::Seconds(3), 2)));
        assert_eq!(
            absence(&[("cache-control", "max-age=3000")], 10),
            Some((Lifetime::Seconds(10), 2))
        );
        for value in ["no-store", "private", "no-cache", "max-age=0"] {
            assert_eq!(absence(&[("cache-control", value)], 10), None, "{value}");
        }
        assert_eq!(absence(&[], 0), None);
    }

    #[test]
    fn only_a_proven_nar_is_fresh_for_good() {
        assert_eq!(lifetime_when_proven(Class::Nar, Proof::FileHash), Some(Lifetime::Forever));
        assert_eq!(lifetime_when_proven(Class::Nar, Proof::Length), None);
        assert_eq!(lifetime_when_proven(Class::Narinfo, Proof::Signature), None);
        assert_eq!(lifetime_when_proven(Class::Other, Proof::FileHash), None);
    }
}
