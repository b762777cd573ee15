//! Hashes as Nix writes them: `sha256:` with base 16, 32 or 64, and SRI (`sha256-` with base 64).
//! Pure. The form is known by the length alone, as in Nix (`src/libutil/hash.cc`).

use super::base32::{self, Base32Error};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::fmt;

/// A hash function that Nix knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HashAlgorithm {
    /// MD5, 16 bytes.
    Md5,
    /// SHA-1, 20 bytes.
    Sha1,
    /// SHA-256, 32 bytes: the only one that proves anything here.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
    /// BLAKE3, 32 bytes.
    Blake3,
}

/// A digest with the name of its function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NixHash {
    /// MD5.
    Md5([u8; 16]),
    /// SHA-1.
    Sha1([u8; 20]),
    /// SHA-256.
    Sha256([u8; 32]),
    /// SHA-512.
    Sha512([u8; 64]),
    /// BLAKE3.
    Blake3([u8; 32]),
}

/// Why a text is not a hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Neither `algorithm:` nor `algorithm-` stands in front.
    #[error("the hash does not begin with its algorithm, as in 'sha256:...'")]
    NoAlgorithm,
    /// An algorithm that Nix does not know.
    #[error("unknown hash algorithm; Nix knows md5, sha1, sha256, sha512 and blake3")]
    UnknownAlgorithm,
    /// Neither base 16, nor 32, nor 64 of a digest has this length.
    #[error("{found} characters fit no form of a {algorithm} digest")]
    Length {
        /// What it should be a digest of.
        algorithm: HashAlgorithm,
        /// Bytes of the text.
        found: usize,
    },
    /// Not base 16.
    #[error("a {algorithm} digest in base 16 holds a character that is no digit")]
    Base16 {
        /// What it should be a digest of.
        algorithm: HashAlgorithm,
    },
    /// Not base 32.
    #[error("a {algorithm} digest in base 32 is wrong: {source}")]
    Base32 {
        /// What it should be a digest of.
        algorithm: HashAlgorithm,
        /// What is wrong, and at which digit.
        source: Base32Error,
    },
    /// Not canonical base 64 with padding.
    #[error("a {algorithm} digest in base 64 is wrong or not of {} bytes", .algorithm.digest_len())]
    Base64 {
        /// What it should be a digest of.
        algorithm: HashAlgorithm,
    },
}

impl HashAlgorithm {
    /// The name in front of a digest.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Blake3 => "blake3",
        }
    }

    /// Bytes of a digest.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Blake3 => 32,
            Self::Sha512 => 64,
        }
    }

    fn named(name: &str) -> Option<Self> {
        [Self::Md5, Self::Sha1, Self::Sha256, Self::Sha512, Self::Blake3]
            .into_iter()
            .find(|algorithm| algorithm.as_str() == name)
    }
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl NixHash {
    /// Reads `algorithm:digest` (base 16, 32 or 64) or SRI, `algorithm-digest` (base 64).
    pub fn parse(text: &str) -> Result<Self, HashError> {
        let (name, digest, form) = match text.split_once(':') {
            Some((name, digest)) => (name, digest, DigestForm::ByLength),
            None => text
                .split_once('-')
                .map(|(name, digest)| (name, digest, DigestForm::Base64))
                .ok_or(HashError::NoAlgorithm)?,
        };
        let algorithm = HashAlgorithm::named(name).ok_or(HashError::UnknownAlgorithm)?;
        Ok(match algorithm {
            HashAlgorithm::Md5 => Self::Md5(read(algorithm, digest, form)?),
            HashAlgorithm::Sha1 => Self::Sha1(read(algorithm, digest, form)?),
            HashAlgorithm::Sha256 => Self::Sha256(read(algorithm, digest, form)?),
            HashAlgorithm::Sha512 => Self::Sha512(read(algorithm, digest, form)?),
            HashAlgorithm::Blake3 => Self::Blake3(read(algorithm, digest, form)?),
        })
    }

    /// The function that made it.
    pub const fn algorithm(&self) -> HashAlgorithm {
        match self {
            Self::Md5(_) => HashAlgorithm::Md5,
            Self::Sha1(_) => HashAlgorithm::Sha1,
            Self::Sha256(_) => HashAlgorithm::Sha256,
            Self::Sha512(_) => HashAlgorithm::Sha512,
            Self::Blake3(_) => HashAlgorithm::Blake3,
        }
    }

    /// The digest.
    pub const fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Md5(bytes) => bytes,
            Self::Sha1(bytes) => bytes,
            Self::Sha256(bytes) | Self::Blake3(bytes) => bytes,
            Self::Sha512(bytes) => bytes,
        }
    }

    /// The digest if it is a SHA-256, the only one that is ever compared with a body.
    pub const fn sha256(&self) -> Option<[u8; 32]> {
        match self {
            Self::Sha256(bytes) => Some(*bytes),
            Self::Md5(_) | Self::Sha1(_) | Self::Sha512(_) | Self::Blake3(_) => None,
        }
    }

    /// `algorithm:` and lower-case base 16, as it stands in what a store path is hashed from.
    pub fn to_base16(&self) -> String {
        format!("{}:{}", self.algorithm(), base16(self.as_bytes()))
    }

    /// SRI: `algorithm-` and base 64.
    pub fn to_sri(&self) -> String {
        format!("{}-{}", self.algorithm(), STANDARD.encode(self.as_bytes()))
    }
}

/// `algorithm:` and base 32: the form in narinfos and fingerprints.
impl fmt::Display for NixHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), base32::encode(self.as_bytes()))
    }
}

/// SHA-256 of `data`.
pub fn sha256(data: &[u8]) -> [u8; 32] {
    digest_bytes(&aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, data))
}

/// `bytes` in lower-case base 16.
pub fn base16(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a `String` never fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The bytes of a finished SHA-256.
pub(super) fn digest_bytes(digest: &aws_lc_rs::digest::Digest) -> [u8; 32] {
    let mut bytes = [0; 32];
    for (to, from) in bytes.iter_mut().zip(digest.as_ref()) {
        *to = *from;
    }
    bytes
}

/// What the separator says of the digest's form.
#[derive(Clone, Copy)]
enum DigestForm {
    /// After `:`.
    ByLength,
    /// After `-`.
    Base64,
}

fn read<const N: usize>(
    algorithm: HashAlgorithm,
    text: &str,
    form: DigestForm,
) -> Result<[u8; N], HashError> {
    match form {
        DigestForm::ByLength if text.len() == N * 2 => {
            read_base16(text).ok_or(HashError::Base16 { algorithm })
        }
        DigestForm::ByLength if text.len() == base32::encoded_len(N) => {
            base32::decode(text).map_err(|source| HashError::Base32 { algorithm, source })
        }
        DigestForm::ByLength if text.len() != N.div_ceil(3) * 4 => {
            Err(HashError::Length { algorithm, found: text.len() })
        }
        DigestForm::ByLength | DigestForm::Base64 => STANDARD
            .decode(text)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(HashError::Base64 { algorithm }),
    }
}

fn read_base16<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let mut digits = text.chars().map(|digit| digit.to_digit(16));
    for byte in &mut bytes {
        let (high, low) = (digits.next()??, digits.next()??);
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    digits.next().is_none().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::{any, proptest};

    /// Base 16, base 32 and base 64 of digests of `narthex`, printed by Nix 2.8.0.
    const BY_NIX: [(&str, &str, &str, &str); 4] = [
        (
            "md5",
            "6e228c5c801063f8de76fc44555d3e24",
            "147rfmai7wfvgghqqhh1f8q8kf",
            "biKMXIAQY/jedvxEVV0+JA==",
        ),
        (
            "sha1",
            "68c70037f70f659b1c925cd7d11c46c215da8dbc",
            "pj6xl5f28qfd3mswj8f9nr8gywvh1iv8",
            "aMcAN/cPZZscklzX0RxGwhXajbw=",
        ),
        (
            "sha256",
            "9dcc5d43662f9d655bc674775e3fa18103c389704e9b3409daffdf0b4e743e00",
            "001yfi70ppzzv84k96sff24w60w1l4zmwxvlqrdnb79gcr1mvk4x",
            "ncxdQ2YvnWVbxnR3Xj+hgQPDiXBOmzQJ2v/fC050PgA=",
        ),
        (
            "sha512",
            "b2adeadd5cf1997c5366b2b102de96101e1677a3268eedbb3ca7c407ffcc61a1\
             88e60b59e3bafa6fe87d90faaca32943a3ad6119f8ad43e1da1bcc9fd59b8e8a",
            "258x6ymkz61pnp18fnzh6b1mnil6ad3mkx90zg8dzxbmqsr1gk8i8b1rkzhgi577\
             jxyv3i6ldvic7hhjvg05cdjcr9pr6gibkfymbdj",
            "sq3q3VzxmXxTZrKxAt6WEB4Wd6Mmju27PKfEB//MYaGI\
             5gtZ47r6b+h9kPqsoylDo61hGfitQ+HaG8yf1ZuOig==",
        ),
    ];

    #[test]
    fn every_form_of_nix_is_read_and_printed() {
        for (name, base16, base32, base64) in BY_NIX {
            let hash = NixHash::parse(&format!("{name}:{base32}")).unwrap();
            assert_eq!(hash.algorithm().as_str(), name);
            assert_eq!(NixHash::parse(&format!("{name}:{base16}")), Ok(hash));
            assert_eq!(NixHash::parse(&format!("{name}:{}", base16.to_uppercase())), Ok(hash));
            assert_eq!(NixHash::parse(&format!("{name}:{base64}")), Ok(hash));
            assert_eq!(NixHash::parse(&format!("{name}-{base64}")), Ok(hash));
            assert_eq!(hash.to_string(), format!("{name}:{base32}"));
            assert_eq!(hash.to_base16(), format!("{name}:{base16}"));
            assert_eq!(hash.to_sri(), format!("{name}-{base64}"));
            assert_eq!(hash.sha256().is_some(), name == "sha256");
        }
        assert_eq!(NixHash::parse(BY_NIX_SHA256).unwrap().sha256(), Some(sha256(b"narthex")));
    }

    const BY_NIX_SHA256: &str = "sha256:001yfi70ppzzv84k96sff24w60w1l4zmwxvlqrdnb79gcr1mvk4x";

    #[test]
    fn what_is_no_hash_is_named() {
        let (_, base16, base32, base64) = BY_NIX[2];
        for (text, expected) in [
            (base32.to_owned(), HashError::NoAlgorithm),
            (format!("sha3:{base32}"), HashError::UnknownAlgorithm),
            (format!("SHA256:{base32}"), HashError::UnknownAlgorithm),
            (String::new(), HashError::NoAlgorithm),
            (
                format!("sha256:{base32} "),
                HashError::Length { algorithm: HashAlgorithm::Sha256, found: 53 },
            ),
            (
                format!("sha256:{}", base16.replace('0', "+")),
                HashError::Base16 { algorithm: HashAlgorithm::Sha256 },
            ),
            (format!("sha256-{base16}"), HashError::Base64 { algorithm: HashAlgorithm::Sha256 }),
            (
                format!("sha256-{}", base64.trim_end_matches('=')),
                HashError::Base64 { algorithm: HashAlgorithm::Sha256 },
            ),
        ] {
            assert_eq!(NixHash::parse(&text), Err(expected), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_digest_survives_every_form(bytes in any::<[u8; 32]>()) {
            let hash = NixHash::Sha256(bytes);
            assert_eq!(NixHash::parse(&hash.to_string()), Ok(hash));
            assert_eq!(NixHash::parse(&hash.to_base16()), Ok(hash));
            assert_eq!(NixHash::parse(&hash.to_sri()), Ok(hash));
        }

        #[test]
        fn no_text_is_too_strange(
            text in "(md5|sha1|sha256|sha512|blake3)?[:-]?(\\PC{0,70}|[0-9a-f]{64})",
        ) {
            if let Ok(hash) = NixHash::parse(&text) {
                assert_eq!(NixHash::parse(&hash.to_string()), Ok(hash));
            }
        }
    }
}
