//! Fuzzes `policy::generic::variant`, the keys of what varies: a request selects what was stored
//! for it, and nothing that was stored for one that says another thing. Lines: fields by name,
//! those of the stored request up to an empty line, `vary` among them, then those of another.
#![no_main]

use http::{HeaderMap, HeaderName, header};
use libfuzzer_sys::fuzz_target;
use narthex::policy::generic::variant::{Varies, is_preferred, selects};

const PREFERENCES: [HeaderName; 4] =
    [header::ACCEPT, header::ACCEPT_CHARSET, header::ACCEPT_ENCODING, header::ACCEPT_LANGUAGE];

fuzz_target!(|data: &[u8]| {
    let middle = data.windows(2).position(|two| two == b"\n\n").unwrap_or(data.len());
    let (first, second) = data.split_at(middle);
    let first = narthex_fuzz::named_fields(first);
    let second = narthex_fuzz::named_fields(second.trim_ascii_start());
    let varies = Varies::of(&first);
    let Some(variant) = varies.select(&first) else { return };
    assert!(selects(&first, &variant), "not what was stored for it");
    let names = match &varies {
        Varies::No => &[][..],
        Varies::By(names) => names,
        Varies::Any => panic!("selected although it varies by anything"),
    };
    assert!(names.is_sorted_by(|one, other| one.as_str() < other.as_str()));
    assert!(names.iter().all(|name| *name != "*"));
    let is_selected = selects(&second, &variant);
    assert_eq!(is_selected, varies.select(&second).is_some_and(|other| other == variant));
    let is_same = |name: &HeaderName| first.get_all(name).iter().eq(second.get_all(name));
    if names.iter().all(is_same) {
        assert!(is_selected, "the same fields select another variant");
    }
    if is_selected {
        for name in names {
            assert_eq!(said(name, &first), said(name, &second), "{name} differs");
        }
    }
    // A preferred language never makes up for anything else.
    if is_preferred(&second, &variant, &first) && !is_selected {
        assert!(names.contains(&header::ACCEPT_LANGUAGE));
    }
});

/// Whether the field is there, and each of its bytes that says something (a parameter may be empty,
/// RFC 9110 section 5.6.6): of preferences in any order and either case, without what is said
/// twice.
fn said(name: &HeaderName, request: &HeaderMap) -> Option<Vec<Vec<u8>>> {
    if !request.contains_key(name) {
        return None;
    }
    let is_kept = |byte: &u8| !matches!(byte, b' ' | b'\t' | b';');
    let mut members = Vec::new();
    for line in request.get_all(name) {
        for member in narthex::rfc::grammar::list_members(line.as_bytes()) {
            members.push(member.iter().copied().filter(is_kept).collect::<Vec<u8>>());
        }
    }
    // One of separators alone says as little as none.
    members.retain(|member| !member.is_empty());
    if PREFERENCES.contains(name) {
        for member in &mut members {
            member.make_ascii_lowercase();
        }
        members.sort();
        members.dedup();
    }
    Some(members)
}
