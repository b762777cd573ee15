//! The snapshot of the eviction order, as bytes: which insertions stand in which queue, from the
//! next to go to the last, and their uses. Pure; never panics on anything read back. A file that
//! ends early, is damaged or is old costs nothing but a worse order: what it says of insertions
//! that are gone is passed over, since a sequence is used once.
//!
//! | bytes | |
//! |---|---|
//! | 8 | `NARTHEXO` |
//! | 4 | version, little-endian as all numbers here |
//! | blocks | some thousand insertions each, then one without any |
//!
//! | bytes | block |
//! |---|---|
//! | 1 | 1: on trial, 2: main, 0: the end |
//! | 4 | insertions |
//! | 4 | bytes of them |
//! | those | one number an insertion |
//! | 16 | head of SHA-256 of the block up to here |
//!
//! The number is the insertion's sequence less the one before it in the block (the first less
//! zero), twice its amount, plus one if that is negative; this times four, plus the uses. It is
//! written from its low end, seven bits a byte, the top bit set where more follow.

use crate::object::Sha256;
use std::io::{self, Read};

const MAGIC: [u8; 8] = *b"NARTHEXO";
const VERSION: u32 = 1;
/// Insertions of a block, at most.
pub(crate) const BLOCK_MAX: usize = 4096;
/// Bytes that one insertion takes at most.
const NUMBER_BYTES_MAX: usize = 9;
/// Sequences below this can be written; there are never so many insertions.
const SEQUENCE_MAX: u64 = 1 << 60;
const HEAD_BYTES: usize = 9;
const SUM_BYTES: usize = 16;

/// The queue of a block's insertions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OrderFilePart {
    /// On trial.
    Trial,
    /// Passed it.
    Main,
}

/// Some insertions of one queue, each with its uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    /// The queue.
    pub(crate) part: OrderFilePart,
    /// From the next to go to the last.
    pub(crate) insertions: Vec<(u64, u8)>,
}

/// Why a snapshot cannot be read on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderFileError {
    /// The file cannot be read, or ends early.
    #[error("it cannot be read to its end: {0}")]
    Io(#[from] io::Error),
    /// It is no snapshot.
    #[error("it does not begin as a snapshot of the order")]
    Magic,
    /// It is of another version.
    #[error("it has version {found}, this program reads {VERSION}")]
    Version {
        /// The version it has.
        found: u32,
    },
    /// A block is not as it was written.
    #[error("a block of it is damaged: bad {0}")]
    Damaged(&'static str),
}

/// What a snapshot begins with.
pub(crate) fn encode_head() -> Vec<u8> {
    [&MAGIC[..], &VERSION.to_le_bytes()].concat()
}

/// What a snapshot ends with.
pub(crate) fn encode_end() -> Vec<u8> {
    encode(0, &[])
}

/// A block of at most [`BLOCK_MAX`] insertions.
pub(crate) fn encode_block(part: OrderFilePart, insertions: &[(u64, u8)]) -> Vec<u8> {
    let part = match part {
        OrderFilePart::Trial => 1,
        OrderFilePart::Main => 2,
    };
    encode(part, insertions)
}

fn encode(part: u8, insertions: &[(u64, u8)]) -> Vec<u8> {
    let mut numbers = Vec::with_capacity(insertions.len() * 4);
    let (mut before, mut count) = (0, 0_u32);
    let written = insertions.iter().filter(|(sequence, _)| *sequence < SEQUENCE_MAX);
    for &(sequence, uses) in written.take(BLOCK_MAX) {
        let (sign, distance) =
            if sequence >= before { (0, sequence - before) } else { (1, before - sequence) };
        push_number(&mut numbers, (distance << 1 | sign) << 2 | u64::from(uses & 0b11));
        before = sequence;
        count += 1;
    }
    let mut block = vec![part];
    block.extend_from_slice(&count.to_le_bytes());
    // At most nine bytes for each of some thousand insertions.
    block.extend_from_slice(&u32::try_from(numbers.len()).unwrap_or(u32::MAX).to_le_bytes());
    block.extend_from_slice(&numbers);
    let sum = checksum(&block);
    block.extend_from_slice(&sum);
    block
}

fn push_number(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    bytes.push((number & 0x7f) as u8);
}

/// Reads a snapshot, block by block.
#[derive(Debug)]
pub(crate) struct OrderReader<R>(R);

impl<R: Read> OrderReader<R> {
    /// A reader of what `source` gives, which should be buffered.
    pub(crate) fn new(mut source: R) -> Result<Self, OrderFileError> {
        let mut magic = [0; MAGIC.len()];
        source.read_exact(&mut magic)?;
        if magic != MAGIC {
            return Err(OrderFileError::Magic);
        }
        let mut version = [0; 4];
        source.read_exact(&mut version)?;
        match u32::from_le_bytes(version) {
            VERSION => Ok(Self(source)),
            found => Err(OrderFileError::Version { found }),
        }
    }

    /// The next block; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Block>, OrderFileError> {
        let mut head = [0; HEAD_BYTES];
        self.0.read_exact(&mut head)?;
        let [part, c0, c1, c2, c3, b0, b1, b2, b3] = head;
        let count = u32::from_le_bytes([c0, c1, c2, c3]) as usize;
        let bytes = u32::from_le_bytes([b0, b1, b2, b3]) as usize;
        if count > BLOCK_MAX || bytes > count * NUMBER_BYTES_MAX {
            return Err(OrderFileError::Damaged("length"));
        }
        let mut block = head.to_vec();
        block.resize(HEAD_BYTES + bytes + SUM_BYTES, 0);
        let rest = block.get_mut(HEAD_BYTES..).unwrap_or_default();
        self.0.read_exact(rest)?;
        let Some((summed, sum)) = block.split_last_chunk::<SUM_BYTES>() else {
            return Err(OrderFileError::Damaged("length"));
        };
        if checksum(summed) != *sum {
            return Err(OrderFileError::Damaged("checksum"));
        }
        let insertions = decode(summed.get(HEAD_BYTES..).unwrap_or_default(), count)?;
        let part = match part {
            0 if count == 0 => return Ok(None),
            1 => OrderFilePart::Trial,
            2 => OrderFilePart::Main,
            _ => return Err(OrderFileError::Damaged("queue")),
        };
        Ok(Some(Block { part, insertions }))
    }
}

fn decode(mut bytes: &[u8], count: usize) -> Result<Vec<(u64, u8)>, OrderFileError> {
    let mut insertions = Vec::with_capacity(count);
    let mut before = 0_u64;
    for _ in 0..count {
        let number = take_number(&mut bytes).ok_or(OrderFileError::Damaged("number"))?;
        let (distance, uses) = (number >> 3, (number & 0b11) as u8);
        let sequence = match number >> 2 & 1 {
            0 => before.checked_add(distance),
            _ => before.checked_sub(distance),
        };
        before = sequence
            .filter(|sequence| *sequence < SEQUENCE_MAX)
            .ok_or(OrderFileError::Damaged("sequence"))?;
        insertions.push((before, uses));
    }
    if bytes.is_empty() { Ok(insertions) } else { Err(OrderFileError::Damaged("end")) }
}

fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for at in 0..NUMBER_BYTES_MAX {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn checksum(bytes: &[u8]) -> [u8; SUM_BYTES] {
    Sha256::of(bytes).0.first_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{Strategy, any, prop_oneof, proptest};

    fn read(bytes: &[u8]) -> Result<Vec<Block>, OrderFileError> {
        let mut reader = OrderReader::new(bytes)?;
        let mut blocks = Vec::new();
        while let Some(block) = reader.next()? {
            blocks.push(block);
        }
        Ok(blocks)
    }

    fn written(blocks: &[Block]) -> Vec<u8> {
        let mut bytes = encode_head();
        for block in blocks {
            bytes.extend(encode_block(block.part, &block.insertions));
        }
        bytes.extend(encode_end());
        bytes
    }

    #[test]
    fn the_golden_snapshot_stays_readable() {
        let golden = include_str!("../golden/order-1.hex").split_whitespace().collect::<String>();
        let blocks = [
            Block { part: OrderFilePart::Trial, insertions: vec![(7, 0), (8, 2), (300, 1)] },
            Block {
                part: OrderFilePart::Main,
                insertions: vec![(5, 1), (1, 0), (SEQUENCE_MAX - 1, 2)],
            },
        ];
        let bytes = written(&blocks);
        let hex = bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
        assert_eq!(hex, golden);
        assert_eq!(read(&bytes).unwrap(), blocks);
    }

    #[test]
    fn what_is_no_snapshot_is_told() {
        assert!(matches!(read(b"").unwrap_err(), OrderFileError::Io(_)));
        assert!(matches!(read(b"NARTHEX\n1234").unwrap_err(), OrderFileError::Magic));
        let mut newer = written(&[]);
        newer[8] = 2;
        let error = read(&newer).unwrap_err();
        assert_eq!(error.to_string(), "it has version 2, this program reads 1");
        let huge = [&encode_head()[..], &[1], &u32::MAX.to_le_bytes(), &[0xff; 4]].concat();
        assert!(matches!(read(&huge).unwrap_err(), OrderFileError::Damaged("length")));
    }

    fn insertions() -> impl Strategy<Value = Vec<(u64, u8)>> {
        let near = 0..200_u64;
        let sequence = prop_oneof![near, any::<u64>().prop_map(|number| number >> 4)];
        proptest::collection::vec((sequence, 0..4_u8), 0..50)
    }

    fn blocks() -> impl Strategy<Value = Vec<Block>> {
        let block = (any::<bool>(), insertions()).prop_map(|(is_main, insertions)| Block {
            part: if is_main { OrderFilePart::Main } else { OrderFilePart::Trial },
            insertions,
        });
        proptest::collection::vec(block, 0..4)
    }

    proptest! {
        #[test]
        fn a_snapshot_comes_back_as_it_was(blocks in blocks()) {
            assert_eq!(read(&written(&blocks)).unwrap(), blocks);
        }

        #[test]
        fn any_flipped_byte_and_any_cut_is_seen(
            blocks in blocks(),
            at in any::<usize>(),
            flip in 1_u8..,
        ) {
            let bytes = written(&blocks);
            let mut damaged = bytes.clone();
            let at = at % damaged.len();
            damaged[at] ^= flip;
            read(&damaged).unwrap_err();
            read(&bytes[..at]).unwrap_err();
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes);
            let _ = read(&[&encode_head()[..], &bytes].concat());
            let mut block = vec![1, 3, 0, 0, 0];
            block.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
            block.extend_from_slice(&bytes);
            let sum = checksum(&block);
            block.extend_from_slice(&sum);
            let _ = read(&[encode_head(), block].concat());
        }
    }
}
