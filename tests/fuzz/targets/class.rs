//! Fuzzes `nix::class`: what has a class is a canonical path of plain characters, and what its
//! name says of it is consistent.
#![no_main]

use libfuzzer_sys::fuzz_target;
use narthex::nix::class::{Class, classify, file_hash_of, hash_part_of};
use narthex::nix::{base32, store_path};
use narthex::rfc::path;

fuzz_target!(|data: &[u8]| {
    let Some(text) = narthex_fuzz::text(data) else { return };
    check(text);
    if let Ok(canonical) = path::canonicalise(text, 2048) {
        check(&canonical);
    }
    if let Some(class) = Class::named(text) {
        assert_eq!(class.as_str(), text);
    }
});

fn check(path: &str) {
    let class = classify(path);
    let hash_part = hash_part_of(path);
    let has_hash_part = matches!(class, Some(Class::Narinfo | Class::Listing));
    assert_eq!(hash_part.is_some(), has_hash_part, "{path}");
    assert!(hash_part.is_none_or(store_path::is_hash_part));
    if let Some(sha256) = file_hash_of(path) {
        assert_eq!(class, Some(Class::Nar));
        assert!(path.starts_with(&format!("/nar/{}.nar.", base32::encode(&sha256))));
    }
    let Some(class) = class else { return };
    assert_ne!(class, Class::Other);
    assert_eq!(Class::ALL[class.index()], class);
    assert_eq!(Class::named(class.as_str()), Some(class));
    assert!(path.bytes().all(|byte| byte.is_ascii_graphic() && !b"%\\\"#<>".contains(&byte)));
    let sent = path::encode_path(path);
    assert_eq!(path::canonicalise(&sent, usize::MAX).as_deref(), Ok(path));
}
