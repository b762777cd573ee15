//! The body of an answer to a client: whole in memory, from a file, from an object that is
//! arriving, or passed through. Owned by one response; holds at most one piece; no locks.
//!
//! If a stored file fails in mid-body, the rest comes from another source, once (see
//! `file_source`). Over plain HTTP/1.1 the socket sends the file itself (see `sendfile_queue`).
//! Over TLS and HTTP/2 the file is read when hyper writes it (see `file_chunk`). A body that cannot
//! be finished ends in an error and marks its connection as cut. The connection is reset then, so
//! that no client takes the body for whole.

use super::body_source::BodySource;
use super::connection::ClientConnection;
use super::file_chunk::BodyData;
use super::file_source::FileSource;
use super::multipart::{MultipartBody, MultipartSegment};
use super::request_record::RequestRecord;
use crate::store::CHUNK_BYTES;
use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// Bytes of one piece that is read.
const PIECE_BYTES: usize = 64 << 10;
/// Bytes of a file that are given to hyper at a time, if they are read only when they are written.
const STRETCH_BYTES: u64 = 256 << 10;
const _: () = assert!(CHUNK_BYTES.is_multiple_of(STRETCH_BYTES));
/// Bytes of one piece that all readers share in memory.
const SLICE_BYTES: usize = 256 << 10;

/// A read of the next piece, and what the body continues with.
type PendingPiece = Pin<Box<dyn Future<Output = (BodyContent, io::Result<Bytes>)> + Send>>;

/// The body of an answer.
pub struct AnswerBody {
    state: BodyState,
    /// Bytes still to come; `None` if the length is unknown.
    left: Option<u64>,
    connection: Option<Arc<ClientConnection>>,
    record: Option<RequestRecord>,
}

enum BodyState {
    Whole(Bytes),
    Ready(BodyContent),
    Reading(PendingPiece),
    Over,
}

/// The contents of a body that are not in memory yet.
pub(super) enum BodyContent {
    /// A stored file or its fallback, from this offset on.
    Stored(Arc<FileSource>, u64),
    /// Several ranges, with the delimiters between them.
    Multipart(MultipartBody),
    /// Any other source.
    Source(BodySource),
}

impl From<BodySource> for BodyContent {
    fn from(source: BodySource) -> Self {
        Self::Source(source)
    }
}

impl From<MultipartSegment> for BodyContent {
    fn from(segment: MultipartSegment) -> Self {
        match segment {
            MultipartSegment::Stored(file_source, offset) => Self::Stored(file_source, offset),
            MultipartSegment::Bytes(bytes) => Self::Source(BodySource::Bytes(bytes)),
        }
    }
}

impl std::fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AnswerBody").field("left", &self.left).finish_non_exhaustive()
    }
}

impl AnswerBody {
    /// A body that is in memory.
    pub fn whole(bytes: Bytes) -> Self {
        let left = Some(bytes.len() as u64);
        Self { state: BodyState::Whole(bytes), left, connection: None, record: None }
    }

    /// No body.
    pub fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    /// A body of `length` bytes of `content`; `None` if the length is unknown.
    pub(super) fn from_content(
        content: impl Into<BodyContent>,
        length: Option<u64>,
        connection: Arc<ClientConnection>,
    ) -> Self {
        let state =
            if length == Some(0) { BodyState::Over } else { BodyState::Ready(content.into()) };
        Self { state, left: length, connection: Some(connection), record: None }
    }

    /// The same body, counted and logged in `record`.
    pub(super) fn with_record(self, record: RequestRecord) -> Self {
        Self { record: Some(record), ..self }
    }

    /// The bytes, if all of them are in memory.
    pub(super) fn in_memory(&self) -> Option<Bytes> {
        match &self.state {
            BodyState::Whole(bytes) => Some(bytes.clone()),
            BodyState::Ready(_) | BodyState::Reading(_) | BodyState::Over => None,
        }
    }

    fn give(&mut self, data: BodyData) -> Poll<Option<Result<Frame<BodyData>, io::Error>>> {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(data.remaining() as u64);
        }
        if let Some(record) = &mut self.record {
            record.count(data.remaining());
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn fail(&mut self, error: io::Error) -> Poll<Option<Result<Frame<BodyData>, io::Error>>> {
        self.state = BodyState::Over;
        if let Some(connection) = &self.connection {
            connection.cut();
        }
        Poll::Ready(Some(Err(error)))
    }

    fn piece_bytes(&self) -> usize {
        self.at_most(PIECE_BYTES)
    }

    fn at_most(&self, bytes: usize) -> usize {
        let left = self.left.unwrap_or(u64::MAX);
        usize::try_from(left).unwrap_or(usize::MAX).min(bytes)
    }
}

impl http_body::Body for AnswerBody {
    type Data = BodyData;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<BodyData>, io::Error>>> {
        let body = self.get_mut();
        let mut reading = match std::mem::replace(&mut body.state, BodyState::Over) {
            BodyState::Over => return Poll::Ready(None),
            BodyState::Whole(bytes) if bytes.is_empty() => return Poll::Ready(None),
            BodyState::Whole(bytes) => return body.give(bytes.into()),
            BodyState::Ready(content) => match body.placeholder(content) {
                Ok((content, data)) => return body.give_piece(content, data),
                Err(content) => {
                    let max = body.at_most(content.piece_bytes_now());
                    match content.read_now(max) {
                        Ok((content, bytes)) => return body.give_piece(content, bytes.into()),
                        Err(content) => body.read(content),
                    }
                }
            },
            BodyState::Reading(reading) => reading,
        };
        let Poll::Ready((content, result)) = reading.as_mut().poll(cx) else {
            body.state = BodyState::Reading(reading);
            return Poll::Pending;
        };
        match result {
            Ok(bytes) => body.give_piece(content, bytes.into()),
            Err(error) => body.fail(error),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.state {
            BodyState::Over => true,
            BodyState::Whole(bytes) => bytes.is_empty(),
            BodyState::Ready(_) | BodyState::Reading(_) => self.left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

impl AnswerBody {
    /// The next bytes of a file without reading them. They are a placeholder if the socket can send
    /// the file, else a part of the file that is read when it is written.
    fn placeholder(&self, content: BodyContent) -> Result<(BodyContent, BodyData), BodyContent> {
        let (BodyContent::Stored(file_source, at), Some(connection), Some(left)) =
            (&content, &self.connection, self.left)
        else {
            return Err(content);
        };
        let data = if let Some(sendfile_queue) = connection.sendfile_queue() {
            sendfile_queue.put(file_source, *at, left).map(BodyData::Bytes)
        } else {
            let left = left.min(STRETCH_BYTES - at % STRETCH_BYTES);
            let left = usize::try_from(left).unwrap_or(PIECE_BYTES);
            BodyData::stretch(file_source, connection, *at, left)
        };
        match data {
            Some(data) => {
                let next = at.saturating_add(data.remaining() as u64);
                Ok((BodyContent::Stored(Arc::clone(file_source), next), data))
            }
            None => Err(content),
        }
    }

    /// The next piece, after the socket has sent all of the file that is queued before it.
    fn read(&self, content: BodyContent) -> PendingPiece {
        let max = self.piece_bytes();
        match (&content, &self.connection) {
            (BodyContent::Stored(..), Some(connection))
                if connection.sendfile_queue().is_some() =>
            {
                let connection = Arc::clone(connection);
                Box::pin(async move {
                    if let Some(sendfile_queue) = connection.sendfile_queue() {
                        sendfile_queue.drained().await;
                    }
                    content.read(max).await
                })
            }
            _ => Box::pin(content.read(max)),
        }
    }

    fn give_piece(
        &mut self,
        content: BodyContent,
        data: BodyData,
    ) -> Poll<Option<Result<Frame<BodyData>, io::Error>>> {
        let length = data.remaining() as u64;
        if length == 0 {
            return match self.left {
                None | Some(0) => {
                    Poll::Ready(content.trailers().map(|fields| Ok(Frame::trailers(fields))))
                }
                Some(left) => self.fail(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("the body ended {left} bytes early"),
                )),
            };
        }
        if self.left.is_some_and(|left| length > left) {
            let kind = io::ErrorKind::InvalidData;
            return self.fail(io::Error::new(kind, "the body goes on past its length"));
        }
        if self.left != Some(length) {
            self.state = BodyState::Ready(content);
        }
        self.give(data)
    }
}

impl BodyContent {
    /// The largest piece that is read without waiting.
    fn piece_bytes_now(&self) -> usize {
        if let Self::Source(BodySource::Growing(..)) = self { SLICE_BYTES } else { PIECE_BYTES }
    }

    /// Reads without waiting. Returns itself if it would have to wait.
    fn read_now(self, max: usize) -> Result<(Self, Bytes), Self> {
        match self {
            Self::Stored(file_source, offset) => {
                match file_source.file().and_then(|file| file.read_now(offset, max)) {
                    Some(bytes) => {
                        let next = offset + bytes.len() as u64;
                        Ok((Self::Stored(file_source, next), bytes))
                    }
                    None => Err(Self::Stored(file_source, offset)),
                }
            }
            Self::Source(source) => match source.read_now(max) {
                Ok((source, bytes)) => Ok((Self::Source(source), bytes)),
                Err(source) => Err(Self::Source(source)),
            },
            Self::Multipart(_) => Err(self),
        }
    }

    /// The next piece, of at most `max` bytes.
    async fn read(self, max: usize) -> (Self, io::Result<Bytes>) {
        match self {
            Self::Stored(file_source, offset) => {
                let result = file_source.read(offset, max).await;
                let next = offset + result.as_ref().map_or(0, |bytes| bytes.len() as u64);
                (Self::Stored(file_source, next), result)
            }
            Self::Multipart(multipart) => {
                let (multipart, result) = multipart.read(max).await;
                (Self::Multipart(multipart), result)
            }
            Self::Source(source) => {
                let (source, result) = source.read(max).await;
                (Self::Source(source), result)
            }
        }
    }

    /// The fields behind a body that has ended.
    fn trailers(self) -> Option<HeaderMap> {
        match self {
            Self::Source(source) => source.trailers(),
            Self::Stored(..) | Self::Multipart(_) => None,
        }
    }
}
