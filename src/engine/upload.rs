//! The body of a client that is sent to an origin. It tells its connection when it was read to its
//! end, so that an HTTP/1 connection may be reused. One for each request with a body; no locks.

use super::connection::ClientConnection;
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

pin_project_lite::pin_project! {
    /// A body of a client.
    #[derive(Debug)]
    pub(super) struct ClientUpload<B> {
        #[pin]
        body: B,
        connection: Arc<ClientConnection>,
    }
}

impl<B> ClientUpload<B> {
    /// The body of the present request on `connection`.
    pub(super) fn new(body: B, connection: &Arc<ClientConnection>) -> Self {
        Self { body, connection: Arc::clone(connection) }
    }
}

impl<B: Body<Data = Bytes>> Body for ClientUpload<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        let has_ended = match &frame {
            None => true,
            // A reader that knows the length does not poll for the end.
            Some(Ok(_)) => this.body.is_end_stream(),
            Some(Err(_)) => false,
        };
        if has_ended {
            this.connection.body_read();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
