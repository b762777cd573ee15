//! The form of a filter's file, version 1: read whole, compared with its checksum, and only then
//! believed. Written once, by `build`; blocking.
//!
//! ```text
//! "NARTHEX-FILTER\0\n"  4 bytes version  fingerprints of 256 parts  account  8 bytes length of
//! the account  8 bytes XXH3 of all before
//! ```
//!
//! Numbers are little-endian. The account says, as postcard, of which bucket and classes the file
//! is, up to when it is complete, and the numbers of the parts.

use super::set::{FilterHash, KeySet, PartNumbers};
use crate::clock::Timestamp;
use rustix::fs::fstat;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

const MAGIC: &[u8; 16] = b"NARTHEX-FILTER\0\n";
const VERSION: u32 = 1;
/// Bytes before the fingerprints.
const HEAD_BYTES: usize = 20;
/// Bytes behind the account.
const FOOT_BYTES: usize = 16;
/// The longest file that is read: 60 thousand million keys.
const FILE_BYTES_MAX: u64 = 64 << 30;
/// The key that every binary cache has, and so every filter.
pub(super) const CACHE_INFO_KEY: &str = "nix-cache-info";

/// What a filter's file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterDescription {
    /// The bucket of its keys.
    pub bucket: String,
    /// The classes of the keys that it holds.
    pub classes: Vec<String>,
    /// Every key of these classes that was uploaded until then is in it.
    pub complete_up_to: Timestamp,
    /// When it was made.
    pub built: Timestamp,
    /// What it was made of, for people.
    pub source: String,
    /// Distinct keys.
    pub keys: u64,
    pub(super) parts: Vec<PartNumbers>,
}

/// Why a file cannot be used as a filter.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{path}: cannot read the filter: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is something else.
    #[error("{path}: this is no filter; make one with \"narthex filter build\"")]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// It is of another version of the form.
    #[error("{path}: a filter of version {version}, this program knows {VERSION}; build it anew")]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
    /// It is not what was written.
    #[error("{path}: the filter is damaged ({detail}); copy or build it anew")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        detail: &'static str,
    },
}

/// Which file it was, so that one that has not changed is not read again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
    bytes: u64,
    changed: (i64, i64),
}

/// A filter that was read whole.
#[derive(Debug)]
pub(super) struct FilterFile {
    pub(super) account: FilterDescription,
    pub(super) identity: FileIdentity,
    set: KeySet,
}

impl FilterFile {
    /// Reads the file. Blocking, for as long as its bytes take.
    pub(super) fn read(path: &Path) -> Result<Self, FileError> {
        let failed = |source| FileError::Read { path: path.to_owned(), source };
        let damaged = |detail| FileError::Damaged { path: path.to_owned(), detail };
        let mut file = File::open(path).map_err(failed)?;
        let identity = FileIdentity::of(&file).map_err(failed)?;
        let mut head = Vec::with_capacity(HEAD_BYTES);
        (&mut file).take(HEAD_BYTES as u64).read_to_end(&mut head).map_err(failed)?;
        check_head(path, &head)?;
        if identity.bytes > FILE_BYTES_MAX {
            return Err(damaged("it is longer than 64 GiB"));
        }
        let mut bytes = head;
        bytes.reserve_exact(usize::try_from(identity.bytes).unwrap_or(0));
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
        let (account, set) = parse(bytes).map_err(damaged)?;
        Ok(Self { account, identity, set })
    }

    /// Whether `key` may be in the bucket, as far as the file knows.
    pub(super) fn may_contain(&self, hash: FilterHash) -> bool {
        self.set.may_contain(hash)
    }

    /// Bytes of memory.
    pub(super) fn bytes(&self) -> u64 {
        self.set.bytes()
    }
}

impl FileIdentity {
    /// That of the file at `path`.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        Self::of(&File::open(path)?)
    }

    fn of(file: &File) -> io::Result<Self> {
        let stat = fstat(file)?;
        let bytes = u64::try_from(stat.st_size).unwrap_or(0);
        let changed = (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0));
        Ok(Self { device: stat.st_dev, inode: stat.st_ino, bytes, changed })
    }
}

fn check_head(path: &Path, head: &[u8]) -> Result<(), FileError> {
    let foreign = || FileError::Foreign { path: path.to_owned() };
    let (magic, version) = head.split_first_chunk::<16>().ok_or_else(foreign)?;
    let version = version.first_chunk::<4>().copied().map(u32::from_le_bytes);
    match version {
        Some(VERSION) if magic == MAGIC => Ok(()),
        Some(version) if magic == MAGIC => {
            Err(FileError::Version { path: path.to_owned(), version })
        }
        Some(_) | None => Err(foreign()),
    }
}

/// Reads a whole file, head included.
fn parse(mut bytes: Vec<u8>) -> Result<(FilterDescription, KeySet), &'static str> {
    let (content, checksum) = bytes.split_last_chunk::<8>().ok_or("it is too short")?;
    if content.len() < HEAD_BYTES + FOOT_BYTES - 8 {
        return Err("it is too short");
    }
    if xxh3_64(content) != u64::from_le_bytes(*checksum) {
        return Err("its checksum is another; it may be cut short");
    }
    let (rest, length) = content.split_last_chunk::<8>().ok_or("it is too short")?;
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
    let start = rest.len().checked_sub(length).filter(|start| *start >= HEAD_BYTES);
    let start = start.ok_or("its account is longer than itself")?;
    let account = rest.get(start..).unwrap_or_default();
    let account: FilterDescription =
        postcard::from_bytes(account).map_err(|_| "its account cannot be read")?;
    bytes.truncate(start);
    let set = KeySet::new(bytes, HEAD_BYTES, &account.parts).ok_or("its parts do not fit it")?;
    if !set.may_contain(FilterHash::of(CACHE_INFO_KEY)) {
        return Err("it lacks nix-cache-info, which every binary cache has");
    }
    Ok((account, set))
}

/// Writes the form, and sums up what was written.
pub(super) struct FileWriter<W> {
    out: W,
    sum: Box<Xxh3>,
}

impl<W: Write> FileWriter<W> {
    /// Begins a file.
    pub(super) fn begin(out: W) -> io::Result<Self> {
        let mut writer = Self { out, sum: Box::default() };
        writer.write(MAGIC)?;
        writer.write(&VERSION.to_le_bytes())?;
        Ok(writer)
    }

    /// Writes the fingerprints of the next part.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.sum.update(bytes);
        self.out.write_all(bytes)
    }

    /// Ends the file.
    pub(super) fn end(mut self, account: &FilterDescription) -> io::Result<W> {
        let account = postcard::to_stdvec(account).map_err(io::Error::other)?;
        self.write(&account)?;
        self.write(&(account.len() as u64).to_le_bytes())?;
        let sum = self.sum.digest();
        self.out.write_all(&sum.to_le_bytes())?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::super::set::{PARTS, make_part};
    use super::*;
    use tempfile::TempDir;

    /// A file of one made-up key beside `nix-cache-info`. Made by version 1; never changed.
    const GOLDEN: &[u8] = include_bytes!("golden/version-1.filter");

    fn written() -> Vec<u8> {
        let keys = [CACHE_INFO_KEY, "00000000000000000000000000000000.narinfo"];
        let mut writer = FileWriter::begin(Vec::new()).unwrap();
        let mut parts = Vec::new();
        for part in 0..PARTS {
            let hashes = keys.iter().map(|key| FilterHash::of(key));
            let own: Vec<u64> =
                hashes.filter(|hash| hash.part() == part).map(|hash| hash.0).collect();
            let (numbers, prints) = make_part(&own).unwrap();
            writer.write(&prints).unwrap();
            parts.push(numbers);
        }
        let account = FilterDescription {
            bucket: "cache".to_owned(),
            classes: vec!["narinfo".to_owned()],
            complete_up_to: Timestamp::from_secs(1_780_000_000),
            built: Timestamp::from_secs(1_780_000_100),
            source: "golden".to_owned(),
            keys: 2,
            parts,
        };
        writer.end(&account).unwrap()
    }

    fn read(bytes: &[u8]) -> Result<FilterFile, FileError> {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("filter");
        std::fs::write(&path, bytes).unwrap();
        FilterFile::read(&path)
    }

    #[test]
    fn what_version_1_wrote_is_read_and_written_for_good() {
        let base = read(GOLDEN).unwrap();
        assert_eq!((base.account.bucket.as_str(), base.account.keys), ("cache", 2));
        assert_eq!(base.account.complete_up_to, Timestamp::from_secs(1_780_000_000));
        assert!(base.may_contain(FilterHash::of("00000000000000000000000000000000.narinfo")));
        assert!(!base.may_contain(FilterHash::of("11111111111111111111111111111111.narinfo")));
        assert_eq!(written(), GOLDEN);
    }

    #[test]
    fn a_damaged_or_foreign_file_says_so() {
        let good = written();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x40;
            let error = read(&bad).unwrap_err();
            let is_told = match error {
                FileError::Foreign { .. } => at < 16,
                FileError::Version { .. } => (16..20).contains(&at),
                FileError::Damaged { .. } => at >= 20,
                FileError::Read { .. } => false,
            };
            assert!(is_told, "{at}: {error}");
        }
        for length in 0..good.len() {
            assert!(read(&good[..length]).is_err(), "{length}");
        }
        assert!(matches!(read(b"hello"), Err(FileError::Foreign { .. })));
        let error = FilterFile::read(Path::new("/nowhere/at/all")).unwrap_err();
        assert!(matches!(&error, FileError::Read { source, .. }
            if source.kind() == io::ErrorKind::NotFound));
        assert!(error.to_string().contains("/nowhere/at/all"));
    }
}
