//! Nix's base 32: 32 characters without `e`, `o`, `t` and `u`, most significant bits first, the
//! bytes read from the last to the first (Nix: `src/libutil/hash.cc`). Pure; strict in both
//! directions, so that every value has exactly one spelling.

use std::ascii::escape_default;

/// The digits, by value.
const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// The value of no digit.
const NO_DIGIT: u8 = 0xff;

/// The value of each character; [`NO_DIGIT`] for those that are no digit.
const VALUES: [u8; 256] = values();

/// Why a text is not base 32 of the expected length.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Base32Error {
    /// Too short or too long.
    #[error("{found} characters in place of {expected} base-32 digits")]
    Length {
        /// Digits that the value takes.
        expected: usize,
        /// Bytes of the text.
        found: usize,
    },
    /// A byte that is no digit; upper case never is.
    #[error(
        "'{}' is no base-32 digit; those are 0-9 and a-z without e, o, t and u",
        escape_default(*.byte)
    )]
    Digit {
        /// The byte.
        byte: u8,
    },
    /// The first digit holds bits beyond the value's last one.
    #[error("the first base-32 digit is too large for {bytes} bytes")]
    Padding {
        /// Bytes of the value.
        bytes: usize,
    },
}

/// How many digits `bytes` bytes take.
pub const fn encoded_len(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// Whether `byte` is a digit.
pub fn is_digit(byte: u8) -> bool {
    value_of(byte) != NO_DIGIT
}

/// `bytes` in base 32.
pub fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(encoded_len(bytes.len()));
    for position in (0..encoded_len(bytes.len())).rev() {
        let (index, shift) = split(position);
        let low = bytes.get(index).copied().unwrap_or(0);
        let high = bytes.get(index + 1).copied().unwrap_or(0);
        let digit = (u16::from_le_bytes([low, high]) >> shift) & 0x1f;
        text.push(char::from(ALPHABET.get(usize::from(digit)).copied().unwrap_or(b'0')));
    }
    text
}

/// The `N` bytes that `text` spells; nothing but what [`encode`] gives is accepted.
pub fn decode<const N: usize>(text: &str) -> Result<[u8; N], Base32Error> {
    if text.len() != encoded_len(N) {
        return Err(Base32Error::Length { expected: encoded_len(N), found: text.len() });
    }
    let mut bytes = [0; N];
    for (position, byte) in text.bytes().rev().enumerate() {
        let digit = value_of(byte);
        if digit == NO_DIGIT {
            return Err(Base32Error::Digit { byte });
        }
        let (index, shift) = split(position);
        let [low, high] = (u16::from(digit) << shift).to_le_bytes();
        for (part, index) in [(low, index), (high, index + 1)] {
            match bytes.get_mut(index) {
                Some(byte) => *byte |= part,
                None if part == 0 => {}
                None => return Err(Base32Error::Padding { bytes: N }),
            }
        }
    }
    Ok(bytes)
}

/// The byte in which the digit at `position`, counted from the end, begins, and its lowest bit.
const fn split(position: usize) -> (usize, usize) {
    (position * 5 / 8, position * 5 % 8)
}

fn value_of(byte: u8) -> u8 {
    VALUES.get(usize::from(byte)).copied().unwrap_or(NO_DIGIT)
}

#[expect(clippy::indexing_slicing, reason = "evaluated at compile time only")]
const fn values() -> [u8; 256] {
    let mut values = [NO_DIGIT; 256];
    let mut value: u8 = 0;
    while (value as usize) < ALPHABET.len() {
        values[ALPHABET[value as usize] as usize] = value;
        value += 1;
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    /// SHA-256 of `narthex`, and what `nix-hash --to-base32` of Nix 2.8.0 prints for it.
    const DIGEST: [u8; 32] = [
        0x9d, 0xcc, 0x5d, 0x43, 0x66, 0x2f, 0x9d, 0x65, 0x5b, 0xc6, 0x74, 0x77, 0x5e, 0x3f, 0xa1,
        0x81, 0x03, 0xc3, 0x89, 0x70, 0x4e, 0x9b, 0x34, 0x09, 0xda, 0xff, 0xdf, 0x0b, 0x4e, 0x74,
        0x3e, 0x00,
    ];
    const DIGEST_TEXT: &str = "001yfi70ppzzv84k96sff24w60w1l4zmwxvlqrdnb79gcr1mvk4x";

    #[test]
    fn agrees_with_nix() {
        assert_eq!(encode(&DIGEST), DIGEST_TEXT);
        assert_eq!(decode(DIGEST_TEXT), Ok(DIGEST));
        assert_eq!(encode(&[]), "");
    }

    #[test]
    fn refuses_what_nix_never_writes() {
        let upper = DIGEST_TEXT.to_uppercase();
        assert!(matches!(decode::<32>(&upper), Err(Base32Error::Digit { .. })));
        let short = DIGEST_TEXT.trim_start_matches('0');
        assert_eq!(decode::<32>(short), Err(Base32Error::Length { expected: 52, found: 50 }));
        let padded = format!("2{}", "0".repeat(51));
        assert_eq!(decode::<32>(&padded), Err(Base32Error::Padding { bytes: 32 }));
        let largest = format!("1{}", "z".repeat(51));
        assert_eq!(decode::<32>(&largest), Ok([0xff; 32]));
        for byte in *b"eotuEOTU \n-" {
            assert!(!is_digit(byte));
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(bytes in any::<[u8; 32]>(), short in any::<[u8; 20]>()) {
            assert_eq!(decode(&encode(&bytes)), Ok(bytes));
            assert_eq!(decode(&encode(&short)), Ok(short));
        }

        #[test]
        fn what_is_decoded_has_one_spelling(text in "[0-9a-z]{26}|.{0,40}") {
            if let Ok(bytes) = decode::<16>(&text) {
                assert_eq!(encode(&bytes), text);
            }
        }
    }
}
