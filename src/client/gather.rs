//! The data of a stream of HTTP/2, as its reader asks for it, or gathered as it comes if it comes
//! in small pieces. One per body; a short lock that body and task share, not held across an await.
//!
//! h2 keeps each frame that was not taken in a slot of some hundred bytes, and closes the whole
//! connection if there are too many of them. A window of 2 MiB has room for two million frames of
//! one byte. So a task takes small pieces from h2 and joins them, whether or not the reader asks
//! for them; the window opens again only by what the reader has taken.

use crate::sync::Mutex;
use bytes::{Bytes, BytesMut};
use futures_util::future::{AbortHandle, abortable};
use h2::{FlowControl, RecvStream};
use http::HeaderMap;
use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

/// A piece of less is a small one.
const SMALL_BYTES: usize = 256;
/// So many of them are taken as they come; what is in few pieces needs no task.
const SMALL_MAX: u32 = 4;

/// The data of a stream.
#[derive(Debug)]
pub(super) struct StreamData {
    /// The stream, unless a task reads it.
    stream: Option<RecvStream>,
    gathering: Option<StreamTask>,
    /// How many small pieces have come one behind the other.
    small: u32,
}

/// A task that reads a stream; ends when dropped.
#[derive(Debug)]
struct StreamTask {
    gathered: Arc<Mutex<EarlyData>>,
    window: FlowControl,
    task: AbortHandle,
}

/// What has come and was not asked for: as much as the window of a stream at most.
#[derive(Debug, Default)]
struct EarlyData {
    bytes: BytesMut,
    /// How the data ended, with the stream for what comes behind it.
    ended: Option<Result<RecvStream, h2::Error>>,
    reader: Option<Waker>,
}

impl StreamData {
    pub(super) fn new(stream: RecvStream) -> Self {
        Self { stream: Some(stream), gathering: None, small: 0 }
    }

    /// The next piece; `None` behind the last one.
    pub(super) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, h2::Error>> {
        if let Some(gathering) = &mut self.gathering {
            let Some(stream) = ready!(gathering.poll(cx))? else {
                return Poll::Ready(gathering.take().map(Some));
            };
            self.stream = Some(stream);
            self.gathering = None;
            return Poll::Ready(Ok(None));
        }
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(None)) };
        let Some(bytes) = ready!(stream.poll_data(cx)).transpose()? else {
            return Poll::Ready(Ok(None));
        };
        stream.flow_control().release_capacity(bytes.len())?;
        self.small = if bytes.len() < SMALL_BYTES { self.small + 1 } else { 0 };
        if self.small >= SMALL_MAX && !stream.is_end_stream() {
            self.gathering = self.stream.take().map(StreamTask::begin);
        }
        Poll::Ready(Ok(Some(bytes)))
    }

    /// What comes behind the last piece.
    pub(super) fn poll_trailers(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, h2::Error>> {
        self.stream.as_mut().map_or(Poll::Ready(Ok(None)), |stream| stream.poll_trailers(cx))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.stream.as_ref().is_some_and(RecvStream::is_end_stream)
    }
}

impl StreamTask {
    fn begin(mut stream: RecvStream) -> Self {
        let window = stream.flow_control().clone();
        let gathered = Arc::<Mutex<EarlyData>>::default();
        let (reading, task) = abortable(gather(stream, Arc::clone(&gathered)));
        TokioExecutor::new().execute(reading);
        Self { gathered, window, task }
    }

    /// Waits until there is something to take, or gives the stream back if there is nothing more.
    fn poll(&self, cx: &Context<'_>) -> Poll<Result<Option<RecvStream>, h2::Error>> {
        let mut gathered = self.gathered.lock();
        if !gathered.bytes.is_empty() {
            return Poll::Ready(Ok(None));
        }
        if let Some(ended) = gathered.ended.take() {
            return Poll::Ready(ended.map(Some));
        }
        gathered.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn take(&mut self) -> Result<Bytes, h2::Error> {
        let bytes = std::mem::take(&mut self.gathered.lock().bytes).freeze();
        self.window.release_capacity(bytes.len())?;
        Ok(bytes)
    }
}

impl Drop for StreamTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reads the data of `stream` to its end, as fast as it comes.
async fn gather(mut stream: RecvStream, gathered: Arc<Mutex<EarlyData>>) {
    loop {
        let piece = poll_fn(|cx| stream.poll_data(cx)).await.transpose();
        let mut gathered = gathered.lock();
        let reader = gathered.reader.take();
        let ended = match piece {
            Ok(Some(bytes)) => {
                gathered.bytes.extend_from_slice(&bytes);
                None
            }
            Ok(None) => Some(Ok(())),
            Err(error) => Some(Err(error)),
        };
        if let Some(ended) = ended {
            gathered.ended = Some(ended.map(|()| stream));
            drop(gathered);
            return reader.into_iter().for_each(Waker::wake);
        }
        drop(gathered);
        reader.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::super::http2::{Http2, Http2Body};
    use super::super::no_body;
    use super::super::upload::{CountedBody, UploadProgress};
    use super::*;
    use http::{Request, Response};
    use hyper_util::rt::TokioIo;
    use std::time::Duration;
    use tokio::io::DuplexStream;

    /// More than the frames of one byte for which h2 closes a connection of this window.
    const COUNT: usize = 300_000;

    /// Answers each request with `COUNT` bytes in as many frames, and trailers.
    async fn serve(stream: DuplexStream) {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut body = respond.send_response(Response::new(()), false).unwrap();
            for number in 0..COUNT {
                let byte = Bytes::copy_from_slice(&[number.to_le_bytes()[0]]);
                body.send_data(byte, false).unwrap();
            }
            body.send_trailers(HeaderMap::from_iter([(http::header::ETAG, "1".parse().unwrap())]))
                .unwrap();
        }
    }

    async fn ask(connection: &Http2) -> Http2Body {
        let upload = CountedBody::new(no_body(), UploadProgress::default());
        let request = Request::get("http://h/").body(upload).unwrap();
        connection.send(request).await.unwrap().into_body()
    }

    #[tokio::test(start_paused = true)]
    async fn small_frames_wait_for_their_reader_as_one_piece() {
        let (near, far) = tokio::io::duplex(1 << 16);
        tokio::spawn(serve(far));
        let connection = Http2::new(TokioIo::new(near)).await.unwrap();
        let mut body = ask(&connection).await;
        let (mut got, mut pieces, mut trailers) = (Vec::new(), 0, None);
        while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
            match frame.unwrap().into_data() {
                Ok(bytes) => got.extend_from_slice(&bytes),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
            pieces += 1;
            if pieces == SMALL_MAX {
                // Time goes on once all that was sent has come.
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        assert!((0..COUNT).map(|number| number.to_le_bytes()[0]).eq(got));
        assert_eq!((pieces, trailers.unwrap().len()), (SMALL_MAX + 2, 1));
        drop(ask(&connection).await);
        assert!(body.is_end_stream() && !connection.is_closing());
    }
}
