//! What a filter is built from, as files: a list of keys, or an inventory that S3 wrote. Read line
//! by line; blocking. Called by the command. What cannot be read to its end is an error: a filter
//! of half the keys would deny the other half.

use crate::clock::Timestamp;
use flate2::read::MultiGzDecoder;
use liblzma::read::XzDecoder;
use md5::{Digest, Md5};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

/// The longest line of a list; S3's keys have at most 1,024 bytes.
const LINE_BYTES_MAX: u64 = 8 << 10;
/// The longest manifest.
const MANIFEST_BYTES_MAX: u64 = 256 << 20;

/// Why keys cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file cannot be read to its end.
    #[error("{path}: cannot be read to its end: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system or the decoder said.
        source: io::Error,
    },
    /// A line is no key.
    #[error("{path}, line {line}: {detail}")]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong.
        detail: &'static str,
    },
    /// The manifest of an inventory is not one that can be used.
    #[error("{path}: {detail}")]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        detail: String,
    },
    /// A file of an inventory is not what its manifest says.
    #[error("{path}: is not the file that the manifest names ({detail}); copy it anew")]
    Changed {
        /// The file.
        path: PathBuf,
        /// What differs.
        detail: &'static str,
    },
}

/// Calls `each` with every key of a list: one a line, as they are, by itself or packed by gzip or
/// xz.
pub fn read_keys<E: From<SourceError>>(
    path: &Path,
    mut each: impl FnMut(&str) -> Result<(), E>,
) -> Result<(), E> {
    let failed = |source| SourceError::Read { path: path.to_owned(), source };
    let mut lines = BufReader::new(unpacked(path).map_err(failed)?);
    let (mut bytes, mut line) = (Vec::new(), 0);
    loop {
        bytes.clear();
        line += 1;
        let wrong = |detail| SourceError::Line { path: path.to_owned(), line, detail };
        let read = (&mut lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes);
        if read.map_err(failed)? == 0 {
            return Ok(());
        }
        if bytes.len() as u64 == LINE_BYTES_MAX {
            Err(wrong("is longer than any key; give one key a line"))?;
        }
        let key = str::from_utf8(&bytes).map_err(|_| wrong("is not UTF-8"))?;
        let key = key.trim_end_matches(['\n', '\r']);
        if key.starts_with("/nix/store/") {
            Err(wrong("is a store path; give the keys of the bucket, as HASH.narinfo"))?;
        }
        if !key.is_empty() {
            each(key)?;
        }
    }
}

/// The contents of a file, by its first bytes.
fn unpacked(path: &Path) -> io::Result<Box<dyn Read>> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(path)?);
    let first = file.fill_buf()?;
    Ok(if first.starts_with(&[0x1f, 0x8b]) {
        Box::new(MultiGzDecoder::new(file))
    } else if first.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        Box::new(XzDecoder::new_multi_decoder(file))
    } else {
        Box::new(file)
    })
}

/// An inventory that S3 wrote, by its manifest.
#[derive(Debug)]
pub struct Inventory {
    /// The bucket that it is of.
    pub bucket: String,
    /// When S3 began it.
    pub begun: Timestamp,
    files: Vec<PackedFile>,
    columns: Columns,
}

/// Which fields of a record tell what.
#[derive(Debug, Clone, Copy)]
struct Columns {
    key: usize,
    is_latest: Option<usize>,
    is_delete_marker: Option<usize>,
}

#[derive(Debug)]
struct PackedFile {
    path: PathBuf,
    size: u64,
    md5: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    source_bucket: String,
    creation_timestamp: String,
    file_format: String,
    file_schema: String,
    files: Vec<ManifestFile>,
}

#[derive(Debug, Deserialize)]
struct ManifestFile {
    key: String,
    size: u64,
    #[serde(rename = "MD5checksum")]
    md5: String,
}

impl Inventory {
    /// The inventory with its `manifest.json` at `path`. Its files are expected beside it or, as S3
    /// writes them, in `../data`.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let failed = |source| SourceError::Read { path: path.to_owned(), source };
        let wrong = |detail: String| SourceError::Manifest { path: path.to_owned(), detail };
        let mut text = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(MANIFEST_BYTES_MAX).read_to_end(&mut text).map_err(failed)?;
        let manifest: Manifest = serde_json::from_slice(&text)
            .map_err(|error| wrong(format!("is no manifest.json of an S3 inventory: {error}")))?;
        if manifest.file_format != "CSV" {
            let format = manifest.file_format;
            return Err(wrong(format!(
                "the inventory is of the format {format}, which is not read; configure one as CSV, \
                 or make a list of keys of it and give that with --keys"
            )));
        }
        let begun = manifest.creation_timestamp.parse().map(Timestamp::from_millis);
        let begun = begun.map_err(|_| wrong("its creationTimestamp is no number".to_owned()))?;
        let column = |name| manifest.file_schema.split(',').position(|own| own.trim() == name);
        let key = column("Key").ok_or_else(|| wrong("its fileSchema has no Key".to_owned()))?;
        let columns = Columns {
            key,
            is_latest: column("IsLatest"),
            is_delete_marker: column("IsDeleteMarker"),
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        let find = |file: ManifestFile| {
            let name = file.key.rsplit('/').next().unwrap_or_default();
            let places = [folder.join(name), folder.join("../data").join(name)];
            let place = places.into_iter().find(|place| place.is_file());
            let missing = || wrong(format!("its file {name} is neither beside it nor in ../data"));
            Ok(PackedFile { path: place.ok_or_else(missing)?, size: file.size, md5: file.md5 })
        };
        let files = manifest.files.into_iter().map(find).collect::<Result<_, _>>()?;
        Ok(Self { bucket: manifest.source_bucket, begun, files, columns })
    }

    /// Calls `each` with every key that it lists.
    pub fn read<E: From<SourceError>>(
        &self,
        mut each: impl FnMut(&str) -> Result<(), E>,
    ) -> Result<(), E> {
        self.files.iter().try_for_each(|file| self.read_file(file, &mut each))
    }

    fn read_file<E: From<SourceError>>(
        &self,
        file: &PackedFile,
        each: &mut impl FnMut(&str) -> Result<(), E>,
    ) -> Result<(), E> {
        let path = &file.path;
        let failed = |source| SourceError::Read { path: path.clone(), source };
        let wrong = |line, detail| SourceError::Line { path: path.clone(), line, detail };
        let changed = |detail| SourceError::Changed { path: path.clone(), detail };
        let raw =
            ChecksummedFile { file: File::open(path).map_err(failed)?, sum: Md5::new(), bytes: 0 };
        let mut packed = MultiGzDecoder::new(raw);
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(&mut packed);
        let mut record = csv::StringRecord::new();
        while reader.read_record(&mut record).map_err(|error| failed(error.into()))? {
            let line = record.position().map_or(0, csv::Position::line);
            let says = |column: Option<usize>, word| {
                column.and_then(|at| record.get(at)).is_some_and(|text| text == word)
            };
            if says(self.columns.is_latest, "false") || says(self.columns.is_delete_marker, "true")
            {
                continue;
            }
            let key = record.get(self.columns.key).ok_or_else(|| wrong(line, "has no key"))?;
            let key = key.replace('+', " ");
            let key = percent_decode_str(&key).decode_utf8();
            each(&key.map_err(|_| wrong(line, "has a key that is not UTF-8"))?)?;
        }
        drop(reader);
        let ChecksummedFile { sum, bytes, .. } = packed.into_inner();
        if bytes != file.size {
            Err(changed("its length is another"))?;
        }
        let mut hex = String::new();
        for byte in sum.finalize() {
            // Writing to a string cannot fail.
            write!(hex, "{byte:02x}").unwrap_or_default();
        }
        if hex != file.md5.to_ascii_lowercase() {
            Err(changed("its MD5 is another"))?;
        }
        Ok(())
    }
}

/// A file, and what was read of it.
struct ChecksummedFile {
    file: File,
    sum: Md5,
    bytes: u64,
}

impl Read for ChecksummedFile {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(out)?;
        self.sum.update(out.get(..count).unwrap_or_default());
        self.bytes += count as u64;
        Ok(count)
    }
}
