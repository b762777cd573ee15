//! Store paths: what they may look like, and how Nix computes those that follow from content
//! (Nix: `src/libstore/path.cc`, `store-dir-config.cc`, manual "Store Path Specification"). Pure.

use super::base32;
use super::hash::{NixHash, sha256};
use std::fmt;

/// Digits of the hash part: 20 bytes in base 32.
pub const HASH_PART_LEN: usize = 32;

/// Bytes that the name after the hash part may have.
pub const NAME_LEN_MAX: usize = 211;

/// The folder of a store, absolute and canonical; `/nix/store` nearly everywhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StoreDir(Box<str>);

/// A store path without its folder: `<32 digits>-<name>`. Ordered as Nix orders references.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StorePath(Box<str>);

/// Whether a path refers to itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SelfReference {
    /// Its own name occurs in it.
    Present,
    /// Its own name does not occur in it.
    Absent,
}

/// Why a text is not a store path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorePathError {
    /// The store's folder is not absolute and canonical.
    #[error("the store folder must be absolute, without empty, '.' or '..' parts")]
    Directory,
    /// The path lies elsewhere.
    #[error("the path is not directly in the store {store_dir}")]
    OutsideStore {
        /// The store's folder.
        store_dir: StoreDir,
    },
    /// No 32 digits and a hyphen in front of the name.
    #[error("a store path begins with {HASH_PART_LEN} base-32 digits and '-'")]
    HashPart,
    /// The name is empty, too long, or begins with `.` or `..` as its first part.
    #[error(
        "a store path's name has 1 to {NAME_LEN_MAX} bytes, \
         and its part before the first '-' is neither '.' nor '..'"
    )]
    Name,
    /// The name holds another character than Nix allows.
    #[error("'{}' is not allowed in a store path's name", std::ascii::escape_default(*.byte))]
    Character {
        /// The byte.
        byte: u8,
    },
}

impl StoreDir {
    /// A store's folder: absolute, canonical, without a trailing `/`.
    pub fn new(text: &str) -> Result<Self, StorePathError> {
        let parts = text.strip_prefix('/').ok_or(StorePathError::Directory)?;
        let is_canonical = parts
            .split('/')
            .all(|part| !matches!(part, "" | "." | "..") && !part.chars().any(char::is_control));
        if is_canonical { Ok(Self(text.into())) } else { Err(StorePathError::Directory) }
    }

    /// The folder.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The full path of `path`.
    pub fn join(&self, path: &StorePath) -> String {
        format!("{self}/{path}")
    }
}

/// `/nix/store`.
impl Default for StoreDir {
    fn default() -> Self {
        Self("/nix/store".into())
    }
}

impl fmt::Display for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StorePath {
    /// Reads a full path that must lie directly in `store_dir`.
    pub fn parse(store_dir: &StoreDir, text: &str) -> Result<Self, StorePathError> {
        let base_name = text
            .strip_prefix(store_dir.as_str())
            .and_then(|rest| rest.strip_prefix('/'))
            .ok_or_else(|| StorePathError::OutsideStore { store_dir: store_dir.clone() })?;
        Self::from_base_name(base_name)
    }

    /// Reads a path without its folder, as it stands in `References` and `Deriver`.
    pub fn from_base_name(text: &str) -> Result<Self, StorePathError> {
        check_base_name(text)?;
        Ok(Self(text.into()))
    }

    /// Reads a full path in any store: its folder and itself.
    pub fn parse_anywhere(text: &str) -> Result<(StoreDir, Self), StorePathError> {
        let (folder, base_name) = text.rsplit_once('/').ok_or(StorePathError::Directory)?;
        Ok((StoreDir::new(folder)?, Self::from_base_name(base_name)?))
    }

    /// The path of what is added with its references, known by the SHA-256 of its NAR
    /// (`nix-store --add`, `nix store make-content-addressed`).
    ///
    /// `references` never holds the path itself; if [`SelfReference::Present`], the NAR is the
    /// one in which each occurrence of the path's own hash part is blanked as Nix does.
    pub fn source(
        store_dir: &StoreDir,
        name: &str,
        nar_sha256: [u8; 32],
        references: &[Self],
        self_reference: SelfReference,
    ) -> Result<Self, StorePathError> {
        let mut kind = kind_with_references("source", store_dir, references);
        if self_reference == SelfReference::Present {
            kind.push_str(":self");
        }
        Self::compute(store_dir, &kind, nar_sha256, name)
    }

    /// The path of a text file (`builtins.toFile`, a `.drv`), known by the SHA-256 of its bytes.
    pub fn text(
        store_dir: &StoreDir,
        name: &str,
        sha256: [u8; 32],
        references: &[Self],
    ) -> Result<Self, StorePathError> {
        let kind = kind_with_references("text", store_dir, references);
        Self::compute(store_dir, &kind, sha256, name)
    }

    /// The path of a fixed output other than a SHA-256 of a NAR: a flat file by any hash, or a
    /// NAR by another hash.
    pub fn fixed_output(
        store_dir: &StoreDir,
        name: &str,
        hash: &NixHash,
        ingestion: Ingestion,
    ) -> Result<Self, StorePathError> {
        if let (Ingestion::Nar, Some(nar_sha256)) = (ingestion, hash.sha256()) {
            return Self::source(store_dir, name, nar_sha256, &[], SelfReference::Absent);
        }
        let prefix = match ingestion {
            Ingestion::Flat => "",
            Ingestion::Nar => "r:",
        };
        let inner = format!("fixed:out:{prefix}{}:", hash.to_base16());
        Self::compute(store_dir, "output:out", sha256(inner.as_bytes()), name)
    }

    /// The path of the output `output` (`out` mostly) of a derivation, from `derivation_sha256`,
    /// its hash modulo its inputs.
    pub fn output(
        store_dir: &StoreDir,
        name: &str,
        derivation_sha256: [u8; 32],
        output: &str,
    ) -> Result<Self, StorePathError> {
        let kind = format!("output:{output}");
        match output {
            "out" => Self::compute(store_dir, &kind, derivation_sha256, name),
            other => Self::compute(store_dir, &kind, derivation_sha256, &format!("{name}-{other}")),
        }
    }

    /// `<32 digits>-<name>`.
    pub fn base_name(&self) -> &str {
        &self.0
    }

    /// The 32 digits, by which a cache names the narinfo.
    pub fn hash_part(&self) -> &str {
        self.0.split_once('-').map_or("", |(hash_part, _)| hash_part)
    }

    /// What follows the hash part and its hyphen.
    pub fn name(&self) -> &str {
        self.0.split_once('-').map_or("", |(_, name)| name)
    }

    /// Nix's `makeStorePath`: SHA-256 of `kind:sha256:<base 16>:<store>:<name>`, folded to 20
    /// bytes.
    fn compute(
        store_dir: &StoreDir,
        kind: &str,
        hash: [u8; 32],
        name: &str,
    ) -> Result<Self, StorePathError> {
        check_name(name)?;
        let hash = NixHash::Sha256(hash).to_base16();
        let digest = sha256(format!("{kind}:{hash}:{store_dir}:{name}").as_bytes());
        Ok(Self(format!("{}-{name}", base32::encode(&fold(digest))).into()))
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the hash of a fixed output is taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingestion {
    /// The bytes of a single file.
    Flat,
    /// The NAR.
    Nar,
}

/// Whether `text` may name a store path's hash part: 32 digits.
pub fn is_hash_part(text: &str) -> bool {
    text.len() == HASH_PART_LEN && text.bytes().all(base32::is_digit)
}

/// Checks a path without its folder.
pub fn check_base_name(text: &str) -> Result<(), StorePathError> {
    match text.split_once('-') {
        Some((hash_part, name)) if is_hash_part(hash_part) => check_name(name),
        Some(_) | None => Err(StorePathError::HashPart),
    }
}

/// Checks a store path's name, or that of a derivation's output.
pub fn check_name(name: &str) -> Result<(), StorePathError> {
    let first_part = name.split_once('-').map_or(name, |(first, _)| first);
    if name.is_empty() || name.len() > NAME_LEN_MAX || matches!(first_part, "." | "..") {
        return Err(StorePathError::Name);
    }
    match name.bytes().find(|byte| !is_name_byte(*byte)) {
        Some(byte) => Err(StorePathError::Character { byte }),
        None => Ok(()),
    }
}

const fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_' | b'?' | b'=')
}

fn kind_with_references(kind: &str, store_dir: &StoreDir, references: &[StorePath]) -> String {
    let mut sorted: Vec<&StorePath> = references.iter().collect();
    sorted.sort();
    sorted.dedup();
    sorted.into_iter().fold(kind.to_owned(), |mut kind, reference| {
        kind.push(':');
        kind.push_str(&store_dir.join(reference));
        kind
    })
}

/// Nix's `compressHash` to 20 bytes: byte `n` is XORed into byte `n` modulo 20.
fn fold(digest: [u8; 32]) -> [u8; 20] {
    let mut folded = [0; 20];
    let (head, tail) = digest.split_at(folded.len());
    for half in [head, tail] {
        for (to, from) in folded.iter_mut().zip(half) {
            *to ^= from;
        }
    }
    folded
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::proptest;

    fn hash(text: &str) -> [u8; 32] {
        NixHash::parse(text).unwrap().sha256().unwrap()
    }

    fn path(text: &str) -> StorePath {
        StorePath::from_base_name(text).unwrap()
    }

    #[test]
    fn a_path_has_its_parts() {
        let text = "/nix/store/2qzg4zbq1mshms228hga5qxn1cf74q0a-libidn2-0-2.3.3-1+b1";
        let path = StorePath::parse(&StoreDir::default(), text).unwrap();
        assert_eq!(path.hash_part(), "2qzg4zbq1mshms228hga5qxn1cf74q0a");
        assert_eq!(path.name(), "libidn2-0-2.3.3-1+b1");
        assert_eq!(StoreDir::default().join(&path), text);
        assert_eq!(StorePath::parse_anywhere(text), Ok((StoreDir::default(), path)));
    }

    #[test]
    fn what_nix_refuses_is_refused() {
        let with_name = |name: &str| {
            StorePath::from_base_name(&format!("2qzg4zbq1mshms228hga5qxn1cf74q0a-{name}"))
        };
        for name in ["", ".", "..", ".-x", "..-x", &"x".repeat(212)] {
            assert_eq!(with_name(name), Err(StorePathError::Name), "{name}");
        }
        for name in ["a b", "a/b", "a\n", "a\r", "a!", "\u{e4}", "a%20"] {
            assert!(matches!(with_name(name), Err(StorePathError::Character { .. })), "{name}");
        }
        for name in [".x", "..x", "...", ".x-y", "-", "a?b=c", &"x".repeat(211)] {
            assert!(with_name(name).is_ok(), "{name}");
        }
        for base_name in ["", "x", "2qzg4zbq1mshms228hga5qxn1cf74q0a", "-a", "eqzg-a"] {
            let found = StorePath::from_base_name(base_name);
            assert_eq!(found, Err(StorePathError::HashPart), "{base_name}");
        }
        let upper = "2QZG4ZBQ1MSHMS228HGA5QXN1CF74Q0A-x";
        assert_eq!(StorePath::from_base_name(upper), Err(StorePathError::HashPart));
    }

    #[test]
    fn the_store_counts() {
        let text = "/nix/store/2qzg4zbq1mshms228hga5qxn1cf74q0a-x";
        let elsewhere = StoreDir::new("/srv/store").unwrap();
        assert!(matches!(
            StorePath::parse(&elsewhere, text),
            Err(StorePathError::OutsideStore { .. })
        ));
        assert!(StorePath::parse(&StoreDir::default(), &format!("{text}/bin")).is_err());
        for folder in ["", "/", "nix/store", "/nix/store/", "/nix//store", "/nix/../store"] {
            assert_eq!(StoreDir::new(folder), Err(StorePathError::Directory), "{folder}");
        }
    }

    /// Paths that Nix 2.8.0 computed in a store at `/srv/store`.
    #[test]
    fn computed_paths_agree_with_nix() {
        let store = StoreDir::new("/srv/store").unwrap();
        let leaf = hash("sha256:1r3v22qkypccqifzbww5lrn6hf1chi23m6zzkyvb8bvg457nxslq");
        assert_eq!(leaf, sha256(b"hi\n"));
        let leaf = StorePath::text(&store, "leaf.txt", leaf, &[]).unwrap();
        assert_eq!(leaf, path("am1vbk4jlg1qwp4d2x6yd57cjvdg1b2p-leaf.txt"));

        let refers = hash("sha256:0r5irkva13dzm6s4pvv0cz1ahpy00lcvnhaq7z0ij8m4spzdjzcr");
        let refers = StorePath::text(&store, "refers.txt", refers, &[leaf]).unwrap();
        assert_eq!(refers, path("jb9sf6l5z51gacvdxq4a8y0s5pngj1qb-refers.txt"));

        let tree = hash("sha256:18h3qp3ngiy01gkdw2fhbxhlq8f7nxafanw08llb7n92x02w5ar4");
        let tree = StorePath::source(&store, "tree", tree, &[], SelfReference::Absent).unwrap();
        assert_eq!(tree, path("0j7xsrik7j9mqk5xljgm68nl3smkp1js-tree"));

        let refers = hash("sha256:1n4af6szbvqzpazx8wb2azsz7byzw54sqvfzrbppbpddi53vi9d1");
        let leaf = path("yqgbds3an4c3c5plnzaigkdp9y45xxa8-leaf.txt");
        let references = [leaf.clone(), leaf];
        let absent = SelfReference::Absent;
        let refers = StorePath::source(&store, "refers.txt", refers, &references, absent).unwrap();
        assert_eq!(refers, path("32gwjpfcqg797ccb71zrn4qh3b1w1w75-refers.txt"));

        let selfish = hash("sha256:1n3javbbgkvwmbghnsmsgyz4cxqlqy7ki8ivlzjh7nys7iswwi51");
        let present = SelfReference::Present;
        let selfish = StorePath::source(&store, "selfish", selfish, &[refers], present).unwrap();
        assert_eq!(selfish, path("vy6sf2fb0bx2bg1fh0ad2qj5yjvzx382-selfish"));
    }

    /// As above, of `outputHash = "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="`.
    #[test]
    fn fixed_outputs_agree_with_nix() {
        let store = StoreDir::new("/srv/store").unwrap();
        let empty = NixHash::Sha256(sha256(b""));
        let flat = StorePath::fixed_output(&store, "flat", &empty, Ingestion::Flat).unwrap();
        assert_eq!(flat, path("smzfmvg0483pddfkxvdcpxk8zbpnnmr9-flat"));
        let nar = StorePath::fixed_output(&store, "rec", &empty, Ingestion::Nar).unwrap();
        assert_eq!(nar, path("3a0qla47wqkj6rbxskirnv4blrz5df2b-rec"));
        assert!(StorePath::output(&store, "x", [0; 32], "dev").unwrap().name() == "x-dev");
    }

    proptest! {
        #[test]
        fn what_is_read_is_printed_the_same(
            text in "([0-9a-df-np-sv-z]{32}-[A-Za-z0-9+._?=-]{0,220}|\\PC{0,60})",
        ) {
            if let Ok(path) = StorePath::from_base_name(&text) {
                assert_eq!(path.base_name(), text);
                assert_eq!(format!("{}-{}", path.hash_part(), path.name()), text);
                let full = StoreDir::default().join(&path);
                assert_eq!(StorePath::parse(&StoreDir::default(), &full), Ok(path));
            }
        }

        #[test]
        fn no_text_is_too_strange(text in "\\PC*") {
            let _ = StorePath::parse_anywhere(&text);
        }
    }
}
