//! The number that names one request in answers and logs. Drawn without a system call: each thread
//! walks the same sequence of 64-bit numbers from a random place of its own.

use http::HeaderValue;
use std::cell::Cell;
use std::fmt;

/// The step of the sequence (SplitMix64): odd, so that no number comes twice.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

thread_local! {
    static PLACE: Cell<u64> = Cell::new(getrandom::u64().unwrap_or_default());
}

/// A request's id: 64 bits, in logs and answers 16 hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId(u64);

impl RequestId {
    /// An id that no other request has, but for chance.
    pub fn draw() -> Self {
        let place = PLACE.with(|place| {
            let next = place.get().wrapping_add(STEP);
            place.set(next);
            next
        });
        Self(mixed(place))
    }

    #[cfg(test)]
    pub(super) const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// As a field value.
    pub fn to_header_value(self) -> HeaderValue {
        let mut left = self.0;
        let mut digits = [0; 16];
        for digit in digits.iter_mut().rev() {
            *digit = match u8::try_from(left & 0xf).unwrap_or(0) {
                number @ 0..=9 => b'0' + number,
                letter => b'a' + letter - 10,
            };
            left >>= 4;
        }
        let value = HeaderValue::from_bytes(&digits);
        value.unwrap_or_else(|_| HeaderValue::from_static("0000000000000000"))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// SplitMix64's output function: one to one, so different places give different ids.
const fn mixed(place: u64) -> u64 {
    let bits = (place ^ (place >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_requests_have_one_id() {
        let draw = || (0..1_000).map(|_| RequestId::draw().0).collect::<Vec<_>>();
        let other = std::thread::spawn(draw).join().unwrap();
        let all: HashSet<u64> = draw().into_iter().chain(other).collect();
        assert_eq!(all.len(), 2_000);
    }

    #[test]
    fn an_id_has_sixteen_digits() {
        assert_eq!(RequestId::from_bits(0xab).to_string(), "00000000000000ab");
        assert_eq!(RequestId::from_bits(u64::MAX).to_header_value(), "ffffffffffffffff");
    }
}
