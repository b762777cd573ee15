//! Fuzzes the private `store::format`, `trailer` and `sums`, taken in by path: any bytes on disk
//! decode to what is written back the same, or fail; a trailer holds for its own record only.
#![no_main]

use libfuzzer_sys::fuzz_target;
use narthex::object::{KeyHash, Sha256};
// What the file below names by `crate::`.
use narthex::{clock, nix, object, policy};

#[path = "../../../src/store/format.rs"]
mod format;
#[path = "../../../src/store/body/sums.rs"]
mod sums;
#[path = "../../../src/store/body/trailer.rs"]
mod trailer;

/// What these files name by `crate::store`.
mod store {
    pub(crate) use super::format;
    pub(crate) mod body {
        pub(crate) use super::super::{sums, trailer};
    }
}

use format::{BodyPlace, RecordHead};
use trailer::Footer;

fuzz_target!(|data: &[u8]| {
    check_record(data);
    check_others(data);
    let bare = [&[2], data].concat();
    check_record(&bare);
    check_others(&bare);
    check_trailer(data);
});

fn check_record(bytes: &[u8]) {
    let Ok(record) = format::decode_record(bytes) else { return };
    assert_eq!(format::decode_head(bytes), Ok(record.head));
    assert_eq!(format::decode_key(bytes).as_ref(), Ok(&record.meta.key));
    assert!(record.head.charge() >= record.head.length.min(u64::MAX - format::CHARGE_UNIT));
    assert_eq!(record.head.charge() % format::CHARGE_UNIT, 0);
    let written = format::encode_record(&record.head, &record.meta).unwrap();
    let again = format::decode_record(&written).unwrap();
    assert_eq!(again.head, record.head);
    assert_eq!(format!("{:?}", again.meta), format!("{:?}", record.meta));
    assert_eq!(format::encode_record(&again.head, &again.meta).as_ref(), Ok(&written));
}

fn check_others(bytes: &[u8]) {
    if let Ok((owner, key, claim)) = format::decode_claim(bytes) {
        let written = format::encode_claim(owner, &key, &claim).unwrap();
        assert_eq!(format::decode_claim(&written), Ok((owner, key, claim)));
    }
    if let Ok(totals) = format::decode_totals(bytes) {
        let written = format::encode_totals(&totals).unwrap();
        assert_eq!(format::decode_totals(&written), Ok(totals));
    }
}

/// No body of the fuzzer's lengths exists: its sums are those of as many chunks.
const LENGTH_MAX: u64 = 1 << 34;

fn check_trailer(data: &[u8]) {
    let (length, record) = narthex_fuzz::number(data);
    let length = length % LENGTH_MAX;
    let head = RecordHead {
        sequence: length ^ 5,
        length,
        sha256: Sha256::of(record),
        place: BodyPlace::of(length),
        claims: None,
        variant_of: None,
    };
    let key = KeyHash([3; 16]);
    assert!(trailer::check(key, &head, data).is_err());
    let _ = Footer::parse(data).map(|footer| footer.file_bytes());
    let sums = vec![7; usize::try_from(sums::sums_bytes(length)).unwrap()];
    let Ok(written) = trailer::encode(key, &head, &sums, record) else {
        assert!(record.len() > trailer::TAIL_BYTES_MAX - trailer::FOOTER_BYTES);
        return;
    };
    let tail = &written[sums.len()..];
    assert!(tail.len() <= trailer::TAIL_BYTES_MAX);
    let footer = trailer::check(key, &head, tail).unwrap();
    assert_eq!(footer.file_bytes(), Some(length + written.len() as u64));
    assert_eq!(footer.sums, sums::digest(&sums));
    assert_eq!(trailer::decode(tail), Ok((footer, record)));
    let other = RecordHead { sequence: head.sequence + u64::from(head.sequence == 0), ..head };
    assert_eq!(trailer::check(key, &other, tail).is_ok(), other == head);
    assert!(trailer::check(KeyHash([4; 16]), &head, tail).is_err());
    assert!(trailer::check(key, &head, &tail[1..]).is_err());
    let mut damaged = tail.to_vec();
    let at = usize::try_from(length).unwrap_or_default() % damaged.len();
    damaged[at] ^= 1;
    assert!(trailer::check(key, &head, &damaged).is_err());
}
