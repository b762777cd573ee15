//! Bytes and words that look like nothing in particular and come out the same for the same seed.
//! Pure; used by the sample cache only, never for keys.

/// A SplitMix64 generator (Steele, Lea and Flood, OOPSLA 2014): quick, repeatable, not secret.
#[derive(Debug, Clone)]
pub struct Noise(u64);

const WORDS: [&str; 32] = [
    "archive",
    "binary",
    "build",
    "cache",
    "closure",
    "command",
    "configure",
    "default",
    "depends",
    "directory",
    "error",
    "file",
    "hash",
    "header",
    "input",
    "install",
    "library",
    "linker",
    "module",
    "object",
    "option",
    "output",
    "package",
    "path",
    "phase",
    "prefix",
    "release",
    "source",
    "static",
    "store",
    "symbol",
    "version",
];

impl Noise {
    /// A generator for one purpose: `name` keeps the streams of one seed apart.
    pub fn new(seed: u64, name: &str) -> Self {
        // FNV-1a over the name.
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(seed ^ hash)
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Appends `count` bytes that do not compress.
    pub fn fill(&mut self, to: &mut Vec<u8>, count: usize) {
        to.reserve(count);
        let mut left = count;
        while left > 0 {
            let bytes = self.next_u64().to_le_bytes();
            to.extend(bytes.iter().take(left));
            left = left.saturating_sub(bytes.len());
        }
    }

    /// Appends lines of words, at least `count` bytes: text that compresses as prose does.
    pub fn write_text(&mut self, to: &mut Vec<u8>, count: usize) {
        let end = to.len() + count;
        while to.len() < end {
            for position in 0..9 {
                let word = self.pick(&WORDS).copied().unwrap_or_default();
                to.extend_from_slice(if position == 0 { b"" } else { b" " });
                to.extend_from_slice(word.as_bytes());
            }
            to.push(b'\n');
        }
    }

    /// One of `items`; `None` only if there is none.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> Option<&'a T> {
        let position = self.next_u64() % u64::try_from(items.len()).unwrap_or(u64::MAX).max(1);
        items.get(usize::try_from(position).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_and_a_name_fix_the_bytes() {
        let bytes = |seed, name| {
            let mut to = Vec::new();
            Noise::new(seed, name).fill(&mut to, 100);
            Noise::new(seed, name).write_text(&mut to, 100);
            to
        };
        assert_eq!(bytes(1, "a"), bytes(1, "a"));
        assert_ne!(bytes(1, "a"), bytes(2, "a"));
        assert_ne!(bytes(1, "a"), bytes(1, "b"));
    }

    #[test]
    fn the_generator_is_splitmix64() {
        // First outputs for the state 1234567, as published with the algorithm.
        let mut noise = Noise(1_234_567);
        assert_eq!(noise.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(noise.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn as_many_bytes_come_as_were_asked_for() {
        for count in [0, 1, 7, 8, 9, 4_099] {
            let mut to = vec![1];
            Noise::new(3, "n").fill(&mut to, count);
            assert_eq!(to.len(), count + 1);
        }
    }
}
