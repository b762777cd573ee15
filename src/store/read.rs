//! Reading stored bodies: without blocking where the page cache has them, else on a blocking
//! thread. A body outlives its object: its file handle holds the bytes until the last reader is
//! gone. No locks.

use super::Inner;
use super::format::{self, Head};
use crate::object::{KeyHash, Meta, Sha256};
use crate::tasks::Tasks;
use bytes::{Bytes, BytesMut};
use rustix::io::ReadWriteFlags;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Weak};

/// An object found in the store.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its metadata.
    pub meta: Arc<Meta>,
    /// Its body.
    pub body: StoredBody,
    /// Bytes of the body.
    pub length: u64,
    /// SHA-256 of the body.
    pub sha256: Sha256,
    /// Its insertion sequence: what [`Store::touch`](super::Store::touch) takes.
    pub sequence: u64,
}

/// The body of a stored object.
#[derive(Debug, Clone)]
pub enum StoredBody {
    /// All of it.
    Bytes(Bytes),
    /// A file to read from.
    File(Arc<BodyFile>),
}

/// The file of a large body, open for reading; the body is at offset 0.
#[derive(Debug)]
pub struct BodyFile {
    file: Arc<File>,
    length: u64,
    hash: KeyHash,
    sequence: u64,
    tasks: Tasks,
    store: Weak<Inner>,
}

impl BodyFile {
    /// A body of `length` bytes at the start of `file`, of the insertion `sequence` of a key.
    pub(super) fn new(
        store: &Arc<Inner>,
        file: Arc<File>,
        hash: KeyHash,
        head: &Head,
    ) -> Arc<Self> {
        let (length, sequence) = (head.length, head.sequence);
        let (tasks, store) = (store.tasks.clone(), Arc::downgrade(store));
        Arc::new(Self { file, length, hash, sequence, tasks, store })
    }

    /// Bytes of the body.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The open file, for `sendfile` of a range within [`BodyFile::length`]; what follows the body
    /// in it is the store's own. Whoever gets fewer bytes than the range has calls
    /// [`BodyFile::damaged`].
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Up to `max` bytes from `offset` if they are in the page cache: never empty within the body,
    /// empty at its end, `None` where reading would block or failed: [`BodyFile::read`] then
    /// waits, or says why. Never blocks.
    pub fn read_now(&self, offset: u64, max: usize) -> Option<Bytes> {
        read_now(&self.file, offset, self.clamp(offset, max))
    }

    /// Up to `max` bytes from `offset`, on a blocking thread: never empty within the body, empty
    /// at its end. Where the file ends before the body, that is an error and the object is
    /// dropped as damaged. Cancel safe.
    pub async fn read(self: &Arc<Self>, offset: u64, max: usize) -> Result<Bytes, io::Error> {
        let max = self.clamp(offset, max);
        let body = Arc::clone(self);
        let work = move || {
            let result = read(&body.file, offset, max);
            if result.is_err() {
                body.damaged();
            }
            result
        };
        self.tasks.blocking("store read", work).await.map_err(io::Error::other)?
    }

    /// Drops the object as damaged: its file is shorter than its body, or cannot be read.
    /// Blocking.
    pub fn damaged(&self) {
        if let Some(store) = self.store.upgrade() {
            store.drop_damaged(self.hash, self.sequence, "its file cannot be read to its end");
        }
    }

    fn clamp(&self, offset: u64, max: usize) -> usize {
        usize::try_from(self.length.saturating_sub(offset)).map_or(max, |left| left.min(max))
    }
}

/// Whether `file` is the one that was written with this head, by its size and its trailer; or why
/// not. Errors of the system say nothing about the file.
pub(super) fn check_file(
    file: &File,
    hash: KeyHash,
    head: &Head,
) -> io::Result<Result<(), &'static str>> {
    let trailer_bytes = usize::try_from(file.metadata()?.len().saturating_sub(head.length));
    let written = format::FOOTER_BYTES..=format::TRAILER_BYTES_MAX;
    let Some(trailer_bytes) = trailer_bytes.ok().filter(|bytes| written.contains(bytes)) else {
        return Ok(Err("its file has another length"));
    };
    let mut trailer = vec![0; trailer_bytes];
    file.read_exact_at(&mut trailer, head.length)?;
    Ok(format::check_trailer(hash, head, &trailer).map_err(|_| "its file is another"))
}

/// Up to `max` bytes that are in the page cache; `None` where reading would block or fails.
pub(super) fn read_now(file: &File, offset: u64, max: usize) -> Option<Bytes> {
    if max == 0 {
        return Some(Bytes::new());
    }
    let mut buffer = BytesMut::zeroed(max);
    let slices = &mut [IoSliceMut::new(&mut buffer)];
    match rustix::io::preadv2(file, slices, offset, ReadWriteFlags::NOWAIT) {
        Ok(0) | Err(_) => None,
        Ok(read) => {
            buffer.truncate(read);
            Some(buffer.freeze())
        }
    }
}

/// Up to `max` bytes; blocking. The end of the file is an error unless `max` is 0.
pub(super) fn read(file: &File, offset: u64, max: usize) -> Result<Bytes, io::Error> {
    if max == 0 {
        return Ok(Bytes::new());
    }
    let mut buffer = BytesMut::zeroed(max);
    loop {
        match file.read_at(&mut buffer, offset) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                buffer.truncate(read);
                return Ok(buffer.freeze());
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
