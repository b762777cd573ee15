//! Checksums of a body's chunks, so that a part of a large body can be checked without reading all
//! of it. Pure. Made while a body is written, kept behind it in its file, compared by every read
//! that goes to the disk.
//!
//! A chunk is 1 MiB, the last one what is left. Its sum is XXH3-64 with a seed that is made of the
//! key's hash and the chunk's number: the right bytes at the wrong place, or of another object, do
//! not match either. A sum is no proof against deceit, only against a disk
//! that is faulty: SHA-256 of the whole is in the record, and the scrubber compares it.

use crate::object::{KeyHash, Sha256};
use xxhash_rust::xxh3::Xxh3;

/// Bytes of a chunk; the last of a body may have fewer.
pub const CHUNK_BYTES: u64 = 1024 * 1024;
/// Bytes of a sum on disk, little-endian.
pub(crate) const SUM_BYTES: u64 = 8;

/// Bytes that the sums of a body of `length` bytes take.
pub(crate) const fn sums_bytes(length: u64) -> u64 {
    length.div_ceil(CHUNK_BYTES) * SUM_BYTES
}

/// The sum of one chunk while its bytes come.
pub(crate) struct ChunkSum(Xxh3);

impl ChunkSum {
    /// Nothing yet of the chunk `index` of a key's body.
    pub(crate) fn new(key: KeyHash, index: u64) -> Self {
        let head = key.0.first_chunk().map_or(0, |head| u64::from_le_bytes(*head));
        Self(Xxh3::with_seed(head.wrapping_add(index)))
    }

    /// Adds the next bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The sum of what was added so far.
    pub(crate) fn value(&self) -> u64 {
        self.0.digest()
    }
}

/// The sums of a body while it comes.
pub(crate) struct Sums {
    key: KeyHash,
    /// The chunk that the bytes begin with.
    first: u64,
    whole: Vec<u64>,
    last: ChunkSum,
    last_bytes: u64,
}

impl std::fmt::Debug for Sums {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sums").field("whole", &self.whole.len()).finish_non_exhaustive()
    }
}

impl Sums {
    /// The sums of no bytes.
    pub(crate) fn new(key: KeyHash) -> Self {
        Self::from_chunk(key, 0)
    }

    /// The sums of no bytes yet, which begin with the chunk `first`.
    pub(crate) fn from_chunk(key: KeyHash, first: u64) -> Self {
        let last = ChunkSum::new(key, first);
        Self { key, first, whole: Vec::new(), last, last_bytes: 0 }
    }

    /// Adds the next bytes of the body.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let left = CHUNK_BYTES - self.last_bytes;
            let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (now, later) = bytes.split_at_checked(taken).unwrap_or((bytes, &[]));
            self.last.update(now);
            self.last_bytes += now.len() as u64;
            if self.last_bytes == CHUNK_BYTES {
                self.whole.push(self.last.value());
                self.last = ChunkSum::new(self.key, self.first + self.whole.len() as u64);
                self.last_bytes = 0;
            }
            bytes = later;
        }
    }

    /// The sum of the chunk `index` as far as it has come, and its bytes; `None` if none came.
    pub(crate) fn of(&self, index: u64) -> Option<ExpectedSum> {
        let position = usize::try_from(index.checked_sub(self.first)?).ok()?;
        if let Some(&sum) = self.whole.get(position) {
            return Some(ExpectedSum { sum, bytes: CHUNK_BYTES });
        }
        let is_last = position == self.whole.len() && self.last_bytes > 0;
        is_last.then(|| ExpectedSum { sum: self.last.value(), bytes: self.last_bytes })
    }

    /// All sums, as they stand in the file.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let last = (self.last_bytes > 0).then(|| self.last.value());
        self.whole.iter().copied().chain(last).flat_map(u64::to_le_bytes).collect()
    }
}

/// What a chunk must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExpectedSum {
    /// Its sum.
    pub(crate) sum: u64,
    /// How many bytes the sum is of.
    pub(crate) bytes: u64,
}

/// What the footer keeps of all sums: the head of their SHA-256.
pub(crate) fn digest(sums: &[u8]) -> [u8; 16] {
    Sha256::of(sums).0.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    const KEY: KeyHash = KeyHash([7; 16]);
    const CHUNK: usize = 1024 * 1024;

    fn sum_of(key: KeyHash, index: u64, bytes: &[u8]) -> u64 {
        let mut sum = ChunkSum::new(key, index);
        sum.update(bytes);
        sum.value()
    }

    #[test]
    fn a_sum_is_of_its_place_and_its_key() {
        let sum = sum_of(KEY, 0, b"abc");
        assert_eq!(sum, sum_of(KEY, 0, b"abc"));
        assert_ne!(sum, sum_of(KEY, 1, b"abc"));
        assert_ne!(sum, sum_of(KeyHash([8; 16]), 0, b"abc"));
        assert_ne!(sum, sum_of(KEY, 0, b"abd"));
        assert_ne!(sum_of(KEY, 3, &[0; 4096]), 0, "a hole is not its own sum");
    }

    #[test]
    fn the_sums_of_bodies_at_the_edges_of_chunks() {
        for (length, bytes) in
            [(0, 0), (1, 8), (CHUNK - 1, 8), (CHUNK, 8), (CHUNK + 1, 16), (3 * CHUNK, 24)]
        {
            let mut sums = Sums::new(KEY);
            sums.update(&vec![5; length]);
            let encoded = sums.encode();
            assert_eq!(encoded.len(), bytes, "{length}");
            assert_eq!(sums_bytes(length as u64), bytes as u64);
            assert_eq!(sums.of(bytes as u64 / 8), None);
        }
    }

    proptest! {
        #[test]
        fn pieces_make_the_same_sums_as_the_whole(
            cuts in proptest::collection::vec(0..400_000_usize, 1..12),
            fill in any::<u8>(),
        ) {
            let mut sums = Sums::new(KEY);
            let mut body = Vec::new();
            for (number, cut) in cuts.iter().enumerate() {
                let piece = vec![fill.wrapping_add(u8::try_from(number).unwrap()); *cut];
                sums.update(&piece);
                body.extend_from_slice(&piece);
            }
            let expected: Vec<u8> = (0..)
                .zip(body.chunks(CHUNK))
                .flat_map(|(index, chunk)| sum_of(KEY, index, chunk).to_le_bytes())
                .collect();
            assert_eq!(sums.encode(), expected);
            for (index, chunk) in (0..).zip(body.chunks(CHUNK)) {
                let (sum, bytes) = (sum_of(KEY, index, chunk), chunk.len() as u64);
                let expected = ExpectedSum { sum, bytes };
                assert_eq!(sums.of(index), Some(expected));
            }
        }
    }
}
