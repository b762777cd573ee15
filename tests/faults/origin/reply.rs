//! A request as it was sent, and what is to be sent in answer: the head, the content, and the
//! manner of sending, which a fault may spoil. Owned by one conversation.

use super::pieces::Pieces;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::io::{self, SeekFrom};
use std::path::PathBuf;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio_util::sync::CancellationToken;

/// Bytes that are read and sent together.
const BLOCK_BYTES: u64 = 100_000;

/// Something that is held until it is let go.
#[derive(Debug, Clone, Default)]
pub(crate) struct Gate(CancellationToken);

impl Gate {
    /// Waits until it is let go.
    pub(crate) async fn opened(&self) {
        self.0.cancelled().await;
    }

    /// Lets go, for good.
    pub(crate) fn open(&self) {
        self.0.cancel();
    }
}

/// A request that reached the origin.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// As it was sent.
    pub(crate) raw_target: String,
    /// Decoded: what scripts and folders go by.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, String)>,
}

impl Asked {
    /// The value of the field `name` (lower case).
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(own, _)| own == name).map(|(_, value)| &**value)
    }
}

/// How a body is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length,
    Chunked,
    UntilClose,
}

/// How a connection ends in mid-body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cut {
    Closed,
    Reset,
}

/// What becomes of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    /// It is sent.
    Sent,
    /// Nothing is ever said.
    Never,
    /// The connection is reset in its place.
    Reset,
    /// Something that is no HTTP is said in its place.
    Garbage,
}

/// How an answer is sent, where not simply as it is. Offsets are in what is sent.
#[derive(Debug, Clone)]
pub(crate) struct Manner {
    pub(crate) head: Head,
    /// Waits for this before the head.
    pub(crate) hold_head: Option<Gate>,
    /// Waits there for this in mid-body.
    pub(crate) hold_at: Option<(u64, Gate)>,
    pub(crate) cut_at: Option<(u64, Cut)>,
    /// So many bytes come one by one, a second for each.
    pub(crate) drip: u64,
    /// One bit of the byte there is turned.
    pub(crate) flip_at: Option<u64>,
    /// Bytes that follow the content as a part of it.
    pub(crate) longer_by: u64,
    /// Bytes by which the length claims more than there is.
    pub(crate) overclaimed: u64,
    /// Bytes that follow behind the body.
    pub(crate) surplus: usize,
    /// How the body comes in pieces; else it comes in large blocks.
    pub(crate) pieces: Option<Pieces>,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            head: Head::Sent,
            hold_head: None,
            hold_at: None,
            cut_at: None,
            drip: 0,
            flip_at: None,
            longer_by: 0,
            overclaimed: 0,
            surplus: 0,
            pieces: None,
        }
    }
}

/// What is sent in answer to one request.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) content: Content,
    pub(crate) framing: Framing,
    pub(crate) manner: Manner,
}

impl Reply {
    /// `status` with these bytes and nothing else.
    pub(crate) fn bare(status: u16, body: impl Into<Bytes>) -> Self {
        Self {
            status,
            fields: Vec::new(),
            content: Content::Bytes(body.into()),
            framing: Framing::Length,
            manner: Manner::default(),
        }
    }

    /// With this field in place of any of the same name.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.fields.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
        self.fields.push((name.to_owned(), value.to_owned()));
    }

    /// The value of a field.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.fields.iter();
        fields.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// Where in its object the content begins, by `Content-Range`.
    pub(crate) fn first(&self) -> u64 {
        let range = self.field("content-range").and_then(|range| range.strip_prefix("bytes "));
        range.and_then(|range| range.split_once('-')?.0.parse().ok()).unwrap_or(0)
    }
}

/// The bytes of an answer.
#[derive(Debug)]
pub(crate) enum Content {
    Bytes(Bytes),
    /// A part of a file, opened when its first byte is wanted.
    File {
        path: PathBuf,
        first: u64,
        length: u64,
        opened: Option<File>,
    },
    /// What another origin is sending; its length where known.
    Passed {
        body: Incoming,
        length: Option<u64>,
        /// Received and not yet taken.
        waiting: Bytes,
    },
}

impl Content {
    /// Bytes that are left, if that is known.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::File { length, .. } => Some(*length),
            Self::Passed { length, .. } => *length,
        }
    }

    /// Ends it after so many bytes.
    pub(crate) fn truncate(&mut self, bytes: u64) {
        match self {
            Self::Bytes(own) => own.truncate(usize::try_from(bytes).unwrap_or(usize::MAX)),
            Self::File { length, .. } => *length = bytes.min(*length),
            Self::Passed { length, .. } => {
                *length = Some(length.map_or(bytes, |own| bytes.min(own)));
            }
        }
    }

    /// The next bytes, `limit` at most, which is not zero; none at the end.
    pub(crate) async fn next(&mut self, limit: u64) -> io::Result<Bytes> {
        let limit = limit.min(BLOCK_BYTES).min(self.length().unwrap_or(u64::MAX));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        match self {
            Self::Bytes(bytes) => Ok(bytes.split_to(limit)),
            Self::File { path, first, length, opened } => {
                if limit == 0 {
                    return Ok(Bytes::new());
                }
                if opened.is_none() {
                    let mut file = File::open(path).await?;
                    file.seek(SeekFrom::Start(*first)).await?;
                    *opened = Some(file);
                }
                let mut piece = vec![0; limit];
                if let Some(file) = opened {
                    file.read_exact(&mut piece).await?;
                }
                *length -= piece.len() as u64;
                Ok(piece.into())
            }
            Self::Passed { body, length, waiting } => {
                while waiting.is_empty() && limit > 0 {
                    let Some(frame) = body.frame().await else { break };
                    *waiting = frame.map_err(io::Error::other)?.into_data().unwrap_or_default();
                }
                let piece = waiting.split_to(limit.min(waiting.len()));
                if let Some(length) = length {
                    *length -= piece.len() as u64;
                }
                Ok(piece)
            }
        }
    }
}
