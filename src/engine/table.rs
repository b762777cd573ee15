//! The decision table for requests to a binary cache that need more than memory: what is stored,
//! the absence filter, a range, or a fill. `mod.rs` shows it. Holds no lock.

use super::answer::{self, ClientAnswer};
use super::connection::ClientConnection;
use super::deliver::ReadRequest;
use super::fetch::{self, LookAgain};
use super::state::Engine;
use super::target::RoutedRequest;
use super::{lookup, ranges, site_pages};
use crate::fill::Asker;
use crate::policy::request::{OriginUse, ReadMethod, RequestRefusal};
use http::HeaderMap;
use http::request::Parts;
use std::sync::Arc;

/// The answer to a request that memory alone does not answer.
pub(super) async fn answer(
    engine: &Arc<Engine>,
    parts: &Parts,
    routed: &RoutedRequest,
    connection: &Arc<ClientConnection>,
) -> ClientAnswer {
    let class = routed.target.class;
    let empty = HeaderMap::new();
    // Conditions and ranges of the request are not for an answer that the site rewrites.
    let (method, headers) = if site_pages::is_own(&routed.site, class) {
        (ReadMethod::Get, &empty)
    } else {
        (routed.method, &parts.headers)
    };
    let now = engine.clock.now();
    let request = ReadRequest { method, headers, connection, engine, routed, now };
    let answer = look_up(&request).await;
    site_pages::adapt(answer, &routed.site, class)
}

async fn look_up(request: &ReadRequest<'_>) -> ClientAnswer {
    let (engine, routed) = (request.engine, request.routed);
    let mark = engine.fills.mark();
    let stale = match lookup::stored(request).await {
        Ok(answer) => return answer,
        Err(stale) => stale,
    };
    if routed.upstream == OriginUse::StoredOnly {
        return answer::refused(RequestRefusal::NotStored);
    }
    if stale.is_none() && routed.is_absent_by_filter() {
        return answer::absent_by_filter();
    }
    let wanted = routed.wanted(&engine.instance, Asker::at(request.connection.peer.ip()));
    if stale.is_none()
        && let Some(answer) = ranges::answer(request, &wanted).await
    {
        return answer;
    }
    if let Ok(answer) = fetch::fill(request, &wanted, stale, Some(mark)).await {
        return answer;
    }
    // A fill has ended since, so its object may be stored now.
    let request = &ReadRequest { now: engine.clock.now(), ..*request };
    match lookup::stored(request).await {
        Ok(answer) => answer,
        Err(stale) => {
            let filled = fetch::fill(request, &wanted, stale, None).await;
            filled.unwrap_or_else(|LookAgain| answer::fault("a fill ended before it began"))
        }
    }
}
