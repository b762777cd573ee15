//! The journal of a filter: uploads that its file does not know, and of which uploads the feed has
//! told, kept over restarts. One open file for each filter, locked against a second process;
//! written behind the filter's lock; blocking.
//!
//! ```text
//! "NARTHEX-UPLOADS\n"  4 bytes version  8 bytes floor  8 bytes hash of the bucket's name
//! 8 bytes XXH3 of these, then records: 4 bytes kind (1 uploads, 2 spans), 4 bytes count,
//! 16 bytes each (moment and hash of a key; begin and end of a span), 8 bytes XXH3 of these
//! ```
//!
//! Numbers are little-endian, moments in milliseconds. Of several records of spans the last counts.
//!
//! # Why no upload is forgotten
//!
//! - An upload's notice is answered after its record was synced. One that was not is sent again.
//! - A record that could not be written whole is cut off again. If a start finds a broken record,
//!   that may be the rest of an answered one. Then no span counts any more, and the filter waits
//!   for a newer file.
//! - A rewrite leaves out uploads that a file knows, if that is complete up to the *floor*. It
//!   takes the old one's place by a rename, synced. A file that is complete up to less is never
//!   used with it afterwards.

use super::coverage::NoticeSpan;
use super::set::FilterHash;
use crate::clock::Timestamp;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

const MAGIC: &[u8; 16] = b"NARTHEX-UPLOADS\n";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 44;
const ENTRY_BYTES: usize = 16;
/// Bytes of a record beside its entries.
const FRAME_BYTES: usize = 16;
/// Entries of one record.
const ENTRIES_MAX: usize = 1 << 16;
const UPLOADS: u32 = 1;
const SPANS: u32 = 2;
/// The longest journal that is read: 250 million uploads.
const FILE_BYTES_MAX: u64 = 4 << 30;

/// An upload that was noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotedUpload {
    pub(super) at: Timestamp,
    pub(super) key: FilterHash,
}

/// Why a journal cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// It cannot be opened, read or made.
    #[error("{path}: cannot use the journal of uploads: {source}; its folder must be writable")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process, or another site, has it.
    #[error("{path}: the journal of uploads is in use; give each site and process its own")]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// It is something else, or of another bucket or version.
    #[error("{path}: this is no journal of uploads to {bucket}; name another file, or remove it")]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The bucket.
        bucket: String,
    },
}

/// An open journal.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    bucket: u64,
    file: File,
    /// The offset of the next record.
    end: u64,
    /// Uploads noted in it.
    pub(super) count: u64,
    /// Up to when uploads have been left out.
    pub(super) floor: Timestamp,
}

/// What a journal holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct JournalContents {
    pub(super) uploads: Vec<NotedUpload>,
    pub(super) spans: Vec<NoticeSpan>,
    /// What is wrong with it, if anything is: then there are no spans.
    pub(super) fault: Option<&'static str>,
}

impl Journal {
    /// Opens the journal at `path`, or makes one.
    pub(super) fn open(path: &Path, bucket: &str) -> Result<(Self, JournalContents), JournalError> {
        let failed = |source| JournalError::Open { path: path.to_owned(), source };
        let foreign = || JournalError::Foreign { path: path.to_owned(), bucket: bucket.to_owned() };
        let file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
        let mut file = file.map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(JournalError::Locked { path: path.to_owned() }),
            Err(error) => return Err(failed(error.into())),
        }
        let mut bytes = Vec::new();
        (&mut file).take(FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
        let bucket = xxh3_64(bucket.as_bytes());
        let mut journal = Self {
            path: path.to_owned(),
            bucket,
            file,
            end: HEAD_BYTES as u64,
            count: 0,
            floor: Timestamp::from_millis(i64::MIN),
        };
        if bytes.len() < HEAD_BYTES && head(journal.floor, bucket).starts_with(&bytes) {
            journal.begin().map_err(failed)?;
            return Ok((journal, JournalContents::default()));
        }
        let (head, records) = bytes.split_at_checked(HEAD_BYTES).ok_or_else(foreign)?;
        journal.floor = floor_of(head, bucket).ok_or_else(foreign)?;
        let (kept, used) = replay(records);
        journal.end += used as u64;
        journal.file.set_len(journal.end).map_err(failed)?;
        journal.count = kept.uploads.len() as u64;
        Ok((journal, kept))
    }

    fn begin(&self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.write_all_at(&head(self.floor, self.bucket), 0)?;
        self.file.sync_all()?;
        sync_folder(&self.path)
    }

    /// Writes down `uploads` and, if given, `spans`; synced when it returns. After an error
    /// nothing of them counts.
    pub(super) fn append(
        &mut self,
        uploads: &[NotedUpload],
        spans: Option<&[NoticeSpan]>,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        records(&mut bytes, uploads, spans);
        if bytes.is_empty() {
            return Ok(());
        }
        let written = self.file.write_all_at(&bytes, self.end).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // If this fails too, the next start finds the rest and trusts nothing.
            let _ = self.file.set_len(self.end);
            return Err(error);
        }
        self.end += bytes.len() as u64;
        self.count += uploads.len() as u64;
        Ok(())
    }

    /// Puts a journal of these in its place, for a file that is complete up to `floor`. After an
    /// error it is as it was.
    pub(super) fn rewrite(
        &mut self,
        floor: Timestamp,
        uploads: &[NotedUpload],
        spans: &[NoticeSpan],
    ) -> io::Result<()> {
        let folder = folder_of(&self.path);
        let new = tempfile::Builder::new().prefix(".uploads-").tempfile_in(folder)?;
        flock(new.as_file(), FlockOperation::NonBlockingLockExclusive)?;
        let mut bytes = head(floor, self.bucket).to_vec();
        records(&mut bytes, uploads, Some(spans));
        new.as_file().write_all_at(&bytes, 0)?;
        new.as_file().sync_all()?;
        self.file = new.persist(&self.path).map_err(|error| error.error)?;
        (self.floor, self.end, self.count) = (floor, bytes.len() as u64, uploads.len() as u64);
        sync_folder(&self.path)
    }

    /// Reads the uploads again.
    pub(super) fn uploads(&self) -> io::Result<Vec<NotedUpload>> {
        let mut bytes = vec![0; usize::try_from(self.end).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut bytes, 0)?;
        let (kept, _) = replay(bytes.get(HEAD_BYTES..).unwrap_or_default());
        match kept.fault {
            None => Ok(kept.uploads),
            Some(fault) => Err(io::Error::other(fault)),
        }
    }

    /// Bytes of the file.
    pub(super) const fn bytes(&self) -> u64 {
        self.end
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(folder_of(path))?.sync_all()
}

fn head(floor: Timestamp, bucket: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    let fields = MAGIC.iter().copied().chain(VERSION.to_le_bytes());
    let fields = fields.chain(floor.millis().to_le_bytes()).chain(bucket.to_le_bytes());
    let fields: Vec<u8> = fields.collect();
    let sum = xxh3_64(&fields).to_le_bytes();
    for (place, byte) in head.iter_mut().zip(fields.into_iter().chain(sum)) {
        *place = byte;
    }
    head
}

/// The floor that a head names, if it is one of this bucket and version.
fn floor_of(bytes: &[u8], bucket: u64) -> Option<Timestamp> {
    let floor = i64_at(bytes, 20)?;
    let floor = Timestamp::from_millis(floor);
    (head(floor, bucket) == bytes).then_some(floor)
}

fn i64_at(bytes: &[u8], at: usize) -> Option<i64> {
    bytes.get(at..)?.first_chunk::<8>().copied().map(i64::from_le_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk::<4>().copied().map(u32::from_le_bytes)
}

fn records(bytes: &mut Vec<u8>, uploads: &[NotedUpload], spans: Option<&[NoticeSpan]>) {
    for uploads in uploads.chunks(ENTRIES_MAX) {
        let entry =
            |noted: &NotedUpload| (noted.at.millis().to_le_bytes(), noted.key.0.to_le_bytes());
        record(bytes, UPLOADS, uploads.iter().map(entry));
    }
    if let Some(spans) = spans {
        let entry = |span: &NoticeSpan| {
            (span.since.millis().to_le_bytes(), span.up_to.millis().to_le_bytes())
        };
        record(bytes, SPANS, spans.iter().map(entry));
    }
}

fn record(
    bytes: &mut Vec<u8>,
    kind: u32,
    entries: impl ExactSizeIterator<Item = ([u8; 8], [u8; 8])>,
) {
    let begin = bytes.len();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(u32::try_from(entries.len()).unwrap_or(u32::MAX).to_le_bytes());
    for (first, second) in entries {
        bytes.extend(first);
        bytes.extend(second);
    }
    let sum = xxh3_64(bytes.get(begin..).unwrap_or_default());
    bytes.extend(sum.to_le_bytes());
}

/// What the records hold, and how many bytes of them are whole.
fn replay(bytes: &[u8]) -> (JournalContents, usize) {
    let (mut kept, mut used) = (JournalContents::default(), 0);
    while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
        let Some((record, content)) = first_record(rest) else {
            kept.fault = Some("a record of it is cut short or damaged");
            break;
        };
        let entries = content.get(8..).unwrap_or_default().chunks_exact(ENTRY_BYTES);
        let pairs = entries.filter_map(|entry| Some((i64_at(entry, 0)?, i64_at(entry, 8)?)));
        let moments = pairs.map(|(first, second)| (Timestamp::from_millis(first), second));
        match u32_at(content, 0) {
            Some(UPLOADS) => kept.uploads.extend(
                moments.map(|(at, key)| NotedUpload { at, key: FilterHash(key.cast_unsigned()) }),
            ),
            Some(SPANS) => {
                let span =
                    |(since, up_to)| NoticeSpan { since, up_to: Timestamp::from_millis(up_to) };
                kept.spans = moments.map(span).collect();
            }
            Some(_) | None => kept.fault = Some("it has a record of an unknown kind"),
        }
        used += record.len();
    }
    if kept.fault.is_some() {
        kept.spans.clear();
    }
    (kept, used)
}

/// The record that `bytes` begin with, and the bytes under its checksum; none if that is not right.
fn first_record(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let count = usize::try_from(u32_at(bytes, 4)?).ok().filter(|count| *count <= ENTRIES_MAX)?;
    let record = bytes.get(..count * ENTRY_BYTES + FRAME_BYTES)?;
    let (content, sum) = record.split_last_chunk::<8>()?;
    (xxh3_64(content) == u64::from_le_bytes(*sum)).then_some((record, content))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// Two uploads and a span. Made by version 1; never changed.
    const GOLDEN: &[u8] = include_bytes!("golden/version-1.uploads");

    fn noted(at: i64, key: &str) -> NotedUpload {
        NotedUpload { at: Timestamp::from_secs(at), key: FilterHash::of(key) }
    }

    fn span(since: i64, up_to: i64) -> NoticeSpan {
        NoticeSpan { since: Timestamp::from_secs(since), up_to: Timestamp::from_secs(up_to) }
    }

    fn open(path: &Path) -> (Journal, JournalContents) {
        Journal::open(path, "cache").unwrap()
    }

    #[test]
    fn what_was_written_is_there_again_and_the_form_stays() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("uploads");
        let (mut journal, kept) = open(&path);
        assert_eq!(kept, JournalContents::default());
        journal.append(&[noted(1, "a")], Some(&[span(1, 2)])).unwrap();
        journal.append(&[noted(2, "b")], Some(&[span(1, 3)])).unwrap();
        assert_eq!(journal.uploads().unwrap().len(), 2);
        drop(journal);
        let (journal, kept) = open(&path);
        assert_eq!(kept.uploads, [noted(1, "a"), noted(2, "b")]);
        assert_eq!((kept.spans, journal.count), (vec![span(1, 3)], 2));
        assert_eq!(std::fs::read(&path).unwrap(), GOLDEN);
        assert_eq!(journal.bytes(), GOLDEN.len() as u64);
    }

    /// As a crash leaves it at any byte: what was answered before is there.
    #[test]
    fn a_journal_that_is_cut_anywhere_keeps_what_was_whole() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("uploads");
        let (mut journal, _) = open(&path);
        let mut ends = Vec::new();
        for number in 0..5 {
            let spans = [span(1, number + 2)];
            journal.append(&[noted(number, &number.to_string())], Some(&spans)).unwrap();
            ends.push(usize::try_from(journal.bytes()).unwrap());
        }
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        for length in 0..=whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let (mut journal, kept) = open(&path);
            let answered = ends.iter().filter(|end| **end <= length).count();
            assert!(kept.uploads.len() >= answered, "{length}");
            // Only an undamaged journal states the spans that it covers.
            let records = length.saturating_sub(HEAD_BYTES);
            let is_whole = records.is_multiple_of(FRAME_BYTES + ENTRY_BYTES);
            assert!(is_whole || kept.spans.is_empty(), "{length}");
            journal.append(&[noted(9, "next")], None).unwrap();
            drop(journal);
            assert_eq!(open(&path).1.uploads.last(), Some(&noted(9, "next")), "{length}");
        }
    }

    #[test]
    fn a_damaged_record_ends_all_certainty() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("uploads");
        for at in HEAD_BYTES..GOLDEN.len() {
            let mut bytes = GOLDEN.to_vec();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            let (_, kept) = open(&path);
            assert!(kept.spans.is_empty() && kept.fault.is_some(), "{at}");
        }
        for at in 0..HEAD_BYTES {
            let mut bytes = GOLDEN.to_vec();
            bytes[at] ^= 1;
            std::fs::write(&path, &bytes).unwrap();
            assert!(matches!(Journal::open(&path, "cache"), Err(JournalError::Foreign { .. })));
        }
        std::fs::write(&path, GOLDEN).unwrap();
        let error = Journal::open(&path, "other").unwrap_err().to_string();
        assert!(error.contains("other"), "{error}");
    }

    #[test]
    fn a_rewrite_leaves_out_and_stays_locked() {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("uploads");
        let (mut journal, _) = open(&path);
        journal.append(&[noted(1, "a"), noted(5, "b")], None).unwrap();
        assert!(matches!(Journal::open(&path, "cache"), Err(JournalError::Locked { .. })));
        let floor = Timestamp::from_secs(3);
        journal.rewrite(floor, &[noted(5, "b")], &[span(1, 6)]).unwrap();
        assert!(matches!(Journal::open(&path, "cache"), Err(JournalError::Locked { .. })));
        journal.append(&[noted(7, "c")], None).unwrap();
        drop(journal);
        let (journal, kept) = open(&path);
        assert_eq!(kept.uploads, [noted(5, "b"), noted(7, "c")]);
        assert_eq!((journal.floor, kept.spans), (floor, vec![span(1, 6)]));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
