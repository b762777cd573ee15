//! What is left of a stored file that is being sent: read from the file, and where that fails, out
//! of whatever rescues it. Shared by the body of one answer and the ranges it has queued for its
//! socket, which read it in their order: the body reads only when nothing of it is queued. The lock
//! is held while a piece is read, by one of them alone.

use super::body_source::BodySource;
use super::file_fallback::FileFallback;
use crate::store::BodyFile;
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Mutex;

/// The rest of a stored file.
pub(super) struct FileSource {
    file: Arc<BodyFile>,
    /// Whether the file has failed: nothing of it is read any more.
    has_failed: AtomicBool,
    state: Mutex<FileState>,
}

enum FileState {
    /// The file, and what goes on where it fails.
    File(Option<Box<FileFallback>>),
    /// What goes on, from this offset on.
    Rescued(BodySource, u64),
    Over,
}

impl std::fmt::Debug for FileSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileSource").field("has_failed", &self.has_failed).finish_non_exhaustive()
    }
}

impl FileSource {
    /// A file that `file_fallback` goes on for where it fails.
    pub(super) fn new(file: Arc<BodyFile>, file_fallback: Option<Box<FileFallback>>) -> Arc<Self> {
        let (has_failed, state) =
            (AtomicBool::new(false), Mutex::new(FileState::File(file_fallback)));
        Arc::new(Self { file, has_failed, state })
    }

    /// The file, as long as it has not failed.
    pub(super) fn file(&self) -> Option<&Arc<BodyFile>> {
        (!self.has_failed.load(Ordering::Acquire)).then_some(&self.file)
    }

    /// The file, for what of it was found sound before it failed.
    pub(super) fn any_file(&self) -> &Arc<BodyFile> {
        &self.file
    }

    /// The next piece, of at most `max` bytes from `at`; empty at the end alone.
    pub(super) async fn read(&self, at: u64, max: usize) -> io::Result<Bytes> {
        let mut state = self.state.lock().await;
        let (source, result) = match std::mem::replace(&mut *state, FileState::Over) {
            FileState::Over => return Err(io::Error::other("it has failed before")),
            FileState::File(file_fallback) => {
                let error = match self.file.read(at, max).await {
                    Ok(bytes) => {
                        *state = FileState::File(file_fallback);
                        return Ok(bytes);
                    }
                    Err(error) => error,
                };
                self.has_failed.store(true, Ordering::Release);
                let Some(file_fallback) = file_fallback else { return Err(error) };
                let (file, length) = (Arc::clone(&self.file), max);
                file_fallback.go_on(BodySource::File(file, at), at, length, error).await
            }
            FileState::Rescued(source, next) => read_from(source, next, at, max).await,
        };
        if let Ok(bytes) = &result {
            *state = FileState::Rescued(source, at.saturating_add(bytes.len() as u64));
        }
        result
    }
}

/// The next piece from `at` of a source that is at `next`: what was sent out of the file meanwhile
/// is left out.
async fn read_from(
    mut source: BodySource,
    mut next: u64,
    at: u64,
    max: usize,
) -> (BodySource, io::Result<Bytes>) {
    while next < at {
        let skipped = usize::try_from(at - next).map_or(max, |skipped| skipped.min(max));
        let (rest, result) = source.read(skipped).await;
        source = rest;
        match result {
            Ok(bytes) if bytes.is_empty() => {
                return (source, Err(io::ErrorKind::UnexpectedEof.into()));
            }
            Ok(bytes) => next = next.saturating_add(bytes.len() as u64),
            Err(error) => return (source, Err(error)),
        }
    }
    if next > at {
        return (source, Err(io::Error::other("what was read is not there any more")));
    }
    source.read(max).await
}
