//! An object as it comes from an origin: its head, and its body read piece by piece. Lives as
//! long as the fill that reads it; no locks. Dropping a body before its end frees the origin's
//! slot, and resets the stream or closes the HTTP/1 connection, unless little is left (`drain`).

use super::drain::DrainedBody;
use super::exchange::BodyError;
use super::meters::ByteMeter;
use super::slots::Slot;
use crate::client::BoxError;
use crate::clock::{Moment, Timestamp};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// An object, or a part of one.
#[derive(Debug)]
pub struct Response {
    /// 200 or 206, and a 206 names the range that was asked for. For a client's request that was
    /// sent on: any status.
    pub status: StatusCode,
    /// Its fields, as received.
    pub headers: HeaderMap,
    /// Its body; empty for HEAD.
    pub body: ResponseBody,
    /// The origin's position.
    pub origin: usize,
    /// The origin's name.
    pub origin_name: Arc<str>,
    /// When the request left, in edge time.
    pub request_time: Timestamp,
    /// When the head arrived.
    pub response_time: Moment,
    /// Bytes of the body; for HEAD, of the body that GET would have.
    pub content_length: Option<u64>,
    /// Whether the end of the body shows that it is whole: it has a length, or is chunked, or came
    /// over HTTP/2. Otherwise a connection that breaks looks like the end.
    pub is_framed: bool,
}

/// The body of a [`Response`].
#[derive(Debug)]
pub struct ResponseBody {
    source: ResponseSource,
    origin: Arc<str>,
    between_bytes: Duration,
    received: Option<ByteMeter>,
    slot: Option<Slot>,
    trailers: Option<HeaderMap>,
}

/// The source of the pieces.
#[derive(Debug)]
pub(super) enum ResponseSource {
    /// A connection.
    Http(DrainedBody),
    /// The task that reads a file.
    Folder(mpsc::Receiver<io::Result<Bytes>>),
    /// Memory.
    Bytes(Option<Bytes>),
    /// Nothing more.
    Ended,
}

impl ResponseBody {
    /// A body that counts its pieces in `received`.
    pub(super) fn new(
        source: ResponseSource,
        origin: Arc<str>,
        between_bytes: Duration,
        received: ByteMeter,
    ) -> Self {
        let received = Some(received);
        Self { source, origin, between_bytes, received, slot: None, trailers: None }
    }

    /// A body that never was anywhere but here, and is not counted.
    pub(super) fn of(text: Bytes, origin: Arc<str>) -> Self {
        let source = ResponseSource::Bytes((!text.is_empty()).then_some(text));
        let between_bytes = Duration::MAX;
        Self { source, origin, between_bytes, received: None, slot: None, trailers: None }
    }

    /// A body that is at its end.
    pub fn nothing(origin: Arc<str>) -> Self {
        Self::of(Bytes::new(), origin)
    }

    /// The same body, keeping its origin's slot until it is done with.
    pub(super) fn slotted(self, slot: Slot) -> Self {
        let is_ended = matches!(self.source, ResponseSource::Ended);
        Self { slot: Some(slot).filter(|_| !is_ended), ..self }
    }

    /// The next piece; `None` after the last.
    ///
    /// Fails when nothing comes within the between-bytes deadline, and when the connection ends
    /// before the length that was announced. After an error or the end it stays at its end.
    /// Cancel safe.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        let next = next(&mut self.source, &mut self.trailers);
        let next = tokio::time::timeout(self.between_bytes, next).await;
        let Ok(next) = next else {
            self.release();
            return Err(BodyError::Stalled {
                origin: Arc::clone(&self.origin),
                seconds: self.between_bytes.as_secs(),
            });
        };
        match next {
            Ok(Some(bytes)) => {
                if let Some(received) = &self.received {
                    received.add(bytes.len());
                }
                Ok(Some(bytes))
            }
            Ok(None) => {
                self.release();
                Ok(None)
            }
            Err(source) => {
                self.release();
                Err(BodyError::Broken { origin: Arc::clone(&self.origin), source })
            }
        }
    }

    /// The trailer fields that came behind the last piece; none before that.
    pub fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take()
    }

    fn release(&mut self) {
        self.source = ResponseSource::Ended;
        self.slot = None;
    }
}

/// The next piece that is not empty; trailers are put aside.
async fn next(
    source: &mut ResponseSource,
    trailers: &mut Option<HeaderMap>,
) -> Result<Option<Bytes>, BoxError> {
    match source {
        ResponseSource::Http(body) => loop {
            let Some(frame) = body.frame().await else {
                return Ok(None);
            };
            match frame?.into_data() {
                Ok(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
                Ok(_) => {}
                Err(frame) => *trailers = frame.into_trailers().ok(),
            }
        },
        ResponseSource::Folder(pieces) => match pieces.recv().await {
            Some(piece) => Ok(Some(piece?)),
            None => Ok(None),
        },
        ResponseSource::Bytes(bytes) => Ok(bytes.take()),
        ResponseSource::Ended => Ok(None),
    }
}
