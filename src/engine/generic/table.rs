//! The decision table of a cache for requests to generic sites: what is stored and may be used, what
//! is here in part, and else a fetch. Holds no lock.

use super::parts::{self, Parted};
use super::request::Request;
use super::through::through;
use super::{deliver, fetch};
use crate::cache::{Hit, Stale};
use crate::engine::answer::{self, Answer};
use crate::object::{Meta, Variant};
use crate::outcome::Outcome;
use crate::policy::generic::reuse::{Reuse, judge};
use crate::policy::generic::variant::{is_preferred, selects};
use crate::policy::request::Refusal;
use http::{Method, header};

/// Times that what is stored is looked at where it changes meanwhile.
const TRIES_MAX: u32 = 3;

/// The answer to a request that a cache may answer.
pub(super) async fn cached(request: &mut Request<'_>) -> Answer {
    for _ in 0..TRIES_MAX {
        request.now = request.engine.clock.now();
        if let Some(answer) = Box::pin(try_cached(request)).await {
            return answer;
        }
    }
    through(request, None).await
}

/// None where what is stored has changed meanwhile: look again.
async fn try_cached(request: &Request<'_>) -> Option<Answer> {
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
        match Box::pin(parts::parted(request)).await {
            Parted::Answer(answer) => return Some(*answer),
            Parted::Again => return None,
            Parted::Nothing => {}
        }
    }
    if request.wishes.wants_stored_only() {
        return Some(answer::refused(Refusal::NotStored));
    }
    let wants_part = request.parts.headers.contains_key(header::RANGE) && found.is_none();
    let is_head = request.parts.method == Method::HEAD;
    if wants_part || (is_head && found.is_none()) {
        return Some(through(request, None).await);
    }
    Some(fetch::fetched(request, found.map(|found| Stale { found, looked })).await)
}

/// Has a stale response confirmed in the background; not for a request whose answer may not be
/// stored: others would join it in vain.
fn refresh(request: &Request<'_>, stale: Stale) {
    if request.wishes.forbids_storing() {
        return;
    }
    let sought = request.sought(None);
    if let Err(error) = request.engine.fills.seek(sought, Some(stale), request.now) {
        tracing::debug!(path = request.target.key.path(), %error, "not refreshed");
    }
}
