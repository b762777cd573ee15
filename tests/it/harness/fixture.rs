//! Objects of a binary cache: bodies, signed narinfos, paths. Pure.

use bytes::Bytes;
use narthex::nix::base32;
use narthex::nix::narinfo::NarInfo;
use narthex::nix::signature::SecretKey;

/// The key that sites of the tests trust.
pub(crate) fn trusted_key() -> SecretKey {
    SecretKey::from_seed("test-1", [7; 32]).unwrap()
}

/// A key that no edge trusts, under the same name.
pub(crate) fn untrusted_key() -> SecretKey {
    SecretKey::from_seed("test-1", [8; 32]).unwrap()
}

/// The SHA-256 of `bytes`.
pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes);
    digest.as_ref().try_into().unwrap()
}

/// Numbers that depend on nothing but their seed, which is not zero.
#[derive(Debug)]
pub(crate) struct Draw(pub(crate) u64);

impl Draw {
    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The next number below `bound`, which is not zero.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// `length` bytes that no two seeds share and that do not repeat.
pub(crate) fn noise(seed: u64, length: usize) -> Bytes {
    let mut draw = Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&draw.next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes.into()
}

/// The path of the file `bytes` with the extension `ending` (`nar.xz`), named by its hash.
pub(crate) fn path_of_nar(bytes: &[u8], ending: &str) -> String {
    format!("/nar/{}.{ending}", base32::encode(&sha256(bytes)))
}

/// A store path with its narinfo and its NAR.
pub(crate) struct Package {
    /// Path of the narinfo.
    pub(crate) narinfo_path: String,
    /// Path of the NAR, query included.
    pub(crate) nar_path: String,
    /// The file at it.
    pub(crate) nar: Bytes,
    name: String,
    signer: Option<SecretKey>,
    claims_file: bool,
    /// SHA-256 and length of the NAR in the file, as the narinfo says.
    contents: ([u8; 32], usize),
}

impl Package {
    /// A package with a NAR of `length` bytes of `.nar.zst`: named by what is inside, so that only
    /// its narinfo proves it.
    pub(crate) fn new(seed: u64, length: usize) -> Self {
        let inside = base32::encode(&sha256(&seed.to_le_bytes()));
        Self::at(seed, length, &format!("/nar/{inside}.nar.zst"))
    }

    /// The same, with the NAR at `nar_path`.
    pub(crate) fn at(seed: u64, length: usize, nar_path: &str) -> Self {
        let digits = base32::encode(&sha256(&seed.to_be_bytes()));
        let hash_part = &digits[..32];
        Self {
            narinfo_path: format!("/{hash_part}.narinfo"),
            nar_path: nar_path.to_owned(),
            nar: noise(seed, length),
            contents: (sha256(&seed.to_be_bytes()), 123_456),
            name: format!("{hash_part}-package-{seed}"),
            signer: Some(trusted_key()),
            claims_file: true,
        }
    }

    /// Signed by `signer`, or not at all.
    pub(crate) fn signed_by(self, signer: Option<SecretKey>) -> Self {
        Self { signer, ..self }
    }

    /// With `file` in place of its file, which holds `nar`.
    pub(crate) fn holding(self, nar: &[u8], file: Bytes) -> Self {
        Self { nar: file, contents: (sha256(nar), nar.len()), ..self }
    }

    /// With a narinfo that says neither `FileHash` nor `FileSize`.
    pub(crate) fn without_file_claims(self) -> Self {
        Self { claims_file: false, ..self }
    }

    /// What the narinfo says of the file: `FileHash` and `FileSize`.
    pub(crate) fn file_claims(&self) -> (String, String) {
        let file_hash = base32::encode(&sha256(&self.nar));
        (format!("FileHash: sha256:{file_hash}\n"), format!("FileSize: {}\n", self.nar.len()))
    }

    /// The narinfo without a signature.
    pub(crate) fn unsigned(&self) -> String {
        let mut text = format!(
            "StorePath: /nix/store/{}\nURL: {}\nCompression: zstd\n",
            self.name,
            &self.nar_path[1..],
        );
        if self.claims_file {
            let (hash, size) = self.file_claims();
            text += &(hash + &size);
        }
        let (nar_sha256, nar_size) = self.contents;
        let nar_hash = base32::encode(&nar_sha256);
        text + &format!("NarHash: sha256:{nar_hash}\nNarSize: {nar_size}\nReferences: \n")
    }

    /// The narinfo.
    pub(crate) fn narinfo(&self) -> String {
        self.sign(self.unsigned())
    }

    /// A narinfo with its signature.
    pub(crate) fn sign(&self, mut text: String) -> String {
        if let Some(signer) = &self.signer {
            let fingerprint = NarInfo::parse(text.as_bytes()).unwrap().fingerprint();
            text += &format!("Sig: {}\n", signer.sign(fingerprint.as_bytes()).unwrap());
        }
        text
    }
}
