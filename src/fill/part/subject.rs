//! What ranges are wanted of: an object of a binary cache, or a response of a generic site. How
//! its origin is asked for a stretch of it, and what proves the whole. Values; no locks.

use super::stretch::Identity;
use crate::cache::Cache;
use crate::fill::generic::{Rest, Sought};
use crate::fill::trusted::sourced;
use crate::fill::verify::Expected;
use crate::fill::{Demand, Upstream, Wanted};
use crate::object::Key;
use crate::origin::{
    Ask, FetchError, FetchReason, Method, OriginAnswer, RangeAsked, Response, Retries,
};
use crate::policy::response::Coding;
use std::ops::Range;
use std::sync::Arc;

/// What ranges are wanted of.
#[derive(Debug, Clone)]
pub(super) enum Subject {
    /// An object of a binary cache.
    Object(Wanted),
    /// A response of a generic site that does not vary, as the first who wanted it asked.
    Page(Sought),
}

impl Subject {
    /// Its key.
    pub(super) fn key(&self) -> &Key {
        match self {
            Self::Object(wanted) => &wanted.key,
            Self::Page(sought) => &sought.key,
        }
    }

    /// Its path, for logs.
    pub(super) fn path(&self) -> &Arc<str> {
        match self {
            Self::Object(wanted) => &wanted.path,
            Self::Page(sought) => &sought.path,
        }
    }

    /// What a fill of it is for.
    pub(super) fn demand(&self) -> Demand {
        match self {
            Self::Object(wanted) => wanted.demand(),
            Self::Page(sought) => sought.demand(),
        }
    }

    /// Where it comes from.
    pub(super) fn upstream(&self) -> &Arc<Upstream> {
        match self {
            Self::Object(wanted) => &wanted.upstream,
            Self::Page(sought) => &sought.upstream,
        }
    }

    /// Asks for the bytes `asked` of what is still the same, for the reason `why` where that is
    /// another than that a reader wants them.
    pub(super) async fn fetch(
        &self,
        cache: &Cache,
        asked: &Range<u64>,
        identity: &Identity,
        why: Option<FetchReason>,
    ) -> Result<OriginAnswer<Response>, FetchError> {
        let (length, same) = (identity.length, identity.etag.as_ref());
        // What is resumed comes back by itself.
        let retries = if why == Some(FetchReason::Resume) { Retries::None } else { Retries::Usual };
        let wanted = match self {
            Self::Object(wanted) => wanted,
            Self::Page(sought) => {
                let last = (asked.end < length).then(|| asked.end.saturating_sub(1));
                return sought.piece(Rest { first: asked.start, last, same, retries }).await;
            }
        };
        let if_match = same.cloned();
        let ask = sourced(cache, wanted, question(wanted, asked, Some(length))).await;
        let ask = Ask { if_match, retries, reason: why, ..ask };
        wanted.upstream.origins.fetch(&ask).await
    }

    /// What proves the whole, where its head says that it is coded so.
    pub(super) async fn expected(&self, cache: &Cache, coding: Coding) -> Expected {
        match (self, coding) {
            (Self::Object(wanted), Coding::Identity) => {
                let claim = cache.claim_of_nar(&wanted.key, wanted.class).await;
                Expected::as_known(&wanted.path, claim)
            }
            (Self::Object(_), Coding::Encoded) | (Self::Page(_), _) => Expected::default(),
        }
    }
}

/// The question for the bytes `asked` of an object.
pub(super) fn question(wanted: &Wanted, asked: &Range<u64>, length: Option<u64>) -> Ask {
    let is_to_end = asked.end == u64::MAX || length == Some(asked.end);
    let last = (!is_to_end).then(|| asked.end.saturating_sub(1));
    Ask { range: Some(RangeAsked { first: asked.start, last }), ..wanted.ask(Method::Get) }
}
