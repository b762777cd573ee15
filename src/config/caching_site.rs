//! From values to how a site caches, and what is wrong between them. Pure; called once for each
//! site that is read.

use super::caching::{Caching, CachingRule, PathPattern, QueryKept, RequestControl, SetCookie};
use super::lifetimes::{LifetimeRule, LifetimeTerms, Lifetimes};
use super::problem::{ProblemReport, Spotted};
use super::scope::TableValues;
use crate::nix::Class;
use http::{HeaderName, HeaderValue, StatusCode};
use std::time::Duration;

/// What a site of kind `nix-cache` has and a generic one does not.
const OF_BINARY_CACHES: [&str; 4] =
    ["site.base_path", "site.trusted_public_keys", "site.signatures", "site.follow_redirects_to"];
/// What the origins of such a site have.
const OF_THEIR_ORIGINS: [&str; 3] =
    ["site.origin.optional", "site.origin.signatures", "site.origin.trusted_public_keys"];
/// The tables of the same kind.
const TABLES_OF_BINARY_CACHES: [&str; 3] =
    ["site.cache_info", "site.lifetimes", "site.absence_filter"];

/// How the site of `scope` caches; none if it holds a binary cache.
pub(super) fn caching(scope: &TableValues, report: &mut ProblemReport) -> Option<Caching> {
    let kind = scope.text("site.kind").map(|kind| kind.value);
    if kind.as_deref() != Some("generic") {
        if scope.has_table("site.caching") {
            let message = "is for kind = \"generic\" alone; set that, or leave the table out";
            report.problem(scope.spot_of("site.caching").problem(message));
        }
        return None;
    }
    for path in OF_BINARY_CACHES.into_iter().filter(|path| scope.is_given(path)) {
        let message = "is for kind = \"nix-cache\" alone; leave it out";
        report.problem(scope.spot_of(path).problem(message));
    }
    for origin in scope.scopes("site.origin") {
        for path in OF_THEIR_ORIGINS.into_iter().filter(|path| origin.is_given(path)) {
            let message = "is for kind = \"nix-cache\" alone; leave it out";
            report.problem(origin.spot_of(path).problem(message));
        }
    }
    for path in TABLES_OF_BINARY_CACHES.into_iter().filter(|path| scope.has_table(path)) {
        let message = "is for kind = \"nix-cache\" alone; leave it out, and see [site.caching]";
        report.problem(scope.spot_of(path).problem(message));
    }
    let rules = scope.scopes("site.caching.rule").iter();
    Some(Caching {
        targeted: names(scope.texts("site.caching.targeted"), report),
        request_control: match word(scope, "site.caching.request_cache_control").as_str() {
            "ignore" => RequestControl::Ignore,
            _ => RequestControl::Honour,
        },
        query: query(scope, report),
        request_headers: names(scope.texts("site.caching.request_headers"), report),
        set_headers: fields(scope.texts("site.caching.set_headers"), report),
        remove_headers: names(scope.texts("site.caching.remove_headers"), report),
        rules: rules
            .map(|scope| CachingRule {
                paths: patterns(scope, "site.caching.rule.paths", report),
                ..rule(scope, "site.caching.rule", report)
            })
            .collect(),
        otherwise: rule(scope, "site.caching", report),
    })
}

/// How long the objects of the binary cache of `scope` stay fresh.
pub(super) fn lifetimes(scope: &TableValues, report: &mut ProblemReport) -> Lifetimes {
    let fresh = |class: Class| scope.duration(&format!("site.lifetimes.{}", class.as_str()));
    Lifetimes {
        fresh: Class::ALL.map(fresh),
        otherwise: LifetimeTerms {
            fresh: Duration::ZERO,
            fresh_min: scope.duration("site.lifetimes.fresh_min"),
            absent: scope.duration("site.lifetimes.absent"),
            stale_while_revalidate: scope.duration("site.lifetimes.stale_while_revalidate"),
            stale_if_error: scope.duration("site.lifetimes.stale_if_error"),
            revalidation_wait: scope.duration("site.lifetimes.revalidation_wait"),
        },
        rules: scope
            .scopes("site.lifetimes.rule")
            .iter()
            .map(|scope| lifetime_rule(scope, report))
            .collect(),
    }
}

fn lifetime_rule(scope: &TableValues, report: &mut ProblemReport) -> LifetimeRule {
    let given = |path: &str| scope.is_given(path).then(|| scope.duration(path));
    let (paths, classes) = ("site.lifetimes.rule.paths", "site.lifetimes.rule.classes");
    if !scope.is_given(paths) && !scope.is_given(classes) {
        let message = "says neither for which paths nor for which classes it is; write paths = \
                       [\"/PATH/*\"] or classes = [\"narinfo\"]";
        report.problem(scope.spot().problem(message));
    }
    let rule = LifetimeRule {
        paths: if scope.is_given(paths) { patterns(scope, paths, report) } else { Vec::new() },
        classes: self::classes(scope.texts(classes), report),
        fresh: given("site.lifetimes.rule.fresh"),
        fresh_min: given("site.lifetimes.rule.fresh_min"),
        absent: given("site.lifetimes.rule.absent"),
        stale_while_revalidate: given("site.lifetimes.rule.stale_while_revalidate"),
        stale_if_error: given("site.lifetimes.rule.stale_if_error"),
        revalidation_wait: given("site.lifetimes.rule.revalidation_wait"),
    };
    if let (Some(least), Some(most)) = (rule.fresh_min, rule.fresh)
        && most < least
    {
        let message = "is below fresh_min; write a longer time, or leave one of them out";
        report.problem(scope.spot_of("site.lifetimes.rule.fresh").problem(message));
    }
    rule
}

fn classes(texts: Vec<Spotted<String>>, report: &mut ProblemReport) -> Vec<Class> {
    let mut classes = Vec::new();
    for text in texts {
        let named = Class::ALL.into_iter().find(|class| class.as_str() == text.value);
        if named.is_none() {
            let known = Class::ALL.map(Class::as_str).join(", ");
            let message = format!("is no class of objects; write one of {known}");
            report.problem(text.spot.problem_with(&text.value, message));
        }
        classes.extend(named);
    }
    classes
}

/// The rule that the settings of `table` make, without its paths.
fn rule(scope: &TableValues, table: &str, report: &mut ProblemReport) -> CachingRule {
    let at = |key: &str| format!("{table}.{key}");
    let given = |key: &str| {
        let path = at(key);
        scope.is_given(&path).then(|| scope.duration(&path))
    };
    let (ttl_min, ttl_max) = (scope.duration(&at("ttl_min")), given("ttl_max"));
    if let Some(max) = ttl_max
        && max < ttl_min
    {
        let message = "is below ttl_min; write a longer time, or leave one of them out";
        report.problem(scope.spot_of(&at("ttl_max")).problem(message));
    }
    CachingRule {
        paths: Vec::new(),
        ttl_default: given("ttl_default"),
        ttl_min,
        ttl_max,
        statuses: statuses(scope.texts(&at("statuses")), report),
        stale_while_revalidate: scope.duration(&at("stale_while_revalidate")),
        stale_if_error: given("stale_if_error"),
        revalidation_wait: given("revalidation_wait"),
        set_cookie: match word(scope, &at("set_cookie")).as_str() {
            "pass" => SetCookie::Pass,
            _ => SetCookie::Strip,
        },
    }
}

fn word(scope: &TableValues, path: &str) -> String {
    scope.text(path).map(|word| word.value).unwrap_or_default()
}

fn query(scope: &TableValues, report: &mut ProblemReport) -> QueryKept {
    let names = scope.texts("site.caching.query_names");
    let word = word(scope, "site.caching.query");
    if word != "only" && !names.is_empty() {
        let message = "is for query = \"only\" alone; set that, or leave the names out";
        report.problem(scope.spot_of("site.caching.query_names").problem(message));
    }
    match word.as_str() {
        "drop" => QueryKept::Nothing,
        "only" => QueryKept::Only(names.into_iter().map(|name| name.value).collect()),
        _ => QueryKept::All,
    }
}

fn patterns(scope: &TableValues, path: &str, report: &mut ProblemReport) -> Vec<PathPattern> {
    let patterns = scope.texts(path);
    if patterns.is_empty() && !scope.is_wrong(path) {
        let message = "has no paths, so the rule is for none; write paths = [\"/PATH/*\"]";
        report.problem(scope.spot_of(path).problem(message));
    }
    for pattern in &patterns {
        if !pattern.value.starts_with(['/', '*']) {
            let message = "begins neither with / nor with *, so it is the pattern of no path";
            report.problem(pattern.spot.problem_with(&pattern.value, message));
        }
    }
    patterns.into_iter().map(|pattern| PathPattern::new(pattern.value)).collect()
}

fn statuses(texts: Vec<Spotted<String>>, report: &mut ProblemReport) -> Vec<StatusCode> {
    let mut statuses = Vec::new();
    for text in texts {
        match text.value.parse::<StatusCode>() {
            Ok(status) if !status.is_informational() && status.as_u16() < 600 => {
                statuses.push(status);
            }
            Ok(_) | Err(_) => {
                let message = "is no status; write one from \"200\" to \"599\"";
                report.problem(text.spot.problem_with(&text.value, message));
            }
        }
    }
    statuses
}

fn names(texts: Vec<Spotted<String>>, report: &mut ProblemReport) -> Vec<HeaderName> {
    let mut names = Vec::new();
    for text in texts {
        if let Ok(name) = HeaderName::try_from(text.value.as_str()) {
            names.push(name);
        } else {
            let message = "is no name of a header field; write one such as \"Server\"";
            report.problem(text.spot.problem_with(&text.value, message));
        }
    }
    names
}

fn fields(
    texts: Vec<Spotted<String>>,
    report: &mut ProblemReport,
) -> Vec<(HeaderName, HeaderValue)> {
    let mut fields = Vec::new();
    for text in texts {
        let parsed = text.value.split_once(':').and_then(|(name, value)| {
            Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value.trim()).ok()?))
        });
        match parsed {
            Some((name, _)) if is_framing(&name) => {
                let message = "is decided by the connection, and cannot be set; leave it out";
                report.problem(text.spot.problem_with(&text.value, message));
            }
            Some(field) => fields.push(field),
            None => {
                let message = "is no header field; write \"NAME: VALUE\"";
                report.problem(text.spot.problem_with(&text.value, message));
            }
        }
    }
    fields
}

fn is_framing(name: &HeaderName) -> bool {
    matches!(name.as_str(), "content-length" | "transfer-encoding" | "connection" | "trailer")
}
