//! A response that is wanted of a generic site: how its origin is asked for it, for a stretch of
//! it, and whether it still holds. Values only.

use super::site_origins::{Demand, SiteOrigins};
use crate::config::Caching;
use crate::nix::Class;
use crate::object::{Key, Lifetime, Meta, Proof, Variant};
use crate::origin::{
    Asker, FetchError, ForwardRequest, InterimObserver, OriginAnswer, Response, Retries,
};
use crate::policy::generic::fields;
use crate::policy::generic::request::Wishes;
use crate::policy::generic::storing::{
    self, GenericPassReason, GenericReply, StorableResponse, StoringVerdict,
};
use crate::policy::response::Times;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use std::fmt;
use std::sync::Arc;

/// What a client wants of a generic site.
#[derive(Clone)]
pub struct PageRequest {
    /// The origins of its site.
    pub upstream: Arc<SiteOrigins>,
    /// The object's key, without a variant.
    pub key: Key,
    /// The path as it stands in the request line.
    pub path: Arc<str>,
    /// The query to ask for.
    pub query: Option<Arc<str>>,
    /// The fields to ask with: no conditions, no ranges.
    pub headers: Arc<HeaderMap>,
    /// What the client says about stored answers.
    pub wishes: Wishes,
    /// The client that asks.
    pub asker: Asker,
    /// What hears of interim answers.
    pub interim: Option<InterimObserver>,
}

/// A stretch of a response that has come in part.
#[derive(Debug, Clone, Copy)]
pub(super) struct PageRange<'a> {
    /// Offset of its first byte.
    pub(super) first: u64,
    /// Offset of its last byte; `None` for the end.
    pub(super) last: Option<u64>,
    /// The strong entity tag that it must still have.
    pub(super) same: Option<&'a HeaderValue>,
    /// Whether an origin that fails is asked again at once.
    pub(super) retries: Retries,
}

impl fmt::Debug for PageRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sought").field("key", &self.key).finish_non_exhaustive()
    }
}

impl PageRequest {
    pub(super) fn demand(&self) -> Demand {
        let upstream = Arc::clone(&self.upstream);
        Demand { asker: self.asker, class: Class::Other, upstream }
    }

    pub(super) fn forward(&self, headers: HeaderMap) -> ForwardRequest {
        ForwardRequest {
            method: Method::GET,
            path: Arc::clone(&self.path),
            query: self.query.clone(),
            headers,
            body: None,
            interim: self.interim.clone(),
            only: None,
            retries: Retries::Usual,
        }
    }

    /// Asks for a stretch; of the origin at `only`, or of all.
    pub(super) async fn stretch(
        &self,
        rest: PageRange<'_>,
        only: Option<usize>,
    ) -> Result<Response, FetchError> {
        let mut headers = HeaderMap::clone(&self.headers);
        let last = rest.last.map(|last| last.to_string()).unwrap_or_default();
        if let Ok(range) = HeaderValue::try_from(format!("bytes={}-{last}", rest.first)) {
            headers.insert(header::RANGE, range);
        }
        if let Some(same) = rest.same {
            headers.insert(header::IF_RANGE, same.clone());
        }
        let retries = rest.retries;
        let asked = ForwardRequest { only, interim: None, retries, ..self.forward(headers) };
        forward(&self.upstream, asked).await
    }

    /// Asks whether what has this tag is what there is still; of what is another, for no more of it
    /// than its first byte.
    pub(super) async fn confirm(&self, etag: Option<&HeaderValue>) -> Result<Response, FetchError> {
        let mut headers = HeaderMap::clone(&self.headers);
        headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        if let Some(etag) = etag {
            headers.insert(header::IF_NONE_MATCH, etag.clone());
        }
        forward(&self.upstream, self.forward(headers)).await
    }

    /// As [`PageRequest::rest`], of any origin; what may not be stored is not the same any more.
    pub(super) async fn piece(
        &self,
        rest: PageRange<'_>,
    ) -> Result<OriginAnswer<Response>, FetchError> {
        Ok(match self.rest(rest, None).await? {
            OriginAnswer::Found(response) => {
                let is_part = response.status == StatusCode::PARTIAL_CONTENT;
                let is_same = response.headers.get(header::ETAG) == rest.same;
                let may_stay = is_same && (!is_part || self.permits(&response));
                if may_stay { OriginAnswer::Found(response) } else { OriginAnswer::Changed }
            }
            answer @ (OriginAnswer::NotModified { .. }
            | OriginAnswer::Absent { .. }
            | OriginAnswer::Changed) => answer,
        })
    }

    /// Asks for a stretch of what is the same still; of the origin at `only`, or of all.
    pub(super) async fn rest(
        &self,
        rest: PageRange<'_>,
        only: Option<usize>,
    ) -> Result<OriginAnswer<Response>, FetchError> {
        let response = self.stretch(rest, only).await?;
        let (origin, headers) = (response.origin, response.headers.clone());
        let (request_time, response_time) = (response.request_time, response.response_time);
        Ok(match response.status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT => OriginAnswer::Found(response),
            StatusCode::NOT_MODIFIED => {
                OriginAnswer::NotModified { headers, origin, request_time, response_time }
            }
            StatusCode::NOT_FOUND | StatusCode::GONE => {
                OriginAnswer::Absent { headers, origin, request_time, response_time }
            }
            StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE => {
                OriginAnswer::Changed
            }
            status => {
                let origin = response.origin_name;
                return Err(FetchError::Status { origin, status, retry_after_seconds: None });
            }
        })
    }

    pub(super) fn caching(&self) -> Option<&Caching> {
        self.upstream.site.caching.as_ref()
    }

    pub(super) fn meta(
        &self,
        response: &Response,
        storable: StorableResponse,
        variant: Variant,
    ) -> Meta {
        let key = if variant.is_empty() { self.key.clone() } else { self.key.variant(&variant) };
        Meta {
            key,
            status: response.status,
            headers: storable.fields.shared,
            age_at_response: storable.age_at_response,
            lifetime: storable.lifetime,
            variant,
            ..passed(&self.key, response, HeaderMap::new())
        }
    }

    /// Whether an answer to a request for more of what is stored permits to store it.
    fn permits(&self, response: &Response) -> bool {
        let Some(caching) = self.caching() else { return false };
        let times = Times { request: response.request_time, response: response.response_time };
        let (status, headers, wishes) = (StatusCode::OK, &response.headers, &self.wishes);
        let rule = caching.rule(self.key.path());
        match storing::admit(
            &GenericReply { status, headers, wishes, times },
            rule,
            &caching.targeted,
        ) {
            StoringVerdict::Store(storable) => {
                storable.varies.select(&self.headers).is_some_and(|variant| variant.is_empty())
            }
            // Stale as it comes, and nothing to confirm it by but the tag that ties the parts.
            StoringVerdict::Pass(reason) => reason == GenericPassReason::Useless,
        }
    }
}

/// Sends a request on, and dates its answer.
pub(super) async fn forward(
    upstream: &SiteOrigins,
    forward: ForwardRequest,
) -> Result<Response, FetchError> {
    let mut response = upstream.origins.forward(forward).await?;
    let times = Times { request: response.request_time, response: response.response_time };
    fields::dated(&mut response.headers, times);
    Ok(response)
}

/// The head of an answer that is not kept.
pub(super) fn passed(key: &Key, response: &Response, headers: HeaderMap) -> Meta {
    let times = Times { request: response.request_time, response: response.response_time };
    Meta {
        key: key.clone(),
        class: Class::Other,
        status: response.status,
        age_at_response: crate::rfc::age::initial_age(&response.headers, times.into()),
        headers,
        origin: Arc::clone(&response.origin_name),
        request_time: response.request_time,
        response_time: response.response_time.edge,
        lifetime: Lifetime::Seconds(0),
        is_invalidated: false,
        proof: Proof::Length,
        variant: Variant::default(),
    }
}
