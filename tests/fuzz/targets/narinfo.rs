//! Fuzzes `nix::narinfo`: what is read prints as a narinfo that reads the same; the fingerprint
//! depends on the signed fields alone; a URL leads to a path that clients can ask for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use narthex::nix::nar_url::{self, CachePlace};
use narthex::nix::narinfo::NarInfo;
use narthex::rfc::path;

fuzz_target!(|data: &[u8]| {
    let Ok(narinfo) = NarInfo::parse(data) else { return };
    assert!(NarInfo::parse(&data[..data.len() - 1]).is_err(), "cut short, and not noticed");
    assert!(narinfo.nar_size > 0 && narinfo.file_size != Some(0));
    assert!(narinfo.references.is_sorted_by(|one, next| one < next));
    assert!(narinfo.matches_hash_part(narinfo.store_path.hash_part()));
    let printed = narinfo.to_string();
    assert_eq!(NarInfo::parse(printed.as_bytes()).as_ref(), Ok(&narinfo), "{printed}");
    check_fingerprint(&narinfo);
    check_location(&narinfo);
    check_own_url(&narinfo, data);
    // Any verdict will do.
    let _ = narinfo.check_content_address();
});

fn check_own_url(narinfo: &NarInfo, data: &[u8]) {
    let places = [CachePlace { authority: "cache.example.org", prefix: "/a" }];
    let Some(own) = nar_url::with_own_url(data, &places) else { return };
    let own = NarInfo::parse(&own).unwrap();
    assert!(own.nar_location().is_some());
    assert_eq!(NarInfo { url: narinfo.url.clone(), ..own }, *narinfo);
}

fn check_fingerprint(narinfo: &NarInfo) {
    let full = |path| narinfo.store_dir.join(path);
    let references: Vec<String> = narinfo.references.iter().map(full).collect();
    let fingerprint = narinfo.fingerprint();
    let start = format!("1;{};sha256:", full(&narinfo.store_path));
    let end = format!(";{};{}", narinfo.nar_size, references.join(","));
    assert!(fingerprint.starts_with(&start) && fingerprint.ends_with(&end), "{fingerprint}");
    let mut unsigned = narinfo.clone();
    unsigned.references.reverse();
    unsigned.url.push('x');
    unsigned.compression.clear();
    (unsigned.file_hash, unsigned.file_size, unsigned.deriver) = (None, None, None);
    unsigned.signatures.clear();
    assert_eq!(unsigned.fingerprint(), fingerprint);
    let other = NarInfo { nar_size: narinfo.nar_size ^ 1, ..unsigned };
    assert_ne!(other.fingerprint(), fingerprint);
}

fn check_location(narinfo: &NarInfo) {
    let Some(location) = narinfo.nar_location() else { return };
    let encoded = path::encode_path(&location.path);
    let canonical = path::canonicalise(&encoded, usize::MAX);
    assert_eq!(canonical.as_deref(), Ok(location.path.as_str()));
    let query = narinfo.url.split_once('?').map(|(_, query)| query);
    assert_eq!(location.query.as_deref(), query);
}
