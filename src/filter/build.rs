//! Makes a filter's file of any number of keys, in bounded memory: hashes go to a temporary file
//! for each part, and one part after the other is sorted and made. One per run of the command;
//! blocking.
//!
//! For each key it takes 8 bytes of temporary files and 1.2 of the result; of memory 28 bytes for
//! each key of the largest part, a 256th of all. The result takes its name when it is whole and
//! synced.

use super::file::{CACHE_INFO_KEY, FileWriter, FilterDescription};
use super::set::{FilterHash, MakeError, PARTS, PartNumbers, make_part};
use super::{CLASS, is_held};
use crate::clock::Timestamp;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Bytes of hashes of one part that are gathered before they are written.
const BUFFER_BYTES: usize = 32 << 10;

/// What the file will say of itself.
#[derive(Debug, Clone)]
pub struct FilterFacts {
    /// The bucket.
    pub bucket: String,
    /// Up to when every upload was among the keys.
    pub complete_up_to: Timestamp,
    /// What the keys are from, for people.
    pub source: String,
    /// Now.
    pub built: Timestamp,
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildSummary {
    /// Keys that were given.
    pub given: u64,
    /// Distinct keys in the file.
    pub keys: u64,
    /// Bytes of the file.
    pub bytes: u64,
}

/// Why no filter was made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The temporary files cannot be written or read.
    #[error("{folder}: cannot keep temporary files: {source}; give 8 bytes a key with --temporary")]
    Temporary {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The result cannot be written.
    #[error("{path}: cannot write the filter: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The keys are not those of a binary cache.
    #[error(
        "{CACHE_INFO_KEY} is not among the {given} keys: they are not all keys of a binary cache, \
         or stand below a prefix"
    )]
    NoCacheInfo {
        /// How many there were.
        given: u64,
    },
    /// A part cannot be made.
    #[error("{detail}")]
    Part {
        /// Why.
        detail: String,
    },
}

impl From<MakeError> for BuildError {
    fn from(error: MakeError) -> Self {
        Self::Part { detail: error.to_string() }
    }
}

/// Takes keys, then makes the file.
#[derive(Debug)]
pub struct Builder {
    folder: PathBuf,
    parts: Vec<BufWriter<File>>,
    given: u64,
    has_cache_info: bool,
}

impl Builder {
    /// A builder that keeps its temporary files in `folder`; they have no names.
    pub fn new(folder: &Path) -> Result<Self, BuildError> {
        let part = |_| {
            let file = tempfile::tempfile_in(folder);
            file.map(|file| BufWriter::with_capacity(BUFFER_BYTES, file))
        };
        let parts: io::Result<Vec<_>> = (0..PARTS).map(part).collect();
        let folder = folder.to_owned();
        match parts {
            Ok(parts) => Ok(Self { folder, parts, given: 0, has_cache_info: false }),
            Err(source) => Err(BuildError::Temporary { folder, source }),
        }
    }

    /// Takes a key of the bucket, decoded, without a leading slash. Twice is as good as once.
    pub fn add(&mut self, key: &str) -> Result<(), BuildError> {
        self.given += 1;
        let is_cache_info = key == CACHE_INFO_KEY;
        self.has_cache_info |= is_cache_info;
        if !is_cache_info && !is_held(key) {
            return Ok(());
        }
        let hash = FilterHash::of(key);
        let Some(part) = self.parts.get_mut(hash.part()) else { return Ok(()) };
        part.write_all(&hash.0.to_le_bytes())
            .map_err(|source| BuildError::Temporary { folder: self.folder.clone(), source })
    }

    /// Keys that were given so far.
    pub fn given(&self) -> u64 {
        self.given
    }

    /// Makes the file at `path`, in place of what is there; tells `progress` how many of 256 parts
    /// are made.
    pub fn finish(
        self,
        facts: FilterFacts,
        path: &Path,
        mut progress: impl FnMut(u64),
    ) -> Result<BuildSummary, BuildError> {
        let Self { folder, parts, given, has_cache_info } = self;
        if !has_cache_info {
            return Err(BuildError::NoCacheInfo { given });
        }
        let failed = |source| BuildError::Write { path: path.to_owned(), source };
        let own = path.parent().filter(|own| !own.as_os_str().is_empty());
        let own = own.unwrap_or(Path::new("."));
        let mut temporary = tempfile::Builder::new();
        temporary.prefix(".filter-").permissions(Permissions::from_mode(0o644));
        let file = temporary.tempfile_in(own).map_err(failed)?;
        let mut writer = FileWriter::begin(BufWriter::new(file)).map_err(failed)?;
        let mut numbers: Vec<PartNumbers> = Vec::with_capacity(PARTS);
        for part in parts {
            let hashes = hashes_of(part)
                .map_err(|source| BuildError::Temporary { folder: folder.clone(), source })?;
            let (part, prints) = make_part(&hashes)?;
            writer.write(&prints).map_err(failed)?;
            numbers.push(part);
            progress(numbers.len() as u64);
        }
        let keys = numbers.iter().map(|part| part.keys).sum();
        let account = FilterDescription {
            bucket: facts.bucket,
            classes: vec![CLASS.as_str().to_owned()],
            complete_up_to: facts.complete_up_to,
            built: facts.built,
            source: facts.source,
            keys,
            parts: numbers,
        };
        let written = writer.end(&account).and_then(|out| Ok(out.into_inner()?)).map_err(failed)?;
        written.as_file().sync_all().map_err(failed)?;
        let file = written.persist(path).map_err(|error| failed(error.error))?;
        File::open(own).and_then(|own| own.sync_all()).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        Ok(BuildSummary { given, keys, bytes })
    }
}

/// The distinct hashes of a part, sorted.
fn hashes_of(part: BufWriter<File>) -> io::Result<Vec<u64>> {
    let mut file = part.into_inner()?;
    let bytes = file.seek(SeekFrom::End(0))?;
    file.rewind()?;
    let mut hashes = Vec::with_capacity(usize::try_from(bytes / 8).map_err(io::Error::other)?);
    let mut file = io::BufReader::new(file);
    let mut hash = [0; 8];
    for _ in 0..bytes / 8 {
        file.read_exact(&mut hash)?;
        hashes.push(u64::from_le_bytes(hash));
    }
    hashes.sort_unstable();
    hashes.dedup();
    Ok(hashes)
}
