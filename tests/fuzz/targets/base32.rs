//! Fuzzes `nix::base32` and `nix::hash`: every value has one spelling in each form, and what is
//! read is what was written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use narthex::nix::base32;
use narthex::nix::hash::NixHash;

fuzz_target!(|data: &[u8]| {
    check_encoding(data);
    if let Some(bytes) = data.first_chunk::<20>() {
        assert_eq!(base32::decode(&base32::encode(bytes)), Ok(*bytes));
    }
    if let Some(bytes) = data.first_chunk::<32>() {
        assert_eq!(base32::decode(&base32::encode(bytes)), Ok(*bytes));
        check_hash(&NixHash::Sha256(*bytes));
        check_hash(&NixHash::Blake3(*bytes));
    }
    let Some(text) = narthex_fuzz::text(data) else { return };
    check_decoding::<16>(text);
    check_decoding::<20>(text);
    check_decoding::<32>(text);
    check_decoding::<64>(text);
    if let Ok(hash) = NixHash::parse(text) {
        check_hash(&hash);
        check_spelling(text, &hash);
    }
});

/// The digit at position `n`, counted from the end, is the bits from `5 n` on of the bytes taken
/// as one number, little end first.
fn check_encoding(bytes: &[u8]) {
    let text = base32::encode(bytes);
    assert_eq!(text.len(), base32::encoded_len(bytes.len()));
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| byte >> (at % 8) & 1);
    for (position, digit) in text.bytes().rev().enumerate() {
        let value = (0..5).fold(0, |value, n| value | bit(5 * position + n) << n);
        let alphabet = b"0123456789abcdfghijklmnpqrsvwxyz";
        assert_eq!(digit, alphabet[usize::from(value)]);
        assert!(base32::is_digit(digit));
    }
}

fn check_decoding<const N: usize>(text: &str) {
    if let Ok(bytes) = base32::decode::<N>(text) {
        assert_eq!(base32::encode(&bytes), text);
    }
}

fn check_hash(hash: &NixHash) {
    assert_eq!(hash.as_bytes().len(), hash.algorithm().digest_len());
    for spelling in [hash.to_string(), hash.to_base16(), hash.to_sri()] {
        assert_eq!(NixHash::parse(&spelling), Ok(*hash), "{spelling}");
    }
}

/// A hash is read from one of its three spellings only; base 16 in either case.
fn check_spelling(text: &str, hash: &NixHash) {
    let name = hash.algorithm().as_str();
    let digest = &text[name.len() + 1..];
    let sri = hash.to_sri();
    let is_base64 = digest == &sri[name.len() + 1..];
    let is_other = text == hash.to_string() || text.to_ascii_lowercase() == hash.to_base16();
    assert!(text.starts_with(name) && (is_base64 || is_other), "{text}");
}
