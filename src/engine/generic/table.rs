//! The decision table of a cache for requests to generic sites: a stored response, a response that
//! is stored in part, or a fetch. Holds no lock.

use super::forward::forward_request;
use super::parts;
use super::request::GenericRequest;
use super::{deliver, fetch};
use crate::cache::{Hit, Stale};
use crate::engine::answer::{self, ClientAnswer};
use crate::engine::part_result::PartResult;
use crate::object::{Meta, Variant};
use crate::outcome::Outcome;
use crate::policy::generic::reuse::{Reuse, judge};
use crate::policy::generic::variant::{is_preferred, selects};
use crate::policy::request::RequestRefusal;
use http::{Method, header};

/// Tries, if the stored response changes meanwhile.
const TRIES_MAX: u32 = 3;

/// The answer to a request that a cache may answer.
pub(super) async fn answer(request: &mut GenericRequest<'_>) -> ClientAnswer {
    for _ in 0..TRIES_MAX {
        request.now = request.engine.clock.now();
        if let Some(answer) = Box::pin(try_answer(request)).await {
            return answer;
        }
    }
    forward_request(request, None).await
}

/// None if the stored response has changed meanwhile: look again.
async fn try_answer(request: &GenericRequest<'_>) -> Option<ClientAnswer> {
    let cache = &request.engine.cache;
    let looked = cache.ticket();
    let headers = &request.parts.headers;
    let hit = cache
        .lookup_selected(&request.target.key, |variant| selects(request.fields(), variant))
        .await;
    let hit = match hit {
        None if headers.contains_key(header::ACCEPT_LANGUAGE) => {
            let is_preferred = |variant: &Variant, meta: &Meta| {
                is_preferred(request.fields(), variant, &meta.headers)
            };
            cache.lookup_similar(&request.target.key, is_preferred).await
        }
        hit => hit,
    };
    let (found, outcome) = match hit {
        Some(Hit::Memory(found)) => (Some(found), Outcome::HitMemory),
        Some(Hit::Disk(found)) => (Some(found), Outcome::HitDisk),
        Some(Hit::Absent(_)) | None => (None, Outcome::Miss),
    };
    let rule = request.caching.rule(request.target.key.path());
    if let Some(found) = &found {
        let (meta, directives) = (found.meta(), request.directives(&found.meta()));
        match judge(&meta, &directives, &request.wishes, rule, request.now) {
            Reuse::Serve => return Some(deliver::found(request, found, outcome)),
            Reuse::ServeAndRefresh => {
                refresh(request, Stale { found: found.clone(), looked });
                return Some(deliver::found(request, found, Outcome::HitStale));
            }
            Reuse::Confirm => {}
        }
    } else {
        match Box::pin(parts::answer(request)).await {
            PartResult::Answer(answer) => return Some(*answer),
            PartResult::Again => return None,
            PartResult::Nothing => {}
        }
    }
    if request.wishes.wants_stored_only() {
        return Some(answer::refused(RequestRefusal::NotStored));
    }
    let wants_part = request.parts.headers.contains_key(header::RANGE) && found.is_none();
    let is_head = request.parts.method == Method::HEAD;
    if wants_part || (is_head && found.is_none()) {
        return Some(forward_request(request, None).await);
    }
    Some(fetch::answer(request, found.map(|found| Stale { found, looked })).await)
}

/// Confirms a stale response in the background. Not for a request with an answer that may not be
/// stored, since other requests would join its fetch in vain.
fn refresh(request: &GenericRequest<'_>, stale: Stale) {
    if request.wishes.forbids_storing() {
        return;
    }
    let sought = request.sought(None);
    if let Err(error) = request.engine.fills.join(sought, Some(stale), None) {
        tracing::debug!(path = request.target.key.path(), %error, "cannot refresh a response");
    }
}
