//! The conversation over HTTP/2, by hyper: each piece of a body is a DATA frame of its own. What
//! resets a connection of HTTP/1.1 resets a stream here, and what says no HTTP does too.

use super::body::{Outgoing, Step};
use super::reply::{Asked, Framing, Head, Reply};
use super::wire::{Server, Source, length_of};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use narthex::clock::Clock;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

pub(super) async fn converse<S: Source>(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    server: &Arc<Server<S>>,
) -> hyper::Result<()> {
    let answering = service_fn(|request| {
        let server = Arc::clone(server);
        async move { answer(&request, &server).await }
    });
    http2::Builder::new(TokioExecutor::new())
        .auto_date_header(false)
        .serve_connection(TokioIo::new(stream), answering)
        .await
}

async fn answer<S: Source>(
    request: &Request<Incoming>,
    server: &Server<S>,
) -> io::Result<Response<UnsyncBoxBody<Bytes, io::Error>>> {
    let asked = asked(request).ok_or(io::ErrorKind::InvalidData)?;
    let clock = server.clock.lock().clone();
    let reply = server.reply(&asked, &clock).await?;
    match reply.manner.head {
        Head::Sent => {}
        Head::Never => return std::future::pending().await,
        Head::Reset | Head::Garbage => return Err(io::ErrorKind::ConnectionReset.into()),
    }
    if let Some(gate) = &reply.manner.hold_head {
        gate.opened().await;
    }
    let mut response = Response::builder().status(reply.status);
    for (name, value) in &reply.fields {
        response = response.header(name, value);
    }
    if reply.framing == Framing::Length && reply.status != 304 {
        response = response.header("content-length", length_of(&reply));
    }
    let is_bare = asked.method == "HEAD" || reply.status == 304;
    let body = if is_bare { UnsyncBoxBody::default() } else { body(reply, &clock) };
    response.body(body).map_err(io::Error::other)
}

fn asked(request: &Request<Incoming>) -> Option<Asked> {
    let raw_target = request.uri().path_and_query()?.as_str().to_owned();
    let target = percent_encoding::percent_decode_str(&raw_target).decode_utf8().ok()?.into();
    let fields = request
        .headers()
        .iter()
        .map(|(name, value)| Some((name.as_str().to_owned(), value.to_str().ok()?.to_owned())));
    let mut fields: Vec<_> = fields.collect::<Option<_>>()?;
    if let Some(authority) = request.uri().authority() {
        fields.push(("host".to_owned(), authority.to_string()));
    }
    Some(Asked { method: request.method().to_string(), raw_target, target, fields })
}

fn body(reply: Reply, clock: &Clock) -> UnsyncBoxBody<Bytes, io::Error> {
    let outgoing = Outgoing::new(reply.content, reply.manner, clock);
    let frames = futures_util::stream::try_unfold(
        (outgoing, Bytes::new(), VecDeque::new()),
        async |(mut outgoing, mut block, mut sizes): (Outgoing, Bytes, VecDeque<usize>)| {
            if sizes.is_empty() {
                match outgoing.next().await? {
                    Step::Send(bytes, pieces) => (block, sizes) = (bytes, pieces.into()),
                    Step::Break(_) => return Err(io::ErrorKind::ConnectionReset.into()),
                    Step::End => return Ok(None),
                }
            }
            let piece = block.split_to(sizes.pop_front().unwrap_or_default());
            Ok(Some((Frame::data(piece), (outgoing, block, sizes))))
        },
    );
    UnsyncBoxBody::new(StreamBody::new(frames))
}
