//! From values to the sites of the model, and what is wrong between them. Pure; called once for
//! each configuration that is read.

use super::caching_site;
use super::filters;
use super::model::{CacheInfoOverride, Site};
use super::origins::{self, TakenOrigins};
use super::problem::{ProblemReport, Spot, Spotted, quote, without_secrets};
use super::scope::{self, TableValues};
use super::trust;
use crate::rfc::authority::canonical_host;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// What holds if no site is set: the cache of an office.
///
/// Its priority is below the 40 of cache.nixos.org, so that clients which know both ask it first.
pub(super) const OFFICE: &str = "\
[[site]]
[site.cache_info]
priority = 30
[[site.origin]]
url = \"https://cache.nixos.org\"
";

/// Values that one site only may have, each with the place that has it.
#[derive(Debug, Default)]
struct TakenNames {
    names: BTreeMap<String, Spot>,
    hosts: BTreeMap<String, Spot>,
    /// The default site.
    default: Option<Spot>,
    origins: TakenOrigins,
}

/// Every `[[site]]`, or the one of an office. None only if what is given for them is wrong, which
/// is reported already.
pub(super) fn sites(root: &TableValues, report: &mut ProblemReport) -> Vec<Site> {
    let office = scope::read("default", OFFICE, report).0;
    let mut scopes = root.scopes("site");
    if !root.has_table("site") && scopes.is_empty() {
        scopes = office.scopes("site");
    }
    let mut taken = TakenNames::default();
    scopes.iter().map(|scope| site(scope, &mut taken, report)).collect()
}

fn site(scope: &TableValues, taken: &mut TakenNames, report: &mut ProblemReport) -> Site {
    let told = report.problems.len();
    let hosts = hosts(scope, "site.hosts", report);
    for host in &hosts {
        take(&mut taken.hosts, host, "is also a host at", report);
    }
    if hosts.is_empty() && !scope.is_wrong("site.hosts") {
        match &taken.default {
            Some(first) => {
                let message = format!(
                    "has no hosts, as {first} already has none, and there is one default site at \
                     most; write hosts = [\"HOST\"]"
                );
                report.problem(scope.spot().problem(message));
            }
            None => taken.default = Some(scope.spot().clone()),
        }
    }
    let name = name(scope, &hosts);
    if scope.is_given("site.name") && !origins::is_label(&name.value) {
        report.problem(name.spot.problem_with(&name.value, origins::NOT_A_LABEL));
    }
    // A name that comes from wrong hosts is not told a second time.
    if scope.is_given("site.name") || report.problems.len() == told {
        take(&mut taken.names, &name, "is also the name of the site at", report);
    }
    let mut origins = origins::origins(scope, &mut taken.origins, report);
    let trust = trust::trust(scope, &mut origins, report);
    let base_path = base_path(scope, report);
    let redirects = self::hosts(scope, "site.follow_redirects_to", report);
    Site {
        name: name.value,
        hosts: values(hosts),
        trusted_public_keys: trust.keys,
        signatures: trust.signatures,
        cache_info: cache_info(scope, report),
        lifetimes: caching_site::lifetimes(scope, report),
        caching: caching_site::caching(scope, report).map(Arc::new),
        absence_filter: filters::absence_filter(scope, &origins, report),
        base_path,
        follow_redirects_to: values(redirects),
        origins,
    }
}

/// The host names at `path`, in lower case; wrong ones are told.
fn hosts(scope: &TableValues, path: &str, report: &mut ProblemReport) -> Vec<Spotted<String>> {
    let mut hosts = scope.texts(path);
    for host in &mut hosts {
        host.value.make_ascii_lowercase();
        host.value = canonical_host(&host.value).into_owned();
        if let Some(message) = fault_of_host(&host.value) {
            report.problem(host.spot.problem_with(&host.value, message));
        }
    }
    hosts
}

fn fault_of_host(host: &str) -> Option<String> {
    let wanted = "write a host such as \"cache.example.org\"";
    if host.contains("://") {
        return Some(format!("is a URL; {wanted}"));
    }
    if host.contains('*') {
        return Some(format!(
            "has a wildcard, which no host here may have; {wanted}, or no hosts for the default \
             site"
        ));
    }
    if host.parse::<Ipv6Addr>().is_ok() {
        return Some(format!("is an IPv6 address without brackets; write \"[{host}]\""));
    }
    let address = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    if address.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
        || host.parse::<Ipv4Addr>().is_ok()
    {
        return None;
    }
    if let Some((name, _)) = host.rsplit_once(':') {
        return Some(format!("has a port; write {}", quote(&without_secrets(name))));
    }
    let is_label = |label: &str| {
        let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        (1..=63).contains(&label.len()) && label.chars().all(is_inner)
    };
    let is_name = host.len() <= 253 && host.split('.').all(is_label);
    (!is_name).then(|| format!("is not a host name; {wanted}"))
}

/// Notes the place of a value, or reports that another place has it already.
fn take(
    taken: &mut BTreeMap<String, Spot>,
    value: &Spotted<String>,
    message: &str,
    report: &mut ProblemReport,
) {
    if let Some(first) = taken.get(&value.value) {
        let message = format!("{message} {first}; write another, or leave one out");
        report.problem(value.spot.problem_with(&value.value, message));
    } else {
        taken.insert(value.value.clone(), value.spot.clone());
    }
}

/// The site's name: as given, else its first host, else `default`.
fn name(scope: &TableValues, hosts: &[Spotted<String>]) -> Spotted<String> {
    let first = || hosts.first().map_or_else(|| "default".to_owned(), |host| host.value.clone());
    scope
        .text("site.name")
        .unwrap_or_else(|| Spotted { value: first(), spot: scope.spot_of("site.name") })
}

/// The path that clients ask below, without a trailing slash; empty for none.
fn base_path(scope: &TableValues, report: &mut ProblemReport) -> String {
    let Some(path) = scope.text("site.base_path") else { return String::new() };
    let trimmed = path.value.strip_suffix('/').unwrap_or(&path.value);
    let is_plain = |c: char| c.is_ascii_graphic() && !matches!(c, '%' | '?' | '#' | '\\');
    let is_part = |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(is_plain);
    let mut parts = trimmed.split('/');
    if parts.next() != Some("") || trimmed.is_empty() || !parts.all(is_part) {
        let message = "is not a path to ask below; write one such as \"/nix-channels/store\", or \
             leave it out";
        report.problem(path.spot.problem_with(&path.value, message));
    }
    trimmed.to_owned()
}

fn cache_info(scope: &TableValues, report: &mut ProblemReport) -> CacheInfoOverride {
    let store_dir = scope.text("site.cache_info.store_dir");
    if let Some(folder) = &store_dir {
        let is_plain = folder.value.bytes().all(|byte| byte.is_ascii_graphic());
        if !folder.value.starts_with('/') || folder.value.ends_with('/') || !is_plain {
            let message = "is not an absolute folder without a trailing slash; write one such as \
                 \"/nix/store\"";
            report.problem(folder.spot.problem_with(&folder.value, message));
        }
    }
    CacheInfoOverride {
        priority: scope
            .number("site.cache_info.priority")
            .map(|priority| u32::try_from(priority).unwrap_or(u32::MAX)),
        want_mass_query: scope.boolean("site.cache_info.want_mass_query"),
        store_dir: store_dir.map(|folder| folder.value),
    }
}

fn values(texts: Vec<Spotted<String>>) -> Vec<String> {
    texts.into_iter().map(|text| text.value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_without_a_port() {
        for good in ["cache.example.org", "a", "127.0.0.1", "[::1]", "x_y.local", "3com.com"] {
            assert_eq!(fault_of_host(good), None, "{good}");
        }
        for (bad, hint) in [
            ("cache.example.org:8080", "write \"cache.example.org\""),
            ("https://cache.example.org", "is a URL"),
            ("*.example.org", "wildcard"),
            ("::1", "write \"[::1]\""),
            ("a..b", "not a host name"),
            ("", "not a host name"),
            ("a b", "not a host name"),
        ] {
            assert!(fault_of_host(bad).unwrap().contains(hint), "{bad}");
        }
    }
}
