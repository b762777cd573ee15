//! A signed sample binary cache with real closures, made in memory: the same bytes for the same
//! seed, except for signatures, which follow the key. Pure, and takes seconds of CPU: run it
//! on a blocking thread. Serves `narthex demo` and the tests.

pub mod contents;
pub mod noise;
pub mod recipes;
pub mod tree;

use crate::nix::base32;
use crate::nix::hash::{NixHash, sha256};
use crate::nix::nar::EntryNameError;
use crate::nix::narinfo::NarInfo;
use crate::nix::signature::{KeyError, PublicKey, SecretKey};
use crate::nix::store_path::{SelfReference, StoreDir, StorePath, StorePathError};
use bytes::Bytes;
use contents::Dependency;
use liblzma::write::XzEncoder;
use noise::Noise;
use recipes::{RECIPES, Recipe};
use std::io::{self, Write};

/// The name of the bucket that holds the sample.
pub const BUCKET: &str = "narthex-demo";

/// Packages from this size on are served uncompressed: their made-up bytes do not compress, and
/// the demo should not begin with a pause.
const UNCOMPRESSED_FROM_KIBIBYTES: usize = 4096;

const CACHE_INFO: &str = "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 40\n";

/// The quickest xz level; the sample's size hardly depends on it.
const XZ_LEVEL: u32 = 1;

/// How large a sample is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleSize {
    /// About 80 MB of NARs, the largest of 24 MB: long enough to watch.
    Full,
    /// The same graph with 1/64 of the bytes, for tests.
    Small,
}

/// A binary cache: everything that a bucket holds.
#[derive(Debug)]
pub struct Sample {
    /// The bucket's objects.
    pub objects: Vec<SampleObject>,
    /// The store paths, dependencies first; the last one's closure is all of them.
    pub paths: Vec<NarInfo>,
    /// The key that the narinfos are signed with.
    pub public_key: PublicKey,
}

/// One object of the bucket.
#[derive(Debug, Clone)]
pub struct SampleObject {
    /// Its key, without a leading `/`.
    pub key: String,
    /// Its bytes.
    pub bytes: Bytes,
    /// Its media type.
    pub content_type: &'static str,
}

/// Why no sample could be made. None of these depends on the seed.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// A recipe's name cannot be part of a store path.
    #[error("sample package {name}: {source}")]
    StorePath {
        /// The recipe.
        name: &'static str,
        /// What is wrong with the name.
        source: StorePathError,
    },
    /// A recipe puts a file at a path that can have none.
    #[error("sample package {name}: {source}")]
    EntryName {
        /// The recipe.
        name: &'static str,
        /// What is wrong with the file's name.
        source: EntryNameError,
    },
    /// A recipe needs what does not stand before it.
    #[error("sample package {name} needs {need}, which does not stand before it")]
    Need {
        /// The recipe.
        name: &'static str,
        /// What it needs.
        need: &'static str,
    },
    /// The NAR could not be written or compressed.
    #[error("sample package {name}: cannot write its NAR: {source}")]
    Write {
        /// The recipe.
        name: &'static str,
        /// What liblzma said.
        source: io::Error,
    },
    /// The signing key does not serve.
    #[error("the sample's signing key: {source}")]
    Key {
        /// What is wrong with it.
        #[from]
        source: KeyError,
    },
}

impl SampleSize {
    /// Bytes for a recipe of `kibibytes`.
    fn bytes(self, kibibytes: usize) -> usize {
        match self {
            Self::Full => kibibytes * 1024,
            Self::Small => kibibytes * 16,
        }
    }
}

impl Sample {
    /// Makes the sample of `size` that follows from `seed`, signed with `key`.
    ///
    /// Takes seconds of CPU for [`SampleSize::Full`]. Fails only if the recipes contradict
    /// themselves, or liblzma has no memory.
    pub fn generate(size: SampleSize, seed: u64, key: &SecretKey) -> Result<Self, SampleError> {
        let mut maker = Maker { size, seed, key, objects: Vec::new(), made: Vec::new() };
        maker.hold("nix-cache-info".to_owned(), CACHE_INFO, "text/x-nix-cache-info");
        for recipe in &RECIPES {
            maker.make(recipe)?;
        }
        let paths = maker.made.into_iter().map(|made| made.info).collect();
        Ok(Self { objects: maker.objects, paths, public_key: key.public_key()? })
    }

    /// The store path at the root of the sample: its closure is all of it. A made sample has one.
    pub fn root(&self) -> Option<&NarInfo> {
        self.paths.last()
    }

    /// Bytes of all objects.
    pub fn object_bytes(&self) -> u64 {
        self.objects.iter().map(|object| object.bytes.len() as u64).sum()
    }

    /// The bytes under `key`.
    pub fn object(&self, key: &str) -> Option<&Bytes> {
        self.objects.iter().find(|object| object.key == key).map(|object| &object.bytes)
    }
}

/// A sample in the making.
struct Maker<'a> {
    size: SampleSize,
    seed: u64,
    key: &'a SecretKey,
    objects: Vec<SampleObject>,
    made: Vec<SamplePackage>,
}

/// A package that later ones may refer to.
struct SamplePackage {
    short_name: &'static str,
    info: NarInfo,
}

/// A NAR, and the listing of what is in it.
struct Archive {
    nar: Vec<u8>,
    listing: String,
}

impl Maker<'_> {
    /// Makes one package: its NAR, narinfo, listing and build log.
    fn make(&mut self, recipe: &'static Recipe) -> Result<(), SampleError> {
        let needs = self.find_needs(recipe)?;
        let archive = self.archive(recipe, &needs)?;
        let references = needs.iter().map(|made| made.info.store_path.clone()).collect();
        let (info, file) = self.describe(recipe, archive.nar, references)?;
        let hash_part = info.store_path.hash_part();
        let content_type = "text/x-nix-narinfo";
        self.hold(format!("{hash_part}.narinfo"), &info.to_string(), content_type);
        self.hold(format!("{hash_part}.ls"), &archive.listing, "application/json");
        if let Some(deriver) = &info.deriver {
            let log = build_log(recipe, &info);
            self.hold(format!("log/{deriver}"), &log, "text/plain; charset=utf-8");
        }
        let content_type = "application/x-nix-nar";
        self.objects.push(SampleObject { key: info.url.clone(), bytes: file, content_type });
        self.made.push(SamplePackage { short_name: recipe.short_name(), info });
        Ok(())
    }

    fn find_needs(&self, recipe: &Recipe) -> Result<Vec<&SamplePackage>, SampleError> {
        let find = |need: &&'static str| {
            let found = self.made.iter().find(|made| made.short_name == *need);
            found.ok_or(SampleError::Need { name: recipe.name, need })
        };
        recipe.needs.iter().map(find).collect()
    }

    fn archive(&self, recipe: &Recipe, needs: &[&SamplePackage]) -> Result<Archive, SampleError> {
        let name = recipe.name;
        let full_path = |made: &&SamplePackage| Dependency {
            short_name: made.short_name,
            path: made.info.store_dir.join(&made.info.store_path),
        };
        let needs: Vec<Dependency> = needs.iter().map(full_path).collect();
        let mut noise = Noise::new(self.seed, name);
        let tree = contents::tree(recipe, &needs, self.size.bytes(recipe.kibibytes), &mut noise);
        let listing = tree.listing();
        let mut nar = Vec::with_capacity(tree.content_bytes() + tree.content_bytes() / 16);
        let node = tree.into_node().map_err(|source| SampleError::EntryName { name, source })?;
        node.write_nar(&mut nar).map_err(|source| SampleError::Write { name, source })?;
        Ok(Archive { nar, listing })
    }

    /// The narinfo of `nar`, signed, and the file that the cache holds of it.
    fn describe(
        &self,
        recipe: &Recipe,
        nar: Vec<u8>,
        mut references: Vec<StorePath>,
    ) -> Result<(NarInfo, Bytes), SampleError> {
        let name = recipe.name;
        let path_error = |source| SampleError::StorePath { name, source };
        references.sort();
        let store_dir = StoreDir::default();
        let (nar_sha256, nar_size) = (sha256(&nar), nar.len() as u64);
        let absent = SelfReference::Absent;
        let store_path = StorePath::source(&store_dir, name, nar_sha256, &references, absent)
            .map_err(path_error)?;
        let derivation = format!("{name}.drv");
        let deriver = StorePath::text(&store_dir, &derivation, nar_sha256, &references)
            .map_err(path_error)?;
        let (file, compression, ending) = if recipe.kibibytes < UNCOMPRESSED_FROM_KIBIBYTES {
            let file = xz(&nar).map_err(|source| SampleError::Write { name, source })?;
            (Bytes::from(file), "xz", "nar.xz")
        } else {
            (Bytes::from(nar), "none", "nar")
        };
        let file_sha256 = sha256(&file);
        let mut info = NarInfo {
            store_dir,
            store_path,
            url: format!("nar/{}.{ending}", base32::encode(&file_sha256)),
            compression: compression.to_owned(),
            file_hash: Some(NixHash::Sha256(file_sha256)),
            file_size: Some(file.len() as u64),
            nar_sha256,
            nar_size,
            references,
            deriver: Some(deriver),
            system: None,
            signatures: Vec::new(),
            content_address: None,
        };
        info.signatures.push(self.key.sign(info.fingerprint().as_bytes())?.to_string());
        Ok((info, file))
    }

    fn hold(&mut self, key: String, text: &str, content_type: &'static str) {
        self.objects.push(SampleObject {
            key,
            bytes: Bytes::copy_from_slice(text.as_bytes()),
            content_type,
        });
    }
}

fn xz(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = XzEncoder::new(Vec::with_capacity(bytes.len()), XZ_LEVEL);
    encoder.write_all(bytes)?;
    encoder.finish()
}

fn build_log(recipe: &Recipe, info: &NarInfo) -> String {
    let output = info.store_dir.join(&info.store_path);
    let needs = recipe.needs.join(" ");
    format!(
        "unpacking source archive {name}.tar.gz\n\
         building with: {needs}\n\
         this is a sample made by 'narthex demo'; nothing was built\n\
         installing to {output}\n",
        name = recipe.name,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nix::signature::TrustedKeys;
    use liblzma::read::XzDecoder;
    use std::collections::HashSet;
    use std::io::Read;

    fn key() -> SecretKey {
        SecretKey::from_seed("narthex-demo-1", [7; 32]).unwrap()
    }

    fn sample() -> Sample {
        Sample::generate(SampleSize::Small, 1, &key()).unwrap()
    }

    fn nar_of(sample: &Sample, info: &NarInfo) -> Vec<u8> {
        let file = sample.object(&info.url).unwrap();
        assert_eq!(info.file_hash, Some(NixHash::Sha256(sha256(file))));
        assert_eq!(info.file_size, Some(file.len() as u64));
        let file_name = format!("nar/{}.", base32::encode(&sha256(file)));
        assert!(info.url.starts_with(&file_name), "{}", info.url);
        if info.compression == "none" {
            return file.to_vec();
        }
        let mut nar = Vec::new();
        XzDecoder::new(&file[..]).read_to_end(&mut nar).unwrap();
        nar
    }

    #[test]
    fn every_path_is_signed_hashed_and_refers_to_what_is_in_it() {
        let sample = sample();
        let trusted = TrustedKeys::new(vec![sample.public_key.clone()]);
        let mut known = HashSet::new();
        for info in &sample.paths {
            let hash_part = info.store_path.hash_part();
            let bytes = sample.object(&format!("{hash_part}.narinfo")).unwrap();
            assert_eq!(NarInfo::parse(bytes).as_ref(), Ok(info));
            trusted.verify(info).unwrap();
            let nar = nar_of(&sample, info);
            assert_eq!((sha256(&nar), nar.len() as u64), (info.nar_sha256, info.nar_size));
            for reference in &info.references {
                assert!(known.contains(reference), "{reference} comes later or never");
                let needle = reference.base_name().as_bytes();
                assert!(nar.windows(needle.len()).any(|window| window == needle), "{reference}");
            }
            let computed = StorePath::source(
                &info.store_dir,
                info.store_path.name(),
                info.nar_sha256,
                &info.references,
                SelfReference::Absent,
            );
            assert_eq!(computed.as_ref(), Ok(&info.store_path));
            known.insert(info.store_path.clone());
        }
    }

    #[test]
    fn the_root_needs_everything_and_every_object_belongs_to_a_path() {
        let sample = sample();
        let mut reached = HashSet::new();
        let mut open = vec![sample.root().unwrap()];
        while let Some(info) = open.pop() {
            if reached.insert(&info.store_path) {
                let is_needed = |other: &&NarInfo| info.references.contains(&other.store_path);
                open.extend(sample.paths.iter().filter(is_needed));
            }
        }
        assert_eq!(reached.len(), RECIPES.len());
        let keys: HashSet<_> = sample.objects.iter().map(|object| &object.key).collect();
        assert_eq!(keys.len(), sample.objects.len());
        assert_eq!(keys.len(), 1 + 4 * RECIPES.len());
        for info in &sample.paths {
            let log = format!("log/{}", info.deriver.as_ref().unwrap());
            let listing = format!("{}.ls", info.store_path.hash_part());
            assert!(keys.contains(&log) && keys.contains(&listing));
        }
    }

    #[test]
    fn both_compressions_occur() {
        let sample = sample();
        let count = |name: &str| sample.paths.iter().filter(|i| i.compression == name).count();
        assert_eq!((count("none"), count("xz")), (5, RECIPES.len() - 5));
    }

    #[test]
    fn a_seed_fixes_the_bytes_and_a_key_only_the_signatures() {
        let (one, again) = (sample(), sample());
        let bytes = |sample: &Sample| -> Vec<(String, Bytes)> {
            sample.objects.iter().map(|o| (o.key.clone(), o.bytes.clone())).collect()
        };
        assert_eq!(bytes(&one), bytes(&again));
        let other_key = SecretKey::from_seed("narthex-demo-1", [8; 32]).unwrap();
        let other = Sample::generate(SampleSize::Small, 1, &other_key).unwrap();
        for (ours, theirs) in one.objects.iter().zip(&other.objects) {
            assert_eq!(ours.key, theirs.key);
            assert_eq!(ours.bytes == theirs.bytes, !ours.key.ends_with(".narinfo"));
        }
        let other_seed = Sample::generate(SampleSize::Small, 2, &key()).unwrap();
        assert_ne!(one.root().unwrap().store_path, other_seed.root().unwrap().store_path);
    }
}
