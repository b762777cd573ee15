//! `Cache-Control` (RFC 9111 section 5.2, RFC 5861, RFC 8246) and how long a response says it is
//! fresh. Pure. The parse is tolerant and errs towards caching less. A value that is no number
//! counts as zero, and of two values the smaller counts. The qualified forms of `private` and
//! `no-cache` count as the plain ones, unless [`qualified`] is asked for their fields.

use super::date::HttpDate;
use super::grammar;
use http::{HeaderMap, HeaderName, StatusCode, header};

/// Seconds above which RFC 9111 section 1.2.2 lets numbers be capped: 2^31.
pub const DELTA_SECONDS_MAX: u32 = 1 << 31;

/// A directive without an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// `no-store`.
    NoStore,
    /// `no-cache`.
    NoCache,
    /// `private`.
    Private,
    /// `public`.
    Public,
    /// `must-revalidate`.
    MustRevalidate,
    /// `proxy-revalidate`.
    ProxyRevalidate,
    /// `immutable`.
    Immutable,
    /// `only-if-cached`.
    OnlyIfCached,
    /// `must-understand`.
    MustUnderstand,
    /// `no-transform`.
    NoTransform,
}

/// A directive with seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Delta {
    /// `max-age`.
    MaxAge,
    /// `s-maxage`.
    SharedMaxAge,
    /// `stale-while-revalidate`.
    StaleWhileRevalidate,
    /// `stale-if-error`.
    StaleIfError,
    /// `max-stale` of a request; without an argument [`DELTA_SECONDS_MAX`].
    MaxStale,
    /// `min-fresh` of a request.
    MinFresh,
}

/// The directives of a request or a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CacheControl {
    /// One bit for each [`Flag`].
    flags: u16,
    /// One place for each [`Delta`].
    deltas: [Option<u32>; 6],
}

impl CacheControl {
    /// The directives of all `Cache-Control` lines.
    pub fn of(headers: &HeaderMap) -> Self {
        let mut found = Self::default();
        for line in headers.get_all(header::CACHE_CONTROL) {
            for directive in grammar::list_members(line.as_bytes()) {
                found.add(directive);
            }
        }
        found
    }

    /// Whether `flag` was given.
    pub const fn has(&self, flag: Flag) -> bool {
        self.flags & (1 << flag as u16) != 0
    }

    /// These directives, and `flag`.
    #[must_use]
    pub const fn with(mut self, flag: Flag) -> Self {
        self.flags |= 1 << flag as u16;
        self
    }

    /// The seconds of `delta`, at most [`DELTA_SECONDS_MAX`].
    pub fn seconds(&self, delta: Delta) -> Option<u32> {
        self.deltas.get(delta as usize).copied().flatten()
    }

    fn add(&mut self, directive: &[u8]) {
        let mut halves = directive.splitn(2, |byte| *byte == b'=');
        let name = grammar::trim(halves.next().unwrap_or_default()).to_ascii_lowercase();
        let argument = halves.next().map(grammar::trim);
        let flag = match name.as_slice() {
            b"no-store" => Flag::NoStore,
            b"no-cache" => Flag::NoCache,
            b"private" => Flag::Private,
            b"public" => Flag::Public,
            b"must-revalidate" => Flag::MustRevalidate,
            b"proxy-revalidate" => Flag::ProxyRevalidate,
            b"immutable" => Flag::Immutable,
            b"only-if-cached" => Flag::OnlyIfCached,
            b"must-understand" => Flag::MustUnderstand,
            b"no-transform" => Flag::NoTransform,
            b"max-stale" if argument.is_none() => {
                return self.lower(Delta::MaxStale, DELTA_SECONDS_MAX);
            }
            b"max-stale" => return self.limit(Delta::MaxStale, argument),
            b"min-fresh" => return self.limit(Delta::MinFresh, argument),
            b"max-age" => return self.limit(Delta::MaxAge, argument),
            b"s-maxage" => return self.limit(Delta::SharedMaxAge, argument),
            b"stale-while-revalidate" => return self.limit(Delta::StaleWhileRevalidate, argument),
            b"stale-if-error" => return self.limit(Delta::StaleIfError, argument),
            _ => return,
        };
        *self = self.with(flag);
    }

    fn limit(&mut self, delta: Delta, argument: Option<&[u8]>) {
        self.lower(delta, argument.and_then(delta_seconds).unwrap_or(0));
    }

    /// Adds a directive with seconds; of several the smallest counts.
    pub(super) fn lower(&mut self, delta: Delta, seconds: u32) {
        if let Some(place) = self.deltas.get_mut(delta as usize) {
            *place = Some(place.map_or(seconds, |before| before.min(seconds)));
        }
    }
}

/// What the fields of all `Cache-Control` lines that stand behind `directive` (in lower case) name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QualifiedFields {
    /// The directive is not given.
    No,
    /// It is given for the whole response, or what it names cannot be read.
    Whole,
    /// It is given for these fields alone (RFC 9111 sections 5.2.2.4 and 5.2.2.7).
    Fields(Vec<HeaderName>),
}

/// For what `directive` (`no-cache` or `private`) is given.
pub fn qualified(headers: &HeaderMap, directive: &str) -> QualifiedFields {
    let mut names = Vec::new();
    let mut is_given = false;
    for line in headers.get_all(header::CACHE_CONTROL) {
        for member in grammar::list_members(line.as_bytes()) {
            let mut halves = member.splitn(2, |byte| *byte == b'=');
            let name = grammar::trim(halves.next().unwrap_or_default());
            if !name.eq_ignore_ascii_case(directive.as_bytes()) {
                continue;
            }
            is_given = true;
            let Some(listed) = halves.next().and_then(field_names) else {
                return QualifiedFields::Whole;
            };
            names.extend(listed);
        }
    }
    if is_given { QualifiedFields::Fields(names) } else { QualifiedFields::No }
}

/// The names of a quoted list of fields, or of one that stands unquoted; none if one is no name.
fn field_names(argument: &[u8]) -> Option<Vec<HeaderName>> {
    let argument = grammar::trim(argument);
    let inner = argument.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    let names: Option<Vec<HeaderName>> = grammar::list_members(inner.unwrap_or(argument))
        .map(|name| HeaderName::from_bytes(name).ok())
        .collect();
    names.filter(|names| !names.is_empty())
}

/// Seconds in digits, quoted or not; capped at [`DELTA_SECONDS_MAX`].
pub fn delta_seconds(argument: &[u8]) -> Option<u32> {
    let unquoted =
        argument.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(argument);
    let seconds = grammar::saturating_number(unquoted)?;
    Some(u32::try_from(seconds).map_or(DELTA_SECONDS_MAX, |s| s.min(DELTA_SECONDS_MAX)))
}

/// For how many seconds a response itself says that it is fresh in a shared cache (RFC 9111 section
/// 4.2.1): `s-maxage`, else `max-age`, else `Expires` less `Date`; `None` if it says nothing. An
/// `Expires` that cannot be read, or that comes without a `Date`, means zero.
pub fn explicit_lifetime(headers: &HeaderMap) -> Option<u32> {
    let control = CacheControl::of(headers);
    let stated = control.seconds(Delta::SharedMaxAge).or(control.seconds(Delta::MaxAge));
    if stated.is_some() {
        return stated;
    }
    let date = headers.get(header::DATE).and_then(HttpDate::parse);
    headers
        .get_all(header::EXPIRES)
        .iter()
        .map(|line| expires_after(HttpDate::parse(line), date))
        .min()
}

/// Whether a cache may judge by itself how long a response of this status is fresh, if nothing is
/// stated (RFC 9110 section 15.1).
pub const fn is_heuristically_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 405 | 410 | 414 | 501)
}

fn expires_after(expires: Option<HttpDate>, date: Option<HttpDate>) -> u32 {
    let (Some(expires), Some(date)) = (expires, date) else {
        return 0;
    };
    let seconds = expires.secs().saturating_sub(date.secs()).max(0);
    u32::try_from(seconds).map_or(DELTA_SECONDS_MAX, |s| s.min(DELTA_SECONDS_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::{any, prop};
    use proptest::proptest;

    fn control(lines: &[&str]) -> CacheControl {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::CACHE_CONTROL, HeaderValue::from_str(line).unwrap());
        }
        CacheControl::of(&headers)
    }

    #[test]
    fn directives_are_found_whatever_their_case_and_line() {
        let found = control(&["Public, MAX-AGE=60", "s-maxage=\"7\" , immutable, x=\"no-store\""]);
        assert!(found.has(Flag::Public) && found.has(Flag::Immutable));
        assert!(!found.has(Flag::NoStore));
        assert_eq!(found.seconds(Delta::MaxAge), Some(60));
        assert_eq!(found.seconds(Delta::SharedMaxAge), Some(7));
        assert_eq!(found.seconds(Delta::StaleIfError), None);
        assert_eq!(control(&[]), CacheControl::default());
    }

    #[test]
    fn doubt_means_less_caching() {
        assert!(control(&["private=\"set-cookie, x\""]).has(Flag::Private));
        assert!(control(&["no-cache=\"x\""]).has(Flag::NoCache));
        assert!(control(&["x=\"never closed, no-store"]).has(Flag::NoStore));
        for line in ["max-age", "max-age=", "max-age=-1", "max-age=1.5", "max-age=60 s"] {
            assert_eq!(control(&[line]).seconds(Delta::MaxAge), Some(0), "{line}");
        }
        assert_eq!(
            control(&["max-age=60, max-age=30", "max-age=90"]).seconds(Delta::MaxAge),
            Some(30)
        );
        let huge = control(&["max-age=99999999999999999999"]);
        assert_eq!(huge.seconds(Delta::MaxAge), Some(DELTA_SECONDS_MAX));
    }

    #[test]
    fn a_qualified_directive_names_its_fields() {
        let named = |line: &str| {
            let mut headers = HeaderMap::new();
            headers.append(header::CACHE_CONTROL, HeaderValue::from_str(line).unwrap());
            qualified(&headers, "no-cache")
        };
        let fields = |names: &[&'static str]| {
            QualifiedFields::Fields(
                names.iter().map(|name| HeaderName::from_static(name)).collect(),
            )
        };
        assert_eq!(named("private=\"a\", max-age=5"), QualifiedFields::No);
        assert_eq!(named("No-Cache = \"A, b\""), fields(&["a", "b"]));
        assert_eq!(named("no-cache=\"a\", no-cache=b"), fields(&["a", "b"]));
        for whole in ["no-cache", "no-cache=\"a\", no-cache", "no-cache=\"\"", "no-cache=\"a b\""] {
            assert_eq!(named(whole), QualifiedFields::Whole, "{whole}");
        }
    }

    #[test]
    fn a_request_says_how_stale_and_how_fresh() {
        let found = control(&["max-stale, min-fresh=7"]);
        assert_eq!(found.seconds(Delta::MaxStale), Some(DELTA_SECONDS_MAX));
        assert_eq!(found.seconds(Delta::MinFresh), Some(7));
        assert_eq!(control(&["max-stale=9"]).seconds(Delta::MaxStale), Some(9));
        assert!(control(&["must-understand, no-store"]).has(Flag::MustUnderstand));
    }

    #[test]
    fn the_lifetime_is_the_first_that_is_stated() {
        let lifetime = |lines: &[(&'static str, &'static str)]| {
            explicit_lifetime(
                &lines
                    .iter()
                    .map(|(name, value)| {
                        (HeaderName::from_static(name), HeaderValue::from_static(value))
                    })
                    .collect(),
            )
        };
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        let expires = ("expires", "Sun, 06 Nov 1994 08:50:37 GMT");
        assert_eq!(lifetime(&[date]), None);
        assert_eq!(lifetime(&[("cache-control", "max-age=5, s-maxage=9"), expires]), Some(9));
        assert_eq!(lifetime(&[("cache-control", "max-age=5"), expires]), Some(5));
        assert_eq!(lifetime(&[date, expires]), Some(60));
        assert_eq!(lifetime(&[expires]), Some(0));
        assert_eq!(lifetime(&[date, ("expires", "0")]), Some(0));
        assert_eq!(lifetime(&[("date", expires.1), ("expires", date.1)]), Some(0));
    }

    proptest! {
        #[test]
        fn junk_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                let mut headers = HeaderMap::new();
                headers.insert(header::CACHE_CONTROL, value);
                let seconds = CacheControl::of(&headers).seconds(Delta::MaxAge);
                assert!(seconds.is_none_or(|seconds| seconds <= DELTA_SECONDS_MAX));
            }
        }

        #[test]
        fn the_smallest_of_several_counts(values in prop::collection::vec(any::<u32>(), 1..5)) {
            let lines: Vec<String> = values.iter().map(|v| format!("max-age={v}")).collect();
            let found = control(&lines.iter().map(String::as_str).collect::<Vec<_>>());
            let smallest = values.iter().min().copied().unwrap().min(DELTA_SECONDS_MAX);
            assert_eq!(found.seconds(Delta::MaxAge), Some(smallest));
        }
    }
}
