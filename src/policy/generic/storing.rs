//! Whether a response of an origin is stored, and for how long it is fresh (RFC 9111 sections 3
//! and 4.2). Pure. `fill` asks once a response.

use super::Directives;
use super::fields::{self, Divided};
use super::request::Wishes;
use super::variant::Varies;
use crate::clock::Timestamp;
use crate::config::{CachingRule, SetCookie};
use crate::object::Lifetime;
use crate::policy::fields::Challenge;
use crate::policy::response::Times;
use crate::rfc::age::initial_age;
use crate::rfc::cache_control::{
    DELTA_SECONDS_MAX, Delta, Flag, QualifiedFields, is_heuristically_cacheable,
};
use crate::rfc::date::HttpDate;
use http::{HeaderMap, HeaderName, StatusCode, header};

/// The part of the time since its last change for which a response is fresh if it does not say how
/// long (RFC 9111 section 4.2.2 names a tenth).
const HEURISTIC_DIVISOR: i64 = 10;
/// Seconds for which it does so at most.
const HEURISTIC_SECONDS_MAX: i64 = 7 * 24 * 60 * 60;

/// A response to GET that might be stored.
#[derive(Debug, Clone, Copy)]
pub struct GenericReply<'a> {
    /// Its status.
    pub status: StatusCode,
    /// Its fields, `Date` among them (see [`fields::dated`]).
    pub headers: &'a HeaderMap,
    /// What the request said.
    pub wishes: &'a Wishes,
    /// When it was asked for and when it came.
    pub times: Times,
}

/// What is decided about a response.
#[derive(Debug)]
pub enum StoringVerdict {
    /// It is stored.
    Store(Box<StorableResponse>),
    /// It is passed on, and not stored.
    Pass(GenericPassReason),
}

/// What is stored of a response beside its body.
#[derive(Debug)]
pub struct StorableResponse {
    /// Its fields, with those that are not stored.
    pub fields: Divided,
    /// How long it stays fresh.
    pub lifetime: Lifetime,
    /// Its age in seconds when it came.
    pub age_at_response: u32,
    /// What of a request selects it.
    pub varies: Varies,
}

/// Why a response is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GenericPassReason {
    /// The request forbids it.
    RequestNoStore,
    /// The response forbids it.
    NoStore,
    /// It is for one client.
    Private,
    /// It answers credentials and does not say that it may be shared.
    Authorization,
    /// It challenges one client alone.
    Challenge,
    /// No request would select it.
    VaryAny,
    /// It sets a cookie, and the site does not store such responses.
    SetCookie,
    /// Nothing says that it may be stored.
    Unstated,
    /// Its status is no final answer, or one of a part.
    Status,
    /// It is stale when it comes, and nothing could confirm it.
    Useless,
    /// Its end does not show whether it is whole.
    Unframed,
    /// Its fields are longer than one head may be.
    HeadTooLarge,
}

impl GenericPassReason {
    /// In logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestNoStore => "request-no-store",
            Self::NoStore => "no-store",
            Self::Private => "private",
            Self::Authorization => "authorization",
            Self::Challenge => "challenge",
            Self::VaryAny => "vary-any",
            Self::SetCookie => "set-cookie",
            Self::Unstated => "unstated",
            Self::Status => "status",
            Self::Useless => "useless",
            Self::Unframed => "unframed",
            Self::HeadTooLarge => "head-too-large",
        }
    }
}

/// Decides about a response under the site's `rule`; `targets` are its targeted fields.
pub fn admit(
    reply: &GenericReply<'_>,
    rule: &CachingRule,
    targets: &[HeaderName],
) -> StoringVerdict {
    let directives = Directives::of(reply.headers, targets);
    match refused(reply, &directives, rule) {
        Some(reason) => StoringVerdict::Pass(reason),
        None => stored(reply, &directives, rule),
    }
}

/// What a 304 makes of a stored response.
#[derive(Debug)]
pub enum Confirmation {
    /// What is stored is renewed, for every client. Cookies of the 304 go to the client that asked
    /// alone; they never keep what is stored from being renewed.
    Renewed(StorableResponse),
    /// The client that asked gets it with these fields. What is stored stays as it is: an answer to
    /// credentials, with a challenge of one client, or to a request that forbids storing, says
    /// nothing that others may get.
    ForOne(Divided),
    /// The same, and what is stored must be confirmed again before its next use.
    Withdrawn(Divided),
}

/// Decides what the 304 `reply` makes of the response that is stored with the fields `stored` and
/// with the status that `reply` names.
pub fn confirmed(
    stored: &HeaderMap,
    reply: &GenericReply<'_>,
    rule: &CachingRule,
    targets: &[HeaderName],
) -> Confirmation {
    let merged = &fields::merged(stored, reply.headers);
    let divided = || Divided::of(merged, &Directives::of(merged, targets));
    let mut headers = merged.clone();
    headers.remove(header::SET_COOKIE);
    match admit(&GenericReply { headers: &headers, ..*reply }, rule, targets) {
        StoringVerdict::Store(mut storable) => {
            storable.fields.own = divided().own;
            Confirmation::Renewed(*storable)
        }
        StoringVerdict::Pass(
            GenericPassReason::RequestNoStore
            | GenericPassReason::Authorization
            | GenericPassReason::Challenge,
        ) => Confirmation::ForOne(divided()),
        StoringVerdict::Pass(_) => Confirmation::Withdrawn(divided()),
    }
}

fn refused(
    reply: &GenericReply<'_>,
    directives: &Directives,
    rule: &CachingRule,
) -> Option<GenericPassReason> {
    let control = &directives.control;
    let is_understood = control.has(Flag::MustUnderstand) && is_understood(reply.status);
    if reply.status.is_informational()
        || matches!(reply.status, StatusCode::PARTIAL_CONTENT | StatusCode::NOT_MODIFIED)
    {
        return Some(GenericPassReason::Status);
    }
    if control.has(Flag::MustUnderstand) && !is_understood {
        return Some(GenericPassReason::Status);
    }
    if reply.wishes.forbids_storing() {
        return Some(GenericPassReason::RequestNoStore);
    }
    if control.has(Flag::NoStore) && !is_understood {
        return Some(GenericPassReason::NoStore);
    }
    if directives.private == QualifiedFields::Whole {
        return Some(GenericPassReason::Private);
    }
    let is_shared = control.has(Flag::Public)
        || control.has(Flag::MustRevalidate)
        || control.seconds(Delta::SharedMaxAge).is_some();
    if reply.wishes.is_authorized && !is_shared {
        return Some(GenericPassReason::Authorization);
    }
    if Challenge::of(reply.headers) == Challenge::ForOne {
        return Some(GenericPassReason::Challenge);
    }
    if rule.set_cookie == SetCookie::Pass && reply.headers.contains_key(header::SET_COOKIE) {
        return Some(GenericPassReason::SetCookie);
    }
    None
}

fn stored(reply: &GenericReply<'_>, directives: &Directives, rule: &CachingRule) -> StoringVerdict {
    let varies = Varies::of(reply.headers);
    if varies == Varies::Any {
        return StoringVerdict::Pass(GenericPassReason::VaryAny);
    }
    let Some(seconds) = lifetime(reply, directives, rule) else {
        return StoringVerdict::Pass(GenericPassReason::Unstated);
    };
    let age_at_response = initial_age(reply.headers, reply.times.into());
    let is_confirmable = reply.headers.contains_key(header::ETAG)
        || reply.headers.contains_key(header::LAST_MODIFIED);
    let is_of_use_when_stale = is_confirmable
        || directives.control.seconds(Delta::StaleIfError).is_some_and(|seconds| seconds > 0)
        || directives.control.seconds(Delta::StaleWhileRevalidate).is_some_and(|s| s > 0);
    if seconds <= age_at_response && !is_of_use_when_stale {
        return StoringVerdict::Pass(GenericPassReason::Useless);
    }
    let fields = Divided::of(reply.headers, directives);
    let lines = fields.shared.iter();
    let bytes: usize = lines.map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > crate::policy::response::HEAD_BYTES_MAX {
        return StoringVerdict::Pass(GenericPassReason::HeadTooLarge);
    }
    let lifetime = Lifetime::Seconds(seconds);
    StoringVerdict::Store(Box::new(StorableResponse { fields, lifetime, age_at_response, varies }))
}

/// For how many seconds from its age zero a response is fresh; none if nothing says that it may be
/// stored at all (RFC 9111 sections 3 and 4.2.1).
///
/// What the response states is kept within the rule's bounds. What must be confirmed each time
/// has none, whatever the rule says.
pub fn lifetime(
    reply: &GenericReply<'_>,
    directives: &Directives,
    rule: &CachingRule,
) -> Option<u32> {
    let bounded = |seconds: u32| {
        let (min, max) = (seconds_of(rule.ttl_min), rule.ttl_max.map_or(u32::MAX, seconds_of));
        seconds.max(min).min(max).min(DELTA_SECONDS_MAX)
    };
    if directives.must_be_confirmed() {
        return Some(0);
    }
    if let Some(stated) = stated(reply, directives) {
        return Some(bounded(stated));
    }
    if let Some(own) = rule.ttl(reply.status) {
        return Some(bounded(seconds_of(own)));
    }
    let is_public = directives.control.has(Flag::Public);
    if !is_public && !is_heuristically_cacheable(reply.status) {
        return None;
    }
    Some(bounded(heuristic(reply.headers)))
}

/// Whether a response says itself how long it is fresh.
pub fn is_explicit(headers: &HeaderMap, directives: &Directives) -> bool {
    directives.control.seconds(Delta::SharedMaxAge).is_some()
        || directives.control.seconds(Delta::MaxAge).is_some()
        || (!directives.is_targeted && headers.contains_key(header::EXPIRES))
}

/// What the response itself states.
fn stated(reply: &GenericReply<'_>, directives: &Directives) -> Option<u32> {
    let control = &directives.control;
    let by_directive = control.seconds(Delta::SharedMaxAge).or(control.seconds(Delta::MaxAge));
    if by_directive.is_some() || directives.is_targeted {
        return by_directive;
    }
    let date = date_of(reply.headers, reply.times.response.wall);
    let expires = reply.headers.get_all(header::EXPIRES).iter();
    expires
        .map(|line| HttpDate::parse(line).map_or(0, |at| at.secs().saturating_sub(date.secs())))
        .min()
        .map(|seconds| {
            u32::try_from(seconds.max(0)).map_or(DELTA_SECONDS_MAX, |s| s.min(DELTA_SECONDS_MAX))
        })
}

fn heuristic(headers: &HeaderMap) -> u32 {
    let changed = headers.get(header::LAST_MODIFIED).and_then(HttpDate::parse);
    let date = headers.get(header::DATE).and_then(HttpDate::parse);
    let (Some(changed), Some(date)) = (changed, date) else { return 0 };
    let since = date.secs().saturating_sub(changed.secs()).max(0) / HEURISTIC_DIVISOR;
    u32::try_from(since.min(HEURISTIC_SECONDS_MAX)).unwrap_or(0)
}

fn date_of(headers: &HeaderMap, received: Timestamp) -> HttpDate {
    let received = HttpDate::from_secs(received.millis().div_euclid(1_000));
    headers.get(header::DATE).and_then(HttpDate::parse).unwrap_or(received)
}

fn seconds_of(duration: std::time::Duration) -> u32 {
    u32::try_from(duration.as_secs()).unwrap_or(u32::MAX)
}

/// The statuses with caching rules that are known here (RFC 9111 section 5.2.2.3): all that RFC
/// 9110 defines, but for those of ranges.
const fn is_understood(status: StatusCode) -> bool {
    matches!(
        status.as_u16(),
        200..=205
            | 300..=303
            | 305
            | 307
            | 308
            | 400..=411
            | 413..=415
            | 417
            | 421
            | 422
            | 426
            | 500..=505
    )
}

#[cfg(test)]
mod tests;
