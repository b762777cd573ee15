//! What follows a body in its file, so that the file explains itself without the index. Pure; never
//! panics on anything read back. Written by the commit, read by look-ups, the scrubber and `fsck`.
//!
//! A body file is the body at offset 0, the sums of its chunks (see `sums`), its record as the
//! index got it at the commit, and a footer of fixed size:
//!
//! | bytes | footer |
//! |---|---|
//! | 8 | `NARTHEX\n` |
//! | 4 | format version, little-endian as all numbers here |
//! | 4 | length of the record before the footer |
//! | 8 | length of the body, which says how many sums there are |
//! | 8 | insertion sequence |
//! | 16 | key hash |
//! | 32 | SHA-256 of the body |
//! | 16 | head of SHA-256 of the sums |
//! | 16 | head of SHA-256 of the record and the footer up to here |
//!
//! A look-up reads record and footer alone, in one read of a bounded size, however large the body:
//! the sums of 100 GiB take 800 KiB, and a read from the disk fetches only the one that it needs. A
//! later change of metadata is in the index only.

use crate::object::{KeyHash, Sha256};
use crate::store::body::sums;
use crate::store::format::{FormatError, RecordHead, VERSION};

const MAGIC: [u8; 8] = *b"NARTHEX\n";
/// Bytes of the footer.
pub(crate) const FOOTER_BYTES: usize = 112;
/// Bytes that record and footer may have together; longer ones were never written.
pub(crate) const TAIL_BYTES_MAX: usize = 256 * 1024;

/// The footer of a body file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Footer {
    /// Bytes of the record before it.
    pub(crate) record_bytes: u32,
    /// Bytes of the body.
    pub(crate) length: u64,
    /// The insertion.
    pub(crate) sequence: u64,
    /// The key's hash.
    pub(crate) key: KeyHash,
    /// SHA-256 of the body.
    pub(crate) sha256: Sha256,
    /// What [`sums::digest`] makes of the sums.
    pub(crate) sums: [u8; 16],
}

impl Footer {
    /// The footer at the end of `bytes`; whether it is right is not checked here.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, FormatError> {
        let footer = bytes.len().checked_sub(FOOTER_BYTES).and_then(|start| bytes.get(start..));
        let mut rest = footer.ok_or(FormatError::Field("trailer length"))?;
        if take(&mut rest)? != MAGIC {
            return Err(FormatError::Field("trailer mark"));
        }
        let version = u32::from_le_bytes(take(&mut rest)?);
        if version != VERSION {
            return Err(FormatError::Version(u8::try_from(version).unwrap_or(u8::MAX)));
        }
        Ok(Self {
            record_bytes: u32::from_le_bytes(take(&mut rest)?),
            length: u64::from_le_bytes(take(&mut rest)?),
            sequence: u64::from_le_bytes(take(&mut rest)?),
            key: KeyHash(take(&mut rest)?),
            sha256: Sha256(take(&mut rest)?),
            sums: take(&mut rest)?,
        })
    }

    /// Bytes that the whole file has; `None` if they are more than a file can have.
    pub(crate) fn file_bytes(&self) -> Option<u64> {
        let tail = u64::from(self.record_bytes) + FOOTER_BYTES as u64;
        self.length.checked_add(sums::sums_bytes(self.length))?.checked_add(tail)
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FOOTER_BYTES);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.record_bytes.to_le_bytes());
        bytes.extend_from_slice(&self.length.to_le_bytes());
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.key.0);
        bytes.extend_from_slice(&self.sha256.0);
        bytes.extend_from_slice(&self.sums);
        bytes
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], FormatError> {
    let (head, tail) = rest.split_first_chunk().ok_or(FormatError::Field("trailer length"))?;
    *rest = tail;
    Ok(*head)
}

/// Where record and footer of a body of `length` bytes begin in its file.
pub(crate) const fn tail_offset(length: u64) -> u64 {
    length.saturating_add(sums::sums_bytes(length))
}

/// What follows the body of `key` in its file: its sums, its encoded record and the footer.
pub(crate) fn encode(
    key: KeyHash,
    head: &RecordHead,
    sums: &[u8],
    record: &[u8],
) -> Result<Vec<u8>, FormatError> {
    if sums.len() as u64 != sums::sums_bytes(head.length) {
        return Err(FormatError::Field("number of sums"));
    }
    let record_bytes = u32::try_from(record.len()).ok();
    let record_bytes = record_bytes.filter(|_| record.len() <= TAIL_BYTES_MAX - FOOTER_BYTES);
    let footer = Footer {
        record_bytes: record_bytes.ok_or(FormatError::Field("record length"))?,
        length: head.length,
        sequence: head.sequence,
        key,
        sha256: head.sha256,
        sums: sums::digest(sums),
    };
    let mut tail = record.to_vec();
    tail.extend_from_slice(&footer.encode());
    let checksum = checksum(&tail);
    tail.extend_from_slice(&checksum);
    Ok([sums, &tail].concat())
}

/// Reads record and footer, `tail`, back: both are as they were written.
pub(crate) fn decode(tail: &[u8]) -> Result<(Footer, &[u8]), FormatError> {
    let Some((checked, sum)) = tail.split_last_chunk::<16>() else {
        return Err(FormatError::Field("trailer length"));
    };
    if checksum(checked) != *sum {
        return Err(FormatError::Field("trailer checksum"));
    }
    let footer = Footer::parse(tail)?;
    let record = tail.len().checked_sub(FOOTER_BYTES).and_then(|end| tail.get(..end));
    let is_whole = |record: &&[u8]| u32::try_from(record.len()) == Ok(footer.record_bytes);
    let record = record.filter(is_whole).ok_or(FormatError::Field("record length"))?;
    Ok((footer, record))
}

/// Whether record and footer, `tail`, were written for `key` with this head.
pub(crate) fn check(key: KeyHash, head: &RecordHead, tail: &[u8]) -> Result<Footer, FormatError> {
    let (footer, _) = decode(tail)?;
    let is_it = footer.key == key
        && footer.sequence == head.sequence
        && footer.length == head.length
        && footer.sha256 == head.sha256;
    if is_it { Ok(footer) } else { Err(FormatError::Field("trailer")) }
}

fn checksum(bytes: &[u8]) -> [u8; 16] {
    Sha256::of(bytes).0.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::format::BodyPlace;
    use proptest::prelude::{any, proptest};

    const KEY: KeyHash = KeyHash([3; 16]);

    fn head(length: u64) -> RecordHead {
        let sha256 = Sha256([0xab; 32]);
        RecordHead {
            sequence: 7,
            length,
            sha256,
            place: BodyPlace::File,
            claims: None,
            variant_of: None,
        }
    }

    fn tail(head: &RecordHead, record: &[u8]) -> Vec<u8> {
        let sums = vec![1; usize::try_from(sums::sums_bytes(head.length)).unwrap()];
        let trailer = encode(KEY, head, &sums, record).unwrap();
        trailer[sums.len()..].to_vec()
    }

    #[test]
    fn a_trailer_says_how_long_its_file_is() {
        for length in [70_000, 1 << 20, 100 << 30] {
            let head = head(length);
            let tail = tail(&head, b"a record");
            let footer = check(KEY, &head, &tail).unwrap();
            assert_eq!(footer.file_bytes(), Some(tail_offset(length) + tail.len() as u64));
            assert!(tail.len() < TAIL_BYTES_MAX, "a look-up reads no sums");
            assert_eq!(decode(&tail).unwrap().1, b"a record");
        }
    }

    #[test]
    fn another_object_is_another() {
        let head = head(70_000);
        let tail = tail(&head, b"a record");
        assert!(check(KeyHash([4; 16]), &head, &tail).is_err());
        assert!(check(KEY, &RecordHead { sequence: 8, ..head }, &tail).is_err());
        assert!(check(KEY, &RecordHead { length: 70_001, ..head }, &tail).is_err());
        assert!(check(KEY, &RecordHead { sha256: Sha256([0; 32]), ..head }, &tail).is_err());
    }

    #[test]
    fn what_no_look_up_could_read_is_not_written() {
        let head = head(70_000);
        let long = vec![0; TAIL_BYTES_MAX];
        let refused = encode(KEY, &head, &[0; 8], &long);
        assert_eq!(refused, Err(FormatError::Field("record length")));
        assert_eq!(encode(KEY, &head, &[0; 16], b""), Err(FormatError::Field("number of sums")));
    }

    proptest! {
        #[test]
        fn any_flipped_byte_of_a_trailer_is_seen(at: usize, flip in 1_u8..) {
            let head = head(70_000);
            let mut tail = tail(&head, b"a record");
            assert!(check(KEY, &head, &tail).is_ok());
            let at = at % tail.len();
            tail[at] ^= flip;
            assert!(check(KEY, &head, &tail).is_err());
        }

        #[test]
        fn any_bytes_decode_or_fail_cleanly(bytes in any::<Vec<u8>>()) {
            let _ = decode(&bytes);
            let _ = Footer::parse(&bytes).map(|footer| footer.file_bytes());
            let _ = check(KEY, &head(70_000), &bytes);
        }
    }
}
