//! Fuzzes `rfc::conditional` and `rfc::entity_tag`: a stored response is confirmed by its own
//! validators; methods differ only in how they fail. Request fields, a line `--`, stored fields.
#![no_main]

use http::header::{
    ETAG, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_RANGE, IF_UNMODIFIED_SINCE, LAST_MODIFIED,
};
use http::{HeaderMap, Method};
use libfuzzer_sys::fuzz_target;
use narthex::rfc::conditional::{Condition, ChangeCondition, Validators, evaluate, range_applies};
use narthex::rfc::entity_tag::{EntityTag, TagList};

fuzz_target!(|data: &[u8]| {
    let middle = data.windows(4).position(|window| window == b"\n--\n").unwrap_or(data.len());
    let (request, stored) = data.split_at(middle);
    let (request, stored) =
        (narthex_fuzz::named_fields(request), narthex_fuzz::named_fields(stored));
    let own = Validators::of(&stored);
    check_methods(&request, &own);
    check_own(&stored, &own);
    for (name, value) in &request {
        let tag = EntityTag::parse(value);
        if let TagList::Tags(tags) = TagList::parse(value) {
            assert!(tags.clone().count() <= value.len());
            // A field that is one tag is a list of one tag.
            assert!(tag.is_none_or(|tag| tags.eq([tag])), "{name}");
        }
        if let Some(tag) = tag {
            assert!(tag.matches_weakly(&tag));
            assert_eq!(tag.matches_strongly(&tag), tag.is_strong());
        }
    }
});

fn check_methods(request: &HeaderMap, own: &Validators<'_>) {
    let found = evaluate(&Method::GET, request, own);
    assert_eq!(evaluate(&Method::HEAD, request, own), found);
    let write = evaluate(&Method::PUT, request, own);
    let has_tags = request.contains_key(IF_NONE_MATCH);
    match found {
        Condition::NotModified if has_tags => assert_eq!(write, Condition::PreconditionFailed),
        Condition::NotModified => assert_eq!(write, Condition::Proceed),
        other => assert_eq!(write, other),
    }
    let names = [IF_MATCH, IF_UNMODIFIED_SINCE, IF_NONE_MATCH, IF_MODIFIED_SINCE];
    let is_conditional = names.iter().any(|name| request.contains_key(name));
    assert!(is_conditional || found == Condition::Proceed);
    assert!(request.contains_key(IF_RANGE) || range_applies(request, own));
    if *own == Validators::default() && !request.contains_key(IF_MATCH) {
        let is_star = found == Condition::NotModified && has_tags;
        assert!(is_star || found == Condition::Proceed);
    }
}

/// What is asked with the stored response's own validators finds it unchanged.
fn check_own(stored: &HeaderMap, own: &Validators<'_>) {
    let Some(unless) = ChangeCondition::changed(stored) else {
        assert_eq!(*own, Validators::default());
        return;
    };
    let mut request = HeaderMap::new();
    match unless {
        ChangeCondition::Tag(tag) => request.insert(IF_NONE_MATCH, tag),
        ChangeCondition::Date(date) => request.insert(IF_MODIFIED_SINCE, date),
    };
    assert_eq!(evaluate(&Method::GET, &request, own), Condition::NotModified);
    if let (Some(tag), Some(field)) = (own.etag, stored.get(ETAG)) {
        let lone = |name| HeaderMap::from_iter([(name, field.clone())]);
        assert_eq!(range_applies(&lone(IF_RANGE), own), tag.is_strong());
        let condition = evaluate(&Method::GET, &lone(IF_MATCH), own);
        assert_eq!(condition == Condition::Proceed, tag.is_strong());
    }
    if let (Some(_), Some(field)) = (own.last_modified, stored.get(LAST_MODIFIED)) {
        let request = HeaderMap::from_iter([(IF_UNMODIFIED_SINCE, field.clone())]);
        assert_eq!(evaluate(&Method::GET, &request, own), Condition::Proceed);
    }
}
