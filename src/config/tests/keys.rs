//! Defaults, and that every key, variable and flag does what it says.

use super::super::settings::{Fallback, settings};
use super::super::{
    AccessLogForm, FlagOverrides, OriginUrl, S3, S3Addressing, S3Credentials, Signatures, Sources,
    load,
};
use super::{config, home, warnings};
use crate::nix::Class;
use std::path::Path;
use std::time::Duration;
use toml::{Table, Value};

/// A site with an origin that takes every setting, and TLS.
const BASE: &str = r#"
[[server.tls.certificates]]
certificate = "base.pem"
key = "base.key"
[[site]]
trusted_public_keys = ["base-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="]
[[site.origin]]
url = "s3://base?endpoint=https://base"
"#;

#[test]
fn no_configuration_at_all_is_the_cache_of_an_office() {
    let loaded = load(&home()).unwrap();
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    assert_eq!(config.server.listen, ["[::]:8080".parse().unwrap()]);
    assert_eq!(config.server.name, "");
    assert!(config.server.http2 && config.server.tls.is_none());
    assert_eq!(config.server.limits.connections_max, 10_000);
    assert_eq!(config.server.limits.connections_per_address_max, 1_000);
    assert_eq!(config.server.limits.request_head_bytes_max, 16 << 10);
    assert_eq!(config.server.timeouts.idle, Duration::from_secs(75));
    assert_eq!(config.admin.listen, Some("127.0.0.1:9145".parse().unwrap()));
    assert_eq!(config.memory.size, 512 << 20);
    let [disk] = config.disks.as_slice() else { panic!("{:?}", config.disks) };
    assert_eq!(disk.path, Path::new("/home/user/.cache/narthex"));
    assert_eq!(disk.size, 50 << 30);
    assert_eq!((config.log.access, config.log.level.as_str()), (AccessLogForm::Json, "info"));
    let [site] = config.sites.as_slice() else { panic!("{:?}", config.sites) };
    assert_eq!((site.name.as_str(), site.hosts.len()), ("default", 0));
    assert_eq!(site.signatures, Signatures::Require);
    assert!(site.trusted_public_keys[0].starts_with("cache.nixos.org-1:"));
    assert_eq!(site.cache_info.priority, Some(30));
    for class in Class::ALL {
        assert_eq!(site.lifetimes.fresh(class), Duration::from_hours(24));
    }
    let origin = &site.origins[0];
    assert_eq!(origin.name, "cache.nixos.org");
    assert_eq!(origin.url, OriginUrl::Http("https://cache.nixos.org/".parse().unwrap()));
    assert_eq!((origin.priority, origin.connections_max), (10, 200));
    assert_eq!(origin.timeouts.first_byte, Duration::from_secs(15));
}

#[test]
fn a_site_that_is_written_down_overrides_nothing_of_the_origin() {
    let site = &config("[[site]]\n[[site.origin]]\nurl = 'http://parent:8080'").sites[0];
    assert_eq!(site.cache_info, super::super::CacheInfoOverride::default());
    assert_eq!(site.signatures, Signatures::Off);
    assert_eq!(site.origins[0].name, "parent:8080");
}

#[test]
fn the_origin_of_the_design_is_read_as_it_stands() {
    let text = r#"
[[site]]
[[site.origin]]
url = "s3://bucket?region=eu-west-1&endpoint=http://127.0.0.1:3900&profile=x"
requester_pays = true
[[site.origin]]
url = "file:///srv/cache"
priority = 5
"#;
    let origins = &config(text).sites[0].origins;
    assert_eq!(origins[0].url, OriginUrl::File("/srv/cache".into()));
    assert_eq!((origins[0].name.as_str(), origins[1].name.as_str()), ("/srv/cache", "bucket"));
    let s3 = S3 {
        bucket: "bucket".into(),
        region: "eu-west-1".into(),
        endpoint: Some("http://127.0.0.1:3900".into()),
        prefix: String::new(),
        addressing: S3Addressing::Path,
        requester_pays: true,
        credentials: S3Credentials::Profile("x".into()),
    };
    assert_eq!(origins[1].url, OriginUrl::S3(s3));
}

#[test]
fn amazon_is_addressed_by_virtual_host_where_its_certificate_allows() {
    let addressing = |url: &str| {
        let text = format!("[[site]]\n[[site.origin]]\nurl = '{url}'");
        match &config(&text).sites[0].origins[0].url {
            OriginUrl::S3(s3) => (s3.addressing, s3.region.clone()),
            other @ (OriginUrl::Http(_) | OriginUrl::File(_)) => panic!("{other:?}"),
        }
    };
    let region = || "us-east-1".to_owned();
    assert_eq!(addressing("s3://nix-cache"), (S3Addressing::VirtualHost, region()));
    assert_eq!(addressing("s3://nix.cache"), (S3Addressing::Path, region()));
    assert_eq!(addressing("s3://nix-cache?endpoint=http://h"), (S3Addressing::Path, region()));
}

#[test]
fn zero_and_off_switch_off() {
    let config = config("disk.size = 0\nadmin.listen = 'off'\nlog.access = 'off'");
    assert_eq!((config.disks, config.admin.listen), (Vec::new(), None));
    assert_eq!(config.log.access, AccessLogForm::Off);
}

/// `table` with `value` at `path`, in the first of every repeated table on the way.
fn put(table: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            table.insert(path.to_owned(), value);
        }
        Some((first, rest)) => {
            let mut inner = table.entry(first).or_insert_with(|| Table::new().into());
            if let Value::Array(elements) = inner {
                inner = &mut elements[0];
            }
            put(inner.as_table_mut().unwrap(), rest, value);
        }
    }
}

fn example(text: &str) -> Value {
    let table: Table = toml::from_str(&format!("value = {text}")).unwrap();
    table["value"].clone()
}

/// A site that caches as responses say.
const GENERIC: &str = r#"
[[site]]
kind = "generic"
[site.caching]
[[site.caching.rule]]
paths = ["/base/*"]
[[site.origin]]
url = "http://base"
"#;

/// The base, with what a key needs beside it.
fn base_for(path: &str) -> Table {
    if path == "site.kind" {
        let mut base: Table = toml::from_str(BASE).unwrap();
        base["site"][0].as_table_mut().unwrap().remove("trusted_public_keys");
        return base;
    }
    if path.starts_with("site.lifetimes.rule.") {
        let rule = "[[site.lifetimes.rule]]\npaths = [\"/base/*\"]\n[[site.origin]]";
        return toml::from_str(&BASE.replace("[[site.origin]]", rule)).unwrap();
    }
    if path.starts_with("site.absence_filter.") {
        let filter = "[site.absence_filter]\nfile = \"base\"\n[[site.origin]]";
        return toml::from_str(&BASE.replace("[[site.origin]]", filter)).unwrap();
    }
    if path.starts_with("site.caching.") {
        let mut base: Table = toml::from_str(GENERIC).unwrap();
        if path == "site.caching.query_names" {
            put(&mut base, "site.caching.query", "only".into());
        }
        return base;
    }
    let mut base: Table = toml::from_str(BASE).unwrap();
    let Some(key) = path.strip_prefix("site.origin.credentials.") else { return base };
    if ["user", "password_file", "token_file", "netrc_file", "plain_http"].contains(&key) {
        base = toml::from_str(&BASE.replace("s3://base?endpoint=", "")).unwrap();
    }
    let beside: &[&str] = match key {
        "user" | "password_file" => &["user", "password_file"],
        "client_certificate_file" | "client_key_file" => {
            &["client_certificate_file", "client_key_file"]
        }
        "access_key_id_file" | "secret_access_key_file" | "session_token_file" => {
            &["access_key_id_file", "secret_access_key_file"]
        }
        _ => &[],
    };
    for key in beside {
        put(&mut base, &format!("site.origin.credentials.{key}"), "base".into());
    }
    base
}

#[test]
fn every_key_is_really_read() {
    for setting in settings() {
        let mut table = base_for(setting.path);
        let before = config(&table.to_string());
        put(&mut table, setting.path, example(setting.example));
        assert_ne!(config(&table.to_string()), before, "{} changes nothing", setting.path);
    }
}

#[test]
fn every_default_is_what_holds_without_the_key() {
    for setting in settings() {
        let Fallback::Is(default) = setting.fallback else { continue };
        let mut table = base_for(setting.path);
        let before = config(&table.to_string());
        put(&mut table, setting.path, example(default));
        assert_eq!(config(&table.to_string()), before, "{}", setting.path);
    }
}

/// A TOML value as a variable or flag has it.
fn as_texts(value: &Value) -> Vec<String> {
    if let Value::Array(elements) = value {
        return elements.iter().flat_map(as_texts).collect();
    }
    vec![value.as_str().map_or_else(|| value.to_string(), str::to_owned)]
}

#[test]
fn every_variable_does_what_its_key_does() {
    for setting in settings().filter(|setting| setting.path != "site.origin.url") {
        let Some(name) = setting.variable() else { continue };
        let mut table = base_for(setting.path);
        let file = |table: &Table| Some(("config.toml".into(), table.to_string()));
        let value = example(setting.example);
        let mut from_variable = Sources { file: file(&table), ..home() };
        from_variable.environment.push((name.clone(), as_texts(&value).join(",")));
        put(&mut table, setting.path, value);
        let from_file = Sources { file: file(&table), ..home() };
        assert_eq!(load(&from_variable).unwrap(), load(&from_file).unwrap(), "{name}");
    }
}

#[test]
fn each_origin_has_its_own_keys_else_those_of_the_site_or_those_that_are_known() {
    let own = "own-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let site = |site: &str, private: &str| {
        config(&format!(
            "[[site]]\n{site}\n[[site.origin]]\nurl = 'https://cache.nixos.org'\n\
             [[site.origin]]\nurl = 'https://private'\n{private}"
        ))
        .sites
        .remove(0)
    };
    let own_key = format!("trusted_public_keys = ['{own}']");
    let with_own = site("", &own_key);
    assert_eq!(with_own.signatures, Signatures::Require);
    assert!(with_own.origins[0].trusted_public_keys[0].starts_with("cache.nixos.org-1:"));
    assert_eq!(with_own.origins[1].trusted_public_keys, [own]);
    assert_eq!(with_own.trusted_public_keys.len(), 2);
    let other = own.replace("own", "other");
    let with_both = site(&format!("trusted_public_keys = ['{other}']"), &own_key);
    assert_eq!(with_both.origins[0].trusted_public_keys, [other]);
    assert_eq!(with_both.origins[1].trusted_public_keys, [own]);
    let marks: Vec<u32> = with_both.origins.iter().map(|origin| origin.trust_mark(own)).collect();
    assert_ne!(marks[0], marks[1]);
    assert_eq!(site("signatures = 'off'", "").signatures, Signatures::Off);
    let unsigned = site("", "signatures = 'off'");
    assert_eq!(unsigned.signatures, Signatures::Require);
    let rules: Vec<_> = unsigned.origins.iter().map(|origin| origin.signatures).collect();
    assert_eq!(rules, [None, Some(Signatures::Off)]);
    let strict = site("signatures = 'off'", &format!("signatures = 'require'\n{own_key}"));
    assert_eq!(strict.signatures, Signatures::Off);
    assert_eq!(strict.origins[1].signatures, Some(Signatures::Require));
}

#[test]
fn every_flag_does_what_its_key_does() {
    let flags = FlagOverrides {
        listen: vec!["[::1]:81".into(), "127.0.0.1:81".into()],
        admin: Some("[::1]:82".into()),
        origin: Some("file:///srv".into()),
        disk: vec!["/disk".into(), "/other".into()],
        disk_size: vec!["3GiB".into(), "2GiB".into()],
        memory_size: Some("4MiB".into()),
    };
    let text = "
server.listen = ['[::1]:81', '127.0.0.1:81']
admin.listen = '[::1]:82'
memory.size = '4MiB'
[disk]
path = ['/disk', '/other']
size = ['3GiB', '2GiB']
[[site]]
[[site.origin]]
url = 'file:///srv'
";
    assert_eq!(load(&Sources { flags, ..home() }).unwrap().config, config(text));
}

#[test]
fn a_flag_wins_over_a_variable_and_that_over_the_file() {
    let mut sources = home();
    let size = |sources: &Sources| load(sources).unwrap().config.memory.size;
    assert_eq!(size(&sources), 512 << 20);
    sources.file = Some(("config.toml".into(), "memory.size = '1GiB'".into()));
    assert_eq!(size(&sources), 1 << 30);
    sources.environment.push(("NARTHEX_MEMORY_SIZE".into(), "2GiB".into()));
    assert_eq!(size(&sources), 2 << 30);
    sources.flags.memory_size = Some("3GiB".into());
    assert_eq!(size(&sources), 3 << 30);
}

#[test]
fn an_origin_from_outside_replaces_the_sites_of_the_file() {
    let file = Some(("config.toml".into(), BASE.to_owned()));
    let mut sources = Sources { file, ..home() };
    sources.environment.push(("NARTHEX_ORIGIN".into(), "http://one:80".into()));
    let loaded = load(&sources).unwrap();
    assert_eq!(loaded.config.sites[0].origins[0].name, "one:80");
    assert_eq!(loaded.config.sites[0].signatures, Signatures::Off);
    let warnings: Vec<_> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings, ["NARTHEX_ORIGIN: site: replaces the sites of the file (1)"]);
    sources.flags.origin = Some("https://cache.nixos.org".into());
    let site = load(&sources).unwrap().config.sites.remove(0);
    assert_eq!(site.origins[0].name, "cache.nixos.org");
    assert_eq!((site.signatures, site.cache_info.priority), (Signatures::Require, None));
}

#[test]
fn well_known_keys_are_trusted_only_where_nobody_says_otherwise() {
    let site = |text: &str| {
        let text = format!("[[site]]\n{text}\n[[site.origin]]\nurl = 'https://CACHE.nixos.org'");
        let site = config(&text).sites.remove(0);
        (site.trusted_public_keys.len(), site.signatures, warnings(&text).len())
    };
    let key = "trusted_public_keys = ['a:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=']";
    assert_eq!(site(""), (1, Signatures::Require, 0));
    assert_eq!(site("signatures = 'warn'"), (1, Signatures::Warn, 0));
    assert_eq!(site("signatures = 'off'"), (1, Signatures::Off, 0));
    assert_eq!(site("trusted_public_keys = []"), (0, Signatures::Off, 0));
    assert_eq!(site(key), (1, Signatures::Require, 1));
}
