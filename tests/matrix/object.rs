//! The objects of a run: bodies that no two cells share, their paths and narinfos. Pure.

use super::cell::{BODY_BYTES_MAX, Kind};
use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::error::Unspecified;
use bytes::Bytes;
use narthex::nix::base32;

/// Objects of a run at most.
const OBJECTS_MAX: u64 = 1 << 17;

/// Bytes that do not repeat, of which each body is a stretch with a beginning of its own.
#[derive(Debug)]
pub(crate) struct Noise(Bytes);

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    pub(crate) path: String,
    pub(crate) body: Bytes,
    /// Path and text.
    pub(crate) narinfo: Option<(String, String)>,
}

/// What the name or the narinfo of an object claims to be its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    Right,
    /// The hash of another body.
    Other,
}

impl Noise {
    pub(crate) fn new(seed: u64) -> Result<Self, Unspecified> {
        let length = usize::try_from(BODY_BYTES_MAX + 8 * OBJECTS_MAX).unwrap_or(usize::MAX);
        let (mut bytes, mut key) = (vec![0; length], [0; 16]);
        key[..8].copy_from_slice(&seed.to_le_bytes());
        let key = EncryptingKey::ctr(UnboundCipherKey::new(&AES_128, &key)?)?;
        key.less_safe_encrypt(&mut bytes, EncryptionContext::Iv128([0; 16].into()))?;
        Ok(Self(bytes.into()))
    }

    /// The body of the object `number`; one of a single byte is shared by every 256th.
    fn body(&self, number: u64, bytes: u64) -> Bytes {
        if bytes == 1 {
            return Bytes::copy_from_slice(&[number.to_le_bytes()[0]]);
        }
        let first = usize::try_from(number % OBJECTS_MAX * 8).unwrap_or(0);
        self.0.slice(first..first + usize::try_from(bytes).unwrap_or(0))
    }

    /// The object `number`, of `bytes` bytes.
    pub(crate) fn object(&self, number: u64, kind: Kind, bytes: u64, claim: Claim) -> Object {
        let body = self.body(number, bytes);
        let own = sha256(&number.to_le_bytes());
        let claimed = if claim == Claim::Right { sha256(&body) } else { own };
        let digits = base32::encode(&own);
        let (path, narinfo) = match kind {
            Kind::Name => (format!("/nar/{}.nar.xz", base32::encode(&claimed)), None),
            Kind::Unproven => (format!("/nar/{digits}.nar.zst"), None),
            Kind::Generic => (format!("/files/{number}.bin"), None),
            Kind::Narinfo => {
                let (hash_part, claimed) = (&digits[..32], base32::encode(&claimed));
                let size = if claim == Claim::Right {
                    format!("FileSize: {bytes}\n")
                } else {
                    String::new()
                };
                let text = format!(
                    "StorePath: /nix/store/{hash_part}-object-{number}\n\
                     URL: nar/{digits}.nar.zst\nCompression: zstd\n\
                     FileHash: sha256:{claimed}\n{size}\
                     NarHash: sha256:{digits}\nNarSize: 123456\nReferences: \n"
                );
                (format!("/nar/{digits}.nar.zst"), Some((format!("/{hash_part}.narinfo"), text)))
            }
        };
        Object { path, body, narinfo }
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    let mut sha256 = [0; 32];
    sha256.copy_from_slice(digest.as_ref());
    sha256
}
