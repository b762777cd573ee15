//! The settings of HTTP caching: `[site.caching]` and its rules by path.

use super::setting::{Fallback, Setting, SettingKind, SettingTable, Shape};
use std::time::Duration;

/// The tables, in the order of the reference.
pub(super) const TABLES: &[SettingTable] = &[
    SettingTable::new(
        "site.caching",
        Shape::Once,
        "How a site of kind \"generic\" caches. What a response says about itself counts (RFC \
         9111, RFC 5861, RFC 9213), within these bounds.\n\n\
         The origin is asked with its own Host. X-Forwarded-Proto tells it the scheme of the \
         client's request, and X-Forwarded-Host the host if that is one of hosts. The port is \
         told if a listener of the edge has it and it is not the usual one of the scheme. A port \
         that a device before the edge maps is not told. A site without hosts sends no \
         X-Forwarded-Host: an application that makes URLs of it needs hosts. Answers are stored \
         apart for each scheme and host, and a purge by path removes all of them.\n\n\
         If the origin sends strong entity tags, ranges of large files are kept chunk by chunk \
         and become the whole, and a body that breaks off is continued. A client never gets bytes \
         of two versions.",
    ),
    SettingTable::new(
        "site.caching.rule",
        Shape::Repeated,
        "Other bounds for some paths; of several rules that match, the first counts.",
    ),
];

/// The settings, in the order of the reference.
pub(super) const SETTINGS: &[Setting] = &[
    Setting::new(
        "site.caching.targeted",
        SettingKind::Texts,
        Fallback::Is(r#"["CDN-Cache-Control", "Surrogate-Control"]"#),
    )
    .example(r#"["Narthex-Cache-Control", "CDN-Cache-Control"]"#)
    .doc(
        "Response fields that take the place of Cache-Control and Expires here (RFC 9213); the \
         first that is there and valid counts.",
    ),
    Setting::new(
        "site.caching.request_cache_control",
        SettingKind::Word(&["honour", "ignore"]),
        Fallback::Is(r#""honour""#),
    )
    .example(r#""ignore""#)
    .doc(
        "Whether clients may ask for fresher answers than what is stored, by Cache-Control and \
         Pragma. \"ignore\" spares the origin; only-if-cached counts all the same.",
    ),
    Setting::new(
        "site.caching.query",
        SettingKind::Word(&["keep", "drop", "only"]),
        Fallback::Is(r#""keep""#),
    )
    .example(r#""drop""#)
    .doc(
        "What of a query is part of the key and goes to the origin: all of it, nothing, or the \
         parameters named in query_names.",
    ),
    Setting::new("site.caching.query_names", SettingKind::Texts, Fallback::Is("[]"))
        .example(r#"["version", "arch"]"#)
        .doc("The parameters that query = \"only\" keeps, in the order of the request."),
    Setting::new("site.caching.request_headers", SettingKind::Texts, Fallback::Is("[]"))
        .example(r#"["X-Api-Version"]"#)
        .doc(
            "Further fields of GET and HEAD requests that go to the origin. Its answer may be \
             stored for every client, so of fields that are not usual only these do. An origin \
             that answers by one of them must say so in Vary.",
        ),
    Setting::new("site.caching.set_headers", SettingKind::Texts, Fallback::Is("[]"))
        .example(r#"["Strict-Transport-Security: max-age=31536000"]"#)
        .doc("Fields, NAME: VALUE, that every answer of the site gets, in place of its own."),
    Setting::new("site.caching.remove_headers", SettingKind::Texts, Fallback::Is("[]"))
        .example(r#"["Server", "X-Powered-By"]"#)
        .doc("Fields that no answer of the site has."),
    ttl_default("site.caching.ttl_default"),
    ttl_min("site.caching.ttl_min"),
    ttl_max("site.caching.ttl_max"),
    statuses("site.caching.statuses"),
    stale_while_revalidate("site.caching.stale_while_revalidate"),
    stale_if_error("site.caching.stale_if_error"),
    revalidation_wait("site.caching.revalidation_wait"),
    set_cookie("site.caching.set_cookie"),
    Setting::new("site.caching.rule.paths", SettingKind::Texts, Fallback::Required)
        .example(r#"["/channels/*", "*.iso"]"#)
        .doc("Paths that the rule is for; * stands for any characters, slashes too."),
    ttl_default("site.caching.rule.ttl_default"),
    ttl_min("site.caching.rule.ttl_min"),
    ttl_max("site.caching.rule.ttl_max"),
    statuses("site.caching.rule.statuses"),
    stale_while_revalidate("site.caching.rule.stale_while_revalidate"),
    stale_if_error("site.caching.rule.stale_if_error"),
    revalidation_wait("site.caching.rule.revalidation_wait"),
    set_cookie("site.caching.rule.set_cookie"),
];

const LIFETIME: SettingKind =
    SettingKind::Duration { min: Duration::ZERO, max: Duration::from_hours(24 * 3_650) };

const fn ttl_default(path: &'static str) -> Setting {
    Setting::new(path, LIFETIME, Fallback::Derived("a tenth of the time since Last-Modified"))
        .example(r#""5m""#)
        .doc("How long a response is fresh that does not say so itself.")
}

const fn ttl_min(path: &'static str) -> Setting {
    Setting::new(path, LIFETIME, Fallback::Is(r#""0s""#)).example(r#""10s""#).doc(
        "How long a response is fresh at least, whatever it says. What is not to be stored, or \
         to be confirmed each time, stays so.",
    )
}

const fn ttl_max(path: &'static str) -> Setting {
    Setting::new(path, LIFETIME, Fallback::Derived("no bound"))
        .example(r#""7d""#)
        .doc("How long a response is fresh at most, whatever it says.")
}

const fn statuses(path: &'static str) -> Setting {
    Setting::new(
        path,
        SettingKind::Texts,
        Fallback::Derived("200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501"),
    )
    .example(r#"["200", "404"]"#)
    .doc("The statuses that ttl_default is for.")
}

const fn stale_while_revalidate(path: &'static str) -> Setting {
    Setting::new(path, LIFETIME, Fallback::Is(r#""0s""#)).example(r#""30s""#).doc(
        "How long a stale response is still sent while it is refreshed, if it does not say so \
         itself.",
    )
}

const fn stale_if_error(path: &'static str) -> Setting {
    Setting::new(
        path,
        LIFETIME,
        Fallback::Derived("1d if no origin can be asked, else what the response says"),
    )
    .example(r#""7d""#)
    .doc(
        "How long a stale response takes the place of an error, if it does not say so itself \
         (RFC 5861). must-revalidate, proxy-revalidate and s-maxage forbid it.",
    )
}

const fn revalidation_wait(path: &'static str) -> Setting {
    Setting::new(
        path,
        SettingKind::Duration { min: Duration::ZERO, max: Duration::from_hours(1) },
        Fallback::Derived(
            "1s if the response, the request or stale_if_error permits a stale response in \
             place of an error, else 10s",
        ),
    )
    .example(r#""300ms""#)
    .doc(
        "How long a request waits for an origin to confirm a stale response. Then it gets the \
         stale response if that may take the place of an error, and the origin's answer updates \
         the cache in the background. A request that asks for confirmation waits on.",
    )
}

const fn set_cookie(path: &'static str) -> Setting {
    Setting::new(path, SettingKind::Word(&["strip", "pass"]), Fallback::Is(r#""strip""#))
        .example(r#""pass""#)
        .doc(
            "What becomes of Set-Cookie in a response that may be stored. \"strip\": the response \
             is stored without it, and only the client of that request gets it. \"pass\": the \
             response is not stored.",
        )
}
