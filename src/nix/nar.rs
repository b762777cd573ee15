//! Writes NARs, Nix's archives of file trees (manual: "Nix Archive (NAR) format"). A tree is
//! small and in memory: this serves samples and tests, never a store. Pure but for the writer.

use super::hash::digest_bytes;
use std::collections::BTreeMap;
use std::io::{self, Write};

/// Strings of the format are padded to a multiple of this many bytes.
const ALIGNMENT: usize = 8;

/// A file tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NarNode {
    /// A file with these bytes.
    Regular(Vec<u8>),
    /// A file with these bytes that may be executed.
    Executable(Vec<u8>),
    /// A symbolic link to this target.
    Symlink(String),
    /// A folder.
    Directory(Directory),
}

/// A folder: its entries by name, sorted as NARs sort them, by bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Directory(BTreeMap<String, NarNode>);

/// A name that no entry of a folder may have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{}' cannot name an entry: empty, '.', '..', or with '/' or NUL", .name.escape_debug())]
pub struct EntryNameError {
    /// The name.
    pub name: String,
}

impl Directory {
    /// A folder without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry, in place of another of the same name.
    pub fn insert(&mut self, name: &str, node: NarNode) -> Result<(), EntryNameError> {
        if matches!(name, "" | "." | "..") || name.contains(['/', '\0']) {
            return Err(EntryNameError { name: name.to_owned() });
        }
        self.0.insert(name.to_owned(), node);
        Ok(())
    }

    /// Adds an entry and gives the folder back; for building trees in one expression.
    pub fn with(mut self, name: &str, node: NarNode) -> Result<Self, EntryNameError> {
        self.insert(name, node)?;
        Ok(self)
    }
}

impl NarNode {
    /// Writes the archive.
    pub fn write_nar<W: Write>(&self, to: &mut W) -> io::Result<()> {
        write_string(to, b"nix-archive-1")?;
        self.write_node(to)
    }

    /// SHA-256 and length in bytes of the archive: `NarHash` and `NarSize`.
    pub fn nar_hash(&self) -> io::Result<([u8; 32], u64)> {
        let mut sink = NarHasher::default();
        self.write_nar(&mut sink)?;
        Ok((digest_bytes(&sink.sha256.finish()), sink.bytes))
    }

    fn write_node<W: Write>(&self, to: &mut W) -> io::Result<()> {
        write_strings(to, &[b"(", b"type"])?;
        match self {
            Self::Regular(contents) => write_strings(to, &[b"regular", b"contents", contents])?,
            Self::Executable(contents) => {
                write_strings(to, &[b"regular", b"executable", b"", b"contents", contents])?;
            }
            Self::Symlink(target) => {
                write_strings(to, &[b"symlink", b"target", target.as_bytes()])?;
            }
            Self::Directory(directory) => {
                write_string(to, b"directory")?;
                for (name, node) in &directory.0 {
                    write_strings(to, &[b"entry", b"(", b"name", name.as_bytes(), b"node"])?;
                    node.write_node(to)?;
                    write_string(to, b")")?;
                }
            }
        }
        write_string(to, b")")
    }
}

fn write_strings<W: Write>(to: &mut W, strings: &[&[u8]]) -> io::Result<()> {
    strings.iter().try_for_each(|string| write_string(to, string))
}

/// A string: its length as 8 bytes, little end first, its bytes, zeros up to the alignment.
fn write_string<W: Write>(to: &mut W, string: &[u8]) -> io::Result<()> {
    let length = u64::try_from(string.len()).map_err(io::Error::other)?;
    to.write_all(&length.to_le_bytes())?;
    to.write_all(string)?;
    let padding = string.len().next_multiple_of(ALIGNMENT) - string.len();
    to.write_all([0; ALIGNMENT].get(..padding).unwrap_or_default())
}

/// Hashes and counts what is written.
struct NarHasher {
    sha256: aws_lc_rs::digest::Context,
    bytes: u64,
}

impl Default for NarHasher {
    fn default() -> Self {
        Self { sha256: aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256), bytes: 0 }
    }
}

impl Write for NarHasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sha256.update(bytes);
        self.bytes += u64::try_from(bytes.len()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::hash::{base16, sha256};
    use proptest::prelude::{any, proptest};

    /// Each kind of node; `a-b` sorts between `a` and `b`, by bytes.
    fn tree() -> Result<NarNode, EntryNameError> {
        let a = Directory::new()
            .with("x", NarNode::Regular(b"hello\n".to_vec()))?
            .with("eight", NarNode::Regular(b"12345678".to_vec()))?
            .with("none", NarNode::Regular(Vec::new()))?;
        let b = Directory::new()
            .with("run", NarNode::Executable(b"#!/bin/sh\necho hi\n".to_vec()))?
            .with("link", NarNode::Symlink("../a/x".to_owned()))?
            .with("empty", NarNode::Directory(Directory::new()))?;
        let root = Directory::new()
            .with("b", NarNode::Directory(b))?
            .with("a-b", NarNode::Regular(b"z".to_vec()))?
            .with("a", NarNode::Directory(a))?;
        Ok(NarNode::Directory(root))
    }

    /// SHA-256 and size of what `nix-store --dump` of Nix 2.8.0 wrote for the same trees.
    #[test]
    fn archives_agree_with_nix() {
        let run = NarNode::Executable(b"#!/bin/sh\necho hi\n".to_vec());
        for (node, expected, size) in [
            (
                tree().unwrap(),
                "24abc205e822d9b32845805be554b7c7214c615fd009dee60bc0c767c7c503a2",
                Some(1792),
            ),
            (
                NarNode::Regular(b"hello\n".to_vec()),
                "1c37d01af40be2e80691de3cc3df44377a699afbb17c68f080964b2fd071fc13",
                Some(120),
            ),
            (run, "5e0accf02cedede5e4119ffa15e79e79a5fb1fb9bc43c3d434f33227a14477a0", None),
            (
                NarNode::Symlink("target".to_owned()),
                "cb8c62caf2a8997b253ed067d456dab52f8e9814d710c4b3e21dc610c678c774",
                None,
            ),
            (
                NarNode::Directory(Directory::new()),
                "a50a5ab6d992f5598edd92105059fae9acfc192981e08bd88534c2167e92526a",
                None,
            ),
        ] {
            let (hash, bytes) = node.nar_hash().unwrap();
            assert_eq!(base16(&hash), expected);
            assert!(size.is_none_or(|size| size == bytes));
        }
    }

    #[test]
    fn no_entry_leaves_its_folder() {
        for name in ["", ".", "..", "a/b", "/", "a\0"] {
            let refused = Directory::new().insert(name, NarNode::Regular(Vec::new()));
            assert_eq!(refused, Err(EntryNameError { name: name.to_owned() }));
        }
    }

    proptest! {
        #[test]
        fn a_file_is_padded(contents in any::<Vec<u8>>()) {
            let node = NarNode::Regular(contents);
            let mut archive = Vec::new();
            node.write_nar(&mut archive).unwrap();
            assert_eq!(archive.len() % ALIGNMENT, 0);
            assert_eq!(node.nar_hash().unwrap(), (sha256(&archive), archive.len() as u64));
        }
    }
}
