//! A new index made of what stands behind the bodies, if the old one cannot be opened or is
//! gone. The old one is moved aside, never deleted. Blocking; called by `fsck` alone, on a folder
//! that it has locked.
//!
//! What only the index knew is lost: small bodies, claims, purges. So each object comes back as
//! one that was purged softly: the origin confirms it before it serves again, and a stale object
//! that an operator had purged does not come back by a broken index. Of several files of one key
//! the last insertion counts; the others, and those without a whole trailer, are left for the
//! check that follows, which reads every body as well.

use crate::object::{KeyHash, Meta};
use crate::store::body::trailer::{self, FOOTER_BYTES, Footer, TAIL_BYTES_MAX};
use crate::store::error::{IndexError, OpenError};
use crate::store::folder::Folder;
use crate::store::format::{self, Totals};
use crate::store::index::Index;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Why there is no new index.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// The old index cannot be moved, or the bodies cannot be listed.
    #[error("cannot make a new index: {0}; see that this user may write in the folder")]
    Folder(#[from] io::Error),
    /// The new index does not work either.
    #[error("cannot make a new index: {0}; look at the disk")]
    Index(#[from] IndexError),
    /// The new index cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
}

/// What became of it.
#[derive(Debug)]
pub(in crate::store) struct NewIndex {
    /// The new index.
    pub(in crate::store) index: Index,
    /// Objects in it.
    pub(in crate::store) objects: u64,
    /// The path of the old one now.
    pub(in crate::store) aside: Option<PathBuf>,
}

/// Moves the index aside and makes a new one.
pub(in crate::store) fn rebuild(folder: &Folder) -> Result<NewIndex, RebuildError> {
    let aside = folder.put_index_aside()?;
    std::fs::create_dir_all(folder.index_path())?;
    let index = Index::open(&folder.index_path())?;
    let mut totals = Totals::default();
    folder.walk(|path, insertion| {
        let Some((hash, sequence)) = insertion else { return Ok(()) };
        totals.next_sequence = totals.next_sequence.max(sequence.saturating_add(1));
        match read_record(path, hash, sequence) {
            Ok(Some(record)) => {
                enter(&index, hash, &record, &mut totals).map_err(RebuildError::from)
            }
            Ok(None) => Ok(()),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a body file cannot be read");
                Ok(())
            }
        }
    })?;
    {
        let access = index.access();
        let open = access.open()?;
        let mut change = open.change();
        change.set_totals(&totals);
        change.commit()?;
        open.sync()?;
    }
    Ok(NewIndex { index, objects: totals.objects, aside })
}

/// The record behind a body, if the file is the whole one of this insertion.
fn read_record(path: &Path, hash: KeyHash, sequence: u64) -> io::Result<Option<format::Record>> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let Some(footer_at) = length.checked_sub(FOOTER_BYTES as u64) else { return Ok(None) };
    let mut footer = [0; FOOTER_BYTES];
    file.read_exact_at(&mut footer, footer_at)?;
    let Ok(footer) = Footer::parse(&footer) else { return Ok(None) };
    let tail_at = trailer::tail_offset(footer.length);
    let tail_bytes = usize::try_from(length.saturating_sub(tail_at)).unwrap_or(usize::MAX);
    if footer.file_bytes() != Some(length) || tail_bytes > TAIL_BYTES_MAX {
        return Ok(None);
    }
    let mut tail = vec![0; tail_bytes];
    file.read_exact_at(&mut tail, tail_at)?;
    let Ok((footer, record)) = trailer::decode(&tail) else { return Ok(None) };
    let Ok(mut record) = format::decode_record(record) else { return Ok(None) };
    let is_whole = footer.key == hash
        && footer.sequence == sequence
        && record.meta.key.hash() == hash
        && (record.head.sequence, record.head.length) == (sequence, footer.length)
        && record.head.sha256 == footer.sha256;
    // What it claimed is lost with the index.
    record.head.claims = None;
    record.meta = Meta { is_invalidated: true, ..record.meta };
    Ok(is_whole.then_some(record))
}

/// Enters a record, unless a later insertion of its key is entered.
fn enter(
    index: &Index,
    hash: KeyHash,
    record: &format::Record,
    totals: &mut Totals,
) -> Result<(), IndexError> {
    let access = index.access();
    let open = access.open()?;
    let other = open.record(hash)?.and_then(|bytes| format::decode_head(&bytes).ok());
    if other.is_some_and(|other| other.sequence > record.head.sequence) {
        return Ok(());
    }
    let Ok(bytes) = format::encode_record(&record.head, &record.meta) else { return Ok(()) };
    let mut change = open.change();
    if let Some(other) = &other {
        change.drop_order(other.sequence);
    }
    change.set_record(hash, &record.head, &bytes);
    change.commit()?;
    totals.objects += u64::from(other.is_none());
    let gone = other.map_or(0, |other| other.charge());
    totals.bytes = totals.bytes.saturating_sub(gone).saturating_add(record.head.charge());
    Ok(())
}
