//! What stands in each package's file tree: made-up bytes, real references. Pure.

use super::noise::Noise;
use super::recipes::{PackageKind, Recipe};
use super::tree::Tree;
use crate::nix::nar::NarNode;

/// Bytes of a kernel module, about.
const MODULE_BYTES: usize = 512 * 1024;

/// Bytes of a text file, about.
const TEXT_BYTES: usize = 96 * 1024;

/// Something a package refers to.
#[derive(Debug, Clone)]
pub struct Dependency {
    /// Its name without the version.
    pub short_name: &'static str,
    /// Its full store path.
    pub path: String,
}

/// The tree of `recipe`, about `bytes` large; every need's store path occurs in it.
pub fn tree(recipe: &Recipe, needs: &[Dependency], bytes: usize, noise: &mut Noise) -> Tree {
    let mut tree = Tree::new();
    let short_name = recipe.short_name();
    match recipe.kind {
        PackageKind::Library => library(&mut tree, short_name, needs, bytes, noise),
        PackageKind::Program => program(&mut tree, short_name, needs, bytes, noise),
        PackageKind::Data => texts(&mut tree, &format!("share/{short_name}"), bytes, noise),
        PackageKind::Kernel => kernel(&mut tree, bytes, noise),
        PackageKind::System => system(&mut tree, recipe.name, needs),
    }
    tree
}

fn library(tree: &mut Tree, name: &str, needs: &[Dependency], bytes: usize, noise: &mut Noise) {
    let object = format!("lib{}.so", name.trim_start_matches("lib"));
    tree.put(&format!("lib/{object}.1"), NarNode::Executable(binary(needs, bytes * 3 / 4, noise)));
    tree.put(&format!("lib/{object}"), NarNode::Symlink(format!("{object}.1")));
    tree.put(&format!("include/{name}.h"), NarNode::Regular(text(bytes / 8, noise)));
    let flags: Vec<_> = needs.iter().map(|need| format!("-L{}/lib", need.path)).collect();
    let package = format!("Name: {name}\nVersion: 1\nLibs.private: {}\n", flags.join(" "));
    tree.put(&format!("lib/pkgconfig/{name}.pc"), NarNode::Regular(package.into()));
    tree.put(&format!("share/doc/{name}/README"), NarNode::Regular(text(bytes / 16, noise)));
}

fn program(tree: &mut Tree, name: &str, needs: &[Dependency], bytes: usize, noise: &mut Noise) {
    let wrapped = NarNode::Executable(binary(needs, bytes * 2 / 3, noise));
    match needs.iter().find(|need| need.short_name == "bash") {
        None => tree.put(&format!("bin/{name}"), wrapped),
        Some(bash) => {
            tree.put(&format!("bin/.{name}-wrapped"), wrapped);
            let folders: Vec<_> = needs.iter().map(|need| format!("{}/bin", need.path)).collect();
            let script = format!(
                "#!{}/bin/bash -e\nexport PATH={}\n\
                 exec -a \"$0\" \"${{0%/*}}/.{name}-wrapped\" \"$@\"\n",
                bash.path,
                folders.join(":"),
            );
            tree.put(&format!("bin/{name}"), NarNode::Executable(script.into()));
        }
    }
    tree.put(&format!("share/man/man1/{name}.1"), NarNode::Regular(text(bytes / 64, noise)));
    texts(tree, &format!("lib/{name}"), bytes / 4, noise);
}

fn kernel(tree: &mut Tree, bytes: usize, noise: &mut Noise) {
    tree.put("bzImage", NarNode::Regular(binary(&[], bytes / 3, noise)));
    let modules = (bytes * 2 / 3).div_ceil(MODULE_BYTES).max(1);
    for number in 0..modules {
        let path = format!("lib/modules/6.12.58/kernel/drivers/driver-{number:02}.ko");
        tree.put(&path, NarNode::Regular(binary(&[], bytes * 2 / 3 / modules, noise)));
    }
    tree.put("System.map", NarNode::Regular(text(bytes / 512, noise)));
}

fn system(tree: &mut Tree, name: &str, needs: &[Dependency]) {
    for need in needs {
        let Dependency { short_name, path } = need;
        match *short_name {
            "linux" => tree.put("kernel", NarNode::Symlink(format!("{path}/bzImage"))),
            "tzdata" | "iana-etc" | "nss-cacert" | "dejavu-fonts" | "nixos-manual" => {
                let link = NarNode::Symlink(format!("{path}/share/{short_name}"));
                tree.put(&format!("sw/share/{short_name}"), link);
            }
            command => {
                let link = NarNode::Symlink(format!("{path}/bin/{command}"));
                tree.put(&format!("sw/bin/{command}"), link);
            }
        }
    }
    tree.put("nixos-version", NarNode::Regular(name.into()));
    let paths: Vec<_> = needs.iter().map(|need| need.path.as_str()).collect();
    let list = format!("{}\n", paths.join("\n"));
    tree.put("extra-dependencies", NarNode::Regular(list.into()));
}

/// Text files of [`TEXT_BYTES`] each, `bytes` together, in `folder`.
fn texts(tree: &mut Tree, folder: &str, bytes: usize, noise: &mut Noise) {
    for number in 0..bytes.div_ceil(TEXT_BYTES).max(1) {
        let rest = bytes.saturating_sub(number * TEXT_BYTES);
        let path = format!("{folder}/part-{number:02}.txt");
        tree.put(&path, NarNode::Regular(text(rest.min(TEXT_BYTES), noise)));
    }
}

/// What a linker might leave: a header, a search path through the needs, machine code.
fn binary(needs: &[Dependency], bytes: usize, noise: &mut Noise) -> Vec<u8> {
    let mut to = b"\x7fELF\x02\x01\x01\0".to_vec();
    for need in needs {
        to.extend_from_slice(need.path.as_bytes());
        to.extend_from_slice(b"/lib:");
    }
    to.push(0);
    noise.fill(&mut to, bytes);
    to
}

fn text(bytes: usize, noise: &mut Noise) -> Vec<u8> {
    let mut to = Vec::new();
    noise.write_text(&mut to, bytes.max(1));
    to
}
