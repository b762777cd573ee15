//! Tests of narinfos: what Nix wrote, what must be refused, and property tests.

use super::*;
use crate::nix::signature::{PublicKey, SecretKey, SignatureError, TrustedKeys};
use proptest::prelude::{Just, Strategy, any, prop_oneof, proptest};

/// Written and signed by Nix 2.8.0.
const NIX_STORE: &str = include_str!("../vectors/nix-store.narinfo");
const TWO_SIGNATURES: &str = include_str!("../vectors/two-signatures.narinfo");
const CONTENT_ADDRESSED: &str = include_str!("../vectors/content-addressed.narinfo");

/// The public halves of the keys that signed them.
const NIX_STORE_KEY: &str = "lab-cache-1:RmYgl23fOAjP/tqoT9188rocZh0eHssthtzQdSXXzIA=";
const FIRST_KEY: &str = "narthex-test-1:n2qL5PyZqChpVNYMQT2bFYjxZWq28bR4bJaqnRkqtDI=";
const SECOND_KEY: &str = "second-key-1:4xXA2rQQTu0E8n2oF9MuhoIVBOTIU+d3U4uWJ0XuiqY=";

fn parse(text: &str) -> NarInfo {
    NarInfo::parse(text.as_bytes()).unwrap()
}

fn refusal(text: &str) -> NarInfoError {
    NarInfo::parse(text.as_bytes()).unwrap_err()
}

fn trusted(keys: &[&str]) -> TrustedKeys {
    TrustedKeys::new(keys.iter().map(|key| PublicKey::parse(key).unwrap()).collect())
}

#[test]
fn what_nix_writes_is_read_and_printed_the_same() {
    for text in [NIX_STORE, TWO_SIGNATURES, CONTENT_ADDRESSED] {
        assert_eq!(parse(text).to_string(), text);
    }
    let narinfo = parse(NIX_STORE);
    assert!(narinfo.matches_hash_part("2qzg4zbq1mshms228hga5qxn1cf74q0a"));
    assert!(!narinfo.matches_hash_part("02ns2l4fyfiz3laa1hlvanfbfcr765i9"));
    assert_eq!(narinfo.store_dir, StoreDir::default());
    assert_eq!(narinfo.compression, "xz");
    assert_eq!(narinfo.file_bytes(), Some(99_024));
    assert_eq!(narinfo.file_sha256(), narinfo.file_hash.and_then(|hash| hash.sha256()));
    assert_eq!(narinfo.nar_size, 344_320);
    assert_eq!(narinfo.references.len(), 3);
}

#[test]
fn the_fingerprint_is_the_signed_text() {
    assert_eq!(
        parse(TWO_SIGNATURES).fingerprint(),
        "1;/srv/store/86msra74385h3cdwhasrm756j1ci5aiw-selfish;\
         sha256:032kjx40yxp8xivbqrwsv8j6qbr8iacadb49n3myacxdkfir7hqd;224;\
         /srv/store/86msra74385h3cdwhasrm756j1ci5aiw-selfish,\
         /srv/store/jb9sf6l5z51gacvdxq4a8y0s5pngj1qb-refers.txt"
    );
}

#[test]
fn the_order_and_repetition_of_references_do_not_matter() {
    let turned = TWO_SIGNATURES.replace(
        "References: 86msra74385h3cdwhasrm756j1ci5aiw-selfish \
         jb9sf6l5z51gacvdxq4a8y0s5pngj1qb-refers.txt",
        "References: jb9sf6l5z51gacvdxq4a8y0s5pngj1qb-refers.txt  \
         86msra74385h3cdwhasrm756j1ci5aiw-selfish jb9sf6l5z51gacvdxq4a8y0s5pngj1qb-refers.txt",
    );
    assert_ne!(turned, TWO_SIGNATURES);
    assert_eq!(parse(&turned), parse(TWO_SIGNATURES));
}

#[test]
fn signatures_of_nix_hold() {
    let name = |keys: &[&str], text| {
        trusted(keys).verify(&parse(text)).map(|name| name.as_str().to_owned())
    };
    assert_eq!(name(&[NIX_STORE_KEY], NIX_STORE).unwrap(), "lab-cache-1");
    assert_eq!(name(&[FIRST_KEY], TWO_SIGNATURES).unwrap(), "narthex-test-1");
    assert_eq!(name(&[SECOND_KEY], TWO_SIGNATURES).unwrap(), "second-key-1");
    assert_eq!(name(&[NIX_STORE_KEY, FIRST_KEY], CONTENT_ADDRESSED).unwrap(), "narthex-test-1");
}

#[test]
fn a_changed_narinfo_is_not_vouched_for() {
    let keys = trusted(&[NIX_STORE_KEY]);
    for (from, to) in [
        ("NarSize: 344320", "NarSize: 344321"),
        ("sha256:0vhjfa", "sha256:0vhjfb"),
        ("-libidn2-0-2.3.3-1+b1\nURL", "-libidn2-0-2.3.3-1+b2\nURL"),
        ("ab1d5r1s523n5b36i6bhhajxy2x7dl3n-libunistring2-1.0-2 ", ""),
        ("StorePath: /nix/store", "StorePath: /nix/stone"),
    ] {
        let changed = NIX_STORE.replace(from, to);
        assert_ne!(changed, NIX_STORE);
        let found = keys.verify(&parse(&changed));
        assert!(matches!(found, Err(SignatureError::Wrong { .. })), "{from}");
    }
    let elsewhere = NIX_STORE.replace("URL: nar/", "URL: other/");
    assert!(keys.verify(&parse(&elsewhere)).is_ok(), "the URL is not signed");
}

#[test]
fn a_foreign_or_missing_signature_is_told_apart() {
    let foreign = trusted(&[SECOND_KEY]).verify(&parse(NIX_STORE)).unwrap_err();
    let SignatureError::Untrusted { signed_by } = foreign else { panic!("{foreign}") };
    assert_eq!(signed_by.len(), 1);
    assert_eq!(signed_by[0].as_str(), "lab-cache-1");

    let mut narinfo = parse(NIX_STORE);
    narinfo.signatures = vec!["lab-cache-1".to_owned(), "lab-cache-1:AAAA".to_owned()];
    let unreadable = trusted(&[NIX_STORE_KEY]).verify(&narinfo).unwrap_err();
    assert_eq!(unreadable, SignatureError::Untrusted { signed_by: Vec::new() });
    narinfo.signatures.clear();
    let unsigned = trusted(&[NIX_STORE_KEY]).verify(&narinfo).unwrap_err();
    assert_eq!(unsigned, SignatureError::Unsigned);
}

#[test]
fn one_good_signature_among_bad_ones_suffices() {
    let secret = SecretKey::from_seed("mine-1", [7; 32]).unwrap();
    let mut narinfo = parse(NIX_STORE);
    let good = secret.sign(narinfo.fingerprint().as_bytes()).unwrap().to_string();
    let bad = secret.sign(b"another text").unwrap().to_string();
    narinfo.signatures = vec!["junk".to_owned(), bad.clone(), good, bad];
    let keys = TrustedKeys::new(vec![secret.public_key().unwrap()]);
    assert_eq!(keys.verify(&narinfo).unwrap().as_str(), "mine-1");
    assert!(parse(&narinfo.to_string()) == narinfo);
}

#[test]
fn what_is_no_narinfo_is_named() {
    for (text, expected) in [
        ("", NarInfoError::Empty),
        ("\n \n", NarInfoError::Empty),
        ("<!DOCTYPE html>\n<html></html>\n", NarInfoError::Markup),
        ("\n  <html>", NarInfoError::Markup),
        ("{\"error\": 1}\n", NarInfoError::Markup),
        ("404", NarInfoError::Unterminated),
        ("404\n", NarInfoError::Line { line: 1 }),
    ] {
        assert_eq!(refusal(text), expected, "{text:?}");
    }
    let large = format!("{NIX_STORE}X: {}\n", "x".repeat(NARINFO_BYTES_MAX));
    assert_eq!(refusal(&large), NarInfoError::TooLarge { found: large.len() });
    let cut = NIX_STORE.trim_end();
    assert_eq!(refusal(cut), NarInfoError::Unterminated);
    let windows = NIX_STORE.replace('\n', "\r\n");
    assert_eq!(refusal(&windows), NarInfoError::Characters { line: 1 });
    let mut bytes = NIX_STORE.as_bytes().to_vec();
    bytes.splice(.., [NIX_STORE.as_bytes(), b"X: \xff\n"].concat());
    assert!(matches!(NarInfo::parse(&bytes), Err(NarInfoError::Characters { line: 11 })));
    let many = format!("{NIX_STORE}{}", "Sig: a:b\n".repeat(SIGNATURES_MAX));
    assert_eq!(refusal(&many), NarInfoError::TooManySignatures);
}

#[test]
fn lines_are_read_as_nix_reads_them() {
    for line in ["", "no colon", "References:", "Sig:x", "a:b: c"] {
        assert_eq!(refusal(&format!("{NIX_STORE}{line}\n")), NarInfoError::Line { line: 11 });
    }
    assert_eq!(parse(&format!("{NIX_STORE}Provenance: {{\"a\": 1}}\n: x\n")), parse(NIX_STORE));
    for line in NIX_STORE.lines().filter(|line| !line.starts_with("Sig")) {
        let found = refusal(&format!("{NIX_STORE}{line}\n"));
        assert!(matches!(found, NarInfoError::Twice { .. }), "{line}");
    }
}

#[test]
fn every_field_is_checked() {
    let replace = |key: &str, value: &str| {
        let is_other = |line: &&str| !line.starts_with(&format!("{key}: "));
        let kept: Vec<&str> = NIX_STORE.lines().filter(is_other).collect();
        NarInfo::parse(format!("{}\n{value}", kept.join("\n")).as_bytes())
    };
    for key in ["StorePath", "URL", "NarHash", "NarSize"] {
        assert!(matches!(replace(key, ""), Err(NarInfoError::Missing { .. })), "{key}");
        let empty = replace(key, &format!("{key}: \n"));
        assert!(matches!(empty, Err(NarInfoError::Missing { .. })), "{key}");
    }
    for (key, line) in [
        ("NarSize", "NarSize: 0\n"),
        ("NarSize", "NarSize: -1\n"),
        ("NarSize", "NarSize: +1\n"),
        ("NarSize", "NarSize: 1 \n"),
        ("FileSize", "FileSize: 18446744073709551616\n"),
    ] {
        assert!(matches!(replace(key, line), Err(NarInfoError::Number { .. })), "{line}");
    }
    for key in ["FileHash", "NarHash"] {
        let found = replace(key, &format!("{key}: sha256:xyz\n"));
        assert!(matches!(found, Err(NarInfoError::Hash { .. })), "{key}");
    }
    let md5 = replace("NarHash", "NarHash: md5:147rfmai7wfvgghqqhh1f8q8kf\n");
    assert_eq!(md5, Err(NarInfoError::NarHashAlgorithm));
    for key in ["References", "Deriver", "StorePath"] {
        let found = replace(key, &format!("{key}: /nix/store/x\n"));
        assert!(matches!(found, Err(NarInfoError::StorePath { .. })), "{key}");
    }
    assert_eq!(replace("Deriver", "Deriver: unknown-deriver\n").unwrap().deriver, None);
    assert_eq!(replace("Compression", "").unwrap().compression, "bzip2");
    assert_eq!(replace("FileSize", "FileSize: 0\n").unwrap().file_bytes(), None);
    assert_eq!(replace("FileHash", "").unwrap().file_sha256(), None);
}

#[test]
fn a_bare_archive_is_proven_by_its_nar_hash() {
    let text: String =
        NIX_STORE.split_inclusive('\n').filter(|line| !line.starts_with("File")).collect();
    let narinfo = parse(&text.replace("Compression: xz", "Compression: none"));
    assert_eq!(narinfo.file_sha256(), Some(narinfo.nar_sha256));
    assert_eq!(narinfo.file_bytes(), Some(narinfo.nar_size));
}

#[test]
fn the_archive_is_found_inside_the_cache_only() {
    let location = |url: &str| {
        let narinfo = NarInfo { url: url.to_owned(), ..parse(NIX_STORE) };
        narinfo.nar_location().map(|found| (found.path, found.query))
    };
    let found = |path: &str, query: Option<&str>| Some((path.to_owned(), query.map(str::to_owned)));
    assert_eq!(location("nar/a.nar.xz"), found("/nar/a.nar.xz", None));
    assert_eq!(location("nar/a%2Bb.nar"), found("/nar/a+b.nar", None));
    assert_eq!(location("nar/a.nar?hash=b&c"), found("/nar/a.nar", Some("hash=b&c")));
    assert_eq!(location("nar/a/b/c?"), found("/nar/a/b/c", Some("")));
    for url in [
        "https://example.org/a.nar",
        "//example.org/a.nar",
        "/nar/a",
        "../a",
        "nar/%2e%2e/a",
        "nar//a",
        "nar/./a",
        "nar/a#b",
        "nar/%",
        "nar/%+1",
        "nar/%ff",
        "nar/%00",
        "nar/a\\b",
        "nar/a?b c",
        "?a",
    ] {
        assert_eq!(location(url), None, "{url}");
    }
}

fn store_paths() -> impl Strategy<Value = StorePath> {
    "[0-9a-df-np-sv-z]{32}-[A-Za-z0-9+._?=-]{1,30}"
        .prop_filter_map("a store path", |text| StorePath::from_base_name(&text).ok())
}

fn narinfos() -> impl Strategy<Value = NarInfo> {
    let sizes = (1..=u64::MAX, proptest::option::of(1..=u64::MAX));
    let hashes = (any::<[u8; 32]>(), proptest::option::of(any::<[u8; 32]>()));
    let paths = (
        store_paths(),
        proptest::collection::btree_set(store_paths(), 0..5),
        proptest::option::of(store_paths()),
    );
    let texts = (
        "[!-~]{1,40}",
        prop_oneof![Just("xz"), Just("none"), Just("zstd")],
        proptest::option::of("[!-~]{1,20}"),
        proptest::collection::vec("[!-~]{1,40}", 0..4),
    );
    (sizes, hashes, paths, texts).prop_map(|(sizes, hashes, paths, texts)| NarInfo {
        store_dir: StoreDir::default(),
        store_path: paths.0,
        url: texts.0,
        compression: texts.1.to_owned(),
        file_hash: hashes.1.map(NixHash::Sha256),
        file_size: sizes.1,
        nar_sha256: hashes.0,
        nar_size: sizes.0,
        references: paths.1.into_iter().collect(),
        deriver: paths.2,
        system: texts.2.clone(),
        signatures: texts.3,
        content_address: texts.2,
    })
}

proptest! {
    #[test]
    fn what_is_printed_is_read(narinfo in narinfos()) {
        assert_eq!(parse(&narinfo.to_string()), narinfo);
    }

    #[test]
    fn no_bytes_are_too_strange(bytes in any::<Vec<u8>>()) {
        let _ = NarInfo::parse(&bytes);
    }

    #[test]
    fn no_damage_is_too_strange(
        position in 0..NIX_STORE.len(),
        byte in any::<u8>(),
        length in 0..NIX_STORE.len(),
    ) {
        let mut bytes = NIX_STORE.as_bytes().to_vec();
        bytes[position] = byte;
        if let Ok(narinfo) = NarInfo::parse(&bytes) {
            let again = NarInfo::parse(narinfo.to_string().as_bytes());
            assert_eq!(again.as_ref(), Ok(&narinfo));
        }
        let _ = NarInfo::parse(&bytes[..length]);
    }

    #[test]
    fn no_url_is_too_strange(url in "\\PC*") {
        let narinfo = NarInfo { url, ..parse(NIX_STORE) };
        if let Some(found) = narinfo.nar_location() {
            assert!(found.path.starts_with('/') && !found.path.contains("/../"));
        }
    }

    #[test]
    fn a_secret_key_survives_its_text(seed in any::<[u8; 32]>(), message in any::<Vec<u8>>()) {
        let secret = SecretKey::from_seed("k", seed).unwrap();
        let again = SecretKey::parse(&secret.to_secret_text()).unwrap();
        let signature = again.sign(&message).unwrap();
        assert!(secret.public_key().unwrap().is_signer_of(&message, &signature));
        let mut other = message;
        other.push(0);
        assert!(!secret.public_key().unwrap().is_signer_of(&other, &signature));
    }
}
