//! Checks a NAR while it arrives: the file's hash and length, and those of what it unpacks to.
//! Runs on a blocking thread, one per body, fed through a bounded channel; keeps no byte of it.

use crate::nix::narinfo::NarInfo;
use aws_lc_rs::digest::{Context, SHA256};
use bytes::Bytes;
use liblzma::write::XzDecoder;
use std::io::{self, Write};
use tokio::sync::mpsc::Receiver;

/// Why a body is not the NAR that its narinfo describes.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// A compression that this client cannot unpack.
    #[error("cannot unpack compression '{name}'; this client knows xz and none")]
    Compression {
        /// What the narinfo says.
        name: String,
    },
    /// The compressed data is damaged.
    #[error("cannot unpack: {source}")]
    Unpack {
        /// What liblzma said.
        source: io::Error,
    },
    /// A length that differs.
    #[error("{what} is {expected} bytes in the narinfo, {found} in the body")]
    Size {
        /// `FileSize` or `NarSize`.
        what: &'static str,
        /// What the narinfo says.
        expected: u64,
        /// What came.
        found: u64,
    },
    /// A hash that differs.
    #[error("{what} of the body is another than in the narinfo")]
    Hash {
        /// `FileHash` or `NarHash`.
        what: &'static str,
    },
}

/// Takes the pieces of a body from `pieces` until its sender is gone, and compares them with
/// `info`. Blocks. Returns early, dropping the receiver, if the data is damaged.
pub fn verify(info: &NarInfo, mut pieces: Receiver<Bytes>) -> Result<(), VerifyError> {
    let mut file = Hasher::new();
    let mut nar = Unpacker::new(&info.compression)?;
    let unpack = |source| VerifyError::Unpack { source };
    while let Some(piece) = pieces.blocking_recv() {
        file.update(&piece);
        nar.write(&piece).map_err(unpack)?;
    }
    if let Some(expected) = info.file_size {
        file.check_size("FileSize", expected)?;
    }
    if let Some(expected) = info.file_hash.and_then(|hash| hash.sha256()) {
        file.check_hash("FileHash", &expected)?;
    }
    let nar = nar.finish().map_err(unpack)?;
    nar.check_size("NarSize", info.nar_size)?;
    nar.check_hash("NarHash", &info.nar_sha256)
}

/// Hashes and counts.
struct Hasher {
    sha256: Context,
    bytes: u64,
}

/// The way from a file to its NAR.
enum Unpacker {
    Plain(Hasher),
    Xz(XzDecoder<Hasher>),
}

impl Hasher {
    fn new() -> Self {
        Self { sha256: Context::new(&SHA256), bytes: 0 }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    fn check_size(&self, what: &'static str, expected: u64) -> Result<(), VerifyError> {
        if self.bytes == expected {
            return Ok(());
        }
        Err(VerifyError::Size { what, expected, found: self.bytes })
    }

    fn check_hash(self, what: &'static str, expected: &[u8; 32]) -> Result<(), VerifyError> {
        if self.sha256.finish().as_ref() == expected {
            return Ok(());
        }
        Err(VerifyError::Hash { what })
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Unpacker {
    fn new(compression: &str) -> Result<Self, VerifyError> {
        match compression {
            "none" => Ok(Self::Plain(Hasher::new())),
            "xz" => Ok(Self::Xz(XzDecoder::new(Hasher::new()))),
            other => Err(VerifyError::Compression { name: other.to_owned() }),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(hasher) => hasher.write_all(bytes),
            Self::Xz(decoder) => decoder.write_all(bytes),
        }
    }

    fn finish(self) -> io::Result<Hasher> {
        match self {
            Self::Plain(hasher) => Ok(hasher),
            Self::Xz(decoder) => decoder.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{Sample, SampleSize};
    use super::*;
    use crate::nix::signature::SecretKey;

    fn judge(info: &NarInfo, body: &[u8]) -> Result<(), VerifyError> {
        let (sender, receiver) = tokio::sync::mpsc::channel(body.len() / 1000 + 1);
        for piece in body.chunks(1000) {
            sender.try_send(Bytes::copy_from_slice(piece)).unwrap();
        }
        drop(sender);
        verify(info, receiver)
    }

    #[test]
    fn only_the_right_bytes_pass() {
        let key = SecretKey::from_seed("demo", [1; 32]).unwrap();
        let sample = Sample::generate(SampleSize::Small, 1, &key).unwrap();
        for compression in ["xz", "none"] {
            let info = sample.paths.iter().find(|i| i.compression == compression).unwrap();
            let body = sample.object(&info.url).unwrap();
            judge(info, body).unwrap();
            assert!(judge(info, &body[..body.len() - 1]).is_err());
            assert!(judge(info, &[]).is_err());
            let mut damaged = body.to_vec();
            damaged[body.len() / 2] ^= 1;
            assert!(judge(info, &damaged).is_err());
            let mut other = info.clone();
            other.nar_sha256 = [0; 32];
            assert!(matches!(judge(&other, body), Err(VerifyError::Hash { what: "NarHash" })));
            let mut other = info.clone();
            other.compression = "lz4".to_owned();
            assert!(matches!(judge(&other, body), Err(VerifyError::Compression { .. })));
        }
    }
}
