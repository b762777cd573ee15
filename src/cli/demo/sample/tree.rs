//! A file tree in memory, and the `.ls` listing that a binary cache keeps beside its NAR. Pure.

use crate::nix::nar::{Directory, EntryNameError, NarNode};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A folder with everything in it.
#[derive(Debug, Default)]
pub struct Tree(BTreeMap<String, TreeEntry>);

#[derive(Debug)]
enum TreeEntry {
    Folder(Tree),
    Leaf(NarNode),
}

impl Tree {
    /// A folder without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts `leaf` at `path`, names separated by `/`, making the folders on the way. What stood
    /// there is replaced.
    pub fn put(&mut self, path: &str, leaf: NarNode) {
        match path.split_once('/') {
            None => {
                self.0.insert(path.to_owned(), TreeEntry::Leaf(leaf));
            }
            Some((folder, rest)) => {
                let entry = self.0.entry(folder.to_owned());
                match entry.or_insert_with(|| TreeEntry::Folder(Self::new())) {
                    TreeEntry::Folder(tree) => tree.put(rest, leaf),
                    TreeEntry::Leaf(_) => self.put(folder, leaf),
                }
            }
        }
    }

    /// Bytes of all files together.
    pub fn content_bytes(&self) -> usize {
        let bytes = |entry: &TreeEntry| match entry {
            TreeEntry::Folder(tree) => tree.content_bytes(),
            TreeEntry::Leaf(NarNode::Regular(bytes) | NarNode::Executable(bytes)) => bytes.len(),
            TreeEntry::Leaf(NarNode::Symlink(_) | NarNode::Directory(_)) => 0,
        };
        self.0.values().map(bytes).sum()
    }

    /// The listing, as Nix writes it with `write-nar-listing`: each file with its size and the
    /// offset of its contents in the NAR, both in bytes.
    pub fn listing(&self) -> String {
        let mut offset = string_bytes("nix-archive-1".len());
        json!({ "version": 1, "root": self.listed(&mut offset) }).to_string()
    }

    /// The same tree as a NAR's writer takes it. Fails on a name that no file may have.
    pub fn into_node(self) -> Result<NarNode, EntryNameError> {
        let mut directory = Directory::new();
        for (name, entry) in self.0 {
            let node = match entry {
                TreeEntry::Folder(tree) => tree.into_node()?,
                TreeEntry::Leaf(node) => node,
            };
            directory.insert(&name, node)?;
        }
        Ok(NarNode::Directory(directory))
    }

    /// One folder of the listing; `offset` goes from its first byte in the NAR to its end.
    fn listed(&self, offset: &mut usize) -> Value {
        *offset += strings_bytes(&["(", "type", "directory"]);
        let mut entries = serde_json::Map::new();
        for (name, entry) in &self.0 {
            *offset += strings_bytes(&["entry", "(", "name", name, "node"]);
            let value = match entry {
                TreeEntry::Folder(tree) => tree.listed(offset),
                TreeEntry::Leaf(node) => listed_leaf(node, offset),
            };
            *offset += strings_bytes(&[")"]);
            entries.insert(name.clone(), value);
        }
        *offset += strings_bytes(&[")"]);
        json!({ "type": "directory", "entries": entries })
    }
}

fn listed_leaf(node: &NarNode, offset: &mut usize) -> Value {
    *offset += strings_bytes(&["(", "type"]);
    let value = match node {
        NarNode::Regular(bytes) => {
            *offset += strings_bytes(&["regular", "contents"]);
            json!({ "type": "regular", "size": bytes.len(), "narOffset": file(bytes, offset) })
        }
        NarNode::Executable(bytes) => {
            *offset += strings_bytes(&["regular", "executable", "", "contents"]);
            json!({
                "type": "regular",
                "size": bytes.len(),
                "executable": true,
                "narOffset": file(bytes, offset),
            })
        }
        NarNode::Symlink(target) => {
            *offset += strings_bytes(&["symlink", "target", target]);
            json!({ "type": "symlink", "target": target })
        }
        // Folders are entries of their own; a leaf is never one with anything in it.
        NarNode::Directory(_) => {
            *offset += strings_bytes(&["directory"]);
            json!({ "type": "directory", "entries": {} })
        }
    };
    *offset += strings_bytes(&[")"]);
    value
}

/// The offset at which the contents begin; `offset` moves behind them.
fn file(contents: &[u8], offset: &mut usize) -> usize {
    let begin = *offset + LENGTH_BYTES;
    *offset += string_bytes(contents.len());
    begin
}

/// A string of a NAR has its length in front of it.
const LENGTH_BYTES: usize = 8;

/// Bytes that a string of `len` bytes takes in a NAR: its length, itself, padding to 8.
const fn string_bytes(len: usize) -> usize {
    LENGTH_BYTES + len.next_multiple_of(8)
}

fn strings_bytes(strings: &[&str]) -> usize {
    strings.iter().map(|string| string_bytes(string.len())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_points_at_the_contents() {
        let mut tree = Tree::new();
        tree.put("bin/run", NarNode::Executable(b"#!/bin/sh\n".to_vec()));
        tree.put("bin/link", NarNode::Symlink("run".to_owned()));
        tree.put("share/doc/text", NarNode::Regular(b"twelve bytes".to_vec()));
        tree.put("share/empty", NarNode::Regular(Vec::new()));
        assert_eq!(tree.content_bytes(), 22);
        let listing: Value = serde_json::from_str(&tree.listing()).unwrap();
        let mut nar = Vec::new();
        tree.into_node().unwrap().write_nar(&mut nar).unwrap();
        let at = |value: &Value| {
            let begin = usize::try_from(value["narOffset"].as_u64().unwrap()).unwrap();
            let size = usize::try_from(value["size"].as_u64().unwrap()).unwrap();
            nar[begin..begin + size].to_vec()
        };
        let root = &listing["root"]["entries"];
        let bin = &root["bin"]["entries"];
        assert_eq!(listing["version"], 1);
        assert_eq!(at(&bin["run"]), b"#!/bin/sh\n");
        assert_eq!(bin["run"]["executable"], true);
        assert_eq!(bin["link"]["target"], "run");
        let share = &root["share"]["entries"];
        assert_eq!(at(&share["doc"]["entries"]["text"]), b"twelve bytes");
        assert_eq!(at(&share["empty"]), b"");
    }
}
