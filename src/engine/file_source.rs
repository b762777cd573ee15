//! A stored file that is being sent, with a fallback if it fails. Shared by the body of one answer
//! and the ranges in its sendfile queue. Both read it in order: the body reads only if no range of
//! it is queued. The lock is held while a piece is read, by one reader at a time.

use super::body_source::BodySource;
use super::file_fallback::FileFallback;
use crate::store::BodyFile;
use bytes::Bytes;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::Mutex;

/// A stored file with a fallback.
pub(super) struct FileSource {
    file: Arc<BodyFile>,
    /// Whether the file has failed: it is not read any more.
    has_failed: AtomicBool,
    state: Mutex<FileState>,
}

enum FileState {
    /// The file, and its fallback.
    File(Option<Box<FileFallback>>),
    /// The source that replaces the file, from this offset on.
    Fallback(BodySource, u64),
    Over,
}

impl std::fmt::Debug for FileSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileSource").field("has_failed", &self.has_failed).finish_non_exhaustive()
    }
}

impl FileSource {
    /// `file`, replaced by `file_fallback` if it fails.
    pub(super) fn new(file: Arc<BodyFile>, file_fallback: Option<Box<FileFallback>>) -> Arc<Self> {
        let (has_failed, state) =
            (AtomicBool::new(false), Mutex::new(FileState::File(file_fallback)));
        Arc::new(Self { file, has_failed, state })
    }

    /// The file, if it has not failed.
    pub(super) fn file(&self) -> Option<&Arc<BodyFile>> {
        (!self.has_failed.load(Ordering::Acquire)).then_some(&self.file)
    }

    /// The file, for the parts that were found sound before it failed.
    pub(super) fn any_file(&self) -> &Arc<BodyFile> {
        &self.file
    }

    /// The next piece, of at most `max` bytes from `at`; empty only at the end.
    pub(super) async fn read(&self, at: u64, max: usize) -> io::Result<Bytes> {
        let mut state = self.state.lock().await;
        let (source, result) = match std::mem::replace(&mut *state, FileState::Over) {
            FileState::Over => return Err(io::Error::other("the source failed before")),
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
            FileState::Fallback(source, next) => read_from(source, next, at, max).await,
        };
        if let Ok(bytes) = &result {
            *state = FileState::Fallback(source, at.saturating_add(bytes.len() as u64));
        }
        result
    }
}

/// The next piece from `at` of a source that is at `next`. Bytes that were sent from the file
/// meanwhile are left out.
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
        return (source, Err(io::Error::other("the source is already past this offset")));
    }
    source.read(max).await
}
