//! Reading one stored object back and comparing all of it: the record, the body with its digest,
//! the sums and the trailer of its file. Reads the disk, not the page cache. Changes nothing.
//! Called by the scrubber and by `fsck`. Blocking; takes the index's read side for each look-up
//! and no other lock, so the object may be replaced or dropped meanwhile: what acts on a
//! verdict names the insertion, which is then another.

use crate::object::{Key, KeyHash, Sha256};
use crate::store::body::sums::{self, CHUNK_BYTES, Sums};
use crate::store::body::trailer;
use crate::store::catalog::Catalog;
use crate::store::check::pace::{ReadPacer, Stopped};
use crate::store::check::report::{CheckFault, CheckReport};
use crate::store::error::IndexError;
use crate::store::format::{self, BodyPlace, FormatError, RecordHead};
use crate::sync::Mutex;
use aws_lc_rs::digest;
use rustix::io::Errno;
use std::io;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// The checks of one store, of which one runs at a time.
#[derive(Debug)]
pub(in crate::store) struct Checks {
    /// Of the check that goes on, or else the last one.
    pub(in crate::store) report: Arc<Mutex<CheckReport>>,
    /// What ends it.
    pub(in crate::store) stop: Mutex<CancellationToken>,
    /// Bytes a second that a check reads if it is not told another number.
    pub(in crate::store) rate: u64,
}

impl Checks {
    /// No check yet.
    pub(in crate::store) fn at_rate(rate: u64) -> Self {
        Self { report: Arc::default(), stop: Mutex::default(), rate }
    }
}

/// What came of reading an object back.
#[derive(Debug)]
pub(in crate::store) struct ObjectCheck {
    /// Bytes that were compared.
    pub(in crate::store) bytes: u64,
    /// The insertion, if its record can be read.
    pub(in crate::store) head: Option<RecordHead>,
    /// The key, if its record can be read.
    pub(in crate::store) key: Option<Key>,
    /// What is wrong, and how that shows.
    pub(in crate::store) wrong: Option<(CheckFault, String)>,
    /// Whether it is sound, and still not served: an earlier build wrote it.
    pub(in crate::store) is_unserved: bool,
}

/// Why a comparison ended early.
enum CheckEnd {
    Wrong(CheckFault, &'static str),
    Disk(io::Error),
    Index(IndexError),
    Stopped,
}

impl From<io::Error> for CheckEnd {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl From<Stopped> for CheckEnd {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

/// Compares everything of the object with this encoded record.
pub(in crate::store) fn check_object(
    catalog: &Catalog,
    hash: KeyHash,
    record: &[u8],
    pacer: &mut ReadPacer,
) -> Result<ObjectCheck, Stopped> {
    let bytes = record.len() as u64;
    let mut checked = ObjectCheck { bytes, head: None, key: None, wrong: None, is_unserved: false };
    pacer.spend(checked.bytes)?;
    let (record, within) = match format::decode_row(record) {
        Ok(row) => row,
        Err(FormatError::Challenge) => {
            checked.is_unserved = true;
            return Ok(checked);
        }
        Err(error) => {
            checked.wrong = Some((CheckFault::Record, error.to_string()));
            return Ok(checked);
        }
    };
    checked.head = Some(record.head);
    if record.meta.key.hash() != hash {
        checked.wrong = Some((CheckFault::Record, "it stands under another key".to_owned()));
        return Ok(checked);
    }
    checked.key = Some(record.meta.key);
    let compared = match record.head.place {
        BodyPlace::Within => of_body(&record.head, Some(within)),
        BodyPlace::Inline => compare_inline(catalog, hash, &record.head, pacer),
        BodyPlace::File => compare_file(catalog, hash, &record.head, pacer),
    };
    if record.head.place != BodyPlace::Within {
        checked.bytes += record.head.length;
    }
    checked.wrong = match compared {
        Ok(()) => None,
        Err(CheckEnd::Stopped) => return Err(Stopped),
        Err(CheckEnd::Wrong(fault, why)) => Some((fault, why.to_owned())),
        Err(CheckEnd::Disk(error)) => Some(of_disk(&error)),
        Err(CheckEnd::Index(error)) => Some(of_index(&error)),
    };
    Ok(checked)
}

fn compare_inline(
    catalog: &Catalog,
    hash: KeyHash,
    head: &RecordHead,
    pacer: &mut ReadPacer,
) -> Result<(), CheckEnd> {
    pacer.spend(head.length)?;
    let access = catalog.index.access();
    let body = access.open().and_then(|index| index.body(hash, head.sequence));
    of_body(head, body.map_err(CheckEnd::Index)?.as_deref())
}

fn compare_file(
    catalog: &Catalog,
    hash: KeyHash,
    head: &RecordHead,
    pacer: &mut ReadPacer,
) -> Result<(), CheckEnd> {
    let mut file = catalog.folder.open_direct(hash, head.sequence)?;
    let (tail_at, length) = (trailer::tail_offset(head.length), file.length()?);
    let tail_bytes = usize::try_from(length.saturating_sub(tail_at)).unwrap_or(usize::MAX);
    if !(trailer::FOOTER_BYTES..=trailer::TAIL_BYTES_MAX).contains(&tail_bytes) {
        return Err(CheckEnd::Wrong(CheckFault::Body, "its file has another length"));
    }
    let mut whole = digest::Context::new(&digest::SHA256);
    let mut found = Sums::new(hash);
    let mut at = 0;
    while at < head.length {
        let end = head.length.min(at + CHUNK_BYTES);
        pacer.spend(end - at)?;
        file.read::<CheckEnd>(at, end, |piece| {
            whole.update(piece);
            found.update(piece);
            Ok(())
        })?;
        at = end;
    }
    if Sha256::finish(whole) != head.sha256 {
        return Err(CheckEnd::Wrong(CheckFault::Body, "its body is another"));
    }
    let mut sums = Vec::new();
    file.read::<CheckEnd>(head.length, tail_at, |piece| {
        sums.extend_from_slice(piece);
        Ok(())
    })?;
    let mut tail = Vec::with_capacity(tail_bytes);
    file.read::<CheckEnd>(tail_at, length, |piece| {
        tail.extend_from_slice(piece);
        Ok(())
    })?;
    let Ok(footer) = trailer::check(hash, head, &tail) else {
        return Err(CheckEnd::Wrong(CheckFault::Trailer, "its trailer is another"));
    };
    if sums != found.encode() || sums::digest(&sums) != footer.sums {
        return Err(CheckEnd::Wrong(CheckFault::Trailer, "its checksums are others"));
    }
    Ok(())
}

/// Whether what was checked is what is still recorded.
pub(in crate::store) fn is_still(catalog: &Catalog, hash: KeyHash, checked: &ObjectCheck) -> bool {
    let access = catalog.index.access();
    let record = access.open().and_then(|index| index.record(hash));
    let Ok(Some(record)) = record else { return false };
    match (format::decode_head(&record), checked.head) {
        (Ok(now), Some(then)) => now.sequence == then.sequence,
        (Ok(_), None) => format::decode_record(&record).is_err(),
        (Err(_), _) => checked.head.is_none(),
    }
}

/// Drops what was found wrong, unless another replaced it; true if it went. What was in use
/// is told to `fill`, which fetches it again.
pub(in crate::store) fn drop_checked(
    catalog: &Catalog,
    hash: KeyHash,
    checked: &ObjectCheck,
    why: &str,
) -> bool {
    let is_used = checked.head.is_some_and(|head| catalog.accounting.is_used(head.sequence));
    let has_gone = match checked.head {
        Some(head) => catalog.drop_damaged(hash, head.sequence, why),
        None => catalog.drop_undecodable(hash, why),
    };
    if has_gone
        && is_used
        && let Some(key) = &checked.key
        && catalog.tier.damaged.try_send(key.clone()).is_err()
    {
        tracing::debug!(path = key.path(), "not fetched again before it is asked for");
    }
    has_gone
}

/// Counts what was compared.
pub(in crate::store) fn count_checked(catalog: &Catalog, by: &str, checked: &ObjectCheck) {
    catalog.metrics.checked_bytes.with_label_values(&[by]).inc_by(checked.bytes);
    catalog.metrics.checked_objects.with_label_values(&[by]).inc();
}

/// What an error of the index says: that it is damaged, or nothing about what it holds.
fn of_index(error: &IndexError) -> (CheckFault, String) {
    let fault = if error.is_damage() { CheckFault::Index } else { CheckFault::Unreadable };
    (fault, error.to_string())
}

/// Whether a small body is the one that was recorded.
fn of_body(head: &RecordHead, body: Option<&[u8]>) -> Result<(), CheckEnd> {
    match body {
        None => Err(CheckEnd::Wrong(CheckFault::Body, "its body is gone")),
        Some(body) if head.is_of(body) => Ok(()),
        Some(_) => Err(CheckEnd::Wrong(CheckFault::Body, "its body is another")),
    }
}

/// What a disk and its file system answer of bytes that they have lost.
const UNREADABLE: [Errno; 6] =
    [Errno::IO, Errno::NODATA, Errno::ILSEQ, Errno::REMOTEIO, Errno::UCLEAN, Errno::BADMSG];

/// What an error of the system says about a body: that it is gone or short, or nothing at all.
pub(in crate::store) fn of_disk(error: &io::Error) -> (CheckFault, String) {
    if error.kind() == io::ErrorKind::NotFound {
        return (CheckFault::Body, "its file is gone".to_owned());
    }
    if error.kind() == io::ErrorKind::UnexpectedEof {
        return (CheckFault::Body, "its file is shorter than its body".to_owned());
    }
    let is_of_medium = error.raw_os_error().map(Errno::from_raw_os_error);
    if is_of_medium.is_some_and(|errno| UNREADABLE.contains(&errno)) {
        return (CheckFault::Body, "the disk cannot read its file".to_owned());
    }
    (CheckFault::Unreadable, error.to_string())
}
