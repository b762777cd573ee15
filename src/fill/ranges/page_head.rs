//! The head of a response of a generic site that is here in part: made of the first 206, and
//! renewed by later answers about it (RFC 9111 sections 3.2 to 3.4).

use crate::cache::{Cache, FenceEpoch};
use crate::fill::page_request::PageRequest;
use crate::fill::request::FillRequest;
use crate::object::{Meta, Variant};
use crate::origin::Response;
use crate::policy::generic::storing::{
    self, Confirmation, GenericReply, StorableResponse, StoringVerdict,
};
use crate::policy::response::Times;
use crate::store::Part;
use http::{HeaderMap, StatusCode, header};

/// What the head of a later answer said.
#[derive(Debug)]
pub(super) struct LaterHead {
    pub(super) headers: HeaderMap,
    pub(super) times: Times,
}

/// The head of the whole that a 206 is a part of, if it may be stored for every client.
pub(super) fn whole_of(request: &PageRequest, response: &Response) -> Option<Meta> {
    let mut headers = response.headers.clone();
    headers.remove(header::CONTENT_RANGE);
    let caching = request.caching()?;
    let times = Times { request: response.request_time, response: response.response_time };
    let (status, wishes) = (StatusCode::OK, &request.wishes);
    let reply = GenericReply { status, headers: &headers, wishes, times };
    let rule = caching.rule(request.key.path());
    let StoringVerdict::Store(storable) = storing::admit(&reply, rule, &caching.targeted) else {
        return None;
    };
    // What is for the client that asked alone would not come out of a part.
    if !storable.fields.own.is_empty() {
        return None;
    }
    let varies = storable.varies.select(&request.headers);
    varies.filter(Variant::is_empty)?;
    let meta = request.meta(response, *storable, Variant::default());
    Some(Meta { status, ..meta })
}

/// Gives a part the fields that a later answer about it states (RFC 9111 sections 3.2 and 3.4).
pub(super) async fn renew(
    request: &FillRequest,
    (cache, ticket): (&Cache, FenceEpoch),
    part: &Part,
    told: &LaterHead,
) {
    let FillRequest::Page(request) = request else { return };
    if let Some(meta) = renewed(request, &part.meta(), told) {
        cache.touch_part(ticket, part, meta).await;
    }
}

/// The head `old` as a later answer about the same renews it; none if that forbids storing it.
pub(super) fn renewed(request: &PageRequest, old: &Meta, told: &LaterHead) -> Option<Meta> {
    let caching = request.caching()?;
    let times = told.times;
    let (status, wishes) = (StatusCode::OK, &request.wishes);
    let reply = GenericReply { status, headers: &told.headers, wishes, times };
    let rule = caching.rule(request.key.path());
    let confirmed = storing::confirmed(&old.headers, &reply, rule, &caching.targeted);
    let Confirmation::Renewed(StorableResponse { fields, lifetime, varies, .. }) = confirmed else {
        return None;
    };
    varies.select(&request.headers).filter(Variant::is_empty)?;
    Some(Meta {
        request_time: times.request,
        response_time: times.response.edge,
        age_at_response: crate::rfc::age::initial_age(&told.headers, times.into()),
        lifetime,
        is_invalidated: false,
        headers: fields.shared,
        ..old.clone()
    })
}
