//! A folder as an origin, as `nix copy --to file://` writes it. One per origin, as long lived as
//! it; all reading happens on blocking threads; no locks.

use super::exchange::{Ask, FetchError, Method};
use super::meters::OriginMeters;
use super::response::{Response, ResponseBody, ResponseSource};
use super::verdict::Absence;
use super::wire::{OriginReply, ResponseHead};
use crate::clock::{Clock, Timestamp};
use crate::config::OriginTimeouts;
use crate::tasks::Tasks;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::mpsc;

/// Bytes of one piece of a body.
const PIECE_BYTES: u64 = 256 * 1024;
/// The last second that an HTTP date can name.
const HTTP_DATE_SECONDS_MAX: u64 = 253_402_300_799;

/// A folder.
#[derive(Debug)]
pub(super) struct FolderOrigin {
    pub name: Arc<str>,
    pub position: usize,
    pub root: PathBuf,
    /// What shows that the folder is the one that is meant, and that what it lacks is absent.
    pub holds: FolderContents,
    pub clock: Clock,
    pub meters: OriginMeters,
    pub tasks: Tasks,
    pub timeouts: OriginTimeouts,
}

/// What a folder holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FolderContents {
    /// A binary cache, which has a `nix-cache-info`.
    BinaryCache,
    /// Any files.
    Files,
}

/// A file that was found.
#[derive(Debug)]
struct FoundFile {
    file: File,
    length: u64,
    modified: Duration,
    inode: u64,
}

/// What a question about a found file comes to.
#[derive(Debug, PartialEq, Eq)]
enum FileAnswer {
    NotModified,
    Changed,
    /// The bytes from `first` up to, not including, `end`.
    Send {
        status: StatusCode,
        first: u64,
        end: u64,
    },
}

impl FolderOrigin {
    /// Looks the path up; each look-up counts as a request with the status it comes to.
    pub(super) async fn ask(&self, ask: &Ask) -> Result<OriginReply, FetchError> {
        let request_time = self.clock.now();
        let counted = self.meters.request(ask.purpose(), &ask.method.as_http());
        let found = match self.found(ask).await {
            Ok(found) => found,
            Err(error) => {
                counted.failed();
                return Err(error);
            }
        };
        let heard =
            |headers| ResponseHead { headers, request_time, response_time: self.clock.moment() };
        let Some(found) = found else {
            counted.answered(StatusCode::NOT_FOUND);
            return Ok(OriginReply::Absent(heard(HeaderMap::new()), Absence::Known));
        };
        let headers = found.headers(&ask.path);
        match found.plan(ask, headers.get(header::ETAG)) {
            FileAnswer::NotModified => {
                counted.answered(StatusCode::NOT_MODIFIED);
                Ok(OriginReply::NotModified(heard(headers)))
            }
            FileAnswer::Changed => {
                counted.answered(StatusCode::PRECONDITION_FAILED);
                Ok(OriginReply::Changed)
            }
            FileAnswer::Send { status, first, end } => {
                counted.answered(status);
                let heard = heard(headers);
                Ok(OriginReply::Found(Box::new(self.response(
                    ask,
                    found,
                    heard,
                    status,
                    first..end,
                ))))
            }
        }
    }

    async fn found(&self, ask: &Ask) -> Result<Option<FoundFile>, FetchError> {
        let (root, path, holds) = (self.root.clone(), Arc::clone(&ask.path), self.holds);
        let looking = move || look_up(&root, &path, holds);
        let looking = self.tasks.blocking("origin folder look-up", looking);
        tokio::time::timeout(self.timeouts.first_byte, looking)
            .await
            .map_err(|_| FetchError::FirstByte {
                origin: Arc::clone(&self.name),
                seconds: self.timeouts.first_byte.as_secs(),
            })?
            .map_err(|error| self.failure(io::Error::other(error)))?
            .map_err(|error| self.failure(error))
    }

    fn response(
        &self,
        ask: &Ask,
        found: FoundFile,
        heard: ResponseHead,
        status: StatusCode,
        range: std::ops::Range<u64>,
    ) -> Response {
        let mut headers = heard.headers;
        let length = range.end - range.start;
        put(&mut headers, header::CONTENT_LENGTH, &length.to_string());
        if status == StatusCode::PARTIAL_CONTENT {
            let last = range.end.saturating_sub(1);
            let field = format!("bytes {}-{last}/{}", range.start, found.length);
            put(&mut headers, header::CONTENT_RANGE, &field);
        }
        let source = match ask.method {
            Method::Head => ResponseSource::Ended,
            Method::Get => ResponseSource::Folder(read(&self.tasks, found.file, range)),
        };
        let body = ResponseBody::new(
            source,
            Arc::clone(&self.name),
            self.timeouts.between_bytes,
            self.meters.bytes(ask.class),
        );
        Response {
            status,
            headers,
            body,
            origin: self.position,
            origin_name: Arc::clone(&self.name),
            request_time: heard.request_time,
            response_time: heard.response_time,
            content_length: Some(length),
            is_framed: true,
        }
    }

    fn failure(&self, source: io::Error) -> FetchError {
        FetchError::Folder { origin: Arc::clone(&self.name), source }
    }
}

impl FoundFile {
    fn headers(&self, path: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let modified = self.modified.as_nanos();
        let tag = format!("\"{modified:x}-{:x}-{:x}\"", self.length, self.inode);
        put(&mut headers, header::ETAG, &tag);
        let seconds = self.modified.as_secs().min(HTTP_DATE_SECONDS_MAX);
        let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_secs(seconds));
        put(&mut headers, header::LAST_MODIFIED, &date);
        put(&mut headers, header::ACCEPT_RANGES, "bytes");
        put(&mut headers, header::CONTENT_TYPE, content_type(path));
        headers
    }

    /// Preconditions first, then the range (RFC 9110 section 13.2.2).
    fn plan(&self, ask: &Ask, tag: Option<&HeaderValue>) -> FileAnswer {
        if ask.if_match.as_ref().is_some_and(|wanted| !names(wanted, tag)) {
            return FileAnswer::Changed;
        }
        let is_held = match (&ask.if_none_match, &ask.if_modified_since) {
            (Some(held), _) => names(held, tag),
            (None, Some(since)) => self.is_unmodified_since(since),
            (None, None) => false,
        };
        if is_held {
            return FileAnswer::NotModified;
        }
        let Some(range) = ask.range else {
            return FileAnswer::Send { status: StatusCode::OK, first: 0, end: self.length };
        };
        let end = range.last.map_or(self.length, |last| last.saturating_add(1).min(self.length));
        if range.first >= end {
            return FileAnswer::Changed;
        }
        FileAnswer::Send { status: StatusCode::PARTIAL_CONTENT, first: range.first, end }
    }

    fn is_unmodified_since(&self, since: &HeaderValue) -> bool {
        let since = since.to_str().ok().and_then(|text| httpdate::parse_http_date(text).ok());
        let modified = Timestamp::from_secs(i64::try_from(self.modified.as_secs()).unwrap_or(0));
        since.is_some_and(|since| modified <= Timestamp::from(since))
    }
}

fn put(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// Whether a list of entity tags names `tag`. This origin's tags are strong and hold no comma.
fn names(list: &HeaderValue, tag: Option<&HeaderValue>) -> bool {
    let (Ok(list), Some(Ok(tag))) = (list.to_str(), tag.map(HeaderValue::to_str)) else {
        return false;
    };
    list.split(',').map(str::trim).any(|one| one == "*" || one == tag)
}

fn content_type(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or_default();
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    match extension {
        "narinfo" => "text/x-nix-narinfo",
        "ls" | "doi" => "application/json",
        "html" => "text/html; charset=utf-8",
        _ if name == "nix-cache-info" => "text/x-nix-cache-info",
        _ if path.starts_with("/nar/") => "application/x-nix-nar",
        _ if path.starts_with("/log/") => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

/// The regular file at `path` below `root`, or `None` if there is none.
///
/// Fails if the folder is missing, or a binary cache without `nix-cache-info`: then it is not
/// mounted, or another one, and nothing in it is known to be absent.
fn look_up(root: &Path, path: &str, holds: FolderContents) -> io::Result<Option<FoundFile>> {
    let folder =
        rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| at(root, &error.into()))?;
    let found = match open_below(&folder, path.trim_start_matches('/')) {
        Ok(file) => regular(File::from(file))?,
        Err(error) if is_absence(error) => None,
        Err(error) => return Err(at(&root.join(path.trim_start_matches('/')), &error.into())),
    };
    if found.is_none() && holds == FolderContents::BinaryCache {
        let info = rustix::fs::statat(&folder, "nix-cache-info", AtFlags::empty());
        info.map_err(|error| at(&root.join("nix-cache-info"), &error.into()))?;
    }
    Ok(found)
}

/// Names the path in a system's error.
fn at(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

fn is_absence(error: rustix::io::Errno) -> bool {
    use rustix::io::Errno;
    matches!(error, Errno::NOENT | Errno::NOTDIR | Errno::ISDIR | Errno::NAMETOOLONG | Errno::NXIO)
}

/// Opens `path` so that nothing outside of `folder` can be reached: the kernel resolves it below
/// the folder, or, if it cannot, no component may be `..` and none a link.
fn open_below(folder: impl AsFd, path: &str) -> Result<OwnedFd, rustix::io::Errno> {
    use rustix::io::Errno;
    if path.is_empty() || path.split('/').any(|part| part == ".." || part.contains('\0')) {
        return Err(Errno::NOENT);
    }
    // Without NONBLOCK, opening a FIFO would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&folder, path, flags, Mode::empty(), resolve) {
        Err(Errno::NOSYS | Errno::PERM) => open_step_by_step(folder, path, flags),
        opened => opened,
    }
}

fn open_step_by_step(
    folder: impl AsFd,
    path: &str,
    flags: OFlags,
) -> Result<OwnedFd, rustix::io::Errno> {
    let step = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let mut parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    let last = parts.pop().unwrap_or(".");
    let mut current: Option<OwnedFd> = None;
    for part in parts {
        let from = current.as_ref().map_or(folder.as_fd(), AsFd::as_fd);
        current = Some(rustix::fs::openat(from, part, step, Mode::empty())?);
    }
    let from = current.as_ref().map_or(folder.as_fd(), AsFd::as_fd);
    rustix::fs::openat(from, last, flags | OFlags::NOFOLLOW, Mode::empty())
}

/// What is needed of a regular file; anything else is no object.
fn regular(file: File) -> io::Result<Option<FoundFile>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let seconds = u64::try_from(metadata.mtime()).unwrap_or(0);
    let nanoseconds = u32::try_from(metadata.mtime_nsec()).unwrap_or(0);
    let modified = Duration::new(seconds, nanoseconds);
    Ok(Some(FoundFile { length: metadata.len(), modified, inode: metadata.ino(), file }))
}

/// Reads a range piece by piece, one piece ahead; ends when the receiver is gone.
fn read(
    tasks: &Tasks,
    file: File,
    range: std::ops::Range<u64>,
) -> mpsc::Receiver<io::Result<Bytes>> {
    let (pieces, receiver) = mpsc::channel(1);
    let (file, reader) = (Arc::new(file), tasks.clone());
    tasks.spawn("origin folder read", async move {
        let mut at = range.start;
        while at < range.end {
            let length = PIECE_BYTES.min(range.end - at);
            let file = Arc::clone(&file);
            let piece = reader
                .blocking("origin folder piece", move || read_piece(&file, at, length))
                .await
                .unwrap_or_else(|error| Err(io::Error::other(error)));
            let is_last = piece.is_err();
            if pieces.send(piece).await.is_err() || is_last {
                return;
            }
            at += length;
        }
    });
    receiver
}

fn read_piece(file: &File, at: u64, length: u64) -> io::Result<Bytes> {
    let mut piece = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut piece, at)?;
    Ok(piece.into())
}

#[cfg(test)]
mod tests;
