//! How an origin is asked for a stretch of an object.

use super::identity::PartIdentity;
use crate::cache::Cache;
use crate::fill::object_request::ObjectRequest;
use crate::fill::page_request::PageRange;
use crate::fill::request::FillRequest;
use crate::origin::{
    Ask, FetchError, FetchReason, Method, OriginAnswer, RangeAsked, Response, Retries,
};
use std::ops::Range;

/// Asks for the bytes `asked` of the same object. `why` is the reason, if it is not that a reader
/// wants them.
pub(super) async fn fetch_range(
    request: &FillRequest,
    cache: &Cache,
    (asked, identity): (&Range<u64>, &PartIdentity),
    why: Option<FetchReason>,
) -> Result<OriginAnswer<Response>, FetchError> {
    let (length, same) = (identity.length, identity.etag.as_ref());
    // What is resumed comes back by itself.
    let retries = if why == Some(FetchReason::Resume) { Retries::None } else { Retries::Usual };
    let request = match request {
        FillRequest::Object(request) => request,
        FillRequest::Page(request) => {
            let last = (asked.end < length).then(|| asked.end.saturating_sub(1));
            return request.piece(PageRange { first: asked.start, last, same, retries }).await;
        }
    };
    let if_match = same.cloned();
    let ask = request.sourced(cache, range_ask(request, asked, Some(length))).await;
    let ask = Ask { if_match, retries, reason: why, ..ask };
    request.upstream.origins.fetch(&ask).await
}

/// The question for the bytes `asked` of an object.
pub(super) fn range_ask(request: &ObjectRequest, asked: &Range<u64>, length: Option<u64>) -> Ask {
    let is_to_end = asked.end == u64::MAX || length == Some(asked.end);
    let last = (!is_to_end).then(|| asked.end.saturating_sub(1));
    Ask { range: Some(RangeAsked { first: asked.start, last }), ..request.ask(Method::Get) }
}
