//! Confirming what is stored (RFC 9111 sections 3.2 and 4.3). Pure. `fill` asks before and after
//! a revalidation.

use super::fields;
use super::response::{Times, lifetime, lifetime_when_proven};
use crate::config::LifetimeTerms;
use crate::object::Meta;
use crate::rfc::age::initial_age;
use crate::rfc::conditional::{ChangeCondition, Validators};
use http::{HeaderMap, HeaderName, HeaderValue, header};

/// The conditional fields of a revalidation; at most one of them is there.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Conditions {
    /// `If-None-Match`.
    pub if_none_match: Option<HeaderValue>,
    /// `If-Modified-Since`.
    pub if_modified_since: Option<HeaderValue>,
}

/// The conditional fields that confirm `meta`: by its entity tag, else by its date. `None` if it
/// has neither, so that it can only be fetched again.
pub fn conditions(meta: &Meta) -> Option<Conditions> {
    match ChangeCondition::changed(&meta.headers)? {
        ChangeCondition::Tag(tag) => {
            Some(Conditions { if_none_match: Some(tag), ..Conditions::default() })
        }
        ChangeCondition::Date(date) => {
            Some(Conditions { if_modified_since: Some(date), ..Conditions::default() })
        }
    }
}

/// What is stored after a 304 with the fields `headers`: the same object with a new age and
/// lifetime, no longer invalidated, and with the fields of the 304 in place of its own. Fields
/// that describe the stored bytes (type, coding, entity tag) stay as they are.
///
/// `None` if the 304 speaks of another entity tag than the stored one (section 4.3.4): the
/// object is to be fetched again without conditions.
pub fn merge(
    meta: &Meta,
    headers: &HeaderMap,
    times: Times,
    terms: &LifetimeTerms,
) -> Option<Meta> {
    let (stored, confirmed) = (Validators::of(&meta.headers), Validators::of(headers));
    if let (Some(stored), Some(confirmed)) = (stored.etag, confirmed.etag)
        && !stored.matches_weakly(&confirmed)
    {
        return None;
    }
    let mut merged = meta.headers.clone();
    let fresh = fields::kept(headers);
    for name in
        fresh.keys().filter(|name| !describes_bytes(name, &merged)).cloned().collect::<Vec<_>>()
    {
        merged.remove(&name);
        for value in fresh.get_all(&name) {
            merged.append(&name, value.clone());
        }
    }
    let stated = lifetime(terms.bounds(), &with_date(&merged, headers));
    Some(Meta {
        headers: merged,
        request_time: times.request,
        response_time: times.response.edge,
        age_at_response: initial_age(headers, times.into()),
        lifetime: lifetime_when_proven(meta.class, meta.proof).unwrap_or(stated),
        is_invalidated: false,
        ..meta.clone()
    })
}

/// Whether a field is of the bytes that are stored, so that a 304 cannot change it.
fn describes_bytes(name: &HeaderName, stored: &HeaderMap) -> bool {
    match *name {
        header::CONTENT_ENCODING | header::CONTENT_TYPE => true,
        header::ETAG => stored.contains_key(header::ETAG),
        _ => fields::DIGESTS.contains(&name.as_str()),
    }
}

/// `merged` with the `Date` of the 304, which an `Expires` is relative to.
fn with_date(merged: &HeaderMap, headers: &HeaderMap) -> HeaderMap {
    let mut dated = merged.clone();
    if let Some(date) = headers.get(header::DATE) {
        dated.insert(header::DATE, date.clone());
    }
    dated
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Moment, Timestamp};
    use crate::nix::Class;
    use crate::object::{Lifetime, Proof};
    use crate::policy::testing::{fields, meta, terms};

    const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    fn times() -> Times {
        let response = Moment::at(Timestamp::from_secs(5_001));
        Times { request: Timestamp::from_secs(5_000), response }
    }

    fn merged(stored: &[(&str, &str)], confirmed: &[(&str, &str)]) -> Option<Meta> {
        merge(&meta(stored), &fields(confirmed), times(), &terms())
    }

    #[test]
    fn a_tag_is_asked_by_before_a_date() {
        let both = conditions(&meta(&[("etag", "\"a\""), ("last-modified", DATE)])).unwrap();
        assert_eq!(both.if_none_match.unwrap(), "\"a\"");
        assert_eq!(both.if_modified_since, None);
        let date = conditions(&meta(&[("last-modified", DATE)])).unwrap();
        assert_eq!(date.if_none_match, None);
        assert_eq!(date.if_modified_since.unwrap(), DATE);
        assert_eq!(conditions(&meta(&[("content-type", "x")])), None);
    }

    #[test]
    fn a_304_starts_a_new_life() {
        let mut old = meta(&[("etag", "\"a\"")]);
        old.is_invalidated = true;
        old.age_at_response = 9_999;
        let new = merge(&old, &fields(&[("etag", "\"a\""), ("age", "3")]), times(), &terms());
        let new = new.unwrap();
        assert!(!new.is_invalidated);
        assert_eq!(new.age_at_response, 4);
        assert_eq!((new.request_time, new.response_time), (times().request, times().response.edge));
        assert_eq!(new.lifetime, Lifetime::Seconds(86_400));
        assert_eq!((new.key, new.proof, new.status), (old.key, old.proof, old.status));
    }

    #[test]
    fn fields_of_the_304_replace_and_those_of_the_bytes_stay() {
        let new = merged(
            &[
                ("etag", "\"a\""),
                ("content-type", "text/x-nix-narinfo"),
                ("content-encoding", "br"),
                ("x-amz-meta-a", "old"),
                ("x-amz-meta-b", "kept"),
            ],
            &[
                ("etag", "W/\"a\""),
                ("content-type", "text/html"),
                ("content-encoding", "gzip"),
                ("content-length", "0"),
                ("content-range", "bytes 0-1/2"),
                ("x-amz-meta-a", "new"),
                ("x-amz-meta-a", "newer"),
                ("cache-control", "max-age=7"),
                ("connection", "x-amz-meta-b"),
                ("set-cookie", "a=b"),
                ("server", "x"),
            ],
        )
        .unwrap();
        let expected = fields(&[
            ("etag", "\"a\""),
            ("content-type", "text/x-nix-narinfo"),
            ("content-encoding", "br"),
            ("x-amz-meta-a", "new"),
            ("x-amz-meta-a", "newer"),
            ("x-amz-meta-b", "kept"),
            ("cache-control", "max-age=7"),
        ]);
        assert_eq!(new.headers, expected);
        assert_eq!(new.lifetime, Lifetime::Seconds(7));
    }

    #[test]
    fn a_304_for_another_object_confirms_nothing() {
        assert!(merged(&[("etag", "\"a\"")], &[("etag", "\"b\"")]).is_none());
        let new = merged(&[("last-modified", DATE)], &[("etag", "\"b\"")]).unwrap();
        assert_eq!(new.headers.get(header::ETAG).unwrap(), "\"b\"");
        assert!(merged(&[("etag", "\"a\"")], &[]).is_some());
    }

    #[test]
    fn expires_counts_from_the_date_of_the_304() {
        let expires = ("expires", "Sun, 06 Nov 1994 08:50:37 GMT");
        let new = merged(&[("etag", "\"a\""), expires], &[("date", DATE)]).unwrap();
        assert_eq!(new.lifetime, Lifetime::Seconds(60));
        assert!(!new.headers.contains_key(header::DATE));
    }

    #[test]
    fn a_proven_nar_stays_fresh_for_good() {
        let mut old = meta(&[("etag", "\"a\"")]);
        (old.class, old.proof, old.is_invalidated) = (Class::Nar, Proof::FileHash, true);
        let confirmed = fields(&[("cache-control", "max-age=1")]);
        let new = merge(&old, &confirmed, times(), &terms()).unwrap();
        assert_eq!((new.lifetime, new.is_invalidated), (Lifetime::Forever, false));
        old.proof = Proof::Length;
        let new = merge(&old, &confirmed, times(), &terms()).unwrap();
        assert_eq!(new.lifetime, Lifetime::Seconds(1));
    }
}
