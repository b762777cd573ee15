//! A body that goes straight from an origin to its readers, since it cannot be kept: the response
//! forbids it, or there is no disk that takes it. In the first case it has one reader; in the
//! second, readers share it (see `relay`). Owned by one response; no locks. A client never receives
//! a complete wrong body: see `checked_body`.

use super::checked_body::CheckedBody;
use super::error::FillError;
use super::relay::RelayReader;
use super::resumable_body::ResumableBody;
use crate::object::{Meta, Sha256};
use crate::origin::{Response, ResponseBody};
use crate::store::ReadExtent;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};
use std::sync::Arc;

/// A body that goes straight to a client.
pub struct PassThroughBody {
    /// The head.
    pub meta: Arc<Meta>,
    /// Its `Trailer` field: which fields may come behind the body.
    trailer: Option<HeaderValue>,
    way: PassThroughSource,
    /// How far its client wants it.
    extent: ReadExtent,
    /// The offset at which that ends.
    end: u64,
    /// Bytes that were given.
    given: u64,
}

/// How it is read.
enum PassThroughSource {
    /// Checked, and resumed when it breaks off.
    Checked(Box<CheckedBody>),
    /// Checked for several readers, of which this is one.
    Relayed(Box<RelayReader>),
    /// As it comes, of so many bytes if that is known.
    Plain(Box<ResponseBody>, Option<u64>, Bytes),
    /// As it comes, and resumed when it breaks off.
    Lasting(Box<ResumableBody>, Bytes),
}

impl std::fmt::Debug for PassThroughBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Passing").field("meta", &self.meta).finish_non_exhaustive()
    }
}

impl PassThroughBody {
    /// A body that is judged at its end, for one reader.
    pub(super) fn checked(checked: Box<CheckedBody>) -> Self {
        Self::new(Arc::clone(&checked.meta), None, PassThroughSource::Checked(checked))
    }

    fn new(meta: Arc<Meta>, trailer: Option<HeaderValue>, way: PassThroughSource) -> Self {
        Self { meta, trailer, way, extent: ReadExtent::ToEnd, end: u64::MAX, given: 0 }
    }

    /// The same for a client that gets `sent` bytes from `offset` on.
    pub fn for_range(self, offset: u64, sent: Option<u64>) -> Self {
        let extent = ReadExtent::of(offset, sent, self.length());
        let end = sent.map_or(u64::MAX, |sent| offset.saturating_add(sent));
        Self { extent, end, ..self }
    }

    /// A body that is judged at its end, for one of several readers.
    pub(super) fn relayed(reader: RelayReader) -> Self {
        Self::new(Arc::clone(reader.meta()), None, PassThroughSource::Relayed(Box::new(reader)))
    }

    /// Whether other readers may share it.
    pub fn is_shared(&self) -> bool {
        matches!(self.way, PassThroughSource::Relayed(_))
    }

    /// An answer of any status with this head, as it comes; nothing is known of its body but what
    /// its framing says.
    pub(super) fn plain(meta: Arc<Meta>, response: Response) -> Self {
        let trailer = response.headers.get(header::TRAILER).cloned();
        let Response { body, content_length, .. } = response;
        let way = PassThroughSource::Plain(Box::new(body), content_length, Bytes::new());
        Self::new(meta, trailer, way)
    }

    /// An answer that is resumed when it breaks off: its entity tag tells what may continue it.
    pub(super) fn lasting(meta: Arc<Meta>, body: ResumableBody) -> Self {
        Self::new(meta, None, PassThroughSource::Lasting(Box::new(body), Bytes::new()))
    }

    /// The names of the fields that may come behind the body.
    pub fn trailer_names(&self) -> Option<&HeaderValue> {
        self.trailer.as_ref()
    }

    /// The declared length.
    pub fn length(&self) -> Option<u64> {
        match &self.way {
            PassThroughSource::Checked(checked) => checked.length(),
            PassThroughSource::Relayed(reader) => reader.length(),
            PassThroughSource::Plain(_, length, _) => *length,
            PassThroughSource::Lasting(body, _) => body.total(),
        }
    }

    /// The one SHA-256 that it must turn out to have, if that is known.
    pub fn must_be(&self) -> Option<Sha256> {
        match &self.way {
            PassThroughSource::Checked(checked) => checked.must_be(),
            PassThroughSource::Relayed(reader) => reader.must_be(),
            PassThroughSource::Plain(..) | PassThroughSource::Lasting(..) => None,
        }
    }

    /// The trailer fields behind the last piece.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        match &mut self.way {
            PassThroughSource::Checked(_)
            | PassThroughSource::Relayed(_)
            | PassThroughSource::Lasting(..) => None,
            PassThroughSource::Plain(body, ..) => body.take_trailers(),
        }
    }

    /// The next piece, of at most `max` bytes; `None` at the end, with the whole checked. After
    /// an error the body is over and must not be ended cleanly. Not cancel safe.
    pub async fn chunk(&mut self, max: usize) -> Result<Option<Bytes>, FillError> {
        let chunk = self.next(max).await?;
        self.given += chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        let given = self.given.min(self.end);
        if self.extent == ReadExtent::Part && self.doubtful_from().is_some_and(|from| given > from)
        {
            // Its client would have all that it wants before the whole is proven.
            return Err(FillError::Doubtful);
        }
        Ok(chunk)
    }

    fn doubtful_from(&self) -> Option<u64> {
        match &self.way {
            PassThroughSource::Checked(checked) => checked.doubtful_from(),
            PassThroughSource::Relayed(reader) => reader.doubtful_from(),
            // Nothing but its entity tag continues it.
            PassThroughSource::Plain(..) | PassThroughSource::Lasting(..) => None,
        }
    }

    async fn next(&mut self, max: usize) -> Result<Option<Bytes>, FillError> {
        match &mut self.way {
            PassThroughSource::Checked(checked) => checked.chunk(max).await,
            PassThroughSource::Relayed(reader) => reader.chunk(max).await,
            PassThroughSource::Plain(body, _, ready) => {
                if ready.is_empty() {
                    let Some(piece) = body.chunk().await? else { return Ok(None) };
                    *ready = piece;
                }
                Ok(Some(ready.split_to(max.min(ready.len()))))
            }
            PassThroughSource::Lasting(body, ready) => {
                if ready.is_empty() {
                    let Some(piece) = Box::pin(body.chunk()).await? else { return Ok(None) };
                    *ready = piece;
                }
                Ok(Some(ready.split_to(max.min(ready.len()))))
            }
        }
    }
}
