//! The synthetic entries: what one commit of a narinfo writes, of the sizes that real ones have.
//! Pure; the same number makes the same entry in every engine.

/// Bytes of a record: head, key, class, six header fields, times.
const RECORD_BYTES: usize = 300;
/// What most records share, so that an engine that compresses has what it would have.
const SHARED: &[u8] = b"main\0/.narinfo text/x-nix-narinfo content-type last-modified etag \
    x-amz-storage-class accept-ranges cache-control public, max-age=31536000 Sun, 22 Nov 2026";

/// One entry.
pub(crate) struct Entry {
    /// Position in the order of all insertions.
    pub(crate) sequence: u64,
    /// The key's hash.
    pub(crate) hash: [u8; 16],
    /// Its metadata.
    pub(crate) record: Vec<u8>,
    /// Its small body.
    pub(crate) body: Vec<u8>,
}

impl Entry {
    /// Entry `number`, with a body of `body_bytes`.
    pub(crate) fn new(number: u64, body_bytes: usize) -> Self {
        let mut record = noise(number, RECORD_BYTES - SHARED.len());
        record.extend_from_slice(SHARED);
        Self {
            sequence: number,
            hash: hash(number),
            record,
            body: noise(number ^ 1 << 63, body_bytes),
        }
    }

    /// What the order of eviction keeps of it: its hash and its charge.
    pub(crate) fn place(&self) -> [u8; 20] {
        let mut place = [0; 20];
        let (hash, charge) = place.split_at_mut(16);
        hash.copy_from_slice(&self.hash);
        charge.copy_from_slice(&3_u32.to_le_bytes());
        place
    }

    /// Hash and sequence: the key of its body.
    pub(crate) fn insertion(&self) -> [u8; 24] {
        let mut key = [0; 24];
        let (hash, sequence) = key.split_at_mut(16);
        hash.copy_from_slice(&self.hash);
        sequence.copy_from_slice(&self.sequence.to_be_bytes());
        key
    }

    /// Bytes that a commit of it has to write at least.
    pub(crate) fn payload(&self) -> u64 {
        let body = if self.body.is_empty() { 0 } else { 24 + self.body.len() };
        (16 + self.record.len() + body + 8 + 20) as u64
    }
}

/// The key hash of entry `number`.
pub(crate) fn hash(number: u64) -> [u8; 16] {
    let (high, low) = (mix(number), mix(number ^ 0x5bf0_3635));
    (u128::from(high) << 64 | u128::from(low)).to_le_bytes()
}

/// A number that looks random.
pub(crate) fn mix(number: u64) -> u64 {
    let mut state = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let words = (0..bytes.div_ceil(8) as u64).map(|at| mix(seed.wrapping_mul(1021) ^ at << 40));
    let mut noise: Vec<u8> = words.flat_map(u64::to_le_bytes).collect();
    noise.truncate(bytes);
    noise
}
