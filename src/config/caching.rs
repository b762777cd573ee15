//! How a generic site caches, as the rest of the crate sees it. Values only.

use crate::rfc::cache_control::is_heuristically_cacheable;
use http::{HeaderName, HeaderValue, StatusCode};
use std::time::Duration;

/// How a generic site caches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caching {
    /// The targeted fields (RFC 9213) that take the place of `Cache-Control`, the first one first.
    pub targeted: Vec<HeaderName>,
    /// Whether clients may ask for fresher answers than what is stored.
    pub request_control: RequestControl,
    /// What of a query is part of the key, and goes to the origin.
    pub query: QueryKept,
    /// Fields of requests that go to the origin beside those that are known to be harmless,
    /// although its answer may be stored.
    pub request_headers: Vec<HeaderName>,
    /// Fields that are set on every answer.
    pub set_headers: Vec<(HeaderName, HeaderValue)>,
    /// Fields that are taken out of every answer.
    pub remove_headers: Vec<HeaderName>,
    /// The rules by path; the first that matches counts.
    pub rules: Vec<CachingRule>,
    /// What holds if no rule matches.
    pub otherwise: CachingRule,
}

impl Caching {
    /// The rule for `path`.
    pub fn rule(&self, path: &str) -> &CachingRule {
        let matching = self.rules.iter().find(|rule| rule.paths.iter().any(|one| one.is_of(path)));
        matching.unwrap_or(&self.otherwise)
    }
}

impl Default for Caching {
    fn default() -> Self {
        Self {
            targeted: vec![
                HeaderName::from_static("cdn-cache-control"),
                HeaderName::from_static("surrogate-control"),
            ],
            request_control: RequestControl::Honour,
            query: QueryKept::All,
            request_headers: Vec::new(),
            set_headers: Vec::new(),
            remove_headers: Vec::new(),
            rules: Vec::new(),
            otherwise: CachingRule::default(),
        }
    }
}

/// Whether `Cache-Control` and `Pragma` of requests count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestControl {
    /// As RFC 9111 says.
    Honour,
    /// Only `only-if-cached`, which spares the origin.
    Ignore,
}

/// What of a query is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum QueryKept {
    /// All of it, as it is.
    All,
    /// Nothing.
    Nothing,
    /// The parameters with these names, in their order.
    Only(Vec<String>),
}

/// What becomes of a `Set-Cookie`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SetCookie {
    /// The response is stored without it; only the client that caused it gets it.
    #[default]
    Strip,
    /// The response is not stored.
    Pass,
}

/// A pattern of paths: a path, in which `*` stands for any bytes, slashes too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern(String);

impl PathPattern {
    /// The pattern as written.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Whether it is a pattern of `path`. Takes time in proportion to both lengths multiplied, at
    /// most.
    pub fn is_of(&self, path: &str) -> bool {
        let mut parts = self.0.split('*');
        let Some(mut rest) = parts.next().and_then(|first| path.strip_prefix(first)) else {
            return false;
        };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        for part in parts {
            match rest.split_once(part) {
                Some((_, after)) => rest = after,
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

/// For how long the responses of some paths are fresh, and what becomes of stale ones.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CachingRule {
    /// The paths that it is for.
    pub paths: Vec<PathPattern>,
    /// Freshness of a response that does not state any; none to judge it by its age.
    pub ttl_default: Option<Duration>,
    /// Freshness at least.
    pub ttl_min: Duration,
    /// Freshness at most, whatever is stated.
    pub ttl_max: Option<Duration>,
    /// The statuses for which the default counts; empty for those that are heuristically cacheable.
    pub statuses: Vec<StatusCode>,
    /// For how long a stale response is sent while it is refreshed, if it does not say so itself.
    pub stale_while_revalidate: Duration,
    /// For how long a stale response takes the place of an error, if it does not say so itself;
    /// none for what RFC 9111 permits.
    pub stale_if_error: Option<Duration>,
    /// How long a request waits for an origin to confirm a stale response; none for what goes by
    /// what permits the stale one.
    pub revalidation_wait: Option<Duration>,
    /// What becomes of a `Set-Cookie`.
    pub set_cookie: SetCookie,
}

impl CachingRule {
    /// The freshness of a response of `status` that states none, if the rule gives one.
    pub fn ttl(&self, status: StatusCode) -> Option<Duration> {
        let counts = if self.statuses.is_empty() {
            is_heuristically_cacheable(status)
        } else {
            self.statuses.contains(&status)
        };
        self.ttl_default.filter(|_| counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, path, expected) in [
            ("/", "/", true),
            ("/", "/a", false),
            ("/*", "/a/b", true),
            ("*", "/", true),
            ("/a/*.xz", "/a/b/c.xz", true),
            ("/a/*.xz", "/a/.xz", true),
            ("/a/*.xz", "/a/b.xzx", false),
            ("/a/*.xz", "/b/a/c.xz", false),
            ("*/b/*", "/a/b/c", true),
            ("*/b/*", "/a/bc", false),
            ("/a*a", "/a", false),
            ("/a**c", "/abc", true),
        ] {
            assert_eq!(PathPattern::new(pattern).is_of(path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rule = |path, seconds| CachingRule {
            paths: vec![PathPattern::new(path)],
            ttl_min: Duration::from_secs(seconds),
            ..CachingRule::default()
        };
        let rules = vec![rule("/a/*", 1), rule("/a/b", 2)];
        let caching = Caching { rules, ..Caching::default() };
        assert_eq!(caching.rule("/a/b").ttl_min, Duration::from_secs(1));
        assert_eq!(caching.rule("/b"), &caching.otherwise);
    }
}
