//! Decides whether a stored response may be used for a request: at once, while it is refreshed,
//! after its origin has confirmed it, or if no origin has an answer. The rules are those of RFC
//! 9111 section 4, RFC 5861 and RFC 8246. Pure.

use super::Directives;
use super::request::Wishes;
use crate::clock::Timestamp;
use crate::config::CachingRule;
use crate::object::{Lifetime, Meta};
use crate::rfc::cache_control::{Delta, Flag};
use std::time::Duration;

/// What may be done with a stored response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reuse {
    /// It is sent as it is.
    Serve,
    /// It is sent as it is, and its origin is asked in the background.
    ServeAndRefresh,
    /// Its origin is asked first.
    Confirm,
}

/// Why no origin has a usable answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outage {
    /// None could be asked.
    Disconnected,
    /// One answered 500, 502, 503 or 504.
    ServerError,
}

/// Seconds for which a stale response bridges a disconnection if no field states how long: RFC 9111
/// section 4.2.4 permits it, and a day is what an operator needs to come back.
const DISCONNECTED_SECONDS: u64 = 24 * 60 * 60;

/// How long an origin is waited for if an error of it may be bridged.
const WAIT_FOR_ANSWER: Duration = Duration::from_secs(1);

/// How long it is waited for before it counts as disconnected.
const WAIT_FOR_CONNECTION: Duration = Duration::from_secs(10);

/// What may be done with `stored`, for a request with these `wishes`.
pub fn judge(
    stored: &Meta,
    directives: &Directives,
    wishes: &Wishes,
    rule: &CachingRule,
    now: Timestamp,
) -> Reuse {
    let is_stale = stored.is_invalidated || stored.facts().has_unknown_age(now);
    if is_stale || wishes.wants_confirmation() || directives.must_be_confirmed() {
        return Reuse::Confirm;
    }
    let age = stored.age_at(now);
    let (is_fresh, left, stale_for) = match stored.lifetime {
        Lifetime::Forever => (true, u64::MAX, 0),
        Lifetime::Seconds(seconds) => {
            let seconds = u64::from(seconds);
            (age < seconds, seconds.saturating_sub(age), age.saturating_sub(seconds))
        }
    };
    let is_immutable = is_fresh && directives.control.has(Flag::Immutable);
    if wishes.max_age().is_some_and(|oldest| age > oldest || oldest == 0) && !is_immutable {
        return Reuse::Confirm;
    }
    if wishes.min_fresh().is_some_and(|seconds| left < seconds) {
        return Reuse::Confirm;
    }
    if is_fresh {
        return Reuse::Serve;
    }
    if forbids_stale(directives) {
        return Reuse::Confirm;
    }
    if wishes.max_stale().is_some_and(|seconds| stale_for <= seconds) {
        return Reuse::Serve;
    }
    let window = directives.control.seconds(Delta::StaleWhileRevalidate).map(u64::from);
    let window = window.unwrap_or(rule.stale_while_revalidate.as_secs());
    if wishes.max_age().is_none() && stale_for < window {
        return Reuse::ServeAndRefresh;
    }
    Reuse::Confirm
}

/// Whether `stored` may be sent if its origin could not confirm it for that reason.
pub fn may_bridge(
    stored: &Meta,
    directives: &Directives,
    wishes: &Wishes,
    rule: &CachingRule,
    outage: Outage,
    now: Timestamp,
) -> bool {
    if forbids_stale(directives) || directives.must_be_confirmed() {
        return false;
    }
    let stale_for = match stored.lifetime {
        Lifetime::Forever => 0,
        Lifetime::Seconds(seconds) => stored.age_at(now).saturating_sub(u64::from(seconds)),
    };
    let stated = directives.control.seconds(Delta::StaleIfError).map(u64::from);
    let permitted = stated.or(wishes.stale_if_error());
    let window = permitted.or(rule.stale_if_error.map(|window| window.as_secs()));
    match (window, outage) {
        (Some(window), _) => stale_for < window,
        (None, Outage::Disconnected) => stale_for < DISCONNECTED_SECONDS,
        (None, Outage::ServerError) => false,
    }
}

/// How long a request waits at `now` for an origin to confirm `stored`, which is sent after that;
/// `None` if it may not be sent unconfirmed, or the request itself asks for confirmation.
pub fn revalidation_wait(
    stored: &Meta,
    directives: &Directives,
    wishes: &Wishes,
    rule: &CachingRule,
    now: Timestamp,
) -> Option<Duration> {
    let bridges = |outage| may_bridge(stored, directives, wishes, rule, outage, now);
    if wishes.wants_confirmation() || wishes.max_age().is_some() {
        return None;
    }
    let wait = if bridges(Outage::ServerError) {
        WAIT_FOR_ANSWER
    } else if bridges(Outage::Disconnected) {
        WAIT_FOR_CONNECTION
    } else {
        return None;
    };
    Some(rule.revalidation_wait.unwrap_or(wait))
}

/// Whether nothing permits the use of it once it is stale (RFC 9111 sections 4.2.4, 5.2.2).
fn forbids_stale(directives: &Directives) -> bool {
    let control = &directives.control;
    control.has(Flag::MustRevalidate)
        || control.has(Flag::ProxyRevalidate)
        || control.seconds(Delta::SharedMaxAge).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RequestControl;
    use crate::policy::testing::{fields, meta};
    use std::time::Duration;

    fn judged(stored: &str, asked: &str, age: u64) -> Reuse {
        let mut meta = meta(&[("cache-control", stored)]);
        meta.lifetime = Lifetime::Seconds(60);
        let directives = Directives::of(&meta.headers, &[]);
        let wishes = Wishes::of(&fields(&[("cache-control", asked)]), RequestControl::Honour);
        let now = meta.response_time.plus(Duration::from_secs(age));
        judge(&meta, &directives, &wishes, &CachingRule::default(), now)
    }

    #[test]
    fn a_request_may_ask_for_more_and_for_less() {
        for (stored, asked, age, expected) in [
            ("", "", 59, Reuse::Serve),
            ("", "", 60, Reuse::Confirm),
            ("", "no-cache", 0, Reuse::Confirm),
            ("", "max-age=10", 10, Reuse::Serve),
            ("", "max-age=10", 11, Reuse::Confirm),
            ("", "max-age=0", 0, Reuse::Confirm),
            ("immutable", "max-age=0", 10, Reuse::Serve),
            ("immutable", "max-age=0", 60, Reuse::Confirm),
            ("immutable", "no-cache", 10, Reuse::Confirm),
            ("", "min-fresh=20", 40, Reuse::Serve),
            ("", "min-fresh=20", 41, Reuse::Confirm),
            ("", "max-stale", 1_000, Reuse::Serve),
            ("", "max-stale=10", 70, Reuse::Serve),
            ("", "max-stale=10", 71, Reuse::Confirm),
            ("must-revalidate", "max-stale", 61, Reuse::Confirm),
            ("s-maxage=60", "max-stale", 61, Reuse::Confirm),
            ("no-cache", "", 0, Reuse::Confirm),
            ("no-cache=\"set-cookie\"", "", 0, Reuse::Serve),
            ("stale-while-revalidate=10", "", 69, Reuse::ServeAndRefresh),
            ("stale-while-revalidate=10", "", 70, Reuse::Confirm),
            ("stale-while-revalidate=10, must-revalidate", "", 61, Reuse::Confirm),
            ("stale-while-revalidate=10", "max-age=300", 61, Reuse::Confirm),
        ] {
            assert_eq!(judged(stored, asked, age), expected, "{stored:?} {asked:?} {age}");
        }
    }

    #[test]
    fn the_sites_window_counts_where_the_response_states_none() {
        let mut meta = meta(&[]);
        meta.lifetime = Lifetime::Seconds(60);
        let rule = CachingRule {
            stale_while_revalidate: Duration::from_secs(5),
            ..CachingRule::default()
        };
        let at = |seconds| {
            let now = meta.response_time.plus(Duration::from_secs(seconds));
            judge(&meta, &Directives::of(&meta.headers, &[]), &Wishes::default(), &rule, now)
        };
        assert_eq!((at(64), at(65)), (Reuse::ServeAndRefresh, Reuse::Confirm));
    }

    #[test]
    fn what_was_invalidated_is_confirmed() {
        let mut meta = meta(&[]);
        meta.is_invalidated = true;
        let directives = Directives::of(&meta.headers, &[]);
        let rule = CachingRule::default();
        let judged = judge(&meta, &directives, &Wishes::default(), &rule, meta.response_time);
        assert_eq!(judged, Reuse::Confirm);
    }

    /// FAULTS.md S6.
    #[test]
    fn what_came_in_the_future_is_confirmed_and_bridges_an_outage() {
        let mut meta = meta(&[("cache-control", "stale-while-revalidate=10")]);
        meta.lifetime = Lifetime::Seconds(60);
        let directives = Directives::of(&meta.headers, &[]);
        let wishes = Wishes::of(&fields(&[("cache-control", "max-stale")]), RequestControl::Honour);
        let rule = CachingRule::default();
        let now = Timestamp::from_millis(meta.response_time.millis() - 7_200_000);
        for wishes in [Wishes::default(), wishes] {
            assert_eq!(judge(&meta, &directives, &wishes, &rule, now), Reuse::Confirm);
        }
        let why = Outage::Disconnected;
        assert!(may_bridge(&meta, &directives, &Wishes::default(), &rule, why, now));
        meta.lifetime = Lifetime::Forever;
        let judged = judge(&meta, &directives, &Wishes::default(), &rule, now);
        assert_eq!(judged, Reuse::Serve);
    }

    fn bridged(stored: &str, rule: &CachingRule, outage: Outage, stale_for: u64) -> bool {
        let mut meta = meta(&[("cache-control", stored)]);
        meta.lifetime = Lifetime::Seconds(60);
        let directives = Directives::of(&meta.headers, &[]);
        let now = meta.response_time.plus(Duration::from_secs(60 + stale_for));
        may_bridge(&meta, &directives, &Wishes::default(), rule, outage, now)
    }

    #[test]
    fn an_outage_is_bridged_where_that_is_permitted() {
        let plain = CachingRule::default();
        let own = CachingRule { stale_if_error: Some(Duration::from_secs(9)), ..plain.clone() };
        for (stored, rule, outage, stale_for, expected) in [
            ("", &plain, Outage::Disconnected, DISCONNECTED_SECONDS - 1, true),
            ("", &plain, Outage::Disconnected, DISCONNECTED_SECONDS, false),
            ("", &plain, Outage::ServerError, 0, false),
            ("stale-if-error=5", &plain, Outage::ServerError, 4, true),
            ("stale-if-error=5", &plain, Outage::Disconnected, 5, false),
            ("stale-if-error=5", &own, Outage::ServerError, 5, false),
            ("", &own, Outage::ServerError, 8, true),
            ("", &own, Outage::Disconnected, 9, false),
            ("must-revalidate, stale-if-error=5", &own, Outage::Disconnected, 0, false),
            ("proxy-revalidate", &own, Outage::Disconnected, 0, false),
            ("s-maxage=60", &own, Outage::Disconnected, 0, false),
            ("no-cache", &own, Outage::Disconnected, 0, false),
        ] {
            let found = bridged(stored, rule, outage, stale_for);
            assert_eq!(found, expected, "{stored:?} {outage:?} {stale_for}");
        }
    }

    #[test]
    fn the_wait_for_a_confirmation_goes_by_what_permits_the_stale_response() {
        let plain = CachingRule::default();
        let own =
            CachingRule { revalidation_wait: Some(Duration::from_millis(3)), ..plain.clone() };
        let day = CachingRule { stale_if_error: Some(Duration::from_hours(24)), ..plain.clone() };
        for (stored, asked, rule, expected) in [
            ("", "", &plain, Some(WAIT_FOR_CONNECTION)),
            ("stale-if-error=5", "", &plain, Some(WAIT_FOR_ANSWER)),
            ("", "stale-if-error=5", &plain, Some(WAIT_FOR_ANSWER)),
            ("", "", &day, Some(WAIT_FOR_ANSWER)),
            ("", "", &own, Some(Duration::from_millis(3))),
            ("", "no-cache", &own, None),
            ("", "max-age=0", &own, None),
            ("must-revalidate, stale-if-error=5", "", &own, None),
            ("no-cache", "", &own, None),
            ("stale-if-error=0", "", &own, None),
        ] {
            let mut meta = meta(&[("cache-control", stored)]);
            meta.lifetime = Lifetime::Seconds(60);
            let directives = Directives::of(&meta.headers, &[]);
            let wishes = Wishes::of(&fields(&[("cache-control", asked)]), RequestControl::Honour);
            let now = meta.response_time.plus(Duration::from_secs(61));
            let wait = revalidation_wait(&meta, &directives, &wishes, rule, now);
            assert_eq!(wait, expected, "{stored:?} {asked:?}");
        }
    }
}
