//! Sources of bytes that are not in memory yet: a file, an object that is arriving, a body that
//! passes through. None of them has a fallback. Owned by one body; no locks.

use crate::fill::{GrowingReader, PartReader, PassThroughBody};
use crate::store::BodyFile;
use bytes::Bytes;
use http::HeaderMap;
use std::io;
use std::sync::Arc;

/// A source of bytes.
pub(super) enum BodySource {
    /// A stored file, from this offset on.
    File(Arc<BodyFile>, u64),
    /// An object that arrives, from this offset on.
    Growing(GrowingReader, u64),
    /// Bytes in memory.
    Bytes(Bytes),
    /// A body that passes through, and how many of its first bytes are left out.
    Passing(Box<PassThroughBody>, u64),
    /// A range of an object that is stored in part.
    Part(Box<PartReader>),
}

impl BodySource {
    /// Reads without waiting. Returns itself if it would have to wait.
    pub(super) fn read_now(self, max: usize) -> Result<(Self, Bytes), Self> {
        match self {
            Self::Bytes(mut bytes) => {
                let piece = bytes.split_to(max.min(bytes.len()));
                Ok((Self::Bytes(bytes), piece))
            }
            Self::Growing(growing, offset) => match growing.read_now(offset, max) {
                Some(bytes) => {
                    let next = offset + bytes.len() as u64;
                    Ok((Self::Growing(growing, next), bytes))
                }
                None => Err(Self::Growing(growing, offset)),
            },
            Self::File(..) | Self::Passing(..) | Self::Part(_) => Err(self),
        }
    }

    /// The next piece, of at most `max` bytes; empty at the end. Not cancel safe.
    pub(super) async fn read(self, max: usize) -> (Self, io::Result<Bytes>) {
        match self {
            Self::Bytes(mut bytes) => {
                let piece = bytes.split_to(max.min(bytes.len()));
                (Self::Bytes(bytes), Ok(piece))
            }
            Self::File(file, offset) => {
                let result = file.read(offset, max).await;
                let next = offset + result.as_ref().map_or(0, |bytes| bytes.len() as u64);
                (Self::File(file, next), result)
            }
            Self::Growing(growing, offset) => {
                let result = growing.read(offset, max).await.map_err(io::Error::other);
                let next = offset + result.as_ref().map_or(0, |bytes| bytes.len() as u64);
                (Self::Growing(growing, next), result)
            }
            Self::Passing(passing, skip) => read_passing(passing, skip, max).await,
            Self::Part(mut reader) => {
                let result = reader.chunk(max).await.map_err(io::Error::other);
                (Self::Part(reader), result)
            }
        }
    }

    /// The fields behind a body that has ended.
    pub(super) fn trailers(self) -> Option<HeaderMap> {
        match self {
            Self::Passing(mut passing, _) => passing.take_trailers(),
            Self::File(..) | Self::Growing(..) | Self::Bytes(_) | Self::Part(_) => None,
        }
    }
}

/// The next piece of a passing body, after the `skip` bytes that a range leaves out.
async fn read_passing(
    mut passing: Box<PassThroughBody>,
    mut skip: u64,
    max: usize,
) -> (BodySource, io::Result<Bytes>) {
    loop {
        let wanted = if skip > 0 { usize::try_from(skip).unwrap_or(usize::MAX) } else { max };
        let result = match passing.chunk(wanted).await {
            Ok(Some(piece)) if skip > 0 => {
                skip -= piece.len() as u64;
                continue;
            }
            Ok(piece) => Ok(piece.unwrap_or_default()),
            Err(error) => Err(io::Error::other(error)),
        };
        return (BodySource::Passing(passing, skip), result);
    }
}
