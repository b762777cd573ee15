//! Fuzzes `nix::cache_info`: what is read prints the same, and an override changes its own lines
//! and no other. The first byte picks the overrides.
#![no_main]

use libfuzzer_sys::fuzz_target;
use narthex::nix::cache_info::{CACHE_INFO_BYTES_MAX, CacheInfo, CacheInfoFields};
use narthex::nix::store_path::StoreDir;

fuzz_target!(|data: &[u8]| {
    let Some((choice, original)) = data.split_first() else { return };
    let overrides = CacheInfoFields {
        store_dir: (choice & 1 != 0).then(|| StoreDir::new("/srv/store").unwrap()),
        wants_mass_query: (choice & 2 != 0).then_some(choice & 4 != 0),
        priority: (choice & 8 != 0).then_some(u32::from(choice >> 4)),
    };
    let parsed = CacheInfo::parse(original);
    let applied = overrides.apply(original);
    assert_eq!(applied.as_ref().err(), parsed.as_ref().err());
    let (Ok(info), Ok(changed)) = (parsed, applied) else { return };
    assert_eq!(CacheInfo::parse(info.to_string().as_bytes()).as_ref(), Ok(&info));
    if changed.len() > CACHE_INFO_BYTES_MAX {
        return;
    }
    let expected = CacheInfo {
        store_dir: overrides.store_dir.clone().unwrap_or(info.store_dir),
        wants_mass_query: overrides.wants_mass_query.unwrap_or(info.wants_mass_query),
        priority: overrides.priority.or(info.priority),
    };
    assert_eq!(CacheInfo::parse(changed.as_bytes()), Ok(expected));
    assert_eq!(overrides.apply(changed.as_bytes()).as_deref(), Ok(changed.as_str()));
    assert_eq!(others(&overrides, changed.as_bytes()), others(&overrides, original));
    assert!(!overrides.is_empty() || changed.as_bytes() == original);
});

/// The lines that the overrides do not touch.
fn others<'a>(overrides: &CacheInfoFields, info: &'a [u8]) -> Vec<&'a str> {
    let keys = [
        overrides.store_dir.as_ref().map(|_| "StoreDir:"),
        overrides.wants_mass_query.map(|_| "WantMassQuery:"),
        overrides.priority.map(|_| "Priority:"),
    ];
    let is_other = |line: &&str| keys.iter().flatten().all(|key| !line.starts_with(key));
    let text = narthex_fuzz::text(info).expect("it was read");
    text.split_terminator('\n').filter(is_other).collect()
}
