//! Fuzzes `rfc::cdn_loop`: a cache that has added its name is found again, and so is every one
//! before it. One field a line; the first line is the own name.
#![no_main]

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use narthex::rfc::cdn_loop::{BYTES_MAX, CDN_LOOP, CdnLoop, CdnLoopError, MEMBERS_MAX, is_name};
use narthex::rfc::grammar;

fuzz_target!(|data: &[u8]| {
    let first = narthex_fuzz::lines(data).next().unwrap_or_default();
    let own = String::from_utf8_lossy(first).into_owned();
    let headers = narthex_fuzz::fields(&CDN_LOOP, data.get(first.len() + 1..).unwrap_or_default());
    let Ok(passed) = CdnLoop::of(&headers) else { return };
    let sent = passed.extended(&own);
    let text = sent.to_str().expect("visible ASCII").to_owned();
    if is_name(&own) {
        assert!(text.ends_with(&own));
    }
    let count = grammar::list_members(text.as_bytes()).count();
    assert!(count <= MEMBERS_MAX + 1);
    match CdnLoop::of(&HeaderMap::from_iter([(CDN_LOOP, sent)])) {
        Ok(next) => check_next(&passed, &next, &own, &text),
        Err(CdnLoopError::TooLong { bytes }) => assert!(bytes == text.len() && bytes > BYTES_MAX),
        Err(CdnLoopError::TooMany) => assert_eq!(count, MEMBERS_MAX + 1),
        Err(CdnLoopError::Malformed) => panic!("sent onwards, and malformed: {text}"),
    }
});

/// `next` has passed all that `passed` has, and the own cache.
fn check_next(passed: &CdnLoop, next: &CdnLoop, own: &str, text: &str) {
    assert!(next.contains(own) && next.contains(&own.to_ascii_uppercase()), "{own} in {text}");
    for member in grammar::list_members(text.as_bytes()) {
        let id = grammar::parameters(member).next().expect("a member has a name");
        let id = narthex_fuzz::text(id).expect("ASCII");
        assert!(is_name(id) && next.contains(id));
        assert!(passed.contains(id) || id.eq_ignore_ascii_case(&sendable(own)), "{id} in {text}");
    }
}

fn sendable(own: &str) -> String {
    let alone = CdnLoop::default().extended(own);
    HeaderValue::to_str(&alone).expect("visible ASCII").to_owned()
}
