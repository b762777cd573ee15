//! Whether what is stored may be used without asking (RFC 9111 section 4.2). Pure. The engine
//! asks on every look-up that finds something.

use crate::clock::Timestamp;
use crate::config::LifetimeTerms;
use crate::object::{Facts, Lifetime, Meta};
use crate::rfc::cache_control::{CacheControl, Delta, Flag};
use http::StatusCode;
use std::time::Duration;

/// How a stored response stands at some moment. All in whole seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// It may be used as it is.
    Fresh {
        /// Its age.
        age: u64,
        /// How long it stays fresh; `None` for good.
        ttl: Option<u64>,
    },
    /// It is to be confirmed first.
    Stale {
        /// Its age.
        age: u64,
        /// How long it has been stale; zero if a soft purge made it stale before its time, or its
        /// age is unknown.
        stale_for: u64,
    },
}

impl Freshness {
    /// Whether it may be used as it is.
    pub const fn is_fresh(self) -> bool {
        matches!(self, Self::Fresh { .. })
    }

    /// Its age in seconds.
    pub const fn age(self) -> u64 {
        match self {
            Self::Fresh { age, .. } | Self::Stale { age, .. } => age,
        }
    }

    /// Seconds of freshness left, as `Cache-Status` puts it: negative for what is stale, `None` if
    /// it never ends.
    pub fn ttl_seconds(self) -> Option<i64> {
        match self {
            Self::Fresh { ttl, .. } => ttl.map(|ttl| i64::try_from(ttl).unwrap_or(i64::MAX)),
            Self::Stale { stale_for, .. } => {
                Some(i64::try_from(stale_for).map_or(i64::MIN, |seconds| -seconds))
            }
        }
    }
}

/// How a response with these facts stands at `now`. One of unknown age is stale.
pub fn judge(facts: &Facts, now: Timestamp) -> Freshness {
    let age = facts.age_at(now);
    let is_stale = facts.is_invalidated || facts.has_unknown_age(now);
    match facts.lifetime {
        Lifetime::Forever if is_stale => Freshness::Stale { age, stale_for: 0 },
        Lifetime::Forever => Freshness::Fresh { age, ttl: None },
        Lifetime::Seconds(seconds) => match u64::from(seconds).checked_sub(age) {
            Some(ttl @ 1..) if !is_stale => Freshness::Fresh { age, ttl: Some(ttl) },
            _ => Freshness::Stale { age, stale_for: age.saturating_sub(u64::from(seconds)) },
        },
    }
}

/// Whether `meta`, fresh or stale, may be served at `now` since no origin gives a usable answer.
///
/// Never a remembered absence: clients keep a false one for an hour. Never what its origin said
/// must be confirmed first (RFC 9111 section 4.2.4): `must-revalidate`, `proxy-revalidate`,
/// `no-cache`, `s-maxage`.
pub fn may_serve_stale_if_error(meta: &Meta, now: Timestamp, terms: &LifetimeTerms) -> bool {
    may_serve_stale(meta, now, terms.stale_if_error)
}

/// How long a request waits at `now` for an origin to confirm `meta`, which is served after that;
/// `None` if it may not be served unconfirmed.
///
/// Zero while `stale_while_revalidate` lasts, but for what was purged softly or has an unknown age;
/// else `revalidation_wait`, if [`may_serve_stale_if_error`].
pub fn revalidation_wait(meta: &Meta, now: Timestamp, terms: &LifetimeTerms) -> Option<Duration> {
    let facts = meta.facts();
    let may_serve_meanwhile = !facts.is_invalidated
        && !facts.has_unknown_age(now)
        && !terms.stale_while_revalidate.is_zero()
        && may_serve_stale(meta, now, terms.stale_while_revalidate);
    if may_serve_meanwhile {
        return Some(Duration::ZERO);
    }
    may_serve_stale_if_error(meta, now, terms).then_some(terms.revalidation_wait)
}

fn may_serve_stale(meta: &Meta, now: Timestamp, window: Duration) -> bool {
    if meta.status != StatusCode::OK {
        return false;
    }
    match judge(&meta.facts(), now) {
        Freshness::Fresh { .. } => true,
        Freshness::Stale { stale_for, .. } => {
            let control = CacheControl::of(&meta.headers);
            stale_for < window.as_secs()
                && !control.has(Flag::MustRevalidate)
                && !control.has(Flag::ProxyRevalidate)
                && !control.has(Flag::NoCache)
                && control.seconds(Delta::SharedMaxAge).is_none()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{meta, terms};
    use proptest::proptest;

    #[test]
    fn fresh_until_its_age_reaches_its_lifetime() {
        let mut meta = meta(&[]);
        meta.lifetime = Lifetime::Seconds(60);
        meta.age_at_response = 10;
        let at =
            |seconds| judge(&meta.facts(), meta.response_time.plus(Duration::from_secs(seconds)));
        assert_eq!(at(0), Freshness::Fresh { age: 10, ttl: Some(50) });
        assert_eq!(at(49), Freshness::Fresh { age: 59, ttl: Some(1) });
        assert_eq!(at(50), Freshness::Stale { age: 60, stale_for: 0 });
        assert_eq!(at(55), Freshness::Stale { age: 65, stale_for: 5 });
        assert_eq!(at(55).ttl_seconds(), Some(-5));
        assert_eq!((at(55).age(), at(55).is_fresh()), (65, false));
    }

    #[test]
    fn a_proven_object_is_fresh_until_purged() {
        let mut meta = meta(&[]);
        meta.lifetime = Lifetime::Forever;
        let late = meta.response_time.plus(Duration::from_secs(1 << 40));
        assert_eq!(judge(&meta.facts(), late), Freshness::Fresh { age: 1 << 40, ttl: None });
        assert_eq!(judge(&meta.facts(), late).ttl_seconds(), None);
        meta.is_invalidated = true;
        assert_eq!(judge(&meta.facts(), late), Freshness::Stale { age: 1 << 40, stale_for: 0 });
    }

    #[test]
    fn a_soft_purge_makes_stale_and_still_serves_in_an_outage() {
        let mut meta = meta(&[]);
        meta.is_invalidated = true;
        assert_eq!(
            judge(&meta.facts(), meta.response_time),
            Freshness::Stale { age: 0, stale_for: 0 }
        );
        assert!(may_serve_stale_if_error(&meta, meta.response_time, &terms()));
    }

    #[test]
    fn an_outage_is_bridged_for_as_long_as_configured() {
        let mut meta = meta(&[]);
        meta.lifetime = Lifetime::Seconds(60);
        let mut terms = terms();
        terms.stale_if_error = Duration::from_secs(100);
        let at = |seconds| meta.response_time.plus(Duration::from_secs(seconds));
        assert!(may_serve_stale_if_error(&meta, at(159), &terms));
        assert!(!may_serve_stale_if_error(&meta, at(160), &terms));
        terms.stale_if_error = Duration::ZERO;
        assert!(may_serve_stale_if_error(&meta, at(59), &terms));
        assert!(!may_serve_stale_if_error(&meta, at(60), &terms));
    }

    #[test]
    fn what_is_confirmed_meanwhile_serves_for_a_while_unless_it_was_purged() {
        let mut meta = meta(&[]);
        meta.lifetime = Lifetime::Seconds(60);
        let (own, meanwhile) = (Duration::from_secs(3), Duration::from_secs(100));
        let terms =
            LifetimeTerms { revalidation_wait: own, stale_while_revalidate: meanwhile, ..terms() };
        let at = |seconds| meta.response_time.plus(Duration::from_secs(seconds));
        let (within, after) = (at(159), at(160));
        assert_eq!(revalidation_wait(&meta, within, &terms), Some(Duration::ZERO));
        assert_eq!(revalidation_wait(&meta, after, &terms), Some(own));
        let none = LifetimeTerms { stale_while_revalidate: Duration::ZERO, ..terms };
        assert_eq!(revalidation_wait(&meta, within, &none), Some(own));
        meta.is_invalidated = true;
        assert_eq!(revalidation_wait(&meta, within, &terms), Some(own));
    }

    #[test]
    fn neither_absence_nor_what_must_be_confirmed_is_served_stale() {
        for value in ["must-revalidate", "proxy-revalidate", "no-cache", "s-maxage=5"] {
            let mut meta = meta(&[("cache-control", value)]);
            meta.lifetime = Lifetime::Seconds(0);
            assert!(!may_serve_stale_if_error(&meta, meta.response_time, &terms()), "{value}");
        }
        let mut meta = meta(&[]);
        meta.lifetime = Lifetime::Seconds(0);
        assert!(may_serve_stale_if_error(&meta, meta.response_time, &terms()));
        meta.status = StatusCode::NOT_FOUND;
        assert!(!may_serve_stale_if_error(&meta, meta.response_time, &terms()));
    }

    #[test]
    fn only_what_bridges_an_outage_bounds_the_wait_for_its_confirmation() {
        let terms = LifetimeTerms { revalidation_wait: Duration::from_secs(3), ..terms() };
        let wait = |control: &str| {
            let mut meta = meta(&[("cache-control", control)]);
            meta.lifetime = Lifetime::Seconds(0);
            revalidation_wait(&meta, meta.response_time, &terms)
        };
        assert_eq!(wait("max-age=0"), Some(Duration::from_secs(3)));
        assert_eq!(wait("must-revalidate"), None);
        let none = LifetimeTerms { stale_if_error: Duration::ZERO, ..terms };
        let mut meta = meta(&[]);
        meta.lifetime = Lifetime::Seconds(0);
        assert_eq!(revalidation_wait(&meta, meta.response_time, &none), None);
    }

    /// FAULTS.md S6.
    #[test]
    fn what_came_in_the_future_is_stale_and_bridges_an_outage() {
        let mut meta = meta(&[]);
        meta.lifetime = Lifetime::Seconds(86_400);
        // The clock was two hours ahead when it was stored, by an earlier process.
        let now = Timestamp::from_millis(meta.response_time.millis() - 7_200_000);
        assert_eq!(judge(&meta.facts(), now), Freshness::Stale { age: 0, stale_for: 0 });
        let meanwhile = Duration::from_secs(100);
        let wait = Duration::from_secs(3);
        let terms = LifetimeTerms {
            revalidation_wait: wait,
            stale_while_revalidate: meanwhile,
            stale_if_error: meanwhile,
            ..terms()
        };
        assert_eq!(revalidation_wait(&meta, now, &terms), Some(wait));
        // A request that began just before it came.
        let before = Timestamp::from_millis(meta.response_time.millis() - 5_000);
        assert!(judge(&meta.facts(), before).is_fresh());
        assert!(!judge(&meta.facts(), Timestamp::from_millis(before.millis() - 1)).is_fresh());
        meta.lifetime = Lifetime::Forever;
        assert!(judge(&meta.facts(), now).is_fresh(), "its bytes are proven");
    }

    proptest! {
        #[test]
        fn age_and_lifetime_add_up(age: u32, seconds: u32, response: i64, now: i64) {
            let mut meta = meta(&[]);
            meta.lifetime = Lifetime::Seconds(seconds);
            meta.age_at_response = age;
            meta.response_time = Timestamp::from_millis(response);
            match judge(&meta.facts(), Timestamp::from_millis(now)) {
                Freshness::Fresh { age, ttl } => {
                    assert_eq!(Some(u64::from(seconds) - age), ttl);
                }
                Freshness::Stale { age, stale_for } if age >= u64::from(seconds) => {
                    assert_eq!(age - stale_for, u64::from(seconds));
                }
                Freshness::Stale { stale_for, .. } => {
                    assert_eq!(stale_for, 0);
                    assert!(response > now, "stale before its time");
                }
            }
        }
    }
}
