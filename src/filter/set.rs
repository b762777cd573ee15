//! The set of keys that a filter is loaded with: binary fuse filters of 8 bits, one for each of
//! 256 parts of the keys' hashes. Pure; made by `build`, read and written by `file`, asked by the
//! module itself.
//!
//! # Why this set
//!
//! For 10^9 keys, per key and with one in 250 of the absent keys taken for present: a binary fuse
//! filter (`xorf`, MIT) takes 9.0 bits, a Bloom filter 11.5 (`fastbloom`), a cuckoo filter about
//! 12. Fuse filters of 16 bits would take 18 for one in 65,000: one request in 250 to the origin
//! is cheaper than a second gigabyte on each edge. A fuse filter cannot grow, which is why what is
//! uploaded later stands beside it; and making one takes 28 bytes a key, which is why the keys are
//! cut into parts by the first byte of their hashes and made one after the other: 110 MB at 10^9
//! keys rather than 28 GB.
//!
//! A key that was put in is always found: what the crate promises is checked for every key when a
//! part is made. The hash is fixed, not drawn: deliberately colliding keys only cause
//! requests to the origin.

use serde::{Deserialize, Serialize};
use xorf::{BinaryFuse8, BinaryFuse8Ref, DmaSerializable, Filter, FilterRef};
use xxhash_rust::xxh3::xxh3_64;

/// Parts that the hashes are cut into.
pub(super) const PARTS: usize = 256;

/// Bytes of a fuse filter's numbers in the crate's form.
const NUMBERS_BYTES: usize = 20;

/// What is kept of a key: 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FilterHash(pub(super) u64);

impl FilterHash {
    /// That of a key of the bucket, which has no leading slash.
    pub fn of(key: &str) -> Self {
        Self(xxh3_64(key.as_bytes()))
    }

    /// The part that it belongs to, below [`PARTS`].
    pub(super) const fn part(self) -> usize {
        (self.0 >> 56) as usize
    }
}

/// The numbers of one part's fuse filter, as they stand in the file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PartNumbers {
    /// Distinct keys.
    pub(super) keys: u64,
    /// Bytes of fingerprints; 0 if there is no key.
    pub(super) bytes: u64,
    seed: u64,
    segment_length: u32,
    segment_count_length: u32,
}

/// Why a part could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum MakeError {
    /// The crate gave up, or made a filter that lacks a key.
    #[error("no fuse filter could be made of {keys} keys: {detail}; report it as a fault")]
    Failed { keys: usize, detail: &'static str },
}

/// Makes the fuse filter of `hashes`, which are sorted and distinct: its numbers and fingerprints.
pub(super) fn make_part(hashes: &[u64]) -> Result<(PartNumbers, Box<[u8]>), MakeError> {
    if hashes.is_empty() {
        return Ok((PartNumbers::default(), Box::default()));
    }
    let failed = |detail| MakeError::Failed { keys: hashes.len(), detail };
    let made = BinaryFuse8::try_from(hashes).map_err(failed)?;
    if !hashes.iter().all(|hash| made.contains(hash)) {
        return Err(failed("a key is missing in it"));
    }
    let numbers = PartNumbers {
        keys: hashes.len() as u64,
        bytes: made.fingerprints.len() as u64,
        seed: made.descriptor.seed,
        segment_length: made.descriptor.segment_length,
        segment_count_length: made.descriptor.segment_count_length,
    };
    debug_assert_eq!(BinaryFuse8::DESCRIPTOR_LEN, NUMBERS_BYTES);
    Ok((numbers, made.fingerprints))
}

impl PartNumbers {
    /// Whether every look-up with these numbers stays within their fingerprints.
    fn are_sound(&self) -> bool {
        if self.bytes == 0 {
            return self.keys == 0;
        }
        let (segment, count) =
            (u64::from(self.segment_length), u64::from(self.segment_count_length));
        segment.is_power_of_two()
            && count >= segment
            && count.is_multiple_of(segment)
            && count + 2 * segment <= self.bytes
    }

    fn in_the_crates_form(&self) -> [u8; NUMBERS_BYTES] {
        let mut form = [0; NUMBERS_BYTES];
        let mask = self.segment_length.wrapping_sub(1);
        let words = [self.segment_length, mask, self.segment_count_length];
        let bytes = self.seed.to_le_bytes().into_iter();
        let bytes = bytes.chain(words.into_iter().flat_map(u32::to_le_bytes));
        for (place, byte) in form.iter_mut().zip(bytes) {
            *place = byte;
        }
        form
    }
}

/// A whole set, ready to be asked.
#[derive(Debug)]
pub(super) struct KeySet {
    /// All fingerprints, with whatever stands before and behind them in the file.
    bytes: Vec<u8>,
    parts: Vec<FilterPart>,
}

#[derive(Debug)]
struct FilterPart {
    numbers: [u8; NUMBERS_BYTES],
    from: usize,
    to: usize,
}

impl KeySet {
    /// The set of these parts. Their fingerprints stand in `bytes` one after the other from `start`
    /// on; none if they do not fit it.
    pub(super) fn new(bytes: Vec<u8>, start: usize, numbers: &[PartNumbers]) -> Option<Self> {
        if numbers.len() != PARTS {
            return None;
        }
        let (mut parts, mut from) = (Vec::with_capacity(PARTS), start);
        for each in numbers {
            let to = from.checked_add(usize::try_from(each.bytes).ok()?)?;
            if !each.are_sound() || to > bytes.len() {
                return None;
            }
            parts.push(FilterPart { numbers: each.in_the_crates_form(), from, to });
            from = to;
        }
        Some(Self { bytes, parts })
    }

    /// Whether the key may be in it. Always true for a key that is.
    pub(super) fn may_contain(&self, hash: FilterHash) -> bool {
        // What cannot be looked up is never said to be absent.
        let Some(part) = self.parts.get(hash.part()) else { return true };
        match self.bytes.get(part.from..part.to) {
            None => true,
            Some([]) => false,
            Some(prints) => BinaryFuse8Ref::from_dma(&part.numbers, prints).contains(&hash.0),
        }
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::hash_set;
    use proptest::prelude::{ProptestConfig, any, prop, proptest};

    /// A set of these hashes, as `build` makes one.
    fn set_of(mut hashes: Vec<u64>) -> KeySet {
        hashes.sort_unstable();
        hashes.dedup();
        let (mut bytes, mut numbers) = (vec![7; 3], Vec::new());
        for part in 0..PARTS {
            let of_part = |hash: &u64| FilterHash(*hash).part() == part;
            let own: Vec<u64> = hashes.iter().copied().filter(of_part).collect();
            let (part, prints) = make_part(&own).unwrap();
            numbers.push(part);
            bytes.extend_from_slice(&prints);
        }
        KeySet::new(bytes, 3, &numbers).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// The promise of the whole filter.
        #[test]
        fn a_key_that_is_in_is_always_found(
            hashes in prop::collection::vec(any::<u64>(), 0..2_000),
            crowded in hash_set(0..(1_u64 << 20), 0..600),
            names in prop::collection::vec("[0-9a-z]{32}", 0..200),
        ) {
            let names: Vec<u64> =
                names.iter().map(|name| FilterHash::of(&format!("{name}.narinfo")).0).collect();
            let all: Vec<u64> = hashes.into_iter().chain(crowded).chain(names).collect();
            let set = set_of(all.clone());
            for hash in all {
                assert!(set.may_contain(FilterHash(hash)), "{hash:x}");
            }
        }
    }

    #[test]
    fn few_keys_that_are_not_in_are_taken_for_present() {
        let hash = |number: u32| FilterHash::of(&format!("key-{number}"));
        let set = set_of((0..100_000).map(|number| hash(number).0).collect());
        let wrong = (100_000..300_000).filter(|number| set.may_contain(hash(*number))).count();
        assert!(wrong < 2_000, "{wrong} of 200,000");
        assert!(set.bytes() * 8 < 100_000 * 14, "{} bytes", set.bytes());
        assert!(!set_of(Vec::new()).may_contain(hash(0)));
    }

    #[test]
    fn numbers_that_would_lead_out_of_the_bytes_are_refused() {
        let (part, prints) = make_part(&(0..1_000).collect::<Vec<_>>()).unwrap();
        let set = |part| {
            let mut numbers = [PartNumbers::default(); PARTS];
            numbers[0] = part;
            KeySet::new(prints.to_vec(), 0, &numbers)
        };
        assert!(set(part).is_some());
        for wrong in [
            PartNumbers { bytes: part.bytes + 1, ..part },
            PartNumbers { bytes: 0, ..part },
            PartNumbers { segment_length: part.segment_length - 1, ..part },
            PartNumbers { segment_length: 0, ..part },
            PartNumbers { segment_count_length: part.segment_count_length * 8, ..part },
            PartNumbers { segment_count_length: 0, ..part },
        ] {
            assert!(set(wrong).is_none(), "{wrong:?}");
        }
        assert!(KeySet::new(Vec::new(), 0, &[PartNumbers::default(); 3]).is_none());
    }
}
