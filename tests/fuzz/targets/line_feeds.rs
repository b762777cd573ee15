//! Fuzzes the private `front::bare_lf`, taken in by path: exactly the line feeds without a carriage
//! return become NUL, however the bytes arrive. The first byte says in which pieces they do. If a
//! head may tell of a body, it is only compared with the same bytes in one piece.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/front/bare_lf.rs"]
mod bare_lf;

use bare_lf::{BareLf, BareLfFilter};

fuzz_target!(|data: &[u8]| {
    let Some((size, bytes)) = data.split_first() else { return };
    let mut filter = BareLfFilter::default();
    let (mut seen, mut was_refused) = (Vec::new(), false);
    for piece in bytes.chunks(usize::from(*size).max(1)) {
        let mut changed = piece.to_vec();
        let expected = match filter.refuse_bare_line_feeds(&mut changed) {
            BareLf::No => changed == piece,
            BareLf::First => changed != piece && !std::mem::replace(&mut was_refused, true),
            BareLf::Again => changed != piece && was_refused,
        };
        assert!(expected, "{piece:?} became {changed:?}");
        seen.extend(changed);
    }
    let lower = bytes.to_ascii_lowercase();
    let has = |name: &[u8]| lower.windows(name.len()).any(|window| window == name);
    if has(b"content-length") || has(b"transfer-encoding") {
        let mut whole = bytes.to_vec();
        BareLfFilter::default().refuse_bare_line_feeds(&mut whole);
        return assert_eq!(seen, whole);
    }
    let before = [0].iter().chain(bytes);
    let is_bare = |(last, byte): (&u8, &u8)| (*last, *byte) != (b'\r', b'\n') && *byte == b'\n';
    let expected: Vec<u8> =
        before.zip(bytes).map(|pair| if is_bare(pair) { 0 } else { *pair.1 }).collect();
    assert_eq!(seen, expected);
});
