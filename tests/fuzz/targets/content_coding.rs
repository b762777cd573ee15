//! Fuzzes `rfc::content_coding`: what is decoded never has more bytes than it may have, and is the
//! same under a larger limit.
#![no_main]

use http::{HeaderMap, HeaderValue, header};
use libfuzzer_sys::fuzz_target;
use narthex::rfc::ContentCodings;

const MAX: usize = 4_096;

fuzz_target!(|data: &[u8]| {
    let Some((end, rest)) = data.split_first() else { return };
    let Some((name, body)) = rest.split_at_checked(usize::from(*end)) else { return };
    let Ok(value) = HeaderValue::from_bytes(name) else { return };
    let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, value)]);
    let Some(codings) = ContentCodings::of(&headers) else { return };
    let Ok(plain) = codings.decode(body, MAX) else { return };
    assert!(plain.len() <= MAX);
    assert_eq!(codings.decode(body, 2 * MAX).ok(), Some(plain));
});
