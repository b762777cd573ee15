//! The synthetic objects: narinfos as a cache of Nix packages holds them, one body in ten of a
//! usual size, the others empty, so that what grows with their number alone is measured. Pure.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, ETAG, LAST_MODIFIED};
use http::{HeaderMap, HeaderValue, StatusCode};
use narthex::clock::Timestamp;
use narthex::nix::{Class, base32};
use narthex::object::{Key, Lifetime, Meta, Proof, Variant};
use std::sync::Arc;

/// Bytes of a body that is not empty.
const BODY_BYTES: usize = 700;
/// One body in so many is not empty.
const BODY_PART: u64 = 10;

/// The key of object `number`.
pub(crate) fn key(number: u64) -> Key {
    let mut hash = [0; 20];
    for (at, bytes) in hash.chunks_exact_mut(4).enumerate() {
        let mixed = mix(number ^ (at as u64) << 48);
        bytes.copy_from_slice(mixed.to_le_bytes().first_chunk::<4>().unwrap_or(&[0; 4]));
    }
    Key::new("main#12ab34cd", &format!("/{}.narinfo", base32::encode(&hash)), None)
}

/// Object `number`.
pub(crate) fn object(number: u64) -> (Meta, Bytes) {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/x-nix-narinfo"));
    headers.insert(LAST_MODIFIED, HeaderValue::from_static("Sun, 22 Nov 2026 10:00:00 GMT"));
    let etag = format!("\"{:016x}{:016x}\"", mix(number), mix(!number));
    headers.insert(ETAG, HeaderValue::from_str(&etag).unwrap_or(HeaderValue::from_static("\"\"")));
    let at = Timestamp::from_secs(1_780_000_000);
    let meta = Meta {
        key: key(number),
        class: Class::Narinfo,
        status: StatusCode::OK,
        headers,
        origin: Arc::from("origin"),
        request_time: at,
        response_time: at,
        age_at_response: 0,
        lifetime: Lifetime::Seconds(86_400),
        is_invalidated: false,
        proof: Proof::Signature,
        variant: Variant::default(),
    };
    (meta, body(number))
}

/// The body of object `number`.
pub(crate) fn body(number: u64) -> Bytes {
    if !number.is_multiple_of(BODY_PART) {
        return Bytes::new();
    }
    let words = (0..BODY_BYTES.div_ceil(8) as u64).map(|at| mix(number << 8 ^ at));
    let bytes: Vec<u8> = words.flat_map(u64::to_le_bytes).take(BODY_BYTES).collect();
    bytes.into()
}

/// A number that looks random.
pub(crate) fn mix(number: u64) -> u64 {
    let mut state = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}
