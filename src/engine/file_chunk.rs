//! The pieces of a body that hyper gets: bytes in memory, or a part of a stored file that is read
//! only when hyper writes it. So a connection with a hundred unfinished answers holds a piece of
//! one of them, and that piece is still in the cache of the processor when it is encrypted. Owned
//! by hyper until it is written; no locks.
//!
//! # No byte that was not compared
//!
//! A chunk is made while it is trusted and its pages are in the page cache. If that has changed
//! when hyper writes it, it is read and compared at once, which blocks the thread. If it is
//! damaged, there is nothing to write, but a [`Buf`] cannot fail. So the connection is marked as
//! broken, and its socket writes no further byte.

use super::connection::{AnswerOrder, ClientConnection};
use super::file_source::FileSource;
use bytes::{Buf, Bytes};
use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::io::IoSlice;
use std::sync::Arc;

/// Bytes that are read at a time if answers take turns: one frame of HTTP/2, unless the client
/// wants larger ones.
const FRAME_BYTES: usize = 16 << 10;
/// Bytes that are read at a time of a single answer: few calls, and still in the cache when they
/// are encrypted.
const READ_BYTES: usize = 64 << 10;
/// Buffers that a thread keeps for reuse.
const SPARE_MAX: usize = 4;

/// A piece of a body.
#[derive(Debug)]
pub enum BodyData {
    /// In memory.
    Bytes(Bytes),
    /// In a stored file.
    FileChunk(Box<FileChunk>),
}

/// Bytes of a stored file that are read when they are written.
pub struct FileChunk {
    file_source: Arc<FileSource>,
    connection: Arc<ClientConnection>,
    /// The offset of what was read, or of what is read next.
    at: u64,
    left: usize,
    read: OnceCell<ReadBytes>,
    /// Bytes of what was read that are taken.
    used: usize,
}

/// Bytes that were read, and their number.
struct ReadBytes(SpareBuffer, usize);

/// A buffer that its thread reuses.
struct SpareBuffer(Box<[u8]>);

thread_local! {
    static SPARE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

impl SpareBuffer {
    fn take(bytes: usize) -> Self {
        let kept = SPARE.with_borrow_mut(|spare| {
            let place = spare.iter().rposition(|buffer| buffer.len() == bytes)?;
            Some(spare.swap_remove(place))
        });
        Self(kept.unwrap_or_else(|| vec![0; bytes].into_boxed_slice()))
    }
}

impl Drop for SpareBuffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // A thread that ends has no buffers any more.
        let _ = SPARE.try_with(|spare| {
            let mut spare = spare.borrow_mut();
            if spare.len() < SPARE_MAX {
                spare.push(buffer);
            }
        });
    }
}

impl BodyData {
    /// The `left` bytes from `at` of a stored file, which lie within a chunk, to be written on
    /// `connection`. None if they must be read now. Never blocks.
    pub(super) fn stretch(
        file_source: &Arc<FileSource>,
        connection: &Arc<ClientConnection>,
        at: u64,
        left: usize,
    ) -> Option<Self> {
        if left <= FRAME_BYTES {
            return None;
        }
        file_source.file().filter(|file| file.is_cached(at, left))?;
        let (file_source, connection) = (Arc::clone(file_source), Arc::clone(connection));
        let (read, used) = (OnceCell::new(), 0);
        Some(Self::FileChunk(Box::new(FileChunk { file_source, connection, at, left, read, used })))
    }
}

impl From<Bytes> for BodyData {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl fmt::Debug for FileChunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, left) = (self.at, self.left);
        f.debug_struct("FileChunk").field("at", &at).field("left", &left).finish_non_exhaustive()
    }
}

impl FileChunk {
    fn read(&self) -> ReadBytes {
        let bytes = match self.connection.order() {
            AnswerOrder::OneByOne => READ_BYTES,
            AnswerOrder::Interleaved => FRAME_BYTES,
        };
        let mut buffer = SpareBuffer::take(bytes);
        let max = self.left.min(bytes);
        let wanted = buffer.0.get_mut(..max).unwrap_or_default();
        // This part is read also if another part of the file has failed.
        let file = self.file_source.any_file();
        let length = file.read_now_into(self.at, wanted).unwrap_or_else(|| {
            match file.read_in_place(self.at, max) {
                Ok(bytes) => {
                    let length = bytes.len().min(max);
                    wanted.iter_mut().zip(&bytes).for_each(|(to, from)| *to = *from);
                    length
                }
                Err(error) => {
                    tracing::debug!(%error, "stored file failed while it was written");
                    self.connection.break_off();
                    wanted.fill(0);
                    max
                }
            }
        });
        ReadBytes(buffer, length)
    }
}

impl Buf for FileChunk {
    fn remaining(&self) -> usize {
        self.left
    }

    fn chunk(&self) -> &[u8] {
        if self.left == 0 {
            return &[];
        }
        let ReadBytes(buffer, length) = self.read.get_or_init(|| self.read());
        buffer.0.get(self.used..*length).unwrap_or_default()
    }

    /// Only the bytes of one read are there. The other slices are empty, so that none is left out.
    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let Some((first, others)) = slices.split_first_mut() else { return 0 };
        if self.left == 0 {
            return 0;
        }
        let chunk = self.chunk();
        *first = IoSlice::new(chunk);
        if chunk.len() == self.left {
            return 1;
        }
        others.fill(IoSlice::new(&[]));
        1 + others.len()
    }

    fn advance(&mut self, bytes: usize) {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        self.used += bytes;
        let length = self.read.get().map_or(0, |ReadBytes(_, length)| *length);
        if self.used >= length {
            self.at = self.at.saturating_add(self.used as u64);
            self.used = 0;
            self.read.take();
        }
    }
}

impl Buf for BodyData {
    fn remaining(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.remaining(),
            Self::FileChunk(stretch) => stretch.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Bytes(bytes) => bytes.chunk(),
            Self::FileChunk(stretch) => stretch.chunk(),
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.chunks_vectored(slices),
            Self::FileChunk(stretch) => stretch.chunks_vectored(slices),
        }
    }

    fn advance(&mut self, bytes: usize) {
        match self {
            Self::Bytes(all) => all.advance(bytes),
            Self::FileChunk(stretch) => stretch.advance(bytes),
        }
    }

    fn copy_to_bytes(&mut self, length: usize) -> Bytes {
        match self {
            Self::Bytes(bytes) => bytes.copy_to_bytes(length),
            Self::FileChunk(stretch) => stretch.copy_to_bytes(length),
        }
    }
}
