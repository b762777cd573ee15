//! Fuzzes `rfc::authority`: a host is in one form, reads back as itself, and is the same whether
//! `Host`, the target or both name it.
#![no_main]

use http::header::HOST;
use http::uri::{self, Uri};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use narthex::rfc::{Authority, HostError};

fuzz_target!(|data: &[u8]| {
    let headers = narthex_fuzz::fields(&HOST, data);
    let lines = headers.get_all(HOST).iter().count();
    let target = Uri::from_static("/");
    let found = Authority::of(&target, &headers);
    assert_eq!(found == Err(HostError::Missing), lines == 0);
    assert_eq!(found == Err(HostError::Repeated), lines > 1);
    let Some(text) = narthex_fuzz::text(data) else { return };
    let Ok(authority) = Authority::parse(text) else { return };
    assert!(!authority.host.is_empty() && authority.host.len() <= 255 && text.is_ascii());
    assert!(!authority.host.contains(['@', '/', ' ', '%']) && !authority.host.ends_with('.'));
    assert_eq!(authority.host, authority.host.to_ascii_lowercase());
    let host = authority.host.as_ref();
    assert_eq!(
        Authority::parse(host).map(|own| (own.host.into_owned(), own.port)),
        Ok((host.to_owned(), None))
    );
    let printed = match authority.port {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    assert_eq!(Authority::parse(&printed).as_ref(), Ok(&authority));
    check_request(text, &printed, &authority);
});

/// If a request names the same host twice, in two spellings, that is its host.
fn check_request(text: &str, printed: &str, authority: &Authority<'_>) {
    let value = HeaderValue::from_str(text).expect("a host is ASCII");
    let headers = HeaderMap::from_iter([(HOST, value)]);
    assert_eq!(Authority::of(&Uri::from_static("/"), &headers).as_ref(), Ok(authority));
    let Ok(target) =
        uri::Builder::new().scheme("http").authority(printed).path_and_query("/").build()
    else {
        return;
    };
    assert_eq!(Authority::of(&target, &headers).as_ref(), Ok(authority));
    assert_eq!(Authority::of(&target, &HeaderMap::new()).as_ref(), Ok(authority));
    let other = HeaderMap::from_iter([(HOST, HeaderValue::from_static("another.example"))]);
    let expected =
        if authority.host == "another.example" { None } else { Some(HostError::Disagrees) };
    assert_eq!(Authority::of(&target, &other).err(), expected);
}
