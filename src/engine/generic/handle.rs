//! The first step of a request for a generic site: finds what it asks for and hands it to the
//! table. Meanwhile the connection writes its interim answers. Called by `Engine::handle`; holds no
//! lock.

use super::forward::forward_request;
use super::request::GenericRequest;
use super::table;
use super::target::{GenericTarget, RequestAddress};
use crate::client::{BoxError, OutboundBody};
use crate::clock::Timestamp;
use crate::engine::answer::{self, Answering, ClientAnswer};
use crate::engine::body::AnswerBody;
use crate::engine::connection::ClientConnection;
use crate::engine::request_record::PendingRecord;
use crate::engine::site::ServedSite;
use crate::engine::state::Engine;
use crate::engine::upload::ClientUpload;
use crate::nix::Class;
use crate::policy::generic::fields;
use crate::policy::generic::request::{ForwardingLimit, RequestHandling, Wishes, reach, way};
use crate::policy::request::RequestRefusal;
use crate::rfc::{Authority, CdnLoop};
use bytes::Bytes;
use http::request::Parts;
use http_body_util::BodyExt;
use std::sync::{Arc, OnceLock};

/// A request for a generic site before anything is decided.
pub(in crate::engine) struct IncomingRequest {
    pub(in crate::engine) parts: Parts,
    pub(in crate::engine) site: Arc<ServedSite>,
    pub(in crate::engine) passed: CdnLoop,
    pub(in crate::engine) body: Option<OutboundBody>,
}

/// The body of a client's request for an origin; none if the request has none.
pub(in crate::engine) fn outbound<B>(
    body: B,
    connection: &Arc<ClientConnection>,
) -> Option<OutboundBody>
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    if body.is_end_stream() {
        return None;
    }
    Some(ClientUpload::new(body, connection).map_err(Into::into).boxed_unsync())
}

/// Answers a request for a generic site.
pub(in crate::engine) fn answer(
    engine: &Arc<Engine>,
    asked: IncomingRequest,
    connection: &Arc<ClientConnection>,
    record: PendingRecord,
    now: Timestamp,
) -> Answering<AnswerBody> {
    let (engine, connection) = (Arc::clone(engine), Arc::clone(connection));
    Answering::Later(Box::pin(async move {
        let IncomingRequest { parts, site, passed, body } = asked;
        let answer = generic_answer(&engine, &parts, &site, &passed, body, &connection, now);
        let mut answer = with_interims(&connection, Box::pin(answer)).await;
        if let Some(caching) = &site.upstream.site.caching {
            fields::dress(&mut answer.headers, caching);
        }
        answer.respond(&engine.metrics, &parts, record, Some((&site, Class::Other)))
    }))
}

async fn generic_answer(
    engine: &Arc<Engine>,
    parts: &Parts,
    site: &Arc<ServedSite>,
    passed: &CdnLoop,
    body: Option<OutboundBody>,
    connection: &Arc<ClientConnection>,
    now: Timestamp,
) -> ClientAnswer {
    let Some(caching) = &site.upstream.site.caching else {
        return answer::fault("a site without caching rules was asked as a generic one");
    };
    let reach = reach(&parts.method, parts.uri.path(), &parts.headers);
    if reach == ForwardingLimit::Here {
        return answer::options();
    }
    let named = Authority::of(&parts.uri, &parts.headers).ok();
    let address = RequestAddress::of(site, named.as_ref(), connection);
    let bytes_max = engine.limits.path_bytes_max;
    if fields::has_further_coding(&parts.headers) {
        return answer::refused(RequestRefusal::TransferCoding);
    }
    let target = match GenericTarget::of(&parts.uri, site, caching, address, bytes_max) {
        Ok(target) => target,
        Err(error) => return answer::refused(RequestRefusal::Path(error)),
    };
    let mut request = GenericRequest {
        engine,
        site,
        caching,
        parts,
        connection,
        target,
        fields: OnceLock::new(),
        reach,
        wishes: Wishes::of(&parts.headers, caching.request_control),
        passed,
        now,
    };
    match way(&parts.method) {
        RequestHandling::Cached => table::answer(&mut request).await,
        RequestHandling::Through | RequestHandling::Write => forward_request(&request, body).await,
        RequestHandling::Refused => answer::refused(RequestRefusal::Method),
    }
}

/// Waits for `answer`. The connection is polled each time an interim answer comes.
async fn with_interims<F>(connection: &ClientConnection, mut answer: F) -> ClientAnswer
where
    F: Future<Output = ClientAnswer> + Unpin,
{
    let Some(interims) = connection.interims() else { return answer.await };
    interims.open();
    let answer = loop {
        tokio::select! {
            biased;
            answer = &mut answer => break answer,
            () = interims.come() => {}
        }
    };
    interims.close();
    answer
}
