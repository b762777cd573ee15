//! The files of `config/`: the reference equals the definitions, the examples are without fault.

use super::super::{ConfigReadError, Sources};
use super::super::{Login, OriginUrl, S3Credentials, Signatures, load, read_file, reference};
use super::{config, home};
use std::path::{Path, PathBuf};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

fn example(name: &str) -> super::Config {
    let path = file(name);
    let text = read_file(&path).unwrap();
    let loaded = load(&Sources { file: Some((path, text)), ..home() }).unwrap();
    assert_eq!(loaded.warnings, [], "{name}");
    loaded.config
}

#[test]
fn the_committed_reference_is_the_generated_one() {
    let committed = std::fs::read_to_string(file("reference.toml")).unwrap_or_default();
    assert!(
        committed == reference(),
        "config/reference.toml is out of date; write it anew: \
         cargo run -- config > config/reference.toml"
    );
}

#[test]
fn the_reference_changes_nothing() {
    assert_eq!(config(&reference()), config(""));
}

/// The reference with every hash taken away, but for what stands in these tables or begins so.
fn reference_without(tables: &[&str], keys: &[&str]) -> String {
    let is_setting = |line: &str| {
        let rest = line.strip_prefix('#').unwrap_or(line);
        rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase()).then(|| rest.to_owned())
    };
    let mut is_left_out = false;
    let reference = reference();
    let lines = reference.lines().map(|line| {
        let Some(line) = is_setting(line) else { return line.to_owned() };
        if line.starts_with('[') {
            let table = line.trim_matches(['[', ']']);
            is_left_out = tables.iter().any(|left_out| table.starts_with(left_out));
        }
        if is_left_out || keys.iter().any(|key| line.starts_with(key)) {
            return String::new();
        }
        if line.starts_with("url = ") { "url = 's3://bucket'".to_owned() } else { line }
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// One source of keys goes with no other, a prefix goes with no absence filter, and a bucket is let
/// in by nothing of an HTTP origin.
const ALONE: [&str; 10] = [
    "prefix = ",
    "bucket = ",
    "profile = ",
    "anonymous = ",
    "source = ",
    "user = ",
    "password_file = ",
    "token_file = ",
    "netrc_file = ",
    "plain_http = ",
];

#[test]
fn the_reference_with_every_hash_taken_away_is_a_configuration() {
    let config = config(&reference_without(&["site.caching"], &ALONE));
    assert_eq!(config.server.tls.unwrap().certificates.len(), 1);
    assert_eq!(config.sites[0].name, "main");
    assert_eq!(config.sites[0].signatures, Signatures::Warn);
    assert_eq!(config.sites[0].lifetimes.rules.len(), 1);
}

#[test]
fn so_it_is_for_a_generic_site() {
    let of_binary_caches =
        ["trusted_public_keys = ", "signatures = ", "follow_", "base_path = ", "optional = "];
    let left_out = [&ALONE[..], &of_binary_caches[..]].concat();
    let text =
        reference_without(&["site.lifetimes", "site.cache_info", "site.absence_filter"], &left_out);
    let text = text.replace("kind = \"nix-cache\"", "kind = \"generic\"");
    let text = text.replace("query = \"keep\"", "query = \"only\"");
    let site = config(&text).sites.remove(0);
    assert_eq!(site.caching.unwrap().rules.len(), 1);
}

/// The TOML blocks of the README are complete configurations: an office, a mirror, a shield.
#[test]
fn the_configurations_of_the_readme_are_without_fault() {
    let readme = include_str!("../../../README.md");
    let blocks: Vec<&str> = readme
        .split("\n```toml\n")
        .skip(1)
        .filter_map(|block| Some(block.split_once("\n```\n")?.0))
        .collect();
    let [office, mirror, shield] = blocks[..] else { panic!("{} blocks", blocks.len()) };
    let read = |text: &str| {
        let loaded = load(&Sources { file: Some(("README.md".into(), text.to_owned())), ..home() });
        let loaded = loaded.unwrap();
        assert_eq!(loaded.warnings, [], "{text}");
        loaded.config.sites.into_iter().next().unwrap()
    };
    let office = read(office);
    assert_eq!((office.signatures, office.origins.len()), (Signatures::Require, 2));
    assert_eq!(office.origins[1].login, Login::Netrc { file: "/etc/nix/netrc".into() });
    let mirror = read(mirror);
    assert_eq!((mirror.signatures, mirror.hosts.len()), (Signatures::Require, 1));
    let OriginUrl::S3(s3) = &read(shield).origins[0].url else { panic!("no bucket") };
    assert!(s3.requester_pays);
}

#[test]
fn the_office_example_is_the_default_with_a_private_cache_besides() {
    let config = example("office.toml");
    assert_eq!(config.sites.len(), 1);
    let site = &config.sites[0];
    assert_eq!((site.signatures, site.cache_info.priority), (Signatures::Require, Some(30)));
    assert_eq!(site.origins.len(), 3);
    assert_eq!(site.origins[0].name, "cache.nixos.org");
    let keys = site.origins.iter().map(|origin| origin.trusted_public_keys.len());
    assert_eq!(keys.collect::<Vec<_>>(), [2, 2, 1]);
    let netrc = Login::Netrc { file: "/etc/nix/netrc".into() };
    assert_eq!(site.origins[2].login, netrc);
}

#[test]
fn the_mirror_example_serves_tls() {
    let config = example("mirror.toml");
    let tls = config.server.tls.unwrap();
    assert_eq!((tls.listen.len(), tls.certificates.len()), (1, 1));
    assert_eq!(config.sites[0].hosts, ["cache.example.org"]);
    assert_eq!(config.sites[0].signatures, Signatures::Require);
}

#[test]
fn the_shield_example_pays_for_a_private_bucket_and_the_pop_asks_the_shield() {
    let shield = example("shield.toml");
    let OriginUrl::S3(s3) = &shield.sites[0].origins[0].url else { panic!("no bucket") };
    assert!(s3.requester_pays);
    assert!(matches!(s3.credentials, S3Credentials::Files { .. }));
    let pop = example("pop.toml");
    let expected = OriginUrl::Http("http://shield:8080/".parse().unwrap());
    assert_eq!(pop.sites[0].origins[0].url, expected);
    assert_eq!(pop.sites[0].trusted_public_keys, shield.sites[0].trusted_public_keys);
}

#[test]
fn a_file_that_cannot_be_read_is_told_by_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("none.toml");
    let missing = read_file(&path).unwrap_err();
    assert!(matches!(missing, ConfigReadError::Missing { .. }));
    assert!(missing.to_string().contains("none.toml: there is no such file"));
    assert!(matches!(read_file(folder.path()), Err(ConfigReadError::Unreadable { .. })));
    std::fs::write(&path, b"a = 1\n\xff\n").unwrap();
    assert!(matches!(read_file(&path), Err(ConfigReadError::NotText { line: 2, .. })));
    std::fs::File::create(&path).unwrap().set_len(5 << 20).unwrap();
    assert!(matches!(read_file(&path), Err(ConfigReadError::TooLarge { .. })));
}
