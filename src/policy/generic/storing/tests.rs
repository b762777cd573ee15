//! What is stored, and for how long.

use super::*;
use crate::clock::Moment;
use crate::config::RequestControl;
use crate::policy::testing::fields as map;
use std::time::Duration;

const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
const TEN_DAYS_BEFORE: &str = "Thu, 27 Oct 1994 08:49:37 GMT";
const MINUTE_LATER: &str = "Sun, 06 Nov 1994 08:50:37 GMT";
const DATE_SECONDS: i64 = 784_111_777;

fn times() -> Times {
    let at = Timestamp::from_secs(DATE_SECONDS);
    Times { request: at, response: Moment::at(at) }
}

fn judged(
    status: u16,
    lines: &[(&str, &str)],
    asked: &[(&str, &str)],
    rule: &CachingRule,
) -> Result<u32, GenericPassReason> {
    let mut headers = map(lines);
    headers.entry(header::DATE).or_insert(DATE.parse().unwrap());
    let wishes = Wishes::of(&map(asked), RequestControl::Honour);
    let status = StatusCode::from_u16(status).unwrap();
    let reply = GenericReply { status, headers: &headers, wishes: &wishes, times: times() };
    match admit(&reply, rule, &[HeaderName::from_static("cdn-cache-control")]) {
        StoringVerdict::Store(storable) => match storable.lifetime {
            Lifetime::Seconds(seconds) => Ok(seconds),
            Lifetime::Forever => panic!("nothing lasts for ever"),
        },
        StoringVerdict::Pass(reason) => Err(reason),
    }
}

fn plain(status: u16, lines: &[(&str, &str)]) -> Result<u32, GenericPassReason> {
    judged(status, lines, &[], &CachingRule::default())
}

#[test]
fn what_a_response_states_counts_first() {
    let control = |value| plain(200, &[("cache-control", value), ("expires", MINUTE_LATER)]);
    assert_eq!(control("max-age=5, s-maxage=7"), Ok(7));
    assert_eq!(control("max-age=5"), Ok(5));
    assert_eq!(control("public"), Ok(60));
    assert_eq!(control("max-age=x"), Err(GenericPassReason::Useless));
    assert_eq!(plain(200, &[("expires", "0")]), Err(GenericPassReason::Useless));
    assert_eq!(plain(200, &[("expires", "0"), ("etag", "\"a\"")]), Ok(0));
    assert_eq!(plain(599, &[("cache-control", "max-age=5")]), Ok(5));
}

#[test]
fn a_targeted_field_takes_the_place_of_all_others() {
    let with = |cdn| {
        plain(200, &[("cdn-cache-control", cdn), ("cache-control", "no-store"), ("expires", "0")])
    };
    assert_eq!(with("max-age=9"), Ok(9));
    assert_eq!(with("max-age=9, private"), Err(GenericPassReason::Private));
    assert_eq!(with("no-store"), Err(GenericPassReason::NoStore));
    assert_eq!(with("max-age=10000, &&&&&"), Err(GenericPassReason::NoStore));
}

#[test]
fn a_challenge_that_is_for_one_exchange_is_not_stored() {
    let challenged =
        |value| plain(401, &[("cache-control", "public, max-age=5"), ("www-authenticate", value)]);
    for for_all in [
        "Basic realm=\"Digest a, Negotiate b\", charset=\"UTF-8\"",
        "bearer",
        "Bearer realm=\"a\", error=\"b\", Basic realm=\"c\"",
    ] {
        assert_eq!(challenged(for_all), Ok(5), "{for_all}");
    }
    for for_one in [
        "Digest realm=\"a\", nonce=\"b\"",
        "Basic realm=\"a\", Digest realm=\"a\", nonce=\"b\"",
        "Negotiate YIIB=",
        "NTLM",
    ] {
        assert_eq!(challenged(for_one), Err(GenericPassReason::Challenge), "{for_one}");
    }
}

#[test]
fn nothing_forbidden_is_stored() {
    for (value, reason) in [
        ("no-store, max-age=5", GenericPassReason::NoStore),
        ("private, max-age=5", GenericPassReason::Private),
        ("max-age=5, PRIVATE=", GenericPassReason::Private),
    ] {
        assert_eq!(plain(200, &[("cache-control", value)]), Err(reason), "{value}");
    }
    let fresh = ("cache-control", "max-age=5");
    assert_eq!(plain(206, &[fresh]), Err(GenericPassReason::Status));
    assert_eq!(plain(304, &[fresh]), Err(GenericPassReason::Status));
    assert_eq!(plain(200, &[fresh, ("vary", "a, *")]), Err(GenericPassReason::VaryAny));
    assert_eq!(plain(200, &[("cache-control", "private=\"x\", max-age=5")]), Ok(5));
    let asked = [("cache-control", "no-store")];
    let rule = CachingRule::default();
    assert_eq!(judged(200, &[fresh], &asked, &rule), Err(GenericPassReason::RequestNoStore));
    assert_eq!(plain(201, &[]), Err(GenericPassReason::Unstated));
}

#[test]
fn an_answer_to_credentials_must_say_that_it_is_shared() {
    let asked = [("authorization", "Basic eDp5")];
    let with = |value| judged(200, &[("cache-control", value)], &asked, &CachingRule::default());
    assert_eq!(with("max-age=5"), Err(GenericPassReason::Authorization));
    for value in ["max-age=5, public", "max-age=5, must-revalidate", "s-maxage=5"] {
        assert_eq!(with(value), Ok(5), "{value}");
    }
}

#[test]
fn must_understand_stores_what_is_understood_alone() {
    let line = [("cache-control", "must-understand, no-store, max-age=5")];
    assert_eq!(plain(200, &line), Ok(5));
    assert_eq!(plain(599, &line), Err(GenericPassReason::Status));
}

#[test]
fn what_says_nothing_is_judged_by_its_age() {
    let changed = ("last-modified", TEN_DAYS_BEFORE);
    assert_eq!(plain(200, &[changed]), Ok(86_400));
    assert_eq!(plain(404, &[changed]), Ok(86_400));
    for status in [201, 202, 302, 307, 403, 500, 502, 503, 504, 599] {
        assert_eq!(plain(status, &[changed]), Err(GenericPassReason::Unstated), "{status}");
        let public = [changed, ("cache-control", "public")];
        assert_eq!(plain(status, &public), Ok(86_400), "{status}");
    }
    let long = ("last-modified", "Sun, 06 Nov 1970 08:49:37 GMT");
    assert_eq!(plain(200, &[long]), Ok(u32::try_from(HEURISTIC_SECONDS_MAX).unwrap()));
    assert_eq!(plain(200, &[("last-modified", MINUTE_LATER)]), Ok(0));
}

#[test]
fn the_sites_rule_sets_bounds() {
    let rule = CachingRule {
        ttl_default: Some(Duration::from_secs(40)),
        ttl_min: Duration::from_secs(10),
        ttl_max: Some(Duration::from_secs(100)),
        ..CachingRule::default()
    };
    let with = |value| judged(200, &[("cache-control", value)], &[], &rule);
    assert_eq!((with("max-age=5"), with("max-age=500"), with("public")), (Ok(10), Ok(100), Ok(40)));
    assert_eq!(with("no-store"), Err(GenericPassReason::NoStore));
    let confirmed = [("cache-control", "no-cache"), ("etag", "\"a\"")];
    assert_eq!(judged(200, &confirmed, &[], &rule), Ok(0));
    assert_eq!(judged(500, &[], &[], &rule), Err(GenericPassReason::Unstated));
    let statuses = vec![StatusCode::INTERNAL_SERVER_ERROR];
    let rule = CachingRule { statuses, ..rule };
    assert_eq!(judged(500, &[], &[], &rule), Ok(40));
}

#[test]
fn a_cookie_is_left_out_or_keeps_a_response_out() {
    let lines = [("cache-control", "max-age=5"), ("set-cookie", "a=b")];
    assert_eq!(plain(200, &lines), Ok(5));
    let rule = CachingRule { set_cookie: SetCookie::Pass, ..CachingRule::default() };
    assert_eq!(judged(200, &lines, &[], &rule), Err(GenericPassReason::SetCookie));
}

/// FAULTS.md G16a.
#[test]
fn a_304_with_a_cookie_renews_what_is_stored() {
    let stored = map(&[("etag", "\"1\""), ("cache-control", "max-age=5")]);
    let cookie = map(&[("set-cookie", "a=b")]);
    let mut headers = map(&[("date", DATE), ("cache-control", "max-age=9")]);
    headers.extend(cookie.clone());
    let wishes = Wishes::default();
    let reply =
        GenericReply { status: StatusCode::OK, headers: &headers, wishes: &wishes, times: times() };
    for set_cookie in [SetCookie::Strip, SetCookie::Pass] {
        let rule = CachingRule { set_cookie, ..CachingRule::default() };
        let confirmed = confirmed(&stored, &reply, &rule, &[]);
        let Confirmation::Renewed(renewed) = confirmed else { panic!("{set_cookie:?}") };
        assert_eq!(renewed.lifetime, Lifetime::Seconds(9));
        assert_eq!(renewed.fields.own, cookie);
        assert!(!renewed.fields.shared.contains_key("set-cookie"));
    }
}

#[test]
fn what_comes_stale_is_stored_only_where_it_can_be_confirmed() {
    let old = [("cache-control", "max-age=5"), ("age", "5")];
    assert_eq!(plain(200, &old), Err(GenericPassReason::Useless));
    let tagged = [old[0], old[1], ("etag", "\"a\"")];
    assert_eq!(plain(200, &tagged), Ok(5));
    let bridging = [("cache-control", "max-age=5, stale-if-error=9"), ("age", "5")];
    assert_eq!(plain(200, &bridging), Ok(5));
}
