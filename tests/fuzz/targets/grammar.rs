//! Fuzzes `rfc::grammar`, `content_length` and `hop_by_hop`: lists split the same when joined
//! again, numbers are digits only, and no field of a connection travels on.
#![no_main]

use http::header::{CONNECTION, CONTENT_LENGTH, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName};
use libfuzzer_sys::fuzz_target;
use narthex::rfc::content_length::{announces_body, content_length};
use narthex::rfc::{grammar, hop_by_hop};

fuzz_target!(|data: &[u8]| {
    check_list(&grammar::list_members(data).collect::<Vec<_>>(), data);
    let parameters: Vec<&[u8]> = grammar::parameters(data).collect();
    let joined = parameters.join(&b"; "[..]);
    assert!(grammar::parameters(&joined).eq(parameters.iter().copied()));
    if let Some(length) = grammar::quoted_length(data) {
        assert!(length >= 2 && data[0] == b'"' && data[length - 1] == b'"');
        assert_eq!(grammar::quoted_length(&data[..length]), Some(length));
    }
    check_numbers(data);
    check_fields(narthex_fuzz::named_fields(data));
});

fn check_list(members: &[&[u8]], value: &[u8]) {
    assert!(members.iter().map(|member| member.len()).sum::<usize>() <= value.len());
    assert!(members.iter().all(|member| !member.is_empty() && grammar::trim(member) == *member));
    if !value.contains(&b'"') {
        assert!(!members.iter().any(|member| member.contains(&b',')));
    }
    let joined = members.join(&b", "[..]);
    assert!(grammar::list_members(&joined).eq(members.iter().copied()));
}

fn check_numbers(data: &[u8]) {
    let is_digits = !data.is_empty() && data.iter().all(u8::is_ascii_digit);
    let strict = grammar::strict_number(data);
    let text = narthex_fuzz::text(data).filter(|_| is_digits);
    assert_eq!(strict, text.and_then(|text| text.parse().ok()));
    let saturating = grammar::saturating_number(data);
    assert_eq!(saturating, is_digits.then(|| strict.unwrap_or(u64::MAX)));
}

fn check_fields(mut headers: HeaderMap) {
    match content_length(&headers) {
        Ok(Some(length)) => {
            assert!(headers[CONTENT_LENGTH].as_bytes().iter().all(u8::is_ascii_digit));
            assert!(length == 0 || announces_body(&headers));
        }
        Ok(None) => assert!(!headers.contains_key(CONTENT_LENGTH)),
        Err(_) => assert!(announces_body(&headers)),
    }
    let connection = headers.get_all(CONNECTION).iter();
    let listed: Vec<HeaderName> = connection
        .flat_map(|line| grammar::list_members(line.as_bytes()))
        .filter_map(|name| HeaderName::from_bytes(name).ok())
        .chain([CONNECTION, TE, TRANSFER_ENCODING, UPGRADE])
        .collect();
    hop_by_hop::remove(&mut headers);
    assert!(!listed.iter().any(|name| headers.contains_key(name)));
    let before = headers.clone();
    hop_by_hop::remove(&mut headers);
    assert_eq!(headers, before);
}
