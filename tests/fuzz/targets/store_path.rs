//! Fuzzes `nix::store_path`: a path is its parts and nothing else, in whichever store.
#![no_main]

use libfuzzer_sys::fuzz_target;
use narthex::nix::store_path::{
    HASH_PART_LEN, NAME_LEN_MAX, SelfReference, StoreDir, StorePath, check_base_name, check_name,
    is_hash_part,
};

fuzz_target!(|data: &[u8]| {
    let Some(text) = narthex_fuzz::text(data) else { return };
    let found = StorePath::from_base_name(text);
    assert_eq!(found.as_ref().err(), check_base_name(text).as_ref().err());
    let references: Vec<StorePath> = found.into_iter().collect();
    for path in &references {
        check_parts(path, text);
    }
    if let Ok((store, path)) = StorePath::parse_anywhere(text) {
        assert_eq!(store.join(&path), text);
        assert_eq!(StoreDir::new(store.as_str()).as_ref(), Ok(&store));
        assert_eq!(StorePath::parse(&store, text).as_ref(), Ok(&path));
        check_parts(&path, path.base_name());
    }
    check_computed(text, &references);
});

fn check_parts(path: &StorePath, base_name: &str) {
    assert_eq!(path.base_name(), base_name);
    assert_eq!(format!("{}-{}", path.hash_part(), path.name()), base_name);
    assert!(is_hash_part(path.hash_part()) && check_name(path.name()).is_ok());
    assert!(base_name.len() <= HASH_PART_LEN + 1 + NAME_LEN_MAX && base_name.is_ascii());
    let store = StoreDir::default();
    assert_eq!(StorePath::parse(&store, &store.join(path)).as_ref(), Ok(path));
    assert!(StorePath::parse(&store, &format!("{}/x", store.join(path))).is_err());
}

/// A computed path bears its name, if that is one, and follows from all that it is computed of.
fn check_computed(name: &str, references: &[StorePath]) {
    let store = StoreDir::default();
    let source = |hash, own| StorePath::source(&store, name, hash, references, own);
    let path = source([1; 32], SelfReference::Absent);
    assert_eq!(path.is_ok(), check_name(name).is_ok());
    let Ok(path) = path else { return };
    check_parts(&path, path.base_name());
    assert_eq!(path.name(), name);
    assert_ne!(source([2; 32], SelfReference::Absent).as_ref(), Ok(&path));
    assert_ne!(source([1; 32], SelfReference::Present).as_ref(), Ok(&path));
    assert_ne!(StorePath::text(&store, name, [1; 32], references).as_ref(), Ok(&path));
}
